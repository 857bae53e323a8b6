"""Where a layer's surface goes: its tracks' motion as one similarity plus a smooth rest, then the target camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.geometry import invert_rigid

from .grids import Grid, Map, fit_field
from .surfaces import Surface
from .warp import FAR_AWAY, Forward

Array = NDArray[np.float64]
RIGID = 2e-4
"""A rest below this share of the layer's distance from the camera (about a tenth of a pixel) is no deformation."""


@dataclass(frozen=True)
class Motion:
    """world' = matrix @ world + rest. matrix (4, 4); rest: world units on a grid of source px, or None."""

    matrix: Array
    grid: Grid | None = None
    rest: Map | None = None


STILL = Motion(np.eye(4))


def fit_similarity(source: Array, target: Array, weights: Array) -> Array:
    """The (4, 4) rotation, scale and translation that takes source (N, 3) to target (N, 3) best (Umeyama 1991).

    With too few or flat points it turns and scales only as far as they determine it.
    """
    share = (weights / weights.sum())[:, None]
    source_centre, target_centre = (share * source).sum(0), (share * target).sum(0)
    a, b = source - source_centre, target - target_centre
    matrix = np.eye(4)
    spread = float((share * a**2).sum())
    if len(source) >= 3 and spread > 1e-12 * max(1e-12, float((share * source**2).sum())):
        u, s, vt = np.linalg.svd((share * b).T @ a)
        if s[1] > 1e-5 * s[0]:  # points on one line leave the turn about it open
            sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
            matrix[:3, :3] = (s * sign).sum() / spread * (u * sign) @ vt
    matrix[:3, 3] = target_centre - matrix[:3, :3] @ source_centre
    return matrix


def fit_motion(source: Array, target: Array, uv: Array, weights: Array, distance: float, grid: Grid) -> Motion:
    """The motion that takes track positions source (N, 3) at source px uv (N, 2) to target (N, 3), all world.

    distance: the layer's typical distance from the camera, the measure of what is visible.
    """
    if len(source) == 0 or np.abs(source - target).max() <= 1e-9 * max(1.0, float(np.abs(source).max())):
        return STILL
    matrix = fit_similarity(source, target, weights)
    rest = target - (source @ matrix[:3, :3].T + matrix[:3, 3])
    if np.sqrt((rest**2).sum(1)).max() < RIGID * distance:
        return Motion(matrix)
    return Motion(matrix, grid, fit_field(grid, uv[:, 0], uv[:, 1], rest, weights, robust=False))


def forward_map(surface: Surface, motion: Motion, source: tuple[Array, Array], target: tuple[Array, Array]) -> Forward:
    """Where the surface's nodes land. source, target: (c2w, K) of the cameras, at working size."""
    (source_c2w, source_K), (target_c2w, target_K) = source, target
    to_target = target_K @ invert_rigid(target_c2w)[:3, :3]
    A, moved = motion.matrix[:3, :3], motion.matrix[:3, 3]
    H = to_target @ A @ source_c2w[:3, :3] @ np.linalg.inv(source_K)
    b = to_target @ (A @ source_c2w[:3, 3] + moved - target_c2w[:3, 3])
    x, y = surface.grid.nodes()
    w = surface.disparity
    shift: list[Map] | list[np.float32] = [np.float32(v) for v in b]
    if motion.rest is not None and motion.grid is not None:
        if motion.grid == surface.grid:
            rest = motion.rest
        else:
            column, row = motion.grid.index(x, y)
            rest = cv2.remap(motion.rest, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[assignment]
        shift = [
            m[0] * rest[..., 0] + m[1] * rest[..., 1] + m[2] * rest[..., 2] + o
            for m, o in zip(to_target.astype(np.float32), b.astype(np.float32), strict=True)
        ]
    h = [np.float32(H[i, 0]) * x + np.float32(H[i, 1]) * y + np.float32(H[i, 2]) + shift[i] * w for i in range(3)]
    front = h[2] > 1e-6
    scale = 1 / np.where(front, h[2], 1)
    landed_x = np.where(front, h[0] * scale, FAR_AWAY)
    landed_y = np.where(front, h[1] * scale, FAR_AWAY)
    depth = np.where(front, h[2] / np.maximum(w, 1e-9), 0)
    torn = ~front if surface.torn is None else surface.torn | ~front
    x, y, depth = (a.astype(np.float32) for a in (landed_x, landed_y, depth))
    return Forward(surface.grid, x, y, depth, torn)
