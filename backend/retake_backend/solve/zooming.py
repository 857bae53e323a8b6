"""Where a camera may begin that moves while its lens zooms.

A zoom against a move (dolly zoom) looks nearly the same to a camera of one focal length in a world that is turned
inside out, so mappers find that one, with far too wide a view. Out of it no adjustment leads. So focal lengths that
grow or shrink are guessed: with them, how much the picture grows tells how far the camera has gone, all points at one
distance; a short adjustment of each guess tells which one it was.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from . import motion
from .adjustment import adjust
from .bundle import Bundle, Observations, cost
from .camera_job import Job
from .stages import PointTracks
from .triangulation import triangulate

_VIEWS = (35.0, 50.0, 70.0)  # degrees across the longer side, in the middle of the clip
_RATES = (-1.0, -0.5, 0.5, 1.0)  # log of the last focal length over the first
_FRAMES = 6  # fewer tell nothing of a curve
_POINTS = 140  # in a frame
_SMOOTH = 1e-4  # of the path: nothing that points hold
_LEAST = 0.2  # cosine: rays that look farther aside are not followed to the plane of all points


def zoomed_start(job: Job, agree: NDArray[np.int64], frames: NDArray[np.int64], sharp: float) -> Bundle | None:
    """The cameras of these frames that explain the points best, of those begun with a zoom.

    agree: which points of the job. sharp: px, where a sighting begins not to count. None where frames are few, or
    neighbouring ones have too few common points.
    """
    if len(frames) < _FRAMES:
        return None
    points = job.points.select(agree)
    points = points.select(motion.spread_over(points, frames, job.size, _POINTS))
    points = PointTracks(points.uv[frames], points.visible[frames], points.confidence[frames])
    seen = Observations.of(points)
    growth = motion.growth(points)
    along = (frames - frames.mean()) / max(np.ptp(frames), 1)
    best, least = None, np.inf
    for view in _VIEWS:
        middle = max(job.size) / 2 / np.tan(np.radians(view) / 2)
        for rate in _RATES:
            start = _begun(job, points, middle * np.exp(rate * along), growth)
            if start is None:
                return None
            tried = _tried(job, start, seen, frames, sharp)
            total = cost(tried, seen, sharp)
            if total < least:
                best, least = tried, total
    return best


def _begun(job: Job, points: PointTracks, f: NDArray[np.float64], growth: NDArray[np.float64]) -> Bundle | None:
    """Cameras with focal lengths f (T,) px that go along where they look, by as much as the picture has grown (T,), and
    points in one plane before them."""
    middle = float(np.median(f))
    turned = motion.chain(points, job.size, middle, f / middle)
    if turned is None:
        return None
    distance = f / growth / np.median(f / growth)
    look = turned.R[:, 2]
    steps = -(look[1:] + look[:-1]) / 2 * np.diff(distance)[:, None]
    c = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, 0)])
    first = points.visible.argmax(0)
    along = np.maximum(np.sum(look[first] * turned.X, 1), _LEAST)
    return replace(turned, c=c, X=c[first] + turned.X * (distance[first] / along)[:, None])


def _tried(job: Job, start: Bundle, seen: Observations, frames: NDArray[np.int64], sharp: float) -> Bundle:
    """After a short adjustment: first with the focal lengths of the guess, then with free ones, more and more exactly."""
    posed = adjust(start, seen, times=frames, scale=4.0, iterations=8, check=job.check).bundle
    X, _ = triangulate(posed, seen)
    bundle = replace(posed, X=np.where(np.isfinite(X), X, posed.X))
    for scale in (1.0, sharp):
        bundle = adjust(
            bundle, seen, focal="curve", times=frames, smooth=_SMOOTH, scale=scale, iterations=15, check=job.check
        ).bundle
    return bundle
