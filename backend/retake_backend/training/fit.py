"""A short training on the user's own shot: clips of it at different times, each as the edit of another.

What the camera and the objects do between two moments of the footage is an edit whose truth was shot: the solve knows
it, and the later (or earlier) clip shows it. That is stage 2 of Edit-by-Track, on one video.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.shot import Edit, Solve

from ..engines.base import Progress, Report
from ..footage import FootageReader
from .config import Picture
from .framed import framed, scaled_size
from .moved import with_moved
from .pairs import Pair


@dataclass(frozen=True)
class FitSettings:
    """count: pairs drawn from the shot. nearest, furthest: seconds between the two clips (the paper: 1 to 5), as far as
    the shot is long enough. moved: reproject each source, which the draft model needs."""

    count: int = 64
    nearest: float = 1.0
    furthest: float = 5.0
    moved: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f'"count" is {self.count}, it must be at least 1')


def shot_pairs(
    reader: FootageReader,
    solve: Solve,
    picture: Picture,
    settings: FitSettings,
    seed: int,
    report: Report,
    caption: str = "",
) -> list[Pair]:
    """Pairs of clips of a shot at the size that is trained on; they share its pictures in memory.

    Raises BadShot when the shot is not longer than a clip, and what `report` raises.
    """
    whole = _shown(reader, solve, picture, report)
    starts = clip_starts(len(whole), picture.frames, float(reader.footage.fps), settings, seed)
    pairs = []
    for done, (source, target) in enumerate(starts):
        report(Progress("pairing moments of the shot", done, len(starts)))
        pair = clip_pair(whole, source, target, picture.frames, caption)
        pairs.append(with_moved(pair) if settings.moved else pair)
    return pairs


def clip_starts(frames: int, length: int, fps: float, settings: FitSettings, seed: int) -> list[tuple[int, int]]:
    """First frames of source and target clips of `length` out of `frames`, never the same. Raises BadShot."""
    last = frames - length
    if last < 1:
        raise BadShot(
            f"has {frames} frames, and a clip {length}.",
            "shot", f"Train on clips of at most {frames - 1} frames (picture.frames).",
        )  # fmt: skip
    random = np.random.default_rng(seed)
    furthest = int(np.clip(round(settings.furthest * fps), 1, last))
    nearest = int(np.clip(round(settings.nearest * fps), 1, furthest))
    starts = []
    for _ in range(settings.count):
        apart = int(random.integers(nearest, furthest + 1))
        first = int(random.integers(0, last - apart + 1))
        starts.append((first, first + apart) if random.random() < 0.5 else (first + apart, first))
    return starts


def clip_pair(whole: Pair, source: int, target: int, length: int, caption: str = "") -> Pair:
    """The clip that begins at frame `source` of a shot, and as its edit the one that begins at `target`."""
    solve = whole.solve.frames(source, source + length)
    later = whole.solve.frames(target, target + length)
    identity = Edit.identity(solve)
    origin: Mapping[str, Any] = {"kind": "real", "name": f"frames {source} and {target}"}
    return replace(
        whole,
        source=whole.source[source : source + length],
        target=whole.source[target : target + length],
        solve=solve,
        edit=replace(identity, cameras=later.cameras, positions=later.tracks.positions),
        caption=caption,
        origin=origin,
    )


def _shown(reader: FootageReader, solve: Solve, picture: Picture, report: Report) -> Pair:
    """The whole shot at the size that is trained on, as an example that changes nothing."""
    footage, frames = reader.footage, len(solve)
    size = scaled_size((footage.width, footage.height), (picture.width, picture.height))
    video: NDArray[np.uint8] = np.empty((frames, size[1], size[0], 3), np.uint8)
    for index, frame in enumerate(reader.small_frames(range(frames), size)):
        report(Progress("reading footage", index, frames))
        video[index] = frame
    solve = replace(solve, cameras=solve.cameras.resized(*size))
    pair = Pair(video, video, solve, Edit.identity(solve), fps=footage.fps)
    return framed(pair, replace(picture, frames=frames))
