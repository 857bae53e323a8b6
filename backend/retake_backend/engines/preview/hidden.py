"""Objects made whole: the parts of one that the source frame hides behind something, from frames that show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .grids import Grid, Map, fit_field, remap_points
from .inpaint import push_pull
from .mattes import Mattes
from .surfaces import Surfaces

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
STEPS = (-3, 3, -6, 6, -10, 10, -15, 15)
"""Which frames around are asked, nearest first."""
HIDDEN_TRACK = 0.15
"""Weight of a track where it is hidden, beside 1: solvers follow it there too, if less surely."""


@dataclass(frozen=True)
class WholeObject:
    """An object as if nothing stood before it: rgb and matte (H, W), and which of its pixels no frame shows."""

    rgb: Picture
    matte: Picture
    invented: Mask


class HiddenParts:
    """Completes objects, frame by frame. picture: gives a frame's rgb at working size."""

    def __init__(self, mattes: Mattes, surfaces: Surfaces, picture: Callable[[int], Picture]) -> None:
        self.mattes, self.surfaces, self.picture = mattes, surfaces, picture
        self.tracks = surfaces.solve.tracks
        self.whole = lru_cache(maxsize=16)(self._whole)

    def _whole(self, frame: int, number: int) -> WholeObject | None:
        """The object as if nothing stood before it; None when the frame does not show it.

        What another object hides is taken from other frames along the tracks, and invented where none shows it. What
        the background hides is only taken: nothing says how far it goes.
        """
        mattes = self.mattes.frame(frame)
        if number not in mattes:
            return None
        matte, picture = mattes[number], self.picture(frame)
        behind_objects = self._behind_objects(frame, number, mattes)
        behind_background = self._behind_background(frame, number, matte) & ~behind_objects
        share = _continued(matte, behind_objects)
        unknown = behind_objects & (share > 0.12)
        if not (unknown.any() or behind_background.any()):
            return WholeObject(picture, matte, np.zeros(matte.shape, bool))
        whole, picture = np.where(unknown, 0, matte), picture.copy()
        for step in STEPS:
            if not (unknown.any() or behind_background.any()):
                break
            if 0 <= frame + step < len(self.surfaces.solve):
                self._borrow(frame, frame + step, number, picture, whole, unknown, False)
                self._borrow(frame, frame + step, number, picture, whole, behind_background, True)
        whole[unknown] = (np.clip((share[unknown] - 0.42) / 0.16, 0, 1) * 255).astype(np.uint8)
        unknown &= whole > 8
        _push_pull_within(picture, unknown, np.where(behind_objects, 0, matte) > 200)
        return WholeObject(picture, whole, unknown & (whole > 127))

    def _behind_objects(self, frame: int, number: int, mattes: dict[int, Picture]) -> Mask:
        """Where objects that stand before this one, and touch it, cover what may be its parts."""
        matte = mattes[number]
        covered = np.zeros(matte.shape, np.uint8)
        for other, its in mattes.items():
            if other != number and self._stands_before(frame, other, number):
                covered |= (its > 8).astype(np.uint8)
        size = 2 * self.mattes.edge + 3
        return cv2.dilate(covered, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))) > 0

    def _stands_before(self, frame: int, other: int, number: int) -> bool:
        """Whether object `other` is nearer to the camera than `number` where they touch; the smaller when in doubt."""
        mattes = self.mattes.frame(frame)
        kernel = np.ones((4 * self.mattes.edge + 1,) * 2, np.uint8)
        own, its = mattes[number] > 127, mattes[other] > 127
        touching = (cv2.dilate(own.astype(np.uint8), kernel) > 0) & (cv2.dilate(its.astype(np.uint8), kernel) > 0)
        rows, columns = np.nonzero(touching)
        if not len(rows):
            return False
        surfaces = (self.surfaces.smooth(number, frame), self.surfaces.smooth(other, frame))
        own_disparity, its_disparity = (
            float(np.median(s.grid.sample(s.disparity, columns + 0.5, rows + 0.5))) for s in surfaces
        )
        if abs(its_disparity / max(own_disparity, 1e-12) - 1) < 0.02:
            return bool(its.sum() < own.sum())
        return its_disparity > own_disparity

    def _behind_background(self, frame: int, number: int, matte: Picture) -> Mask:
        """Where measured depth puts background before hidden tracks of the object."""
        nothing = np.zeros(matte.shape, bool)
        measured = self.surfaces.measured(frame)
        if measured is None:
            return nothing
        own = self.surfaces.in_view[frame] & ~self.surfaces.visible[frame] & (self.tracks.objects == number)
        uv = self.surfaces.uv[frame, own]
        if not len(uv):
            return nothing
        before = measured.grid.sample(measured.disparity, uv[:, 0], uv[:, 1]) > 1.03 / self.surfaces.depth[frame, own]
        uv = uv[before].astype(int)
        # A point on the object's own far side is hidden by the object itself.
        size = 6 * self.mattes.edge + 1
        beside = cv2.dilate(matte, np.ones((size, size), np.uint8)) < 8
        uv = uv[beside[uv[:, 1], uv[:, 0]]]
        near = np.zeros(matte.shape, np.uint8)
        near[uv[:, 1], uv[:, 0]] = 1
        round_ = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (12 * self.mattes.edge + 1,) * 2)
        between = cv2.morphologyEx(near, cv2.MORPH_CLOSE, round_)
        return (cv2.dilate(between, round_[::2, ::2]) > 0) & (matte < 8)

    def _borrow(
        self, frame: int, other: int, number: int, picture: Picture, whole: Picture, unknown: Mask, only_shown: bool
    ) -> None:
        """Take `unknown` pixels of `picture` and of matte `whole` from another frame, along the object's tracks.

        only_shown: take what that frame shows of the object; otherwise also that it shows none of it there, unless
        another object hides the place in that frame too.
        """
        rows, columns = np.nonzero(unknown)
        matte = self.mattes.frame(other).get(number)
        if not len(rows) or matte is None:
            return
        own = (self.tracks.objects == number) & (self.surfaces.depth[frame] > 0)
        both = np.flatnonzero(own & self.surfaces.visible[other])
        weights = np.where(self.surfaces.visible[frame, both], 1.0, HIDDEN_TRACK)
        start = self.surfaces.uv[frame, both]
        shift = self.surfaces.uv[other, both] - start
        x, y = columns + 0.5, rows + 0.5
        span = max(float(np.ptp(x)), float(np.ptp(y)), 16.0)
        close = (np.abs(start[:, 0] - x.mean()) < span) & (np.abs(start[:, 1] - y.mean()) < span)
        if close.sum() < 3:
            return
        step = span / 8
        grid = Grid(x.min() - step, y.min() - step, step, int(np.ptp(x) / step) + 3, int(np.ptp(y) / step) + 3)
        field = fit_field(grid, start[close, 0], start[close, 1], shift[close], weights[close])
        move = grid.sample(field, x, y)
        u, v = (x + move[:, 0]).astype(np.float32), (y + move[:, 1]).astype(np.float32)
        height, width = matte.shape
        shown = (u >= 0.5) & (v >= 0.5) & (u < width - 0.5) & (v < height - 0.5)
        at_row, at_column = v[shown].astype(int), u[shown].astype(int)
        if only_shown:
            shown[shown] = matte[at_row, at_column] > 127
        else:
            others = tuple(n for n in self.mattes.numbers if n != number)
            shown[shown] = ~self.mattes.cut(other, others)[at_row, at_column]
        if shown.any():
            at = rows[shown], columns[shown]
            column, row = u[shown] - np.float32(0.5), v[shown] - np.float32(0.5)
            picture[at] = remap_points(self.picture(other), column, row)
            whole[at] = remap_points(matte, column, row)
            unknown[at] = False


def _continued(matte: Picture, covered: Mask) -> Map:
    """Share (H, W) of the object behind what covers it, by how much of it lies around; 0 elsewhere."""
    share = np.zeros(matte.shape, np.float32)
    rows, columns = np.nonzero(covered)
    if not len(rows):
        return share
    sigma = max(3, int(min(np.ptp(rows), np.ptp(columns)) * 0.35))
    pad = 3 * sigma
    box = slice(max(0, rows.min() - pad), rows.max() + pad), slice(max(0, columns.min() - pad), columns.max() + pad)
    weight = (~covered[box]).astype(np.float32)
    total = cv2.GaussianBlur(matte[box].astype(np.float32) / 255 * weight, (0, 0), sigma)
    share[box] = total / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-4)
    return share


def _push_pull_within(picture: Picture, unknown: Mask, solid: Mask) -> None:
    """Fill `unknown` pixels of `picture` smoothly from the object's own solid ones around."""
    rows, columns = np.nonzero(unknown)
    if not len(rows):
        return
    pad = 24
    box = slice(max(0, rows.min() - pad), rows.max() + pad), slice(max(0, columns.min() - pad), columns.max() + pad)
    filled = push_pull(np.ascontiguousarray(picture[box]), ~solid[box])
    picture[box][unknown[box]] = filled[unknown[box]]
