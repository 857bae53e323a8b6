"""From the frames and points of a moving camera that were adjusted together to all of them, as exactly as can be.

First the cameras are fitted as exactly as the points were followed (`consensus.py`), and the bend of the lens with them
where that helps. Then every frame has a camera, every point a place, and it is told which points stand still and how
well the focal length and the depths are known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

from .adjustment import Adjusted, adjust
from .bundle import Array, Bundle, Observations, cost, medians, undistort
from .camera_job import LEAST_POINTS, LEAST_SEEN, STILL, Job, zoom_note
from .consensus import Fit, settled, unbent
from .moving import Moving
from .refitting import all_frames, quality, share_of
from .stages import CameraSolve, Kind
from .triangulation import triangulate
from .unknowns import FocalUnknown

LITTLE_PARALLAX = 1.0
"""Degrees, median over the points, under which depths are not known well."""


def assembled(job: Job, moving: Moving, sharp: float) -> CameraSolve:
    """Cameras of all frames, and all points. sharp: px, where a sighting begins not to count."""
    adjusted, notes = _sharpened(job, moving, sharp)
    usual = quality(adjusted.bundle, Observations.of(job.points.select(moving.used), moving.frames))[0]
    job.at(5)
    whole, seen, angle = _placed(job, all_frames(job, adjusted.bundle, moving.frames, moving.used), sharp)
    static = _stand_still(whole, seen, usual)
    solved = job.points.select(static).visible.sum(1) >= LEAST_SEEN
    if static.sum() < LEAST_POINTS or solved.mean() < 0.5:
        raise BadShot(
            f"the camera explains only {int(static.sum())} of {len(job.points)} points.",
            "camera solve",
            "Mask what moves, give the focal length if you know it, or choose a shorter range.",
        )
    typical_angle = float(np.median(angle[static]))
    kind: Kind = "moving"
    if typical_angle < LITTLE_PARALLAX:
        kind = "little parallax"
        notes.append(f"The camera moves little ({typical_angle:.1f} degrees of parallax): depths are rough.")
    if moving.zooms:
        notes.append(zoom_note(whole.f))
    source = job.focal.source if job.focal else "estimated from the points"
    if job.focal is None and (kind == "little parallax" or not adjusted.focal_error < 0.05):
        source = "estimated from the points, roughly"
        notes.append("The camera's path tells the focal length only roughly. Give it if you know it.")
    if not solved.all():
        notes.append(f"{int((~solved).sum())} frames show too few points; their cameras were interpolated.")
    notes.append(f"Begun from {moving.begun}.")
    residual = np.full(job.points.visible.shape, np.nan, np.float32)
    residual[seen.frame, seen.point] = whole.errors(seen)
    return CameraSolve(
        cameras=Cameras(whole.c2w(), whole.K(), *job.size),
        kind=kind,
        world=job.all_points(whole.X, np.nan),
        static=job.all_points(static, False),
        residual=job.all_points(residual, np.nan),
        focal_source=source,
        solved=solved,
        notes=tuple(notes),
        distortion=(whole.k1,) if whole.k1 else (),
        undistorted=straightened(job, whole) if whole.k1 else None,
    )


def _sharpened(job: Job, moving: Moving, sharp: float) -> tuple[Adjusted, list[str]]:
    """The cameras fitted to within `sharp` px, without what moves along with them, and with a lens that bends if it
    does; and what of that is to be told."""
    notes = []
    tracks = job.points.select(moving.used)
    seen = Observations.of(tracks, moving.frames)
    unknown: FocalUnknown = "curve" if moving.zooms else "fixed" if job.focal else "shared"
    fit = Fit(sharp, unknown, job.expected, moving.frames, job.check)
    begun = moving.adjusted.bundle
    start = unbent(tracks, moving.frames, begun, job.size, fit)
    if start is not begun:
        notes.append("Something moves along with the camera; without it the rest fits far better, so it was left out.")
    adjusted = settled(start, seen, fit, begin=2 * sharp)
    lens = settled(adjusted.bundle, seen, fit, lens=True, begin=sharp)
    bends = lens.bundle.bend * float(np.hypot(*job.centre))
    gain = cost(lens.bundle, seen, sharp) / cost(adjusted.bundle, seen, sharp)
    if bends > sharp and gain < 0.97 and abs(lens.bundle.k1) < 0.6:
        adjusted = lens
        notes.append(f"The lens bends straight lines by up to {bends:.1f} px; the points were made straight.")
    return adjusted, notes


def _placed(job: Job, whole: Bundle, sharp: float) -> tuple[Bundle, Observations, Array]:
    """All points of the job before cameras of all frames, X nan where rays do not meet; the sightings of the others;
    and the parallax of all (N,), degrees."""
    seen = Observations.of(job.points)
    X, angle = triangulate(whole, seen)
    known = ~np.isnan(X[:, 0])
    sure = seen.only(known[seen.point])
    whole = adjust(
        replace(whole, X=np.nan_to_num(X)),
        sure,
        positions=False,
        rotations=False,
        smooth=0,
        scale=sharp,
        iterations=4,
    ).bundle
    return replace(whole, X=np.where(known[:, None], whole.X, np.nan)), sure, angle


def _stand_still(whole: Bundle, seen: Observations, usual: float) -> NDArray[np.bool_]:
    """(N,) whether a point is seen where the cameras put it, nearly always. usual: px, what they are typically off."""
    error = whole.errors(seen)
    front = whole.residuals(seen)[1]
    limit = max(STILL, 3 * usual)
    near = medians(error, seen) < limit
    still: NDArray[np.bool_] = near & np.equal(share_of(front, seen), 1) & (share_of(error < 2.5 * limit, seen) > 0.7)
    return still


def straightened(job: Job, whole: Bundle) -> NDArray[np.float32]:
    """(T, N, 2) px: where all points, masked ones too, would be seen through a lens that does not bend."""
    f = np.broadcast_to(whole.f[:, None], job.every.visible.shape)
    return undistort(job.every.uv.astype(np.float64), whole.k1, f, job.centre).astype(np.float32)
