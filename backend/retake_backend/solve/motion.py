"""What kind of shot it is, and which points stand still: told from the followed points before any camera is solved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .adjustment import Adjusted, adjust
from .bundle import Array, Bundle, Observations, medians
from .stages import PointTracks
from .unknowns import FocalUnknown

_CELLS = 12  # cells of the grid across the longer side, for "spread over the picture"
_SEED = 7
_FINE = 0.35  # px, the tolerance with which the exactness of points is looked for
_EXACT = (0.1, 0.35)  # px; no footage is more exact than the one, and beyond the other it is not the points' fault


@dataclass(frozen=True)
class Step:
    """The points seen in two frames. index: (n,) which. before, after: (n, 2) float64 px. gap: frames between."""

    first: int
    gap: int
    index: NDArray[np.int64]
    before: Array
    after: Array

    @property
    def tolerance(self) -> float:
        """px by which followed points are off after so many frames."""
        return 0.6 + 0.02 * min(self.gap, 60)


def steps(points: PointTracks, gaps: tuple[int, ...], each: int, least: int = 24) -> list[Step]:
    """Up to `each` pairs of frames for every gap, evenly over the clip, with at least `least` common points."""
    found, frames = [], points.frame_count
    for gap in sorted({min(gap, frames - 1) for gap in gaps}):
        if gap < 1:
            continue
        for first in np.unique(np.linspace(0, frames - 1 - gap, each).round().astype(int)):
            step = step_between(points, int(first), int(first) + gap)
            if len(step.index) >= least:
                found.append(step)
    return found


def step_between(points: PointTracks, a: int, b: int) -> Step:
    """The points seen in frames a and b."""
    index = np.flatnonzero(points.visible[a] & points.visible[b])
    before, after = (points.uv[frame, index].astype(np.float64) for frame in (a, b))
    return Step(a, b - a, index, before, after)


def stands_still(points: PointTracks, size: tuple[int, int]) -> bool:
    """Whether the camera does not move: most points, or many all over the picture, stay where they are, and no
    motion of the whole picture explains more of them. Moving things may cover more than half of the picture."""
    found: dict[int, list[tuple[float, float]]] = {}
    better = []
    for step in steps(points, (4, 12, 36, points.frame_count - 1), 6):
        still = np.linalg.norm(step.after - step.before, axis=1) < 1.5 * step.tolerance
        spread = covered(step.before[still], size) / max(covered(step.before, size), 1e-9)
        found.setdefault(step.gap, []).append((float(still.mean()), spread))
        better.append(_moves_together(step, still))
    if not found:
        return False
    # Of every gap by itself: over a few frames everything stands still before a camera that creeps.
    share, over = np.min([np.quantile(pairs, 0.25, axis=0) for pairs in found.values()], axis=0)
    return bool((share >= 0.5 or (share >= 0.25 and over >= 0.5)) and np.mean(better) < 0.3)


def _moves_together(step: Step, still: NDArray[np.bool_]) -> bool:
    """Whether one motion of the whole picture explains clearly more points than none does."""
    H, _ = cv2.estimateAffinePartial2D(step.before, step.after, ransacReprojThreshold=step.tolerance)
    if H is None:
        return False
    error = np.linalg.norm(step.before @ H[:, :2].T + H[:, 2] - step.after, axis=1)
    exact = np.linalg.norm(step.after - step.before, axis=1)
    together = error < step.tolerance
    return bool(together.sum() > 1.15 * still.sum() and np.median(exact[together]) > 2 * step.tolerance)


def covered(uv: Array, size: tuple[int, int]) -> float:
    """Share of the picture's cells in which points (n, 2) lie."""
    cell = max(size) / _CELLS
    columns, rows = int(np.ceil(size[0] / cell)), int(np.ceil(size[1] / cell))
    if not len(uv):
        return 0.0
    at = np.clip((uv / cell).astype(int), 0, [columns - 1, rows - 1])
    return len(np.unique(at[:, 1] * columns + at[:, 0])) / (columns * rows)


def arc_length(points: PointTracks) -> Array:
    """(T,) px: how far the picture has moved up to each frame, by the median motion of the points."""
    speed = np.zeros(points.frame_count)
    for t in range(1, points.frame_count):
        step = step_between(points, t - 1, t)
        if len(step.index):
            speed[t] = np.median(np.linalg.norm(step.after - step.before, axis=1))
    return np.cumsum(speed)


def agreement(points: PointTracks, check: Callable[[], None]) -> tuple[Array, Array]:
    """How often every point agrees with the motion that most agree with: votes for (N,) and votes cast (N,).

    The motion is a fundamental matrix between two frames, over gaps at which the picture has moved enough to tell.
    """
    arc = arc_length(points)
    frames = points.frame_count
    votes, cast = np.zeros(len(points)), np.zeros(len(points))
    for reach in (6.0, 15.0, 35.0):
        for first in np.unique(np.linspace(0, frames - 1, 14).round().astype(int)):
            check()
            far = np.searchsorted(arc, arc[first] + reach)
            last = int(min(far, frames - 1, first + 30))
            step = step_between(points, int(first), last)
            if last <= first or len(step.index) < 30 or arc[last] - arc[first] < 1.5:
                continue
            explained = _epipolar(step)
            if explained is not None:
                votes[step.index[explained]] += 1
                cast[step.index] += 1
    return votes, cast


def _epipolar(step: Step) -> NDArray[np.bool_] | None:
    inliers = _fundamental(step, step.tolerance)[1]
    return None if inliers is None else inliers.ravel() > 0


def _fundamental(step: Step, tolerance: float) -> tuple[Array | None, NDArray[np.uint8] | None]:
    cv2.setRNGSeed(_SEED)
    try:
        F, inliers = cv2.findFundamentalMat(step.before, step.after, cv2.USAC_MAGSAC, tolerance, 0.999, 2000)
    except cv2.error:
        return None, None
    return (
        (None, None) if F is None or F.shape != (3, 3) else (np.asarray(F, np.float64), np.asarray(inliers, np.uint8))
    )


def exactness(points: PointTracks, check: Callable[[], None]) -> float:
    """px by which followed points are typically off: how far from the lines where any two cameras would put them.

    Needs no cameras, and holds for the half of the points that move together.
    """
    off = []
    for step in steps(points, (2, 5, 12), 5, least=40):
        check()
        F, _ = _fundamental(step, _FINE)
        if F is None:
            continue
        a, b = (np.concatenate([uv, np.ones((len(uv), 1))], 1) for uv in (step.before, step.after))
        there, back = a @ F.T, b @ F
        slope = np.sqrt(np.sum(there[:, :2] ** 2, 1) + np.sum(back[:, :2] ** 2, 1))
        off.append(float(np.median(np.abs(np.sum(there * b, 1)) / np.maximum(slope, 1e-12))))
    return float(np.clip(np.median(off), *_EXACT)) if off else _EXACT[1]


def spread_over(points: PointTracks, frames: NDArray[np.int64], size: tuple[int, int], count: int) -> NDArray[np.int64]:
    """Indices of points that cover these frames evenly, about `count` in each, the longest first."""
    visible = points.visible[frames]
    length = visible.sum(0) + points.confidence[frames].mean(0)
    cell = np.sqrt(size[0] * size[1] / count)
    columns, rows = int(np.ceil(size[0] / cell)), int(np.ceil(size[1] / cell))
    chosen = np.zeros(len(points), bool)
    for row, frame in enumerate(frames):
        seen = np.flatnonzero(visible[row] & (visible.sum(0) >= min(3, len(frames))))
        at = np.clip((points.uv[frame, seen] / cell).astype(int), 0, [columns - 1, rows - 1])
        cells = at[:, 1] * columns + at[:, 0]
        taken = np.zeros(columns * rows, bool)
        taken[cells[chosen[seen]]] = True
        order = np.argsort(-length[seen], kind="stable")
        order = order[~taken[cells[order]]]
        _, first = np.unique(cells[order], return_index=True)
        chosen[seen[order[first]]] = True
    return np.flatnonzero(chosen)


def keyframes(arc: Array, least: int = 10, most: int = 28, apart: float = 7.0, widest: int = 6) -> NDArray[np.int64]:
    """Frames `apart` px of motion from each other, at most `widest` frames, the first and last among them."""
    frames = len(arc)
    count = int(np.clip(arc[-1] / apart, least, most))
    count = min(max(count, int(np.ceil((frames - 1) / widest)) + 1), frames)
    # motion and time together: a camera that rests for a while still has keyframes there
    along = arc / max(arc[-1], 1e-9) + 0.5 * np.arange(frames) / max(frames - 1, 1)
    wanted = np.linspace(0, along[-1], count)
    return np.unique(np.abs(along[None] - wanted[:, None]).argmin(1))


@dataclass(frozen=True)
class Turn:
    """A camera that only turns, and zooms: bundle of some frames, its points are directions.

    used: (n,) which points. explained: share of them, typical: median px, by which it is off. zooms: whether its focal
    length changes.
    """

    adjusted: Adjusted
    used: NDArray[np.int64]
    explained: float
    typical: float
    zooms: bool


def turn(
    points: PointTracks,
    frames: NDArray[np.int64],
    size: tuple[int, int],
    focal: float | None,
    guess: float,
    check: Callable[[], None],
) -> Turn | None:
    """The best camera that only turns in these frames. focal: px, known, or None to have it found, about `guess`.

    None where neighbouring frames have too few common points.
    """
    used = spread_over(points, frames, size, 120)
    chosen = points.select(used)
    chosen = PointTracks(chosen.uv[frames], chosen.visible[frames], chosen.confidence[frames])
    guesses = [focal] if focal else [guess * share for share in (0.6, 1.0, 1.6, 2.8)]
    seen = Observations.of(chosen)
    unknown: FocalUnknown = "fixed" if focal else "shared"
    hint = None if focal else guess
    best = _best_chain(chosen, seen, size, guesses, None, check)
    if best is None:
        return None
    if np.median(best.bundle.errors(seen)) < 6.0:
        best = adjust(best.bundle, seen, positions=False, focal=unknown, guess=hint, times=frames, check=check)
    zooms = False
    ratio = growth(chosen)
    if np.ptp(np.log(ratio)) > 0.02 and len(frames) >= 4:
        start = _best_chain(chosen, seen, size, guesses, ratio / np.median(ratio), check)
        if start is not None and np.median(start.bundle.errors(seen)) < 12.0:
            curve = adjust(start.bundle, seen, positions=False, focal="curve", guess=guess, times=frames, check=check)
            if np.ptp(np.log(curve.bundle.f)) > 0.03 and curve.cost < 0.7 * best.cost:
                best, zooms = curve, True
    error = best.bundle.errors(seen)
    typical = medians(error, seen)
    return Turn(best, used, float(np.mean(typical < 1.5)), float(np.median(typical)), zooms)


def _best_chain(
    points: PointTracks,
    seen: Observations,
    size: tuple[int, int],
    guesses: list[float],
    ratio: Array | None,
    check: Callable[[], None],
) -> Adjusted | None:
    """The best of the chains for some focal lengths, after a few iterations."""
    best: Adjusted | None = None
    for value in guesses:
        turned = chain(points, size, value, ratio)
        if turned is None:
            return None
        quick = adjust(turned, seen, positions=False, scale=3.0, smooth=0, iterations=5, check=check)
        if best is None or quick.cost < best.cost:
            best = quick
    return best


def growth(points: PointTracks) -> Array:
    """(T,) how much larger the picture has become up to each frame."""
    ratio = np.ones(points.frame_count)
    for t in range(1, points.frame_count):
        step = step_between(points, t - 1, t)
        cv2.setRNGSeed(_SEED)
        H = None
        if len(step.index) >= 6:
            H, _ = cv2.estimateAffinePartial2D(step.before, step.after, ransacReprojThreshold=4 * step.tolerance)
        ratio[t] = ratio[t - 1] * (1.0 if H is None else float(np.hypot(H[0, 0], H[1, 0])))
    return ratio


def chain(points: PointTracks, size: tuple[int, int], focal: float, ratio: Array | None = None) -> Bundle | None:
    """Rotations from frame to frame for one focal length (times ratio (T,)), and the directions of the points."""
    centre = (size[0] / 2, size[1] / 2)
    f = np.full(points.frame_count, focal) if ratio is None else focal * ratio
    R = [np.eye(3)]
    for t in range(1, points.frame_count):
        step = step_between(points, t - 1, t)
        if len(step.index) < 6:
            return None
        turned = _rotation(_rays(step.before, f[t - 1], centre), _rays(step.after, f[t], centre), 2.0 / focal)
        R.append(turned @ R[-1])
    frames = np.array(R)
    bundle = Bundle(frames, np.zeros((len(R), 3)), f, np.zeros((len(points), 3)), centre)
    first = points.visible.argmax(0)
    rays = _rays(points.uv[first, np.arange(len(points))].astype(np.float64), f[first, None], centre)
    return replace(bundle, X=np.einsum("nji,nj->ni", frames[first], rays))


def _rays(uv: Array, focal: float | Array, centre: tuple[float, float]) -> Array:
    rays = np.concatenate([(uv - np.array(centre)) / focal, np.ones((len(uv), 1))], 1)
    unit: Array = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    return unit


def _rotation(a: Array, b: Array, sharp: float) -> Array:
    """The rotation that takes most rays a (n, 3) to b; `sharp` radians where a ray begins not to count."""
    weight = np.ones(len(a))
    R = np.eye(3)
    for _ in range(12):
        U, _, Vt = np.linalg.svd((b * weight[:, None]).T @ a)
        R = U @ np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))]) @ Vt
        error = np.linalg.norm(b - a @ R.T, axis=1)
        around = max(sharp, float(np.median(error)))
        weight = 1 / (1 + (error / around) ** 2) ** 2
    rotation: Array = R
    return rotation
