"""Scenes with known truth for tests of the preview engine: textured planes, rendered by ray casting in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from retake_backend.engines.base import Progress, RenderedFrame, RenderRequest
from retake_backend.engines.preview import PreviewEngine
from retake_shared.geometry import intrinsics, unproject
from retake_shared.shot import Cameras, Edit, Footage, RenderSettings, Solve, Tracks

WIDTH, HEIGHT, FRAMES = 192, 128, 12


class Pictures:
    """Footage in memory with the reader's interface."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self._frames = frames
        height, width = frames[0].shape[:2]
        self.footage = Footage("memory", width, height, Fraction(24), len(frames))

    def frame(self, index: int) -> np.ndarray:
        return self._frames[index]


@dataclass(frozen=True)
class Board:
    """An upright textured rectangle facing -z. centre: (T, 3) world; texture coordinates move with it."""

    centre: np.ndarray
    half: tuple[float, float]
    seed: int
    tint: tuple[float, float, float]


def texture(x: np.ndarray, y: np.ndarray, seed: int, tint: tuple[float, float, float]) -> np.ndarray:
    """Smooth colours of board coordinates, periods of 0.3 to 1.5 units: no aliasing at the sizes used here."""
    rng = np.random.default_rng(seed)
    out = np.zeros((*x.shape, 3))
    for c in range(3):
        for _ in range(5):
            angle, period, phase = rng.uniform(0, np.pi), rng.uniform(0.3, 1.5), rng.uniform(0, 2 * np.pi)
            out[..., c] += np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + phase)
    return np.clip(np.array(tint) * 255 + out * 16, 0, 255)


def ray_cast(boards: list[Board], cameras: Cameras, t: int, samples: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The true picture (H, W, 3) uint8 and the board number (H, W) at pixel centres; boards[0] has no edge."""
    height, width = cameras.height, cameras.width
    total = np.zeros((height, width, 3))
    number = np.zeros((height, width), int)
    offsets = (np.arange(samples) + 0.5) / samples
    for oy in offsets:
        for ox in offsets:
            u, v = np.meshgrid(np.arange(width) + ox, np.arange(height) + oy)
            far = unproject(np.stack([u, v], -1).reshape(-1, 2), np.ones(u.size), cameras.c2w[t], cameras.K[t])
            origin = cameras.c2w[t, :3, 3]
            ray = far - origin
            colour, best = np.zeros((u.size, 3)), np.full(u.size, np.inf)
            owner = np.zeros(u.size, int)
            for index, board in enumerate(boards):
                centre = board.centre[t]
                distance = (centre[2] - origin[2]) / ray[:, 2]
                x, y = (origin + ray * distance[:, None] - centre)[:, :2].T
                hit = (distance > 0) & (distance < best) & (np.abs(x) <= board.half[0]) & (np.abs(y) <= board.half[1])
                colour[hit] = texture(x[hit], y[hit], board.seed, board.tint)
                best[hit], owner[hit] = distance[hit], index
            total += colour.reshape(height, width, 3)
            if ox == oy == offsets[samples // 2]:
                number = owner.reshape(height, width)
    return np.rint(total / samples**2).astype(np.uint8), number


def still_cameras(frames: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> Cameras:
    K = intrinsics(np.full(frames, 0.9 * width), 0.9 * width, width / 2, height / 2)
    return Cameras(np.tile(np.eye(4), (frames, 1, 1)), K, width, height)


def moved(cameras: Cameras, offset: np.ndarray) -> Cameras:
    """The cameras with their centres moved by offset (T, 3) world."""
    c2w = cameras.c2w.copy()
    c2w[:, :3, 3] += offset
    return replace(cameras, c2w=c2w)


def background(frames: int = FRAMES) -> Board:
    return Board(np.tile([0.0, 0.0, 6.0], (frames, 1)), (1e9, 1e9), 1, (0.35, 0.5, 0.35))


def board(path: np.ndarray, seed: int = 2, half: tuple[float, float] = (0.55, 0.7)) -> Board:
    tint = [(0.75, 0.35, 0.3), (0.3, 0.35, 0.75), (0.7, 0.7, 0.3)][seed % 3]
    return Board(np.asarray(path, float), half, seed, tint)


def shoot(
    boards: list[Board], cameras: Cameras, *, masks: bool = True, spacing: float = 0.12
) -> tuple[Pictures, Solve]:
    """Footage of the boards and its exact solve: tracks on all boards, with true visibility."""
    shots = [ray_cast(boards, cameras, t) for t in range(len(cameras))]
    positions, objects = [], []
    for index, b in enumerate(boards):
        reach_x, reach_y = (6.0, 4.0) if index == 0 else (b.half[0] - 0.02, b.half[1] - 0.02)
        step = 0.3 if index == 0 else spacing
        x, y = np.meshgrid(np.arange(-reach_x, reach_x + 1e-6, step), np.arange(-reach_y, reach_y + 1e-6, step))
        local = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1)
        positions.append(b.centre[:, None] + local[None])
        objects.append(np.full(len(local), index))
    world, owner = np.concatenate(positions, 1), np.concatenate(objects)
    uv, depth = cameras.project(world)
    column, row = np.floor(np.nan_to_num(uv, nan=-1)).astype(int).transpose(2, 0, 1)
    inside = (depth > 0) & (column >= 0) & (row >= 0) & (column < cameras.width) & (row < cameras.height)
    numbers = np.stack([n for _, n in shots])
    frame = np.arange(len(cameras))[:, None]
    safe = np.where(inside, row, 0), np.where(inside, column, 0)
    visible = inside & (numbers[frame, safe[0], safe[1]] == owner[None])
    names = {0: "background", **{i: f"board {i}" for i in range(1, len(boards))}}
    solve = Solve(
        cameras,
        Tracks.make(world, visible, objects=owner),
        masks=numbers.astype(np.uint8) if masks else None,
        object_names=names,
    )
    return Pictures([rgb for rgb, _ in shots]), solve


def render(footage: Pictures, solve: Solve, edit: Edit, **settings: object) -> list[RenderedFrame]:
    return list(PreviewEngine().render(RenderRequest(footage, solve, edit, RenderSettings(**settings)), no_report))


def no_report(progress: Progress) -> None:
    assert 0 <= progress.done <= progress.total


def translate(edit: Edit, number: int, offset: object) -> Edit:
    positions = edit.positions.copy()
    positions[:, edit.objects == number] += np.asarray(offset, float)
    return replace(edit, positions=positions)
