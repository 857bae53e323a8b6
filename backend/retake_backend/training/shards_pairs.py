"""An example <-> the members that it has in a shard.

`source.mp4`, `target.mp4`: H.264, 4:4:4, CRF 4 (43 dB and more in every frame of real footage of 160 x 96 px).
`solve.npz`, `edit.npz`: Retake's own archives, deflated; positions are rounded to float32 and depth to 11 bits, which
halves them. `moved.mp4` and `holes.bits` (zlib of `np.packbits` of (F, H, W), row by row): the reprojection, where it
was made. `pair.json`: version, shape, rate, caption and origin.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared import archive
from retake_shared.errors import BadFile, BadShot
from retake_shared.shot import Edit, Solve

from ..footage import decode_video, encode_video
from .pairs import Moved, Pair

VERSION = 1
QUALITY = 4
"""x264's CRF."""

_MAX_BYTES = 4 << 30
"""Of one example's pictures."""


def to_members(pair: Pair, depth: bool = True) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The members by suffix, and the description. depth: keep the solve's depth maps, which are much the largest part."""
    solve = pair.solve if depth else replace(pair.solve, depth=None)
    members = {
        "source.mp4": encode_video(pair.source, pair.fps, QUALITY),
        "target.mp4": encode_video(pair.target, pair.fps, QUALITY),
        "solve.npz": archive.to_bytes(_lighter(solve), compress=True),
        "edit.npz": archive.to_bytes(replace(pair.edit, positions=_rounded(pair.edit.positions)), compress=True),
    }
    if pair.moved is not None:
        members["moved.mp4"] = encode_video(pair.moved.rgb, pair.fps, QUALITY)
        members["holes.bits"] = zlib.compress(np.packbits(pair.moved.holes).tobytes())
    info = {
        "retake": "pair",
        "version": VERSION,
        "shape": list(pair.source.shape[:3]),
        "fps": [pair.fps.numerator, pair.fps.denominator],
        "caption": pair.caption,
        "origin": dict(pair.origin),
    }
    return members, info


def from_members(members: Mapping[str, bytes], info: Mapping[str, Any], where: str) -> Pair:
    """What `to_members` made. Raises BadFile or BadShot naming `where`."""
    try:
        if info["retake"] != "pair" or info["version"] != VERSION:
            raise BadFile(f"is version {info['version']!r:.40} of {info['retake']!r:.40}.", where, "Update Retake.")
        frames, height, width = (int(n) for n in info["shape"])
        shape = (frames, height, width)
        fps = Fraction(*info["fps"])
        caption, origin = str(info["caption"]), dict(info["origin"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadFile(f"its description lacks or garbles a field ({error!r:.80}).", where, "Make it again.") from error
    if min(shape) < 1 or 3 * prod(shape) > _MAX_BYTES:
        raise BadFile(f"declares pictures of shape {shape}.", where, "Make it again.")
    missing = {"source.mp4", "target.mp4", "solve.npz", "edit.npz"} - members.keys()
    if missing:
        raise BadFile(f"{min(missing)} is missing.", where, "Make it again.")
    solve = archive.from_bytes(members["solve.npz"], f"{where}.solve.npz")
    edit = archive.from_bytes(members["edit.npz"], f"{where}.edit.npz")
    if not isinstance(solve, Solve) or not isinstance(edit, Edit):
        raise BadFile("solve and edit are not what their names say.", where, "Make it again.")

    def video(suffix: str) -> NDArray[np.uint8]:
        return decode_video(members[suffix], shape, f"{where}.{suffix}")

    moved = None
    if "moved.mp4" in members:
        moved = Moved(video("moved.mp4"), _holes(members.get("holes.bits", b""), shape, f"{where}.holes.bits"))
    try:
        return Pair(video("source.mp4"), video("target.mp4"), solve, edit, moved, fps, caption, origin)
    except BadShot as error:
        raise BadShot(error.what, f"{where}: {error.where}", error.remedy) from error


def _holes(data: bytes, shape: tuple[int, int, int], where: str) -> NDArray[np.bool_]:
    size = -(-prod(shape) // 8)
    try:
        packed = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise BadFile(f"cannot be unpacked ({error}).", where, "Make it again.") from error
    if len(packed) != size:
        raise BadFile(f"is no mask of shape {shape}.", where, "Make it again.")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=prod(shape))
    return bits.reshape(shape).astype(bool)


def _lighter(solve: Solve) -> Solve:
    tracks = replace(solve.tracks, positions=_rounded(solve.tracks.positions))
    return replace(solve, tracks=tracks, depth=None if solve.depth is None else _coarse(solve.depth))


def _rounded(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 of float32's precision: to a ten millionth of the distance from the origin."""
    return positions.astype(np.float32).astype(np.float64)


def _coarse(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 whose last 13 bits are 0, rounded: to 0.05 % of the depth."""
    mantissa, exponent = np.frexp(depth)
    return np.ldexp(np.round(mantissa * 2048) / 2048, exponent).astype(np.float32)
