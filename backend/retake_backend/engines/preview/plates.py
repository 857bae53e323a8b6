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

MOST_ASKED = 8
"""How many plates are looked into for one frame: those seen from nearest."""

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Plate:
    """Background seen from one camera: rgb (H, W, 3) and where it is truly background, with no object on it.

    surface: its measured depth, 0 where unknown, to tell what it really shows, or None.
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
    # A sample or two may be an object's edge that its matte missed.
    shown = seen >= max(min(3, len(frames)), len(frames) // 6)
    shown = cv2.morphologyEx(shown.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0
    return Plate(frames[len(frames) // 2], rgb, shown, None)


def fill_from_plates(
    plates: list[Plate], rgb: Picture, hole: Mask, depth: Map, target: tuple[NDArray, NDArray], cameras: Cameras
) -> Mask:
    """Colour the pixels of `hole` that some plate shows, in `rgb` itself, and return those that none does.

    depth: (H, W) of the background in the target camera (c2w, K); cameras: of the plates, at the picture's size.
    The plate whose camera is nearest to the target's is asked first.
    """
    left = hole.copy()
    rows, columns = np.nonzero(left)
    if not len(rows) or not plates:
        return left
    rays, z = _rays(rows, columns, depth, target)
    typical = float(np.median(z))
    nearest = sorted(plates, key=lambda p: view_distance(cameras, p.frame, target[0], typical))
    for plate in nearest[:MOST_ASKED]:
        if len(rows) > 2000:
            few = _shown_by(plate, rays[:, ::17], z[::17], target, cameras)[0]
            if len(few) * 17 < 0.004 * len(rows):
                continue  # a sample tells well enough that it shows nothing of a large area
        index, u, v = _shown_by(plate, rays, z, target, cameras)
        _take(plate, rgb, rows[index], columns[index], u, v)
        left[rows[index], columns[index]] = False
        rest = np.ones(len(rows), bool)
        rest[index] = False
        rows, columns, rays, z = rows[rest], columns[rest], rays[:, rest], z[rest]
        if not len(rows):
            break
    return left


def _shown_by(
    plate: Plate, rays: Map, z: Map, target: tuple[NDArray, NDArray], cameras: Cameras
) -> tuple[NDArray[np.int64], Map, Map]:
    """Numbers (M,) of the `rays` (3, N) that the plate shows, and where: u, v (M,) px.

    Where the plate's depth is known, the guessed depth of a ray is corrected until both agree.
    """
    index = np.arange(len(z))
    found: list[tuple[NDArray[np.int64], Map, Map]] = []
    for _ in range(1 if plate.surface is None else 4):
        u, v, plate_depth = _seen_from(plate, rays, z, target, cameras)
        height, width = plate.shown.shape
        with np.errstate(invalid="ignore"):
            inside = (u >= 0.5) & (v >= 0.5) & (u < width - 0.5) & (v < height - 0.5)
        index, u, v, plate_depth, rays, z = (
            index[inside],
            u[inside],
            v[inside],
            plate_depth[inside],
            rays[:, inside],
            z[inside],
        )
        if not len(index):
            break
        shown = plate.shown[v.astype(np.int32), u.astype(np.int32)]
        if plate.surface is None:
            found.append((index[shown], u[shown], v[shown]))
            break
        measured = plate.surface.grid.sample(plate.surface.disparity, u, v)
        ratio = 1 / np.maximum(measured * plate_depth, 1e-6)
        agrees = (measured <= 0) | (np.abs(ratio - 1) < 0.02)
        found.append((index[agrees & shown], u[agrees & shown], v[agrees & shown]))
        rest = ~agrees
        ratio = np.clip(ratio[rest], 0.6, 1.6)
        index, rays, z = index[rest], rays[:, rest] * ratio, z[rest] * ratio
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32)
    first, second, third = zip(*found, strict=True)
    return np.concatenate(first), np.concatenate(second), np.concatenate(third)


def continue_plate(
    plate: Plate, rgb: Picture, hole: Mask, depth: Map, target: tuple[NDArray, NDArray], cameras: Cameras
) -> Mask:
    """Colour `hole` in `rgb` from the whole plate, its picture mirrored beyond its borders; return what is left."""
    left = hole.copy()
    rows, columns = np.nonzero(hole)
    u, v, _ = _seen_from(plate, *_rays(rows, columns, depth, target), target, cameras)
    height, width = plate.shown.shape
    with np.errstate(invalid="ignore"):
        index = np.flatnonzero((np.abs(u - width / 2) < width) & (np.abs(v - height / 2) < height))
    if len(index):
        u, v = _mirrored(u[index], width), _mirrored(v[index], height)
        _take(plate, rgb, rows[index], columns[index], u, v)
        left[rows[index], columns[index]] = False
    return left


def _mirrored(at: Map, size: int) -> Map:
    """Coordinates in px folded back into [0.5, size - 0.5]."""
    at = np.abs(at - np.float32(0.5))
    last = np.float32(size - 1)
    return np.float32(0.5) + np.where(at > last, 2 * last - at, at)  # type: ignore[no-any-return]


def _rays(rows: NDArray, columns: NDArray, depth: Map, target: tuple[NDArray, NDArray]) -> tuple[Map, Map]:
    """Target pixels at `depth` as world offsets (3, N) from the target camera's centre, and that depth (N,)."""
    c2w, K = target
    z = depth[rows, columns].astype(np.float32)
    to_world = (c2w[:3, :3] @ np.linalg.inv(K)).astype(np.float32)
    x, y = columns.astype(np.float32) + np.float32(0.5), rows.astype(np.float32) + np.float32(0.5)
    rays = np.stack([(m[0] * x + m[1] * y + m[2]) * z for m in to_world])
    return rays, z


def _seen_from(
    plate: Plate, rays: Map, z: Map, target: tuple[NDArray, NDArray], cameras: Cameras
) -> tuple[Map, Map, Map]:
    """Where `_rays` meet the plate: u, v (N,) px, nan behind its camera, and their depth there."""
    to_plate = cameras.K[plate.frame] @ invert_rigid(cameras.c2w[plate.frame])[:3, :3]
    offset = to_plate @ (target[0][:3, 3] - cameras.c2w[plate.frame, :3, 3])
    # Written out, because a BLAS call starts threads that cost more than the sums.
    x, y, depth = (
        m[0] * rays[0] + m[1] * rays[1] + m[2] * rays[2] + o
        for m, o in zip(to_plate.astype(np.float32), offset.astype(np.float32), strict=True)
    )
    scale = np.where((depth > 1e-6) & (z > 0), 1 / np.maximum(depth, 1e-6), np.float32(np.nan))
    return x * scale, y * scale, depth


def _take(plate: Plate, rgb: Picture, rows: NDArray, columns: NDArray, u: Map, v: Map) -> None:
    if not len(rows):
        return
    rgb[rows, columns] = remap_points(plate.rgb, u - np.float32(0.5), v - np.float32(0.5), cv2.INTER_CUBIC)


def level_seam(fill: Picture, rgb: Picture, rim: Mask, filled: Mask) -> None:
    """Shift the colours of `filled` pixels in `fill` so that they meet `rgb` on the `rim`, where both are known.

    Exposure and white balance drift between frames; a step at the seam shows, a slow drift does not.
    """
    if not rim.any() or not filled.any():
        return
    height, width = rim.shape
    small = (max(1, width // 6), max(1, height // 6))
    rows, columns = np.nonzero(rim)
    cell = (rows * small[1] // height) * small[0] + columns * small[0] // width
    difference = np.clip(rgb[rows, columns].astype(np.float32) - fill[rows, columns], -40, 40)
    weight = np.bincount(cell, minlength=small[0] * small[1]).reshape(small[::-1]).astype(np.float32) / 36
    sums = [np.bincount(cell, difference[:, c], minlength=small[0] * small[1]) for c in range(3)]
    total = np.stack(sums, -1).reshape(small[1], small[0], 3).astype(np.float32) / 36
    shift, known = np.zeros_like(total), np.zeros_like(weight)
    for sigma in (2.0, 6.0, 18.0):
        near = cv2.GaussianBlur(weight, (0, 0), sigma)
        mean = cv2.GaussianBlur(total, (0, 0), sigma) / np.maximum(near, 1e-5)[..., None]
        share = (1 - known) * np.clip(near * 20, 0, 1)
        shift += share[..., None] * mean
        known += share
    wide = cv2.resize(np.clip(shift, -24, 24), (width, height), interpolation=cv2.INTER_LINEAR)
    rows, columns = np.nonzero(filled | rim)
    fill[rows, columns] = np.clip(np.rint(fill[rows, columns] + wide[rows, columns]), 0, 255).astype(np.uint8)


def view_distance(cameras: Cameras, frame: int, c2w: NDArray, depth: float) -> float:
    """How far the view of a frame's camera is from pose c2w: parallax at `depth` plus the angle between them."""
    move = np.linalg.norm(cameras.c2w[frame, :3, 3] - c2w[:3, 3]) / max(depth, 1e-9)
    cosine = (np.trace(cameras.c2w[frame, :3, :3].T @ c2w[:3, :3]) - 1) / 2
    return float(move + np.arccos(np.clip(cosine, -1, 1)))
