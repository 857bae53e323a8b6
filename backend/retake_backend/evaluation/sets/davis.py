"""Folders as DAVIS has them: `JPEGImages/480p/NAME/*.jpg` and, if there are, `Annotations/480p/NAME/*.png`.

Nobody has filmed an edit of these, and DAVIS knows no cameras: `Solves/NAME.npz` is what `retake solve` makes of a
clip, and `Edits/NAME.npz` (or `.json`) what is asked for. Without an edit an item asks for the clip itself, and that
is its truth; with one it has none, and only what needs none is measured. Annotations become the solve's masks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from retake_shared import archive, edit_script
from retake_shared.errors import BadFile
from retake_shared.shot import Edit, Solve

from ...training.pairs import Pair
from .items import MOST_FRAMES, Item, ItemSet, stacked
from .own import read_video


def open_folder(folder: Path) -> ItemSet | None:
    """The clips in a folder, None when it has no JPEGImages. Raises BadFile for one without a clip."""
    pictures = folder / "JPEGImages"
    if not pictures.is_dir():
        return None
    inner = sorted(path for path in pictures.iterdir() if path.is_dir())
    sized = [path for path in inner if any(below.is_dir() for below in path.iterdir())]
    clips = sorted(path for path in (sized[0] if sized else pictures).iterdir() if path.is_dir())
    if not clips:
        raise BadFile("holds no clip.", str(pictures), "Expected JPEGImages/480p/NAME/00000.jpg and so on.")

    def load(number: int) -> Item:
        return _item(folder, clips[number])

    return ItemSet(f"DAVIS {folder.name}", tuple(clip.name for clip in clips), load)


def _item(folder: Path, clip: Path) -> Item:
    video, fps = read_video(clip, MOST_FRAMES)
    solve_path = folder / "Solves" / f"{clip.name}.npz"
    if not solve_path.is_file():
        raise BadFile("is missing.", str(solve_path), f"Make it: retake solve {clip} --out {solve_path}")
    solve = archive.load_solve(solve_path)
    if len(solve) < len(video):
        raise BadFile(f"covers {len(solve)} frames, the clip has {len(video)}.", str(solve_path), "Solve it again.")
    solve = solve.frames(0, len(video))
    annotations = folder / "Annotations" / clip.relative_to(folder / "JPEGImages")
    if annotations.is_dir():
        solve = _masked(solve, annotations, len(video))
    edit = _edit(folder, clip.name, solve)
    asked = edit or Edit.identity(solve)
    return Item(
        Pair(video, video, solve, asked, fps=fps, origin={"kind": "real", "name": clip.name}), truth=edit is None
    )


def _edit(folder: Path, name: str, solve: Solve) -> Edit | None:
    for path in (folder / "Edits" / f"{name}.npz", folder / "Edits" / f"{name}.json"):
        if path.is_file():
            return edit_script.load(path, solve)[0]
    return None


def _masked(solve: Solve, folder: Path, frames: int) -> Solve:
    """The solve with the annotations as its masks; those of objects that it does not know are named by number."""
    files = sorted(folder.glob("*.png"))[:frames]
    if len(files) < frames:
        raise BadFile(f"holds {len(files)} masks, the clip has {frames} frames.", str(folder), "Copy the set again.")
    return replace(solve, masks=stacked([_labels(path) for path in files], str(folder)))


def _labels(path: Path) -> NDArray[np.uint8]:
    """(H, W) object numbers of a palette or grey PNG; 255, DAVIS' border, is background."""
    try:
        with Image.open(path) as image:
            labels = np.asarray(image if image.mode in ("P", "L") else image.convert("L"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadFile(f"is not a readable mask ({error!s:.80}).", str(path), "Copy the set again.") from error
    return np.where(labels == 255, 0, labels).astype(np.uint8)
