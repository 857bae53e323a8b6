"""From a video to a solve: true cameras, kept stages, a report, and an answer in words for what cannot be solved."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from retake_backend.engines.base import Progress
from retake_backend.footage import FootageReader, write_video
from retake_backend.solve import kept, pipeline
from retake_backend.solve.pipeline import Solved, SolveSettings, solve_footage
from retake_backend.solve.report import SceneCuts
from retake_backend.solve.stages import CameraSolve, DepthMaps, Lifted, ObjectGroups, PointTracks
from retake_shared import archive, geometry
from retake_shared.errors import BadShot, Cancelled
from retake_shared.shot import Cameras, Footage, Solve

WIDTH, HEIGHT, FRAMES = 384, 224, 27


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, sample_shot: Path) -> Path:
    """Every third frame of the sample shot, small."""
    path = tmp_path_factory.mktemp("clip") / "walk.mp4"
    with FootageReader(sample_shot / "walk.mp4") as reader:
        small = (
            np.asarray(cv2.resize(reader.frame(3 * t), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)
            for t in range(FRAMES)
        )
        write_video(path, small, Fraction(8), quality=6)
    return path


@pytest.fixture(scope="module")
def solved(clip: Path) -> tuple[Solved, Path, list[str]]:
    """The solve, the folder of its stages, and the stages that were told."""
    folder, told = clip.parent / "stages", []
    with FootageReader(clip) as reader:
        result = solve_footage(reader, SolveSettings(), folder, lambda progress: told.append(progress.stage))
    return result, folder, told


def test_the_cameras_are_those_that_took_the_shot(solved: tuple, sample_shot: Path) -> None:
    solve: Solve = solved[0].solve
    truth = archive.load_solve(sample_shot / "walk.solve.npz").cameras
    true = truth.c2w[::3][:FRAMES]
    assert (solve.cameras.width, solve.cameras.height, len(solve)) == (WIDTH, HEIGHT, FRAMES)
    turn = _relative(true)[:, :3, :3] @ np.swapaxes(_relative(solve.cameras.c2w)[:, :3, :3], 1, 2)
    angle = np.degrees(np.arccos(np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert angle.max() < 0.5
    way, true_way = (_relative(c)[:, :3, 3] for c in (solve.cameras.c2w, true))
    scale = (way * true_way).sum() / (way * way).sum()
    length = np.linalg.norm(np.diff(true_way, axis=0), axis=1).sum()
    assert np.linalg.norm(scale * way - true_way, axis=1).max() < 0.02 * length
    assert solve.cameras.K[0, 0, 0] == pytest.approx(truth.K[0, 0, 0] * WIDTH / truth.width, rel=0.06)


def _relative(c2w: NDArray[np.float64]) -> NDArray[np.float64]:
    return geometry.invert_rigid(c2w[0]) @ c2w


def test_tracks_at_rest_lie_where_the_picture_shows_them(solved: tuple) -> None:
    solve: Solve = solved[0].solve
    still = solve.tracks.objects == 0
    assert still.sum() > 500
    assert (np.ptp(solve.tracks.positions[:, still], axis=0).max(1) < 1e-6).mean() > 0.95
    assert set(solve.object_names) >= {0}
    assert solve.depth is not None
    assert (solve.depth > 0).mean() > 0.95


def test_the_report_is_good_and_says_so(solved: tuple) -> None:
    report = solved[0].report
    assert report.light == "green", report.reasons
    assert report.frames == (0, FRAMES)
    assert report.reprojection < 0.5
    assert "retake solve" in solved[0].solve.source


def test_every_stage_tells_progress_and_leaves_a_picture(solved: tuple) -> None:
    _, folder, told = solved
    assert len(set(told)) >= 6
    for stage in ("points", "cameras", "objects", "depth", "world"):
        picture = cv2.imread(str(folder / f"{stage}.png"))
        assert picture is not None, stage
        assert picture.std() > 10, stage
        assert len(list(folder.glob(f"{stage}-*.npz"))) == 1


def test_a_second_run_repeats_nothing_and_gives_the_same_bytes(clip: Path, solved: tuple) -> None:
    first, folder, _ = solved
    told: list[str] = []
    with FootageReader(clip) as reader:
        again = solve_footage(reader, SolveSettings(), folder, lambda progress: told.append(progress.stage))
    assert told == [f"{stage}: kept from before" for stage in ("points", "cameras", "objects", "depth", "world")]
    assert archive.to_bytes(again.solve) == archive.to_bytes(first.solve)
    assert replace(again.report, seconds=()) == replace(first.report, seconds=())


def test_a_given_focal_length_repeats_the_cameras_and_not_the_points(clip: Path, solved: tuple) -> None:
    told: list[str] = []

    def until_cameras(progress: Progress) -> None:
        told.append(progress.stage)
        if not progress.stage.endswith("before"):
            raise Cancelled

    with FootageReader(clip) as reader, pytest.raises(Cancelled):
        solve_footage(reader, SolveSettings(focal_mm=44), solved[1], until_cameras)
    assert told[0] == "points: kept from before"
    assert "cameras" in told[1]


def test_a_damaged_kept_result_is_made_again(solved: tuple, tmp_path: Path) -> None:
    points = next(solved[1].glob("points-*.npz"))
    shutil.copy(points, tmp_path / points.name)
    name = points.stem.removeprefix("points-")
    keeper = kept.Kept(tmp_path)
    assert keeper.load("points", name, PointTracks) is not None
    assert keeper.load("points", name, CameraSolve) is None
    os.truncate(tmp_path / points.name, 5000)
    assert keeper.load("points", name, PointTracks) is None
    (tmp_path / points.name).write_bytes(b"\x80\x04junk")
    assert keeper.load("points", name, PointTracks) is None


def test_only_the_latest_results_of_a_stage_are_kept(tmp_path: Path) -> None:
    keeper = kept.Kept(tmp_path)
    depth = DepthMaps(np.ones((2, 3, 4), np.float32), "a guess", True, ("one", "two"))
    for number in range(6):
        keeper.save("depth", f"{number}", depth)
        os.utime(tmp_path / f"depth-{number}.npz", (number, number))
    found = keeper.load("depth", "5", DepthMaps)
    assert found is not None
    np.testing.assert_array_equal(found.depth, depth.depth)
    assert (found.source, found.fallback, found.notes) == ("a guess", True, ("one", "two"))
    assert keeper.load("depth", "0", DepthMaps) is None
    assert not list(tmp_path.glob("*.part"))


def test_frames_before_the_range_hold_its_first_camera(solved: tuple) -> None:
    solve: Solve = solved[0].solve
    later = pipeline._begun_earlier(solve, 4)
    assert len(later) == FRAMES + 4
    np.testing.assert_array_equal(later.cameras.c2w[4:], solve.cameras.c2w)
    np.testing.assert_array_equal(later.cameras.c2w[:4], np.repeat(solve.cameras.c2w[:1], 4, 0))
    assert not later.tracks.visibility[:4].any()
    assert "not solved" in later.source


def test_skipped_frames_and_frames_before_the_range_are_filled(solved: tuple) -> None:
    lifted = kept.Kept(solved[1]).load("world", next(solved[1].glob("world-*.npz")).stem[6:], Lifted)
    assert lifted is not None
    footage = Footage("clip.mp4", 2 * WIDTH, 2 * HEIGHT, Fraction(24), 70)
    chosen = range(5, 5 + 2 * FRAMES, 2)
    groups = ObjectGroups(np.zeros(len(lifted.tracks), np.int32))
    solve = pipeline._in_footage(lifted, groups, footage, chosen, solved[0].report)
    assert len(solve) == chosen[-1] + 1
    assert (solve.cameras.width, solve.cameras.height) == (2 * WIDTH, 2 * HEIGHT)
    np.testing.assert_allclose(solve.cameras.c2w[5::2], lifted.cameras.c2w, atol=1e-9)
    middle = (lifted.cameras.c2w[3, :3, 3] + lifted.cameras.c2w[4, :3, 3]) / 2
    np.testing.assert_allclose(solve.cameras.c2w[5 + 7, :3, 3], middle, atol=1e-6)
    np.testing.assert_allclose(solve.cameras.K[5, 0, 0], 2 * lifted.cameras.K[0, 0, 0])


@pytest.mark.parametrize(
    ("footage", "working"),
    [((672, 384), (672, 384)), ((3840, 2160), (672, 378)), ((1296, 720), (666, 370)), ((1080, 1920), (378, 672))],
)
def test_the_working_picture_keeps_the_proportions(footage: tuple[int, int], working: tuple[int, int]) -> None:
    assert pipeline.working_size(*footage) == working
    width, height = pipeline.working_size(1453, 817)
    assert width / height == pytest.approx(1453 / 817, rel=1e-4)


def _write(path: Path, frames: list[NDArray[np.uint8]]) -> Path:
    write_video(path, (np.repeat(frame[..., None], 3, 2) for frame in frames), Fraction(24), quality=4)
    return path


def _wall(seed: int, frames: int, step: int = 3) -> list[NDArray[np.uint8]]:
    noise = np.random.default_rng(seed).normal(0, 1, (120, 200 + step * frames)).astype(np.float32)
    soft = sum(cv2.GaussianBlur(noise, (0, 0), 1.2 * 2**k) * 2**k for k in range(4))
    wide = np.asarray(np.clip(128 + 45 * soft / np.std(soft), 0, 255), np.uint8)
    return [wide[:, step * t : step * t + 200] for t in range(frames)]


@pytest.mark.parametrize(
    ("frames", "settings", "words"),
    [
        (_wall(1, 2), SolveSettings(), ("2 frames", "at least 5")),
        ([np.zeros((120, 200), np.uint8)] * 8, SolveSettings(), ("black",)),
        ([_wall(1, 1)[0]] * 8, SolveSettings(), ("frozen",)),
        (_wall(1, 10), SolveSettings(frames=(4, 20)), ("4:20", "0:10")),
        (_wall(1, 10), SolveSettings(step=4), ("3 frames",)),
        (_wall(1, 10), SolveSettings(step=0), ("--step",)),
    ],
    ids=["two frames", "black", "frozen", "range", "step too wide", "step 0"],
)
def test_what_cannot_be_solved_is_told_with_a_remedy(
    tmp_path: Path, frames: list[NDArray[np.uint8]], settings: SolveSettings, words: tuple[str, ...]
) -> None:
    with FootageReader(_write(tmp_path / "bad.mp4", frames)) as reader, pytest.raises(BadShot) as error:
        solve_footage(reader, settings, tmp_path / "stages", lambda progress: None)
    for word in words:
        assert word in str(error.value)
    assert error.value.remedy
    assert not list((tmp_path).glob("stages/*.npz"))


def test_a_cut_names_the_ranges_that_can_be_solved(tmp_path: Path) -> None:
    frames = [*_wall(1, 9), *_wall(2, 8), *_wall(3, 7)]
    with FootageReader(_write(tmp_path / "cut.mp4", frames)) as reader, pytest.raises(SceneCuts) as error:
        solve_footage(reader, SolveSettings(frames=(2, 24)), tmp_path / "stages", lambda progress: None)
    assert error.value.ranges == ((2, 9), (9, 17), (17, 24))


def test_settings_that_contradict_or_cannot_be_are_refused() -> None:
    size = (672, 384)
    assert SolveSettings().focal(size) is None
    given = SolveSettings(focal_mm=35, sensor_mm=36).focal(size)
    assert given is not None
    assert given.px == pytest.approx(35 / 36 * 672)
    wide = SolveSettings(fov=90).focal(size)
    assert wide is not None
    assert wide.px == pytest.approx(336)
    for bad in (SolveSettings(focal_mm=35, fov=50), SolveSettings(focal_mm=-1), SolveSettings(fov=180)):
        with pytest.raises(BadShot):
            bad.focal(size)


def _retake(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retake_backend.cli", "solve", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_writes_the_solve_and_its_report(clip: Path, solved: tuple, tmp_path: Path) -> None:
    out = tmp_path / "shots" / "walk.npz"
    shutil.copytree(solved[1], out.with_suffix(".stages"))
    done = _retake(clip, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "green" in done.stdout
    assert len(archive.load_solve(out)) == FRAMES
    report = json.loads(out.with_suffix(".report.json").read_text())
    assert report["light"] == "green"
    assert report["words"][0] in done.stdout


def test_the_command_says_why_a_clip_cannot_be_solved_and_leaves_the_report(tmp_path: Path) -> None:
    bad = _write(tmp_path / "cut.mp4", [*_wall(1, 9), *_wall(2, 8)])
    done = _retake(bad, "--out", tmp_path / "solve.npz")
    assert done.returncode == 2
    assert "scene cut at frame 9" in done.stderr
    assert not (tmp_path / "solve.npz").exists()
    report = json.loads((tmp_path / "solve.report.json").read_text())
    assert report["light"] == "red"
    assert report["split"] == [[0, 9], [9, 17]]


def test_cameras_survive_being_kept(tmp_path: Path) -> None:
    cameras = Cameras(np.tile(np.eye(4), (3, 1, 1)), np.tile(np.diag([500.0, 500, 1]), (3, 1, 1)), 64, 48)
    world = np.array([[1.0, 2, 3], [np.nan] * 3])
    residual = np.zeros((3, 2), np.float32)
    solve = CameraSolve(
        cameras, "little parallax", world, np.array([True, False]), residual, "assumed", np.ones(3, bool),
        notes=("a", "b"), distortion=(0.1, -0.02), undistorted=np.ones((3, 2, 2), np.float32),
    )  # fmt: skip
    kept.Kept(tmp_path).save("cameras", "x", solve)
    found = kept.Kept(tmp_path).load("cameras", "x", CameraSolve)
    assert found is not None
    assert (found.kind, found.notes, found.distortion, found.cameras.width) == (
        "little parallax",
        ("a", "b"),
        (0.1, -0.02),
        64,
    )
    np.testing.assert_array_equal(found.world, world)
    np.testing.assert_array_equal(found.undistorted, solve.undistorted)
    assert kept.Kept(tmp_path).load("cameras", "y", CameraSolve) is None
