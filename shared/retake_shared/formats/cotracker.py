"""CoTracker's arrays: `pred_tracks` (B, T, N, 2) px, whole numbers at pixel centres, and `pred_visibility` (B, T, N).

In one .npz, or as a pair of .npy files. 2D only: `lifting.lift` needs cameras, and depth for what moves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFile
from ..lifting import Tracks2D
from . import npy, posed_depth
from .hints import Hints
from .npz import NpzFile

NAME = "CoTracker"
LOOKED_FOR = "pred_tracks and pred_visibility"

SHAPES: tuple[tuple[int | None, ...], ...] = ((1, None, None, 2), (None, None, 2))
_TRACKS = ("pred_tracks", "tracks")
_VISIBILITY = ("pred_visibility", "visibility", "visibles")


def recognises(npz: NpzFile) -> bool:
    """2D tracks under CoTracker's names, or those without "pred_"."""
    return any(npz.shape(key)[-1:] == (2,) and len(npz.shape(key)) in (3, 4) for key in _TRACKS)


def read(npz: NpzFile, hints: Hints) -> Tracks2D:
    """The tracks. Raises BadFile."""
    key = next(key for key in _TRACKS if key in npz)
    tracks = npz.read(key, *SHAPES, kinds="f")
    frames, count = tracks.shape[-3:-1]
    seen = None
    for name in _VISIBILITY:
        if name in npz:
            seen = npz.read(name, *visibility_shapes(frames, count), kinds="biuf")
            break
    size = hints.size or posed_depth.image_size(npz, "video")
    return make(tracks, seen, f"{npz.path}: {key}", NAME, size, centre=0.5)


def find_pair(path: Path) -> tuple[Path, Path] | None:
    """(tracks, visibility) .npy files: `path` and the one named like it, or those in the folder `path`; else None."""
    if path.is_dir():
        for name in ("tracks.npy", "pred_tracks.npy"):
            if (path / name).is_file():
                return find_pair(path / name)
        return None
    if path.suffix != ".npy" or not path.is_file():
        return None
    tracks = path.with_name(path.name.replace("visibility", "tracks"))
    seen = path.with_name(tracks.name.replace("tracks", "visibility"))
    if tracks == seen or not tracks.is_file() or not npy.is_npy(tracks):
        return None
    return (tracks, seen) if npy.shape(tracks)[-1:] == (2,) and len(npy.shape(tracks)) in (3, 4) else None


def read_pair(pair: tuple[Path, Path], hints: Hints) -> Tracks2D:
    """The tracks of a pair of .npy files. Raises BadFile."""
    tracks = npy.read(pair[0], *SHAPES, kinds="f")
    frames, count = tracks.shape[-3:-1]
    seen = npy.read(pair[1], *visibility_shapes(frames, count), kinds="biuf") if pair[1].is_file() else None
    return make(tracks, seen, str(pair[0]), NAME, hints.size, centre=0.5)


def visibility_shapes(frames: int, count: int) -> tuple[tuple[int | None, ...], ...]:
    """The shapes that visibility may have for tracks of that many frames and points."""
    return (1, frames, count), (frames, count), (1, frames, count, 1), (frames, count, 1)


def make(
    tracks: NDArray[Any],
    seen: NDArray[Any] | None,
    where: str,
    source: str,
    size: tuple[int, int] | None,
    centre: float,
) -> Tracks2D:
    """Tracks of (..., T, N, 2) px and visibility (..., T, N); centre: where in the file's px a pixel's centre lies."""
    frames, count = tracks.shape[-3:-1]
    if not frames or not count:
        raise BadFile(f"holds {count} tracks over {frames} frames.", where, "Track some points first.")
    uv = tracks.reshape(frames, count, 2).astype(np.float64) + centre
    visible = np.ones((frames, count), bool)
    confidence = np.ones((frames, count), np.float32)
    if seen is not None:
        confidence = np.clip(np.nan_to_num(seen.reshape(frames, count).astype(np.float32), nan=0.0), 0.0, 1.0)
        visible = confidence > 0.5
    with np.errstate(invalid="ignore"):
        wild = ~(np.abs(uv) < 1e7).all(-1)
    visible[wild], confidence[wild], uv[wild] = False, 0.0, 0.0
    if not visible.any():
        raise BadFile("no point is visible at any frame.", where, "Track the footage again.")
    return Tracks2D(uv, visible, confidence, size, source)
