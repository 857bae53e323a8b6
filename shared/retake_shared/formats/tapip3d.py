"""TAPIP3D `*.result.npz`.

`coords` (T, N, 3) world, `visibs` (T, N) bool, `extrinsics` (T, 4, 4) w2c, `intrinsics` (T, 3, 3) px at the saved
size, `video` (T, 3, H, W), `depths` (T, H, W), `query_points` (N, 4). Two keys of ours may be added to such a file:
`segments` (N,), the object number of each track, and `segment_names`, a JSON text ({"1": "man"} or ["man", ...]) or
an array of strings; without names the objects are "object 1", "object 2", ...
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFile
from ..shot import BACKGROUND, Footage, Solve
from . import mending, trackfile
from .npz import NpzFile

NAME = "TAPIP3D"
LOOKED_FOR = "coords, extrinsics, intrinsics, visibs of booleans or query_points"


def recognises(npz: NpzFile) -> bool:
    """The keys it shares with SpatialTrackerV2, and `visibs` of booleans; without `visibs`, `query_points`."""
    if not trackfile.is_trackfile(npz):
        return False
    return npz.headers["visibs"].dtype.kind in "biu" if "visibs" in npz else "query_points" in npz


def read(npz: NpzFile, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve and notes about what was repaired, inferred or left out. Raises BadFile."""
    file = trackfile.open_arrays(npz, footage)
    frames, count = file.coords.shape[:2]
    if "visibs" in npz:
        visibs = npz.read("visibs", (frames, count), (frames, count, 1), kinds="biu").reshape(frames, count)
        visibility = visibs.astype(bool)
    else:
        visibility = trackfile.inside_frame(file)
        file.notes.append("The file has no `visibs`: a track counts as visible wherever it lies inside the frame.")
    objects = np.full(count, BACKGROUND)
    names: dict[int, str] = {}
    if "segments" in npz:
        objects = npz.read("segments", (count,), kinds="iub").astype(np.int64)
        if count and (objects.min() < 0 or objects.max() > 65535):
            raise BadFile("object numbers must be 0 .. 65535.", f"{npz.path}: segments", "Number the objects from 1.")
        names = _segment_names(npz, objects)
    return trackfile.assemble(file, visibility, visibility.astype(np.float32), objects, names, NAME)


def _segment_names(npz: NpzFile, objects: NDArray[Any]) -> dict[int, str]:
    """Object number -> name, for the numbers that occur. A list names 0, 1, ..., or 1, 2, ... when one entry short."""
    if "segment_names" not in npz:
        return {}
    given: Any = npz.text("segment_names")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise BadFile("is not JSON.", f"{npz.path}: segment_names", 'Expected {"1": "name", ...}.') from error
    highest = int(objects.max(initial=0))
    if isinstance(given, list):
        first = 1 if len(given) == highest else 0
        pairs = [(str(number), name) for number, name in enumerate(given, first)]
    elif isinstance(given, dict):
        pairs = list(given.items())
    else:
        pairs = []
    names: dict[int, str] = {}
    for number, name in pairs:
        if number.isdecimal() and int(number) != BACKGROUND and int(number) <= highest and str(name).strip():
            names[int(number)] = str(name).strip()
    return mending.unique_names(names)
