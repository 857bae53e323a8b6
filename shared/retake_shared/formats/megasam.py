"""MegaSaM: `NAME_droid.npz`, `NAME_sgd_cvd_hr.npz`, or the folder `reconstructions/NAME` of .npy files.

The .npz: `images` (T, H, W, 3), `depths` (T, H, W), `intrinsic` (3, 3) px, `cam_c2w` (T, 4, 4). The folder: `poses`
(T, 7) w2c as x y z and a quaternion x y z w, `intrinsics` (T, 4) fx fy cx cy px, `disps` (T, H, W) inverse depth,
`motion_prob` (T, h, w). The solver multiplies its residuals by `motion_prob`: it is near 1 where the scene stands
still. It is used for an .npz too, where the solver's own folders lie side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..errors import BadFile
from ..shot import Footage, Solve
from . import mending, npy, posed_depth
from .npz import NpzFile

NAME = "MegaSaM"
LOOKED_FOR = "cam_c2w, intrinsic and depths, or a folder with poses.npy, intrinsics.npy and disps.npy"

_STILL = 0.5
_NEEDED = ("poses.npy", "intrinsics.npy", "disps.npy")


def recognises(npz: NpzFile) -> bool:
    """The names under which MegaSaM alone saves poses and intrinsics."""
    return "cam_c2w" in npz and "intrinsic" in npz


def read(npz: NpzFile, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve of an .npz, tracks lifted from its depth, and notes. Raises BadFile."""
    poses = npz.read("cam_c2w", (None, 4, 4), (None, 3, 4), kinds="f")
    frames = len(poses)
    if not frames:
        raise BadFile("holds no frame.", f"{npz.path}: cam_c2w", "Solve again.")
    K = npz.read("intrinsic", (3, 3), (frames, 3, 3), kinds="fi")
    depth = posed_depth.depth_maps(npz.read("depths", *posed_depth.map_shapes(frames), kinds="f"), frames)
    size = posed_depth.image_size(npz, "images") or (None if depth is None else (depth.shape[2], depth.shape[1]))
    if size is None:
        raise BadFile("neither images nor depths tell the picture size.", str(npz.path), "Save the result again.")
    if depth is not None:
        depth = _without_sky(depth)
    moving = None
    notes: list[str] = []
    beside = _motion_beside(npz.path)
    if beside is not None:
        moving, notes = _moving(beside, frames)
    solve, made = posed_depth.assemble(
        str(npz.path), NAME, poses, K, size, depth, declared="camera-to-world", moving=moving
    )
    return solve, [*notes, *made]


def find(path: Path) -> Path | None:
    """The folder of .npy files that `path` is, or lies in; else None."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.suffix != ".npy":
        return None
    return folder if all((folder / name).is_file() for name in _NEEDED) else None


def read_folder(folder: Path, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve of a folder, and notes. Raises BadFile."""
    vectors = npy.read(folder / "poses.npy", (None, 7), kinds="f")
    frames = len(vectors)
    if not frames:
        raise BadFile("holds no frame.", str(folder / "poses.npy"), "Solve again.")
    K = npy.read(folder / "intrinsics.npy", (frames, 4), (1, 4), (4,), kinds="f").astype(np.float64).reshape(-1, 4)
    depth = depth_of(npy.read(folder / "disps.npy", *posed_depth.map_shapes(frames), kinds="f"), frames)
    if depth is None:
        raise BadFile("holds no depth.", str(folder / "disps.npy"), "Solve again.")
    moving = None
    notes: list[str] = []
    if (folder / "motion_prob.npy").is_file():
        moving, notes = _moving(folder / "motion_prob.npy", frames)
    intrinsics = geometry.intrinsics(*np.broadcast_to(K, (frames, 4)).T)
    solve, made = posed_depth.assemble(
        str(folder),
        NAME,
        poses_of(vectors, str(folder / "poses.npy")),
        intrinsics,
        (depth.shape[2], depth.shape[1]),
        _without_sky(depth),
        declared="world-to-camera",
        moving=moving,
    )
    return solve, [*notes, *made]


def poses_of(vectors: NDArray[Any], where: str) -> geometry.Array:
    """Matrices (T, 4, 4) of x y z and a quaternion x y z w (T, 7); NaN where a row is no rigid motion."""
    values = np.asarray(vectors, np.float64)
    length = np.linalg.norm(np.where(np.isfinite(values[:, 3:]), values[:, 3:], 0.0), axis=1)
    sound = (np.abs(values) < mending.ABSURD).all(1) & (np.abs(length - 1) < 0.1)
    if not sound.any():
        raise BadFile("no row is a position and a unit quaternion.", where, "Solve again.")
    poses = np.full((len(values), 4, 4), np.nan)
    poses[sound] = np.eye(4)
    poses[sound, :3, :3] = geometry.matrix_from_quaternion(values[sound][:, [6, 3, 4, 5]])
    poses[sound, :3, 3] = values[sound, :3]
    return poses


def depth_of(disparity: NDArray[Any], frames: int) -> NDArray[np.float32] | None:
    """Depth maps (T, h, w) of inverse depth, 0 where that is 0 or unknown."""
    maps = posed_depth.depth_maps(disparity, frames)
    if maps is None:
        return None
    with np.errstate(divide="ignore", over="ignore"):
        depth = np.where(maps > 1e-6, 1 / maps, 0.0)
    return depth.astype(np.float32)


def _without_sky(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unknown where the solver cut depth off, but only where it did: a scene may be large in its own units."""
    at_cut = np.abs(depth - 100) < 0.1
    return np.where(at_cut, np.float32(0), depth) if float(depth.max(initial=0)) < 100.1 else depth


def _motion_beside(path: Path) -> Path | None:
    """`motion_prob.npy` of the same clip, where the solver leaves it: outputs/N_droid.npz, reconstructions/N/."""
    name = path.stem.removesuffix("_droid").removesuffix("_sgd_cvd_hr")
    for root in (path.parent, path.parent.parent):
        place = root / "reconstructions" / name / "motion_prob.npy"
        if name != path.stem and place.is_file():
            return place
    return None


def _moving(path: Path, frames: int) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """(T, h, w) where things move by themselves. None, with a note, when the file is of other frames."""
    still = npy.read(path, *posed_depth.map_shapes(None), kinds="f")
    still = still.reshape([n for i, n in enumerate(still.shape) if i == 0 or still.ndim == 3 or n != 1])
    if len(still) != frames or still.ndim != 3 or not still.size:
        return None, [f"{path.name} is of {len(still)} frames, the cameras of {frames}: it is not used."]
    values = np.nan_to_num(still, nan=1.0)
    moving = values < _STILL
    if moving.mean() > 0.5:  # saved the other way round by some descendants; most of a picture does stand still
        moving = values > _STILL
    if moving.mean() > 0.5:
        return None, [f"By {path.name} most of the picture moves: it is not used."]
    return moving, [f"{moving.mean():.0%} of the picture moves by itself and gets no points ({path.name})."]
