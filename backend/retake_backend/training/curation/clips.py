"""Two clips of one shot -> examples: one solve over both and what lies between, so that they share tracks and world.

Edit-by-Track's second stage. Target frame t shows the scene at another moment than source frame t, from another
place; the edit says where every track is then. Both directions are given, as the second costs nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import Cancelled, RetakeError
from retake_shared.shot import Edit, Solve

from ...conditioning.coordinates import select_tracks
from ...engines.base import Report
from ...footage import FootageReader
from ...solve import footing
from ...solve.pipeline import SolveSettings, solve_footage
from ...solve.report import SceneCuts, SolveReport
from ..moved import with_moved
from ..pairs import Pair
from .stretches import Settings

_CELL = 16
"""px of the example's picture over which its tracks are spread."""
_KNOWN = 12
"""Frames around those in which a mover's point was seen for which its place is believed."""
_LEVELS, _SHARE = 12, 0.005
"""Pictures of which less than this share of the pixels differs by more than so many levels show the same."""
_MOVED, _MOVERS = 0.02, 0.02
"""Of this share of the tracks, the least motion from source to target, as a fraction of the picture's width."""
_COMMON = 0.1
"""Least share of the target's tracks that the source shows too."""


class Dropped(Exception):
    """These clips make no example. reason: one of a few, to be counted. detail: in words."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Made:
    """The examples of one stretch by what is added to its name, and facts for the journal: plain JSON values."""

    pairs: Mapping[str, Pair]
    facts: Mapping[str, Any]


def make(
    pictures: NDArray[np.uint8], fps: Fraction, gap: int, settings: Settings, origin: Mapping[str, Any], report: Report
) -> Made:
    """Examples of (T, h, w, 3) uint8 pictures: source frames 0 .. F - 1, target `gap` later, or sooner where the tracks
    do not last so long. The settings' fov is that of these pictures. Raises Dropped, Cancelled."""
    frames, size = settings.frames, settings.size
    if why := footing.trouble([np.asarray(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), np.uint8) for p in pictures]):
        raise Dropped("nothing to follow", why)
    if alike(pictures[:frames], pictures[gap : gap + frames]):
        raise Dropped("identical clips")
    solve, told = _solved(pictures, fps, settings, report)
    gap, judged = _lasting(solve, gap, max(1, round(settings.apart[0] * fps)), frames)
    a, b = slice(0, frames), slice(gap, gap + frames)
    solve = replace(solve, tracks=solve.tracks.select(_chosen(solve, (a, b), settings)))
    scene = "static" if solve.tracks.objects.max(initial=0) == 0 else "dynamic"
    small = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures[: gap + frames]])
    facts = {"scene": scene, "camera": told.kind, "light": told.light, "gap": gap, **judged}
    made = {}
    for suffix, source, target in (("", a, b), ("_back", b, a)):
        part = solve.frames(source.start, source.stop)
        pair = Pair(
            small[source], small[target], part, _edit(solve, source, target), fps=fps,
            origin={"kind": "real", **origin, "direction": "back" if suffix else "on", **facts},
        )  # fmt: skip
        made[suffix] = with_moved(pair)
    return Made(made, facts)


def _lasting(solve: Solve, gap: int, least: int, frames: int) -> tuple[int, dict[str, float]]:
    """The largest of gap, 2/3 of it, ... down to `least` over which enough of the tracks last, and what was measured."""
    while True:
        try:
            return gap, _judge(solve, slice(0, frames), slice(gap, gap + frames))
        except Dropped:
            if gap <= least:
                raise
        gap = max(least, gap * 2 // 3)


def alike(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Whether two clips (F, h, w, 3) show the same in every frame, to what compression does."""
    difference = np.abs(a[:, ::2, ::2].astype(np.int16) - b[:, ::2, ::2]).max(-1)
    return bool((difference > _LEVELS).mean() < _SHARE)


def _solved(
    pictures: NDArray[np.uint8], fps: Fraction, settings: Settings, report: Report
) -> tuple[Solve, SolveReport]:
    with FootageReader.of_pictures(pictures, fps) as reader, tempfile.TemporaryDirectory() as folder:
        digest = hashlib.sha256(pictures.data).hexdigest()
        reader.footage = replace(reader.footage, sha256=digest)
        try:
            solved = solve_footage(reader, SolveSettings(fov=settings.fov), Path(folder), report)
        except Cancelled:
            raise
        except SceneCuts as error:
            raise Dropped("scene cut", error.what) from error
        except RetakeError as error:
            raise Dropped("not solved", error.what) from error
    if solved.report.light == "red":
        raise Dropped("red solve", solved.report.reasons[0])
    return solved.solve, solved.report


def _chosen(solve: Solve, clips: tuple[slice, slice], settings: Settings) -> NDArray[np.int64]:
    """Rows of the tracks that are kept: those long seen in both clips first, evenly over the picture."""
    tracks = solve.tracks
    in_a, in_b = (tracks.visibility[clip].sum(0) for clip in clips)
    rows = np.flatnonzero(in_a + in_b)
    if not len(rows):
        raise Dropped("not solved", "no track is seen in either clip")
    first = tracks.visibility[:, rows].argmax(0)
    uv, _ = solve.cameras.project(tracks.positions[:, rows])
    at = np.nan_to_num(uv[first, np.arange(len(rows))]) / [solve.cameras.width, solve.cameras.height]
    across, down = (max(1, side // _CELL) for side in settings.size)
    column, row = (np.clip(np.floor(at[:, i] * n), 0, n - 1).astype(np.int64) for i, n in ((0, across), (1, down)))
    worth = np.minimum(in_a, in_b)[rows] * 2 * settings.frames + (in_a + in_b)[rows]
    keep = select_tracks(tracks.objects[rows], row * across + column, worth, settings.tracks, settings.seed)
    return np.asarray(rows[keep], np.int64)


def _judge(solve: Solve, a: slice, b: slice) -> dict[str, float]:
    """How much moves and how much both clips show. Raises Dropped where it is too little."""
    uv = solve.cameras.project(solve.tracks.positions)[0]
    seen_a, seen_b = (solve.tracks.visibility[clip].any(0) for clip in (a, b))
    both, movers = seen_a & seen_b, solve.tracks.objects > 0
    common = float(both.sum() / max(min(seen_a.sum(), seen_b.sum()), 1))
    if common < _COMMON:
        raise Dropped("nothing in common", f"{common:.0%} of the tracks are seen in both clips")
    followed = float((both & movers).sum() / max(min((seen_a & movers).sum(), (seen_b & movers).sum()), 1))
    if (movers & (seen_a | seen_b)).any() and followed < _COMMON:
        raise Dropped("movers not followed", f"{followed:.0%} of their tracks are seen in both clips")
    far = np.linalg.norm(uv[b][:, both] - uv[a][:, both], axis=-1) / solve.cameras.width
    motion = float(np.quantile(np.nan_to_num(far).max(0), 1 - _MOVERS))
    if motion < _MOVED:
        what = f"{1 - _MOVERS:.0%} of the tracks move by less than {motion:.1%} of the width"
        raise Dropped("hardly any motion", what)
    return {"motion": round(motion, 4), "common": round(common, 3)}


def _edit(solve: Solve, source: slice, target: slice) -> Edit:
    """What leads from the source clip to the target clip: cameras and places at the target's moments."""
    tracks = solve.tracks
    frames, count = target.stop - target.start, len(tracks)
    near = cv2.dilate(tracks.visibility.astype(np.uint8), np.ones((2 * _KNOWN + 1, 1), np.uint8)) > 0
    present = (near | (tracks.objects == 0))[target]
    return Edit(
        cameras=solve.cameras.frames(target.start, target.stop),
        positions=tracks.positions[target],
        present=present,
        source_track=np.arange(count, dtype=np.int32),
        source_frame=np.repeat(np.arange(frames, dtype=np.float32)[:, None], count, 1),
        objects=tracks.objects,
        object_names=solve.object_names,
    )
