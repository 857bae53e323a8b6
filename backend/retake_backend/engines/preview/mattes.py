"""Which pixels of a source frame belong to which object: from the solve's masks, else from tracks and colours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.shot import BACKGROUND, Solve
from scipy.spatial import ConvexHull, QhullError, cKDTree

from .grids import Grid, Map, blur
from .surfaces import Surfaces

Picture = NDArray[np.uint8]
COLOUR_BINS = 16


class Mattes:
    """Soft mattes of the objects, frame by frame, at working size.

    picture: gives a frame's rgb at working size.
    """

    def __init__(self, solve: Solve, surfaces: Surfaces, picture: Callable[[int], Picture]) -> None:
        self.solve, self.surfaces, self.picture = solve, surfaces, picture
        self.width, self.height = surfaces.cameras.width, surfaces.cameras.height
        numbers = set(np.unique(solve.tracks.objects).tolist())
        masked = set() if solve.masks is None else set(np.unique(solve.masks).tolist())
        numbers |= masked
        self.numbers = sorted(int(n) for n in numbers - {BACKGROUND})
        self.unmasked = set(self.numbers) - masked  # what the artist grouped has no mask
        self.frame = lru_cache(maxsize=48)(self._frame)
        size = max(self.width, self.height)
        self.grid = Grid.over(self.width, self.height, max(1.0, size / 336))
        step = self.grid.step
        self.coarse = Grid(step, step, 2 * step, -(-self.grid.columns // 2), -(-self.grid.rows // 2))
        self.edge = max(1, round(size / 300))
        self._colours: Map | None = None
        self._behind: NDArray[np.int16] | None = None
        self._behind_known: NDArray[np.bool_] | None = None
        if self.unmasked:
            self._weights = _witness_weights(solve, surfaces)
            self._reach = _extents(solve, surfaces)

    def _frame(self, frame: int) -> dict[int, Picture]:
        """Matte (H, W) uint8 of every object that the frame shows."""
        if not self.numbers:
            return {}
        mattes = self._from_masks(frame)
        if self.unmasked:
            taken = np.max(list(mattes.values()), axis=0) if mattes else np.uint8(0)
            mattes.update({n: np.minimum(m, 255 - taken) for n, m in self._from_tracks(frame).items()})
        return mattes

    def cut(self, frame: int, numbers: tuple[int, ...] | None = None) -> NDArray[np.bool_]:
        """Where these objects (all, by default) and their soft edge lie: no pixel there is clean background."""
        out = np.zeros((self.height, self.width), bool)
        for number, matte in self.frame(frame).items():
            if numbers is None or number in numbers:
                out |= matte > 8
        size = 2 * self.edge + 1
        return cv2.dilate(out.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))) > 0

    def _from_masks(self, frame: int) -> dict[int, Picture]:
        out: dict[int, Picture] = {}
        if self.solve.masks is None:
            return out
        mask = self.solve.masks[frame]
        for number in set(self.numbers) - self.unmasked:
            own = (mask == number).astype(np.uint8) * 255
            if own.any():
                sized = cv2.resize(own, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
                out[number] = np.asarray(cv2.GaussianBlur(sized, (0, 0), 0.6), np.uint8)
        return out

    # --- without masks: witnesses (tracks), colours, and what a static camera sees behind ---

    def learn(self, frames: list[int], static: bool, tick: Callable[[], None]) -> None:
        """Learn the colours of objects and background from these frames, and what a static camera sees behind."""
        if not self.unmasked:
            return
        pictures = [self._small(frame) for frame in frames]
        witnesses = [self._near_witnesses(frame) for frame in frames]
        self._learn_colours(witnesses, pictures)
        tick()
        for _ in range(2):
            shares = []
            for frame, picture in zip(frames, pictures, strict=True):
                shares.append(self._share(frame, picture))
                tick()
            self._learn_colours([s + w for s, w in zip(shares, witnesses, strict=True)], pictures)
            if static:
                self._learn_behind(shares, pictures)

    def _small(self, frame: int) -> Picture:
        return self.grid.from_picture(self.picture(frame))

    def _count(self, frame: int, grid: Grid) -> Map:
        """Trust-weighted number of visible tracks of every label in every cell: (rows, columns, 1 + objects)."""
        uv, visible = self.surfaces.uv[frame], self.surfaces.visible[frame]
        column, row = grid.index(uv[visible, 0], uv[visible, 1])
        row_at, column_at = np.rint(row).astype(int), np.rint(column).astype(int)
        cell = np.clip(row_at, 0, grid.rows - 1) * grid.columns + np.clip(column_at, 0, grid.columns - 1)
        labels, weights = self.solve.tracks.objects[visible], self._weights[visible]
        count = np.zeros((grid.rows, grid.columns, 1 + len(self.numbers)), np.float32)
        for index, number in enumerate([BACKGROUND, *self.numbers]):
            own = labels == number
            votes = np.bincount(cell[own], weights[own], minlength=grid.rows * grid.columns)
            count[..., index] = votes.reshape(grid.rows, grid.columns)
        return count

    def _near_witnesses(self, frame: int) -> Map:
        """Which label's trusted tracks lie beside a cell of `grid`, in [0, 1]."""
        trusted = (self._count(frame, self.grid) > 0.5).astype(np.float32)
        return np.asarray(cv2.dilate(trusted, np.ones((3, 3), np.uint8)), np.float32).reshape(trusted.shape)

    def _prior(self, frame: int) -> Map:
        """How likely each label is by the tracks around alone: (rows, columns, 1 + objects) on `coarse`."""
        grid = self.coarse
        count = self._count(frame, grid)
        share = np.full_like(count, 0.1 / max(1, len(self.numbers)))
        share[..., 0] = 0.9
        for sigma in (8, 4, 2, 1):
            near = blur(count, sigma) * np.float32(2 * np.pi * sigma * sigma)
            total = near.sum(-1, keepdims=True)
            confidence = total / (total + 1.0)
            share = (1 - confidence) * share + confidence * near / np.maximum(total, 1e-6)
        share = np.maximum(share, 0.1)
        for index, number in enumerate(self.numbers, 1):
            excess = self._beyond_reach(frame, number)
            share[..., index] *= np.exp(-np.clip(excess, 0, 2) * 8)
        return share / share.sum(-1, keepdims=True)  # type: ignore[no-any-return]

    def _beyond_reach(self, frame: int, number: int) -> Map:
        """By which part of its own size a cell of `coarse` lies too far from the object's tracks to belong to it."""
        x, y = self.coarse.nodes()
        own = self.surfaces.uv[frame, self.surfaces.visible[frame] & (self.solve.tracks.objects == number)]
        reach = self._reach.get(number, np.inf)
        if not len(own):
            return np.full_like(x, 2.0)
        if np.isinf(reach):
            return np.zeros_like(x)
        # No point of it is farther from any other than it is large; the few farthest tracks may be strays.
        own = own[np.linalg.norm(own - np.median(own, 0), axis=1) <= reach]
        farthest = np.zeros_like(x)
        for u, v in _outermost(own):
            np.maximum(farthest, np.hypot(x - np.float32(u), y - np.float32(v)), out=farthest)
        return farthest / np.float32(reach) - 1

    def _learn_colours(self, shares: list[Map], pictures: list[Picture]) -> None:
        """Log likelihood of every colour under every label, the background's from around the objects."""
        histograms = np.zeros((1 + len(self.numbers), COLOUR_BINS**3))
        for share, picture in zip(shares, pictures, strict=True):
            bins = _bins(picture).ravel()
            ring = cv2.dilate((share[..., 1:].max(-1) > 0.5).astype(np.uint8), np.ones((61, 61), np.uint8))
            for index in range(len(histograms)):
                confident = np.clip(share[..., index] - 0.7, 0, None)
                if index == 0:
                    confident = confident * ring
                histograms[index] += np.bincount(bins, confident.ravel(), minlength=COLOUR_BINS**3)
        table = histograms.reshape(-1, COLOUR_BINS, COLOUR_BINS, COLOUR_BINS)
        smooth = np.stack([_blur3(h) / max(h.sum(), 1e-9) for h in table])
        for own in smooth[1:]:
            _unmix(own, smooth[0])
        self._colours = np.ascontiguousarray(np.log(smooth + 3e-5).reshape(len(histograms), -1).T.astype(np.float32))

    def _learn_behind(self, shares: list[Map], pictures: list[Picture]) -> None:
        """The background of a static camera: the median of what is likely to be background."""
        kernel = np.ones((5, 5), np.uint8)
        hidden = np.stack([cv2.dilate((share[..., 0] < 0.5).astype(np.uint8), kernel) > 0 for share in shares])
        values = np.where(hidden[..., None], 255, np.stack(pictures))
        values.sort(axis=0)
        seen = (~hidden).sum(0)
        middle = np.maximum(seen - 1, 0) // 2
        self._behind = np.take_along_axis(values, middle[None, ..., None], 0)[0].astype(np.int16)
        self._behind_known = seen >= max(2, len(shares) // 4)

    def _share(self, frame: int, small: Picture) -> Map:
        """Share (rows, columns, 1 + objects) of every label in every cell of `grid`."""
        prior = self._prior(frame)
        share = np.zeros((self.grid.rows, self.grid.columns, 1 + len(self.numbers)), np.float32)
        share[..., 0] = 1
        likely = prior[..., 1:].max(-1) > 0.02
        rows, columns = np.flatnonzero(likely.any(1)), np.flatnonzero(likely.any(0))
        if not len(rows):
            return share
        top, bottom = 2 * int(rows[0]), min(self.grid.rows, 2 * int(rows[-1]) + 2)
        left, right = 2 * int(columns[0]), min(self.grid.columns, 2 * int(columns[-1]) + 2)
        full = cv2.resize(
            np.log(prior), (2 * self.coarse.columns, 2 * self.coarse.rows), interpolation=cv2.INTER_LINEAR
        )
        score = full[top:bottom, left:right]
        small = np.ascontiguousarray(small[top:bottom, left:right])
        if self._colours is not None:
            colour = self._colours[_bins(small)]
            score += 0.9 * np.maximum(colour - colour.max(-1, keepdims=True), -5)
        if self._behind is not None and self._behind_known is not None:
            change = np.abs(small.astype(np.int16) - self._behind[top:bottom, left:right]).max(-1).astype(np.float32)
            change = cv2.GaussianBlur(change, (0, 0), 0.7)
            known = self._behind_known[top:bottom, left:right]
            score[..., 0] += np.where(known, np.clip((24 - change) / 6, -4, 2.5), 0)
        score = np.maximum(score - score.max(-1, keepdims=True), -7)
        score = guided_filter(small, score, 3, 4e-4)
        part = np.exp(1.5 * (score - score.max(-1, keepdims=True)))
        share[top:bottom, left:right] = part / part.sum(-1, keepdims=True)
        return share

    def _from_tracks(self, frame: int) -> dict[int, Picture]:
        share = self._share(frame, self._small(frame))
        count = self._count(frame, self.grid)
        for index, number in enumerate(self.numbers, 1):
            if np.isfinite(self._reach.get(number, np.inf)):
                _trim(share, index, self._reach[number] / self.grid.step)
        out = {}
        for index, number in enumerate(self.numbers, 1):
            if number not in self.unmasked:
                continue
            own = _with_witnesses(share[..., index], 1 - share[..., 0], count[..., index] > 0)
            matte = np.clip((self.grid.to_picture(own, self.width, self.height) - 0.25) / 0.5, 0, 1)
            if (matte > 0.5).any():
                out[number] = (matte * 255).astype(np.uint8)
        return out


def _outermost(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of points (N, 2) those (M, 2) that may be the farthest from some place: their hull's corners, or all of few."""
    if len(points) <= 8:
        return points
    try:
        return np.asarray(points[ConvexHull(points).vertices])
    except QhullError:  # they lie on one line, as a rope's tracks may
        return points


def _trim(share: Map, index: int, span: float) -> None:
    """Take from a compact object what sticks out of it, and give that to the next likely label.

    Only what opening by most of its size leaves is compact; an object that opening would shrink much is not, and stays.
    """
    own = (share[..., index] > 0.4).astype(np.uint8)
    size = max(3, int(0.8 * span)) | 1
    opened = cv2.morphologyEx(own, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    if opened.sum() < 0.6 * own.sum():
        return
    outside = cv2.dilate(opened, np.ones((3, 3), np.uint8)) == 0
    share[..., index][outside] = 0
    share /= np.maximum(share.sum(-1, keepdims=True), 1e-12)


def _with_witnesses(share: Map, foreground: Map, tracks: NDArray[np.bool_]) -> Map:
    """The share without islands of the foreground that hold no track of its object."""
    count, islands = cv2.connectedComponents((foreground > 0.3).astype(np.uint8), connectivity=8)
    held = np.zeros(count, bool)
    held[np.unique(islands[cv2.dilate(tracks.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0])] = True
    held[0] = False
    return share * held[islands]  # type: ignore[no-any-return]


def _bins(picture: Picture) -> NDArray[np.int32]:
    """Number of every pixel's colour (h, w, 3) in a coarse table."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    # Chroma seldom leaves a third of its range: finer steps there tell skin from soil.
    chroma = np.clip((lab[..., 1:].astype(np.int32) - 128) // 5 + COLOUR_BINS // 2, 0, COLOUR_BINS - 1)
    return ((lab[..., 0].astype(np.int32) >> 4) * COLOUR_BINS + chroma[..., 0]) * COLOUR_BINS + chroma[..., 1]  # type: ignore[no-any-return]


def _unmix(own: NDArray[np.float64], background: NDArray[np.float64]) -> None:
    """Take out of an object's colour shares what its stray samples of the background put there."""
    common = np.argsort(background.ravel(), kind="stable")[::-1]
    common = common[: 1 + int(np.searchsorted(np.cumsum(background.ravel()[common]), 0.6))]
    ratio = own.ravel()[common] / np.maximum(background.ravel()[common], 1e-12)
    stray = min(float(np.quantile(ratio, 0.3)), 0.9)
    own -= np.minimum(own, 1.2 * stray * background)
    own /= max(float(own.sum()), 1e-9)


def _blur3(table: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in range(3):
        moved = np.moveaxis(table, axis, 0)
        table = np.moveaxis(
            0.5 * moved + 0.25 * (np.concatenate([moved[1:], moved[-1:]]) + np.concatenate([moved[:1], moved[:-1]])),
            0,
            axis,
        )
    return table


def _witness_weights(solve: Solve, surfaces: Surfaces) -> NDArray[np.float64]:
    """How far each track (N,) can be trusted as a witness of its object: small for lone and for stuck ones.

    Trackers leave points of the background in an object's group at its outline. They give themselves away by standing
    still while the object moves, or by having none of its other points around.
    """
    objects = solve.tracks.objects
    agree, seen = np.zeros(len(objects)), np.zeros(len(objects))
    for frame in range(0, len(solve), max(1, len(solve) // 16)):
        which = np.flatnonzero(surfaces.visible[frame])
        if len(which) < 9:
            continue
        _, near = cKDTree(surfaces.uv[frame, which]).query(surfaces.uv[frame, which], k=7)
        agree[which] += (objects[which][near[:, 1:]] == objects[which][:, None]).mean(1)
        seen[which] += 1
    share = np.where(seen > 0, agree / np.maximum(seen, 1), 1.0)
    weights = np.clip((share - 0.05) / 0.3, 0.05, 1.0)
    path = np.where(surfaces.visible[..., None], solve.tracks.positions, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # tracks that are never visible
        extent = np.linalg.norm(np.nanmax(path, 0) - np.nanmin(path, 0), axis=-1)
        depth = np.nanmedian(np.where(surfaces.visible, surfaces.depth, np.nan), 0)
    travelled = np.nan_to_num(extent / np.maximum(depth, 1e-9)) * surfaces.cameras.K[0, 0, 0]
    for number in np.unique(objects[objects != BACKGROUND]):
        own = objects == number
        if np.quantile(travelled[own], 0.6) > 4.0:
            weights[own & (travelled < 1.5)] *= 0.1
    return weights


def _extents(solve: Solve, surfaces: Surfaces) -> dict[int, float]:
    """How large each object's group of tracks is at its largest, px; inf for large ones, whose shape says little."""
    limit = 0.15 * max(surfaces.cameras.width, surfaces.cameras.height)
    out = {}
    for number in np.unique(solve.tracks.objects):
        spans = []
        for frame in range(len(solve)):
            uv = surfaces.uv[frame, surfaces.visible[frame] & (solve.tracks.objects == number)]
            if len(uv) > 3:
                spans.append(float(np.ptp(np.quantile(uv, [0.05, 0.95], axis=0), axis=0).max()))
        span = max(spans, default=0.0) * 1.1 + 0.01 * limit
        out[int(number)] = span if 4 < span < limit else np.inf
    return out


def guided_filter(guide: Picture, values: Map, radius: int, epsilon: float) -> Map:
    """Smooth values (h, w, C) so that they change where the guide (h, w, 3) does (He et al. 2010, grey guide)."""
    size = (2 * radius + 1, 2 * radius + 1)
    grey = cv2.cvtColor(guide, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    mean = cv2.blur(grey, size)
    variance = cv2.blur(grey * grey, size) - mean * mean
    out = np.empty_like(values)
    for c in range(values.shape[-1]):
        value = np.ascontiguousarray(values[..., c])
        value_mean = cv2.blur(value, size)
        a = (cv2.blur(grey * value, size) - mean * value_mean) / (variance + epsilon)
        b = value_mean - a * mean
        out[..., c] = cv2.blur(a, size) * grey + cv2.blur(b, size)
    return out
