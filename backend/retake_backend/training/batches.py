"""What a model sees of examples: tensors of one size, and their tracks as the conditioners take them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..conditioning.coordinates import TrackPairs


@dataclass(frozen=True)
class Batch:
    """B examples of F frames of H x W px on one device.

    source, target: (B, 3, F, H, W) float32 in [-1, 1], sRGB. tracks: one entry a video frame (F, not latent frames).
    moved: (B, 3, F, H, W) in [-1, 1], the source reprojected along the edit, holes filled as `preview` fills them;
    holes: (B, 1, F, H, W) in {0, 1}, 1 where the source shows nothing of the place; both None where nobody made them.
    captions: B texts, "" where there is none.
    """

    source: Tensor
    target: Tensor
    tracks: TrackPairs
    captions: tuple[str, ...]
    moved: Tensor | None = None
    holes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        there = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor | TrackPairs)
        }
        return replace(self, **there)
