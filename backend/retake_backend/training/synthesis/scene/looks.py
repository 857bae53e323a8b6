"""What surfaces look like: patterns, colours and finishes drawn from a seed, as node graphs without images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import bpy
import materials
import numpy as np

PATTERNS = ("marble", "cells", "checks", "stripes", "dots", "bricks", "mottled", "rings", "grain", "plaid")


def colour(rng: np.random.Generator, *, light: tuple[float, float] = (0.2, 0.95), strong: float = 0.8) -> str:
    """An sRGB colour "#rrggbb" of a value within `light` and a saturation up to `strong`."""
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(), strong * rng.uniform() ** 0.8, rng.uniform(*light))
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def natural(rng: np.random.Generator, hue: tuple[float, float]) -> str:
    """A muted colour of a hue within bounds in [0, 1], as of leaves or earth."""
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(*hue), rng.uniform(0.25, 0.7), rng.uniform(0.2, 0.75))
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def palette(rng: np.random.Generator, count: int) -> list[str]:
    """Colours that stand apart: their values are spread over the range, in random order."""
    values = rng.permutation(np.linspace(0.22, 0.95, count) + rng.uniform(-0.06, 0.05, count))
    strong = rng.uniform(0.1, 0.8)  # most things are muted
    return [colour(rng, light=(float(v), float(v)), strong=strong) for v in values]


def surface(
    rng: np.random.Generator,
    name: str,
    size: float,
    *,
    attribute: str = "",
    patterns: Sequence[str] = PATTERNS,
    colours: Sequence[str] | None = None,
    smooth: bool | None = None,
) -> bpy.types.Material:
    """A random material. size: about the edge of one cell of its pattern, m. attribute: the vector attribute that it
    sticks to, object coordinates when "". smooth: whether it mirrors; by chance when None."""
    g = materials.Graph(name)
    colours = list(colours or palette(rng, 4))
    at = g.place((1 / size,) * 3, attribute, float(rng.uniform(0, 6.28)) if not attribute else 0.0)
    mask, second = _pattern(g, at, str(rng.choice(patterns)), rng)
    shade = g.mix(mask, g.mix(second, colours[0], colours[1]), g.mix(second, colours[2], colours[3]))
    shade = g.speckle(shade, g.place(attribute=attribute), 6 / size, float(rng.uniform(0.05, 0.2)))
    shiny = rng.random() < 0.25 if smooth is None else smooth
    rough = float(rng.uniform(0.04, 0.3) if shiny else rng.uniform(0.45, 0.95))
    raised = {"height": mask, "bump": float(rng.uniform(-0.3, 0.3))} if rng.random() < 0.4 else {}
    coat = float(rng.uniform(0.1, 0.5)) if rng.random() < 0.2 else 0.0
    return g.finish(shade, colours[0], roughness=rough, coat=coat, **raised)


def _pattern(g: materials.Graph, at: Any, kind: str, rng: np.random.Generator) -> tuple[Any, Any]:
    """Two masks over coordinates whose unit is a cell: the pattern, and a coarser variation of its colours."""
    x, y, z = g.axes(at)
    second = g.step(g.noise(at, 0.35, 1.0), 0.42, 0.58)
    if kind == "marble":
        wave = g.add("TexWave", vector=at, scale=0.3, distortion=float(rng.uniform(4, 14)), detail=3.0)
        return wave.outputs[1], second
    if kind == "cells":
        cells = g.add("TexVoronoi", vector=at, scale=1.0)
        tint = g.add("TexWhiteNoise", cells.outputs["Position"]).outputs[0]
        return g.step(tint, 0.45, 0.55), g.step(g.add("TexWhiteNoise", tint).outputs[0], 0.4, 0.6)
    if kind == "checks":
        return g.add("TexChecker", vector=at, scale=1.0).outputs[1], second
    if kind == "stripes":
        way = [float(v) for v in rng.normal(0, 1, 3)]
        sum_of = g.math("MULTIPLY_ADD", x, way[0], g.math("MULTIPLY_ADD", y, way[1], g.math("MULTIPLY", z, way[2])))
        return g.step(g.math("SINE", g.math("MULTIPLY", sum_of, 4.5)), -0.1, 0.1), second
    if kind == "dots":
        spots = g.add("TexVoronoi", vector=at, scale=1.0, randomness=float(rng.choice([0.0, 0.6]))).outputs[0]
        return g.step(spots, 0.38, 0.34), second
    if kind == "bricks":
        turned = g.add("CombineXYZ", g.math("ADD", x, y), z, 0.0) if rng.random() < 0.5 else at
        bricks = g.add(
            "TexBrick", turned, scale=0.7, mortar_size=0.02, color1="#ffffff", color2="#000000", mortar="#777777"
        )
        return bricks.outputs[0], g.math("MULTIPLY", second, bricks.outputs[1])
    if kind == "rings":
        around = g.math("SQRT", g.math("MULTIPLY_ADD", x, x, g.math("MULTIPLY_ADD", y, y, g.math("MULTIPLY", z, z))))
        return g.step(g.math("SINE", g.math("MULTIPLY", around, 3.5)), -0.1, 0.1), second
    if kind == "grain":
        along = g.place((0.25, 3.0, 3.0))
        return g.step(g.noise(along, 2.5, 4.0), 0.35, 0.65), second
    if kind == "plaid":
        bars = [g.step(g.math("SINE", g.math("MULTIPLY", c, 3.0)), 0.2, 0.4) for c in (g.math("ADD", x, y), z)]
        return g.math("MULTIPLY", g.math("ADD", *bars), 0.5), second
    return g.step(g.noise(at, 1.2, 4.0), 0.4, 0.6), second


def metal(rng: np.random.Generator, name: str) -> bpy.types.Material:
    """Polished or brushed metal that mirrors the set."""
    g = materials.Graph(name)
    shade = colour(rng, light=(0.7, 0.95), strong=0.4)
    shade_of = g.speckle(shade, g.place(), 8, 0.1)
    shader = g.add("BsdfPrincipled", base_color=shade_of, metallic=1.0, roughness=float(rng.uniform(0.05, 0.35)))
    g.add("OutputMaterial", shader)
    return g.material


def sky(rng: np.random.Generator, outdoors: bool) -> None:
    """The world: a gradient from horizon to zenith, outdoors with clouds; indoors a plain dim light from all sides."""
    world = bpy.data.worlds.new("Sky")
    world.use_nodes = True
    tree = world.node_tree
    ground = tree.nodes["Background"]
    ground.inputs["Strength"].default_value = float(rng.uniform(0.5, 0.9) if outdoors else rng.uniform(0.35, 0.8))
    tint = colorsys.hsv_to_rgb(rng.uniform(0.05, 0.65), rng.uniform(0.0, 0.2), 0.9)
    ground.inputs["Color"].default_value = (*tint, 1.0)
    if outdoors:
        coordinates, axes = tree.nodes.new("ShaderNodeTexCoord"), tree.nodes.new("ShaderNodeSeparateXYZ")
        ramp, cloud = tree.nodes.new("ShaderNodeValToRGB"), tree.nodes.new("ShaderNodeTexNoise")
        mix, cover = tree.nodes.new("ShaderNodeMix"), tree.nodes.new("ShaderNodeMapRange")
        tree.links.new(coordinates.outputs["Generated"], axes.inputs[0])
        tree.links.new(axes.outputs[2], ramp.inputs[0])
        horizon = colorsys.hsv_to_rgb(rng.uniform(0.05, 0.62), rng.uniform(0.03, 0.35), rng.uniform(0.75, 1.0))
        zenith = colorsys.hsv_to_rgb(rng.uniform(0.54, 0.66), rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.8))
        ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = (*horizon, 1), (*zenith, 1)
        ramp.color_ramp.elements[1].position = 0.6
        tree.links.new(coordinates.outputs["Generated"], cloud.inputs["Vector"])
        cloud.inputs["Scale"].default_value, cloud.inputs["Detail"].default_value = float(rng.uniform(2, 6)), 4.0
        tree.links.new(cloud.outputs[0], cover.inputs["Value"])
        cover.inputs["From Min"].default_value = edge = float(rng.uniform(0.45, 0.65))
        cover.inputs["From Max"].default_value = edge + 0.15
        mix.data_type = "RGBA"
        tree.links.new(cover.outputs[0], mix.inputs[0])
        tree.links.new(ramp.outputs[0], mix.inputs[6])
        mix.inputs[7].default_value = (0.9, 0.9, 0.92, 1)
        tree.links.new(mix.outputs[2], ground.inputs["Color"])
    bpy.context.scene.world = world
