"""Which way round a file's poses are, told by reprojecting its own tracks.

A wrong convention is the commonest fault of solver files. Visible track points must lie in front of their camera and
inside its picture, and agree with the depth maps where there are any; the reading under which they do is the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..shot import Cameras

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])

READINGS: dict[str, Callable[[geometry.Array], geometry.Array]] = {
    "world-to-camera": geometry.invert_rigid,
    "camera-to-world": lambda poses: poses,
    "world-to-camera, OpenGL axes": lambda poses: geometry.invert_rigid(_FLIP @ poses),
    "camera-to-world, OpenGL axes": lambda poses: poses @ _FLIP,
}
"""How poses (T, 4, 4) may be written -> our c2w."""

CLEARLY = 0.25
"""By how much another reading must fit better before the declared one is doubted."""

_SAMPLE = 50_000


@dataclass(frozen=True)
class Fit:
    """How visible track points fall into the pictures.

    points: how many were looked at. inside: share of them in front of the camera and inside the frame. behind: share
    at or behind the camera plane. median_depth: of those in front, world units (0 when there are none). agreeing:
    share of the points inside, where the depth map knows something, that lie within 10 % of it; None without depth.
    """

    points: int
    inside: float
    behind: float
    median_depth: float
    agreeing: float | None

    @property
    def score(self) -> float:
        """One number to compare readings by, 0 .. 1."""
        return self.inside * (1.0 if self.agreeing is None else self.agreeing)


def fit(
    cameras: Cameras,
    positions: NDArray[Any],
    visibility: NDArray[Any],
    depth: NDArray[Any] | None = None,
) -> Fit:
    """Reproject visible points of positions (T, N, 3), visibility (T, N); depth (T, h, w) at any size, 0 unknown."""
    frame, track = np.nonzero(visibility)
    if len(frame) > _SAMPLE:
        chosen = np.linspace(0, len(frame) - 1, _SAMPLE).astype(int)
        frame, track = frame[chosen], track[chosen]
    if not len(frame):
        return Fit(0, 0.0, 0.0, 0.0, None)
    with np.errstate(over="ignore", invalid="ignore"):
        uv, z = geometry.project(positions[frame, track][:, None], cameras.c2w[frame], cameras.K[frame])
    uv, z = uv[:, 0], z[:, 0]
    inside = geometry.inside_image(uv, z, cameras.width, cameras.height)
    front = z > 0
    agreeing = None
    if depth is not None:
        height, width = depth.shape[1:]
        column = (uv[inside, 0] * (width / cameras.width)).astype(int)
        row = (uv[inside, 1] * (height / cameras.height)).astype(int)
        measured = depth[frame[inside], row, column]
        known = np.isfinite(measured) & (measured > 0)
        if known.sum() >= 20:
            agreeing = float((np.abs(z[inside][known] - measured[known]) < 0.1 * measured[known]).mean())
    return Fit(
        points=len(frame),
        inside=float(inside.mean()),
        behind=float(1 - front.mean()),
        median_depth=float(np.median(z[front])) if front.any() else 0.0,
        agreeing=agreeing,
    )


def choose(
    poses: geometry.Array,
    K: geometry.Array,
    size: tuple[int, int],
    positions: NDArray[Any],
    visibility: NDArray[Any],
    declared: str,
    depth: NDArray[Any] | None = None,
) -> tuple[geometry.Array, str, list[str]]:
    """c2w (T, 4, 4) of poses (T, 4, 4), the reading used (a key of READINGS) and notes.

    The declared reading is used unless another fits the tracks clearly better; then that one is, and a note says so.
    """
    fits = {
        name: fit(Cameras(to_c2w(poses), K, *size), positions, visibility, depth) for name, to_c2w in READINGS.items()
    }
    best = max(fits, key=lambda name: fits[name].score)
    if fits[best].score < fits[declared].score + CLEARLY:
        return READINGS[declared](poses), declared, []
    note = (
        f"The poses were read as {best}: so {fits[best].inside:.1%} of the visible track points lie inside the frame, "
        f"but {fits[declared].inside:.1%} as {declared}, which this solver is documented to write."
    )
    return READINGS[best](poses), best, [note]
