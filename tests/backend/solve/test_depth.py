"""Depth between points, of moving objects too, and by a network where its weights are installed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from retake_backend.models.random_weights import write_random
from retake_backend.solve import ground, interpolation, monocular, still
from retake_backend.solve.depth import estimate_depth, stand
from retake_backend.solve.stages import DepthMaps, ObjectGroups
from retake_backend.weights.store import WeightStore
from retake_shared import geometry
from retake_shared.shot import Cameras

from tests.backend.solve.sample import pictures, points, quiet, solved, truth

NOWHERE = Path("/nowhere")


def true_groups() -> ObjectGroups:
    return ObjectGroups(truth().tracks.objects, truth().object_names, truth().masks)


@cache
def fallback() -> DepthMaps:
    return estimate_depth(points(), solved(), true_groups(), pictures(), quiet, WeightStore(NOWHERE))


def errors(depth: NDArray[np.float32], label: int) -> NDArray[np.float64]:
    """Relative, of every cell of an object."""
    true = truth()
    assert true.depth is not None
    small = np.stack([cv2.resize(m, (168, 96), interpolation=cv2.INTER_NEAREST) for m in true.masks])
    here = (small == label) & (true.depth > 0)
    return np.abs(depth[here] / true.depth[here] - 1)


def test_the_still_room_is_known_between_its_points() -> None:
    depth = fallback()
    assert depth.depth.shape == (len(truth()), 96, 168)
    assert depth.fallback
    assert (depth.depth > 0).all()
    error = errors(depth.depth, 0)
    assert np.median(error) < 0.012
    assert error.mean() < 0.035


@pytest.mark.parametrize(("label", "median", "most"), [(1, 0.03, 0.08), (2, 0.04, 0.12)])
def test_objects_stand_where_their_feet_touch_the_ground(label: int, median: float, most: float) -> None:
    error = errors(fallback().depth, label)
    assert np.median(error) < median
    assert np.quantile(error, 0.9) < most
    assert any("stands on the ground" in note for note in fallback().notes)


def test_what_floats_beside_a_walker_is_as_far_away_as_he_is() -> None:
    """His hand, where his arm was not followed, is not on the wall behind."""
    small = np.stack([cv2.resize(m, (168, 96), interpolation=cv2.INTER_NEAREST) for m in truth().masks])
    small[small == 2] = 0
    for layer in small:
        top = int(np.nonzero(layer == 1)[0].min())
        left = int(np.nonzero((layer[top : top + 8] == 1).any(0))[0].min())
        layer[top : top + 8, left - 8 : left - 3] = 2
    near = 1 / fallback().depth
    paths = stand(solved(), true_groups(), small, near, ground.guess(solved()))
    assert "beside which it is" in paths[2].how
    assert np.abs(paths[2].depth / paths[1].depth - 1).max() < 0.1


def test_what_is_never_larger_than_a_cell_has_a_path_too() -> None:
    """A ball far away: a mask of it must not end the solve."""
    small = np.zeros((points().frame_count, 96, 168), np.uint8)
    small[3:, 60, 80] = 1
    paths = stand(solved(), true_groups(), small, 1 / fallback().depth, ground.guess(solved()))
    assert np.isfinite(paths[1].depth).all()


def test_the_fallback_is_told_and_what_would_be_better() -> None:
    assert any("retake models pull depth-anything-v2-small" in note for note in fallback().notes)


def test_the_floor_is_found_and_nothing_is_where_there_is_none() -> None:
    found = ground.find(solved())
    assert found is not None
    assert found.normal[2] > np.cos(np.radians(1.5))
    assert abs(found.offset) < 0.03  # m; the cameras are 1.8 m above it
    solve = solved()
    wall = np.where((solve.world[:, 1] > 2.9)[:, None], solve.world, np.nan)
    assert ground.find(replace(solve, world=wall)) is None


def test_flat_surfaces_are_exact_between_points() -> None:
    random = np.random.default_rng(0)
    uv = random.uniform((0, 0), (168, 96), (200, 2))
    grey = np.zeros((48, 84, 3), np.float32)
    plane = interpolation.planes(uv, 0.2 + 0.001 * uv[:, 0] + 0.003 * uv[:, 1], grey, (168, 96))
    cells = interpolation.grid(48, 84, (168, 96))
    true = (0.2 + 0.001 * cells[:, 0] + 0.003 * cells[:, 1]).reshape(48, 84)
    assert np.abs(plane / true - 1)[4:-4, 4:-4].max() < 0.05


def test_points_that_were_triangulated_wrongly_are_seen_through() -> None:
    """Points put in front of the room, as shadows and sliding points are, are found by the frames that see past them."""
    solve, followed = solved(), points()
    long = np.flatnonzero(solve.static & (followed.lengths > 30))
    false = long[::40]
    centre = solve.cameras.c2w[:, :3, 3].mean(0)
    world = solve.world.copy()
    world[false] = centre + 0.5 * (world[false] - centre)
    # Each was followed for a few frames only, as such points are.
    visible = followed.visible.copy()
    visible[6:, false] = False
    kept = still.checked(replace(followed, visible=visible), replace(solve, world=world))
    gone = solve.static & ~kept.static
    inside = visible[:6, false].any(0)
    assert gone[false[inside]].mean() > 0.5
    assert gone.sum() - gone[false].sum() < 0.01 * solve.static.sum()


def test_a_camera_that_does_not_move_gives_a_guess_that_is_called_one() -> None:
    K = geometry.intrinsics(600.0, 600.0, 336.0, 192.0)
    frames = len(truth())
    cameras = Cameras(np.tile(np.eye(4), (frames, 1, 1)), np.tile(K, (frames, 1, 1)), 672, 384)
    solve = replace(solved(), cameras=cameras, kind="static", world=np.full_like(solved().world, np.nan))
    depth = estimate_depth(points(), solve, true_groups(), pictures(), quiet, WeightStore(NOWHERE))
    assert "guess" in depth.source
    assert any("no parallax" in note for note in depth.notes)
    assert (depth.depth > 0).all()
    assert (np.diff(depth.depth[0, 60:, 0]) < 0).all()  # the ground comes nearer towards the lower edge


# ---- a network's depth ----


def test_what_a_network_tells_is_brought_to_the_points() -> None:
    """Scale and offset that leap from frame to frame, as such networks' do, are undone."""
    true = truth().depth
    assert true is not None
    random = np.random.default_rng(1)
    told = np.stack([random.uniform(20, 60) / layer + random.uniform(-1, 4) for layer in true]).astype(np.float32)
    found = 1 / monocular.aligned(told, points(), solved())
    error = np.abs(found / true - 1)
    assert np.median(error) < 0.005
    assert np.quantile(error, 0.99) < 0.03


def test_an_installed_network_is_used_and_random_weights_are_told(tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    name = monocular.PREFERRED
    write_random(name, tmp_path / name)
    depth = estimate_depth(points(), solved(), true_groups(), pictures(), quiet, WeightStore(tmp_path), name)
    assert depth.source == "Depth Anything V2 Small"
    assert not depth.fallback
    assert depth.depth.shape == (len(truth()), 96, 168)
    assert np.isfinite(depth.depth).all()
    assert (depth.depth > 0).all()
    assert any("random" in note for note in depth.notes)
