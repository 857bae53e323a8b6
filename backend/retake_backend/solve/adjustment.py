"""Bundle adjustment of one camera per frame: poses, focal length and points by Levenberg-Marquardt.

The points are eliminated (Schur complement), which leaves a dense system of six unknowns a frame: an iteration over
81 frames and 1,500 points takes a fifth of a second in plain numpy. Which unknowns are free, and what is expected of
them, is said in `unknowns.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .bundle import Array, Bundle, Observations, cost, sum_by
from .unknowns import FocalUnknown, Smoothness, Unknowns

_GUESS_WEIGHT = 80.0  # px^2: where points count up to 1 px, errors of about 3 px in common, against a factor of 1.4


@dataclass(frozen=True)
class Adjusted:
    """A bundle at its optimum. cost: robust, px^2. focal_error: standard error of the focal length as a share of it
    (nan where it was not asked for)."""

    bundle: Bundle
    cost: float
    focal_error: float = float("nan")


def adjust(
    bundle: Bundle,
    seen: Observations,
    *,
    positions: bool = True,
    rotations: bool = True,
    points: bool = True,
    focal: FocalUnknown = "fixed",
    lens: bool = False,
    guess: float | None = None,
    times: NDArray[Any] | None = None,
    smooth: float = 0.01,
    scale: float = 1.0,
    iterations: int = 30,
    tolerance: float = 1e-4,
    check: Callable[[], None] = lambda: None,
) -> Adjusted:
    """Move the chosen unknowns to where the points are seen.

    guess: px, a focal length that is likely where the points tell none (within a factor of 1.4); None for no opinion.
    times: (T,) frame numbers of the cameras where they are not evenly spaced.
    smooth: weight of the second differences of the path, as a share of the weight of a frame's points: too weak to
    move a camera that its points hold, enough to carry it through frames with few. scale: px, where the loss (Cauchy)
    begins to forget a sighting. tolerance: stop when a step gains less than this share of the cost. check: called in
    every iteration; may raise.
    """
    unknowns = Unknowns(len(bundle.R), positions, rotations, focal, lens)
    smoothness = Smoothness(bundle, seen, unknowns, smooth, guess, times, _GUESS_WEIGHT * min(scale, 1.0) ** 2)
    damping = 1e-4
    total = cost(bundle, seen, scale) + smoothness.cost(bundle)
    for _ in range(iterations):
        check()
        system = _System.build(bundle, seen, scale, unknowns, points, smoothness)
        better = False
        for _ in range(6):
            step = system.solve(damping)
            if step is not None:
                moved = _moved(bundle, unknowns, *step)
                new = cost(moved, seen, scale) + smoothness.cost(moved)
                if new < total:
                    better = True
                    break
            damping *= 8
        if not better:
            break
        gain, total, bundle = total - new, new, moved
        damping = max(damping / 5, 1e-8)
        if gain < tolerance * total:
            break
    error = float("nan")
    if focal != "fixed":
        # The prior is what we expect, not what the footage says: it counts for nothing in how sure the focal length is.
        evidence = Smoothness(bundle, seen, unknowns, smooth, None, times, 0.0)
        system = _System.build(bundle, seen, scale, unknowns, points, evidence)
        error = system.standard_error(unknowns.focal_columns) * float(np.sqrt(total / max(2 * len(seen), 1)))
    return Adjusted(bundle, total, error)


@dataclass
class _System:
    """The normal equations: U, g of the free camera unknowns, V, h of the points, W between them."""

    U: Array
    g: Array
    V: Array | None
    h: Array | None
    W: Array | None

    @classmethod
    def build(
        cls,
        bundle: Bundle,
        seen: Observations,
        scale: float,
        unknowns: Unknowns,
        points: bool,
        smoothness: Smoothness,
    ) -> _System:
        T, N, M = len(bundle.R), len(bundle.X), len(seen)
        R, f = bundle.R[seen.frame], bundle.f[seen.frame]
        x = np.einsum("mij,mj->mi", R, bundle.X[seen.point] - bundle.c[seen.frame])
        residual, front = bundle.residuals(seen)
        z = np.where(front, x[:, 2], 1.0)
        xy = x[:, :2] / z[:, None]
        square = np.sum(xy**2, 1)
        radial = 1 + bundle.k1 * square
        # d uv / d xy, then d xy / d x
        A = f[:, None, None] * (radial[:, None, None] * np.eye(2) + 2 * bundle.k1 * xy[:, :, None] * xy[:, None, :])
        D = np.zeros((M, 2, 3))
        D[:, 0, 0] = D[:, 1, 1] = 1 / z
        D[:, :, 2] = -xy / z[:, None]
        B = A @ D
        J = np.empty((M, 2, 8))
        J[:, :, :3] = -B @ _skew(x)
        by_point = B @ R
        J[:, :, 3:6] = -by_point
        J[:, :, 6] = (f * radial)[:, None] * xy
        J[:, :, 7] = (f * square)[:, None] * xy
        weight = seen.weight / (1 + np.sum(residual**2, 1) / scale**2) * front
        Jw = J * weight[:, None, None]
        g_frames = -sum_by(seen.frame, np.einsum("mai,ma->mi", Jw, residual), T)
        if unknowns.count:
            U_frames = sum_by(seen.frame, np.swapaxes(Jw, 1, 2) @ J, T)
            blocks = sparse.block_diag(list(U_frames), format="csr")
            U = (unknowns.spread.T @ blocks @ unknowns.spread).toarray()
            g = np.asarray(unknowns.spread.T @ g_frames.ravel())
            smoothness.add(bundle, U, g)
        else:
            U, g = np.zeros((0, 0)), np.zeros(0)
        if not points:
            return cls(U, g, None, None, None)
        V = sum_by(seen.point, np.swapaxes(by_point * weight[:, None, None], 1, 2) @ by_point, N)
        h = -sum_by(seen.point, np.einsum("mai,ma->mi", by_point * weight[:, None, None], residual), N)
        W = None
        if unknowns.count:
            full = np.zeros((T, 8, N, 3))
            full[seen.frame, :, seen.point] = np.swapaxes(Jw, 1, 2) @ by_point
            W = np.asarray(unknowns.spread.T @ full.reshape(8 * T, 3 * N))
        return cls(U, g, V, h, W)

    def _points_damped(self, damping: float) -> Array:
        assert self.V is not None
        V = self.V.copy()
        diagonal = np.einsum("nii->ni", V)
        floor = 1e-9 * diagonal.max(1, keepdims=True) + 1e-12
        diagonal += damping * diagonal + floor
        inverse: Array = np.asarray(np.linalg.inv(V), np.float64)
        return inverse

    def solve(self, damping: float) -> tuple[Array, Array | None] | None:
        """Steps of the free unknowns (P,) and of the points (N, 3); None where the system cannot be solved."""
        U = self.U + damping * np.diag(np.maximum(np.diag(self.U), 1e-9)) if len(self.U) else self.U
        if self.V is None or self.h is None:
            step = _solve(U, self.g)
            return None if step is None else (step, None)
        inverse = self._points_damped(damping)
        at = np.einsum("nij,nj->ni", inverse, self.h)
        if self.W is None:
            return np.zeros(0), at
        N = len(inverse)
        WV: Any = np.einsum("pni,nij->pnj", self.W.reshape(-1, N, 3), inverse, optimize=True).reshape(-1, 3 * N)
        step = _solve(U - WV @ self.W.T, self.g - WV @ self.h.ravel())
        if step is None:
            return None
        back = (self.W.T @ step).reshape(N, 3)
        return step, np.einsum("nij,nj->ni", inverse, self.h - back)

    def standard_error(self, columns: NDArray[np.int64]) -> float:
        """Mean standard error of some of the free unknowns, for residuals of one px."""
        S: Any = self.U
        if self.W is not None:
            inverse = self._points_damped(1e-9)
            N = len(inverse)
            WV: Any = np.einsum("pni,nij->pnj", self.W.reshape(-1, N, 3), inverse, optimize=True).reshape(-1, 3 * N)
            S = np.asarray(S - WV @ self.W.T, np.float64)
        # a grain on the diagonal for what no sighting can tell: where the world lies and how large it is
        S = S + 1e-9 * np.diag(np.maximum(np.diag(self.U), 1e-9))
        unit = np.zeros((len(S), len(columns)))
        unit[columns, np.arange(len(columns))] = 1
        try:
            variance = np.einsum("ij,ij->j", unit, np.linalg.solve(S, unit))
        except np.linalg.LinAlgError:
            return float("inf")
        return float(np.sqrt(np.maximum(variance, 0)).mean()) if np.all(variance > 0) else float("inf")


def _solve(S: Array, g: Array) -> Array | None:
    try:
        step: Array = np.asarray(
            np.linalg.solve(S, g), np.float64
        )  # numpy's: scipy's library would fight with it for the processor
    except np.linalg.LinAlgError:
        return None
    return step if np.isfinite(step).all() else None


def _moved(bundle: Bundle, unknowns: Unknowns, step: Array, points: Array | None) -> Bundle:
    frames = np.asarray(unknowns.spread @ step).reshape(-1, 8) if unknowns.count else np.zeros((len(bundle.R), 8))
    X = bundle.X if points is None else bundle.X + points
    if not unknowns.positions and points is not None and not np.ptp(bundle.c, axis=0).any():
        X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)  # directions: their distance is nothing
    return replace(
        bundle,
        R=_rotation_from(frames[:, :3]) @ bundle.R,
        c=bundle.c + frames[:, 3:6],
        f=bundle.f * np.exp(np.clip(frames[:, 6], -0.5, 0.5)),
        k1=bundle.k1 + float(frames[0, 7]),
        X=X,
    )


def _rotation_from(vector: Array) -> Array:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3), radians."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    safe = np.where(angle < 1e-8, 1.0, angle)
    K = _skew(vector)
    sine = np.where(angle < 1e-8, 1.0, np.sin(angle) / safe)
    cosine = np.where(angle < 1e-8, 0.5, (1 - np.cos(angle)) / safe**2)
    matrices: Array = np.eye(3) + sine * K + cosine * (K @ K)
    return matrices


def _skew(v: Array) -> Array:
    """Cross product matrices (..., 3, 3) of vectors (..., 3)."""
    K = np.zeros((*v.shape, 3))
    K[..., 0, 1], K[..., 0, 2], K[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    K[..., 1, 0], K[..., 2, 0], K[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return K
