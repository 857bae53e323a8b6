"""Where it happens: rooms, studios, meadows and streets with their things and lights, all of it drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import bpy
import materials
import numpy as np
from mathutils import Vector
from shapes import Part, body, box, build, placement

from . import looks, things
from .gaits import Vec

CLEAR = 2.7
"""Metres around the origin that are kept free for those who act."""


def build_place(kind: str, seed: int) -> None:
    """Everything that stands still, the lights and the sky."""
    rng = np.random.default_rng([seed, 10])
    {"room": _room, "studio": _studio, "meadow": _meadow, "street": _street}[kind](rng)


def _ring(rng: np.random.Generator, count: int, near: float, far: float) -> list[tuple[float, float, float]]:
    """Places x, y and a turn in degrees, spread around the middle."""
    angles = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * 2 * np.pi / max(count, 1) + rng.uniform(0, 6.28)
    reach = np.sqrt(rng.uniform(near**2, far**2, count))
    return [
        (float(r * np.cos(a)), float(r * np.sin(a)), float(rng.uniform(0, 360)))
        for r, a in zip(reach, angles, strict=True)
    ]


# ------------------------------------------------------------------------------------------------------- places


def _room(rng: np.random.Generator) -> None:
    """Four walls with pictures, doors and skirting, furniture and small things, light from above and from a side."""
    wide, deep, tall = rng.uniform(8.5, 13), rng.uniform(8.5, 13), rng.uniform(2.6, 4.0)
    floor = materials.planks() if rng.random() < 0.25 else looks.surface(rng, "floor", float(rng.uniform(0.15, 0.7)))
    build("Floor", [box((0, 0, -0.05), (wide, deep, 0.1))], [floor])
    paper = [looks.surface(rng, f"wall {i}", float(rng.uniform(0.12, 0.6))) for i in range(2)]
    trim = looks.surface(rng, "trim", 0.3, patterns=["grain", "mottled"])
    for i, (x, y) in enumerate(((0, 1), (0, -1), (1, 0), (-1, 0))):
        along = wide if y else deep
        turn = 0.0 if y else 90.0
        at = (x * wide / 2, y * deep / 2, 0)
        inside = -np.sign(x + y) * (1 if y else -1)
        wall = placement(at, turn)
        build(f"Side {i}", [box((0, 0, tall / 2), (along, 0.1, tall))], [paper[int(rng.integers(2))]], matrix=wall)
        skirting = [
            box((0, 0.07 * inside, 0.07), (along, 0.05, 0.14)),
            box((0, 0.07 * inside, tall - 0.06), (along, 0.06, 0.12)),
        ]
        build(f"Skirting {i}", skirting, [trim], matrix=wall)
        things.on_wall(rng, f"wall {i}", wall, along, tall, float(inside))
    if rng.random() < 0.5:
        disc = body([(0, 0, 0.0, 1, 1), (0, 0, 0.012, 0.99, 0.99)], around=64)
        rug = (
            materials.rug()
            if rng.random() < 0.4
            else looks.surface(rng, "carpet", float(rng.uniform(0.15, 0.4)), smooth=False)
        )
        build(
            "Carpet",
            [disc],
            [rug],
            matrix=placement((*rng.uniform(-0.6, 0.6, 2), 0), rng.uniform(0, 90), rng.uniform(1.0, 2.2)),
        )
    limit = min(wide, deep) / 2 - 0.5
    makers = (things.table, things.chair, things.shelf, things.plant, things.pile, things.lamp, things.sculpture)
    for i, place in enumerate(_ring(rng, int(rng.integers(5, 10)), CLEAR, limit)):
        makers[int(rng.integers(len(makers)))](rng, f"Thing {i}", place)
    looks.sky(rng, outdoors=False)
    _lamps(rng, tall + 1.5)
    if rng.random() < 0.6:
        _sun(rng, float(rng.uniform(2, 6)))


def _studio(rng: np.random.Generator) -> None:
    """A plain or patterned ground that bends up into a backdrop on all sides, with a few large shapes."""
    edge = float(rng.uniform(7, 10))
    profile = [(0.0, 0.0), (0.6, 0.0), (0.75, 0.005), (0.85, 0.03), (0.93, 0.1), (0.98, 0.22), (1.0, 0.45), (1.0, 0.8)]
    around = 64
    angle = np.arange(around) * 2 * np.pi / around
    rows = [
        np.stack([r * edge * np.cos(angle), r * edge * np.sin(angle), 0 * angle + z * edge], -1) for r, z in profile[1:]
    ]
    points = np.concatenate([np.zeros((1, 3)), *rows])
    faces: list[tuple[int, ...]] = [(0, 1 + i, 1 + (i + 1) % around) for i in range(around)]
    for row in range(len(rows) - 1):
        for i in range(around):
            a, b = 1 + row * around + i, 1 + row * around + (i + 1) % around
            faces.append((a, a + around, b + around, b))
    build("Backdrop", [Part(points, faces)], [looks.surface(rng, "backdrop", float(rng.uniform(0.2, 1.0)))])
    for i, place in enumerate(_ring(rng, int(rng.integers(4, 9)), CLEAR, edge * 0.72)):
        (things.sculpture, things.pile, things.pillar)[int(rng.integers(3))](rng, f"Thing {i}", place)
    looks.sky(rng, outdoors=False)
    _lamps(rng, 5.0)


def _meadow(rng: np.random.Generator) -> None:
    """Rolling ground, hills around, trees, rocks, fences and bushes under a sky."""
    greens = bool(rng.random() < 0.7)
    tones = [looks.natural(rng, (0.2, 0.36) if greens else (0.05, 0.13)) for _ in range(4)]
    patterns = ["mottled", "cells", "dots", "marble"]
    size = float(rng.uniform(0.1, 0.5))
    land = _land(rng, looks.surface(rng, "land", size, patterns=patterns, colours=tones, smooth=False))
    makers = (things.tree, things.tree, things.rock, things.bush, things.fence, things.pile, things.sculpture)
    for i, place in enumerate(_ring(rng, int(rng.integers(9, 16)), CLEAR, 13.0)):
        known = set(bpy.context.scene.objects)
        makers[int(rng.integers(len(makers)))](rng, f"Thing {i}", place)
        # A little into the ground, which is not level under all of it.
        rise = land(np.array(place[0]), np.array(place[1])) - 0.02 * np.hypot(place[0], place[1])
        for thing in set(bpy.context.scene.objects) - known:
            thing.location.z += float(rise)
    looks.sky(rng, outdoors=True)
    _sun(rng, float(rng.uniform(1.5, 5)))


def _street(rng: np.random.Generator) -> None:
    """Paving with kerbs between house fronts, poles, bins, cars of a sort and trees."""
    build(
        "Paving",
        [box((0, 0, -0.05), (60, 60, 0.1))],
        [
            looks.surface(
                rng,
                "paving",
                float(rng.uniform(0.2, 0.8)),
                patterns=["bricks", "checks", "cells", "mottled"],
                smooth=bool(rng.random() < 0.15),
            )
        ],
    )
    for i, (x, y, _) in enumerate(_ring(rng, int(rng.integers(6, 10)), 9.0, 14.0)):
        things.house(rng, f"House {i}", x, y)
    makers = (things.pillar, things.pile, things.car, things.tree, things.lamp, things.fence, things.sculpture)
    for i, place in enumerate(_ring(rng, int(rng.integers(5, 10)), CLEAR, 7.5)):
        makers[int(rng.integers(len(makers)))](rng, f"Thing {i}", place)
    looks.sky(rng, outdoors=True)
    _sun(rng, float(rng.uniform(1.5, 5)))


def _land(rng: np.random.Generator, stuff: bpy.types.Material) -> Callable[[Vec, Vec], Vec]:
    """Ground that is flat where they act and rises to hills. Returns its height at x, y."""
    ways = rng.normal(0, 1, (7, 2)) * rng.choice([0.12, 0.35], (7, 1))
    phases, steep = rng.uniform(0, 6.28, 7), rng.uniform(1.5, 5)

    def height(x: Vec, y: Vec) -> Vec:
        far = np.clip((np.hypot(x, y) - 4.5) / 16, 0, 1)
        waves = [np.sin(x * w[0] + y * w[1] + p) / (1 + 6 * np.hypot(*w)) for w, p in zip(ways, phases, strict=True)]
        return np.asarray(far * (far * steep + 0.6 * np.sum(waves, 0) + 0.3))

    count = 90
    axis = np.linspace(-1, 1, count)
    x, y = np.meshgrid(*[np.sign(axis) * np.abs(axis) ** 1.6 * 45] * 2)
    faces = [(r * count + c, r * count + c + 1, (r + 1) * count + c + 1, (r + 1) * count + c)
             for r in range(count - 1) for c in range(count - 1)]  # fmt: skip
    build("Land", [Part(np.stack([x, y, height(x, y)], -1).reshape(-1, 3), faces)], [stuff])
    return height


# -------------------------------------------------------------------------------------------------------- lights


def _sun(rng: np.random.Generator, strength: float) -> None:
    light = bpy.data.lights.new("Sun", "SUN")
    light.energy, light.angle = strength, np.radians(rng.uniform(0.5, 4))
    light.color = materials.paint(looks.colour(rng, light=(0.95, 1.0), strong=0.35))[:3]
    rise, turn = np.radians(rng.uniform(22, 70)), rng.uniform(0, 2 * np.pi)
    _aim(light, Vector((np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise))) * 10)


def _lamps(rng: np.random.Generator, tall: float) -> None:
    for i in range(int(rng.integers(1, 4))):
        light = bpy.data.lights.new(f"Light {i}", "AREA")
        light.shape, light.size = "DISK", float(rng.uniform(0.4, 3.0))
        light.energy = float(rng.uniform(150, 500)) * (tall / 4) ** 2 / (1 + i)
        light.color = materials.paint(looks.colour(rng, light=(0.9, 1.0), strong=0.4))[:3]
        turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 3.5)
        _aim(light, Vector((reach * np.cos(turn), reach * np.sin(turn), tall * rng.uniform(0.8, 1.0))))


def _aim(light: bpy.types.Light, at: Vector) -> None:
    """A lamp at a place, towards the middle of the set; not seen itself."""
    lamp = bpy.data.objects.new(light.name, light)
    bpy.context.scene.collection.objects.link(lamp)
    lamp.location = at
    lamp.rotation_euler = (Vector((0, 0, 0.5)) - at).to_track_quat("-Z", "Y").to_euler()
    lamp.visible_camera = False
