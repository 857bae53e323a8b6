"""How well a video follows the target tracks: EPE, by the project's own tracker.

The tracker starts from where each target track is first visible, and its answer is compared with the track wherever
that is visible (METHODS: mean pixel distance). It errs too, so the same is done with the true video: its EPE there is
what remains of an error that is none, and the places where it stays within `solve.WITHIN` px there are those where it
can be trusted. EPE over these alone is the one to compare engines by; the share of them is told with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.geometry import inside_image
from retake_shared.shot import Edit

from ..solve.asked import follow_from
from .solve import WITHIN

MOST_TRACKS = 1000
_NEAR, _BEHIND = 10.0, 0.1
"""px of a picture 672 px wide, the side of a cell; and share of its depth, by which a track in one of the cells around
its own must be nearer to hide it."""


@dataclass(frozen=True)
class Targets:
    """N target tracks of a picture. uv: (T, N, 2) px. visible: (T, N). first: (N,) first visible frame, every N has one."""

    uv: NDArray[np.float64]
    visible: NDArray[np.bool_]
    first: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def compared(self) -> NDArray[np.bool_]:
        """(T, N): visible, and not where the tracker was told the place."""
        return self.visible & (np.arange(len(self.uv))[:, None] > self.first)


def targets(edit: Edit, size: tuple[int, int]) -> Targets:
    """At most MOST_TRACKS of an edit's tracks in a picture of size (width, height) px, and when they can be seen there.

    An edit says nothing of what hides what: a track is taken to be hidden where a nearer one lies close to it.
    """
    cameras = edit.cameras.resized(*size)
    uv, depth = cameras.project(edit.positions)
    inside = inside_image(uv, depth, *size) & edit.present
    visible = np.stack([_in_front(*frame, _NEAR * size[0] / 672) for frame in zip(uv, depth, inside, strict=True)])
    seen = np.flatnonzero(visible[:-1].any(0))
    if len(seen) > MOST_TRACKS:
        seen = seen[np.linspace(0, len(seen) - 1, MOST_TRACKS).round().astype(int)]
    return Targets(uv[:, seen], visible[:, seen], visible[:, seen].argmax(0))


def _in_front(
    uv: NDArray[np.float64], depth: NDArray[np.float64], inside: NDArray[np.bool_], near: float
) -> NDArray[np.bool_]:
    """Which tracks (N,) of one frame are inside, and have no track in the cells around theirs that is clearly nearer."""
    shown = np.flatnonzero(inside)
    kept = inside.copy()
    if len(shown):
        column, row = (np.floor(uv[shown] / near).astype(int) + 1).T
        nearest = np.full((row.max() + 2, column.max() + 2), np.inf)
        np.minimum.at(nearest, (row, column), depth[shown])
        around = np.asarray(cv2.erode(nearest, np.ones((3, 3), np.uint8)))
        kept[shown[depth[shown] * (1 - _BEHIND) > around[row, column]]] = False
    return kept


Answer = tuple[NDArray[np.float64], NDArray[np.bool_]]


def retrack(video: NDArray[np.uint8], wanted: Targets, check: Callable[[], None]) -> Answer:
    """Distance (T, N) px of the re-tracked points from the target tracks, and where (T, N) they were seen.

    video: (T, H, W, 3) uint8. Where it shows nothing to follow (black, flat), points stay where they are.
    """
    grey = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in video]
    start = wanted.uv[wanted.first, np.arange(len(wanted))]
    uv, seen = follow_from(grey, start, wanted.first, lambda progress: check())
    return np.linalg.norm(uv - wanted.uv, axis=2), seen


def epe(distance: NDArray[np.float64], where: NDArray[np.bool_]) -> float:
    """Mean of the distances (T, N) px at the places `where` (T, N); nan where there is none."""
    return float(distance[where].mean()) if where.any() else float("nan")


def proven(true_distance: NDArray[np.float64], wanted: Targets) -> NDArray[np.bool_]:
    """(T, N) the compared places where the tracker, on the true video, is right within WITHIN px."""
    right: NDArray[np.bool_] = wanted.compared & (true_distance <= WITHIN)
    return right
