"""Seeing generated scenes: for every ray the surface it meets, and for every pixel its colour in the lamp's light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .scenes import BALL, BOX, ROOM_FACES, SHEET, Scenes, kind_of

_NEAR = 1e-3
"""Of a ray's length: what is nearer than this is the surface it starts from."""

_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 21}
"""Rays cast at a time, by the kind of device: so many that what lies between two steps stays in a CPU's cache."""


@dataclass(frozen=True)
class Seen:
    """What a view's pixel centres show, over F frames. depth: (B, F, H, W) camera-space z, metres. primitive: (B, F, H,
    W) int64, 0 = room. local: (B, F, H, W, 3), the place on the primitive's unit shape."""

    depth: Tensor
    primitive: Tensor
    local: Tensor


@dataclass(frozen=True)
class _Frame:
    """One frame of one view: unit shapes -> world (B, P, 4, 4), and back, their bends (B, P), who is there (B, P)."""

    scenes: Scenes
    shape: Tensor
    inverse: Tensor
    bend: Tensor
    there: Tensor
    c2w: Tensor

    @classmethod
    def of(cls, scenes: Scenes, view: int, frame: int) -> _Frame:
        shape = scenes.shape[:, view, frame]
        return cls(
            scenes, shape, torch.linalg.inv(shape), scenes.bend[:, view, frame], scenes.there[:, view],
            scenes.c2w[:, view, frame],
        )  # fmt: skip


def look(scenes: Scenes, view: int, size: tuple[int, int]) -> Seen:
    """What the pixel centres of a picture of (width, height) px show."""
    frames = []
    for t in range(scenes.c2w.shape[2]):
        frame = _Frame.of(scenes, view, t)
        directions = _directions(scenes, frame, size, 1)
        frames.append(_first_hit(frame, *_local_rays(frame, frame.c2w[:, None, :3, 3], directions)))
    shape = (len(scenes.lens), len(frames), size[1], size[0])
    depth, primitive, local = (torch.stack([f[i] for f in frames], 1) for i in range(3))
    return Seen(depth.view(shape), primitive.view(shape), local.view(*shape, 3))


def photograph(scenes: Scenes, view: int, size: tuple[int, int], samples: int = 2, shadows: bool = True) -> Tensor:
    """(B, F, 3, H, W) in [0, 1]: the view's pictures, samples x samples rays a pixel."""
    pictures = []
    for t in range(scenes.c2w.shape[2]):
        frame = _Frame.of(scenes, view, t)
        directions = _directions(scenes, frame, size, samples)
        rays = max(1, _AT_ONCE.get(directions.device.type, _AT_ONCE["cuda"]) // len(directions))
        colour = torch.cat([_shade(frame, some, shadows) for some in torch.split(directions, rays, 1)], 1)
        colour = colour.clamp(0, 1).view(len(colour), size[1], samples, size[0], samples, 3).mean((2, 4))
        pictures.append(colour.permute(0, 3, 1, 2))
    return torch.stack(pictures, 1)


def _shade(frame: _Frame, directions: Tensor, shadows: bool) -> Tensor:
    """(B, N, 3) colours along the camera's rays."""
    origin = frame.c2w[:, None, :3, 3]
    depth, primitive, local = _first_hit(frame, *_local_rays(frame, origin, directions))
    place = origin + depth[..., None] * directions
    return _colour(frame, primitive, local) * _light(frame, place, directions, primitive, local, shadows)


def _directions(scenes: Scenes, frame: _Frame, size: tuple[int, int], samples: int) -> Tensor:
    """(B, N, 3) world directions of unit camera-space depth, row by row."""
    device = scenes.lens.device
    x = (torch.arange(size[0] * samples, device=device) + 0.5) / samples
    y = (torch.arange(size[1] * samples, device=device) + 0.5) / samples
    pixels = torch.stack([x.expand(len(y), len(x)), y[:, None].expand(len(y), len(x))], -1).view(1, -1, 2)
    focal = scenes.lens[:, None, [0, 1], [0, 1]]
    camera = (pixels - scenes.lens[:, None, :2, 2]) / focal
    camera = torch.cat([camera, torch.ones_like(camera[..., :1])], -1)
    return camera @ frame.c2w[:, :3, :3].transpose(1, 2)


def _local_rays(frame: _Frame, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """World rays (B, N or 1, 3) in every primitive's own space: (B, P, N or 1, 3) each."""
    columns = frame.inverse[:, :, None, :3, :3].unbind(-1)  # summed by hand: batched 3 x 3 products are slow on CPUs

    def turned(vector: Tensor) -> Tensor:
        x, y, z = (vector[:, None, :, i : i + 1] for i in range(3))
        total: Tensor = x * columns[0] + y * columns[1] + z * columns[2]
        return total

    return turned(origin) + frame.inverse[:, :, None, :3, 3], turned(direction)


def _first_hit(frame: _Frame, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far (B, N), on which primitive (B, N), and where on its unit shape (B, N, 3) local rays first land."""
    room = _box(origin[:, :1], direction[:, :1])[1]
    distance = torch.cat([room, _things_hit(frame, origin[:, 1:], direction[:, 1:])], 1)
    depth, primitive = distance.min(1)
    at = primitive[:, None, :, None].expand(-1, 1, -1, 3)
    start = origin.expand_as(direction).gather(1, at)[:, 0]
    return depth, primitive, start + depth[..., None] * direction.gather(1, at)[:, 0]


def _things_hit(frame: _Frame, origin: Tensor, direction: Tensor) -> Tensor:
    """How far along local rays (B, K, N, 3) each of the K things is first met: (B, K, N), inf where it is not."""
    distance = torch.full(direction.shape[:3], torch.inf, device=direction.device)
    for kind in (BOX, BALL, SHEET):
        slots = [k for k in range(direction.shape[1]) if kind_of(k) == kind]
        if not slots:
            continue
        o, d = origin[:, slots], direction[:, slots]
        if kind == BOX:
            hit = _box(o, d)[0]
        elif kind == BALL:
            hit = _ball(o, d)
        else:
            alpha = frame.scenes.textures[:, [ROOM_FACES + k for k in slots], 3]
            hit = _sheet(o, d, frame.bend[:, [1 + k for k in slots], None], alpha)
        distance[:, slots] = hit
    return distance.masked_fill(~frame.there[:, 1:, None], torch.inf)


def _box(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave [-1, 1]^3; entering is inf where they miss it or begin inside."""
    inverse = 1 / torch.where(direction.abs() < 1e-9, 1e-9, direction)
    one, other = (-1 - origin) * inverse, (1 - origin) * inverse
    enter, leave = torch.minimum(one, other).amax(-1), torch.maximum(one, other).amin(-1)
    return torch.where((enter < leave) & (enter > _NEAR), enter, torch.inf), leave


def _ball(origin: Tensor, direction: Tensor) -> Tensor:
    a, b = direction.square().sum(-1), (origin * direction).sum(-1)
    c = origin.square().sum(-1) - 1
    root = b.square() - a * c
    near = (-b - root.clamp(min=0).sqrt()) / a
    return torch.where((root > 0) & (near > _NEAR), near, torch.inf)


def _sheet(origin: Tensor, direction: Tensor, bend: Tensor, alpha: Tensor) -> Tensor:
    """z = bend * x^2 within the outline that alpha (B, k, S, S) draws; bend (B, k, 1)."""
    (ox, oy, oz), (dx, dy, dz) = origin.unbind(-1), direction.unbind(-1)
    a, b, c = -bend * dx * dx, dz - 2 * bend * ox * dx, oz - bend * ox * ox
    root = b * b - 4 * a * c
    # The form without cancellation; a flat sheet has a = 0 and only the second solution.
    q = -0.5 * (b + torch.where(b < 0, -1.0, 1.0) * root.clamp(min=0).sqrt())
    side = alpha.shape[-1]
    flat = alpha.flatten(2)
    nearest = torch.full_like(q, torch.inf)
    for t in (q / torch.where(a.abs() < 1e-9, 1e-9, a), c / torch.where(q.abs() < 1e-9, 1e-9, q)):
        x, y = ox + t * dx, oy + t * dy
        inside = (root >= 0) & (t > _NEAR) & (x.abs() < 1) & (y.abs() < 1)
        column = ((x + 1) * (side / 2)).nan_to_num(0).clamp(0, side - 1).long()
        row = ((y + 1) * (side / 2)).nan_to_num(0).clamp(0, side - 1).long()
        inside &= flat.gather(2, row * side + column) > 0.5
        nearest = torch.where(inside & (t < nearest), t, nearest)
    return nearest


def _on_surface(primitive: Tensor, local: Tensor, things: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of places on unit shapes (B, N, 3): the texture (B, N), its uv (B, N, 2) in [0, 1], and the local normal."""
    kind = torch.tensor([BOX, *(kind_of(k) for k in range(things))], device=primitive.device)[primitive]
    axis = local.abs().argmax(-1)
    sign = local.gather(-1, axis[..., None])[..., 0].sign()
    others = torch.tensor([[2, 1], [0, 2], [0, 1]], device=primitive.device)[axis]
    uv = (local.gather(-1, others) + 1) / 2
    normal = torch.nn.functional.one_hot(axis, 3) * sign[..., None]
    texture = torch.where(primitive == 0, 2 * axis + (sign > 0), ROOM_FACES + primitive - 1)

    x, y, z = local.unbind(-1)
    ball = torch.stack([torch.atan2(x, z) / (2 * torch.pi) + 0.5, torch.asin(y.clamp(-1, 1)) / torch.pi + 0.5], -1)
    sheet = torch.stack([(x + 1) / 2, (y + 1) / 2], -1)
    uv = torch.where((kind == BALL)[..., None], ball, torch.where((kind == SHEET)[..., None], sheet, uv))
    normal = torch.where((kind == BALL)[..., None], local, normal)
    return (
        texture,
        uv,
        torch.where(
            (kind == SHEET)[..., None], torch.stack([-2 * z / x.where(x != 0, 1), 0 * y, 1 + 0 * z], -1), normal
        ),
    )


def _colour(frame: _Frame, primitive: Tensor, local: Tensor) -> Tensor:
    """(B, N, 3) of the surface, between its texture's pixels; textures wrap round."""
    texture, uv, _ = _on_surface(primitive, local, frame.scenes.things)
    table = frame.scenes.textures[:, :, :3]
    side = table.shape[-1]
    flat = table.permute(0, 1, 3, 4, 2).reshape(len(table), -1, 3)
    place = uv * frame.scenes.tiles.gather(1, texture)[..., None] * side - 0.5
    corner = place.floor()
    share = place - corner
    colour = torch.zeros_like(local)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = (corner[..., 0].long() + dx) % side, (corner[..., 1].long() + dy) % side
        at = (texture * side + row) * side + column
        weight = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
        colour = colour + weight[..., None] * flat.gather(1, at[..., None].expand(-1, -1, 3))
    return colour


def _light(frame: _Frame, place: Tensor, direction: Tensor, primitive: Tensor, local: Tensor, shadows: bool) -> Tensor:
    """(B, N, 1): how bright world places (B, N, 3) are, seen along `direction`: ambient, and the lamp where it reaches."""
    normal = _on_surface(primitive, local, frame.scenes.things)[2]
    turned = frame.inverse[..., :3, :3].transpose(-1, -2)  # normals go by the inverse's transpose
    batch = torch.arange(len(place), device=place.device)[:, None]
    normal = (turned[batch, primitive] @ normal[..., None])[..., 0]
    normal = torch.nn.functional.normalize(normal, dim=-1)
    normal = normal * -(normal * direction).sum(-1, keepdim=True).sign()
    to_lamp = frame.scenes.lamp[:, None] - place
    facing = (normal * torch.nn.functional.normalize(to_lamp, dim=-1)).sum(-1, keepdim=True).clamp(min=0)
    if shadows:
        start = place + 0.01 * normal
        hits = _things_hit(frame, *(ray[:, 1:] for ray in _local_rays(frame, start, to_lamp)))
        facing = facing * (hits > 1).all(1)[..., None]
    ambient = frame.scenes.ambient[:, None, None]
    return ambient + 1.3 * (1 - ambient) * facing
