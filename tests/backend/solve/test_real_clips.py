"""Solves of real clips against what other solvers and our eyes say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from retake_backend.engines.base import Progress
from retake_backend.evaluation import solve as measures
from retake_backend.footage import FootageReader
from retake_backend.solve.pipeline import Solved, SolveSettings, solve_footage
from retake_shared import formats
from retake_shared.shot import Cameras
from scipy.spatial import cKDTree


def quiet(_: Progress) -> None:
    """A report that nobody reads."""


def solve(path: Path, frames: tuple[int, int], folder: Path, step: int = 1) -> Solved:
    with FootageReader(path) as reader:
        return solve_footage(reader, SolveSettings(frames=frames, step=step), folder, quiet)


def focal(cameras: Cameras) -> NDArray[np.float64]:
    """(T,) in widths of the picture."""
    return np.asarray(cameras.K[:, 0, 0] / cameras.width)


def reference(clip: Path, solved: Path, frames: int) -> Cameras:
    """The cameras that another solver found, of the clip's first frames and px."""
    with FootageReader(clip) as reader:
        found = formats.read(solved, reader.footage)[0].cameras
    return Cameras(found.c2w[:frames], found.K[:frames], found.width, found.height)


def farthest_percent(c2w: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """The largest distance of a camera from its true place after `align_poses`, in percent of the path."""
    away = measures.align_poses(c2w, truth).poses(c2w)[:, :3, 3] - truth[:, :3, 3]
    return float(100 * np.linalg.norm(away, axis=1).max() / measures.path_length(truth))


def test_apple_agrees_with_colmap(sample_data: Path, tmp_path: Path) -> None:
    """A phone round an apple: against COLMAP's own features and adjustment of the same clip."""
    clip, frames = sample_data / "clips/apple.mp4", 36
    solved = solve(clip, (0, frames), tmp_path)
    truth = reference(clip, sample_data / "solves/colmap_apple/sparse_bin", frames)
    cameras = solved.solve.cameras
    assert solved.report.kind == "moving"
    assert solved.report.light != "red", solved.report.reasons
    assert measures.rotation_error(cameras.c2w, truth.c2w) < 0.5
    assert farthest_percent(cameras.c2w, truth.c2w) < 2.0
    assert measures.focal_error_percent(focal(cameras), focal(truth)) < 8


@pytest.fixture(scope="module")
def juggle(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Solved:
    """The beginning of a clip in which a man juggles a ball before a camera on a tripod."""
    return solve(sample_data / "clips/juggle.mp4", (0, 81), tmp_path_factory.mktemp("juggle"))


def test_juggle_has_a_camera_that_stands_still(juggle: Solved) -> None:
    assert juggle.report.kind == "static"
    np.testing.assert_array_equal(juggle.solve.cameras.c2w, np.tile(juggle.solve.cameras.c2w[0], (81, 1, 1)))
    assert juggle.report.light == "yellow"  # the camera is right; depth and focal length are guesses, and it says so
    assert any("focal length" in reason for reason in juggle.report.reasons)


def test_juggle_finds_the_man(juggle: Solved, sample_data: Path) -> None:
    """Where a solve whose parts were named by hand has the man, most points are of objects, elsewhere hardly any."""
    on_man, on_ball, elsewhere = _labels_at(juggle, sample_data)
    assert min(len(on_man), len(elsewhere)) > 1000
    assert (on_man > 0).mean() > 0.6
    assert (elsewhere > 0).mean() < 0.05
    assert (on_ball > 0).mean() > 0.6


def test_juggle_finds_the_ball_as_an_object_of_its_own(juggle: Solved, sample_data: Path) -> None:
    on_man, on_ball, _ = _labels_at(juggle, sample_data)
    man = np.bincount(on_man[on_man > 0]).argmax()
    assert ((on_ball > 0) & (on_ball != man)).mean() > 0.75
    assert (on_man[on_man > 0] == man).mean() > 0.98
    assert juggle.solve.tracks.objects.max() == 2


def test_juggle_has_the_man_on_the_ground_and_the_ball_with_him(juggle: Solved) -> None:
    """The ball is as far away as the man who plays it, in every frame, and his feet are at the ground's height."""
    tracks = juggle.solve.tracks
    lowest, height = [], []
    for t in range(0, 81, 8):
        his, its = (tracks.positions[t, tracks.visibility[t] & (tracks.objects == n)] for n in (1, 2))
        assert np.median(its[:, 1]) == pytest.approx(np.median(his[:, 1]), rel=0.06)
        lowest.append(his[:, 2].min())
        height.append(np.ptp(his[:, 2]))
    assert abs(np.median(lowest)) < 0.05 * np.median(height)


def _labels_at(solved: Solved, sample_data: Path) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """The objects' numbers of the points seen on the man, on the ball and elsewhere, in some frames."""
    named = formats.read(sample_data / "solves/juggle_planar.npz")[0]
    places, _ = named.cameras.project(named.tracks.positions)
    uv, labels, seen = _seen(solved)
    found: tuple[list[NDArray[np.int32]], ...] = ([], [], [])
    for t in range(0, 81, 8):
        there = named.tracks.visibility[t]
        tree = cKDTree(places[t, there] * (solved.solve.cameras.width / named.cameras.width))
        distance, index = tree.query(uv[t, seen[t]])
        part = named.tracks.objects[there][index]
        for number, of in ((1, 0), (2, 1), (0, 2)):
            found[of].append(labels[seen[t]][(part == number) & (distance < 8)])
    man, ball, elsewhere = (np.concatenate(part) for part in found)
    return man, ball, elsewhere


def _seen(solved: Solved) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.bool_]]:
    tracks = solved.solve.tracks
    uv, _ = solved.solve.cameras.project(tracks.positions)
    return uv, tracks.objects, tracks.visibility


def test_vipe_cosmos_agrees_with_vipe(sample_data: Path, tmp_path: Path) -> None:
    """A boy walks to a camera that follows him, through a long lens: against the poses that ViPE gave."""
    folder, frames = sample_data / "solves/vipe_cosmos", 81
    clip = folder / "rgb/cosmos-example.mp4"
    solved = solve(clip, (0, frames), tmp_path, step=2)
    truth = reference(clip, folder, frames)
    cameras = solved.solve.cameras
    assert solved.report.light != "red", solved.report.reasons
    assert measures.rotation_error(cameras.c2w, truth.c2w) < 0.5
    assert farthest_percent(cameras.c2w, truth.c2w) < 2.0
    assert measures.focal_error_percent(focal(cameras), focal(truth)) < 15
    uv, labels, seen = _seen(solved)
    boy = formats.read(folder)[0].masks
    assert boy is not None
    height, width = boy.shape[1:]
    at = np.floor(uv[24, seen[24]] * (width / cameras.width, height / cameras.height)).astype(int)
    on_boy = boy[24][np.clip(at[:, 1], 0, height - 1), np.clip(at[:, 0], 0, width - 1)] == 1
    moving = labels[seen[24]] > 0
    assert moving[on_boy].mean() > 0.5
    assert moving[~on_boy].mean() < 0.1
