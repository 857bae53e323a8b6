"""The set: floor, papered wall, toys, plants and light. World: metres, z up, the camera looks along +y."""

from __future__ import annotations

from collections.abc import Sequence

import bpy
import materials
import numpy as np
from mathutils import Vector
from shapes import Part, body, box, build, ellipsoid, placement, torus

WALL = 3.0
"""y of the back wall."""


def build_set() -> None:
    """Everything that stands still, and the lights."""
    _room()
    _wall_things()
    _blocks()
    _plants()
    _small_toys()
    _lights()


def _room() -> None:
    build("Floor", [box((0, -2, -0.05), (24, 2 * WALL + 8, 0.1))], [materials.planks()])
    build("Wall", [box((0, WALL + 0.05, 4.2), (24, 0.1, 6.6))], [materials.wallpaper()])
    build("Panelling", [box((0, WALL + 0.02, 0.5), (24, 0.1, 1.0))], [materials.panelling()])
    trim = materials.wood("trim", "#f2e4c9", "#d6bd92")
    rails = [box((0, WALL - 0.05, 1.0), (24, 0.14, 0.09)), box((0, WALL - 0.06, 0.09), (24, 0.12, 0.18))]
    build("Rails", rails, [trim], bevel=0.02)
    disc = body([(0, 0, 0.0, 1.92, 1.92), (0, 0, 0.003, 1.9, 1.9)], around=96)
    build("Rug", [disc], [materials.rug()], matrix=placement((0.1, 0.2, 0)))


def _wall_things() -> None:
    frame = materials.wood("frame", "#9a6237", "#5f3719")
    prints = [
        (-2.75, 2.05, 0.95, 1.2, "hills", ["#f7dfa8", "#f3cd83", "#e2603f", "#7aa59b", "#33547a", "#24384f"]),
        (-1.35, 2.3, 0.72, 0.72, "mosaic", ["#e2603f", "#e9b036", "#2f7f86", "#f1d9b0", "#33547a"]),
        (2.75, 2.15, 1.15, 0.95, "sun", ["#f3c9a5", "#eba98a", "#f6e7c4", "#c8573d", "#7c3b4a", "#3c2f4f"]),
        (4.6, 2.2, 0.9, 1.1, "mosaic", ["#7aa59b", "#e9c27a", "#cf6648", "#f6ead2", "#3c5f7d"]),
        (-4.6, 2.1, 0.9, 1.1, "sun", ["#b9d3c6", "#8fb6ad", "#f0b64c", "#e2603f", "#33547a"]),
    ]
    for i, (x, z, width, height, kind, colours) in enumerate(prints):
        at = placement((x, WALL - 0.03, z))
        build(
            f"Print {i}",
            [box((0, 0, 0), (width, 0.03, height))],
            [materials.poster(f"print {i}", colours, kind)],
            matrix=at,
        )
        sides = [box((s * width / 2, -0.01, 0), (0.07, 0.07, height + 0.07)) for s in (-1, 1)]
        sides += [box((0, -0.01, s * height / 2), (width + 0.07, 0.07, 0.07)) for s in (-1, 1)]
        build(f"Frame {i}", sides, [frame], matrix=at, bevel=0.012)
    _shelf()


def _shelf() -> None:
    """A low bookcase with books and a globe, in the middle of the wall."""
    x0, width, depth, height = 0.75, 1.9, 0.42, 1.42
    y = WALL - 0.08 - depth / 2
    oak = materials.wood("oak", "#c98f55", "#8a5428")
    boards = [box((x0, y, z), (width, depth, 0.06)) for z in (0.12, 0.74, height)]
    boards += [box((x0 + s * width / 2, y, height / 2), (0.06, depth, height + 0.05)) for s in (-1, 0, 1)]
    build("Bookcase", boards, [oak], bevel=0.012)
    build(
        "Bookcase back",
        [box((x0, WALL - 0.09, height / 2), (width, 0.03, height))],
        [materials.wood("back", "#9c6b40", "#6e4522")],
    )
    covers = [
        materials.clay(f"book {c}", c, spots=s)
        for c, s in (
            ("#cf5f45", "#f1d9b0"),
            ("#e9b036", "#8f5a1c"),
            ("#2f7f86", "#bfe0d4"),
            ("#33547a", "#e9c27a"),
            ("#efe0c4", "#cf5f45"),
            ("#7d4a5b", "#e7b7a5"),
        )
    ]
    rng = np.random.default_rng(4)
    books: list[Part] = []
    for shelf, bay in ((0, -1), (0, 1), (1, -1), (1, 1)):
        x, end = x0 + bay * width / 4 - width / 4 + 0.06, x0 + bay * width / 4 + width / 4 - 0.08
        while x < end - 0.12:
            thick, tall = rng.uniform(0.06, 0.12), rng.uniform(0.36, 0.52)
            if rng.random() < 0.88:
                z = (0.15, 0.77)[shelf] + tall / 2
                books.append(box((x + thick / 2, y - 0.03, z), (thick, 0.3, tall), material=int(rng.integers(6))))
            x += thick + 0.008
    build("Books", books, covers, bevel=0.008)
    globe = [ellipsoid((0, 0, 0.34), (0.2, 0.2, 0.2), around=16)]
    map_of_it = materials.poster("globe", ["#5f9aa3", "#e9dcae", "#6d9b62", "#5f9aa3", "#4c8994"], "mosaic")
    build("Globe", globe, [map_of_it], matrix=placement((x0 + 0.55, y, height + 0.02)), subdivide=2)
    stand = [
        body([(0, 0, 0, 0.13, 0.13), (0, 0, 0.04, 0.12, 0.12), (0, 0, 0.07, 0.03, 0.03), (0, 0, 0.16, 0.03, 0.03)])
    ]
    build("Globe stand", stand, [oak], matrix=placement((x0 + 0.55, y, height + 0.03)), subdivide=1)


def _blocks() -> None:
    """Painted blocks: the pile in front hides the walker for a while, the tower stands behind him."""
    kinds = {
        "coral": materials.toy_block("block coral", "#e2603f", "#f6e7c8", "star"),
        "teal": materials.toy_block("block teal", "#2f8088", "#f1d9a0", "ring"),
        "navy": materials.toy_block("block navy", "#33507a", "#eec25e", "checks"),
        "gold": materials.toy_block("block gold", "#ecb53f", "#cf5339", "dots"),
        "cream": materials.toy_block("block cream", "#f3e4c5", "#2f7f86", "stripes"),
    }
    pile = [
        # colour, x, y, z of the centre, edge, turn in degrees
        ("teal", 0.80, -2.1, 0.26, 0.52, 14),
        ("gold", 0.84, -2.08, 0.68, 0.32, -18),
        ("coral", 1.27, -2.3, 0.18, 0.36, 38),
        ("navy", -2.35, 1.55, 0.35, 0.7, 20),
        ("cream", -1.62, 1.85, 0.33, 0.66, -12),
        ("coral", -2.02, 1.68, 0.96, 0.56, 8),
        ("gold", -1.98, 1.70, 1.44, 0.4, 33),
        ("navy", 2.75, 0.95, 0.3, 0.6, -25),
        ("cream", 2.72, 0.98, 0.82, 0.44, 12),
        ("teal", -2.75, -0.55, 0.2, 0.4, -30),
        ("coral", -4.2, 1.2, 0.4, 0.8, 12),
        ("teal", 4.6, 1.6, 0.45, 0.9, -14),
        ("gold", 4.5, 1.55, 1.2, 0.6, 20),
    ]
    for i, (colour, x, y, z, edge, turn) in enumerate(pile):
        build(
            f"Block {i}",
            [box((0, 0, 0), (1, 1, 1))],
            [kinds[colour]],
            matrix=placement((x, y, z), turn, edge),
            bevel=0.05,
        )


def _plant(
    name: str, at: Sequence[float], scale: float, pot: bpy.types.Material, green: bpy.types.Material, seed: int
) -> None:
    """A pot with a rosette of arching leaves."""
    vessel = body(
        [(0, 0, 0, 0.2, 0.2), (0, 0, 0.03, 0.22, 0.22), (0, 0, 0.36, 0.29, 0.29), (0, 0, 0.38, 0.33, 0.33),
         (0, 0, 0.47, 0.33, 0.33), (0, 0, 0.48, 0.29, 0.29), (0, 0, 0.42, 0.27, 0.27)], around=20
    )  # fmt: skip
    build(f"{name} pot", [vessel], [pot], matrix=placement(at, 0, scale), subdivide=1)
    rng = np.random.default_rng(seed)
    leaves = []
    for i in range(26):
        leaf = _leaf(lift=rng.uniform(0.5, 1.35), length=rng.uniform(0.55, 0.85), bend=rng.uniform(0.7, 1.5))
        leaves.append(leaf.placed(placement((0, 0, 0.4), 360 * i / 26 * 5 + rng.uniform(-15, 15))))
    build(f"{name} leaves", leaves, [green], matrix=placement(at, 0, scale), subdivide=1)


def _leaf(lift: float, length: float, bend: float) -> Part:
    """A folded leaf along x that rises at `lift` radians and bends down by `bend` to its tip. At rest it is flat."""
    along, across = np.meshgrid(np.linspace(0, 1, 9), np.linspace(-1, 1, 5), indexing="ij")
    half_width = 0.17 * np.sin(np.pi * along**0.8) ** 0.8 + 0.008
    rest = np.stack([along, across * half_width, 0 * along], -1)
    angle = lift - bend * along
    fold = 0.35 * np.abs(rest[..., 1])
    x = np.cumsum(np.cos(angle), 0) / 9 * length - fold * np.sin(angle)
    z = np.cumsum(np.sin(angle), 0) / 9 * length + fold * np.cos(angle)
    bent = np.stack([x, rest[..., 1] * length * 1.4, z], -1)
    faces = [(r * 5 + c, r * 5 + c + 1, r * 5 + c + 6, r * 5 + c + 5) for r in range(8) for c in range(4)]
    return Part(bent.reshape(-1, 3), faces, rest=rest.reshape(-1, 3))


def _plants() -> None:
    fern = materials.leaf("leaf green", "#5f9a4e", "#a9cc74")
    sage = materials.leaf("leaf teal", "#3f8468", "#8fc4a0")
    terracotta = materials.clay("terracotta", "#c9714c", spots="#e0956d", roughness=0.7)
    glazed = materials.clay("glazed pot", "#f0e2c6", spots="#3d6f8f", roughness=0.3)
    _plant("Fern", (-2.05, -2.2, 0), 0.8, glazed, fern, 1)
    _plant("Palm", (2.15, 2.35, 0), 1.45, terracotta, sage, 2)
    _plant("Shelf plant", (0.25, WALL - 0.3, 1.45), 0.6, terracotta, fern, 3)
    _plant("Corner plant", (-3.55, 2.2, 0), 1.6, glazed, sage, 5)
    _plant("Side plant", (5.6, 0.9, 0), 1.5, terracotta, fern, 6)


def _small_toys() -> None:
    """A ring tower and scattered beads."""
    colours = ["#cf5f45", "#e9b036", "#7fb0a3", "#33547a", "#e2844f"]
    stuff = [materials.clay(f"bead {c}", c, spots="#f6ead2", roughness=0.35) for c in colours]
    rings = [torus((0, 0, 0.1 + 0.17 * i), 0.3 - 0.045 * i, 0.1, material=i, squash=0.85) for i in range(5)]
    rings.append(ellipsoid((0, 0, 0.98), (0.12, 0.12, 0.12), material=0))
    build("Ring tower", rings, stuff, matrix=placement((-0.75, 2.2, 0), 0, 0.95), subdivide=1)
    beads = [(-0.35, -2.35, 0.1, 0), (-0.1, -2.5, 0.075, 2), (2.65, -1.55, 0.1, 1), (-2.15, 0.2, 0.09, 3),
             (0.25, 1.95, 0.1, 4), (1.75, 1.5, 0.11, 0), (2.0, 1.42, 0.08, 2), (-3.1, 0.3, 0.13, 1),
             (3.4, -0.3, 0.13, 3)]  # fmt: skip
    parts = [ellipsoid((x, y, r + 0.02), (r, r, r), material=m) for x, y, r, m in beads]
    build("Beads", parts, stuff, subdivide=1)


def _area(name: str, at: Sequence[float], towards: Sequence[float], size: float, watts: float, colour: str) -> None:
    light = bpy.data.lights.new(name, "AREA")
    light.shape, light.size, light.energy, light.color = "DISK", size, watts, materials.paint(colour)[:3]
    lamp = bpy.data.objects.new(name, light)
    bpy.context.scene.collection.objects.link(lamp)
    lamp.location = at
    lamp.rotation_euler = (Vector(towards) - Vector(at)).to_track_quat("-Z", "Y").to_euler()
    lamp.visible_camera = False


def _lights() -> None:
    """Afternoon sun through a window out of the picture, a soft key, a warm rim, and a pale sky."""
    sun = bpy.data.lights.new("Sun", "SUN")
    sun.energy, sun.angle, sun.color = 9.0, np.radians(0.9), materials.paint("#ffdcae")[:3]
    lamp = bpy.data.objects.new("Sun", sun)
    bpy.context.scene.collection.objects.link(lamp)
    direction = Vector((0.72, 0.62, -0.62))
    lamp.rotation_euler = direction.to_track_quat("-Z", "Y").to_euler()

    pane, bar, across, up = 1.35, 0.16, 3, 2
    width, height = across * (pane + bar) + bar, up * (pane + bar) + bar
    bars = [box((-width / 2 + bar / 2 + i * (pane + bar), 0, 0), (bar, 0.04, height)) for i in range(across + 1)]
    bars += [box((0, 0, -height / 2 + bar / 2 + i * (pane + bar)), (width, 0.04, bar)) for i in range(up + 1)]
    bars += [box((s * (width / 2 + 6), 0, 0), (12, 0.04, 30)) for s in (-1, 1)]
    bars += [box((0, 0, s * (height / 2 + 6)), (width, 0.04, 12)) for s in (-1, 1)]
    window = build("Window", bars, [materials.clay("window", "#888888")])
    centre = Vector((0.1, 0.6, 0.4)) - direction.normalized() * 7.5
    window.matrix_world = direction.to_track_quat("Y", "Z").to_matrix().to_4x4()
    window.location = centre
    window.visible_camera = window.visible_diffuse = window.visible_glossy = False

    _area("Key", (-3.2, -4.5, 4.6), (0, 0.3, 0.6), 3.0, 250, "#fff0dc")
    _area("Fill", (4.8, -3.6, 3.2), (0, 0.3, 0.8), 3.0, 90, "#cfe3f2")
    _area("Rim", (2.6, 2.3, 4.4), (-0.2, 0, 0.8), 1.6, 120, "#ffd9a6")
    world = bpy.data.worlds.new("Sky")
    world.use_nodes = True
    sky = world.node_tree.nodes["Background"]
    sky.inputs["Color"].default_value, sky.inputs["Strength"].default_value = materials.paint("#dfe8f2"), 0.42
    bpy.context.scene.world = world
