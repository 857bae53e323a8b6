"""Training examples turned into others that are just as true: mirrored, played backwards, in other colours.

What holds for an example holds for its mirror image too. A few hundred rendered pairs are soon known by heart; so
turned, they are many more. All videos of an example are turned alike, and its tracks with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from ..conditioning.coordinates import TrackPairs
from .batches import Batch
from .config import Symmetries

FAINTEST = 0.6
"""The least contrast that recolouring leaves."""
_VIDEOS = ("source", "target", "moved")
_ALL = (*_VIDEOS, "holes")


def turned(batch: Batch, settings: Symmetries, generator: torch.Generator) -> Batch:
    """A batch of which a share of the examples are turned. All chance is from `generator`, on the CPU; where nothing is
    asked for none is spent, so that such a training goes on as it began."""
    if settings == Symmetries():
        return batch
    count, device = len(batch), batch.source.device
    chance = torch.rand(4, count, generator=generator).to(device)
    mirrored, backwards, recoloured = (
        chance[row] < share for row, share in enumerate((settings.mirrored, settings.backwards, settings.recoloured))
    )
    batch = _changed(batch, _ALL, lambda video: _where(mirrored, video.flip(4), video))
    batch = _changed(batch, _ALL, lambda video: _where(backwards, video.flip(2), video))
    tracks = _backwards(_mirrored(batch.tracks, mirrored), backwards)

    orders = torch.tensor(list(permutations(range(3))), device=device)
    order = orders[torch.randint(len(orders), (count,), generator=generator).to(device)]
    contrast = FAINTEST + (1 - FAINTEST) * chance[3]
    shift = (2 * torch.rand(count, 3, generator=generator).to(device) - 1) * (1 - contrast)[:, None]

    def in_other_colours(video: Tensor) -> Tensor:
        swapped = video.gather(1, order[:, :, None, None, None].expand_as(video))
        changed = swapped * contrast.view(-1, 1, 1, 1, 1) + shift[:, :, None, None, None]
        return _where(recoloured, changed, video)

    return replace(_changed(batch, _VIDEOS, in_other_colours), tracks=tracks)


def _changed(batch: Batch, names: Sequence[str], change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with those of its (B, C, F, H, W) changed that it has."""
    there = {name: video for name in names if (video := getattr(batch, name)) is not None}
    changes: dict[str, Any] = {name: change(video) for name, video in there.items()}
    return replace(batch, **changes)


def _mirrored(tracks: TrackPairs, which: Tensor) -> TrackPairs:
    def mirror(xyz: Tensor, present: Tensor) -> Tensor:
        other = torch.cat([1 - xyz[..., :1], xyz[..., 1:]], -1)
        return torch.where(which[:, None, None, None] & present[..., None], other, xyz)

    return replace(
        tracks,
        source=mirror(tracks.source, tracks.source_present),
        target=mirror(tracks.target, tracks.target_present),
    )


def _backwards(tracks: TrackPairs, which: Tensor) -> TrackPairs:
    values = (tracks.source, tracks.target, tracks.source_present, tracks.target_present, tracks.source_visible)
    return TrackPairs(*(_where(which, value.flip(1), value) for value in values))


def _where(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Per example (B,): `yes` or `no`, (B, ...) each."""
    return torch.where(which.view(-1, *[1] * (no.dim() - 1)), yes, no)
