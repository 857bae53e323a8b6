"""The numbers by which solves are compared are those that the field means by their names."""

import numpy as np
import pytest
from retake_backend.evaluation import solve as measures
from retake_shared import geometry

Array = np.ndarray


def poses(seed: int, frames: int = 20) -> Array:
    rng = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = geometry.rotation_from_vector(np.cumsum(0.1 * rng.normal(size=(frames, 3)), 0))
    c2w[:, :3, 3] = np.cumsum(rng.normal(size=(frames, 3)), 0)
    return c2w


def elsewhere(c2w: Array, seed: int) -> Array:
    """The same poses in a world of another origin, other axes and another scale."""
    rng = np.random.default_rng(seed)
    turn = geometry.rotation_from_vector(rng.normal(size=3))
    return measures.Similarity(float(rng.uniform(0.1, 9)), turn, rng.normal(size=3) * 5).poses(c2w)


@pytest.mark.parametrize("seed", range(5))
def test_a_perfect_solve_in_another_world_has_no_error(seed: int) -> None:
    truth = poses(seed)
    found = elsewhere(truth, seed + 50)
    assert measures.ate(found, truth) < 1e-9
    assert measures.ate_percent(found, truth) < 1e-9
    assert measures.rotation_error(found, truth) < 1e-6


def test_a_straight_path_does_not_hide_that_the_camera_rolls() -> None:
    """Centres on a line leave the turn about it open; whole poses do not."""
    truth = np.tile(np.eye(4), (10, 1, 1))
    truth[:, 2, 3] = np.arange(10)
    found = elsewhere(truth, 3)
    assert measures.rotation_error(found, truth) < 1e-6
    rolled = found.copy()
    rolled[:, :3, :3] = found[:, :3, :3] @ geometry.axis_rotation((0, 0, 1), np.radians(np.linspace(-4, 4, 10)))
    steps = np.abs(np.linspace(-4, 4, 10))
    assert measures.rotation_error(rolled, truth) == pytest.approx(steps.mean(), abs=0.01)
    assert measures.ate(rolled, truth) < 1e-9


def test_a_known_error_is_what_is_measured() -> None:
    """Half the frames turned by +2, half by -2 degrees; every second centre 0.1 off a path of unit steps."""
    truth = poses(1, 40)
    found = truth.copy()
    signs = np.where(np.arange(40) < 20, 1, -1)
    found[:, :3, :3] = truth[:, :3, :3] @ geometry.axis_rotation((0, 1, 0), np.radians(2.0) * signs)
    assert measures.rotation_error(found, truth) == pytest.approx(2.0, abs=0.15)
    square = np.tile(np.eye(4), (4, 1, 1))
    square[:, :3, 3] = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    bent = square.copy()
    bent[[0, 2], 2, 3] += 0.1
    bent[[1, 3], 2, 3] -= 0.1
    assert measures.ate(bent, square) == pytest.approx(0.1, rel=0.02)
    assert measures.ate_percent(bent, square) == pytest.approx(100 * measures.ate(bent, square) / 3)


def test_a_camera_that_never_moved() -> None:
    truth = np.tile(np.eye(4), (5, 1, 1))
    assert np.isnan(measures.ate_percent(truth, truth))
    assert measures.rotation_error(elsewhere(truth, 1), truth) < 1e-6
    found = truth.copy()
    found[:, 0, 3] = [-1, 0, 0, 0, 1]
    assert measures.drift_percent(found, 20.0) == pytest.approx(5.0)


def test_a_mirrored_path_is_no_solution() -> None:
    truth = poses(4)
    mirrored = truth.copy()
    mirrored[:, 0, 3] *= -1
    assert measures.ate_percent(mirrored, truth) > 2


def test_tracks() -> None:
    uv = np.zeros((4, 3, 2), np.float32)
    visible = np.ones((4, 3), bool)
    truth, true_visible = uv.copy(), visible.copy()
    uv[1:, 0, 0] = [3, 4, 5]  # a first frame's error is not the track's: the truth was asked there
    uv[0, 1, 0] = 99
    true_visible[2:, 2] = False
    error = measures.track_error(uv, visible, truth, true_visible)
    assert error.places == 7
    assert error.mean == pytest.approx(12 / 7)
    assert error.within == pytest.approx(5 / 7)
    assert error.hidden == pytest.approx(2 / 9)
    assert measures.track_error(uv, np.zeros_like(visible), truth, true_visible).places == 0


def test_depth() -> None:
    truth = np.array([1.0, 2.0, 4.0, 0.0, np.nan, 5.0])
    assert measures.depth_error_percent(truth / 7, truth) == pytest.approx(0)
    depth = np.array([1.0, 2.0, 5.0, 3.0, 1.0, 0.0])
    assert measures.depth_error_percent(depth, truth) == pytest.approx(100 / 12)
    assert measures.depth_error_percent(depth, truth, scale=2.0) == pytest.approx(100 * (1 + 1 + 1.5) / 3)
    assert np.isnan(measures.depth_error_percent(np.zeros(3), np.ones(3)))


def test_a_few_points_at_infinity_do_not_hide_how_good_the_others_are() -> None:
    truth = np.linspace(1, 4, 101)
    depth = 3 * truth * np.where(np.arange(101) % 2, 1.02, 0.98)
    depth[:3] = 1e9
    assert measures.typical_depth_error_percent(depth, truth) == pytest.approx(2, abs=2.1)
    assert measures.typical_depth_error_percent(depth, truth) < 5
    assert measures.depth_error_percent(depth, truth) > 1e6


def test_focal_length() -> None:
    assert measures.focal_error_percent(np.array([110.0, 95.0]), np.array([100.0, 100.0])) == pytest.approx(7.5)
