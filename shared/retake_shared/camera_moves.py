"""Camera moves as pure functions: cameras in, cameras out.

A move adds to whatever the cameras already do: at frame t a growing share of the whole move is applied to the pose
of frame t. `frames` = (start, stop), stop excluded (None: all), is where it grows; before it the cameras are
untouched, after it the move is held. `ease` is "smooth" or "linear". Moves may be chained in any order.

Points, directions and distances are in the solve's world. `up` is the world direction that counts as up, by default
the mean up direction of the given cameras; pass the source cameras' `mean_up` where moves are chained. Every function
raises BadShot for a frame range outside the cameras, an unknown ease, or a move that no camera can make.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from . import geometry
from .easing import check_frames, ramp
from .errors import BadShot
from .geometry import Array
from .shot import BACKGROUND, Cameras, Solve

Frames = tuple[int, int] | None


def orbit(
    cameras: Cameras, degrees: float, pivot: ArrayLike, frames: Frames = None, ease: str = "smooth",
    axis: ArrayLike | None = None,
) -> Cameras:  # fmt: skip
    """Travel on a circle about the axis (3,) through pivot (3,), the picture turning along.

    Right-handed about the axis, which is up by default: positive degrees take the camera to its right.
    """
    pivot = np.asarray(pivot, np.float64)
    axis = mean_up(cameras) if axis is None else _direction(axis, "axis")
    turn = geometry.axis_rotation(axis, np.radians(degrees) * ramp(len(cameras), frames, ease))
    motion = np.tile(np.eye(4), (len(cameras), 1, 1))
    motion[:, :3, :3] = turn
    motion[:, :3, 3] = pivot - turn @ pivot
    return replace(cameras, c2w=motion @ cameras.c2w)


def dolly(
    cameras: Cameras, distance: float, frames: Frames = None, ease: str = "smooth",
    look_at: ArrayLike | None = None, up: ArrayLike | None = None,
) -> Cameras:  # fmt: skip
    """Travel forward along each frame's view axis (negative: back). look_at (3,) stays where it is in the picture."""
    offset = distance * cameras.c2w[:, :3, 2]
    return _travel(cameras, offset * ramp(len(cameras), frames, ease)[:, None], look_at, up)


def truck(
    cameras: Cameras, right: float = 0.0, down: float = 0.0, frames: Frames = None, ease: str = "smooth",
    look_at: ArrayLike | None = None, up: ArrayLike | None = None,
) -> Cameras:  # fmt: skip
    """Travel sideways along each frame's own right and down. look_at (3,) stays where it is in the picture."""
    offset = right * cameras.c2w[:, :3, 0] + down * cameras.c2w[:, :3, 1]
    return _travel(cameras, offset * ramp(len(cameras), frames, ease)[:, None], look_at, up)


def crane(
    cameras: Cameras, rise: float, pivot: ArrayLike, frames: Frames = None, ease: str = "smooth",
    up: ArrayLike | None = None,
) -> Cameras:  # fmt: skip
    """Rise along up (negative: sink) and tilt so that pivot (3,) stays where it is in the picture."""
    up = mean_up(cameras) if up is None else _direction(up, "up")
    return _travel(cameras, rise * ramp(len(cameras), frames, ease)[:, None] * up, pivot, up)


def push_in(
    cameras: Cameras, factor: float, pivot: ArrayLike, frames: Frames = None, ease: str = "smooth",
    keep_size: bool = False,
) -> Cameras:  # fmt: skip
    """Travel `factor` of the way to pivot (3,); below 0 pulls out.

    With keep_size it is a dolly zoom: the camera travels along its view axis by that share of the pivot's depth and
    the focal lengths follow, so that all that lies at the pivot's depth keeps its place and size in the picture.
    """
    if not factor < 1:
        raise BadShot(f"is {factor}.", "factor", "Use less than 1: at 1 the camera has arrived at the pivot.")
    pivot = np.asarray(pivot, np.float64)
    share = factor * ramp(len(cameras), frames, ease)
    way = pivot - cameras.c2w[:, :3, 3]
    if not keep_size:
        return _travel(cameras, share[:, None] * way)
    forward = cameras.c2w[:, :3, 2]
    depth = np.einsum("ti,ti->t", way, forward)
    if (depth <= 0).any():
        raise BadShot(
            f"the pivot lies behind the camera at frame {int(np.argmax(depth <= 0))}.",
            "pivot",
            "Use a pivot in front of the camera, or no keep_size.",
        )
    K = cameras.K.copy()
    K[:, [0, 0, 1], [0, 1, 1]] *= (1 - share)[:, None]
    return replace(_travel(cameras, (share * depth)[:, None] * forward), K=K)


def look_at(
    cameras: Cameras, pivot: ArrayLike, frames: Frames = None, ease: str = "smooth", up: ArrayLike | None = None
) -> Cameras:
    """Turn from where each frame looks until pivot (3,) lies on the view axis, upright; the camera stays in place."""
    up = mean_up(cameras) if up is None else _direction(up, "up")
    aimed = _orientation(np.asarray(pivot, np.float64) - cameras.c2w[:, :3, 3], up)
    weight = ramp(len(cameras), frames, ease)
    own = geometry.quaternion_from_matrix(cameras.c2w[:, :3, :3])
    between = geometry.slerp(own, geometry.quaternion_from_matrix(aimed), weight)
    c2w = cameras.c2w.copy()
    begun = weight > 0
    c2w[begun, :3, :3] = geometry.matrix_from_quaternion(between)[begun]
    return replace(cameras, c2w=c2w)


def freeze(cameras: Cameras, at: int) -> Cameras:
    """Hold pose and K of frame `at` in all frames."""
    if not 0 <= at < len(cameras):
        raise BadShot(f"is frame {at}.", "at", f"Use 0 .. {len(cameras) - 1}.")
    held = np.full(len(cameras), at)
    return replace(cameras, c2w=cameras.c2w[held], K=cameras.K[held])


def offset(cameras: Cameras, translate: ArrayLike, rotation: ArrayLike, focal: ArrayLike) -> Cameras:
    """Displace each frame: translate (T, 3) world, rotation (T, 3, 3) in world axes about the camera's own place,
    focal (T,) factors of the focal lengths."""
    c2w, K = cameras.c2w.copy(), cameras.K.copy()
    c2w[:, :3, :3] = np.asarray(rotation, np.float64) @ c2w[:, :3, :3]
    c2w[:, :3, 3] += np.asarray(translate, np.float64)
    K[:, [0, 0, 1], [0, 1, 1]] *= np.asarray(focal, np.float64)[:, None]
    return replace(cameras, c2w=c2w, K=K)


# ------------------------------------------------------------------------------- what moves refer to in a shot


def mean_up(cameras: Cameras) -> Array:
    """World direction (3,) that is up in the picture on average. Raises BadShot when the camera rolls all around."""
    up: Array = -cameras.c2w[:, :3, 1].mean(0)
    length = np.linalg.norm(up)
    if length < 0.1:
        raise BadShot(
            "the camera rolls so far that it has no mean up direction.", "camera", "Give the axis, or use another move."
        )
    return up / length


def default_pivot(solve: Solve, object_number: int | None = None, frames: Frames = None) -> Array:
    """The world point (3,) that a move turns about when the artist names none.

    Of an object: the median of its visible tracks over `frames` (over all frames, then over hidden tracks too, when
    it is not seen there). Of the whole shot (None or the background): the point on the middle frame's view axis at
    the median depth of the visible tracks. Raises BadShot for an object without tracks.
    """
    start, stop = check_frames(len(solve), frames)
    if object_number is None or object_number == BACKGROUND:
        middle = (start + stop) // 2
        pose = solve.cameras.c2w[middle]
        return np.asarray(pose[:3, 3] + median_depth(solve, middle) * pose[:3, 2])
    own = solve.tracks.objects == object_number
    positions, visible = solve.tracks.positions[:, own], solve.tracks.visibility[:, own]
    in_range = np.zeros(len(solve), bool)
    in_range[start:stop] = True
    for chosen in (visible & in_range[:, None], visible, np.ones_like(visible)):
        if chosen.any():
            return np.asarray(np.median(positions[chosen], axis=0))
    name = solve.object_names.get(object_number, f"object {object_number}")
    raise BadShot(f'object "{name}" has no tracks.', "pivot", "Use another object, or give a point.")


def median_depth(solve: Solve, frame: int) -> float:
    """Median depth (world units) of the tracks visible at `frame`: the shot's natural unit of length at frame 0.

    Falls back to the visible tracks of all frames, then to the depth maps. Raises BadShot when there is neither.
    """
    _, depth = solve.cameras.project(solve.tracks.positions)
    seen = solve.tracks.visibility & (depth > 0)
    maps = np.zeros((len(solve), 0, 0)) if solve.depth is None else solve.depth
    for values, known in ((depth[frame], seen[frame]), (depth, seen), (maps[frame], maps[frame] > 0), (maps, maps > 0)):
        if known.any():
            return float(np.median(values[known]))
    raise BadShot(
        "has neither visible tracks nor depth maps, so that its scale is unknown.",
        "solve",
        'Give pivots as points and distances in "world" units.',
    )


# ----------------------------------------------------------------------------------------------------- helpers


def _travel(cameras: Cameras, by: Array, keep: ArrayLike | None = None, up: ArrayLike | None = None) -> Cameras:
    """Cameras displaced by (T, 3) world; the point `keep` (3,), if any, stays where it is in the picture."""
    c2w = cameras.c2w.copy()
    c2w[:, :3, 3] += by
    if keep is not None:
        up = mean_up(cameras) if up is None else _direction(up, "up")
        keep = np.asarray(keep, np.float64)
        before = _orientation(keep - cameras.c2w[:, :3, 3], up)
        after = _orientation(keep - c2w[:, :3, 3], up)
        moved = by.any(1)
        turn = after @ np.swapaxes(before, 1, 2)
        c2w[moved, :3, :3] = (turn @ c2w[:, :3, :3])[moved]
    return replace(cameras, c2w=c2w)


def _orientation(toward: Array, up: Array) -> Array:
    """Upright camera rotations (T, 3, 3) that look along `toward` (T, 3). Turning from one to another keeps the
    horizon, which the smallest rotation between two directions would not."""
    sideways = np.linalg.norm(np.cross(toward, up), axis=1)
    bad = np.flatnonzero(sideways <= 1e-9 * np.linalg.norm(toward, axis=1).max())
    if len(bad):
        raise BadShot(
            f"the camera is at the pivot, or right above or below it, at frame {bad[0]}.",
            "pivot",
            "Use another pivot, or a smaller move.",
        )
    return geometry.look_at(np.zeros(3), toward, -up)[:, :3, :3]


def _direction(vector: ArrayLike, where: str) -> Array:
    vector = np.asarray(vector, np.float64)
    length = np.linalg.norm(vector)
    if not (np.isfinite(length) and length > 0):
        raise BadShot(f"is {vector.tolist()}.", where, "Use a direction: three numbers, not all zero.")
    return np.asarray(vector / length)
