"""Cameras for every frame from followed points, and which of the points stand still.

What kind of shot it is comes first (`motion.py`): a camera that does not move, or only turns, has no depth to be
found, and a mapper would invent some. Only a camera that moves goes to COLMAP's mappers (`colmap_process.py`), with
keyframes and the points that agree with the picture's main motion. Then all frames are adjusted together (`poses.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

from ..engines.base import Progress, Report
from . import motion
from .colmap_process import Mapped, solve_keyframes
from .consensus import SHARP, Fit, settled, unbent
from .poses import (
    Adjusted,
    Array,
    Bundle,
    FocalUnknown,
    Observations,
    adjust,
    cost,
    medians,
    rays_of,
    triangulate,
    undistort,
)
from .stages import CameraSolve, Focal, Kind, PointTracks

VERSION = 4

ASSUMED_DEGREES = 60.0
"""Field of view across the longer side where nothing tells it: between a phone's and a 35 mm lens."""

LITTLE_PARALLAX = 1.0
"""Degrees, median over the points, under which depths are not known well."""

_LEAST_POINTS = 40  # in all
_LEAST_SEEN = 12  # points in a frame that has a camera of its own
_BUNDLED = 400  # points a keyframe is mapped with
_ADJUSTED = 260  # points a frame is adjusted with
_TURNED = 16  # keyframes that tell whether the camera only turns
_MOST_FRAMES = 120  # adjusted together; more are solved against the points of these
_GOOD = 0.5  # px, typical error of a camera that needs no other
_KEPT = 0.3  # of the points that a mapper was given; one that drops more may have made up a world for the rest
_SHORT_PATH = 6.0  # px by which a camera that only turns may be off and still be where to begin
_STILL = 1.5  # px
_STEPS = 6


def solve_cameras(
    points: PointTracks,
    size: tuple[int, int],
    focal: Focal | None,
    static_hint: NDArray[np.bool_] | None,
    report: Report,
) -> CameraSolve:
    """One camera for every frame.

    size: (width, height) of the working picture. focal: given by the user, or None to have it estimated. static_hint:
    (N,) bool, False for points that the user masked as moving (they do not take part and are not static in the
    result), or None. Same points, same cameras. Raises Cancelled, and BadShot where no camera can be told: too few
    points, too few that agree on one motion.
    """
    job = _Job.of(points, size, focal, static_hint, report)
    job.at(0)
    if points.frame_count == 1 or motion.stands_still(job.points, size):
        return _standing(job)
    votes, cast = motion.agreement(job.points, job.check)
    agree = (cast == 0) | (votes >= 0.6 * cast)
    if agree.sum() < _LEAST_POINTS:
        raise BadShot(
            f"only {int(agree.sum())} of {len(job.points)} points agree on one motion of the camera.",
            "camera solve",
            "Mask what moves, or use a clip in which more stands still.",
        )
    job.at(1)
    arc = motion.arc_length(job.points)
    keys = motion.keyframes(arc)
    few = keys[np.unique(np.linspace(0, len(keys) - 1, min(len(keys), _TURNED)).round().astype(int))]
    turning = motion.turn(job.points.select(agree), few, size, job.given, job.guess, job.check)
    exact = motion.exactness(job.points, job.check)
    if turning is not None and turning.typical < min(2 * exact, 0.5) and turning.explained > 0.85:
        return _turning(job, np.flatnonzero(agree), few, turning, "rotation")
    job.at(2)
    moving = _moving(job, np.flatnonzero(agree), keys, few, turning)
    if turning is not None and (turning.typical < 2.0 or moving is None) and turning.explained > 0.5:
        worth = moving is not None and moving.typical < 0.6 * turning.typical
        if not worth:
            return _turning(job, np.flatnonzero(agree), few, turning, "rotation")
    if moving is None:
        raise BadShot(
            "no camera explains how the points move.",
            "camera solve",
            "Give the focal length if you know it, mask what moves, or choose a range in which the camera moves more.",
        )
    return _moved(job, moving, exact)


@dataclass(frozen=True)
class _Job:
    """What every path needs. points: those that take part; rows: which of all points (count) they are."""

    points: PointTracks
    rows: NDArray[np.int64]
    count: int
    size: tuple[int, int]
    focal: Focal | None
    report: Report
    _step: list[int] = field(default_factory=lambda: [0])

    @classmethod
    def of(
        cls,
        points: PointTracks,
        size: tuple[int, int],
        focal: Focal | None,
        hint: NDArray[np.bool_] | None,
        report: Report,
    ) -> _Job:
        take = points.lengths >= min(3, points.frame_count)
        if hint is not None:
            take &= np.asarray(hint, bool)
        rows = np.flatnonzero(take)
        if len(rows) < _LEAST_POINTS:
            raise BadShot(
                f"only {len(rows)} points could be followed.",
                "camera solve",
                "The picture has too little texture, is too dark or blurred, or too much of it is masked.",
            )
        return cls(points.select(rows), rows, len(points), size, focal, report)

    @property
    def given(self) -> float | None:
        """px."""
        return self.focal.px if self.focal else None

    @property
    def guess(self) -> float:
        """px, the focal length where nothing tells it."""
        return self.given or max(self.size) / 2 / float(np.tan(np.radians(ASSUMED_DEGREES) / 2))

    @property
    def centre(self) -> tuple[float, float]:
        return self.size[0] / 2, self.size[1] / 2

    def at(self, step: int) -> None:
        self._step[0] = step
        self.check()

    def check(self) -> None:
        """Raises Cancelled when the user wants the work to stop."""
        self.report(Progress("solving cameras", self._step[0], _STEPS))

    def all_points(self, values: NDArray, empty: float | bool) -> NDArray:
        """Values of the points that take part (last axis, or first of (n, 3)) for all points."""
        if values.ndim == 2 and values.shape[0] == len(self.rows) and values.shape[1] == 3:
            out = np.full((self.count, 3), empty, values.dtype)
            out[self.rows] = values
            return out
        out = np.full((*values.shape[:-1], self.count), empty, values.dtype)
        out[..., self.rows] = values
        return out


def _standing(job: _Job) -> CameraSolve:
    """A camera that does not move: every point that stays where it is, is static."""
    points = job.points
    uv = np.where(points.visible[..., None], points.uv, np.nan).astype(np.float64)
    place = np.nanmedian(uv, axis=0)
    residual = np.linalg.norm(uv - place, axis=-1)
    with np.errstate(invalid="ignore"):
        static = np.nanquantile(residual, 0.9, axis=0) < _STILL
    frames = points.frame_count
    focal = job.guess
    bundle = Bundle(
        np.tile(np.eye(3), (frames, 1, 1)), np.zeros((frames, 3)), np.full(frames, focal), np.zeros((0, 3)), job.centre
    )
    notes = ["The camera does not move: depth cannot be measured in this shot, only guessed."]
    if job.focal is None:
        notes.append(_assumed(job))
    return CameraSolve(
        cameras=Cameras(bundle.c2w(), bundle.K(), *job.size),
        kind="static",
        world=np.full((job.count, 3), np.nan),
        static=job.all_points(static, False),
        residual=job.all_points(residual.astype(np.float32), np.nan),
        focal_source=job.focal.source if job.focal else "assumed",
        solved=np.ones(frames, bool),
        notes=tuple(notes),
    )


def _assumed(job: _Job) -> str:
    return (
        f"The focal length cannot be told from this shot; {job.guess / max(job.size) * 36:.0f} mm on a 36 mm sensor "
        f"({ASSUMED_DEGREES:.0f} degrees) is assumed. Give it if you know it."
    )


def _turning(
    job: _Job, agree: NDArray[np.int64], keys: NDArray[np.int64], turn: motion.Turn, kind: Kind
) -> CameraSolve:
    """A camera that only turns: from some frames to all of them, and to all points."""
    small = turn.adjusted.bundle
    every = np.arange(job.points.frame_count)
    whole = small.between(keys, every)
    unknown: FocalUnknown = "fixed" if job.focal and not turn.zooms else "curve" if turn.zooms else "shared"
    frames = _some_frames(job, every)
    used = agree[turn.used]
    seen = Observations.of(job.points.select(used), frames)
    start = replace(whole.at(frames), X=small.X)
    hint = None if job.focal else job.guess
    adjusted = adjust(
        start, seen, positions=False, focal=unknown, guess=hint, times=frames, iterations=20, check=job.check
    )
    job.at(4)
    adjusted = _trimmed(adjusted, seen, frames, job, unknown, positions=False)
    whole = _all_frames(job, adjusted.bundle, frames, used, positions=False)
    seen = Observations.of(job.points)
    rays = rays_of(replace(whole, X=np.zeros((seen.points, 3))), seen)
    X = _directions(rays, seen)
    whole = replace(whole, X=X)
    error = whole.errors(seen)
    static = medians(error, seen) < _STILL
    static &= _share(error < 2.5 * _STILL, seen) > 0.7
    residual = np.full(job.points.visible.shape, np.nan, np.float32)
    residual[seen.frame, seen.point] = error
    notes = [
        "The camera turns without moving: depth cannot be measured in this shot, only guessed.",
    ]
    if turn.zooms:
        notes.append(_zoom_note(whole.f))
    source = job.focal.source if job.focal else "estimated from the points"
    if job.focal is None and not adjusted.focal_error < 0.1:
        source = "assumed"
        notes.append(
            "The camera turns too little to tell its focal length; it is mostly a guess. Give it if you know it."
        )
    return CameraSolve(
        cameras=Cameras(whole.c2w(), whole.K(), *job.size),
        kind=kind,
        world=np.full((job.count, 3), np.nan),
        static=job.all_points(static, False),
        residual=job.all_points(residual, np.nan),
        focal_source=source,
        solved=job.points.select(static).visible.sum(1) >= _LEAST_SEEN,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Moving:
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


def _moving(
    job: _Job,
    agree: NDArray[np.int64],
    keys: NDArray[np.int64],
    turned: NDArray[np.int64],
    turning: motion.Turn | None,
) -> _Moving | None:
    """Map the keyframes with one focal length, and where that explains little, with one for each; then adjust."""
    points = job.points.select(agree)
    chosen = motion.spread_over(points, keys, job.size, _BUNDLED)
    visible = points.visible[np.ix_(keys, chosen)]
    uv = np.where(visible[..., None], points.uv[np.ix_(keys, chosen)], np.nan).astype(np.float32)
    best: _Moving | None = None
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


def _enough(moving: _Moving | None) -> bool:
    """Whether no other camera need be tried. What is not explained may move."""
    return moving is not None and moving.typical < _GOOD and moving.explained > 0.7


def _better(a: _Moving | None, b: _Moving | None) -> _Moving | None:
    return b if a is None or (b is not None and b.score < 0.95 * a.score) else a


def _from_mapper(
    job: _Job, agree: NDArray[np.int64], keys: NDArray[np.int64], mapped: Mapped, zoom: bool
) -> _Moving | None:
    """All frames adjusted together from what a mapper made of the keyframes."""
    every = np.arange(job.points.frame_count)
    w2c = geometry.invert_rigid(mapped.c2w)
    solved = keys[mapped.rows]
    small = Bundle(
        w2c[:, :3, :3], mapped.c2w[:, :3, 3], np.asarray(mapped.focal, np.float64), np.zeros((0, 3)), job.centre
    )
    frames, used = _chosen(job, agree)
    tracks = job.points.select(used)
    X, angle = triangulate(small, Observations.of(tracks, solved))
    good = ~np.isnan(X[:, 0]) & (angle > 0.3)
    if good.sum() < _LEAST_POINTS:
        return None
    start = replace(small.between(solved, every).at(frames), X=np.nan_to_num(X))
    seen = Observations.of(tracks, frames)
    known = seen.only(good[seen.point])
    posed = adjust(start, known, points=False, times=frames, scale=4.0, iterations=8, check=job.check).bundle
    posed = _resected(posed, known)
    X, _ = triangulate(posed, seen)
    posed = replace(posed, X=np.nan_to_num(X))
    seen = seen.only(~np.isnan(X[seen.point, 0]))
    seen = seen.only(posed.errors(seen) < 25)
    words = f"COLMAP's {mapped.mapper} mapper: {len(mapped.rows)} of {len(keys)} keyframes, {mapped.error:.2f} px"
    return _adjusted(job, posed, seen, frames, used, zoom, words)


def _from_turning(
    job: _Job, agree: NDArray[np.int64], turned: NDArray[np.int64], turning: motion.Turn
) -> _Moving | None:
    """All frames adjusted together from a camera that only turns, with all points at one distance.

    Finds what a mapper cannot: paths that are short against the distance of everything.
    """
    every = np.arange(job.points.frame_count)
    frames, used = _chosen(job, agree)
    seen = Observations.of(job.points.select(used), frames)
    start = turning.adjusted.bundle.between(turned, every).at(frames)
    start = replace(start, X=np.zeros((seen.points, 3)))
    start = replace(start, X=_directions(rays_of(start, seen), seen))
    start = adjust(start, seen, times=frames, scale=4.0, iterations=15, check=job.check).bundle
    return _adjusted(job, start, seen, frames, used, turning.zooms, "a camera that only turns")


def _chosen(job: _Job, agree: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The frames and the points that are adjusted together."""
    frames = _some_frames(job, np.arange(job.points.frame_count))
    some = frames[:: max(1, len(frames) // 40)]
    return frames, agree[motion.spread_over(job.points.select(agree), some, job.size, _ADJUSTED)]


def _adjusted(
    job: _Job,
    start: Bundle,
    seen: Observations,
    frames: NDArray[np.int64],
    used: NDArray[np.int64],
    zoom: bool,
    begun: str,
) -> _Moving:
    unknown: FocalUnknown = "curve" if zoom else "fixed" if job.focal else "shared"
    hint = None if job.focal else job.guess
    adjusted = adjust(
        start, seen, focal=unknown, guess=hint, times=frames, scale=2.0, iterations=10, tolerance=2e-3, check=job.check
    )
    job.at(4)
    adjusted = _trimmed(adjusted, seen, frames, job, unknown)
    if not zoom and len(frames) > 8:
        curve = _trimmed(adjusted, seen, frames, job, "curve", iterations=5, tolerance=2e-3)
        if np.ptp(np.log(curve.bundle.f)) > 0.04 and curve.cost < 0.85 * adjusted.cost:
            adjusted, zoom = _trimmed(curve, seen, frames, job, "curve", iterations=20), True
    now = _quality(adjusted.bundle, seen)
    for _ in range(3):  # points that come in late pull others in
        if now[2] > 0.85:
            break
        X, _ = triangulate(adjusted.bundle, seen)
        again = replace(adjusted, bundle=replace(adjusted.bundle, X=np.nan_to_num(X)))
        again = _trimmed(again, seen, frames, job, "curve" if zoom else unknown, iterations=8)
        before, after = now, _quality(again.bundle, seen)
        if after[1] >= before[1]:
            break
        adjusted, now = again, after
        if after[1] > 0.95 * before[1]:
            break
    return _Moving(adjusted, frames, used, *now, zoom, begun)


def _quality(bundle: Bundle, seen: Observations) -> tuple[float, float, float]:
    """`typical`, `score` and `explained` of _Moving."""
    error = medians(bundle.errors(seen), seen)
    near = error < 3
    typical = float(np.median(error[near])) if near.any() else float("inf")
    return typical, float(np.minimum(error, 3).mean()), float(np.mean(error < _STILL))


def _trimmed(
    adjusted: Adjusted,
    seen: Observations,
    frames: NDArray[np.int64],
    job: _Job,
    unknown: FocalUnknown,
    positions: bool = True,
    lens: bool = False,
    iterations: int = 15,
    tolerance: float = 3e-4,
) -> Adjusted:
    """Once more without the points that move, and without single sightings that are far off."""
    error = adjusted.bundle.errors(seen)
    typical = medians(error, seen)
    limit = max(1.2, 3 * float(np.median(typical[np.isfinite(typical)])))
    keep = (typical < limit)[seen.point] & (error < 3 * limit)
    kept = seen.only(keep)
    hint = None if job.focal else job.guess
    return adjust(
        adjusted.bundle,
        kept,
        positions=positions,
        focal=unknown,
        lens=lens,
        guess=hint,
        times=frames,
        iterations=iterations,
        tolerance=tolerance,
        check=job.check,
    )


def _moved(job: _Job, moving: _Moving, exact: float) -> CameraSolve:
    """From the frames and points that were adjusted together to all of them."""
    notes: list[str] = []
    tracks = job.points.select(moving.used)
    seen = Observations.of(tracks, moving.frames)
    unknown: FocalUnknown = "curve" if moving.zooms else "fixed" if job.focal else "shared"
    fit = Fit(SHARP * exact, unknown, None if job.focal else job.guess, moving.frames, job.check)
    begun = moving.adjusted.bundle
    start = unbent(tracks, moving.frames, begun, job.size, fit)
    if start is not begun:
        notes.append("Something moves along with the camera; without it the rest fits far better, so it was left out.")
    adjusted = settled(start, seen, fit, begin=2 * fit.sharp)
    lens = settled(adjusted.bundle, seen, fit, lens=True, begin=fit.sharp)
    bends = lens.bundle.bend * float(np.hypot(*job.centre))
    gain = cost(lens.bundle, seen, fit.sharp) / cost(adjusted.bundle, seen, fit.sharp)
    if bends > fit.sharp and gain < 0.97 and abs(lens.bundle.k1) < 0.6:
        adjusted = lens
        notes.append(f"The lens bends straight lines by up to {bends:.1f} px; the points were made straight.")
    usual = _quality(adjusted.bundle, seen)[0]
    job.at(5)
    whole = _all_frames(job, adjusted.bundle, moving.frames, moving.used)
    seen = Observations.of(job.points)
    X, angle = triangulate(whole, seen)
    known = ~np.isnan(X[:, 0])
    sure = seen.only(known[seen.point])
    whole = adjust(
        replace(whole, X=np.nan_to_num(X)),
        sure,
        positions=False,
        rotations=False,
        smooth=0,
        scale=fit.sharp,
        iterations=4,
    ).bundle
    residual = np.full(job.points.visible.shape, np.nan, np.float32)
    error = whole.errors(sure)
    residual[sure.frame, sure.point] = error
    front = whole.residuals(sure)[1]
    typical = medians(error, sure)
    limit = max(_STILL, 3 * usual)
    static = known & (typical < limit) & np.equal(_share(front, sure), 1) & (_share(error < 2.5 * limit, sure) > 0.7)
    world = np.where(known[:, None], whole.X, np.nan)
    visible = job.points.select(static).visible.sum(1)
    solved = visible >= _LEAST_SEEN
    if static.sum() < _LEAST_POINTS or solved.mean() < 0.5:
        raise BadShot(
            f"the camera explains only {int(static.sum())} of {len(job.points)} points.",
            "camera solve",
            "Mask what moves, give the focal length if you know it, or choose a shorter range.",
        )
    typical_angle = float(np.median(angle[static]))
    kind: Kind = "moving"
    if typical_angle < LITTLE_PARALLAX:
        kind = "little parallax"
        notes.append(f"The camera moves little ({typical_angle:.1f} degrees of parallax): depths are rough.")
    if moving.zooms:
        notes.append(_zoom_note(whole.f))
    source = job.focal.source if job.focal else "estimated from the points"
    if job.focal is None and (kind == "little parallax" or not adjusted.focal_error < 0.05):
        source = "estimated from the points, roughly"
        notes.append("The camera's path tells the focal length only roughly. Give it if you know it.")
    if not solved.all():
        notes.append(f"{int((~solved).sum())} frames show too few points; their cameras were interpolated.")
    notes.append(f"Begun from {moving.begun}.")
    straight = None
    if whole.k1:
        f = np.broadcast_to(whole.f[:, None], job.points.visible.shape)
        straight = np.full((job.points.frame_count, job.count, 2), np.nan, np.float32)
        straight[:, job.rows] = undistort(job.points.uv.astype(np.float64), whole.k1, f, job.centre)
    return CameraSolve(
        cameras=Cameras(whole.c2w(), whole.K(), *job.size),
        kind=kind,
        world=job.all_points(world, np.nan),
        static=job.all_points(static, False),
        residual=job.all_points(residual, np.nan),
        focal_source=source,
        solved=solved,
        notes=tuple(notes),
        distortion=(whole.k1,) if whole.k1 else (),
        undistorted=straight,
    )


def _zoom_note(f: Array) -> str:
    return f"The focal length changes by a factor of {f.max() / f.min():.2f} (zoom)."


def _share(good: NDArray[np.bool_], seen: Observations) -> Array:
    """(N,) share of every point's sightings that are good; 0 without any."""
    count = np.bincount(seen.point, minlength=seen.points)
    share: Array = np.bincount(seen.point, good, minlength=seen.points) / np.maximum(count, 1)
    return share


def _directions(rays: Array, seen: Observations) -> Array:
    """(N, 3) the direction in which most of a point's rays look."""
    weight = np.ones(len(rays))
    mean = np.zeros((seen.points, 3))
    for _ in range(4):
        mean = np.stack([np.bincount(seen.point, weight * rays[:, i], minlength=seen.points) for i in range(3)], 1)
        mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        weight = 1 / (1 + np.sum((rays - mean[seen.point]) ** 2, 1) / 2e-3**2)
    return mean


def _some_frames(job: _Job, every: NDArray[np.int64]) -> NDArray[np.int64]:
    """All frames, or so many as are adjusted together, evenly over the clip."""
    if len(every) <= _MOST_FRAMES:
        return every
    return np.unique(np.linspace(0, len(every) - 1, _MOST_FRAMES).round().astype(np.int64))


def _all_frames(
    job: _Job, bundle: Bundle, frames: NDArray[np.int64], used: NDArray[np.int64], positions: bool = True
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


def _resected(bundle: Bundle, seen: Observations) -> Bundle:
    """Frames whose camera is far off the points, solved against them on their own (PnP with RANSAC)."""
    error = bundle.errors(seen)
    R, c = bundle.R.copy(), bundle.c.copy()
    for frame in range(seen.frames):
        here = seen.frame == frame
        if here.sum() < _LEAST_SEEN or np.median(error[here]) < 4:
            continue
        K = bundle.K()[frame]
        cv2.setRNGSeed(frame)
        found, turn, shift, inliers = cv2.solvePnPRansac(
            bundle.X[seen.point[here]], seen.uv[here], K, None, reprojectionError=3.0, iterationsCount=300
        )
        if found and inliers is not None and len(inliers) >= _LEAST_SEEN:
            R[frame] = cv2.Rodrigues(turn)[0]
            c[frame] = -R[frame].T @ shift.ravel()
    return replace(bundle, R=R, c=c)
