"""`blender --command retake` and batch.py, in a real Blender with the extension installed: what a farm runs."""

import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def run(blender, tmp_path):
    """run(*arguments) -> the ended process of a Blender without a window."""
    if len(blender) == 1:
        pytest.skip("needs a real Blender: `build.py test --blender PATH`")

    def run(*arguments):
        return subprocess.run(
            [blender[0], "-b", *map(str, arguments)], env={**os.environ, "RETAKE_HOME": str(tmp_path / "home")},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    yield run
    run("--python-expr", "import bpy; bpy.ops.retake.test_backend(); bpy.ops.retake.stop_backend()")


@pytest.fixture
def batch() -> Path:
    """batch.py where the extension was installed."""
    resources = os.environ.get("BLENDER_USER_RESOURCES")
    found = sorted(Path(resources).rglob("retake/batch.py")) if resources else []
    if not found:
        pytest.skip("the extension is not installed under BLENDER_USER_RESOURCES")
    return found[0]


def test_a_shot_becomes_a_blend_and_the_blend_a_take(run, batch, sample_shot, tmp_path):
    shot = ("--footage", sample_shot / "walk.mp4", "--solve", sample_shot / "walk.solve.npz")
    blend = tmp_path / "walk.blend"
    made = run("--command", "retake", "import", *shot, "--density", 200, "--out", blend)
    assert made.returncode == 0, made.stdout + made.stderr

    done = run(blend, "--command", "retake", "render", "--frames", "0:2", "--out", tmp_path / "one")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Retake: rendering" in done.stdout
    done = run(blend, "--python", batch, "--", "--engine", "preview", "--frames", "0:2", "--out", tmp_path / "two")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("frame_00000.png", "frame_00001.png", "holes_00001.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_bad_input_is_told_by_the_exit_code(run, batch, tmp_path):
    assert run("--command", "retake", "render", "--nonsense").returncode == 2
    empty = run("--python", batch, "--", "--out", tmp_path / "take")
    assert (empty.returncode, "no such shot" in empty.stderr) == (2, True)
    refused = run("--factory-startup", "--python", batch, "--", "--out", tmp_path / "take")
    assert (refused.returncode, "not enabled" in refused.stderr) == (2, True)
