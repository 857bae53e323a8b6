"""What stands about in a place: furniture, plants, buildings and shapes without a name, each drawn from its generator."""

from __future__ import annotations

from collections.abc import Sequence

import bpy
import materials
import numpy as np
from shapes import Part, body, box, build, ellipsoid, placement, torus

from . import looks

Place = Sequence[float]  # x, y and a turn in degrees


def on_wall(rng: np.random.Generator, name: str, wall: np.ndarray, along: float, tall: float, inside: float) -> None:
    """Pictures, doors and windows, in the wall's frame: x along it, its middle at the origin."""
    x = -along / 2 + rng.uniform(0.4, 1.2)
    while x < along / 2 - 1.0:
        kind = str(rng.choice(["picture", "picture", "door", "none"]))
        wide, high = (0.9, 2.05) if kind == "door" else (float(v) for v in rng.uniform(0.4, 1.3, 2))
        z = high / 2 if kind == "door" else float(rng.uniform(1.2, tall - high / 2 - 0.2))
        if kind != "none":
            i = f"{name} {x:.2f}"
            if kind == "picture" and rng.random() < 0.5:
                face = materials.poster(i, looks.palette(rng, 6), str(rng.choice(["hills", "mosaic", "sun"])))
            else:
                face = looks.surface(rng, i, float(rng.uniform(0.08, 0.4)))
            parts = [box((0, 0, 0), (wide, 0.05, high)), *(box((s * wide / 2, 0, 0), (0.06, 0.09, high + 0.06), material=1) for s in (-1, 1)),
                     *(box((0, 0, s * high / 2), (wide + 0.06, 0.09, 0.06), material=1) for s in (-1, 1))]  # fmt: skip
            frame = looks.surface(rng, f"{i} frame", 0.1, patterns=["grain", "mottled"])
            build(i, parts, [face, frame], matrix=wall @ placement((x + wide / 2, 0.06 * inside, z)))
        x += wide + rng.uniform(0.3, 1.6)


def _stuff(rng: np.random.Generator, name: str, size: float = 0.15, count: int = 2) -> list[bpy.types.Material]:
    return [
        looks.metal(rng, f"{name} {i}")
        if rng.random() < 0.06
        else looks.surface(rng, f"{name} {i}", size * float(rng.uniform(0.6, 1.6)))
        for i in range(count)
    ]


def table(rng: np.random.Generator, name: str, place: Place) -> None:
    x, y, z = rng.uniform([0.7, 0.5, 0.45], [1.7, 1.0, 0.85])
    parts = [box((0, 0, z), (x, y, 0.06))]
    parts += [
        box((i * (x / 2 - 0.06), j * (y / 2 - 0.06), z / 2), (0.07, 0.07, z), material=1)
        for i in (-1, 1)
        for j in (-1, 1)
    ]
    for _ in range(int(rng.integers(0, 4))):
        w, h = rng.uniform(0.06, 0.16, 2)
        parts.append(
            body(
                [
                    (*(rng.uniform(-0.35, 0.35, 2) * (x, y)), z + 0.03 + t * 2 * h, w * r, w * r)
                    for t, r in ((0, 0.6), (0.5, 1.0), (1, 0.8))
                ],
                material=1,
            )
        )
    build(name, parts, _stuff(rng, name), matrix=placement((*place[:2], 0), place[2]), bevel=0.01)


def chair(rng: np.random.Generator, name: str, place: Place) -> None:
    seat, back = rng.uniform(0.38, 0.5), rng.uniform(0.8, 1.1)
    parts = [box((0, 0, seat), (0.45, 0.45, 0.07)), box((-0.2, 0, (seat + back) / 2), (0.05, 0.45, back - seat))]
    parts += [box((i * 0.19, j * 0.19, seat / 2), (0.05, 0.05, seat), material=1) for i in (-1, 1) for j in (-1, 1)]
    build(
        name,
        parts,
        _stuff(rng, name, 0.1),
        matrix=placement((*place[:2], 0), place[2], rng.uniform(0.9, 1.4)),
        bevel=0.01,
    )


def shelf(rng: np.random.Generator, name: str, place: Place) -> None:
    wide, tall, boards = rng.uniform(0.8, 1.8), rng.uniform(1.0, 2.1), int(rng.integers(3, 6))
    parts = [box((s * wide / 2, 0, tall / 2), (0.05, 0.35, tall)) for s in (-1, 1)] + [
        box((0, 0.16, tall / 2), (wide, 0.02, tall))
    ]
    for i in range(boards):
        z = tall * i / (boards - 1)
        parts.append(box((0, 0, max(z, 0.04)), (wide, 0.35, 0.04)))
        x = -wide / 2 + 0.05
        while i < boards - 1 and x < wide / 2 - 0.12:
            thick, high = rng.uniform(0.03, 0.12), tall / (boards - 1) * rng.uniform(0.4, 0.8)
            if rng.random() < 0.75:
                parts.append(
                    box(
                        (x + thick / 2, -0.02, max(z, 0.04) + 0.02 + high / 2),
                        (thick, 0.24, high),
                        material=int(rng.integers(1, 5)),
                    )
                )
            x += thick + 0.01
    build(name, parts, _stuff(rng, name, 0.06, 5), matrix=placement((*place[:2], 0), place[2]))


def plant(rng: np.random.Generator, name: str, place: Place) -> None:
    pot, size = rng.uniform(0.15, 0.3), rng.uniform(0.5, 1.2)
    build(
        f"{name} pot",
        [body([(0, 0, 0, 0.7 * pot, 0.7 * pot), (0, 0, 1.3 * pot, pot, pot)], around=20)],
        _stuff(rng, name, 0.1, 1),
        matrix=placement((*place[:2], 0)),
    )
    leaves = []
    for i in range(int(rng.integers(12, 24))):
        along = np.linspace(0, 1, 6)[:, None]
        lift, bend, length = rng.uniform(0.5, 1.4), rng.uniform(0.3, 1.6), size * rng.uniform(0.6, 1.0)
        angle = lift - bend * along
        across = np.array([[-1.0, 0.0, 1.0]]) * 0.09 * size * np.sin(np.pi * along**0.8 * 0.98 + 0.03)
        x, z = (
            np.cumsum(np.cos(angle), 0) / 6 * length + 0 * across,
            np.cumsum(np.sin(angle), 0) / 6 * length + 0.4 * np.abs(across),
        )
        faces = [(r * 3 + c, r * 3 + c + 1, r * 3 + c + 4, r * 3 + c + 3) for r in range(5) for c in range(2)]
        leaf = Part(np.stack([x, across, z], -1).reshape(-1, 3), faces)
        leaves.append(leaf.placed(placement((0, 0, 1.2 * pot), 137.5 * i)))
    green = looks.surface(rng, f"{name} leaf", 0.06, colours=[looks.natural(rng, (0.18, 0.42)) for _ in range(4)])
    build(f"{name} leaves", leaves, [green], matrix=placement((*place[:2], 0)))


def pile(rng: np.random.Generator, name: str, place: Place) -> None:
    """Boxes on each other, or balls beside each other."""
    parts, z, edge = [], 0.0, rng.uniform(0.3, 0.8)
    for i in range(int(rng.integers(1, 5))):
        size = edge * rng.uniform(0.6, 1.0, 3)
        parts.append(
            box((0, 0, 0), tuple(size), material=i % 3).placed(
                placement((*rng.uniform(-0.06, 0.06, 2), z + size[2] / 2), rng.uniform(0, 90))
            )
        )
        z, edge = z + size[2], edge * rng.uniform(0.65, 0.95)
    build(name, parts, _stuff(rng, name, 0.12, 3), matrix=placement((*place[:2], 0), place[2]), bevel=0.015)


def lamp(rng: np.random.Generator, name: str, place: Place) -> None:
    tall = rng.uniform(1.3, 2.4)
    shade = [(0, 0, tall - 0.3, 0.28, 0.28), (0, 0, tall, 0.16, 0.16)]
    parts = [
        body(
            [
                (0, 0, 0, 0.18, 0.18),
                (0, 0, 0.04, 0.17, 0.17),
                (0, 0, 0.05, 0.03, 0.03),
                (0, 0, tall - 0.2, 0.025, 0.025),
            ]
        ),
        body(shade, material=1, around=20),
    ]
    build(name, parts, _stuff(rng, name, 0.1), matrix=placement((*place[:2], 0)))


def sculpture(rng: np.random.Generator, name: str, place: Place) -> None:
    """Rounded bodies, rings and blocks grown together."""
    parts = [body([(0, 0, 0, 0.3, 0.3), (0, 0, 0.25, 0.26, 0.26)], around=24, squareness=float(rng.uniform(2, 6)))]
    z = 0.25
    for i in range(int(rng.integers(1, 4))):
        size = float(rng.uniform(0.15, 0.4))
        if rng.random() < 0.3:
            parts.append(torus((0, 0, z + 0.3 * size), size, 0.3 * size, material=1 + i % 2))
            z += 0.5 * size
        else:
            tall = size * rng.uniform(0.7, 1.6)
            parts.append(
                ellipsoid(
                    (*rng.uniform(-0.08, 0.08, 2), z + 0.9 * tall),
                    (size, size * rng.uniform(0.6, 1.2), tall),
                    material=1 + i % 2,
                    squareness=float(rng.uniform(2, 4)),
                    around=16,
                )
            )
            z += 1.6 * tall
    build(
        name,
        parts,
        _stuff(rng, name, 0.15, 3),
        matrix=placement((*place[:2], 0), place[2], rng.uniform(0.7, 1.4)),
        subdivide=1,
    )


def pillar(rng: np.random.Generator, name: str, place: Place) -> None:
    wide, tall = rng.uniform(0.12, 0.35), rng.uniform(1.2, 4.0)
    rings = [
        (0, 0, 0, 1.3 * wide, 1.3 * wide),
        (0, 0, 0.15, 1.3 * wide, 1.3 * wide),
        (0, 0, 0.16, wide, wide),
        (0, 0, tall, 0.9 * wide, 0.9 * wide),
    ]
    build(
        name,
        [body(rings, around=24, squareness=float(rng.choice([2, 6])))],
        _stuff(rng, name, 0.2, 1),
        matrix=placement((*place[:2], 0), place[2]),
    )


def tree(rng: np.random.Generator, name: str, place: Place) -> None:
    tall, wide = rng.uniform(1.6, 4.5), rng.uniform(0.7, 1.6)
    trunk = body([(0, 0, -0.1, 0.16, 0.16), (0, 0, 0.5 * tall, 0.1, 0.1), (0.1, 0, tall, 0.05, 0.05)], around=10)
    crown = []
    conifer = rng.random() < 0.35
    for i in range(4 if conifer else 7):
        if conifer:
            z = tall * (0.3 + 0.25 * i)
            crown.append(
                body(
                    [(0, 0, z, wide * (1 - 0.2 * i), wide * (1 - 0.2 * i)), (0, 0, z + 0.45 * tall, 0.03, 0.03)],
                    material=1,
                )
            )
        else:
            at = (*rng.normal(0, 0.35 * wide, 2), tall * rng.uniform(0.8, 1.2))
            crown.append(ellipsoid(at, tuple(wide * rng.uniform(0.35, 0.6, 3)), material=1))
    leaves = looks.surface(
        rng,
        f"{name} leaf",
        float(rng.uniform(0.06, 0.2)),
        patterns=["mottled", "cells", "dots"],
        colours=[looks.natural(rng, (0.12, 0.4)) for _ in range(4)],
        smooth=False,
    )
    bark = looks.surface(
        rng,
        f"{name} bark",
        0.1,
        patterns=["grain", "mottled"],
        colours=[looks.natural(rng, (0.05, 0.12)) for _ in range(4)],
        smooth=False,
    )
    build(name, [trunk, *crown], [bark, leaves], matrix=placement((*place[:2], 0), place[2]))


def bush(rng: np.random.Generator, name: str, place: Place) -> None:
    parts = [ellipsoid((*rng.normal(0, 0.3, 2), 0.3), tuple(rng.uniform(0.25, 0.5, 3))) for _ in range(5)]
    green = looks.surface(
        rng,
        name,
        0.1,
        patterns=["mottled", "cells", "dots"],
        colours=[looks.natural(rng, (0.1, 0.42)) for _ in range(4)],
        smooth=False,
    )
    build(name, parts, [green], matrix=placement((*place[:2], 0), place[2]))


def rock(rng: np.random.Generator, name: str, place: Place) -> None:
    lump = ellipsoid((0, 0, 0.1), tuple(rng.uniform(0.3, 0.9, 3)), squareness=float(rng.uniform(2, 4)), around=14)
    lump.vertices += rng.normal(0, 0.04, lump.vertices.shape)
    build(name, [lump], _stuff(rng, name, 0.15, 1), matrix=placement((*place[:2], 0), place[2]), subdivide=1)


def fence(rng: np.random.Generator, name: str, place: Place) -> None:
    count, tall = int(rng.integers(5, 12)), rng.uniform(0.6, 1.2)
    parts = [box((0.25 * i, 0, tall / 2), (0.09, 0.03, tall)) for i in range(count)]
    parts += [box((0.125 * (count - 1), 0.03, tall * s), (0.25 * count, 0.03, 0.07), material=1) for s in (0.3, 0.75)]
    build(name, parts, _stuff(rng, name, 0.1), matrix=placement((*place[:2], 0), place[2]))


def house(rng: np.random.Generator, name: str, x: float, y: float) -> None:
    """A block with rows of windows, its front to the middle of the set."""
    wide, deep, tall = rng.uniform([3, 3, 3], [7, 5, 8])
    parts = [box((0, 0, tall / 2), (wide, deep, tall)), box((0, 0, tall), (wide + 0.3, deep + 0.3, 0.25), material=2)]
    for z in np.arange(1.4, tall - 0.5, 1.7):
        for u in np.arange(-wide / 2 + 0.8, wide / 2 - 0.4, 1.3):
            parts.append(box((u, -deep / 2, z), (0.8, 0.1, 1.0), material=1))
            parts.append(box((u, -deep / 2 - 0.04, z - 0.55), (0.95, 0.16, 0.08), material=2))
    parts.append(box((0, -deep / 2, 0.0), (0.9, 0.12, 2.0), material=2))
    front = np.degrees(np.arctan2(y, x)) - 90
    build(
        name,
        parts,
        [
            *_stuff(rng, name, 0.4, 1),
            looks.surface(rng, f"{name} glass", 0.5, smooth=True),
            *_stuff(rng, f"{name} trim", 0.2, 1),
        ],
        matrix=placement((x, y, 0), front),
    )


def car(rng: np.random.Generator, name: str, place: Place) -> None:
    length = rng.uniform(1.4, 2.2)
    parts = [box((0, 0, 0.42), (length, 0.85, 0.4)), box((-0.1, 0, 0.76), (0.55 * length, 0.75, 0.34), material=1)]
    for i in (-0.32, 0.32):
        for s in (-1, 1):
            wheel = body([(0, 0, -0.07, 0.2, 0.2), (0, 0, 0.07, 0.2, 0.2)], around=20, material=2)
            wheel.vertices = wheel.vertices[:, [0, 2, 1]] * [1, -1, 1] + [i * length, s * 0.42, 0.2]
            parts.append(wheel)
    own = [
        looks.surface(rng, name, 0.6, patterns=["mottled", "stripes"]),
        looks.surface(rng, f"{name} glass", 0.6, smooth=True),
        looks.surface(rng, f"{name} tyre", 0.08, colours=["#151515", "#2a2a2a", "#8a8a8a", "#1d1d1d"]),
    ]
    build(name, parts, own, matrix=placement((*place[:2], 0), place[2]), bevel=0.04)
