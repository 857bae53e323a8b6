"""What only a real Blender can show, headless and in its window; the checks themselves run inside it."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent
HELD_AT_MOST = 1000
"""Milliseconds, on busy cores that also draw the window in software: more is a frozen window anywhere."""


@pytest.fixture
def real(blender: list[str]) -> str:
    """The program of the real Blender."""
    if len(blender) == 1:
        pytest.skip("needs a real Blender: `build.py test --blender PATH`")
    return blender[0]


@pytest.fixture
def window(real: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of this folder in its window; what the script writes goes into tmp_path."""
    in_own_display = Path(real).with_name("blender-gui")
    if not in_own_display.exists() and not os.environ.get("DISPLAY"):
        pytest.skip("needs a display")
    program = in_own_display if in_own_display.exists() else real

    def run(
        script: str, *words: str | Path, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [program, "--python", SCRIPTS / script, "--", *words, "--out", tmp_path]
        return subprocess.run(
            [str(word) for word in command], cwd=SCRIPTS.parents[1],
            env={**os.environ, "RETAKE_HOME": str(tmp_path / "home"), **(environ or {})}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400, check=False,
        )  # fmt: skip

    return run


def test_the_installed_extension_works_in_it(real, in_blender, sample_shot: Path, tmp_path: Path) -> None:
    shot = (sample_shot / "walk.mp4", sample_shot / "walk.solve.npz")
    done = in_blender("tests/end_to_end/real_blender.py", *shot, tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.rstrip().splitlines().count("OK") == 1, done.stdout


def test_a_session_in_its_window(window, sample_shot: Path, tmp_path: Path) -> None:
    shot = ("--footage", sample_shot / "walk.mp4", "--solve", sample_shot / "walk.solve.npz")
    done = window("real_window.py", *shot)
    assert done.returncode == 0, done.stdout
    told = json.loads((tmp_path / "window.json").read_text())
    assert told["frames"] == 81
    assert told["first take"] == "DONE"
    assert max(told["longest hold of the window, ms"].values()) < HELD_AT_MOST, told
    assert len(list(tmp_path.glob("*.png"))) >= 8


def test_the_engines_panels_in_its_window(window, sample_shot: Path, tmp_path: Path) -> None:
    """With tiny models of random weights for some of the engines: the others lack theirs."""
    from retake_backend.models.random_weights import write_random

    for name in ("wan2.1-t2v-1.3b", "edit-by-track"):
        write_random(name, tmp_path / "models" / name)
    shot = ("--footage", sample_shot / "walk.mp4", "--solve", sample_shot / "walk.solve.npz")
    done = window("real_engines.py", *shot, environ={"RETAKE_MODELS": str(tmp_path / "models")})
    assert done.returncode == 0, done.stdout
    told = json.loads((tmp_path / "engines.json").read_text())
    assert told["take"] == "DONE"
    assert "random" in told["notes"]
    assert max(told["longest hold of the window, ms"].values()) < HELD_AT_MOST, told
    assert len(list(tmp_path.glob("*.png"))) >= 14


def test_marking_what_moves_in_its_window(window, sample_shot: Path, tmp_path: Path) -> None:
    """With a real mouse: a mark that lies elsewhere than where it was clicked masks something else."""
    shot = ("--footage", sample_shot / "walk.mp4", "--solve", sample_shot / "walk.solve.npz")
    done = window("real_marks.py", *shot, environ={"RETAKE_MODELS": str(tmp_path / "models")})
    assert done.returncode == 0, done.stdout
    told = json.loads((tmp_path / "marks.json").read_text())
    assert told["px missed through the camera"] < 1
    assert told["px missed in the editor"] < told["px of the footage to one of the screen"]
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_solving_footage_in_its_window(window, sample_shot: Path, tmp_path: Path) -> None:
    """The first second of the sample shot, small: refused, begun, cancelled, gone on with, imported, slid in depth."""
    import cv2
    from retake_backend.footage import FootageReader, write_video

    with FootageReader(sample_shot / "walk.mp4") as reader:
        small = (cv2.resize(reader.frame(index), (336, 192), interpolation=cv2.INTER_AREA) for index in range(24))
        write_video(tmp_path / "small.mp4", small, reader.footage.fps)
    done = window("real_solve.py", "--footage", tmp_path / "small.mp4")
    assert done.returncode == 0, done.stdout
    told = json.loads((tmp_path / "solve.json").read_text())
    assert told["frames"] == 24
    assert "3 frames" in told["refused"]
    assert told["seconds to start"] < 0.2
    assert max(told["longest hold of the window, ms"].values()) < HELD_AT_MOST, told
    assert len(list(tmp_path.glob("*.png"))) >= 11
