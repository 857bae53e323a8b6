"""What of `retake synthesize` needs no Blender: plans, cameras, motions, pairs made of renderings, and the watch over
processes that crash and hang."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retake_backend.training.dataset import PairWriter
from retake_backend.training.synthesis import commands, crew, pairing, plan, views
from retake_backend.training.synthesis.scene import gaits, motions
from retake_shared import geometry
from retake_shared.errors import Cancelled, RetakeError
from retake_shared.shot import Cameras, Solve, Tracks

seeds = st.integers(0, 2**31 - 1)


# ----------------------------------------------------------------------------------------------------------- plans


@given(seeds, st.integers(2, 81))
@settings(max_examples=60, deadline=None)
def test_a_seed_is_one_scene_and_every_pair_is_an_edit(seed: int, frames: int) -> None:
    scene = plan.draw(seed, frames)
    assert scene == plan.draw(seed, frames)
    assert len(scene.versions) == 3
    assert len(scene.pairs()) >= 2, "a scene that is rendered three times and gives nothing is time lost"
    for source, target, kind in scene.pairs():
        before, after = scene.versions[source], scene.versions[target]
        for index, (a, b) in enumerate(zip(before.motions, after.motions, strict=True)):
            original = scene.actors[index].copy_of
            assert b is None or a is not None or before.motions[original] is not None, "nothing comes from nowhere"
            if a and b and a.same_deed(b):
                assert min(b.moments) >= 0
                assert max(b.moments) <= frames - 1, "the source shows every moment that the target asks for"
        assert kind != "camera" or before.motions == after.motions
        assert kind != "objects" or before.view == after.view


def test_seeds_bring_every_kind_of_scene_and_edit() -> None:
    scenes = [plan.draw(seed, 17) for seed in range(120)]
    kinds = {kind for scene in scenes for _, _, kind in scene.pairs()}
    assert kinds == {"camera", "objects", "both", "removal", "retime", "duplicate"}
    assert {scene.place for scene in scenes} == set(plan.PLACES)
    acts = [pair for scene in scenes for pair in zip(scene.actors, scene.versions[0].motions, strict=True)]
    deeds = {(actor.kind, motion.action) for actor, motion in acts if motion}
    assert deeds == {(kind, deed) for kind in ("person", *plan._PROPS) for deed in plan.DEEDS[kind]}


def test_the_users_files_come_in(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.FBX", "in/b.fbx", "c.glb", "notes.txt"):
        (tmp_path / name).touch()
    files = plan.Files.find(tmp_path, tmp_path)
    assert [Path(f).name for f in files.figures] == ["a.FBX", "b.fbx"]
    assert [Path(f).name for f in files.models] == ["a.FBX", "c.glb", "b.fbx"]
    used = {actor.file for seed in range(40) for actor in plan.draw(seed, 17, files).actors}
    assert used == {"", *files.figures, *files.models}


# --------------------------------------------------------------------------------------------------------- cameras


@given(seeds, st.integers(0, 2), st.integers(0, 11), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_cameras_see_the_middle_of_the_set_from_above_the_ground(
    seed: int, view: int, attempt: int, frames: int
) -> None:
    cameras = views.draw(seed, view, attempt, frames, 224, 128)
    assert len(cameras) == frames
    assert cameras.c2w[:, 2, 3].min() > 0.2
    middle = np.broadcast_to([0.0, 0.0, 0.8], (frames, 1, 3))
    uv, depth = cameras.project(middle)
    assert depth.min() > 0.5
    assert (np.abs(uv - [112, 64]) < [224, 128]).all()
    steps = np.linalg.norm(np.diff(cameras.c2w[:, :3, 3], axis=0), axis=-1)
    assert steps.max(initial=0) < 0.5, "a camera that leaps is a cut"


# --------------------------------------------------------------------------------------------------------- motions


def _motion(action: str, seed: int) -> plan.Motion:
    return plan.Motion(action, seed, (0.3, -0.2), 0.7, tuple(float(t) for t in range(17)))


@given(st.sampled_from(plan.LEGS), seeds)
@settings(max_examples=40, deadline=None)
def test_people_keep_together_above_the_ground_and_never_leap(action: str, seed: int) -> None:
    body = gaits.Body.draw(np.random.default_rng(seed))
    walk = gaits.Walk(body, _motion(action, seed), 0.5)
    table = body.bones()
    before: gaits.Pose | None = None
    for seconds in np.linspace(0, 1, 33):
        pose = walk.pose(float(seconds))
        for name, (parent, head, _) in table.items():
            place, turn = pose[name]
            assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-9)
            assert np.linalg.det(turn) > 0
            if parent:
                joint = pose[parent][0] + pose[parent][1] @ (head - table[parent][1])
                reach = 0.2 * body.height if name.startswith("foot") else 1e-6  # short legs leave the ankle behind
                assert np.linalg.norm(joint - place) < reach, f"{name} comes off"
            if before is not None:
                assert np.linalg.norm(place - before[name][0]) < 0.45, f"{name} leaps at {seconds:.2f} s"
        for side in gaits.SIDES:
            place, turn = pose[f"foot.{side}"]
            sole = min((place + turn @ np.array([x, 0, -0.05]) * body.height)[2] for x in (-0.035, 0.075))
            assert sole > -0.02 * body.height, "a foot is in the ground"
        before = pose


@given(seeds)
@settings(max_examples=8, deadline=None)
def test_feet_that_are_down_stay_where_they_are(seed: int) -> None:
    """The heel of a walker's foot that is flat on the ground does not slide."""
    body = gaits.Body.draw(np.random.default_rng(seed))
    walk = gaits.Walk(body, _motion("walk", seed), 0.5)
    rests = 0
    last: dict[str, np.ndarray] = {}
    for seconds in np.linspace(0, 2, 200):
        pose = walk.pose(float(seconds))
        for side in gaits.SIDES:
            place, turn = pose[f"foot.{side}"]
            flat = turn[2, 2] > 1 - 1e-12 and abs(place[2] - body.ankle[2]) < 1e-9
            if flat and side in last:
                assert np.linalg.norm(place - last[side]) < 1e-6
                rests += 1
            last = {**last, side: place} if flat else {k: v for k, v in last.items() if k != side}
    assert rests > 50


@given(st.sampled_from(["toss", "drop", "slide", "spin"]), seeds)
@settings(max_examples=60, deadline=None)
def test_things_stay_above_the_ground_and_keep_their_shape(action: str, seed: int) -> None:
    half = np.array([0.3, 0.2, 0.1])
    place = motions.rigid(_motion(action, seed), half, 0.5)
    corners = half * np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3)
    for seconds in np.linspace(0, 5, 60):
        matrix = place(float(seconds))
        assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-9)
        assert geometry.transform(matrix, corners)[:, 2].min() > -1e-6


@given(st.sampled_from(["roll", "bounce", "drop"]), seeds)
@settings(max_examples=40, deadline=None)
def test_balls_touch_the_ground_and_do_not_sink(action: str, seed: int) -> None:
    place = motions.ball(_motion(action, seed), 0.25, 0.5)
    lowest = []
    for seconds in np.linspace(0, 5, 400):
        matrix = place(float(seconds))
        lowest.append(matrix[2, 3] - 0.25 * np.linalg.norm(matrix[2, :3]))
    assert min(lowest) > -1e-6
    assert min(lowest) < 0.06


# ----------------------------------------------------------------------------------------------------------- pairs


def _shots(scene: plan.Scene) -> pairing.Shots:
    """Renderings of a scene made up of numbers: four points on each actor and on the ground in each version."""
    count, frames = len(scene.actors), scene.frames
    rng = np.random.default_rng(1)
    objects = np.repeat(np.tile(np.arange(count + 1), 3), 4).astype(np.int32)
    picked = np.repeat(np.arange(3), 4 * (count + 1)).astype(np.int32)
    twin = np.full(len(objects), -1, np.int32)
    for number, actor in enumerate(scene.actors, 1):
        if actor.copy_of >= 0:
            one, other = np.flatnonzero(objects == actor.copy_of + 1), np.flatnonzero(objects == number)
            twin[one], twin[other] = other, one
    solves, pictures = [], []
    for version in scene.versions:
        positions = rng.normal(0, 1, (frames, len(objects), 3)) + np.array([0, 0, 6])
        for number, motion in enumerate(version.motions, 1):
            if motion is None:
                positions[:, objects == number, 2] = -500
        c2w, K = np.tile(np.eye(4), (frames, 1, 1)), np.tile(geometry.intrinsics(50, 50, 24, 16), (frames, 1, 1))
        tracks = Tracks.make(positions, positions[..., 2] > 0, objects=objects)
        solves.append(Solve(Cameras(c2w, K, 48, 32), tracks))
        pictures.append(rng.integers(0, 255, (frames, 32, 48, 3), np.uint8))
    return pairing.Shots(pictures, solves, picked, twin)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_a_pair_says_what_became_of_every_track(seed: int) -> None:
    scene = plan.draw(seed, 9)
    shots = _shots(scene)
    for source, target, kind in scene.pairs():
        pair = pairing.make_pair(scene, shots, source, target, {})
        edit, solve = pair.edit, pair.solve
        assert np.array_equal(pair.source, shots.pictures[source])
        assert np.array_equal(pair.target, shots.pictures[target])
        assert pair.origin["edit"] == kind
        shown = solve.tracks.positions[:, edit.source_track]
        assert (shown[..., 2] > -100).all(), "a track of something that the source does not show"
        assert (edit.positions[..., 2] > -100).all()
        gone = [n for n, m in enumerate(scene.versions[target].motions, 1) if m is None]
        assert np.array_equal(edit.present.all(0), ~np.isin(edit.objects, gone))
        known = {tuple(p) for p in shots.solves[target].tracks.positions[4]}
        assert all(tuple(p) in known for p in edit.positions[4, edit.present[4]]), "target places are the target's own"
        same = edit.objects == solve.tracks.objects[edit.source_track]
        assert same.all() == (kind != "duplicate")
        for number in np.unique(edit.objects[~same]):
            assert (
                scene.actors[number - 1].copy_of + 1
                == solve.tracks.objects[edit.source_track[edit.objects == number]][0]
            )
        if kind == "retime":
            assert (edit.source_frame != np.arange(9)[:, None]).any()
        if kind in ("camera", "objects", "both"):
            assert (edit.source_frame == np.arange(9)[:, None]).all()


def test_a_retimed_actor_shows_the_moments_of_its_action() -> None:
    for seed in range(50):
        scene = plan.draw(seed, 9)
        retimed = [(a, b) for a, b, kind in scene.pairs() if kind == "retime" and a == 0]
        if retimed:
            break
    edit = pairing.make_pair(scene, _shots(scene), *retimed[0], {}).edit
    for number, motion in enumerate(scene.versions[retimed[0][1]].motions, 1):
        assert motion is not None
        moments = np.array(motion.moments, np.float32)[:, None]
        assert (edit.source_frame[:, edit.objects == number] == moments).all()


# ------------------------------------------------------------------------------------------------------- processes


@pytest.fixture
def stand_in(tmp_path: Path) -> list[str]:
    """A program in Blender's place. It answers orders; seed 1 kills it once, 2 always, 3 makes it hang, 4 fails."""
    program = tmp_path / "stand_in.py"
    program.write_text(
        textwrap.dedent("""
        import json, os, pathlib, sys, time
        say = lambda **what: print("@retake " + json.dumps(what), flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            seed, been = order["seed"], pathlib.Path(order["folder"])
            again = been.exists()
            been.touch()
            print("Blender says this and that")
            say(done="built")
            if seed == 2 or (seed == 1 and not again):
                print("Segmentation fault", flush=True)
                os._exit(139)
            if seed == 3:
                time.sleep(600)
            say(failed="BadFile: no mesh") if seed == 4 else say(ended=seed)
        """)
    )
    return [sys.executable, str(program)]


def _orders(tmp_path: Path, *seeds: int) -> list[crew.Order]:
    return [crew.Order(seed, {"seed": seed, "folder": str(tmp_path / f"been {seed}")}) for seed in seeds]


def test_crashes_and_hangs_cost_one_scene(stand_in: list[str], tmp_path: Path) -> None:
    told: list[str] = []
    with crew.Crew(stand_in, 2, silence=1.5) as blenders:
        outcomes = {o.seed: o.error for o in blenders.shoot(_orders(tmp_path, *range(8)), lambda s, w: told.append(w))}
    assert {seed for seed, error in outcomes.items() if not error} == {0, 1, 5, 6, 7}
    assert "Segmentation fault" in outcomes[2]
    assert "hangs" in outcomes[3]
    assert outcomes[4] == "BadFile: no mesh"
    assert told.count("built") == 8 + 3, "those three were begun twice"


def test_what_blender_prints_into_a_line_of_ours_does_not_end_the_run(tmp_path: Path) -> None:
    program = tmp_path / "glued.py"
    program.write_text(
        textwrap.dedent("""
        import sys
        for line in sys.stdin:
            print('Info: a@retake {"done": "built"}Fra:1 Mem:20M', flush=True)
            print('@retake {"done": "cutFra:2', flush=True)
            print('@retake 5', flush=True)
            print('@retake {"ended": 0} Saved: 1.png', flush=True)
        """)
    )
    told: list[str] = []
    with crew.Crew([sys.executable, str(program)], 1) as blenders:
        outcomes = list(blenders.shoot(_orders(tmp_path, 0, 5), lambda s, w: told.append(w) if w else None))
    assert outcomes == [crew.Outcome(0), crew.Outcome(5)]
    assert told == ["built", "built"]


def test_a_program_that_is_no_blender_is_told_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no bpy here')"]
    with crew.Crew(command, 1) as blenders, pytest.raises(RetakeError, match="no bpy here") as told:
        list(blenders.shoot(_orders(tmp_path, *range(100)), lambda *_: None))
    assert "--blender" in told.value.remedy


def test_cancel_ends_every_process(stand_in: list[str], tmp_path: Path) -> None:
    begun = time.monotonic()

    def cancel(seed: int, what: str) -> None:
        if what:
            raise Cancelled

    with pytest.raises(Cancelled), crew.Crew(stand_in, 2) as blenders:
        list(blenders.shoot(_orders(tmp_path, 3, 3), cancel))
    assert time.monotonic() - begun < 20
    assert all(blender.process.returncode is not None for blender in blenders._blenders)


@pytest.mark.parametrize("named", ["/no/such/blender", "[not json", "[]", ""])
def test_a_missing_blender_is_an_error_with_a_remedy(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETAKE_BLENDER", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RetakeError, match="Blender"):
        crew.find_blender(named)


def test_how_blender_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "blender"
    program.touch(0o755)
    assert crew.find_blender(str(program)) == [str(program), "-b", "--factory-startup", "--python"]
    monkeypatch.setenv("RETAKE_BLENDER", json.dumps([sys.executable]))
    assert crew.find_blender() == [sys.executable]


# --------------------------------------------------------------------------------------------------------- orders


def test_what_is_asked_for_is_made_of_whole_scenes_and_cut_at_the_end() -> None:
    asked = commands.Asked(Path("x"), 23, 5, (224, 128), 17, 1, "draft", "", plan.Files())
    scenes = list(asked.scenes())
    assert sum(len(pairs) for _, pairs in scenes) == 23
    assert [scene.seed for scene, _ in scenes] == list(range(5, 5 + len(scenes)))
    more = list(replace(asked, clips=40).scenes())
    assert [s for s, _ in more][: len(scenes)] == [s for s, _ in scenes], "more clips are the same ones, and others"


def test_unfinished_scenes_are_gone_on_with_only_with_the_same_files(tmp_path: Path) -> None:
    def work(folder: Path) -> str:
        files = plan.Files.find(None, folder)
        asked = commands.Asked(Path("x"), 2, 5, (224, 128), 17, 1, "draft", "", files)
        return commands._fingerprint(asked.settings(), asked)

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "chair.glb").write_bytes(b"chair")
    first = work(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert work(tmp_path / "there") == first, "a folder that was moved costs nothing"
    (tmp_path / "there" / "chair.glb").write_bytes(b"table")
    assert work(tmp_path / "there") != first
    (tmp_path / "there" / "chair.glb").rename(tmp_path / "there" / "lamp.glb")
    (tmp_path / "there" / "lamp.glb").write_bytes(b"chair")
    assert work(tmp_path / "there") != first


def test_a_folder_with_pairs_of_another_size_is_refused(tmp_path: Path) -> None:
    scene = plan.draw(5, 9)
    with PairWriter(tmp_path) as writer:  # of 48x32 px and 9 frames
        writer.add(pairing.make_pair(scene, _shots(scene), *scene.pairs()[0][:2], {}), "synthetic-000005-01")
    asked = commands.Asked(tmp_path, 1, 5, (48, 32), 10, 1, "draft", sys.executable, plan.Files())
    for other in (asked, replace(asked, frames=9, size=(64, 32))):
        with pytest.raises(RetakeError, match=r"9 frames of 48x32 px.*--size 48x32 --frames 9"):
            commands.make(other, lambda: None, lambda *_: None)


@pytest.mark.parametrize("change", [{"clips": 0}, {"frames": 1}, {"seed": -1}, {"size": (16, 128)}, {"processes": -1}])
def test_what_cannot_be_made_is_refused(change: dict[str, object]) -> None:
    asked = commands.Asked(Path("x"), 2, 5, (224, 128), 17, 1, "draft", "", plan.Files())
    with pytest.raises(RetakeError, match="--"):
        replace(asked, **change).check()
