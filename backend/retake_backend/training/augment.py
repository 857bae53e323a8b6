"""What training examples lose on purpose: tracks, spans of them, their exactness, source frames, captions.

Source and target lose the same track, so that pairs stay pairs; the videos' truth is never touched.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..conditioning.coordinates import TrackPairs
from .batches import Batch
from .config import Augmentation

NEIGHBOURHOOD = 0.15
"""Half the side of the screen square whose tracks go as one object, where nobody said which tracks are one."""


def augmented(batch: Batch, settings: Augmentation, generator: torch.Generator) -> Batch:
    """A batch that has lost something. All chance is from `generator`, on the CPU."""
    draw = _Draw(generator, batch.source.device)
    count = len(batch)
    tracks = batch.tracks
    keep = _kept_tracks(tracks, settings, draw)
    keep &= ~_dropped_object(tracks, settings, draw)
    shown = keep[:, None] & ~_gaps(tracks, settings, draw)
    tracks = _noisy(tracks, settings, draw)
    tracks = replace(
        tracks,
        source_present=tracks.source_present & shown,
        target_present=tracks.target_present & shown,
        source_visible=tracks.source_visible & shown,
    )
    dropped = draw.share(count) < settings.prompt_share
    captions = tuple("" if out else text for text, out in zip(batch.captions, dropped.tolist(), strict=True))
    return replace(batch, source=_without_frames(batch.source, settings, draw), tracks=tracks, captions=captions)


class _Draw:
    """Uniform and normal numbers from one generator on the CPU, brought to a device."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self._generator, self._device = generator, device

    def share(self, *shape: int) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(*shape, generator=self._generator).to(self._device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self._device)


def _exists(tracks: TrackPairs) -> Tensor:
    """(B, N) which tracks a video of the batch has at all."""
    return (tracks.source_present | tracks.target_present).any(1)


def _kept_tracks(tracks: TrackPairs, settings: Augmentation, draw: _Draw) -> Tensor:
    """(B, N): a share between `fewest_tracks` and 1 of each video's own tracks."""
    batch, _, count = tracks.source_present.shape
    kept = settings.fewest_tracks + (1 - settings.fewest_tracks) * draw.share(batch, 1)
    exists = _exists(tracks)
    score = torch.where(exists, draw.share(batch, count), 2.0)
    rank = score.argsort(1).argsort(1)
    return exists & (rank < torch.ceil(kept * exists.sum(1, keepdim=True)))


def _dropped_object(tracks: TrackPairs, settings: Augmentation, draw: _Draw) -> Tensor:
    """(B, N): the tracks that stay beside one drawn at random wherever both are present, in the source and the target;
    the whole object goes, as if an artist or a tracker had left it out. Tracks that never meet it stay."""
    batch, frames, count = tracks.source_present.shape
    if not count:
        return tracks.source_present.new_zeros(batch, count)
    chosen = torch.where(_exists(tracks), draw.share(batch, count), -1.0).argmax(1)
    distances, met = [], []
    for xyz, present in ((tracks.source, tracks.source_present), (tracks.target, tracks.target_present)):
        other = xyz.gather(2, chosen[:, None, None, None].expand(batch, frames, 1, xyz.shape[3]))
        both = present & present.gather(2, chosen[:, None, None].expand(batch, frames, 1))
        apart = (xyz - other).abs().amax(-1)  # disparity counts too: what lies behind is another object
        distances.append(torch.where(both, apart, 0.0).amax(1))
        met.append(both.any(1))
    near = (torch.stack(distances).amax(0) < NEIGHBOURHOOD) & torch.stack(met).any(0)
    return near & (draw.share(batch, 1) < settings.object_share)


def _gaps(tracks: TrackPairs, settings: Augmentation, draw: _Draw) -> Tensor:
    """(B, F, N): one span of up to `gap` of the frames for every second track, in `gap_share` of the videos."""
    batch, frames, count = tracks.source_present.shape
    length = (settings.gap * draw.share(batch, count) * frames).round()
    start = (draw.share(batch, count) * (frames - length + 1)).floor()
    chosen = (draw.share(batch, count) < 0.5) & (draw.share(batch, 1) < settings.gap_share)
    frame = torch.arange(frames, device=start.device)[None, :, None]
    return chosen[:, None] & (frame >= start[:, None]) & (frame < (start + length)[:, None])


def _noisy(tracks: TrackPairs, settings: Augmentation, draw: _Draw) -> TrackPairs:
    """Tracks off by one error each plus a smaller one a frame, as trackers drift and jitter; disparity stays in [0, 1]."""
    batch, frames, count = tracks.source_present.shape
    noisy = draw.share(batch, 1, 1, 1) < settings.noisy_share
    scale = torch.where(noisy, settings.noise * draw.share(batch, 1, 1, 1), 0.0)

    def off(xyz: Tensor, present: Tensor) -> Tensor:
        error = draw.normal(batch, 1, count, 3) + 0.5 * draw.normal(batch, frames, count, 3)
        moved = xyz + scale * error
        moved = torch.cat([moved[..., :2], moved[..., 2:].clamp(0, 1)], -1)
        return torch.where(present[..., None], moved, xyz)

    return replace(
        tracks,
        source=off(tracks.source, tracks.source_present),
        target=off(tracks.target, tracks.target_present),
    )


def _without_frames(source: Tensor, settings: Augmentation, draw: _Draw) -> Tensor:
    """Source (B, 3, F, H, W) with frames at mid grey: a share of up to `frames`, never all (Track2View 3.2)."""
    batch, _, frames = source.shape[:3]
    some = draw.share(batch, 1) < settings.frames_share
    lost = torch.where(some, (settings.frames * draw.share(batch, 1) * frames).round().clamp(max=frames - 1), 0.0)
    gone = draw.share(batch, frames).argsort(1).argsort(1) < lost
    return source.masked_fill(gone[:, None, :, None, None], 0.0)
