"""The files of a COLMAP model as plain data: cameras, images and points3D, text or binary.

The five-file form (with rigs and frames, since COLMAP 3.12) repeats every image's own pose in images, so these three
are all that is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFile
from ..geometry import Array
from .colmap_cameras import MODELS, NUMBERS, ModelCamera
from .npz import reading

MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True)
class ModelImage:
    """One registered image. qvec wxyz and tvec: world to camera. xy (P, 2) px, point_ids (P,) of its observations."""

    name: str
    camera_id: int
    qvec: Array
    tvec: Array
    xy: Array
    point_ids: NDArray[np.uint64]


@dataclass(frozen=True)
class Points3D:
    """ids (N,) increasing, xyz (N, 3) world, error (N,) mean reprojection error in px (-1 unknown)."""

    ids: NDArray[np.uint64]
    xyz: Array
    error: Array


@dataclass(frozen=True)
class Model:
    """A whole reconstruction."""

    cameras: dict[int, ModelCamera]
    images: list[ModelImage]
    points: Points3D


def suffix_of(folder: Path) -> str:
    """ ".bin" or ".txt" when the folder holds a whole model of that form, else ""."""
    for suffix in (".bin", ".txt"):
        if all((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images", "points3D")):
            return suffix
    return ""


def load(folder: Path) -> Model:
    """Read the model in `folder`. Raises BadFile naming the file, and the line of a text file."""
    suffix = suffix_of(folder)
    parts: list[Any] = []
    for name in ("cameras", "images", "points3D"):
        path = folder / f"{name}{suffix}"
        with reading(str(path)):
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BadFile(f"is larger than {MAX_FILE_BYTES >> 30} GiB.", str(path), "Reconstruct fewer images.")
            parts.append(_READERS[name, suffix](path.read_bytes(), str(path)))
    cameras, images, (ids, xyz, error) = parts
    order = np.argsort(ids)
    points = Points3D(ids[order], xyz[order], error[order])
    if len(np.unique(ids)) != len(ids):
        raise BadFile("two points share an id.", str(folder / f"points3D{suffix}"), "Export the model again.")
    for image in images:
        if image.camera_id not in cameras:
            raise BadFile(
                f"image {image.name} uses camera {image.camera_id}, which cameras{suffix} does not have.",
                str(folder),
                "Export the model again.",
            )
    return Model(cameras, images, points)


def _camera(number: int, width: int, height: int, params: tuple[float, ...]) -> ModelCamera:
    camera = ModelCamera(MODELS[number][0], width, height, params)
    focal = [camera.named[key] for key in ("fx", "fy") if key in camera.named]
    if not (0 < width < 65536 and 0 < height < 65536):
        raise ValueError(f"a camera of {width}x{height} px")
    if not (np.abs(params) < 1e9).all() or min(focal, default=1.0) <= 0:
        raise ValueError(f"{camera.model} with parameters {params}")
    return camera


# ---- binary: little-endian, a count, then records ----


class _Bytes:
    """A cursor that refuses to run past the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: struct.Struct) -> tuple:
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def skip(self, size: int) -> int:
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise ValueError("the file ends too early")
        return start


_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
_IMAGE = struct.Struct("<I7dI")
_POINT = struct.Struct("<Q3d3BdQ")
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<u8")])


def _cameras_bin(data: bytes, where: str) -> dict[int, ModelCamera]:
    cursor, cameras = _Bytes(data), {}
    for _ in range(cursor.take(_COUNT)[0]):
        camera_id, number, width, height = cursor.take(_CAMERA)
        if number not in MODELS:
            raise BadFile(
                f"camera {camera_id} has the unknown model {number}.", where, "Use a pinhole or OPENCV model."
            )
        params = cursor.take(struct.Struct(f"<{len(MODELS[number][1].split())}d"))
        cameras[camera_id] = _camera(number, width, height, params)
    return cameras


def _images_bin(data: bytes, where: str) -> list[ModelImage]:
    cursor, images = _Bytes(data), []
    for _ in range(cursor.take(_COUNT)[0]):
        _, *pose, camera_id = cursor.take(_IMAGE)
        end = data.index(b"\0", cursor.at)
        name = data[cursor.at : end].decode("utf-8", "replace")
        cursor.at = end + 1
        count = cursor.take(_COUNT)[0]
        start = cursor.skip(count * _OBSERVATION.itemsize)
        seen = np.frombuffer(data, _OBSERVATION, count, start)
        images.append(ModelImage(name, camera_id, np.array(pose[:4]), np.array(pose[4:]), seen["xy"], seen["point"]))
    return images


def _points_bin(data: bytes, where: str) -> tuple[NDArray[np.uint64], Array, Array]:
    cursor, rows, ids = _Bytes(data), [], []
    for _ in range(cursor.take(_COUNT)[0]):
        point_id, x, y, z, _, _, _, error, length = cursor.take(_POINT)
        cursor.skip(8 * length)
        ids.append(point_id)
        rows.append((x, y, z, error))
    return _point_arrays(ids, rows)


def _point_arrays(ids: list[int], rows: list[tuple]) -> tuple[NDArray[np.uint64], Array, Array]:
    table = np.array(rows, np.float64).reshape(-1, 4)
    return np.array(ids, np.uint64), table[:, :3], table[:, 3]


# ---- text: one record a line (images: two lines), # starts a comment ----


def _lines(data: bytes, where: str, keep_empty: bool = False) -> Iterator[tuple[str, str]]:
    """(line, where with its number) of every line that is no comment."""
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        line = line.strip()
        if line.startswith("#") or not (line or keep_empty):
            continue
        yield line, f"{where}, line {number}"


def _cameras_txt(data: bytes, where: str) -> dict[int, ModelCamera]:
    cameras = {}
    for line, place in _lines(data, where):
        with reading(place):
            camera_id, model, width, height, *params = line.split()
            if model not in NUMBERS:
                raise BadFile(f"unknown camera model {model:.40}.", place, "Use a pinhole or OPENCV model.")
            values = tuple(float(p) for p in params)
            if len(values) != len(MODELS[NUMBERS[model]][1].split()):
                raise BadFile(f"{model} has {len(values)} parameters.", place, f"Expected {MODELS[NUMBERS[model]][1]}.")
            cameras[int(camera_id)] = _camera(NUMBERS[model], int(width), int(height), values)
    return cameras


def _images_txt(data: bytes, where: str) -> list[ModelImage]:
    images = []
    lines = _lines(data, where, keep_empty=True)
    for line, place in lines:
        if not line:
            continue
        with reading(place):
            _, *pose, camera_id, name = line.split(maxsplit=9)
            qvec, tvec = np.array(pose[:4], float), np.array(pose[4:], float)
            if len(tvec) != 3:
                raise ValueError("too few numbers")
        second, place = next(lines, ("", place))
        with reading(place):
            words = second.split()
            table = np.array([words[0::3], words[1::3]], float).T
            ids = np.array([int(w) % 2**64 for w in words[2::3]], np.uint64)  # -1, no point, as in binary files
            if len(ids) != len(table):
                raise ValueError("not three numbers for each observation")
        images.append(ModelImage(name, int(camera_id), qvec, tvec, table.reshape(-1, 2), ids))
    return images


def _points_txt(data: bytes, where: str) -> tuple[NDArray[np.uint64], Array, Array]:
    rows, ids = [], []
    for line, place in _lines(data, where):
        with reading(place):
            point_id, x, y, z, _, _, _, error, *_ = line.split(maxsplit=8)
            ids.append(int(point_id))
            rows.append((float(x), float(y), float(z), float(error)))
    return _point_arrays(ids, rows)


_READERS = {
    ("cameras", ".bin"): _cameras_bin,
    ("images", ".bin"): _images_bin,
    ("points3D", ".bin"): _points_bin,
    ("cameras", ".txt"): _cameras_txt,
    ("images", ".txt"): _images_txt,
    ("points3D", ".txt"): _points_txt,
}
