"""Tracks by where they are in the picture: in a box, or in a painted mask."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.errors import BadFile, BadShot
from retake_shared.shot import Solve


def rows_in_box(
    solve: Solve, frame: int, box: tuple[float, float, float, float], hidden: bool = False
) -> NDArray[np.int64]:
    """Rows of the tracks whose footage position at that frame lies in box = (left, top, right, bottom) px.

    hidden: also those that something covers at that frame. Raises BadShot for a frame outside the solve.
    """
    left, top, right, bottom = box
    uv, inside = _in_picture(solve, frame, hidden)
    with np.errstate(invalid="ignore"):
        chosen = (uv[:, 0] >= left) & (uv[:, 0] < right) & (uv[:, 1] >= top) & (uv[:, 1] < bottom)
    return np.flatnonzero(inside & chosen)


def rows_in_mask(solve: Solve, frame: int, mask: NDArray[np.bool_], hidden: bool = False) -> NDArray[np.int64]:
    """Rows of the tracks whose footage position at that frame lies where mask (h, w), of any size, is True."""
    uv, inside = _in_picture(solve, frame, hidden)
    rows = np.flatnonzero(inside)
    scale = mask.shape[1] / solve.cameras.width, mask.shape[0] / solve.cameras.height
    x, y = np.floor(uv[rows] * scale).astype(int).T
    return rows[mask[np.clip(y, 0, mask.shape[0] - 1), np.clip(x, 0, mask.shape[1] - 1)]]


def _in_picture(solve: Solve, frame: int, hidden: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    if not 0 <= frame < len(solve):
        raise BadShot(f"is frame {frame}.", "frame", f"Use a frame of the shot, 0 .. {len(solve) - 1}.")
    cameras, tracks = solve.cameras, solve.tracks
    uv, depth = geometry.project(tracks.positions[frame], cameras.c2w[frame], cameras.K[frame])
    inside = geometry.inside_image(uv, depth, cameras.width, cameras.height)
    return uv, inside if hidden else inside & tracks.visibility[frame]


def load_mask(path: str) -> NDArray[np.bool_]:
    """The picture's bright, opaque pixels, (h, w) from the top left. Raises BadFile."""
    file = Path(bpy.path.abspath(path))
    if not file.is_file():
        raise BadFile("is not there.", str(file), "Choose a black and white picture.")
    image = bpy.data.images.load(str(file))
    try:
        width, height = image.size
        if not width or not height:
            raise BadFile("holds no picture that Blender can read.", str(file), "Use a PNG.")
        pixels = np.empty((height, width, image.channels), np.float32)
        image.pixels.foreach_get(pixels.ravel())
    finally:
        bpy.data.images.remove(image)
    colours = pixels[..., :3].max(-1)
    opaque = pixels[..., 3] > 0.5 if pixels.shape[-1] == 4 else True
    return ((colours > 0.5) & opaque)[::-1]
