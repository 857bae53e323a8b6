"""Wan-Move's pair `tracks.npy` (1, T, N, 2) in px of the image and `visibility.npy` (1, T, N). 2D only."""

from __future__ import annotations

from pathlib import Path

from ..lifting import Tracks2D
from . import cotracker, npy
from .hints import Hints

NAME = "Wan-Move"
LOOKED_FOR = "tracks.npy and visibility.npy"


def find(path: Path) -> tuple[Path, Path] | None:
    """(tracks, visibility), when `path` is one of them or their folder, and the names are not CoTracker's."""
    pair = cotracker.find_pair(path)
    return pair if pair is not None and "pred_" not in pair[0].name else None


def read(pair: tuple[Path, Path], hints: Hints) -> Tracks2D:
    """The tracks. Raises BadFile."""
    tracks = npy.read(pair[0], *cotracker.SHAPES, kinds="f")
    frames, count = tracks.shape[-3:-1]
    shapes = cotracker.visibility_shapes(frames, count)
    seen = npy.read(pair[1], *shapes, kinds="biuf") if pair[1].is_file() else None
    return cotracker.make(tracks, seen, str(pair[0]), NAME, hints.size, centre=0.0)
