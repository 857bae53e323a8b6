"""Inverse maps: for every place of the target picture, the place of the source picture that lands there.

A forward map says where the nodes of a source grid land and how far they are from the target camera. It is inverted
by splatting node numbers in depth order, then refining by Newton steps on the forward map, then checking: what does
not land where it should, or lies on a torn cell, is a hole. Magnified surfaces come out without cracks, torn ones
without rubber sheets.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .grids import Grid, Map

FAR_AWAY = np.float32(-1e6)


@dataclass(frozen=True)
class Forward:
    """Where the nodes of `grid` (source px) land: x, y (rows, columns) target px, depth in the target camera.

    torn: nodes whose surface does not continue to their neighbours, or that land nowhere (behind the camera).
    """

    grid: Grid
    x: Map
    y: Map
    depth: Map
    torn: NDArray[np.bool_]


@dataclass(frozen=True)
class Inverse:
    """For the nodes of `grid` (target px): source x, y px, depth in the target camera, and whether anything lands."""

    grid: Grid
    x: Map
    y: Map
    depth: Map
    valid: NDArray[np.bool_]


def invert(forward: Forward, target: Grid, reach: int = 3, steps: int = 3) -> Inverse:
    """The inverse of `forward` on the nodes of `target`; nearest surface wins. reach: cells bridged when magnified."""
    source = forward.grid
    column, row = target.index(forward.x, forward.y)
    usable = (forward.depth > 0) & (column > -1) & (row > -1) & (column < target.columns) & (row < target.rows)
    numbers = np.flatnonzero(usable)
    owner = np.full(target.rows * target.columns, -1, np.int32)
    if len(numbers):
        depth = forward.depth.ravel()[numbers]
        disparity = 1.0 / depth
        low, high = float(disparity.min()), float(disparity.max())
        # 16 bits, because numpy sorts those by radix; near over far, the last one written wins.
        rank = ((disparity - low) * np.float32(65535.0 / max(high - low, 1e-30))).astype(np.uint16)
        numbers = numbers[np.argsort(rank, kind="stable")]
        at_column = np.clip(np.rint(column.ravel()[numbers]), 0, target.columns - 1).astype(np.int32)
        at_row = np.clip(np.rint(row.ravel()[numbers]), 0, target.rows - 1).astype(np.int32)
        owner[at_row * target.columns + at_column] = numbers
    owner = owner.reshape(target.rows, target.columns)
    for _ in range(reach):
        empty = owner < 0
        if not empty.any():
            break
        grown = cv2.dilate(owner.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int32)
        owner = np.where(empty, grown, owner)

    found = owner >= 0
    node = np.maximum(owner, 0)
    p_column = (node % source.columns).astype(np.float32)
    p_row = (node // source.columns).astype(np.float32)
    goal_x, goal_y = target.nodes()
    maps = np.dstack([forward.x, forward.y])
    slopes = np.dstack([*_slopes(forward.x), *_slopes(forward.y)])
    slope = slopes.reshape(-1, 4)[node.ravel()].reshape(*node.shape, 4)
    xx, xy, yx, yy = np.moveaxis(slope, -1, 0)
    determinant = xx * yy - xy * yx
    steep = np.abs(determinant) < 1e-3 * source.step**2
    inverse_determinant = np.where(steep, 0, 1 / np.where(steep, 1, determinant)).astype(np.float32)
    error_x = error_y = goal_x
    for step in range(steps + 1):
        landed = cv2.remap(maps, p_column, p_row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        error_x, error_y = goal_x - landed[..., 0], goal_y - landed[..., 1]
        if step == steps:
            break
        p_column = p_column + np.clip((yy * error_x - xy * error_y) * inverse_determinant, -4, 4)
        p_row = p_row + np.clip((xx * error_y - yx * error_x) * inverse_determinant, -4, 4)
    depth = cv2.remap(forward.depth, p_column, p_row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    close = np.maximum(np.abs(error_x), np.abs(error_y)) < 0.3 * target.step
    within = (p_column > -0.51) & (p_row > -0.51) & (p_column < source.columns - 0.49) & (p_row < source.rows - 0.49)
    valid = found & close & within & (depth > 0)
    if forward.torn.any():
        torn = cv2.remap(
            forward.torn.astype(np.uint8), p_column, p_row, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
        valid &= torn == 0
    x = np.float32(source.origin_x) + np.float32(source.step) * p_column
    y = np.float32(source.origin_y) + np.float32(source.step) * p_row
    return Inverse(target, x, y, depth, valid)


def _slopes(field: Map) -> tuple[Map, Map]:
    """Central differences per cell along columns and rows, one-sided at the border."""
    along = np.empty_like(field)
    along[:, 1:-1] = (field[:, 2:] - field[:, :-2]) * 0.5
    along[:, 0], along[:, -1] = (field[:, 1] - field[:, 0], field[:, -1] - field[:, -2]) if field.shape[1] > 1 else (1, 1)
    down = np.empty_like(field)
    down[1:-1] = (field[2:] - field[:-2]) * 0.5
    down[0], down[-1] = (field[1] - field[0], field[-1] - field[-2]) if field.shape[0] > 1 else (1, 1)
    return along, down
