"""Which way is up, and the ground that things stand on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.shot import Cameras

from .stages import CameraSolve

Array = NDArray[np.float64]

EYE_HEIGHT = 1.6
"""m, at which cameras are held: gives scenes their scale where nothing else does."""

_TILT = np.cos(np.radians(35))
_TRIES = 400


@dataclass(frozen=True)
class Ground:
    """The plane `normal` . x = `offset` in the world. normal: (3,) unit, up. found: False when it is a guess."""

    normal: Array
    offset: float
    found: bool

    def height(self, world: Array) -> Array:
        """Of world points (..., 3) above it."""
        above: Array = world @ self.normal - self.offset
        return above

    def depth(self, uv: Array, c2w: Array, K: Array) -> Array:
        """(N,) camera-space z at which the rays of pixels (N, 2) of one camera meet it, inf where they do not."""
        ends = geometry.unproject(uv, np.ones(len(uv)), c2w, K)
        drop = (ends - c2w[:3, 3]) @ self.normal
        height = float(self.height(c2w[:3, 3]))
        with np.errstate(divide="ignore"):
            z: Array = np.where(drop * np.sign(height) < -1e-6, -height / drop, np.inf)
        return z


def up(cameras: Cameras) -> Array:
    """(3,) the world's up as the cameras tell it: people hold them level, so that up is square to all x axes."""
    mean: Array = -cameras.c2w[:, :3, 1].mean(0)
    mean /= np.linalg.norm(mean)
    x = cameras.c2w[:, :3, 0]
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    # With x axes that turn (a pan, an orbit) they span a level plane, whatever the pitch is.
    if values[1] > np.sin(np.radians(5)) ** 2 and values[0] < 0.2 * values[1]:
        axis: Array = vectors[:, 0] * np.sign(vectors[:, 0] @ mean)
        if axis @ mean > _TILT:
            return axis
    # Else the roll is kept at zero, and the pitch of the middle of the shot is taken for level.
    return mean


def find(solve: CameraSolve, seed: int = 0) -> Ground | None:
    """The largest level plane of still points with next to nothing below it and the cameras above, None without one."""
    world = solve.world[solve.placed]
    if len(world) < 40:
        return None
    random = np.random.default_rng(seed)
    if len(world) > 2000:
        world = world[random.permutation(len(world))[:2000]]
    centre = solve.cameras.c2w[:, :3, 3].mean(0)
    distance = float(np.median(np.linalg.norm(world - centre, axis=1)))
    near = 0.012 * distance
    guess = up(solve.cameras)
    best: tuple[float, Array, float] | None = None
    # Low points are tried the most: the ground is among them.
    order = np.argsort(world @ guess)
    low = world[order[: max(len(order) // 2, 20)]]
    for _ in range(_TRIES):
        a, b, c = low[random.choice(len(low), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-4 * distance**2:
            continue
        normal *= np.sign(normal @ guess) / length
        if normal @ guess < _TILT:
            continue
        above = (world - a) @ normal
        if (above < -3 * near).mean() > 0.04 or (centre - a) @ normal < 5 * near:
            continue
        score = float((np.abs(above) < near).sum())
        if best is None or score > best[0]:
            best = (score, normal, float(a @ normal))
    if best is None or best[0] < max(25, 0.06 * len(world)):
        return None
    normal, offset = best[1], best[2]
    for _ in range(3):
        close = world[np.abs(world @ normal - offset) < near]
        middle = close.mean(0)
        fitted = np.linalg.svd(close - middle, full_matrices=False)[2][2]
        normal = fitted * np.sign(fitted @ guess)
        offset = float(middle @ normal)
    if normal @ guess < _TILT:
        return None
    return Ground(normal, offset, True)


def guess(solve: CameraSolve) -> Ground:
    """A level plane below the cameras where none can be seen: at EYE_HEIGHT, or in the units of the still points."""
    normal = up(solve.cameras)
    centre = solve.cameras.c2w[:, :3, 3].mean(0)
    world = solve.world[solve.placed]
    if len(world) >= 40:
        low = float(np.quantile(world @ normal, 0.02))
        height = float(centre @ normal) - low
        if height > 0.05 * float(np.median(np.linalg.norm(world - centre, axis=1))):
            return Ground(normal, low, False)
    return Ground(normal, float(centre @ normal) - EYE_HEIGHT, False)
