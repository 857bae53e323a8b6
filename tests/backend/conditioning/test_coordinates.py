"""Where the tracks of a shot stand in the pictures the model sees, and which tracks it sees at all."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from retake_backend.conditioning.coordinates import (
    Framing,
    PairingSettings,
    cell_centres,
    latent_count,
    latent_frames,
    normalised_disparity,
    pair_tracks,
    select_tracks,
)
from retake_backend.footage import FootageReader
from retake_shared import archive
from retake_shared.errors import BadShot
from retake_shared.geometry import axis_rotation, intrinsics
from retake_shared.shot import Cameras, Edit, Solve, Tracks

FRAMES, WIDTH, HEIGHT, GRID = 9, 160, 96, (6, 10)


def make_solve(count=40, frames=FRAMES, seed=0, objects=None, depth=(2.0, 8.0)):
    rng = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, 0, 3] = np.linspace(0, 0.4, frames)
    c2w[:, :3, :3] = axis_rotation([0.0, 1.0, 0.0], np.linspace(0, 0.1, frames))
    K = np.tile(intrinsics(150.0, 140.0, 83.0, 44.0), (frames, 1, 1))
    z = rng.uniform(*depth, count)
    start = np.stack([rng.uniform(-0.5, 0.5, count) * z, rng.uniform(-0.3, 0.3, count) * z, z], 1)
    positions = start + np.linspace(0, 0.3, frames)[:, None, None] * rng.normal(size=(count, 3))
    visibility = rng.random((frames, count)) > 0.2
    return Solve(Cameras(c2w, K, WIDTH, HEIGHT), Tracks.make(positions, visibility, objects=objects))


def moved_camera(edit, offset):
    c2w = edit.cameras.c2w.copy()
    c2w[:, :3, 3] += offset
    return replace(edit, cameras=replace(edit.cameras, c2w=c2w))


def test_latent_frames_are_every_fourth_and_padding_holds_the_last():
    assert latent_frames(0, 81, 81).tolist() == list(range(0, 81, 4))
    assert latent_frames(3, 12, 40).tolist() == [3, 7, 11]
    assert latent_frames(0, 1, 1).tolist() == [0]
    assert latent_frames(0, 2, 2).tolist() == [0, 1]  # padded to 5 frames: 0 1 1 1 1
    assert latent_frames(0, 83, 83).tolist()[-2:] == [80, 82]
    assert latent_frames(4, 13, 7).tolist() == [4, 6, 6]
    for frames in range(1, 90):
        padded = 4 * (-(-(frames - 1) // 4)) + 1
        assert latent_count(frames) == (padded - 1) // 4 + 1 == len(latent_frames(0, frames, frames))


@pytest.mark.parametrize("window", [(-1, 5), (5, 5), (9, 12), (6, 2)])
def test_a_window_outside_the_shot_is_refused(window):
    solve = make_solve()
    with pytest.raises(BadShot, match="The shot has frames 0 to 8"):
        pair_tracks(solve, Edit.identity(solve), window, GRID)


def test_unedited_source_and_target_are_the_same():
    solve = make_solve()
    pairs = pair_tracks(solve, Edit.identity(solve), (0, FRAMES), GRID)
    assert pairs.source.shape == (1, 3, 40, 3)
    assert torch.equal(pairs.source, pairs.target)
    assert torch.equal(pairs.source_present, pairs.target_present)


@pytest.mark.parametrize("framing", [None, Framing(20, 10, 100, 80), Framing(-10, -20, 190, 150)])
def test_coordinates_are_the_projections_one_by_one(framing, reference):
    """Camera, object and duplicate edits, off-centre principal point, crop and padding, against a slow literal form."""
    solve = make_solve()
    rng = np.random.default_rng(1)
    edit = moved_camera(Edit.identity(solve), [0.3, -0.1, 0.2])
    rows = np.concatenate([np.arange(40), [3, 4]]).astype(np.int32)
    edit = replace(
        edit,
        positions=edit.positions[:, rows] + 0.2 * rng.normal(size=(FRAMES, 42, 3)),
        present=rng.random((FRAMES, 42)) > 0.2,
        source_track=rows,
        source_frame=np.full((FRAMES, 42), 5.0),  # retimed: paired at the same index all the same
        objects=np.where(np.arange(42) < 40, 0, 1),
        object_names={1: "copy"},
    )
    settings = PairingSettings(margin=0.1)
    pairs = pair_tracks(solve, edit, (0, FRAMES), GRID, framing, settings)
    rectangle = (0, 0, WIDTH, HEIGHT) if framing is None else (framing.left, framing.top, framing.width, framing.height)

    expected = {}
    for view, cameras, positions in (
        ("source", solve.cameras, solve.tracks.positions[:, rows]),
        ("target", edit.cameras, edit.positions),
    ):
        for i, t in enumerate((0, 4, 8)):
            for m in range(42):
                x, y, z = reference.screen(positions[t, m], cameras.c2w[t], cameras.K[t], rectangle)
                near = z > 0 and -0.1 <= x <= 1.1 and -0.1 <= y <= 1.1
                if near and (view == "source" or edit.present[t, m]):
                    expected[view, i, m] = (x, y, 1 / z)
    useful = [m for m in range(42) if any(key[2] == m for key in expected)]
    disparities = [value[2] for value in expected.values()]
    low, high = min(disparities), min(max(disparities), 2 * np.quantile(disparities, 0.99))
    assert pairs.source.shape == (1, 3, len(useful), 3)
    for view, xyz, present in (
        ("source", pairs.source[0], pairs.source_present[0]),
        ("target", pairs.target[0], pairs.target_present[0]),
    ):
        for i in range(3):
            for n, m in enumerate(useful):
                assert bool(present[i, n]) == ((view, i, m) in expected)
                if (view, i, m) in expected:
                    x, y, disparity = expected[view, i, m]
                    np.testing.assert_allclose(xyz[i, n], [x, y, (disparity - low) / (high - low)], atol=1e-6)
                else:
                    assert not xyz[i, n].any()
    visible = solve.tracks.visibility[[0, 4, 8]][:, rows[useful]] & pairs.source_present[0].numpy()
    np.testing.assert_array_equal(pairs.source_visible[0], visible)


def test_a_resized_solve_gives_the_same_coordinates():
    solve = make_solve()
    edit = moved_camera(Edit.identity(solve), [0.2, 0, 0])
    small = replace(solve, cameras=solve.cameras.resized(80, 48))
    small_edit = replace(edit, cameras=edit.cameras.resized(80, 48))
    full, half = (pair_tracks(*shot, (0, FRAMES), GRID) for shot in ((solve, edit), (small, small_edit)))
    torch.testing.assert_close(full.target, half.target)


def test_disparity_keeps_the_relative_scale_of_both_views():
    depths = [np.array([[1.0, 2.0]]), np.array([[4.0, 8.0]])]
    source, target = normalised_disparity(depths, [np.ones((1, 2), bool)] * 2, PairingSettings())
    np.testing.assert_allclose(source, [[1.0, 3 / 7]])
    np.testing.assert_allclose(target, [[1 / 7, 0.0]])


def test_one_point_at_the_lens_does_not_flatten_the_rest():
    depths = np.append(np.linspace(2, 8, 400), 1e-4)[None]
    (disparity,) = normalised_disparity([depths], [np.ones(depths.shape, bool)], PairingSettings())
    assert disparity[0, -1] == 1
    assert np.ptp(disparity[0, :-1]) > 0.4
    assert (np.diff(disparity[0, :-1]) < 0).all()


def test_a_flat_wall_has_one_disparity():
    depth = np.full((3, 5), 4.0) * (1 + 1e-14 * np.arange(5))
    (disparity,) = normalised_disparity([depth], [np.ones((3, 5), bool)], PairingSettings())
    assert not disparity.any()


def test_removal_keeps_the_source_and_masks_the_target():
    solve = make_solve(objects=np.repeat([0, 1], 20))
    edit = Edit.identity(solve)
    edit = replace(edit, present=edit.present & (edit.objects == 0))
    pairs = pair_tracks(solve, edit, (0, FRAMES), GRID)
    assert pairs.source_present[0, :, 20:].all()
    assert not pairs.target_present[0, :, 20:].any()
    assert not pairs.target[0, :, 20:].any()


def test_behind_the_camera_and_far_outside_is_absent_and_finite():
    solve = make_solve()
    edit = Edit.identity(solve)
    positions = edit.positions.copy()
    positions[:, 0, 2] = -3.0
    positions[:, 1] = solve.cameras.c2w[:, :3, 3]  # in the lens itself
    positions[:, 2, 0] += 50.0
    pairs = pair_tracks(solve, replace(edit, positions=positions), (0, FRAMES), GRID)
    assert not pairs.target_present[0, :, :3].any()
    assert torch.equal(pairs.target_present[0, :, 3:], pairs.source_present[0, :, 3:])
    assert pairs.target.isfinite().all()


def test_a_camera_that_looks_away_leaves_the_source_only():
    solve = make_solve()
    edit = Edit.identity(solve)
    c2w = edit.cameras.c2w.copy()
    c2w[:, :3, :3] = c2w[:, :3, :3] @ axis_rotation([0.0, 1.0, 0.0], np.pi)
    pairs = pair_tracks(solve, replace(edit, cameras=replace(edit.cameras, c2w=c2w)), (0, FRAMES), GRID)
    assert torch.equal(pairs.source, pair_tracks(solve, edit, (0, FRAMES), GRID).source)
    assert not pairs.target_present.any()


@pytest.mark.parametrize("count", [0, 5])
def test_no_tracks_at_all(count):
    solve = make_solve(count)
    edit = Edit.identity(solve)
    gone = replace(edit, positions=edit.positions - [0, 0, 100.0])
    behind = replace(solve, tracks=replace(solve.tracks, positions=solve.tracks.positions - [0, 0, 100.0]))
    pairs = pair_tracks(behind, gone, (0, FRAMES), GRID)
    assert pairs.source.shape == pairs.target.shape == (1, 3, 0, 3)
    assert pairs.source.dtype == torch.float32
    assert pairs.source_present.dtype == torch.bool


def test_an_edit_of_another_solve_is_refused():
    with pytest.raises(BadShot, match="the edit has 9 frames, the solve 5"):
        pair_tracks(make_solve(frames=5), Edit.identity(make_solve()), (0, 5), GRID)


def test_selection_keeps_small_objects_and_spreads_over_the_picture():
    rng = np.random.default_rng(0)
    objects = np.repeat([0, 1, 2], [5000, 60, 4]).astype(np.int32)
    # Most of the background crowds into one cell, as tracks do on texture.
    cells = np.where(rng.random(5064) < 0.9, 0, rng.integers(0, 60, 5064))
    seen = rng.integers(1, 22, 5064)
    chosen = select_tracks(objects, cells, seen, 300, seed=4)
    assert len(chosen) == len(np.unique(chosen)) == 300
    assert (np.diff(chosen) > 0).all()
    _, small, tiny = np.bincount(objects[chosen])
    assert small >= 50
    assert tiny == 4
    background = chosen[objects[chosen] == 0]
    per_cell = np.bincount(cells[background], minlength=60)
    assert per_cell.min() >= 2
    assert per_cell.max() <= per_cell.min() + 2
    for cell in range(60):
        own = np.flatnonzero((objects == 0) & (cells == cell))
        left_out = np.setdiff1d(own, background)
        assert not len(left_out) or seen[left_out].max() <= seen[np.intersect1d(own, background)].min()
    np.testing.assert_array_equal(chosen, select_tracks(objects, cells, seen, 300, seed=4))
    assert not np.array_equal(chosen, select_tracks(objects, cells, seen, 300, seed=5))


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 59, 60, 61])
def test_selection_never_takes_more_than_asked(limit):
    objects = np.repeat(np.arange(4), [50, 5, 3, 2]).astype(np.int32)
    chosen = select_tracks(objects, np.zeros(60, np.int64), np.ones(60, np.int64), limit, 0)
    assert len(chosen) == min(limit, 60)
    if limit >= 4:
        assert set(objects[chosen]) == {0, 1, 2, 3}


def test_the_limit_reaches_the_pairs_in_the_order_of_the_solve():
    solve = make_solve(200)
    edit = Edit.identity(solve)
    few = pair_tracks(solve, edit, (0, FRAMES), GRID, settings=PairingSettings(tracks=50))
    every = pair_tracks(solve, edit, (0, FRAMES), GRID)
    assert few.source.shape[2] == 50
    places = [
        (every.source[0, :, :, :2] == few.source[0, :, n : n + 1, :2]).all(-1).all(0).nonzero() for n in range(50)
    ]
    assert all(len(p) == 1 for p in places)
    assert sorted(int(p) for p in places) == [int(p) for p in places]


def test_cell_centres_run_along_rows():
    assert cell_centres(2, 4)[[0, 1, 4]].tolist() == [[0.125, 0.25], [0.375, 0.25], [0.125, 0.75]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Framing(0, 0, 0, 10),
        lambda: PairingSettings(tracks=-1),
        lambda: PairingSettings(margin=0.9),
    ],
)
def test_settings_that_mean_nothing_are_refused(make):
    with pytest.raises(BadShot):
        make()


def test_2000_of_20000_tracks_are_paired_at_once():
    """A dense real solve is no wait: the whole window in well under a second on one core."""
    solve = make_solve(20_000, frames=81)
    edit = moved_camera(Edit.identity(solve), [0.2, 0, 0])
    start = time.process_time()
    pairs = pair_tracks(solve, edit, (0, 81), (24, 42))
    assert time.process_time() - start < 2.0
    assert pairs.source.shape == (1, 21, 2000, 3)


def test_pairs_of_the_sample_shot_show_the_same_surface_in_both_renders(sample_shot):
    """Where a pair points in the footage and in the true render of the edit, most pixels have one colour."""
    solve, edit = archive.load_solve(sample_shot / "walk.solve.npz"), archive.load_edit(sample_shot / "edited.edit.npz")
    pairs = pair_tracks(solve, edit, (0, 17), (24, 42), settings=PairingSettings(tracks=600))
    both = (pairs.source_visible & pairs.target_present)[0].numpy()
    differences, elsewhere = [], []
    with FootageReader(sample_shot / "walk.mp4") as footage, FootageReader(sample_shot / "edited.mp4") as truth:
        for i, t in enumerate(latent_frames(0, 17, len(solve))):
            colours = []
            for reader, view in ((footage, pairs.source), (truth, pairs.target)):
                picture = reader.frame(int(t)).astype(float)
                height, width = picture.shape[:2]
                x, y = view[0, i, both[i], :2].numpy().T
                column, row = (np.clip(c, 0, s - 1).astype(int) for c, s in ((x * width, width), (y * height, height)))
                colours.append(picture[row, column])
            differences.append(np.abs(colours[0] - colours[1]).mean(-1))
            elsewhere.append(np.abs(colours[0] - colours[1][::-1]).mean(-1))
    assert np.median(np.concatenate(differences)) < 8
    assert np.median(np.concatenate(elsewhere)) > 24
