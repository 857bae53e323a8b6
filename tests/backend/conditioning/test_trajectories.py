"""Trajectories from one image, from a video, from tracks: Algorithms 3 and 4."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from retake_backend.conditioning.trajectories import (
    Trajectories,
    trajectories_from_image,
    trajectories_from_points,
    trajectories_from_video,
)
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

_spec = importlib.util.spec_from_file_location(
    "reference_trajectory", Path(__file__).with_name("reference_trajectory.py")
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

WIDTH, HEIGHT = 96, 64
SIZE = np.array([WIDTH, HEIGHT])


def camera_path(frames, seed=0, amount=1.0):
    random = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = geometry.rotation_from_vector(random.normal(0, 0.05 * amount, (frames, 3)))
    c2w[:, :3, 3] = random.normal(0, 0.2 * amount, (frames, 3))
    focal = random.uniform(70, 90, (2, frames))
    return Cameras(c2w, geometry.intrinsics(focal[0], focal[1], 45.0, 34.0), WIDTH, HEIGHT)


def still(frames):
    K = geometry.intrinsics(80, 80, WIDTH / 2, HEIGHT / 2)
    return Cameras(np.tile(np.eye(4), (frames, 1, 1)), np.tile(K, (frames, 1, 1)), WIDTH, HEIGHT)


def test_one_image_is_algorithm_3():
    image, path = camera_path(1), camera_path(5, seed=1)
    depth = np.random.default_rng(2).uniform(0.1, 3, (8, 12))
    depth[2, 3] = 0
    found = trajectories_from_image(depth, image, path)
    Tr, M = reference.image_trajectories(depth, image, path)
    assert 0.2 < M.mean() < 0.95
    np.testing.assert_array_equal(found.valid, M)
    np.testing.assert_allclose((found.positions * SIZE)[M], Tr[M], atol=1e-4)
    assert not found.valid[:, 2 * 12 + 3].any()


def test_a_truck_moves_near_pixels_more_than_far_ones():
    path = still(2)
    path.c2w[1, 0, 3] = 0.1  # 0.1 to the right: content goes 80 px * 0.1 / depth to the left
    depth = np.full((4, 6), 4.0)
    depth[:, 3:] = 1.0
    found = trajectories_from_image(depth, still(1), path, grid=(2, 2))
    px = found.positions * SIZE
    np.testing.assert_allclose(px[0], [[24, 16], [72, 16], [24, 48], [72, 48]], atol=1e-4)
    np.testing.assert_allclose((px[1] - px[0])[:, 0], [-2, -8, -2, -8], atol=1e-4)
    assert found.valid.all()


@pytest.mark.parametrize("unknown", [0.0, -1.0, np.nan, np.inf])
def test_a_pixel_of_unknown_depth_is_not_followed(unknown):
    path = still(2)
    path.c2w[1, 2, 3] = -3  # backing off, the old camera itself comes into view, and points a little behind it
    found = trajectories_from_image(np.array([[2.0, unknown]]), still(1), path)
    assert found.valid.tolist() == [[True, False]] * 2


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_a_video_is_algorithm_4(sampling):
    random = np.random.default_rng(3)
    source, target = camera_path(4), camera_path(4, seed=1)
    P = random.uniform(-10, 106, (4, 40, 2))
    M_o = random.random((4, 40)) > 0.2
    depth = random.uniform(0.5, 3, (4, 8, 12))
    depth[:, :2, :5] = 0
    if sampling == "bilinear":  # at cell centres both readings are the same
        P = (np.floor(P / 8) + 0.5) * 8
    found = trajectories_from_video(P, M_o, depth, source, target, sampling)
    Tr, M = reference.video_trajectories(P, M_o, depth, source, target)
    assert 0.2 < M.mean() < 0.8
    np.testing.assert_array_equal(found.valid, M)
    np.testing.assert_allclose((found.positions * SIZE)[M], Tr[M], atol=1e-4)


def test_on_a_smooth_scene_algorithm_4_finds_the_true_projections():
    """The wall z = 3 seen by a moving camera, re-shot by another: the points' own projections are the truth."""
    source, target = camera_path(3, amount=0.3), camera_path(3, seed=1, amount=0.3)
    y, x = np.mgrid[-1:1:9j, -1.5:1.5:13j]
    wall = np.tile(np.stack([x.ravel(), y.ravel(), np.full(x.size, 3.0)], -1), (3, 1, 1))
    screen = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), -1).reshape(-1, 2)
    far = geometry.unproject(np.tile(screen, (3, 1, 1)), np.ones((3, len(screen))), source.c2w, source.K)
    centre = source.c2w[:, None, :3, 3]
    depth = ((3.0 - centre[..., 2]) / (far - centre)[..., 2]).reshape(3, HEIGHT, WIDTH)
    points, _ = source.project(wall)
    visible = np.ones(points.shape[:2], bool)
    found = trajectories_from_video(points, visible, depth, source, target, "bilinear")
    truth = trajectories_from_points(wall, visible, target)
    both = found.valid & truth.valid
    assert both.mean() > 0.5
    np.testing.assert_allclose((found.positions * SIZE)[both], (truth.positions * SIZE)[both], atol=0.05)


def test_tracks_keep_the_motion_of_the_video_for_an_edited_first_frame():
    cameras = still(2)
    positions = np.array([[[0, 0, 4.0], [0, 0, -1], [9, 0, 4], [0.5, 0, 4]]] * 2)
    positions[1, 0, 0] = 0.4
    visible = np.array([[True, True, True, False]] * 2)
    found = trajectories_from_points(positions, visible, cameras)
    assert found.valid.tolist() == [[True, False, False, False]] * 2  # behind, outside and hidden ones are not
    np.testing.assert_allclose(found.positions[:, 0] * SIZE, [[48, 32], [56, 32]], atol=1e-4)
    assert np.isfinite(found.positions).all()


def test_source_then_target_at_latent_frames():
    random = np.random.default_rng(4)
    source = Trajectories(random.random((9, 4, 2)), np.ones((9, 4), bool))
    target = Trajectories(random.random((9, 4, 2)), np.zeros((9, 4), bool))
    both = source.at([0, 4, 8]).then(target.at([0, 4, 8]))
    assert both.valid.shape == (6, 4)
    np.testing.assert_array_equal(both.positions[:3], source.positions[[0, 4, 8]])
    assert not both.positions[3:].any()


def test_shots_that_do_not_fit_are_refused_in_words():
    depth = np.ones((4, 4))
    with pytest.raises(BadShot, match="2 cameras"):
        trajectories_from_image(depth, still(2), still(2))
    with pytest.raises(BadShot, match="px"):
        trajectories_from_image(depth, still(1).resized(48, 32), still(2))
    with pytest.raises(BadShot, match=r"\[3, 3, 2, 3, 3\] frames"):
        trajectories_from_video(np.zeros((3, 1, 2)), np.ones((3, 1), bool), np.ones((2, 4, 4)), still(3), still(3))
    with pytest.raises(BadShot, match="4 trajectories"):
        Trajectories(np.zeros((1, 4, 2)), np.ones((1, 4), bool)).then(
            Trajectories(np.zeros((1, 3, 2)), np.ones((1, 3), bool))
        )
    with pytest.raises(BadShot, match="NaN"):
        Trajectories(np.full((1, 1, 2), np.nan), np.ones((1, 1), bool))
