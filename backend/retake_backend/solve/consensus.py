"""The one still world that most points agree on, as exactly as they were followed.

A thing that keeps pace with the camera can pass for a part of the scene: cameras, focal length and lens bend a little,
and all of it is explained, though not as well as the points were followed. Robust weights alone do not get out of that,
as the bent cameras suit the thing. So pieces of the picture that move alike are left out, one after another; without
the right one the rest fits several times better, and nothing else does that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import grouping, motion
from .adjustment import Adjusted, adjust
from .bundle import Array, Bundle, Observations, medians
from .stages import PointTracks
from .triangulation import triangulate
from .unknowns import FocalUnknown

SHARP = 3.0
"""Times the exactness with which points are followed, where a sighting begins not to count."""

_SMOOTH = 1e-4
"""Of the path: holds frames that hardly a point is seen in, and moves no other."""

_WIDE = 2.0  # px, where a sighting begins not to count before the cameras are near
_EACH, _LAST = 20, 40  # iterations: while the weights are sharpened, and then
_FRAMES, _POINTS = 20, 140  # frames, and points in each, on which pieces are left out
_NEAR = 0.08  # of the picture's longer side: how near neighbours of one piece are
_SMALLEST, _LARGEST = 0.02, 0.65  # share of the sightings of a piece that may move
_BETTER = 0.7  # of what is not explained of the rest, left when the piece that moves is out
_BEND = 0.25  # share by which a lens may move the corners of the picture; one that moves them more is a mover's work
_EXACT = 1.6  # times the exactness of the points: cameras that miss them by no more are not bent
_MOVERS = 4  # pieces left out, at most


@dataclass(frozen=True)
class Fit:
    """What is free when cameras are fitted. sharp: px, where a sighting begins not to count. focal, guess: as in
    `adjust`. times: (T,) frame numbers."""

    sharp: float
    focal: FocalUnknown
    guess: float | None
    times: NDArray[np.int64]
    check: Callable[[], None]


def settled(
    bundle: Bundle, seen: Observations, fit: Fit, lens: bool = False, begin: float = _WIDE, last: int = _LAST
) -> Adjusted:
    """Cameras that fit as many sightings as can be to within `fit.sharp`, from cameras that fit them to some `begin` px.

    The weights are sharpened step by step (graduated non-convexity); in each step the points are placed anew, so that
    those that were left out may come back.
    """
    count = 1 + max(0, int(np.ceil(np.log2(begin / fit.sharp))))
    adjusted = Adjusted(bundle, np.inf)
    for scale in [fit.sharp * 2.0**k for k in range(count - 1, -1, -1)]:
        placed = _placed(adjusted.bundle, seen, scale)
        error = placed.errors(seen)
        keep = (medians(error, seen) < 4 * scale)[seen.point] & (error < 8 * scale)
        if keep.sum() < 0.2 * len(seen):  # not near enough yet for this scale
            continue
        adjusted = adjust(
            placed,
            seen.only(keep),
            focal=fit.focal,
            lens=lens,
            guess=fit.guess,
            times=fit.times,
            smooth=_SMOOTH,
            scale=scale,
            iterations=last if scale == fit.sharp else _EACH,
            tolerance=1e-5 if scale == fit.sharp else 1e-4,
            check=fit.check,
        )
    return adjusted


def unbent(points: PointTracks, frames: NDArray[np.int64], bundle: Bundle, size: tuple[int, int], fit: Fit) -> Bundle:
    """The cameras of the frames without the pull of things that move along with the camera, where there are any.

    points: those that the bundle's rows are of. The bundle itself, where nothing that is left out helps.
    """
    rows = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).round().astype(int))
    some = motion.spread_over(points, frames[rows], size, _POINTS)
    seen = Observations.of(points.select(some), frames[rows])
    few = replace(bundle.at(rows), X=bundle.X[some])
    small = replace(fit, times=frames[rows])
    weight = np.bincount(seen.point, minlength=seen.points).astype(np.float64)
    weight /= weight.sum()

    lens = False
    best = settled(few, seen, small, last=_EACH).bundle
    missed, typical = _missed(best, seen, fit.sharp)
    bent = settled(best, seen, small, lens=True, begin=2 * fit.sharp, last=_EACH).bundle
    again, near = _missed(bent, seen, fit.sharp)
    if weight @ again < 0.95 * (weight @ missed) and bent.bend < _BEND:
        best, lens, missed, typical = bent, True, again, near
    if typical < _EXACT * fit.sharp / SHARP:
        return bundle
    piece = grouping.pieces(points.uv.astype(np.float64), points.visible, _NEAR * max(size))[some]
    share = np.bincount(piece, weight)
    out = np.zeros(seen.points, bool)
    for _ in range(_MOVERS):
        tried = []
        for number in np.flatnonzero((share > _SMALLEST) & (share < _LARGEST)).tolist():
            rest = ~out & (piece != number)
            if weight[rest].sum() < 1 - _LARGEST:
                continue
            without = settled(best, seen.only(rest[seen.point]), small, lens=lens, last=_EACH).bundle
            left, _ = _missed(without, seen, fit.sharp)
            if weight[rest] @ left[rest] < _BETTER * (weight[rest] @ missed[rest]):
                tried.append((float(weight @ left), number, without, left))
        if not tried:
            break
        least, number, without, left = min(tried, key=lambda t: t[:2])
        if least > 0.97 * (weight @ missed):  # a small world that moves along, and fits itself
            break
        best, missed = without, left
        out |= piece == number
        share[number] = 0
    return _in_all(best, rows, points, some[~out], frames, best.X[~out], fit) if out.any() else bundle


def _in_all(
    few: Bundle,
    rows: NDArray[np.int64],
    points: PointTracks,
    some: NDArray[np.int64],
    frames: NDArray[np.int64],
    X: Array,
    fit: Fit,
) -> Bundle:
    """Cameras of all frames from those of the rows among them, against the points `some`, which are at X."""
    start = replace(few.between(frames[rows], frames), X=X)
    seen = Observations.of(points.select(some), frames)
    posed = adjust(start, seen, points=False, times=fit.times, scale=2 * _WIDE, iterations=8, check=fit.check).bundle
    return _placed(replace(posed, X=np.zeros((len(points), 3))), Observations.of(points, frames), _WIDE)


def _missed(bundle: Bundle, seen: Observations, sharp: float) -> tuple[Array, float]:
    """By how much every point is not explained (N,), from 0 to 1 for `sharp` px and more; and how far those are off, in
    px, that are somewhere near: their median."""
    placed = _placed(bundle, seen, sharp)
    placed = adjust(placed, seen, positions=False, rotations=False, smooth=0, scale=sharp, iterations=4).bundle
    error = medians(placed.errors(seen), seen)
    near = error < 10 * sharp
    typical = float(np.median(error[near])) if near.any() else float("inf")
    return np.minimum(error / sharp, 1) ** 2, typical


def _placed(bundle: Bundle, seen: Observations, sharp: float) -> Bundle:
    X, _ = triangulate(bundle, seen, sharp)
    return replace(bundle, X=np.where(np.isfinite(X), X, bundle.X))
