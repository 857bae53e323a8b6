"""How near a picture is to the true one: PSNR and SSIM, over all of it or over a part.

`psnr` and `ssim` with a mask count the pixels, and the windows around the pixels, that the mask names. DyCheck's masked
PSNR (mPSNR) is `psnr` with the co-visible mask; its masked SSIM (mSSIM) sees nothing outside the mask at all, which is
another measure: `covisible_ssim`.
"""

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


def covisible_ssim(picture: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """DyCheck's mSSIM (Gao et al. 2022): windows see only the pixels of mask (H, W), as partial convolutions do.

    A window's sums over the mask are scaled up by the share of it that the mask leaves; one that the mask leaves empty
    counts as 1, as in DyCheck's code. The mean over windows inside the picture and channels; nan for an empty mask.
    """
    _check(picture, truth, mask)
    if not mask.any():
        return float("nan")
    a, b = picture.astype(np.float64) / 255, truth.astype(np.float64) / 255
    mean_a, mean_b = _partial(a, mask), _partial(b, mask)
    variance_a = np.maximum(_partial(a * a, mask) - mean_a**2, 0)
    variance_b = np.maximum(_partial(b * b, mask) - mean_b**2, 0)
    covariance = _partial(a * b, mask) - mean_a * mean_b
    most = np.sqrt(variance_a * variance_b)
    covariance = np.clip(covariance, -most, most)
    c1, c2 = _C1 / 255**2, _C2 / 255**2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    inner = (slice(SSIM_RADIUS, -SSIM_RADIUS),) * 2
    return float(similarity[inner].mean())


def _partial(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Gaussian window means of values (H, W[, C]) over the mask: along rows, then along columns (right inside only)."""
    size = 2 * SSIM_RADIUS + 1
    line = np.asarray(cv2.getGaussianKernel(size, SSIM_SIGMA), np.float64)
    known = mask.astype(np.float64)
    for kernel in (line.T, line):
        weight = known[..., None] if values.ndim == 3 else known
        sums = _filtered(values * weight, kernel)
        count = np.rint(_filtered(known, np.ones_like(kernel)))
        scale = np.divide(size, count, out=np.zeros_like(count), where=count > 0)
        values = sums * (scale[..., None] if values.ndim == 3 else scale)
        known = (count > 0).astype(np.float64)
    return values


def _filtered(values: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.filter2D(values, cv2.CV_64F, kernel, borderType=cv2.BORDER_CONSTANT), np.float64)


def _window(values: NDArray[np.float64]) -> NDArray[np.float64]:
    size = 2 * SSIM_RADIUS + 1
    return np.asarray(cv2.GaussianBlur(values, (size, size), SSIM_SIGMA), np.float64)


def _check(picture: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_] | None) -> None:
    if picture.shape != truth.shape or (mask is not None and mask.shape != truth.shape[:2]):
        shapes = [picture.shape, truth.shape] + ([] if mask is None else [mask.shape])
        raise ValueError(f"pictures and mask differ in shape: {shapes}")
