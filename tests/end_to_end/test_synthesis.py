"""`retake synthesize` with Blender's side: what it writes is true of the pictures, the same for a seed, and survives
being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from retake_backend.training import dataset
from retake_backend.training.pairs import Pair
from retake_backend.training.synthesis import crew, plan
from retake_shared import geometry

SIZE, FRAMES = (96, 64), 4
SEED = next(
    seed for seed in range(100) if {"removal", "duplicate"} <= {k for _, _, k in plan.draw(seed, FRAMES).pairs()}
)
"""A scene with an actor that is doubled, so that there are pairs in which it comes and pairs in which it goes."""


def _command(out: Path, blender: list[str], *words: object) -> list[str]:
    shape = ["--size", f"{SIZE[0]}x{SIZE[1]}", "--frames", FRAMES, "--processes", 1, "--blender", json.dumps(blender)]
    command = [sys.executable, "-m", "retake_backend.cli", "synthesize", "--out", out, *shape, *words]
    return [str(word) for word in command]


def _run(out: Path, blender: list[str], *words: object) -> str:
    done = subprocess.run(_command(out, blender, *words), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(blender: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one scene."""
    out = tmp_path_factory.mktemp("synthesis") / "set"
    told = _run(out, blender, "--seed", SEED, "--clips", len(plan.draw(SEED, FRAMES).pairs()))
    assert "clips per hour" in told
    return out


@pytest.fixture
def pairs(made: Path) -> list[Pair]:
    return [pair for _, pair in dataset.read(made)]


def test_every_pair_of_the_scene_is_there(made: Path, pairs: list[Pair]) -> None:
    scene = plan.draw(SEED, FRAMES)
    assert [pair.origin["edit"] for pair in pairs] == [kind for _, _, kind in scene.pairs()]
    assert {pair.size for pair in pairs} == {SIZE}
    assert all(pair.moved is not None for pair in pairs), "training the draft model needs the reprojection"
    assert not (made / "work").exists()


def test_tracks_lie_where_the_depth_and_the_masks_say(pairs: list[Pair]) -> None:
    for pair in pairs:
        solve = pair.solve
        assert solve.depth is not None
        assert solve.masks is not None
        assert 1000 <= len(solve.tracks) <= 3000
        uv, depth = solve.cameras.project(solve.tracks.positions)
        off, wrong = [], []
        for t, seen in enumerate(solve.tracks.visibility):
            assert geometry.inside_image(uv[t, seen], depth[t, seen], *SIZE).all()
            column, row = np.floor(uv[t, seen]).astype(int).T
            there = solve.depth[t, row, column]
            off.append(np.abs(there / depth[t, seen] - 1)[there > 0])
            wrong.append(solve.masks[t, row, column] != solve.tracks.objects[seen])
        assert np.median(np.concatenate(off)) < 0.01
        assert np.concatenate(wrong).mean() < 0.08, "only at the edges of things"


def test_hidden_points_are_behind_something(pairs: list[Pair]) -> None:
    solve = pairs[0].solve
    uv, depth = solve.cameras.project(solve.tracks.positions)
    hidden = geometry.inside_image(uv, depth, *SIZE) & ~solve.tracks.visibility
    assert hidden.sum() > 50
    assert solve.depth is not None
    t, n = np.nonzero(hidden)
    column, row = np.floor(uv[t, n]).astype(int).T
    assert np.mean(solve.depth[t, row, column] < depth[t, n] * 1.005) > 0.85, "all but those at the edges of things"


def test_target_tracks_show_the_colours_that_the_source_shows(pairs: list[Pair]) -> None:
    """Wherever a point can be seen in both, as the reverse pair's visibility tells."""
    by_way = {tuple(pair.origin["versions"]): pair for pair in pairs}
    for pair in pairs:
        edit = pair.edit
        source, _ = pair.solve.cameras.project(pair.solve.tracks.positions[:, edit.source_track])
        target, depth = edit.cameras.project(edit.positions)
        seen = pair.solve.tracks.visibility[:, edit.source_track] & edit.present
        seen &= geometry.inside_image(target, depth, *SIZE)
        t, n = np.nonzero(seen)
        columns, rows = (np.floor(uv[t, n]).astype(int).T for uv in (source, target))
        before = pair.source[t, columns[1], columns[0]].astype(float)
        after = pair.target[t, rows[1], rows[0]].astype(float)
        shuffled = np.random.default_rng(0).permutation(after)
        alike, by_chance = (np.median(np.abs(before - other).mean(1)) for other in (after, shuffled))
        assert alike < 0.6 * by_chance
    assert len(by_way) == len(pairs)


def test_what_is_removed_is_gone_from_the_target(pairs: list[Pair]) -> None:
    """Where the removed thing stood, the target shows something else, and elsewhere the same where the camera stays."""
    removed = [pair for pair in pairs if pair.origin["edit"] == "removal"]
    assert removed
    for pair in removed:
        assert 0 < (~pair.edit.present[0]).sum() < pair.edit.present.shape[1] / 2
    doubled = [pair for pair in pairs if pair.origin["edit"] == "duplicate"]
    for pair in doubled:
        _, count = np.unique(pair.edit.source_track, return_counts=True)
        assert count.max() == 2
        assert pair.edit.present.all()


def test_the_same_seed_gives_the_same_data(made: Path, blender: list[str], tmp_path: Path) -> None:
    """Killed in the midst of it and begun again."""
    out = tmp_path / "again"
    command = _command(out, blender, "--seed", SEED, "--clips", len(plan.draw(SEED, FRAMES).pairs()))
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    limit = time.monotonic() + 120
    while not list(out.glob("work/*/*/version-1/frame_00001.png")):
        assert running.poll() is None, "it ended by itself"
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    first = {path: path.stat().st_mtime_ns for path in out.glob("work/*/*/version-0/*.png")}
    assert len(first) == FRAMES
    _kept(first, out, command)
    names = [name for name, _ in dataset.read(made)]
    assert [name for name, _ in dataset.read(out)] == names
    for (_, one), (_, other) in zip(dataset.read(made), dataset.read(out), strict=True):
        assert np.array_equal(one.solve.tracks.positions, other.solve.tracks.positions)
        assert np.array_equal(one.solve.tracks.visibility, other.solve.tracks.visibility)
        assert np.array_equal(one.edit.cameras.c2w, other.edit.cameras.c2w)
        assert np.array_equal(one.source, other.source)
        assert np.array_equal(one.target, other.target)
    assert dataset.index(out) == dataset.index(made), "to the last bit"


def _kept(first: dict[Path, int], out: Path, command: list[str]) -> None:
    """Go on with a run; the pictures that were there are not rendered again."""
    going = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = False
    while going.poll() is None:
        now = {path: path.stat().st_mtime_ns for path in first if path.exists()}
        seen |= len(now) == len(first)
        assert all(first[path] == when for path, when in now.items())
        time.sleep(0.05)
    assert seen
    assert going.returncode == 0, going.communicate()[0]


def test_a_finished_set_is_left_as_it_is(made: Path, blender: list[str]) -> None:
    before = (made / "dataset.json").read_bytes()
    told = _run(made, blender, "--seed", SEED, "--clips", len(plan.draw(SEED, FRAMES).pairs()))
    assert " 0 pairs in " in told
    assert (made / "dataset.json").read_bytes() == before


def test_the_users_characters_and_models_act(blender: list[str], in_blender, tmp_path: Path) -> None:
    figures, models = tmp_path / "figures", tmp_path / "models"
    figures.mkdir()
    models.mkdir()
    fbx, glb = figures / "someone.fbx", models / "thing.glb"
    exported = in_blender("tests/end_to_end/synthesis_models.py", json.dumps(crew.modules()), fbx, glb)
    assert glb.exists(), exported.stdout
    files = plan.Files((str(fbx),), (str(glb),))
    seed = next(s for s in range(300) if {"figure", "asset"} == {a.kind for a in plan.draw(s, FRAMES, files).actors})
    _run(tmp_path / "set", blender, "--seed", seed, "--clips", 1, "--mixamo", figures, "--assets", models)
    ((_, pair),) = dataset.read(tmp_path / "set")
    tracks = pair.solve.tracks
    named = next(number for number, name in pair.solve.object_names.items() if name.startswith("figure"))
    figure = tracks.positions[:, tracks.objects == named]
    assert figure.shape[1] > 50
    assert 0.5 < np.ptp(figure[..., 2]) < 2.6, "as tall as people are"
    spread = np.linalg.norm(figure - figure.mean(1, keepdims=True), axis=-1)
    assert np.abs(spread - spread[0]).max() > 1e-3, "its limbs move"
