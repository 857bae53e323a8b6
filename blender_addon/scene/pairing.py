"""Which solve belongs to a video, and which video to a solve, by where they lie."""

from __future__ import annotations

from pathlib import Path

from retake_shared import formats
from retake_shared.errors import RetakeError
from retake_shared.formats import colmap, cotracker, wanmove

VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mxf", ".mpg", ".mpeg", ".ts")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".exr", ".webp", ".bmp")
SOLVES = (".npz", ".bin", ".txt", ".json", ".csv")
KNOWN = (
    "solve.npz", "result.npz", "results.npz", "predictions.npz", "trajectory.npz", "transforms.json", "sparse/0",
    "sparse",
)  # fmt: skip
"""What solvers call their results, where these are not named like the video."""


def is_footage(path: Path) -> bool:
    """Whether this is a video or a picture, by its name."""
    return path.suffix.lower() in (*VIDEOS, *PICTURES)


def find_solve(footage: Path) -> Path | None:
    """A solve of the video that lies with it: named like it, the only one of its folder, or a result around it."""
    if _is_solve(footage):  # the video of a ViPE or GEN3C result
        return footage
    stem, folder = footage.stem, footage.parent
    entries = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() or entry.suffix.lower() == ".npz"]
    like_it = [entry for entry in entries if entry.stem.startswith(stem) or stem.startswith(entry.stem)]
    for entry in sorted(like_it, key=lambda e: abs(len(e.stem) - len(stem))):
        for place in (entry, entry / "sparse", entry / "sparse" / "0", entry / "0"):
            if place.exists() and _is_solve(place):
                return place
    known = [folder / name for name in KNOWN if (folder / name).exists()]
    found = [place for place in known or (e for e in entries if e.is_file()) if _is_solve(place)]
    if found:
        return found[0] if known or len(found) == 1 else None
    return folder if _is_solve(folder, but_not=(colmap.NAME,)) else None  # whose models may be of other videos


def find_footage(solve: Path) -> Path | None:
    """The video that lies with the solve: in a result, named like it, or the only one of its folder; without a video
    the first picture of those that were solved."""
    folder = solve if solve.is_dir() else solve.parent
    places = (folder / "rgb", folder.parent / "rgb", folder, folder.parent)
    for place in places:
        videos = [f for f in sorted(place.iterdir()) if f.suffix.lower() in VIDEOS] if place.is_dir() else []
        like_it = [f for f in videos if f.stem.startswith(solve.stem) or solve.stem.startswith(f.stem)]
        if len(like_it) == 1 or len(videos) == 1:
            return (like_it or videos)[0]
    for place in (folder / "images", folder.parent / "images", *places[:2]):
        pictures = [f for f in sorted(place.iterdir()) if f.suffix.lower() in PICTURES] if place.is_dir() else []
        if len(pictures) > 1:
            return pictures[0]
    return None


def _is_solve(path: Path, but_not: tuple[str, ...] = ()) -> bool:
    """Whether a solve with cameras lies there, of a solver that is not among those named."""
    try:
        return formats.detect(path) not in (*but_not, cotracker.NAME, wanmove.NAME)
    except RetakeError:
        return False
