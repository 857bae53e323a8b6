"""Which engines there are, what they lack, and a take of one from the command line."""

import json
import os
import subprocess
import sys

import pytest
from retake_backend import engines
from retake_backend.engines.preview import PreviewEngine
from retake_backend.footage import FootageReader
from retake_shared import engine_options
from retake_shared.errors import RetakeError

BASE = "wan2.1-t2v-1.3b"


class Further(PreviewEngine):
    name = "further"


def test_engines_that_lack_weights_are_listed_with_what_they_lack(tmp_path, monkeypatch, models):
    told = {engine["name"]: engine for engine in engines.available()}
    assert list(told) == ["preview", "draft", "edit-by-track", "track2view", "trajectory-attention", "vace"]
    assert told["preview"]["ready"]
    assert told["edit-by-track"]["ready"]
    assert not told["vace"]["ready"]
    assert [model["name"] for model in told["vace"]["missing"]] == ["wan2.1-vace-1.3b"]
    assert told["vace"]["missing"][0]["licence"] == "Apache-2.0"
    assert told["vace"]["missing"][0]["bytes"] > 10**9
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path / "nothing"))
    told = {engine["name"]: engine for engine in engines.available()}
    assert [model["name"] for model in told["track2view"]["missing"]] == [BASE, "track2view"]


def test_every_engine_of_the_table_can_be_made():
    for described in engine_options.ENGINES:
        assert engines.create(described.name).name == described.name
    with pytest.raises(RetakeError, match="preview, draft, edit-by-track, track2view, trajectory-attention, vace"):
        engines.create("nothing")


def test_an_engine_from_the_environment_is_ready(monkeypatch):
    """It says itself what it lacks, when it renders: the catalogue does not know its weights."""
    monkeypatch.setenv("RETAKE_ENGINES", f"{Further.__module__}:{Further.__name__}")
    monkeypatch.setitem(sys.modules, Further.__module__, sys.modules[__name__])
    assert engines.available()[-1] == {
        "name": "further", "label": "further", "description": "", "ready": True, "missing": [],
    }  # fmt: skip
    assert isinstance(engines.create("further"), Further)


def test_listing_engines_does_not_load_torch():
    code = "import sys; from retake_backend import engines; engines.available(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_take_from_the_command_line(models, sample_shot, tmp_path):
    command = [
        sys.executable, "-m", "retake_backend.cli", "render", "--engine", "edit-by-track",
        "--footage", sample_shot / "walk.mp4", "--solve", sample_shot / "walk.solve.npz",
        "--edit", sample_shot / "edited.edit.npz", "--frames", "0:9", "--out", tmp_path / "take",
        "--option", "steps=2", "--option", "working_size=96", "--option", "memory=cpu",
    ]  # fmt: skip
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    take = json.loads((tmp_path / "take" / "take.json").read_text())
    assert take["frames"] == [0, 9]
    assert any("random" in note for note in take["notes"])
    with FootageReader(tmp_path / "take" / "frame_00008.png") as picture:
        assert picture.frame(0).shape == (384, 672, 3)
        assert picture.frame(0).std() > 1
