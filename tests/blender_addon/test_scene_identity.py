"""What an artist would lose if these failed: a shot that nobody touched would come back changed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import bpy
import numpy as np
import pytest
from mathutils import Euler, Matrix
from retake_shared import geometry
from retake_shared.shot import Edit, Tracks

from blender_addon.scene import camera, footage_clip, objects, readback, reference, shots, target_camera, targets


@pytest.mark.parametrize(
    "make",
    [
        {},
        {"varying": True},
        {"aspect": 1.3},
        {"aspect": 0.8, "varying": True},
        {"at": (4.0e5, -2.0e5, 7.0e4)},
        {"scale": 1e-3},
        {"scale": 5e3, "varying": True},
    ],
    ids=["plain", "zooming", "wide pixels", "high pixels", "far from the origin", "tiny", "huge"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_unedited_is_identity(make_footage, make_solve, read, assert_identity, make, seed):
    footage = make_footage()
    solve = make_solve(footage, seed=seed, **make)
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    assert_identity(read(root), solve)


@pytest.mark.parametrize("size", [(180, 320), (321, 181), (4096, 2160)], ids=["portrait", "odd", "4K"])
def test_identity_at_any_size(make_footage, make_solve, read, assert_identity, size):
    footage = make_footage(*size, frames=2)
    solve = make_solve(footage)
    assert_identity(read(shots.import_shot(bpy.context, footage, solve, set_scene=True)), solve)


@pytest.mark.parametrize(("count", "frames"), [(0, 4), (1, 4), (60, 1), (0, 1), (5000, 3)])
def test_identity_with_any_number_of_tracks_and_frames(make_footage, make_solve, read, assert_identity, count, frames):
    footage = make_footage(frames=frames)
    solve = make_solve(footage, count=count)
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    empties = [ob for ob in bpy.context.scene.objects if ob.retake_track >= 0]
    assert len(empties) == min(count, shots.DEFAULT_DENSITY)
    assert_identity(read(root), solve)


@pytest.mark.parametrize("density", [0, 7, 60])
def test_identity_at_any_density(make_footage, make_solve, read, assert_identity, density):
    footage = make_footage()
    solve = make_solve(footage)
    root = shots.import_shot(bpy.context, footage, solve, density=density, set_scene=True)
    assert sum(ob.retake_track >= 0 for ob in bpy.context.scene.objects) == density
    assert_identity(read(root), solve)


def test_identity_where_the_scene_keeps_its_own_settings(make_footage, make_solve, read, assert_identity):
    """Another size, rate and pixel aspect of the scene are the artist's business."""
    footage = make_footage()
    solve = make_solve(footage, aspect=1.3, varying=True)
    render = bpy.context.scene.render
    render.resolution_x, render.resolution_y, render.fps = 777, 1234, 30
    bpy.context.scene.frame_start = 101
    root = shots.import_shot(bpy.context, footage, solve, set_scene=False)
    assert (render.resolution_x, render.resolution_y, render.fps) == (777, 1234, 30)
    assert root.retake.start == 101
    assert_identity(read(root), solve)


def test_skew_and_a_changing_ratio_of_focal_lengths_survive(make_footage, make_solve, read, assert_identity):
    footage = make_footage()
    solve = make_solve(footage, varying=True)
    K = solve.cameras.K.copy()
    K[:, 0, 1] = 3.5
    K[:, 1, 1] *= np.linspace(0.9, 1.1, len(K))
    solve = replace(solve, cameras=replace(solve.cameras, K=K))
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    edit = read(root)
    assert_identity(edit, solve)
    np.testing.assert_array_equal(edit.cameras.K, K)


@pytest.mark.parametrize(
    "root_matrix",
    [
        Matrix.Translation((3, -2, 5)),
        Euler((0.3, 1.2, -2.0)).to_matrix().to_4x4(),
        Matrix.Diagonal((2.5, 2.5, 2.5, 1)),
        Matrix.Translation((100, 50, 3))
        @ Euler((1, 2, 3)).to_matrix().to_4x4()
        @ Matrix.Diagonal((0.01, 0.01, 0.01, 1)),
        Matrix.Diagonal((1, 2, 0.5, 1)),
    ],
    ids=["moved", "turned", "scaled", "all", "scaled unevenly"],
)
def test_the_root_may_be_anywhere(shot, read, assert_identity, root_matrix):
    root, solve = shot
    root.matrix_world = root_matrix @ root.matrix_world
    assert_identity(read(root), solve)


def test_an_animated_root_changes_nothing(shot, read, assert_identity):
    root, solve = shot
    for frame, place in ((1, (0, 0, 0)), (8, (5, 1, 2))):
        root.location = place
        root.keyframe_insert("location", frame=frame)
    assert_identity(read(root), solve)


def test_what_is_snapped_to_the_source_was_near_it(shot, monkeypatch):
    """The identity must not be an artefact of a large tolerance: Blender's own numbers are within 2e-3 px."""
    root, solve = shot
    for module in (targets, target_camera):
        monkeypatch.setattr(module, "NOISE", 0.0)
    edit = readback.read_edit(bpy.context, root)[1]
    assert not np.array_equal(edit.positions, solve.tracks.positions)
    before, depth = solve.cameras.project(solve.tracks.positions)
    after, _ = edit.cameras.project(edit.positions)
    inside = geometry.inside_image(before, depth, solve.cameras.width, solve.cameras.height)
    assert np.abs(after - before)[inside].max() < 2e-3


def test_the_current_frame_is_restored(shot, read):
    root, _ = shot
    scene = bpy.context.scene
    scene.frame_set(5, subframe=0.25)
    before = root.retake.target_camera.matrix_world.copy()
    read(root)
    assert (scene.frame_current, scene.frame_subframe) == (5, 0.25)
    assert root.retake.target_camera.matrix_world == before


def test_what_is_disabled_or_excluded_is_still_read_and_stays_so(shot, read, assert_identity):
    root, solve = shot
    scene, layer = bpy.context.scene, bpy.context.view_layer.layer_collection
    own = layer.children["Retake"].children[root.retake.collection.name]
    empty = next(ob for ob in scene.objects if ob.retake_track >= 0)
    handle = objects.handles_of(root)[1]
    own.children[0].exclude = True
    empty.hide_viewport = handle.hide_viewport = True
    root.retake.target_camera.hide_set(True)
    assert_identity(read(root), solve)
    assert own.children[0].exclude
    assert empty.hide_viewport
    assert handle.hide_viewport
    own.exclude = True
    root.retake.collection.hide_viewport = True
    assert_identity(read(root), solve)
    assert own.exclude
    assert root.retake.collection.hide_viewport


def test_a_saved_file_needs_nothing_else(shot, read, assert_identity, tmp_path):
    root, solve = shot
    solve = replace(solve, depth=np.ones((len(solve), 4, 5), np.float32), masks=np.ones((len(solve), 4, 5), np.uint8))
    reference.store_solve(root.retake.reference.data, solve)
    name = root.name
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot é 1.blend"))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot é 1.blend"))
    reference._parsed.clear()  # as in a new Blender
    stored, edit = readback.read_edit(bpy.context, bpy.data.objects[name])
    assert_identity(edit, solve)
    np.testing.assert_array_equal(stored.depth, solve.depth)
    np.testing.assert_array_equal(stored.masks, solve.masks)
    np.testing.assert_array_equal(stored.tracks.ids, solve.tracks.ids)
    assert stored.object_names == solve.object_names


@pytest.mark.parametrize(
    ("clip", "solve_path"),
    [
        ("clips/juggle.mp4", "solves/juggle_planar.npz"),
        ("clips/apple.mp4", "solves/colmap_apple/sparse_bin"),
        ("clips/apple.mp4", "solves/colmap_apple/sparse_txt"),
        ("solves/vipe_cosmos/rgb/cosmos-example.mp4", "solves/vipe_cosmos"),
    ],
)
def test_real_solves_are_identities(sample_data, read, assert_identity, clip, solve_path):
    root = shots.import_files(
        bpy.context, str(sample_data / clip), str(sample_data / solve_path), density=300, set_scene=True
    )
    solve = objects.current_solve(root)
    assert root.retake.report
    assert_identity(read(root), solve)


def test_a_real_spatialtracker_solve_is_an_identity(sample_data, make_footage, read, assert_identity):
    footage = make_footage(256, 192, frames=13)
    root = shots.import_files(
        bpy.context, footage.path, str(sample_data / "solves/spatialtrackerv2_13f.npz"), set_scene=True
    )
    assert_identity(read(root), objects.current_solve(root))


def test_the_camera_preset_reader_agrees_with_blenders_evaluation(shot):
    """Presets read keys without evaluating the scene; both ways must see the same camera."""
    root, _ = shot
    target = root.retake.target_camera
    target.data.keyframe_insert("lens", frame=1)
    target.data.lens *= 1.5
    target.data.keyframe_insert("lens", frame=8)
    target.location.x += 0.3
    target.keyframe_insert("location", frame=4)
    bpy.context.scene.frame_set(1)
    fast = target_camera.read(bpy.context, root)
    target.constraints.new("LIMIT_LOCATION")  # which limits nothing
    slow = target_camera.read(bpy.context, root)
    np.testing.assert_allclose(fast.c2w, slow.c2w, atol=1e-5)
    np.testing.assert_allclose(fast.K, slow.K, atol=1e-3)
    assert np.ptp(fast.K[:, 0, 0]) > 10


def test_blender_sees_what_the_solver_saw(make_footage, make_solve):
    """Blender's own projection of an empty, by its own function, is the solver's pixel."""
    from bpy_extras.object_utils import world_to_camera_view

    footage = make_footage()
    solve = make_solve(footage, aspect=1.2, varying=True)
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    scene = bpy.context.scene
    uv, _ = solve.cameras.project(solve.tracks.positions)
    for frame in (0, 5):
        scene.frame_set(root.retake.start + frame)
        for empty in (ob for ob in scene.objects if ob.retake_track >= 0):
            x, y, _ = world_to_camera_view(scene, root.retake.source_camera, empty.matrix_world.translation)
            expected = uv[frame, empty.retake_track]
            assert abs(x * footage.width - expected[0]) < 2e-3
            assert abs((1 - y) * footage.height - expected[1]) < 2e-3


@pytest.mark.parametrize(
    ("axis", "degrees", "tilt"),
    [((1, 0, 0), 0, 8), ((1, 0, 0), 8, 16), ((0, 0, 1), 5, 10), ((1, 0.3, 0), 50, 0.1), ((0, 0, 1), -40, 0.1)],
)
def test_up_is_up(make_solve, make_footage, axis, degrees, tilt):
    """A nearly level camera keeps the solver's axis as up; any other stands upright by its own mean up."""
    cameras = make_solve(make_footage()).cameras
    c2w = cameras.c2w.copy()
    c2w[:, :3, :3] = geometry.axis_rotation(axis, np.radians(degrees)) @ c2w[:, :3, :3]
    rotation = np.array(camera.up_rotation(replace(cameras, c2w=c2w)))
    up = rotation @ -c2w[:, :3, 1].mean(0)
    assert np.degrees(np.arccos(up[2] / np.linalg.norm(up))) < tilt
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-6)
    assert (np.count_nonzero(np.abs(rotation) > 1e-6) == 3) == (degrees < 20 and degrees >= 0)


def test_a_world_that_stands_upright_is_not_turned(make_solve, make_footage):
    cameras = make_solve(make_footage()).cameras
    c2w = cameras.c2w.copy()
    c2w[:, :3, :3] = geometry.axis_rotation((0, 0, 1), 1.0) @ geometry.axis_rotation((1, 0, 0), -1.7) @ c2w[:, :3, :3]
    assert camera.up_rotation(replace(cameras, c2w=c2w)) == Matrix.Identity(3)


@pytest.mark.parametrize(
    ("rate", "fps", "scene"),
    [
        (24.0, Fraction(24), (24, 1.0)),
        (23.976024627685547, Fraction(24000, 1001), (24, 1.001)),
        (29.97002983093262, Fraction(30000, 1001), (30, 1.001)),
        (12.5, Fraction(25, 2), (12, 0.96)),
        (19.981035, None, None),
        (0.5, Fraction(1, 2), (1, 2.0)),
    ],
)
def test_frame_rates_are_exact(rate, fps, scene):
    found = footage_clip.exact_rate(rate)
    assert abs(float(found) - rate) < 2e-6 * rate
    whole, base = footage_clip.scene_rate(found)
    assert abs(whole / base - float(found)) < 1e-9
    if fps is not None:
        assert found == fps
        assert (whole, round(base, 9)) == scene


def test_straight_down_cameras_have_an_up(make_solve, make_footage):
    solve = make_solve(make_footage())
    c2w = np.tile(np.eye(4), (8, 1, 1))
    down = replace(solve.cameras, c2w=c2w)
    rotation = np.array(camera.up_rotation(down))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    c2w = c2w.copy()
    c2w[:, :3, :3] = geometry.axis_rotation((0, 0, 1), np.arange(8) * np.pi / 4)  # rolling all round: no mean up
    rotation = np.array(camera.up_rotation(replace(solve.cameras, c2w=c2w)))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)


def test_the_edit_of_a_shot_without_tracks_is_whole(make_footage, make_solve, read):
    footage = make_footage()
    solve = replace(make_solve(footage), tracks=Tracks.empty(8))
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    edit = read(root)
    assert isinstance(edit, Edit)
    assert edit.positions.shape == (8, 0, 3)
    edit.check_against(solve)
