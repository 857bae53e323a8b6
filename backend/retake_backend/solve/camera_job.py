"""What every way to cameras begins from: the points that take part, the picture, the focal length where it is known.

Where nothing tells the focal length it is guessed here; the limits that all ways share are here as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot

from ..engines.base import Progress, Report
from .bundle import Array
from .stages import Focal, PointTracks

ASSUMED_DEGREES = 60.0
"""Field of view across the longer side where nothing tells it: between a phone's and a 35 mm lens."""

LEAST_POINTS = 40
"""In all."""

LEAST_SEEN = 12
"""Points in a frame that has a camera of its own."""

STILL = 1.5
"""px, how far from where the cameras put it a point may be seen that stands still."""

_STEPS = 6


@dataclass(frozen=True)
class Job:
    """What every way needs. points: those that take part; rows: which of all points, `every`, they are."""

    points: PointTracks
    rows: NDArray[np.int64]
    every: PointTracks
    size: tuple[int, int]
    focal: Focal | None
    report: Report
    _step: list[int] = field(default_factory=lambda: [0])

    @classmethod
    def of(
        cls,
        points: PointTracks,
        size: tuple[int, int],
        focal: Focal | None,
        hint: NDArray[np.bool_] | None,
        report: Report,
    ) -> Job:
        take = points.lengths >= min(3, points.frame_count)
        if hint is not None:
            take &= np.asarray(hint, bool)
        rows = np.flatnonzero(take)
        if len(rows) < LEAST_POINTS:
            raise BadShot(
                f"only {len(rows)} points could be followed.",
                "camera solve",
                "The picture has too little texture, is too dark or blurred, or too much of it is masked.",
            )
        return cls(points.select(rows), rows, points, size, focal, report)

    @property
    def count(self) -> int:
        """Of all points."""
        return len(self.every)

    @property
    def given(self) -> float | None:
        """px."""
        return self.focal.px if self.focal else None

    @property
    def guess(self) -> float:
        """px, the focal length where nothing tells it."""
        return self.given or max(self.size) / 2 / float(np.tan(np.radians(ASSUMED_DEGREES) / 2))

    @property
    def expected(self) -> float | None:
        """px, about where an adjustment may look for the focal length; None where it is known."""
        return None if self.focal else self.guess

    @property
    def centre(self) -> tuple[float, float]:
        return self.size[0] / 2, self.size[1] / 2

    def at(self, step: int) -> None:
        self._step[0] = step
        self.check()

    def check(self) -> None:
        """Raises Cancelled when the user wants the work to stop."""
        self.report(Progress("solving cameras", self._step[0], _STEPS))

    def all_points(self, values: NDArray, empty: float | bool) -> NDArray:
        """Values of the points that take part (last axis, or first of (n, 3)) for all points."""
        if values.ndim == 2 and values.shape[0] == len(self.rows) and values.shape[1] == 3:
            out = np.full((self.count, 3), empty, values.dtype)
            out[self.rows] = values
            return out
        out = np.full((*values.shape[:-1], self.count), empty, values.dtype)
        out[..., self.rows] = values
        return out


def zoom_note(f: Array) -> str:
    return f"The focal length changes by a factor of {f.max() / f.min():.2f} (zoom)."
