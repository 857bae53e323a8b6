"""How a person moves: the pose of every bone as a pure function of time, for bodies of any proportions.

At rest a person stands at the origin and looks along +x, y to the left, z up, the arms hanging a little apart. Feet
that are down stay where they were set; the legs follow by two-bone inverse kinematics. Nothing here needs Blender.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry

from ..plan import Motion

Vec = NDArray[np.float64]
Pose = dict[str, tuple[Vec, Vec]]
"""Head position (3,) and rotation from rest (3, 3) of every bone, in the world."""
SIDES = {"L": 1.0, "R": -1.0}
_AXES = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}


@dataclass(frozen=True)
class Body:
    """Joints at rest, metres. hip .. wrist: (3,), of the left side."""

    height: float
    girth: float
    head: float
    hip: Vec
    knee: Vec
    ankle: Vec
    shoulder: Vec
    elbow: Vec
    wrist: Vec
    waist: float
    neck: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Body:
        """Anyone from a small child with a large head to a tall thin grown-up."""
        age = rng.uniform(0, 1)
        height = 1.0 + 0.85 * age + rng.normal(0, 0.06)
        girth = rng.uniform(0.8, 1.3)
        leg = height * (0.41 + 0.09 * age + rng.normal(0, 0.012))
        ankle = 0.05 * height
        apart = height * 0.052 * girth
        shoulder = np.array([0, height * rng.uniform(0.10, 0.125) * girth**0.5, height * (0.76 + 0.05 * age)])
        upper, lower = height * 0.165, height * 0.15
        out = rng.uniform(0.2, 0.35)
        away = np.array([0, np.sin(out), -np.cos(out)])
        return cls(
            height, girth, height * (0.185 - 0.055 * age), np.array([0, apart, leg]),
            np.array([0.004 * height, apart, ankle + (leg - ankle) * 0.5]), np.array([0, apart, ankle]),
            shoulder, shoulder + upper * away, shoulder + (upper + lower) * away,
            leg + 0.3 * (shoulder[2] - leg), shoulder[2] + 0.035 * height,
        )  # fmt: skip

    def bones(self) -> dict[str, tuple[str, Vec, Vec]]:
        """Every bone: parent, head, tail, at rest."""
        up = np.array([0, 0, 1.0])
        table = {
            "hips": ("", self.hip[2] * up, self.waist * up),
            "chest": ("hips", self.waist * up, self.shoulder[2] * up),
            "head": ("chest", self.neck * up, self.height * up),
        }
        for side in SIDES:
            hip, knee, ankle, shoulder, elbow, wrist = (
                mirrored(p, side) for p in (self.hip, self.knee, self.ankle, self.shoulder, self.elbow, self.wrist)
            )
            table[f"thigh.{side}"] = ("hips", hip, knee)
            table[f"shin.{side}"] = (f"thigh.{side}", knee, ankle)
            table[f"foot.{side}"] = (f"shin.{side}", ankle, ankle + self.height * np.array([0.09, 0, -0.03]))
            table[f"arm.{side}"] = ("chest", shoulder, elbow)
            table[f"forearm.{side}"] = (f"arm.{side}", elbow, wrist)
        return table


def mirrored(point: Vec, side: str) -> Vec:
    """A point of the left side, or its mirror image."""
    return point * (1, SIDES[side], 1)


def about(axis: str, angle: float) -> Vec:
    """Rotation matrix (3, 3) about x, y or z, right-handed, in radians."""
    return geometry.axis_rotation(_AXES[axis], angle)


def ease(t: float) -> float:
    """0 at 0, 1 at 1, at rest at both."""
    t = min(max(t, 0.0), 1.0)
    return t * t * t * (t * (6 * t - 15) + 10)


@dataclass(frozen=True)
class Gait:
    """How the legs go. stride: m a cycle of two steps, along `course` rad from where the body looks. period: s.
    turning: rad a second. stance: share of the cycle that a foot is down. Heights and lean in m and rad."""

    stride: float = 0.0
    period: float = 1.0
    stance: float = 0.6
    lift: float = 0.0
    bob: float = 0.0
    crouch: float = 0.0
    lean: float = 0.0
    swing: float = 0.5
    elbow: float = 0.4
    course: float = 0.0
    turning: float = 0.0


def _gait(action: str, rng: np.random.Generator, body: Body) -> Gait:
    h, more = body.height, rng.uniform(0.85, 1.2)
    turning = rng.choice([-1, 1]) * rng.uniform(0.1, 0.5)
    table = {
        "walk": Gait(0.78 * h * more, 1.05 / more, 0.6, 0.055 * h, 0.012 * h, 0.02 * h, 0.05, 0.5, 0.4),
        "run": Gait(1.35 * h * more, 0.72 / more, 0.36, 0.17 * h, 0.035 * h, 0.05 * h, 0.22, 0.8, 1.5),
        "march": Gait(0.6 * h * more, 0.95, 0.55, 0.2 * h, 0.012 * h, 0.015 * h, -0.03, 0.9, 0.15),
        "sneak": Gait(0.6 * h * more, 1.3, 0.62, 0.12 * h, 0.02 * h, 0.1 * h, 0.4, 0.25, 1.3),
        "sidestep": Gait(0.4 * h * more, 0.8, 0.6, 0.05 * h, 0.01 * h, 0.04 * h, 0.05, 0.15, 0.9),
        "backwards": Gait(0.55 * h * more, 1.1, 0.62, 0.05 * h, 0.01 * h, 0.03 * h, -0.05, 0.35, 0.5),
        "turn": Gait(0.05 * h, 0.8, 0.6, 0.05 * h, 0.008 * h, 0.02 * h, 0.02, 0.25, 0.5),
    }
    gait = table.get(action, Gait(swing=0.15))
    course = {"sidestep": np.pi / 2 * rng.choice([-1, 1]), "backwards": np.pi}.get(action, 0.0)
    if action == "turn":
        turning = rng.choice([-1, 1]) * rng.uniform(1.2, 2.6)
    elif gait.stride:
        # Who goes far goes in a circle, so that long clips stay on the set.
        turning *= 1 + gait.stride / gait.period
    return Gait(**{**gait.__dict__, "course": float(course), "turning": float(turning) if gait.stride else 0.0})


class Walk:
    """A person's motion. `pose` may be asked for any time; the middle of the clip is at the motion's place."""

    def __init__(self, body: Body, motion: Motion, middle: float) -> None:
        """middle: seconds into the clip at which the person is at motion.at and looks along motion.heading."""
        self.body, self.motion, self.middle = body, motion, middle
        rng = np.random.default_rng([motion.seed, 4])
        self.gait = _gait(motion.action, rng, body)
        self.start = rng.uniform(0, 1)
        self.arms = {side: str(rng.choice(["swing", "free", "wave"], p=[0.5, 0.3, 0.2])) for side in SIDES}
        if self.gait.stride and motion.action != "turn":
            self.arms = {side: how if rng.random() < 0.3 else "swing" for side, how in self.arms.items()}
        self.rates = rng.uniform(0.4, 1.6, (2, 4)) * 2 * np.pi
        self.phases = rng.uniform(0, 2 * np.pi, (2, 4))
        self.sizes = rng.uniform(0.3, 1.0, (2, 4))
        self.look = rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.25)
        self.depth = rng.uniform(0.10, 0.24) * body.height
        self.forward = rng.uniform(-0.1, 0.5) * body.height
        self.bow = rng.uniform(0.0, 0.5)

    def _ground(self, cycles: float) -> tuple[Vec, Vec]:
        """Point (3,) on the ground and the body's frame there (3, 3), `cycles` of the gait after the middle."""
        gait, heading = self.gait, self.motion.heading
        turned = gait.turning * gait.period * cycles
        distance = gait.stride * cycles
        way = heading + gait.course
        along = np.sinc(turned / 2 / np.pi) * distance  # the chord of an arc
        at = np.array([*self.motion.at, 0.0]) + along * np.array(
            [np.cos(way + turned / 2), np.sin(way + turned / 2), 0]
        )
        return at, about("z", heading + turned)

    def pose(self, seconds: float) -> Pose:
        """Where every bone is, `seconds` after the clip begins."""
        elapsed = seconds - self.middle
        if self.motion.action == "jump":
            return self._assemble(elapsed, *self._jump(elapsed))
        if not self.gait.stride:
            return self._assemble(elapsed, *self._stand(elapsed))
        return self._assemble(elapsed, *self._go(elapsed))

    def _go(self, elapsed: float) -> tuple[Vec, Vec, Vec, dict[str, tuple[Vec, Vec]]]:
        gait, body = self.gait, self.body
        cycles = elapsed / gait.period + self.start
        offset = self.start
        ground, frame = self._ground(cycles - offset)
        swing = np.cos(2 * np.pi * cycles)
        rise = -np.cos(4 * np.pi * (cycles - 0.05)) if gait.stance > 0.5 else np.cos(4 * np.pi * (cycles - 0.18))
        hips = ground + frame @ [0, 0, body.hip[2] - gait.crouch - 0.012 * body.height + gait.bob * rise]
        turn = frame @ about("z", -0.12 * swing) @ about("y", 0.4 * gait.lean)
        chest = frame @ about("z", 0.15 * swing) @ about("y", gait.lean + 0.02 * rise)
        feet = {side: self._foot(cycles, offset, side) for side in SIDES}
        return hips, turn, chest, feet

    def _foot(self, cycles: float, offset: float, side: str) -> tuple[Vec, Vec]:
        """Ankle position (3,) and orientation (3, 3): down for the gait's stance, else on the way to its next place."""
        gait = self.gait
        shift = 0.0 if side == "L" else 0.5
        count, phase = divmod(cycles + shift, 1.0)
        middle = count - shift + gait.stance / 2
        here = self._planted(middle - offset, side)
        if phase < gait.stance:
            roll = phase / gait.stance
            pitch = 0.5 * ease((roll - 0.65) / 0.35) - 0.22 * (1 - ease(roll / 0.2))
            return self._rolled(*here, pitch if gait.stride > 0.3 * self.body.height and not gait.course else 0.0)
        t = (phase - gait.stance) / (1 - gait.stance)
        there = self._planted(middle + 1 - offset, side)
        share = ease(t)
        pitch = 0.5 * (1 - ease(t / 0.7)) - 0.22 * ease((t - 0.5) / 0.5)
        if gait.stride <= 0.3 * self.body.height or gait.course:
            pitch = 0.0
        start, end = self._rolled(*here, 0.5 if pitch else 0.0), self._rolled(*there, -0.22 if pitch else 0.0)
        ankle = (1 - share) * start[0] + share * end[0]
        ankle[2] += gait.lift * np.sin(np.pi * t) ** 1.3
        frame = self._ground(middle + share - offset)[1]
        return ankle, frame @ about("y", pitch)

    def _planted(self, cycles: float, side: str) -> tuple[Vec, Vec]:
        """A foot set flat at the body's place after `cycles`."""
        ground, frame = self._ground(cycles)
        return ground + frame @ mirrored(self.body.ankle, side), frame

    def _rolled(self, ankle: Vec, frame: Vec, pitch: float) -> tuple[Vec, Vec]:
        """A foot that is down, rolled over its toe (positive pitch) or its heel."""
        h = self.body.height
        pivot = np.array([0.075 if pitch > 0 else -0.035, 0, -0.05]) * h
        tilt = about("y", pitch)
        return ankle + frame @ (pivot - tilt @ pivot), frame @ tilt

    def _stand(self, elapsed: float) -> tuple[Vec, Vec, Vec, dict[str, tuple[Vec, Vec]]]:
        body = self.body
        ground, frame = self._ground(0.0)
        sway = 0.02 * body.height * np.sin(self.rates[0, 0] * 0.5 * elapsed + self.phases[0, 0])
        low, bow = 0.015 * body.height, 0.05 + 0.04 * np.sin(self.rates[0, 1] * elapsed)
        if self.motion.action == "squat":
            down = 0.5 - 0.5 * np.cos(2 * np.pi * (elapsed / 1.6 + self.start))
            low, bow = low + self.depth * down, bow + (0.25 + self.bow) * down
        hips = ground + frame @ [-0.3 * low, sway, body.hip[2] - low]
        twist = 0.25 * np.sin(self.rates[0, 2] * 0.5 * elapsed + self.phases[0, 2])
        turn = frame @ about("z", 0.4 * twist) @ about("y", 0.4 * bow)
        chest = frame @ about("z", twist) @ about("y", bow) @ about("x", 0.5 * sway)
        return hips, turn, chest, {side: self._planted(0.0, side) for side in SIDES}

    def _jump(self, elapsed: float) -> tuple[Vec, Vec, Vec, dict[str, tuple[Vec, Vec]]]:
        """Crouch, fly, land: in cycles of 1.1 s, a piece forward each time."""
        body = self.body
        count, phase = divmod(elapsed / 1.1 + self.start, 1.0)
        flight = float(np.clip((phase - 0.42) / 0.36, 0, 1))
        step = count - np.floor(self.start) + ease(flight) - 0.5
        _, frame = self._ground(0.0)
        ground = np.array([*self.motion.at, 0.0]) + frame @ [self.forward * step, 0, 0]
        up = 4 * flight * (1 - flight) * 0.22 * body.height
        bend = np.exp(-(((phase - 0.28) / 0.12) ** 2)) + 0.8 * np.exp(-(((phase - 0.84) / 0.08) ** 2))
        low = (0.015 + 0.13 * bend) * body.height
        hips = ground + frame @ [-0.25 * low, 0, body.hip[2] - low + up]
        lean = about("y", 0.1 + 0.5 * bend)
        tuck = 0.06 * body.height * np.sin(np.pi * flight)
        toes = about("y", 0.5 * np.sin(np.pi * flight))
        feet = {}
        for side in SIDES:
            ankle = ground + frame @ (mirrored(body.ankle, side) + np.array([0, 0, up + tuck]))
            feet[side] = ankle, frame @ toes
        return hips, frame @ about("y", 0.3 * bend), frame @ lean, feet

    def _assemble(self, elapsed: float, hips: Vec, turn: Vec, chest: Vec, feet: dict[str, tuple[Vec, Vec]]) -> Pose:
        body = self.body
        table = body.bones()
        result: Pose = {"hips": (hips, turn)}
        middle = hips + turn @ (table["chest"][1] - table["hips"][1])
        result["chest"] = middle, chest
        side_to_side = self.look[0] + 0.3 * np.sin(0.6 * self.rates[1, 0] * elapsed + self.phases[1, 0])
        gaze = chest @ about("z", side_to_side) @ about("y", self.look[1])
        result["head"] = middle + chest @ (table["head"][1] - table["chest"][1]), gaze
        for index, side in enumerate(SIDES):
            hip = hips + turn @ (mirrored(body.hip, side) - table["hips"][1])
            ankle, foot = feet[side]
            knee, ankle = self._knee(hip, ankle, (turn + foot)[:, 0])
            left = turn[:, 1]
            result[f"thigh.{side}"] = hip, _towards(knee - hip, left, mirrored(body.knee - body.hip, side))
            result[f"shin.{side}"] = knee, _towards(ankle - knee, left, mirrored(body.ankle - body.knee, side))
            result[f"foot.{side}"] = ankle, foot
            shoulder = middle + chest @ (mirrored(body.shoulder, side) - table["chest"][1])
            upper, bend = self._arm(elapsed, index, side)
            arm = chest @ upper
            elbow = shoulder + arm @ mirrored(body.elbow - body.shoulder, side)
            result[f"arm.{side}"] = shoulder, arm
            result[f"forearm.{side}"] = elbow, arm @ bend
        return result

    def _knee(self, hip: Vec, ankle: Vec, forward: Vec) -> tuple[Vec, Vec]:
        """The knee between hip and ankle, bent towards `forward`, and the ankle, drawn in where the leg is too short."""
        body = self.body
        thigh, shin = (float(np.linalg.norm(b)) for b in (body.knee - body.hip, body.ankle - body.knee))
        away = ankle - hip
        reach = float(np.clip(np.linalg.norm(away), abs(thigh - shin) + 1e-3, (thigh + shin) * 0.999))
        along = away / np.linalg.norm(away)
        ahead = forward - along * (forward @ along)
        ahead /= np.linalg.norm(ahead)
        foot = (thigh**2 - shin**2 + reach**2) / (2 * reach)
        return hip + along * foot + ahead * np.sqrt(max(thigh**2 - foot**2, 0.0)), hip + along * reach

    def _arm(self, elapsed: float, index: int, side: str) -> tuple[Vec, Vec]:
        """Rotations of the upper arm against the chest and of the forearm against the upper arm."""
        gait, sign, how = self.gait, SIDES[side], self.arms[side]
        waves = np.sin(self.rates[index] * elapsed + self.phases[index]) * self.sizes[index]
        if how == "wave":
            return about("x", sign * (2.1 + 0.2 * waves[0])), about("x", sign * (0.5 + 0.6 * waves[1]))
        if how == "free":
            raised = about("x", sign * (0.6 + 0.6 * waves[0])) @ about("y", -0.5 + 0.8 * waves[1])
            return raised, about("y", -0.9 + 0.8 * waves[2])
        beat = np.cos(2 * np.pi * (elapsed / gait.period + self.start - 0.03)) * sign
        return about("x", -0.1 * sign) @ about("y", gait.swing * beat), about(
            "y", -gait.elbow + 0.4 * gait.swing * beat
        )


def _towards(direction: Vec, left: Vec, rest: Vec) -> Vec:
    """Rotation (3, 3) that takes a limb from its rest direction to `direction`, its hinge as near `left` as it can."""

    def frame(down: Vec, hinge: Vec) -> Vec:
        down = down / np.linalg.norm(down)
        ahead = np.cross(hinge, down)
        ahead /= np.linalg.norm(ahead)
        return np.stack([ahead, np.cross(down, ahead), down], -1)

    return np.asarray(frame(direction, left) @ frame(rest, np.array([0, 1.0, 0])).T)
