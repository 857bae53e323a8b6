"""A KITTI trajectory: one line a frame, the 12 values of a c2w matrix 3x4, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..shot import Footage, Solve
from . import camera_path, textfile
from .hints import Hints

NAME = "KITTI trajectory"
LOOKED_FOR = "lines of 12 values of a matrix 3x4"


def recognises(path: Path) -> bool:
    """Twelve numbers a line, the left 3x3 of them a rotation."""
    rows = textfile.first_rows(path)
    return bool(rows) and all(len(row) == 12 and _rotates(row) for row in rows)


def _rotates(row: list[float]) -> bool:
    rotation = np.array(row).reshape(3, 4)[:, :3]
    return bool(np.abs(rotation @ rotation.T - np.eye(3)).max() < 0.02)


def read(path: Path, footage: Footage | None, hints: Hints) -> tuple[Solve, list[str]]:
    """The camera, and notes. Raises BadFile."""
    rows = textfile.table(path, (12,))
    return camera_path.assemble(str(path), NAME, rows.reshape(-1, 3, 4), footage, hints)
