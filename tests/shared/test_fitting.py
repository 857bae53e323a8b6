"""A solve meets its footage: sizes, crops, squeezes, strides. The user would lose the tracks' place in the picture."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retake_shared import fitting, geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras, Footage, Solve, Tracks


def footage(width: int = 1280, height: int = 720, frames: int = 9) -> Footage:
    return Footage("x.mp4", width, height, Fraction(24), frames)


def solve(
    width: int = 1280, height: int = 720, frames: int = 9, fx: float = 1.0, fy: float = 1.0, maps: bool = False
) -> Solve:
    """A turning camera and moving points; fx and fy are factors of the width."""
    time = np.arange(frames)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = geometry.axis_rotation((0, 1, 0), 0.05 * time)
    c2w[:, 0, 3] = 0.1 * time
    K = geometry.intrinsics(fx * width + time, fy * width + time, width / 2 + 3, height / 2 - 2)
    rng = np.random.default_rng(0)
    positions = rng.uniform((0.8, -1, 6), (2, 1, 9), (20, 3))[None] + 0.01 * time[:, None, None]
    visibility = rng.random((frames, 20)) > 0.3
    depth = np.ones((frames, 10, 16), np.float32) * (1 + time[:, None, None]) if maps else None
    masks = np.ones((frames, 10, 16), np.uint8) if maps else None
    return Solve(Cameras(c2w, K, width, height), Tracks.make(positions, visibility), depth, masks, source="test")


def pixels(s: Solve) -> np.ndarray:
    return s.cameras.project(s.tracks.positions)[0]


def test_a_solve_that_fits_is_left_alone():
    s = solve()
    assert fitting.bind(footage(), s) == (s, [])
    assert fitting.bind(footage(), s, step=1) == (s, [])


@given(
    width=st.integers(64, 4096),
    height=st.integers(64, 4096),
    longest=st.integers(48, 1024),
)
def test_a_resized_picture_is_resized_back(width, height, longest):
    """Whatever whole size a solver rounds to, tracks land where they lie in the footage."""
    scale = longest / max(width, height)
    small = max(round(width * scale), 1), max(round(height * scale), 1)
    s = solve(*small)
    bound, _ = fitting.bind(footage(width, height), s)
    assert (bound.cameras.width, bound.cameras.height) == (width, height)
    np.testing.assert_allclose(pixels(bound), pixels(s) * [width / small[0], height / small[1]], rtol=1e-9)


def test_a_squeezed_picture_is_stretched_when_fx_and_fy_say_so():
    s = solve(256, 192, fx=2.0, fy=2.0 * 192 / 256 * 1320 / 720)
    bound, notes = fitting.bind(footage(1320, 720), s)
    np.testing.assert_allclose(bound.cameras.K[0, 0, 0] / bound.cameras.K[0, 1, 1], 1, atol=0.01)
    np.testing.assert_allclose(pixels(bound), pixels(s) * [1320 / 256, 720 / 192])
    assert "squeezed" in notes[0]
    assert "256x192" in notes[0]


def test_a_centre_crop_is_extended_with_maps_and_told():
    s = solve(1280, 704, maps=True)
    bound, notes = fitting.bind(footage(1280, 720), s)
    assert "centre crop" in notes[0]
    np.testing.assert_allclose(pixels(bound), pixels(s) + np.array([0, 8]))
    assert bound.depth.shape == (9, 10, 16)  # 8 of 704 lines are less than one line of ten
    portrait = solve(518, 518, maps=True)
    bound, notes = fitting.bind(footage(720, 1280), portrait)
    np.testing.assert_allclose(
        pixels(bound), (pixels(portrait) + np.array([0, (921 - 518) / 2])) * [720 / 518, 1280 / 921]
    )
    assert bound.depth.shape == (9, 10 + 2 * 4, 16)
    assert (bound.depth[:, :4] == 0).all()
    assert (bound.masks[:, 4:-4] == 1).all()


@pytest.mark.parametrize(
    ("size", "target", "words"),
    [
        ((1280, 720), (720, 1280), "other way up"),
        ((640, 640), (2000, 500), "640x640.*2000x500"),
        ((512, 512), (4096, 1024), "512x512"),
    ],
)
def test_pictures_that_cannot_belong_together_are_refused_with_both_sizes(size, target, words):
    with pytest.raises(BadShot, match=words):
        fitting.bind(footage(*target), solve(*size))


def test_more_frames_than_the_footage_are_refused_with_both_numbers():
    with pytest.raises(BadShot, match="9 frames, the footage only 8"):
        fitting.bind(footage(frames=8), solve())


def test_fewer_frames_are_the_first_ones_and_a_likely_step_is_named():
    bound, notes = fitting.bind(footage(frames=100), solve(frames=25))
    assert len(bound) == 25
    assert "first 25 frames" in notes[0]
    assert "step 4" in notes[0]
    assert "every 4th" in notes[0]
    _, notes = fitting.bind(footage(frames=247), solve(frames=81))
    assert "step" not in notes[0]
    _, notes = fitting.bind(footage(frames=247), solve(frames=81), step=1)
    assert "step" not in notes[0]
    assert "first 81 frames" in fitting.bind(footage(frames=247), solve(frames=81))[0].source


def test_a_step_interpolates_cameras_and_tracks():
    s = solve(frames=5, maps=True)
    bound, notes = fitting.bind(footage(frames=14), s, step=3)
    assert len(bound) == 14
    assert "every 3rd" in notes[0]
    np.testing.assert_array_equal(bound.tracks.positions[::3], s.tracks.positions)
    np.testing.assert_allclose(bound.cameras.c2w[::3], s.cameras.c2w, atol=1e-12)
    np.testing.assert_allclose(bound.tracks.positions[4], (2 * s.tracks.positions[1] + s.tracks.positions[2]) / 3)
    np.testing.assert_allclose(bound.cameras.c2w[4, :3, :3], geometry.axis_rotation((0, 1, 0), 0.05 * 4 / 3), atol=1e-9)
    np.testing.assert_allclose(bound.cameras.K[5, 0, 0], 1280 + 5 / 3)
    np.testing.assert_array_equal(bound.tracks.visibility[4], s.tracks.visibility[1] & s.tracks.visibility[2])
    np.testing.assert_array_equal(bound.tracks.visibility[::3], s.tracks.visibility)
    assert (bound.depth[[0, 3]] == s.depth[[0, 1]]).all()
    assert (bound.depth[[1, 2, 4]] == 0).all()
    assert len(bound.masks) == 14
    np.testing.assert_array_equal(bound.tracks.positions[13], s.tracks.positions[4])  # held, less than a step


def test_a_step_that_leaves_footage_uncovered_says_how_much_and_too_great_a_step_is_refused():
    bound, notes = fitting.bind(footage(frames=100), solve(frames=5), step=2)
    assert len(bound) == 9
    assert "9 of 100" in notes[0]
    with pytest.raises(BadShot, match="greatest step that fits is 2"):
        fitting.bind(footage(frames=9), solve(frames=5), step=3)
    with pytest.raises(BadShot, match="step is 0"):
        fitting.bind(footage(), solve(), step=0)


def test_one_frame_and_no_tracks_can_be_bound():
    bound, _ = fitting.bind(footage(frames=30), solve(640, 360, frames=1))
    assert len(bound) == 1
    assert len(fitting.bind(footage(frames=30), solve(frames=1), step=30)[0]) == 30
    s = solve(640, 360)
    bound, _ = fitting.bind(footage(), Solve(s.cameras, Tracks.empty(9)))
    assert len(bound.tracks) == 0


def test_the_convention_line_tells_the_share_inside_and_doubts_a_foreign_solve():
    s = solve()
    assert fitting.check_convention(s) == "Reprojection: 100.0% of visible track points lie inside the frame (test)."
    away = Solve(s.cameras, Tracks.make(s.tracks.positions + np.array([50, 50, 0])))
    assert "another video" in fitting.check_convention(away)
    hidden = Solve(s.cameras, Tracks.make(s.tracks.positions, np.zeros((9, 20), bool)))
    assert "no track point is marked visible" in fitting.check_convention(hidden)
