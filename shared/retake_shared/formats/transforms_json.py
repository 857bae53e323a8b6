"""nerfstudio's and instant-ngp's `transforms.json`: `transform_matrix` c2w with OpenGL axes for every image.

`fl_x fl_y cx cy w h` (or `camera_angle_x`) for all images, or in each; distortion `k1 k2 p1 p2 ...`. Images are frames
in the order of their names; they need not exist. Of nerfstudio's points (`ply_file_path`, in the same world) tracks are
made that do not move.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import geometry
from ..errors import BadFile
from ..shot import Cameras, Footage, Solve, Tracks
from . import colmap, convention, mending, ply, posed_depth, textfile
from .colmap_cameras import ModelCamera
from .colmap_model import ModelImage
from .hints import Hints

NAME = "nerfstudio / instant-ngp"
LOOKED_FOR = "JSON with frames of transform_matrix (transforms.json)"

MAX_POINTS = 20_000

_DISTORTION = ("k1", "k2", "p1", "p2")


def recognises(content: Any) -> bool:
    """A list of frames with a matrix each."""
    frames = content.get("frames") if isinstance(content, dict) else None
    return isinstance(frames, list) and bool(frames) and isinstance(frames[0], dict) and (
        "transform_matrix" in frames[0]
    )  # fmt: skip


def find(path: Path) -> Path | None:
    """`transforms.json` in a folder, or the file itself; else None."""
    inside = path / "transforms.json" if path.is_dir() else path
    return inside if inside.suffix == ".json" and inside.is_file() else None


def read(path: Path, footage: Footage | None, hints: Hints) -> tuple[Solve, list[str]]:
    """The camera, and notes. Raises BadFile."""
    content = textfile.load_json(path)
    entries = content["frames"]
    poses, images = [], []
    for number, entry in enumerate(entries):
        where = f"{path}: frames[{number}]"
        if not isinstance(entry, dict):
            raise BadFile("is not a frame.", where, "Export it again.")
        poses.append(_matrix(entry.get("transform_matrix"), where))
        name = str(entry.get("file_path") or number)
        images.append(ModelImage(name, number, np.zeros(4), np.zeros(3), np.zeros((0, 2)), np.zeros(0, np.uint64)))
    ordered, frames, count, notes = colmap.frame_order(images, footage)
    rows = [image.camera_id for image in ordered]
    rigid, pose_notes = mending.poses(np.array(poses)[rows], f"{path}: transform_matrix", world_to_camera=False)
    c2w = convention.READINGS["camera-to-world, OpenGL axes"](rigid)
    size, size_notes = _size(content, entries[rows[0]], footage, hints, path)
    K, K_notes = _intrinsics(content, [entries[row] for row in rows], size, hints, path)
    missing = np.setdiff1d(np.arange(count), frames)
    if len(missing):
        notes.append(f"No image for {mending.name_frames(missing)}: the camera is interpolated there.")
    at = np.arange(count)
    cameras = Cameras(
        geometry.interpolate_poses(frames, c2w, at),
        geometry.sample_rows(K, np.interp(at, frames, np.arange(len(frames)))),
        *size,
    )
    tracks, track_notes = _tracks(content, cameras, path)
    notes = [*track_notes, *notes, *pose_notes, *size_notes, *K_notes, *_lens_notes(content, size, K[0])]
    return Solve(cameras, tracks, source=f"{NAME}, poses read as camera-to-world, OpenGL axes"), notes


def _tracks(content: dict[str, Any], cameras: Cameras, path: Path) -> tuple[Tracks, list[str]]:
    """The points beside the file, visible wherever they lie inside the picture, and notes."""
    frames, name = len(cameras), content.get("ply_file_path")
    if not isinstance(name, str):
        return Tracks.empty(frames), [posed_depth.no_tracks(NAME)]
    place = (path.parent / name).resolve()
    if not place.is_relative_to(path.parent.resolve()) or not place.is_file():
        return Tracks.empty(frames), [
            posed_depth.no_tracks(NAME),
            f"The points in {name[:80]} are not beside the file.",
        ]
    points = ply.read_points(place)
    points = points[(np.abs(points) < mending.ABSURD).all(1)]
    most = max(min(MAX_POINTS, colmap.MAX_TRACK_POINTS // frames), 1)
    chosen = np.unique(np.linspace(0, max(len(points) - 1, 0), min(most, len(points))).astype(int))
    notes = [f"{len(chosen)} of {len(points)} points became tracks, visible wherever they lie inside the frame."]
    positions = np.repeat(points[None, chosen], frames, 0)
    uv, depth = cameras.project(positions)
    visible = geometry.inside_image(uv, depth, cameras.width, cameras.height)
    return Tracks.make(positions, visible, ids=chosen), notes


def _number(*places: tuple[dict[str, Any], str], where: str) -> float | None:
    """The first of several fields that is there, as a finite number."""
    for fields, key in places:
        value = fields.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise BadFile(f"is {value!r:.40}.", f"{where}: {key}", "Expected a number.")
        return float(value)
    return None


def _matrix(value: Any, where: str) -> geometry.Array:
    try:
        matrix = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)):
        raise BadFile("is not a matrix 4x4 of numbers.", f"{where}.transform_matrix", "Export it again.")
    full = np.eye(4)
    full[: len(matrix)] = matrix
    return full


def _size(
    content: dict[str, Any], first: dict[str, Any], footage: Footage | None, hints: Hints, path: Path
) -> tuple[tuple[int, int], list[str]]:
    sides = [_number((first, key), (content, key), where=str(path)) for key in ("w", "h")]
    if None not in sides:
        width, height = (round(side or 0) for side in sides)
    else:
        center = [_number((first, key), (content, key), where=str(path)) for key in ("cx", "cy")]
        if None in center or hints.size or footage:
            return hints.picture_size(footage)
        width, height = (round(2 * (side or 0)) for side in center)
    if not (1 <= width <= posed_depth.MAX_SIDE and 1 <= height <= posed_depth.MAX_SIDE):
        raise BadFile(f"is {width}x{height}.", f"{path}: w, h", "Expected the picture's size in px.")
    return (width, height), [] if None not in sides else [
        f"The file does not tell its picture size: {width}x{height}, twice the principal point, is used."
    ]


def _intrinsics(
    content: dict[str, Any], entries: list[dict[str, Any]], size: tuple[int, int], hints: Hints, path: Path
) -> tuple[geometry.Array, list[str]]:
    """K (S, 3, 3) px."""
    where = str(path)
    model = str(content.get("camera_model", ""))
    if "EQUIRECTANGULAR" in model.upper() or "PANO" in model.upper():
        raise BadFile("is a panorama, which no pinhole camera can show.", where, "Export pinhole views.")
    guessed, notes = hints.lens(size, 1)
    rows = []
    for entry in entries:
        focal = []
        for key, angle, side in (("fl_x", "camera_angle_x", size[0]), ("fl_y", "camera_angle_y", size[1])):
            value = _number((entry, key), (content, key), where=where)
            degrees = _number((entry, angle), (content, angle), where=where)
            if value is None and degrees is not None:
                if not 0 < degrees < 3.1:
                    raise BadFile(f"is {degrees:g}.", f"{where}: {angle}", "Expected radians between 0 and pi.")
                value = side / 2 / np.tan(degrees / 2)
            focal.append(value)
        fx = focal[0] if focal[0] is not None else focal[1]
        if fx is None:
            return np.repeat(guessed, len(entries), 0), notes
        fy = focal[1] if focal[1] is not None else fx
        center = [_number((entry, key), (content, key), where=where) for key in ("cx", "cy")]
        cx, cy = (side / 2 if value is None else value for value, side in zip(center, size, strict=True))
        rows.append((fx, fy, cx, cy))
    return mending.intrinsics(geometry.intrinsics(*np.array(rows).T), len(rows), f"{where}: intrinsics")


def _lens_notes(content: dict[str, Any], size: tuple[int, int], K: geometry.Array) -> list[str]:
    values = [_number((content, key), where="transforms.json") or 0.0 for key in _DISTORTION]
    if not any(values):
        return []
    fisheye = "FISHEYE" in str(content.get("camera_model", "")).upper()
    focal = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
    kind = "OPENCV_FISHEYE" if fisheye else "OPENCV"
    parameters = (*focal, values[0], values[1], 0.0, 0.0) if fisheye else (*focal, *values)
    bend = ModelCamera(kind, *size, parameters).bend_at_corner()
    if bend < 0.1:
        return []
    return [
        f"The lens bends the picture by up to {bend:.1f} px at the corners; the camera is imported as a pinhole. "
        "Undistort the footage for exact results."
    ]
