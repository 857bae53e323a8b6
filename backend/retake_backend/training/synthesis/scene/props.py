"""Things that move: balls, boxes, cloth and soft bodies, each with the function that brings it to a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import bpy
import materials
import numpy as np
import rigs
from mathutils import Matrix
from shapes import Part, body, box, build, ellipsoid, torus

from ..plan import Actor, Motion
from . import looks, motions, people
from .gaits import Body, Vec, Walk

PARKED = -500.0
"""z of what is not there: it stays a part of the scene, so that its triangles keep their numbers."""
Show = Callable[[float], None]


@dataclass(frozen=True)
class Thing:
    """An actor that has been built. meshes: the objects that are seen. act: the function that brings it to a second of
    a motion; the second number is when in the clip the motion is at its place. root: moves all of it."""

    meshes: tuple[bpy.types.Object, ...]
    act: Callable[[Motion, float], Show]
    root: bpy.types.Object

    def park(self) -> None:
        """Put it out of sight, where it throws no shadow."""
        self.root.matrix_world = Matrix.Translation((0, 0, PARKED))


def build_prop(actor: Actor) -> Thing:
    """The actor's mesh, the same for the same seed."""
    rng = np.random.default_rng([actor.seed, 8])
    return {"person": _person, "ball": _ball, "box": _box, "flag": _flag, "jelly": _jelly, "worm": _worm}[actor.kind](
        actor, rng
    )


def _person(actor: Actor, rng: np.random.Generator) -> Thing:
    figure = Body.draw(rng)
    armature, mesh = people.build_person(actor.name, actor.seed, figure)

    def act(motion: Motion, middle: float) -> Show:
        walk = Walk(figure, motion, middle)

        def show(seconds: float) -> None:
            armature.matrix_world = Matrix.Identity(4)
            rigs.apply_pose(armature, walk.pose(seconds))

        return show

    return Thing((mesh,), act, armature)


def solid(mesh: bpy.types.Object, place: Callable[[Motion, float], motions.Place]) -> Thing:
    """A thing of one mesh that keeps its shape."""

    def act(motion: Motion, middle: float) -> Show:
        at = place(motion, middle)

        def show(seconds: float) -> None:
            mesh.matrix_world = Matrix(at(seconds).tolist())

        return show

    return Thing((mesh,), act, mesh)


def _ball(actor: Actor, rng: np.random.Generator) -> Thing:
    radius = float(rng.uniform(0.14, 0.4))
    bpy.ops.mesh.primitive_uv_sphere_add(segments=32, ring_count=16, radius=radius)
    mesh = bpy.context.object
    mesh.name = actor.name
    if rng.random() < 0.15:
        mesh.data.materials.append(looks.metal(rng, actor.name))
    else:
        mesh.data.materials.append(looks.surface(rng, actor.name, radius * float(rng.uniform(0.3, 0.7))))
    mesh.data.polygons.foreach_set("use_smooth", [True] * len(mesh.data.polygons))
    return solid(mesh, lambda motion, middle: motions.ball(motion, radius, middle))


def _box(actor: Actor, rng: np.random.Generator) -> Thing:
    """A block, or something that fits into one: a barrel, a ring, a mug, a lump."""
    half = rng.uniform(0.12, 0.4, 3)
    kind = str(rng.choice(["block", "block", "barrel", "ring", "lump", "toy"]))
    if kind == "toy":
        half[:] = half.mean()
    own = [
        looks.surface(rng, f"{actor.name} {i}", float(half.mean() * rng.uniform(0.25, 0.7))) for i in range(2)
    ]  # fmt: skip
    x, y, z = (float(v) for v in half)
    parts: list[Part] = {
        "block": [box((0, 0, 0), (2 * x, 2 * y, 2 * z))],
        "toy": [box((0, 0, 0), (1, 1, 1))],
        "barrel": [body([(0, 0, -z, 0.8 * x, 0.8 * x), (0, 0, 0, x, x), (0, 0, z, 0.8 * x, 0.8 * x)], around=20),
                   torus((0, 0, 0.5 * z), 0.95 * x, 0.03, material=1), torus((0, 0, -0.5 * z), 0.95 * x, 0.03, material=1)],
        "ring": [torus((0, 0, 0), x, 0.3 * x)],
        "lump": [ellipsoid((0, 0, 0), (x, y, z), squareness=float(rng.uniform(2, 4)), around=16)],
    }[kind]  # fmt: skip
    if kind == "toy":
        pattern = str(rng.choice(["dots", "stripes", "checks", "ring", "star"]))
        own = [materials.toy_block(actor.name, *looks.palette(rng, 2), pattern)]
    if kind == "ring":
        half = np.array([1.3 * x, 1.3 * x, 0.3 * x])
    if kind == "barrel":
        half = np.array([x, x, z])
    mesh = build(actor.name, parts, own, bevel=0.02 if kind == "block" else 0.05 if kind == "toy" else 0.0)
    if kind == "toy":
        size = np.eye(3) * 2 * x

        def place(motion: Motion, middle: float) -> motions.Place:
            at = motions.rigid(motion, half, middle)
            return lambda seconds: at(seconds) @ motions.affine(size, np.zeros(3))

        return solid(mesh, place)
    return solid(mesh, lambda motion, middle: motions.rigid(motion, half, middle))


def _soft(
    mesh: bpy.types.Object,
    place: Callable[[Motion, float], motions.Place],
    shape: Callable[[int, Vec, float], motions.Shape],
) -> Thing:
    """A thing of one mesh whose vertices move."""
    rest = _vertices(mesh)

    def act(motion: Motion, middle: float) -> Show:
        at, form = place(motion, middle), shape(motion.seed, rest, middle)

        def show(seconds: float) -> None:
            mesh.matrix_world = Matrix(at(seconds).tolist())
            mesh.data.vertices.foreach_set("co", form(seconds).astype(np.float32).ravel())
            mesh.data.update()

        return show

    return Thing((mesh,), act, mesh)


def _vertices(mesh: bpy.types.Object) -> Vec:
    """Its vertices (V, 3) in its own frame."""
    flat = np.empty(3 * len(mesh.data.vertices), np.float32)
    mesh.data.vertices.foreach_get("co", flat)
    return flat.reshape(-1, 3).astype(np.float64)


def _flag(actor: Actor, rng: np.random.Generator) -> Thing:
    """A cloth at a pole, the pole a part of it."""
    wide, tall, top = float(rng.uniform(0.7, 1.3)), float(rng.uniform(0.45, 0.9)), float(rng.uniform(1.4, 2.1))
    columns, rows = 24, 14
    x, z = np.meshgrid(np.linspace(0.02, wide, columns), np.linspace(top - tall, top, rows))
    cloth = np.stack([x, 0 * x, z], -1).reshape(-1, 3)
    faces = [(r * columns + c, r * columns + c + 1, (r + 1) * columns + c + 1, (r + 1) * columns + c)
             for r in range(rows - 1) for c in range(columns - 1)]  # fmt: skip
    pole = body([(0, 0, 0, 0.03, 0.03), (0, 0, top + 0.05, 0.025, 0.025)], around=12, material=1)
    stuff = [looks.surface(rng, actor.name, float(rng.uniform(0.08, 0.25)), attribute="rest", smooth=False),
             looks.surface(rng, f"{actor.name} pole", 0.08)]  # fmt: skip
    mesh = build(actor.name, [Part(cloth, faces), pole], stuff)
    return _soft(mesh, _standing, _waving_cloth(len(cloth)))


def _waving_cloth(count: int) -> Callable[[int, Vec, float], motions.Shape]:
    """Only the first `count` vertices wave."""

    def shape(seed: int, rest: Vec, middle: float) -> motions.Shape:
        wave = motions.waving(seed, rest[:count], middle)
        return lambda seconds: np.concatenate([wave(seconds), rest[count:]])

    return shape


def _jelly(actor: Actor, rng: np.random.Generator) -> Thing:
    bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=4, radius=1.0)
    mesh = bpy.context.object
    mesh.name = actor.name
    points = _vertices(mesh)
    size, square = rng.uniform([0.2, 0.2, 0.25], [0.45, 0.45, 0.5]), rng.uniform(0.6, 1.0)
    points = np.sign(points) * np.abs(points) ** square * size + [0, 0, size[2]]
    mesh.data.vertices.foreach_set("co", points.astype(np.float32).ravel())
    mesh.data.attributes.new("rest", "FLOAT_VECTOR", "POINT").data.foreach_set(
        "vector", points.astype(np.float32).ravel()
    )
    mesh.data.polygons.foreach_set("use_smooth", [True] * len(mesh.data.polygons))
    mesh.data.materials.append(looks.surface(rng, actor.name, float(rng.uniform(0.08, 0.2)), attribute="rest"))
    return _soft(mesh, _hopping, motions.wobbling)


def _worm(actor: Actor, rng: np.random.Generator) -> Thing:
    length, radius = float(rng.uniform(0.9, 1.6)), float(rng.uniform(0.07, 0.15))
    steps = np.linspace(-0.5, 0.5, 40)
    thick = radius * (1 - 0.7 * np.abs(2 * steps) ** 3) * (1 + 0.12 * np.cos(steps * 60))
    upright = body([(0, 0, length * s, t, t) for s, t in zip(steps, thick, strict=True)], around=16)
    turned = upright.vertices[:, [2, 1, 0]] * [1, 1, -1] + [0, 0, radius]
    tube = Part(turned, upright.faces, rest=turned)
    mesh = build(actor.name, [tube], [looks.surface(rng, actor.name, float(rng.uniform(0.06, 0.2)), attribute="rest")])
    return _soft(mesh, _sliding, motions.crawling)


def _standing(motion: Motion, middle: float) -> motions.Place:
    matrix = motions.affine(_turned(motion.heading), np.array([*motion.at, 0.0]))
    return lambda seconds: matrix


def _hopping(motion: Motion, middle: float) -> motions.Place:
    if motion.action != "hop":
        return _standing(motion, middle)
    rng = np.random.default_rng([motion.seed, 9])
    way = np.array([np.cos(motion.heading), np.sin(motion.heading), 0]) * rng.uniform(0.2, 0.9)
    period, top = rng.uniform(0.5, 0.9), rng.uniform(0.1, 0.4)

    def at(seconds: float) -> Vec:
        elapsed = seconds - middle
        phase = (elapsed / period) % 1.0
        high = 4 * phase * (1 - phase) * top
        return motions.affine(_turned(motion.heading), np.array([*motion.at, high]) + way * elapsed)

    return at


def _sliding(motion: Motion, middle: float) -> motions.Place:
    rng = np.random.default_rng([motion.seed, 9])
    way = np.array([np.cos(motion.heading), np.sin(motion.heading), 0]) * rng.uniform(0.1, 0.6)
    return lambda seconds: motions.affine(
        _turned(motion.heading), np.array([*motion.at, 0.0]) + way * (seconds - middle)
    )


def _turned(heading: float) -> Vec:
    c, s = np.cos(heading), np.sin(heading)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
