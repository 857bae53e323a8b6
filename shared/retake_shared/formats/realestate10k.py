"""A RealEstate10K pose file: a URL, then lines of `time_us fx fy cx cy 0 0` and the 12 values of w2c 3x4.

The intrinsics are shares of the picture's width and height.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import geometry
from ..shot import Cameras, Footage, Solve, Tracks
from . import camera_path, mending, posed_depth, textfile
from .hints import Hints

NAME = "RealEstate10K"
LOOKED_FOR = "a URL, then lines of time fx fy cx cy 0 0 and a matrix 3x4"


def recognises(path: Path) -> bool:
    """A line that is no row of numbers, then 19 numbers a line."""
    lines = [line for line in textfile.head(path).splitlines()[:6] if line.strip()]
    skip = 0 if lines and len(lines[0].split()) == 19 else 1
    rows = [line.split() for line in lines[skip:3]]
    try:
        return bool(rows) and all(len([float(word) for word in row]) == 19 for row in rows)
    except ValueError:
        return False


def read(path: Path, footage: Footage | None, hints: Hints) -> tuple[Solve, list[str]]:
    """The camera, and notes. Raises BadFile."""
    first = textfile.head(path).splitlines()[0]
    rows = textfile.table(path, (19,), skip=0 if len(first.split()) == 19 else 1)
    w2c, notes = mending.poses(rows[:, 7:].reshape(-1, 3, 4), str(path), world_to_camera=True)
    size, size_notes = hints.picture_size(footage)
    shares, K_notes = mending.intrinsics(geometry.intrinsics(*rows[:, 1:5].T), len(rows), str(path))
    K = np.diag([size[0], size[1], 1.0]) @ shares
    c2w = geometry.invert_rigid(w2c)
    order, at, time_notes = camera_path.frame_times(rows[:, 0] / 1e6, footage, str(path))
    times = (rows[order, 0] - rows[order[0], 0]) / 1e6
    path_on_frames = geometry.interpolate_poses(times, c2w[order], at)
    K = geometry.sample_rows(K[order], np.interp(at, times, np.arange(len(times))))
    solve = Solve(
        Cameras(path_on_frames, K, *size),
        Tracks.empty(len(at)),
        source=f"{NAME}, poses read as world-to-camera",
    )
    return solve, [posed_depth.no_tracks(NAME), *notes, *size_notes, *K_notes, *time_notes]
