"""Thousands of points followed through a clip: long, over the whole frame, honest about when they are lost."""

from __future__ import annotations

from collections.abc import Sequence

from ..engines.base import Report
from .stages import Gray, PointTracks

VERSION = 1


def follow(frames: Sequence[Gray], report: Report) -> PointTracks:
    """Points of all frames, (h, w) uint8 each, all of one size. Same frames, same points. Raises Cancelled."""
    raise NotImplementedError


def select(points: PointTracks, size: tuple[int, int], count: int = 3000) -> PointTracks:
    """At most `count` of the points: the longest, evenly over frame and clip."""
    raise NotImplementedError


def cuts(frames: Sequence[Gray]) -> list[int]:
    """Frames that begin a new scene, without the first."""
    raise NotImplementedError


def trouble(frames: Sequence[Gray]) -> str:
    """Why these frames cannot be followed (black, frozen, noise), in words, or ""."""
    raise NotImplementedError
