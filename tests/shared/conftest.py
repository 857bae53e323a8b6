"""Small made-up shots for the tests of shared/."""

from collections.abc import Callable

import numpy as np
import pytest
from retake_shared import geometry
from retake_shared.shot import Cameras, Solve, Tracks


def _make_solve(frames: int = 6, depth: bool = False, masks: bool = False, seed: int = 0) -> Solve:
    """A camera that travels and pans a little; four background tracks, five of a "walker", three of a "ball"."""
    random = np.random.default_rng(seed)
    t = np.linspace(0, 1, frames)
    pan = geometry.axis_rotation([0.1, 1, 0], 0.3 * t)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = geometry.axis_rotation([1, 0, 0.2], 0.2) @ pan
    c2w[:, :3, 3] = np.stack([1 + 0.5 * t, 2 + 0.1 * t, 3 + 0.3 * t], 1)
    cameras = Cameras(c2w, np.tile(geometry.intrinsics(300, 320, 160, 90), (frames, 1, 1)), 320, 180)
    objects = np.repeat([0, 1, 2], [4, 5, 3])
    in_camera = random.uniform([-1, -0.5, 4], [1, 0.5, 6], (len(objects), 3))
    positions = np.tile(geometry.transform(c2w[frames // 2], in_camera), (frames, 1, 1))
    positions[:, objects == 1] += (t[:, None] * [0.8, 0, 0.1])[:, None]
    positions[:, objects == 2] += (t[:, None] ** 2 * [-0.5, 0.3, 0])[:, None]
    return Solve(
        cameras=cameras,
        tracks=Tracks.make(positions, random.random(positions.shape[:2]) < 0.8, objects=objects),
        depth=random.uniform(4, 6, (frames, 5, 9)).astype(np.float32) if depth else None,
        masks=random.integers(0, 3, (frames, 5, 9)).astype(np.uint8) if masks else None,
        object_names={1: "walker", 2: "ball"},
        source="made up for a test",
    )


@pytest.fixture(scope="session")
def make_solve() -> Callable[..., Solve]:
    return _make_solve
