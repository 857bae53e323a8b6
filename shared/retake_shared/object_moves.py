"""Edits of objects as pure functions: an edit in, an edit out. Objects are meant by number, positions are world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .geometry import Array, sample_rows
from .shot import Edit, Solve


def tracks_of(edit: Edit, number: int) -> NDArray[np.intp]:
    """Which of the edit's tracks belong to the object: indices (n,)."""
    return np.flatnonzero(edit.objects == number)


def centre_path(solve: Solve, edit: Edit, number: int) -> Array:
    """The object's centre at every frame (T, 3): what it turns about and grows from when it is keyed.

    It is the median of the visible tracks at the frame where the object is first seen, and moves on with the median
    motion of the tracks visible in both of two frames. So it never jumps when tracks come and go, and stands still
    where the object does, however little of it the camera sees. The object must have tracks.
    """
    positions, seen = edit.positions[:, tracks_of(edit, number)], _visibility(solve, edit, number)
    first = first_seen(solve, edit, number)
    seen[~seen.any(1)] = True  # where none is visible, the hidden ones are the best guess there is
    steps = np.zeros((len(edit), 3))
    for t in range(1, len(edit)):
        both = seen[t] & seen[t - 1]
        chosen = both if both.any() else slice(None)
        steps[t] = np.median(positions[t, chosen] - positions[t - 1, chosen], axis=0)
    path = np.cumsum(steps, axis=0)
    return np.asarray(path - path[first] + np.median(positions[first, seen[first]], axis=0))


def first_seen(solve: Solve, edit: Edit, number: int) -> int:
    """The first frame at which a track of the object is visible; 0 when none ever is."""
    return int(np.argmax(_visibility(solve, edit, number).any(1)))


def _visibility(solve: Solve, edit: Edit, number: int) -> NDArray[np.bool_]:
    """(T, n): whether the footage shows the object's tracks at the moments that the edit takes them from."""
    own = tracks_of(edit, number)
    moment = np.clip(np.rint(edit.source_frame[:, own]), 0, len(solve) - 1).astype(int)
    return np.asarray(solve.tracks.visibility[moment, edit.source_track[own]])


def move(
    edit: Edit, number: int, translate: ArrayLike, rotation: ArrayLike, scale: ArrayLike, centre: ArrayLike
) -> Edit:
    """Scale by (T,) and turn by (T, 3, 3) about centre (T, 3), then displace by (T, 3), frame by frame."""
    translate, rotation, scale, centre = (np.asarray(a, np.float64) for a in (translate, rotation, scale, centre))
    own = tracks_of(edit, number)
    relative = edit.positions[:, own] - centre[:, None]
    turned = scale[:, None, None] * (relative @ np.swapaxes(rotation, 1, 2))
    positions = edit.positions.copy()
    positions[:, own] = turned + (centre + translate)[:, None]
    return replace(edit, positions=positions)


def slide(solve: Solve, edit: Edit, number: int, depth: ArrayLike) -> Edit:
    """Bring the object along the view rays of the footage's camera to depth (T,) times its own, frame by frame: that
    camera sees it as before."""
    factor = np.asarray(depth, np.float64)[:, None, None]
    own, eye = tracks_of(edit, number), solve.cameras.c2w[:, None, :3, 3]
    positions = edit.positions.copy()
    positions[:, own] = np.where(factor == 1, positions[:, own], eye + factor * (positions[:, own] - eye))
    return replace(edit, positions=positions)


def retime(edit: Edit, number: int, shown: ArrayLike) -> Edit:
    """Show at frame t what the object does, so far in this edit, at frame shown[t]; see `retiming.retimed_frames`."""
    shown = np.asarray(shown, np.float64)
    own = tracks_of(edit, number)
    positions, present, source_frame = edit.positions.copy(), edit.present.copy(), edit.source_frame.copy()
    positions[:, own] = sample_rows(edit.positions[:, own], shown)
    present[:, own] = edit.present[np.rint(shown).astype(int)][:, own]
    source_frame[:, own] = sample_rows(edit.source_frame[:, own], shown)
    return replace(edit, positions=positions, present=present, source_frame=source_frame)


def duplicate(edit: Edit, number: int, name: str) -> tuple[Edit, int]:
    """A second object called `name` (not yet in use) that looks and moves as this one does; and its number."""
    own = tracks_of(edit, number)
    copy = max(edit.object_names) + 1
    copied = replace(
        edit,
        positions=np.concatenate([edit.positions, edit.positions[:, own]], 1),
        present=np.concatenate([edit.present, edit.present[:, own]], 1),
        source_track=np.concatenate([edit.source_track, edit.source_track[own]]),
        source_frame=np.concatenate([edit.source_frame, edit.source_frame[:, own]], 1),
        objects=np.concatenate([edit.objects, np.full(len(own), copy, np.int32)]),
        object_names={**edit.object_names, copy: name},
    )
    return copied, copy


def remove(edit: Edit, number: int) -> Edit:
    """Take the object out of the picture, in all frames."""
    present = edit.present.copy()
    present[:, tracks_of(edit, number)] = False
    return replace(edit, present=present)
