"""Bundle adjustment of one camera per frame: poses, focal length and points by Levenberg-Marquardt.

The points are eliminated (Schur complement), which leaves a dense system of six unknowns a frame: an iteration over
81 frames and 1,500 points takes a fifth of a second in plain numpy. Everything that distinguishes the kinds of shot is
a choice of unknowns: a tripod pan has no positions, a zoom has a focal curve, a frame that the mapper left out is
solved against points that stand still.

Cameras here are world to camera, x = R (X - c), OpenCV axes, px with pixel centres at .5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from scipy import sparse

from .stages import PointTracks

Array = NDArray[np.float64]

FocalUnknown = Literal["fixed", "shared", "curve"]
"""fixed: as it is. shared: one for all frames. curve: a smooth curve over time (a zoom)."""

_GUESS_WEIGHT = 80.0  # px^2: where points count up to 1 px, errors of about 3 px in common, against a factor of 1.4
_PAIRS = ((0, 1), (0, 0.5), (0.5, 1), (0.15, 0.85), (0.3, 0.7), (0.1, 0.6), (0.4, 0.9))  # of a point's rays, in time
_TURNS = 5  # of weighing a point's rays anew
_LOST = 30.0  # px, the residual of a point behind the camera
_NEAR = 1e-3  # of the distance between points and cameras: nearer counts as behind


@dataclass(frozen=True)
class Observations:
    """M sightings of N points in T frames. frame, point: (M,) int. uv: (M, 2) px. weight: (M,) >= 0."""

    frame: NDArray[np.int64]
    point: NDArray[np.int64]
    uv: Array
    weight: Array
    frames: int
    points: int

    @classmethod
    def of(cls, tracks: PointTracks, frames: NDArray[Any] | None = None) -> Observations:
        """All sightings of the tracks, in the frames with those numbers only (numbered anew), or in all."""
        numbers = np.arange(tracks.frame_count) if frames is None else np.asarray(frames)
        frame, point = np.nonzero(tracks.visible[numbers])
        uv = tracks.uv[numbers[frame], point].astype(np.float64)
        weight = 0.25 + 0.75 * tracks.confidence[numbers[frame], point].astype(np.float64)
        return cls(frame, point, uv, weight, len(numbers), len(tracks))

    def __len__(self) -> int:
        return len(self.frame)

    def only(self, which: NDArray[np.bool_]) -> Observations:
        """The sightings of a mask (M,); frames and points keep their numbers."""
        return replace(
            self, frame=self.frame[which], point=self.point[which], uv=self.uv[which], weight=self.weight[which]
        )


@dataclass(frozen=True)
class Bundle:
    """T cameras and N points.

    R: (T, 3, 3) world to camera. c: (T, 3) camera positions. f: (T,) px. X: (N, 3) world. centre: principal point, px.
    k1: radial distortion, x' = x (1 + k1 |x|^2) of coordinates at depth 1.
    """

    R: Array
    c: Array
    f: Array
    X: Array
    centre: tuple[float, float]
    k1: float = 0.0

    def residuals(self, seen: Observations) -> tuple[Array, NDArray[np.bool_]]:
        """(M, 2) px projected minus seen, and (M,) which of them lie before the camera; the others are far off."""
        x = np.einsum("mij,mj->mi", self.R[seen.frame], self.X[seen.point] - self.c[seen.frame])
        front = x[:, 2] > _NEAR * np.maximum(np.linalg.norm(x, axis=1), 1e-12)
        z = np.where(front, x[:, 2], 1.0)
        xy = x[:, :2] / z[:, None]
        radial = 1 + self.k1 * np.sum(xy**2, 1, keepdims=True)
        difference = self.f[seen.frame, None] * radial * xy + np.array(self.centre) - seen.uv
        difference[~front] = _LOST
        return difference, front

    def errors(self, seen: Observations) -> Array:
        """(M,) px."""
        distances: Array = np.linalg.norm(self.residuals(seen)[0], axis=1)
        return distances

    def at(self, rows: NDArray[np.int64]) -> Bundle:
        """Some of the cameras, all points."""
        return replace(self, R=self.R[rows], c=self.c[rows], f=self.f[rows])

    def between(self, at: NDArray[np.int64], frames: NDArray[np.int64]) -> Bundle:
        """Cameras of `frames` from these, which are of the frames `at`."""
        c2w = geometry.interpolate_poses(at, self.c2w(), frames)
        f = np.exp(np.interp(frames, at, np.log(self.f)))
        return replace(self, R=np.swapaxes(c2w[:, :3, :3], 1, 2), c=c2w[:, :3, 3], f=f)

    @property
    def bend(self) -> float:
        """Share of their distance from the middle by which the lens moves the corners of the picture."""
        return abs(self.k1) * float(np.hypot(*self.centre) / np.median(self.f)) ** 2

    def c2w(self) -> Array:
        """(T, 4, 4)."""
        pose = np.tile(np.eye(4), (len(self.R), 1, 1))
        pose[:, :3, :3] = np.swapaxes(self.R, 1, 2)
        pose[:, :3, 3] = self.c
        return pose

    def K(self) -> Array:
        """(T, 3, 3)."""
        K = np.tile(np.eye(3), (len(self.f), 1, 1))
        K[:, 0, 0] = K[:, 1, 1] = self.f
        K[:, 0, 2], K[:, 1, 2] = self.centre
        return K


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
    unknowns = _Unknowns(len(bundle.R), positions, rotations, focal, lens)
    smoothness = _Smoothness(bundle, seen, unknowns, smooth, guess, times, _GUESS_WEIGHT * min(scale, 1.0) ** 2)
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
        evidence = _Smoothness(bundle, seen, unknowns, smooth, None, times, 0.0)
        system = _System.build(bundle, seen, scale, unknowns, points, evidence)
        error = system.standard_error(unknowns.focal_columns) * float(np.sqrt(total / max(2 * len(seen), 1)))
    return Adjusted(bundle, total, error)


def triangulate(bundle: Bundle, seen: Observations, sharp: float = 1.0) -> tuple[Array, Array]:
    """Points from fixed cameras: X (N, 3), nan where rays do not meet, and the largest angle of parallax (N,) degrees.

    Linear over all rays of a point, weighed anew so that single wrong sightings do not count; `sharp` px is where they
    begin not to.
    """
    rays = rays_of(bundle, seen)
    origin = bundle.c[seen.frame]
    X = np.full((seen.points, 3), np.nan)
    good = np.bincount(seen.point, minlength=seen.points) >= 2
    weight = _weights(bundle, seen, _from_two(bundle, seen, rays), sharp)
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    for turn in range(_TURNS):
        A = _sum_by(seen.point, weight[:, None, None] * across, seen.points)
        b = _sum_by(seen.point, weight[:, None] * np.einsum("mij,mj->mi", across, origin), seen.points)
        A += np.maximum(1e-10 * np.trace(A, axis1=1, axis2=2), 1e-30)[:, None, None] * np.eye(3)
        X[good] = np.linalg.solve(A[good], b[good][..., None])[..., 0]
        if turn == _TURNS - 1:
            break
        weight = _weights(bundle, seen, np.nan_to_num(X), sharp)
    return X, parallax(rays, seen)


def _weights(bundle: Bundle, seen: Observations, X: Array, sharp: float) -> Array:
    """(M,) of the rays to points X: per px of error, less for those that are far off for their point."""
    distance = np.linalg.norm(X[seen.point] - bundle.c[seen.frame], axis=1)
    error = replace(bundle, X=X).errors(seen)
    around = np.maximum(medians(error, seen), sharp)[seen.point]
    weight: Array = seen.weight / np.maximum(distance, 1e-9) ** 2 / (1 + (error / around) ** 2) ** 2
    return weight


def _from_two(bundle: Bundle, seen: Observations, rays: Array) -> Array:
    """(N, 3) points from two of their rays each: those two of some that most other rays agree with."""
    order = np.lexsort((seen.frame, seen.point))
    count = np.bincount(seen.point, minlength=seen.points)
    first = np.cumsum(count) - count
    best, X = np.full(seen.points, np.inf), np.zeros((seen.points, 3))
    some = np.flatnonzero(count >= 2)
    if not len(some):
        return X
    for early, late in _PAIRS:
        a, b = (order[first[some] + np.round(at * (count[some] - 1)).astype(int)] for at in (early, late))
        d, e = rays[a], rays[b]
        offset = bundle.c[seen.frame[b]] - bundle.c[seen.frame[a]]
        cosine = np.sum(d * e, 1)
        along = np.sum(offset * d, 1) - cosine * np.sum(offset * e, 1)
        far = along / np.maximum(1 - cosine**2, 1e-12)
        guess = X.copy()
        guess[some] = bundle.c[seen.frame[a]] + far[:, None] * d
        error = medians(replace(bundle, X=guess).errors(seen), seen)
        better = error < best
        best[better], X[better] = error[better], guess[better]
    return X


def medians(values: Array, seen: Observations) -> Array:
    """(N,) median of the values (M,) of every point's sightings; inf where it has none."""
    order = np.lexsort((values, seen.point))
    count = np.bincount(seen.point, minlength=seen.points)
    start = np.cumsum(count) - count
    out = np.full(seen.points, np.inf)
    some = count > 0
    out[some] = values[order[(start + count // 2)[some]]]
    return out


def rays_of(bundle: Bundle, seen: Observations) -> Array:
    """(M, 3) unit directions, in the world, in which points are seen."""
    xy = (undistort(seen.uv, bundle.k1, bundle.f[seen.frame], bundle.centre) - np.array(bundle.centre)) / bundle.f[
        seen.frame, None
    ]
    rays = np.einsum("mji,mj->mi", bundle.R[seen.frame], np.concatenate([xy, np.ones((len(xy), 1))], 1))
    directions: Array = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    return directions


def parallax(rays: Array, seen: Observations) -> Array:
    """(N,) degrees: twice the largest angle between a point's rays and their mean; 0 for unseen points."""
    mean = _sum_by(seen.point, rays, seen.points)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    angle = np.arccos(np.clip(np.sum(mean[seen.point] * rays, 1), -1, 1))
    largest = np.zeros(seen.points)
    np.maximum.at(largest, seen.point, angle)
    degrees: Array = 2 * np.degrees(largest)
    return degrees


def undistort(uv: Array, k1: float, f: Array, centre: tuple[float, float]) -> Array:
    """Where points (M, 2) px of a lens with distortion would lie without; f (M,) or one."""
    if k1 == 0:
        return uv
    f = np.broadcast_to(np.asarray(f, np.float64), uv.shape[:-1])[..., None]
    seen = (uv - np.array(centre)) / f
    xy = seen.copy()
    for _ in range(8):
        xy = seen / (1 + k1 * np.sum(xy**2, -1, keepdims=True))
    straight: Array = xy * f + np.array(centre)
    return straight


def rotation_from(vector: Array) -> Array:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3), radians."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    safe = np.where(angle < 1e-8, 1.0, angle)
    K = skew(vector)
    sine = np.where(angle < 1e-8, 1.0, np.sin(angle) / safe)
    cosine = np.where(angle < 1e-8, 0.5, (1 - np.cos(angle)) / safe**2)
    matrices: Array = np.eye(3) + sine * K + cosine * (K @ K)
    return matrices


def skew(v: Array) -> Array:
    """Cross product matrices (..., 3, 3) of vectors (..., 3)."""
    K = np.zeros((*v.shape, 3))
    K[..., 0, 1], K[..., 0, 2], K[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    K[..., 1, 0], K[..., 2, 0], K[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return K


def focal_curve(frames: int) -> Array:
    """(T, P) linear basis of a curve over the frames: a knot every other frame of few, every tenth of many."""
    knots = min(max(2, frames // 2), 8 + frames // 12)
    at = np.linspace(0, knots - 1, frames)
    weights: Array = np.clip(1 - np.abs(at[:, None] - np.arange(knots)), 0, 1)
    return weights


def _sum_by(index: NDArray[np.int64], values: Array, count: int) -> Array:
    """Sums of values (M, ...) by index (M,): (count, ...)."""
    flat = values.reshape(len(values), -1)
    rows = sparse.csr_matrix((np.ones(len(index)), (index, np.arange(len(index)))), (count, len(index)))
    total: Array = np.asarray(rows @ flat).reshape(count, *values.shape[1:])
    return total


def cost(bundle: Bundle, seen: Observations, scale: float) -> float:
    """px^2: the robust loss of `adjust` over all sightings."""
    squared = np.sum(bundle.residuals(seen)[0] ** 2, 1)
    return float(np.sum(seen.weight * scale**2 * np.log1p(squared / scale**2)))


class _Unknowns:
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
            basis = np.ones((frames, 1)) if focal == "shared" else focal_curve(frames)
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


class _Smoothness:
    """Second differences of rotation, position and focal length, in px, weighed as a share of a frame's points."""

    def __init__(
        self,
        bundle: Bundle,
        seen: Observations,
        unknowns: _Unknowns,
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


def _log(R: Array) -> Array:
    """Rotation vectors (..., 3) of small rotations (..., 3, 3)."""
    vector = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1) / 2
    sine = np.linalg.norm(vector, axis=-1, keepdims=True)
    cosine = (np.trace(R, axis1=-2, axis2=-1)[..., None] - 1) / 2
    angle = np.arctan2(sine, cosine)
    out: Array = vector * np.where(sine < 1e-9, 1.0, angle / np.maximum(sine, 1e-12))
    return out


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
        unknowns: _Unknowns,
        points: bool,
        smoothness: _Smoothness,
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
        J[:, :, :3] = -B @ skew(x)
        by_point = B @ R
        J[:, :, 3:6] = -by_point
        J[:, :, 6] = (f * radial)[:, None] * xy
        J[:, :, 7] = (f * square)[:, None] * xy
        weight = seen.weight / (1 + np.sum(residual**2, 1) / scale**2) * front
        Jw = J * weight[:, None, None]
        g_frames = -_sum_by(seen.frame, np.einsum("mai,ma->mi", Jw, residual), T)
        if unknowns.count:
            U_frames = _sum_by(seen.frame, np.swapaxes(Jw, 1, 2) @ J, T)
            blocks = sparse.block_diag(list(U_frames), format="csr")
            U = (unknowns.spread.T @ blocks @ unknowns.spread).toarray()
            g = np.asarray(unknowns.spread.T @ g_frames.ravel())
            smoothness.add(bundle, U, g)
        else:
            U, g = np.zeros((0, 0)), np.zeros(0)
        if not points:
            return cls(U, g, None, None, None)
        V = _sum_by(seen.point, np.swapaxes(by_point * weight[:, None, None], 1, 2) @ by_point, N)
        h = -_sum_by(seen.point, np.einsum("mai,ma->mi", by_point * weight[:, None, None], residual), N)
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


def _moved(bundle: Bundle, unknowns: _Unknowns, step: Array, points: Array | None) -> Bundle:
    frames = np.asarray(unknowns.spread @ step).reshape(-1, 8) if unknowns.count else np.zeros((len(bundle.R), 8))
    X = bundle.X if points is None else bundle.X + points
    if not unknowns.positions and points is not None and not np.ptp(bundle.c, axis=0).any():
        X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)  # directions: their distance is nothing
    return replace(
        bundle,
        R=rotation_from(frames[:, :3]) @ bundle.R,
        c=bundle.c + frames[:, 3:6],
        f=bundle.f * np.exp(np.clip(frames[:, 6], -0.5, 0.5)),
        k1=bundle.k1 + float(frames[0, 7]),
        X=X,
    )
