"""Cameras, points and where they were seen, as plain data.

`Observations` are sightings of points in frames; a `Bundle` is one camera per frame and the points, and says how far
these are from where they were seen. Cameras here are world to camera, x = R (X - c), OpenCV axes, px with pixel
centres at .5; a radial term bends the lens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from scipy import sparse

from .stages import PointTracks

Array = NDArray[np.float64]

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


def cost(bundle: Bundle, seen: Observations, scale: float) -> float:
    """px^2: the robust loss of `adjust` over all sightings."""
    squared = np.sum(bundle.residuals(seen)[0] ** 2, 1)
    return float(np.sum(seen.weight * scale**2 * np.log1p(squared / scale**2)))


def medians(values: Array, seen: Observations) -> Array:
    """(N,) median of the values (M,) of every point's sightings; inf where it has none."""
    order = np.lexsort((values, seen.point))
    count = np.bincount(seen.point, minlength=seen.points)
    start = np.cumsum(count) - count
    out = np.full(seen.points, np.inf)
    some = count > 0
    out[some] = values[order[(start + count // 2)[some]]]
    return out


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


def sum_by(index: NDArray[np.int64], values: Array, count: int) -> Array:
    """Sums of values (M, ...) by index (M,): (count, ...)."""
    flat = values.reshape(len(values), -1)
    rows = sparse.csr_matrix((np.ones(len(index)), (index, np.arange(len(index)))), (count, len(index)))
    total: Array = np.asarray(rows @ flat).reshape(count, *values.shape[1:])
    return total
