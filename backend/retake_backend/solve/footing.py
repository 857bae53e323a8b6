"""What can be told of a clip before any point is followed: scene cuts, and pictures that nothing can be followed in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from .patches import taken
from .stages import Gray

VERSION = 1

_LONGER_SIDE = 160
_EXPLAINED = 0.55
"""Correlation of a frame with the one before it, taken along by the flow, that every continued scene has."""
_FLASH = 3
"""Frames that a flash of light or a passer-by before the lens may last; the scene goes on behind it."""


def cuts(frames: Sequence[Gray]) -> list[int]:
    """Frames that begin a new scene, without the first. A change of exposure, a flash and a fast pan are none."""
    small = [_small(frame) for frame in frames]
    goes_on = [True, *(_likeness(a, b) >= _EXPLAINED for a, b in pairwise(small)), True]
    found = []
    for t in range(1, len(small)):
        # Where hardly a frame goes on from the last, it is no cut but chaos: noise, or a camera that is thrown about.
        if goes_on[t] or not (any(goes_on[max(0, t - 2) : t]) and any(goes_on[t + 1 : t + 3])):
            continue
        before = small[max(0, t - _FLASH) : t]
        after = small[t : t + _FLASH]
        if not any(_likeness(a, b) >= _EXPLAINED for a in before for b in after):
            found.append(t)
    return [t for at, t in enumerate(found) if at == 0 or t - found[at - 1] > _FLASH]


def trouble(frames: Sequence[Gray]) -> str:
    """Why these frames cannot be followed (black, frozen, noise), in words, or ""."""
    if len(frames) < 2:
        return "it has only one frame"
    contrast = np.array([float(frame[::2, ::2].std()) for frame in frames])
    if (contrast < 2.5).mean() > 0.5:
        empty = int((contrast < 2.5).sum())
        dark = np.mean([float(frame[::4, ::4].mean()) for frame in frames]) < 32
        return f"{empty} of its {len(frames)} frames are {'black' if dark else 'of one colour'}"
    changes = [_changed(a, b) for a, b in pairwise(frames)]
    if sum(changes) < max(1, 0.05 * len(changes)):
        return "it is frozen: all its frames show the same picture"
    pairs = np.unique(np.linspace(0, len(frames) - 2, 12).round().astype(int))
    small = [(_small(frames[t]), _small(frames[t + 1])) for t in pairs if changes[t]]
    if small and np.median([_likeness(a, b) for a, b in small]) < 0.3:
        return "its frames have nothing to do with each other (noise)"
    return ""


def _small(frame: Gray) -> Gray:
    """The picture at a size where motion is small, its contrast made the same for every exposure."""
    height, width = frame.shape
    scale = min(1.0, _LONGER_SIDE / max(height, width))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    small = cv2.GaussianBlur(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), (0, 0), 1.0).astype(np.float32)
    small = 128 + (small - small.mean()) * (40 / max(float(small.std()), 2.0))
    return np.asarray(np.clip(small, 0, 255), np.uint8)


def _changed(a: Gray, b: Gray) -> bool:
    """Whether two frames differ by more than what compression does to a picture that stands still."""
    difference = np.abs(a[::2, ::2].astype(np.int16) - b[::2, ::2])
    return bool(difference.mean() > 0.02 and difference.max() > 2)


def _likeness(a: Gray, b: Gray) -> float:
    """How well b is a with its parts moved, or with the whole moved far: their correlation where both show a thing."""
    height, width = a.shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = dense.calc(b, a, np.zeros((height, width, 2), np.float32))
    # Smooth, as flow that is free to pick any pixel could make b of anything.
    best = _moved_likeness(a, b, pixels + cv2.GaussianBlur(flow, (0, 0), 4.0), 0.1)
    if best < _EXPLAINED:  # a pan too fast for the flow
        window = cv2.createHanningWindow((width, height), cv2.CV_32F)
        shift, _ = cv2.phaseCorrelate(b.astype(np.float32), a.astype(np.float32), window)
        best = max(best, _moved_likeness(a, b, pixels + np.asarray(shift, np.float32), 0.35))
    return best


def _moved_likeness(a: Gray, b: Gray, at: NDArray[np.float32], least: float) -> float:
    """Correlation of a taken at (h, w, 2) and b; 0 where less than the share `least` of the frame is in both."""
    height, width = a.shape
    inside = (at >= -0.5).all(2) & (at < [width - 0.5, height - 0.5]).all(2)
    return _correlation(taken(a, at)[inside], b[inside]) if inside.mean() >= least else 0.0


def _correlation(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    x, y = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    return float((x * y).sum() / max(np.sqrt((x * x).sum() * (y * y).sum()), 1e-9))
