"""The walker: a clay figure on an armature, and its walk as a pure function of time.

At rest he stands at the origin and looks along +x, y to his left, z up. The walk is computed in world coordinates: a
foot that is down stays exactly where it was set, the legs follow by two-bone inverse kinematics.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import bpy
import materials
import numpy as np
import rigs
from mathutils import Matrix
from numpy.typing import NDArray
from shapes import Part, body, build, ellipsoid, torus

Vec = NDArray[np.float64]

HIP, KNEE, ANKLE = (np.array([0.0, 0.105, z]) for z in (0.56, 0.325, 0.09))
SHOULDER, ELBOW, WRIST = np.array([0.0, 0.215, 0.91]), np.array([0.0, 0.30, 0.715]), np.array([0.02, 0.35, 0.53])
SIDES = {"L": 1.0, "R": -1.0}

STRIDE = 0.72
"""Metres in one cycle of two steps."""
PERIOD = 1.0
"""Seconds of one cycle."""
STANCE = 0.58
"""Share of the cycle that a foot is down."""
HEEL, TOE = np.array([-0.105, 0.0, -0.09]), np.array([0.175, 0.0, -0.09])
"""Where the boot rolls, from the ankle."""


# Profiles of the body as rings, from the ground up: x, y, z, half-widths ahead and aside.
SEAT = [(0, 0, 0.46, 0.10, 0.13), (0, 0, 0.50, 0.165, 0.205), (0, 0, 0.60, 0.185, 0.225), (0, 0, 0.70, 0.185, 0.225)]
JUMPER = [(0, 0, 0.585, 0.17, 0.21), (0, 0, 0.60, 0.205, 0.245), (0, 0, 0.66, 0.21, 0.25), (0, 0, 0.78, 0.195, 0.24),
          (0, 0, 0.89, 0.165, 0.215), (0, 0, 0.96, 0.11, 0.13), (0, 0, 1.0, 0.08, 0.09)]  # fmt: skip
CAP = [(-0.012, 0, 1.235, 0.24, 0.262), (-0.014, 0, 1.30, 0.252, 0.27), (-0.018, 0, 1.38, 0.222, 0.238),
       (-0.025, 0, 1.45, 0.14, 0.15), (-0.03, 0, 1.475, 0.05, 0.05)]  # fmt: skip
# Round limbs: height and radius of the leg; share of the way down and radius of upper arm and forearm.
LEG = [(0.57, 0.10), (0.52, 0.112), (0.45, 0.11), (0.385, 0.105), (0.325, 0.1), (0.265, 0.097), (0.2, 0.1),
       (0.135, 0.108), (0.12, 0.09)]  # fmt: skip
SLEEVE = [(-0.18, 0.035), (0, 0.085), (0.35, 0.092), (0.75, 0.085)]
CUFF = [(0.05, 0.082), (0.35, 0.08), (0.75, 0.082), (0.95, 0.088), (1.0, 0.06)]


def mirrored(point: Vec, side: str) -> Vec:
    """A point of the left side, or its mirror image."""
    return point * (1, SIDES[side], 1)


def bones() -> dict[str, tuple[str, Vec, Vec]]:
    """Every bone: parent, head, tail, at rest."""
    up = np.array([0, 0, 1.0])
    table = {
        "hips": ("", 0.56 * up, 0.70 * up),
        "chest": ("hips", 0.70 * up, 0.96 * up),
        "head": ("chest", 0.98 * up, 1.45 * up),
        "pompom": ("head", 1.45 * up, 1.60 * up),
    }
    for side in SIDES:
        hip, knee, ankle, shoulder, elbow, wrist = (
            mirrored(p, side) for p in (HIP, KNEE, ANKLE, SHOULDER, ELBOW, WRIST)
        )
        table[f"thigh.{side}"] = ("hips", hip, knee)
        table[f"shin.{side}"] = (f"thigh.{side}", knee, ankle)
        table[f"foot.{side}"] = (f"shin.{side}", ankle, ankle + np.array([0.14, 0, -0.05]))
        table[f"arm.{side}"] = ("chest", shoulder, elbow)
        table[f"forearm.{side}"] = (f"arm.{side}", elbow, wrist)
    return table


def _parts() -> list[Part]:
    skin, jumper, denim, boot, hat, scarf, eye, pack, hair, white, sole = range(11)
    torso = rigs.chain(("chest", 0.70, 0.09), ("hips", 0, 0))
    parts = [
        body(SEAT, material=denim, weights=torso, squareness=2.4),
        body(JUMPER, material=jumper, weights=torso, squareness=2.3, around=16),
        torus((0, 0, 0.985), 0.115, 0.062, material=scarf, weights="chest", squash=0.8),
        ellipsoid((0.165, 0.10, 0.86), (0.035, 0.06, 0.15), material=scarf, weights="chest", squareness=3),
        ellipsoid((-0.255, 0, 0.80), (0.10, 0.165, 0.18), material=pack, weights="chest", squareness=3.2),
        ellipsoid((-0.335, 0, 0.745), (0.05, 0.11, 0.085), material=boot, weights="chest", squareness=3.2),
        ellipsoid((-0.25, 0, 1.0), (0.075, 0.20, 0.07), material=scarf, weights="chest", squareness=2.6),
        # head: face, nose, ears, eyes with a glint, smile, hair, knitted cap with its rim
        ellipsoid((0, 0, 1.20), (0.235, 0.25, 0.225), material=skin, weights="head", around=16),
        ellipsoid((0.238, 0, 1.175), (0.038, 0.042, 0.036), material=skin, weights="head"),
        ellipsoid((-0.06, 0, 1.19), (0.215, 0.262, 0.20), material=hair, weights="head", around=16),
        body(CAP, material=hat, weights="head", around=16),
        torus((-0.012, 0, 1.272), 0.235, 0.045, material=scarf, weights="head", squash=1.05),
        ellipsoid((-0.03, 0, 1.535), (0.088, 0.088, 0.085), material=white, weights="pompom"),
    ]
    for side, sign in SIDES.items():
        hip_y = HIP[1] * sign
        shoulder, elbow, wrist = (mirrored(p, side) for p in (SHOULDER, ELBOW, WRIST))
        leg = [(0.0, hip_y, z, r, r) for z, r in LEG]
        arm = [(*(shoulder + t * (elbow - shoulder)), r, r) for t, r in SLEEVE]
        arm += [(*(elbow + t * (wrist - elbow)), r, r) for t, r in CUFF]
        hand = wrist + np.array([0.012, 0.012 * sign, -0.05])
        thumb = hand + np.array([0.055, -0.01 * sign, 0.015])
        parts += [
            body(leg, material=denim, weights=rigs.chain((f"thigh.{side}", 0.325, 0.07), (f"shin.{side}", 0, 0))),
            ellipsoid(
                (0.045, hip_y, 0.082), (0.165, 0.095, 0.078), material=boot, weights=f"foot.{side}", squareness=2.4
            ),
            ellipsoid((-0.005, hip_y, 0.12), (0.09, 0.088, 0.085), material=boot, weights=f"foot.{side}"),
            ellipsoid(
                (0.045, hip_y, 0.027), (0.172, 0.1, 0.026), material=sole, weights=f"foot.{side}", squareness=2.6
            ),
            body(arm, material=jumper, weights=rigs.chain((f"arm.{side}", 0.715, 0.06), (f"forearm.{side}", 0, 0))),
            ellipsoid(hand, (0.068, 0.055, 0.075), material=scarf, weights=f"forearm.{side}"),
            ellipsoid(thumb, (0.03, 0.026, 0.04), material=scarf, weights=f"forearm.{side}"),
            ellipsoid((0.205, 0.092 * sign, 1.215), (0.026, 0.030, 0.040), material=eye, weights="head"),
            ellipsoid((0.229, 0.099 * sign, 1.229), (0.007, 0.009, 0.010), material=white, weights="head"),
            ellipsoid((0.0, 0.248 * sign, 1.165), (0.045, 0.035, 0.055), material=skin, weights="head"),
        ]
    for y in np.linspace(-0.095, 0.095, 19):
        z = 1.096 + 0.032 * (y / 0.095) ** 2
        x = 0.235 * np.sqrt(1 - (y / 0.25) ** 2 - ((z - 1.2) / 0.225) ** 2) + 0.004
        parts.append(ellipsoid((x, y, z), (0.009, 0.0105, 0.0085), material=hair, weights="head"))
    return parts


def build_walker() -> tuple[bpy.types.Object, bpy.types.Object]:
    """The figure's mesh, skinned to its armature. Returns (armature, mesh)."""
    armature = rigs.build_armature("Walker rig", bones())
    dress = [
        materials.skin(),
        materials.cloth("jumper", ["#eab13c", "#f6e3bd", "#eab13c", "#d0573c"], bands=22, weave=210, attribute="rest"),
        materials.cloth("denim", ["#3f6390", "#33527b"], weave=260, attribute="rest"),
        materials.clay("boots", "#a5492f", attribute="rest", spots="#c46a48"),
        materials.cloth("cap", ["#2f7f86", "#f3e4c5", "#2f7f86", "#2a6a78"], bands=34, weave=180, attribute="rest"),
        materials.cloth("scarf", ["#d9553a", "#e9755a"], weave=200, attribute="rest"),
        materials.clay("eyes", "#1c1514", attribute="rest", roughness=0.12),
        materials.cloth("rucksack", ["#8a5a34", "#a06c41"], weave=150, attribute="rest"),
        materials.clay("hair", "#6e3d22", attribute="rest", spots="#84502f"),
        materials.clay("wool", "#f7eedb", attribute="rest", spots="#e6d3ad", roughness=0.9),
        materials.clay("soles", "#ead8b4", attribute="rest", spots="#cbb285"),
    ]
    figure = build("Walker", _parts(), dress)
    rigs.skin(figure, armature, levels=2)
    return armature, figure


@dataclass(frozen=True)
class Path:
    """An arc on the floor: start (x, y) m, heading in radians, and how much it turns per metre."""

    start: tuple[float, float]
    heading: float
    turn: float

    def at(self, distance: float) -> tuple[Vec, Vec]:
        """Point (3,) on the floor after `distance` metres, and the body's frame there (3, 3): forward, left, up."""
        h0, h1 = self.heading, self.heading + self.turn * distance
        x = self.start[0] + (np.sin(h1) - np.sin(h0)) / self.turn
        y = self.start[1] - (np.cos(h1) - np.cos(h0)) / self.turn
        return np.array([x, y, 0.0]), _about("z", h1)


def _about(axis: str, angle: float) -> Vec:
    """Rotation matrix (3, 3) about x, y or z, right-handed, in radians."""
    return np.array(Matrix.Rotation(float(angle), 3, axis.upper()))


def _ease(t: float) -> float:
    return t * t * t * (t * (6 * t - 15) + 10)


def _pitch(phase: float) -> float:
    """Pitch of a boot in radians, toes down positive: heel first, flat, then up on the toes."""
    keys = [(0.0, -0.28), (0.10, 0.0), (0.38, 0.0), (STANCE, 0.62), (0.74, 0.35), (0.92, -0.24), (1.0, -0.28)]
    for (t0, p0), (t1, p1) in pairwise(keys):
        if phase <= t1:
            return p0 + (p1 - p0) * _ease((phase - t0) / (t1 - t0))
    return keys[-1][1]


def _planted(path: Path, step: float, side: str, phase: float) -> Vec:
    """World position (3,) of an ankle whose foot is down, at `step` cycles along the path."""
    ground, frame = path.at(STRIDE * step)
    pitch = _pitch(phase)
    pivot = TOE if pitch > 0 else HEEL
    ankle = pivot - _about("y", pitch) @ pivot
    return np.asarray(ground + frame @ (mirrored(ANKLE, side) * (1, 0.8, 1) + ankle))


def _foot(path: Path, cycles: float, side: str) -> tuple[Vec, Vec]:
    """Ankle position (3,) and boot orientation (3, 3) after `cycles` of the walk."""
    shift = 0.0 if side == "L" else 0.5
    count, phase = divmod(cycles + shift, 1.0)
    step = count - shift + STANCE / 2
    tilt = _about("y", _pitch(phase))
    if phase < STANCE:
        return _planted(path, step, side, phase), path.at(STRIDE * step)[1] @ tilt
    t = (phase - STANCE) / (1 - STANCE)
    before, after = _planted(path, step, side, STANCE), _planted(path, step + 1, side, 0.0)
    ankle = before + (after - before) * _ease(t)
    ankle[2] += 0.085 * np.sin(np.pi * t) ** 1.3
    return ankle, path.at(STRIDE * (step + _ease(t)))[1] @ tilt


def _knee(hip: Vec, ankle: Vec, forward: Vec) -> Vec:
    """The knee between hip and ankle, bent towards `forward`. Raises ValueError when the leg cannot reach."""
    thigh, shin = np.linalg.norm(KNEE - HIP), np.linalg.norm(ANKLE - KNEE)
    reach = np.linalg.norm(ankle - hip)
    if reach > thigh + shin:
        raise ValueError(f"a leg of {thigh + shin:.3f} m cannot reach {reach:.3f} m: the foot would slide.")
    along = (ankle - hip) / reach
    ahead = forward - along * (forward @ along)
    ahead /= np.linalg.norm(ahead)
    foot = (thigh**2 - shin**2 + reach**2) / (2 * reach)
    return np.asarray(hip + along * foot + ahead * np.sqrt(thigh**2 - foot**2))


def _towards(direction: Vec, left: Vec, rest: Vec) -> Vec:
    """Rotation (3, 3) that takes a limb from its rest direction to `direction`, its hinge as near `left` as it can."""

    def frame(down: Vec, hinge: Vec) -> Vec:
        down = down / np.linalg.norm(down)
        ahead = np.cross(hinge, down)
        ahead /= np.linalg.norm(ahead)
        return np.stack([ahead, np.cross(down, ahead), down], -1)

    return frame(direction, left) @ frame(rest, np.array([0, 1.0, 0])).T


def pose(path: Path, seconds: float) -> dict[str, tuple[Vec, Vec]]:
    """Head position (3,) and rotation from rest (3, 3) of every bone, in the world, `seconds` after the start."""
    cycles = seconds / PERIOD
    swing = np.cos(2 * np.pi * cycles)  # +1 where the left heel comes down
    rise = np.cos(4 * np.pi * (cycles - 0.06))
    ground, frame = path.at(STRIDE * cycles)
    table = bones()
    result: dict[str, tuple[Vec, Vec]] = {}

    sway = 0.022 * np.sin(2 * np.pi * (cycles - 0.02))
    hips = ground + frame @ [0.0, sway, table["hips"][1][2] - 0.038 - 0.020 * rise]
    turn = frame @ _about("z", -0.13 * swing) @ _about("x", 0.05 * np.sin(2 * np.pi * cycles))
    result["hips"] = hips, turn
    upper = (
        frame
        @ _about("z", 0.16 * swing)
        @ _about("y", 0.06 + 0.012 * rise)
        @ _about("x", -0.04 * np.sin(2 * np.pi * cycles))
    )
    chest = hips + turn @ (table["chest"][1] - table["hips"][1])
    result["chest"] = chest, upper
    # He looks about: first ahead, then down at the ball as it passes, then on.
    glance = np.exp(-(((seconds - 2.3) / 0.9) ** 2))
    gaze = frame @ _about("z", 0.05 * swing - 0.36 - 0.38 * glance) @ _about("y", 0.02 - 0.02 * rise + 0.16 * glance)
    gaze = gaze @ _about("x", 0.05 * np.sin(2 * np.pi * cycles))
    head = chest + upper @ (table["head"][1] - table["chest"][1])
    result["head"] = head, gaze
    bobble = (
        gaze
        @ _about("y", 0.22 * np.sin(4 * np.pi * (cycles - 0.2)))
        @ _about("x", 0.2 * np.sin(2 * np.pi * (cycles - 0.1)))
    )
    result["pompom"] = head + gaze @ (table["pompom"][1] - table["head"][1]), bobble

    for side, sign in SIDES.items():
        hip = hips + turn @ (mirrored(HIP, side) - table["hips"][1])
        ankle, boot = _foot(path, cycles, side)
        knee = _knee(hip, ankle, (frame + boot)[:, 0])
        left = frame[:, 1]
        result[f"thigh.{side}"] = hip, _towards(knee - hip, left, mirrored(KNEE - HIP, side))
        result[f"shin.{side}"] = knee, _towards(ankle - knee, left, mirrored(ANKLE - KNEE, side))
        result[f"foot.{side}"] = ankle, boot
        # Arms swing against the legs; the elbow closes on the way forward.
        beat = np.cos(2 * np.pi * (cycles - 0.03)) * sign
        shoulder = chest + upper @ (mirrored(SHOULDER, side) - table["chest"][1])
        arm = upper @ _about("x", -0.03 * sign) @ _about("y", 0.62 * beat + 0.05)
        elbow = shoulder + arm @ mirrored(ELBOW - SHOULDER, side)
        result[f"arm.{side}"] = shoulder, arm
        result[f"forearm.{side}"] = elbow, arm @ _about("y", -0.48 + 0.26 * beat)
    return result


def apply_pose(armature: bpy.types.Object, path: Path, seconds: float, moved: Vec) -> None:
    """Put the armature into the walk's pose at `seconds`, the whole figure moved by a world vector (3,)."""
    rigs.apply_pose(armature, pose(path, seconds))
    armature.location = moved
