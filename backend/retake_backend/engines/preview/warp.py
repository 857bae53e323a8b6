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

from .grids import Grid, Map, remap_points

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


def invert(forward: Forward, target: Grid, reach: int = 2) -> Inverse:
    """The inverse of `forward` on the nodes of `target`; the nearest surface wins. reach: cells bridged if magnified."""
    steps = 1 if target.step <= 4 else 5  # fine nodes start within a node of where they end
    column, row = target.index(forward.x, forward.y)
    usable = (forward.depth > 0) & (column > -1) & (row > -1) & (column < target.columns) & (row < target.rows)
    if forward.torn.any():
        usable &= ~forward.torn
    numbers = np.flatnonzero(usable)
    x, y, depth = (np.zeros((target.rows, target.columns), np.float32) for _ in range(3))
    valid = np.zeros((target.rows, target.columns), bool)
    if not len(numbers):
        return Inverse(target, x, y, depth, valid)
    disparity = 1.0 / forward.depth.ravel()[numbers]
    low, high = float(disparity.min()), float(disparity.max())
    # 16 bits, because numpy sorts those by radix; far to near, so that the last one written is the nearest.
    rank = ((disparity - low) * np.float32(65535.0 / max(high - low, 1e-30))).astype(np.uint16)
    order = np.argsort(rank, kind="stable")
    numbers, disparity = numbers[order], disparity[order]
    at_column = np.clip(np.rint(column.ravel()[numbers]), 0, target.columns - 1).astype(np.int32)
    at_row = np.clip(np.rint(row.ravel()[numbers]), 0, target.rows - 1).astype(np.int32)
    own = np.full(target.rows * target.columns, -1, np.float32)  # place in the order: larger is nearer
    own[at_row * target.columns + at_column] = np.arange(len(numbers), dtype=np.float32)
    size = 2 * reach + 1
    near = cv2.dilate(own.reshape(target.rows, target.columns), np.ones((size, size), np.uint8)).ravel()

    finder = _Finder(forward, target, numbers, steps, (x.ravel(), y.ravel(), depth.ravel(), valid.ravel()))
    landed = np.flatnonzero(own >= 0)
    finder.find(landed, own[landed].astype(np.int32))
    # Between the nodes of a magnified surface a farther one, or nothing, may show through: ask the nearest around.
    around = np.flatnonzero(near >= 0)
    own_disparity = np.where(own[around] >= 0, disparity[np.maximum(own[around], 0).astype(np.int32)], 0)
    near_place = near[around].astype(np.int32)
    asks = (disparity[near_place] > own_disparity * 1.02) | ~valid.ravel()[around]
    finder.find(around[asks], near_place[asks])
    if forward.torn.any():
        _despeckle(x, y, depth, valid, target.step)
    else:
        _mend(x, y, depth, valid)
    return Inverse(target, x, y, depth, valid)


def _mend(x: Map, y: Map, depth: Map, valid: NDArray[np.bool_]) -> None:
    """Give single nodes that were not met, on a surface without tears, the mean of the ones around."""
    lone = ~valid & (cv2.blur(valid.astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT) > 0.5)
    if not lone.any():
        return
    weight = np.maximum(cv2.blur(valid.astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT), 1e-6)
    for field in (x, y, depth):
        mean = cv2.blur(np.where(valid, field, 0), (3, 3), borderType=cv2.BORDER_CONSTANT) / weight
        field[lone] = mean[lone]
    valid |= lone


def _despeckle(x: Map, y: Map, depth: Map, valid: NDArray[np.bool_], step: float) -> None:
    """Give single nodes that show another surface than nearly all around them the surface of those."""
    known = np.where(valid, depth, 0).astype(np.float32)
    median = cv2.medianBlur(known, 5)
    speckle = valid & (median > 0) & (np.abs(known - median) > 0.08 * median)
    if not speckle.any():
        return
    like = valid & (np.abs(known - median) <= 0.08 * median)
    weight = cv2.blur(like.astype(np.float32), (5, 5), borderType=cv2.BORDER_CONSTANT)
    speckle &= weight > 0.2
    # The mean over a window belongs to the mean of its nodes; from there the map goes on about one to one.
    columns, rows = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in valid.shape[::-1]))
    means = [
        cv2.blur(np.where(like, field, 0).astype(np.float32), (5, 5), borderType=cv2.BORDER_CONSTANT)[speckle]
        / weight[speckle]
        for field in (x, y, depth, columns, rows)
    ]
    right, down = columns[speckle] - means[3], rows[speckle] - means[4]
    x[speckle], y[speckle] = means[0] + right * np.float32(step), means[1] + down * np.float32(step)
    depth[speckle] = means[2]


@dataclass
class _Finder:
    """Newton's method from a node to the source place that lands exactly on a target node."""

    forward: Forward
    target: Grid
    numbers: NDArray[np.int64]
    steps: int
    result: tuple[Map, Map, Map, NDArray[np.bool_]]

    def __post_init__(self) -> None:
        self._maps = np.dstack([self.forward.x, self.forward.y])
        self._slopes = np.dstack([*_slopes(self.forward.x), *_slopes(self.forward.y)]).reshape(-1, 4)
        self._goal_x, self._goal_y = (a.ravel() for a in self.target.nodes())

    def find(self, at: NDArray[np.int64], place: NDArray[np.int32]) -> None:
        """Start for target nodes `at` (N,) from the source nodes at `place` in the order; keep what is met exactly."""
        if not len(at):
            return
        source = self.forward.grid
        node = self.numbers[place]
        column, row = (node % source.columns).astype(np.float32), (node // source.columns).astype(np.float32)
        start_column, start_row = column, row
        goal_x, goal_y = self._goal_x[at], self._goal_y[at]
        xx, xy, yx, yy = np.moveaxis(self._slopes[node], -1, 0)
        determinant = xx * yy - xy * yx
        steep = np.abs(determinant) < 1e-3 * source.step**2
        inverse = np.where(steep, 0, 1 / np.where(steep, 1, determinant)).astype(np.float32)
        for step in range(self.steps + 1):
            landed = remap_points(self._maps, column, row)
            error_x, error_y = goal_x - landed[:, 0], goal_y - landed[:, 1]
            if step < self.steps:
                column = column + np.clip((yy * error_x - xy * error_y) * inverse, -3, 3)
                row = row + np.clip((xx * error_y - yx * error_x) * inverse, -3, 3)
        met = np.maximum(np.abs(error_x), np.abs(error_y)) < 0.3 * self.target.step
        met &= (column > -0.51) & (row > -0.51) & (column < source.columns - 0.49) & (row < source.rows - 0.49)
        met &= np.maximum(np.abs(column - start_column), np.abs(row - start_row)) < 4
        depth = remap_points(self.forward.depth, column, row)
        met &= depth > 0
        if self.forward.torn.any():
            met &= remap_points(self.forward.torn.astype(np.uint8), column, row, cv2.INTER_NEAREST) == 0
        x, y, depths, valid = self.result
        at = at[met]
        x[at] = np.float32(source.origin_x) + np.float32(source.step) * column[met]
        y[at] = np.float32(source.origin_y) + np.float32(source.step) * row[met]
        depths[at] = depth[met]
        valid[at] = True


def _slopes(field: Map) -> tuple[Map, Map]:
    """Central differences per cell along columns and rows, one-sided at the border."""
    along = np.empty_like(field)
    along[:, 1:-1] = (field[:, 2:] - field[:, :-2]) * 0.5
    along[:, 0], along[:, -1] = (
        (field[:, 1] - field[:, 0], field[:, -1] - field[:, -2]) if field.shape[1] > 1 else (1, 1)
    )
    down = np.empty_like(field)
    down[1:-1] = (field[2:] - field[:-2]) * 0.5
    down[0], down[-1] = (field[1] - field[0], field[-1] - field[-2]) if field.shape[0] > 1 else (1, 1)
    return along, down
