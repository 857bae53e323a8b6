"""RealEstate10K, and RealCam-Vid written the same way: camera files `NAME.txt` and their clips.

A clip is `NAME.mp4` or a folder `NAME` of pictures, beside its file or in `clips/` or `videos/`; `NAME.caption` may say
what it shows. The scenes stand still, so that an item is a clip under its own camera, later (`shifted`); points are
followed by the project's tracker and triangulated with the cameras that the file gives. RealCam-Vid's own index is a
Python pickle, which Retake does not open.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared import fitting, formats, lifting
from retake_shared.errors import BadFile
from retake_shared.formats import realestate10k
from retake_shared.shot import Solve

from ...footage import FootageReader
from ...solve import points
from .items import MOST_FRAMES, Item, ItemSet
from .shifted import shift_camera

_SHIFTED = 4
"""The target camera is a quarter of the clip ahead."""
_PLACES, _SUFFIXES = ("", "clips", "videos"), (".mp4", ".webm", ".mkv", "")


def open_folder(folder: Path) -> ItemSet | None:
    """The set in a folder, None when there are no such camera files in it."""
    files = sorted(path for path in folder.glob("*.txt") if realestate10k.recognises(path)) if folder.is_dir() else []
    if not files:
        if any(folder.glob("RealCam-Vid*.npz")):
            raise BadFile(
                "is RealCam-Vid's index, a Python pickle, which Retake does not open.", str(folder),
                "Write each clip's camera as a RealEstate10K file NAME.txt beside NAME.mp4.",
            )  # fmt: skip
        return None

    def load(number: int) -> Item:
        return _item(files[number])

    return ItemSet(folder.name, tuple(path.stem for path in files), load)


def _item(path: Path) -> Item:
    words = _caption(path.with_suffix(".caption"))
    with FootageReader(_clip(path)) as reader:
        found, _ = formats.read(path, reader.footage)
        solve, _ = fitting.bind(reader.footage, found)
        count = min(len(solve), MOST_FRAMES)
        video = np.stack(list(reader.frames(0, count)))
        fps: Fraction = reader.footage.fps
    return shift_camera(
        video, with_tracks(video, solve.frames(0, count)), max(1, count // _SHIFTED), fps, path.stem, words
    )


def with_tracks(video: NDArray[np.uint8], solve: Solve) -> Solve:
    """The solve with tracks of points followed in its video (F, H, W, 3): at the depth of its maps, else triangulated.

    Raises BadShot when nothing can be followed or lifted.
    """
    grey = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in video]
    height, width = grey[0].shape
    followed = points.select(points.follow(grey, lambda progress: None), (width, height))
    cameras = solve.cameras.resized(width, height)
    tracks, _ = lifting.lift(followed.uv, followed.visible, cameras, solve.depth, followed.confidence)
    return replace(solve, cameras=cameras, tracks=tracks)


def _caption(path: Path) -> str:
    """What a clip's caption file says, "" where there is none. Raises BadFile."""
    try:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"cannot be read ({error!s:.80}).", str(path), "Write it as UTF-8, or take it away.") from error


def _clip(path: Path) -> Path:
    for place in _PLACES:
        for suffix in _SUFFIXES:
            clip = path.parent / place / f"{path.stem}{suffix}"
            if clip.is_file() or (clip.is_dir() and suffix == ""):
                return clip
    raise BadFile(
        "has no clip.",
        str(path),
        f"Put {path.stem}.mp4, or a folder {path.stem} of its frames, beside it or in clips/.",
    )
