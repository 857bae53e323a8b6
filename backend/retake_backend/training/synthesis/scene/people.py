"""Procedural people: a skinned body of any proportions in clothes of any pattern, on an armature."""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np
import rigs
from shapes import Part, body, build, ellipsoid, torus

from . import looks
from .gaits import SIDES, Body, mirrored

_SKIN = ("#f1c9a5", "#e0ac7e", "#c68642", "#8d5524", "#5c3a21", "#f6d7bd")
_HAIR = ("#1d1512", "#4a2f1b", "#8a5a2b", "#d2a75c", "#9a9a9a", "#b5472a")
_CLOTHES = ("cells", "checks", "stripes", "dots", "mottled", "plaid", "rings")


def build_person(name: str, seed: int, figure: Body) -> tuple[bpy.types.Object, bpy.types.Object]:
    """The mesh of a person, skinned to its armature. Returns (armature, mesh)."""
    rng = np.random.default_rng([seed, 7])
    armature = rigs.build_armature(f"{name} rig", figure.bones())
    mesh = build(name, _parts(rng, figure), _dress(rng, name))
    rigs.skin(mesh, armature, levels=1)
    return armature, mesh


def _dress(rng: np.random.Generator, name: str) -> list[bpy.types.Material]:
    """Materials in the order of the slots: skin, hair, top, trousers, shoes, trim, eyes."""

    def stuff(part: str, size: float, **more: Any) -> bpy.types.Material:
        return looks.surface(rng, f"{name} {part}", size, attribute="rest", **more)

    tone, hair = str(rng.choice(_SKIN)), str(rng.choice(_HAIR))
    if rng.random() < 0.12:  # a toy or a costume
        tone, hair = looks.colour(rng), looks.colour(rng)
    dark = looks.colour(rng, light=(0.1, 0.45))
    return [
        stuff("skin", 0.05, patterns=["mottled"], colours=[tone, tone, _shaded(tone, 0.9), _shaded(tone, 0.96)], smooth=False),
        stuff("hair", 0.04, patterns=["mottled"], colours=[hair, hair, _shaded(hair, 0.7), hair]),
        stuff("top", float(rng.uniform(0.04, 0.15)), patterns=_CLOTHES),
        stuff("trousers", float(rng.uniform(0.04, 0.15)), patterns=_CLOTHES),
        stuff("shoes", 0.06, colours=[dark, looks.colour(rng), looks.colour(rng), dark]),
        stuff("trim", 0.05, patterns=_CLOTHES),
        stuff("eyes", 1.0, patterns=["mottled"], colours=["#15110f"] * 4, smooth=True),
    ]  # fmt: skip


def _shaded(tone: str, share: float) -> str:
    return "#" + "".join(f"{round(int(tone[i : i + 2], 16) * share):02x}" for i in (1, 3, 5))


def _parts(rng: np.random.Generator, f: Body) -> list[Part]:
    skin, hair, top, trousers, shoes, trim, eyes = range(7)
    h, wide = f.height, f.girth
    torso = rigs.chain(("chest", f.waist, 0.08 * h), ("hips", 0, 0))
    shoulder, hip, waist = float(f.shoulder[2]), float(f.hip[2]), f.waist
    deep, broad = 0.068 * h * wide, 0.095 * h * wide
    across = float(f.shoulder[1])
    parts = [
        body(
            [(0, 0, hip - 0.06 * h, 0.5 * deep, 0.6 * broad), (0, 0, hip - 0.04 * h, deep, broad),
             (0, 0, hip + 0.03 * h, 1.06 * deep, 1.05 * broad), (0, 0, waist, 0.98 * deep, 0.98 * broad)],
            material=trousers, weights=torso, squareness=2.3,
        ),
        body(
            [(0, 0, waist - 0.05 * h, 1.08 * deep, 1.05 * broad), (0, 0, waist, 1.1 * deep, 1.04 * broad),
             (0, 0, 0.5 * (waist + shoulder), 1.12 * deep, 0.5 * (broad + across) + 0.01 * h),
             (0, 0, shoulder - 0.015 * h, deep, across), (0, 0, shoulder + 0.022 * h, 0.6 * deep, 0.55 * across)],
            material=top, weights=torso, squareness=2.4, around=16,
        ),
        body(
            [(0, 0, shoulder, 0.03 * h, 0.034 * h), (0, 0, f.neck + 0.02 * h, 0.03 * h, 0.034 * h)],
            material=skin, weights="head",
        ),
    ]  # fmt: skip
    parts += _head(rng, f, skin, hair, trim, eyes)
    if rng.random() < 0.3:  # a skirt or a long coat
        low = hip - rng.uniform(0.08, 0.2) * h
        flare = rng.uniform(1.15, 1.6)
        rings = [(0, 0, low, flare * deep * 1.25, flare * broad), (0, 0, hip, 1.2 * deep, 1.1 * broad),
                 (0, 0, waist, 1.12 * deep, 1.03 * broad)]  # fmt: skip
        parts.append(body(rings, material=int(rng.choice([top, trim])), weights="hips", around=16))
    if rng.random() < 0.35:  # a rucksack
        at, size = (-1.6 * deep, 0, waist + 0.1 * h), (0.05 * h, 0.7 * broad, 0.1 * h)
        parts.append(ellipsoid(at, size, material=trim, weights="chest", squareness=3.2))
    if rng.random() < 0.3:
        parts.append(torus((0, 0, shoulder + 0.025 * h), 0.045 * h, 0.022 * h, material=trim, weights="chest"))
    bare_arms, bare_legs = rng.random() < 0.35, rng.random() < 0.25
    for side in SIDES:
        parts += _limbs(
            f, side, skin if bare_arms else top, skin if bare_legs else trousers, skin, top, trousers, shoes
        )
    return parts


def _head(rng: np.random.Generator, f: Body, skin: int, hair: int, trim: int, eyes: int) -> list[Part]:
    size = f.head
    middle = f.neck + 0.02 * f.height + 0.42 * size
    parts = [
        ellipsoid((0, 0, middle), (0.46 * size, 0.40 * size, 0.54 * size), material=skin, weights="head", around=16),
        ellipsoid((0.46 * size, 0, middle - 0.05 * size), (0.08 * size, 0.06 * size, 0.08 * size), material=skin, weights="head"),
    ]  # fmt: skip
    style = rng.choice(["short", "long", "hat", "bald", "knot"], p=[0.35, 0.2, 0.25, 0.1, 0.1])
    if style != "bald":
        low = 0.05 if style != "long" else -0.35
        at = (-0.1 * size, 0.0, middle + (0.16 + low / 2) * size)
        radii = size * np.array([0.42, 0.44, 0.46 - low / 2])
        parts.append(ellipsoid(at, radii, material=hair, weights="head", around=16))
    if style == "knot":
        parts.append(
            ellipsoid((-0.3 * size, 0, middle + 0.6 * size), (0.18 * size,) * 3, material=hair, weights="head")
        )
    if style == "hat":
        brim = rng.uniform(0.48, 0.85) * size
        parts.append(
            torus((0, 0, middle + 0.25 * size), brim - 0.03 * size, 0.05 * size, material=trim, weights="head")
        )
        crown = [(0, 0, middle + 0.22 * size, 0.5 * size, 0.46 * size), (0, 0, middle + 0.5 * size, 0.46 * size, 0.42 * size),
                 (0, 0, middle + rng.uniform(0.6, 0.95) * size, 0.35 * size, 0.3 * size)]  # fmt: skip
        parts.append(body(crown, material=trim, weights="head", around=16))
    for sign in SIDES.values():
        eye = (0.41 * size, 0.16 * size * sign, middle + 0.06 * size)
        parts.append(ellipsoid(eye, (0.05 * size, 0.05 * size, 0.065 * size), material=eyes, weights="head"))
        ear = (0, 0.4 * size * sign, middle - 0.02 * size)
        parts.append(ellipsoid(ear, (0.08 * size, 0.05 * size, 0.11 * size), material=skin, weights="head"))
    return parts


def _limbs(f: Body, side: str, sleeve: int, leg: int, skin: int, top: int, trousers: int, shoes: int) -> list[Part]:
    h, wide = f.height, f.girth**0.7
    hip, knee, ankle, shoulder, elbow, wrist = (
        mirrored(p, side) for p in (f.hip, f.knee, f.ankle, f.shoulder, f.elbow, f.wrist)
    )
    y = float(hip[1])
    shares = [(1.02, 0.046), (0.9, 0.056), (0.72, 0.05), (0.5, 0.04), (0.36, 0.042), (0.15, 0.032), (0.0, 0.028)]
    down = float(ankle[2]) * 0.9
    rings = [(0, y, down + s * (float(hip[2]) - down), r * h * wide, r * h * wide) for s, r in shares]
    arm = [
        (*(shoulder + t * (elbow - shoulder)), r * h * wide, r * h * wide)
        for t, r in ((-0.1, 0.02), (0.05, 0.034), (0.5, 0.034), (0.9, 0.029))
    ]
    arm += [
        (*(elbow + t * (wrist - elbow)), r * h * wide, r * h * wide)
        for t, r in ((0.2, 0.029), (0.6, 0.026), (1.0, 0.02))
    ]
    cap = [
        (*(shoulder + t * (elbow - shoulder)), r * h * wide, r * h * wide)
        for t, r in ((-0.12, 0.026), (0.1, 0.039), (0.5, 0.038))
    ]
    hand = wrist + (wrist - elbow) / np.linalg.norm(wrist - elbow) * 0.035 * h
    bend = 0.035 * h
    return [
        body(rings, material=leg, weights=rigs.chain((f"thigh.{side}", float(knee[2]), bend), (f"shin.{side}", 0, 0))),
        body(
            [(0, y, float(hip[2]) - 0.14 * h, 0.057 * h * wide, 0.057 * h * wide), (0, y, float(hip[2]), 0.06 * h * wide, 0.058 * h * wide)],
            material=trousers, weights=f"thigh.{side}",
        ),
        ellipsoid((0.022 * h, y, 0.03 * h), (0.075 * h, 0.034 * h * wide, 0.03 * h), material=shoes, weights=f"foot.{side}", squareness=2.4),
        ellipsoid((-0.005 * h, y, 0.05 * h), (0.036 * h, 0.033 * h * wide, 0.036 * h), material=shoes, weights=f"foot.{side}"),
        body(arm, material=sleeve, weights=rigs.chain((f"arm.{side}", float(elbow[2]), bend), (f"forearm.{side}", 0, 0))),
        body(cap, material=top, weights=f"arm.{side}"),
        ellipsoid(hand, (0.026 * h, 0.02 * h, 0.036 * h), material=skin, weights=f"forearm.{side}"),
    ]  # fmt: skip
