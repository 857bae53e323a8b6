"""What generated scenes hold, and how it moves before and after an edit: plain tensors drawn from one seed.

A scene is a room (primitive 0, seen from within) and K things. Each is a unit shape of its own - box [-1, 1]^3, ball,
or sheet z = bend * x^2 over [-1, 1]^2 - brought into the world by an affine matrix per view and frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from torch import Tensor

from .textures import make_textures

KINDS = BOX, BALL, SHEET = 0, 1, 2
ROOM_FACES = 6
SOURCE, TARGET = 0, 1


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are drawn. frames, width, height: of each video. things: fewest and most of them.

    still_camera, still_things: how often the edit leaves the cameras, or the things, as they were. removed, retimed,
    grown: how often it does that to a thing. reach: the edit's largest camera move, as a share of the way to what the
    camera looks at.
    """

    frames: int = 9
    width: int = 160
    height: int = 96
    things: tuple[int, int] = (1, 6)
    texture: int = 128
    still_camera: float = 0.25
    still_things: float = 0.25
    removed: float = 0.12
    retimed: float = 0.2
    grown: float = 0.2
    reach: float = 0.25

    def __post_init__(self) -> None:
        if self.frames < 1 or min(self.width, self.height) < 16 or not 0 <= self.things[0] <= self.things[1]:
            raise BadShot(
                f"{self.frames} frames of {self.width} x {self.height} px with {self.things} things cannot be drawn.",
                "generator", "Use 1 frame or more, 16 px or more, and fewest <= most.",
            )  # fmt: skip


@dataclass(frozen=True)
class Scenes:
    """B scenes of P = 1 + K primitives over F frames, in two views.

    The kinds of the K things take turns (`kind_of`), so that all scenes of a batch are cast together. shape:
    (B, 2, F, P, 4, 4) unit shape -> world. bend: (B, 2, F, P), of sheets. there: (B, 2, P) bool, False where a scene
    has fewer things or the edit removes one. c2w: (B, 2, F, 4, 4); lens: (B, 3, 3) px, pixel centres at .5. textures:
    (B, 6 + K, 4, S, S) in [0, 1], RGBA, first those of the room's faces. tiles: (B, 6 + K), how often a texture repeats
    across its surface. lamp: (B, 3), a point light. ambient: (B,), share of the light that comes from all sides. when:
    (B, P, F), the source frame whose motion each thing shows in the target.
    """

    shape: Tensor
    bend: Tensor
    there: Tensor
    c2w: Tensor
    lens: Tensor
    textures: Tensor
    tiles: Tensor
    lamp: Tensor
    ambient: Tensor
    when: Tensor

    @property
    def things(self) -> int:
        """K, how many things a scene has at most."""
        return self.shape.shape[3] - 1

    def to(self, device: torch.device | str) -> Scenes:
        """The same scenes on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def kind_of(thing: int) -> int:
    """The kind of the thing number `thing`, counted from 0."""
    return KINDS[thing % len(KINDS)]


def draw_scenes(settings: SceneSettings, count: int, seed: int, pictures: Sequence[NDArray[np.uint8]] = ()) -> Scenes:
    """`count` scenes, the same for the same seed. pictures: (H, W, 3) uint8, to paint some surfaces with."""
    draw = _Draw(torch.Generator().manual_seed(seed), count)
    frames, most = settings.frames, settings.things[1]
    time = torch.linspace(0, 1, frames)

    half = torch.stack([draw.uniform(3, 8), draw.uniform(1.5, 4), draw.uniform(4, 12)], -1)
    number = draw.whole(settings.things[0], most + 1)
    exists = draw.uniform(0, 1, most).argsort(1).argsort(1) < number[:, None]
    kind = torch.tensor([kind_of(k) for k in range(most)], dtype=torch.long)
    size = draw.uniform(0.25, 0.9, most, 3)
    size = torch.where((kind == BALL)[:, None], size.mean(-1, keepdim=True), size)
    size = size * torch.where(kind == SHEET, 1.4, 1.0)[:, None]

    sight = half[:, 2] * draw.uniform(0.35, 0.8)  # from the camera to what it looks at
    places = torch.stack(
        [
            draw.uniform(-1, 1, most) * (0.45 * sight)[:, None],
            draw.uniform(-0.5, 0.9, most) * (half[:, 1] - 0.6)[:, None],
            draw.uniform(-0.45, 0.45, most) * sight[:, None],
        ],
        -1,
    )
    motion = _Motion.drawn(draw, most)
    when = time.expand(count, most, frames).clone()
    edited = motion.edited(draw, settings, when)
    removed = edited.changes & (draw.uniform(0, 1, most) < settings.removed)

    shapes = [_shapes(places, size, motion, time.expand(count, most, frames))]
    shapes.append(_shapes(places + edited.shift, size * edited.grow[..., None], edited.motion, edited.when))
    room = torch.diag_embed(torch.cat([half, torch.ones(count, 1)], 1))
    shape = torch.stack(
        [torch.cat([room[:, None, None].expand(-1, frames, -1, -1, -1), s.transpose(1, 2)], 2) for s in shapes], 1
    )
    bends = [m.bend[..., None] * torch.sin(m.pace[..., None] * w + m.phase[..., None]) for m, w in (
        (motion, time.expand(count, most, frames)), (edited.motion, edited.when))]  # fmt: skip
    bend = torch.stack([torch.cat([torch.zeros(count, 1, frames), b], 1).transpose(1, 2) for b in bends], 1)

    always = torch.ones(count, 1, dtype=torch.bool)
    there = torch.stack([torch.cat([always, exists], 1), torch.cat([always, exists & ~removed], 1)], 1)
    room_when = time.expand(count, 1, frames)
    focal = draw.uniform(0.7, 1.6) * settings.width
    lens = torch.eye(3).repeat(count, 1, 1)
    lens[:, 0, 0] = lens[:, 1, 1] = focal
    lens[:, 0, 2], lens[:, 1, 2] = settings.width / 2, settings.height / 2

    lamp = torch.stack(
        [draw.uniform(-0.8, 0.8) * half[:, 0], -0.9 * half[:, 1], draw.uniform(-0.8, 0.8) * half[:, 2]], -1
    )
    cut_out = torch.cat([torch.zeros(count, ROOM_FACES, dtype=torch.bool), (kind == SHEET).expand(count, most)], 1)
    tiles = torch.cat([draw.uniform(1, 4, ROOM_FACES).round(), torch.ones(count, most)], 1)
    return Scenes(
        shape, bend, there, _cameras(draw, settings, sight, half, time), lens,
        make_textures(cut_out, settings.texture, draw.generator, pictures), tiles, lamp, draw.uniform(0.25, 0.7),
        torch.cat([room_when, edited.when], 1) * max(frames - 1, 1),
    )  # fmt: skip


@dataclass(frozen=True)
class _Draw:
    """Chance, for `count` scenes at a time."""

    generator: torch.Generator
    count: int

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn: Tensor = low + (high - low) * torch.rand(self.count, *shape, generator=self.generator)
        return drawn

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, (self.count, *shape), generator=self.generator)

    def direction(self, *shape: int) -> Tensor:
        vector = torch.randn(self.count, *shape, 3, generator=self.generator)
        return torch.nn.functional.normalize(vector, dim=-1)


@dataclass(frozen=True)
class _Motion:
    """Of things (B, K): a straight way plus a swing, a turn about an axis, a soft squash, and a sheet's bend."""

    way: Tensor
    swing: Tensor
    axis: Tensor
    turn: Tensor
    tilt: Tensor
    squash: Tensor
    bend: Tensor
    pace: Tensor
    phase: Tensor

    @classmethod
    def drawn(cls, draw: _Draw, most: int) -> _Motion:
        moves = (draw.uniform(0, 1, most) < 0.75).float()
        upright = torch.tensor([0.0, 1.0, 0.0]).expand(draw.count, most, 3)
        axis = torch.where((draw.uniform(0, 1, most) < 0.6)[..., None], upright, draw.direction(most))
        return cls(
            way=draw.direction(most) * (draw.uniform(0, 1.5, most) * moves)[..., None],
            swing=draw.direction(most) * (draw.uniform(0, 0.4, most) * moves)[..., None],
            axis=axis,
            turn=draw.uniform(-1.5, 1.5, most) * moves,
            tilt=draw.uniform(-0.9, 0.9, most),
            squash=draw.uniform(0, 0.25, most) * (draw.uniform(0, 1, most) < 0.4) * moves,
            bend=draw.uniform(-0.8, 0.8, most),
            pace=draw.uniform(2, 9, most),
            phase=draw.uniform(0, 2 * math.pi, most),
        )

    def edited(self, draw: _Draw, settings: SceneSettings, when: Tensor) -> _Edited:
        """The same things after an edit: each shifted, turned, grown, retimed or sent another way - or left alone."""
        most = self.turn.shape[1]
        some = draw.uniform(0, 1) >= settings.still_things
        changes = some[:, None] & (draw.uniform(0, 1, most) < 0.7)
        on = changes.float()
        other_way = (draw.uniform(0, 1, most) < 0.4).float() * on
        motion = replace(
            self,
            way=self.way + draw.direction(most) * (draw.uniform(0, 1.2, most) * other_way)[..., None],
            tilt=self.tilt + draw.uniform(-0.8, 0.8, most) * on,
        )
        late = draw.uniform(-0.4, 0.4, most) * (draw.uniform(0, 1, most) < settings.retimed) * on
        grows = (draw.uniform(0, 1, most) < settings.grown).float() * on
        return _Edited(
            motion,
            shift=draw.direction(most) * (draw.uniform(0, 0.9, most) * on)[..., None],
            grow=1 + draw.uniform(-0.3, 0.5, most) * grows,
            when=(when - late[..., None]).clamp(0, 1),
            changes=changes,
        )


@dataclass(frozen=True)
class _Edited:
    motion: _Motion
    shift: Tensor
    grow: Tensor
    when: Tensor
    changes: Tensor


def _shapes(places: Tensor, size: Tensor, motion: _Motion, when: Tensor) -> Tensor:
    """(B, K, F, 4, 4) unit shape -> world, of things at moments `when` (B, K, F) in [0, 1]."""
    wave = torch.sin(motion.pace[..., None] * when + motion.phase[..., None])
    place = (
        places[..., None, :] + motion.way[..., None, :] * when[..., None] + motion.swing[..., None, :] * wave[..., None]
    )
    angle = motion.tilt[..., None] + motion.turn[..., None] * when
    rotation = rotations(motion.axis[..., None, :] * angle[..., None])
    squash = motion.squash[..., None] * wave
    # What is squashed along y swells along x and z, as soft things do.
    stretch = torch.stack([1 - squash / 2, 1 + squash, 1 - squash / 2], -1)
    shape = torch.zeros(*when.shape, 4, 4)
    shape[..., :3, :3] = rotation * (size[..., None, :] * stretch)[..., None, :]
    shape[..., :3, 3] = place
    shape[..., 3, 3] = 1
    return shape


def _cameras(draw: _Draw, settings: SceneSettings, sight: Tensor, half: Tensor, time: Tensor) -> Tensor:
    """(B, 2, F, 4, 4): a drifting camera that looks at the things, and the same after the edit."""
    start = torch.stack([draw.uniform(-0.2, 0.2) * sight, draw.uniform(-0.4, 0.3), -sight], -1)
    drift = draw.direction() * (draw.uniform(0, 0.35) * sight * (draw.uniform(0, 1) < 0.7))[:, None]
    move = draw.direction() * (draw.uniform(0.3, 1) * settings.reach * sight)[:, None]
    move = move * (draw.uniform(0, 1) >= settings.still_camera)[:, None]
    grows = (draw.uniform(0, 1) < 0.5)[
        :, None, None
    ]  # the edit's move begins with the shot, or is there from the first frame
    ramp = torch.where(grows, (time * time * (3 - 2 * time))[None, :, None], torch.ones(1, len(time), 1))
    source = start[:, None] + drift[:, None] * time[:, None]
    target = source + move[:, None] * ramp
    looked_at = draw.uniform(-0.25, 0.25, 3) * sight[:, None]
    limit = torch.stack([half[:, 0] - 0.3, half[:, 1] - 0.3, half[:, 2] - 0.3], -1)[:, None, None]
    places = torch.stack([source, target], 1).clamp(-limit, limit)
    return looking_at(places, looked_at[:, None, None].expand_as(places))


def looking_at(places: Tensor, looked_at: Tensor) -> Tensor:
    """(..., 4, 4) camera to world, OpenCV axes, upright, of cameras at `places` (..., 3) that see `looked_at`."""
    forward = torch.nn.functional.normalize(looked_at - places, dim=-1)
    down = torch.tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=-1)
    pose = torch.zeros(*places.shape[:-1], 4, 4)
    pose[..., :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], -1)
    pose[..., :3, 3] = places
    pose[..., 3, 3] = 1
    return pose


def rotations(vector: Tensor) -> Tensor:
    """(..., 3, 3) of rotation vectors (..., 3) in radians (Rodrigues)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(*vector.shape, 3)
    rotation: Tensor = torch.linalg.matrix_exp(cross)
    return rotation
