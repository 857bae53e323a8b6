"""What is known exactly about the rendered shot: cameras, tracks on the surfaces with true visibility, label maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix, Vector
from mathutils.bvhtree import BVHTree
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.shot import Cameras, Tracks

BLENDER_AXES = np.diag([1.0, -1.0, -1.0, 1.0])
"""A Blender camera's matrix is c2w @ BLENDER_AXES: it looks along -z, y up."""
SENSOR = 36.0
POSITION_LEVELS = 2**14
"""Tracks are rounded to 1/16384 m, 0.006 px at the nearest, so that they pack into half the bytes."""
TOLERANCE = 4e-3
"""Metres by which a ray may stop before a track's point and still see it."""


def camera_path(frames: int, width: int, height: int, lens: float) -> Cameras:
    """The source camera: a slow arc around the middle of the set, sinking and drawing nearer."""
    t = np.linspace(0, 1, frames)
    t = t * t * (3 - 2 * t) * 0.7 + t * 0.3
    angle = np.radians(-9.5 + 17 * t)
    distance = 6.75 - 0.75 * t
    centre = np.array([0.05, 0.3, 0.0])
    eye = centre + np.stack([distance * np.sin(angle), -distance * np.cos(angle), 1.95 - 0.3 * t], -1)
    target = np.stack([-0.35 + 0.75 * t, 0.2 + 0 * t, 0.84 - 0.02 * t], -1)
    focal = lens * width / SENSOR
    K = geometry.intrinsics(np.full(frames, focal), focal, width / 2, height / 2)
    return Cameras(geometry.look_at(eye, target, (0, 0, -1)), K, width, height)


def apply_camera(camera: bpy.types.Object, cameras: Cameras, frame: int) -> None:
    """Set Blender's camera to one of `cameras`, whose principal point must be the picture's middle."""
    camera.matrix_world = Matrix((cameras.c2w[frame] @ BLENDER_AXES).tolist())
    camera.data.sensor_fit, camera.data.sensor_width = "HORIZONTAL", SENSOR
    camera.data.lens = cameras.K[frame, 0, 0] * SENSOR / cameras.width


class Surfaces:
    """All triangles of the scene at one moment, in one list whose order never changes.

    vertices: (V, 3) world. triangles: (M, 3) into vertices. objects: (M,) the object number of each triangle.
    """

    def __init__(self, numbers: Mapping[str, int]) -> None:
        """numbers: object number by Blender name of the foreground objects; all others are background (0)."""
        self.numbers = numbers
        self.hidden = {"Window"}
        self._still = self._collect(moving=False)

    def _collect(self, moving: bool) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int32]]:
        depsgraph = bpy.context.evaluated_depsgraph_get()
        vertices, triangles, objects, offset = [], [], [], 0
        for thing in bpy.context.scene.objects:
            if thing.type != "MESH" or thing.name in self.hidden or (thing.name in self.numbers) != moving:
                continue
            evaluated = thing.evaluated_get(depsgraph)
            mesh = evaluated.to_mesh()
            mesh.calc_loop_triangles()
            points = np.empty(3 * len(mesh.vertices), np.float32)
            mesh.vertices.foreach_get("co", points)
            corners = np.empty(3 * len(mesh.loop_triangles), np.int32)
            mesh.loop_triangles.foreach_get("vertices", corners)
            world = np.array(evaluated.matrix_world)
            vertices.append(geometry.transform(world, points.reshape(-1, 3)))
            triangles.append(corners.reshape(-1, 3).astype(np.int64) + offset)
            objects.append(np.full(len(triangles[-1]), self.numbers.get(thing.name, 0), np.int32))
            offset += len(vertices[-1])
            evaluated.to_mesh_clear()
        return np.concatenate(vertices), np.concatenate(triangles), np.concatenate(objects)

    def update(self) -> None:
        """Read what moves at the scene's present state."""
        still, moving = self._still, self._collect(moving=True)
        self.vertices = np.concatenate([still[0], moving[0]])
        self.triangles = np.concatenate([still[1], moving[1] + len(still[0])])
        self.objects = np.concatenate([still[2], moving[2]])
        if not hasattr(self, "_still_tree"):
            self._still_tree = BVHTree.FromPolygons(still[0].tolist(), still[1].tolist(), all_triangles=True)
        self._moving_tree = BVHTree.FromPolygons(moving[0].tolist(), moving[1].tolist(), all_triangles=True)

    def hit(self, origin: Vector, direction: Vector) -> tuple[int, float]:
        """First triangle along a ray and its distance; (-1, inf) where there is none."""
        _, _, still, near = self._still_tree.ray_cast(origin, direction)
        _, _, moving, nearer = self._moving_tree.ray_cast(origin, direction)
        if nearer is not None and (near is None or nearer < near):
            return moving + len(self._still[1]), nearer
        return (still, near) if near is not None else (-1, np.inf)


@dataclass(frozen=True)
class SurfacePoints:
    """N points fixed to the surfaces. triangles: (N,) in the order of `Surfaces`. weights: (N, 3) barycentric."""

    triangles: NDArray[np.int64]
    weights: NDArray[np.float64]

    def positions(self, surfaces: Surfaces) -> NDArray[np.float64]:
        """Where they are now: (N, 3) world."""
        corners = surfaces.vertices[surfaces.triangles[self.triangles]]
        return np.asarray(np.einsum("nk,nkd->nd", self.weights, corners))


def pick_points(
    surfaces: Surfaces, cameras: Cameras, show: Callable[[int], None], counts: Sequence[int], seed: int
) -> SurfacePoints:
    """Points spread evenly over the picture: counts[n] of them on object number n.

    show: brings the scene and `surfaces` to a frame. Points are picked where rays through random pixels of nine
    frames meet a surface, so that a surface gets as many points as it takes up of the picture.
    """
    rng = np.random.default_rng(seed)
    picked: list[list[tuple[int, NDArray[np.float64]]]] = [[] for _ in counts]
    moments = np.linspace(0, len(cameras) - 1, 9).round().astype(int)
    for order, frame in enumerate(moments):
        show(frame)
        quota = [round(count * (order + 1) / len(moments)) for count in counts]
        eye, rays, _ = _rays(cameras, frame, _scattered(rng, cameras.width, cameras.height))
        for ray in rays:
            if all(len(picked[n]) >= quota[n] for n in range(len(counts))):
                break
            triangle, distance = surfaces.hit(eye, ray)
            number = surfaces.objects[triangle]
            if triangle >= 0 and len(picked[number]) < quota[number]:
                corners = surfaces.vertices[surfaces.triangles[triangle]]
                picked[number].append((triangle, _barycentric(np.array(eye + ray * distance), corners)))
    chosen = [pick for group in picked for pick in group]
    return SurfacePoints(np.array([triangle for triangle, _ in chosen]), np.array([weights for _, weights in chosen]))


def follow(surfaces: Surfaces, cameras: Cameras, show: Callable[[int], None], points: SurfacePoints) -> Tracks:
    """The tracks of surface points through all frames, visible where nothing stands between them and the camera.

    show: as for `pick_points`.
    """
    shape = len(cameras), len(points.triangles)
    positions, visibility = np.zeros((*shape, 3)), np.zeros(shape, bool)
    for frame in range(len(cameras)):
        show(frame)
        positions[frame] = np.rint(points.positions(surfaces) * POSITION_LEVELS) / POSITION_LEVELS
        visibility[frame] = see(surfaces, cameras, frame, positions[frame])
    return Tracks.make(positions, visibility, objects=surfaces.objects[points.triangles])


def see(surfaces: Surfaces, cameras: Cameras, frame: int, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points (N, 3) lie inside the picture with nothing before them."""
    uv, depth = geometry.project(points, cameras.c2w[frame], cameras.K[frame])
    seen = geometry.inside_image(uv, depth, cameras.width, cameras.height)
    eye = cameras.c2w[frame, :3, 3]
    for i in np.flatnonzero(seen):
        reach = np.linalg.norm(points[i] - eye)
        seen[i] = surfaces.hit(Vector(eye), Vector((points[i] - eye) / reach))[1] > reach - TOLERANCE
    return seen


def _scattered(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float64]:
    """Random points in the picture, one in each cell of a 6 px grid, in random order, three times over."""
    grid = np.stack(np.meshgrid(np.arange(0, width, 6), np.arange(0, height, 6)), -1).reshape(-1, 2)
    rounds = [rng.permutation(grid + rng.uniform(0, 6, grid.shape)) for _ in range(3)]
    return np.concatenate(rounds)


def _rays(cameras: Cameras, frame: int, uv: NDArray[np.float64]) -> tuple[Vector, list[Vector], NDArray[np.float64]]:
    """Eye, unit directions through image points uv (N, 2), and the way along each for one metre of depth (N,)."""
    eye = cameras.c2w[frame, :3, 3]
    ways = geometry.unproject(uv, np.ones(len(uv)), cameras.c2w[frame], cameras.K[frame]) - eye
    lengths = np.linalg.norm(ways, axis=1)
    return Vector(eye), [Vector(ray) for ray in ways / lengths[:, None]], lengths


def _barycentric(point: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    edges = (corners[1:] - corners[0]).T
    b, c = np.linalg.lstsq(edges, point - corners[0], rcond=None)[0]
    return np.array([1 - b - c, b, c])


def mask(surfaces: Surfaces, cameras: Cameras, frame: int) -> NDArray[np.uint8]:
    """Object numbers (height, width) that rays through the pixels' centres meet."""
    numbers = np.zeros((cameras.height, cameras.width), np.uint8)
    size = cameras.width, cameras.height
    for number in np.unique(surfaces.objects[surfaces.objects > 0]):
        own = np.unique(surfaces.triangles[surfaces.objects == number])
        uv, _ = geometry.project(surfaces.vertices[own], cameras.c2w[frame], cameras.K[frame])
        left, top = np.clip(np.floor(uv.min(0)), 0, size).astype(int)
        right, bottom = np.clip(np.ceil(uv.max(0)), 0, size).astype(int)
        pixels = np.stack(np.meshgrid(np.arange(left, right), np.arange(top, bottom)), -1).reshape(-1, 2)
        eye, rays, _ = _rays(cameras, frame, pixels + 0.5)
        for (column, row), ray in zip(pixels, rays, strict=True):
            triangle, _ = surfaces.hit(eye, ray)
            if triangle >= 0:
                numbers[row, column] = surfaces.objects[triangle]
    return numbers


def depth_map(surfaces: Surfaces, cameras: Cameras, frame: int, step: int) -> NDArray[np.float32]:
    """Depth (height / step, width / step) m along the view axis, at the centres of blocks of step x step pixels."""
    grid = np.meshgrid(np.arange(step / 2, cameras.width, step), np.arange(step / 2, cameras.height, step))
    eye, rays, lengths = _rays(cameras, frame, np.stack(grid, -1).reshape(-1, 2))
    distances = np.array([surfaces.hit(eye, ray)[1] for ray in rays])
    depth = np.where(np.isfinite(distances), distances / lengths, 0)
    return depth.reshape(grid[0].shape).astype(np.float32)
