"""What generated surfaces are painted with: noise of many scales in few colours, patterns, or pieces of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_PICTURED = 0.5
"""Share of surfaces that are painted with a piece of a picture, where there are pictures."""


def make_textures(
    cut_out: Tensor, side: int, generator: torch.Generator, pictures: Sequence[NDArray[np.uint8]] = ()
) -> Tensor:
    """(B, T, 4, side, side) RGBA in [0, 1], each repeating without a seam unless it is a piece of a picture.

    cut_out: (B, T) bool, which ones have an outline (alpha 0 beyond it); the others are opaque.
    """
    count = cut_out.numel()
    height = _noise(count, side, generator)
    colours = torch.rand(count, 3, 3, generator=generator)
    grey = colours.mean(2, keepdim=True)
    colours = grey + (colours - grey) * torch.rand(count, 1, 1, generator=generator)  # few real things are garish
    # Neighbouring heights blend between three colours, so a surface has a palette rather than rainbow noise.
    low, middle, high = (colours[:, i, :, None, None] for i in range(3))
    rgb = torch.where(height < 0.5, low.lerp(middle, 2 * height), middle.lerp(high, 2 * height - 1))
    rgb = rgb * (1 - 0.55 * _pattern(count, side, generator) * torch.rand(count, 1, 1, 1, generator=generator))
    if len(pictures):
        for i in range(count):
            if torch.rand((), generator=generator) < _PICTURED:
                rgb[i] = _piece(pictures[int(torch.randint(len(pictures), (), generator=generator))], side, generator)
    outline = _outline(count, side, generator)
    alpha = torch.where(cut_out.flatten()[:, None, None, None], outline, torch.ones_like(outline))
    rgba = torch.cat([rgb.clamp(0, 1), alpha], 1)
    return rgba.view(*cut_out.shape, *rgba.shape[1:])


def _noise(count: int, side: int, generator: torch.Generator) -> Tensor:
    """(count, 1, side, side) in [0, 1]: random grids of 2, 4, 8 .. cells, smoothly enlarged, wrapping round."""
    total, weights = torch.zeros(count, 1, side, side), torch.zeros(count, 1, 1, 1)
    cells = 2
    while cells <= side // 2:
        grid = torch.rand(count, 1, cells, cells, generator=generator)
        wrapped = functional.pad(grid, (2, 2, 2, 2) if cells > 2 else (1, 1, 1, 1), mode="circular")
        margin = (wrapped.shape[-1] - cells) // 2 * side // cells
        scale = side // cells
        large = functional.interpolate(wrapped, scale_factor=scale, mode="bicubic", align_corners=False)
        weight = torch.rand(count, 1, 1, 1, generator=generator) ** 2 / math.sqrt(cells)
        total = total + weight * large[..., margin : margin + side, margin : margin + side]
        weights = weights + weight
        cells *= 2
    total = total / weights
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low).clamp(min=1e-6)


def _pattern(count: int, side: int, generator: torch.Generator) -> Tensor:
    """(count, 1, side, side) in {0, 1}: stripes, checks or tiles with joints; a third has none."""
    at = (torch.arange(side) + 0.5) / side
    x, y = at.expand(side, side), at[:, None].expand(side, side)
    kind = torch.randint(0, 6, (count, 1, 1), generator=generator)
    across = torch.randint(1, 9, (count, 1, 1), generator=generator)
    down = torch.randint(1, 9, (count, 1, 1), generator=generator)
    stripes = ((x * across) % 1 < 0.5).float()
    checks = ((torch.floor(x * across) + torch.floor(y * down)) % 2 == 0).float()
    brick = (x * across + 0.5 * (torch.floor(y * down) % 2)) % 1
    joints = ((brick < 0.06) | ((y * down) % 1 < 0.06 * down / across.clamp(min=1))).float()
    chosen = torch.where(kind == 0, stripes, torch.where(kind == 1, checks, joints))
    return torch.where(kind < 4, chosen, torch.zeros_like(chosen))[:, None]


def _outline(count: int, side: int, generator: torch.Generator) -> Tensor:
    """(count, 1, side, side) in {0, 1}: a wobbly figure that fills most of the square."""
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    radius = torch.sqrt(at.expand(side, side) ** 2 + at[:, None].expand(side, side) ** 2)
    wobble = functional.interpolate(
        torch.rand(count, 1, 5, 5, generator=generator), size=(side, side), mode="bicubic", align_corners=False
    )
    return (radius < 0.55 + 0.55 * wobble).float()


def _piece(picture: NDArray[np.uint8], side: int, generator: torch.Generator) -> Tensor:
    """(3, side, side) in [0, 1], cut from anywhere in a picture, at any of its scales."""
    height, width = picture.shape[:2]
    extent = int(min(height, width) * (0.25 + 0.75 * float(torch.rand((), generator=generator))))
    top = int(torch.randint(height - extent + 1, (), generator=generator))
    left = int(torch.randint(width - extent + 1, (), generator=generator))
    cut = (
        torch.from_numpy(picture[top : top + extent, left : left + extent].copy()).permute(2, 0, 1)[None].float() / 255
    )
    resized: Tensor = functional.interpolate(cut, size=(side, side), mode="area" if extent > side else "bilinear")[0]
    return resized
