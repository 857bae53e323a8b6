"""SpatialTrackerV2 `result.npz`.

`coords` (T, N, 3) world, `extrinsics` (T, 4, 4) w2c, `intrinsics` (T, 3, 3) px at the saved size, `depths` (T, H, W)
0 where unsure, `video` (T, 3, H, W), `visibs` (T, N, 1) = sigmoid + 0.2, `confs` (T, N, 1) sometimes.
"""

from __future__ import annotations

import numpy as np

from ..shot import BACKGROUND, Footage, Solve
from . import trackfile
from .npz import NpzFile

NAME = "SpatialTrackerV2"
LOOKED_FOR = "coords, extrinsics, intrinsics (visibs of floats)"

VISIBLE_ABOVE = 0.5
"""The solver's own cut of `visibs`, which it saves as sigmoid + 0.2."""


def recognises(npz: NpzFile) -> bool:
    """The keys it shares with TAPIP3D, and `visibs` of floats; without `visibs`, no `query_points` either."""
    if not trackfile.is_trackfile(npz):
        return False
    return npz.headers["visibs"].dtype.kind == "f" if "visibs" in npz else "query_points" not in npz


def read(npz: NpzFile, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve and notes about what was repaired, inferred or left out. Raises BadFile."""
    file = trackfile.open_arrays(npz, footage)
    frames, count = file.coords.shape[:2]
    if "visibs" in npz:
        visibs = npz.read("visibs", (frames, count, 1), (frames, count), kinds="f").reshape(frames, count)
        visibility = visibs > VISIBLE_ABOVE
        confidence = np.clip(visibs - 0.2, 0.0, 1.0)
    else:
        visibility = trackfile.inside_frame(file)
        confidence = visibility.astype(np.float32)
        file.notes.append("The file has no `visibs`: a track counts as visible wherever it lies inside the frame.")
    if "confs" in npz and np.prod(npz.shape("confs")) == frames * count:
        confidence = npz.read("confs", kinds="f").reshape(frames, count)
    return trackfile.assemble(file, visibility, confidence, np.full(count, BACKGROUND), {}, NAME)
