"""How near a picture is to the true one: PSNR and SSIM, over all of it or over a part."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(picture: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures (H, W[, C]); inf when equal.

    mask: (H, W), the pixels that count; all by default. nan when none counts.
    """
    _check(picture, truth, mask)
    squared = (picture.astype(np.float64) - truth) ** 2
    if mask is not None:
        squared = squared[mask]
    if squared.size == 0:
        return float("nan")
    error = float(squared.mean())
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim(picture: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> float:
    """Structural similarity of uint8 pictures (H, W[, C]), at most 1 (Wang et al. 2004: 11 x 11 Gaussian, sigma 1.5).

    The mean over colour channels of the mean over windows that lie inside the picture. mask: (H, W), the pixels whose
    windows count; nan when none does.
    """
    _check(picture, truth, mask)
    a, b = picture.astype(np.float64), truth.astype(np.float64)
    mean_a, mean_b = _window(a), _window(b)
    variance_a, variance_b = _window(a * a) - mean_a**2, _window(b * b) - mean_b**2
    covariance = _window(a * b) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    )
    inner = (slice(SSIM_RADIUS, -SSIM_RADIUS),) * 2
    similarity = similarity[inner]
    if mask is not None:
        similarity = similarity[mask[inner]]
    return float(similarity.mean()) if similarity.size else float("nan")


def _window(values: NDArray[np.float64]) -> NDArray[np.float64]:
    size = 2 * SSIM_RADIUS + 1
    return np.asarray(cv2.GaussianBlur(values, (size, size), SSIM_SIGMA), np.float64)


def _check(picture: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_] | None) -> None:
    if picture.shape != truth.shape or (mask is not None and mask.shape != truth.shape[:2]):
        shapes = [picture.shape, truth.shape] + ([] if mask is None else [mask.shape])
        raise ValueError(f"pictures and mask differ in shape: {shapes}")
