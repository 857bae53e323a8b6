"""A real backend of these tests' own, a real video, and a shot on it in a saved .blend."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import bpy
import pytest
from retake_shared import connection
from retake_shared.client import Client
from retake_shared.errors import RetakeError
from retake_shared.shot import Edit, RenderSettings

REPOSITORY = Path(__file__).resolve().parents[3]
FRAMES = 8

WRITE_VIDEO = """
import sys
from fractions import Fraction
import numpy as np
from retake_backend.footage import write_video
ramp = np.add.outer(np.arange(180), np.arange(320))
frames = (np.stack([ramp + 20 * t, ramp // 2, 255 - ramp // 2], -1).clip(0, 255).astype(np.uint8) for t in range(int(sys.argv[2])))
write_video(sys.argv[1], frames, Fraction(24))
"""


@pytest.fixture(scope="session")
def backend_python() -> str:
    """The Python of the backend's environment."""
    named = os.environ.get("RETAKE_BACKEND", str(REPOSITORY / ".envs/backend/bin/python"))
    if not Path(named).is_file():
        pytest.skip(f"no backend environment at {named}")
    return named


@pytest.fixture(scope="session")
def home(backend_python, tmp_path_factory):
    """The folder of a backend that the add-on starts when it needs it; stopped at the end. It knows engines that
    take their time or fail when they are told to."""
    folder = tmp_path_factory.mktemp("backend")
    before = dict(os.environ)
    os.environ |= {
        "RETAKE_BACKEND": backend_python,
        "RETAKE_HOME": str(folder),
        "RETAKE_ENGINES": "trial_engines:Trial",
        "PYTHONPATH": str(REPOSITORY / "tests/backend/broker"),
    }
    yield folder
    with contextlib.suppress(RetakeError), Client.connect(folder / connection.FILE_NAME) as client:
        client.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def video(backend_python, tmp_path_factory) -> Path:
    """A real video, FRAMES frames of 320x180."""
    path = tmp_path_factory.mktemp("footage") / "clip with spaces é.mp4"
    subprocess.run([backend_python, "-c", WRITE_VIDEO, str(path), str(FRAMES)], check=True, timeout=120)
    return path


@pytest.fixture
def video_shot(video, home, make_solve, tmp_path):
    """(root, solve) of a shot on the video, in a saved .blend."""
    from blender_addon import rendering
    from blender_addon.scene import footage_clip, shots

    footage = footage_clip.probe(str(video), bpy.context.scene)
    solve = make_solve(footage)
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    yield root, solve
    rendering.unregister()  # ends the link, so that no take of one test goes on in the next
    rendering.register()


@pytest.fixture
def inputs(video, make_solve):
    """(footage path, solve, edit) as plain data."""
    from blender_addon.scene import footage_clip

    solve = make_solve(footage_clip.probe(str(video), bpy.context.scene))
    return video, solve, Edit.identity(solve)


@pytest.fixture
def trial():
    """trial(**options) -> RenderSettings of the engine that misbehaves as told."""
    return lambda **options: RenderSettings(engine="trial", options=options)
