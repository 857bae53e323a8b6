"""Label images in PNG files, decoded with zlib and numpy: one channel of up to 8 bits, grey or palette indices."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 16384 * 8192

_GREY, _PALETTE = 0, 3
_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)


def decode_labels(data: bytes) -> NDArray[np.uint8]:
    """(H, W) uint8 of a non-interlaced grey or palette PNG: grey values or palette indices as stored, unscaled.

    Raises ValueError when it is another kind of PNG, damaged, or larger than MAX_PIXELS.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG")
    at, header, body = 8, b"", []
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at + 8 : at + 8 + length]
        if len(chunk) != length:
            raise ValueError("the PNG is cut off")
        if kind == b"IHDR":
            header = chunk
        elif kind == b"IDAT":
            body.append(chunk)
        at += 12 + length
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if colour not in (_GREY, _PALETTE) or bits not in (1, 2, 4, 8) or interlaced:
        raise ValueError("not a plain label image (grey or palette, up to 8 bits, not interlaced)")
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"size is {width}x{height}")
    row_bytes = (width * bits + 7) // 8
    expected = height * (1 + row_bytes)
    raw = zlib.decompressobj().decompress(b"".join(body), expected)
    if len(raw) != expected:
        raise ValueError("the PNG's pixels are cut off")
    lines = np.frombuffer(raw, np.uint8).reshape(height, 1 + row_bytes)
    pixels = _unfilter(lines[:, 0], lines[:, 1:])
    if bits == 8:
        return pixels
    unpacked = np.unpackbits(pixels, axis=1).reshape(height, -1, bits)
    weights = (1 << np.arange(bits)[::-1]).astype(np.uint8)
    return np.ascontiguousarray((unpacked * weights).sum(-1, dtype=np.uint8)[:, :width])


def _unfilter(filters: NDArray[np.uint8], lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the filter of each line (H,) of (H, W) bytes."""
    if filters.size and filters.max() > _PAETH:
        raise ValueError("unknown PNG filter")
    if (filters >= _AVERAGE).any():
        return _unfilter_diagonally(filters, lines)
    pixels = lines.copy()
    sub = filters == _SUB
    pixels[sub] = np.cumsum(lines[sub], axis=1, dtype=np.uint8)
    for y in np.flatnonzero(filters == _UP):
        if y:
            pixels[y] += pixels[y - 1]
    return pixels


def _unfilter_diagonally(filters: NDArray[np.uint8], lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All filters at once: a pixel needs its left, upper and upper-left neighbours, so a diagonal is independent."""
    height, width = lines.shape
    pitch = width + 1
    pixels = np.zeros((height + 1, pitch), np.int16)  # a zero row above and a zero column at the left
    flat = pixels.reshape(-1)
    kinds = filters.astype(np.intp)
    for diagonal in range(height + width - 1):
        top, bottom = max(0, diagonal - width + 1), min(height, diagonal + 1)
        rows = np.arange(top, bottom)
        # In padded coordinates pixel (y, x) lies at (y + 1) * pitch + x + 1; one row down and one left is pitch - 1 on.
        here = (top + 1) * pitch + diagonal - top + 1
        end = here + (bottom - top - 1) * (pitch - 1) + 1
        left = flat[here - 1 : end - 1 : pitch - 1]
        up = flat[here - pitch : end - pitch : pitch - 1]
        corner = flat[here - pitch - 1 : end - pitch - 1 : pitch - 1]
        estimate = left + up - corner
        to_left, to_up, to_corner = abs(estimate - left), abs(estimate - up), abs(estimate - corner)
        paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
        guess = np.choose(kinds[top:bottom], (np.zeros_like(left), left, up, (left + up) >> 1, paeth))
        flat[here : end : pitch - 1] = (lines[rows, diagonal - rows] + guess) & 255
    return pixels[1:, 1:].astype(np.uint8)
