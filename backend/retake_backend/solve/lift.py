"""All points to world tracks: static ones as one point each, moving ones along their view rays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.lifting import sample_depth
from retake_shared.shot import Cameras, Tracks

from ..engines.base import Progress, Report
from . import ground as grounds
from . import series, still
from .interpolation import cells_of
from .stages import CameraSolve, DepthMaps, Lifted, ObjectGroups, PointTracks

VERSION = 2

_STAGE = "lifting to 3D"
_OFF = 6.0
"""px between a still point and where it was followed from which on it is taken for hidden there: it slid away."""

_BLEED = 0.25
"""Relative depth beside its object's from which on a point's depth is that of what lies behind or before it."""

Array = NDArray[np.float64]


def lift(
    points: PointTracks, solve: CameraSolve, groups: ObjectGroups, depth: DepthMaps | None, report: Report
) -> Lifted:
    """World tracks, cameras and depth in a world with z up, the ground (where one is found) at z = 0, about metres.

    Static points are one place each, in every frame. Points of objects project exactly to where they were followed
    while they are visible; their depth is smooth in time; in gaps they go with their object. Points that move and
    belong to no object are left out. Raises BadShot when nothing is left.
    """
    solve = still.checked(points, solve)
    uv = np.asarray(solve.uv(points), np.float64)
    visible = points.visible & np.isfinite(uv).all(-1)
    frames, count = visible.shape
    positions = np.full((frames, count, 3), np.nan)
    notes = []
    report(Progress(_STAGE, 0, 3))

    going = _going(groups.labels, solve.static)
    placed = solve.placed & ~going
    positions[:, placed] = solve.world[placed]
    slid = placed & (np.where(visible, np.nan_to_num(solve.residual), 0) > _OFF)
    visible &= ~slid
    loose = solve.static & ~placed & ~going
    if depth is not None and loose.any():
        found = _static_at_depth(uv[:, loose], visible[:, loose], solve.cameras, depth.depth)
        positions[:, loose] = found
    report(Progress(_STAGE, 1, 3))

    for label in np.unique(groups.labels[going]):
        members = np.flatnonzero(going & (groups.labels == label))
        if depth is not None:
            seen = visible[:, members]
            telling = _on_mask(label, groups.masks, uv[:, members], seen, solve.cameras)
            positions[:, members] = _moving(uv[:, members], seen, telling, solve.cameras, depth.depth)
    report(Progress(_STAGE, 2, 3))

    good = np.isfinite(positions).all((0, 2)) & visible.any(0)
    rows = np.flatnonzero(good)
    if not len(rows):
        raise BadShot(
            "no point could be brought to 3D.",
            "solve",
            "Use a clip in which the camera moves, or give the focal length.",
        )
    lost = int((~good).sum())
    if lost:
        notes.append(f"{lost} of {count} points were left out: they neither stand still nor belong to an object.")
    tracks = Tracks(
        positions=positions[:, rows],
        visibility=visible[:, rows],
        confidence=np.where(visible[:, rows], np.clip(points.confidence[:, rows], 0, 1), 0),
        objects=groups.labels[rows],
        ids=np.arange(len(rows)),
    )
    lifted = Lifted(
        solve.cameras, tracks, None if depth is None else depth.depth, rows.astype(np.int64), np.array([0.0, 0, 1])
    )
    lifted, said = _stand_up(lifted, solve)
    report(Progress(_STAGE, 3, 3))
    return replace(lifted, notes=(*notes, *said))


def _going(labels: NDArray[np.int32], static: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) the points that go with an object that moves: all its own where most of it moves, else those that do."""
    moving = (labels > 0) & ~static
    most = np.bincount(labels[moving], minlength=labels.max(initial=0) + 1) * 2 >= np.bincount(labels)
    return np.asarray(moving | ((labels > 0) & most[labels]))


# ---- places ----


def _static_at_depth(uv: Array, visible: NDArray[np.bool_], cameras: Cameras, maps: NDArray[np.float32]) -> Array:
    """(N, 3) one place for each still point (T, N, 2), at its median inverse depth along the mean of its rays."""
    frames, count = visible.shape
    world = np.full((frames, count, 3), np.nan)
    for t in range(frames):
        here = np.flatnonzero(visible[t])
        z = sample_depth(maps[t], uv[t, here], cameras)
        here, z = here[z > 0], z[z > 0]
        world[t, here] = geometry.unproject(uv[t, here], z, cameras.c2w[t], cameras.K[t])
    known = np.isfinite(world).all(-1)
    amount = known.sum(0)
    centre = cameras.c2w[:, :3, 3].mean(0)
    away = world - centre
    length = np.linalg.norm(away, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ray = np.where(known[..., None], away / length[..., None], 0).sum(0)
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        inverse = np.array([np.median(1 / length[known[:, n], n]) if amount[n] else np.nan for n in range(count)])
        place: Array = centre + ray / inverse[:, None]
    return place


def _on_mask(
    label: int, masks: NDArray[np.uint8] | None, uv: Array, visible: NDArray[np.bool_], cameras: Cameras
) -> NDArray[np.bool_]:
    """(T, N) where visible points lie on their object's mask: elsewhere the depth is that of what lies behind it."""
    if masks is None:
        return visible
    on = np.zeros_like(visible)
    size, shape = (cameras.width, cameras.height), (int(masks.shape[1]), int(masks.shape[2]))
    for t, layer in enumerate(masks):
        here = np.flatnonzero(visible[t])
        on[t, here] = layer.reshape(-1)[cells_of(uv[t, here], size, shape)] == label
    return on if on.any() else visible


def _moving(
    uv: Array, visible: NDArray[np.bool_], telling: NDArray[np.bool_], cameras: Cameras, maps: NDArray[np.float32]
) -> Array:
    """(T, N, 3) of one object's points: their depths share the object's, which is smooth in time.

    telling: (T, N) where the depth maps show the object at its points.
    """
    frames, count = visible.shape
    log_z = np.full((frames, count), np.nan)
    middle, amount = np.full(frames, np.nan), np.zeros(frames)
    for t in range(frames):
        here = np.flatnonzero(telling[t])
        z = sample_depth(maps[t], uv[t, here], cameras)
        here, z = here[z > 0], z[z > 0]
        if len(here):
            log_z[t, here] = np.log(z)
            middle[t], amount[t] = np.median(log_z[t, here]), len(here)
    if not amount.any():
        return np.full((frames, count, 3), np.nan)
    # More points come and go at an object's near and far ends than its depth changes: the whole is smoothed first.
    whole = series.smooth(middle, np.minimum(amount, 20) / 20, 20.0)
    beside = log_z - whole[:, None]
    beside[np.abs(beside) > _BLEED] = np.nan
    positions = np.full((frames, count, 3), np.nan)
    depth = np.empty((frames, count))
    for n in range(count):
        known = np.isfinite(beside[:, n])
        own = series.smooth(beside[:, n], known.astype(np.float64), 300.0, 10.0) if known.any() else np.zeros(frames)
        depth[:, n] = np.exp(whole + np.clip(own, -_BLEED, _BLEED))
    safe = np.where(visible[..., None], uv, 0.0)
    world = geometry.unproject(safe, depth, cameras.c2w, cameras.K)
    positions[visible] = world[visible]
    return _fill(positions, visible)


def _fill(positions: Array, visible: NDArray[np.bool_]) -> Array:
    """Positions (T, N, 3) with gaps filled: a point that is not seen goes with the points of its object that are."""
    frames, count = visible.shape
    step = np.full((frames - 1, 3), np.nan)
    for t in range(frames - 1):
        both = visible[t] & visible[t + 1]
        if both.sum() >= 3:
            step[t] = np.median(positions[t + 1, both] - positions[t, both], 0)
    known = np.isfinite(step[:, 0])
    at = np.arange(frames - 1)
    if known.any():
        step = np.stack([np.interp(at, at[known], step[known, axis], left=0.0, right=0.0) for axis in range(3)], 1)
    else:
        step = np.zeros((frames - 1, 3))
    way = np.concatenate([np.zeros((1, 3)), np.cumsum(step, 0)])
    filled = positions.copy()
    frame = np.arange(frames)
    for n in range(count):
        seen = np.flatnonzero(visible[:, n])
        if not len(seen) or len(seen) == frames:
            continue
        gap = ~visible[:, n]
        for axis in range(3):
            own = positions[seen, n, axis] - way[seen, axis]
            filled[gap, n, axis] = way[gap, axis] + np.interp(frame[gap], seen, own)
    return filled


# ---- the world ----


def _stand_up(lifted: Lifted, solve: CameraSolve) -> tuple[Lifted, list[str]]:
    """The same with z up, the ground at 0, the first camera above the origin looking along +y, about metres."""
    found = grounds.find(solve)
    ground = found or grounds.guess(solve)
    up = ground.normal
    forward = solve.cameras.c2w[0, :3, 2] - (solve.cameras.c2w[0, :3, 2] @ up) * up
    if np.linalg.norm(forward) < 0.1:  # a camera that looks down: the picture's upper edge is ahead
        forward = -solve.cameras.c2w[0, :3, 1] + (solve.cameras.c2w[0, :3, 1] @ up) * up
    forward /= np.linalg.norm(forward)
    turn = np.stack([np.cross(forward, up), forward, up])
    eyes = ground.height(solve.cameras.c2w[:, :3, 3])
    scale = grounds.EYE_HEIGHT / float(np.mean(eyes))
    origin = solve.cameras.c2w[0, :3, 3] - eyes[0] * up
    c2w = solve.cameras.c2w.copy()
    c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
    c2w[:, :3, 3] = (c2w[:, :3, 3] - origin) @ turn.T * scale
    tracks = replace(lifted.tracks, positions=(lifted.tracks.positions - origin) @ turn.T * scale)
    depth = None if lifted.depth is None else (lifted.depth * scale).astype(np.float32)
    how = "the ground that the points show" if found else "how the camera is held; no level ground was found"
    notes = [
        f"Up is guessed from {how}.",
        f"Scale is guessed: the camera is taken to be held {grounds.EYE_HEIGHT} m above the ground on average. "
        "Turn and scale the shot's root to correct it.",
    ]
    return replace(lifted, cameras=replace(solve.cameras, c2w=c2w), tracks=tracks, depth=depth), notes
