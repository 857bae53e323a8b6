"""Tracks as animated empties: one empty per chosen track, its location keyed on every frame in its handle's space."""

from __future__ import annotations

from collections.abc import Sequence

import bpy
import numpy as np
from numpy.typing import NDArray
from retake_shared.shot import Cameras, Tracks

from . import curves

DISPLAY_SHARE = 0.004
"""Size of an empty as a share of the shot's depth: small enough to see the picture between 2,000 of them."""


def choose(tracks: Tracks, cameras: Cameras, limit: int) -> NDArray[np.int64]:
    """Rows (M,), ascending, of at most `limit` tracks: even over the picture, long visible, from every object.

    An object gets its share by number of tracks, and at least 24 of them (or all it has) while the limit allows.
    """
    count = len(tracks)
    if count <= limit:
        return np.arange(count)
    seen = tracks.visibility.sum(0)
    numbers, sizes = np.unique(tracks.objects, return_counts=True)
    least = np.minimum(sizes, max(1, min(24, limit // len(numbers))))
    spare = max(limit - int(least.sum()), 0)
    quotas = least + np.floor((sizes - least) * spare / max(int((sizes - least).sum()), 1)).astype(int)
    quotas[np.argsort(quotas - sizes, kind="stable")[: max(limit - int(quotas.sum()), 0)]] += 1  # what rounding left

    uv = _where_seen(tracks, cameras)
    chosen = []
    for number, quota in zip(numbers, quotas, strict=True):
        rows = np.flatnonzero(tracks.objects == number)
        cells_a_side = max(int(np.ceil(np.sqrt(quota))), 1)
        low, high = uv[rows].min(0), uv[rows].max(0)
        cell = np.floor((uv[rows] - low) / np.maximum(high - low, 1e-9) * cells_a_side * 0.999).astype(int)
        cell = cell[:, 1] * cells_a_side + cell[:, 0]
        # In each cell the longest visible track comes first; then all firsts, all seconds, ... until the quota is full.
        order = np.lexsort((-seen[rows], cell))
        place = np.arange(len(rows)) - np.searchsorted(cell[order], cell[order])
        best = order[np.lexsort((-seen[rows][order], place))]
        chosen.append(rows[best[:quota]])
    return np.sort(np.concatenate(chosen))[:limit]


def _where_seen(tracks: Tracks, cameras: Cameras) -> NDArray[np.float64]:
    """uv (N, 2) of each track at the frame where it is best seen; the principal point's side for those never in view."""
    best = np.argmax(tracks.confidence * tracks.visibility, 0)
    columns = np.arange(len(tracks))
    uv, _ = cameras.project(tracks.positions)
    return np.nan_to_num(np.clip(uv[best, columns], -cameras.width, 2 * cameras.width), nan=0.0)


def create(
    name: str,
    collection: bpy.types.Collection,
    handles: Sequence[bpy.types.Object],
    rows: NDArray[np.int64],
    positions: NDArray[np.float64],
    start: int,
    size: float,
) -> list[bpy.types.Object]:
    """One animated empty per row.

    handles: the parent of each (N). rows (N,): what `Object.retake_track` says. positions (T, N, 3) in the handles'
    space. size: of the empties on screen, in world units.
    """
    writer = curves.ActionWriter(f"{name} tracks")
    empties = []
    new, link = bpy.data.objects.new, collection.objects.link
    for column, (row, handle) in enumerate(zip(rows.tolist(), handles, strict=True)):
        empty = new(f"{handle.name} {row}", None)
        empty.empty_display_type, empty.empty_display_size = "PLAIN_AXES", size
        empty.retake_role, empty.retake_track = "TRACK", row
        empty.color = handle.color
        empty.parent = handle
        empty.location = positions[0, column]
        link(empty)
        curves.write(writer.curves_for(empty), "location", positions[:, column], start)
        empties.append(empty)
    return empties


def set_positions(empties: Sequence[bpy.types.Object], positions: NDArray[np.float64], start: int, name: str) -> None:
    """Replace the location keys of the empties by positions (T, N, 3) in their handles' space."""
    writer = curves.ActionWriter(f"{name} tracks")
    for column, empty in enumerate(empties):
        fcurves = curves.curves_of(empty)
        curves.write(writer.curves_for(empty) if fcurves is None else fcurves, "location", positions[:, column], start)


def positions_of(
    empties: Sequence[bpy.types.Object], otherwise: NDArray[np.float64], start: int
) -> NDArray[np.float64]:
    """Location keys (T, N, 3) of the empties; where one has other keys than a key a frame, its column of `otherwise`."""
    positions = np.array(otherwise, np.float64)
    for column, empty in enumerate(empties):
        keys = curves.read(curves.curves_of(empty), "location", 3, start, len(positions))
        if keys is not None:
            positions[:, column] = keys
    return positions
