"""How near a solve is to the truth: cameras, focal length, tracks and depth, each by one definition.

A solve's world has its own origin, axes and scale. What depends on them is compared after the similarity (rotation,
scale, shift) that brings the estimate nearest to the truth; T poses are (T, 4, 4) camera to world, OpenCV axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STILL = 1e-9
"""Of the world's unit: a camera path no wider than this has no extent."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift."""

    scale: float
    rotation: Array
    shift: Array

    def points(self, positions: Array) -> Array:
        """Positions (..., 3) brought over."""
        moved: Array = self.scale * positions @ self.rotation.T + self.shift
        return moved

    def poses(self, c2w: Array) -> Array:
        """Poses (..., 4, 4) brought over: places are scaled, axes are not."""
        moved = np.array(c2w, np.float64)
        moved[..., :3, :3] = self.rotation @ moved[..., :3, :3]
        moved[..., :3, 3] = self.points(moved[..., :3, 3])
        return moved


def align_positions(positions: Array, truth: Array) -> Similarity:
    """The similarity that brings camera centres (T, 3) nearest to the true ones in least squares (Umeyama 1991)."""
    mean, true_mean = positions.mean(0), truth.mean(0)
    centred, true_centred = positions - mean, truth - true_mean
    rotation, trace = _nearest_rotation(true_centred.T @ centred)
    variance = float((centred**2).sum())
    scale = trace / variance if variance > _STILL**2 else 1.0
    return Similarity(scale, rotation, true_mean - scale * rotation @ mean)


def align_poses(c2w: Array, truth: Array) -> Similarity:
    """The similarity that fits whole poses, places and axes alike: defined for straight paths and still cameras too.

    Its rotation is the one nearest to both the axes' (T rotations) and the centres' correlation, each of weight one;
    centres that hardly move have no say. Scale and shift then fit the centres in least squares.
    """
    positions, true_positions = c2w[:, :3, 3], truth[:, :3, 3]
    mean, true_mean = positions.mean(0), true_positions.mean(0)
    centred, true_centred = positions - mean, true_positions - true_mean
    correlation = np.einsum("tij,tkj->ik", truth[:, :3, :3], c2w[:, :3, :3]) / (3 * len(c2w))
    spread, true_spread = (float(np.sqrt((a**2).sum())) for a in (centred, true_centred))
    if min(spread, true_spread) > _STILL:
        correlation = correlation + true_centred.T @ centred / (spread * true_spread)
    rotation, _ = _nearest_rotation(correlation)
    scale = 1.0
    if spread > _STILL:
        scale = max(float((true_centred * (centred @ rotation.T)).sum()) / spread**2, 0.0)
    return Similarity(scale, rotation, true_mean - scale * rotation @ mean)


def ate(c2w: Array, truth: Array) -> float:
    """Absolute trajectory error: RMS distance of camera centres after `align_positions`, in the truth's units."""
    positions, true_positions = c2w[:, :3, 3], truth[:, :3, 3]
    moved = align_positions(positions, true_positions).points(positions)
    return float(np.sqrt(((moved - true_positions) ** 2).sum(1).mean()))


def path_length(c2w: Array) -> float:
    """How far the camera goes, in its world's units."""
    return float(np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1).sum())


def ate_percent(c2w: Array, truth: Array) -> float:
    """`ate` in percent of the true path's length; nan where the true camera stands still."""
    length = path_length(truth)
    return 100 * ate(c2w, truth) / length if length > _STILL else float("nan")


def drift_percent(c2w: Array, depth: float) -> float:
    """Of a camera that truly stands still: the widest distance from its mean place, in percent of the scene's depth.

    depth: the median depth of what the camera sees, in the estimate's units; parallax that is not there follows it.
    """
    away = np.linalg.norm(c2w[:, :3, 3] - c2w[:, :3, 3].mean(0), axis=1)
    return float(100 * away.max() / depth)


def rotation_error(c2w: Array, truth: Array) -> float:
    """Mean angle in degrees between the cameras' axes and the true ones after `align_poses`."""
    rotation = align_poses(c2w, truth).rotation
    return float(np.degrees(angles(rotation @ c2w[:, :3, :3], truth[:, :3, :3])).mean())


def angles(a: Array, b: Array) -> Array:
    """Angles in radians between rotation matrices (..., 3, 3), exact for small ones too."""
    chord = np.linalg.norm(np.asarray(a) - np.asarray(b), axis=(-2, -1)) / np.sqrt(8)
    angle: Array = 2 * np.arcsin(np.clip(chord, 0, 1))
    return angle


def focal_error_percent(focal: Array, truth: Array) -> float:
    """Mean over frames (T,) of |focal length - true one| in percent of the true one, both in px of one picture."""
    return float(100 * np.mean(np.abs(np.asarray(focal) - truth) / truth))


@dataclass(frozen=True)
class TrackError:
    """Of the tracks of a clip against the truth.

    median, mean: px over all places where a track and its truth are both visible, first frames aside. within: share
    of these within `WITHIN` px. hidden: share of the places where the track claims to be visible and the truth is
    hidden. places: how many were compared. length: median count of frames in which a track is visible.
    """

    median: float
    mean: float
    within: float
    hidden: float
    places: int
    length: float


WITHIN = 3.0
"""px: a track further off has lost its point."""


def track_error(
    uv: NDArray[np.floating], visible: NDArray[np.bool_], true_uv: NDArray[np.floating], true_visible: NDArray[np.bool_]
) -> TrackError:
    """Tracks (T, N, 2) px, (T, N) against where the surface points that they began on really went.

    The frame in which a track begins is left out: the truth was asked there.
    """
    claimed = visible & (np.cumsum(visible, 0) > 1)
    both = claimed & true_visible
    distance = np.linalg.norm(np.asarray(uv, np.float64)[both] - np.asarray(true_uv, np.float64)[both], axis=1)
    if not len(distance):
        nothing = float("nan")
        return TrackError(nothing, nothing, nothing, nothing, 0, nothing)
    return TrackError(
        float(np.median(distance)),
        float(distance.mean()),
        float((distance <= WITHIN).mean()),
        float((claimed & ~true_visible).sum() / claimed.sum()),
        len(distance),
        float(np.median(visible.sum(0)[visible.any(0)])),
    )


def depth_error_percent(depth: Array, truth: Array, scale: float | None = None) -> float:
    """Relative depth error: mean of |s * depth - truth| / truth in percent over known depths (any one shape).

    Known: finite and above 0 in both. s: one for the whole clip, the median of truth / depth unless it is given.
    nan where nothing is known.
    """
    depth, truth = np.asarray(depth, np.float64), np.asarray(truth, np.float64)
    known = np.isfinite(depth) & np.isfinite(truth) & (depth > 0) & (truth > 0)
    if not known.any():
        return float("nan")
    depth, truth = depth[known], truth[known]
    s = float(np.median(truth / depth)) if scale is None else scale
    return float(100 * np.mean(np.abs(s * depth - truth) / truth))


def typical_depth_error_percent(depth: Array, truth: Array) -> float:
    """As `depth_error_percent`, but the median: of single points, of which a few may lie anywhere."""
    depth, truth = np.asarray(depth, np.float64), np.asarray(truth, np.float64)
    known = np.isfinite(depth) & np.isfinite(truth) & (depth > 0) & (truth > 0)
    if not known.any():
        return float("nan")
    depth, truth = depth[known], truth[known]
    return float(100 * np.median(np.abs(np.median(truth / depth) * depth - truth) / truth))


def _nearest_rotation(correlation: Array) -> tuple[Array, float]:
    """The rotation R that makes trace(R.T @ correlation) largest, and that trace."""
    u, values, vt = np.linalg.svd(correlation)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    return (u * sign) @ vt, float((values * sign).sum())
