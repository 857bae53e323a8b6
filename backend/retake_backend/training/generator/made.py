"""Batches and pairs of generated scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras, Edit, Solve, Tracks
from torch import Tensor

from ...conditioning.coordinates import PairingSettings, TrackPairs, normalised_disparity
from ..batches import Batch
from ..pairs import Pair
from .casting import Seen, look, photograph
from .following import Followed, Points, choose, follow
from .moving import move
from .scenes import SOURCE, TARGET, Scenes, SceneSettings, draw_scenes


@dataclass(frozen=True)
class GeneratorSettings:
    """What is made of scenes. tracks: of each pair. samples: rays a pixel, along each side. error: see `moving.move`."""

    scenes: SceneSettings = field(default_factory=SceneSettings)
    tracks: int = 512
    samples: int = 2
    shadows: bool = True
    error: float = 0.8

    def __post_init__(self) -> None:
        if self.tracks < 0 or self.samples < 1:
            raise BadShot(
                f"{self.tracks} tracks of pictures by {self.samples} rays a pixel cannot be made.",
                "generator", "Use 0 tracks or more, 1 ray or more.",
            )  # fmt: skip


@dataclass(frozen=True)
class _Shot:
    """A batch of scenes, seen and followed in both views; [SOURCE] and [TARGET] of each."""

    scenes: Scenes
    seen: tuple[Seen, Seen]
    pictures: tuple[Tensor, Tensor]
    points: Points
    followed: tuple[Followed, Followed]


def make_batch(
    settings: GeneratorSettings,
    count: int,
    seed: int,
    device: torch.device | str = "cpu",
    pictures: Sequence[NDArray[np.uint8]] = (),
) -> Batch:
    """`count` examples, reprojection and holes with them; the same for the same seed. pictures: see `draw_scenes`."""
    shot, generator = _shoot(settings, count, seed, device, pictures)
    moved, holes = move(shot.scenes, shot.seen, shot.pictures[SOURCE], generator, settings.error)

    def video(frames: Tensor) -> Tensor:
        return (frames * 2 - 1).transpose(1, 2).contiguous()

    return Batch(
        source=video(shot.pictures[SOURCE]),
        target=video(shot.pictures[TARGET]),
        tracks=_pairs(shot, settings),
        captions=("",) * count,
        moved=video(moved),
        holes=holes[:, None].float(),
    )


def make_pairs(
    settings: GeneratorSettings,
    count: int,
    seed: int,
    device: torch.device | str = "cpu",
    pictures: Sequence[NDArray[np.uint8]] = (),
) -> list[Pair]:
    """The scenes of `make_batch` as examples with their solves and edits, exact, without a reprojection."""
    shot, _ = _shoot(settings, count, seed, device, pictures)
    return [_pair(shot, settings, index, seed) for index in range(count)]


def _shoot(
    settings: GeneratorSettings,
    count: int,
    seed: int,
    device: torch.device | str,
    pictures: Sequence[NDArray[np.uint8]],
) -> tuple[_Shot, torch.Generator]:
    size = (settings.scenes.width, settings.scenes.height)
    scenes = draw_scenes(settings.scenes, count, seed, pictures).to(device)
    generator = torch.Generator().manual_seed(seed + 1)
    seen = look(scenes, SOURCE, size), look(scenes, TARGET, size)
    source, target = (photograph(scenes, view, size, settings.samples, settings.shadows) for view in (SOURCE, TARGET))
    points = choose(seen, settings.tracks, generator)
    followed = follow(scenes, SOURCE, seen[SOURCE], points), follow(scenes, TARGET, seen[TARGET], points)
    return _Shot(scenes, seen, (source, target), points, followed), generator


def _pairs(shot: _Shot, settings: GeneratorSettings) -> TrackPairs:
    """The tracks as `conditioning.coordinates.pair_tracks` would give them, one entry a video frame."""
    pairing = PairingSettings(tracks=settings.tracks)
    size = torch.tensor([settings.scenes.width, settings.scenes.height], device=shot.points.local.device)
    xy, present = [], []
    for view in shot.followed:
        place = view.uv / size
        near = ((place >= -pairing.margin) & (place <= 1 + pairing.margin)).all(-1)
        present.append(view.present & near & (view.depth > 1e-4))
        xy.append(torch.where(present[-1][..., None], place, 0.0))
    depths = [view.depth.double().cpu().numpy() for view in shot.followed]
    known = [p.cpu().numpy() for p in present]
    both = [normalised_disparity([d[b] for d in depths], [k[b] for k in known], pairing) for b in range(len(depths[0]))]
    disparity = [torch.from_numpy(np.stack([pair[view] for pair in both])).to(xy[0]) for view in (SOURCE, TARGET)]
    source, target = (torch.cat([xy[v], disparity[v][..., None]], -1) for v in (SOURCE, TARGET))
    return TrackPairs(source, target, present[SOURCE], present[TARGET], shot.followed[SOURCE].visible)


def _pair(shot: _Shot, settings: GeneratorSettings, index: int, seed: int) -> Pair:
    def plain(tensor: Tensor) -> NDArray:
        return tensor[index].cpu().numpy()

    size = (settings.scenes.width, settings.scenes.height)
    primitive = plain(shot.points.primitive).astype(np.int32)
    cameras = [
        Cameras(
            pose.astype(np.float64), np.repeat(plain(shot.scenes.lens)[None].astype(np.float64), len(pose), 0), *size
        )
        for pose in plain(shot.scenes.c2w)
    ]
    names = {number: f"thing {number}" for number in range(1, shot.scenes.things + 1)}
    source, target = shot.followed
    tracks = Tracks.make(plain(source.world), plain(source.visible), objects=primitive)
    solve = Solve(
        cameras[SOURCE], tracks, plain(shot.seen[SOURCE].depth), plain(shot.seen[SOURCE].primitive).astype(np.uint8),
        names, "generated: exact",
    )  # fmt: skip
    when = plain(shot.scenes.when)
    edit = Edit(
        cameras[TARGET], plain(target.world), plain(target.present), np.arange(len(primitive), dtype=np.int32),
        when[primitive].T.astype(np.float32), primitive, names,
    )  # fmt: skip
    before, after = (
        np.ascontiguousarray((plain(p) * 255).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))
        for p in shot.pictures
    )
    origin = {"kind": "generated", "name": f"generated-{seed}-{index}", "seed": seed, "index": index}
    return Pair(before, after, solve, edit, origin=origin)
