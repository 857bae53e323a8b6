"""A small picture of a finished frame, made in the link's thread: Blender's own reader would hold up the window.

Reads the PNG files that the backend writes: 8 bit, grey or RGB, with the filters None, Sub and Up.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_CHANNELS = {0: 1, 2: 3}
_NONE, _SUB, _UP = range(3)
_MAX_PIXELS = 64_000_000


def read_thumbnail(path: Path, side: int = 256) -> NDArray[np.float32] | None:
    """RGBA (h, w, 4) in 0 .. 1, sRGB, bottom row first, at most `side` pixels a side; None for any other kind of file."""
    try:
        rows = _read_png(path.read_bytes())
    except (OSError, ValueError, struct.error, zlib.error):
        return None
    step = max(1, -(-max(rows.shape[:2]) // side))
    small = rows[step // 2 :: step, step // 2 :: step][::-1].astype(np.float32) / 255
    rgba = np.ones((*small.shape[:2], 4), np.float32)
    rgba[..., :3] = small
    return rgba


def _read_png(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 1 or 3) uint8. Raises ValueError, struct.error or zlib.error."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("not a PNG")
    place, packed = 8, []
    width = height = channels = 0
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, place + 8)
            if depth != 8 or colour not in _CHANNELS or interlaced or not 0 < width * height <= _MAX_PIXELS:
                raise ValueError("another kind of PNG")
            channels = _CHANNELS[colour]
        elif kind == b"IDAT":
            packed.append(data[place + 8 : place + 8 + length])
        place += 12 + length
    size = height * (1 + width * channels)
    raw = np.frombuffer(zlib.decompressobj().decompress(b"".join(packed), size), np.uint8)
    lines = raw.reshape(height, 1 + width * channels)
    if size == 0 or (lines[:, 0] > _UP).any():
        raise ValueError("another filter")
    rows = lines[:, 1:].reshape(height, width, channels).copy()
    sub = lines[:, 0] == _SUB
    rows[sub] = np.cumsum(rows[sub], axis=1, dtype=np.uint8)
    for row in np.flatnonzero(lines[:, 0] == _UP).tolist():
        if row:
            rows[row] += rows[row - 1]
    return rows
