"""Which pixels of a source frame belong to which object: from the solve's masks, else from tracks and colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.shot import BACKGROUND, Solve

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
        if solve.masks is not None:
            numbers |= set(np.unique(solve.masks).tolist())
        self.numbers = sorted(int(n) for n in numbers - {BACKGROUND})
        self.frame = lru_cache(maxsize=48)(self._frame)
        size = max(self.width, self.height)
        self.grid = Grid.over(self.width, self.height, max(1.0, size / 336))
        self.edge = max(1, round(size / 300))
        self._colours: dict[int, Map] = {}
        self._votes = _trusted_votes(solve, surfaces) if solve.masks is None else None

    def _frame(self, frame: int) -> dict[int, Picture]:
        """Matte (H, W) uint8 of every object that the frame shows."""
        if not self.numbers:
            return {}
        if self.solve.masks is not None:
            return self._from_masks(frame)
        return self._from_tracks(frame)

    def cut(self, frame: int, numbers: tuple[int, ...] | None = None) -> NDArray[np.bool_]:
        """Where these objects (all, by default) and their soft edge lie: no pixel there is clean background."""
        out = np.zeros((self.height, self.width), bool)
        for number, matte in self.frame(frame).items():
            if numbers is None or number in numbers:
                out |= matte > 8
        size = 2 * self.edge + 1
        return cv2.dilate(out.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))) > 0

    def _from_masks(self, frame: int) -> dict[int, Picture]:
        assert self.solve.masks is not None
        mask = self.solve.masks[frame]
        out = {}
        for number in self.numbers:
            own = (mask == number).astype(np.uint8) * 255
            if own.any():
                sized = cv2.resize(own, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
                out[number] = cv2.GaussianBlur(sized, (0, 0), 0.6)
        return out  # type: ignore[return-value]

    # --- without masks ---

    def prior(self, frame: int) -> Map:
        """How likely each object is by the tracks around alone: (rows, columns, 1 + objects) on `grid`."""
        grid = self.grid
        uv, visible = self.surfaces.uv[frame], self.surfaces.visible[frame]
        labels, weights = self._votes  # type: ignore[misc]
        column, row = grid.index(uv[visible, 0], uv[visible, 1])
        cell = np.clip(np.rint(row), 0, grid.rows - 1).astype(int) * grid.columns + np.clip(
            np.rint(column), 0, grid.columns - 1
        ).astype(int)
        count = np.zeros((grid.rows, grid.columns, 1 + len(self.numbers)), np.float32)
        for index, number in enumerate([BACKGROUND, *self.numbers]):
            own = labels[visible] == number
            count[..., index] = np.bincount(
                cell[own], weights[visible][own], minlength=grid.rows * grid.columns
            ).reshape(grid.rows, grid.columns)
        share = np.full_like(count, 0.02 / max(1, len(self.numbers)))
        share[..., 0] = 0.98
        for sigma in (24, 12, 6, 3):
            near = blur(count, sigma) * np.float32(2 * np.pi * sigma * sigma)
            total = near.sum(-1, keepdims=True)
            confidence = total / (total + 0.7)
            share = (1 - confidence) * share + confidence * near / np.maximum(total, 1e-6)
        return share

    def learn(self, frames: list[int], tick: Callable[[], None]) -> None:
        """Learn the colours of every object and of the background from these frames."""
        if self.solve.masks is not None or not self.numbers:
            return
        for round_ in range(2):
            histograms = np.zeros((1 + len(self.numbers), COLOUR_BINS**3), np.float64)
            for frame in frames:
                share = self.prior(frame) if round_ == 0 else self._posterior(frame)
                bins = self._bins(frame).ravel()
                for index in range(len(histograms)):
                    confident = np.clip(share[..., index] - 0.5, 0, None).ravel()
                    histograms[index] += np.bincount(bins, confident, minlength=COLOUR_BINS**3)
                tick()
            table = histograms.reshape(-1, COLOUR_BINS, COLOUR_BINS, COLOUR_BINS)
            smooth = np.stack([_blur3(h / max(h.sum(), 1e-9)) for h in table])
            self._colours = {0: np.log(smooth + 2e-5).reshape(len(histograms), -1).astype(np.float32)}

    def _bins(self, frame: int) -> NDArray[np.int32]:
        small = cv2.resize(self.picture(frame), (self.grid.columns, self.grid.rows), interpolation=cv2.INTER_AREA)
        q = (cv2.cvtColor(small, cv2.COLOR_RGB2LAB) >> 4).astype(np.int32)
        return (q[..., 0] * COLOUR_BINS + q[..., 1]) * COLOUR_BINS + q[..., 2]  # type: ignore[no-any-return]

    def _posterior(self, frame: int) -> Map:
        score = np.log(self.prior(frame) + 1e-3)
        if self._colours:
            colour = self._colours[0][:, self._bins(frame)]
            score = score + 0.6 * np.moveaxis(colour, 0, -1)
        small = cv2.resize(self.picture(frame), (self.grid.columns, self.grid.rows), interpolation=cv2.INTER_AREA)
        score -= score.max(-1, keepdims=True)
        score = guided_filter(small, np.maximum(score, -6), 4, 1e-3)
        share = np.exp(2 * (score - score.max(-1, keepdims=True)))
        return (share / share.sum(-1, keepdims=True)).astype(np.float32)  # type: ignore[no-any-return]

    def _from_tracks(self, frame: int) -> dict[int, Picture]:
        share = self._posterior(frame)
        out = {}
        for index, number in enumerate(self.numbers, 1):
            matte = np.clip((self.grid.to_picture(share[..., index], self.width, self.height) - 0.25) / 0.5, 0, 1)
            if (matte > 0.5).any():
                out[number] = (matte * 255).astype(np.uint8)
        return out


def _blur3(table: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in range(3):
        moved = np.moveaxis(table, axis, 0)
        table = np.moveaxis(
            0.5 * moved + 0.25 * (np.concatenate([moved[1:], moved[-1:]]) + np.concatenate([moved[:1], moved[:-1]])), 0, axis
        )
    return table


def _trusted_votes(solve: Solve, surfaces: Surfaces) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Label and weight (N,) of every track as a witness of its object; a lone contrary one is outvoted."""
    from scipy.spatial import cKDTree

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
    return objects, np.clip((share - 0.1) / 0.4, 0.02, 1.0)


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
