"""How things move: where a prop is, and how it is turned and pressed, as a pure function of time. No Blender here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry

from ..plan import Motion

Vec = NDArray[np.float64]
Place = Callable[[float], Vec]
"""Seconds into the clip -> the thing's matrix (4, 4), which may scale."""
_GRAVITY = 9.81


def affine(linear: Vec, at: Vec) -> Vec:
    """The matrix (4, 4) of a linear map (3, 3) and a place (3,)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, at
    return matrix


def rigid(motion: Motion, half: Vec, middle: float) -> Place:
    """The motion of a box of half-edges `half` (3,) whose origin is its centre, or of what such a box encloses."""
    return {"toss": _toss, "drop": _drop, "slide": _slide, "spin": _spin}[motion.action](motion, half, middle)


def _toss(motion: Motion, half: Vec, middle: float) -> Place:
    """Thrown in a high arc while it tumbles; it comes down again as it was."""
    rng = np.random.default_rng([motion.seed, 5])
    way = np.array([np.cos(motion.heading), np.sin(motion.heading), 0]) * rng.uniform(0.2, 1.2)
    top, spin = rng.uniform(0.4, 1.1), _axis(rng) * rng.uniform(2, 7)
    lowest = float(np.linalg.norm(half))
    time = np.sqrt(2 * top / _GRAVITY)

    def at(seconds: float) -> Vec:
        elapsed = seconds - middle
        fall = (elapsed + time) % (2 * time) - time
        height = lowest + top - _GRAVITY * fall**2 / 2
        centre = np.array([*motion.at, height]) + way * elapsed
        return affine(geometry.rotation_from_vector(spin * elapsed), centre)

    return at


def _drop(motion: Motion, half: Vec, middle: float) -> Place:
    """Falls askew, bounces a few times while it comes to lie flat, and rests."""
    rng = np.random.default_rng([motion.seed, 5])
    start, spin = rng.uniform(0.6, 1.6), _axis(rng) * rng.uniform(0.8, 2.2)
    turn = geometry.axis_rotation((0, 0, 1), motion.heading)
    loss = rng.uniform(0.3, 0.55)
    first = np.sqrt(2 * start / _GRAVITY)
    begin = middle - first - rng.uniform(-0.2, 0.3)
    settled = first * (1 + 2 * loss + 2 * loss**2)

    def at(seconds: float) -> Vec:
        t = max(seconds - begin, 0.0)
        share = max(1 - t / settled, 0.0) ** 1.5
        linear = turn @ geometry.rotation_from_vector(spin * share)
        support = float(np.abs(linear[2]) @ half)
        return affine(linear, np.array([*motion.at, support + bounce(t, start, loss)]))

    return at


def _slide(motion: Motion, half: Vec, middle: float) -> Place:
    """Pushed over the ground in a curve."""
    rng = np.random.default_rng([motion.seed, 5])
    speed, turning = rng.uniform(0.3, 1.2), rng.uniform(-1.5, 1.5)

    def at(seconds: float) -> Vec:
        elapsed = seconds - middle
        turned = turning * elapsed
        way = motion.heading + turned / 2
        along = speed * elapsed * np.sinc(turned / 2 / np.pi)
        place = np.array([motion.at[0] + along * np.cos(way), motion.at[1] + along * np.sin(way), half[2]])
        return affine(geometry.axis_rotation((0, 0, 1), motion.heading + turned), place)

    return at


def _spin(motion: Motion, half: Vec, middle: float) -> Place:
    """Hangs in the air, turns about an axis and rocks."""
    rng = np.random.default_rng([motion.seed, 5])
    axis, speed = _axis(rng), rng.uniform(0.8, 3.5)
    height = float(np.linalg.norm(half)) + rng.uniform(0.1, 0.8)
    start = geometry.axis_rotation((0, 0, 1), motion.heading)

    def at(seconds: float) -> Vec:
        turned = geometry.axis_rotation(axis, speed * (seconds - middle)) @ start
        return affine(turned, np.array([*motion.at, height + 0.08 * np.sin(3 * seconds)]))

    return at


def ball(motion: Motion, radius: float, middle: float) -> Place:
    """A ball that rolls without slipping, drops, or bounces along, pressed flat a little where it hits the ground."""
    rng = np.random.default_rng([motion.seed, 5])
    way = np.array([np.cos(motion.heading), np.sin(motion.heading), 0])
    axis = np.cross([0, 0, 1], way)
    tilt = geometry.rotation_from_vector(rng.normal(0, 1, 3))
    speed = {"roll": rng.uniform(0.5, 2.0), "bounce": rng.uniform(0.2, 1.2), "drop": 0.0}[motion.action]
    top, loss, soft = rng.uniform(0.4, 1.3), rng.uniform(0.6, 0.85), rng.uniform(0.0, 0.3)
    time, begin = np.sqrt(2 * top / _GRAVITY), rng.uniform(0, 1)

    def at(seconds: float) -> Vec:
        elapsed = seconds - middle
        if motion.action == "roll":
            height = 0.0
        elif motion.action == "bounce":
            fall = (elapsed + 2 * time * begin) % (2 * time) - time
            height = max(top - _GRAVITY * fall**2 / 2, 0.0)
        else:
            height = bounce(max(elapsed + time, 0.0), top, loss)
        flat = 1 - soft * np.exp(-height / (0.25 * radius)) * (motion.action != "roll")
        rolled = geometry.axis_rotation(axis, speed * elapsed / radius) @ tilt
        press = np.diag([flat**-0.5, flat**-0.5, flat])
        centre = np.array([*motion.at, radius * flat + height]) + way * speed * elapsed
        return affine(press @ rolled, centre)

    return at


def bounce(seconds: float, top: float, loss: float) -> float:
    """Height above the ground of what falls from `top` m and keeps the share `loss` of its speed at each impact."""
    speed = np.sqrt(2 * _GRAVITY * top)
    first = speed / _GRAVITY
    if seconds < first:
        return float(top - _GRAVITY * seconds**2 / 2)
    seconds -= first
    while (speed := speed * loss) > 0.15:
        if seconds < 2 * speed / _GRAVITY:
            return float(max(speed * seconds - _GRAVITY * seconds**2 / 2, 0.0))
        seconds -= 2 * speed / _GRAVITY
    return 0.0


def _axis(rng: np.random.Generator) -> Vec:
    axis = rng.normal(0, 1, 3)
    return np.asarray(axis / np.linalg.norm(axis))


Shape = Callable[[float], Vec]
"""Seconds into the clip -> the vertices (V, 3) of something that deforms, in its own frame."""


def waving(seed: int, cloth: Vec, middle: float) -> Shape:
    """A cloth (V, 3), hung along its edge x = 0 in the plane y = 0, in the wind: waves that grow away from the edge."""
    rng = np.random.default_rng([seed, 6])
    lengths, speeds = rng.uniform(0.5, 1.4, 3), rng.uniform(0.5, 1.8, 3) * 2 * np.pi
    phases, tilts, sizes = rng.uniform(0, 2 * np.pi, 3), rng.uniform(-1.5, 1.5, 3), rng.uniform(0.03, 0.09, 3)
    x, z = cloth[:, 0], cloth[:, 2]
    grow = 1 - np.exp(-x / 0.25)

    def at(seconds: float) -> Vec:
        moved = cloth.copy()
        for length, speed, phase, tilt, size in zip(lengths, speeds, phases, tilts, sizes, strict=True):
            wave = 2 * np.pi * x / length - speed * (seconds - middle) + phase + tilt * z
            moved[:, 1] += size * grow * np.sin(wave)
            moved[:, 0] -= 0.25 * size * grow * np.sin(2 * wave) * 0.5
        return moved

    return at


def wobbling(seed: int, lump: Vec, middle: float) -> Shape:
    """A soft lump (V, 3) that stands on z = 0: it swells, leans and sends waves around."""
    rng = np.random.default_rng([seed, 6])
    rates, phases = rng.uniform(0.6, 2.2, 6) * 2 * np.pi, rng.uniform(0, 2 * np.pi, 6)
    ways = rng.normal(0, 1, (3, 3)) * 4
    size = float(lump[:, 2].max())

    def at(seconds: float) -> Vec:
        waves = np.sin(rates * (seconds - middle) + phases)
        flat = 1 + 0.2 * waves[0]
        moved = lump * [flat**-0.5, flat**-0.5, flat]
        rise = moved[:, 2:] / size
        moved[:, :2] += 0.22 * size * waves[1:3] * rise**1.5
        for way, rate, phase in zip(ways, rates[3:], phases[3:], strict=True):
            swell = 0.06 * np.sin(lump @ way / size - rate * (seconds - middle) + phase)
            moved[:, :2] *= 1 + swell[:, None]
        return np.asarray(moved)

    return at


def crawling(seed: int, tube: Vec, middle: float) -> Shape:
    """A tube (V, 3) along x on the ground that winds sideways and lifts its front."""
    rng = np.random.default_rng([seed, 6])
    number, speed = rng.uniform(0.8, 1.6), rng.uniform(0.6, 1.4) * 2 * np.pi
    size, raised = rng.uniform(0.08, 0.2), rng.uniform(0.0, 0.5)
    length = np.ptp(tube[:, 0])

    def at(seconds: float) -> Vec:
        along = tube[:, 0] / length + 0.5
        wave = 2 * np.pi * number * along - speed * (seconds - middle)
        moved = tube.copy()
        moved[:, 1] += size * length * np.sin(wave)
        front = np.clip((along - 0.55) / 0.45, 0, 1) ** 2
        moved[:, 2] += raised * length * front * (0.7 + 0.3 * np.sin(1.3 * speed * (seconds - middle)))
        moved[:, 2] += 0.03 * length * (1 + np.sin(wave * 2)) / 2
        return moved

    return at
