"""Meshes of the sample shot, built from numpy arrays: rings that subdivide into rounded bodies, and bevelled boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray

Weights = str | Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]]
Ring = tuple[float, float, float, float, float]


@dataclass
class Part:
    """One closed surface of a mesh.

    vertices: (V, 3). faces: corner indices. material: slot number. weights: the bone that carries all of it, or a
    function from vertices to {bone: (V,) weights}. rest: (V, 3) texture coordinates, the vertices themselves if None.
    """

    vertices: NDArray[np.float64]
    faces: Sequence[tuple[int, ...]]
    material: int = 0
    weights: Weights = ""
    rest: NDArray[np.float64] | None = None

    def shares(self) -> dict[str, NDArray[np.float64]]:
        """How much of each vertex each bone carries, (V,); none when no bone does."""
        if callable(self.weights):
            return self.weights(self.vertices)
        return {self.weights: np.ones(len(self.vertices))} if self.weights else {}

    def placed(self, matrix: NDArray[np.float64]) -> Part:
        """The same part under an affine matrix (4, 4); its textures move with it."""
        rest = self.vertices if self.rest is None else self.rest
        return Part(self.vertices @ matrix[:3, :3].T + matrix[:3, 3], self.faces, self.material, self.weights, rest)


def body(
    rings: Sequence[Ring],
    *,
    around: int = 12,
    squareness: float = 2.0,
    material: int = 0,
    weights: Weights = "",
) -> Part:
    """A closed body through rings (x, y, z, radius along x, radius along y), each parallel to the ground.

    squareness: exponent of the superellipse, 2 = ellipse, 4 = rounded square. The ends are closed by a point.
    """
    angle = np.arange(around) * 2 * np.pi / around
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    circle = np.sign(circle) * np.abs(circle) ** (2 / squareness)
    rows = np.asarray(rings, np.float64)
    vertices = np.zeros((len(rows), around, 3))
    vertices[..., :2] = rows[:, None, :2] + rows[:, None, 3:] * circle
    vertices[..., 2] = rows[:, None, 2]
    faces: list[tuple[int, ...]] = []
    for row in range(len(rows) - 1):
        for i in range(around):
            j = (i + 1) % around
            faces.append((row * around + i, row * around + j, (row + 1) * around + j, (row + 1) * around + i))
    first, last = len(rows) * around, len(rows) * around + 1
    for i in range(around):
        j = (i + 1) % around
        faces.append((first, j, i))
        faces.append((last, (len(rows) - 1) * around + i, (len(rows) - 1) * around + j))
    points = np.concatenate([vertices.reshape(-1, 3), rows[[0, -1], :3]])
    return Part(points, faces, material, weights)


def ellipsoid(
    centre: Sequence[float],
    radii: Sequence[float],
    *,
    material: int = 0,
    weights: Weights = "",
    squareness: float = 2.0,
    around: int = 12,
) -> Part:
    """A rounded lump with half-axes radii (3,) at centre (3,)."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 9)[1:-1]
    # Catmull-Clark shrinks a coarse cage; 1.05 brings the rounded surface back to the asked size.
    grow = 1.05
    rings = [
        (
            centre[0],
            centre[1],
            centre[2] + grow * radii[2] * np.sin(a),
            grow * radii[0] * np.cos(a),
            grow * radii[1] * np.cos(a),
        )
        for a in latitude
    ]
    part = body(rings, around=around, squareness=squareness, material=material, weights=weights)
    part.vertices[-2:, 2] = centre[2] - grow * radii[2], centre[2] + grow * radii[2]
    return part


def torus(
    centre: Sequence[float],
    radius: float,
    thickness: float,
    *,
    material: int = 0,
    weights: Weights = "",
    squash: float = 1.0,
) -> Part:
    """A ring lying flat around centre (3,); squash scales its height."""
    around, across = 20, 8
    a = np.arange(around)[:, None] * 2 * np.pi / around
    b = np.arange(across)[None] * 2 * np.pi / across
    reach = radius + thickness * np.cos(b)
    x, y, z = np.cos(a) * reach, np.sin(a) * reach, squash * thickness * np.sin(b) + 0 * a
    vertices = np.stack([x, y, z], -1).reshape(-1, 3) + np.asarray(centre)
    faces: list[tuple[int, ...]] = []
    for i in range(around):
        for j in range(across):
            k, m = (i + 1) % around, (j + 1) % across
            faces.append((i * across + j, k * across + j, k * across + m, i * across + m))
    return Part(vertices, faces, material, weights)


def box(centre: Sequence[float], size: Sequence[float], *, material: int = 0) -> Part:
    """An axis-parallel box with edges size (3,); bevel it with `build(bevel=...)`."""
    corners = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
    faces = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    return Part(corners * np.asarray(size) + np.asarray(centre), faces, material)


def build(
    name: str,
    parts: Sequence[Part],
    materials: Sequence[bpy.types.Material],
    *,
    matrix: NDArray[np.float64] | None = None,
    subdivide: int = 0,
    bevel: float = 0.0,
) -> bpy.types.Object:
    """One mesh object of several parts, linked to the scene.

    The attribute "rest" holds each vertex's texture coordinates, so that textures stick to a body that deforms.
    """
    vertices = np.concatenate([part.vertices for part in parts])
    rest = np.concatenate([part.vertices if part.rest is None else part.rest for part in parts])
    faces: list[tuple[int, ...]] = []
    slots: list[int] = []
    groups: dict[str, list[tuple[int, float]]] = {}
    offset = 0
    for part in parts:
        faces += [tuple(offset + i for i in face) for face in part.faces]
        slots += [part.material] * len(part.faces)
        for bone, share in part.shares().items():
            groups.setdefault(bone, []).extend((offset + i, float(w)) for i, w in enumerate(share) if w > 0)
        offset += len(part.vertices)

    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices.tolist(), [], faces)
    mesh.attributes.new("rest", "FLOAT_VECTOR", "POINT").data.foreach_set("vector", rest.astype(np.float32).ravel())
    mesh.polygons.foreach_set("material_index", slots)
    mesh.polygons.foreach_set("use_smooth", [True] * len(faces))
    for material in materials:
        mesh.materials.append(material)
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    if matrix is not None:
        thing.matrix_world = Matrix(matrix.tolist())
    for bone, members in groups.items():
        group = thing.vertex_groups.new(name=bone)
        for index, weight in members:
            group.add([index], weight, "REPLACE")
    if bevel:
        modifier = thing.modifiers.new("Bevel", "BEVEL")
        modifier.width, modifier.segments, modifier.limit_method = bevel, 3, "ANGLE"
    if subdivide:
        modifier = thing.modifiers.new("Subdivision", "SUBSURF")
        modifier.levels = modifier.render_levels = subdivide
    return thing


def placement(location: Sequence[float], turn: float = 0.0, scale: float = 1.0) -> NDArray[np.float64]:
    """Matrix (4, 4): scaled, turned about z by `turn` degrees, moved to location (3,)."""
    c, s = scale * np.cos(np.radians(turn)), scale * np.sin(np.radians(turn))
    matrix = np.eye(4)
    matrix[:3, :3] = [[c, -s, 0], [s, c, 0], [0, 0, scale]]
    matrix[:3, 3] = location
    return matrix
