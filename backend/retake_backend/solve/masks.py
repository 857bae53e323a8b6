"""Masks of objects: read from the user's files, drawn from the points of an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from retake_shared import geometry
from retake_shared.errors import BadFile, BadShot
from scipy.spatial import cKDTree

from ..engines.base import Progress, Report
from ..footage import IMAGE_SUFFIXES, FootageReader, images_in
from . import interpolation, still
from .stages import CameraSolve, ObjectGroups, Pictures, PointTracks, picture

Array = NDArray[np.float64]

VERSION = 2
"""To be raised with every change of what is read of the same files."""

MEAN, SPREAD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
"""Of the pictures that SAM 2 and Depth Anything were trained on, channel by channel."""

ROWS = 128
"""Cells of the shorter side of masks that are drawn from points."""

_STEPS = (5, 11)
"""Frames before and after at which a frame is compared with the still scene."""

_UNSURE = 0.3
"""Change from which on it speaks for an object rather than against."""

_ONE_SIDE = 0.45
"""Change at most where only the frames before, or only those after, are there to tell."""

_CALM = 1.5
"""Cells by which a point may move in that time for its object to be taken to stand still there."""

_VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
_MAX_PIXELS = 100_000_000

_AROUND = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class GivenMasks:
    """labels: (T, h, w) uint8 object numbers at any size, 0 background. names: of the numbers. source: in words."""

    labels: NDArray[np.uint8]
    names: Mapping[int, str] = field(default_factory=dict)
    source: str = "masks given"


def read(folder: Path, frames: range, size: tuple[int, int]) -> GivenMasks:
    """The user's masks in a folder (or one video) for `frames` of the footage, at `size` (width, height) at most.

    Either one image per frame of object numbers per pixel, or of one colour per object (black: background), or one
    video of black and white; or one folder or video per object of black and white, named by it. `names.txt` holds
    lines "1 walker". Images are counted from the footage's first frame, or from the first of `frames` when there are
    just as many. Raises BadFile or BadShot saying what is missing or does not fit.
    """
    if not folder.exists():
        raise BadFile("is not there.", str(folder), "Give a folder of mask images, or a video of masks.")
    names = _names(folder / "names.txt") if folder.is_dir() else {}
    inner = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")] if folder.is_dir() else [folder]
    parts = [p for p in inner if p.is_dir() or p.suffix.lower() in _VIDEOS]
    images = images_in(folder) if folder.is_dir() else [p for p in inner if p.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        return GivenMasks(_numbers(images, frames, size), names, f"masks of {folder.name}")
    if not parts:
        raise BadFile("holds no masks.", str(folder), "Put one PNG per frame there, or one folder or video per object.")
    if len(parts) > 255:
        raise BadFile(f"has {len(parts)} objects.", str(folder), "Give 255 objects at most.")
    labels: NDArray[np.uint8] | None = None
    for number, part in enumerate(parts, 1):
        layers = _white(part, frames, size)
        if labels is None:
            labels = np.zeros(layers.shape, np.uint8)
        if layers.shape != labels.shape:
            layers = np.stack([_fitted(m.astype(np.uint8), labels.shape[2], labels.shape[1]) for m in layers]) > 0
        labels[layers] = number
    assert labels is not None
    own = {number: part.stem if part.is_file() else part.name for number, part in enumerate(parts, 1)}
    return GivenMasks(labels, {**own, **names}, f"masks of {folder.name}")


def _names(path: Path) -> dict[int, str]:
    """Number -> name from lines such as "1 walker"."""
    if not path.is_file():
        return {}
    names: dict[int, str] = {}
    for line in path.read_text("utf-8-sig", "replace").splitlines():
        number, _, name = line.strip().replace(":", " ").replace("=", " ").partition(" ")
        if not line.strip():
            continue
        if not number.isdecimal() or not 0 < int(number) < 256 or not name.strip():
            raise BadFile(
                f"has the line {line!r:.60}.", str(path), 'Write a number and a name per line, as in "1 walker".'
            )
        names[int(number)] = name.strip()
    return names


def _which(count: int, frames: range, where: Path) -> list[int]:
    """Which of `count` masks belong to the frames."""
    if count > frames[-1]:
        return list(frames)
    if count == len(frames):
        return list(range(count))
    raise BadShot(
        f"there are {count} masks for frames {frames[0]} to {frames[-1]}.",
        str(where),
        "Give one mask per frame of the footage, or one per frame that is solved.",
    )


def _fitted(layer: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if layer.shape == (height, width):
        return layer
    return np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _bounded(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, size[0] / width, size[1] / height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _numbers(images: list[Path], frames: range, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(T, h, w) object numbers of one image per frame: its own numbers, or one for each colour but black."""
    layers: list[NDArray[Any]] = [_load(images[i]) for i in _which(len(images), frames, images[0].parent)]
    if any(layer.ndim == 3 for layer in layers):  # a frame with nothing in it has no colours to be told by
        layers = [layer if layer.ndim == 3 or layer.any() else np.dstack([layer] * 3) for layer in layers]
    if len({layer.shape for layer in layers}) > 1:
        raise BadShot("the masks differ in size or kind.", str(images[0].parent), "Export them all alike.")
    height, width = layers[0].shape[:2]
    fit = _bounded(width, height, size)
    if layers[0].ndim == 3:
        layers = [(m[..., 0].astype(np.int32) << 16) | (m[..., 1].astype(np.int32) << 8) | m[..., 2] for m in layers]
    values = np.unique(np.concatenate([np.unique(m) for m in layers]))
    values = values[values != 0]
    if len(values) > 255 or (len(values) and values[-1] > 255 and len(values) > 64):
        raise BadFile(
            f"holds {len(values)} different values.", str(images[0].parent), "Export masks without smoothing, as PNG."
        )
    # Numbers stay as they are; white and colours, which number nothing, are counted from 1.
    plain = not len(values) or (values[-1] <= 255 and values[-1] <= 4 * len(values) + 16)
    number_of = {int(v): int(v) if plain else k for k, v in enumerate(values, 1)}
    labels = np.zeros((len(layers), fit[1], fit[0]), np.uint8)
    for t, layer in enumerate(layers):
        numbered = np.zeros(layer.shape, np.uint8)
        for value in np.unique(layer):
            if value:
                numbered[layer == value] = number_of[int(value)]
        labels[t] = _fitted(numbered, *fit)
    return labels


def _load(path: Path) -> NDArray[np.uint8]:
    """(h, w) numbers or (h, w, 3) colours of an image; a palette's numbers rather than its colours."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise BadFile(f"is {image.width} x {image.height} px.", str(path), "Give masks of the footage's size.")
            if image.mode not in ("P", "L", "1", "I;16"):
                colours = np.array(image.convert("RGB"))
                same = (colours[..., 0] == colours[..., 1]).all() and (colours[..., 0] == colours[..., 2]).all()
                return np.ascontiguousarray(colours[..., 0]) if same else colours
            values = np.array(image)
            if values.max(initial=0) > 255:
                values = values // 257
            return values.astype(np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadFile(f"cannot be read as an image ({error}).", str(path), "Export it again as PNG.") from error


def _white(part: Path, frames: range, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(T, h, w) where one object's folder of images or video is white."""
    with FootageReader(part) as reader:
        which = _which(reader.footage.frames, frames, part)
        fit = _bounded(reader.footage.width, reader.footage.height, size)
        layers = [
            cv2.resize(np.ascontiguousarray(reader.frame(i)[..., 1]), fit, interpolation=cv2.INTER_AREA) for i in which
        ]
    # Folders of numbers 0 and 1 look black; a video's black is not quite 0.
    top = max(int(layer.max()) for layer in layers)
    return np.stack(layers) > (127 if top > 32 else 0)


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
        changed, calm = _changed(t, uv, points.visible, solve, colours, spread, window)
        labels[t] = _label(uv[t, here], groups.labels[here], colours[t], changed, calm[here], reaches, window, size)
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
    spread: list[tuple[NDArray[Any], NDArray[Any]]],
    window: tuple[slice, slice],
) -> tuple[NDArray[np.float32], Array]:
    """Of the cells of a window, in [0, 1]: how surely frame t shows what the frames around do not show there.

    What was uncovered or is covered soon is seen at the same place on one side at least: the side that differs less
    counts. A shadow is no change. Also (N,) how surely, in [0, 1], each point stands still meanwhile: on such a thing
    no change is to be seen.
    """
    shape, frames = colours.shape[1:3], len(colours)
    cameras = solve.cameras
    size = (cameras.width, cameras.height)
    coarse = (max(shape[0] // 3, 1), max(shape[1] // 3, 1))
    inverse = still.inverse_depth(
        t, uv, visible, solve, cv2.resize(colours[t], coarse[::-1], interpolation=cv2.INTER_AREA)
    )
    if inverse is None:
        inverse = np.ones(coarse, np.float32)  # a camera that only turns: every depth leads to the same place
    here = colours[t][window]
    z = 1 / np.maximum(cv2.resize(inverse, shape[::-1])[window].reshape(-1).astype(np.float64), 1e-9)
    cells = interpolation.grid(shape[0], shape[1], size).reshape(*shape, 2)[window].reshape(-1, 2)
    world = geometry.unproject(cells, z, cameras.c2w[t], cameras.K[t])
    sides = []
    cell_of, inside = _in_window(uv[t], visible[t], size, shape, window)
    cell = size[0] / shape[1]
    moved = np.full((2, len(inside)), np.nan)
    for side, direction in enumerate((-1, 1)):
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
            gone = np.where(visible[other, inside], np.linalg.norm(uv[other, inside] - to[cell_of], axis=1), np.nan)
            moved[side] = np.fmax(moved[side], gone)
        if furthest is not None:
            sides.append(furthest)
    calm = np.zeros(visible.shape[1])
    calm[inside] = np.exp(-((np.nan_to_num(np.fmin(moved[0], moved[1]), nan=np.inf) / (_CALM * cell)) ** 2))
    if not sides:
        return np.zeros(here.shape[:2], np.float32), calm
    changed: NDArray[np.float32] = 1 - np.exp(-((np.minimum.reduce(sides) / 8) ** 2))
    # At the clip's ends what differs may as well have been uncovered.
    return changed if len(sides) == 2 else np.minimum(changed, _ONE_SIDE), calm


def _in_window(
    uv: Array, visible: NDArray[np.bool_], size: tuple[int, int], shape: tuple[int, int], window: tuple[slice, slice]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The visible points of (N, 2) that lie in a window of a map: their cells, counted in the window, and which."""
    points = np.flatnonzero(visible)
    row, column = np.divmod(interpolation.cells_of(uv[points], size, shape), shape[1])
    row, column = row - window[0].start, column - window[1].start
    rows, columns = (part.stop - part.start for part in window)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return (row * columns + column)[inside], points[inside]


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
    calm: Array,
    reaches: dict[int, NDArray[np.float32]],
    window: tuple[slice, slice],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """(h, w) labels of one frame, from its labelled points (N, 2); changed, calm: `_changed` of window and points."""
    shape = colours.shape[:2]
    part = changed.shape
    weight = interpolation.COLOUR * size[0]
    colour = colours.reshape(-1, 3).astype(np.float64) * weight
    tree = cKDTree(np.concatenate([uv, colour[interpolation.cells_of(uv, size, shape)]], 1))
    cells = interpolation.grid(shape[0], shape[1], size).reshape(*shape, 2)[window].reshape(-1, 2)
    count = min(6, len(uv))
    asked = np.concatenate([cells, colour.reshape(*shape, 3)[window].reshape(-1, 3)], 1)
    nearest = tree.query(asked, k=count)[1].reshape(len(cells), count)
    near = labels[nearest]
    guide = np.ascontiguousarray(colours[..., 0][window]) / 100
    radius = max(shape[0] // 48, 1)
    best = np.zeros(shape, np.float32)
    result = np.zeros(shape, np.uint8)
    for label, reach in reaches.items():
        share = (near == label).mean(1).reshape(part)
        allowed = reach[window]
        own = near == label
        still_parts = (calm[nearest] * own).sum(1) / np.maximum(own.sum(1), 1)
        vote = (2 * share - 1) + 3.0 * (changed - _UNSURE) * np.where(
            changed > _UNSURE, allowed, 1 - still_parts.reshape(part)
        )
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
    enough: NDArray[np.bool_] = held >= min(2, len(own))
    return np.asarray(enough[pieces] & region)
