"""What TAPIP3D is given, not what it writes: `video` (T, H, W, 3), and `depths`, `intrinsics`, `extrinsics` (w2c)."""

from __future__ import annotations

from ..errors import BadFile
from ..shot import Footage, Solve
from . import posed_depth
from .npz import NpzFile

NAME = "TAPIP3D input"
LOOKED_FOR = "video, extrinsics, intrinsics and depths, no coords"


def recognises(npz: NpzFile) -> bool:
    """Footage with some of cameras, depth and query points, but no tracks."""
    added = any(key in npz for key in ("extrinsics", "intrinsics", "depths", "query_point"))
    return len(npz.shape("video")) == 4 and added and "coords" not in npz


def read(npz: NpzFile, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve, tracks lifted from its depth when it has some, and notes. Raises BadFile when it has no cameras."""
    size = posed_depth.image_size(npz, "video")
    frames = npz.shape("video")[0]
    absent = [key for key in ("extrinsics", "intrinsics") if key not in npz]
    if absent or size is None or not frames:
        raise BadFile(
            f"is an input of TAPIP3D without {' and '.join(absent) or 'a video'}: there are no cameras in it.",
            str(npz.path),
            "Give the `*.result.npz` that TAPIP3D writes, or an input with cameras.",
        )
    poses = npz.read("extrinsics", (frames, 4, 4), (frames, 3, 4), kinds="f")
    K = npz.read("intrinsics", (frames, 3, 3), (3, 3), kinds="fi")
    depth = None
    if "depths" in npz:
        depth = posed_depth.depth_maps(npz.read("depths", *posed_depth.map_shapes(frames), kinds="f"), frames)
    return posed_depth.assemble(str(npz.path), NAME, poses, K, size, depth, declared="world-to-camera")
