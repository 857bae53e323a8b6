"""Pictures of the stages, to be looked at: (h, w, 3) uint8 sRGB."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .masks import GivenMasks
from .stages import CameraSolve, DepthMaps, Lifted, ObjectGroups, Pictures, PointTracks, picture

Picture = NDArray[np.uint8]

_TAIL = 10  # frames
_OBJECTS = [(255, 64, 64), (64, 160, 255), (255, 200, 0), (200, 80, 255), (0, 220, 160), (255, 128, 0)]


def of_points(points: PointTracks, pictures: Pictures) -> Picture:
    """Where the points come from, in four frames."""
    colours = [_hue(i * 0.618) for i in range(len(points))]
    return _sheet(points, pictures, colours)


def of_masks(points: PointTracks, masks: GivenMasks, pictures: Pictures) -> Picture:
    """What the masks cover, each object in a colour, in four frames."""
    return _sheet(points.select(np.zeros(0, int)), pictures, [], masks.labels)


def of_cameras(points: PointTracks, solve: CameraSolve, pictures: Pictures) -> Picture:
    """Points that stand still from green (they fit) to red (3 px off); blue: the camera does not explain them."""
    with np.errstate(invalid="ignore"):
        typical = np.array([_median(solve.residual[:, i]) for i in range(len(points))])
    colours = [_hue(max(0.0, 1 - typical[i] / 3) / 3) if solve.static[i] else (40, 90, 255) for i in range(len(points))]
    return _sheet(points, pictures, colours)


def of_objects(points: PointTracks, groups: ObjectGroups, pictures: Pictures) -> Picture:
    """The background's points dark, each object's in a colour."""
    colours = [_OBJECTS[(n - 1) % len(_OBJECTS)] if n else (30, 60, 30) for n in groups.labels]
    return _sheet(points, pictures, colours, groups.masks)


def of_depth(depth: DepthMaps) -> Picture:
    """Near bright, far dark, unknown black, in four frames."""
    some = [depth.depth[t] for t in _four(len(depth.depth))]
    known = np.concatenate([d[d > 0] for d in some])
    low, high = np.percentile(1 / known, [1, 99]) if known.size else (0.0, 1.0)
    return _tiles([_coloured(d, float(low), float(high)) for d in some])


def of_lift(lifted: Lifted, side: int = 720) -> Picture:
    """The scene from above: tracks in their objects' colours, the camera's way white."""
    positions = lifted.tracks.positions
    way = lifted.cameras.c2w[:, :3, 3]
    drop = int(np.argmax(np.abs(lifted.up)))
    axes = [axis for axis in range(3) if axis != drop]
    middle = positions[len(positions) // 2][:, axes]
    around = np.concatenate([middle, way[:, axes]])
    low, high = np.percentile(around, [2, 98], axis=0)
    low, high = np.minimum(low, way[:, axes].min(0)), np.maximum(high, way[:, axes].max(0))
    scale = (side - 40) / max(float((high - low).max()), 1e-9)

    def place(at: NDArray[np.float64]) -> NDArray[np.int32]:
        xy = np.clip((at[..., axes] - low) * scale + 20, -side, 2 * side)
        xy[..., 1] = side - xy[..., 1]
        return np.asarray(np.rint(xy), np.int32)

    canvas = np.zeros((side, side, 3), np.uint8)
    for i, number in enumerate(lifted.tracks.objects):
        if number:
            seen = lifted.tracks.visibility[:, i]
            cv2.polylines(canvas, [place(positions[seen, i])], False, _OBJECTS[(number - 1) % len(_OBJECTS)], 1)
        else:
            cv2.circle(canvas, tuple(place(positions[0, i]).tolist()), 1, (90, 140, 90), -1)
    cv2.polylines(canvas, [place(way)], False, (255, 255, 255), 2, cv2.LINE_AA)
    cv2.circle(canvas, tuple(place(way[0]).tolist()), 5, (255, 255, 255), -1)
    return canvas


def _sheet(points: PointTracks, pictures: Pictures, colours: list, masks: NDArray[np.uint8] | None = None) -> Picture:
    tiles = []
    for t in _four(points.frame_count):
        canvas = (picture(pictures, t) * 0.6).astype(np.uint8)
        if masks is not None:
            size = (canvas.shape[1], canvas.shape[0])
            labels = cv2.resize(masks[t], size, interpolation=cv2.INTER_NEAREST)
            for number in np.unique(labels[labels > 0]):
                canvas[labels == number] = canvas[labels == number] // 2 + np.array(
                    _OBJECTS[(number - 1) % len(_OBJECTS)], np.uint8
                ) // np.uint8(2)
        start = max(0, t - _TAIL)
        for i in np.flatnonzero(points.visible[t]):
            tail = points.uv[start : t + 1, i][points.visible[start : t + 1, i]]
            cv2.polylines(canvas, [np.asarray((tail - 0.5) * 8, np.int32)], False, colours[i], 1, cv2.LINE_AA, 3)
            cv2.circle(canvas, tuple(np.floor(points.uv[t, i]).astype(int).tolist()), 1, colours[i], -1)
        tiles.append(canvas)
    return _tiles(tiles)


def _four(frames: int) -> list[int]:
    return [round(share * (frames - 1)) for share in (0.1, 0.4, 0.7, 1.0)]


def _tiles(tiles: list[Picture]) -> Picture:
    return np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])


def _coloured(depth: NDArray[np.float32], low: float, high: float) -> Picture:
    with np.errstate(divide="ignore"):
        near = np.where(depth > 0, (1 / depth - low) / max(high - low, 1e-9), 0)
    grey = (20 + 235 * np.clip(near, 0, 1)).astype(np.uint8)
    shown = np.array(cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)
    shown[depth <= 0] = 0
    return shown


def _hue(share: float) -> tuple[int, int, int]:
    hsv = np.array([[[int(180 * (share % 1)), 230, 255]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _median(values: NDArray[np.float32]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else 3.0
