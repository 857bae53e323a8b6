"""What an edit asks of each layer in each frame: the layer's source frame, whether it is there, whether it moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from retake_shared.geometry import project
from retake_shared.shot import BACKGROUND, Cameras, Edit, Solve

UNMOVED = 1e-3
"""px under which a difference is no edit: far below what a picture shows, far above what float32 keys round to."""


@dataclass(frozen=True)
class Layer:
    """One object of the edit over all frames.

    number: in the edit. source: the solve's object whose pixels it shows. rows: its targets in the edit's arrays.
    frames: (T,) int, the source frame it shows. present: (T,) bool. unmoved: (T,) bool, it shows its own frame where
    it was in the world.
    """

    number: int
    source: int
    rows: NDArray[np.int64]
    frames: NDArray[np.int64]
    present: NDArray[np.bool_]
    unmoved: NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """The edit by layers. background comes first. camera_unmoved, identity: (T,) bool."""

    layers: list[Layer]
    camera_unmoved: NDArray[np.bool_]
    identity: NDArray[np.bool_]


def make_plan(solve: Solve, edit: Edit, source_cameras: Cameras, target_cameras: Cameras, objects: list[int]) -> Plan:
    """The plan of an edit. objects: all numbers that own pixels; those without tracks stay as they are."""
    frames = len(solve)
    layers = []
    tracked = solve.tracks.objects
    shown: set[int] = set()
    for number in sorted({BACKGROUND, *np.unique(edit.objects).tolist()}):
        rows = np.flatnonzero(edit.objects == number)
        sources = tracked[edit.source_track[rows]]
        source = int(np.bincount(sources).argmax()) if len(rows) else number
        layers.append(_layer(solve, edit, source_cameras, number, source, rows))
        shown.add(source)
    still = np.arange(frames)
    for number in objects:
        untouched = number not in shown and not (tracked == number).any()
        if untouched:
            everywhere = np.ones(frames, bool)
            layers.append(Layer(number, number, np.empty(0, np.int64), still, everywhere, everywhere))
    camera_unmoved = _cameras_unmoved(solve, source_cameras, target_cameras)
    all_unmoved = np.logical_and.reduce([layer.unmoved & layer.present for layer in layers])
    sources_shown = [layer.source for layer in layers]
    complete = set(np.unique(tracked).tolist()) <= set(sources_shown) and len(set(sources_shown)) == len(layers)
    complete &= len(np.unique(edit.source_track)) == len(tracked) == len(edit.source_track)
    return Plan(layers, camera_unmoved, camera_unmoved & all_unmoved & complete)


def _layer(solve: Solve, edit: Edit, cameras: Cameras, number: int, source: int, rows: NDArray[np.int64]) -> Layer:
    frames = np.arange(len(solve))
    if not len(rows):
        everywhere = np.ones(len(solve), bool)
        return Layer(number, source, rows, frames, everywhere, everywhere)
    present = edit.present[:, rows]
    asked = np.where(present, edit.source_frame[:, rows], np.nan)
    with np.errstate(invalid="ignore"):
        any_present = present.any(1)
        asked[~any_present] = 0
        wanted = np.nanmedian(asked, 1)
    # Half frames go up, so that an even slow motion keeps an even rhythm.
    shows = np.clip(np.floor(wanted + 0.5), 0, len(solve) - 1).astype(np.int64)
    there = solve.tracks.positions[:, edit.source_track[rows]]
    moved = np.linalg.norm(edit.positions[:, rows] - there, axis=-1)
    depth = np.abs(np.einsum("tnc,tc->tn", there - cameras.c2w[:, None, :3, 3], cameras.c2w[:, :3, 2]))
    shift = moved * cameras.K[:, 0, 0, None] / np.maximum(depth, 1e-6 * (1 + depth.max()))
    still = np.where(present, shift, 0).max(1) < UNMOVED
    unmoved = np.asarray(still & (np.abs(wanted - frames) < 1e-3) & present.all(1))
    return Layer(number, source, rows, shows, np.asarray(any_present), unmoved)


def _cameras_unmoved(solve: Solve, source: Cameras, target: Cameras) -> NDArray[np.bool_]:
    """Whether the target camera shows every track, and points far away, where the source camera does."""
    corners = np.array([[0, 0], [source.width, 0], [0, source.height], [source.width, source.height]], np.float64)
    unmoved = np.zeros(len(solve), bool)
    for t in range(len(solve)):
        a, b = (source.c2w[t], source.K[t]), (target.c2w[t], target.K[t])
        if all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)):
            unmoved[t] = True
            continue
        rays = np.column_stack([corners, np.ones(4)]) @ np.linalg.inv(a[1]).T
        _, depth = project(solve.tracks.positions[t], *a)
        front = depth[depth > 0]
        near = float(np.quantile(front, 0.01)) if len(front) else np.inf
        scale = near if np.isfinite(near) else 1e9
        worst = 0.0
        for distance in (scale, 1e6 * scale):
            points = (rays * distance) @ a[0][:3, :3].T + a[0][:3, 3]
            uv, _ = project(points, *b)
            worst = max(worst, float(np.abs(np.nan_to_num(uv, nan=np.inf) - corners).max()))
        unmoved[t] = worst < UNMOVED
    return unmoved
