"""VGGT `predictions.npz`: `extrinsic` (S, 3, 4) w2c, `intrinsic` (S, 3, 3) px, `depth` (S, H, W, 1), `depth_conf`.

`images` (S, 3, H, W), `world_points` and `pose_enc` repeat what those say, and are not read.
"""

from __future__ import annotations

import numpy as np

from ..errors import BadFile
from ..shot import Footage, Solve
from . import posed_depth
from .npz import NpzFile

NAME = "VGGT"
LOOKED_FOR = "extrinsic, intrinsic and depth"

_DOUBTED = 0.1
"""Share of depth values, the least confident ones, that count as unknown (the solver's own viewer hides a quarter)."""


def recognises(npz: NpzFile) -> bool:
    """Poses and intrinsics under names in the singular."""
    return "extrinsic" in npz and "intrinsic" in npz


def read(npz: NpzFile, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve, tracks lifted from its depth, and notes. Raises BadFile."""
    return read_keys(npz, NAME, poses="extrinsic", intrinsics="intrinsic", confidence="depth_conf", images="images")


def read_keys(
    npz: NpzFile, solver: str, *, poses: str, intrinsics: str, confidence: str, images: str
) -> tuple[Solve, list[str]]:
    """The solve of an .npz with w2c poses, intrinsics, `depth` and its confidence under the names given."""
    w2c = npz.read(poses, (None, 3, 4), (None, 4, 4), kinds="f")
    frames = len(w2c)
    if not frames:
        raise BadFile("holds no frame.", f"{npz.path}: {poses}", "Solve again.")
    K = npz.read(intrinsics, (frames, 3, 3), (3, 3), kinds="fi")
    depth = None
    notes: list[str] = []
    if "depth" in npz:
        depth = posed_depth.depth_maps(npz.read("depth", *posed_depth.map_shapes(frames), kinds="f"), frames)
    if depth is not None and confidence in npz:
        trust = posed_depth.depth_maps(npz.read(confidence, *posed_depth.map_shapes(frames), kinds="f"), frames)
        if trust is not None and trust.shape == depth.shape:
            depth = np.where(trust < np.quantile(trust[:, ::4, ::4], _DOUBTED), np.float32(0), depth)
    size = posed_depth.image_size(npz, images) or (None if depth is None else (depth.shape[2], depth.shape[1]))
    if size is None:
        raise BadFile(
            f"neither `{images}` nor `depth` tells the picture size that the intrinsics belong to.",
            str(npz.path),
            "Save the file with one of them.",
        )
    solve, made = posed_depth.assemble(str(npz.path), solver, w2c, K, size, depth, declared="world-to-camera")
    return solve, [*notes, *made]
