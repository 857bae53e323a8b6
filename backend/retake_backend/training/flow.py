"""Rectified flow: noise levels to train at, noisy latents, and the velocity that a model is to say.

x_sigma = (1 - sigma) clean + sigma noise, velocity = noise - clean, timestep = 1000 sigma: as `engines.diffusion` runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """How noise levels are drawn (chosen: no paper says). The defaults are those of Stable Diffusion 3, shift that of
    Wan at 480p.

    distribution: "logit-normal" with this mean and spread, or "uniform". shift: moves them towards noise, s sigma /
    (1 + (s - 1) sigma), as the schedulers do at sampling; 1 = not.
    """

    distribution: Literal["logit-normal", "uniform"] = "logit-normal"
    mean: float = 0.0
    spread: float = 1.0
    shift: float = 3.0

    def __post_init__(self) -> None:
        if self.shift <= 0 or self.spread <= 0:
            raise ValueError(f'"shift" is {self.shift} and "spread" {self.spread}; both must be above 0')

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) float32 in (0, 1) on the generator's device."""
        device = generator.device
        if self.distribution == "uniform":
            sigma = torch.rand(count, generator=generator, device=device)
        else:
            sigma = torch.sigmoid(self.mean + self.spread * torch.randn(count, generator=generator, device=device))
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)


def noisy(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """clean, noise (B, ...), sigma (B,) -> (B, ...)."""
    sigma = sigma.view(-1, *[1] * (clean.ndim - 1)).to(clean)
    return (1 - sigma) * clean + sigma * noise


def velocity_loss(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of a predicted velocity (B, ...), in float32."""
    return torch.nn.functional.mse_loss(velocity.float(), (noise - clean).float())
