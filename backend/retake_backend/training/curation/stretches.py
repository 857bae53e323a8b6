"""Which parts of a video become examples: its shots, and in each shot two clips a few seconds apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot

from ...engines.base import Progress, Report
from ...footage import FootageReader
from ...solve import footing
from ...solve.stages import LONGER_SIDE, check_fov
from ..framed import scaled_size

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm"})
_LOOK = 160
"""px of the longer side at which cuts are looked for."""
_CHUNK, _OVERLAP = 2000, 8
"""Frames that are looked at at once, and how many of the neighbours' with them."""


@dataclass(frozen=True)
class Settings:
    """What examples are wanted. size: (width, height) px. frames: of each clip. tracks: at most so many. fps: about
    what the clips have; of faster video every n-th frame is taken. apart: seconds from the source's beginning to the
    target's, from and to. fov: degrees across the footage's width, where the user knows them. seed: of what is drawn."""

    size: tuple[int, int] = (448, 256)
    frames: int = 17
    tracks: int = 2000
    fps: float = 16.0
    apart: tuple[float, float] = (1.0, 5.0)
    fov: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size) < 16 or max(self.size) > 4096:
            raise BadShot(f"is {self.size[0]}x{self.size[1]}.", "--size", "Use 16 to 4096 px a side.")
        if not 5 <= self.frames <= 321:
            raise BadShot(f"is {self.frames}.", "--frames", "Use 5 to 321; 4n + 1 suits Wan's VAE.")
        if self.tracks < 1:
            raise BadShot(f"is {self.tracks}.", "--tracks", "Use 1 or more.")
        if not 0 < self.apart[0] <= self.apart[1] <= 60:
            raise BadShot(f"is {self.apart[0]:g}:{self.apart[1]:g} s.", "--apart", "Use seconds such as 1:5.")
        if not self.fps > 0:
            raise BadShot(f"is {self.fps:g}.", "--fps", "Use a rate such as 16.")
        if self.fov is not None:
            check_fov(self.fov)  # or every stretch would fail by it
        if self.seed < 0:
            raise BadShot(f"is {self.seed}.", "--seed", "Use 0 or more.")

    def step(self, fps: float) -> int:
        """Every how many-th frame of video of that rate is taken."""
        return max(1, round(fps / self.fps))


@dataclass(frozen=True)
class Stretch:
    """Two clips of one shot: `frames` frames from `start`, and as many `gap` taken frames later; every step-th."""

    start: int
    step: int
    frames: int
    gap: int

    @property
    def chosen(self) -> range:
        """The video's frames from the first of the source to the last of the target, as they are taken."""
        return range(self.start, self.start + (self.gap + self.frames - 1) * self.step + 1, self.step)


def videos(folder: Path) -> list[Path]:
    """All video files under a folder, in order."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def shots(reader: FootageReader, report: Report) -> list[tuple[int, int]]:
    """(first, stop) of every shot, cut where one scene ends."""
    known = reader.footage
    scale = min(1.0, _LOOK / max(known.width, known.height))
    size = (max(16, round(known.width * scale)), max(16, round(known.height * scale)))
    found = [0]
    for first in range(0, known.frames, _CHUNK):
        stop = min(first + _CHUNK, known.frames)
        begun = max(0, first - _OVERLAP)
        grays: list[NDArray[np.uint8]] = []
        for picture in reader.small_frames(range(begun, min(stop + _OVERLAP, known.frames)), size):
            report(Progress("looking for cuts", begun + len(grays), known.frames))
            grays.append(np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8))
        found += [begun + t for t in footing.cuts(grays) if max(first, 1) <= begun + t < stop]
    return list(zip(found, [*found[1:], known.frames], strict=True))


def stretches(shot: tuple[int, int], fps: float, settings: Settings, random: np.random.Generator) -> list[Stretch]:
    """What is taken of a shot, one behind the other; nothing where it is too short."""
    step, frames = settings.step(fps), settings.frames
    least, most = (max(1, round(seconds * fps / step)) for seconds in settings.apart)
    taken, start = [], shot[0]
    while (room := (shot[1] - 1 - start) // step + 1 - frames) >= least:
        gap = min(int(random.integers(least, most + 1)), room)
        taken.append(Stretch(start, step, frames, gap))
        start += (gap + frames) * step
    return taken


def solve_size(footage: tuple[int, int], size: tuple[int, int]) -> tuple[int, int] | None:
    """(width, height) px of the pictures that are solved for examples of `size`: up to twice as large, as far as the
    footage and the solver go. None where the footage is smaller than the examples."""
    largest = min(footage[0] / size[0], footage[1] / size[1])
    if largest < 1:
        return None
    factor = max(1.0, min(2.0, largest, LONGER_SIDE / max(size)))
    return round(size[0] * factor), round(size[1] * factor)


def field_of_view(fov: float | None, footage: tuple[int, int], size: tuple[int, int]) -> float | None:
    """Degrees across what `pictures` cuts out, from those across the whole width of the footage."""
    if fov is None:
        return None
    kept = size[0] / scaled_size(footage, size)[0]
    return float(np.degrees(2 * np.arctan(kept * np.tan(np.radians(fov) / 2))))


def pictures(reader: FootageReader, chosen: range, size: tuple[int, int], report: Report) -> NDArray[np.uint8]:
    """(T, h, w, 3) uint8 of frames of the footage, the middle of the picture in the proportions of `size`."""
    scaled = scaled_size((reader.footage.width, reader.footage.height), size)
    left, top = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    taken = np.empty((len(chosen), size[1], size[0], 3), np.uint8)
    for at, picture in enumerate(reader.small_frames(chosen, scaled)):
        report(Progress("reading footage", at, len(chosen)))
        taken[at] = picture[top : top + size[1], left : left + size[0]]
    return taken
