"""Cameras for every frame from followed points, and which of the points stand still.

What kind of shot it is comes first (`motion.py`): a camera that does not move, or only turns, has no depth to be
found, and a mapper would invent some (`tripod.py`). Only a camera that moves goes to COLMAP's mappers (`moving.py`),
with keyframes and the points that agree with the picture's main motion. Then it is fitted as exactly as the points were
followed, for all frames and points (`assembly.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot

from ..engines.base import Report
from . import motion
from .assembly import assembled
from .camera_job import LEAST_POINTS, Job
from .consensus import SHARP
from .moving import find_moving
from .stages import CameraSolve, Focal, PointTracks
from .tripod import standing, turning_camera

VERSION = 6

_TURNED = 16  # keyframes that tell whether the camera only turns


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
    result), or None. Same points, same cameras. Raises Cancelled, and BadShot where no camera can be told: too few
    points, too few that agree on one motion.
    """
    job = Job.of(points, size, focal, static_hint, report)
    job.at(0)
    if points.frame_count == 1 or motion.stands_still(job.points, size):
        return standing(job)
    votes, cast = motion.agreement(job.points, job.check)
    agree = (cast == 0) | (votes >= 0.6 * cast)
    if agree.sum() < LEAST_POINTS:
        raise BadShot(
            f"only {int(agree.sum())} of {len(job.points)} points agree on one motion of the camera.",
            "camera solve",
            "Mask what moves, or use a clip in which more stands still.",
        )
    job.at(1)
    arc = motion.arc_length(job.points)
    keys = motion.keyframes(arc)
    few = keys[np.unique(np.linspace(0, len(keys) - 1, min(len(keys), _TURNED)).round().astype(int))]
    turning = motion.turn(job.points.select(agree), few, size, job.given, job.guess, job.check)
    exact = motion.exactness(job.points, job.check)
    if turning is not None and turning.typical < min(2 * exact, 0.5) and turning.explained > 0.85:
        return turning_camera(job, np.flatnonzero(agree), few, turning)
    job.at(2)
    moving = find_moving(job, np.flatnonzero(agree), keys, few, turning, SHARP * exact)
    if turning is not None and (turning.typical < 2.0 or moving is None) and turning.explained > 0.5:
        worth = moving is not None and moving.typical < 0.6 * turning.typical
        if not worth:
            return turning_camera(job, np.flatnonzero(agree), few, turning)
    if moving is None:
        raise BadShot(
            "no camera explains how the points move.",
            "camera solve",
            "Give the focal length if you know it, mask what moves, or choose a range in which the camera moves more.",
        )
    return assembled(job, moving, SHARP * exact)
