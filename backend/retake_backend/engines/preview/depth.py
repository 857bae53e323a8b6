"""The depth of one picture of the footage, everywhere in it: measured where the solve has maps, else from tracks."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.shot import BACKGROUND, Cameras, Solve

from .grids import Map
from .mattes import Mattes
from .plates import chosen_frames, is_static
from .surfaces import Surface, Surfaces

Picture = NDArray[np.uint8]


def depth_maps(solve: Solve, frames: NDArray[np.int64]) -> Map | None:
    """The solve's maps (n, h, w) of these frames at the scale of its tracks, 0 where unknown; None when it has none."""
    if solve.depth is None:
        return None
    surfaces = Surfaces(solve, solve.cameras, _no_picture)
    return np.stack([surfaces.depth_map(int(frame)) for frame in frames])


def dense_depth(
    solve: Solve, cameras: Cameras, frame: int, picture: Callable[[int], Picture], tick: Callable[[], None]
) -> Map:
    """Camera-space z (H, W) of frame `frame`, 0 where nothing is known (no track and no map: everywhere).

    cameras: the solve's at the size H, W of the pictures. picture: gives a frame's rgb (H, W, 3) at that size. tick:
    called now and then; may raise Cancelled. Without maps, background and objects are smooth surfaces through their
    tracks, each where the preview sees it.
    """
    surfaces = Surfaces(solve, cameras, picture)
    if not surfaces.known:
        return np.zeros((cameras.height, cameras.width), np.float32)
    measured = surfaces.measured(frame)
    if measured is not None:
        return _depth_of(measured, cameras)
    depth = _depth_of(surfaces.smooth(BACKGROUND, frame), cameras)
    mattes = Mattes(solve, surfaces, picture)
    if mattes.numbers:
        depths = surfaces.depth[surfaces.visible]
        static = is_static(surfaces.cameras, float(np.quantile(depths, 0.02)) if len(depths) else 1.0)
        mattes.learn(chosen_frames(0, len(solve), 16), static, tick)
        for number, matte in mattes.frame(frame).items():
            depth = np.where(matte > 127, _depth_of(surfaces.smooth(number, frame), cameras), depth)
    return depth


def _depth_of(surface: Surface, cameras: Cameras) -> Map:
    disparity = surface.grid.to_picture(surface.disparity, cameras.width, cameras.height, cv2.INTER_LINEAR)
    return np.divide(1, disparity, out=np.zeros_like(disparity), where=disparity > 0)


def _no_picture(frame: int) -> Picture:
    raise RuntimeError("depth maps are scaled without looking at pictures")
