"""Points are followed where the picture truly goes, are lost when hidden, and found again behind what hid them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from retake_backend.engines.base import Progress
from retake_backend.solve import footing, patches, points
from retake_backend.solve.stages import PointTracks
from retake_shared.errors import Cancelled

WIDTH, HEIGHT, FRAMES = 320, 192, 40


def _texture(height: int, width: int, seed: int, grain: float = 1.2) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 1, (height, width)).astype(np.float32)
    soft = sum(cv2.GaussianBlur(noise, (0, 0), grain * 2**k) * 2**k for k in range(4))
    soft = (soft - soft.mean()) / soft.std()
    return np.asarray(np.clip(128 + 45 * soft, 0, 255), np.uint8)


@pytest.fixture(scope="module")
def passing() -> tuple[list[NDArray[np.uint8]], NDArray[np.float64], NDArray[np.float64]]:
    """A wall that turns and grows in the picture, and a board that passes before it, left to right.

    frames; (T, 2, 3) where the wall's points go from frame 0, in px; (T, 4) the board: left, top, right, bottom.
    """
    wall, board = _texture(420, 560, 1), _texture(90, 60, 2)
    frames, ways, boards = [], np.zeros((FRAMES, 2, 3)), np.zeros((FRAMES, 4))
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    noise = np.random.default_rng(3)
    for t in range(FRAMES):
        turn, scale = np.radians(0.35 * t), 1.004**t
        matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        ways[t] = np.c_[matrix, middle - matrix @ middle + [0.9 * t, 0.4 * t]]
        shift = -ways[t, :, :2] @ [120.0, 114.0]
        opencv = np.c_[ways[t, :, :2], ways[t, :, 2] + shift + ways[t, :, :2] @ [0.5, 0.5] - 0.5]
        frame = cv2.warpAffine(wall, opencv, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        left = -60 + round(9.5 * t)
        boards[t] = left, 50, left + 60, 140
        a, b = max(0, left), min(WIDTH, left + 60)
        if a < b:
            frame[50:140, a:b] = board[:, a - left : b - left]
        grain = noise.normal(0, 1.5, frame.shape)
        frames.append(np.clip(frame * (1 - 0.002 * t) + grain, 0, 255).astype(np.uint8))
    return frames, ways, boards


@pytest.fixture(scope="module")
def followed(passing: tuple) -> PointTracks:
    return points.follow(passing[0], lambda progress: None)


def _truth(passing: tuple, followed: PointTracks) -> tuple[NDArray, NDArray, NDArray]:
    """Error (T, N) px of the wall's points, where the board hides them (T, N), and which points are the wall's (N,)."""
    _, ways, boards = passing
    born = followed.visible.argmax(0)
    at = followed.uv[born, np.arange(len(followed))].astype(np.float64)
    place = boards[born]
    of_wall = (at[:, 0] < place[:, 0] - 8) | (at[:, 0] > place[:, 2] + 8) | (at[:, 1] < 42) | (at[:, 1] > 148)
    back = np.linalg.inv(ways[born, :, :2])
    origin = np.einsum("nij,nj->ni", back, at - ways[born, :, 2])
    true = np.einsum("tij,nj->tni", ways[:, :, :2], origin) + ways[:, None, :, 2]
    b = boards[:, None]
    hidden = (true > b[..., :2] + 4).all(2) & (true < b[..., 2:] - 4).all(2)
    return np.linalg.norm(followed.uv - true, axis=2), hidden, of_wall


def test_a_point_stays_where_it_was_born_through_the_clip(passing: tuple, followed: PointTracks) -> None:
    error, hidden, of_wall = _truth(passing, followed)
    good = followed.visible & ~hidden & of_wall
    late = good[35:]
    assert late.sum() > 1000
    assert np.median(error[35:][late]) < 0.15
    assert np.percentile(error[35:][late], 95) < 1.0


def test_what_is_hidden_is_not_claimed_to_be_seen(passing: tuple, followed: PointTracks) -> None:
    _, hidden, of_wall = _truth(passing, followed)
    hidden = hidden[:, of_wall]
    assert hidden.sum() > 500
    assert (followed.visible[:, of_wall] & hidden).sum() < 0.03 * hidden.sum()


def test_points_are_found_again_behind_what_hid_them(passing: tuple, followed: PointTracks) -> None:
    error, hidden, of_wall = _truth(passing, followed)
    again = []
    for i in np.flatnonzero(of_wall & hidden.any(0) & ~hidden[-1]):
        last = np.flatnonzero(hidden[:, i])[-1]
        if followed.visible[: np.flatnonzero(hidden[:, i])[0], i].any() and last < FRAMES - 6:
            again.append(followed.visible[last + 1 :, i].any())
            assert np.nanmax(error[last + 1 :, i], initial=0) < 12
    assert len(again) > 50
    assert np.mean(again) > 0.6


def test_points_cover_the_frame_in_every_part_of_the_clip(followed: PointTracks) -> None:
    for t in range(0, FRAMES, 6):
        uv = followed.uv[t, followed.visible[t]]
        cells = np.unique(np.floor(uv / (WIDTH / 8, HEIGHT / 5)).astype(int), axis=0)
        assert len(cells) >= 36, t  # of 40; the board may pass through some


def test_what_is_not_seen_has_no_place_and_no_confidence(followed: PointTracks) -> None:
    assert np.isfinite(followed.uv[followed.visible]).all()
    assert np.isnan(followed.uv[~followed.visible]).all()
    assert (followed.confidence[~followed.visible] == 0).all()
    assert ((followed.confidence >= 0) & (followed.confidence <= 1)).all()
    assert followed.lengths.min() >= points.SHORTEST


def test_the_same_frames_give_the_same_points(passing: tuple) -> None:
    frames = passing[0][:10]
    one, other = (points.follow(frames, lambda progress: None) for _ in range(2))
    np.testing.assert_array_equal(one.uv, other.uv)
    np.testing.assert_array_equal(one.confidence, other.confidence)


def test_following_stops_when_asked_to(passing: tuple) -> None:
    asked = []

    def report(progress: Progress) -> None:
        asked.append(progress.done)
        if progress.done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        points.follow(passing[0], report)
    assert asked == [0, 1, 2, 3]


def test_a_selection_is_long_and_leaves_no_part_of_the_picture_out(followed: PointTracks) -> None:
    few = points.select(followed, (WIDTH, HEIGHT), 300)
    assert len(few) == 300
    assert np.median(few.lengths) > 1.2 * np.median(followed.lengths)
    for t in (0, FRAMES // 2, FRAMES - 1):
        uv = few.uv[t, few.visible[t]]
        assert len(np.unique(np.floor(uv / (WIDTH / 4, HEIGHT / 3)).astype(int), axis=0)) >= 11
    assert points.select(few, (WIDTH, HEIGHT), 300) is few


def test_a_patch_is_found_turned_grown_darker_and_in_noise() -> None:
    picture = _texture(HEIGHT, WIDTH, 5)
    picture[:70] = (120 + (picture[:70].astype(float) - 128) * 0.08).astype(np.uint8)  # a dull wall
    matrix = np.array([[1.07, 0.04], [-0.05, 1.05]])
    there = cv2.warpAffine(picture, np.c_[matrix, matrix @ [0.5, 0.5] - 0.5], (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    random = np.random.default_rng(0)
    there = np.clip(there * 0.7 + 25 + random.normal(0, 2, there.shape), 0, 255).astype(np.uint8)
    at = random.uniform([20, 25], [250, 160], (400, 2)).astype(np.float32)
    true = at @ matrix.T
    found = patches.templates(patches.smooth(picture), at)
    start = true + random.uniform(-1, 1, true.shape)
    straight = np.broadcast_to(np.eye(2, dtype=np.float32), (400, 2, 2))
    uv, affine, match = patches.align(patches.smooth(there), found, start, straight)
    error = np.linalg.norm(uv - true, axis=1)
    sharp = (found.deviation < 0.1) & (at[:, 1] > 80)
    assert sharp.sum() > 200
    assert np.median(error[sharp]) < 0.1
    assert np.median(match[sharp]) > 0.97
    assert np.abs(np.median(affine[sharp], axis=0) - matrix).max() < 0.03
    dull = at[:, 1] < 60
    assert np.median(error[dull]) > 2 * np.median(error[sharp])
    assert np.median(found.deviation[dull]) > 2 * np.median(found.deviation[sharp])  # and it is told


def test_flat_places_get_no_points() -> None:
    frame = np.full((HEIGHT, WIDTH), 120, np.uint8)
    frame[:, : WIDTH // 2] = _texture(HEIGHT, WIDTH // 2, 4)
    noise = np.random.default_rng(1)
    frames = [np.clip(frame + noise.normal(0, 1, frame.shape), 0, 255).astype(np.uint8) for _ in range(8)]
    followed = points.follow(frames, lambda progress: None)
    assert len(followed) > 300
    assert (followed.uv[..., 0][followed.visible] > WIDTH / 2 + 8).mean() < 0.01


def _panning(seed: int, frames: int) -> list[NDArray[np.uint8]]:
    wide = _texture(HEIGHT, WIDTH + 4 * frames, seed)
    return [wide[:, 4 * t : 4 * t + WIDTH] for t in range(frames)]


def test_a_scene_cut_is_found_at_its_frame() -> None:
    clip = [*_panning(1, 12), *_panning(2, 15), *_panning(3, 9)]
    assert footing.cuts(clip) == [12, 27]


def test_a_flash_an_exposure_change_and_a_fast_pan_are_no_cuts() -> None:
    clip = _panning(1, 24)
    clip[8] = np.full_like(clip[8], 255)
    clip = [*clip[:14], *(np.asarray(frame * 0.5, np.uint8) for frame in clip[14:])]
    assert footing.cuts(clip) == []
    wide = _texture(HEIGHT, WIDTH + 40 * 12, 7, grain=3)
    assert footing.cuts([wide[:, 40 * t : 40 * t + WIDTH] for t in range(12)]) == []


@pytest.mark.parametrize(
    ("frames", "word"),
    [
        ([np.random.default_rng(t).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8) for t in range(9)], "black"),
        ([np.full((HEIGHT, WIDTH), 200, np.uint8)] * 9, "one colour"),
        ([_texture(HEIGHT, WIDTH, 1)] * 9, "frozen"),
        ([np.random.default_rng(t).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8) for t in range(9)], "noise"),
        ([_texture(HEIGHT, WIDTH, 1)], "one frame"),
    ],
)
def test_a_clip_without_a_scene_is_told_in_words(frames: list[NDArray[np.uint8]], word: str) -> None:
    assert word in footing.trouble(frames)


def test_a_scene_that_only_grain_moves_in_is_no_trouble() -> None:
    still, noise = _texture(HEIGHT, WIDTH, 1), np.random.default_rng(0)
    grainy = [np.clip(still + noise.normal(0, 2, still.shape), 0, 255).astype(np.uint8) for _ in range(9)]
    assert footing.trouble(grainy) == ""
    assert footing.trouble(_panning(1, 9)) == ""
