"""Takes of the diffusion engines from Blender, with tiny models of random weights: what the artist sees and keeps."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from pathlib import Path

import bpy
import pytest
from retake_shared import archive, connection
from retake_shared.client import Client
from retake_shared.engine_options import ENGINES
from retake_shared.errors import BadShot, RetakeError

from blender_addon import cli, engine_settings, linked, models, rendering, take_requests, takes
from blender_addon.messages import ModelsTold, RoughPicture
from blender_addon.scene import footage_clip, readback, shots

from .test_panels import drawn

WRITE_MODELS = """
import sys
from pathlib import Path
import torch
from retake_backend.models.random_weights import write_random
torch.set_num_threads(1)
for name in sys.argv[2:]:
    write_random(name, Path(sys.argv[1]) / name)
"""
NEEDED = sorted({name for engine in ENGINES for name in engine.weights})
DIFFUSION = [engine.name for engine in ENGINES if engine.weights]


@pytest.fixture(scope="module")
def models_home(backend_python, tmp_path_factory):
    """A backend with tiny models of random weights for every engine, and the engine that does as it is told."""
    folder = tmp_path_factory.mktemp("engines")
    subprocess.run(
        [backend_python, "-c", WRITE_MODELS, str(folder / "models"), *NEEDED],
        check=True, timeout=300, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    before = dict(os.environ)
    os.environ |= {
        "RETAKE_BACKEND": backend_python,
        "RETAKE_HOME": str(folder / "home"),
        "RETAKE_MODELS": str(folder / "models"),
        "RETAKE_ENGINES": "trial_engines:Trial",
        "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "tests/backend/broker"),
    }
    yield folder / "home"
    with contextlib.suppress(RetakeError), Client.connect(folder / "home" / connection.FILE_NAME) as client:
        client.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def filmed(video, models_home, make_solve, tmp_path):
    """The root of a shot on a video, in a saved .blend; its takes are five small frames of few steps."""
    rendering.unregister()
    rendering.register()
    footage = footage_clip.probe(str(video), bpy.context.scene)
    root = shots.import_shot(bpy.context, footage, make_solve(footage), set_scene=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    shot = root.retake
    shot.use_range, shot.range = True, (shot.start + 1, shot.start + 5)
    shot.options.working_size, shot.options.steps, shot.options.window = 96, 2, 5
    yield root
    rendering.unregister()
    rendering.register()


def pump_until(test, limit=120.0):
    deadline = time.monotonic() + limit
    while not test():
        assert time.monotonic() < deadline, "waited too long"
        rendering.pump(0.05)
        time.sleep(0.01)


def begin(root):
    """A take that goes on in the background, as from the window."""
    return take_requests.begin(
        bpy.context, root, *readback.read_edit(bpy.context, root), take_requests.settings_of(root)
    )


@pytest.mark.parametrize("engine", DIFFUSION)
def test_each_engine_makes_a_take_that_says_what_its_weights_are(filmed, engine):
    shot = filmed.retake
    shot.engine = engine
    shot.prompt = "a ramp of colours"
    assert bpy.ops.retake.generate() == {"FINISHED"}
    take = takes.read_take(Path(shot.takes[-1].folder))
    assert take.settings.engine == engine
    own = {} if engine == "draft" else {"steps": 2, "window": 5}  # those of the draft have other bounds
    assert take.settings.options == {"working_size": 96, **own}
    assert list(takes.frame_files(Path(shot.takes[-1].folder))) == [1, 2, 3, 4, 5]
    assert any("random" in note for note in take.notes)
    assert "random" in shot.takes[-1].message


def test_the_take_is_seen_growing_before_it_has_frames(filmed):
    shot = filmed.retake
    shot.engine, shot.options.steps = "edit-by-track", 6
    folder = begin(filmed)
    seen = []
    deadline = time.monotonic() + 120
    while rendering.busy(bpy.context) and time.monotonic() < deadline:
        for message in linked.link(bpy.context).messages():
            rendering.apply(message)
            latest = rendering.latest_picture(bpy.context)
            if latest is not None and latest[0].name not in seen:
                seen.append(latest[0].name)
                assert latest[0].parent == folder
                assert max(latest[1].shape[:2]) <= 256
                drawn()
        time.sleep(0.01)
    assert shot.takes[-1].state == "DONE", shot.takes[-1].message
    assert seen[0].startswith("rough picture")
    assert seen[-1].startswith("frame_")
    assert rendering.latest_picture(bpy.context) is None
    assert [image.name for image in bpy.data.images if "rough" in image.name] == []


def test_a_rough_picture_is_upright_in_its_colours_and_takes_no_time(filmed, backend_python, tmp_path):
    code = (
        "import cv2, sys, numpy as np; a = np.zeros((288, 512, 3), np.uint8); a[:100] = 255, 0, 0; a[100:] = 0, 200, 0\n"
        "cv2.imwrite(sys.argv[1], a[..., ::-1])"
    )
    subprocess.run([backend_python, "-c", code, str(tmp_path / "rough.jpg")], check=True)
    jpeg = (tmp_path / "rough.jpg").read_bytes()
    rendering.decoded(jpeg)
    began = time.perf_counter()
    pixels = rendering.decoded(jpeg)
    assert time.perf_counter() - began < 0.05
    assert pixels.shape == (144, 256, 4)
    assert pixels[-1, 0] == pytest.approx([1, 0, 0, 1], abs=0.02)  # the last row is the top
    assert pixels[0, 0] == pytest.approx([0, 200 / 255, 0, 1], abs=0.02)
    for broken in (b"", b"no picture", jpeg[:200]):
        rendering.decoded(broken)  # gives a picture or none, and never an error
    rendering.apply(RoughPicture(tmp_path / "nobody's take", jpeg))
    assert rendering.latest_picture(bpy.context) is None


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def picture(filmed, tmp_path):
    """The footage's first frame of the range, saved from Blender; the shot makes its takes from it."""
    shot = filmed.retake
    target = tmp_path / "première.png"
    assert bpy.ops.retake.save_first_frame(filepath=str(target)) == {"FINISHED"}
    assert Path(shot.first_frame) == target
    shot.engine, shot.options.use = "trajectory-attention", "first-frame"
    return target


def test_the_saved_frame_is_the_footages_own_at_the_start_of_the_range(picture, video, backend_python):
    code = (
        "import cv2, sys, numpy as np; from retake_backend.footage import FootageReader\n"
        "with FootageReader(sys.argv[1]) as footage: rgb = footage.frame(1)\n"
        "assert np.array_equal(cv2.imread(sys.argv[2])[..., ::-1], rgb)"
    )
    subprocess.run([backend_python, "-c", code, str(video), str(picture)], check=True)


def test_a_take_from_an_edited_first_frame_keeps_it_and_is_rendered_again_with_it(filmed, picture):
    shot = filmed.retake
    edited = sha256(picture)
    assert bpy.ops.retake.generate() == {"FINISHED"}
    first = Path(shot.takes[-1].folder)
    assert sha256(first / "first_frame.png") == edited
    assert takes.read_take(first).first_frame_sha256 == takes.read_record(first).first_frame_sha256 == edited

    picture.write_bytes(b"painted over, and not a picture any more")
    shot.options.use, shot.first_frame = "video", ""
    assert bpy.ops.retake.render_again() == {"FINISHED"}
    second = Path(shot.takes[-1].folder)
    assert takes.read_take(second).first_frame_sha256 == edited
    for index in range(1, 6):
        assert sha256(first / f"frame_{index:05d}.png") == sha256(second / f"frame_{index:05d}.png")

    shot.active_take = 0
    assert bpy.ops.retake.restore_edit() == {"FINISHED"}
    assert (shot.engine, shot.options.use) == ("trajectory-attention", "first-frame")
    assert Path(shot.first_frame) == first / "first_frame.png"


def test_a_missing_first_frame_is_told_before_anything_is_made(filmed, picture):
    shot = filmed.retake
    for chosen in ("", str(picture) + ".gone"):
        shot.first_frame = chosen
        with pytest.raises(RuntimeError, match="first frame"):
            bpy.ops.retake.generate()
    assert len(shot.takes) == 0
    assert not rendering.busy(bpy.context)


def test_the_one_image_is_the_frame_that_the_timeline_is_at(filmed):
    shot = filmed.retake
    shot.engine, shot.options.use = "trajectory-attention", "image"
    for frame, index in ((shot.start + 3, 3), (shot.start - 40, 0), (shot.start + 400, shot.frames - 1)):
        bpy.context.scene.frame_set(frame)
        assert bpy.ops.retake.image_from_timeline() == {"FINISHED"}
        assert shot.options.image_frame == index


def test_restoring_a_take_brings_its_engine_and_options_back(filmed):
    shot = filmed.retake
    shot.engine, shot.options.fill, shot.seed = "preview", "none", 7
    assert bpy.ops.retake.generate() == {"FINISHED"}
    shot.engine, shot.options.fill, shot.seed = "vace", "all", 0
    assert bpy.ops.retake.restore_edit() == {"FINISHED"}
    assert (shot.engine, shot.options.fill, shot.seed) == ("preview", "none", 7)
    assert takes.read_take(Path(shot.takes[-1].folder)).settings.options == {"fill": "none"}


def test_memory_is_not_freed_under_a_running_take(filmed):
    shot = filmed.retake
    bpy.ops.retake.start_backend()
    pump_until(lambda: linked.backend().info and any(e["name"] == "trial" for e in linked.backend().info.engines))
    shot.engine, shot.other_options = "trial", "seconds=0.3 keep=4"
    begin(filmed)
    assert not bpy.ops.retake.free_memory.poll()
    pump_until(lambda: not rendering.busy(bpy.context))
    assert shot.takes[-1].state == "DONE", shot.takes[-1].message
    pump_until(bpy.ops.retake.free_memory.poll)
    assert bpy.ops.retake.free_memory() == {"FINISHED"}
    assert "No model is held" in bpy.context.window_manager.retake.backend_message


def test_words_that_are_no_options_stop_generate_and_say_why(filmed):
    shot = filmed.retake
    engine_settings.learn([{"name": "trial"}])
    shot.engine, shot.other_options = "trial", "nonsense"
    with pytest.raises(RuntimeError, match="NAME=VALUE"):
        bpy.ops.retake.generate()
    with pytest.raises(BadShot):
        take_requests.settings_of(filmed)
    drawn()


@pytest.fixture
def files(video, make_solve, tmp_path):
    """(--footage F --solve S --edit E) of a shot that no .blend knows."""
    solve = make_solve(footage_clip.probe(str(video), bpy.context.scene))
    archive.save(tmp_path / "solve.npz", solve)
    (tmp_path / "edit.json").write_text('{"retake_edit": 1, "camera": [{"move": "orbit", "degrees": 3}]}')
    return ["--footage", str(video), "--solve", str(tmp_path / "solve.npz"), "--edit", str(tmp_path / "edit.json")]


SMALL = ["--option", "working_size=96", "--option", "steps=2", "--option", "window=5", "--frames", "0:5"]


def test_the_command_line_takes_options_and_an_edited_first_frame(files, models_home, tmp_path, backend_python):
    words = ["frame", "--footage", files[1], "--out", str(tmp_path / "first.png")]
    subprocess.run([backend_python, "-m", "retake_backend.cli", *words], check=True, stdout=subprocess.DEVNULL)
    chosen = ["--engine", "trajectory-attention", "--option", "use=first-frame"]
    first = ["--first-frame", str(tmp_path / "first.png")]
    out = tmp_path / "take"
    assert cli.main([*files, *chosen, *first, *SMALL, "--out", str(out)]) == 0
    take = takes.read_take(out)
    assert take.settings.options == {"use": "first-frame", "working_size": 96, "steps": 2, "window": 5}
    assert take.first_frame_sha256 == sha256(tmp_path / "first.png") == sha256(out / "first_frame.png")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engine", "vace", "--first-frame", "x.png"], "--first-frame"),
        (["--engine", "trajectory-attention", "--option", "use=first-frame"], "--first-frame"),
        (
            ["--engine", "trajectory-attention", "--option", "use=first-frame", "--first-frame", "/nowhere/x.png"],
            "/nowhere/x.png",
        ),
        (["--engine", "vace", "--option", "steps"], "NAME=VALUE"),
    ],
)
def test_a_wrong_first_frame_or_option_is_code_2_and_named(files, models_home, tmp_path, capfd, words, told):
    assert cli.main([*files, *words, "--out", str(tmp_path / "take")]) == 2
    assert told in capfd.readouterr().err
    assert not (tmp_path / "take").exists()


def test_the_command_line_says_which_weights_are_missing(files, models_home, tmp_path, capfd):
    words = ["--engine", "trajectory-attention", "--option", "base=svd", "--out", str(tmp_path / "take")]
    models.apply(ModelsTold(None))
    assert cli.main([*files, *words]) == 2
    told = capfd.readouterr().err
    for word in ("Stable Video Diffusion XT (4.5 GB)", "Stability AI Community License", "retake models pull svd-xt"):
        assert word in told
    assert "retake models import trajectory-attention-svd" in told
    assert not (tmp_path / "take").exists()
