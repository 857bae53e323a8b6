"""Which points move on their own, and which of them move together: named objects.

A point moves on its own when, over a few frames, it goes where no still point at the depths around it would go. Such
points are joined by what they do over the whole clip (`grouping`), so that an arm hangs on its body while a ball that is
thrown before it does not. What stands still amid an object's points, and looks like them, is its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.formats.mending import unique_names
from retake_shared.shot import BACKGROUND
from scipy.spatial import cKDTree

from ..engines.base import Progress, Report
from . import grouping, still
from . import masks as mask_files
from .interpolation import COLOUR, cells_of, lab
from .masks import GivenMasks
from .stages import CameraSolve, ObjectGroups, Pictures, PointTracks, picture

Array = NDArray[np.float64]

VERSION = 3

_STAGE = "finding objects"
_SPAN = 4
"""Frames over which motion is looked at: long enough to stand out of the noise, short enough for a step of a walk."""

_MOVES = 0.3
"""px a frame beside the camera's motion from which a point is taken to move on its own."""

_NEAR = 0.045
"""Of the picture's longer side: how near points are called neighbours."""

_SCATTERED = 0.3
"""Share of still points among the nearest of a group's points from which on the group is no object."""

_SMALLEST = 8
"""Points that an object has at once, at least, in its best frames."""

_FEW, _TURNS, _LONG = 3, 6.0, 1 / 3
"""Less is enough of what is surely no noise: that many points at most times, going that many times their own length,
through that share of the clip."""

_AMID = 0.6
"""Share of an object's points among the nearest in place and colour from which on what stands still there is its own."""

_ALIKE = 0.6
"""How unlike a body's (`grouping.unlike`) the motion of such a point may be."""

_AROUND = 8
"""Nearest points that are asked."""


def find_objects(
    points: PointTracks,
    solve: CameraSolve,
    masks: GivenMasks | None,
    report: Report,
    pictures: Pictures | None = None,
) -> ObjectGroups:
    """The points that the camera does not explain, grouped by motion and neighbourhood, the largest first.

    masks: what the user drew, which goes before the motion (`masks.read`), or None. pictures: the frames, for masks
    that follow the picture's edges; without them the result has only masks that were given.
    """
    report(Progress(_STAGE, 0, 3))
    solve = still.checked(points, solve)
    uv = np.asarray(solve.uv(points), np.float64)
    if masks is not None:
        # What was drawn lies on the picture as it is, whatever the lens bends.
        drawn_on = np.asarray(points.uv, np.float64)
        return _from_masks(points, masks, drawn_on, (solve.cameras.width, solve.cameras.height))
    own, known = own_motion(uv, points.visible, solve)
    movers = _movers(own, known, solve)
    report(Progress(_STAGE, 1, 3))
    near = _NEAR * max(solve.cameras.width, solve.cameras.height)
    labels = np.zeros(len(points), np.int32)
    moving, seen = uv[:, movers], points.visible[:, movers]
    groups = grouping.pieces(moving, seen, near)
    groups = grouping.join_parts(groups, moving, seen, near)
    own = np.where(known, own, np.nan)
    groups = grouping.carry_on(groups, moving, seen, own[:, movers], near)
    labels[movers] = _largest_first(groups, moving, seen, own[:, movers], near)
    labels = _by_neighbours(labels, uv, points.visible, solve, near)
    labels = _drop_scattered(labels, uv, points.visible, solve)
    followed = points.visible & (labels > 0)
    labels = np.where(labels > 0, _largest_first(labels, uv, followed, own, near), 0).astype(np.int32)
    still_parts = 0
    if pictures is not None and labels.any():
        before = labels
        labels = _with_still_parts(labels, uv, points.visible, _colours(uv, points.visible, solve, pictures), near)
        still_parts = int((labels != before).sum())
    report(Progress(_STAGE, 2, 3))
    count = int(labels.max(initial=0))
    names = {BACKGROUND: "background", **{n: f"object {n}" for n in range(1, count + 1)}}
    found = ObjectGroups(labels, names, notes=_notes(labels, movers, still_parts))
    if pictures is not None and count:
        drawn = mask_files.draw(points, solve, found, pictures, report)
        found = ObjectGroups(labels, names, drawn, notes=found.notes)
    report(Progress(_STAGE, 3, 3))
    return found


def _notes(labels: NDArray[np.int32], movers: NDArray[np.bool_], still_parts: int) -> tuple[str, ...]:
    count = int(labels.max(initial=0))
    if not count:
        return ("Nothing moves on its own in this shot: all points are background.",)
    sizes = ", ".join(f"object {n}: {int((labels == n).sum())}" for n in range(1, count + 1))
    notes = [f"{count} moving {'object' if count == 1 else 'objects'} found by motion ({sizes} points)."]
    if still_parts:
        notes.append(
            f"{still_parts} of them were hardly seen to move, but lie amid an object's own and look like them."
        )
    lost = int((movers & (labels == BACKGROUND)).sum())
    if lost:
        notes.append(f"{lost} points that move by themselves belong to no group and were left to the background.")
    return tuple(notes)


# ---- motion beside the camera's ----


def own_motion(
    uv: NDArray[np.float64], visible: NDArray[np.bool_], solve: CameraSolve
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """px a frame (T, N) by which each point misses where a still one could be `_SPAN` frames on; where (T, N) known.

    A still point goes along a line that depends on its depth; the stretch of it for the depths of the triangulated
    points around is allowed. Without any (a static or turning camera) there is one place only.
    """
    frames, count = visible.shape
    cameras = solve.cameras
    own = np.zeros((frames, count))
    known = np.zeros((frames, count), bool)
    span = min(_SPAN, frames - 1)
    anchors = np.flatnonzero(solve.placed)
    place, depth = cameras.project(np.nan_to_num(solve.world[anchors])[None].repeat(frames, 0))
    for t in range(frames - span):
        both = np.flatnonzero(visible[t] & visible[t + span])
        if not len(both):
            continue
        low, high = np.full(len(both), 1.0), np.full(len(both), 1.0)
        here = np.flatnonzero(visible[t, anchors] & (depth[t] > 0))
        if len(here) >= 8:
            nearest = cKDTree(place[t, here]).query(uv[t, both], k=min(16, len(here)))[1]
            around = depth[t, here][nearest]
            low, high = around.min(1) * 0.85, around.max(1) * 1.2
        ends = []
        for z in (low, high):
            world = geometry.unproject(uv[t, both], z, cameras.c2w[t], cameras.K[t])
            ends.append(geometry.project(world, cameras.c2w[t + span], cameras.K[t + span])[0])
        own[t, both] = _distance(uv[t + span, both], *ends) / span
        known[t, both] = np.isfinite(own[t, both])
    return np.where(known, own, 0.0), known


def _distance(points: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of points (N, 2) from the stretches a-b (N, 2)."""
    along = b - a
    share = np.einsum("ni,ni->n", points - a, along) / np.maximum(np.einsum("ni,ni->n", along, along), 1e-9)
    distance: NDArray[np.float64] = np.linalg.norm(points - a - np.clip(share, 0, 1)[:, None] * along, axis=-1)
    return distance


def _movers(own: NDArray[np.float64], known: NDArray[np.bool_], solve: CameraSolve) -> NDArray[np.bool_]:
    """(N,) which points move on their own, for certain: not called static, and moving in a good part of their life."""
    seen = np.maximum(known.sum(0), 1)
    fast = (own > _MOVES) & known
    # Whoever stands still for a while (a foot on the ground) counts when it has moved far enough in all.
    far = (own * known).sum(0) > 2.5
    return np.asarray(~solve.static & far & (fast.sum(0) >= 0.3 * seen) & (known.sum(0) >= 2))


# ---- objects from groups ----


def _largest_first(
    groups: NDArray[np.int32], uv: Array, visible: NDArray[np.bool_], own: Array, near: float
) -> NDArray[np.int32]:
    """Labels from 1, the group with the most sightings first; 0 for groups that are no object."""
    labels = np.zeros(len(groups), np.int32)
    if not len(groups):
        return labels
    sightings = np.bincount(groups, visible.sum(0))
    number = 0
    for group in np.argsort(-sightings, kind="stable"):
        members = groups == group
        if not (_at_once(visible[:, members]) >= _SMALLEST or _goes_far(members, uv, visible, own, near)):
            continue
        number += 1
        labels[members] = number
    return labels


def _goes_far(members: NDArray[np.bool_], uv: Array, visible: NDArray[np.bool_], own: Array, near: float) -> bool:
    """Whether a group of few points is surely a thing: a ball, whose points come and go."""
    at_once = visible[:, members].sum(1)
    seen = at_once[at_once > 0]
    if len(seen) < _LONG * len(visible) or np.median(seen) < _FEW:
        return False
    return grouping.way(members, uv, visible, own, near).turns > _TURNS


def _at_once(visible: NDArray[np.bool_]) -> float:
    """How many of the points are seen together in the best tenth of the frames."""
    return float(np.quantile(visible.sum(1), 0.9, method="higher")) if visible.size else 0.0


def _drop_scattered(
    labels: NDArray[np.int32], uv: NDArray[np.float64], visible: NDArray[np.bool_], solve: CameraSolve
) -> NDArray[np.int32]:
    """Labels without groups whose points lie between still ones: points that slide along an edge or with a shadow."""
    count = int(labels.max(initial=0))
    still, asked = np.zeros(count + 1), np.zeros(count + 1)
    for t in range(0, len(uv), 2):
        here = np.flatnonzero(visible[t])
        moving = here[labels[here] > 0]
        if not len(moving) or len(here) < 6:
            continue
        nearest = here[cKDTree(uv[t, here]).query(uv[t, moving], k=5)[1][:, 1:]]
        still += np.bincount(labels[moving], solve.static[nearest].mean(1), minlength=count + 1)
        asked += np.bincount(labels[moving], minlength=count + 1)
    scattered = still > _SCATTERED * np.maximum(asked, 1)
    return np.where(scattered[labels], 0, labels).astype(np.int32)


def _by_neighbours(
    labels: NDArray[np.int32],
    uv: NDArray[np.float64],
    visible: NDArray[np.bool_],
    solve: CameraSolve,
    near: float,
) -> NDArray[np.int32]:
    """Labels with the undecided points (0, but not static) given to whom they lie among and move with."""
    open_points = np.flatnonzero((labels == BACKGROUND) & ~solve.static)
    count = int(labels.max(initial=0))
    if not len(open_points) or not count:
        return labels
    undecided = np.zeros(len(labels), bool)
    undecided[open_points] = True
    velocity = grouping.velocities(uv, visible)
    velocity = np.where(np.isfinite(velocity), velocity, np.nan)
    votes = np.zeros((len(labels), count + 1))
    for t in range(len(uv)):
        here = np.flatnonzero(visible[t])
        asking, knowing = here[undecided[here]], here[~undecided[here]]
        if not len(asking) or len(knowing) < 3:
            continue
        k = min(8, len(knowing))
        distance, nearest = cKDTree(uv[t, knowing]).query(uv[t, asking], k=k)
        others = knowing[nearest]
        apart = np.linalg.norm(velocity[t, asking][:, None] - velocity[t, others], axis=-1)
        speed = np.linalg.norm(velocity[t, others], axis=-1)
        alike = np.exp(-np.nan_to_num((apart / (0.6 + 0.25 * speed)) ** 2, nan=1.0))
        vote = np.exp(-((distance / (0.5 * near)) ** 2)) * (0.05 + alike)
        np.add.at(votes, (np.repeat(asking, k), labels[others].ravel()), vote.ravel())
    best = votes.argmax(1)
    sure = votes.max(1) > 0.5 * votes.sum(1)
    result = labels.copy()
    chosen = open_points[sure[open_points]]
    result[chosen] = best[chosen]
    return result


def _colours(uv: Array, visible: NDArray[np.bool_], solve: CameraSolve, pictures: Pictures) -> Array:
    """(N, 3) Lab of each point, the mean of where it was seen."""
    size = (solve.cameras.width, solve.cameras.height)
    shape = mask_files.map_shape(size, mask_files.ROWS)
    total = np.zeros((visible.shape[1], 3))
    for t in range(len(visible)):
        here = np.flatnonzero(visible[t])
        cells = lab(picture(pictures, t), *shape).reshape(-1, 3)
        total[here] += cells[cells_of(uv[t, here], size, shape)]
    mean: Array = total / np.maximum(visible.sum(0), 1)[:, None] * (COLOUR * size[0])
    return mean


def _with_still_parts(
    labels: NDArray[np.int32], uv: Array, visible: NDArray[np.bool_], colours: Array, near: float
) -> NDArray[np.int32]:
    """Labels with those of 0 that lie amid an object's points, look like them and move as they do at the time.

    A body that comes and then stands has points that were never seen to move; what lies beside it has as many of the
    ground's about it. colours: (N, 3), in px.
    """
    velocity = grouping.velocities(uv, visible)
    features = np.concatenate([uv, np.broadcast_to(colours, (*visible.shape, 3))], 2)
    asked = []
    for t in range(len(uv)):
        here = np.flatnonzero(visible[t])
        objects, others = here[labels[here] > 0], here[labels[here] == BACKGROUND]
        if not len(objects) or not len(others) or len(here) <= _AROUND:
            continue
        asking = others[cKDTree(uv[t, objects]).query(uv[t, others])[0] < 2 * near]
        nearest = here[cKDTree(features[t, here]).query(features[t, asking], k=_AROUND + 1)[1][:, 1:]]
        apart = grouping.unlike(velocity[t, asking][:, None], velocity[t, nearest])
        asked.append((t, asking, nearest, ~(apart > _ALIKE)))
    # In the half of its life in which most of them are about it: later all about it may be as new as it is.
    half = np.maximum((visible.sum(0) + 1) // 2, 1)
    result = labels.copy()
    share = np.zeros((labels.max() + 1, *visible.shape), np.float32)
    while True:
        for t, asking, nearest, alike in asked:
            for label in range(1, len(share)):
                share[label, t, asking] = ((result[nearest] == label) & alike).mean(1)
        ranked = (np.cumsum(-np.sort(-of, 0), 0) for of in share)
        best = np.stack([of[half - 1, np.arange(len(labels))] / half for of in ranked])
        taken = (result == BACKGROUND) & (best.max(0) > _AMID)
        if not taken.any():
            return result
        result[taken] = best[:, taken].argmax(0)


def _from_masks(points: PointTracks, masks: GivenMasks, uv: NDArray[np.float64], size: tuple[int, int]) -> ObjectGroups:
    """Every point belongs to the object on which most of its sightings lie."""
    count = int(masks.labels.max(initial=0))
    votes = np.zeros((len(points), count + 1))
    shape = (int(masks.labels.shape[1]), int(masks.labels.shape[2]))
    for t, layer in enumerate(masks.labels):
        here = np.flatnonzero(points.visible[t])
        votes[here, layer.reshape(-1)[cells_of(uv[t, here], size, shape)]] += 1
    labels = votes.argmax(1).astype(np.int32)
    used = sorted({*np.flatnonzero(np.bincount(masks.labels.reshape(-1), minlength=1)).tolist()} - {BACKGROUND})
    named = unique_names({n: masks.names.get(n, f"object {n}") for n in used})
    names = {BACKGROUND: "background", **named}
    sizes = ", ".join(f"{names[n]}: {int((labels == n).sum())}" for n in used)
    notes = [f"Objects are those of the masks given ({sizes or 'none'} points)."]
    empty = [names[n] for n in used if not (labels == n).any()]
    if empty:
        notes.append(f"No point could be followed on {', '.join(empty)}.")
    return ObjectGroups(labels, names, masks.labels, masks.source, tuple(notes))
