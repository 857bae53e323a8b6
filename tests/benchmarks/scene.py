"""How fast a solve becomes a shot in Blender, and the scene an edit. Runs on Blender's side."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import bpy
import numpy as np
from retake_shared import geometry
from retake_shared.shot import Cameras, Edit, Footage, Solve, Tracks

TRACKS, FRAMES, WIDTH, HEIGHT = 2000, 81, 672, 384
_INSERTED = 200
"""Tracks that keyframe_insert really keys; the rest of its time is extrapolated, in proportion."""
_ROUNDS = 3


def measure() -> dict[str, float]:
    """Import 2000 tracks x 81 frames, and read them back, with 0 and with 3,000 more tracks that have no empty.

    The best of a few rounds each, in seconds; the ratio is the median over pairs of neighbouring rounds. Import is everything that the user waits for but Blender's first
    evaluation of 2,000 new objects (`first_evaluation_seconds`), which any way of making them pays. keyframe_insert
    makes the tracks' empties alone. The bare loop sets the same 81 frames of the same scene.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import addon_utils

    bpy.ops.wm.read_factory_settings(use_empty=True)
    addon_utils.enable("blender_addon", default_set=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(_footage(Path(folder)))
    finally:
        addon_utils.disable("blender_addon", default_set=True)


def _measure(footage: Footage) -> dict[str, float]:
    from blender_addon.scene import readback, shots

    solve, denser = _solve(TRACKS), _solve(TRACKS + 3000)
    imports, evaluations, bare, read, read_denser, inserts = ([] for _ in range(6))
    for _ in range(_ROUNDS):
        _fresh()
        inserts.append(_seconds(_keyframe_insert, solve.tracks.positions[:, :_INSERTED]) * TRACKS / _INSERTED)
        _fresh()
        imports.append(_seconds(shots.import_shot, bpy.context, footage, solve, density=TRACKS, set_scene=True))
        evaluations.append(_seconds(bpy.context.view_layer.update))
        root = shots.active_shot(bpy.context)
        for _ in range(_ROUNDS):
            bare.append(_seconds(_frame_set_loop, bpy.context.scene))
            read.append(_seconds(readback.read_edit, bpy.context, root))
        solved, edit = readback.read_edit(bpy.context, root)
        if not np.array_equal(edit.positions, Edit.identity(solved).positions):
            raise AssertionError("the shot that was measured did not read back as the identity")
    _fresh()
    root = shots.import_shot(bpy.context, footage, denser, density=TRACKS, set_scene=True)
    _frame_set_loop(bpy.context.scene)
    for _ in range(_ROUNDS):
        read_denser.append(_seconds(readback.read_edit, bpy.context, root))
    return {
        "import_speedup": min(inserts) / min(imports),
        "import_seconds": min(imports),
        "keyframe_insert_seconds_extrapolated": min(inserts),
        "first_evaluation_seconds": min(evaluations),
        "readback_ratio": statistics.median(r / b for r, b in zip(read, bare, strict=True)),
        "readback_seconds": min(read),
        "bare_frame_set_seconds": min(bare),
        "readback_5000_tracks_seconds": min(read_denser),
    }


def _seconds(work: Callable[..., object], *arguments: object, **options: object) -> float:
    began = time.perf_counter()
    work(*arguments, **options)
    return time.perf_counter() - began


def _fresh() -> None:
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)


def _frame_set_loop(scene: bpy.types.Scene) -> None:
    for frame in range(scene.frame_start, scene.frame_start + FRAMES):
        scene.frame_set(frame)


def _keyframe_insert(positions: np.ndarray) -> None:
    for column in range(positions.shape[1]):
        empty = bpy.data.objects.new(f"track {column}", None)
        bpy.context.scene.collection.objects.link(empty)
        for frame, place in enumerate(positions[:, column].tolist()):
            empty.location = place
            empty.keyframe_insert("location", frame=1 + frame)


def _solve(count: int) -> Solve:
    random = np.random.default_rng(0)
    path = np.stack([np.linspace(-1, 1, FRAMES), np.zeros(FRAMES), np.full(FRAMES, -5.0)], 1)
    c2w = geometry.look_at(path, np.zeros(3), np.array([0.0, 1.0, 0.0]))
    K = np.tile(geometry.intrinsics(600, 600, WIDTH / 2, HEIGHT / 2), (FRAMES, 1, 1))
    positions = random.normal(size=(1, count, 3)) + np.cumsum(0.01 * random.normal(size=(FRAMES, count, 3)), 0)
    objects = (np.arange(count) % 4).astype(np.int32)
    return Solve(Cameras(c2w, K, WIDTH, HEIGHT), Tracks.make(positions, objects=objects))


def _footage(folder: Path) -> Footage:
    first = folder / "frame_00000.png"
    image = bpy.data.images.new("frame", WIDTH, HEIGHT)
    image.filepath_raw, image.file_format = str(first), "PNG"
    image.save()
    bpy.data.images.remove(image)
    for frame in range(1, FRAMES):
        shutil.copy(first, folder / f"frame_{frame:05d}.png")
    return Footage(str(first), WIDTH, HEIGHT, Fraction(16), FRAMES)
