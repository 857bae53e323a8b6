"""Lyra `trajectory.npz`: `w2c` (T, 4, 4), `intrinsics` (T, 3, 3) px, `image_height`, `image_width`. No tracks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFile
from ..shot import Footage, Solve
from . import posed_depth
from .npz import NpzFile

NAME = "Lyra"
LOOKED_FOR = "w2c, intrinsics, image_width and image_height"


def recognises(npz: NpzFile) -> bool:
    """Poses under the name w2c, and intrinsics."""
    return "w2c" in npz and "intrinsics" in npz


def read(npz: NpzFile, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The cameras, and notes. Raises BadFile."""
    poses, K = read_cameras(npz)
    size = tuple(int(npz.read(key, (), (1,), kinds="iu").item()) for key in ("image_width", "image_height")
                 if key in npz)  # fmt: skip
    notes: list[str] = []
    if len(size) != 2:
        size, notes = guess_size(npz, K, footage)
    solve, made = posed_depth.assemble(
        str(npz.path), NAME, poses, K, (size[0], size[1]), None, declared="world-to-camera"
    )
    return solve, [*notes, *made]


def read_cameras(npz: NpzFile) -> tuple[NDArray, NDArray]:
    """w2c (T, 4, 4) and intrinsics (T, 3, 3) as they are."""
    poses = npz.read("w2c", (None, 4, 4), (None, 3, 4), kinds="f")
    if not len(poses):
        raise BadFile("holds no frame.", f"{npz.path}: w2c", "Solve again.")
    return poses, npz.read("intrinsics", (len(poses), 3, 3), (3, 3), kinds="fi")


def guess_size(npz: NpzFile, K: NDArray, footage: Footage | None) -> tuple[tuple[int, int], list[str]]:
    """The picture's size by the principal point, else the footage's; and a note."""
    center = np.nanmedian(np.where(np.isfinite(K), K, np.nan).reshape(-1, 3, 3)[:, :2, 2], 0) if K.size else np.zeros(2)
    doubled = [float(n) for n in 2 * np.nan_to_num(center)]
    if all(16 <= n <= 16384 and abs(n - round(n)) < 0.01 for n in doubled):
        width, height = round(doubled[0]), round(doubled[1])
        return (width, height), [
            f"The file does not tell its picture size: {width}x{height}, twice the principal point, is used."
        ]
    if footage is None:
        raise BadFile("nothing tells the picture size.", str(npz.path), "Give the footage with it.")
    return (footage.width, footage.height), ["The file does not tell its picture size: the footage's is used."]
