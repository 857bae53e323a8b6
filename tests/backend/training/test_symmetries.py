"""What turns examples into others leaves them true: the tracks still lie on what they lay on."""

import torch
from hypothesis import given, settings, strategies
from retake_backend.training.config import Symmetries
from retake_backend.training.generator.made import GeneratorSettings, make_batch
from retake_backend.training.generator.scenes import SceneSettings
from retake_backend.training.symmetries import turned

from tests.backend.training.loop_trials import batch_of


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def spots(frames=4, size=32):
    """A batch whose tracks each lie on a bright pixel, another one in every frame and view."""
    batch = make_batch(
        GeneratorSettings(SceneSettings(frames=frames, width=size, height=size), tracks=6, samples=1), 3, 1
    )
    for video, xyz, present in (
        (batch.source, batch.tracks.source, batch.tracks.source_present),
        (batch.target, batch.tracks.target, batch.tracks.target_present),
    ):
        video.fill_(-1)
        cells = torch.randint(size, (*xyz.shape[:3], 2), generator=chance(7))
        xyz[..., :2] = (cells + 0.5) / size
        present.fill_(True)
        for example, frame, track in torch.cartesian_prod(*(torch.arange(n) for n in xyz.shape[:3])).tolist():
            column, row = cells[example, frame, track].tolist()
            video[example, :, frame, row, column] = 1
    return batch


def on_their_spots(batch):
    size = batch.source.shape[-1]
    for video, xyz in ((batch.source, batch.tracks.source), (batch.target, batch.tracks.target)):
        cells = (xyz[..., :2] * size).floor().long()
        example = torch.arange(len(batch))[:, None, None]
        frame = torch.arange(video.shape[2])[None, :, None]
        there = video.mean(1)[example, frame, cells[..., 1], cells[..., 0]]
        assert (there > video.mean(1).amin((1, 2, 3))[:, None, None] + 0.3).all()


@settings(max_examples=30, deadline=None)
@given(strategies.integers(0, 2**31), strategies.builds(Symmetries, *[strategies.floats(0, 1)] * 3))
def test_tracks_go_with_the_picture(seed, wanted):
    on_their_spots(turned(spots(), wanted, chance(seed)))


def test_nothing_asked_for_is_nothing_turned_and_no_chance_spent():
    batch, generator = batch_of(0, 4, frames=5, tracks=9), chance()
    same = turned(batch, Symmetries(), generator)
    assert torch.equal(generator.get_state(), chance().get_state())
    assert torch.equal(same.source, batch.source)
    assert torch.equal(same.target, batch.target)
    assert all(torch.equal(a, b) for a, b in zip(vars(same.tracks).values(), vars(batch.tracks).values(), strict=True))


def test_all_videos_of_an_example_and_its_holes_are_turned_alike():
    batch = make_batch(GeneratorSettings(SceneSettings(frames=3, width=32, height=32), tracks=9, samples=1), 4, 2)
    batch.source.copy_(batch.target)
    batch.moved.copy_(batch.target)
    batch.holes.copy_(batch.target[:, :1] > 0)
    other = turned(batch, Symmetries(mirrored=0.5, backwards=0.5, recoloured=0.0), chance(3))
    assert not torch.equal(other.target, batch.target)
    assert torch.equal(other.source, other.target)
    assert torch.equal(other.moved, other.target)
    assert torch.equal(other.holes, (other.target[:, :1] > 0).float())
    other = turned(batch, Symmetries(recoloured=1.0), chance(3))
    assert torch.equal(other.source, other.target)
    assert torch.equal(other.holes, batch.holes)


def test_recolouring_stays_within_the_range_and_keeps_most_of_the_contrast():
    batch = batch_of(1, 8, frames=5, tracks=3)
    other = turned(batch, Symmetries(recoloured=1.0), chance(1))
    assert other.target.abs().max() <= batch.target.abs().max().clamp(min=1) + 1e-6
    kept = other.target.flatten(1).std(1) / batch.target.flatten(1).std(1)
    assert (kept > 0.4).all()
