"""Surfaces with the detail of photographs: noise of many octaves, boards, bricks, tiles, posters cut from real clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Random = np.random.Generator
Picture = NDArray[np.uint8]

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"
"""Real clips kept beside the project. Without them posters are drawn."""


def noise(random: Random, size: int, roughness: float = 0.75, coarsest: int = 4) -> NDArray[Any]:
    """(size, size) float32 of mean 0 and variance 1; each octave has `roughness` times the last one's amplitude."""
    total = np.zeros((size, size), np.float32)
    cells, amplitude = coarsest, 1.0
    while cells <= size:
        grid = random.standard_normal((cells, cells), np.float32)
        total += amplitude * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        cells, amplitude = 2 * cells, roughness * amplitude
    total -= total.mean()
    return np.asarray(total / total.std(), np.float32)


def _colour(random: Random, low: float = 60, high: float = 200) -> NDArray[Any]:
    grey = random.uniform(low, high)
    return np.clip(grey + random.normal(0, 18, 3), 15, 240).astype(np.float32)


def _finish(colour: NDArray[Any]) -> Picture:
    return np.clip(colour, 0, 255).astype(np.uint8)


def stone(random: Random, size: int = 1024, contrast: float = 1.0) -> Picture:
    """Two colours in patches, with grain."""
    patches = 1 / (1 + np.exp(-2.5 * noise(random, size, 0.7)))[..., None]
    colour = _colour(random) * patches + _colour(random) * (1 - patches)
    grain = noise(random, size, 0.85, 16)[..., None]
    mean = colour.mean((0, 1))
    return _finish(mean + contrast * (colour - mean + 14 * grain))


def plain(random: Random, size: int = 512, contrast: float = 3.0) -> Picture:
    """A painted wall: one colour, hardly any grain."""
    return _finish(_colour(random, 110, 200) + contrast * noise(random, size, 0.8, 3)[..., None])


def bricks(random: Random, size: int = 1024, rows: int = 14, columns: int = 6, joint: float = 0.06) -> Picture:
    """Rows of bricks (or boards, or tiles), each of its own shade, every other row shifted."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    row = np.minimum((y * rows).astype(int), rows - 1)
    along = x * columns + random.uniform(0, 1, rows)[row]
    column = along.astype(int)
    shade = random.normal(0, 18, (rows, columns + 2)).astype(np.float32)[row, column][..., None]
    across = (y * rows) % 1
    aspect = rows / columns
    gap = (across < joint) | (along % 1 < joint / aspect)
    colour = _colour(random, 80, 180) + shade + 14 * noise(random, size, 0.8, 8)[..., None]
    return _finish(np.where(gap[..., None], 0.55 * colour, colour))


def tiles(random: Random, size: int = 1024, count: int = 9) -> Picture:
    """Square tiles of a floor, each with a stain of its own."""
    return bricks(random, size, count, count, 0.04)


def grass(random: Random, size: int = 2048) -> Picture:
    """Ground out of doors: green and brown, rough."""
    share = 1 / (1 + np.exp(-2 * noise(random, size, 0.8)))[..., None]
    colour = np.array([92, 118, 58], np.float32) * share + np.array([128, 106, 78], np.float32) * (1 - share)
    return _finish(colour * (1 + 0.22 * noise(random, size, 0.95, 64)[..., None]))


def clouds(random: Random, size: int = 1024) -> Picture:
    """A sky: soft, without grain."""
    share = 1 / (1 + np.exp(-1.5 * noise(random, size, 0.45)))[..., None]
    return _finish(np.array([225, 228, 232], np.float32) * share + np.array([120, 160, 215], np.float32) * (1 - share))


def poster(random: Random, photographs: Sequence[Picture], size: int = 512) -> Picture:
    """A piece of a photograph; without photographs, shapes in strong colours."""
    if photographs:
        photograph = photographs[int(random.integers(len(photographs)))]
        side = min(photograph.shape[:2])
        x = int(random.integers(photograph.shape[1] - side + 1))
        piece = cv2.resize(photograph[:side, x : x + side], (size, size), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(piece[::-1])  # row 0 of a texture lies low
    colour = np.full((size, size, 3), _colour(random), np.float32)
    for _ in range(40):
        x, y, r = (int(v) for v in random.integers(0, size, 3))
        paint = tuple(float(c) for c in _colour(random, 20, 230))
        if random.random() < 0.5:
            cv2.circle(colour, (x, y), 4 + r // 8, paint, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(colour, (x, y), (x + 4 + r // 5, y + 4 + r // 9), paint, -1)
    return _finish(colour + 8 * noise(random, size, 0.8, 16)[..., None])


def photographs() -> list[Picture]:
    """Frames of the real clips, RGB, 480 px high; none where there are no clips."""
    import av

    found = []
    for path in sorted(CLIPS.glob("*.mp4")):
        with av.open(str(path)) as clip:
            for index, frame in enumerate(clip.decode(video=0)):
                if index % 24 == 0:
                    height = 480
                    found.append(frame.reformat(frame.width * height // frame.height, height, "rgb24").to_ndarray())
                if index >= 48:
                    break
    return found
