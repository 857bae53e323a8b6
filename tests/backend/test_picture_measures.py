"""The numbers by which takes are compared are the textbook ones."""

import numpy as np
import pytest
from retake_backend.evaluation.picture import psnr, ssim


def pair(seed: int, channels: tuple[int, ...] = (3,)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 256, (24, 31, *channels), np.uint8)
    noisy = np.clip(truth + rng.normal(0, 12, truth.shape), 0, 255).astype(np.uint8)
    return noisy, truth


def naive_ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None) -> float:
    """One window at a time, straight from the paper."""
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    values = []
    for y in range(5, a.shape[0] - 5):
        for x in range(5, a.shape[1] - 5):
            if mask is not None and not mask[y, x]:
                continue
            for c in range(a.shape[2]):
                p = a[y - 5 : y + 6, x - 5 : x + 6, c].astype(np.float64)
                q = b[y - 5 : y + 6, x - 5 : x + 6, c].astype(np.float64)
                mp, mq = (kernel * p).sum(), (kernel * q).sum()
                vp, vq = (kernel * (p - mp) ** 2).sum(), (kernel * (q - mq) ** 2).sum()
                cov = (kernel * (p - mp) * (q - mq)).sum()
                c1, c2 = 6.5025, 58.5225
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("masked", [False, True])
def test_against_a_naive_reference(seed: int, masked: bool) -> None:
    noisy, truth = pair(seed)
    mask = np.random.default_rng(seed + 9).random(truth.shape[:2]) > 0.4 if masked else None
    assert ssim(noisy, truth, mask) == pytest.approx(naive_ssim(noisy, truth, mask), abs=1e-9)
    kept = mask if mask is not None else np.ones(truth.shape[:2], bool)
    error = np.mean([(float(p) - float(q)) ** 2 for p, q in zip(noisy[kept].ravel(), truth[kept].ravel(), strict=True)])
    assert psnr(noisy, truth, mask) == pytest.approx(10 * np.log10(65025 / error), abs=1e-9)


def test_equal_pictures() -> None:
    _, truth = pair(0)
    assert psnr(truth, truth) == float("inf")
    assert ssim(truth, truth) == pytest.approx(1.0)


def test_nothing_to_count_is_nan_not_a_number_that_flatters() -> None:
    noisy, truth = pair(0)
    nothing = np.zeros(truth.shape[:2], bool)
    assert np.isnan(psnr(noisy, truth, nothing))
    assert np.isnan(ssim(noisy, truth, nothing))


def test_different_shapes_are_refused() -> None:
    noisy, truth = pair(0)
    with pytest.raises(ValueError, match="differ in shape"):
        psnr(noisy[1:], truth)
