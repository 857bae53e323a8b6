"""An .npz with the arrays of SpatialTrackerV2's `result.npz`.

`coords` (T, N, 3) world; `extrinsics` (T, 4, 4) w2c, OpenCV axes; `intrinsics` (T, 3, 3) px of the pictures in the
file, pixel centres at .5; `visibs` (T, N, 1) = 1.2 where visible, else 0.2, as the solver's sigmoid + 0.2 ends;
`confs` (T, N, 1) in [0, 1]; `video` (T, 3, H, W) float32 in [0, 1]; `depths` (T, H, W) float32 z in world units, 0
where unsure; `unc_metric` (T, H, W) float32, 1 where the depth is known. Poses, intrinsics and coords are float64, so
that reading them back loses nothing. The file has no place for objects.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..errors import BadShot
from .content import Content
from .files import replacing

MAX_SIDE = 672
"""Longer side, in px, of the pictures and depth maps in the file at most; the solver's own has 336."""


def write(path: Path, content: Content, pictures: Callable[[], Iterable[NDArray[np.uint8]]] | None = None) -> list[str]:
    """Write the file; pictures: called, gives T frames (H, W, 3) uint8 RGB of any size, black without."""
    cameras = content.cameras
    size = _size(cameras.width, cameras.height)
    small = cameras.resized(*size)
    visible = content.tracks.visibility[..., None]
    arrays: dict[str, NDArray[Any]] = {
        "coords": content.tracks.positions,
        "extrinsics": geometry.invert_rigid(small.c2w),
        "intrinsics": small.K,
        "visibs": np.where(visible, 1.2, 0.2).astype(np.float32),
        "confs": np.clip(content.tracks.confidence, 0, 1)[..., None].astype(np.float32),
    }
    shape = (len(content), size[1], size[0])
    with replacing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            _member(archive, name, array.shape, array.dtype, iter(array))
        _member(archive, "depths", shape, np.dtype(np.float32), _depths(content, size))
        known = ((depth > 0).astype(np.float32) for depth in _depths(content, size))
        _member(archive, "unc_metric", shape, np.dtype(np.float32), known)
        video = _video(pictures, size, len(content))
        _member(archive, "video", (len(content), 3, size[1], size[0]), np.dtype(np.float32), video)
    notes = []
    if size != (cameras.width, cameras.height):
        notes.append(f"Intrinsics, depth and pictures are of {size[0]}x{size[1]} px, as the solver's own are small.")
    if len(set(content.tracks.objects.tolist()) - {0}):
        notes.append("The format knows no objects: all tracks are in one list.")
    if pictures is None:
        notes.append("Its pictures are black: no footage was given.")
    return notes


def _size(width: int, height: int) -> tuple[int, int]:
    """At most MAX_SIDE long, and of the very same shape where a whole divisor gives one."""
    if max(width, height) <= MAX_SIDE:
        return width, height
    for divisor in range(2, 17):
        if width % divisor == height % divisor == 0 and max(width, height) // divisor <= MAX_SIDE:
            return width // divisor, height // divisor
    scale = MAX_SIDE / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, rows: Iterator[NDArray[Any]]
) -> None:
    """An array written row by row, so that no video lies in memory whole."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        count = 0
        for row in rows:
            member.write(np.ascontiguousarray(row, dtype).tobytes())
            count += 1
    if count != shape[0]:
        raise BadShot(f"there are {count} pictures for {shape[0]} frames.", name, "Give the footage that was solved.")


def _sample(picture: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The nearest pixels, each new pixel's centre looked up in the old picture (h, w, ...)."""
    height, width = picture.shape[:2]
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(np.int64)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(np.int64)
    return np.asarray(picture[rows[:, None], columns])


def _depths(content: Content, size: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
    for frame in range(len(content)):
        yield np.zeros(size[::-1], np.float32) if content.depth is None else _sample(content.depth[frame], size)


def _video(
    pictures: Callable[[], Iterable[NDArray[np.uint8]]] | None, size: tuple[int, int], frames: int
) -> Iterator[NDArray[np.float32]]:
    if pictures is None:
        black = np.zeros((3, size[1], size[0]), np.float32)
        yield from (black for _ in range(frames))
        return
    for picture in pictures():
        yield np.divide(_sample(picture, size).transpose(2, 0, 1), 255, dtype=np.float32)
