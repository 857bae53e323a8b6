"""Tracks in 2D (CoTracker, Wan-Move) and their way to 3D: half a pixel, hidden points, what moves, what is missing.

A user would get tracks beside what they follow, or a moving man nailed to the wall.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retake_shared import formats, geometry, lifting
from retake_shared.errors import BadFile, BadShot, RetakeError
from retake_shared.formats import Hints
from retake_shared.lifting import Tracks2D
from retake_shared.shot import Cameras

from tests.shared.made_up_scene import CX, CY, FX, FY, H, Scene, T, W

SCENE = Scene()
CAMERAS = Cameras(SCENE.c2w, np.tile(SCENE.K, (T, 1, 1)), W, H)


def tracked() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World points (N, 3) on the wall, uv (T, N, 2) with pixel centres at .5, visible (T, N) inside the picture."""
    depth, _ = SCENE.render()
    rows, columns = np.meshgrid(np.arange(6, H - 6, 7), np.arange(6, W - 6, 9), indexing="ij")
    rays = SCENE.rays()[rows.ravel(), columns.ravel()] * depth[4][rows.ravel(), columns.ravel()][:, None]
    world = rays @ SCENE.c2w[4, :3, :3].T + SCENE.c2w[4, :3, 3]
    uv = SCENE.project(world)
    return (
        world,
        uv,
        ((uv > 0.5) & (uv < [W - 0.5, H - 0.5])).all(-1),
    )  # maps know nothing beyond their outermost centres


def as_2d(content: object) -> Tracks2D:
    assert isinstance(content, Tracks2D)
    return content


def test_cotracker_whole_numbers_are_pixel_centres(tmp_path):
    _, uv, visible = tracked()
    stored = (uv - 0.5).astype(np.float32)[None]
    np.savez(tmp_path / "tracks.npz", pred_tracks=stored, pred_visibility=visible[None])
    np.save(tmp_path / "pred_tracks.npy", stored)
    np.save(tmp_path / "pred_visibility.npy", visible[None])
    for name in ("tracks.npz", "pred_tracks.npy", "pred_visibility.npy"):
        assert formats.detect(tmp_path / name) == "CoTracker"
        points = as_2d(formats.read_any(tmp_path / name)[0])
        np.testing.assert_allclose(points.uv, uv, atol=1e-4)
        np.testing.assert_array_equal(points.visible, visible)


def test_wan_moves_pair_is_found_by_either_file_and_by_the_folder(tmp_path):
    _, uv, visible = tracked()
    np.save(tmp_path / "tracks.npy", uv[None].astype(np.float32))
    np.save(tmp_path / "visibility.npy", visible[None])
    for path in (tmp_path, tmp_path / "tracks.npy", tmp_path / "visibility.npy"):
        assert formats.detect(path) == "Wan-Move"
        points = as_2d(formats.read_any(path, None, Hints(size=(W, H)))[0])
        np.testing.assert_allclose(points.uv, uv, atol=1e-4)
        np.testing.assert_array_equal(points.visible, visible)
        assert points.size == (W, H)


def test_tracks_in_2d_are_no_solve_and_the_words_say_what_is_missing(tmp_path):
    np.savez(tmp_path / "tracks.npz", pred_tracks=np.zeros((1, T, 3, 2), np.float32))
    with pytest.raises(BadFile, match=r"no cameras.*--with SOLVE"):
        formats.read(tmp_path / "tracks.npz")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pred_tracks": np.zeros((2, T, 3, 2), np.float32)}, "shape"),
        ({"pred_tracks": np.zeros((1, 0, 3, 2), np.float32)}, "3 tracks over 0 frames"),
        ({"pred_tracks": np.zeros((1, T, 3, 2), np.float32), "pred_visibility": np.ones((1, T, 4))}, "visibility.*shape"),
        ({"pred_tracks": np.zeros((1, T, 3, 2), np.float32), "pred_visibility": np.zeros((1, T, 3))}, "no point is visible"),
        ({"pred_tracks": np.full((1, T, 3, 2), np.nan, np.float32)}, "no point is visible"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused_by_name(tmp_path, arrays, words):
    path = tmp_path / "tracks.npz"
    np.savez(path, **arrays)
    with pytest.raises(BadFile, match=words) as caught:
        formats.read_any(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


# ---- lifting ----


def test_depth_maps_put_points_where_they_are_even_moving_ones():
    scene = Scene(box=True)
    depth, _ = scene.render()
    world, uv, visible = tracked()
    on_box = np.stack([-0.5 + 0.3 * np.arange(T) + 0.1, np.full(T, -0.05), np.full(T, 3.0)], -1)
    local = np.einsum("tij,tj->ti", scene.w2c[:, :3, :3], on_box) + scene.w2c[:, :3, 3]
    box_uv = (local @ scene.K.T)[:, :2] / (local @ scene.K.T)[:, 2:]
    uv, visible = np.concatenate([uv, box_uv[:, None]], 1), np.concatenate([visible, np.ones((T, 1), bool)], 1)
    on_wall = np.abs(uv - box_uv[:, None]).max(-1) > 25  # what the box hides, a tracker calls hidden
    visible[:, :-1] &= on_wall[:, :-1]
    tracks, notes = lifting.lift(uv, visible, CAMERAS, depth)
    inside = ((box_uv > 0) & (box_uv < [W, H])).all(-1)
    assert inside.sum() >= 6
    np.testing.assert_allclose(tracks.positions[inside, -1], on_box[inside], atol=1e-6)
    wall = tracks.positions[:, :-1]
    sure = tracks.visibility[:, :-1]
    rows = np.isin(np.arange(len(world)), tracks.ids[:-1])
    assert np.abs(wall - world[None, rows])[sure].max() < 1e-6
    assert not tracks.visibility[~visible[:, tracks.ids]].any()
    assert any("by the depth maps" in note for note in notes)


def test_a_hidden_point_goes_straight_between_where_it_was_seen():
    depth, _ = SCENE.render()
    world, uv, visible = tracked()
    n = int(np.argmax(visible.sum(0)))
    hidden = visible.copy()
    hidden[3:6, n] = False
    nowhere = uv.copy()
    nowhere[3:6, n] = np.nan
    tracks, _ = lifting.lift(nowhere, hidden, CAMERAS, depth)
    row = int(np.flatnonzero(tracks.ids == n)[0])
    np.testing.assert_allclose(tracks.positions[3:6, row], np.repeat(world[None, n], 3, 0), atol=1e-6)
    assert not tracks.visibility[3:6, row].any()
    # Seen, but the map knows no depth there: it stays on its view ray.
    holes = depth.copy()
    holes[3:6] = 0
    tracks, _ = lifting.lift(uv, visible, CAMERAS, holes)
    back, _ = CAMERAS.project(tracks.positions)
    seen = tracks.visibility
    assert np.abs(back - uv[:, tracks.ids])[seen].max() < 1e-6


def test_without_depth_points_that_stand_still_are_triangulated_and_others_left_out():
    world = SCENE.points(40)
    uv = SCENE.project(world)
    noise = np.random.default_rng(1).normal(0, 0.05, uv.shape)
    visible = np.ones(uv.shape[:2], bool)
    walking = uv[:, :5] + (np.arange(T) - 4)[:, None, None] ** 2 * [0.6, -0.4]
    uv = np.concatenate([uv + noise, walking], 1)
    visible = np.ones(uv.shape[:2], bool)
    visible[:7, 3] = False  # two sightings are no proof
    tracks, notes = lifting.lift(uv, visible, CAMERAS)
    assert set(range(40)) - set(tracks.ids.tolist()) == {3}
    assert tracks.ids.max() < 40
    seen_uv, _ = CAMERAS.project(tracks.positions)
    assert np.abs(seen_uv - SCENE.project(world[tracks.ids])).max() < 0.5
    exact, _ = lifting.lift(SCENE.project(world), np.ones((T, 40), bool), CAMERAS)
    np.testing.assert_allclose(exact.positions[0], world, rtol=1e-6)
    assert any("39 of 45 tracks were triangulated" in note for note in notes)
    assert any("6 tracks were left out" in note for note in notes)


def test_what_cannot_be_lifted_is_refused_in_words_that_say_what_is_missing():
    world = SCENE.points(20)
    turning = SCENE.c2w.copy()
    turning[:, :3, 3] = turning[0, :3, 3]
    uv = Scene(c2w=turning).project(world)
    cameras = Cameras(turning, CAMERAS.K, W, H)
    with pytest.raises(BadShot, match=r"camera does not move enough.*depth maps"):
        lifting.lift(uv, np.ones((T, 20), bool), cameras)
    hardly = SCENE.c2w.copy()
    hardly[:, :3, 3] *= 0.01
    shaken = Scene(c2w=hardly).project(world) + np.random.default_rng(0).normal(0, 0.05, (T, 20, 2))
    with pytest.raises(BadShot, match=r"camera does not move enough"):
        lifting.lift(shaken, np.ones((T, 20), bool), Cameras(hardly, CAMERAS.K, W, H))
    with pytest.raises(BadShot, match="no tracks"):
        lifting.lift(np.zeros((T, 0, 2)), np.zeros((T, 0), bool), cameras)
    with pytest.raises(BadShot, match="shape"):
        lifting.lift(uv[:4], np.ones((4, 20), bool), cameras)
    with pytest.raises(BadShot, match="belong to the same footage"):
        lifting.lift(uv, np.ones((T, 20), bool), cameras, np.zeros((T, 4, 6), np.float32))


def test_depth_between_cells_is_exact_on_a_plane_and_never_mixed_across_an_edge():
    z = SCENE.render()[0][2]
    uv = np.random.default_rng(0).uniform([1, 1], [W - 1, H - 1], (200, 2))
    direction = np.stack([(uv[:, 0] - CX) / FX, (uv[:, 1] - CY) / FY, np.ones(200)], -1) @ SCENE.c2w[2, :3, :3].T
    normal = np.array([0.1, 0.2, 1.0])
    exact = (6 - SCENE.c2w[2, :3, 3] @ normal) / (direction @ normal)
    np.testing.assert_allclose(lifting.sample_depth(z, uv, CAMERAS), exact, rtol=1e-9)
    step = np.where(np.arange(W) < 40, 2.0, 8.0) * np.ones((H, 1))
    assert set(np.unique(lifting.sample_depth(step, uv, CAMERAS).round(9))) == {2.0, 8.0}
    outside = np.array([[-1.0, 5], [5, H + 1.0], [np.nan, 3]])
    assert not lifting.sample_depth(step, outside, CAMERAS).any()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), wild=st.sampled_from([np.nan, np.inf, -1e30, 1e12, 0.0]), use_depth=st.booleans())
def test_any_numbers_lift_to_finite_tracks_or_a_clear_error(seed, wild, use_depth):
    rng = np.random.default_rng(seed)
    uv = rng.uniform(-50, 150, (T, 12, 2))
    uv.reshape(-1)[rng.integers(0, uv.size, 20)] = wild
    depth = rng.uniform(0, 5, (T, 8, 12)).astype(np.float32) if use_depth else None
    tracks = None
    try:
        tracks, _ = lifting.lift(uv, rng.random((T, 12)) < 0.6, CAMERAS, depth)
    except RetakeError:
        return
    assert np.isfinite(tracks.positions).all()


def _pair(folder: Path) -> tuple[Path, bytes]:
    stream = io.BytesIO()
    np.save(stream, np.ones((1, T, 4, 2), np.float32))
    np.save(folder / "visibility.npy", np.ones((1, T, 4), bool))
    return folder / "tracks.npy", stream.getvalue()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 420), patch=st.binary(max_size=8), at=st.integers(0, 200))
def test_damaged_npy_files_give_tracks_or_a_clear_error(tmp_path, cut, patch, at):
    path, content = _pair(tmp_path)
    damaged = bytearray(content[:cut])
    damaged[at : at + len(patch)] = patch
    path.write_bytes(damaged)
    error = None
    try:
        formats.read_any(path)
    except RetakeError as raised:
        error = raised
    assert error is None or str(tmp_path) in str(error)


# ---- the real thing ----


def test_real_wan_move_pair(sample_data):
    path = sample_data / "solves" / "tracks2d" / "wanmove_tracks.npy"
    assert formats.detect(path) == "Wan-Move"
    points = as_2d(formats.read_any(path)[0])
    assert points.uv.shape == (81, 1, 2)
    assert points.visible.all()
    np.testing.assert_allclose(points.uv[0, 0], [481, 217.5], atol=1e-3)


def test_points_of_a_real_model_triangulate_back_to_themselves(sample_data):
    """The COLMAP model of a real clip: its own points, followed in 2D by its own cameras, come back."""
    solve, _ = formats.read(sample_data / "solves" / "colmap_apple" / "sparse_bin")
    uv, z = solve.cameras.project(solve.tracks.positions)
    visible = solve.tracks.visibility & geometry.inside_image(uv, z, solve.cameras.width, solve.cameras.height)
    some = np.flatnonzero(visible.sum(0) >= 10)[:300]
    tracks, _ = lifting.lift(uv[:, some], visible[:, some], solve.cameras)
    assert len(tracks) > 0.95 * len(some)
    np.testing.assert_allclose(tracks.positions[0], solve.tracks.positions[0, some[tracks.ids]], atol=1e-5)
