"""Training examples turned into others that are just as true: mirrored, played backwards, in other colours.

What holds for an example holds for its mirror image too. A few hundred rendered pairs are soon known by heart; so
turned, they are many more. All videos of an example are turned alike, and its tracks with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import torch
from torch import Tensor

from ..conditioning.coordinates import TrackPairs
from .batches import Batch
from .config import Symmetries

FAINTEST = 0.6
"""The least contrast that recolouring leaves."""


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
    batch = _videos(batch, lambda video: _where(mirrored, video.flip(4), video))
    batch = _videos(batch, lambda video: _where(backwards, video.flip(2), video))
    tracks = _backwards(_mirrored(batch.tracks, mirrored), backwards)

    orders = torch.tensor(list(permutations(range(3))), device=device)
    order = orders[torch.randint(len(orders), (count,), generator=generator).to(device)]
    contrast = FAINTEST + (1 - FAINTEST) * chance[3]
    shift = (2 * torch.rand(count, 3, generator=generator).to(device) - 1) * (1 - contrast)[:, None]

    def in_other_colours(video: Tensor) -> Tensor:
        if video.shape[1] != 3:
            return video
        swapped = video.gather(1, order[:, :, None, None, None].expand_as(video))
        changed = swapped * contrast.view(-1, 1, 1, 1, 1) + shift[:, :, None, None, None]
        return _where(recoloured, changed, video)

    return replace(_videos(batch, in_other_colours), tracks=tracks)


def _videos(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every (B, C, F, H, W) of it changed: videos, and the holes."""
    return replace(
        batch,
        source=change(batch.source),
        target=change(batch.target),
        moved=None if batch.moved is None else change(batch.moved),
        holes=None if batch.holes is None else change(batch.holes),
    )


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
