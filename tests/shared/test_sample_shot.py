"""The sample shot is the first thing a user sees and what engines are measured on: it must be exactly what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from retake_shared import archive, edit_script, geometry
from retake_shared.shot import Edit, Solve

FRAMES, WIDTH, HEIGHT, FPS = 81, 672, 384, 16


@pytest.fixture(scope="module")
def solve(sample_shot: Path) -> Solve:
    return archive.load_solve(sample_shot / "walk.solve.npz")


@pytest.fixture(scope="module")
def edit(sample_shot: Path) -> Edit:
    return archive.load_edit(sample_shot / "edited.edit.npz")


def _pixels(uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the pixels that image points (N, 2) inside the picture fall into."""
    return np.floor(uv[:, 1]).astype(int), np.floor(uv[:, 0]).astype(int)


def test_it_fits_into_a_clone(sample_shot: Path) -> None:
    assert sum(f.stat().st_size for f in sample_shot.iterdir() if f.is_file()) <= 6e6


def test_solve_covers_the_footage_with_all_objects(solve: Solve) -> None:
    assert (len(solve), solve.cameras.width, solve.cameras.height) == (FRAMES, WIDTH, HEIGHT)
    assert solve.object_names == {0: "background", 1: "walker", 2: "ball"}
    assert 1900 <= len(solve.tracks) <= 2100
    assert np.bincount(solve.tracks.objects, minlength=3).min() >= 150
    assert solve.masks is not None
    assert solve.masks.shape == (FRAMES, HEIGHT, WIDTH)


def test_background_stands_and_objects_move(solve: Solve) -> None:
    travel = np.linalg.norm(solve.tracks.positions[-1] - solve.tracks.positions[0], axis=1)
    assert travel[solve.tracks.objects == 0].max() == 0
    assert travel[solve.tracks.objects == 1].min() > 2
    assert travel[solve.tracks.objects == 2].min() > 2


def test_the_walkers_feet_do_not_slide(solve: Solve) -> None:
    """He travels 45 mm a frame; the points of his soles that are down rest."""
    walker = solve.tracks.positions[:, solve.tracks.objects == 1]
    down = (walker[1:, :, 2] < 0.03) & (walker[:-1, :, 2] < 0.03)
    assert down.sum() > 50
    slide = np.linalg.norm(np.diff(walker[..., :2], axis=0), axis=-1)[down]
    assert np.median(slide) < 1e-4
    assert slide.max() < 0.012, "rolling over heel and toe is all they do"


def test_the_ball_rolls_without_slipping(solve: Solve) -> None:
    """Its tracks keep one distance from a centre that travels by radius x angle."""
    ball = solve.tracks.positions[:, solve.tracks.objects == 2]
    system = np.concatenate([2 * ball[0], np.ones((ball.shape[1], 1))], 1)
    solved = np.linalg.lstsq(system, (ball[0] ** 2).sum(1), rcond=None)[0]
    radius = np.sqrt(solved[3] + (solved[:3] ** 2).sum())
    for a, b in ((0, 8), (40, 48), (72, 80)):
        p, q = ball[a] - ball[a].mean(0), ball[b] - ball[b].mean(0)
        u, _, vt = np.linalg.svd(p.T @ q)
        rotation = (u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt).T
        angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
        centre = np.linalg.lstsq(np.eye(3) - rotation, ball[b].mean(0) - rotation @ ball[a].mean(0), rcond=None)[0]
        assert np.isfinite(centre).all()
        start = solved[:3] if a == 0 else _centre(ball[a], radius)
        assert np.linalg.norm(_centre(ball[b], radius) - start) == pytest.approx(radius * angle, rel=0.01)


def _centre(points: np.ndarray, radius: float) -> np.ndarray:
    """Centre of the sphere of that radius through points (N, 3)."""
    system = np.concatenate([2 * points, np.ones((len(points), 1))], 1)
    return np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0][:3]


def test_visible_tracks_lie_in_the_picture_on_their_object(solve: Solve) -> None:
    uv, depth = solve.cameras.project(solve.tracks.positions)
    seen = solve.tracks.visibility
    assert geometry.inside_image(uv, depth, WIDTH, HEIGHT)[seen].all()
    assert seen.any(0).all(), "a track that is never seen is of no use"
    assert 0.3 < seen.mean() < 0.95
    agree = []
    for t in range(FRAMES):
        rows, columns = _pixels(uv[t, seen[t]])
        agree.append(solve.masks[t, rows, columns] == solve.tracks.objects[seen[t]])
    assert np.concatenate(agree).mean() > 0.97


def test_depth_maps_agree_with_the_tracks(solve: Solve) -> None:
    assert solve.depth is not None
    uv, depth = solve.cameras.project(solve.tracks.positions)
    height, width = solve.depth.shape[1:]
    errors = []
    for t in range(0, FRAMES, 8):
        seen = solve.tracks.visibility[t]
        rows, columns = _pixels(uv[t, seen] * (width / WIDTH, height / HEIGHT))
        errors.append(np.abs(solve.depth[t, rows, columns] / depth[t, seen] - 1))
    assert np.median(np.concatenate(errors)) < 0.01


def test_both_forms_of_the_edit_are_the_same(sample_shot: Path, solve: Solve, edit: Edit) -> None:
    edit.check_against(solve)
    parsed, _ = edit_script.load(sample_shot / "edit.json", solve)
    np.testing.assert_allclose(edit.cameras.c2w, parsed.cameras.c2w, atol=1e-9)
    np.testing.assert_allclose(edit.positions, parsed.positions, atol=1e-9)
    np.testing.assert_array_equal(edit.source_frame, parsed.source_frame)


def test_the_edit_moves_camera_walker_and_ball_only(solve: Solve, edit: Edit) -> None:
    shift = edit.positions - solve.tracks.positions
    assert np.abs(shift[:, edit.objects == 0]).max() == 0
    walker = shift[:, edit.objects == 1]
    assert np.ptp(walker.reshape(-1, 3), axis=0).max() < 1e-5
    assert np.linalg.norm(walker[0, 0, :2]) > 0.4
    assert abs(walker[0, 0, 2]) < 1e-3, "he still stands on the floor"
    ball = edit.objects == 2
    np.testing.assert_allclose(edit.positions[8:, ball], solve.tracks.positions[:-8, ball], atol=1e-9)
    ahead = edit.cameras.c2w[-1, :3, 2] @ solve.cameras.c2w[-1, :3, 2]
    assert 8 < np.degrees(np.arccos(ahead)) < 16


@pytest.mark.parametrize("name", ["walk.mp4", "edited.mp4"])
def test_videos_have_exact_frames_and_tagged_colour(sample_shot: Path, name: str) -> None:
    av = pytest.importorskip("av", reason="decoding needs PyAV, which only the backend's environment has")
    with av.open(str(sample_shot / name)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (WIDTH, HEIGHT, FPS)
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.colorspace == 1
        assert sum(1 for _ in container.decode(stream)) == FRAMES


def test_pixels_follow_the_tracks(sample_shot: Path, solve: Solve) -> None:
    """The colour at a visible track is the same four frames later at the track, not at its old place."""
    av = pytest.importorskip("av", reason="decoding needs PyAV, which only the backend's environment has")
    with av.open(str(sample_shot / "walk.mp4")) as container:
        frames = [f.to_ndarray(format="gray").astype(float) for f in container.decode(video=0)]
    uv, _ = solve.cameras.project(solve.tracks.positions)
    for number in (0, 1, 2):
        true, wrong = [], []
        for t in range(0, FRAMES - 4, 8):
            both = solve.tracks.visibility[t] & solve.tracks.visibility[t + 4] & (solve.tracks.objects == number)
            here = frames[t][_pixels(uv[t, both])]
            true.append(np.abs(here - frames[t + 4][_pixels(uv[t + 4, both])]))
            wrong.append(np.abs(here - frames[t + 4][_pixels(uv[t, both])]))
        assert np.concatenate(true).mean() < 0.7 * np.concatenate(wrong).mean()
