"""What lies behind: the background where the rendered source frame does not show it, from the rest of the footage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.geometry import invert_rigid
from retake_shared.shot import Cameras

from .grids import Map, remap_points
from .surfaces import Surface

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Plate:
    """Background seen from one camera: rgb (H, W, 3) and where it is truly background, with no object on it.

    surface: its measured depth, to tell what it really shows, or None.
    """

    frame: int
    rgb: Picture
    shown: Mask
    surface: Surface | None


def is_static(cameras: Cameras, nearest: float) -> bool:
    """Whether the camera stands still: nothing at distance `nearest` or beyond moves half a pixel."""
    turn = np.abs(cameras.c2w[:, :3, :3] - cameras.c2w[0, :3, :3]).max() * cameras.K[:, 0, 0].max()
    move = np.linalg.norm(cameras.c2w[:, :3, 3] - cameras.c2w[0, :3, 3], axis=1).max() * cameras.K[:, 0, 0].max()
    lens = np.abs(cameras.K - cameras.K[0]).max()
    return bool(turn < 0.5 and move < 0.5 * nearest and lens < 0.5)


def chosen_frames(start: int, stop: int, count: int) -> list[int]:
    """Up to `count` frames spread evenly over start .. stop - 1."""
    return sorted({int(i) for i in np.linspace(start, stop - 1, min(count, stop - start)).round()})


def median_plate(
    frames: list[int], picture: Callable[[int], Picture], cut: Callable[[int], Mask], tick: Callable[[], None]
) -> Plate:
    """The temporal median of what a static camera shows of the background."""
    pictures, cuts = [], []
    for frame in frames:
        pictures.append(picture(frame))
        cuts.append(cut(frame))
        tick()
    height, width = cuts[0].shape
    rgb = np.zeros((height, width, 3), np.uint8)
    hidden = np.stack(cuts)
    seen = (~hidden).sum(0)
    band = max(1, (24 << 20) // (len(frames) * width * 3))
    for top in range(0, height, band):
        rows = slice(top, top + band)
        values = np.stack([p[rows] for p in pictures])
        # Hidden samples become the largest values; the median of the rest then lies at (seen - 1) // 2.
        values[hidden[:, rows]] = 255
        values.sort(axis=0)
        middle = np.maximum(seen[rows] - 1, 0) // 2
        rgb[rows] = np.take_along_axis(values, middle[None, ..., None], 0)[0]
        tick()
    return Plate(frames[len(frames) // 2], rgb, seen >= min(2, len(frames)), None)


def fill_from_plates(
    plates: list[Plate], rgb: Picture, hole: Mask, depth: Map, target: tuple[NDArray, NDArray], cameras: Cameras
) -> Mask:
    """Colour the pixels of `hole` that some plate shows, in `rgb` itself, and return those that none does.

    depth: (H, W) of the background in the target camera (c2w, K); cameras: of the plates, at the picture's size.
    The plate whose camera is nearest to the target's is asked first.
    """
    left = hole.copy()
    c2w, K = target
    rows, columns = np.nonzero(left)
    if not len(rows) or not plates:
        return left
    ray_matrix = (c2w[:3, :3] @ np.linalg.inv(K)).astype(np.float32)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], 1).astype(np.float32)
    z = depth[rows, columns].astype(np.float32)
    points = pixels @ ray_matrix.T * z[:, None]  # relative to the target camera's centre
    usable = z > 0
    for plate in sorted(plates, key=lambda p: view_distance(cameras, p.frame, c2w, float(np.median(z)))):
        w2c = invert_rigid(cameras.c2w[plate.frame])
        to_plate = cameras.K[plate.frame] @ w2c[:3, :3]
        offset = to_plate @ (c2w[:3, 3] - cameras.c2w[plate.frame, :3, 3])
        h = points @ to_plate.T.astype(np.float32) + offset.astype(np.float32)
        front = usable & (h[:, 2] > 1e-6)
        scale = 1 / np.where(front, h[:, 2], 1)
        u, v = h[:, 0] * scale, h[:, 1] * scale
        height, width = plate.shown.shape
        inside = front & (u >= 0.5) & (v >= 0.5) & (u < width - 0.5) & (v < height - 0.5)
        index = np.flatnonzero(inside)
        if not len(index):
            continue
        ui, vi = u[index].astype(np.int32), v[index].astype(np.int32)
        good = plate.shown[vi, ui]
        if plate.surface is not None:
            measured = plate.surface.grid.sample(plate.surface.disparity, u[index], v[index])
            good &= np.abs(measured * h[index, 2] - 1) < 0.06
        index = index[good]
        if not len(index):
            continue
        rgb[rows[index], columns[index]] = remap_points(
            plate.rgb, u[index] - np.float32(0.5), v[index] - np.float32(0.5), cv2.INTER_CUBIC
        )
        left[rows[index], columns[index]] = False
        keep = np.ones(len(rows), bool)
        keep[index] = False
        rows, columns, points, usable = rows[keep], columns[keep], points[keep], usable[keep]
        if not len(rows):
            break
    return left


def view_distance(cameras: Cameras, frame: int, c2w: NDArray, depth: float) -> float:
    """How far the view of a frame's camera is from pose c2w: parallax at `depth` plus the angle between them."""
    move = np.linalg.norm(cameras.c2w[frame, :3, 3] - c2w[:3, 3]) / max(depth, 1e-9)
    cosine = (np.trace(cameras.c2w[frame, :3, :3].T @ c2w[:3, :3]) - 1) / 2
    return float(move + np.arccos(np.clip(cosine, -1, 1)))


def push_pull(rgb: Picture, hole: Mask) -> Picture:
    """The picture with `hole` filled smoothly from its rim inwards, by averages of ever coarser levels."""
    if not hole.any():
        return rgb
    weight = (~hole).astype(np.float32)
    levels = [(rgb.astype(np.float32) * weight[..., None], weight)]
    while min(levels[-1][1].shape) > 2 and (levels[-1][1] <= 0).any():
        colour, weight = levels[-1]
        levels.append((cv2.pyrDown(colour), cv2.pyrDown(weight)))  # type: ignore[arg-type]
    colour, weight = levels.pop()
    mean = colour.sum((0, 1)) / max(float(weight.sum()), 1e-6) if weight.any() else np.full(3, 127.0)
    filled = np.where(weight[..., None] > 1e-4, colour / np.maximum(weight, 1e-4)[..., None], mean).astype(np.float32)
    while levels:
        colour, weight = levels.pop()
        coarser = cv2.pyrUp(filled, dstsize=(weight.shape[1], weight.shape[0]))
        trust = np.minimum(weight * 2, 1)[..., None]
        filled = trust * colour / np.maximum(weight, 1e-4)[..., None] + (1 - trust) * coarser
    out = rgb.copy()
    out[hole] = np.clip(np.rint(filled[hole]), 0, 255).astype(np.uint8)
    return out
