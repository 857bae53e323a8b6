"""A COLMAP model as text: cameras.txt, images.txt, points3D.txt, and rigs.txt and frames.txt as written since 3.12.

Poses are w2c, OpenCV axes, quaternions w x y z (Hamilton); px with the top-left pixel's centre at (0.5, 0.5). Cameras
are PINHOLE (fx fy cx cy): one for all images when K does not change, else one for each. Images are numbered from 1 in
the order of frames. Points do not move in COLMAP: tracks that stand still become points, observed where they are
visible, at the place where the track itself projects; tracks that move are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..errors import RetakeError
from ..geometry import Array
from ..shot import frame_name
from .content import Content, static_tracks
from .files import number, write_text

GREY = 128
"""Colour of points whose colour nobody gave."""


def write(path: Path, content: Content, *, colours: NDArray[np.uint8] | None = None) -> list[str]:
    """Write the five files into the folder `path`. colours: (N, 3) uint8 RGB of the tracks.

    Raises RetakeError, also as `check_free` does.
    """
    check_free(path)
    cameras = content.cameras
    rows, points, errors = static_tracks(content)
    uv, depth = cameras.project(content.tracks.positions[:, rows])
    seen = content.tracks.visibility[:, rows] & geometry.inside_image(uv, depth, cameras.width, cameras.height)
    shared = bool(np.ptp(cameras.K, axis=0).max() == 0)
    camera_ids = np.ones(len(content), int) if shared else np.arange(len(content)) + 1
    w2c = geometry.invert_rigid(cameras.c2w)
    poses = np.concatenate([geometry.quaternion_from_matrix(w2c[:, :3, :3]), w2c[:, :3, 3]], 1)

    write_text(path / "cameras.txt", _cameras(content, 1 if shared else len(content)))
    write_text(path / "images.txt", _images(content, poses, camera_ids, uv, seen))
    colour = np.full((len(rows), 3), GREY, np.uint8) if colours is None else colours[rows]
    write_text(path / "points3D.txt", _points(points, colour, errors, seen))
    write_text(path / "rigs.txt", _rigs(1 if shared else len(content)))
    write_text(path / "frames.txt", _frames(poses, camera_ids))
    notes = []
    moving = len(content.tracks) - len(rows)
    if moving:
        notes.append(
            f"{len(rows)} tracks that stand still became points; {moving} that move, or are not seen, did not."
        )
    if np.abs(cameras.K[:, 0, 1]).max() > 0:
        notes.append("The skew of the intrinsics is left out: the PINHOLE model has none.")
    return notes


def check_free(path: Path) -> None:
    """Raise RetakeError when the folder holds a binary model, which readers would take for the one written beside it."""
    binary = [name for name in ("cameras", "images", "points3D") if (path / f"{name}.bin").exists()]
    if binary:
        raise RetakeError(f"holds another model ({binary[0]}.bin).", str(path), "Choose an empty folder.")


def _cameras(content: Content, count: int) -> str:
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[] (fx, fy, cx, cy)"]
    for index, K in enumerate(content.cameras.K[:count], 1):
        parameters = " ".join(map(number, (K[0, 0], K[1, 1], K[0, 2], K[1, 2])))
        lines.append(f"{index} PINHOLE {content.cameras.width} {content.cameras.height} {parameters}")
    return "\n".join(lines) + "\n"


def _images(content: Content, poses: Array, camera_ids: NDArray[np.int64], uv: Array, seen: NDArray[np.bool_]) -> str:
    lines = [
        "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
        "# POINTS2D[] as (X, Y, POINT3D_ID)",
    ]
    for frame, pose in enumerate(poses):
        name = frame_name(content.first + frame)
        lines.append(f"{frame + 1} {' '.join(map(number, pose))} {camera_ids[frame]} {name}")
        observed = np.flatnonzero(seen[frame])
        lines.append(" ".join(f"{number(u)} {number(v)} {point + 1}" for point, (u, v) in
                              zip(observed.tolist(), uv[frame, observed].tolist(), strict=True)))  # fmt: skip
    return "\n".join(lines) + "\n"


def _points(points: Array, colours: NDArray[np.uint8], errors: Array, seen: NDArray[np.bool_]) -> str:
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    place = np.cumsum(seen, 1) - 1  # index of each observation within its image
    for index, (point, colour, error) in enumerate(zip(points, colours.tolist(), errors, strict=True)):
        frames = np.flatnonzero(seen[:, index])
        track = " ".join(f"{frame + 1} {place[frame, index]}" for frame in frames.tolist())
        red, green, blue = colour
        lines.append(f"{index + 1} {' '.join(map(number, point))} {red} {green} {blue} {number(error)} {track}")
    return "\n".join(lines) + "\n"


def _rigs(count: int) -> str:
    """A rig of one camera for each camera."""
    lines = ["# RIG_ID, NUM_SENSORS, REF_SENSOR_TYPE, REF_SENSOR_ID, SENSORS[]"]
    return "\n".join([*lines, *(f"{index} 1 CAMERA {index}" for index in range(1, count + 1))]) + "\n"


def _frames(poses: Array, camera_ids: NDArray[np.int64]) -> str:
    lines = ["# FRAME_ID, RIG_ID, RIG_FROM_WORLD[QW, QX, QY, QZ, TX, TY, TZ], NUM_DATA_IDS, DATA_IDS[]"]
    for frame, (pose, camera) in enumerate(zip(poses, camera_ids.tolist(), strict=True), 1):
        lines.append(f"{frame} {camera} {' '.join(map(number, pose))} 1 CAMERA {camera} {frame}")
    return "\n".join(lines) + "\n"
