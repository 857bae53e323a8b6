"""The measures that engines are compared by are the ones of the papers: the same numbers as other people's programs
give, and the known answer where there is one."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retake_backend.evaluation import cameras, solve
from retake_backend.evaluation.fvd import frechet_distance
from retake_backend.evaluation.picture import covisible_ssim, psnr, ssim
from retake_shared.geometry import axis_rotation, rotation_from_vector
from scipy import linalg

from tests.backend.evaluation import inputs

ANSWERS = json.loads(Path(__file__).with_name("second_opinions.json").read_text())


def second(package: str, seed: int) -> dict[str, float]:
    answers: dict[str, float] = ANSWERS[package]["answers"][str(seed)]
    return answers


@pytest.mark.parametrize("seed", inputs.SEEDS)
@pytest.mark.parametrize("package", ["scikit-image", "torchmetrics"])
def test_psnr_and_ssim_are_those_of_other_libraries(package: str, seed: int) -> None:
    picture, truth = inputs.pictures(seed)
    other = second(package, seed)
    assert psnr(picture, truth) == pytest.approx(other["psnr"], abs=1e-5)
    assert ssim(picture, truth) == pytest.approx(other["ssim"], abs=1e-6)


@pytest.mark.parametrize("seed", inputs.SEEDS)
def test_ate_and_rpe_are_those_of_evo(seed: int) -> None:
    own, truth = inputs.camera_paths(seed)
    other = second("evo", seed)
    assert solve.ate(own, truth) == pytest.approx(other["ate"], rel=1e-6)
    translation, rotation = cameras.rpe(own, truth)
    assert translation == pytest.approx(other["rpe_t"], rel=1e-6)
    assert rotation == pytest.approx(other["rpe_r"], rel=1e-5)


def naive_covisible_ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """DyCheck's, one window at a time: each line of a window is a Gaussian sum over the mask, scaled up to a full line,
    and the lines of the window likewise."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    line /= line.sum()

    def partial(values: np.ndarray, known: np.ndarray) -> tuple[float, bool]:
        count = known.sum()
        return (float((values * known) @ line * 11 / count), True) if count else (0.0, False)

    def window(values: np.ndarray, known: np.ndarray) -> float:
        lines = [partial(row, seen) for row, seen in zip(values, known, strict=True)]
        return partial(np.array([v for v, _ in lines]), np.array([k for _, k in lines]))[0]

    a, b, found = a / 255.0, b / 255.0, []
    for y in range(5, a.shape[0] - 5):
        for x in range(5, a.shape[1] - 5):
            part = slice(y - 5, y + 6), slice(x - 5, x + 6)
            for c in range(3):
                p, q, m = a[part][..., c], b[part][..., c], mask[part]
                mp, mq = window(p, m), window(q, m)
                vp, vq = max(window(p * p, m) - mp**2, 0), max(window(q * q, m) - mq**2, 0)
                most = np.sqrt(vp * vq)
                cov = np.clip(window(p * q, m) - mp * mq, -most, most)
                found.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(found))


def test_masked_ssim_is_dychecks_partial_convolution() -> None:
    picture, truth = (p[:19, :23] for p in inputs.pictures(0))
    mask = inputs.mask(0)[:19, :23]
    assert 0.2 < mask.mean() < 0.9
    assert covisible_ssim(picture, truth, mask) == pytest.approx(naive_covisible_ssim(picture, truth, mask), abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_masked_measures_do_not_see_what_is_outside_the_mask(seed: int) -> None:
    picture, truth = inputs.pictures(0)
    mask = inputs.mask(0)
    other = picture.copy()
    other[~mask] = np.random.default_rng(seed).integers(0, 256, other[~mask].shape)
    assert covisible_ssim(other, truth, mask) == covisible_ssim(picture, truth, mask)
    assert psnr(other, truth, mask) == psnr(picture, truth, mask)


def test_masked_ssim_over_all_is_ssim_and_of_nothing_is_not_a_number() -> None:
    picture, truth = inputs.pictures(1)
    everywhere = np.ones(truth.shape[:2], bool)
    assert covisible_ssim(picture, truth, everywhere) == pytest.approx(ssim(picture, truth), abs=1e-9)
    assert np.isnan(covisible_ssim(picture, truth, ~everywhere))


# --- cameras ---


@given(st.integers(0, 10_000), st.floats(0.05, 20))
@settings(max_examples=30, deadline=None)
def test_a_path_in_other_axes_and_scale_has_no_error(seed: int, scale: float) -> None:
    _, truth = inputs.camera_paths(seed, 12)
    rng = np.random.default_rng(seed)
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = rotation_from_vector(rng.normal(0, 1, 3)), rng.normal(0, 3, 3)
    moved = world @ truth
    moved[:, :3, 3] *= scale
    assert solve.ate(moved, truth) < 1e-6
    assert max(*cameras.rpe(moved, truth)) < 1e-5
    assert max(*cameras.cameractrl_errors(moved, truth, len(truth))) < 1e-5
    assert max(*cameras.track2view_errors(moved, truth)) < 1e-5


def straight(frames: int, step: float = 1.0) -> np.ndarray:
    path = np.tile(np.eye(4), (frames, 1, 1))
    path[:, 0, 3] = step * np.arange(frames)
    return path


def test_the_two_readings_of_rotation_error_are_told_apart() -> None:
    """All frames but the first turned by 2 degrees: CameraCtrl sums radians, Track2View takes the mean in degrees."""
    truth = straight(5)
    own = truth.copy()
    own[1:, :3, :3] = axis_rotation([0, 1, 0], np.radians(2.0))
    assert cameras.cameractrl_errors(own, truth, 5)[0] == pytest.approx(4 * np.radians(2.0))
    assert cameras.track2view_errors(own, truth)[0] == pytest.approx(4 * 2.0 / 5)


def test_frames_that_could_not_be_solved_do_not_lower_a_sum_over_the_clip() -> None:
    own, truth = straight(40), straight(40)
    own[1:, :3, :3] = axis_rotation([0, 1, 0], np.radians(2.0))
    own[1::2, 1, 3] = 0.5
    whole = cameras.cameractrl_errors(own, truth, 40)
    some = np.r_[0:40:5, 1:40:5]
    part = cameras.cameractrl_errors(own[some], truth[some], 40)
    np.testing.assert_allclose(part, whole, rtol=0.1)


def test_the_two_readings_of_translation_error_scale_by_different_things() -> None:
    """The last step twice as long: CameraCtrl divides each path by its own length, Track2View by the first step."""
    truth, own = straight(4), straight(4)
    own[3, 0, 3] = 4.0
    assert cameras.cameractrl_errors(own, truth, 4)[1] == pytest.approx(1 / 3 - 1 / 4 + 2 / 3 - 2 / 4, abs=1e-6)
    assert cameras.track2view_errors(own, truth)[1] == pytest.approx(1 / 4)


def test_track2views_translation_error_is_not_defined_without_a_first_step() -> None:
    truth = straight(4)
    still = truth.copy()
    still[1, 0, 3] = 0
    assert np.isnan(cameras.track2view_errors(still, truth)[1])


# --- FVD ---


def textbook_frechet(a: np.ndarray, b: np.ndarray) -> float:
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root.real))


@pytest.mark.parametrize("seed", inputs.SEEDS)
def test_frechet_distance_is_the_textbooks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, (60, 8)), rng.normal(0.4, 1.5, (50, 8)) @ rng.normal(0, 1, (8, 8))
    assert frechet_distance(a, b) == pytest.approx(textbook_frechet(a, b), rel=1e-6)


@given(st.integers(2, 30), st.integers(1, 60), st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_frechet_distance_of_few_clips_is_sound(clips: int, width: int, away: float) -> None:
    """Fewer clips than features is the rule: equal sets are 0 apart, shifted ones by the shift's square."""
    a = np.random.default_rng(clips * width).normal(0, 1, (clips, width))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, a + away) == pytest.approx(width * away**2, rel=1e-6, abs=1e-7)


def test_frechet_distance_of_one_clip_is_not_a_number() -> None:
    assert np.isnan(frechet_distance(np.zeros((1, 3)), np.zeros((4, 3))))


def test_inputs_are_worth_comparing() -> None:
    """Pictures that are nearly equal, or noise, would not tell two definitions of SSIM apart."""
    for seed in inputs.SEEDS:
        picture, truth = inputs.pictures(seed)
        assert 0.3 < ssim(picture, truth) < 0.9
        assert cv2.Laplacian(truth, cv2.CV_64F).std() > 5
