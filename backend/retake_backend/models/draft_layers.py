"""Convolutions that the draft models are built of: pictures of all frames at once, mixed over time between neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

GROUPS = 8
"""Of the group norms: every width is a multiple."""
STRIDE = 8
"""px of the picture to a side of a token: sides of the models' pictures are multiples of it."""


def flat(video: Tensor) -> Tensor:
    """(B, C, F, H, W) -> (B * F, C, H, W), in the memory format that convolutions are fastest with."""
    return video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def unflat(pictures: Tensor, frames: int) -> Tensor:
    """(B * F, C, H, W) -> (B, C, F, H, W)."""
    return pictures.reshape(-1, frames, *pictures.shape[1:]).transpose(1, 2)


def with_neighbours(pictures: Tensor, frames: int) -> Tensor:
    """Each frame's channels beside those of the frame before and the one after: (B * F, C, ...) -> (B * F, 3 C, ...).

    The first and the last frame are their own neighbours.
    """
    video = pictures.reshape(-1, frames, *pictures.shape[1:])
    before = torch.cat([video[:, :1], video[:, :-1]], 1)
    after = torch.cat([video[:, 1:], video[:, -1:]], 1)
    return torch.cat([before, video, after], 2).flatten(0, 1)


class ConvBlock(nn.Module):
    """Residual block of two 3x3 convolutions; between them each frame hears of its neighbours in time."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(GROUPS, channels)
        self.conv_in = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Conv2d(3 * out_channels, out_channels, 1)
        nn.init.zeros_(self.time.weight)
        nn.init.zeros_(self.time.bias)  # type: ignore[arg-type]
        self.norm_out = nn.GroupNorm(GROUPS, out_channels)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, pictures: Tensor, frames: int) -> Tensor:
        """(B * F, channels, h, w) -> (B * F, out_channels, h, w)."""
        mixed = self.conv_in(silu(self.norm_in(pictures)))
        mixed = mixed + self.time(with_neighbours(mixed, frames))
        mixed = self.conv_out(silu(self.norm_out(mixed)))
        joined: Tensor = self.skip(pictures) + mixed
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
    """Features at half the size -> a change of the picture at full size; none before training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.conv = nn.Conv2d(channels, 3 * 4, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H / 2, W / 2) -> (N, 3, H, W) float32."""
        return nn.functional.pixel_shuffle(self.conv(silu(self.norm(features))).float(), 2)


def check_size(video: Tensor) -> None:
    """Raise ValueError where the sides of (B, C, F, H, W) are no multiples of `STRIDE`."""
    height, width = video.shape[-2:]
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"the picture is {width} x {height} px; its sides must be multiples of {STRIDE}")
