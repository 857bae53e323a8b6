"""The edit tools, through their operators: each does what its name says to the edit, and undo-able in one step."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from retake_shared import camera_moves, geometry
from retake_shared.retiming import retimed_frames

from blender_addon.scene import curves, objects, readback, shots


def handle(root, label):
    return next(h for h in objects.handles_of(root) if h.retake_handle.label == label)


def select(*chosen):
    for ob in bpy.context.selected_objects:
        ob.select_set(False)
    for ob in chosen:
        ob.select_set(True)


def test_tracks_change_object_and_stay_where_they_are(shot, read, assert_identity):
    root, _ = shot
    empties = objects.empties_under(handle(root, "man"))[:4]
    rows = [empty.retake_track for empty in empties]
    select(*empties)
    assert bpy.ops.retake.assign_selected(object="ball") == {"FINISHED"}
    assert {objects.handle_of(empty).retake_handle.label for empty in empties} == {"ball"}
    now = objects.current_solve(root)
    assert (now.tracks.objects[rows] == 2).all()
    assert_identity(read(root), now)
    handle(root, "ball").location.x += 1
    edit = read(root)
    by = (edit.positions - now.tracks.positions)[0, :, 0]
    np.testing.assert_allclose(by, np.where(now.tracks.objects == 2, 1.0, 0.0), atol=2e-6)


@pytest.mark.parametrize("density", [2000, 10])
def test_a_new_object_of_a_box_in_the_picture(make_footage, make_solve, read, assert_identity, density):
    footage = make_footage()
    solve = make_solve(footage, count=90)
    root = shots.import_shot(bpy.context, footage, solve, density=density, set_scene=True)
    uv, _ = solve.cameras.project(solve.tracks.positions)
    left, top, right, bottom = 100, 60, 190, 130
    u, v = uv[4].T
    expected = solve.tracks.visibility[4] & (u >= left) & (u < right) & (v >= top) & (v < bottom)
    assert 3 < expected.sum() < 90
    select()
    bpy.ops.retake.add_object(name="box")
    bpy.ops.retake.assign_box(object="box", left=left, top=top, right=right, bottom=bottom, frame=5)
    now = objects.current_solve(root)
    number = now.object_number("box")
    np.testing.assert_array_equal(now.tracks.objects == number, expected)
    assert_identity(read(root), now)
    handle(root, "box").location.z += 0.5
    edit = read(root)
    by = (edit.positions - now.tracks.positions)[3, :, 2]
    np.testing.assert_allclose(by, np.where(expected, 0.5, 0.0), atol=2e-6)


def test_a_mask_picture_of_another_size(shot, tmp_path):
    root, solve = shot
    mask = np.zeros((90, 160), bool)
    mask[:40, 80:] = True  # above, on the right
    image = bpy.data.images.new("mask", 160, 90)
    pixels = np.ones((90, 160, 4), np.float32)
    pixels[..., :3] = mask[::-1, :, None]
    image.pixels.foreach_set(pixels.ravel())
    image.filepath_raw, image.file_format = str(tmp_path / "mask é.png"), "PNG"
    image.save()
    before = len(bpy.data.images)
    bpy.ops.retake.assign_mask(object="ball", filepath=str(tmp_path / "mask é.png"), frame=3, hidden=True)
    assert len(bpy.data.images) == before
    uv, _ = solve.cameras.project(solve.tracks.positions)
    u, v = uv[2].T
    under = (u >= 160) & (u < 320) & (v >= 0) & (v < 80)
    assert 3 < under.sum() < 40
    np.testing.assert_array_equal(objects.current_solve(root).tracks.objects == 2, (solve.tracks.objects == 2) | under)


def test_add_object_takes_the_selected_tracks(shot, read, assert_identity):
    root, _ = shot
    empties = objects.empties_under(handle(root, "background"))[:6]
    select(*empties)
    assert bpy.ops.retake.add_object(name="man") == {"FINISHED"}
    added = bpy.context.active_object
    assert added.retake_handle.label == "man 2"
    assert len(objects.empties_under(added)) == 6
    now = objects.current_solve(root)
    assert now.object_names[added.retake_handle.number] == "man 2"
    assert_identity(read(root), now)


@pytest.mark.parametrize("density", [2000, 10])
@pytest.mark.parametrize(
    "timing",
    [
        {"offset": 3.0},
        {"offset": -1.5},
        {"speed": 0.5},
        {"speed": 2.0, "offset": 1.0},
        {"reverse": True},
        {"freeze": 2},
    ],
    ids=str,
)
def test_retiming(make_footage, make_solve, read, timing, density):
    footage = make_footage()
    solve = make_solve(footage)
    root = shots.import_shot(bpy.context, footage, solve, density=density, set_scene=True)
    ball = handle(root, "ball")
    ball.location.y += 0.25  # the artist's own edit of the handle stays
    assert bpy.ops.retake.retime(object="ball", **timing) == {"FINISHED"}
    edit = read(root)
    expected = retimed_frames(8, **timing)
    own = edit.objects == 2
    np.testing.assert_allclose(edit.source_frame[:, own], np.broadcast_to(expected[:, None], (8, 20)), atol=1e-6)
    np.testing.assert_array_equal(edit.source_frame[:, ~own], np.broadcast_to(np.arange(8)[:, None], (8, 40)))
    source = geometry.sample_rows(solve.tracks.positions[:, own], expected)
    np.testing.assert_allclose(edit.positions[:, own], source + np.array([0, 0.25, 0]), atol=1e-5)
    assert not (edit.positions - solve.tracks.positions)[:, ~own].any()


def test_retiming_keeps_edited_track_keys_and_comes_back_exactly(shot, read, assert_identity):
    root, solve = shot
    ball = handle(root, "ball")
    empty = objects.empties_under(ball)[2]
    key = curves.curves_of(empty).find("location", index=2).keyframe_points[5]
    before = key.co.y
    key.co.y += 0.5
    for offset in (2.0, -3.0, 0.0):
        bpy.ops.retake.retime(object="ball", offset=offset)
    edit = read(root)
    by = edit.positions - solve.tracks.positions
    assert by[5, empty.retake_track, 2] == pytest.approx(0.5, abs=1e-5)
    assert np.count_nonzero(np.abs(by).max(2)) == 1
    curves.curves_of(empty).find("location", index=2).keyframe_points[5].co.y = before
    assert_identity(read(root), solve)


def test_retiming_that_no_motion_can_have_changes_nothing(shot, read, assert_identity):
    root, solve = shot
    with pytest.raises(RuntimeError, match="freeze"):
        bpy.ops.retake.retime(object="ball", freeze=99)
    with pytest.raises(RuntimeError, match="freeze"):
        bpy.ops.retake.retime(object="ball", freeze=2, offset=1)
    assert handle(root, "ball").retake_handle.offset == 0
    assert_identity(read(root), solve)


def test_duplicate_has_keys_of_its_own(shot, read):
    root, solve = shot
    ball = handle(root, "ball")
    ball.keyframe_insert("location", frame=1)
    assert bpy.ops.retake.duplicate_object(object="ball") == {"FINISHED"}
    copy = bpy.context.active_object
    assert copy.retake_handle.label == "ball 2"
    copy.location.x += 2
    copy.keyframe_insert("location", frame=1)
    bpy.ops.retake.retime(object="ball 2", offset=2)
    edit = read(root)
    number = copy.retake_handle.number
    own, first = edit.objects == number, edit.objects == 2
    assert own.sum() == first.sum() == 20
    assert edit.object_names[number] == "ball 2"
    np.testing.assert_array_equal(edit.source_track[own], edit.source_track[first])
    assert not (edit.positions[:, first] - solve.tracks.positions[:, edit.source_track[first]]).any()
    source = geometry.sample_rows(solve.tracks.positions[:, edit.source_track[own]], retimed_frames(8, 2))
    np.testing.assert_allclose(edit.positions[:, own], source + np.array([2, 0, 0]), atol=1e-5)
    select(*objects.empties_under(handle(root, "man"))[:2])
    with pytest.raises(RuntimeError, match="copy"):
        bpy.ops.retake.assign_selected(object="ball 2")


def test_remove_and_restore(shot, read, assert_identity):
    root, solve = shot
    bpy.context.view_layer.objects.active = objects.empties_under(handle(root, "man"))[0]
    bpy.ops.retake.remove_object()
    edit = read(root)
    np.testing.assert_array_equal(edit.present, np.broadcast_to(edit.objects != 1, edit.present.shape))
    assert all(empty.hide_get() for empty in objects.empties_under(handle(root, "man")))
    bpy.ops.retake.restore_object(object="man")
    assert_identity(read(root), solve)


def test_reset_object(shot, read, assert_identity):
    root, solve = shot
    man = handle(root, "man")
    man.location, man.rotation_euler, man.scale = (4, 5, 6), (1, 1, 1), (2, 1, 1)
    man.keyframe_insert("location", frame=3)
    man.constraints.new("LIMIT_SCALE")
    bpy.ops.retake.retime(object="man", reverse=True)
    bpy.ops.retake.remove_object(object="man")
    curves.curves_of(objects.empties_under(man)[0]).find("location", index=0).keyframe_points[1].co.y += 1
    bpy.ops.retake.reset_object(object="man")
    assert_identity(read(root), solve)


MOVES = [
    ("orbit", {"degrees": 20.0}, lambda c, p: camera_moves.orbit(c, 20.0, p, axis=camera_moves.mean_up(c))),
    ("orbit", {"degrees": -9.0, "frames": (3, 6), "ease": "linear"}, None),
    ("dolly", {"distance": 0.7}, lambda c, p: camera_moves.dolly(c, 0.7)),
    ("push_in", {"factor": 0.3}, lambda c, p: camera_moves.push_in(c, 0.3, p)),
    ("push_in", {"factor": 0.3, "keep_size": True}, lambda c, p: camera_moves.push_in(c, 0.3, p, keep_size=True)),
    ("freeze_camera", {"frame": 4}, lambda c, p: camera_moves.freeze(c, 3)),
]


@pytest.mark.parametrize(("move", "options", "expected"), MOVES, ids=[f"{m[0]}{i}" for i, m in enumerate(MOVES)])
def test_camera_presets(make_footage, make_solve, read, assert_identity, move, options, expected):
    footage = make_footage()
    solve = make_solve(footage, varying=True, aspect=1.1, at=(3000, 0, 0))
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    bpy.context.scene.frame_set(2)
    assert getattr(bpy.ops.retake, move)(**options) == {"FINISHED"}
    assert bpy.context.scene.frame_current == 2
    edit = read(root)
    assert not (edit.positions - solve.tracks.positions).any()
    if expected is None:  # a part of the shot: untouched before, held after
        np.testing.assert_array_equal(edit.cameras.c2w[:3], solve.cameras.c2w[:3])
        assert not np.allclose(edit.cameras.c2w[4], solve.cameras.c2w[4], atol=1e-3)
    else:
        cameras = expected(solve.cameras, camera_moves.default_pivot(solve))
        before, depth = cameras.project(solve.tracks.positions)
        after, _ = edit.cameras.project(solve.tracks.positions)
        inside = geometry.inside_image(before, depth, 320, 180)
        assert inside.any()
        assert np.abs(after - before)[inside].max() < 2e-3
        np.testing.assert_allclose(edit.cameras.K, cameras.K, rtol=1e-5, atol=1e-3)
    assert bpy.ops.retake.reset_camera() == {"FINISHED"}
    assert_identity(read(root), solve)


def test_moves_add_to_each_other_and_to_what_moves_the_camera(shot, read):
    root, solve = shot
    bpy.ops.retake.dolly(distance=0.2)
    parent = bpy.data.objects.new("crane", None)
    bpy.context.scene.collection.objects.link(parent)
    parent.matrix_world = root.matrix_world
    target = root.retake.target_camera
    target.parent = parent
    parent.location.z += 0.1
    up = np.array(root.matrix_world.to_3x3().inverted())[:, 2] * 0.1
    bpy.ops.retake.orbit(degrees=5, pivot="OBJECT", object="man")
    assert target.parent == root
    bpy.context.view_layer.update()
    pivot = camera_moves.default_pivot(solve, 1)
    cameras = camera_moves.dolly(solve.cameras, 0.2)
    cameras = camera_moves.offset(cameras, np.tile(up, (8, 1)), np.tile(np.eye(3), (8, 1, 1)), np.ones(8))
    cameras = camera_moves.orbit(cameras, 5, pivot, axis=camera_moves.mean_up(solve.cameras))
    np.testing.assert_allclose(read(root).cameras.c2w, cameras.c2w, atol=1e-5)


def test_a_deleted_camera_comes_back(shot, read, assert_identity):
    root, solve = shot
    bpy.data.objects.remove(root.retake.target_camera)
    assert bpy.ops.retake.reset_camera() == {"FINISHED"}
    assert bpy.context.scene.camera == root.retake.target_camera
    assert root.retake.target_camera.data.clip_end == root.retake.source_camera.data.clip_end
    assert_identity(read(root), solve)


def test_every_operator_says_why_it_is_off(fresh_scene):
    names = [n for n in dir(bpy.ops.retake) if n.startswith(("assign", "add_object", "duplicate", "retime", "orbit"))]
    assert len(names) >= 6
    for name in names:
        with pytest.raises(RuntimeError, match="Import a shot first"):
            getattr(bpy.ops.retake, name)()


def test_wrong_names_are_told_with_the_right_ones(shot):
    with pytest.raises(RuntimeError, match="background, man, ball"):
        bpy.ops.retake.remove_object(object="dog")
    bpy.context.view_layer.objects.active = None
    with pytest.raises(RuntimeError, match="no object is chosen"):
        bpy.ops.retake.remove_object()
    select()
    with pytest.raises(RuntimeError, match="no track is selected"):
        bpy.ops.retake.assign_selected(object="man")


def test_edits_undo_in_one_step(shot):
    root, _ = shot
    name = root.name
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.retake.retime(object="ball", offset=2)
    bpy.ops.retake.duplicate_object(object="man")
    bpy.ops.ed.undo_push(message="edits")
    bpy.ops.ed.undo()
    root = bpy.data.objects[name]
    assert handle(root, "ball").retake_handle.offset == 0
    assert len(objects.handles_of(root)) == 3
    solve, edit = readback.read_edit(bpy.context, root)
    assert not (edit.positions - solve.tracks.positions).any()


def test_of_two_with_one_label_the_one_meant_is_changed(shot):
    """Blender's own Duplicate copies the label."""
    root, _ = shot
    first = handle(root, "man")
    second = first.copy()
    root.retake.collection.objects.link(second)
    addresses = objects.addresses(root)
    assert addresses[first] != addresses[second]
    assert addresses[handle(root, "ball")] == "ball"
    bpy.ops.retake.remove_object(object=addresses[second])
    assert (first.retake_handle.removed, second.retake_handle.removed) == (False, True)
    bpy.ops.retake.remove_object(object=addresses[first])
    assert first.retake_handle.removed


def test_selected_tracks_of_another_shot_are_left_alone(shot, make_footage, make_solve):
    footage = make_footage(folder_name="second")
    other = shots.import_shot(bpy.context, footage, make_solve(footage, seed=1), set_scene=False)
    root, solve = shot
    theirs, ours = (objects.empties_under(handle(r, "ball"))[:2] for r in (other, root))
    row = ours[0].retake_track
    select(theirs[1], ours[0])
    bpy.context.view_layer.objects.active = root
    bpy.ops.retake.assign_selected(object="man")
    changed = objects.current_solve(root).tracks.objects != solve.tracks.objects
    assert np.flatnonzero(changed).tolist() == [row]


def test_a_frame_outside_the_shot_is_told_in_the_numbers_of_the_timeline(shot):
    root, _ = shot
    last = root.retake.start + root.retake.frames - 1
    for run in (
        lambda: bpy.ops.retake.freeze_camera(frame=last + 5),
        lambda: bpy.ops.retake.assign_box(object="man", frame=last + 5, right=9, bottom=9),
    ):
        with pytest.raises(RuntimeError, match=rf"frame {last + 5} is not in the shot.*{root.retake.start} to {last}"):
            run()


def test_what_the_view_layer_excludes_is_edited_all_the_same(shot):
    root, _ = shot
    bpy.context.view_layer.layer_collection.children["Retake"].exclude = True
    assert bpy.ops.retake.duplicate_object(object="man") == {"FINISHED"}
    assert bpy.ops.retake.select_tracks(object="man") == {"FINISHED"}
    assert len(objects.handles_of(root)) == 4


def test_a_shot_whose_collection_was_deleted_goes_on(shot, read, assert_identity):
    """Delete in the outliner moves what was in it one up."""
    root, solve = shot
    own = root.retake.collection
    parent = bpy.data.collections["Retake"]
    for ob in own.objects:
        parent.objects.link(ob)
    for inner in own.children:
        parent.children.link(inner)
    bpy.data.collections.remove(own)
    assert root.retake.collection is None
    assert [h.retake_handle.label for h in objects.handles_of(root)] == ["background", "man", "ball"]
    assert_identity(read(root), solve)
    assert bpy.ops.retake.duplicate_object(object="man") == {"FINISHED"}
    handle(root, "ball").retake_handle.depth = 0.5
    assert len(objects.handles_of(root)) == 4


def test_the_camera_is_a_perspective_camera_again_after_a_reset(shot, read, assert_identity):
    root, solve = shot
    root.retake.target_camera.data.type = "ORTHO"
    assert bpy.ops.retake.reset_camera() == {"FINISHED"}
    assert_identity(read(root), solve)
