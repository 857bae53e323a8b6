"""Nuke's .chan: one line a frame, `frame tx ty tz rx ry rz fov`.

The camera looks along its -z with y up, in the content's world as it is. Rotations are degrees about x, y, z in the
order ZXY, Nuke's default (z first, then x, then y: R = Ry Rx Rz), continuous from frame to frame; fov is the vertical
field of view in degrees. The file has no place for a principal point off the centre, nor for pixels that are not
square: what is lost is told.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..geometry import Array
from ..shot import Cameras
from .content import Content
from .files import number, write_text

OPENCV_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def write(path: Path, content: Content, *, start: int = 1) -> list[str]:
    """Write the camera. start: the number that footage frame 0 has in the file."""
    cameras = content.cameras
    location, rotation = cameras.c2w[:, :3, 3], zxy_degrees(cameras)
    fov = np.degrees(2 * np.arctan(cameras.height / 2 / cameras.K[:, 1, 1]))
    lines = []
    for row, values in enumerate(np.concatenate([location, rotation, fov[:, None]], 1)):
        lines.append("\t".join([str(start + content.first + row), *map(number, values)]))
    write_text(path, "\n".join(lines) + "\n")
    notes = ["Read it with the rotation order ZXY, Nuke's default; the last column is the vertical field of view."]
    return notes + _lost(cameras)


def zxy_degrees(cameras: Cameras) -> Array:
    """Rotations (T, 3) about x, y, z in degrees, R = Ry Rx Rz, of cameras that look along -z; without jumps."""
    R = (cameras.c2w @ OPENCV_TO_OPENGL)[:, :3, :3]
    x = np.arcsin(np.clip(-R[:, 1, 2], -1, 1))
    y, z = np.arctan2(R[:, 0, 2], R[:, 2, 2]), np.arctan2(R[:, 1, 0], R[:, 1, 1])
    upright = np.hypot(R[:, 1, 0], R[:, 1, 1]) < 1e-9  # straight up or down: y and z turn about one axis
    y = np.where(upright, np.arctan2(-R[:, 2, 0], R[:, 0, 0]), y)
    angles = np.stack([x, y, np.where(upright, 0.0, z)], 1)
    for frame in range(1, len(angles)):
        before, now = angles[frame - 1], angles[frame]
        other = np.array([np.pi - now[0], now[1] + np.pi, now[2] + np.pi])  # the same rotation
        options = [choice - 2 * np.pi * np.round((choice - before) / (2 * np.pi)) for choice in (now, other)]
        angles[frame] = min(options, key=lambda choice: float(np.abs(choice - before).sum()))
    degrees: Array = np.degrees(angles)
    return degrees


def _lost(cameras: Cameras) -> list[str]:
    """How far the picture shifts or stretches for what the file cannot say."""
    notes = []
    centre = np.array([cameras.width / 2, cameras.height / 2])
    shift = float(np.abs(cameras.K[:, :2, 2] - centre).max())
    if shift > 0.05:
        notes.append(f"The principal point lies up to {shift:.1f} px off the centre, which .chan cannot hold.")
    aspect = float(np.abs(cameras.K[:, 0, 0] / cameras.K[:, 1, 1] - 1).max())
    if aspect * cameras.width / 2 > 0.05:
        notes.append(f"Pixels are not square (fx : fy is off by {aspect:.2%}), which .chan cannot hold.")
    return notes
