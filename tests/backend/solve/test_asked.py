"""Points that somebody asks for get an answer in every frame, the right one where it can be seen."""

import cv2
import numpy as np
import pytest
from retake_backend.engines.base import Progress
from retake_backend.solve.asked import follow_from
from retake_shared.errors import Cancelled

FRAMES, WIDTH, HEIGHT = 12, 160, 120


def quiet(progress: Progress) -> None:
    """A report that nobody reads."""


def texture(seed: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4), np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def sliding(speed: float) -> list[np.ndarray]:
    """A textured wall that slides to the left by `speed` px a frame."""
    wall = texture(0, HEIGHT, 400)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    return [cv2.remap(wall, x + np.float32(60 + speed * t), y, cv2.INTER_LINEAR) for t in range(FRAMES)]


def test_points_follow_the_picture_to_a_fraction_of_a_pixel_from_their_own_first_frames() -> None:
    frames = sliding(2.5)
    start = np.array([[80.5, 40.5], [120.25, 70.75], [100.5, 60.5], [130.0, 30.0]])
    first = np.array([0, 0, 4, 7])
    uv, seen = follow_from(frames, start, first, quiet)
    for point in range(len(start)):
        since = np.arange(first[point], FRAMES)
        expected = start[point] - np.outer(since - first[point], (2.5, 0))
        np.testing.assert_allclose(uv[since, point], expected, atol=0.3)
        assert np.isnan(uv[: first[point], point]).all()
        assert seen[since, point].all()
        assert not seen[: first[point], point].any()


def passed_by(frames: list[np.ndarray]) -> list[np.ndarray]:
    """The same with a plate that crosses from right to left, 24 px wide and 14 px a frame faster than the wall."""
    plate = 255 - texture(3, 60, 24)
    covered = []
    for t, frame in enumerate(frames):
        picture, left = frame.copy(), 150 - 16 * t
        shown = slice(max(left, 0), max(min(left + 24, WIDTH), 0))
        picture[30:90, shown] = plate[:, max(-left, 0) :][:, : shown.stop - shown.start]
        covered.append(picture)
    return covered


def test_a_point_that_something_passes_in_front_of_does_not_go_away_with_it() -> None:
    uv, seen = follow_from(passed_by(sliding(1.0)), np.array([[90.5, 60.5]]), np.array([0]), quiet)
    expected = np.array([90.5, 60.5]) - np.outer(np.arange(FRAMES), (1.0, 0))
    assert np.abs(uv[:, 0] - expected).max() < 4
    assert not seen[:, 0].all()
    assert seen[-1, 0]
    assert np.abs(uv[-1, 0] - expected[-1]).max() < 0.5


def test_every_point_has_an_answer_in_pictures_that_show_nothing_of_it() -> None:
    rng = np.random.default_rng(1)
    frames = [sliding(0)[0], *(rng.integers(0, 256, (HEIGHT, WIDTH), np.uint8) for _ in range(5))]
    uv, seen = follow_from(frames, np.array([[80.5, 60.5], [20.5, 20.5]]), np.array([0, 0]), quiet)
    assert np.isfinite(uv).all()
    assert not seen[-1].any()


def test_it_can_be_stopped() -> None:
    def stop(progress: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        follow_from(sliding(1), np.array([[80.5, 60.5]]), np.array([0]), stop)
