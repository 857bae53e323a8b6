"""Blender's side as `build.py test` names it: a bpy wheel's Python, or a real Blender with the extension installed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def blender() -> list[str]:
    """What to put before a script to run it on Blender's side."""
    if "RETAKE_BLENDER" not in os.environ:
        pytest.skip("RETAKE_BLENDER names no program: run `build.py test`")
    return json.loads(os.environ["RETAKE_BLENDER"])


@pytest.fixture
def in_blender(blender: list[str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script of the repository on Blender's side with a backend home of its own; output as text."""

    def run(script: str, *arguments: object, limit: float = 300) -> subprocess.CompletedProcess[str]:
        between = ["--"] if len(blender) > 1 else []
        command = [*blender, REPOSITORY / script, *between, *arguments]
        environ = {"RETAKE_BACKEND": sys.executable, **os.environ, "RETAKE_HOME": str(tmp_path / "backend")}
        return subprocess.run(
            [str(word) for word in command], cwd=REPOSITORY, env=environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit, check=False,
        )  # fmt: skip

    return run
