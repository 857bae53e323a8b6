"""Dense depth of every frame, from triangulated points and what a network or the picture's edges say between them.

Moving objects have no triangulated points. Without a network they are upright planes, as far away as the ground is
where they touch it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry

from ..engines.base import Progress, Report
from ..weights.store import WeightStore
from . import ground as grounds
from . import interpolation, masks, monocular, series
from . import still as still_scene
from .ground import Ground
from .stages import CameraSolve, DepthMaps, ObjectGroups, Pictures, PointTracks, picture

VERSION = 2

ROWS = 96
"""Cells of the shorter side of the depth maps."""

_STAGE = "estimating depth"
_ENOUGH = 30
"""Triangulated points in a frame from which its depth is interpolated between them."""

_BACKDROP = 4.0
"""Where the scene is guessed: how many times farther than its objects the ground goes before something upright."""

_CONTACT = 0.06
"""How uncertain, relative, a depth is that follows from where an object touches the ground."""

_BESIDE = 0.75
"""Of its own size in the picture: how far from another an object is that is taken to be as far away as that."""

Array = NDArray[np.float64]


def estimate_depth(
    points: PointTracks,
    solve: CameraSolve,
    groups: ObjectGroups,
    pictures: Pictures,
    report: Report,
    store: WeightStore | None = None,
    network: str = "",
) -> DepthMaps:
    """Depth of every frame in the units of the cameras.

    With a `network`, whose weights are in `store`, its depth brought to the points' per frame and smoothed in time; else
    interpolated between the points along the picture's edges, moving objects standing on the ground. Of a camera that
    gives no parallax the scene is guessed; the notes say so.
    """
    solve = still_scene.checked(points, solve)
    size = (solve.cameras.width, solve.cameras.height)
    shape = masks.map_shape(size, ROWS)
    frames = points.frame_count
    drawn = groups.masks
    if drawn is None and (groups.labels > 0).any():
        drawn = masks.draw(points, solve, groups, pictures, report)
    small = None
    if drawn is not None:
        small = np.stack([cv2.resize(m, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for m in drawn])
    still, guessed = _still(points, solve, pictures, shape, small, report)
    ground = grounds.find(solve) or grounds.guess(solve)
    notes: list[str] = []
    if guessed:
        notes.append(
            "The camera gives no parallax: depth is a guess, a level ground below a camera held at "
            f"{grounds.EYE_HEIGHT} m and something upright behind it."
        )
    if network:
        depth, said = monocular.estimate(
            network, points, solve, small, None if guessed else still, ground, pictures, shape, report, store
        )
        return DepthMaps(depth, monocular.label(network), False, (*notes, *said))
    if small is not None:
        stands = stand(solve, groups, small, still, ground)
        for label, path in stands.items():
            name = groups.names.get(label, f"object {label}")
            notes.append(f"{name}: {path.how}; slide it along the view rays where that is wrong.")
            for t in range(frames):
                region = small[t] == label
                if region.any():
                    still[t][region] = 1 / path.depth_at(t, solve, shape)[region]
    depth = np.where(still > 0, 1 / np.maximum(still, 1e-9), 0).astype(np.float32)
    report(Progress(_STAGE, frames, frames))
    source = "guessed: level ground" if guessed else "interpolated between points"
    notes.append(
        "No depth network is installed: depth between the points is interpolated "
        f"(better: retake models pull {monocular.PREFERRED})."
    )
    return DepthMaps(depth, source, True, tuple(notes))


def _still(
    points: PointTracks,
    solve: CameraSolve,
    pictures: Pictures,
    shape: tuple[int, int],
    small: NDArray[np.uint8] | None,
    report: Report,
) -> tuple[NDArray[np.float32], bool]:
    """(T, h, w) inverse depth of the still scene in every frame, and whether it had to be guessed."""
    frames = points.frame_count
    uv = np.asarray(solve.uv(points), np.float64)
    known = points.visible & solve.placed
    usable = solve.kind in ("moving", "little parallax") and bool((known.sum(1) >= _ENOUGH).mean() > 0.5)
    if not usable:
        return _guessed(points, solve, shape), True
    found: list[NDArray[np.float32] | None] = []
    for t in range(frames):
        report(Progress(_STAGE, t, frames))
        colours = interpolation.lab(picture(pictures, t), *shape)
        enough = known[t].sum() >= _ENOUGH
        moving = None if small is None else small[t] > 0
        found.append(still_scene.inverse_depth(t, uv, points.visible, solve, colours, moving) if enough else None)
    there = [t for t in range(frames) if found[t] is not None]
    layers = [found[t] if found[t] is not None else found[min(there, key=lambda s: abs(s - t))] for t in range(frames)]
    return np.stack([layer for layer in layers if layer is not None]), False


def _guessed(points: PointTracks, solve: CameraSolve, shape: tuple[int, int]) -> NDArray[np.float32]:
    """(T, h, w) inverse depth of a level ground with a round backdrop about the camera."""
    cameras = solve.cameras
    size = (cameras.width, cameras.height)
    ground = grounds.guess(solve)
    cells = interpolation.grid(*shape, size)
    moving = points.visible & ~solve.static
    uv = np.asarray(solve.uv(points), np.float64)
    nearest = []
    for t in range(points.frame_count):
        if moving[t].sum() >= 5:
            foot = np.array([[np.median(uv[t, moving[t], 0]), np.quantile(uv[t, moving[t], 1], 0.98)]])
            nearest.append(float(ground.depth(foot, cameras.c2w[t], cameras.K[t])[0]))
    near = float(np.median(nearest)) if nearest and np.isfinite(np.median(nearest)) else 2.5 * grounds.EYE_HEIGHT
    result = np.empty((points.frame_count, *shape), np.float32)
    for t in range(points.frame_count):
        ends = geometry.unproject(cells, np.ones(len(cells)), cameras.c2w[t], cameras.K[t]) - cameras.c2w[t, :3, 3]
        level = ends - (ends @ ground.normal)[:, None] * ground.normal
        wall = _BACKDROP * near / np.maximum(np.linalg.norm(level, axis=1), 0.2)
        z = np.minimum(ground.depth(cells, cameras.c2w[t], cameras.K[t]), wall)
        result[t] = (1 / z).reshape(shape)
    return result


# ---- moving objects ----


@dataclass(frozen=True)
class Path:
    """Where an object stands in every frame. depth: (T,) camera-space z. how: in words. up: (3,) of the world."""

    depth: Array
    anchor: Array
    up: Array
    how: str

    def depth_at(self, t: int, solve: CameraSolve, shape: tuple[int, int]) -> Array:
        """(h, w) depth of the upright plane through the object that faces the camera."""
        cameras = solve.cameras
        cells = interpolation.grid(*shape, (cameras.width, cameras.height))
        return self.depth_of(t, cells, solve).reshape(shape)

    def depth_of(self, t: int, uv: Array, solve: CameraSolve) -> Array:
        """(N,) the same at pixels (N, 2)."""
        cameras = solve.cameras
        c2w, K = cameras.c2w[t], cameras.K[t]
        place = geometry.unproject(self.anchor[t][None], self.depth[t : t + 1], c2w, K)[0]
        forward = c2w[:3, 2]
        normal = forward - (forward @ self.up) * self.up
        if np.linalg.norm(normal) < 0.5:  # looking down: upright planes are seen from their edge
            normal = forward
        ends = geometry.unproject(uv, np.ones(len(uv)), c2w, K) - c2w[:3, 3]
        towards = ends @ normal
        reach = float((place - c2w[:3, 3]) @ normal)
        z = np.where(towards > 1e-6, reach / np.maximum(towards, 1e-6), self.depth[t])
        return np.asarray(np.clip(z, 0.7 * self.depth[t], 1.4 * self.depth[t]))


def stand(
    solve: CameraSolve,
    groups: ObjectGroups,
    small: NDArray[np.uint8],
    still: NDArray[np.float32],
    ground: Ground,
) -> dict[int, Path]:
    """The path of every object that has a mask (T, h, w), by its number; still: (T, h, w) inverse depth around it."""
    shape = small.shape[1:]
    cameras = solve.cameras
    size = (cameras.width, cameras.height)
    cell = np.array([size[0] / shape[1], size[1] / shape[0]])
    found: dict[int, Path] = {}
    floating: dict[int, tuple[Array, Array]] = {}
    for label in [int(n) for n in np.unique(small) if n]:
        frames = len(small)
        contact, weight = np.full(frames, np.nan), np.zeros(frames)
        anchor = np.full((frames, 2), np.nan)
        least = min(3, int((small == label).sum((1, 2)).max()))  # what never covers more has a path too
        for t in range(frames):
            region = small[t] == label
            if region.sum() < least:
                continue
            rows, columns = np.nonzero(region)
            lowest = rows.max()
            feet = columns[rows >= lowest - 1]
            foot = np.array([np.median(feet) + 0.5, lowest + 1.0]) * cell
            anchor[t] = [(np.median(columns) + 0.5) * cell[0], foot[1]]
            z = float(ground.depth(foot[None], cameras.c2w[t], cameras.K[t])[0])
            if lowest >= shape[0] - 2 or not np.isfinite(z):
                continue
            contact[t], weight[t] = np.log(z), 1.0
            # What lies right below the feet must be the ground: else it hides them.
            below = still[t, lowest + 1 : lowest + 3, feet.min() : feet.max() + 1]
            if below.size and float(np.median(below)) * z > 1.12:
                weight[t] = 0.01
        seen = np.flatnonzero(np.isfinite(anchor[:, 0]))
        for axis in (0, 1):
            anchor[:, axis] = np.interp(np.arange(frames), seen, anchor[seen, axis])
        usual = weight > 0.5
        in_air = usual.sum() >= 5 and _jumps(contact, usual)
        if usual.sum() < max(3, 0.1 * len(seen)) or in_air:
            floating[label] = (np.where(usual, contact, np.nan), anchor)
            continue
        log_z = series.from_below(contact, weight, 30.0, 5.0, _CONTACT)
        how = "stands on the ground where its lowest edge touches it" + ("" if ground.found else " (a guessed ground)")
        found[label] = Path(np.exp(log_z), anchor, ground.normal, how)
    for label, (contact, anchor) in floating.items():
        found[label] = _float(label, contact, anchor, small, found, groups, still, ground)
    return found


def _jumps(contact: Array, usual: NDArray[np.bool_]) -> bool:
    """Whether log depths (T,) of the ground below an object leap as no walking or rolling object's do."""
    steady = series.smooth(contact, usual.astype(np.float64), 3000.0, 0.0)
    return bool(np.quantile(np.abs(contact - steady)[usual], 0.75) > 0.12)


def _float(
    label: int,
    contact: Array,
    anchor: Array,
    small: NDArray[np.uint8],
    found: dict[int, Path],
    groups: ObjectGroups,
    still: NDArray[np.float32],
    ground: Ground,
) -> Path:
    """The path of an object that does not stand on the ground in view."""
    frames = len(small)
    around = np.ones((5, 5), np.uint8)
    beside = dict.fromkeys(found, 0)
    behind = np.full(frames, np.nan)
    for t in range(frames):
        region = (small[t] == label).astype(np.uint8)
        if not region.any():
            continue
        rim = (cv2.dilate(region, around) > 0) & (region == 0)
        away = cv2.distanceTransform(1 - region, cv2.DIST_L2, 3)
        for other in beside:
            there = small[t] == other
            beside[other] += int(there.any() and away[there].min() < max(2.0, _BESIDE * np.sqrt(region.sum())))
        background = rim & (small[t] == 0)
        if background.any():
            behind[t] = 1 / float(np.quantile(still[t][background], 0.8))
    seen = max(int((small == label).any((1, 2)).sum()), 1)
    if beside and max(beside.values()) > 0.4 * seen:
        other = max(beside, key=lambda n: beside[n])
        depth = 0.97 * found[other].depth
        return Path(
            depth, anchor, ground.normal, f"is as far away as {groups.names.get(other, other)}, beside which it is"
        )
    known = np.isfinite(contact)
    limit = float(np.exp(np.nanquantile(contact, 0.1))) if known.any() else np.inf
    behind_near = float(np.nanquantile(behind, 0.2)) if np.isfinite(behind).any() else 1.0
    z = min(limit, 0.8 * behind_near)
    return Path(np.full(frames, z), anchor, ground.normal, "does not touch the ground in view; its depth is a guess")
