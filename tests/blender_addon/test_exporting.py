"""What Export writes is what the scene shows: read back by other code, or by Blender's importers."""

from __future__ import annotations

import json

import bpy
import numpy as np
import pytest
from mathutils import Matrix
from retake_shared import formats, geometry

from blender_addon.scene import exporting, objects, shots, tracking

FRAMES = 8


@pytest.fixture
def edited(shot):
    """(root, solve): the root turned, moved and scaled, the target camera raised, the man moved, a track's object gone."""
    root, solve = shot
    root.matrix_basis = (
        Matrix.Translation((3, -2, 1)) @ Matrix.Rotation(0.4, 4, "Z") @ root.matrix_basis @ Matrix.Scale(2.0, 4)
    )
    bpy.context.view_layer.update()
    camera = root.retake.target_camera
    parent = bpy.data.objects.new("crane", None)
    root.retake.collection.objects.link(parent)
    parent.parent, camera.parent = root, parent
    parent.location = (0.1, -0.3, 0.05)
    man = objects.own_handle(root, solve.object_number("man"))
    man.location.x += 0.4
    man.keyframe_insert("location", frame=root.retake.start)
    bpy.context.view_layer.update()
    return root, solve


def export(kind, path, **more):
    return bpy.ops.retake.export(kind=kind, filepath=str(path), **more)


def leftovers():
    kinds = ("scenes", "objects", "cameras", "actions", "collections", "meshes", "movieclips")
    return {kind: sorted(block.name for block in getattr(bpy.data, kind)) for kind in kinds}


def test_every_format_is_written_and_nothing_is_left_in_the_file(edited, tmp_path):
    bpy.context.scene.frame_set(3)
    before = leftovers()
    for kind, facts in exporting.KINDS.items():
        assert export(kind, tmp_path / kind, limit=5) == {"FINISHED"}, kind
        written = tmp_path / f"{kind}{facts.suffix}"
        assert written.is_file() if facts.suffix else any(written.iterdir())
    assert leftovers() == before
    assert bpy.context.scene.frame_current == 3
    assert not list(tmp_path.rglob("*part*"))


def test_the_edit_in_the_solvers_own_world(edited, read, tmp_path):
    root, solve = edited
    edit = read(root)
    assert export("npz", tmp_path / "a.npz") == {"FINISHED"}
    back, _ = formats.read(tmp_path / "a.npz")
    np.testing.assert_allclose(back.cameras.c2w, edit.cameras.c2w, atol=1e-12)
    np.testing.assert_allclose(back.tracks.positions, edit.positions, atol=1e-12)
    assert np.abs(back.cameras.c2w - solve.cameras.c2w).max() > 0.05
    assert export("nerfstudio", tmp_path / "ns", what="SOURCE") == {"FINISHED"}
    frames = json.loads((tmp_path / "ns" / "transforms.json").read_text())["frames"]
    poses = np.array([frame["transform_matrix"] for frame in frames]) @ np.diag([1, -1, -1, 1])
    np.testing.assert_allclose(poses, solve.cameras.c2w, atol=1e-12)


def test_chan_is_the_camera_of_the_scene_with_y_up(edited, tmp_path):
    root, _ = edited
    assert export("chan", tmp_path / "a.chan") == {"FINISHED"}
    table = np.loadtxt(tmp_path / "a.chan")
    assert table[0, 0] == root.retake.start
    scene = bpy.context.scene
    for row in table:
        scene.frame_set(int(row[0]))
        world = root.retake.target_camera.matrix_world
        x, y, z = world.translation
        np.testing.assert_allclose(row[1:4], [x, z, -y], atol=1e-4)
        rx, ry, rz = np.radians(row[4:7])
        made = Matrix.Rotation(ry, 3, "Y") @ Matrix.Rotation(rx, 3, "X") @ Matrix.Rotation(rz, 3, "Z")
        turned = Matrix(((1, 0, 0), (0, 0, 1), (0, -1, 0))) @ world.to_3x3().normalized()
        np.testing.assert_allclose(made, turned, atol=1e-5)


def imported(kind, path):
    """The objects that Blender's own importer makes of a file, in an empty scene."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    if kind == "alembic":
        bpy.ops.wm.alembic_import(filepath=str(path), as_background_job=False)
    elif kind == "usd":
        bpy.ops.wm.usd_import(filepath=str(path))
    else:
        bpy.ops.import_scene.fbx(filepath=str(path), anim_offset=0.0)
    return list(bpy.data.objects)


@pytest.mark.parametrize("kind", ["alembic", "usd", "fbx"])
def test_blenders_formats_show_every_point_where_the_edit_does(edited, read, tmp_path, kind):
    root, solve = edited
    edit = read(root)
    start = root.retake.start
    uv, depth = edit.cameras.project(edit.positions)
    man = objects.own_handle(root, solve.object_number("man"))
    bpy.context.scene.frame_set(start + 5)
    man_at = np.array(man.matrix_world.translation)
    path = tmp_path / f"a{exporting.KINDS[kind].suffix}"
    assert export(kind, path, limit=20) == {"FINISHED"}
    names = sorted(int(i) for i in solve.tracks.ids)

    made = imported(kind, path)
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = 320, 180
    camera = next(ob for ob in made if ob.type == "CAMERA")
    empties = {}
    for ob in made:
        last = ob.name.replace("_", " ").split(" ")[-1].split(".")[0]
        if ob.type == "EMPTY" and last.isdecimal() and int(last) in names:
            empties[names.index(int(last))] = ob
    assert len(empties) == 20
    for row in (0, 5, FRAMES - 1):
        scene.frame_set(start + row)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        projection = np.array(camera.evaluated_get(depsgraph).calc_matrix_camera(depsgraph, x=320, y=180))
        view = np.linalg.inv(np.array(camera.matrix_world.normalized()))
        for column, empty in empties.items():
            if not geometry.inside_image(uv[row, column], depth[row, column], 320, 180):
                continue
            clip = projection @ view @ np.append(empty.matrix_world.translation, 1)
            shown = [160 + 160 * clip[0] / clip[3], 90 - 90 * clip[1] / clip[3]]
            np.testing.assert_allclose(shown, uv[row, column], atol=0.02)
    scene.frame_set(start + 5)
    handle = next(ob for ob in made if ob.type == "EMPTY" and ob.name.replace("_", " ").endswith(" man"))
    np.testing.assert_allclose(handle.matrix_world.translation, man_at, atol=1e-3)


def test_removed_objects_are_not_written(edited, tmp_path):
    root, _ = edited
    assert bpy.ops.retake.remove_object(object="ball") == {"FINISHED"}
    labels = exporting.handle_matrices(bpy.context, root, FRAMES)
    assert set(labels) == {"background", "man"}


def test_a_format_that_is_switched_off_is_said(edited, tmp_path):
    import addon_utils

    assert exporting.why_unavailable("fbx") == ""
    addon_utils.disable("io_scene_fbx")
    try:
        with pytest.raises(RuntimeError, match="FBX Format is switched off"):
            export("fbx", tmp_path / "a.fbx")
    finally:
        addon_utils.enable("io_scene_fbx")


def test_a_place_that_cannot_be_is_an_answer(edited, tmp_path):
    (tmp_path / "file").write_text("")
    for kind in ("nuke", "alembic"):
        with pytest.raises(RuntimeError, match="cannot be written"):
            export(kind, tmp_path / "file" / "a")


def test_the_suffix_follows_the_format(edited, tmp_path):
    assert export("nuke", tmp_path / "shot.v2.fbx") == {"FINISHED"}
    assert [path.name for path in tmp_path.iterdir()] == ["shot.v2.nk"]


def test_the_operators_make_a_clip_of_a_shot_and_a_shot_of_the_clip(make_footage, make_solve):
    footage = make_footage(frames=20)
    root = shots.import_shot(bpy.context, footage, make_solve(footage, count=150, scale=3.0), set_scene=True)
    assert bpy.ops.retake.clip_from_shot(limit=120) == {"FINISHED"}
    follower = next(ob for ob in bpy.data.objects if ob.name.endswith("tracked camera"))
    assert follower.constraints[0].clip == tracking.solved_clips()[0]
    assert bpy.ops.retake.import_clip(clip=tracking.solved_clips()[0].name) == {"FINISHED"}
    other = shots.active_shot(bpy.context)
    assert other != root
    assert "Solved by Blender" in other.retake.report
