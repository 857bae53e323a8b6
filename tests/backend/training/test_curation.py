"""Real video becomes examples whose edit leads from the source to the target, and what cannot is counted by reason."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from retake_backend import cli
from retake_backend.footage import FootageReader, write_video
from retake_backend.training.curation import clips, multicamera
from retake_backend.training.curation.clips import Dropped
from retake_backend.training.curation.journal import Journal
from retake_backend.training.curation.stretches import (
    Settings,
    Stretch,
    field_of_view,
    shots,
    solve_size,
    stretches,
)
from retake_backend.training.dataset import PairWriter, read
from retake_shared.errors import BadShot, Cancelled, RetakeError
from retake_shared.shot import Solve, Tracks

if "preview_scenes" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "preview_scenes", Path(__file__).resolve().parents[1] / "preview_scenes.py"
    )
    sys.modules["preview_scenes"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["preview_scenes"])
import preview_scenes as ps

SMALL = ["--size", "96x54", "--frames", "7", "--apart", "0.5:0.6"]
FROM_UNREAL = np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])


def quiet(progress):
    pass


def psnr(a, b):
    return 10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-9))


def small_clip(sample_data, name, chosen, size=(192, 108)):
    with FootageReader(sample_data / "clips" / f"{name}.mp4") as reader:
        return list(reader.small_frames(chosen, size)), reader.footage.fps


@pytest.fixture(scope="module")
def curated(sample_data, tmp_path_factory):
    """The data set that the command made of a folder with one good video and many that are of no use."""
    folder, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("sets") / "set"
    (folder / "deeper").mkdir()
    apple, fps = small_clip(sample_data, "apple", range(14))
    write_video(folder / "deeper" / "an apple.mp4", apple, fps, quality=4)
    write_video(folder / "short.mp4", apple[:3], fps)
    write_video(folder / "frozen.mp4", [apple[0]] * 14, fps)
    write_video(folder / "black.mp4", [np.zeros_like(apple[0])] * 14, fps)
    write_video(folder / "tiny.mp4", [cv2.resize(p, (64, 36)) for p in apple], fps)
    write_video(folder / "locked off.mp4", [_blinking(apple[0], t) for t in range(14)], fps, quality=4)
    write_video(folder / "noise.mp4", np.random.default_rng(0).integers(0, 255, (14, 108, 192, 3), np.uint8), fps)
    (folder / "broken.mp4").write_bytes((folder / "short.mp4").read_bytes()[:700])
    (folder / "words.mp4").write_text("no video")
    (folder / "readme.txt").write_text("not looked at")
    assert cli.main(["curate", str(folder), "--out", str(out), *SMALL]) == 0
    return folder, out


def _blinking(picture, t):
    """The same picture, a light in its corner going on and off."""
    lit = picture.copy()
    lit[:8, :8] = 255 * (t % 2)
    return lit


def verdicts(out):
    lines = [json.loads(line) for line in (out / "curation.jsonl").read_text().splitlines()]
    return {line["source"]: line["verdict"] for line in lines if "verdict" in line}


def test_everything_that_is_of_no_use_is_counted_by_reason(curated):
    _, out = curated
    assert verdicts(out) == {
        "deeper/an apple.mp4": "kept",
        "short.mp4": "too short",
        "frozen.mp4": "nothing to follow",
        "black.mp4": "nothing to follow",
        "noise.mp4": "nothing to follow",
        "tiny.mp4": "too small",
        "locked off.mp4": "identical clips",
        "broken.mp4": "unreadable",
        "words.mp4": "unreadable",
    }
    summary = json.loads((out / "curation.json").read_text())
    assert (summary["videos"], summary["looked_at"], summary["kept"], summary["examples"]) == (9, 9, 1, 2)
    assert summary["left_out"] == {
        "identical clips": 1, "nothing to follow": 3, "too short": 1, "too small": 1, "unreadable": 2,
    }  # fmt: skip
    assert summary["scenes"] == {"static": 1}
    assert summary["cameras"] == {"moving": 1}
    assert summary["examples_per_hour"] > 0


def test_the_edit_leads_from_the_source_to_the_target(curated):
    examples = dict(read(curated[1]))
    assert len(examples) == 2
    for name, pair in examples.items():
        assert pair.source.shape == pair.target.shape == (7, 54, 96, 3)
        assert pair.origin["name"] == "deeper/an apple.mp4"
        assert pair.origin["kind"] == "real"
        assert name.endswith("_back") == (pair.origin["direction"] == "back")
        shown = ~pair.moved.holes
        assert 0 < pair.moved.holes.mean() < 0.3
        copied = psnr(pair.source[shown], pair.target[shown])
        assert psnr(pair.moved.rgb[shown], pair.target[shown]) > copied + 6  # measured: 14
    (on, back) = sorted(examples.values(), key=lambda pair: pair.origin["direction"] != "on")
    assert psnr(on.source, back.target) > 40
    np.testing.assert_allclose(on.edit.cameras.c2w, back.solve.cameras.c2w)
    np.testing.assert_allclose(on.edit.positions, back.solve.tracks.positions)


def test_a_second_run_has_nothing_to_do_and_other_settings_are_refused(curated, capsys):
    folder, out = curated
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert cli.main(["curate", str(folder), "--out", str(out), *SMALL]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert cli.main(["curate", str(folder), "--out", str(out), *SMALL, "--tracks", "9"]) == 2
    assert "was begun with tracks 2000" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on(curated, tmp_path, monkeypatch):
    folder, whole = curated
    made = dict(read(whole))
    out = tmp_path / "set"
    add = PairWriter.add

    def stopped(self, pair, name):
        add(self, pair, name)
        raise Cancelled  # between the two examples of a stretch

    monkeypatch.setattr(PairWriter, "add", stopped)
    # What was solved already is not solved again: the pairs of the whole run stand for the solver's work.
    found = {"": next(p for n, p in made.items() if not n.endswith("_back")),
             "_back": next(p for n, p in made.items() if n.endswith("_back"))}  # fmt: skip
    facts = {"scene": "static", "camera": "moving", "light": "green"}
    monkeypatch.setattr(clips, "make", lambda *arguments: clips.Made(found, facts))
    good = folder / "deeper"
    assert cli.main(["curate", str(good), "--out", str(out), *SMALL]) == 130
    assert not list(out.glob("*.tar"))
    monkeypatch.setattr(PairWriter, "add", add)
    (out / "curation.jsonl").write_bytes((out / "curation.jsonl").read_bytes() + b'{"name": "cut o')
    assert cli.main(["curate", str(good), "--out", str(out), *SMALL]) == 0
    assert len(dict(read(out))) == 2
    assert json.loads((out / "curation.json").read_text())["kept"] == 1


def test_another_folder_with_videos_of_the_same_names_is_curated_too(sample_data, tmp_path, monkeypatch):
    """And the same folder again, moved, is not."""

    def dropped(*arguments):
        raise Dropped("not solved")

    monkeypatch.setattr(clips, "make", dropped)
    pictures, fps = small_clip(sample_data, "apple", range(14))
    for folder, chosen in (("a", pictures), ("b", pictures[::-1])):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "clip.mp4", chosen, fps)
    for folder, through in (("a", 1), ("b", 2), ("moved", 2)):
        if folder == "moved":
            (tmp_path / "a").rename(tmp_path / folder)
        assert cli.main(["curate", str(tmp_path / folder), "--out", str(tmp_path / "set"), *SMALL]) == 0
        summary = json.loads((tmp_path / "set" / "curation.json").read_text())
        assert (summary["videos"], summary["looked_at"]) == (through, through)


def test_a_failure_of_one_clip_is_counted_and_the_rest_goes_on(curated, tmp_path, monkeypatch, capsys):
    def fails(*arguments):
        raise ValueError("a case that nobody thought of")

    monkeypatch.setattr(clips, "make", fails)
    assert cli.main(["curate", str(curated[0] / "deeper"), "--out", str(tmp_path / "set"), *SMALL]) == 0
    assert "left out: 1 failed" in capsys.readouterr().out


def test_nothing_is_called_kept_that_a_power_cut_would_take(curated, tmp_path, monkeypatch, capsys):
    """The journal would never have it made again: a silent hole in the data."""
    folder, _ = curated
    command = ["curate", str(folder / "deeper"), "--out", str(tmp_path / "set"), *SMALL]

    def dies(_descriptor):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(PairWriter, "_write_index", lambda self: None)  # which the disk would refuse before
        patch.setattr(os, "fsync", dies)
        assert cli.main(command) == 2
    assert "cannot be written: Input/output error" in capsys.readouterr().err
    assert not verdicts(tmp_path / "set")
    assert cli.main(command) == 0
    assert verdicts(tmp_path / "set") == {"an apple.mp4": "kept"}
    assert len(list(read(tmp_path / "set"))) == 2


def test_parts_share_the_videos(curated, tmp_path, monkeypatch):
    def dropped(*arguments):
        raise Dropped("not solved")

    monkeypatch.setattr(clips, "make", dropped)
    seen = []
    for part in range(3):
        out = tmp_path / f"part_{part}"
        assert cli.main(["curate", str(curated[0]), "--out", str(out), *SMALL, "--part", f"{part}/3"]) == 0
        seen += list(verdicts(out))
    assert sorted(seen) == sorted(verdicts(curated[1]))


def test_usage_errors_name_the_remedy(tmp_path, capsys):
    for arguments, words in (
        ([str(tmp_path / "nowhere")], "is no folder"),
        ([str(tmp_path)], "holds no video"),
        ([str(tmp_path), "--apart", "5:1"], "--apart"),
        ([str(tmp_path), "--frames", "2"], "--frames"),
        ([str(tmp_path), "--size", "9x9"], "--size"),
        ([str(tmp_path), "--fov", "180"], "--fov"),
        ([str(tmp_path), "--seed", "-1"], "--seed"),
    ):
        assert cli.main(["curate", *arguments, "--out", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err


def test_the_journal_of_another_program_is_refused(tmp_path):
    (tmp_path / "curation.jsonl").write_text("[1]\n")
    with pytest.raises(RetakeError, match="is damaged"):
        Journal(tmp_path, Settings())


def test_a_man_who_moves_is_followed_from_one_clip_to_the_other(sample_data):
    pictures, fps = small_clip(sample_data, "juggle", range(0, 28, 2), (256, 144))
    settings = Settings((128, 72), 7, apart=(0.5, 0.6))
    made = clips.make(np.stack(pictures), fps / 2, 7, settings, {}, quiet)
    assert made.facts["scene"] == "dynamic"
    assert made.facts["camera"] == "static"
    for pair in made.pairs.values():
        movers = pair.solve.tracks.objects > 0
        assert 20 < movers.sum() < 0.7 * len(movers)
        before, after = (
            camera.project(positions)[0][0]
            for camera, positions in (
                (pair.solve.cameras, pair.solve.tracks.positions), (pair.edit.cameras, pair.edit.positions),
            )
        )  # fmt: skip
        far = np.linalg.norm(after - before, axis=-1)
        assert np.median(far[movers]) > 4 * np.median(far[~movers])
        changed = np.abs(pair.target.astype(int) - pair.source).max(-1) > 40
        assert psnr(pair.moved.rgb[changed], pair.target[changed]) > psnr(pair.source[changed], pair.target[changed])


def test_a_target_is_taken_sooner_where_tracks_do_not_last():
    frames, still, moving = 40, 60, 30
    rng = np.random.default_rng(0)
    start = rng.uniform([-2, -1, 5], [2, 1, 7], (still + moving, 3))
    positions = np.repeat(start[None], frames, 0)
    positions[:, still:, 0] += 0.05 * np.arange(frames)[:, None]
    visible = np.ones((frames, still + moving), bool)
    visible[20:, still:] = False
    objects = np.repeat([0, 1], [still, moving])
    solve = Solve(ps.still_cameras(frames), Tracks.make(positions, visible, objects=objects))
    gap, facts = clips._lasting(solve, 33, 8, 7)
    assert gap == 14  # 33, 22, 14: frames 14 .. 20 still show it
    assert facts["motion"] > 0.05
    with pytest.raises(Dropped, match="movers not followed"):
        clips._lasting(solve, 33, 25, 7)
    with pytest.raises(Dropped, match="hardly any motion"):
        clips._lasting(Solve(solve.cameras, solve.tracks.select(objects == 0)), 33, 8, 7)
    apart = visible.copy()
    apart[:12], apart[12:] = (np.arange(90) < 45), (np.arange(90) >= 45)
    with pytest.raises(Dropped, match="nothing in common"):
        clips._lasting(Solve(solve.cameras, Tracks.make(positions, apart)), 33, 14, 7)


# --- what is taken of a video ---------------------------------------------------------------------------------------


def test_clips_lie_within_a_shot_and_a_few_seconds_apart():
    settings = Settings(frames=9, apart=(1.0, 3.0))
    for seed in range(20):
        found = stretches((100, 700), 24.0, settings, np.random.default_rng(seed))
        assert len(found) > 3
        stop = 100
        for stretch in found:
            assert stretch.step == 2
            assert stretch.start >= stop  # no frame is in two stretches
            assert 1.0 <= stretch.gap * stretch.step / 24 <= 3.0
            stop = stretch.chosen[-1] + 1
            assert len(stretch.chosen) == stretch.gap + 9
        assert stop <= 700
    assert stretches((0, 41), 24.0, settings, np.random.default_rng(0)) == [Stretch(0, 2, 9, 12)]
    assert stretches((0, 40), 24.0, settings, np.random.default_rng(0)) == []
    with pytest.raises(BadShot, match="--apart"):
        Settings(apart=(2.0, 1.0))


def test_shots_end_at_cuts(sample_data, tmp_path):
    scenes = [small_clip(sample_data, name, range(12))[0] for name in ("apple", "bigbuckbunny", "juggle")]
    write_video(tmp_path / "cut.mp4", [picture for scene in scenes for picture in scene], 24)
    with FootageReader(tmp_path / "cut.mp4") as reader:
        assert shots(reader, quiet) == [(0, 12), (12, 24), (24, 36)]


def test_the_solve_is_at_most_twice_as_large_and_never_larger_than_the_footage():
    assert solve_size((1920, 1080), (224, 128)) == (448, 256)
    assert solve_size((1920, 1080), (448, 256)) == (672, 384)
    assert solve_size((300, 200), (224, 128)) == (300, 171)
    assert solve_size((1920, 1080), (832, 480)) == (832, 480)
    assert solve_size((200, 200), (224, 128)) is None


def test_a_picture_that_is_cut_to_size_has_a_smaller_field_of_view():
    assert field_of_view(60.0, (1920, 1080), (448, 252)) == pytest.approx(60)
    assert field_of_view(60.0, (1920, 1080), (252, 252)) == pytest.approx(36.0, abs=0.1)
    assert field_of_view(60.0, (1080, 1920), (448, 252)) == pytest.approx(60)  # cut above and below
    assert field_of_view(None, (1920, 1080), (448, 252)) is None


# --- several cameras ------------------------------------------------------------------------------------------------


def camera_json(path, cameras):
    """ReCamMaster's file of {name: Cameras}."""
    frames = {}
    for t in range(len(next(iter(cameras.values())))):
        frames[f"frame{t}"] = {}
        for name, each in cameras.items():
            matrix = np.eye(4)
            matrix[:3, :3] = (FROM_UNREAL.T @ each.c2w[t, :3, :3] @ FROM_UNREAL).T
            matrix[3, :3] = 100 * each.c2w[t, :3, 3] @ FROM_UNREAL
            frames[f"frame{t}"][name] = " ".join("[" + " ".join(f"{v:.6f}" for v in row) + "]" for row in matrix)
    path.write_text(json.dumps(frames))


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """A scene as MultiCamVideo has it: a board moves before a wall, two cameras leave the same place. And its truth."""
    folder = tmp_path_factory.mktemp("multicam") / "scene1"
    (folder / "videos").mkdir(parents=True)
    (folder / "cameras").mkdir()
    time = np.linspace(0, 1, 9)
    path = np.stack([-0.4 + 0.5 * time, 0.1 * time, 3.6 - 0.3 * time], 1)
    boards = [ps.background(9), ps.board(path)]
    ways = {"cam01": [-0.5, 0.0, 0.0], "cam02": [0.4, 0.25, 0.2]}
    cameras = {name: ps.moved(ps.still_cameras(9), time[:, None] * way) for name, way in ways.items()}
    for name, each in cameras.items():
        pictures = [ps.ray_cast(boards, each, t, samples=2)[0] for t in range(9)]
        write_video(folder / "videos" / f"{name}.mp4", pictures, Fraction(16), quality=4)
    camera_json(folder / "cameras" / "camera_extrinsics.json", cameras)
    return folder.parent, path


def test_two_cameras_give_the_places_of_what_stands_and_what_moves(filmed, tmp_path, capsys):
    folder, path = filmed
    fov = str(np.degrees(2 * np.arctan(0.5 / 0.9)))
    command = ["curate", str(folder), "--out", str(tmp_path / "set"), "--size", "96x64", "--frames", "9"]
    assert cli.main(command) == 2
    assert "--fov" in capsys.readouterr().err
    assert cli.main([*command, "--fov", fov]) == 0
    examples = dict(read(tmp_path / "set"))
    assert len(examples) == 2
    for pair in examples.values():
        tracks = pair.solve.tracks
        wall, board = (tracks.positions[:, tracks.objects == number] for number in (0, 1))
        assert wall.shape[1] > 100
        assert board.shape[1] > 20
        assert np.median(np.abs(wall[..., 2] - 6)) < 0.05
        far = np.abs(board - path[:, None])
        assert np.median(far[..., 2]) < 0.1
        assert np.quantile(far[..., 0], 0.8) < 0.6  # within its half width: it goes with the board
        shown = ~pair.moved.holes
        assert psnr(pair.moved.rgb[shown], pair.target[shown]) > psnr(pair.source[shown], pair.target[shown]) + 3
        np.testing.assert_array_equal(pair.edit.positions, tracks.positions)  # the same moments, another camera


def test_cameras_that_do_not_belong_together_are_counted(filmed, tmp_path):
    folder, _ = filmed
    [scene] = multicamera.scenes(folder)
    with FootageReader(scene.videos["cam01"]) as reader:
        pictures = np.stack(list(reader.frames()))
    known = (ps.still_cameras(9), ps.still_cameras(9))
    make = (known, Fraction(16), Settings((96, 64), 9), {}, quiet)
    with pytest.raises(Dropped, match="identical clips"):
        multicamera.make(pictures, pictures, *make)
    with pytest.raises(Dropped, match="not synchronised"):
        multicamera.make(pictures, pictures[::-1], *make)


def test_every_camera_is_in_one_couple(filmed):
    scene = multicamera.Scene(filmed[0], dict.fromkeys("abcdefg", filmed[0]))
    drawn = {tuple(multicamera.couples(scene, seed)) for seed in range(9)}
    assert len(drawn) > 1
    assert all(len({name for couple in each for name in couple}) == 6 for each in drawn)
