"""The convolutional refiner: the draft model's yardstick, and what ships in its place where it does better.

A U-Net over the same inputs without attention, tracks or noise: it sees the filled reprojection, the holes, the source
at the same moment, and for every hole what lies at that place in the nearest frame that shows it.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from ..conditioning.coordinates import TrackPairs
from .draft_layers import ConvBlock, Head, Upsample, check_size, flat


class Refiner(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Source, filled reprojection and holes -> the target video, in one step.

    channels: at 1/2, 1/4 and 1/8 of the picture's size. depth: residual blocks at 1/8. longer_side: px, of the
    pictures that it works on best.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, channels: tuple[int, int, int] = (48, 96, 192), depth: int = 2, longer_side: int = 80) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        fine, coarse, deep = channels
        self.first = nn.Conv2d(10 * 4, fine, 3, padding=1)
        self.fine_in = ConvBlock(fine, fine)
        self.to_coarse = nn.Conv2d(fine, coarse, 3, 2, 1)
        self.coarse_in = ConvBlock(coarse, coarse)
        self.to_deep = nn.Conv2d(coarse, deep, 3, 2, 1)
        self.deep = nn.ModuleList(ConvBlock(deep, deep) for _ in range(depth))
        self.from_deep = Upsample(deep, coarse)
        self.coarse_out = ConvBlock(2 * coarse, coarse)
        self.from_coarse = Upsample(coarse, fine)
        self.fine_out = ConvBlock(2 * fine, fine)
        self.head = Head(fine)

    def forward(self, source: Tensor, filled: Tensor, holes: Tensor) -> Tensor:
        """The residual target - filled, (B, 3, F, H, W) float32.

        source, filled: (B, 3, F, H, W) in [-1, 1], the latter with its holes (B, 1, F, H, W) in {0, 1} filled smoothly.
        """
        check_size(filled)
        frames = filled.shape[2]
        seen = torch.cat([source, filled, holes, nearest_seen(filled, holes)], 1).to(self.dtype)
        fine = self.fine_in(self.first(pixel_unshuffle(flat(seen), 2)), frames)
        coarse = self.coarse_in(self.to_coarse(fine), frames)
        deep = self.to_deep(coarse)
        for block in self.deep:
            deep = block(deep, frames)
        coarse = self.coarse_out(torch.cat([self.from_deep(deep), coarse], 1), frames)
        fine = self.fine_out(torch.cat([self.from_coarse(coarse), fine], 1), frames)
        residual: Tensor = self.head(fine, frames)
        return residual

    @torch.no_grad()
    def repaint(
        self,
        source: Tensor,
        filled: Tensor,
        holes: Tensor,
        tracks: TrackPairs,
        generator: torch.Generator,
        steps: int = 1,
    ) -> Tensor:
        """The target (B, 3, F, H, W) float32 in [-1, 1]; tracks, chance and steps are the transformer's, unused."""
        residual: Tensor = self(source, filled, holes)
        return (filled.float() + residual).clamp(-1, 1)


def nearest_seen(moved: Tensor, holes: Tensor) -> Tensor:
    """A video with every hole filled from the frame nearest in time that has none there; where none has, as it is.

    moved: (B, 3, F, H, W). holes: (B, 1, F, H, W) in {0, 1}. Of two equally near frames the earlier.
    """
    frames = moved.shape[2]
    filled, open_ = moved, holes > 0.5
    for distance in range(1, frames):
        for step in (-distance, distance):
            there = torch.arange(frames, device=moved.device) + step
            inside = ((there >= 0) & (there < frames)).view(1, 1, -1, 1, 1)
            there = there.clamp(0, frames - 1)
            take = open_ & inside & (holes[:, :, there] < 0.5)
            filled = torch.where(take, moved[:, :, there], filled)
            open_ = open_ & ~take
    return filled
