"""Which solve belongs to a video, and which video to a solve, by where they lie."""

from __future__ import annotations

from pathlib import Path

from retake_shared import formats
from retake_shared.errors import RetakeError

VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mxf", ".mpg", ".mpeg", ".ts")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".exr", ".webp", ".bmp")
SOLVES = (".npz", ".bin", ".txt")


def is_footage(path: Path) -> bool:
    """Whether this is a video or a picture, by its name."""
    return path.suffix.lower() in (*VIDEOS, *PICTURES)


def find_solve(footage: Path) -> Path | None:
    """A solve of the video that lies with it: named like it, the only one of its folder, or a ViPE result around it."""
    if _is_solve(footage):  # the video of a ViPE result
        return footage
    stem, folder = footage.stem, footage.parent
    entries = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() or entry.suffix.lower() == ".npz"]
    like_it = [entry for entry in entries if entry.stem.startswith(stem) or stem.startswith(entry.stem)]
    for entry in sorted(like_it, key=lambda e: abs(len(e.stem) - len(stem))):
        for place in (entry, entry / "sparse", entry / "sparse" / "0", entry / "0"):
            if place.exists() and _is_solve(place):
                return place
    known = ("solve.npz", "result.npz", "sparse/0", "sparse")
    found = [folder / name for name in known if (folder / name).exists()] or [e for e in entries if e.is_file()]
    found = [place for place in found if _is_solve(place)]
    return found[0] if len(found) == 1 or (found and found[0].name in known) else None


def find_footage(solve: Path) -> Path | None:
    """The video that lies with the solve: in a ViPE result, named like it, or the only one of its folder."""
    folder = solve if solve.is_dir() else solve.parent
    for place in (folder / "rgb", folder.parent / "rgb", folder, folder.parent):
        videos = [f for f in sorted(place.iterdir()) if f.suffix.lower() in VIDEOS] if place.is_dir() else []
        like_it = [f for f in videos if f.stem.startswith(solve.stem) or solve.stem.startswith(f.stem)]
        if len(like_it) == 1 or len(videos) == 1:
            return (like_it or videos)[0]
    return None


def _is_solve(path: Path) -> bool:
    try:
        formats.detect(path)
    except RetakeError:
        return False
    return True
