"""The cameras of a scene: where they stand and how they move, drawn from its seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from retake_shared import camera_moves, geometry
from retake_shared.shot import Cameras

from .plan import FPS

SENSOR = 36.0
"""mm across the picture."""
_UP = (0.0, 0.0, 1.0)
_LOWEST = 0.25
"""Metres above the ground."""


def draw(seed: int, view: int, attempt: int, frames: int, width: int, height: int) -> Cameras:
    """Cameras number `view` of a scene. All views look from about the same side; each attempt is another draw.

    A view holds still, pans, travels sideways, in or out, rises, orbits, zooms or is held by hand.
    """
    scene, rng = np.random.default_rng([seed, 2]), np.random.default_rng([seed, 3, view, attempt])
    side, lens = scene.uniform(-np.pi, np.pi), scene.uniform(24, 50)
    if view:
        side += np.radians(rng.normal(0, 22))
        lens *= rng.choice([1.0, rng.uniform(0.8, 1.25)])
    focal = lens * width / SENSOR
    wanted = rng.uniform(1.6, 3.4)  # metres of the set that fit into the picture's height
    away = np.clip(wanted * focal / height, 2.4, 7.5) * 0.92**attempt
    rise = np.radians(rng.choice([rng.uniform(2, 14), rng.uniform(10, 35)]))
    centre = np.array([*rng.normal(0, 0.25, 2), rng.uniform(0.55, 1.0)])
    eye = centre + away * np.array([np.cos(side) * np.cos(rise), np.sin(side) * np.cos(rise), np.sin(rise)])
    eye[2] = max(eye[2], _LOWEST)
    c2w = np.repeat(geometry.look_at(eye, centre, (0, 0, -1))[None], frames, 0)
    K = geometry.intrinsics(np.full(frames, focal), focal, width / 2, height / 2)
    moved = _moved(rng, Cameras(c2w, K, width, height), centre, away, (frames - 1) / FPS)
    above = np.maximum(moved.c2w[:, 2, 3], _LOWEST)
    c2w = moved.c2w.copy()
    c2w[:, 2, 3] = above
    return replace(moved, c2w=c2w)


def _moved(rng: np.random.Generator, cameras: Cameras, centre: np.ndarray, away: float, seconds: float) -> Cameras:
    """The same cameras in motion. A short clip gets a quicker move than its share of a long one, but no leap."""
    least = min(0.5, 0.2 * (len(cameras) - 1))
    amount = float(np.clip(seconds, least, 2.5)) * rng.uniform(0.3, 1.0) * rng.choice([-1, 1])
    if len(cameras) == 1:
        return cameras
    ease = str(rng.choice(["smooth", "linear"]))
    move = str(rng.choice(["still", "orbit", "dolly", "truck", "crane", "pan", "zoom", "orbit and dolly"]))
    if "orbit" in move:
        cameras = camera_moves.orbit(cameras, 13 * amount, centre, ease=ease, axis=_UP)
    if "dolly" in move:
        cameras = camera_moves.dolly(cameras, 0.11 * away * amount, ease=ease)
    if move in ("truck", "crane"):
        aside, down = (0.35 * amount, 0.0) if move == "truck" else (0.0, 0.25 * amount)
        held = centre if rng.random() < 0.5 else None
        cameras = camera_moves.truck(cameras, aside, down, ease=ease, look_at=held, up=_UP)
    if move == "pan":
        turn = geometry.axis_rotation(_UP, np.radians(5 * amount) * np.linspace(-0.5, 0.5, len(cameras)))
        c2w = cameras.c2w.copy()
        c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
        cameras = replace(cameras, c2w=c2w)
    if move == "zoom":
        K = cameras.K.copy()
        K[:, [0, 1], [0, 1]] *= np.linspace(1, 1 + 0.12 * amount, len(cameras))[:, None]
        cameras = replace(cameras, K=K)
    return _by_hand(rng, cameras) if rng.random() < 0.35 else cameras


def _by_hand(rng: np.random.Generator, cameras: Cameras) -> Cameras:
    """A slow sway of a few millimetres and tenths of a degree."""
    seconds = np.arange(len(cameras))[:, None, None] / FPS
    waves = np.sin(2 * np.pi * rng.uniform(0.3, 1.8, (3, 6)) * seconds + rng.uniform(0, 2 * np.pi, (3, 6))).sum(1)
    c2w = cameras.c2w.copy()
    c2w[:, :3, :3] = c2w[:, :3, :3] @ geometry.rotation_from_vector(waves[:, :3] * np.radians(0.25))
    c2w[:, :3, 3] += waves[:, 3:] * 0.006
    return replace(cameras, c2w=c2w)
