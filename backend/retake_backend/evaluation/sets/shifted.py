"""Footage that is its own truth: over a scene that stands still, target camera t is source camera t + K.

The target video is then the same footage, K frames later, and nothing had to be filmed twice.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from retake_shared import fitting, formats
from retake_shared.errors import BadShot, RetakeError
from retake_shared.shot import BACKGROUND, Edit, Solve

from ...footage import FootageReader
from ...training.pairs import Pair
from .items import Item, ItemSet

LEAST_FRAMES = 5


def open_named(text: str) -> ItemSet:
    """The set "shifted:FOOTAGE:SOLVE:K": one item. Raises RetakeError."""
    parts = text.removeprefix("shifted:").rsplit(":", 2)
    if len(parts) != 3 or not parts[2].removeprefix("-").isdecimal():
        raise RetakeError("is not shifted:FOOTAGE:SOLVE:K.", text, "For example shifted:clip.mp4:clip.solve.npz:8.")
    footage, solve_path, shift = Path(parts[0]), Path(parts[1]), int(parts[2])

    def load(number: int) -> Item:
        with FootageReader(footage) as reader:
            found, _ = formats.read(solve_path, reader.footage)
            solve, _ = fitting.bind(reader.footage, found)
            video = np.stack(list(reader.frames(0, len(solve))))
            return shift_camera(video, solve, shift, reader.footage.fps, footage.stem)

    return ItemSet(f"shifted by {shift}", (footage.stem,), load)


def shift_camera(
    video: NDArray[np.uint8], solve: Solve, shift: int, fps: Fraction, name: str, caption: str = ""
) -> Item:
    """The item of a video (F, H, W, 3) whose scene stands still, and its solve; shift: frames, either way.

    Tracks of objects are left out: they would not stand where the truth shows them. Raises BadShot when too few frames
    are left.
    """
    count = len(video) - abs(shift)
    if shift == 0 or count < LEAST_FRAMES:
        raise BadShot(
            f"a shift of {shift} leaves {max(count, 0)} of {len(video)} frames to compare.", f"{name}: shift",
            f"Use 1 .. {max(len(video) - LEAST_FRAMES, 1)}, or as much the other way.",
        )  # fmt: skip
    here, there = (0, shift) if shift > 0 else (-shift, 0)
    still = replace(solve, tracks=solve.tracks.select(solve.tracks.objects == BACKGROUND))
    source = still.frames(here, here + count)
    edit = replace(Edit.identity(source), cameras=solve.cameras.frames(there, there + count))
    origin = {"kind": "real", "name": name, "shift": shift}
    videos = (video[here : here + count], video[there : there + count])
    return Item(Pair(*videos, source, edit, fps=fps, caption=caption, origin=origin))
