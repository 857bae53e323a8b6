"""A move does what a camera operator would call it, adds to the footage's own motion, and starts without a jump."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retake_shared import camera_moves, geometry
from retake_shared.easing import interpolate_keys, ramp
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras, Tracks

PIVOT = np.array([1.2, 2.4, 7.5])

MOVES = {
    "orbit": lambda cameras, **kw: camera_moves.orbit(cameras, 25, PIVOT, **kw),
    "dolly": lambda cameras, **kw: camera_moves.dolly(cameras, 0.7, **kw),
    "dolly, looking": lambda cameras, **kw: camera_moves.dolly(cameras, 0.7, look_at=PIVOT, **kw),
    "truck": lambda cameras, **kw: camera_moves.truck(cameras, 0.5, -0.2, look_at=PIVOT, **kw),
    "push in": lambda cameras, **kw: camera_moves.push_in(cameras, 0.3, PIVOT, **kw),
    "dolly zoom": lambda cameras, **kw: camera_moves.push_in(cameras, 0.3, PIVOT, keep_size=True, **kw),
    "crane": lambda cameras, **kw: camera_moves.crane(cameras, 0.8, PIVOT, **kw),
    "look at": lambda cameras, **kw: camera_moves.look_at(cameras, PIVOT, **kw),
}
every_move = pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)


@pytest.fixture
def cameras(make_solve) -> Cameras:
    return make_solve(frames=12).cameras


def plain_cameras(frames: int = 5) -> Cameras:
    """At the origin, looking along z, y down."""
    K = geometry.intrinsics(300, 320, 160, 90)
    return Cameras(np.tile(np.eye(4), (frames, 1, 1)), np.tile(K, (frames, 1, 1)), 320, 180)


def picture_of(cameras: Cameras, points: np.ndarray) -> np.ndarray:
    points = np.atleast_2d(points)
    return cameras.project(np.broadcast_to(points, (len(cameras), *points.shape)))[0]


@every_move
def test_nothing_changes_before_and_the_move_is_held_after(cameras, move):
    moved = move(cameras, frames=(3, 8))
    np.testing.assert_array_equal(moved.c2w[:4], cameras.c2w[:4])
    np.testing.assert_array_equal(moved.K[:4], cameras.K[:4])
    whole = move(cameras, frames=(0, 1))  # from frame 0 on
    np.testing.assert_allclose(moved.c2w[7:], whole.c2w[7:], atol=1e-12)
    np.testing.assert_allclose(moved.K[7:], whole.K[7:], atol=1e-12)
    assert np.abs(moved.c2w[8:] - cameras.c2w[8:]).max() > 0.05


@every_move
@pytest.mark.parametrize("ease", ["linear", "smooth"])
def test_poses_stay_rigid_and_never_jump(cameras, move, ease):
    moved = move(cameras, ease=ease)
    rotation = moved.c2w[:, :3, :3]
    np.testing.assert_allclose(rotation @ np.swapaxes(rotation, 1, 2), np.tile(np.eye(3), (12, 1, 1)), atol=1e-12)
    assert (np.linalg.det(rotation) > 0).all()
    assert np.abs(np.diff(moved.c2w - cameras.c2w, axis=0)).max() < 0.5


@every_move
def test_one_frame_of_footage_takes_the_whole_move(cameras, move):
    still = cameras.frames(4, 5)
    moved = move(still)
    held = move(cameras, frames=(0, 1))
    np.testing.assert_allclose(moved.K, held.K[4:5], atol=1e-12)
    assert np.abs(moved.c2w - still.c2w).max() > 0.05


@every_move
@pytest.mark.parametrize("frames", [(-1, 5), (5, 5), (7, 3), (0, 13)])
def test_ranges_outside_the_footage_are_refused(cameras, move, frames):
    with pytest.raises(BadShot, match=r"frames: is .* within 0:12"):
        move(cameras, frames=frames)


@every_move
def test_an_unknown_ease_is_refused(cameras, move):
    with pytest.raises(BadShot, match="smooth, linear"):
        move(cameras, ease="bouncy")


def test_orbit_keeps_distance_and_picture_of_the_pivot(cameras):
    moved = camera_moves.orbit(cameras, 40, PIVOT)
    np.testing.assert_allclose(picture_of(moved, PIVOT), picture_of(cameras, PIVOT), atol=1e-9)
    distance = [np.linalg.norm(c.c2w[:, :3, 3] - PIVOT, axis=1) for c in (cameras, moved)]
    np.testing.assert_allclose(*distance)


def test_orbit_goes_to_the_right_and_stays_level():
    moved = camera_moves.orbit(plain_cameras(), 90, [0, 0, 4], ease="linear")
    np.testing.assert_allclose(moved.c2w[-1, :3, 3], [4, 0, 4], atol=1e-12)
    np.testing.assert_allclose(moved.c2w[-1, :3, 2], [-1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(moved.c2w[:, :3, 1], [[0, 1, 0]] * 5, atol=1e-12)
    half = np.sqrt(0.5) * 4
    np.testing.assert_allclose(moved.c2w[2, :3, 3], [half, 0, 4 - half], atol=1e-12)


def test_orbit_about_another_axis():
    moved = camera_moves.orbit(plain_cameras(), 90, [0, 0, 4], axis=[3, 0, 0])
    np.testing.assert_allclose(moved.c2w[-1, :3, 3], [0, 4, 4], atol=1e-12)
    with pytest.raises(BadShot, match="axis"):
        camera_moves.orbit(plain_cameras(), 90, [0, 0, 4], axis=[0, 0, 0])


def test_orbit_works_in_a_world_with_another_up(make_solve):
    """Solvers disagree about which way is up: turning the whole world must turn the result and nothing else."""
    cameras = make_solve().cameras
    world = np.eye(4)
    world[:3, :3] = geometry.rotation_from_vector([1.3, -0.4, 2.0])
    world[:3, 3] = [5, -3, 1]
    turned = replace(cameras, c2w=world @ cameras.c2w)
    pivot = geometry.transform(world, PIVOT[None])[0]
    for one, other in (
        (camera_moves.orbit(cameras, 30, PIVOT), camera_moves.orbit(turned, 30, pivot)),
        (camera_moves.crane(cameras, 0.6, PIVOT), camera_moves.crane(turned, 0.6, pivot)),
        (camera_moves.look_at(cameras, PIVOT), camera_moves.look_at(turned, pivot)),
    ):
        np.testing.assert_allclose(world @ one.c2w, other.c2w, atol=1e-9)


def test_dolly_and_truck_follow_the_cameras_own_axes(cameras):
    rotation_t = np.swapaxes(cameras.c2w[:, :3, :3], 1, 2)
    for moved, expected in (
        (camera_moves.dolly(cameras, 0.7, (0, 1)), [0, 0, 0.7]),
        (camera_moves.truck(cameras, 0.4, -0.1, (0, 1)), [0.4, -0.1, 0]),
    ):
        by = np.einsum("tij,tj->ti", rotation_t, moved.c2w[:, :3, 3] - cameras.c2w[:, :3, 3])
        np.testing.assert_allclose(by, [expected] * 12, atol=1e-12)
        np.testing.assert_array_equal(moved.c2w[:, :3, :3], cameras.c2w[:, :3, :3])


def test_looking_moves_keep_the_pivot_where_it_was_in_the_picture(cameras):
    before = picture_of(cameras, PIVOT)
    for moved in (
        camera_moves.crane(cameras, 1.5, PIVOT),
        camera_moves.truck(cameras, 2, 0.5, look_at=PIVOT),
        camera_moves.dolly(cameras, -2, look_at=PIVOT),
    ):
        np.testing.assert_allclose(picture_of(moved, PIVOT), before, atol=1e-9)


def test_crane_rises_and_keeps_the_horizon_level():
    moved = camera_moves.crane(plain_cameras(), 3, [0, 0, 4])
    np.testing.assert_allclose(moved.c2w[-1, :3, 3], [0, -3, 0], atol=1e-12)
    np.testing.assert_allclose(moved.c2w[:, :3, 0], [[1, 0, 0]] * 5, atol=1e-12)
    np.testing.assert_allclose(moved.c2w[-1, :3, 2], [0, 0.6, 0.8], atol=1e-12)


def test_truck_around_something_off_centre_keeps_the_horizon_level():
    """The smallest rotation that follows the pivot would roll a camera that looks down."""
    down = replace(plain_cameras(), c2w=np.tile(geometry.look_at([0, -3, 0], [0, 0, 4], [0, 1, 0]), (5, 1, 1)))
    moved = camera_moves.truck(down, 2.5, look_at=[0, 0, 4], up=[0, -1, 0])
    np.testing.assert_allclose(moved.c2w[:, 1, 0], 0, atol=1e-9)


def test_push_in_covers_its_share_of_the_way(cameras):
    moved = camera_moves.push_in(cameras, 0.25, PIVOT)
    way = np.linalg.norm(PIVOT - cameras.c2w[:, :3, 3], axis=1)
    left = np.linalg.norm(PIVOT - moved.c2w[:, :3, 3], axis=1)
    np.testing.assert_allclose(left / way, 1 - 0.25 * ramp(12))
    np.testing.assert_array_equal(moved.K, cameras.K)
    away = camera_moves.push_in(cameras, -1, PIVOT)
    np.testing.assert_allclose(np.linalg.norm(PIVOT - away.c2w[-1, :3, 3]), 2 * way[-1])


@given(st.floats(-2, 0.9), st.floats(-0.4, 0.4), st.floats(-0.3, 0.3))
def test_dolly_zoom_holds_the_pivots_plane_and_changes_all_else(factor, x, y):
    cameras = plain_cameras()
    pivot = np.array([x, y, 4])
    moved = camera_moves.push_in(cameras, factor, pivot, keep_size=True)
    plane = pivot + np.array([[0, 0, 0], [0.7, 0, 0], [0, -0.6, 0]])
    np.testing.assert_allclose(picture_of(moved, plane), picture_of(cameras, plane), atol=1e-9)
    behind = np.array([1, 1, 9.0])
    shift = np.abs(picture_of(moved, behind) - picture_of(cameras, behind))[-1].max()
    assert shift > 0.5 or abs(factor) < 0.05


def test_dolly_zoom_keeps_skew_and_squeeze():
    K = geometry.intrinsics(300, 200, 160, 90)
    K[0, 1] = 3
    cameras = replace(plain_cameras(), K=np.tile(K, (5, 1, 1)))
    moved = camera_moves.push_in(cameras, 0.5, [0.3, 0.2, 4], keep_size=True)
    np.testing.assert_allclose(picture_of(moved, [0.3, 0.2, 4]), picture_of(cameras, [0.3, 0.2, 4]), atol=1e-9)
    np.testing.assert_allclose(moved.K[-1], [[150, 1.5, 160], [0, 100, 90], [0, 0, 1]])


def test_moves_no_camera_can_make_are_refused(cameras):
    for factor in (1, 1.5, np.nan):
        with pytest.raises(BadShot, match="factor"):
            camera_moves.push_in(cameras, factor, PIVOT)
    with pytest.raises(BadShot, match="behind the camera at frame 0"):
        camera_moves.push_in(plain_cameras(), 0.5, [0, 0, -2], keep_size=True)
    with pytest.raises(BadShot, match="at the pivot"):
        camera_moves.look_at(plain_cameras(), [0, 0, 0])
    with pytest.raises(BadShot, match="above or below"):
        camera_moves.look_at(plain_cameras(), [0, 5, 0])
    with pytest.raises(BadShot, match="at: is frame 12"):
        camera_moves.freeze(cameras, 12)


def test_look_at_ends_on_the_pivot_upright(cameras):
    moved = camera_moves.look_at(cameras, PIVOT, (2, 9))
    in_camera = geometry.transform(geometry.invert_rigid(moved.c2w), np.tile(PIVOT, (12, 1, 1)))[:, 0]
    np.testing.assert_allclose(in_camera[8:, :2], 0, atol=1e-9)
    np.testing.assert_array_equal(moved.c2w[:, :3, 3], cameras.c2w[:, :3, 3])
    up = camera_moves.mean_up(cameras)
    np.testing.assert_allclose(moved.c2w[8:, :3, 0] @ up, 0, atol=1e-9)


def test_freeze_holds_pose_and_lens(cameras):
    zoom = replace(cameras, K=cameras.K * np.linspace(1, 2, 12)[:, None, None])
    held = camera_moves.freeze(zoom, 7)
    np.testing.assert_array_equal(held.c2w, np.tile(zoom.c2w[7], (12, 1, 1)))
    np.testing.assert_array_equal(held.K, np.tile(zoom.K[7], (12, 1, 1)))


def test_given_cameras_are_never_changed(cameras):
    before = cameras.c2w.copy(), cameras.K.copy()
    for move in MOVES.values():
        move(cameras)
    camera_moves.offset(cameras, np.ones((12, 3)), np.tile(np.eye(3), (12, 1, 1)), np.full(12, 2.0))
    np.testing.assert_array_equal(cameras.c2w, before[0])
    np.testing.assert_array_equal(cameras.K, before[1])


def test_a_rolling_camera_has_no_mean_up():
    roll = plain_cameras(8)
    roll.c2w[:, :3, :3] = geometry.axis_rotation([0, 0, 1], np.arange(8) * np.pi / 4)
    with pytest.raises(BadShot, match="no mean up"):
        camera_moves.orbit(roll, 10, [0, 0, 3])
    assert len(camera_moves.orbit(roll, 10, [0, 0, 3], axis=[0, 1, 0])) == 8


def test_pivot_of_an_object_is_the_middle_of_what_is_seen_of_it(make_solve):
    solve = make_solve(frames=9)
    own = solve.tracks.objects == 1
    positions, visible = solve.tracks.positions[2:5, own], solve.tracks.visibility[2:5, own]
    expected = np.median(positions[visible], axis=0)
    np.testing.assert_allclose(camera_moves.default_pivot(solve, 1, (2, 5)), expected)
    # One track that flew off, as real tracks do, does not drag it along.
    flown = solve.tracks.positions.copy()
    flown[:, np.flatnonzero(own)[0]] += 1000
    robust = replace(solve, tracks=replace(solve.tracks, positions=flown))
    assert np.abs(camera_moves.default_pivot(robust, 1) - camera_moves.default_pivot(solve, 1)).max() < 2


def test_pivot_of_an_object_that_is_hidden_in_the_range(make_solve):
    solve = make_solve(frames=9)
    seen = solve.tracks.visibility.copy()
    seen[:4, solve.tracks.objects == 1] = False
    hidden = replace(solve, tracks=replace(solve.tracks, visibility=seen))
    elsewhere = camera_moves.default_pivot(hidden, 1)
    np.testing.assert_array_equal(camera_moves.default_pivot(hidden, 1, (0, 4)), elsewhere)
    never = replace(solve, tracks=replace(solve.tracks, visibility=np.zeros_like(seen)))
    assert np.isfinite(camera_moves.default_pivot(never, 1)).all()


def test_pivot_of_the_shot_lies_on_the_view_axis_at_the_median_depth(make_solve):
    solve = make_solve(frames=9)
    _, depth = solve.cameras.project(solve.tracks.positions)
    middle = float(np.median(depth[4][solve.tracks.visibility[4]]))
    for which in (None, 0):
        pivot = camera_moves.default_pivot(solve, which)
        in_camera = geometry.transform(geometry.invert_rigid(solve.cameras.c2w[4]), pivot[None])[0]
        np.testing.assert_allclose(in_camera, [0, 0, middle], atol=1e-9)


def test_scale_of_a_shot_without_visible_tracks(make_solve):
    solve = make_solve(depth=True)
    none_seen = replace(solve, tracks=replace(solve.tracks, visibility=np.zeros((6, 12), bool)))
    assert camera_moves.median_depth(none_seen, 2) == np.float32(np.median(solve.depth[2]))
    bare = replace(none_seen, depth=None, tracks=Tracks.empty(6))
    with pytest.raises(BadShot, match="scale is unknown"):
        camera_moves.default_pivot(bare)
    with pytest.raises(BadShot, match='"walker" has no tracks'):
        camera_moves.default_pivot(bare, 1)


def test_ramps():
    assert ramp(5, None, "linear").tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert ramp(6, (2, 5), "linear").tolist() == [0, 0, 0, 0.5, 1, 1]
    assert ramp(5, (0, 5), "smooth").tolist() == [0, 0.15625, 0.5, 0.84375, 1]
    assert ramp(4, (2, 3)).tolist() == [0, 0, 1, 1]
    assert ramp(1).tolist() == [1]


def test_values_between_keys():
    values = interpolate_keys([1, 3], [[0.0, 10], [4, 30]], 5, "linear")
    assert values.tolist() == [[0, 10], [0, 10], [2, 20], [4, 30], [4, 30]]
    assert interpolate_keys([0, 4], [0.0, 1.0], 5, "smooth").tolist() == [0, 0.15625, 0.5, 0.84375, 1]
    assert interpolate_keys([2], [7.0], 3).tolist() == [7, 7, 7]
