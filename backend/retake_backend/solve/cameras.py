"""Cameras for every frame from followed points, and which of the points stand still."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Report
from .stages import CameraSolve, Focal, PointTracks

VERSION = 1


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
    result), or None. Same points, same cameras. Raises Cancelled, and RetakeError where no camera can be told: too
    few points, too few that agree on one motion.
    """
    raise NotImplementedError
