"""A TUM trajectory, as RGB-D benchmarks, ORB-SLAM, DROID-SLAM and evo write it: `t tx ty tz qx qy qz qw`, c2w."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..shot import Footage, Solve
from . import camera_path, textfile
from .hints import Hints

NAME = "TUM trajectory"
LOOKED_FOR = "lines of t tx ty tz qx qy qz qw"


def recognises(path: Path) -> bool:
    """Eight numbers a line, the last four a unit quaternion."""
    rows = textfile.first_rows(path)
    return bool(rows) and all(len(row) == 8 and abs(np.linalg.norm(row[4:]) - 1) < 0.05 for row in rows)


def read(path: Path, footage: Footage | None, hints: Hints) -> tuple[Solve, list[str]]:
    """The camera, and notes. Raises BadFile."""
    rows = textfile.table(path, (8,))
    poses = camera_path.poses_of(rows[:, 1:4], rows[:, [7, 4, 5, 6]], str(path))
    times = rows[:, 0]
    whole = bool((times == np.rint(times)).all() and np.abs(times).max(initial=0) < 1e7)
    return camera_path.assemble(str(path), NAME, poses, footage, hints, times=times, whole=whole)
