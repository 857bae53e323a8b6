"""Generated pairs teach geometry: if a track, a depth or a hole is wrong, every model trained on them learns the error."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from retake_backend.training.generator.casting import look
from retake_backend.training.generator.made import GeneratorSettings, make_batch, make_pairs
from retake_backend.training.generator.moving import smooth_fill
from retake_backend.training.generator.scenes import SOURCE, TARGET, SceneSettings, draw_scenes

SMALL = GeneratorSettings(
    SceneSettings(frames=4, width=64, height=40, things=(2, 6), texture=32), tracks=200, samples=1
)


def with_scenes(**changes) -> GeneratorSettings:
    return replace(SMALL, scenes=replace(SMALL.scenes, **changes))


@pytest.fixture(scope="module")
def pairs():
    return make_pairs(SMALL, 4, seed=7)


def test_tracks_lie_where_opencv_and_the_depth_maps_say(pairs):
    for pair in pairs:
        tracks, cameras, depth = pair.solve.tracks, pair.solve.cameras, pair.solve.depth
        for t in range(len(pair)):
            seen = tracks.visibility[t]
            w2c = np.linalg.inv(cameras.c2w[t])
            uv, _ = cv2.projectPoints(tracks.positions[t, seen], cv2.Rodrigues(w2c[:3, :3])[0], w2c[:3, 3], cameras.K[t], None)  # fmt: skip
            z = (tracks.positions[t, seen] @ w2c[:3, :3].T + w2c[:3, 3])[:, 2]
            column, row = np.floor(uv[:, 0]).astype(int).T
            assert ((column >= 0) & (column < 64) & (row >= 0) & (row < 40)).all()
            # A pixel's depth is that of its centre; surfaces seen edge-on differ much within one.
            near = np.abs(depth[t, row, column] - z) / z
            assert np.median(near) < 0.01
            assert (pair.solve.masks[t, row, column] == tracks.objects[seen]).all()


def test_a_visible_track_keeps_its_colour_in_both_views():
    flat = replace(SMALL, shadows=False, samples=4)
    for pair in make_pairs(flat, 3, seed=11):
        tracks = pair.solve.tracks
        uv, _ = pair.solve.cameras.project(tracks.positions)
        own, other = [], []
        for n in range(len(tracks)):
            frames = np.flatnonzero(tracks.visibility[:, n])
            if len(frames) > 1:
                colours = [pair.source[t, int(uv[t, n, 1]), int(uv[t, n, 0])].astype(float) for t in frames[[0, -1]]]
                own.append(np.abs(colours[0] - colours[1]).mean())
                other.append(np.abs(colours[0] - pair.source[0].reshape(-1, 3)[n * 7 % 2560]).mean())
        assert np.median(own) < 0.35 * np.median(other)


def test_where_nothing_is_edited_the_target_is_the_source():
    batch = make_batch(with_scenes(still_camera=1.0, still_things=1.0), 2, seed=3)
    assert torch.equal(batch.source, batch.target)
    assert torch.equal(batch.tracks.source, batch.tracks.target)


def test_exact_geometry_reprojects_to_the_target_itself():
    """Without light and without errors, what the source shows of the target is all there is to it."""
    exact = replace(SMALL, error=0.0, samples=4, shadows=False)
    batch = make_batch(replace(exact, scenes=replace(exact.scenes, things=(0, 3))), 4, seed=5)
    assert batch.moved is not None
    assert batch.holes is not None
    known = (batch.holes == 0).expand_as(batch.moved)
    off = (batch.moved - batch.target).abs()[known].median() / 2
    unmoved = (batch.source - batch.target).abs()[known].median() / 2
    assert off < 0.02
    assert off < 0.5 * unmoved
    assert 0 < batch.holes.mean() < 0.6


def test_the_same_seed_makes_the_same_pairs_and_another_makes_others():
    one, again, other = (make_batch(SMALL, 2, seed) for seed in (1, 1, 2))
    for name in ("source", "target", "moved", "holes"):
        assert torch.equal(getattr(one, name), getattr(again, name)), name
    assert torch.equal(one.tracks.target, again.tracks.target)
    assert not torch.equal(one.source, other.source)


def test_a_removed_thing_is_in_no_target_pixel():
    settings = with_scenes(removed=1.0, still_things=0.0).scenes
    scenes = draw_scenes(settings, 6, seed=2)
    gone = scenes.there[:, SOURCE] & ~scenes.there[:, TARGET]
    assert gone.any()
    seen = look(scenes, TARGET, (64, 40))
    for b, p in gone.nonzero().tolist():
        assert not (seen.primitive[b] == p).any()


def test_pictures_can_paint_the_surfaces():
    picture = np.zeros((50, 70, 3), np.uint8)
    picture[..., 0] = 255
    scenes = draw_scenes(SMALL.scenes, 3, 1, [picture])
    red = (scenes.textures[:, :, 0] > 0.99) & (scenes.textures[:, :, 1:3] < 0.01).all(2)
    assert 0.2 < red.all((2, 3)).float().mean() < 0.8


def test_the_batch_says_of_tracks_what_the_pair_says(pairs):
    """A model sees the same tracks whether its examples come straight from the generator or from a data set."""
    batch = make_batch(SMALL, 4, seed=7)
    for index, pair in enumerate(pairs):
        uv, depth = pair.edit.cameras.project(pair.edit.positions)
        present = batch.tracks.target_present[index].numpy()
        xy = batch.tracks.target[index, ..., :2].numpy()
        assert np.abs(xy - uv / [64, 40])[present].max() < 1e-4
        assert not present[~pair.edit.present].any()
        disparity = batch.tracks.target[index, ..., 2].numpy()[present]
        order = np.argsort(depth[present])
        assert (np.diff(disparity[order]) <= 1e-6).all()


def test_a_hole_is_filled_smoothly_from_around_it():
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 2, 24, 32).clone()
    holes = torch.zeros(1, 1, 2, 24, 32)
    holes[..., 6:16, 10:20] = 1
    holes[:, :, 1] = 1  # nothing is known of this frame
    torn = torch.where(holes > 0.5, torch.rand_like(ramp) * 2 - 1, ramp)
    filled = smooth_fill(torn, holes)
    known = (holes < 0.5).expand_as(ramp)
    assert torch.equal(filled[known], ramp[known])
    assert (filled - ramp)[:, :, 0].abs().max() < 0.2
    assert torch.isfinite(filled).all()
