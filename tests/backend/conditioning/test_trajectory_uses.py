"""The three uses of trajectories: what of a shot and its edit they follow, and where in the model's picture."""

import numpy as np
import pytest
from retake_backend.conditioning.coordinates import Framing
from retake_backend.conditioning.trajectory_uses import (
    first_frame_trajectories,
    image_trajectories,
    offset,
    video_trajectories,
)
from retake_shared import geometry
from retake_shared.shot import Cameras, Edit, Solve, Tracks

WIDTH, HEIGHT, FRAMES, FOCAL = 96, 64, 9, 80.0
SIZE = np.array([WIDTH, HEIGHT])
LATENT = np.array([0, 4, 8])


def cameras(frames=FRAMES, step=0.0):
    """A camera that trucks by `step` world units a frame."""
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, 0, 3] = step * np.arange(frames)
    K = geometry.intrinsics(FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    return Cameras(c2w, np.tile(K, (frames, 1, 1)), WIDTH, HEIGHT)


def shot(count=30, depth=None, objects=None, visibility=None, path=None, far=4.0):
    """A solve of `count` points on a wall at z = far."""
    random = np.random.default_rng(0)
    points = np.stack([random.uniform(-1.5, 1.5, count), random.uniform(-1, 1, count), np.full(count, far)], -1)
    tracks = Tracks.make(np.tile(points, (FRAMES, 1, 1)), visibility=visibility, objects=objects)
    return Solve(path or cameras(), tracks, depth=depth)


def edited(solve, **changes):
    return Edit(**{**vars(Edit.identity(solve)), **changes})


def test_an_unedited_shot_goes_where_it_was():
    solve = shot(path=cameras(step=0.05), depth=np.full((FRAMES, 8, 12), 4.0, np.float32))
    for depth in (None, solve.depth[LATENT]):
        halves = video_trajectories(solve, Edit.identity(solve), LATENT, depth)
        np.testing.assert_allclose(halves.target.positions, halves.source.positions, atol=1e-6)
        np.testing.assert_array_equal(halves.target.valid, halves.source.valid)
        assert halves.source.valid.any()
        assert halves.joined().valid.shape == (6, 30)
        assert offset(halves) < 1e-6


def test_edited_objects_go_where_the_edit_puts_them_and_the_rest_where_the_camera_sees_it():
    solve = shot(objects=np.repeat([0, 1], 15), depth=np.full((FRAMES, 8, 12), 4.0, np.float32))
    positions = solve.tracks.positions.copy()
    positions[:, 15:] += [0.3, 0.1, -0.5]
    target = cameras(step=0.05)
    edit = edited(solve, positions=positions, cameras=target)
    halves = video_trajectories(solve, edit, LATENT, solve.depth[LATENT])
    uv, depth = target.project(positions)
    inside = geometry.inside_image(uv, depth, WIDTH, HEIGHT)[LATENT]
    seen = halves.source.valid & inside
    np.testing.assert_array_equal(halves.target.valid & seen, seen)
    expected = (uv / SIZE)[LATENT]
    # By the map a track moves as the middle of its pixel does: on this wall, by the same.
    np.testing.assert_allclose(halves.target.positions[seen], expected[seen], atol=1e-5)
    assert seen[:, 15:].any()


def test_a_map_moves_a_track_only_where_it_shows_the_tracks_own_surface():
    """Beside the edge of a near object a map of few pixels shows the object where the track is on the wall."""
    solve = shot()
    edit = edited(solve, cameras=cameras(step=0.05))
    by_tracks = video_trajectories(solve, edit, LATENT)
    depth = np.full((len(LATENT), 8, 12), 4.1, np.float32)  # a solver's map is a little off
    depth[:, :, 6:] = 1.0
    depth[:, 0] = 0
    halves = video_trajectories(solve, edit, LATENT, depth)
    both = halves.target.valid & by_tracks.target.valid
    apart = np.abs(halves.target.positions - by_tracks.target.positions)[both] * SIZE
    assert 0.01 < apart.max() < 0.3  # by the map's 4.1 in place of 4: 0.2 px; by its 1.0 it would be 24
    np.testing.assert_array_equal(halves.target.valid, by_tracks.target.valid)


def test_what_the_solver_did_not_see_is_left_out_of_both_halves():
    visibility = np.ones((FRAMES, 30), bool)
    visibility[4, :10] = False
    solve = shot(visibility=visibility)
    halves = video_trajectories(solve, Edit.identity(solve), LATENT)
    for half in (halves.source, halves.target):
        assert not half.valid[1, :10].any()
        assert half.valid[1, 10:].any()


def test_a_retimed_track_is_looked_for_at_the_moment_that_it_shows():
    visibility = np.ones((FRAMES, 30), bool)
    visibility[:4] = False
    solve = shot(visibility=visibility)
    later = np.minimum(np.arange(FRAMES) + 4, FRAMES - 1).astype(np.float32)
    edit = edited(solve, source_frame=np.repeat(later[:, None], 30, 1))
    halves = video_trajectories(solve, edit, LATENT)
    assert not halves.source.valid[0].any()
    assert halves.target.valid[0].any()


def test_half_a_frame_shows_the_moment_that_the_preview_shows():
    """The later one; a slow motion at half speed is between frames at every second one."""
    visibility = np.ones((FRAMES, 30), bool)
    visibility[2] = False
    solve = shot(visibility=visibility)
    halves = video_trajectories(solve, edited(solve, source_frame=np.full((FRAMES, 30), 2.5)), LATENT)
    assert halves.target.valid[0].any()


def test_removed_tracks_and_duplicates():
    solve = shot()
    present = np.ones((FRAMES, 60), bool)
    present[:, :30] = False
    double = np.concatenate([solve.tracks.positions, np.add(solve.tracks.positions, [0.2, 0, 0])], 1)
    rows = np.tile(np.arange(30), 2)
    edit = edited(
        solve, positions=double, present=present, source_track=rows, objects=np.repeat([0, 1], 30),
        source_frame=np.repeat(np.arange(FRAMES)[:, None], 60, 1), object_names={1: "copy"},
    )  # fmt: skip
    halves = video_trajectories(solve, edit, LATENT)
    assert not halves.target.valid[:, :30].any()
    assert halves.target.valid[:, 30:].any()
    np.testing.assert_array_equal(halves.source.positions[:, :30], halves.source.positions[:, 30:])


def test_one_image_stays_in_the_source_and_moves_in_the_target():
    path = cameras(3, step=0.1)
    halves = image_trajectories(np.full((16, 24), 4.0, np.float32), path.frames(0, 1), path, (8, 12))
    assert halves.source.valid.all()
    for frame in range(3):
        np.testing.assert_allclose(halves.source.positions[frame], halves.source.positions[0], atol=1e-6)
    shift = FOCAL * 0.1 / 4.0 / WIDTH
    for frame in range(3):
        seen = halves.target.valid[frame]
        expected = halves.source.positions[0, seen] - [frame * shift, 0]
        np.testing.assert_allclose(halves.target.positions[frame, seen], expected, atol=1e-6)
    assert offset(halves) < 1e-6
    away = image_trajectories(np.full((16, 24), 4.0, np.float32), path.frames(0, 1), path.frames(2, 3), (8, 12))
    assert offset(away) == pytest.approx(2 * shift, rel=1e-3)


def test_a_first_frame_is_held_in_the_source_and_keeps_the_footages_motion():
    visibility = np.ones((FRAMES, 30), bool)
    visibility[2, :10] = False
    solve = shot(path=cameras(step=0.05), visibility=visibility)
    frames = np.array([2, 6, 8])
    halves = first_frame_trajectories(solve, frames, 2)
    uv, _ = solve.cameras.project(solve.tracks.positions)
    assert not halves.source.valid[:, :10].any()
    assert halves.target.valid[1, :10].any()  # it comes into sight later, and is followed from there on
    for frame in range(3):
        seen = halves.source.valid[frame]
        np.testing.assert_allclose(halves.source.positions[frame, seen], (uv / SIZE)[2, seen], atol=1e-6)
        seen = halves.target.valid[frame]
        np.testing.assert_allclose(halves.target.positions[frame, seen], (uv / SIZE)[frames[frame], seen], atol=1e-6)


def test_positions_are_those_of_the_padded_picture_that_the_model_sees():
    solve = shot()
    halves = video_trajectories(solve, Edit.identity(solve), LATENT)
    # 16 px above and below, as padding to 96 x 96 adds them.
    framed = halves.framed(solve.cameras, Framing(0, -16, 96, 96))
    seen = halves.source.valid
    px = halves.source.positions[seen] * SIZE
    np.testing.assert_allclose(framed.source.positions[seen] * 96, np.add(px, [0, 16]), atol=1e-4)
    np.testing.assert_array_equal(framed.target.valid, halves.target.valid)


def test_a_limit_keeps_small_objects_and_takes_what_the_target_never_shows_first():
    objects = np.zeros(30, np.int32)
    objects[:2] = 1
    solve = shot(objects=objects)
    positions = solve.tracks.positions.copy()
    positions[:, 20:, 2] = -1  # behind the camera
    halves = video_trajectories(solve, edited(solve, positions=positions), LATENT)
    visible = int(halves.target.valid.any(0).sum())
    assert len(halves.spread(objects, 1000, 0, (4, 6)).target) == visible <= 20
    few = halves.spread(objects, 6, 0, (4, 6))
    assert len(few.target) == len(few.source) == 6
    own = {tuple(p) for p in halves.target.positions[0, :2].tolist()}
    assert own & {tuple(p) for p in few.target.positions[0].tolist()}
    again = halves.spread(objects, 6, 0, (4, 6))
    np.testing.assert_array_equal(again.target.positions, few.target.positions)
    assert len(halves.spread(objects, 0, 0, (4, 6)).target) == 0
