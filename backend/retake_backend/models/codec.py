"""Video frames <-> latents: Wan's VAE, and a rough look at latents without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..engines.base import Report
from .memory import Profile


class VideoCodec:
    """Wan's VAE on uint8 frames and normalised latents; the same input gives the same output.

    vae: diffusers' own, on its device. strides: (frames, height, width) of a latent cell in px, (4, 8, 8) for Wan 2.1;
    the first latent frame is one video frame. channels: of the latents.
    """

    vae: Any
    strides: tuple[int, int, int]
    channels: int

    @classmethod
    def load(cls, place: Path, profile: Profile) -> VideoCodec:
        """From `<place>/vae`. Raises BadFile when it is damaged or no such VAE."""
        raise NotImplementedError

    def encode(self, frames: NDArray[np.uint8], report: Report | None = None, stage: str = "encoding") -> Tensor:
        """sRGB frames (F, H, W, 3) uint8 -> normalised latents (1, C, f, h, w) float32 on the CPU.

        The mode of the posterior, no sample. F must be 4k + 1 and the size a multiple of the strides (BadShot).
        report is called before every chunk and may raise Cancelled.
        """
        raise NotImplementedError

    def decode(self, latents: Tensor, report: Report | None = None, stage: str = "decoding") -> NDArray[np.uint8]:
        """Normalised latents (1, C, f, h, w) on any device -> sRGB frames (F, H, W, 3) uint8."""
        raise NotImplementedError


@dataclass(frozen=True)
class LatentToRgb:
    """A linear look at latents: colour = latent . weights, fitted to one video. weights: (C + 1, 3), offset last."""

    weights: Tensor

    @classmethod
    def fit(cls, latents: Tensor, frames: NDArray[np.uint8]) -> LatentToRgb:
        """Least squares of latents (1, C, f, h, w) -> mean colour of their cells in frames (F, H, W, 3) uint8."""
        raise NotImplementedError

    def __call__(self, latents: Tensor) -> NDArray[np.uint8]:
        """(1, C, f, h, w) -> (f, h, w, 3) uint8 sRGB. The fit is of float32 on any device."""
        raise NotImplementedError
