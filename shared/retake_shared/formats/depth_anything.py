"""Depth Anything 3 `results.npz`: `extrinsics` (N, 3, 4) w2c, `intrinsics` (N, 3, 3) px, `depth` (N, H, W), `conf`, `image`."""

from __future__ import annotations

from ..shot import Footage, Solve
from . import vggt
from .npz import NpzFile

NAME = "Depth Anything 3"
LOOKED_FOR = "extrinsics, intrinsics and depth"


def recognises(npz: NpzFile) -> bool:
    """Poses and intrinsics in the plural, depth in the singular, and no tracks."""
    return all(key in npz for key in ("extrinsics", "intrinsics", "depth")) and "coords" not in npz


def read(npz: NpzFile, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve, tracks lifted from its depth, and notes. Raises BadFile."""
    names = {"poses": "extrinsics", "intrinsics": "intrinsics", "confidence": "conf", "images": "image"}
    return vggt.read_keys(npz, NAME, **names)
