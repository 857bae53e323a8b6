"""A GEN3C folder: `camera.npz` (`w2c` (T, 4, 4), `intrinsics` (T, 3, 3) px), `depth.npz` (`depth`), `mask.npz`, `rgb.mp4`.

`mask.npz` (`mask` (T, H, W)) tells where depth is known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import BadFile
from ..shot import Footage, Solve
from . import lyra, posed_depth
from .npz import NpzFile

NAME = "GEN3C"
LOOKED_FOR = "camera.npz (w2c, intrinsics) and depth.npz"

_FILES = ("camera.npz", "depth.npz", "mask.npz", "rgb.mp4")


def find(path: Path) -> Path | None:
    """The folder that `path` is, or one of whose files it is; else None."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name not in _FILES:
        return None
    return folder if (folder / "camera.npz").is_file() and (folder / "depth.npz").is_file() else None


def read(folder: Path, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve, tracks lifted from its depth, and notes. Raises BadFile."""
    with NpzFile(folder / "camera.npz") as npz:
        poses, K = lyra.read_cameras(npz)
    frames = len(poses)
    depth = _maps(folder / "depth.npz", "depth", frames)
    if depth is None:
        raise BadFile("holds no depth.", str(folder / "depth.npz"), "Copy the whole result again.")
    if (folder / "mask.npz").is_file():
        known = _maps(folder / "mask.npz", "mask", frames)
        if known is not None and known.shape == depth.shape:
            depth = np.where(known > 0.5, depth, np.float32(0))
    size = depth.shape[2], depth.shape[1]
    return posed_depth.assemble(str(folder), NAME, poses, K, size, depth, declared="world-to-camera")


def _maps(path: Path, key: str, frames: int) -> np.ndarray | None:
    with NpzFile(path) as npz:
        raw = npz.read(key, *posed_depth.map_shapes(frames), kinds="fub")
        return posed_depth.depth_maps(raw, frames)
