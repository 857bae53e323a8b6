"""The command line inside Blender: what a farm sees of it."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import bpy
import numpy as np
import pytest
from retake_shared import archive

from blender_addon import cli, takes


@pytest.fixture
def files(inputs, tmp_path):
    """(--footage F --solve S --edit E) of a shot that no .blend knows; the edit orbits and moves an object."""
    video, solve, _ = inputs
    archive.save(tmp_path / "solve.npz", solve)
    edit = {
        "retake_edit": 1,
        "seed": 4,
        "camera": [{"move": "orbit", "degrees": 5}],
        "objects": [{"object": "man", "keys": [{"frame": 0, "translate": [0.1, 0, 0]}]}],
    }
    (tmp_path / "edit.json").write_text(json.dumps(edit))
    return ["--footage", str(video), "--solve", str(tmp_path / "solve.npz"), "--edit", str(tmp_path / "edit.json")]


def test_from_nothing_to_a_take(files, home, tmp_path, capfd):
    assert cli.main(["render", *files, "--engine", "preview", "--out", str(tmp_path / "take")]) == 0
    take = takes.read_take(tmp_path / "take")
    assert take.settings.seed == 4
    assert list(takes.frame_files(tmp_path / "take")) == list(range(8))
    told = capfd.readouterr().out
    assert "rendering" in told
    assert "8 frames in" in told
    assert not list(bpy.data.objects)


def test_options_win_over_the_edit(files, home, tmp_path):
    out = tmp_path / "take"
    assert cli.main([*files, "--out", str(out), "--seed", "8", "--size", "160x96", "--frames", "2:5"]) == 0
    take = takes.read_take(out)
    assert (take.settings.seed, take.width, take.height) == (8, 160, 96)
    assert list(takes.frame_files(out)) == [2, 3, 4]


def test_the_open_blend_is_rendered_as_it_is_keyed(video_shot, tmp_path):
    _, solve = video_shot
    bpy.ops.retake.orbit(degrees=10)
    assert cli.main(["--out", str(tmp_path / "take")]) == 0
    edit = archive.load_edit(tmp_path / "take/edit.npz")
    assert np.abs(edit.cameras.c2w - solve.cameras.c2w).max() > 0.1
    assert len(next(ob for ob in bpy.data.objects if ob.retake_role == "SHOT").retake.takes) == 0


def test_an_older_take_is_replaced_only_by_a_whole_new_one(files, home, tmp_path):
    out = tmp_path / "take"
    assert cli.main([*files, "--out", str(out), "--seed", "1"]) == 0
    assert cli.main([*files, "--out", str(out), "--engine", "no such engine"]) == 3
    assert takes.read_take(out).settings.seed == 1
    assert cli.main([*files, "--out", str(out), "--seed", "2"]) == 0
    assert takes.read_take(out).settings.seed == 2
    assert [path.name for path in tmp_path.iterdir() if "take" in path.name] == ["take"]


def test_a_folder_that_holds_something_else_is_left_alone(files, home, tmp_path, capfd):
    out = tmp_path / "holiday"
    out.mkdir()
    (out / "beach.jpg").write_text("precious")
    assert cli.main([*files, "--out", str(out)]) == 2
    assert [path.name for path in out.iterdir()] == ["beach.jpg"]
    assert "not a take" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (["--footage", "/nowhere.mp4"], "/nowhere.mp4"),
        (["--solve", "/nowhere.npz"], "/nowhere.npz"),
        (["--edit", "/nowhere.json"], "/nowhere.json"),
        (["--frames", "4:400"], "400"),
        (["--size", "1x1"], "1x1"),
        (["--seed", "-1"], "-1"),
        (["--frames", "abc"], "abc"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_code_2_and_named(files, home, tmp_path, capfd, change, word):
    assert cli.main([*files, "--out", str(tmp_path / "take"), *change]) == 2
    assert word in capfd.readouterr().err
    assert not (tmp_path / "take").exists()


def test_half_of_a_shot_is_not_enough(files, capfd, tmp_path):
    assert cli.main([*files[:4], "--out", str(tmp_path / "take")]) == 2
    assert "--edit" in capfd.readouterr().err


def test_an_empty_blend_is_bad_input(tmp_path, capfd):
    assert cli.main(["--out", str(tmp_path / "take")]) == 2
    assert "--footage" in capfd.readouterr().err


def test_no_backend_is_code_3(files, tmp_path, capfd):
    arguments = [*files, "--out", str(tmp_path / "take"), "--backend", "/nowhere/retake", "--home", str(tmp_path / "h")]
    assert cli.main(arguments) == 3
    assert "/nowhere/retake" in capfd.readouterr().err


def test_ctrl_c_stops_the_backend_too(files, home, tmp_path, monkeypatch):
    from dataclasses import replace

    load = cli.edit_script.load

    def slow(*arguments):
        edit, settings = load(*arguments)
        return edit, replace(settings, engine="trial", options={"seconds": 0.5})

    monkeypatch.setattr(cli.edit_script, "load", slow)
    timer = threading.Timer(2.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    before = signal.getsignal(signal.SIGINT)
    assert cli.main([*files, "--out", str(tmp_path / "take")]) == 130
    assert signal.getsignal(signal.SIGINT) == before
    assert takes.read_record(tmp_path / "take").state == "cancelled"


def test_import_makes_a_blend_that_renders(files, home, tmp_path):
    blend = tmp_path / "made.blend"
    assert cli.main(["import", *files[:4], "--out", str(blend), "--density", "20"]) == 0
    bpy.ops.wm.open_mainfile(filepath=str(blend))
    assert sum(ob.retake_track >= 0 for ob in bpy.data.objects) == 20
    assert cli.main(["render", "--out", str(tmp_path / "take"), "--shot", Path(files[1]).stem]) == 0
