"""A textured wall 4 units away under a camera that moves sideways: pictures, cameras and tracks that agree."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_backend.training.pairs import Pair
from retake_shared.geometry import intrinsics
from retake_shared.shot import Cameras, Edit, Solve, Tracks

FRAMES, SIZE = 5, (96, 64)
DEPTH, FOCAL = 4.0, 80.0
_PER_UNIT = 20.0  # px of the texture; one px of the picture at that depth


def wall_cameras(frames: int = FRAMES, step: float = 0.1, aside: float = 0.0) -> Cameras:
    """Looking along z, `step` further to the right in each frame, `aside` of it all."""
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, 0, 3] = aside + step * np.arange(frames)
    K = np.tile(intrinsics(FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2), (frames, 1, 1))
    return Cameras(c2w, K, *SIZE)


def wall_video(cameras: Cameras) -> NDArray[np.uint8]:
    """(F, 64, 96, 3): what they see."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (32, 64, 3), np.uint8)
    texture = cv2.resize(coarse, (256, 128), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5 - SIZE[0] / 2, np.arange(SIZE[1]) + 0.5 - SIZE[1] / 2)
    scale = DEPTH / FOCAL * _PER_UNIT
    frames = []
    for place in cameras.c2w[:, :2, 3]:
        u = (x * scale + place[0] * _PER_UNIT + 80).astype(np.float32) - 0.5
        v = (y * scale + place[1] * _PER_UNIT + 64).astype(np.float32) - 0.5
        frames.append(cv2.remap(texture, u, v, cv2.INTER_LINEAR))
    return np.stack(frames).astype(np.uint8)


def tiny_pair(frames: int = FRAMES, step: float = 0.2) -> Pair:
    """In the edit the camera moves `step` a frame, twice as fast as in the source."""
    source, target = wall_cameras(frames), wall_cameras(frames, step=step)
    x, y = np.meshgrid(np.linspace(-2.2, 3.2, 16), np.linspace(-1.5, 1.5, 9))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, DEPTH)], 1)
    solve = Solve(source, Tracks.make(np.tile(points, (frames, 1, 1))))
    same = Edit.identity(solve)
    edit = Edit(target, same.positions, same.present, same.source_track, same.source_frame, same.objects)
    origin = {"kind": "synthetic", "name": "wall"}
    return Pair(wall_video(source), wall_video(target), solve, edit, caption="a wall", origin=origin)
