"""Points from fixed cameras: where the rays of a point meet, and how large its parallax is.

Single sightings that are far off do not count: rays begin from the two that most others agree with, and are weighed
anew. Where the camera only turns, rays meet nowhere, and a point is a direction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .bundle import Array, Bundle, Observations, medians, sum_by, undistort

_PAIRS = ((0, 1), (0, 0.5), (0.5, 1), (0.15, 0.85), (0.3, 0.7), (0.1, 0.6), (0.4, 0.9))  # of a point's rays, in time
_TURNS = 5  # of weighing a point's rays anew


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
        A = sum_by(seen.point, weight[:, None, None] * across, seen.points)
        b = sum_by(seen.point, weight[:, None] * np.einsum("mij,mj->mi", across, origin), seen.points)
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
    mean = sum_by(seen.point, rays, seen.points)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    angle = np.arccos(np.clip(np.sum(mean[seen.point] * rays, 1), -1, 1))
    largest = np.zeros(seen.points)
    np.maximum.at(largest, seen.point, angle)
    degrees: Array = 2 * np.degrees(largest)
    return degrees


def directions(rays: Array, seen: Observations) -> Array:
    """(N, 3) the direction in which most of a point's rays look."""
    weight = np.ones(len(rays))
    mean = np.zeros((seen.points, 3))
    for _ in range(4):
        mean = np.stack([np.bincount(seen.point, weight * rays[:, i], minlength=seen.points) for i in range(3)], 1)
        mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        weight = 1 / (1 + np.sum((rays - mean[seen.point]) ** 2, 1) / 2e-3**2)
    return mean
