"""Which trackers can follow the points of a solve: Retake's own, and others where the user has installed them.

Trackers are known by name. The networks of others (`plugins`) are imported only to be used, and never downloaded: their
code and weights come under licences of their own. A further tracker comes in through the environment, as an engine
does: `RETAKE_TRACKERS="package.module:Class other.module:Class"`, each class with its own `name`.
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import RetakeError

from ..engines.base import Progress, Report
from . import points
from .stages import PointTracks

DEFAULT = "flow"

OVERLAP = 8
"""Frames that two windows of a long clip share: what is seen in one of them goes on in the next window."""

Picture = NDArray[np.uint8]

_BUILT_IN = {
    DEFAULT: "retake_backend.solve.trackers:FlowTracker",
    "cotracker3": "retake_backend.solve.plugins:CoTracker3",
    "tapir": "retake_backend.solve.plugins:Tapir",
    "spatialtracker2": "retake_backend.solve.plugins:SpatialTracker2",
}


class Frames(Protocol):
    """(h, w, 3) uint8 sRGB frames of the working picture, by number; a list will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Picture: ...


class Tracker(ABC):
    """Follows points through a clip. name: as the user gives it. licence: of its code and weights, in words."""

    name: ClassVar[str]
    licence: ClassVar[str]

    @classmethod
    def missing(cls) -> str:
        """What must be installed before it can be used, in words; "" when nothing is. Imports nothing of it."""
        return ""

    @classmethod
    def available(cls) -> bool:
        """Whether it can be used here."""
        return not cls.missing()

    @classmethod
    def version(cls) -> str:
        """Changes with its code and its weights; results kept from runs before are then made again."""
        return ""

    @abstractmethod
    def follow(self, frames: Frames, report: Report) -> PointTracks:
        """Points of all frames, px of the working picture with pixel centres at .5. Raises Cancelled, RetakeError."""


class FlowTracker(Tracker):
    """Retake's own: `points.follow`. It needs no weights."""

    name = DEFAULT
    licence = "part of Retake"

    @classmethod
    def version(cls) -> str:
        return str(points.VERSION)

    def follow(self, frames: Frames, report: Report) -> PointTracks:
        grays = [np.asarray(cv2.cvtColor(frames[t], cv2.COLOR_RGB2GRAY), np.uint8) for t in range(len(frames))]
        return points.follow(grays, report)


@dataclass(frozen=True)
class Listed:
    """A tracker as it stands here. missing: what to install first, "" when it can be used."""

    name: str
    licence: str
    missing: str


def listing() -> list[Listed]:
    """Every tracker that is known, usable or not; nothing of theirs is imported."""
    return [Listed(tracker.name, tracker.licence, tracker.missing()) for tracker in _all().values()]


def create(name: str = DEFAULT) -> Tracker:
    """The tracker called `name`. Raises RetakeError: which there are, or what to install for it under which licence."""
    known = _all()
    if name not in known:
        names = ", ".join(f"{t.name} ({'ready' if t.available() else 'not installed'})" for t in known.values())
        raise RetakeError(f'there is no tracker "{name}".', "--tracker", f"This backend knows: {names}.")
    tracker = known[name]
    if missing := tracker.missing():
        raise RetakeError(f"{name} is not installed here.", "--tracker", f"{missing} Its licence: {tracker.licence}.")
    return tracker()


def _load(place: str) -> type[Tracker]:
    module, _, attribute = place.partition(":")
    try:
        tracker: type[Tracker] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RetakeError(
            f"{place} cannot be loaded ({error}).", "RETAKE_TRACKERS", "Correct it: package.module:Class."
        ) from error
    return tracker


def _all() -> dict[str, type[Tracker]]:
    """By name, the environment's last: they may replace one of the others."""
    places = [*_BUILT_IN.values(), *os.environ.get("RETAKE_TRACKERS", "").split()]
    return {tracker.name: tracker for tracker in map(_load, places)}


# --- for trackers that are asked for given points in a few frames -----------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """Where n points are in t frames. uv: (t, n, 2) px, pixel centres at .5. visible: (t, n). confidence: (t, n)."""

    uv: NDArray[np.float32]
    visible: NDArray[np.bool_]
    confidence: NDArray[np.float32]


Ask = Callable[[list[Picture], NDArray[np.float32]], Answer]
"""Frames of a window, and (n, 3) float32 of the window's frame, x, y px where each point is given -> all its frames."""


def in_windows(
    frames: Frames, ask: Ask, report: Report, *, window: int, at_once: int, aimed: int = points.POINTS
) -> PointTracks:
    """Cover a clip of any length with tracks of a tracker that follows given points through one window of frames.

    window: frames. at_once: points times frames that `ask` is given at most. aimed: points to aim at in a frame. New
    points are given where none is, in the first, last and middle frame of a window; what is seen where two windows
    overlap goes on in the later one.
    """
    count = len(frames)
    height, width = frames[0].shape[:2]
    found = _Found(count, (width, height), max(6.0, float(np.sqrt(width * height / aimed))))
    for start, stop in windows(count, window):
        pictures = [frames[t] for t in range(start, stop)]
        most = max(16, at_once // len(pictures))

        def answers(queries: NDArray[np.float32]) -> Answer:
            parts = []
            for first in range(0, len(queries), most):  # noqa: B023 - called within this turn only
                report(Progress("following points", start, count))  # noqa: B023
                parts.append(ask(pictures, queries[first : first + most]))  # noqa: B023
            return Answer(*(np.concatenate([getattr(p, k) for p in parts], 1) for k in vars(parts[0])))

        rows, seen_last = found.recent(start)
        if len(rows):
            given = found.uv[seen_last, rows]
            found.go_on(start, rows, seen_last, answers(_queries(seen_last - start, given)))
        for at in dict.fromkeys((start, stop - 1, (start + stop) // 2)):
            places = found.uncovered(at)
            if len(places):
                found.add(start, answers(_queries(np.full(len(places), at - start), places)))
    report(Progress("following points", count, count))
    made = PointTracks(found.uv, found.visible, found.confidence)
    return made.select(made.lengths >= min(points.SHORTEST, count))


def windows(count: int, window: int) -> list[tuple[int, int]]:
    """(start, stop) of windows over `count` frames, as even as can be, each sharing OVERLAP frames with the next."""
    if count <= window:
        return [(0, count)]
    many = -(-(count - OVERLAP) // (window - OVERLAP))
    starts = np.linspace(0, count - window, many).round().astype(int)
    return [(int(start), int(start) + window) for start in starts]


def _queries(t: NDArray[np.int64], uv: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.column_stack([t, uv]).astype(np.float32)


class _Found:
    """All tracks so far; new ones are joined on the right."""

    def __init__(self, count: int, size: tuple[int, int], spacing: float) -> None:
        self.size, self.spacing, self.done = size, spacing, 0
        self.uv = np.full((count, 0, 2), np.nan, np.float32)
        self.visible = np.zeros((count, 0), bool)
        self.confidence = np.zeros((count, 0), np.float32)

    def recent(self, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tracks seen in a window's frames before it was looked at, and the last frame in which each was."""
        stop = self.done
        seen = self.visible[start:stop]
        rows = np.flatnonzero(seen.any(0)) if stop > start else np.zeros(0, np.int64)
        return rows, stop - 1 - np.argmax(seen[::-1, rows], 0) if len(rows) else np.zeros(0, np.int64)

    def go_on(self, start: int, rows: NDArray[np.int64], last: NDArray[np.int64], answer: Answer) -> None:
        """Write the answer, from the frame after the last one in which each track was seen."""
        self._write(start, rows, answer, np.arange(start, start + len(answer.uv))[:, None] > last)

    def add(self, start: int, answer: Answer) -> None:
        """New tracks, in all frames of the window."""
        new, count = answer.uv.shape[1], len(self.uv)
        rows = np.arange(self.uv.shape[1], self.uv.shape[1] + new)
        self.uv = np.concatenate([self.uv, np.full((count, new, 2), np.nan, np.float32)], 1)
        self.visible = np.concatenate([self.visible, np.zeros((count, new), bool)], 1)
        self.confidence = np.concatenate([self.confidence, np.zeros((count, new), np.float32)], 1)
        self._write(start, rows, answer, np.ones(answer.visible.shape, bool))

    def _write(self, start: int, rows: NDArray[np.int64], answer: Answer, where: NDArray[np.bool_]) -> None:
        uv = answer.uv
        inside = ((uv >= 0) & (uv <= np.asarray(self.size, np.float32))).all(-1)  # nan is not inside
        t, n = np.nonzero(where & answer.visible & inside)
        self.uv[start + t, rows[n]] = uv[t, n]
        self.visible[start + t, rows[n]] = True
        self.confidence[start + t, rows[n]] = np.clip(answer.confidence[t, n], 0, 1)
        self.done = max(self.done, start + len(uv))

    def uncovered(self, t: int) -> NDArray[np.float32]:
        """(n, 2) px, middles of the places of frame t in which no track is seen."""
        columns, rows = (max(1, round(side / self.spacing)) for side in self.size)
        cell = np.array(self.size, np.float32) / (columns, rows)
        taken = np.zeros((rows, columns), bool)
        at = np.floor(self.uv[t, self.visible[t]] / cell).astype(int)
        taken[np.clip(at[:, 1], 0, rows - 1), np.clip(at[:, 0], 0, columns - 1)] = True
        row, column = np.nonzero(~taken)
        return np.asarray((np.column_stack([column, row]) + 0.5) * cell, np.float32)
