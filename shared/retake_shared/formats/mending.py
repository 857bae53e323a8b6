"""Repairs that a solve's arrays may need on the way in; every repair leaves a note, what cannot be repaired raises."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..errors import BadFile
from ..shot import Cameras, Tracks

ABSURD = 1e12
"""World coordinates beyond this are garbage that happens to be finite."""


def name_frames(frames: NDArray[Any] | list[int]) -> str:
    """ "frame 3", "frames 3, 7-9": runs are joined, long lists end in "..."."""
    numbers = np.unique(np.asarray(frames, int))
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1) if len(numbers) else []
    words = [f"{r[0]}" if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs[:6]]
    return ("frame " if len(numbers) == 1 else "frames ") + ", ".join(words) + (", ..." if len(runs) > 6 else "")


def poses(raw: NDArray[Any], where: str, *, world_to_camera: bool) -> tuple[geometry.Array, list[str]]:
    """Rigid transforms (T, 4, 4) from (T, 4, 4) or (T, 3, 4), of the same direction.

    Frames with NaN are interpolated along the camera's path between their neighbours and noted, rotations made exactly orthonormal. Raises
    BadFile naming frames when more than half are NaN, or when a pose is mirrored, scaled or no rigid motion at all.
    """
    matrices = np.tile(np.eye(4), (len(raw), 1, 1))
    matrices[:, : raw.shape[1]] = raw
    bad = _absurd(matrices)
    notes = _check_gaps(bad, where, "poses")
    good = np.flatnonzero(~bad)
    solid = matrices[good]
    last_row = np.abs(solid[:, 3] - [0, 0, 0, 1]).max(-1) > 1e-3
    u, _, vt = np.linalg.svd(solid[:, :3, :3])
    rotation = u @ vt
    off = np.abs(rotation - solid[:, :3, :3]).max((1, 2)) > 0.02
    mirrored = np.linalg.det(rotation) < 0
    for fault, word in (
        (last_row, "do not end in the row 0 0 0 1"),
        (off, "are scaled or sheared, no rotation"),
        (mirrored, "are mirrored"),
    ):
        if fault.any():
            raise BadFile(f"the poses of {name_frames(good[fault])} {word}.", where, "Export rigid camera poses.")
    solid[:, :3, :3], solid[:, 3] = rotation, (0, 0, 0, 1)
    if bad.any():
        path = geometry.invert_rigid(solid) if world_to_camera else solid
        path = geometry.interpolate_poses(good, path, np.arange(len(raw)))
        return geometry.invert_rigid(path) if world_to_camera else path, notes
    return solid, notes


def intrinsics(raw: NDArray[Any], frames: int, where: str) -> tuple[geometry.Array, list[str]]:
    """K (T, 3, 3) from (T, 3, 3), or one (3, 3) for all frames. NaN frames are interpolated and noted."""
    K = np.array(np.broadcast_to(raw, (frames, 3, 3)), np.float64)
    bad = _absurd(K)
    notes = _check_gaps(bad, where, "intrinsics")
    good = np.flatnonzero(~bad)
    if bad.any():
        K = geometry.sample_rows(K[good], np.interp(np.arange(frames), good, np.arange(len(good))))
    wrong = (np.abs(K[:, 2] - [0, 0, 1]).max(-1) > 1e-3) | (K[:, [0, 1], [0, 1]] <= 0).any(-1)
    if wrong.any():
        raise BadFile(
            f"{name_frames(np.flatnonzero(wrong))}: not a camera matrix with positive focal lengths.",
            where,
            "Expected rows fx 0 cx, 0 fy cy, 0 0 1 in pixels.",
        )
    K[:, 2], K[:, 1, 0] = (0, 0, 1), 0
    return K, notes


def _absurd(values: NDArray[Any]) -> NDArray[np.bool_]:
    """(T,): which frames of values (T, ...) hold NaN, infinity or numbers beyond any scene."""
    good: NDArray[np.bool_] = (np.abs(values.reshape(len(values), -1)) <= ABSURD).all(1)
    return ~good


def _check_gaps(bad: NDArray[np.bool_], where: str, what: str) -> list[str]:
    if not bad.any():
        return []
    names = name_frames(np.flatnonzero(bad))
    if 2 * bad.sum() > len(bad):
        raise BadFile(
            f"the {what} of {names} ({int(bad.sum())} of {len(bad)}) are NaN or infinite.", where, "Solve again."
        )
    return [f"The {what} of {names} were NaN and are interpolated from their neighbours."]


def tracks(positions: NDArray[Any], visibility: NDArray[Any], confidence: NDArray[Any], objects: NDArray[Any],
           where: str) -> tuple[Tracks, list[str]]:  # fmt: skip
    """Tracks of positions (T, N, 3), visibility (T, N) bool, confidence (T, N), objects (N,), ids = file order.

    Points that are NaN at some frames are interpolated there, hidden and given confidence 0; tracks that are NaN
    throughout are dropped. Both leave a note. Raises BadFile when no track is left of some.
    """
    # One copy, as the arrays of a file cannot be written to.
    positions, visibility = np.array(positions, np.float64), np.array(visibility, bool)
    confidence = np.clip(np.nan_to_num(np.array(confidence, np.float32), nan=0.0), 0.0, 1.0)
    count = positions.shape[1]
    bad = ~(np.abs(positions) <= ABSURD).all(-1)
    notes: list[str] = []
    keep = ~bad.all(0) if len(positions) else np.ones(count, bool)
    if count and not keep.any():
        raise BadFile(f"all {count} tracks are NaN at every frame.", where, "Solve again.")
    if not keep.all():
        notes.append(f"{int((~keep).sum())} of {count} tracks are NaN at every frame and were left out.")
    holes = np.flatnonzero(bad.any(0) & keep)
    if len(holes):
        _interpolate(positions, bad, holes)
        visibility[bad], confidence[bad] = False, 0.0
        share = bad[:, holes].mean()
        notes.append(
            f"{len(holes)} of {count} tracks are NaN at some frames ({share:.0%} of theirs): interpolated and hidden there."
        )
    ids = np.arange(count)
    return Tracks(
        positions[:, keep], visibility[:, keep], confidence[:, keep], np.asarray(objects)[keep], ids[keep]
    ), notes


def _interpolate(positions: NDArray[Any], bad: NDArray[np.bool_], which: NDArray[Any]) -> None:
    """Fill bad points of the tracks `which` in place: linear between good frames, held at the ends."""
    at = np.arange(len(positions))
    for n in which:
        good = np.flatnonzero(~bad[:, n])
        for axis in range(3):
            positions[:, n, axis] = np.interp(at, good, positions[good, n, axis])


def hide_behind(tracks: Tracks, cameras: Cameras) -> tuple[Tracks, list[str]]:
    """Tracks without visibility where the point lies behind its camera, and a note when there was any."""
    w2c = geometry.invert_rigid(cameras.c2w)
    depth = np.einsum("tj,tnj->tn", w2c[:, 2, :3], tracks.positions) + w2c[:, 2, 3, None]
    behind = tracks.visibility & (depth <= 0)
    if not behind.any():
        return tracks, []
    mended = Tracks(tracks.positions, tracks.visibility & ~behind, tracks.confidence, tracks.objects, tracks.ids)
    return mended, [
        f"{int(behind.sum())} track points of {int(behind.any(0).sum())} tracks were marked visible but lie behind "
        "the camera; they are hidden there."
    ]


def unique_names(names: dict[int, str]) -> dict[int, str]:
    """The same names, a number added to those that occur twice or are "background" ("person", "person 2")."""
    used = {"background"}
    result: dict[int, str] = {}
    for number, name in names.items():
        candidate, repeat = name, 1
        while candidate in used:
            repeat += 1
            candidate = f"{name} {repeat}"
        used.add(candidate)
        result[number] = candidate
    return result
