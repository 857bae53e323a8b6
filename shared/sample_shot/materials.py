"""Procedural materials of the sample shot: no image is loaded, and every surface has detail that a tracker can hold."""

from __future__ import annotations

from typing import Any

import bpy

Socket = Any  # a node's output socket, or a plain value for an input


def paint(colour: str) -> tuple[float, float, float, float]:
    """Scene-linear RGBA of an sRGB colour "#rrggbb"."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return red, green, blue, 1.0


class Graph:
    """A material's node tree, written as nested calls: `add` makes one node and returns it."""

    def __init__(self, name: str) -> None:
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.tree.nodes.clear()

    def add(self, kind: str, *values: Socket, **named: Socket) -> Any:
        """A node ShaderNode<kind>; values fill its inputs in order, names set properties or inputs (spaces as _)."""
        node = self.tree.nodes.new(f"ShaderNode{kind}")
        settings = set(node.bl_rna.properties.keys()) - set(bpy.types.Node.bl_rna.properties.keys())
        for key in named.keys() & settings:
            setattr(node, key, named[key])
        sockets = {socket.name.lower().replace(" ", "_"): socket for socket in reversed(node.inputs)}
        for key in named.keys() - settings:
            self._feed(sockets[key], named[key])
        for socket, value in zip(node.inputs, values, strict=False):
            self._feed(socket, value)
        return node

    def _feed(self, socket: Any, value: Socket) -> None:
        if value is None:
            return
        if isinstance(value, str):
            value = paint(value)
        if isinstance(value, bpy.types.Node):
            value = value.outputs[0]
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        else:
            socket.default_value = value

    def math(self, operation: str, *values: Socket) -> Socket:
        """Scalar arithmetic on up to three values."""
        return self.add("Math", *values, operation=operation).outputs[0]

    def mix(self, factor: Socket, a: Socket, b: Socket, blend: str = "MIX") -> Socket:
        """Colour a where factor is 0, b where it is 1."""
        node = self.add("Mix", data_type="RGBA", blend_type=blend)
        for index, value in ((0, factor), (6, a), (7, b)):
            self._feed(node.inputs[index], value)
        return node.outputs[2]

    def choose(self, factor: Socket, a: Socket, b: Socket) -> Socket:
        """Number a where factor is 0, b where it is 1."""
        node = self.add("Mix", data_type="FLOAT")
        for index, value in ((0, factor), (2, a), (3, b)):
            self._feed(node.inputs[index], value)
        return node.outputs[0]

    def step(self, value: Socket, low: float, high: float) -> Socket:
        """0 below low, 1 above high, smooth between."""
        return self.add("MapRange", value, low, high, 0.0, 1.0, interpolation_type="SMOOTHSTEP").outputs[0]

    def place(self, scale: tuple[float, float, float] = (1, 1, 1), attribute: str = "", turn: float = 0.0) -> Socket:
        """Object coordinates, or a vector attribute's, scaled and turned about z (radians)."""
        if attribute:
            source = self.add("Attribute", attribute_name=attribute).outputs["Vector"]
        else:
            source = self.add("TexCoord").outputs["Object"]
        return self.add("Mapping", source, (0, 0, 0), (0, 0, turn), scale).outputs[0]

    def axes(self, vector: Socket) -> tuple[Socket, Socket, Socket]:
        """x, y and z of a vector."""
        node = self.add("SeparateXYZ", vector)
        return node.outputs[0], node.outputs[1], node.outputs[2]

    def noise(self, vector: Socket, scale: float, detail: float = 3.0) -> Socket:
        """Fractal noise around 0.5."""
        return self.add("TexNoise", vector=vector, scale=scale, detail=detail).outputs[0]

    def speckle(self, colour: Socket, vector: Socket, scale: float, amount: float) -> Socket:
        """The colour with fine lighter and darker grain, as in felt, clay or paper."""
        grain = self.step(self.noise(vector, scale, 2.0), 0.35, 0.65)
        blotch = self.step(self.noise(vector, scale / 7, 0.0), 0.3, 0.7)
        shade = self.math("MULTIPLY_ADD", grain, 2 * amount, 1 - amount)
        shade = self.math("MULTIPLY", shade, self.math("MULTIPLY_ADD", blotch, amount, 1 - amount / 2))
        return self.mix(1.0, colour, self.add("CombineColor", shade, shade, shade), "MULTIPLY")

    def finish(
        self,
        colour: Socket,
        bounce: str,
        *,
        roughness: Socket = 0.6,
        height: Socket = None,
        bump: float = 0.0,
        sheen: float = 0.0,
        coat: float = 0.0,
    ) -> bpy.types.Material:
        """Close the graph with one surface shader.

        bounce: the plain colour that other surfaces receive its light in; only the camera sees the texture, which
        halves the time of a frame.
        """
        surface = self.add("BsdfPrincipled", base_color=colour, roughness=roughness)
        surface.inputs["Sheen Weight"].default_value = sheen
        surface.inputs["Coat Weight"].default_value = coat
        if height is not None:
            normal = self.add("Bump", strength=bump, distance=0.02, height=height)
            self.tree.links.new(normal.outputs[0], surface.inputs["Normal"])
        plain = self.add("BsdfDiffuse", bounce)
        seen = self.add("LightPath").outputs["Is Camera Ray"]
        self.add("OutputMaterial", self.add("MixShader", seen, plain, surface))
        return self.material


def planks() -> bpy.types.Material:
    """Honey-coloured floor boards along x."""
    g = Graph("planks")
    at = g.place()
    board = g.add(
        "TexBrick", at, "#d7a36c", "#a96f42", "#5d3a22", 1.0, 0.008, 0.2, 0.0, 1.9, 0.3, offset=0.37, offset_frequency=2
    )
    grain = g.noise(g.place((1.2, 14, 1)), 2.2, 6.0)
    rings = g.add("TexWave", vector=g.place((0.35, 3.5, 1)), scale=1.4, distortion=7.0, detail=3.0).outputs[1]
    colour = g.mix(g.step(grain, 0.35, 0.75), board, "#7d4c2b")
    colour = g.mix(g.math("MULTIPLY", rings, 0.22), colour, "#f0c58d")
    colour = g.mix(0.55, board, colour)
    colour = g.speckle(colour, at, 26, 0.10)
    rough = g.math("MULTIPLY_ADD", grain, 0.25, 0.34)
    return g.finish(colour, "#ad7548", roughness=rough, height=g.math("SUBTRACT", 1.0, board.outputs[1]), bump=0.4)


def wallpaper() -> bpy.types.Material:
    """Sage paper with cream suns on a diamond lattice, in x and z."""
    g = Graph("wallpaper")
    x, _, z = g.axes(g.place())
    u = g.math("MULTIPLY", g.math("ADD", x, z), 1.25)
    v = g.math("MULTIPLY", g.math("SUBTRACT", x, z), 1.25)
    du = g.math("SUBTRACT", g.math("FRACT", g.math("ADD", u, 40.0)), 0.5)
    dv = g.math("SUBTRACT", g.math("FRACT", g.math("ADD", v, 40.0)), 0.5)
    radius = g.math("SQRT", g.math("ADD", g.math("MULTIPLY", du, du), g.math("MULTIPLY", dv, dv)))
    petals = g.math("COSINE", g.math("MULTIPLY", g.math("ARCTAN2", dv, du), 8.0))
    edge = g.math("MULTIPLY_ADD", petals, 0.045, 0.235)
    flower = g.step(g.math("SUBTRACT", edge, radius), 0.0, 0.012)
    heart = g.step(g.math("SUBTRACT", 0.085, radius), 0.0, 0.012)
    line = g.math("MAXIMUM", g.math("ABSOLUTE", du), g.math("ABSOLUTE", dv))
    colour = g.mix(g.step(line, 0.478, 0.486), "#6f9a92", "#93b8ac")
    cell = g.add("CombineXYZ", g.math("FLOOR", u), g.math("FLOOR", v), 0.0)
    tint = g.add("TexWhiteNoise", cell).outputs[0]
    petal = g.mix(g.step(tint, 0.45, 0.55), "#f2e2c0", "#e9c27a")
    colour = g.mix(flower, colour, petal)
    colour = g.mix(heart, colour, "#cf6648")
    return g.finish(g.speckle(colour, g.place(), 18, 0.10), "#7d9f95", roughness=0.85)


def panelling() -> bpy.types.Material:
    """Cream vertical boards of the lower wall."""
    g = Graph("panelling")
    x, _, _ = g.axes(g.place())
    across = g.math("FRACT", g.math("MULTIPLY", g.math("ADD", x, 40.0), 3.2))
    gap = g.step(g.math("ABSOLUTE", g.math("SUBTRACT", across, 0.5)), 0.45, 0.48)
    board = g.add(
        "TexWhiteNoise", noise_dimensions="1D", w=g.math("FLOOR", g.math("MULTIPLY", g.math("ADD", x, 40.0), 3.2))
    )
    colour = g.mix(board.outputs[0], "#efe0c4", "#dcc7a2")
    colour = g.mix(g.step(g.noise(g.place((9, 1, 1)), 2.5, 5), 0.5, 0.72), colour, "#c3a67d")
    colour = g.mix(gap, colour, "#8d7352")
    return g.finish(g.speckle(colour, g.place(), 20, 0.10), "#dcc9a6", roughness=0.6, height=gap, bump=-0.5)


def wood(name: str, light: str, dark: str) -> bpy.types.Material:
    """Grained wood along x, with rings and pores."""
    g = Graph(name)
    at = g.place((1, 5, 5))
    rings = g.add("TexWave", vector=at, scale=1.1, distortion=6.0, detail=4.0, bands_direction="Z").outputs[1]
    colour = g.mix(g.math("MULTIPLY", rings, 0.65), light, dark)
    colour = g.mix(g.step(g.noise(at, 9, 5), 0.55, 0.75), colour, dark)
    return g.finish(g.speckle(colour, g.place(), 22, 0.12), light, roughness=0.5)


def toy_block(name: str, ground: str, figure: str, pattern: str) -> bpy.types.Material:
    """Painted wood with a framed pattern on each face of a unit cube: "dots", "stripes", "checks", "ring" or "star"."""
    g = Graph(name)
    at = g.place()
    x, y, z = g.axes(at)
    nx, _, nz = (g.math("ABSOLUTE", n) for n in g.axes(g.add("TexCoord").outputs["Normal"]))
    u = g.choose(g.math("GREATER_THAN", nx, 0.7), x, y)
    w = g.choose(g.math("GREATER_THAN", nz, 0.7), z, y)
    radius = g.math("SQRT", g.math("ADD", g.math("MULTIPLY", u, u), g.math("MULTIPLY", w, w)))
    if pattern == "dots":
        du, dw = (g.math("SUBTRACT", g.math("FRACT", g.math("MULTIPLY_ADD", c, 5.0, 10.5)), 0.5) for c in (u, w))
        spot = g.math("SQRT", g.math("ADD", g.math("MULTIPLY", du, du), g.math("MULTIPLY", dw, dw)))
        mask = g.step(spot, 0.32, 0.28)
    elif pattern == "stripes":
        mask = g.step(g.math("SINE", g.math("MULTIPLY", g.math("ADD", u, w), 22.0)), -0.1, 0.1)
    elif pattern == "checks":
        waves = [g.math("SINE", g.math("MULTIPLY", c, 19.0)) for c in (u, w)]
        mask = g.step(g.math("MULTIPLY", *waves), -0.05, 0.05)
    elif pattern == "ring":
        mask = g.step(g.math("COSINE", g.math("MULTIPLY", radius, 40.0)), -0.1, 0.1)
    else:
        arms = g.math("COSINE", g.math("MULTIPLY", g.math("ARCTAN2", w, u), 5.0))
        mask = g.step(g.math("SUBTRACT", g.math("MULTIPLY_ADD", arms, 0.09, 0.24), radius), -0.006, 0.006)
    inside = g.math("MAXIMUM", g.math("ABSOLUTE", u), g.math("ABSOLUTE", w))
    field = g.step(inside, 0.385, 0.375)
    colour = g.mix(mask, ground, figure)
    frame = g.mix(g.step(g.noise(g.place((1, 4, 4)), 5, 5), 0.35, 0.7), "#e3bd86", "#b98a55")
    colour = g.mix(field, frame, colour)
    return g.finish(g.speckle(colour, at, 12, 0.13), ground, roughness=0.5, coat=0.1)


def cloth(
    name: str, colours: list[str], *, bands: float = 0.0, weave: float = 90.0, attribute: str = ""
) -> bpy.types.Material:
    """Knitted or woven stuff: horizontal bands of the colours (`bands` per metre), stitches and fuzz."""
    g = Graph(name)
    at = g.place(attribute=attribute)
    x, y, z = g.axes(at)
    if bands:
        turn = g.math("ARCTAN2", y, x)
        zigzag = g.math("PINGPONG", g.math("MULTIPLY", turn, 2.2), 0.35)
        level = g.math("FRACT", g.math("DIVIDE", g.math("ADD", g.math("MULTIPLY", z, bands), zigzag), len(colours)))
        ramp = g.add("ValToRGB", level)
        ramp.color_ramp.interpolation = "CONSTANT"
        stops = ramp.color_ramp.elements
        stops[0].position, stops[0].color = 0.0, paint(colours[0])
        stops[1].position, stops[1].color = 1 / len(colours), paint(colours[1])
        for i, colour in enumerate(colours[2:], 2):
            stops.new(i / len(colours)).color = paint(colour)
        colour = ramp.outputs[0]
    else:
        patch = g.add("TexVoronoi", vector=at, scale=17.0, randomness=0.6).outputs[0]
        colour = g.mix(g.step(patch, 0.42, 0.38), colours[0], colours[1])
    stitch = g.math("MULTIPLY", g.math("SINE", g.math("MULTIPLY", z, weave)), 0.5)
    stitch = g.math("ADD", stitch, g.noise(at, weave * 0.7, 2))
    colour = g.speckle(colour, at, 30, 0.16)
    return g.finish(colour, colours[0], roughness=0.9, height=stitch, bump=0.35, sheen=0.25)


def clay(
    name: str, colour: str, *, attribute: str = "", spots: str = "", roughness: float = 0.55
) -> bpy.types.Material:
    """Matt modelling clay with finger-soft blotches; `spots`: a second colour in small flecks."""
    g = Graph(name)
    at = g.place(attribute=attribute)
    shade: Socket = colour
    if spots:
        fleck = g.add("TexVoronoi", vector=at, scale=22.0).outputs[0]
        shade = g.mix(g.step(fleck, 0.24, 0.18), shade, spots)
    return g.finish(
        g.speckle(shade, at, 24, 0.09), colour, roughness=roughness, height=g.noise(at, 14, 3), bump=0.12, coat=0.08
    )


def skin() -> bpy.types.Material:
    """The walker's face: warm clay, with a blush on both cheeks (at rest, the face looks along +x)."""
    g = Graph("skin")
    at = g.place(attribute="rest")
    x, y, z = g.axes(at)
    dy = g.math("SUBTRACT", g.math("ABSOLUTE", y), 0.135)
    dz = g.math("SUBTRACT", z, 1.135)
    near = g.math("SQRT", g.math("ADD", g.math("MULTIPLY", dy, dy), g.math("MULTIPLY", dz, dz)))
    blush = g.math("MULTIPLY", g.step(near, 0.075, 0.02), g.math("GREATER_THAN", x, 0.08))
    colour = g.mix(g.math("MULTIPLY", blush, 0.65), "#f0c3a0", "#e57f63")
    freckle = g.add("TexVoronoi", vector=at, scale=38.0).outputs[0]
    colour = g.mix(g.math("MULTIPLY", g.step(freckle, 0.2, 0.12), 0.35), colour, "#c07c55")
    return g.finish(g.speckle(colour, at, 26, 0.06), "#efbf9c", roughness=0.5, coat=0.05)


def beach_ball() -> bpy.types.Material:
    """Six coloured wedges, a dotted belt and caps."""
    g = Graph("ball")
    at = g.place()
    x, y, z = g.axes(at)
    turn = g.math("FRACT", g.math("MULTIPLY_ADD", g.math("ARCTAN2", y, x), 0.15915494, 1.0))
    wedge = g.add("ValToRGB", turn)
    wedge.color_ramp.interpolation = "CONSTANT"
    colours = ["#e2583e", "#f4e6cb", "#e9b036", "#f4e6cb", "#2f7f86", "#f4e6cb"]
    stops = wedge.color_ramp.elements
    stops[0].color = paint(colours[0])
    stops[1].position, stops[1].color = 1 / 6, paint(colours[1])
    for i in range(2, 6):
        stops.new(i / 6).color = paint(colours[i])
    height = g.math("ABSOLUTE", z)
    du = g.math("SUBTRACT", g.math("FRACT", g.math("MULTIPLY", turn, 18.0)), 0.5)
    dz = g.math("MULTIPLY", z, 8.6)
    spot = g.math("SQRT", g.math("ADD", g.math("MULTIPLY", du, du), g.math("MULTIPLY", dz, dz)))
    belt = g.mix(g.step(spot, 0.34, 0.29), "#2b3f63", "#f4e6cb")
    colour = g.mix(g.step(height, 0.078, 0.074), wedge.outputs[0], belt)
    colour = g.mix(g.step(height, 0.272, 0.276), colour, "#2b3f63")
    return g.finish(g.speckle(colour, at, 34, 0.09), "#d9b38c", roughness=0.32, coat=0.25)


def rug() -> bpy.types.Material:
    """A round woven rug: rings of colour with a zigzag rim."""
    g = Graph("rug")
    at = g.place()
    x, y, _ = g.axes(at)
    radius = g.math("SQRT", g.math("ADD", g.math("MULTIPLY", x, x), g.math("MULTIPLY", y, y)))
    wave = g.math("PINGPONG", g.math("MULTIPLY", g.math("ARCTAN2", y, x), 5.0), 0.5)
    ring = g.add("ValToRGB", g.math("ADD", g.math("DIVIDE", radius, 2.0), g.math("MULTIPLY", wave, 0.05)))
    ring.color_ramp.interpolation = "CONSTANT"
    plan = [(0.0, "#e9b65a"), (0.13, "#f1e3c8"), (0.24, "#cf5f45"), (0.36, "#f1e3c8"), (0.42, "#33547a"),
            (0.58, "#7fb0a3"), (0.66, "#f1e3c8"), (0.74, "#cf5f45"), (0.87, "#33547a"), (0.95, "#f1e3c8")]  # fmt: skip
    stops = ring.color_ramp.elements
    for i, (position, colour) in enumerate(plan):
        stop = stops[i] if i < 2 else stops.new(position)
        stop.position, stop.color = position, paint(colour)
    thread = g.math("SINE", g.math("MULTIPLY", radius, 160.0))
    return g.finish(
        g.speckle(ring.outputs[0], at, 24, 0.2), "#b9937a", roughness=0.95, height=thread, bump=0.4, sheen=0.2
    )


def poster(name: str, colours: list[str], kind: str) -> bpy.types.Material:
    """A print in x and z, about 1 m high, origin at its centre: "hills", "mosaic" or "sun"."""
    g = Graph(name)
    at = g.place()
    x, _, z = g.axes(at)
    if kind == "mosaic":
        cells = g.add("TexVoronoi", vector=at, scale=6.0)
        pick = g.add("TexWhiteNoise", cells.outputs["Position"]).outputs[0]
        ramp = g.add("ValToRGB", pick)
        ramp.color_ramp.interpolation = "CONSTANT"
        stops = ramp.color_ramp.elements
        for i, colour in enumerate(colours):
            stop = stops[i] if i < 2 else stops.new(i / len(colours))
            stop.position, stop.color = i / len(colours), paint(colour)
        edge = g.add("TexVoronoi", vector=at, scale=6.0, feature="DISTANCE_TO_EDGE").outputs[0]
        colour = g.mix(g.step(edge, 0.05, 0.03), ramp.outputs[0], "#f5ead2")
    else:
        dz = g.math("SUBTRACT", z, 0.12)
        radius = g.math("SQRT", g.math("ADD", g.math("MULTIPLY", x, x), g.math("MULTIPLY", dz, dz)))
        rays = g.math("COSINE", g.math("MULTIPLY", g.math("ARCTAN2", dz, x), 16.0))
        colour = g.mix(g.step(rays, -0.1, 0.1), colours[0], colours[1])
        colour = g.mix(g.step(radius, 0.215, 0.205), colour, colours[2])
        for i, shade in enumerate(colours[3:]):
            hill = g.math("SINE", g.math("MULTIPLY_ADD", x, 6.0 + 3 * i, 1.3 * i))
            level = g.math("MULTIPLY_ADD", hill, 0.06, -0.12 - 0.13 * i)
            colour = g.mix(g.step(g.math("SUBTRACT", level, z), 0.0, 0.006), colour, shade)
    return g.finish(g.speckle(colour, at, 22, 0.10), colours[0], roughness=0.7)


def leaf(name: str, green: str, vein: str) -> bpy.types.Material:
    """Leaves whose "rest" attribute is leaf-local: x along the leaf from 0 to 1, y across."""
    g = Graph(name)
    x, y, _ = g.axes(g.place(attribute="rest"))
    across = g.math("ABSOLUTE", y)
    ribs = g.math("SINE", g.math("MULTIPLY", g.math("SUBTRACT", x, across), 42.0))
    colour = g.mix(g.step(ribs, 0.55, 0.95), green, vein)
    colour = g.mix(g.step(across, 0.05, 0.02), colour, vein)
    at = g.place()
    return g.finish(g.speckle(colour, at, 16, 0.14), green, roughness=0.4, coat=0.1)
