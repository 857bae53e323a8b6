"""Objects made whole: the parts of one that the source frame hides behind something, from frames that show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .grids import Grid, Map, fit_field, remap_points
from .inpaint import push_pull
from .mattes import Mattes
from .surfaces import Surfaces

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
DONORS = 8
"""At most so many other frames are asked for what one frame hides."""
ALIKE = 0.1
"""Share of an object's size by which its tracks may lie otherwise, on average, in a frame that shows the same pose."""
POSE_TRACKS = 200
"""About so many of an object's tracks tell its pose."""
BEFORE = 1.03
"""Ratio of disparities from which on one thing is taken to stand before another."""
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
        size = 2 * mattes.edge + 3
        self._over_edges = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        self.hidden_tracks = lru_cache(maxsize=256)(self._hidden_tracks)
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
        behind_background = self._behind_background(frame, number) & ~behind_objects
        share = _continued(matte, behind_objects)
        unknown = behind_objects & (share > 0.12)
        if not (unknown.any() or behind_background.any()):
            return WholeObject(picture, matte, np.zeros(matte.shape, bool))
        whole, picture = np.where(unknown, 0, matte), picture.copy()
        missing = unknown | behind_background
        for donor in self._donors(frame, number, missing):
            self._borrow(frame, donor, number, picture, whole, missing)
        unknown &= missing
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
        return cv2.dilate(covered, self._over_edges) > 0

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

    def _hidden_tracks(self, frame: int, number: int) -> NDArray[np.int64]:
        """The object's tracks that measured depth puts behind the background."""
        measured, matte = self.surfaces.measured(frame), self.mattes.frame(frame).get(number)
        hidden = self.surfaces.in_view[frame] & ~self.surfaces.visible[frame] & (self.tracks.objects == number)
        if measured is None or matte is None or not hidden.any():
            return np.empty(0, np.int64)
        tracks = np.flatnonzero(hidden)
        uv, depth = self.surfaces.uv[frame, tracks], self.surfaces.depth[frame, tracks]
        before = measured.grid.sample(measured.disparity, uv[:, 0], uv[:, 1]) > BEFORE / depth
        # A point on the object's own far side is hidden by the object itself.
        size = 6 * self.mattes.edge + 1
        beside = cv2.dilate(matte, np.ones((size, size), np.uint8)) < 8
        column, row = uv.astype(int).T
        return np.asarray(tracks[before & beside[row, column]])

    def _behind_background(self, frame: int, number: int) -> Mask:
        """Where measured depth puts background before the object, around its hidden tracks."""
        region = np.zeros((self.mattes.height, self.mattes.width), bool)
        uv = self.surfaces.uv[frame, self.hidden_tracks(frame, number)].astype(int)
        measured, own = self.surfaces.measured(frame), self.surfaces.smooth(number, frame)
        if measured is None or not len(uv):
            return region
        left, top = np.maximum(uv.min(0) - 12 * self.mattes.edge, 0)
        right, bottom = uv.max(0) + 12 * self.mattes.edge
        box = slice(top, bottom), slice(left, right)
        height, width = region[box].shape
        near, far = (
            replace(s.grid, origin_x=s.grid.origin_x - left, origin_y=s.grid.origin_y - top).to_picture(
                s.disparity, width, height
            )
            for s in (measured, own)
        )
        # Grown over the edge of what stands before, where its colours and the object's are mixed.
        region[box] = cv2.dilate((near > BEFORE * far).astype(np.uint8), self._over_edges) > 0
        return region

    def _donors(self, frame: int, number: int, missing: Mask) -> list[int]:
        """Frames that show what is missing (H, W) of the object in the same pose, the best first.

        A walk comes back to its pose a cycle later, so that the best is often not the nearest.
        """
        own = np.flatnonzero((self.tracks.objects == number) & (self.surfaces.depth[frame] > 0))
        if len(own) < 3:
            return []
        column, row = np.clip(self.surfaces.uv[frame, own], 0, np.array(missing.shape[::-1]) - 1).astype(int).T
        wanted = own[~self.surfaces.visible[frame, own] & missing[row, column]]
        wanted = wanted if len(wanted) else own
        unlike = self._unlike(frame, own[:: -(-len(own) // POSE_TRACKS)])
        # Light changes with time, and what one frame shows whole has no seams.
        lacks = 1 - self.surfaces.visible[:, wanted].mean(1)
        cost = unlike + 5e-4 * np.abs(np.arange(len(unlike)) - frame) + ALIKE * lacks
        donors: list[int] = []
        unseen = wanted
        for donor in np.argsort(cost, kind="stable").tolist():
            shows = self.surfaces.visible[donor, unseen]
            if donor != frame and unlike[donor] < ALIKE and shows.any():
                donors.append(donor)
                unseen = wanted if shows.all() else unseen[~shows]
            if len(donors) == DONORS:
                break
        return donors

    def _unlike(self, frame: int, tracks: NDArray[np.int64]) -> NDArray[np.float64]:
        """How differently posed every frame shows the tracks, as a share (T,) of their spread; nan where it cannot.

        That is how far they lie, on average, from where this frame shows them, but for a shift, a turn and a size.
        """
        uv = self.surfaces.uv[:, tracks]
        pose = np.where(self.surfaces.depth[:, tracks] > 0, uv[..., 0] + 1j * uv[..., 1], np.nan)
        pose -= pose.mean(1, keepdims=True)
        here = pose[frame]
        with np.errstate(invalid="ignore"):  # nan is the answer then
            turn = (pose.conj() * here).sum(1) / np.maximum((np.abs(pose) ** 2).sum(1), 1e-12)
        off = np.abs(turn[:, None] * pose - here).mean(1)
        return np.asarray(off / max(float(np.abs(here).mean()), 1e-9), np.float64)

    def _borrow(self, frame: int, donor: int, number: int, picture: Picture, whole: Picture, missing: Mask) -> None:
        """Take `missing` pixels of `picture` and of matte `whole` from another frame, along the object's tracks.

        Also that the object is not there is taken, unless something hides the place in that frame too.
        """
        rows, columns = np.nonzero(missing)
        matte = self.mattes.frame(donor).get(number)
        if not len(rows) or matte is None:
            return
        own = (self.tracks.objects == number) & (self.surfaces.depth[[frame, donor]] > 0).all(0)
        both = np.flatnonzero(own & self.surfaces.visible[donor])
        start, end = (self.surfaces.uv[f, both] for f in (frame, donor))
        seen = self.surfaces.visible[frame, both]
        if seen.sum() < 3:
            return
        middle, there = start[seen].mean(0), end[seen].mean(0)
        turn = _turn(start[seen] - middle, end[seen] - there)
        rest = end - there - (start - middle) @ turn
        # In the same pose nothing moves much otherwise than the whole: a hidden track that does was lost.
        off = np.linalg.norm(rest, axis=1)
        lost = 1 / (1 + (off / (3 * np.median(off[seen]) + 1)) ** 4)
        weights = np.where(seen, 1.0, HIDDEN_TRACK * lost)
        x, y = columns + 0.5, rows + 0.5
        span = max(float(np.ptp(x)), float(np.ptp(y)), 16.0)
        close = (np.abs(start[:, 0] - x.mean()) < span) & (np.abs(start[:, 1] - y.mean()) < span)
        if close.sum() < 3:
            return
        step = span / 8
        grid = Grid(x.min() - step, y.min() - step, step, int(np.ptp(x) / step) + 3, int(np.ptp(y) / step) + 3)
        field = fit_field(grid, start[close, 0], start[close, 1], rest[close], weights[close])
        place = (np.stack([x, y], 1) - middle) @ turn + there + grid.sample(field, x, y)
        u, v = place.astype(np.float32).T
        height, width = matte.shape
        known = (u >= 0.5) & (v >= 0.5) & (u < width - 0.5) & (v < height - 0.5)
        known[known] = ~self._concealed(donor, number, matte, u[known], v[known])
        if known.any():
            at = rows[known], columns[known]
            column, row = u[known] - np.float32(0.5), v[known] - np.float32(0.5)
            picture[at] = remap_points(self.picture(donor), column, row)
            whole[at] = remap_points(matte, column, row)
            missing[at] = False

    def _concealed(self, frame: int, number: int, matte: Picture, u: Map, v: Map) -> Mask:
        """Whether something before it may hide the object at places (N,) of the frame, inside the picture."""
        others = tuple(n for n in self.mattes.numbers if n != number)
        concealed = self.mattes.cut(frame, others)[v.astype(int), u.astype(int)]
        hidden = self.hidden_tracks(frame, number)
        if len(hidden):
            own = np.flatnonzero((self.tracks.objects == number) & self.surfaces.in_view[frame])
            _, nearest = cKDTree(self.surfaces.uv[frame, own]).query(np.stack([u, v], 1))
            concealed |= np.isin(own[nearest], hidden) & (matte[v.astype(int), u.astype(int)] < 128)
        return np.asarray(concealed)


def _turn(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The turn and size (2, 2) with source @ it nearest target, both (N, 2) around 0."""
    along = (source * target).sum()
    across = (source[:, 0] * target[:, 1] - source[:, 1] * target[:, 0]).sum()
    return np.array([[along, across], [-across, along]]) / max(float((source**2).sum()), 1e-12)


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
