"""The ball, and its roll as a pure function of time."""

from __future__ import annotations

import bpy
import materials
from mathutils import Quaternion, Vector

RADIUS = 0.3
START = Vector((2.1, -0.95, RADIUS))
DIRECTION = Vector((-1.0, -0.075, 0.0)).normalized()
SPEED, BRAKE = 1.0, 0.05
"""Metres a second at the start, and half of what it loses each second."""
TILT = Quaternion((0.35, 0.8, 0.2), 1.15)
"""How the pattern lies at the start: askew, so that the belt tumbles."""


def build_ball() -> bpy.types.Object:
    """The patterned ball, centred at its origin."""
    bpy.ops.mesh.primitive_uv_sphere_add(segments=64, ring_count=32, radius=RADIUS)
    ball = bpy.context.object
    ball.name = "Ball"
    ball.data.materials.append(materials.beach_ball())
    ball.data.polygons.foreach_set("use_smooth", [True] * len(ball.data.polygons))
    ball.rotation_mode = "QUATERNION"
    return ball


def apply_roll(ball: bpy.types.Object, seconds: float) -> None:
    """Put the ball where it is `seconds` after the start. It turns by distance / radius, so it never slips."""
    distance = SPEED * seconds - BRAKE * seconds**2
    axis = Vector((0, 0, 1)).cross(DIRECTION)
    ball.location = START + DIRECTION * distance
    ball.rotation_quaternion = Quaternion(axis, distance / RADIUS) @ TILT
