"""Footage of any size at the model's size and back: what is seen where, and what it costs."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from retake_backend.engines.diffusion.framing import TRAINED_AREA, Fitted
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

fits = st.sampled_from(["pad", "resize"])
sizes = st.tuples(st.integers(16, 5000), st.integers(16, 5000)).filter(lambda s: 1 / 40 < s[0] / s[1] < 40)


def cameras(width, height, focal=900.0):
    K = np.array([[[focal, 0, 0.47 * width], [0, focal, 0.53 * height], [0, 0, 1]]])
    return Cameras(np.eye(4)[None], K, width, height)


@settings(deadline=None)
@given(sizes, fits)
def test_any_footage_comes_to_multiples_of_16_within_the_trained_area(footage, fit):
    fitted = Fitted.plan(footage, fit)
    assert fitted.size[0] % 16 == 0
    assert fitted.size[1] % 16 == 0
    assert 0.7 * TRAINED_AREA < fitted.size[0] * fitted.size[1] <= TRAINED_AREA, "the model was trained on this area"
    for axis, offset in enumerate((fitted.left, fitted.top)):
        assert 0 <= offset <= fitted.size[axis] - fitted.content[axis] < 16
    proportions = fitted.content[0] / fitted.content[1] * footage[1] / footage[0]
    if fit == "pad":
        assert abs(proportions - 1) <= 0.6 / min(fitted.content), "padding is there to keep the proportions"
    else:
        assert fitted.content == fitted.size


@settings(deadline=None)
@given(sizes, fits, st.integers(1, 4096))
def test_a_working_size_is_the_longer_side(footage, fit, working_size):
    fitted = Fitted.plan(footage, fit, working_size)
    assert fitted.size[0] % 16 == fitted.size[1] % 16 == 0
    if fit == "pad":
        assert max(fitted.content) == working_size
    else:
        assert abs(max(fitted.size) - working_size) <= max(8, 16 - working_size)


@pytest.mark.parametrize(
    ("footage", "content", "size"),
    [
        ((1920, 1080), (672, 378), (672, 384)),
        ((3840, 2160), (672, 378), (672, 384)),
        ((1080, 1920), (378, 672), (384, 672)),
        ((640, 480), (576, 432), (576, 432)),
        ((160, 90), (672, 378), (672, 384)),
        ((640, 360), (640, 360), (640, 368)),  # close enough to keep its pixels
    ],
)
def test_known_sizes(footage, content, size):
    fitted = Fitted.plan(footage)
    assert (fitted.content, fitted.size) == (content, size)


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize("size", [(672, 384), (640, 368), (384, 672), (512, 496)])
def test_footage_that_fits_is_left_alone_bit_for_bit(size, fit):
    fitted = Fitted.plan(size, fit)
    picture = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    assert fitted.content == fitted.size == size
    assert fitted.bring(picture).tobytes() == picture.tobytes()
    assert fitted.take_back(picture, size).tobytes() == picture.tobytes()
    assert fitted.notes == ()


def test_padding_alone_changes_no_pixel_and_continues_the_edges():
    picture = np.random.default_rng(1).integers(0, 256, (359, 637, 3), np.uint8)
    fitted = Fitted.plan((637, 359))
    brought = fitted.bring(picture)
    assert fitted.size == (640, 368)
    assert brought.shape == (368, 640, 3)
    assert np.array_equal(brought[4:363, 1:638], picture)
    assert np.array_equal(brought[0, 1:638], picture[0])
    assert np.array_equal(brought[367, 1:638], picture[-1])
    assert np.array_equal(brought[4:363, 639], picture[:, -1])
    back = fitted.take_back(brought, (637, 359))
    assert np.array_equal(back, picture)
    assert back.flags.c_contiguous  # it goes over the wire and into files as it is


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize("footage", [(1920, 1080), (333, 777), (160, 90), (640, 480), (637, 359)])
@pytest.mark.parametrize("solve", [(1.0, 1.0), (0.5, 0.5), (0.37, 0.41)])
def test_a_point_of_the_solve_is_where_the_model_sees_it(footage, fit, solve):
    """Project, then map by the framing = draw into the footage, bring, and look where it went."""
    width, height = footage
    fitted = Fitted.plan(footage, fit)
    y, x = np.mgrid[:height, :width] + 0.5
    spread = 0.06 * min(footage)
    seen = cameras(max(1, round(width * solve[0])), max(1, round(height * solve[1])))
    for point in ([-0.2, -0.15, 2.0], [0.01, 0.02, 2.0], [0.11, 0.07, 2.0]):
        uv, _ = seen.project(np.array([[point]]))
        at = uv[0, 0] * [width / seen.width, height / seen.height]  # the footage's px
        assume_inside = (at > 4 * spread).all() and (at < np.array(footage) - 4 * spread).all()
        if not assume_inside:
            continue
        blob = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * spread**2))
        brought = fitted.bring(np.round(blob).astype(np.uint8)).astype(float)
        rows, columns = np.mgrid[: fitted.size[1], : fitted.size[0]] + 0.5
        found = np.array([(brought * columns).sum(), (brought * rows).sum()]) / brought.sum()
        framing = fitted.framing(seen)
        expected = (uv[0, 0] - [framing.left, framing.top]) / [framing.width, framing.height] * fitted.size
        np.testing.assert_allclose(found, expected, atol=0.05)


def test_bringing_is_what_cv2_does_with_the_same_matrix():
    rng = np.random.default_rng(2)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (90, 160), np.uint8), (0, 0), 6)
    fitted = Fitted.plan((160, 90))
    framing = fitted.framing(cameras(160, 90))
    sx, sy = fitted.size[0] / framing.width, fitted.size[1] / framing.height
    # cv2 counts pixel centres from 0: half a pixel on both sides of the map.
    matrix = np.array([[sx, 0, (0.5 - framing.left) * sx - 0.5], [0, sy, (0.5 - framing.top) * sy - 0.5]])
    warped = cv2.warpAffine(picture, matrix, fitted.size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    inner = np.s_[12:-12, 12:-12]
    difference = np.abs(fitted.bring(picture)[inner].astype(int) - warped[inner])
    assert difference.max() <= 2
    shifted = np.abs(np.roll(fitted.bring(picture), 1, 1)[inner].astype(int) - warped[inner])
    assert shifted.mean() > 4 * difference.mean(), "a shift of one pixel would not be seen"


@settings(deadline=None)
@given(st.tuples(st.integers(16, 900), st.integers(16, 900)), fits, st.integers(0, 900))
def test_there_and_back_ends_where_it_began(footage, fit, working_size):
    assume(1 / 8 < footage[0] / footage[1] < 8)
    assume(working_size == 0 or working_size > 0.3 * max(footage))
    fitted = Fitted.plan(footage, fit, working_size)
    width, height = footage
    y, x = np.mgrid[:height, :width] + 0.5
    ramp = np.stack([30 + 190 * x / width, 30 + 190 * y / height, 0 * x + 77], -1).round().astype(np.uint8)
    back = fitted.take_back(fitted.bring(ramp), footage)
    assert back.shape == ramp.shape
    slope = 190 * max(3, width / fitted.content[0], height / fitted.content[1]) / min(footage)
    assert np.abs(back.astype(int) - ramp).max() <= 2 + slope


def test_shrinking_averages_and_leaves_no_moire():
    stripes = np.zeros((1080, 1920, 3), np.uint8)
    stripes[:, ::2] = 255
    brought = Fitted.plan((1920, 1080)).bring(stripes)
    assert 85 <= brought.min()
    assert brought.max() <= 170
    assert abs(brought.mean() - 127.5) < 1


def test_an_edited_picture_of_another_size_and_a_mask_come_to_the_same_place():
    fitted = Fitted.plan((1920, 1080))
    assert fitted.bring(np.zeros((500, 700, 3), np.uint8)).shape == (384, 672, 3)
    mask = np.zeros((1080, 1920), np.uint8)
    mask[:, 960:] = 255
    brought = fitted.bring(mask)
    assert brought.shape == (384, 672)
    assert (brought[:, :335] == 0).all()
    assert (brought[:, 337:] == 255).all()
    assert fitted.take_back(brought, (1920, 1080)).shape == (1080, 1920)


def test_the_notes_say_what_the_artist_gets():
    works, padded = Fitted.plan((1920, 1080)).notes
    assert "works at 672 x 384" in works
    assert "back to 1920 x 1080" in works
    assert "6 px down" in padded
    assert "back to 960 x 540" in Fitted.plan((1920, 1080), take=(960, 540)).notes[0]
    assert any("stretched by 1.6%" in note for note in Fitted.plan((1920, 1080), "resize").notes)


@pytest.mark.parametrize("footage", [(1, 1), (2, 16000), (16000, 2), (17, 9)])
@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_odd_shapes_pass_through(footage, fit):
    fitted = Fitted.plan(footage, fit)
    picture = np.full((footage[1], footage[0], 3), 99, np.uint8)
    brought = fitted.bring(picture)
    assert brought.shape[1::-1] == fitted.size
    assert (brought == 99).all()
    assert np.array_equal(fitted.take_back(brought, footage), picture)


def test_what_is_no_size_is_refused():
    with pytest.raises(BadShot):
        Fitted.plan((0, 1080))
    with pytest.raises(BadShot):
        Fitted.plan((1920, 1080), take=(0, 4))
    with pytest.raises(ValueError, match="the model's size"):
        Fitted.plan((1920, 1080)).take_back(np.zeros((8, 8, 3), np.uint8), (1920, 1080))
