"""An example at the size and length that a model trains on: a span of its frames, the middle of its picture, resized."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.geometry import crop_intrinsics
from retake_shared.shot import Cameras

from .config import Picture
from .pairs import Moved, Pair


def framed(pair: Pair, picture: Picture, seed: int = 0) -> Pair:
    """The example with `picture.frames` frames of `picture.width` x `picture.height` px.

    seed: which span of a longer example. The largest middle part of the wanted shape is kept, of depth and masks the
    same part at their own resolution. Raises BadShot when the example is too short.
    """
    if len(pair) < picture.frames:
        where = f"data, {pair.origin.get('name', 'an example')}"
        what = f"has {len(pair)} frames, {picture.frames} are trained on."
        raise BadShot(what, where, f"Train on at most {len(pair)} (picture.frames), or leave it out.")
    start = int(np.random.default_rng(seed).integers(len(pair) - picture.frames + 1))
    if len(pair) > picture.frames:
        pair = pair.frames(start, start + picture.frames)
    crop = _crop(pair.size, picture)
    size = (picture.width, picture.height)
    solve = replace(
        pair.solve,
        cameras=_seen(pair.solve.cameras, crop, pair.size, size),
        depth=None if pair.solve.depth is None else _cut(pair.solve.depth, crop, pair.size),
        masks=None if pair.solve.masks is None else _cut(pair.solve.masks, crop, pair.size),
    )
    edit = replace(pair.edit, cameras=_seen(pair.edit.cameras, crop, pair.size, size))
    moved = pair.moved
    if moved is not None:
        holes = _brought(moved.holes.astype(np.uint8) * 255, crop, size) > 127
        moved = Moved(_brought(moved.rgb, crop, size), holes)
    return replace(
        pair,
        source=_brought(pair.source, crop, size),
        target=_brought(pair.target, crop, size),
        solve=solve,
        edit=edit,
        moved=moved,
    )


def scaled_size(footage: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) px of the whole picture of footage, scaled so that `size` can be cut out of its middle."""
    scale = max(size[0] / footage[0], size[1] / footage[1])
    return max(size[0], round(footage[0] * scale)), max(size[1], round(footage[1] * scale))


def _crop(size: tuple[int, int], picture: Picture) -> tuple[int, int, int, int]:
    """(left, top, width, height) px of the largest middle part of the wanted shape."""
    width, height = size
    wide = min(width, round(height * picture.width / picture.height))
    high = min(height, round(width * picture.height / picture.width))
    return (width - wide) // 2, (height - high) // 2, wide, high


def _brought(video: NDArray[np.uint8], crop: tuple[int, int, int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(F, H, W[, 3]) cut and resized to (width, height)."""
    left, top, width, height = crop
    cut = video[:, top : top + height, left : left + width]
    if (width, height) == size:
        return np.ascontiguousarray(cut)
    how = cv2.INTER_AREA if width >= size[0] else cv2.INTER_CUBIC
    return np.stack([np.asarray(cv2.resize(frame, size, interpolation=how), np.uint8) for frame in cut])


def _cut(maps: NDArray[Any], crop: tuple[int, int, int, int], picture: tuple[int, int]) -> NDArray[Any]:
    """The part of maps (F, h, w) that shows a crop, given in px of `picture`; to a px of the maps."""
    left, top, width, height = crop
    across, down = maps.shape[2] / picture[0], maps.shape[1] / picture[1]
    rows, columns = (
        (round(top * down), round((top + height) * down)),
        (round(left * across), round((left + width) * across)),
    )
    return maps[:, rows[0] : rows[1], columns[0] : columns[1]]


def _seen(
    cameras: Cameras, crop: tuple[int, int, int, int], picture: tuple[int, int], size: tuple[int, int]
) -> Cameras:
    """The cameras of a crop, given in px of `picture`, resized to `size`. A solve may be of another size than its
    picture."""
    left, top, width, height = crop
    cameras = cameras.resized(*picture)
    return Cameras(cameras.c2w, crop_intrinsics(cameras.K, left, top), width, height).resized(*size)
