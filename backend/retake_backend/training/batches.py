"""What a model sees of examples: tensors of one size, and their tracks as the conditioners take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..conditioning.coordinates import PairingSettings, TrackPairs, pair_tracks_at
from .pairs import Pair

_CELL = 16
"""px of the cells over which the choice of tracks is spread, those of Wan's tokens."""


@dataclass(frozen=True)
class Batch:
    """B examples of F frames of H x W px on one device.

    source, target: (B, 3, F, H, W) float32 in [-1, 1], sRGB. tracks: one entry a video frame (F, not latent frames).
    moved: (B, 3, F, H, W) in [-1, 1], the source reprojected along the edit, holes filled smoothly;
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
        there: dict[str, Any] = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor | TrackPairs)
        }
        return replace(self, **there)


def collate(
    pairs: Sequence[Pair], tracks: PairingSettings | int = 2000, generator: torch.Generator | None = None
) -> Batch:
    """Examples of one shape as a batch on the CPU, `moved` and `holes` in it where every example has them.

    tracks: how many at most, or all that is to be said of their choice. generator: chooses among equally good tracks,
    in place of the settings' seed. Raises ValueError when the shapes differ, BadShot.
    """
    shapes = {pair.source.shape for pair in pairs}
    if len(shapes) != 1:
        raise ValueError(f"a batch of examples of shapes {sorted(shapes)}")
    frames, height, width = pairs[0].source.shape[:3]
    settings = PairingSettings(tracks=tracks) if isinstance(tracks, int) else tracks
    grid = (max(1, height // _CELL), max(1, width // _CELL))
    followed = []
    for pair in pairs:
        if generator is not None:
            settings = replace(settings, seed=int(torch.randint(2**31, (), generator=generator)))
        followed.append(pair_tracks_at(pair.solve, pair.edit, np.arange(frames), grid, settings=settings))
    moved = [pair.moved for pair in pairs if pair.moved is not None]
    whole = len(moved) == len(pairs)
    return Batch(
        source=torch.stack([to_tensor(pair.source) for pair in pairs]),
        target=torch.stack([to_tensor(pair.target) for pair in pairs]),
        tracks=TrackPairs.batch(followed),
        captions=tuple(pair.caption for pair in pairs),
        moved=torch.stack([to_tensor(each.rgb) for each in moved]) if whole else None,
        holes=torch.stack([torch.from_numpy(each.holes)[None].float() for each in moved]) if whole else None,
    )


def to_tensor(video: NDArray[np.uint8]) -> Tensor:
    """(F, H, W, 3) uint8 sRGB -> (3, F, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(video)).permute(3, 0, 1, 2).float().div_(127.5).sub_(1.0)
