"""Depth of single pictures by a network, where its weights are installed.

Such a network tells inverse depth up to a scale and an offset, and both wander from frame to frame; triangulated points
fix them, smoothly in time. Depth Pro tells the field of view of a picture too, for cameras whose motion does not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..engines.base import Progress, Report
from ..weights.catalogue import find
from ..weights.store import WeightStore
from . import interpolation, series
from .ground import Ground
from .masks import MEAN, SPREAD
from .stages import CameraSolve, Focal, Pictures, PointTracks, picture

PREFERRED = "depth-anything-v2-small"
DEPTH_PRO = "depth-pro"
"""May be used for research only, and takes minutes a picture without a GPU: for depth only where it is asked for."""

NAMES = (PREFERRED, DEPTH_PRO)
"""By the catalogue."""

_SHORTER = 266
"""px of the picture's shorter side that the network sees: its own 518 take four times as long for little more."""

_VIEWS = (5.0, 150.0)
"""Degrees across: what a network tells beyond them is no field of view of footage."""

Array = NDArray[np.float64]


def network(asked: str = "", store: WeightStore | None = None) -> str:
    """The name of the network that tells depth here: the one asked for, else the preferred one if it is installed, else
    "". Raises MissingWeights when the one asked for is not installed."""
    store = store or WeightStore()
    if asked:
        store.place(asked)
        return asked
    return PREFERRED if store.entry(PREFERRED).state == "installed" else ""


def identity(name: str, store: WeightStore | None = None) -> str:
    """Names the weights that stand under a network's name here: results of random ones are no results of real ones."""
    return f"{name}, random" if name and (store or WeightStore()).random(name) else name


def tells_view(store: WeightStore | None = None) -> bool:
    """Whether what tells the field of view of a picture is installed."""
    return (store or WeightStore()).entry(DEPTH_PRO).state == "installed"


def label(name: str) -> str:
    """Its name for people."""
    return find(name).label


def inverse_depths(
    name: str, pictures: Pictures, count: int, shape: tuple[int, int], report: Report, store: WeightStore | None = None
) -> NDArray[np.float32]:
    """(T, h, w) what the network tells of each picture: inverse depth in units of its own. Raises MissingWeights."""
    model = _loaded(name, store)
    found = np.empty((count, *shape), np.float32)
    for t in range(count):
        report(Progress("estimating depth", t, count))
        told = _asked(model, picture(pictures, t)).predicted_depth[0].float().cpu().numpy()
        if getattr(model.config, "depth_estimation_type", "") == "metric":
            told = 1 / np.maximum(told, 1e-3)
        found[t] = cv2.resize(told, shape[::-1], interpolation=cv2.INTER_AREA)
    return found


def focal(
    pictures: Pictures, count: int, size: tuple[int, int], report: Report, store: WeightStore | None = None
) -> Focal | None:
    """The focal length that Depth Pro tells of a few frames, None where it cannot be one. Raises MissingWeights."""
    model = _loaded(DEPTH_PRO, store)
    looks = (0.5,) if model.device.type == "cpu" else (0.1, 0.3, 0.5, 0.7, 0.9)
    views = []
    for done, share in enumerate(looks):
        report(Progress(f"asking {label(DEPTH_PRO)} for the field of view", done, len(looks)))
        views.append(float(_asked(model, picture(pictures, round(share * (count - 1)))).field_of_view[0]))
    view = float(np.median(views))
    if not _VIEWS[0] < view < _VIEWS[1]:
        return None
    return replace(Focal.from_fov(view, size), source=f"told roughly by {label(DEPTH_PRO)}, from the picture alone")


def _loaded(name: str, store: WeightStore | None) -> Any:
    import torch
    import transformers

    place = (store or WeightStore()).place(name)
    loader: Any = getattr(transformers, find(name).components[""])
    model = loader.from_pretrained(place, local_files_only=True, use_safetensors=True, dtype=torch.float32).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _asked(model: Any, frame: NDArray[np.uint8]) -> Any:
    """What the network tells of a picture, which it sees at the size and in the colours that it was trained on."""
    import torch

    if model.config.model_type == "depth_pro":
        side = round(model.config.patch_size / min(model.config.scaled_images_ratios))
        seen = cv2.resize(frame / np.float32(127.5) - 1, (side, side), interpolation=cv2.INTER_LINEAR)
    else:
        patch = int(model.config.patch_size)
        scale = _SHORTER / min(frame.shape[:2])
        rows, columns = (max(round(side * scale / patch), 1) * patch for side in frame.shape[:2])
        seen = (cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_CUBIC) / np.float32(255) - MEAN) / SPREAD
    values = torch.from_numpy(seen.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return model(pixel_values=values.to(model.device))


def estimate(
    name: str,
    points: PointTracks,
    solve: CameraSolve,
    moving: NDArray[np.uint8] | None,
    still: NDArray[np.float32] | None,
    ground: Ground,
    pictures: Pictures,
    shape: tuple[int, int],
    report: Report,
    store: WeightStore | None = None,
) -> tuple[NDArray[np.float32], list[str]]:
    """(T, h, w) depth in the cameras' units, and notes.

    moving: (T, h, w), not 0 where objects move, or None. still: (T, h, w) inverse depth between triangulated points,
    None where the camera gives no parallax; then the `ground` fixes scale and offset, one for all frames.
    """
    told = inverse_depths(name, pictures, points.frame_count, shape, report, store)
    notes = [f"Depth by {label(name)}, brought to the still points in every frame."]
    if name == DEPTH_PRO:
        notes.append(f"{label(name)} may be used for research only ({find(name).licence}).")
    if (store or WeightStore()).random(name):
        notes.append("Its weights are random: the depth means nothing.")
    if still is None:
        notes[0] = f"Depth by {label(name)}; its scale is guessed from a level ground at the lower edge of the picture."
        return (1 / np.maximum(_on_ground(told, moving, ground, solve), 1e-6)).astype(np.float32), notes
    return (1 / aligned(told, points, solve, moving)).astype(np.float32), notes


def aligned(
    told: NDArray[np.float32], points: PointTracks, solve: CameraSolve, moving: NDArray[np.uint8] | None = None
) -> NDArray[np.float32]:
    """(T, h, w) inverse depth in the cameras' units of what a network told, positive.

    Scale and offset of each frame are fitted to the still points robustly, then smoothed in time.
    """
    # A network's own scale leaps from frame to frame; the picture's middle and spread, which leap with it, do not.
    middle = np.median(told, (1, 2), keepdims=True)
    told = (told - middle) / np.maximum(np.median(np.abs(told - middle), (1, 2), keepdims=True), 1e-12)
    frames, *rest = told.shape
    shape = (rest[0], rest[1])
    cameras = solve.cameras
    size = (cameras.width, cameras.height)
    uv = np.asarray(solve.uv(points), np.float64)
    known = np.flatnonzero(solve.placed)
    _, z = cameras.project(solve.world[known][None].repeat(frames, 0))
    fits, weight = np.zeros((frames, 2)), np.zeros(frames)
    lowest = np.zeros(frames)
    for t in range(frames):
        here = points.visible[t, known] & (z[t] > 0)
        at = interpolation.cells_of(uv[t, known[here]], size, shape)
        inverse = 1 / z[t, here]
        if moving is not None:
            free = moving[t].reshape(-1)[at] == 0
            at, inverse = at[free], inverse[free]
        if len(inverse) < 8:
            continue
        fits[t], weight[t] = _robust_line(told[t].reshape(-1)[at].astype(np.float64), inverse), min(len(inverse), 200)
        lowest[t] = np.quantile(inverse, 0.02)
    good = weight > 0
    if not good.any():
        return np.ones_like(told)
    smooth = np.stack([series.smooth(fits[:, k], weight / 200, 10.0) for k in (0, 1)], 1)
    floor = 0.25 * float(np.median(lowest[good]))
    found: NDArray[np.float32] = np.maximum(told * smooth[:, 0, None, None] + smooth[:, 1, None, None], floor)
    return found.astype(np.float32)


def _robust_line(x: Array, y: Array) -> Array:
    """(2,) slope, not negative, and offset of y = slope x + offset, by reweighted least squares on relative errors."""
    weight = 1 / np.maximum(y, 1e-9) ** 2
    line = np.array([0.0, float(np.median(y))])
    for _ in range(12):
        total = weight.sum()
        mx, my = (weight * x).sum() / total, (weight * y).sum() / total
        spread = (weight * (x - mx) ** 2).sum()
        slope = max(float((weight * (x - mx) * (y - my)).sum() / spread), 0.0) if spread > 1e-12 * total else 0.0
        line = np.array([slope, my - slope * mx])
        error = np.abs(line[0] * x + line[1] - y) / np.maximum(y, 1e-9)
        scale = max(1.5 * float(np.median(error)), 1e-4)
        weight = 1 / np.maximum(y, 1e-9) ** 2 / (1 + (error / scale) ** 2) ** 2
    return line


def _on_ground(
    told: NDArray[np.float32], moving: NDArray[np.uint8] | None, ground: Ground, solve: CameraSolve
) -> NDArray[np.float32]:
    """Inverse depth whose lowest quarter of the picture lies on the ground."""
    frames, rows, columns = told.shape
    cameras = solve.cameras
    cells = interpolation.grid(rows, columns, (cameras.width, cameras.height))
    low = np.arange(rows * columns) >= rows * columns * 3 // 4
    xs, ys = [], []
    for t in range(0, frames, max(frames // 8, 1)):
        inverse = 1 / ground.depth(cells, cameras.c2w[t], cameras.K[t])
        use = low & (inverse > 0)
        if moving is not None:
            use &= moving[t].reshape(-1) == 0
        xs.append(told[t].reshape(-1)[use].astype(np.float64))
        ys.append(inverse[use])
    x, y = np.concatenate(xs), np.concatenate(ys)
    slope, offset = _robust_line(x, y) if len(x) >= 8 else (1.0, 0.0)
    if slope <= 0:  # nothing to lean on: the nearest is as far away as the camera is high
        slope, offset = 1 / (float(np.quantile(told, 0.98)) * 1.6 + 1e-9), 0.0
    return np.maximum(told * slope + offset, 0.02 * float(np.median(y)) if len(y) else 1e-3).astype(np.float32)
