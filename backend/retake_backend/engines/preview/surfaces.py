"""How far each layer of a source frame is, from depth maps where the solve has them, from tracks everywhere else.

Layers are object numbers of the solve. Disparity is 1 / depth in the source camera, 1 / world unit; 0 is infinitely
far. All pixels are those of the picture at working size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.geometry import inside_image
from retake_shared.shot import BACKGROUND, Cameras, Solve

from .grids import Grid, Map, fit_field

HIDDEN_WEIGHT = 0.02
"""Weight of a track the frame does not show, beside 1 for one it does: it counts where nothing else is known."""
TEAR = 0.012
"""Relative jump of disparity between neighbouring nodes, per px, from which on the surface is taken as torn."""


@dataclass(frozen=True)
class Surface:
    """Disparity on the nodes of `grid` (source px), (rows, columns) float32, and which nodes are torn."""

    grid: Grid
    disparity: Map
    torn: NDArray[np.bool_] | None


class Surfaces:
    """The layers' surfaces, frame by frame. cameras: the solve's, at working size; picture: gives a frame's rgb."""

    def __init__(self, solve: Solve, cameras: Cameras, picture: Callable[[int], NDArray[np.uint8]]) -> None:
        self.solve, self.cameras, self.picture = solve, cameras, picture
        self.uv, self.depth = cameras.project(solve.tracks.positions)
        with np.errstate(invalid="ignore"):
            self.in_view = inside_image(self.uv, self.depth, cameras.width, cameras.height)
        self.visible = solve.tracks.visibility & self.in_view
        size = max(cameras.width, cameras.height)
        self.coarse = max(2.0, size / 96)
        self.fine = max(1.0, np.ceil(size / 800))
        self.margin = 0.3 * size
        self._scale = self._depth_scale() if solve.depth is not None else np.ones(len(solve))
        self.known = bool(self.visible.any()) or solve.depth is not None
        self.smooth = lru_cache(maxsize=256)(self._smooth)
        self.measured = lru_cache(maxsize=24)(self._measured)

    def _depth_scale(self) -> NDArray[np.float64]:
        """Factor per frame that brings the depth maps to the tracks' scale, smoothed over time; 1 without tracks."""
        assert self.solve.depth is not None
        scale = np.full(len(self.solve), np.nan)
        _, height, width = self.solve.depth.shape
        for t in range(len(scale)):
            which = self.visible[t]
            if which.sum() < 8:
                continue
            u = np.clip(self.uv[t, which, 0] * width / self.cameras.width, 0, width - 1).astype(int)
            v = np.clip(self.uv[t, which, 1] * height / self.cameras.height, 0, height - 1).astype(int)
            read = self.solve.depth[t, v, u]
            if (read > 0).sum() >= 8:
                scale[t] = np.median(self.depth[t, which][read > 0] / read[read > 0])
        good = np.isfinite(scale)
        if not good.any():
            return np.ones(len(scale))
        scale = np.interp(np.arange(len(scale)), np.flatnonzero(good), scale[good])
        return np.ones(len(scale)) if np.abs(scale - 1).max() < 0.02 else scale

    def _smooth(self, layer: int, frame: int) -> Surface:
        """The layer's surface without inner edges, continued beyond the picture: from its tracks and depth samples."""
        grid = Grid.over(self.cameras.width, self.cameras.height, self.coarse, self.margin)
        members = self.solve.tracks.objects == layer
        front = self.depth[frame] > 0
        visible = members & self.visible[frame]
        which = members & front & np.isfinite(self.uv[frame]).all(-1)
        which &= self._near_picture(frame) if layer == BACKGROUND else True
        x, y = self.uv[frame, which, 0], self.uv[frame, which, 1]
        disparity = 1 / self.depth[frame, which]
        weight = np.where(visible[which], 1.0, HIDDEN_WEIGHT)
        if self.solve.depth is not None:
            more = self._depth_samples(layer, frame)
            x, y, disparity = (np.concatenate(pair) for pair in zip((x, y, disparity), more, strict=True))
            weight = np.concatenate([weight, np.ones(len(more[0]))])
        if not len(x):
            if layer == BACKGROUND:
                return Surface(grid, np.zeros((grid.rows, grid.columns), np.float32), None)
            return self.smooth(BACKGROUND, frame)
        field = fit_field(grid, x, y, disparity[:, None], weight, finest=1.5)[..., 0]
        low, high = np.quantile(disparity, [0.01, 0.99])
        return Surface(grid, np.clip(field, max(low * 0.7, 0), high * 1.4), None)

    def _near_picture(self, frame: int) -> NDArray[np.bool_]:
        uv = self.uv[frame]
        with np.errstate(invalid="ignore"):
            return np.asarray(
                (uv[:, 0] > -self.margin)
                & (uv[:, 1] > -self.margin)
                & (uv[:, 0] < self.cameras.width + self.margin)
                & (uv[:, 1] < self.cameras.height + self.margin)
            )

    def depth_map(self, frame: int) -> Map:
        """The solve's map of the frame (h, w) at the scale of its tracks, 0 where unknown."""
        assert self.solve.depth is not None
        return np.asarray(self.solve.depth[frame] * np.float32(self._scale[frame]), np.float32)

    def _layer_map(self, frame: int, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Object numbers at (width, height), or None when the solve has no masks."""
        if self.solve.masks is None:
            return None
        return np.asarray(cv2.resize(self.solve.masks[frame], size, interpolation=cv2.INTER_NEAREST), np.uint8)

    def _depth_samples(self, layer: int, frame: int) -> tuple[NDArray[np.float64], ...]:
        """x, y px and disparity of depth map pixels of the layer, about one per two coarse cells."""
        depth = self.depth_map(frame)
        height, width = depth.shape
        columns = np.linspace(0, width - 1, 48).round().astype(int)
        rows = np.linspace(0, height - 1, max(2, round(48 * height / width))).round().astype(int)
        picked = depth[np.ix_(rows, columns)]
        keep = picked > 0
        labels = self._layer_map(frame, (width, height))
        if labels is not None:
            keep &= cv2.erode((labels == layer).astype(np.uint8), np.ones((3, 3)))[np.ix_(rows, columns)] > 0
        elif layer != BACKGROUND:
            keep &= False
        row, column = np.nonzero(keep)
        x = (columns[column] + 0.5) * self.cameras.width / width
        y = (rows[row] + 0.5) * self.cameras.height / height
        return x, y, 1.0 / picked[keep]

    def _sharpen(self, fitting: Map, disparity: Map, frame: int) -> None:
        """At depth edges, give each node of `fitting` the coarse disparity whose picture colour is most like its own."""
        height, width = disparity.shape
        kernel = np.ones((3, 3), np.uint8)
        high, low = cv2.dilate(disparity, kernel), cv2.erode(disparity, kernel)
        edge = (high - low > 0.1 * high).astype(np.uint8)
        rows, columns = fitting.shape
        at_row, at_column = np.nonzero(cv2.resize(edge, (columns, rows), interpolation=cv2.INTER_NEAREST))
        if not len(at_row):
            return
        picture = self.picture(frame)
        fine = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)[at_row, at_column].astype(np.float32)
        coarse = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        y, x = (at_row + 0.5) * height / rows - 0.5, (at_column + 0.5) * width / columns - 0.5
        base_y, base_x = np.rint(y).astype(int), np.rint(x).astype(int)
        best = np.full(len(at_row), np.inf, np.float32)
        chosen = fitting[at_row, at_column]
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                cy, cx = np.clip(base_y + dy, 0, height - 1), np.clip(base_x + dx, 0, width - 1)
                unlike = np.abs(coarse[cy, cx] - fine).sum(1) + 40 * np.hypot(cy - y, cx - x)
                unlike = np.where(disparity[cy, cx] > 0, unlike, np.inf)
                better = unlike < best
                best[better], chosen[better] = unlike[better], disparity[cy, cx][better]
        fitting[at_row, at_column] = chosen

    def _measured(self, frame: int) -> Surface | None:
        """The frame's depth map at fine resolution with its edges kept and torn, or None when there is none."""
        if self.solve.depth is None:
            return None
        grid = Grid.over(self.cameras.width, self.cameras.height, self.fine)
        depth = self.depth_map(frame)
        known = depth > 0
        if not known.any():
            return None
        disparity = np.where(known, 1 / np.where(known, depth, 1), 0).astype(np.float32)
        fitting = np.asarray(
            cv2.resize(disparity, (grid.columns, grid.rows), interpolation=cv2.INTER_LINEAR), np.float32
        )
        self._sharpen(fitting, disparity, frame)
        fitting = np.asarray(cv2.medianBlur(fitting, 5), np.float32)
        # An edge pixel mixes both sides: it goes with the near one, so that no outline of that stays behind.
        near = cv2.dilate(fitting, np.ones((3, 3), np.uint8))
        fitting = np.where(near - fitting > 2 * TEAR * self.fine * near, near, fitting)
        unknown = cv2.resize((~known).astype(np.uint8), (grid.columns, grid.rows), interpolation=cv2.INTER_NEAREST) > 0
        if unknown.any():
            smooth = self.smooth(BACKGROUND, frame)
            column, row = smooth.grid.index(*grid.nodes())
            fitting = np.where(
                unknown,
                cv2.remap(smooth.disparity, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
                fitting,
            )
        torn = cv2.morphologyEx(fitting, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > TEAR * self.fine * fitting
        return Surface(grid, fitting.astype(np.float32), torn)
