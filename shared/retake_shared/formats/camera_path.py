"""What files of nothing but poses have in common: which pose is which frame's, and a lens that they do not tell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..errors import BadFile
from ..shot import Cameras, Footage, Solve, Tracks
from . import mending, posed_depth
from .hints import Hints

_EVEN = 0.1
"""How far, in steps, a time may lie from an even grid to count as lying on it."""


def assemble(
    where: str,
    solver: str,
    poses: NDArray,
    footage: Footage | None,
    hints: Hints,
    *,
    reading: str = "camera-to-world",
    times: NDArray | None = None,
    whole: bool = False,
) -> tuple[Solve, list[str]]:
    """The Solve of c2w poses (S, 4, 4) with OpenCV axes, a lens by `hints`, and notes.

    reading: how the file wrote the poses, in words. times (S,) in seconds, or frame numbers (whole), tell which frames
    the poses belong to: see `frame_times`.
    """
    c2w, notes = mending.poses(poses, where, world_to_camera=False)
    if times is not None:
        c2w, time_notes = on_frames(c2w, times, footage, where, whole=whole)
        notes += time_notes
    size, size_notes = hints.picture_size(footage)
    K, lens_notes = hints.lens(size, len(c2w))
    cameras = Cameras(c2w, K, *size)
    solve = Solve(cameras, Tracks.empty(len(c2w)), source=f"{solver}, poses read as {reading}")
    return solve, [posed_depth.no_tracks(solver), *notes, *size_notes, *lens_notes]


def on_frames(
    c2w: geometry.Array, times: NDArray, footage: Footage | None, where: str, *, whole: bool = False
) -> tuple[geometry.Array, list[str]]:
    """Poses (T, 4, 4), one a frame, from c2w (S, 4, 4) at `times` (S,)."""
    order, at, notes = frame_times(times, footage, where, whole=whole)
    times = np.asarray(times, np.float64)[order]
    return geometry.interpolate_poses(times - times[0], c2w[order], at), notes


def frame_times(
    times: NDArray, footage: Footage | None, where: str, *, whole: bool = False
) -> tuple[NDArray[np.intp], geometry.Array, list[str]]:
    """Which rows to use, in order of time (S,), the times (T,) of the frames after the first row's, and notes.

    One pose for every frame of the footage, or no footage: poses are frames, in order of time, and gaps in an even
    grid of times are filled. Else the times tell: whole ones count frames (from 0, or from 1 if only so they end with the
    footage; the camera stands still before its first pose), others are seconds from the footage's
    first frame on, whose pose the first one is taken for.
    """
    times = np.asarray(times, np.float64)
    if not (np.isfinite(times).all() and np.ptp(times) < 1e12):
        raise BadFile("not every pose has a time.", where, "Export the poses again.")
    unique, order = np.unique(times, return_index=True)
    notes = [] if len(unique) == len(times) else [f"{len(times) - len(unique)} poses share a time; the first is used."]
    relative = unique - unique[0]
    count = len(unique)
    if count == 1 or (footage is not None and count == footage.frames):
        return order, relative, notes
    if footage is not None and not whole:
        fps = float(footage.fps)
        frames = int(np.floor(relative[-1] * fps + 0.5)) + 1
        if frames < 2:
            return order, relative, notes
        step = float(np.median(np.diff(relative))) * fps
        if abs(step - 1) > _EVEN or frames != count:
            frames = min(frames, footage.frames)
            notes.append(
                f"The poses are {1 / step * fps:.4g} a second, the footage has {fps:.4g} frames a second: poses are "
                "interpolated at the frames' times, the first pose taken for the first frame."
            )
            return order, np.arange(frames) / fps, notes
        return order, relative, notes
    step = 1.0 if whole else float(np.median(np.diff(relative)))
    position = relative / step
    number = np.rint(position)
    if np.abs(position - number).max() > _EVEN or (np.diff(number) < 1).any() or number[-1] > 20 * count + 1000:
        return order, relative, notes
    before = 0  # frames before the first pose, where whole numbers tell that there are some
    if whole and footage is not None and unique[0] > 1 and unique[-1] <= footage.frames:
        before = int(unique[0]) - int(unique[-1] == footage.frames)
    at = np.arange(-before, int(number[-1]) + 1)
    missing = np.setdiff1d(at, number) + before
    if not len(missing):
        return order, relative, notes
    notes.append(f"No pose for {mending.name_frames(missing)}: interpolated from the neighbours.")
    return order, np.interp(at, number, relative), notes


def poses_of(position: NDArray, wxyz: NDArray, where: str) -> geometry.Array:
    """Matrices (S, 4, 4) of positions (S, 3) and quaternions w x y z (S, 4). Raises BadFile naming a row at fault."""
    length = np.linalg.norm(np.where(np.isfinite(wxyz), wxyz, 0.0), axis=1)
    bad = np.flatnonzero((np.abs(length - 1) > 0.05) | ~np.isfinite(wxyz).all(1))
    if len(bad):
        raise BadFile(
            f"the quaternion {np.round(wxyz[bad[0]], 4).tolist()} of pose {bad[0]} is not of length 1.",
            where,
            "Check that the columns are in the order that this format has.",
        )
    poses = np.tile(np.eye(4), (len(position), 1, 1))
    poses[:, :3, :3] = geometry.matrix_from_quaternion(wxyz)
    poses[:, :3, 3] = position
    return poses
