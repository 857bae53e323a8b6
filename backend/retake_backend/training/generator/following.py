"""Carrying places on generated surfaces through time and into both views: the true tracks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .casting import Seen
from .scenes import SHEET, SOURCE, TARGET, Scenes, kind_of

Index = int | Tensor
_BEHIND = 1e-4
"""Metres: what is no further in front of a camera is behind it."""

DEPTH_TOLERANCE = 0.02
"""Of a point's depth: what the picture shows there may be so much nearer before the point counts as hidden."""


@dataclass(frozen=True)
class Points:
    """N surface points of each scene. primitive: (B, N). local: (B, N, 3) on the unit shape."""

    primitive: Tensor
    local: Tensor


@dataclass(frozen=True)
class Followed:
    """Points in one view. world: (B, F, N, 3). uv: (B, F, N, 2) px. depth: (B, F, N). present: (B, F, N), their thing
    is there. visible: present, inside the picture, and in front of all else."""

    world: Tensor
    uv: Tensor
    depth: Tensor
    present: Tensor
    visible: Tensor


def choose(seen: tuple[Seen, Seen], count: int, generator: torch.Generator, from_target: float = 0.15) -> Points:
    """`count` points of each scene, drawn from what the pixels of the source show, a share from the target's."""
    picked = []
    for view, number in ((SOURCE, count - int(from_target * count)), (TARGET, int(from_target * count))):
        primitive = seen[view].primitive.flatten(1)
        at = torch.randint(primitive.shape[1], (len(primitive), number), generator=generator).to(primitive.device)
        local = seen[view].local.flatten(1, 3).gather(1, at[..., None].expand(-1, -1, 3))
        picked.append(Points(primitive.gather(1, at), local))
    return Points(torch.cat([p.primitive for p in picked], 1), torch.cat([p.local for p in picked], 1))


def carry(scenes: Scenes, view: int, batch: Tensor, frame: Index, points: Points) -> Tensor:
    """World places (..., 3) of points (...) of scenes `batch` at moments `frame`, both of a shape that goes with theirs."""
    kind = torch.tensor([-1, *(kind_of(k) for k in range(scenes.things))], device=points.local.device)
    x, y, z = points.local.unbind(-1)
    bent = scenes.bend[batch, view, frame, points.primitive] * x * x
    local = torch.stack([x, y, torch.where(kind[points.primitive] == SHEET, bent, z)], -1)
    shape = scenes.shape[batch, view, frame, points.primitive]
    return (shape[..., :3, :3] @ local[..., None])[..., 0] + shape[..., :3, 3]


def project(scenes: Scenes, view: int, batch: Tensor, frame: Index, world: Tensor) -> tuple[Tensor, Tensor]:
    """uv (..., 2) px and depth (...) of world places (..., 3), see `carry`; uv is 0 behind the camera."""
    pose, lens = scenes.c2w[batch, view, frame], scenes.lens[batch]
    camera = (pose[..., :3, :3].transpose(-1, -2) @ (world - pose[..., :3, 3])[..., None])[..., 0]
    depth = camera[..., 2]
    front = depth > _BEHIND
    uv = camera[..., :2] / torch.where(front, depth, 1.0)[..., None]
    uv = uv * lens[..., [0, 1], [0, 1]] + lens[..., :2, 2]
    return torch.where(front[..., None], uv, 0.0), depth


def shown(seen: Seen, batch: Tensor, frame: Index, uv: Tensor, depth: Tensor, primitive: Tensor) -> Tensor:
    """(...) bool: the picture shows these points: inside it, on the same primitive, and nothing nearer. See `carry`."""
    height, width = seen.depth.shape[2:]
    column, row = uv[..., 0].floor(), uv[..., 1].floor()
    inside = (depth > _BEHIND) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    at = batch, frame, row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
    near: Tensor = inside & (seen.primitive[at] == primitive) & (depth < seen.depth[at] * (1 + DEPTH_TOLERANCE))
    return near


def follow(scenes: Scenes, view: int, seen: Seen, points: Points) -> Followed:
    """The points through all frames of one view."""
    batch = torch.arange(len(points.local), device=points.local.device)[:, None]
    present = scenes.there[:, view].gather(1, points.primitive)
    world, uv, depth, visible = [], [], [], []
    for t in range(scenes.c2w.shape[2]):
        world.append(carry(scenes, view, batch, t, points))
        place, z = project(scenes, view, batch, t, world[-1])
        uv.append(place)
        depth.append(z)
        visible.append(present & shown(seen, batch, t, place, z, points.primitive))
    seen_at = torch.stack(visible, 1)
    there = present[:, None].expand_as(seen_at)
    return Followed(torch.stack(world, 1), torch.stack(uv, 1), torch.stack(depth, 1), there, seen_at)
