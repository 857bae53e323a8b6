"""Masks of objects: read from the user's files, made by a click, drawn from the points of an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Report
from ..weights.store import WeightStore
from .stages import CameraSolve, ObjectGroups, Pictures, PointTracks


@dataclass(frozen=True)
class GivenMasks:
    """labels: (T, h, w) uint8 object numbers at any size, 0 background. names: of the numbers. source: in words."""

    labels: NDArray[np.uint8]
    names: Mapping[int, str] = field(default_factory=dict)
    source: str = "masks given"


def read(folder: Path, frames: range, size: tuple[int, int]) -> GivenMasks:
    """The user's masks in a folder (or one video) for `frames` of the footage, at `size` (width, height) at most.

    Either one image per frame of object numbers per pixel, or of one colour per object, or one video of such; or one
    folder or video per object of black and white, named by it. `names.txt` holds lines "1 walker". Raises BadFile or
    BadShot saying which file is missing or does not fit.
    """
    raise NotImplementedError


def click(
    frames: Pictures,
    count: int,
    frame: int,
    xy: tuple[float, float],
    report: Report,
    store: WeightStore | None = None,
) -> NDArray[np.bool_]:
    """(T, h, w) where the object is that the user clicked on in `frame` at xy px, followed through all frames.

    Needs the weights of EdgeTAM or SAM 2; raises MissingWeights.
    """
    raise NotImplementedError


def draw(
    points: PointTracks,
    solve: CameraSolve,
    groups: ObjectGroups,
    pictures: Pictures,
    rows: int,
    report: Callable[[int], None],
) -> NDArray[np.uint8]:
    """(T, rows, w) uint8 object numbers per pixel, from labelled points and the colours around them."""
    raise NotImplementedError
