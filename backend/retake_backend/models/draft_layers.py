"""Convolutions that the draft models are built of: pictures of all frames at once, mixed over time between neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

STRIDE = 8
"""px of the picture to a side of a token: sides of the models' pictures are multiples of it."""


def flat(video: Tensor) -> Tensor:
    """(B, C, F, H, W) -> (B * F, C, H, W), in the memory format that convolutions are fastest with."""
    return video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def unflat(pictures: Tensor, frames: int) -> Tensor:
    """(B * F, C, H, W) -> (B, C, F, H, W)."""
    return pictures.reshape(-1, frames, *pictures.shape[1:]).transpose(1, 2)


def shifted(pictures: Tensor, frames: int) -> Tensor:
    """An eighth of the channels from the frame before, an eighth from the one after, the rest as it is: (B * F, C, h, w).

    Temporal shift (Lin et al. 2019): frames hear of each other without a multiplication. At the ends of the video
    these channels are the frame's own.
    """
    video = pictures.reshape(-1, frames, *pictures.shape[1:])
    part = video.shape[2] // 8
    before = torch.cat([video[:, :1, :part], video[:, :-1, :part]], 1)
    after = torch.cat([video[:, 1:, part : 2 * part], video[:, -1:, part : 2 * part]], 1)
    mixed = torch.cat([before, after, video[:, :, 2 * part :]], 2)
    return mixed.flatten(0, 1).contiguous(memory_format=torch.channels_last)


class ConvBlock(nn.Module):
    """Residual block of two 3x3 convolutions; between them each frame hears of its neighbours in time.

    Without norms: they cost a CPU as much as the convolutions do, and restoring pictures goes well without.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, pictures: Tensor, frames: int) -> Tensor:
        """(B * F, channels, h, w) -> (B * F, out_channels, h, w)."""
        joined: Tensor = self.skip(pictures) + self.conv_out(shifted(silu(self.conv_in(pictures)), frames))
        return joined


class Upsample(nn.Module):
    """Twice the size by sub-pixels: every cell says itself what its four are."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.to_cells = nn.Conv2d(channels, 4 * out_channels, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, out_channels, 2h, 2w)."""
        return nn.functional.pixel_shuffle(self.to_cells(pictures), 2)


class Head(nn.Module):
    """Features at half the size -> a change of the filled reprojection at full size; none before training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3 * 4, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, frames: int) -> Tensor:
        """features (B * F, channels, H / 2, W / 2) -> (B, 3, F, H, W) float32."""
        return unflat(nn.functional.pixel_shuffle(self.conv(silu(features)).float(), 2), frames)


def check_size(video: Tensor) -> None:
    """Raise ValueError where the sides of (B, C, F, H, W) are no multiples of `STRIDE`."""
    height, width = video.shape[-2:]
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"the picture is {width} x {height} px; its sides must be multiples of {STRIDE}")
