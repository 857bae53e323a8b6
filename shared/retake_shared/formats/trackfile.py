"""What SpatialTrackerV2 and TAPIP3D have in common: one .npz with world tracks, poses and intrinsics per frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..errors import BadFile
from ..shot import Cameras, Footage, Solve
from . import convention, mending
from .npz import NpzFile

REQUIRED = ("coords", "extrinsics", "intrinsics")


@dataclass(frozen=True)
class TrackFile:
    """The arrays of the file as they are: coords (T, N, 3) world, poses, intrinsics, size (width, height) px."""

    npz: NpzFile
    coords: NDArray[Any]
    poses: NDArray[Any]
    intrinsics: NDArray[Any]
    depth: NDArray[np.float32] | None
    size: tuple[int, int]
    notes: list[str] = field(default_factory=list)


def is_trackfile(npz: NpzFile) -> bool:
    """Whether the arrays that both solvers write are there, with shapes that can be meant."""
    return all(key in npz for key in REQUIRED) and len(npz.shape("coords")) == 3


def open_arrays(npz: NpzFile, footage: Footage | None) -> TrackFile:
    """Read and check the shapes of the common arrays. Raises BadFile naming the array and what was expected."""
    coords = npz.read("coords", (None, None, 3), kinds="f")
    frames = len(coords)
    if not frames:
        raise BadFile("holds no frame.", f"{npz.path}: coords", "Solve again.")
    poses = npz.read("extrinsics", (frames, 4, 4), (frames, 3, 4), kinds="f")
    K = npz.read("intrinsics", (frames, 3, 3), (3, 3), kinds="fi")
    depth = None
    if "depths" in npz:
        maps = npz.read("depths", (frames, None, None), (frames, None, None, 1), (frames, 1, None, None), kinds="f")
        squeezed = maps.reshape([n for i, n in enumerate(maps.shape) if i == 0 or maps.ndim == 3 or n != 1])
        if squeezed.ndim == 3 and squeezed.size:
            depth = np.maximum(np.nan_to_num(squeezed.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0), 0.0)
    size, notes = _picture_size(npz, np.asarray(K).reshape(-1, 3, 3), footage)
    return TrackFile(npz, coords, poses, K, depth, size, notes)


def assemble(
    file: TrackFile,
    visibility: NDArray[Any],
    confidence: NDArray[Any],
    objects: NDArray[Any],
    names: dict[int, str],
    solver: str,
) -> tuple[Solve, list[str]]:
    """The Solve of a file whose visibility (T, N), confidence (T, N) and objects (N,) its own reader has worked out."""
    path, frames = file.npz.path, len(file.coords)
    tracks, track_notes = mending.tracks(file.coords, visibility, confidence, objects, f"{path}: coords")
    poses, pose_notes = mending.poses(file.poses, f"{path}: extrinsics", world_to_camera=True)
    K, K_notes = mending.intrinsics(file.intrinsics, frames, f"{path}: intrinsics")
    c2w, reading, reading_notes = convention.choose(
        poses, K, file.size, tracks.positions, tracks.visibility, "world-to-camera", file.depth
    )
    cameras = Cameras(c2w, K, *file.size)
    tracks, behind_notes = mending.hide_behind(tracks, cameras)
    if not len(tracks):
        track_notes = ["The file has no tracks: the camera can be edited, objects cannot."]
    solve = Solve(cameras, tracks, depth=file.depth, object_names=names, source=f"{solver}, poses read as {reading}")
    return solve, file.notes + track_notes + pose_notes + K_notes + reading_notes + behind_notes


def inside_frame(file: TrackFile) -> NDArray[np.bool_]:
    """(T, N): which points lie in front of the camera and inside the frame, poses read as declared (w2c)."""
    K = np.broadcast_to(file.intrinsics, (len(file.coords), 3, 3))
    poses = np.tile(np.eye(4), (len(file.poses), 1, 1))
    poses[:, : file.poses.shape[1]] = file.poses
    with np.errstate(all="ignore"):
        uv, depth = geometry.project(file.coords, geometry.invert_rigid(poses), K)
    return geometry.inside_image(uv, depth, *file.size)


def _picture_size(npz: NpzFile, K: NDArray[Any], footage: Footage | None) -> tuple[tuple[int, int], list[str]]:
    """(width, height) of the picture that the intrinsics belong to: video, depth maps, or the principal point."""
    video = npz.shape("video")
    if len(video) == 4 and min(video) > 0:
        height, width = video[2:] if video[1] == 3 else video[1:3]
        return (width, height), []
    depths = [n for i, n in enumerate(npz.shape("depths")) if i == 0 or len(npz.shape("depths")) == 3 or n != 1]
    if len(depths) == 3 and min(depths) > 0:
        return (depths[2], depths[1]), []
    center = np.nanmedian(np.where(np.isfinite(K), K, np.nan)[:, :2, 2], 0)
    doubled = [float(n) for n in 2 * center]
    if all(16 <= n <= 16384 and abs(n - round(n)) < 0.01 for n in doubled):
        size = round(doubled[0]), round(doubled[1])
        return size, [
            f"The file does not tell its picture size: {size[0]}x{size[1]}, twice the principal point, is used."
        ]
    if footage is not None and 0 < center[0] < footage.width and 0 < center[1] < footage.height:
        return (footage.width, footage.height), ["The file does not tell its picture size: the footage's is used."]
    raise BadFile(
        "neither `video` nor `depths` tells the picture size that the intrinsics belong to.",
        str(npz.path),
        "Save the file with one of them.",
    )
