"""World tracks from what has none: points of depth maps, and points followed in the picture.

`tracks_from_depth` seeds static points on grids over several frames of a solve that has depth maps; `lift` brings
tracks that were followed in 2D to 3D, by depth maps or, without them, by triangulation. Positions in the picture are
px with pixel centres at .5; depth is z in camera space at any size, 0 where unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import geometry
from .errors import BadShot
from .shot import Cameras, Tracks

POINTS = 3000
"""How many static points are aimed at: enough for objects and cameras to be edited by, quick to import."""

_SEED_FRAMES = 8
_AGREES = 0.05
"""A point is seen where its depth lies this near to the map's, relative; depth maps of networks are no better."""

_SEEN_THROUGH = 0.25
"""Share of frames in which the picture shows what lies behind a point, from which on the point must have moved."""


@dataclass(frozen=True)
class Tracks2D:
    """N points followed through the T frames of a picture.

    uv: (T, N, 2) float64 px, pixel centres at .5, finite where visible. visible: (T, N) bool. confidence: (T, N)
    float32 in [0, 1]. size: (width, height) px of the picture, None when the file does not say. source: in words.
    """

    uv: NDArray[np.float64]
    visible: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    size: tuple[int, int] | None = None
    source: str = ""

    def __len__(self) -> int:
        return int(self.uv.shape[1])

    def frames(self, start: int, stop: int) -> Tracks2D:
        """All points over frames start .. stop - 1."""
        cut = slice(start, stop)
        return Tracks2D(self.uv[cut], self.visible[cut], self.confidence[cut], self.size, self.source)


# ---- from depth maps alone ----


def tracks_from_depth(
    cameras: Cameras,
    depth: NDArray[Any],
    moving: NDArray[np.bool_] | None = None,
    count: int = POINTS,
) -> tuple[Tracks, list[str]]:
    """Static points of depth maps (T, h, w), about `count`, visible where the maps agree with them; and notes.

    moving: (T, h', w') bool, where the picture moves by itself: no point is put there, and none is visible there.
    Points that the maps of other frames see through have moved, and are left out too.
    """
    known = np.array([bool((layer > 0).any()) for layer in depth])
    if not known.any():
        return Tracks.empty(len(cameras)), ["The depth maps are empty: no points could be lifted."]
    frames = np.flatnonzero(known)
    seeds = frames[np.unique(np.linspace(0, len(frames) - 1, min(_SEED_FRAMES, len(frames))).round().astype(int))]
    step = np.sqrt(cameras.width * cameras.height * min(len(seeds), 3) / max(count, 1))
    found: list[geometry.Array] = []
    for frame in seeds:
        grid = _grid(cameras, step)
        if found:  # only where no point found so far is seen
            earlier = np.concatenate(found)
            seen, uv, _ = _visibility(cameras, depth, moving, earlier, np.array([frame]))
            grid = grid[~_near(grid, uv[0, seen[0]], step)]
        z = _sample_smooth(depth[frame], grid, cameras)
        use = z > 0
        if moving is not None:
            use &= ~_look_up(moving[frame], grid, cameras)
        if use.any():
            found.append(geometry.unproject(grid[use], z[use], cameras.c2w[frame], cameras.K[frame]))
    points = np.concatenate(found) if found else np.zeros((0, 3))
    visible, _, behind = _visibility(cameras, depth, moving, points, frames)
    sightings, through = visible.sum(0), behind.sum(0)
    moved = through > _SEEN_THROUGH * np.maximum(sightings + through, 1)
    lasting = sightings >= min(2, len(frames))
    keep = lasting & ~moved
    if keep.sum() > count:
        order = np.argsort(-sightings * keep, kind="stable")[:count]
        keep = np.isin(np.arange(len(keep)), order)
    notes = [
        f"{int(keep.sum())} tracks were lifted from the depth maps: points of the static scene, no moving objects."
    ]
    if moved.sum():
        notes.append(f"{int(moved.sum())} points were left out: later frames see through them, so they moved.")
    seen_all = _between(visible[:, keep], frames, len(cameras))
    return Tracks.make(np.repeat(points[None, keep], len(cameras), 0), visibility=seen_all), notes


def _grid(cameras: Cameras, step: float) -> geometry.Array:
    """Points (N, 2) px over the picture, about `step` apart, on pixel centres."""
    columns, rows = (max(round(side / step), 1) for side in (cameras.width, cameras.height))
    u = np.floor((np.arange(columns) + 0.5) * cameras.width / columns) + 0.5
    v = np.floor((np.arange(rows) + 0.5) * cameras.height / rows) + 0.5
    return np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)


def _near(points: geometry.Array, others: geometry.Array, step: float) -> NDArray[np.bool_]:
    """Which points (N, 2) share a cell of `step` px with one of `others` (M, 2)."""
    if not len(others):
        return np.zeros(len(points), bool)
    cells = np.floor(others / step).astype(np.int64)
    taken = {(int(x), int(y)) for x, y in cells}
    return np.array([(int(x), int(y)) in taken for x, y in np.floor(points / step)], bool)


def _cells(maps: NDArray[Any], uv: NDArray[Any], cameras: Cameras) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column in maps (..., h, w) of points uv (..., 2) inside the picture."""
    height, width = maps.shape[-2:]
    with np.errstate(invalid="ignore"):
        column = np.clip(np.nan_to_num(uv[..., 0] * (width / cameras.width)), 0, width - 1).astype(np.intp)
        row = np.clip(np.nan_to_num(uv[..., 1] * (height / cameras.height)), 0, height - 1).astype(np.intp)
    return row, column


def _look_up(layer: NDArray[Any], uv: NDArray[Any], cameras: Cameras) -> NDArray[Any]:
    """The value of one map (h, w) at points (N, 2): the cell that each lies in."""
    value: NDArray[Any] = layer[_cells(layer, uv, cameras)]
    return value


def sample_depth(layer: NDArray[Any], uv: NDArray[Any], cameras: Cameras) -> geometry.Array:
    """Depth (N,) of one map (h, w) at points uv (N, 2) px, 0 where unknown or outside the picture.

    Inverse depth is interpolated between the four cells around a point, exact on planes; across an edge in depth, or
    where a cell is unknown, the cell that the point lies in decides alone.
    """
    height, width = layer.shape
    uv = np.asarray(uv, np.float64)
    x = np.nan_to_num(uv[:, 0]) * (width / cameras.width) - 0.5
    y = np.nan_to_num(uv[:, 1]) * (height / cameras.height) - 0.5
    left, top = np.clip(np.floor(x), 0, max(width - 2, 0)), np.clip(np.floor(y), 0, max(height - 2, 0))
    wx, wy = np.clip(x - left, 0, 1), np.clip(y - top, 0, 1)
    rows, columns = top.astype(np.intp), left.astype(np.intp)
    below, beside = np.minimum(rows + 1, height - 1), np.minimum(columns + 1, width - 1)
    corners = np.stack([layer[rows, columns], layer[rows, beside], layer[below, columns], layer[below, beside]], 0)
    corners = corners.astype(np.float64)
    weights = np.stack([(1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy], 0)
    nearest = _look_up(layer, uv, cameras).astype(np.float64)
    low, high = corners.min(0), corners.max(0)
    smooth = (low > 0) & (high < 1.1 * low)
    mixed = 1 / (weights / np.where(corners > 0, corners, 1.0)).sum(0)
    value = np.where(smooth, mixed, nearest)
    inside = geometry.inside_image(uv, np.ones(len(uv)), cameras.width, cameras.height)
    known: geometry.Array = np.where(inside & np.isfinite(value) & (value > 0), value, 0.0)
    return known


def _sample_smooth(layer: NDArray[Any], uv: geometry.Array, cameras: Cameras) -> geometry.Array:
    """`sample_depth`, but 0 beside an edge in depth, where maps blur near and far into what is neither."""
    z = sample_depth(layer, uv, cameras)
    height, width = layer.shape
    row, column = _cells(layer, uv, cameras)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            near = layer[np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)]
            with np.errstate(invalid="ignore"):
                z = np.where(np.abs(near - z) > 0.1 * z, 0.0, z)
    return z


def _visibility(
    cameras: Cameras,
    depth: NDArray[Any],
    moving: NDArray[np.bool_] | None,
    points: geometry.Array,
    frames: NDArray[Any],
) -> tuple[NDArray[np.bool_], geometry.Array, NDArray[np.bool_]]:
    """At `frames` (S,): whether points (N, 3) are seen (S, N), uv (S, N, 2), whether the map sees past them (S, N)."""
    uv, z = geometry.project(points, cameras.c2w[frames], cameras.K[frames])
    inside = geometry.inside_image(uv, z, cameras.width, cameras.height)
    measured = np.zeros_like(z)
    free = np.ones_like(inside)
    for row, frame in enumerate(frames):
        measured[row] = sample_depth(depth[frame], uv[row], cameras)
        if moving is not None:
            free[row] = ~_look_up(moving[frame], uv[row], cameras)
    known = inside & (measured > 0)
    seen = known & free & (np.abs(z - measured) <= _AGREES * measured)
    return seen, uv, known & (measured > (1 + 3 * _AGREES) * z)


def _between(visible: NDArray[np.bool_], frames: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Visibility (count, N) from that at increasing `frames` (S, N): between them where both neighbours see it."""
    at = np.arange(count)
    before = np.clip(np.searchsorted(frames, at, side="right") - 1, 0, len(frames) - 1)
    after = np.clip(np.searchsorted(frames, at), 0, len(frames) - 1)
    both: NDArray[np.bool_] = visible[before] & visible[after]
    return both


# ---- from points followed in the picture ----


def lift(
    uv: NDArray[Any],
    visible: NDArray[Any],
    cameras: Cameras,
    depth: NDArray[Any] | None = None,
    confidence: NDArray[Any] | None = None,
) -> tuple[Tracks, list[str]]:
    """World tracks of points uv (T, N, 2) px of the cameras' picture, visible (T, N); and notes.

    depth: (T, h, w) maps: every visible point is put at its depth, between them along straight lines. Without depth a
    point is triangulated over all frames, as one that does not move; those that are not are left out. Raises BadShot
    when nothing can be lifted, in words that say what is missing.
    """
    uv, visible = np.asarray(uv, np.float64), np.array(visible, bool)
    frames, count = len(cameras), visible.shape[1]
    if uv.shape != (frames, count, 2) or visible.shape != (frames, count):
        raise BadShot(
            f"the tracks have shape {uv.shape}, visibility {visible.shape}; the cameras have {frames} frames.",
            "tracks",
            "Give tracks and cameras of the same frames.",
        )
    if not count:
        raise BadShot("there are no tracks.", "tracks", "Track some points first.")
    visible[~np.isfinite(uv).all(-1)] = False
    weight = visible.astype(np.float32) if confidence is None else np.asarray(confidence, np.float32)
    if depth is None:
        positions, good = _triangulate(uv, visible, cameras)
        if not good.any():
            raise BadShot(
                f"none of the {count} tracks can be triangulated: the camera does not move enough, or the points move.",
                "tracks",
                "Give a solve with depth maps; they also tell where moving points are.",
            )
        lifted = np.repeat(positions[None, good], frames, 0)
        notes = [f"{int(good.sum())} of {count} tracks were triangulated, as points that do not move."]
        if not good.all():
            notes.append(
                f"{int((~good).sum())} tracks were left out: they move, or the camera does not move enough for them. "
                "With depth maps they could be lifted."
            )
    else:
        lifted, measured = _at_depth(uv, visible, cameras, depth)
        good = np.asarray(measured.any(0))
        if not good.any():
            raise BadShot(
                f"none of the {count} tracks lies where a depth map knows the depth.",
                "tracks",
                "Check that tracks, cameras and depth belong to the same footage.",
            )
        lifted = lifted[:, good]
        notes = [f"{int(good.sum())} of {count} tracks were lifted by the depth maps."]
    kept = visible[:, good]
    ids = np.flatnonzero(good)
    return Tracks.make(lifted, visibility=kept, confidence=np.clip(weight[:, good], 0, 1) * kept, ids=ids), notes


def _at_depth(
    uv: geometry.Array, visible: NDArray[np.bool_], cameras: Cameras, depth: NDArray[Any]
) -> tuple[geometry.Array, NDArray[np.bool_]]:
    """World positions (T, N, 3) and where (T, N) they were measured; filled in between, held at the ends."""
    frames, count = visible.shape
    z = np.zeros((frames, count))
    for frame in range(frames):
        z[frame] = sample_depth(depth[frame], uv[frame], cameras)
    measured = visible & (z > 0)
    positions = np.zeros((frames, count, 3))
    at = np.arange(frames)
    for n in np.flatnonzero(measured.any(0)):
        good = np.flatnonzero(measured[:, n])
        # A visible point of unknown depth stays on its view ray: its depth is interpolated, not its position.
        depths = 1 / np.interp(at, good, 1 / z[good, n])
        rays = np.flatnonzero(visible[:, n])
        world = geometry.unproject(uv[rays, n][:, None], depths[rays][:, None], cameras.c2w[rays], cameras.K[rays])
        for axis in range(3):
            positions[:, n, axis] = np.interp(at, rays, world[:, 0, axis])
    return positions, measured


_MIN_PARALLAX = 1.0
_REFINEMENTS = 6


def _triangulate(
    uv: geometry.Array, visible: NDArray[np.bool_], cameras: Cameras
) -> tuple[geometry.Array, NDArray[np.bool_]]:
    """The point (N, 3) that each track shows, if it stands still, and whether (N,) that is believable.

    Nearest point to all rays, then Gauss-Newton on the distances in the picture. Believed where the rays open by at
    least a degree, the point lies in front of its cameras and the median distance is below 0.3 % of the width.
    """
    frames, count = visible.shape
    safe = np.where(visible[..., None], np.nan_to_num(uv), 0.0)
    far = geometry.unproject(safe, np.ones((frames, count)), cameras.c2w, cameras.K)
    origin = cameras.c2w[:, :3, 3]
    ray = far - origin[:, None]
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    weight = visible.astype(np.float64)
    across = np.eye(3) - ray[..., :, None] * ray[..., None, :]
    normal = np.einsum("tn,tnij->nij", weight, across)
    target = np.einsum("tn,tnij,tj->ni", weight, across, origin)
    # A little pull towards the middle camera keeps hopeless tracks solvable; they are told by their parallax.
    scale = 1e-9 * np.eye(3)
    point = np.linalg.solve(normal + scale, (target + origin.mean(0) @ scale)[..., None])[..., 0]
    w2c = geometry.invert_rigid(cameras.c2w)
    for _ in range(_REFINEMENTS):
        point = point + _gauss_newton(point, safe, weight, w2c, cameras)
    found, z = cameras.project(np.repeat(point[None], frames, 0))
    distance = np.where(visible, np.linalg.norm(found - safe, axis=-1), np.nan)
    front = (np.where(visible, z, 1.0) > 0).all(0)
    enough = visible.sum(0) >= 3
    median = np.full(count, np.inf)
    usable = enough & front & np.isfinite(point).all(-1)
    if usable.any():
        median[usable] = np.nanmedian(distance[:, usable], 0)
    # The parallax: under what angle the point sees the cameras that saw it. A camera that only turns gives none.
    to_point = point[None] - origin[:, None]
    to_point /= np.maximum(np.linalg.norm(to_point, axis=-1, keepdims=True), 1e-12)
    centre = np.einsum("tn,tni->ni", weight, to_point)
    centre /= np.maximum(np.linalg.norm(centre, axis=-1, keepdims=True), 1e-12)
    seen_from = np.degrees(2 * np.arccos(np.clip(np.einsum("tni,ni->tn", to_point, centre), -1, 1)))
    good = usable & (np.where(visible, seen_from, 0).max(0) >= _MIN_PARALLAX) & (median <= 0.003 * cameras.width)
    return np.where(good[:, None], point, 0.0), good


def _gauss_newton(
    point: geometry.Array, uv: geometry.Array, weight: geometry.Array, w2c: geometry.Array, cameras: Cameras
) -> geometry.Array:
    """The step (N, 3) that brings points nearer to where they were seen."""
    local = geometry.transform(w2c, point)
    z = np.where(local[..., 2] > 1e-9, local[..., 2], np.nan)
    K = cameras.K[:, None]
    found = np.stack(
        [K[..., 0, 0] * local[..., 0] / z + K[..., 0, 1] * local[..., 1] / z + K[..., 0, 2],
         K[..., 1, 1] * local[..., 1] / z + K[..., 1, 2]], -1)  # fmt: skip
    use = weight * np.isfinite(found).all(-1)
    error = np.where(use[..., None] > 0, uv - found, 0.0)
    zero = np.zeros_like(z)
    du = np.stack([K[..., 0, 0] / z, K[..., 0, 1] / z, -(found[..., 0] - K[..., 0, 2]) / z], -1)
    dv = np.stack([zero, K[..., 1, 1] / z, -(found[..., 1] - K[..., 1, 2]) / z], -1)
    jacobian = np.stack([du, dv], -2) @ w2c[:, None, :3, :3]
    jacobian = np.where(use[..., None, None] > 0, jacobian, 0.0)
    normal = np.einsum("tnki,tnkj->nij", jacobian, jacobian)
    size = np.maximum(np.trace(normal, axis1=1, axis2=2), 1e-12)[:, None, None]
    step: geometry.Array = np.linalg.solve(
        normal + 1e-9 * size * np.eye(3), np.einsum("tnki,tnk->ni", jacobian, error)[..., None]
    )[..., 0]
    return np.nan_to_num(step)
