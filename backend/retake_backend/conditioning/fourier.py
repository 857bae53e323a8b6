"""Fourier features of coordinates, and the learned encodings built on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def angular_frequencies(frequencies: int) -> list[float]:
    """pi 2^k for k = 0 .. frequencies - 1, rad per unit: the longest period is 2, so [-0.5, 1.5] stays unambiguous."""
    return [math.pi * 2.0**k for k in range(frequencies)]


def fourier_features(values: Tensor, frequencies: int) -> Tensor:
    """sin and cos of every coordinate at every frequency: (..., C) -> (..., C * 2 * frequencies) float32.

    Order: by coordinate; within one all sines, then all cosines, from the lowest frequency up. Always float32, since
    bf16 keeps 8 bits of a coordinate: two thirds of a token cell.
    """
    omega = torch.tensor(angular_frequencies(frequencies), dtype=torch.float32, device=values.device)
    phase = values.float().unsqueeze(-1) * omega
    return torch.cat([phase.sin(), phase.cos()], -1).flatten(-2)


def time_encoding(frames: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal encoding of the frame index (Vaswani et al. 2017, section 3.5): (frames, width) float32, width even."""
    rates = torch.exp(torch.arange(0, width, 2, device=device).float() * (-math.log(10_000.0) / width))
    phase = torch.arange(frames, device=device).float()[:, None] * rates
    return torch.stack([phase.sin(), phase.cos()], -1).flatten(-2)


class CoordinateEncoder(nn.Module):
    """Fourier features -> MLP with a linear skip: (..., C) coordinates -> (..., width) in the weights' dtype."""

    def __init__(self, coordinates: int, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        features = coordinates * 2 * frequencies
        self.skip = nn.Linear(features, width, bias=False)
        self.hidden = nn.Linear(features, width)
        self.mlp_out = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        features = fourier_features(values, self.frequencies).to(self.skip.weight.dtype)
        encoded: Tensor = self.skip(features) + self.mlp_out(nn.functional.gelu(self.hidden(features)))
        return encoded


class FourierLinear(nn.Module):
    """Fourier features -> linear: (..., C) coordinates -> (..., width) in the weights' dtype."""

    def __init__(self, coordinates: int, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.linear = nn.Linear(coordinates * 2 * frequencies, width)

    def forward(self, values: Tensor) -> Tensor:
        encoded: Tensor = self.linear(fourier_features(values, self.frequencies).to(self.linear.weight.dtype))
        return encoded
