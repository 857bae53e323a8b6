"""The sample shot as the stages before would hand it on: its true tracks with noise, its true cameras."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from retake_backend.engines.base import Progress
from retake_backend.footage import FootageReader
from retake_backend.models.random_weights import write_random
from retake_backend.solve.stages import CameraSolve, PointTracks
from retake_backend.weights.store import WeightStore
from retake_shared import archive, lifting
from retake_shared.shot import Solve

SHOT = Path(__file__).resolve().parents[3] / "shared" / "sample_shot"
STEP = 2
"""Every second frame is used: half the time, twice the motion."""

NOISE = 0.3  # px


def quiet(progress: Progress) -> None:
    """A report that nobody reads."""


def random_store(folder: Path, name: str) -> WeightStore:
    """A folder of models with a tiny one of that name in it."""
    torch.set_num_threads(1)
    write_random(name, folder / name)
    return WeightStore(folder)


@cache
def truth() -> Solve:
    solve = archive.load_solve(SHOT / "walk.solve.npz")
    cut = slice(None, None, STEP)
    tracks = solve.tracks.select(np.arange(len(solve.tracks)))
    cameras = type(solve.cameras)(solve.cameras.c2w[cut], solve.cameras.K[cut], 672, 384)
    few = type(tracks)(
        tracks.positions[cut], tracks.visibility[cut], tracks.confidence[cut], tracks.objects, tracks.ids
    )
    assert solve.depth is not None
    assert solve.masks is not None
    return Solve(cameras, few, solve.depth[cut], solve.masks[cut], solve.object_names)


@cache
def pictures() -> tuple[NDArray[np.uint8], ...]:
    with FootageReader(SHOT / "walk.mp4") as reader:
        return tuple(reader.frame(i) for i in range(0, reader.footage.frames, STEP))


@cache
def points() -> PointTracks:
    tracks = truth().tracks
    uv, _ = truth().cameras.project(tracks.positions)
    uv = uv + np.random.default_rng(0).normal(0, NOISE, uv.shape)
    visible = tracks.visibility
    return PointTracks(np.where(visible[..., None], uv, np.nan).astype(np.float32), visible, visible.astype(np.float32))


@cache
def solved() -> CameraSolve:
    followed, cameras = points(), truth().cameras
    tracks, _ = lifting.lift(followed.uv, followed.visible, cameras)
    world = np.full((len(followed), 3), np.nan)
    world[tracks.ids] = tracks.positions[0]
    placed = np.nan_to_num(world)[None].repeat(len(cameras), 0)
    residual = np.linalg.norm(cameras.project(placed)[0] - followed.uv, axis=-1).astype(np.float32)
    residual[:, np.isnan(world[:, 0])] = np.nan
    with np.errstate(invalid="ignore"):
        far = np.where(np.isfinite(residual), residual, 0).max(0) > 3
    static = np.isfinite(world).all(1) & ~far
    return CameraSolve(cameras, "moving", world, static, residual, "given", np.ones(len(cameras), bool))
