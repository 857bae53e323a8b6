"""Long shots in windows: every frame once, no seam, lengths the model can make."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retake_backend.conditioning.coordinates import latent_count, latent_frames
from retake_backend.engines.diffusion.windows import Window, crossfade, in_order, plan_windows, window_notes
from retake_shared.errors import BadShot

ranges = st.tuples(st.integers(0, 300), st.integers(1, 700))
options = st.tuples(st.integers(5, 241), st.integers(1, 81))


def down(frames):
    return (frames - 1) // 4 * 4 + 1


@settings(deadline=None)
@given(ranges, options)
def test_windows_cover_the_range_in_lengths_that_the_model_makes(frames, chosen):
    start, stop = frames[0], sum(frames)
    window, overlap = chosen
    windows = plan_windows(start, stop, window, overlap)
    assert windows[0].start == start
    assert windows[0].overlap == 0
    assert stop <= windows[-1].stop <= stop + 3
    for each in windows:
        assert each.length % 4 == 1
        assert each.length <= window
    for before, after in pairwise(windows):
        assert after.overlap == before.stop - after.start
        assert after.overlap % 4 == 1
        assert before.start < after.start < before.stop < after.stop
    if len(windows) > 1:
        assert {each.length for each in windows} == {down(window)}, (
            "a short window is not what the model was trained on"
        )
        asked = min(down(overlap), down(window) - 4)
        assert all(each.overlap == asked for each in windows[1:-1])
        assert windows[-1].overlap >= asked


@settings(deadline=None)
@given(ranges, options)
def test_no_window_more_than_needed(frames, chosen):
    start, stop = frames[0], sum(frames)
    window, overlap = chosen
    step = down(window) - min(down(overlap), down(window) - 4)
    needed = 1 + max(0, -(-(stop - start - down(window)) // step))
    assert len(plan_windows(start, stop, window, overlap)) == needed


@settings(deadline=None)
@given(ranges, options, st.randoms(use_true_random=False))
def test_every_frame_comes_out_once_in_order_and_equal_windows_leave_no_trace(frames, chosen, random):
    start, stop = frames[0], sum(frames)
    windows = plan_windows(start, stop, *chosen)
    picture = np.array([random.randrange(256) for _ in range(windows[-1].stop)], np.uint8)[:, None, None, None]

    def make(window, before):
        assert (before is None) == (window.overlap == 0)
        if before is not None:
            assert np.array_equal(before, picture[window.start : window.start + window.overlap])
        return picture[window.start : window.stop].copy()

    made = list(in_order(windows, stop, make))
    assert [index for index, _ in made] == list(range(start, stop))
    assert all(np.array_equal(frame, picture[index]) for index, frame in made)


@settings(deadline=None)
@given(st.integers(6, 300), options)
def test_where_windows_differ_the_take_goes_over_from_one_to_the_next_without_a_jump(count, chosen):
    windows = plan_windows(0, count, *chosen)
    levels = iter([0, 200] * len(windows))

    def make(window, before):
        return np.full((window.length, 1, 1, 3), next(levels), np.uint8)

    values = np.array([frame[0, 0, 0] for _, frame in in_order(windows, count, make)], int)
    if len(windows) > 1:
        shortest = min(each.overlap for each in windows[1:])
        crossfades = max(sum(each.start <= frame < each.stop for each in windows) for frame in range(count)) - 1
        assert np.abs(np.diff(values)).max() <= crossfades * (200 / (shortest + 1) + 1)
    if len(windows) == 2:
        assert (np.diff(values) >= 0).all()


@settings(deadline=None)
@given(st.integers(1, 81).map(down))
def test_shares_of_a_crossfade_rise_and_never_leave_a_frame_to_one_side(overlap):
    shares = Window(10, 10 + overlap + 4, overlap).weights()
    assert shares.shape == (overlap,)
    assert (np.diff(shares) > 0).all()
    assert shares.min() > 0
    assert shares.max() < 1
    np.testing.assert_allclose(shares + shares[::-1], 1, atol=1e-6)  # no side has the better part


def test_a_crossfade_blends_by_its_shares():
    before = np.full((3, 2, 2, 3), 100, np.uint8)
    after = np.full((3, 2, 2, 3), 200, np.uint8)
    blended = crossfade(before, after, np.array([0.0, 0.255, 1.0], np.float32))
    assert blended[:, 0, 0, 0].tolist() == [100, 126, 200]


@pytest.mark.parametrize(("frames", "length", "held"), [(1, 1, 0), (2, 5, 3), (5, 5, 0), (6, 9, 3), (81, 81, 0)])
def test_short_shots_are_one_window_that_holds_the_last_frame(frames, length, held):
    (window,) = plan_windows(3, 3 + frames, 81, 17)
    assert window == Window(3, 3 + length, 0)
    shown = window.frames(3 + frames)
    assert shown.tolist() == [*range(3, 3 + frames), *[2 + frames] * held]
    assert len(shown[::4]) == latent_count(length)
    assert shown[::4].tolist() == latent_frames(window.start, window.stop, 3 + frames).tolist()
    assert bool(window_notes([window], 3 + frames, 3 + frames)) == bool(held)


def test_frames_behind_the_range_are_shown_where_the_shot_has_them():
    (window,) = plan_windows(10, 12, 81, 17)
    assert window.frames(100).tolist() == [10, 11, 12, 13, 14]
    assert window.frames(13).tolist() == [10, 11, 12, 12, 12]
    assert window_notes([window], 12, 100) == ()


def test_the_notes_say_how_many_windows_and_what_they_share():
    windows = plan_windows(0, 200, 81, 17)
    assert [(each.start, each.stop) for each in windows] == [(0, 81), (64, 145), (120, 201)]
    many, held = window_notes(windows, 200, 200)
    assert "200 frames are made in 3 windows of 81, 17 to 25 shared" in many
    assert "held for 1 more frame," in held
    (uniform,) = window_notes(plan_windows(0, 145, 81, 17), 145, 145)
    assert "2 windows of 81, 17 shared" in uniform


@pytest.mark.parametrize("wrong", [(5, 5, 81, 17), (-1, 5, 81, 17), (0, 5, 4, 1), (0, 5, 81, 0)])
def test_what_cannot_be_planned_is_refused(wrong):
    with pytest.raises(BadShot):
        plan_windows(*wrong)
