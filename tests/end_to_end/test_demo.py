"""The demo in small, on Blender's side as it is: what a stranger sees first must work."""

import json
from pathlib import Path

import cv2
import pytest
from retake_backend.footage import FootageReader
from retake_backend.render_files import read_inputs, read_take

DEMO = "tests/end_to_end/demo.py"


def hole_name(frame: str) -> str:
    return frame.replace("frame", "holes")


def has_holes(mask: Path) -> bool:
    picture = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
    assert picture is not None, mask
    return int((picture > 0).sum()) > 20  # a pixel or two may come out as they were


@pytest.fixture
def sample_video(sample_shot: Path) -> Path:
    video = sample_shot / "walk.mp4"
    assert video.is_file(), "the repository is incomplete: it ships the sample shot"
    return video


def test_the_sample_goes_the_whole_road(in_blender, sample_video: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo out"
    small = ("--frames", "10:14", "--size", "336x192")
    done = in_blender(DEMO, "--out", out, *small, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stdout
    assert "in all" in done.stdout

    takes = sorted((out / "demo_takes").glob("take_*"))
    assert [take.name for take in takes] == [f"take_{number:03d}" for number in range(1, 11)]
    frames = [f"frame_{i:05d}.png" for i in range(10, 14)]
    for take in takes:
        assert sorted(path.name for path in take.glob("frame_*.png")) == frames
        description = read_take(take)
        assert (description.width, description.height) == (336, 192)
        read_inputs(take, description)  # the very solve and edit, by their hashes
    # Three different edits and four other engines gave seven different pictures; the draft paints wherever there are holes.
    assert len({(take / frames[2]).read_bytes() for take in takes[:6:2] + takes[6:]}) == 7
    assert any(has_holes(take / name) for take in takes[:6:2] for name in map(hole_name, frames))
    for preview, draft in zip(takes[:6:2], takes[1:6:2], strict=True):
        for frame in frames:
            if has_holes(preview / hole_name(frame)):
                assert (preview / frame).read_bytes() != (draft / frame).read_bytes(), (preview, frame)
    made = [read_take(take) for take in takes]
    engines = ["preview", "draft"] * 3 + ["edit-by-track", "track2view", "trajectory-attention", "vace"]
    assert [take.settings.engine for take in made] == engines
    for take in made[6:]:  # nobody shall take these pictures for the methods'
        assert any("random" in note for note in take.notes), take.notes
    for name in ("side_by_side.mp4", "engines.mp4"):
        with FootageReader(out / name) as video:
            assert video.footage.frames == 4
    assert (out / "demo.blend").stat().st_size > 100_000
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["peak_mb_blender"] > 50
    assert figures["demo_seconds"] > 1

    # A second demo into the same folder starts over, it does not pile up.
    done = in_blender(DEMO, "--out", out, "--frames", "10:12", "--size", "168x96", "--preview-only")
    assert done.returncode == 0, done.stdout
    assert len(list((out / "demo_takes").glob("take_*"))) == 3


def test_a_shot_without_objects_gets_another_camera(in_blender, sample_data: Path, tmp_path: Path) -> None:
    shot = ("--footage", sample_data / "clips/apple.mp4", "--solve", sample_data / "solves/colmap_apple/sparse_bin")
    done = in_blender(DEMO, "--out", tmp_path / "out", *shot, "--frames", "0:3", "--size", "324x180", "--preview-only")
    assert done.returncode == 0, done.stdout
    assert [take.name for take in (tmp_path / "out/demo_takes").glob("take_*")] == ["take_001"]


def test_a_solve_that_cannot_be_read_is_named(in_blender, sample_video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"no archive")
    done = in_blender(DEMO, "--out", tmp_path / "out", "--footage", sample_video, "--solve", broken)
    assert done.returncode == 1, done.stdout
    assert "broken.npz" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_raw_clip_is_solved_first(in_blender, sample_video: Path, tmp_path: Path) -> None:
    small = ("--frames", "0:16", "--size", "168x96", "--preview-only")
    done = in_blender(DEMO, "--out", tmp_path / "out", "--footage", sample_video, *small)
    assert done.returncode == 0, done.stdout
    assert "have a camera of their own" in done.stdout  # the report is told
    assert (tmp_path / "out/walk.solve.npz").is_file()
    assert (tmp_path / "out/side_by_side.mp4").is_file()


def test_a_clip_that_cannot_be_solved_says_why(in_blender, sample_video: Path, tmp_path: Path) -> None:
    done = in_blender(DEMO, "--out", tmp_path / "out", "--footage", sample_video, "--frames", "0:3", "--preview-only")
    assert done.returncode == 1, done.stdout
    assert "3 frames to solve" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "out/demo_takes").exists()
