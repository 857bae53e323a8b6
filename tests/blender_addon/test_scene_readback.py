"""What the artist does with Blender's own tools must arrive in the edit, exactly that and nothing else."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from mathutils import Matrix, Quaternion, Vector
from retake_shared import geometry
from retake_shared.errors import BadShot

from blender_addon.scene import objects, readback, shots


def handle(root, label):
    return next(h for h in objects.handles_of(root) if h.retake_handle.label == label)


def to_solve(root, vector):
    """A direction of Blender's world in the solve's."""
    bpy.context.view_layer.update()
    return np.array(root.matrix_world.to_3x3().inverted() @ Vector(vector))


def moved(solve, edit, number):
    """(T, n, 3): how far the targets of an object of the solve went."""
    own = edit.objects == number
    return edit.positions[:, own] - solve.tracks.positions[:, edit.source_track[own]]


def test_a_moved_handle_moves_its_object_and_nothing_else(shot, read):
    root, solve = shot
    before = handle(root, "man").location.copy()
    handle(root, "man").location = before + Vector((0.3, -0.2, 0.1))  # the root's axes are the solve's
    edit = read(root)
    np.testing.assert_allclose(
        moved(solve, edit, 1), np.broadcast_to([0.3, -0.2, 0.1], moved(solve, edit, 1).shape), atol=2e-6
    )
    for other in (0, 2):
        assert not moved(solve, edit, other).any()
    np.testing.assert_array_equal(edit.cameras.c2w, solve.cameras.c2w)


def test_keys_rotation_and_scale_of_a_handle(shot, read):
    root, solve = shot
    man = handle(root, "man")
    man.rotation_euler = (0, 0, 0)
    man.keyframe_insert("rotation_euler", frame=1)
    man.rotation_euler = (0, np.pi / 2, 0)
    man.keyframe_insert("rotation_euler", frame=8)
    man.scale = (2, 2, 2)
    edit = read(root)
    own = edit.objects == 1
    source, target = solve.tracks.positions[:, edit.source_track[own]], edit.positions[:, own]
    centre = np.array(man.retake_handle.centre) + np.array(root.retake.origin)
    np.testing.assert_allclose(target[0], centre + 2 * (source[0] - centre), atol=1e-5)
    quarter = geometry.axis_rotation((0, 1, 0), np.pi / 2)
    np.testing.assert_allclose(target[7], centre + 2 * (source[7] - centre) @ quarter.T, atol=1e-5)


@pytest.mark.parametrize("density", [2000, 20])
def test_tracks_without_an_empty_follow_their_handle(make_footage, make_solve, read, density):
    footage = make_footage()
    solve = make_solve(footage, count=120)
    root = shots.import_shot(bpy.context, footage, solve, density=density, set_scene=True)
    man = handle(root, "man")
    man.rotation_euler, man.scale, man.location.x = (0.4, 0.2, -0.3), (1.5, 0.5, 1), man.location.x + 1
    edit = read(root)
    bpy.context.view_layer.update()
    own = edit.objects == 1
    assert own.sum() == 40
    local = np.linalg.inv(np.array(root.matrix_world)) @ np.array(man.matrix_world)
    expected = geometry.transform(
        local, solve.tracks.positions[:, edit.source_track[own]] - np.array(man.retake_handle.centre)
    )
    np.testing.assert_allclose(edit.positions[:, own], expected, atol=1e-5)
    assert not moved(solve, edit, 0).any()


def test_tracks_without_an_empty_follow_their_neighbours(make_footage, make_solve, read):
    footage = make_footage()
    solve = make_solve(footage, count=120)
    root = shots.import_shot(bpy.context, footage, solve, density=30, set_scene=True)
    man = handle(root, "man")
    empties = objects.empties_under(man)
    for empty in empties:
        empty.delta_location = (0, 0.5, 0)  # all go the same way, so all between them go that way too
    edit = read(root)
    np.testing.assert_allclose(
        moved(solve, edit, 1), np.broadcast_to([0, 0.5, 0], moved(solve, edit, 1).shape), atol=1e-5
    )
    for empty in empties[1:]:
        empty.delta_location = (0, 0, 0)
    distance = np.linalg.norm(moved(solve, read(root), 1), axis=2).max(0)
    assert distance.max() == pytest.approx(0.5, abs=1e-5)
    assert (distance == 0).any()


def test_parents_and_constraints_and_drivers_count(shot, read):
    root, solve = shot
    scene = bpy.context.scene
    pusher = bpy.data.objects.new("pusher", None)
    scene.collection.objects.link(pusher)
    pusher.location = (0, 0, 0)
    pusher.keyframe_insert("location", frame=1)
    pusher.location = (0, 0, 2)
    pusher.keyframe_insert("location", frame=8)

    ball = handle(root, "ball")
    constraint = ball.constraints.new("COPY_LOCATION")
    constraint.target, constraint.use_offset = pusher, True
    up = to_solve(root, (0, 0, 1))
    np.testing.assert_allclose(moved(solve, read(root), 2)[7], np.tile(2 * up, (20, 1)), atol=1e-4)
    ball.constraints.clear()

    man = handle(root, "man")
    curve = man.driver_add("location", 0)
    curve.driver.expression = "frame * 0.1"
    rest = man.retake_handle.centre[0]
    by = moved(solve, read(root), 1)
    np.testing.assert_allclose(by[:, 0, 0], np.arange(1, 9) * 0.1 - rest, atol=1e-5)
    man.driver_remove("location", 0)
    man.location = man.retake_handle.centre

    scene.frame_set(1)
    inner = objects.empties_under(man)[0]
    kept = inner.matrix_world.copy()
    inner.parent = pusher  # hung elsewhere; still the man's track
    inner.matrix_parent_inverse = pusher.matrix_world.inverted() @ man.matrix_world
    edit = read(root)
    row = int(np.flatnonzero(edit.source_track == inner.retake_track)[0])
    assert edit.present[:, row].all()
    assert edit.objects[row] == 1
    np.testing.assert_allclose(
        edit.positions[7, row] - solve.tracks.positions[7, inner.retake_track], 2 * up, atol=1e-4
    )
    scene.frame_set(1)
    assert (inner.matrix_world.translation - kept.translation).length < 1e-5


def test_nla_and_edited_track_keys_count(shot, read):
    root, solve = shot
    man = handle(root, "man")
    man.keyframe_insert("location", frame=1)
    man.location.x += 1
    man.keyframe_insert("location", frame=2)
    action = man.animation_data.action
    slot = getattr(man.animation_data, "action_slot", None)
    track = man.animation_data.nla_tracks.new()
    strip = track.strips.new("move", 1, action)
    if slot is not None:
        strip.action_slot = slot
    man.animation_data.action = None
    by = moved(solve, read(root), 1)
    assert not by[0].any()
    np.testing.assert_allclose(by[4], np.tile([1, 0, 0], (20, 1)), atol=2e-6)

    ball_empty = objects.empties_under(handle(root, "ball"))[0]
    from blender_addon.scene import curves

    fcurve = curves.curves_of(ball_empty).find("location", index=1)
    fcurve.keyframe_points[3].co.y += 0.25
    row = ball_empty.retake_track
    by = read(root).positions[:, row] - solve.tracks.positions[:, row]
    np.testing.assert_allclose(by, np.where(np.arange(8)[:, None] == 3, [[0, 0.25, 0]], 0), atol=2e-6)


def test_a_keyed_camera_and_its_lens(shot, read):
    root, solve = shot
    target = root.retake.target_camera
    scene = bpy.context.scene
    scene.frame_set(8)
    # Blender's camera axes: right, up, backwards.
    target.matrix_basis = (
        target.matrix_basis @ Matrix.Translation((0.5, 0, 0)) @ Quaternion((0, 1, 0), 0.1).to_matrix().to_4x4()
    )
    target.keyframe_insert("location", frame=8)
    target.keyframe_insert("rotation_quaternion", frame=8)
    target.data.lens *= 2
    edit = read(root)
    np.testing.assert_array_equal(edit.cameras.c2w[:7], solve.cameras.c2w[:7])
    motion = np.linalg.inv(solve.cameras.c2w[7]) @ edit.cameras.c2w[7]
    np.testing.assert_allclose(motion[:3, 3], [0.5, 0, 0], atol=1e-5)
    np.testing.assert_allclose(motion[:3, :3], geometry.axis_rotation((0, -1, 0), 0.1), atol=1e-5)
    np.testing.assert_allclose(edit.cameras.K[:, 0, 0], 2 * solve.cameras.K[:, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(edit.cameras.K[:, 1, 1], 2 * solve.cameras.K[:, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(edit.cameras.K[:, :2, 2], solve.cameras.K[:, :2, 2])


def test_any_camera_can_be_the_target(shot, read):
    root, solve = shot
    own = bpy.data.objects.new("mine", bpy.data.cameras.new("mine"))
    bpy.context.scene.collection.objects.link(own)
    bpy.context.scene.frame_set(1)
    own.matrix_world = root.retake.source_camera.matrix_world
    own.data.lens = 50
    own.data.sensor_fit, own.data.sensor_width = "VERTICAL", 20  # any camera model that Blender has
    root.retake.target_camera = own
    edit = read(root)
    np.testing.assert_allclose(edit.cameras.c2w, np.tile(edit.cameras.c2w[0], (8, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(edit.cameras.c2w[0], solve.cameras.c2w[0], atol=1e-5)
    np.testing.assert_allclose(edit.cameras.K[:, 0, 0], 50 / own.data.sensor_height * 180, rtol=1e-5)
    own.data.type = "ORTHO"
    with pytest.raises(BadShot, match="mine"):
        readback.read_edit(bpy.context, root)
    bpy.data.objects.remove(own)
    with pytest.raises(BadShot, match="no camera"):
        readback.read_edit(bpy.context, root)


def test_deleted_empties_are_absent_and_renamed_ones_are_not(shot, read):
    root, solve = shot
    empties = objects.empties_under(handle(root, "man"))
    gone = [empties[0].retake_track, empties[5].retake_track]
    for empty in (empties[0], empties[5]):
        bpy.data.objects.remove(empty)
    for number, empty in enumerate(objects.empties_under(handle(root, "ball"))):
        empty.name = f"a{100 - number}"
    handle(root, "ball").name = "zz"
    edit = read(root)
    np.testing.assert_array_equal(edit.source_track, np.arange(60))
    np.testing.assert_array_equal(np.flatnonzero(~edit.present.any(0)), gone)
    assert edit.present[:, edit.present.any(0)].all()
    assert not moved(solve, edit, 2).any()
    assert edit.object_names[2] == "ball"


def test_a_deleted_handle_removes_its_object(shot, read):
    root, _ = shot
    bpy.data.objects.remove(handle(root, "ball"))
    edit = read(root)
    np.testing.assert_array_equal(edit.present, np.broadcast_to(edit.objects != 2, edit.present.shape))


def test_blenders_own_duplicate_is_a_second_object(shot, read):
    root, solve = shot
    ball = handle(root, "ball")
    for ob in bpy.context.selected_objects:
        ob.select_set(False)
    for ob in [ball, *objects.empties_under(ball)]:
        ob.select_set(True)
    bpy.ops.object.duplicate()
    copy = next(ob for ob in bpy.context.selected_objects if ob.retake_role == "HANDLE")
    assert copy != ball
    copy.location.x += 1
    edit = read(root)
    assert edit.positions.shape[1] == 80
    np.testing.assert_array_equal(edit.source_track[:60], np.arange(60))
    np.testing.assert_array_equal(edit.source_track[60:], np.flatnonzero(solve.tracks.objects == 2))
    number = edit.objects[60]
    assert number not in (0, 1, 2)
    assert edit.object_names[number] == "ball 2"
    np.testing.assert_allclose(moved(solve, edit, number), np.tile([1, 0, 0], (8, 20, 1)), atol=2e-6)
    assert not moved(solve, edit, 2).any()
    edit.check_against(solve)


def test_a_duplicated_empty_is_a_second_target_of_its_track(shot, read):
    root, solve = shot
    empty = objects.empties_under(handle(root, "man"))[3]
    for ob in bpy.context.selected_objects:
        ob.select_set(False)
    empty.select_set(True)
    bpy.ops.object.duplicate()
    bpy.context.selected_objects[0].delta_location.x = 0.5
    edit = read(root)
    both = np.flatnonzero(edit.source_track == empty.retake_track)
    by = edit.positions[:, both] - solve.tracks.positions[:, [empty.retake_track] * 2]
    assert sorted(np.round(by[0, :, 0], 5)) == [0, 0.5]


def test_removal_can_be_keyed(shot, read):
    root, _ = shot
    ball = handle(root, "ball")
    own = ball.retake_handle
    own.removed = False
    ball.keyframe_insert("retake_handle.removed", frame=1)
    own.removed = True
    ball.keyframe_insert("retake_handle.removed", frame=5)
    edit = read(root)
    expected = np.ones((8, 60), bool)
    expected[4:, edit.objects == 2] = False
    np.testing.assert_array_equal(edit.present, expected)


def test_two_shots_do_not_mix(make_footage, make_solve, read, assert_identity):
    one, two = make_footage(), make_footage(200, 100, frames=5, folder_name="other é")
    solves = make_solve(one), make_solve(two, count=33, seed=5, at=(9, 9, 9))
    roots = [shots.import_shot(bpy.context, f, s, set_scene=True) for f, s in zip((one, two), solves, strict=True)]
    handle(roots[0], "man").location.x += 1
    assert_identity(read(roots[1]), solves[1])
    assert moved(solves[0], read(roots[0]), 1).any()
    assert roots[0].retake.collection != roots[1].retake.collection
    assert roots[0].retake.clip != roots[1].retake.clip
    assert shots.active_shot(bpy.context) == roots[1]
    bpy.context.view_layer.objects.active = objects.empties_under(handle(roots[0], "ball"))[0]
    assert shots.active_shot(bpy.context) == roots[0]


def test_unkeyed_camera_changes_are_told_before_they_are_lost(shot):
    root, _ = shot
    bpy.context.scene.frame_set(3)
    assert readback.unkeyed_changes(bpy.context, root) == []
    root.retake.target_camera.location.x += 0.5
    handle(root, "man").location.x += 1  # no keys here: nothing is lost
    assert readback.unkeyed_changes(bpy.context, root) == [root.retake.target_camera.name]


def test_reading_can_be_abandoned(shot):
    root, _ = shot
    bpy.context.scene.frame_set(4)
    steps = readback.read_steps(bpy.context, root)
    assert [next(steps), next(steps), next(steps)] == [0, 1, 2]
    steps.close()
    assert bpy.context.scene.frame_current == 4


def test_a_root_of_scale_zero_is_told(shot):
    root, _ = shot
    root.scale = (0, 0, 0)
    with pytest.raises(BadShot, match="scale"):
        readback.read_edit(bpy.context, root)


def test_a_scene_that_changes_while_it_is_read_is_told(shot):
    """In the window the artist may delete something between two frames of a long reading."""
    root, _ = shot
    steps = readback.read_steps(bpy.context, root)
    while next(steps) == 0:
        pass
    bpy.data.objects.remove(objects.empties_under(handle(root, "man"))[0])
    with pytest.raises(BadShot, match="changed while it was read"):
        next(steps)


def test_a_keyed_choice_is_no_change(shot):
    root, _ = shot
    handle(root, "man").keyframe_insert("rotation_mode", frame=1)
    assert readback.unkeyed_changes(bpy.context, root) == []
