"""Cameras that are nearly right, fitted once more: without the points that move, frame by frame, and for all frames.

Not all frames of a long clip are adjusted together; the rest are solved against the points of those that are.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .adjustment import Adjusted, adjust
from .bundle import Array, Bundle, Observations, medians
from .camera_job import LEAST_SEEN, STILL, Job
from .unknowns import FocalUnknown

_MOST_FRAMES = 120  # adjusted together; more are solved against the points of these


def quality(bundle: Bundle, seen: Observations) -> tuple[float, float, float]:
    """`typical`, `score` and `explained` of Moving."""
    error = medians(bundle.errors(seen), seen)
    near = error < 3
    typical = float(np.median(error[near])) if near.any() else float("inf")
    return typical, float(np.minimum(error, 3).mean()), float(np.mean(error < STILL))


def share_of(good: NDArray[np.bool_], seen: Observations) -> Array:
    """(N,) share of every point's sightings that are good; 0 without any."""
    count = np.bincount(seen.point, minlength=seen.points)
    share: Array = np.bincount(seen.point, good, minlength=seen.points) / np.maximum(count, 1)
    return share


def trimmed(
    adjusted: Adjusted,
    seen: Observations,
    frames: NDArray[np.int64],
    job: Job,
    unknown: FocalUnknown,
    positions: bool = True,
    iterations: int = 15,
    tolerance: float = 3e-4,
) -> Adjusted:
    """Once more without the points that move, and without single sightings that are far off."""
    error = adjusted.bundle.errors(seen)
    typical = medians(error, seen)
    limit = max(1.2, 3 * float(np.median(typical[np.isfinite(typical)])))
    keep = (typical < limit)[seen.point] & (error < 3 * limit)
    kept = seen.only(keep)
    return adjust(
        adjusted.bundle,
        kept,
        positions=positions,
        focal=unknown,
        guess=job.expected,
        times=frames,
        iterations=iterations,
        tolerance=tolerance,
        check=job.check,
    )


def some_frames(every: NDArray[np.int64]) -> NDArray[np.int64]:
    """All frames, or so many as are adjusted together, evenly over the clip."""
    if len(every) <= _MOST_FRAMES:
        return every
    return np.unique(np.linspace(0, len(every) - 1, _MOST_FRAMES).round().astype(np.int64))


def all_frames(
    job: Job, bundle: Bundle, frames: NDArray[np.int64], used: NDArray[np.int64], positions: bool = True
) -> Bundle:
    """Cameras of all frames from those of some, against the points of these."""
    count = job.points.frame_count
    whole = bundle.between(frames, np.arange(count))
    if len(frames) == count:
        return whole
    R, c = whole.R.copy(), whole.c.copy()
    tracks = job.points.select(used)
    for start in range(0, count, _MOST_FRAMES):
        span = np.arange(max(0, start - 5), min(count, start + _MOST_FRAMES + 5))
        seen = Observations.of(tracks, span)
        part = replace(whole.at(span), X=bundle.X)
        seen = seen.only(part.errors(seen) < 15)
        part = adjust(part, seen, points=False, positions=positions, iterations=8, check=job.check).bundle
        inner = (span >= start) & (span < start + _MOST_FRAMES)
        R[span[inner]], c[span[inner]] = part.R[inner], part.c[inner]
    return replace(whole, R=R, c=c)


def resected(bundle: Bundle, seen: Observations) -> Bundle:
    """Frames whose camera is far off the points, solved against them on their own (PnP with RANSAC)."""
    error = bundle.errors(seen)
    R, c = bundle.R.copy(), bundle.c.copy()
    for frame in range(seen.frames):
        here = seen.frame == frame
        if here.sum() < LEAST_SEEN or np.median(error[here]) < 4:
            continue
        K = bundle.K()[frame]
        cv2.setRNGSeed(frame)
        found, turn, shift, inliers = cv2.solvePnPRansac(
            bundle.X[seen.point[here]], seen.uv[here], K, None, reprojectionError=3.0, iterationsCount=300
        )
        if found and inliers is not None and len(inliers) >= LEAST_SEEN:
            R[frame] = cv2.Rodrigues(turn)[0]
            c[frame] = -R[frame].T @ shift.ravel()
    return replace(bundle, R=R, c=c)
