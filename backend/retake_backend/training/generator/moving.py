"""Generated sources reprojected along their edits, as `preview` would: from geometry that is nearly right.

Every target pixel asks where its surface was in the source, in the same frame first and then in the nearest ones; what
no frame shows is a hole, filled smoothly from its edge. A solve is never exact, and it is worst at outlines: there a
pixel may be taken for the other side, so edges tear and take colours from beside them, as they do on real shots.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...models.draft_layers import flat, unflat
from .casting import Seen
from .following import Points, carry, project, shown
from .scenes import SOURCE, TARGET, Scenes


def move(
    scenes: Scenes, seen: tuple[Seen, Seen], source: Tensor, generator: torch.Generator, error: float = 0.8
) -> tuple[Tensor, Tensor]:
    """The source (B, F, 3, H, W) as the target cameras would see it, and the holes (B, F, H, W) bool.

    error: px by which outlines are off, at the most usual (standard deviation; it varies smoothly).
    """
    moved, holes = [], []
    for t in range(source.shape[1]):
        asked = _asked(seen[TARGET], t, generator, error)
        rgb, known = _from_frames(scenes, seen[SOURCE], source, asked, t)
        rgb, known = (a.reshape(*a.shape[:-1], *source.shape[3:]) for a in (rgb.transpose(1, 2), known))
        moved.append(rgb)
        holes.append(~known)
    open_ = torch.stack(holes, 1)
    filled = smooth_fill(torch.stack(moved, 2), open_[:, None].to(source.dtype))
    return filled.transpose(1, 2), open_


def smooth_fill(video: Tensor, holes: Tensor) -> Tensor:
    """A video (B, C, F, H, W) with its holes (B, 1, F, H, W) in {0, 1} filled smoothly from around them, frame by frame.

    By a pyramid: what a level cannot know it takes from the next smaller one.
    """
    pictures, open_ = flat(video), flat(holes)
    known = 1 - open_
    levels = [(pictures * known, known)]
    while min(levels[-1][0].shape[2:]) > 1:
        colour, weight = (
            functional.avg_pool2d(each, 2, ceil_mode=True, count_include_pad=False) for each in levels[-1]
        )
        levels.append((colour, weight))
    filled = levels[-1][0] / levels[-1][1].clamp(min=1e-3)
    for colour, weight in reversed(levels[:-1]):
        enlarged = functional.interpolate(filled, size=weight.shape[2:], mode="bilinear", align_corners=False)
        certain = (4 * weight).clamp(max=1)
        filled = enlarged + certain * (colour / weight.clamp(min=1e-3) - enlarged)
    return unflat(torch.where(open_ > 0.5, filled, pictures), video.shape[2])


def _asked(target: Seen, frame: int, generator: torch.Generator, error: float) -> Points:
    """The surface that each pixel of a target frame is taken to show: its own, or near an outline what is beyond."""
    count, height, width = len(target.depth), *target.depth.shape[2:]
    coarse = torch.randn(count, 2, max(2, height // 8), max(2, width // 8), generator=generator)
    strength = 2 * error * torch.rand(count, 1, 1, 1, generator=generator)
    offset = functional.interpolate(coarse * strength, size=(height, width), mode="bicubic", align_corners=False)
    offset = offset.round().long().to(target.depth.device)
    rows = (torch.arange(height, device=offset.device)[:, None] + offset[:, 1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=offset.device) + offset[:, 0]).clamp(0, width - 1)
    at = (rows * width + columns).flatten(1)
    own, places = target.primitive[:, frame].flatten(1), target.local[:, frame].flatten(1, 2)
    at = torch.where(own.gather(1, at) == own, torch.arange(height * width, device=at.device), at)
    return Points(own.gather(1, at), places.gather(1, at[..., None].expand(-1, -1, 3)))


def _from_frames(scenes: Scenes, seen: Seen, source: Tensor, asked: Points, t: int) -> tuple[Tensor, Tensor]:
    """Colours (B, N, 3) of surface points in the source frame nearest to t that shows them, and which are known (B, N).

    A thing that the edit retimes is looked for around the frame that it now shows.
    """
    frames = source.shape[1]
    known = torch.zeros_like(asked.primitive, dtype=torch.bool)
    rgb = source.new_zeros(*known.shape, 3)
    at = scenes.when[:, :, t].round().long().gather(1, asked.primitive)
    offered = scenes.there[:, SOURCE].gather(1, asked.primitive)
    for step in sorted(range(-frames + 1, frames), key=abs):
        s = at + step
        batch, pixel = torch.nonzero(offered & ~known & (s >= 0) & (s < frames), as_tuple=True)
        points = Points(asked.primitive[batch, pixel], asked.local[batch, pixel])
        frame = s[batch, pixel]
        place, depth = project(scenes, SOURCE, batch, frame, carry(scenes, SOURCE, batch, frame, points))
        found = shown(seen, batch, frame, place, depth, points.primitive)
        batch, pixel = batch[found], pixel[found]
        rgb[batch, pixel] = _colours(source, batch, frame[found], place[found])
        known[batch, pixel] = True
    return rgb, known


def _colours(source: Tensor, batch: Tensor, frame: Tensor, uv: Tensor) -> Tensor:
    """(M, 3) of the source (B, F, 3, H, W) at uv (M, 2) px, between its pixels."""
    height, width = source.shape[3:]
    place = uv - 0.5
    corner = place.floor()
    share = place - corner
    colour = source.new_zeros(len(uv), 3)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column = (corner[:, 0].long() + dx).clamp(0, width - 1)
        row = (corner[:, 1].long() + dy).clamp(0, height - 1)
        weight = (share[:, 0] if dx else 1 - share[:, 0]) * (share[:, 1] if dy else 1 - share[:, 1])
        colour += weight[:, None] * source[batch, frame, :, row, column]
    return colour
