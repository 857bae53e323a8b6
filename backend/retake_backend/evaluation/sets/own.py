"""Retake's own sets: the sample shot, generated scenes that no training has seen, data sets, folders of examples."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from retake_shared import archive
from retake_shared.errors import BadFile

from ...footage import FootageReader
from ...training import dataset
from ...training.pairs import Pair
from .items import Item, ItemSet

SAMPLE = Path(__file__).resolve().parents[4] / "shared" / "sample_shot"
HELD_OUT, HELD_OUT_SEED = 16, 2_100_000_000
"""Generated scenes in the set "held-out", and the seed of the first: beyond those that trainings begin with."""
_FRAMES, _SIZE = 17, (320, 192)


def sample() -> ItemSet:
    """The sample shot of the repository: footage, its exact solve, an edit, and the edited scene rendered."""

    def load(number: int) -> Item:
        videos = SAMPLE / "walk.mp4", SAMPLE / "edited.mp4"
        archives = SAMPLE / "walk.solve.npz", SAMPLE / "edited.edit.npz"
        return Item(_pair(*videos, *archives, {"kind": "synthetic", "name": "sample"}))

    return ItemSet("sample", ("sample",), load)


def held_out() -> ItemSet:
    """Scenes of the generator by seeds of their own: made when they are asked for, the same on every machine."""

    def load(number: int) -> Item:
        from ...training.generator.made import GeneratorSettings, make_pairs
        from ...training.generator.scenes import SceneSettings

        # Every camera moves: an edit that leaves all as it was has nothing to measure.
        scenes = SceneSettings(frames=_FRAMES, width=_SIZE[0], height=_SIZE[1], still_camera=0.0)
        return Item(make_pairs(GeneratorSettings(scenes), 1, HELD_OUT_SEED + number)[0])

    return ItemSet("held-out", tuple(f"scene {number:02d}" for number in range(HELD_OUT)), load)


def open_data_set(folder: Path) -> ItemSet | None:
    """A folder of shards (`training.dataset`), None when it is none. Raises BadFile for a damaged one."""
    try:
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(about, dict) or about.get("retake") != "dataset":
        return None
    examples = dataset.Examples([folder])

    def load(number: int) -> Item:
        return Item(examples.name_and_pair(number)[1])

    return ItemSet(folder.name, tuple(f"{number:06d}" for number in range(len(examples))), load)


def open_folders(folder: Path) -> ItemSet | None:
    """A folder of folders, each with solve.npz, edit.npz, source and target (a video, or a folder of pictures)."""
    found = sorted(inner for inner in folder.iterdir() if (inner / "solve.npz").is_file()) if folder.is_dir() else []
    if not found:
        return None

    def load(number: int) -> Item:
        inner = found[number]
        videos = (_video(inner, "source"), _video(inner, "target"))
        return Item(_pair(*videos, inner / "solve.npz", inner / "edit.npz", {"kind": "real", "name": inner.name}))

    return ItemSet(folder.name, tuple(inner.name for inner in found), load)


def read_video(path: Path, most: int | None = None) -> tuple[NDArray[np.uint8], Fraction]:
    """(F, H, W, 3) and the rate of footage, its first `most` frames. Raises BadFile."""
    with FootageReader(path) as reader:
        count = min(reader.footage.frames, most or reader.footage.frames)
        return np.stack(list(reader.frames(0, count))), reader.footage.fps


def _video(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.mp4", folder / name):
        if path.exists():
            return path
    raise BadFile(f"holds neither {name}.mp4 nor a folder {name}.", str(folder), "Put the missing video there.")


def _pair(source: Path, target: Path, solve: Path, edit: Path, origin: dict[str, str]) -> Pair:
    (before, fps), (after, _) = read_video(source), read_video(target)
    return Pair(before, after, archive.load_solve(solve), archive.load_edit(edit), fps=fps, origin=origin)
