"""`retake generate`: generated pairs as a data set, with the reprojection that the real `preview` makes of each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.arguments import at_least
from retake_shared.errors import BadFile

from ...engines.base import Progress
from ...progress_line import ProgressLine
from ..dataset import PairWriter
from ..moved import with_moved
from ..pairs import Pair
from .made import GeneratorSettings, make_pairs
from .scenes import SceneSettings

_AT_ONCE = 4
"""Scenes cast together; more gain nothing on a CPU."""


def generate(arguments: argparse.Namespace, check: Callable[[], None]) -> int:
    """Add examples to a data set until it has as many as asked; those that are there stay as they are."""
    for name, value, least in (
        ("--clips", arguments.clips, 1), ("--tracks", arguments.tracks, 0), ("--seed", arguments.seed, 0),
    ):  # fmt: skip
        at_least(least, name, value)
    width, height = arguments.size
    scenes = SceneSettings(frames=arguments.frames, width=width, height=height)
    settings = GeneratorSettings(scenes, tracks=arguments.tracks)
    pictures = read_pictures(arguments.pictures) if arguments.pictures else []
    began, made = time.monotonic(), 0
    with PairWriter(arguments.out, depth=False) as writer, ProgressLine(check) as line:
        writer.expect(arguments.frames, arguments.size)
        for number, pair in _pairs(settings, arguments.clips, arguments.seed, pictures, writer):
            line(Progress("generating", number, arguments.clips))
            writer.add(with_moved(pair), _name(arguments.seed, number))
            made += 1
        line(Progress("generating", arguments.clips, arguments.clips))
    rate = 3600 * made / max(time.monotonic() - began, 1e-6)
    print(f"{arguments.out}: {arguments.clips} examples, {made} of them new, {rate:.0f} an hour")
    return 0


def read_pictures(folder: Path) -> list[NDArray[np.uint8]]:
    """The pictures (H, W, 3) RGB in a folder, in order of their names. Raises BadFile where there is none."""
    found = []
    for path in sorted(folder.glob("*")):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is not None and min(picture.shape[:2]) >= 64:
            found.append(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8))
    if not found:
        raise BadFile("holds no picture of 64 px or more.", str(folder), "Give a folder of PNG or JPEG files.")
    return found


def _pairs(
    settings: GeneratorSettings, count: int, seed: int, pictures: list[NDArray[np.uint8]], there: PairWriter
) -> Iterator[tuple[int, Pair]]:
    """The numbers 0 .. count - 1 whose examples are not there yet, and their examples."""
    for first in range(0, count, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, count))
        if all(_name(seed, n) in there for n in numbers):
            continue
        pairs = make_pairs(
            settings, _AT_ONCE, int(np.random.SeedSequence((seed, first)).generate_state(1)[0]), pictures=pictures
        )
        for number, pair in zip(numbers, pairs, strict=False):
            if _name(seed, number) not in there:
                yield number, pair


def _name(seed: int, number: int) -> str:
    return f"generated-{seed}-{number:07d}"
