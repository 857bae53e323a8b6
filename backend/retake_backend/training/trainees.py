"""What the training loop trains: anything that has weights, a loss on a batch, and samples to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .batches import Batch


class Trainee(Protocol):
    """A model in training. Constructing one loads or makes its weights.

    module: holds every weight; those that require gradients are trained, averaged (EMA) and kept in checkpoints.
    """

    module: nn.Module

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The mean loss of a batch, to go back through, and figures to log. All chance comes from `generator`.

        A step's figures are the means over its pieces; where a piece does not tell one, it counts as 0 there.
        """
        ...

    def sample(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The target videos that the model makes of the batch's sources and tracks: (B, 3, F, H, W) in [-1, 1]."""
        ...

    def save(self, folder: Path) -> None:
        """Write the weights as they are used afterwards: safetensors with configuration and licence, never the rest."""
        ...
