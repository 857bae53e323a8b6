"""How far the camera that a video shows goes along the one that was asked for.

Poses are (T, 4, 4) camera to world, OpenCV axes; estimated ones come without a scale. Each pair of papers reads
"rotation error" and "translation error" in its own way, so each reading has its name here. `solve.ate` is the absolute
trajectory error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from retake_shared.geometry import invert_rigid

from .solve import align_positions, angles

Array = NDArray[np.float64]

_STILL = 1e-9


def relative(c2w: Array) -> Array:
    """The same poses in the axes of the first camera."""
    moved: Array = invert_rigid(c2w[0]) @ c2w
    return moved


def cameractrl_errors(c2w: Array, truth: Array, frames: int) -> tuple[float, float]:
    """RotErr and TransErr as CameraCtrl's code has them: sums over the clip, in radians and without unit.

    Poses relative to the first camera; each path is divided by its own greatest distance from there. frames: of the
    clip; where poses are of some of them only the sums are scaled up, or a take would gain by frames that are not solved.
    """
    own, true = relative(c2w), relative(truth)
    rotation = angles(own[:, :3, :3], true[:, :3, :3]).sum()
    own_path, true_path = (
        path / (np.linalg.norm(path, axis=1).max() + _STILL) for path in (own[:, :3, 3], true[:, :3, 3])
    )
    translation = np.linalg.norm(own_path - true_path, axis=1).sum()
    return float(rotation * frames / len(c2w)), float(translation * frames / len(c2w))


def track2view_errors(c2w: Array, truth: Array) -> tuple[float, float]:
    """RotErr in degrees and TransErr as Track2View's text has them: means over the clip.

    Poses relative to the first camera; the path is scaled so that the distance of the first two cameras is the true
    one, and TransErr is in the truth's units. nan where either camera has not moved between these two.
    """
    own, true = relative(c2w), relative(truth)
    rotation = float(np.degrees(angles(own[:, :3, :3], true[:, :3, :3])).mean())
    step, true_step = (float(np.linalg.norm(path[1, :3, 3])) for path in (own, true))
    if min(step, true_step) <= _STILL:
        return rotation, float("nan")
    apart = np.linalg.norm(own[:, :3, 3] * (true_step / step) - true[:, :3, 3], axis=1)
    return rotation, float(apart.mean())


def rpe(c2w: Array, truth: Array) -> tuple[float, float]:
    """Relative pose error over consecutive frames: RMS of its translation (truth's units) and of its angle (degrees).

    The path is first brought to the truth by `align_positions`, scale included (Umeyama).
    """
    own = align_positions(c2w[:, :3, 3], truth[:, :3, 3]).poses(c2w)
    step = invert_rigid(own[:-1]) @ own[1:]
    true_step = invert_rigid(truth[:-1]) @ truth[1:]
    error = invert_rigid(true_step) @ step
    translation = np.linalg.norm(error[:, :3, 3], axis=1)
    angle = np.degrees(angles(error[:, :3, :3], np.broadcast_to(np.eye(3), error[:, :3, :3].shape)))
    return float(np.sqrt((translation**2).mean())), float(np.sqrt((angle**2).mean()))
