"""The camera that a video shows: the project's tracker, then COLMAP's global mapper in a process of its own.

The lens is given, and only the path is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.shot import Cameras

from ..solve import points
from ..solve.colmap_process import solve_keyframes

MOST_FRAMES, MOST_POINTS = 41, 1500
_PATIENCE = 1800.0
"""s. A mapper takes half a minute; a busy machine must not turn that into a clip that cannot be solved."""
_LEAST_SHARE = 0.5
"""Of the frames that were asked for: a mapper that places fewer has not solved the clip."""


@dataclass(frozen=True)
class Path:
    """Poses of some frames of a video. frames: (k,) int64. c2w: (k, 4, 4), any origin, axes and scale."""

    frames: NDArray[np.int64]
    c2w: NDArray[np.float64]


def camera_path(video: NDArray[np.uint8], lens: Cameras, check: Callable[[], None]) -> Path | None:
    """The camera's path through video (F, H, W, 3), at most MOST_FRAMES of its frames; None when it cannot be solved.

    lens: cameras of the video's frames, of which only K is used. check: called often; may raise Cancelled.
    """
    height, width = video.shape[1:3]
    grey = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in video]
    followed = points.select(points.follow(grey, lambda progress: check()), (width, height), MOST_POINTS)
    if not len(followed):  # black, or nothing in it
        return None
    frames = np.unique(np.linspace(0, len(video) - 1, min(MOST_FRAMES, len(video))).round().astype(np.int64))
    K = lens.resized(width, height).K[frames]
    focal = float(np.sqrt(K[:, 0, 0] * K[:, 1, 1]).mean())
    uv = _through_one_lens(followed.uv[frames], K, focal, (width, height))
    mapped, _ = solve_keyframes(uv, (width, height), focal, True, False, check, ("global",), patience=_PATIENCE)
    if not mapped or len(mapped[0].rows) < max(3, _LEAST_SHARE * len(frames)):
        return None
    return Path(frames[mapped[0].rows], mapped[0].c2w)


def _through_one_lens(
    uv: NDArray[np.float32], K: NDArray[np.float64], focal: float, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Where points (k, N, 2) of frames with lenses K (k, 3, 3) lie for one of `focal` px with its centre in the middle."""
    y = (uv[..., 1] - K[:, None, 1, 2]) / K[:, None, 1, 1]
    x = (uv[..., 0] - K[:, None, 0, 2] - K[:, None, 0, 1] * y) / K[:, None, 0, 0]
    return np.stack([focal * x + size[0] / 2, focal * y + size[1] / 2], -1).astype(np.float32)
