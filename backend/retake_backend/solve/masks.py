"""Masks of objects: read from the user's files, made by a click, drawn from the points of an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from scipy.spatial import cKDTree

from ..engines.base import Progress, Report
from ..weights.store import WeightStore
from . import interpolation, still
from .stages import CameraSolve, ObjectGroups, Pictures, PointTracks, picture

Array = NDArray[np.float64]

ROWS = 128
"""Cells of the shorter side of masks that are drawn from points."""

_STEPS = (5, 11)
"""Frames before and after at which a frame is compared with the still scene."""

_AROUND = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class GivenMasks:
    """labels: (T, h, w) uint8 object numbers at any size, 0 background. names: of the numbers. source: in words."""

    labels: NDArray[np.uint8]
    names: Mapping[int, str] = field(default_factory=dict)
    source: str = "masks given"


def read(folder: Path, frames: range, size: tuple[int, int]) -> GivenMasks:
    """The user's masks in a folder (or one video) for `frames` of the footage, at `size` (width, height) at most.

    Either one image per frame of object numbers per pixel, or of one colour per object, or one video of such; or one
    folder or video per object of black and white, named by it. `names.txt` holds lines "1 walker". Raises BadFile or
    BadShot saying which file is missing or does not fit.
    """
    raise NotImplementedError


def click(
    frames: Pictures,
    count: int,
    frame: int,
    xy: tuple[float, float],
    report: Report,
    store: WeightStore | None = None,
) -> NDArray[np.bool_]:
    """(T, h, w) where the object is that the user clicked on in `frame` at xy px, followed through all frames.

    Needs the weights of EdgeTAM or SAM 2; raises MissingWeights.
    """
    raise NotImplementedError


def draw(
    points: PointTracks,
    solve: CameraSolve,
    groups: ObjectGroups,
    pictures: Pictures,
    report: Report,
    rows: int = ROWS,
) -> NDArray[np.uint8]:
    """(T, h, w) uint8 object numbers per pixel, `rows` of the shorter side, from labelled points.

    A pixel is an object's where the points that are near in place and colour are, and where, not far from them, the
    picture is not what the still scene would show there a few frames before and after.
    """
    size = (solve.cameras.width, solve.cameras.height)
    shape = map_shape(size, rows)
    frames = points.frame_count
    labels = np.zeros((frames, *shape), np.uint8)
    uv = np.asarray(solve.uv(points), np.float64)
    colours = np.stack([interpolation.lab(picture(pictures, t), *shape) for t in range(frames)])
    # A misfit of a cell or so at an edge is no change: what is shown is compared with all colours around.
    spread = [(cv2.erode(colour, _AROUND), cv2.dilate(colour, _AROUND)) for colour in colours]
    for t in range(frames):
        report(Progress("drawing masks", t, frames))
        here = points.visible[t] & ((groups.labels > 0) | solve.static)
        reaches = _reaches(uv[t, here], groups.labels[here], shape, size)
        if not reaches:
            continue
        rows_of, columns_of = np.nonzero(np.maximum.reduce(list(reaches.values())))
        window = (slice(rows_of.min(), rows_of.max() + 1), slice(columns_of.min(), columns_of.max() + 1))
        changed = _changed(t, uv, points.visible, solve, colours, spread, window)
        labels[t] = _label(uv[t, here], groups.labels[here], colours[t], changed, reaches, window, size)
    return labels


def map_shape(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(rows, columns) of a map of a picture of `size` (width, height) whose shorter side has `shorter` cells."""
    scale = shorter / min(size)
    return max(round(size[1] * scale), 1), max(round(size[0] * scale), 1)


def _reaches(
    uv: Array, labels: NDArray[np.int32], shape: tuple[int, int], size: tuple[int, int]
) -> dict[int, NDArray[np.float32]]:
    """By label: (h, w) in [0, 1], how well a cell may belong to the object for its distance from the object's points."""
    cell = size[0] / shape[1]
    found: dict[int, NDArray[np.float32]] = {}
    for label in np.unique(labels[labels > 0]):
        own = uv[labels == label]
        extent = max(np.ptp(own[:, 0]), np.ptp(own[:, 1]), 0.04 * size[0])
        seeds = np.ones(shape, np.uint8)
        seeds.reshape(-1)[interpolation.cells_of(own, size, shape)] = 0
        distance = cv2.distanceTransform(seeds, cv2.DIST_L2, 3) * cell
        found[int(label)] = np.clip((0.9 - distance / extent) / 0.5, 0, 1).astype(np.float32)
    return found


def _changed(
    t: int,
    uv: Array,
    visible: NDArray[np.bool_],
    solve: CameraSolve,
    colours: NDArray[np.float32],
    spread: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    window: tuple[slice, slice],
) -> NDArray[np.float32]:
    """Of the cells of a window, in [0, 1]: how surely frame t shows what the frames around do not show there.

    What was uncovered or is covered soon is seen at the same place on one side at least: the side that differs less
    counts. A shadow is no change.
    """
    shape, frames = colours.shape[1:3], len(colours)
    cameras = solve.cameras
    size = (cameras.width, cameras.height)
    coarse = (max(shape[0] // 3, 1), max(shape[1] // 3, 1))
    inverse = still.inverse_depth(t, uv, visible, solve, cv2.resize(colours[t], coarse[::-1], interpolation=cv2.INTER_AREA))
    if inverse is None:
        inverse = np.ones(coarse, np.float32)  # a camera that only turns: every depth leads to the same place
    here = colours[t][window]
    z = 1 / np.maximum(cv2.resize(inverse, shape[::-1])[window].reshape(-1).astype(np.float64), 1e-9)
    cells = interpolation.grid(*shape, size).reshape(*shape, 2)[window].reshape(-1, 2)
    world = geometry.unproject(cells, z, cameras.c2w[t], cameras.K[t])
    sides = []
    for direction in (-1, 1):
        furthest = None
        for step in _STEPS:
            other = t + direction * step
            if not 0 <= other < frames:
                continue
            to = geometry.project(world, cameras.c2w[other], cameras.K[other])[0]
            at = (np.nan_to_num(to, nan=-1e4) * [shape[1] / size[0], shape[0] / size[1]] - 0.5).astype(np.float32)
            x, y = (np.ascontiguousarray(at[:, axis].reshape(here.shape[:2])) for axis in (0, 1))
            low, high = (cv2.remap(c, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for c in spread[other])
            gap = _gap(here, np.clip(here, low, high))
            gap = np.where((x > -1) & (x < shape[1]) & (y > -1) & (y < shape[0]), gap, 0).astype(np.float32)
            furthest = gap if furthest is None else np.maximum(furthest, gap)
        if furthest is not None:
            sides.append(furthest)
    if not sides:
        return np.zeros(here.shape[:2], np.float32)
    changed: NDArray[np.float32] = 1 - np.exp(-((np.minimum.reduce(sides) / 8) ** 2))
    return changed


def _gap(here: NDArray[np.float32], there: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance in Lab, in which darkening alone counts little: a shadow scales all three channels (L from -16)."""
    ratio = (here[..., 0] + 16) / (there[..., 0] + 16)
    shadow = np.clip((1 - ratio) / 0.05, 0, 1) * (ratio > 0.55)
    scaled = there[..., 1:] * np.where(shadow > 0, ratio, 1.0)[..., None]
    darker = (here[..., 0] - there[..., 0]) * (1 - 0.8 * shadow)
    gap: NDArray[np.float32] = np.sqrt(darker**2 + ((here[..., 1:] - scaled) ** 2).sum(-1))
    return gap


def _label(
    uv: Array,
    labels: NDArray[np.int32],
    colours: NDArray[np.float32],
    changed: NDArray[np.float32],
    reaches: dict[int, NDArray[np.float32]],
    window: tuple[slice, slice],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """(h, w) labels of one frame, from its labelled points (N, 2); `changed` of the window."""
    shape = colours.shape[:2]
    part = changed.shape
    weight = interpolation.COLOUR * size[0]
    colour = colours.reshape(-1, 3).astype(np.float64) * weight
    tree = cKDTree(np.concatenate([uv, colour[interpolation.cells_of(uv, size, shape)]], 1))
    cells = interpolation.grid(*shape, size).reshape(*shape, 2)[window].reshape(-1, 2)
    count = min(6, len(uv))
    asked = np.concatenate([cells, colour.reshape(*shape, 3)[window].reshape(-1, 3)], 1)
    near = labels[tree.query(asked, k=count)[1].reshape(len(cells), count)]
    guide = np.ascontiguousarray(colours[..., 0][window]) / 100
    radius = max(shape[0] // 48, 1)
    best = np.zeros(shape, np.float32)
    result = np.zeros(shape, np.uint8)
    for label, reach in reaches.items():
        share = (near == label).mean(1).reshape(part)
        allowed = reach[window]
        vote = (2 * share - 1) + 3.0 * (changed - 0.3) * np.where(changed > 0.3, allowed, 1.0)
        score = np.full(shape, -1.0, np.float32)
        score[window] = interpolation.guided(np.where(allowed > 0, vote, -1).astype(np.float32), guide, radius, 1e-3)
        inside = (score > best) & _reached(score > 0, uv[labels == label], size)
        result[inside] = label
        best = np.where(inside, score, best)
    return result


def _reached(region: NDArray[np.bool_], own: Array, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The connected pieces of a region (h, w) that hold at least two of an object's points."""
    _, pieces = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)
    held = np.bincount(pieces.reshape(-1)[interpolation.cells_of(own, size, region.shape)], minlength=pieces.max() + 1)
    held[0] = 0
    return (held >= min(2, len(own)))[pieces] & region
