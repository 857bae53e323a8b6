"""What examples lose in training: never more than was said, never the truth."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings, strategies
from retake_backend.training.augment import augmented
from retake_backend.training.config import Augmentation

from tests.backend.training.loop_trials import NO_AUGMENTATION, batch_of


def lost(batch, seed=0, **changes):
    return augmented(batch, replace(NO_AUGMENTATION, **changes), torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def batch():
    return batch_of(0, 6, frames=9, tracks=40)


def presence(batch):
    return batch.tracks.source_present | batch.tracks.target_present


def test_nothing_asked_for_is_nothing_lost(batch):
    same = lost(batch)
    assert same.captions == batch.captions
    assert torch.equal(same.source, batch.source)
    for name, tensor in vars(batch.tracks).items():
        assert torch.equal(getattr(same.tracks, name), tensor)


SHARE = strategies.floats(0, 1)
ANY = strategies.builds(Augmentation, **{field.name: SHARE for field in fields(Augmentation)})


@settings(max_examples=40, deadline=None)
@given(strategies.integers(0, 2**31), ANY)
def test_the_truth_stays_and_what_is_left_is_sound(seed, wanted):
    batch = batch_of(seed % 7, 3, frames=5, tracks=seed % 13)
    less = augmented(batch, wanted, torch.Generator().manual_seed(seed))
    assert torch.equal(less.target, batch.target)
    for name in ("source_present", "target_present", "source_visible"):
        assert not (getattr(less.tracks, name) & ~getattr(batch.tracks, name)).any()
    for xyz in (less.tracks.source, less.tracks.target):
        assert torch.isfinite(xyz).all()
        assert ((xyz[..., 2] >= 0) & (xyz[..., 2] <= 1)).all()
    again = augmented(batch, wanted, torch.Generator().manual_seed(seed))
    assert all(torch.equal(a, b) for a, b in zip(vars(less.tracks).values(), vars(again.tracks).values(), strict=True))


def test_between_the_fewest_and_all_tracks_stay_in_both_views(batch):
    shares = []
    for seed in range(60):
        less = lost(batch, seed, fewest_tracks=0.5)
        was, now = presence(batch).any(1), presence(less).any(1)
        shares.append(now.sum(1) / was.sum(1))
        stayed = now[:, None].expand_as(batch.tracks.source_present)
        for name in ("source_present", "target_present", "source_visible"):  # a track stays whole, or goes whole
            assert torch.equal(getattr(less.tracks, name), getattr(batch.tracks, name) & stayed)
    shares = torch.cat(shares)
    assert shares.min() >= 0.5
    assert shares.min() < 0.55
    assert shares.max() > 0.95
    assert float(shares.mean()) == pytest.approx(0.75, abs=0.03)


def test_noise_is_as_large_as_was_said_and_differs_between_the_views(batch):
    errors, untouched = [], 0
    for seed in range(80):
        noisy = lost(batch, seed, noise=0.02, noisy_share=0.5)
        for b in range(len(batch)):
            there = batch.tracks.source_present[b]
            error = (noisy.tracks.source - batch.tracks.source)[b][..., :2][there]
            untouched += not error.any()
            errors.append(float(error.std()))
        assert (
            not torch.equal(noisy.tracks.source - batch.tracks.source, noisy.tracks.target - batch.tracks.target)
            or not (noisy.tracks.source - batch.tracks.source).any()
        )
    assert untouched / len(errors) == pytest.approx(0.5, abs=0.1)
    assert max(errors) < 0.02 * 1.25**0.5 * 1.25  # drift and jitter, of the largest scale
    assert max(errors) > 0.015
    absent = ~batch.tracks.source_present
    assert torch.equal(noisy.tracks.source[absent], batch.tracks.source[absent])


def test_gaps_are_single_spans_of_at_most_that_length(batch):
    whole = replace(
        batch,
        tracks=replace(
            batch.tracks,
            source_present=torch.ones_like(batch.tracks.source_present),
            target_present=torch.ones_like(batch.tracks.target_present),
        ),
    )
    lengths = []
    for seed in range(30):
        gone = ~lost(whole, seed, gap=0.4, gap_share=1.0).tracks.source_present
        edges = (gone[:, 1:] != gone[:, :-1]).sum(1) + gone[:, 0].int() + gone[:, -1].int()
        assert edges.max() <= 2
        lengths.append(gone.sum(1).flatten())
    lengths = torch.cat(lengths)
    assert lengths.max() == round(0.4 * 9)
    assert 0.3 < float((lengths > 0).float().mean()) < 0.5


def test_a_dropped_object_goes_whole_and_alone(batch):
    """Two clusters far apart: one of them is dropped, all of it; with two in the batch never both."""
    tracks = batch.tracks
    place = torch.where(torch.arange(40) < 20, 0.2, 0.8)[None, None, :, None]
    near = place + 0.02 * torch.randn(6, 9, 40, 3, generator=torch.Generator().manual_seed(1))
    two = replace(batch, tracks=replace(tracks, source=near, target=near.clone()))
    dropped = 0
    for seed in range(60):
        left = presence(lost(two, seed, object_share=0.5)).any(1)
        first, second = left[:, :20].sum(1), left[:, 20:].sum(1)
        assert ((first == 0) | (first == 20)).all()
        assert ((second == 0) | (second == 20)).all()
        assert (first + second > 0).all()
        dropped += int((first + second < 40).sum())
    assert dropped / 360 == pytest.approx(0.5, abs=0.1)


def test_tracks_that_never_meet_are_no_one_object(batch):
    """A camera that pans away: what shows first and what shows later are never beside each other."""
    early = (torch.arange(9) < 4)[None, :, None] == (torch.arange(40) < 20)
    shown = early.expand(6, 9, 40)
    place = torch.full((6, 9, 40, 3), 0.5)
    two = replace(batch, tracks=replace(batch.tracks, source=place, target=place, source_present=shown,
                                        target_present=shown))  # fmt: skip
    left = presence(lost(two, 0, object_share=1.0)).any(1)
    assert (left[:, :20].sum(1) + left[:, 20:].sum(1) == 20).all()


def test_source_frames_go_grey_up_to_that_share_and_never_all(batch):
    shares = []
    for seed in range(60):
        grey = (lost(batch, seed, frames=0.5, frames_share=1.0).source == 0).all(1).all(-1).all(-1)
        shares.append(grey.float().mean(1))
    shares = torch.cat(shares)
    assert shares.max() <= 0.5 + 0.5 / 9
    assert shares.max() > 0.4
    assert shares.min() == 0
    for frames in (1, 2):
        tiny = batch_of(0, 4, frames=frames)
        assert all(
            ((lost(tiny, s, frames=1.0, frames_share=1.0).source != 0).any(1).any(-1).any(-1)).any(1).all()
            for s in range(20)
        )


def test_captions_are_dropped_as_often_as_was_said(batch):
    gone = sum(lost(batch, seed, prompt_share=0.2).captions.count("") for seed in range(200))
    assert gone / 1200 == pytest.approx(0.2, abs=0.04)


def test_a_video_without_tracks_passes(batch):
    bare = batch_of(0, 2, tracks=0)
    assert augmented(bare, Augmentation(), torch.Generator().manual_seed(0)).tracks.source.shape[2] == 0
