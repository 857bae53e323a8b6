"""Cameras that stay in one place: those that do not move at all, and those that only turn, and zoom.

Depth does not follow from such shots, so no mapper is asked: points are directions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from retake_shared.shot import Cameras

from . import motion
from .adjustment import adjust
from .bundle import Bundle, Observations, medians
from .camera_job import ASSUMED_DEGREES, LEAST_SEEN, STILL, Job, zoom_note
from .refitting import all_frames, share_of, some_frames, trimmed
from .stages import CameraSolve
from .triangulation import directions, rays_of
from .unknowns import FocalUnknown


def standing(job: Job) -> CameraSolve:
    """A camera that does not move: every point that stays where it is, is static."""
    points = job.points
    uv = np.where(points.visible[..., None], points.uv, np.nan).astype(np.float64)
    place = np.nanmedian(uv, axis=0)
    residual = np.linalg.norm(uv - place, axis=-1)
    with np.errstate(invalid="ignore"):
        static = np.nanquantile(residual, 0.9, axis=0) < STILL
    frames = points.frame_count
    focal = job.guess
    bundle = Bundle(
        np.tile(np.eye(3), (frames, 1, 1)), np.zeros((frames, 3)), np.full(frames, focal), np.zeros((0, 3)), job.centre
    )
    notes = ["The camera does not move: depth cannot be measured in this shot, only guessed."]
    if job.focal is None:
        notes.append(_assumed(job))
    return CameraSolve(
        cameras=Cameras(bundle.c2w(), bundle.K(), *job.size),
        kind="static",
        world=np.full((job.count, 3), np.nan),
        static=job.all_points(static, False),
        residual=job.all_points(residual.astype(np.float32), np.nan),
        focal_source=job.focal.source if job.focal else "assumed",
        solved=np.ones(frames, bool),
        notes=tuple(notes),
    )


def turning_camera(job: Job, agree: NDArray[np.int64], keys: NDArray[np.int64], turn: motion.Turn) -> CameraSolve:
    """A camera that only turns: from some frames to all of them, and to all points."""
    small = turn.adjusted.bundle
    every = np.arange(job.points.frame_count)
    whole = small.between(keys, every)
    unknown: FocalUnknown = "fixed" if job.focal and not turn.zooms else "curve" if turn.zooms else "shared"
    frames = some_frames(every)
    used = agree[turn.used]
    seen = Observations.of(job.points.select(used), frames)
    start = replace(whole.at(frames), X=small.X)
    adjusted = adjust(
        start, seen, positions=False, focal=unknown, guess=job.expected, times=frames, iterations=20, check=job.check
    )
    job.at(4)
    adjusted = trimmed(adjusted, seen, frames, job, unknown, positions=False)
    whole = all_frames(job, adjusted.bundle, frames, used, positions=False)
    seen = Observations.of(job.points)
    rays = rays_of(replace(whole, X=np.zeros((seen.points, 3))), seen)
    X = directions(rays, seen)
    whole = replace(whole, X=X)
    error = whole.errors(seen)
    static = medians(error, seen) < STILL
    static &= share_of(error < 2.5 * STILL, seen) > 0.7
    residual = np.full(job.points.visible.shape, np.nan, np.float32)
    residual[seen.frame, seen.point] = error
    notes = [
        "The camera turns without moving: depth cannot be measured in this shot, only guessed.",
    ]
    if turn.zooms:
        notes.append(zoom_note(whole.f))
    source = job.focal.source if job.focal else "estimated from the points"
    if job.focal is None and not adjusted.focal_error < 0.1:
        source = "assumed"
        notes.append(
            "The camera turns too little to tell its focal length; it is mostly a guess. Give it if you know it."
        )
    return CameraSolve(
        cameras=Cameras(whole.c2w(), whole.K(), *job.size),
        kind="rotation",
        world=np.full((job.count, 3), np.nan),
        static=job.all_points(static, False),
        residual=job.all_points(residual, np.nan),
        focal_source=source,
        solved=job.points.select(static).visible.sum(1) >= LEAST_SEEN,
        notes=tuple(notes),
    )


def _assumed(job: Job) -> str:
    return (
        f"The focal length cannot be told from this shot; {job.guess / max(job.size) * 36:.0f} mm on a 36 mm sensor "
        f"({ASSUMED_DEGREES:.0f} degrees) is assumed. Give it if you know it."
    )
