"""One channel of a scanline OpenEXR image (no, ZIP or ZIPS compression), decoded with zlib and numpy."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFile

MAX_PIXELS = 16384 * 8192

_TYPES: dict[int, np.dtype] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_LINES_PER_CHUNK = {0: 1, 2: 1, 3: 16}
_COMPRESSIONS = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")


class Unsupported(BadFile):
    """A sound EXR of a kind that this reader does not decode; `what` says which."""


def decode_channel(data: bytes, channel: str = "Z") -> NDArray[np.float32]:
    """(H, W) float32 of `channel`, or of the only channel there is.

    Raises Unsupported for other compressions, tiles and parts; ValueError or struct.error when damaged.
    """
    magic, version = struct.unpack_from("<II", data)
    if magic != 20000630:
        raise ValueError("not an EXR file")
    if version & 0x1A00:
        raise Unsupported("with tiles, deep pixels or several parts")
    attributes, at = _attributes(data)
    channels = _channels(attributes["channels"])
    compression = attributes["compression"][0]
    if compression not in _LINES_PER_CHUNK:
        raise Unsupported(f"with {_COMPRESSIONS[compression]} compression")
    x0, y0, x1, y1 = struct.unpack("<4i", attributes["dataWindow"])
    width, height = x1 - x0 + 1, y1 - y0 + 1
    if not (0 < width and 0 < height and width * height <= MAX_PIXELS):
        raise ValueError(f"size is {width}x{height}")
    name = channel if channel in channels else next(iter(channels)) if len(channels) == 1 else ""
    if not name:
        raise Unsupported(f"without a channel {channel} (it has {', '.join(channels)})")
    offset = 0  # of the channel within a line: channels are stored in alphabetical order
    for other in sorted(channels):
        if other == name:
            break
        offset += width * channels[other].itemsize
    line_bytes = width * sum(dtype.itemsize for dtype in channels.values())
    lines = _LINES_PER_CHUNK[compression]
    chunks = -(-height // lines)
    image = np.empty((height, width), np.float32) if len(data) >= at + 16 * chunks else None
    if image is None:
        raise ValueError("the EXR is cut off")
    for start in struct.unpack_from(f"<{chunks}Q", data, at):
        y, size = struct.unpack_from("<ii", data, start)
        top = y - y0
        count = min(lines, height - top)
        if not 0 <= top < height or size < 0:
            raise ValueError("an EXR block lies outside the image")
        block = _unpack(data[start + 8 : start + 8 + size], count * line_bytes)
        values = block.reshape(count, line_bytes)[:, offset : offset + width * channels[name].itemsize]
        image[top : top + count] = np.ascontiguousarray(values).view(channels[name])
    return image


def _attributes(data: bytes) -> tuple[dict[str, bytes], int]:
    """The header's attributes by name, and where the header ends."""
    attributes: dict[str, bytes] = {}
    at = 8
    while data[at]:
        end = data.index(b"\0", at)
        name = data[at:end].decode("latin-1")
        at = data.index(b"\0", end + 1) + 1
        (size,) = struct.unpack_from("<i", data, at)
        if size < 0:
            raise ValueError("an EXR attribute has a negative size")
        attributes[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    missing = {"channels", "compression", "dataWindow"} - attributes.keys()
    if missing:
        raise ValueError(f"the EXR header has no {sorted(missing)[0]}")
    return attributes, at + 1


def _channels(data: bytes) -> dict[str, np.dtype]:
    channels: dict[str, np.dtype] = {}
    at = 0
    while data[at]:
        end = data.index(b"\0", at)
        kind, _, x_step, y_step = struct.unpack_from("<iiii", data, end + 1)
        if (x_step, y_step) != (1, 1):
            raise Unsupported("with subsampled channels")
        channels[data[at:end].decode("latin-1")] = _TYPES[kind]
        at = end + 17
    return channels


def _unpack(packed: bytes, size: int) -> NDArray[np.uint8]:
    """A block's raw bytes: zlib, byte differences, then the two halves interleaved. Stored as is when that is smaller."""
    if len(packed) == size:
        return np.frombuffer(packed, np.uint8)
    raw = zlib.decompressobj().decompress(packed, size)
    if len(raw) != size:
        raise ValueError("an EXR block is cut off")
    differences = np.frombuffer(raw, np.uint8).copy()
    differences[1:] -= 128
    values = np.cumsum(differences, dtype=np.uint8)
    block = np.empty(size, np.uint8)
    block[0::2], block[1::2] = values[: (size + 1) // 2], values[(size + 1) // 2 :]
    return block
