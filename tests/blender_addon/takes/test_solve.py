"""Footage solved from Blender with the real backend: what comes of it, what can be seen meanwhile, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from math import radians
from pathlib import Path

import bpy
import pytest
from retake_shared import archive

from blender_addon import linked, preferences, rendering, solving
from blender_addon.messages import SolveProgress
from blender_addon.scene import shots
from blender_addon.solve_process import SolveJob

from .test_panels import drawn

FRAMES = 12

CUT_VIDEO = """
import sys, cv2
from pathlib import Path
from retake_backend.footage import FootageReader, write_video
with FootageReader(Path(sys.argv[1])) as reader:
    frames = (cv2.resize(reader.frame(i), (224, 128), interpolation=cv2.INTER_AREA) for i in range(int(sys.argv[3])))
    write_video(sys.argv[2], frames, reader.footage.fps)
"""


@pytest.fixture(scope="module")
def clip(backend_python, sample_shot, tmp_path_factory) -> Path:
    """The first frames of the sample shot, small."""
    path = tmp_path_factory.mktemp("to solve") / "walk é.mp4"
    words = [backend_python, "-c", CUT_VIDEO, str(sample_shot / "walk.mp4"), str(path), str(FRAMES)]
    subprocess.run(words, check=True, timeout=120)
    return path


@pytest.fixture(scope="module")
def kept(clip, home, tmp_path_factory) -> Path:
    """A folder with the clip's solve, its report and its stages."""
    folder = tmp_path_factory.mktemp("kept")
    words = [os.environ["RETAKE_BACKEND"], "-m", "retake_backend.cli", "solve", str(clip), "--progress", "json"]
    done = subprocess.run(
        [*words, "--out", str(folder / f"{clip.stem}.solve.npz")], check=False, timeout=300, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return folder


@pytest.fixture
def blend(home, tmp_path):
    """The folder of a saved .blend in which nothing is being solved."""
    rendering.unregister()
    rendering.register()
    solving.current = None
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    yield tmp_path
    rendering.unregister()
    rendering.register()
    solving.current = None
    solving.interrupted.clear()


def pump_until(test, limit=120.0):
    deadline = time.monotonic() + limit
    while not test():
        assert time.monotonic() < deadline, f"waited too long: {solving.current}"
        rendering.pump(0.05)
        solving.settle(bpy.context)
        time.sleep(0.01)


def test_a_video_becomes_a_shot_with_its_report(clip, kept, blend):
    shutil.copytree(kept, blend, dirs_exist_ok=True)  # its stages: this is about Blender's side
    assert bpy.ops.retake.solve_footage(filepath=str(clip)) == {"FINISHED"}
    root = shots.active_shot(bpy.context)
    assert root.retake.frames == FRAMES
    assert len(archive.load_solve(blend / f"{clip.stem}.solve.npz").tracks) > 100
    assert not list(blend.glob("*.job.json"))
    report = json.loads((blend / f"{clip.stem}.solve.report.json").read_text())
    shutil.rmtree(blend / f"{clip.stem}.solve.stages")
    (blend / f"{clip.stem}.solve.report.json").unlink()
    texts = " ".join(drawn())  # from the .blend alone
    for line in (*report["reasons"], *report["words"][-2:]):
        assert line[1:] in texts
    assert {"green": "Good", "yellow": "Look at it", "red": "Do not use"}[report["light"]] in texts
    assert "Reprojection error" in texts
    assert "Focal length" in texts


def test_the_window_stays_free_and_shows_each_stage(clip, blend):
    began = time.monotonic()
    solving.begin(bpy.context, solving.job_for(str(clip)))
    assert time.monotonic() - began < 0.1
    assert "Starting…" in drawn()
    seen, pictures = [], set()
    longest = 0.0
    while solving.busy():
        assert time.monotonic() - began < 180
        at = time.monotonic()
        rendering.pump(rendering.BUDGET)
        longest = max(longest, time.monotonic() - at)
        seen += [text for text in drawn() if text not in seen]
        pictures.add(solving.current.picture)
        time.sleep(0.01)
    assert longest < 0.1
    for stage in ("Points: following points", "Cameras: solving cameras"):
        assert stage in seen
    assert any(path.endswith("points.png") for path in pictures)
    assert solving.current.state == "importing", solving.current.words
    assert shots.active_shot(bpy.context) is None
    solving.settle(bpy.context)
    assert shots.active_shot(bpy.context).retake.solve_report


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell which cores are used")
def test_a_solve_keeps_to_the_device_and_the_cores_of_the_preferences(clip, blend):
    """Who keeps the GPU for Blender keeps it while footage is solved, too."""
    page = preferences.preferences(bpy.context)
    page.device, page.cores = "cpu", 1
    try:
        solving.begin(bpy.context, solving.job_for(str(clip)))
        pump_until(lambda: bool(solving.current.parts) or not solving.busy())
        process = linked.link(bpy.context)._solving._process
        assert solving.busy(), solving.current.words
        assert len(os.sched_getaffinity(process.pid)) == 1
        assert process.args[process.args.index("--device") + 1] == "cpu"
    finally:
        for name in ("device", "cores"):
            page.property_unset(name)
        solving.cancel(bpy.context)
        pump_until(lambda: not solving.busy())


def test_cancel_stops_at_once_and_the_next_solve_goes_on_from_what_is_kept(clip, blend):
    solving.begin(bpy.context, solving.job_for(str(clip)))
    process = linked.link(bpy.context)._solving
    pump_until(lambda: any(part.ended for part in solving.current.parts))
    at = time.monotonic()
    assert bpy.ops.retake.cancel_solve() == {"FINISHED"}
    pump_until(lambda: not solving.busy())
    assert time.monotonic() - at < 5
    assert process._process.poll() is not None
    assert solving.current.state == "cancelled"
    assert not list(blend.glob("*.npz"))
    assert not list(blend.glob("*.job.json"))
    assert any("cancelled. What was done is kept" in text for text in [" ".join(drawn())])
    solving.begin(bpy.context, solving.current.job)
    pump_until(lambda: any(part.ended for part in solving.current.parts))
    assert solving.current.parts[0].kept
    assert "Points, kept from before" in drawn()
    solving.cancel(bpy.context)
    pump_until(lambda: not solving.busy())


def test_after_a_crash_the_next_blender_offers_to_go_on(clip, kept, blend):
    shutil.copytree(kept, blend, dirs_exist_ok=True)
    (blend / f"{clip.stem}.solve.npz").unlink()
    solving.begin(bpy.context, solving.job_for(str(clip), ("--fov", "45")))
    pump_until(lambda: bool(solving.current.parts))
    process = linked.link(bpy.context)._solving
    rendering.unregister()  # as when Blender ends
    process._thread.join(20)
    assert process._process.poll() is not None
    rendering.register()
    solving.current = None
    bpy.ops.wm.open_mainfile(filepath=str(blend / "shot.blend"))
    assert [job.words for job in solving.interrupted] == [("--fov", "45")]
    assert any("cut short" in text for text in drawn())
    assert bpy.ops.retake.dismiss_solve() == {"FINISHED"}
    assert not list(blend.glob("*.job.json"))
    assert not solving.interrupted


def test_it_goes_on_with_the_stages_that_were_done(clip, kept, blend):
    shutil.copytree(kept, blend, dirs_exist_ok=True)
    (blend / f"{clip.stem}.solve.npz").unlink()
    job = solving.job_for(str(clip))
    job.record.write_text(json.dumps({"footage": job.footage, "out": job.out, "words": [], "set_scene": True}))
    bpy.ops.wm.open_mainfile(filepath=str(blend / "shot.blend"))
    assert bpy.ops.retake.continue_solve() == {"FINISHED"}
    assert shots.active_shot(bpy.context).retake.frames == FRAMES
    assert solving.current.parts[0].kept


def test_a_shot_that_cannot_be_solved_says_why(video, blend):
    with pytest.raises(RuntimeError, match="can"):
        bpy.ops.retake.solve_footage(filepath=str(video))  # ramps of colour: nothing to follow
    assert solving.current.state == "failed"
    words = solving.current.words
    assert words.endswith(".")
    assert len(words) > 40
    assert words in " ".join(drawn())
    assert shots.active_shot(bpy.context) is None
    assert bpy.ops.retake.dismiss_solve() == {"FINISHED"}
    assert words not in " ".join(drawn())


def test_without_a_backend_it_says_what_to_do(clip, blend, monkeypatch):
    monkeypatch.setenv("RETAKE_BACKEND", "/nowhere/retake")
    with pytest.raises(RuntimeError, match="no such program"):
        bpy.ops.retake.solve_footage(filepath=str(clip))
    assert not list(blend.glob("*.job.json"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lens": "FOCAL", "focal": 50, "sensor": 24}, ("--focal", "50", "--sensor", "24")),
        ({"lens": "FOV", "fov": radians(72)}, ("--fov", "72")),
        ({"first": 3, "last": 10}, ("--frames", "2:10")),
        ({"first": 3}, ("--frames", f"2:{FRAMES}")),
        ({"step": 2, "masks": "/a b/masks"}, ("--step", "2", "--masks", "/a b/masks")),
        ({"depth": "DEPTH_PRO"}, ("--depth", "depth-pro")),
    ],
)
def test_what_the_artist_says_reaches_the_solver(clip, blend, monkeypatch, options, words):
    monkeypatch.setenv("RETAKE_BACKEND", "/nowhere/retake")  # only the command is looked at
    with pytest.raises(RuntimeError):
        bpy.ops.retake.solve_footage(filepath=str(clip), **options)
    assert solving.current.job.words == words


def test_a_solve_that_ends_in_edit_mode_waits(clip, kept, blend):
    shutil.copytree(kept, blend, dirs_exist_ok=True)
    solving.current = solving.Solving(solving.job_for(str(clip)), state="importing")
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.object.mode_set(mode="EDIT")
    solving.settle(bpy.context)
    assert any("Leave edit mode" in text for text in drawn())
    bpy.ops.object.mode_set(mode="OBJECT")
    solving.settle(bpy.context)
    assert shots.active_shot(bpy.context) is not None


def test_a_solve_does_not_come_into_another_file_unasked(clip, kept, blend):
    shutil.copytree(kept, blend, dirs_exist_ok=True)
    solving.current = solving.Solving(solving.job_for(str(clip)), state="importing")
    bpy.ops.wm.save_as_mainfile(filepath=str(blend / "other.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(blend / "other.blend"))
    solving.settle(bpy.context)
    assert shots.active_shot(bpy.context) is None
    assert any("Another file has been opened" in text for text in [" ".join(drawn())])
    assert bpy.ops.retake.import_solved() == {"FINISHED"}
    assert shots.active_shot(bpy.context) is not None


def test_a_damaged_report_is_no_report(clip, kept, blend):
    shutil.copytree(kept, blend, dirs_exist_ok=True)
    (blend / f"{clip.stem}.solve.report.json").write_text('{"light": "purple"')
    bpy.ops.retake.import_shot(footage=str(clip), solve=str(blend / f"{clip.stem}.solve.npz"))
    assert shots.active_shot(bpy.context).retake.solve_report == ""
    drawn()


@pytest.mark.parametrize(
    "damage",
    [
        {"words": ["--out", "/etc/passwd"]},
        {"words": ["--fov"]},
        {"words": ["--fov", "--out=/etc/passwd"]},
        {"footage": "--help"},
        {"out": "/elsewhere/other.solve.npz"},
        {"words": 5},
    ],
)
def test_a_strangers_record_asks_for_nothing_else(blend, damage):
    record = {"footage": "/clips/a.mp4", "out": "/elsewhere/a.solve.npz", "words": ["--fov", "50"], "set_scene": True}
    path = blend / "a.solve.job.json"
    path.write_text(json.dumps(record))
    solving.look_for_interrupted()
    assert [job.out for job in solving.interrupted] == [str(blend / "a.solve.npz")]  # beside the record, if moved
    path.write_text(json.dumps(record | damage))
    solving.look_for_interrupted()
    assert solving.interrupted == []


def test_progress_never_runs_backwards():
    job = SolveJob("/clip.mp4", "/clip.solve.npz")
    solving.current = solving.Solving(job)
    for done in (0, 3, 0, 2):
        solving.apply(SolveProgress(job, "cameras", ("points", "cameras"), "solving cameras", done, 6))
    assert solving.current.parts[1].share == 0.5
    solving.apply(SolveProgress(SolveJob("/other.mp4", "/other.npz"), "cameras", ("x",), "?", 1, 1))
    assert len(solving.current.parts) == 2
    solving.current = None
