"""Which points move on their own, and which of them move together: named objects.

A point moves on its own when, over a few frames, it goes where no still point at the depths around it would go. Such
points are joined when they stay neighbours and move alike (region merging on the graph of neighbours, as of Brox and
Malik's long-term trajectories), so that an arm hangs on its body while a ball that passes by does not.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.shot import BACKGROUND
from scipy.spatial import cKDTree

from ..engines.base import Progress, Report
from . import masks as mask_files
from . import still
from .interpolation import cells_of
from .masks import GivenMasks
from .stages import CameraSolve, ObjectGroups, Pictures, PointTracks

VERSION = 1

_STAGE = "finding objects"
_SPAN = 4
"""Frames over which motion is looked at: long enough to stand out of the noise, short enough for a step of a walk."""

_MOVES = 0.3
"""px a frame beside the camera's motion from which a point is taken to move on its own."""

_NEAR = 0.045
"""Of the picture's longer side: how near points are called neighbours."""

_ALIKE = 0.35
"""Mean affinity between two groups of neighbours from which they are one object."""

_JOINT = 0.4
"""From which on a pair of neighbours may be at a joint, and holds two groups together."""

_JOINT_SWING = 3.0
"""How differently, in units of what is alike, the two sides of a joint may move: a foot swings, its shin less."""

_TOGETHER = 0.3
"""The same between groups: how much of the time they hold together, and keep together in the mean."""

_SCATTERED = 0.3
"""Share of still points among the nearest of a group's points from which on the group is no object."""

_SMALLEST = 8
"""Points that an object has at once, at least, in its best frames."""


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
    movers = _movers(own, known, points, solve)
    report(Progress(_STAGE, 1, 3))
    near = _NEAR * max(solve.cameras.width, solve.cameras.height)
    labels = np.zeros(len(points), np.int32)
    pairs, affinity, joint = _pairs(uv[:, movers], points.visible[:, movers], near)
    groups = _group(int(movers.sum()), pairs, affinity)
    groups = _join_parts(groups, uv[:, movers], points.visible[:, movers], pairs[joint > _JOINT])
    labels[movers] = _largest_first(groups, points.visible[:, movers])
    labels = _by_neighbours(labels, uv, points.visible, solve, near)
    labels = _drop_scattered(labels, uv, points.visible, solve)
    labels = _drop_small(labels, points.visible)
    report(Progress(_STAGE, 2, 3))
    count = int(labels.max(initial=0))
    names = {BACKGROUND: "background", **{n: f"object {n}" for n in range(1, count + 1)}}
    found = ObjectGroups(labels, names, notes=_notes(labels, movers, solve))
    if pictures is not None and count:
        drawn = mask_files.draw(points, solve, found, pictures, report)
        found = ObjectGroups(labels, names, drawn, notes=found.notes)
    report(Progress(_STAGE, 3, 3))
    return found


def _notes(labels: NDArray[np.int32], movers: NDArray[np.bool_], solve: CameraSolve) -> tuple[str, ...]:
    count = int(labels.max(initial=0))
    if not count:
        return ("Nothing moves on its own in this shot: all points are background.",)
    sizes = ", ".join(f"object {n}: {int((labels == n).sum())}" for n in range(1, count + 1))
    notes = [f"{count} moving {'object' if count == 1 else 'objects'} found by motion ({sizes} points)."]
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


def _movers(
    own: NDArray[np.float64], known: NDArray[np.bool_], points: PointTracks, solve: CameraSolve
) -> NDArray[np.bool_]:
    """(N,) which points move on their own, for certain: not called static, and moving in a good part of their life."""
    seen = np.maximum(known.sum(0), 1)
    fast = (own > _MOVES) & known
    # Whoever stands still for a while (a foot on the ground) counts when it has moved far enough in all.
    far = (own * known).sum(0) > 2.5
    return np.asarray(~solve.static & far & (fast.sum(0) >= 0.3 * seen) & (known.sum(0) >= 2))


# ---- grouping ----


def _velocity(uv: NDArray[np.float64], visible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(T, N, 2) px a frame over the frames around each, nan where a point was not followed on either side."""
    velocity = np.full(uv.shape, np.nan)
    frames = len(uv)
    for t in range(frames):
        before, after = max(t - 2, 0), min(t + 2, frames - 1)
        both = visible[before] & visible[after] & visible[t]
        velocity[t, both] = (uv[after, both] - uv[before, both]) / max(after - before, 1)
    return velocity


def _pairs(
    uv: NDArray[np.float64], visible: NDArray[np.bool_], near: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Pairs of neighbours (P, 2), how much (P,) they belong together, and how much (P,) they may be at one joint.

    Both are 1 for those that stay near and move alike; beside a joint, motions may differ more.
    """
    frames, count = visible.shape
    velocity = _velocity(uv, visible)
    moving: NDArray[np.bool_] = np.asarray(np.isfinite(velocity).all(-1))
    keys, apart, meetings = [], [], []
    for t in range(frames):
        here = np.flatnonzero(moving[t])
        if len(here) < 2:
            continue
        found = cKDTree(uv[t, here]).query_pairs(near, output_type="ndarray")
        if not len(found):
            continue
        i, j = here[found[:, 0]], here[found[:, 1]]
        i, j = np.minimum(i, j), np.maximum(i, j)
        keys.append(i * count + j)
        # A fast or a large motion varies more over a body than a slow one does.
        speed = np.maximum(np.linalg.norm(velocity[t, i], axis=-1), np.linalg.norm(velocity[t, j], axis=-1))
        apart.append(np.linalg.norm(velocity[t, i] - velocity[t, j], axis=-1) / (0.6 + 0.25 * speed))
        meetings.append(np.ones(len(i)))
    if not keys:
        return np.zeros((0, 2), np.int64), np.zeros(0), np.zeros(0)
    key, where = np.unique(np.concatenate(keys), return_inverse=True)
    met = np.bincount(where, np.concatenate(meetings))
    # Squares: two points that part for a moment are less alike than two that differ a little all the time.
    apart_mean = np.sqrt(np.bincount(where, np.concatenate(apart) ** 2) / met)
    i, j = key // count, key % count
    common = np.einsum("tp,tp->p", moving[:, i].astype(np.float32), moving[:, j].astype(np.float32))
    enough = met >= min(3, frames)
    stay = met / np.maximum(common, 1)
    affinity = stay**2 * np.exp(-(apart_mean**2))
    joint = stay**2 * np.exp(-((apart_mean / _JOINT_SWING) ** 2)) * (met >= min(5, frames))
    return np.stack([i, j], 1)[enough], affinity[enough], joint[enough]


def _group(count: int, pairs: NDArray[np.int64], affinity: NDArray[np.float64]) -> NDArray[np.int32]:
    """Group numbers (N,) from 0: neighbours merged, the most alike first, until no two groups are alike enough."""
    total: dict[int, dict[int, list[float]]] = defaultdict(dict)
    for (i, j), a in zip(pairs.tolist(), affinity.tolist(), strict=True):
        total[i][j] = total[j][i] = [a, 1.0]
    parent = np.arange(count)
    alive = np.ones(count, bool)
    queue = [(-a, i, j, 1.0) for (i, j), a in zip(pairs.tolist(), affinity.tolist(), strict=True) if a > _ALIKE]
    heapq.heapify(queue)
    while queue:
        value, i, j, weight = heapq.heappop(queue)
        if not (alive[i] and alive[j]):
            continue
        current = total[i].get(j)
        if current is None or current[1] != weight or -value != current[0] / current[1]:
            continue
        if len(total[i]) < len(total[j]):
            i, j = j, i
        alive[j] = False
        parent[j] = i
        del total[i][j]
        for k, (a, w) in total.pop(j).items():
            if k == i:
                continue
            del total[k][j]
            old = total[i].get(k, [0.0, 0.0])
            merged = [old[0] + a, old[1] + w]
            total[i][k] = total[k][i] = merged
            if merged[0] / merged[1] > _ALIKE:
                heapq.heappush(queue, (-merged[0] / merged[1], i, k, merged[1]))
    for i in range(count):
        root = i
        while parent[root] != root:
            root = int(parent[root])
        parent[i] = root
    return np.unique(parent, return_inverse=True)[1].astype(np.int32)


def _largest_first(groups: NDArray[np.int32], visible: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Labels from 1, the group with the most sightings first; 0 for groups too small to be an object."""
    labels = np.zeros(len(groups), np.int32)
    if not len(groups):
        return labels
    sightings = np.bincount(groups, visible.sum(0))
    number = 0
    for group in np.argsort(-sightings, kind="stable"):
        members = groups == group
        if _at_once(visible[:, members]) < _SMALLEST:
            continue
        number += 1
        labels[members] = number
    return labels


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


def _drop_small(labels: NDArray[np.int32], visible: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.where(labels > 0, _largest_first(labels, np.where(labels > 0, visible, False)), 0).astype(np.int32)


def _join_parts(
    groups: NDArray[np.int32], uv: NDArray[np.float64], visible: NDArray[np.bool_], joints: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Groups (N,) that hold together and do not drift apart, joined: the limbs of a body, the sides of a rolling ball.

    joints: (P, 2) pairs of neighbours that belong together. A limb has some with its body all the time, where it hangs
    on it; what only touches the body, here and there, has none.
    """
    frames = len(visible)
    sizes = np.bincount(groups, minlength=1)
    number = len(sizes)
    velocity = _velocity(uv, visible)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(velocity).all(-1))
    there = np.zeros((number, frames), bool)
    mean = np.zeros((number, frames, 2))
    touch = np.zeros((number, number, frames), bool)
    for t in range(frames):
        here = np.flatnonzero(finite[t])
        amount = np.bincount(groups[here], minlength=number)
        there[:, t] = amount > 0
        for axis in (0, 1):
            total = np.bincount(groups[here], velocity[t, here, axis], minlength=number)
            mean[:, t, axis] = total / np.maximum(amount, 1)
        held = joints[finite[t, joints].all(1)]
        i, j = groups[held[:, 0]], groups[held[:, 1]]
        touch[i, j, t] = touch[j, i, t] = True
    weight = there * sizes[:, None].astype(np.float64)
    result = groups.copy()
    alive = sizes > 0
    score = np.full((number, number), -1.0)

    def rate(i: int, j: int) -> float:
        common = there[i] & there[j]
        if common.sum() < min(4, frames - 1):
            return -1.0
        beside = float((touch[i, j] & common).sum() / common.sum())
        apart = np.linalg.norm((mean[i, common] - mean[j, common]).mean(0))
        speed = np.linalg.norm(mean[i, common].mean(0)) + np.linalg.norm(mean[j, common].mean(0))
        return beside**2 * float(np.exp(-((apart / (0.6 + 0.35 * speed)) ** 2)))

    for a in np.flatnonzero(alive).tolist():
        for b in np.flatnonzero(touch[a].any(1) & alive).tolist():
            if b > a:
                score[a, b] = rate(a, b)
    while number > 1:
        i, j = divmod(int(score.argmax()), number)
        if score[i, j] <= _TOGETHER:
            break
        both = np.maximum(weight[i] + weight[j], 1e-9)
        mean[i] = (mean[i] * weight[i][:, None] + mean[j] * weight[j][:, None]) / both[:, None]
        weight[i] += weight[j]
        there[i] |= there[j]
        touch[i] |= touch[j]
        touch[:, i] |= touch[:, j]
        touch[i, i] = False
        alive[j] = False
        score[j, :] = score[:, j] = -1.0
        result[result == j] = i
        for k in np.flatnonzero(alive).tolist():
            if k != i:
                score[min(i, k), max(i, k)] = rate(i, k) if touch[i, k].any() else -1.0
    return result


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
    velocity = _velocity(uv, visible)
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
    names = {BACKGROUND: "background", **{n: masks.names.get(n, f"object {n}") for n in used}}
    sizes = ", ".join(f"{names[n]}: {int((labels == n).sum())}" for n in used)
    notes = [f"Objects are those of the masks given ({sizes or 'none'} points)."]
    empty = [names[n] for n in used if not (labels == n).any()]
    if empty:
        notes.append(f"No point could be followed on {', '.join(empty)}.")
    return ObjectGroups(labels, names, masks.labels, masks.source, tuple(notes))
