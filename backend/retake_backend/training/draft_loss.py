"""How far a made picture is from the truth, with most weight where geometry alone shows nothing or tears."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from ..models.draft_layers import flat


@dataclass(frozen=True)
class LossSettings:
    """holes, edges: what a pixel in a hole, or within `edge` px of one, counts more than any other (which counts 1).

    pixels: share of the Charbonnier distance at full, 1/2 and 1/4 size; gradients: of the distance of neighbouring
    pixels' differences, which keeps edges sharp; structure: of 1 - SSIM (windows of 8 px, even weights).
    """

    holes: float = 8.0
    edges: float = 3.0
    edge: int = 4
    pixels: float = 1.0
    gradients: float = 0.5
    structure: float = 0.2


def picture_loss(made: Tensor, truth: Tensor, holes: Tensor, settings: LossSettings) -> tuple[Tensor, dict[str, float]]:
    """The weighted mean over made and truth (B, 3, F, H, W) in [-1, 1], holes (B, 1, F, H, W) in {0, 1}; its terms."""
    made, truth, holes = flat(made.float()), flat(truth.float()), flat(holes.float())
    near = max_pool2d(holes, 2 * settings.edge + 1, 1, settings.edge)
    weight = 1 + settings.edges * near + (settings.holes - settings.edges) * holes
    weight = weight / weight.mean()
    off = made - truth
    terms = {
        "pixels": settings.pixels * _pixels(off, weight),
        "gradients": settings.gradients * _gradients(off, weight),
        "structure": settings.structure * _structure(made, truth, weight),
    }
    return torch.stack(list(terms.values())).sum(), {name: float(term.detach()) for name, term in terms.items()}


def _structure(made: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """1 - SSIM over windows of 8 x 8 px, every 4 px."""
    if min(made.shape[-2:]) < 8:
        return made.new_zeros(())

    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(values, 8, 4)

    mean_a, mean_b = mean(made), mean(truth)
    variance_a, variance_b = mean(made * made) - mean_a**2, mean(truth * truth) - mean_b**2
    covariance = mean(made * truth) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # of a range of 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return (mean(weight) * (1 - similarity)).mean()


def _charbonnier(off: Tensor) -> Tensor:
    return (off.square() + 1e-6).sqrt()


def _pixels(off: Tensor, weight: Tensor) -> Tensor:
    total = (weight * _charbonnier(off)).mean()
    for size in (2, 4):
        total = total + (avg_pool2d(weight, size) * _charbonnier(avg_pool2d(off, size))).mean()
    return total / 3


def _gradients(off: Tensor, weight: Tensor) -> Tensor:
    across, down = off[..., 1:] - off[..., :-1], off[..., 1:, :] - off[..., :-1, :]
    return (weight[..., 1:] * _charbonnier(across)).mean() + (weight[..., 1:, :] * _charbonnier(down)).mean()
