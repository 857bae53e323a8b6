"""Blender's motion tracking in and out: libmv solves clips whose markers are projections of a known scene."""

from __future__ import annotations

from dataclasses import replace

import bpy
import numpy as np
import pytest
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

from blender_addon.scene import footage_clip, objects, shots, tracking

W, H, FRAMES, FX = 320, 180, 20, 290.0


def known_cameras(aspect=1.0, centre=(165.0, 84.0)) -> Cameras:
    """A camera that walks to the right and turns. aspect: height of a pixel as a share of its width."""
    t = np.linspace(0, 1, FRAMES)
    c2w = np.tile(np.eye(4), (FRAMES, 1, 1))
    c2w[:, :3, :3] = geometry.rotation_from_vector(np.stack([0.05 * t, -0.25 * t, 0.03 * t], 1))
    c2w[:, :3, 3] = np.stack([1.6 * t, 0.2 * t**2, 0.5 * t], 1)
    K = np.tile(geometry.intrinsics(FX, FX * aspect, *centre), (FRAMES, 1, 1))
    return Cameras(c2w, K, W, H)


def add_tracks(part, cameras, positions, distort=lambda xy: xy):
    """2D tracks of world positions (T, N, 3), where they are in the picture."""
    uv, depth = cameras.project(positions)
    K = cameras.K[0]
    focal, centre = K[[0, 1], [0, 1]], K[:2, 2]
    uv = distort((uv - centre) / focal) * focal + centre
    seen = geometry.inside_image(uv, depth, W, H)
    for column in np.flatnonzero(seen.sum(0) >= 8):
        frames = np.flatnonzero(seen[:, column])
        track = part.tracks.new(name=f"point {column}", frame=int(frames[0]) + 1)
        for frame in frames:
            u, v = uv[frame, column]
            track.markers.insert_frame(int(frame) + 1, co=(u / W, 1 - v / H))


@pytest.fixture
def scene_points():
    random = np.random.default_rng(4)
    points = random.uniform([-2.2, -1.4, 3.5], [3.2, 1.4, 9], (60, 3))
    return np.repeat(points[None], FRAMES, 0)


@pytest.fixture
def clip(fresh_scene, make_footage):
    """A movie clip with the lens of `known_cameras`, nothing tracked."""
    made = footage_clip.load_clip(make_footage(W, H, FRAMES).path)
    set_lens(made, known_cameras())
    made.tracking.settings.use_keyframe_selection = True
    return made


def set_lens(clip, cameras):
    lens, K = clip.tracking.camera, cameras.K[0]
    lens.sensor_width, lens.units = 36, "PIXELS"
    lens.pixel_aspect = K[1, 1] / K[0, 0]
    lens.focal_length_pixels = K[0, 0]
    lens.principal_point_pixels = K[0, 2], H - K[1, 2]


def away(solve, cameras) -> tuple[float, float]:
    """Greatest distance of the aligned cameras' centres, as a share of the path, and of their views, in degrees."""
    similarity = tracking.align(solve.cameras.c2w, cameras.c2w[: len(solve)])
    centres = geometry.transform(similarity, solve.cameras.c2w[:, :3, 3])
    path = np.linalg.norm(np.diff(cameras.c2w[:, :3, 3], axis=0), axis=1).sum()
    scale = np.cbrt(np.linalg.det(similarity[:3, :3]))
    turned = similarity[:3, :3] / scale @ solve.cameras.c2w[:, :3, :3]
    cosine = (np.einsum("tij,tij->t", turned, cameras.c2w[: len(solve), :3, :3]) - 1) / 2
    far = np.linalg.norm(centres - cameras.c2w[: len(solve), :3, 3], axis=1).max()
    return far / path, np.degrees(np.arccos(np.clip(cosine, -1, 1))).max()


def marker_error(clip, solve) -> float:
    """Greatest distance, in px, of the camera's tracks from their markers."""
    uv, _ = solve.cameras.project(solve.tracks.positions)
    bundled = [track for track in tracking._camera_object(clip).tracks if track.has_bundle]
    errors = []
    for column, track in enumerate(bundled):
        for marker in track.markers:
            if marker.frame <= len(solve) and not marker.mute:
                where = np.array([marker.co[0] * W, (1 - marker.co[1]) * H])
                errors.append(np.linalg.norm(uv[marker.frame - 1, column] - where))
    assert errors
    return max(errors)


def test_a_clip_solved_by_libmv_becomes_a_shot(clip, scene_points):
    cameras = known_cameras()
    add_tracks(clip.tracking, cameras, scene_points)
    tracking.solve_clip(bpy.context, clip)
    assert tracking.solved_clips() == [clip]
    root = tracking.import_clip(bpy.context, clip, set_scene=True)
    solve = objects.current_solve(root)
    assert len(solve) == FRAMES
    assert len(solve.tracks) > 40
    assert marker_error(clip, solve) < 0.01
    assert away(solve, cameras)[0] < 1e-3
    assert away(solve, cameras)[1] < 0.02
    np.testing.assert_allclose(solve.cameras.K[0], cameras.K[0], atol=1e-3)
    assert "Solved by Blender with a mean error of 0.00 px" in root.retake.report
    seen = {track.name: len(track.markers) for track in clip.tracking.tracks if track.has_bundle}
    assert sorted(solve.tracks.visibility.sum(0)) == sorted(seen.values())


def test_pixels_that_are_not_square_are_kept(clip, scene_points):
    cameras = known_cameras(aspect=1.2)
    set_lens(clip, cameras)
    add_tracks(clip.tracking, cameras, scene_points)
    tracking.solve_clip(bpy.context, clip)
    solve, _ = tracking.solve_of(clip, footage_clip.footage_of(clip, bpy.context.scene))
    np.testing.assert_allclose(solve.cameras.K[0], cameras.K[0], rtol=1e-5)
    assert marker_error(clip, solve) < 0.02
    assert away(solve, cameras)[0] < 1e-3


def test_a_bent_lens_is_told_and_tracks_lie_where_a_pinhole_shows_them(clip, scene_points):
    cameras = known_cameras(centre=(160.0, 90.0))
    set_lens(clip, cameras)
    clip.tracking.camera.k1 = -0.1
    add_tracks(clip.tracking, cameras, scene_points, lambda xy: xy * (1 - 0.1 * (xy**2).sum(-1, keepdims=True)))
    tracking.solve_clip(bpy.context, clip)
    solve, notes = tracking.solve_of(clip, footage_clip.footage_of(clip, bpy.context.scene))
    assert away(solve, cameras)[0] < 2e-3
    corner = np.hypot(160, 90) / FX
    straight = next(r for r in np.linspace(corner, 2 * corner, 20000) if r * (1 - 0.1 * r * r) >= corner)
    told = next(note for note in notes if "bends" in note)
    assert f"up to {(straight - corner) * FX:.1f} px" in told


def test_a_tracking_object_moves_and_loose_markers_are_lifted(clip, scene_points):
    """An object that libmv solves on its own moves along its path; a track libmv did not see is triangulated."""
    cameras = known_cameras()
    add_tracks(clip.tracking, cameras, scene_points)
    random = np.random.default_rng(1)
    shape = random.uniform([-0.7, -0.7, -0.7], [0.7, 0.7, 0.7], (30, 3))
    t = np.linspace(0, 1, FRAMES)
    turn = geometry.rotation_from_vector(np.stack([0.2 * t, 0.5 * t, 0 * t], 1))
    moving = np.einsum("tij,nj->tni", turn, shape) + np.stack([0.5 + 0.6 * t, -0.3 * t, 4 + 0.8 * t], 1)[:, None]
    car = clip.tracking.objects.new("car")
    add_tracks(car, cameras, moving)
    tracking.solve_clip(bpy.context, clip)
    late = np.repeat(np.array([[[0.4, 0.2, 5.0]]]), FRAMES, 0)
    add_tracks(tracking._camera_object(clip), cameras, late)
    footage = footage_clip.footage_of(clip, bpy.context.scene)
    solve, notes = tracking.solve_of(clip, footage)
    assert any('"car" is not solved' in note for note in notes)
    assert any(note.startswith("1 tracks that Blender gave no place were triangulated") for note in notes)
    similarity = tracking.align(solve.cameras.c2w, cameras.c2w)
    placed = geometry.transform(similarity, solve.tracks.positions[0])
    assert np.linalg.norm(placed - [0.4, 0.2, 5.0], axis=1).min() < 0.01

    area = bpy.context.window_manager.windows[0].screen.areas[0]
    kind, area.ui_type = area.ui_type, "CLIP_EDITOR"
    area.spaces.active.clip = clip
    clip.tracking.objects.active = car
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0], area=area, region=area.regions[-1]):
        assert bpy.ops.clip.solve_camera("EXEC_DEFAULT") == {"FINISHED"}
    area.ui_type = kind
    solve, notes = tracking.solve_of(clip, footage)
    assert solve.object_names[1] == "car"
    rows = np.flatnonzero(solve.tracks.objects == 1)
    assert len(rows) > 15
    bundled = [track for track in car.tracks if track.has_bundle]
    uv, _ = solve.cameras.project(solve.tracks.positions)
    for column, track in zip(rows, bundled, strict=True):
        for marker in track.markers:
            where = np.array([marker.co[0] * W, (1 - marker.co[1]) * H])
            assert np.linalg.norm(uv[marker.frame - 1, column] - where) < 0.05
    assert (np.ptp(solve.tracks.positions[:, rows], axis=0).max(-1) > 0.05).all()


def test_frames_without_a_solved_camera_are_told(clip, scene_points):
    """Tracked from frame 4 to 16 of 20: the shot ends there, and the camera stands still before."""
    cameras = known_cameras()
    add_tracks(clip.tracking, cameras, scene_points)
    for track in clip.tracking.tracks:
        for frame in (1, 2, 3, 17, 18, 19, 20):
            track.markers.delete_frame(frame)
    clip.frame_start = 101
    tracking.solve_clip(bpy.context, clip)
    solve, notes = tracking.solve_of(clip, footage_clip.footage_of(clip, bpy.context.scene))
    assert len(solve) == 16
    assert "3 frames have no solved camera" in notes[0]
    assert "ends at frame 16 of 20" in notes[1]
    np.testing.assert_array_equal(solve.cameras.c2w[0], solve.cameras.c2w[3])
    assert not solve.tracks.visibility[:3].any()
    assert away(solve.frames(3, 16), Cameras(cameras.c2w[3:16], cameras.K[3:16], W, H))[0] < 1e-3
    assert marker_error(clip, solve) < 0.01


def test_an_unsolved_clip_is_an_answer(clip):
    with pytest.raises(BadShot, match="its camera is not solved"):
        tracking.import_clip(bpy.context, clip, set_scene=True)
    assert tracking.solved_clips() == []
    assert shots.active_shot(bpy.context) is None


@pytest.fixture
def still_shot(make_footage, make_solve):
    """A shot of many standing tracks and two moving objects, whose camera travels a good way."""
    footage = make_footage(W, H, FRAMES)
    made = make_solve(footage, count=150, at=(40.0, 5.0, -7.0), scale=3.0)
    return shots.import_shot(bpy.context, footage, made, set_scene=True), made


def test_a_shot_becomes_a_clip_that_libmv_solves_the_same_way(still_shot):
    root, _ = still_shot
    clip, _ = tracking.clip_from_shot(root, 120)
    names = {part.name: len(part.tracks) for part in clip.tracking.objects}
    assert set(names) == {"Camera", "man", "ball"}
    assert sum(names.values()) > 90
    assert clip.frame_start == root.retake.start
    tracking.solve_clip(bpy.context, clip)
    made, far = tracking.follow_clip(root, clip)
    assert far < 1e-3
    scene = bpy.context.scene
    for frame in (1, 7, FRAMES):
        scene.frame_set(frame)
        one, other = np.array(made.matrix_world), np.array(root.retake.source_camera.matrix_world)
        np.testing.assert_allclose(one[:3, 3], other[:3, 3], atol=2e-3)
        views = [matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (one, other)]
        np.testing.assert_allclose(*views, atol=1e-3)
    back, _ = tracking.solve_of(clip, footage_clip.footage_of(clip, scene))
    assert marker_error(clip, back) < 0.05


def test_markers_are_where_the_tracks_are_seen(still_shot):
    root, solve = still_shot
    clip, _ = tracking.clip_from_shot(root, 120)
    uv, _ = solve.cameras.project(solve.tracks.positions)
    row_of = {int(number): row for row, number in enumerate(solve.tracks.ids)}
    count = 0
    for part in clip.tracking.objects:
        for track in part.tracks:
            row = row_of[int(track.name.split()[1])]
            for marker in track.markers:
                assert solve.tracks.visibility[marker.frame - 1, row]
                where = [marker.co[0] * W, (1 - marker.co[1]) * H]
                np.testing.assert_allclose(where, uv[marker.frame - 1, row], atol=1e-3)
                count += 1
    assert count > 500


def test_a_camera_that_only_turns_is_followed_too(make_footage, make_solve):
    footage = make_footage(W, H, FRAMES)
    made = make_solve(footage, count=150)
    t = np.linspace(0, 1, FRAMES)
    c2w = np.repeat(made.cameras.c2w[:1], FRAMES, 0)
    c2w[:, :3, :3] = c2w[:, :3, :3] @ geometry.rotation_from_vector(np.stack([0.02 * t, 0.15 * t, 0 * t], 1))
    root = shots.import_shot(
        bpy.context, footage, replace(made, cameras=replace(made.cameras, c2w=c2w)), set_scene=True
    )
    clip, _ = tracking.clip_from_shot(root, 120)
    tracking.solve_clip(bpy.context, clip)
    follower, _ = tracking.follow_clip(root, clip)
    for frame in (1, 12, FRAMES):
        bpy.context.scene.frame_set(frame)
        one, other = np.array(follower.matrix_world), np.array(root.retake.source_camera.matrix_world)
        np.testing.assert_allclose(one, other, atol=2e-3)
