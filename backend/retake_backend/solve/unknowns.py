"""What an adjustment may move, and what it expects of the path and of the focal length.

Everything that distinguishes the kinds of shot is a choice of unknowns: a tripod pan has no positions, a zoom has a
focal curve, a frame that the mapper left out is solved against points that stand still. Where points hold a camera
loosely, its path is smooth; where they tell no focal length, it is near the guess.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .bundle import Array, Bundle, Observations

FocalUnknown = Literal["fixed", "shared", "curve"]
"""fixed: as it is. shared: one for all frames. curve: a smooth curve over time (a zoom)."""


class Unknowns:
    """How the free unknowns map to each frame's eight: rotation vector, position, log focal, k1.

    spread: (8 T, P) sparse, the derivative of the frames' unknowns by the free ones.
    """

    def __init__(self, frames: int, positions: bool, rotations: bool, focal: FocalUnknown, lens: bool) -> None:
        self.frames = frames
        rows, columns, values, count = [], [], [], 0
        at = 8 * np.arange(frames)
        for wanted, first in ((rotations, 0), (positions, 3)):
            if wanted:
                rows.append((at[:, None] + first + np.arange(3)).ravel())
                columns.append(count + np.arange(3 * frames))
                values.append(np.ones(3 * frames))
                count += 3 * frames
        before = count
        if focal != "fixed":
            basis = np.ones((frames, 1)) if focal == "shared" else _focal_curve(frames)
            frame, knot = np.nonzero(basis)
            rows.append(at[frame] + 6)
            columns.append(count + knot)
            values.append(basis[frame, knot])
            count += basis.shape[1]
        self.focal_columns = np.arange(before, count)
        if lens:
            rows.append(at + 7)
            columns.append(np.full(frames, count))
            values.append(np.ones(frames))
            count += 1
        self.count = count
        self.spread = sparse.csr_matrix(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))) if count else (8 * frames, 0),
            (8 * frames, count),
        )
        self.positions, self.curve = positions, focal == "curve"


class Smoothness:
    """Second differences of rotation, position and focal length, in px, weighed as a share of a frame's points."""

    def __init__(
        self,
        bundle: Bundle,
        seen: Observations,
        unknowns: Unknowns,
        smooth: float,
        guess: float | None,
        times: NDArray[Any] | None,
        guess_weight: float,
    ) -> None:
        frames = len(bundle.R)
        self._guess, self._focal_columns = guess, unknowns.focal_columns
        self._guess_weight = guess_weight
        self._weight = smooth * float(seen.weight.sum()) / max(frames, 1)
        self._active = smooth > 0 and frames > 2 and unknowns.count > 0
        self._curve, self._positions = unknowns.curve, unknowns.positions
        focal = float(np.median(bundle.f))
        offset = bundle.X[seen.point] - bundle.c[seen.frame]
        depth = np.einsum("mi,mi->m", bundle.R[seen.frame, 2], offset)
        depth = depth[depth > 0]
        self._px = np.zeros(8)
        self._px[:3] = focal
        self._px[3:6] = focal / max(float(np.median(depth)), 1e-9) if len(depth) else 0.0
        self._px[6] = 2 * bundle.centre[0]
        self._frames = frames
        if self._active:
            self._pace = np.ones(frames - 1) if times is None else np.diff(times) / np.diff(times).mean()
            first = sparse.diags([-1 / self._pace, 1 / self._pace], [0, 1], shape=(frames - 1, frames))
            second = sparse.diags([-1.0, 1.0], [0, 1], shape=(frames - 2, frames - 1)) @ first
            rows = sparse.kron(second, sparse.diags(self._px))
            self._J = (rows @ unknowns.spread).tocsr()
            gauge = np.zeros((frames, 8))
            gauge[:, 3:6] = bundle.c - bundle.c.mean(0)
            length = np.linalg.norm(gauge)
            self._gauge = unknowns.spread.T @ (gauge.ravel() / length) if length > 1e-12 else None

    def _residual(self, bundle: Bundle) -> Array:
        """(T - 2, 8) px."""
        out = np.zeros((self._frames - 2, 8))
        step = bundle.R[1:] @ np.swapaxes(bundle.R[:-1], 1, 2)
        out[:, :3] = np.diff(_log(step) / self._pace[:, None], axis=0)
        for first, values in ((3, bundle.c), (6, np.log(bundle.f)[:, None])):
            out[:, first : first + values.shape[1]] = np.diff(np.diff(values, axis=0) / self._pace[:, None], axis=0)
        return out * self._px

    def cost(self, bundle: Bundle) -> float:
        cost = self._weight * float(np.sum(self._residual(bundle) ** 2)) if self._active else 0.0
        if self._guess is not None:
            cost += self._guess_weight * float(np.mean(np.log(bundle.f / self._guess))) ** 2
        return cost

    def add(self, bundle: Bundle, U: Array, g: Array) -> None:
        """Onto the normal equations of the free unknowns, in place."""
        if self._guess is not None and len(self._focal_columns):
            share = 1 / len(self._focal_columns)
            columns = self._focal_columns
            U[np.ix_(columns, columns)] += self._guess_weight * share**2
            g[columns] -= self._guess_weight * share * float(np.mean(np.log(bundle.f / self._guess)))
        if not self._active:
            return
        U += self._weight * (self._J.T @ self._J).toarray()
        g -= self._weight * (self._J.T @ self._residual(bundle).ravel())
        if self._gauge is not None and self._positions:
            # the path may not become smooth by becoming small
            U += np.outer(self._gauge, self._gauge) * (1e3 * np.trace(U) / len(U))


def _focal_curve(frames: int) -> Array:
    """(T, P) linear basis of a curve over the frames: a knot every other frame of few, every tenth of many."""
    knots = min(max(2, frames // 2), 8 + frames // 12)
    at = np.linspace(0, knots - 1, frames)
    weights: Array = np.clip(1 - np.abs(at[:, None] - np.arange(knots)), 0, 1)
    return weights


def _log(R: Array) -> Array:
    """Rotation vectors (..., 3) of small rotations (..., 3, 3)."""
    vector = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1) / 2
    sine = np.linalg.norm(vector, axis=-1, keepdims=True)
    cosine = (np.trace(R, axis1=-2, axis2=-1)[..., None] - 1) / 2
    angle = np.arctan2(sine, cosine)
    out: Array = vector * np.where(sine < 1e-9, 1.0, angle / np.maximum(sine, 1e-12))
    return out
