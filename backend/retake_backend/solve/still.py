"""The still scene: which of its points can be believed, and its depth between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from scipy.spatial import cKDTree

from . import interpolation
from .stages import CameraSolve, PointTracks

Array = NDArray[np.float64]

_LOOKS = 12
"""Frames in which points are checked against each other."""


def checked(points: PointTracks, solve: CameraSolve) -> CameraSolve:
    """The solve without the points that other frames see through: they moved (shadows do, and things on the epipolar).

    Such a point should stand before what is seen, and is not. Their `world` becomes nan and `static` False.
    """
    frames = points.frame_count
    known = np.flatnonzero(solve.placed)
    if len(known) < 12:
        return solve
    cameras = solve.cameras
    size = (cameras.width, cameras.height)
    world = solve.world[known]
    through, agree = np.zeros(len(known)), np.zeros(len(known))
    for t in np.unique(np.linspace(0, frames - 1, min(_LOOKS, frames)).round().astype(int)):
        place, z = geometry.project(world, cameras.c2w[t], cameras.K[t])
        seen = points.visible[t, known] & (z > 0)
        asked = np.flatnonzero(~seen & geometry.inside_image(place, z, *size))
        if seen.sum() < 8 or not len(asked):
            continue
        distance, nearest = cKDTree(place[seen]).query(place[asked], k=3)
        ratio = z[seen][nearest] / z[asked][:, None]
        close = distance[:, 2] < 0.02 * size[0]
        through[asked] += close & (ratio > 1.15).all(1)
        agree[asked] += (distance[:, 0] < 0.02 * size[0]) & (np.abs(np.log(ratio)) < 0.08).any(1)
    false = known[(through >= 2) & (through > 2 * agree)]
    if not len(false):
        return solve
    static, kept = solve.static.copy(), solve.world.copy()
    static[false], kept[false] = False, np.nan
    return replace(solve, static=static, world=kept)


def inverse_depth(
    t: int,
    uv: Array,
    visible: NDArray[np.bool_],
    solve: CameraSolve,
    colours: NDArray[np.float32],
    moving: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32] | None:
    """(h, w) inverse depth of the still scene in frame t between the triangulated points, None with too few of them.

    moving: (h, w) where no still point can be seen, or None.
    """
    known = np.flatnonzero(solve.placed)
    cameras = solve.cameras
    size = (cameras.width, cameras.height)
    place, z = geometry.project(solve.world[known], cameras.c2w[t], cameras.K[t])
    seen = visible[t, known] & (z > 0)
    if moving is not None:
        seen &= ~moving.reshape(-1)[interpolation.cells_of(np.nan_to_num(uv[t, known]), size, moving.shape)]
    if seen.sum() < 12:
        return None
    seen[seen] = _supported(uv[t, known[seen]], 1 / z[seen])
    if seen.sum() < 12:
        return None
    # Points seen in other frames help where none is followed now, unless something nearer stands before them.
    place[seen] = uv[t, known[seen]]
    hidden = np.flatnonzero(~seen & geometry.inside_image(place, z, *size))
    distance, nearest = cKDTree(place[seen]).query(place[hidden], k=4)
    near = np.where(distance < 0.04 * size[0], z[seen][nearest], np.inf).min(1, initial=np.inf)
    extra = hidden[(z[hidden] < 1.08 * near) & (distance[:, 0] > 0.025 * size[0])]
    use = np.concatenate([np.flatnonzero(seen), extra])
    return interpolation.planes(place[use], 1 / z[use], colours, size)


def _supported(uv: Array, inverse: Array) -> NDArray[np.bool_]:
    """Which points (N, 2) have at least two of their neighbours at about their own inverse depth (N,)."""
    nearest = cKDTree(uv).query(uv, k=9)[1][:, 1:]
    alike = np.abs(inverse[nearest] - inverse[:, None]) < 0.1 * inverse[:, None]
    enough: NDArray[np.bool_] = alike.sum(1) >= 2
    return enough
