"""An EuRoC trajectory: CSV of `timestamp [ns], px, py, pz, qw, qx, qy, qz`, then velocities and biases in some; c2w."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..shot import Footage, Solve
from . import camera_path, textfile
from .hints import Hints

NAME = "EuRoC trajectory"
LOOKED_FOR = "CSV lines of t[ns], px, py, pz, qw, qx, qy, qz"

_COLUMNS = (8, 17)


def recognises(path: Path) -> bool:
    """CSV whose times are nanoseconds, columns 5 to 8 a unit quaternion."""
    rows = textfile.first_rows(path)
    if not rows or "," not in textfile.head(path):
        return False
    return all(len(row) in _COLUMNS and row[0] > 1e6 and abs(np.linalg.norm(row[4:8]) - 1) < 0.05 for row in rows)


def read(path: Path, footage: Footage | None, hints: Hints) -> tuple[Solve, list[str]]:
    """The camera, and notes. Raises BadFile."""
    rows = textfile.table(path, _COLUMNS)
    poses = camera_path.poses_of(rows[:, 1:4], rows[:, 4:8], str(path))
    solve, notes = camera_path.assemble(str(path), NAME, poses, footage, hints, times=(rows[:, 0] - rows[0, 0]) / 1e9)
    if "state_groundtruth" in str(path):
        notes.append("EuRoC's own ground truth is the pose of the body (its IMU), not of a camera.")
    return solve, notes
