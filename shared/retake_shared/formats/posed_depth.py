"""What solvers that give cameras and depth maps but no tracks have in common; tracks are lifted from the maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import geometry, lifting
from ..errors import BadFile
from ..shot import Cameras, Solve, Tracks
from . import convention, mending
from .npz import MAX_ARRAY_BYTES, NpzFile

MAP_SIDE = 640
"""Depth maps are thinned to whole-number steps until their longer side fits, after points were lifted from them."""

MAX_SIDE = 32768


def depth_maps(raw: NDArray[Any], frames: int) -> NDArray[np.float32] | None:
    """Maps (T, h, w) from (T, h, w), (T, h, w, 1) or (T, 1, h, w), 0 where unknown; None when there is nothing."""
    if raw.ndim == 4:
        raw = raw[..., 0] if raw.shape[-1] == 1 else raw[:, 0]
    if not raw.size or len(raw) != frames:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        maps = np.asarray(raw, np.float32)
    return np.maximum(np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0), 0.0)


def map_shapes(frames: int | None) -> tuple[tuple[int | None, ...], ...]:
    """The shapes that `depth_maps` takes, for `NpzFile.read`."""
    return (frames, None, None), (frames, None, None, 1), (frames, 1, None, None)


def image_size(npz: NpzFile, key: str) -> tuple[int, int] | None:
    """(width, height) of pictures (T, h, w, 3) or (T, 3, h, w) by their header alone, None when there are none."""
    shape = npz.shape(key)
    if len(shape) != 4:
        return None
    size = (shape[2], shape[1]) if shape[3] in (1, 3, 4) else (shape[3], shape[2])
    return size if all(1 <= side <= MAX_SIDE for side in size) else None


def assemble(
    where: str,
    solver: str,
    poses: NDArray[Any],
    intrinsics: NDArray[Any],
    size: tuple[int, int],
    depth: NDArray[np.float32] | None,
    *,
    declared: str,
    moving: NDArray[np.bool_] | None = None,
    solved: NDArray[Any] | None = None,
) -> tuple[Solve, list[str]]:
    """The Solve of poses (S, 4, 4) or (S, 3, 4), intrinsics (S, 3, 3) or (3, 3) px of a picture of `size`, depth maps.

    declared: a key of `convention.READINGS`, doubted only when the depth maps of different frames fit together clearly
    better under another. moving: (S, h, w), where the picture moves by itself. solved: the frame numbers of the S
    entries, increasing from 0 or later; frames between are interpolated and have no depth.
    """
    rigid, notes = mending.poses(poses, f"{where}: poses", world_to_camera=declared.startswith("world"))
    K, K_notes = mending.intrinsics(intrinsics, len(rigid), f"{where}: intrinsics")
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise BadFile(f"a picture of {size[0]}x{size[1]} px.", where, "Save the result again.")
    reading = declared if depth is None else _agreed(rigid, K, size, depth, declared)
    if reading != declared:
        notes.append(f"The poses were read as {reading}: so the depth maps of different frames fit together, as "
                     f"{declared}, which this solver is documented to write, they do not.")  # fmt: skip
    c2w = convention.READINGS[reading](rigid)
    if solved is not None:
        c2w, K, depth, moving, gap_notes = _filled(c2w, K, depth, moving, solved, where)
        notes += gap_notes
    cameras = Cameras(c2w, K, *size)
    if depth is None:
        tracks, track_notes = Tracks.empty(len(cameras)), [no_tracks(solver)]
    else:
        tracks, track_notes = lifting.tracks_from_depth(cameras, depth, moving)
        step = -(-max(depth.shape[1:]) // MAP_SIDE)
        depth = np.ascontiguousarray(depth[:, step // 2 :: step, step // 2 :: step])
        if not depth.size:
            depth = None
    solve = Solve(cameras, tracks, depth=depth, source=f"{solver}, poses read as {reading}")
    return solve, [*notes, *K_notes, *track_notes]


def no_tracks(solver: str) -> str:
    """The note of a solve that has cameras alone."""
    return f"{solver} gives cameras but no tracks: the camera can be edited, objects cannot until tracks are added."


def _filled(
    c2w: geometry.Array,
    K: geometry.Array,
    depth: NDArray[np.float32] | None,
    moving: NDArray[np.bool_] | None,
    solved: NDArray[Any],
    where: str,
) -> tuple[geometry.Array, geometry.Array, NDArray[np.float32] | None, NDArray[np.bool_] | None, list[str]]:
    """Everything for frames 0 .. the last solved one."""
    count = int(solved[-1]) + 1
    if count == len(solved):
        return c2w, K, depth, moving, []
    if depth is not None and count * depth[0].nbytes > MAX_ARRAY_BYTES:
        raise BadFile(f"reaches to frame {count - 1} with maps too large for so many.", where, "Solve a shorter part.")
    at = np.arange(count)
    maps: list[NDArray[Any] | None] = []
    for layers in (depth, moving):
        full = None if layers is None else np.zeros((count, *layers.shape[1:]), layers.dtype)
        if full is not None:
            full[solved] = layers
        maps.append(full)
    missing = np.setdiff1d(at, solved)
    notes = [f"No pose for {mending.name_frames(missing)}: interpolated from the neighbours, without depth."]
    K = geometry.sample_rows(K, np.interp(at, solved, np.arange(len(solved))))
    return geometry.interpolate_poses(solved, c2w, at), K, maps[0], maps[1], notes


def _agreed(
    poses: geometry.Array, K: geometry.Array, size: tuple[int, int], depth: NDArray[np.float32], declared: str
) -> str:
    """The reading of the poses under which depth maps of different frames show one scene; the declared one in doubt."""
    scores = {name: _agreement(Cameras(to_c2w(poses), K, *size), depth) for name, to_c2w in convention.READINGS.items()}
    best = max(scores, key=lambda name: scores[name])
    # Frames far apart share little, so that even the right reading may score low: then twice as much is clear enough.
    clearly = min(convention.CLEARLY, max(scores[declared], 0.1))
    return best if scores[best] > scores[declared] + clearly else declared


def _agreement(cameras: Cameras, depth: NDArray[np.float32]) -> float:
    """Share of points of some frames' maps that lie where the maps of other frames say, 0 .. 1."""
    frames = np.unique(np.linspace(0, len(cameras) - 1, min(5, len(cameras))).round().astype(int))
    u, v = np.meshgrid(*((np.arange(20) + 0.5) / 20 * side for side in (cameras.width, cameras.height)))
    grid = np.stack([u, v], -1).reshape(-1, 2)
    positions, visibility = [], []
    for frame in frames:
        z = lifting.sample_depth(depth[frame], grid, cameras)
        positions.append(geometry.unproject(grid, z, cameras.c2w[frame], cameras.K[frame]))
        visibility.append(z > 0)
    points = np.concatenate(positions)
    seen = np.repeat(np.concatenate(visibility)[None], len(frames), 0)
    for row in range(len(frames)):  # a frame agrees with itself under every reading
        seen[row, row * len(grid) : (row + 1) * len(grid)] = False
    subset = Cameras(cameras.c2w[frames], cameras.K[frames], cameras.width, cameras.height)
    found = convention.fit(subset, np.repeat(points[None], len(frames), 0), seen, depth[frames])
    return found.score if found.agreeing is not None else 0.0
