"""The best of several beginnings of a camera that moves.

Keyframes go to COLMAP's mappers (`colmap_process.py`), with one focal length, and where that explains little, with one
for each; a path that is too short for a mapper begins from a camera that only turns. From each, all frames are adjusted
together, and the one that leaves the points least unexplained is taken. Where that has a view that hardly a lens has,
a zoom may have been taken for a move (`zooming.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry

from . import motion
from .adjustment import Adjusted, adjust
from .bundle import Bundle, Observations, cost
from .camera_job import LEAST_POINTS, Job
from .colmap_process import Mapped, solve_keyframes
from .consensus import Fit, settled
from .refitting import quality, resected, some_frames, trimmed
from .triangulation import directions, rays_of, triangulate
from .unknowns import FocalUnknown
from .zooming import zoomed_start

_BUNDLED = 400  # points a keyframe is mapped with
_ADJUSTED = 260  # points a frame is adjusted with
_GOOD = 0.5  # px, typical error of a camera that needs no other
_KEPT = 0.3  # of the points that a mapper was given; one that drops more may have made up a world for the rest
_SHORT_PATH = 6.0  # px by which a camera that only turns may be off and still be where to begin
_WIDEST = 110.0  # degrees across the longer side; hardly a lens sees more
_FAR_BETTER = 0.7  # of the cost, left by a zoom that is believed


@dataclass(frozen=True)
class Moving:
    """A solved moving camera. frames: those adjusted together. used: which points of the job. typical: median px.
    score: px, mean over the points of what each is off, at most 3 (so much where it is not explained at all).
    explained: share of the points. begun: in words, for the report."""

    adjusted: Adjusted
    frames: NDArray[np.int64]
    used: NDArray[np.int64]
    typical: float
    score: float
    explained: float
    zooms: bool
    begun: str


def find_moving(
    job: Job,
    agree: NDArray[np.int64],
    keys: NDArray[np.int64],
    turned: NDArray[np.int64],
    turning: motion.Turn | None,
    sharp: float,
) -> Moving | None:
    """The camera that explains most. agree: which points of the job. keys: frames to map; turned: those of `turning`.
    sharp: px, where a sighting begins not to count when the points are explained as exactly as they were followed."""
    found = _best(job, agree, keys, turned, turning)
    if found is None or job.focal or _view(found, job) < _WIDEST:
        return found
    zoomed = _from_zoom(job, agree, turned, sharp)
    if zoomed is None or _settled_cost(job, zoomed, sharp) > _FAR_BETTER * _settled_cost(job, found, sharp):
        return found
    return zoomed


def _view(moving: Moving, job: Job) -> float:
    """Degrees across the longer side, the widest of the clip."""
    return float(np.degrees(2 * np.arctan(max(job.size) / 2 / moving.adjusted.bundle.f.min())))


def _settled_cost(job: Job, moving: Moving, sharp: float) -> float:
    """What is left unexplained where the focal length is free in every frame; the same points and frames for all."""
    seen = Observations.of(job.points.select(moving.used), moving.frames)
    fit = Fit(sharp, "curve", job.expected, moving.frames, job.check)
    return cost(settled(moving.adjusted.bundle, seen, fit).bundle, seen, sharp)


def _best(
    job: Job,
    agree: NDArray[np.int64],
    keys: NDArray[np.int64],
    turned: NDArray[np.int64],
    turning: motion.Turn | None,
) -> Moving | None:
    """Map the keyframes with one focal length, and where that explains little, with one for each; then adjust."""
    points = job.points.select(agree)
    chosen = motion.spread_over(points, keys, job.size, _BUNDLED)
    visible = points.visible[np.ix_(keys, chosen)]
    uv = np.where(visible[..., None], points.uv[np.ix_(keys, chosen)], np.nan).astype(np.float32)
    best: Moving | None = None
    for zoom in (False, True):
        mapped, _ = solve_keyframes(uv, job.size, job.guess, job.given is not None and not zoom, zoom, job.check)
        mapped.sort(key=lambda m: (-round(len(m.rows) / len(keys), 1), m.error))
        job.at(3)
        for candidate in mapped:
            if len(candidate.rows) < max(2, 0.4 * len(keys)):
                continue
            best = _better(best, _from_mapper(job, agree, keys, candidate, zoom))
            if _enough(best) and candidate.points > _KEPT * len(chosen):
                return best
        if not zoom and turning is not None and turning.typical < _SHORT_PATH:
            best = _better(best, _from_turning(job, agree, turned, turning))
            if _enough(best):
                return best
    return best


def _enough(moving: Moving | None) -> bool:
    """Whether no other camera need be tried. What is not explained may move."""
    return moving is not None and moving.typical < _GOOD and moving.explained > 0.7


def _better(a: Moving | None, b: Moving | None) -> Moving | None:
    return b if a is None or (b is not None and b.score < 0.95 * a.score) else a


def _from_mapper(
    job: Job, agree: NDArray[np.int64], keys: NDArray[np.int64], mapped: Mapped, zoom: bool
) -> Moving | None:
    """All frames adjusted together from what a mapper made of the keyframes."""
    w2c = geometry.invert_rigid(mapped.c2w)
    small = Bundle(
        w2c[:, :3, :3], mapped.c2w[:, :3, 3], np.asarray(mapped.focal, np.float64), np.zeros((0, 3)), job.centre
    )
    words = f"COLMAP's {mapped.mapper} mapper: {len(mapped.rows)} of {len(keys)} keyframes, {mapped.error:.2f} px"
    return _from_some(job, agree, keys[mapped.rows], small, zoom, words)


def _from_zoom(job: Job, agree: NDArray[np.int64], turned: NDArray[np.int64], sharp: float) -> Moving | None:
    """All frames adjusted together from a guess of how the lens zooms."""
    small = zoomed_start(job, agree, turned, sharp)
    return (
        None if small is None else _from_some(job, agree, turned, small, True, "a lens that zooms as the camera goes")
    )


def _from_some(
    job: Job, agree: NDArray[np.int64], solved: NDArray[np.int64], small: Bundle, zoom: bool, begun: str
) -> Moving | None:
    """All frames adjusted together from cameras of some, `solved`."""
    every = np.arange(job.points.frame_count)
    frames, used = _chosen(job, agree)
    tracks = job.points.select(used)
    X, angle = triangulate(small, Observations.of(tracks, solved))
    good = ~np.isnan(X[:, 0]) & (angle > 0.3)
    if good.sum() < LEAST_POINTS:
        return None
    start = replace(small.between(solved, every).at(frames), X=np.nan_to_num(X))
    seen = Observations.of(tracks, frames)
    known = seen.only(good[seen.point])
    posed = adjust(start, known, points=False, times=frames, scale=4.0, iterations=8, check=job.check).bundle
    posed = resected(posed, known)
    X, _ = triangulate(posed, seen)
    posed = replace(posed, X=np.nan_to_num(X))
    seen = seen.only(~np.isnan(X[seen.point, 0]))
    seen = seen.only(posed.errors(seen) < 25)
    return _adjusted(job, posed, seen, frames, used, zoom, begun)


def _from_turning(job: Job, agree: NDArray[np.int64], turned: NDArray[np.int64], turning: motion.Turn) -> Moving | None:
    """All frames adjusted together from a camera that only turns, with all points at one distance.

    Finds what a mapper cannot: paths that are short against the distance of everything.
    """
    every = np.arange(job.points.frame_count)
    frames, used = _chosen(job, agree)
    seen = Observations.of(job.points.select(used), frames)
    start = turning.adjusted.bundle.between(turned, every).at(frames)
    start = replace(start, X=np.zeros((seen.points, 3)))
    start = replace(start, X=directions(rays_of(start, seen), seen))
    start = adjust(start, seen, times=frames, scale=4.0, iterations=15, check=job.check).bundle
    return _adjusted(job, start, seen, frames, used, turning.zooms, "a camera that only turns")


def _chosen(job: Job, agree: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The frames and the points that are adjusted together."""
    frames = some_frames(np.arange(job.points.frame_count))
    some = frames[:: max(1, len(frames) // 40)]
    return frames, agree[motion.spread_over(job.points.select(agree), some, job.size, _ADJUSTED)]


def _adjusted(
    job: Job,
    start: Bundle,
    seen: Observations,
    frames: NDArray[np.int64],
    used: NDArray[np.int64],
    zoom: bool,
    begun: str,
) -> Moving:
    unknown: FocalUnknown = "curve" if zoom else "fixed" if job.focal else "shared"
    adjusted = adjust(
        start,
        seen,
        focal=unknown,
        guess=job.expected,
        times=frames,
        scale=2.0,
        iterations=10,
        tolerance=2e-3,
        check=job.check,
    )
    job.at(4)
    adjusted = trimmed(adjusted, seen, frames, job, unknown)
    if not zoom and len(frames) > 8:
        curve = trimmed(adjusted, seen, frames, job, "curve", iterations=5, tolerance=2e-3)
        if np.ptp(np.log(curve.bundle.f)) > 0.04 and curve.cost < 0.85 * adjusted.cost:
            adjusted, zoom = trimmed(curve, seen, frames, job, "curve", iterations=20), True
    now = quality(adjusted.bundle, seen)
    for _ in range(3):  # points that come in late pull others in
        if now[2] > 0.85:
            break
        X, _ = triangulate(adjusted.bundle, seen)
        again = replace(adjusted, bundle=replace(adjusted.bundle, X=np.nan_to_num(X)))
        again = trimmed(again, seen, frames, job, "curve" if zoom else unknown, iterations=8)
        before, after = now, quality(again.bundle, seen)
        if after[1] >= before[1]:
            break
        adjusted, now = again, after
        if after[1] > 0.95 * before[1]:
            break
    return Moving(adjusted, frames, used, *now, zoom, begun)
