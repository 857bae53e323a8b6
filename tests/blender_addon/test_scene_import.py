"""A shot comes in whole or not at all, plays at its true frames, and says what it did to the scene."""

from __future__ import annotations

import shutil
import types
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import bpy
import numpy as np
import pytest
from retake_shared import archive
from retake_shared.errors import BadFile, BadShot

from blender_addon.scene import footage_clip, objects, pairing, reference, shots, tracks

KINDS = ("objects", "collections", "cameras", "meshes", "actions", "movieclips", "node_groups", "images", "texts")


def everything():
    return {kind: sorted(block.name for block in getattr(bpy.data, kind)) for kind in KINDS}


def scene_settings(scene):
    render = scene.render
    return (
        render.fps, render.fps_base, render.resolution_x, render.resolution_y, render.pixel_aspect_x,
        render.pixel_aspect_y, scene.frame_start, scene.frame_end, scene.view_settings.view_transform, scene.camera,
        scene.retake_shot,
    )  # fmt: skip


@pytest.fixture
def files(make_footage, make_solve, tmp_path):
    """(footage path, solve path) on disk, with a space and an accent in their folder."""
    footage = make_footage(folder_name="clip é 1")
    solve = make_solve(footage)
    path = tmp_path / "sölve 1.npz"
    archive.save(path, solve)
    return footage.path, str(path), solve


def test_the_operator_imports_and_sets_up_the_scene(files, read, assert_identity):
    footage, path, solve = files
    assert bpy.ops.retake.import_shot(footage=footage, solve=path, density=30) == {"FINISHED"}
    scene = bpy.context.scene
    root = shots.active_shot(bpy.context)
    assert_identity(read(root), solve)
    assert (scene.render.resolution_x, scene.render.resolution_y) == (320, 180)
    assert (scene.frame_start, scene.frame_end) == (1, 8)
    assert scene.view_settings.view_transform == "Standard"
    assert scene.camera == root.retake.target_camera
    assert "Reprojection" in root.retake.report
    source = root.retake.source_camera
    assert all(source.lock_location)
    assert all(source.lock_rotation)
    assert source.hide_select
    assert len(source.data.background_images) == len(root.retake.target_camera.data.background_images) == 1


def test_import_is_one_undo_step(files):
    footage, path, _ = files
    bpy.ops.ed.undo_push(message="before")
    before = everything()
    bpy.ops.retake.import_shot(footage=footage, solve=path)
    bpy.ops.ed.undo_push(message="Import Shot")  # what Blender's window does after an operator with UNDO
    assert everything() != before
    bpy.ops.ed.undo()
    assert everything() == before
    assert bpy.context.scene.retake_shot is None
    bpy.ops.ed.redo()
    assert shots.active_shot(bpy.context) is not None


@pytest.mark.parametrize("place", ["camera.create", "tracks.create", "reference.create", "objects.create_handle"])
def test_a_failed_import_leaves_nothing_behind(make_footage, make_solve, monkeypatch, place):
    footage = make_footage()
    solve = make_solve(footage)
    shots.import_shot(bpy.context, footage, solve, set_scene=True)  # another shot is there, and must stay whole
    before, settings = everything(), scene_settings(bpy.context.scene)
    owner, name = place.split(".")
    owner = getattr(shots, owner)
    real = getattr(owner, name)

    def half_done(*arguments, **options):
        real(*arguments, **options)
        raise MemoryError("no more")

    monkeypatch.setattr(owner, name, half_done)
    with pytest.raises(MemoryError):
        shots.import_shot(bpy.context, footage, solve, set_scene=True)
    assert everything() == before
    assert scene_settings(bpy.context.scene) == settings


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f, s, d: (str(d / "not there.mp4"), s), "is not there"),
        (lambda f, s, d: (f, str(d / "not there.npz")), "not there.npz"),
        (lambda f, s, d: (_write(d / "no video.mp4", b"this is text"), s), "no picture"),
        (lambda f, s, d: (str(d), s), "no pictures"),
        (lambda f, s, d: (f, _write(d / "cut.npz", Path(s).read_bytes()[:2000])), "cut.npz"),
        (lambda f, s, d: (f, _write(d / "pickle.npz", b"\x80\x04K\x01.")), "pickle.npz"),
    ],
    ids=["no footage", "no solve", "no video stream", "empty folder", "truncated solve", "pickle"],
)
def test_bad_files_are_told_and_leave_nothing(files, tmp_path, damage, message):
    folder = tmp_path / "bad"
    folder.mkdir()
    footage, solve = damage(files[0], files[1], folder)
    before, settings = everything(), scene_settings(bpy.context.scene)
    with pytest.raises(RuntimeError, match=message):  # how Blender raises a reported error in scripts
        bpy.ops.retake.import_shot(footage=footage, solve=solve)
    assert everything() == before
    assert scene_settings(bpy.context.scene) == settings


def _write(path, data):
    path.write_bytes(data)
    return str(path)


def test_a_solve_longer_than_its_footage_is_refused(make_footage, make_solve, tmp_path):
    long = make_solve(make_footage(frames=9))
    archive.save(tmp_path / "long.npz", long)
    with pytest.raises(BadShot, match="9 frames"):
        shots.import_files(bpy.context, make_footage(frames=8).path, str(tmp_path / "long.npz"), set_scene=True)


def test_a_solve_of_another_size_is_brought_to_the_footage(make_footage, make_solve, tmp_path, read, assert_identity):
    solve = make_solve(make_footage(160, 90))
    archive.save(tmp_path / "small.npz", solve)
    root = shots.import_files(bpy.context, make_footage(320, 180).path, str(tmp_path / "small.npz"), set_scene=True)
    now = objects.current_solve(root)
    np.testing.assert_allclose(now.cameras.K[:, 0, 0], 2 * solve.cameras.K[:, 0, 0])
    assert_identity(read(root), now)
    with pytest.raises(BadShot, match="160x90"):
        shots.import_shot(bpy.context, make_footage(320, 180), solve, set_scene=True)


def test_broadcast_rates_are_exact(make_footage, make_solve):
    footage = make_footage(fps=Fraction(24000, 1001))
    shots.import_shot(bpy.context, footage, make_solve(footage), set_scene=True)
    render = bpy.context.scene.render
    assert render.fps == 24
    assert render.fps_base == np.float32(1.001)


def test_pixel_aspect_follows_the_solve(make_footage, make_solve):
    footage = make_footage()
    shots.import_shot(bpy.context, footage, make_solve(footage, aspect=1.3), set_scene=True)
    render = bpy.context.scene.render
    assert render.pixel_aspect_y / render.pixel_aspect_x == pytest.approx(1.3, rel=1e-6)


def test_real_footage_is_probed_exactly(sample_data):
    facts = {
        "clips/juggle.mp4": (1280, 720, 247, 24),
        "clips/apple.mp4": (1296, 720, 50, 10),
        "clips/bigbuckbunny.mp4": (1280, 720, 132, 25),
        "solves/vipe_cosmos/rgb/cosmos-example.mp4": (1280, 704, 81, 16),
    }
    for path, expected in facts.items():
        footage = footage_clip.probe(str(sample_data / path), bpy.context.scene)
        assert (footage.width, footage.height, footage.frames, footage.fps) == expected
    assert not bpy.data.movieclips


def test_the_background_shows_true_frames(make_footage, make_solve):
    footage = make_footage()
    scene = bpy.context.scene
    scene.frame_start = 101
    root = shots.import_shot(bpy.context, footage, make_solve(footage), set_scene=True)
    assert root.retake.start == 101
    assert (scene.frame_start, scene.frame_end) == (101, 108)
    clip = root.retake.source_camera.data.background_images[0].clip
    assert clip.frame_start == 101
    assert clip.frame_duration == 8


def test_a_scene_in_use_is_asked_about(make_footage, make_solve):
    footage = make_footage(fps=Fraction(30))
    scene = bpy.context.scene
    assert footage_clip.settings_at_stake(scene, footage) == []
    cube = bpy.data.objects.new("cube", None)
    scene.collection.objects.link(cube)
    cube.keyframe_insert("location", frame=1)
    stake = " ".join(footage_clip.settings_at_stake(scene, footage))
    assert "frame rate 24.000 to 30.000" in stake
    assert "1920x1080 to 320x180" in stake
    footage_clip.apply_settings(scene, footage, 8, 1, (1, 1))
    assert footage_clip.settings_at_stake(scene, footage) == []


def test_the_partner_is_found_beside(files, tmp_path, sample_data):
    _footage, solve, _ = files
    folder = tmp_path / "both"
    folder.mkdir()
    video = folder / "walk.mp4"
    video.write_bytes(b"")
    assert pairing.find_solve(video) is None
    shutil.copy(solve, folder / "walk.result.npz")
    assert pairing.find_solve(video) == folder / "walk.result.npz"
    assert pairing.find_footage(folder / "walk.result.npz") == video
    np.savez(folder / "walk.npz", nothing=np.zeros(1))  # named better, but no solve
    assert pairing.find_solve(video) == folder / "walk.result.npz"
    vipe = sample_data / "solves/vipe_cosmos"
    assert pairing.find_footage(vipe) == vipe / "rgb/cosmos-example.mp4"
    assert bpy.ops.retake.import_shot(filepath=str(vipe / "rgb/cosmos-example.mp4")) == {"FINISHED"}


def test_empties_are_spread_over_objects_and_picture(make_footage, make_solve):
    footage = make_footage()
    solve = make_solve(footage, count=3000)
    uneven = solve.tracks.objects.copy()
    uneven[:] = 0
    uneven[:30] = 1  # a small object keeps enough to be shaped by
    solve = replace(solve, tracks=replace(solve.tracks, objects=uneven))
    rows = tracks.choose(solve.tracks, solve.cameras, 300)
    assert len(rows) == 300
    assert (np.diff(rows) > 0).all()
    assert (uneven[rows] == 1).sum() >= 24
    uv, _ = solve.cameras.project(solve.tracks.positions)
    left = uv[0, rows, 0] < np.nanmedian(uv[0, :, 0])
    assert 0.4 < left.mean() < 0.6
    assert solve.tracks.visibility[:, rows].mean() > solve.tracks.visibility.mean()


def test_the_reference_plays_the_unedited_tracks(shot):
    root, solve = shot
    scene = bpy.context.scene
    assert root.retake.reference.hide_get()  # shown, it would lie on top of the empties
    root.retake.reference.hide_set(False)
    for frame in (0, 3, 7):
        scene.frame_set(root.retake.start + frame)
        evaluated = root.retake.reference.evaluated_get(bpy.context.evaluated_depsgraph_get())
        found = np.empty((60, 3), np.float32)
        evaluated.data.vertices.foreach_get("co", found.ravel())
        np.testing.assert_allclose(found, solve.tracks.positions[frame] - np.array(root.retake.origin), atol=1e-6)


def test_maps_too_large_for_a_blend_are_thinned_and_told(make_footage, make_solve, monkeypatch):
    monkeypatch.setattr(reference, "MAX_MAP_BYTES", 8 * 30 * 40 * 4)
    footage = make_footage()
    solve = replace(make_solve(footage), depth=np.ones((8, 90, 160), np.float32))
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    assert "thinned" in root.retake.report
    depth = objects.current_solve(root).depth
    assert depth.nbytes <= reference.MAX_MAP_BYTES
    assert depth.shape[1:] == (22, 40)


def test_a_missing_clip_is_named(tmp_path):
    with pytest.raises(BadFile, match="nowhere"):
        footage_clip.load_clip(str(tmp_path / "nowhere.mp4"))


def test_a_shot_whose_root_was_deleted_is_no_shot(shot):
    root, _ = shot
    bpy.data.objects.remove(root)
    assert shots.active_shot(bpy.context) is None
    assert not bpy.ops.retake.retime.poll()


def test_a_handle_stands_where_its_object_is_first_seen(make_footage, make_solve):
    footage = make_footage()
    solve = make_solve(footage)
    seen = solve.tracks.visibility.copy()
    seen[:3, solve.tracks.objects == 2] = False  # the ball comes in later
    solve = replace(solve, tracks=replace(solve.tracks, visibility=seen))
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    for label, number, first in (("man", 1, 0), ("ball", 2, 3)):
        handle = next(h for h in objects.handles_of(root) if h.retake_handle.label == label)
        visible = seen[first] & (solve.tracks.objects == number)
        expected = np.median(solve.tracks.positions[first, visible], 0)
        np.testing.assert_allclose(handle.location, expected, atol=1e-6)


def test_the_footage_moves_with_the_blend(shot, tmp_path):
    """A project folder that is moved, or unpacked on another machine, must still find its video."""
    root, _ = shot
    name = root.name
    clips = tmp_path / "here" / "clips"
    shutil.copytree(Path(root.retake.footage).parent, clips)
    root.retake.footage = str(clips / "picture_0000.png")
    assert root.retake.clip.filepath == str(clips / "picture_0000.png")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "here" / "shot.blend"))
    bpy.ops.file.make_paths_relative()
    bpy.ops.wm.save_mainfile()
    shutil.move(tmp_path / "here", tmp_path / "there")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "there" / "shot.blend"))
    found = Path(bpy.path.abspath(bpy.data.objects[name].retake.footage))
    assert found == tmp_path / "there" / "clips" / "picture_0000.png"
    assert found.is_file()


def test_a_second_shot_comes_in_where_the_first_is_excluded(shot, make_footage, make_solve):
    root, _ = shot
    bpy.context.view_layer.layer_collection.children["Retake"].exclude = True
    footage = make_footage(folder_name="second")
    other = shots.import_shot(bpy.context, footage, make_solve(footage), set_scene=False)
    assert bpy.context.view_layer.objects.active == other
    assert bpy.context.view_layer.layer_collection.children["Retake"].exclude
    assert bpy.context.view_layer.objects.get(root.name) is None


@pytest.mark.filterwarnings("error:.*blend relative")
def test_a_shot_comes_in_by_paths_beside_the_blend(make_footage, make_solve, tmp_path):
    footage = make_footage()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    archive.save(tmp_path / "clip.solve.npz", make_solve(footage))
    shutil.copytree(Path(footage.path).parent, tmp_path / "pictures")
    assert bpy.ops.retake.import_shot(
        footage=f"//pictures/{Path(footage.path).name}", solve="//clip.solve.npz"
    ) == {"FINISHED"}  # fmt: skip
    shot = bpy.context.scene.retake_shot.retake
    shot.footage = f"//pictures/{Path(footage.path).name}"
    assert shot.solve == "//clip.solve.npz"


def test_what_a_dialog_refuses_after_the_file_browser_is_a_report(fresh_scene):
    """And no traceback."""
    from blender_addon.operators.importing import asked_again

    told = []
    operator = types.SimpleNamespace(report=lambda kind, words: told.append((kind, words)))
    assert asked_again(operator, bpy.ops.retake.solve_footage, filepath="/nowhere.mp4") == {"CANCELLED"}
    assert told[0][0] == {"ERROR"}
    assert "is not there" in told[0][1]
    assert "Traceback" not in told[0][1]


def test_a_shot_in_another_scene_is_read_there_and_a_deleted_one_not_at_all(shot, monkeypatch, assert_identity):
    from blender_addon import cli, take_list, take_requests

    root, solve = shot
    monkeypatch.setattr(take_requests, "footage_path", lambda root: Path(root.retake.footage))
    here, other, parent = bpy.context.scene, bpy.data.scenes.new("other"), bpy.data.collections["Retake"]
    other.collection.children.link(parent)
    here.collection.children.unlink(parent)
    job = cli._from_scene(types.SimpleNamespace(shot=root.name, edit=None))
    assert_identity(job.edit, solve)
    other.collection.children.unlink(parent)
    assert bpy.data.objects.get(root.name) == root
    assert not list(take_list.shots())


def test_a_deleted_clip_is_told_by_its_name(shot):
    from blender_addon import take_requests

    root, _ = shot
    bpy.data.movieclips.remove(root.retake.clip)
    with pytest.raises(BadShot, match="movie clip is gone"):
        take_requests.footage_path(root)


def test_a_script_imports_into_a_scene_that_was_never_shown(make_footage, make_solve):
    footage = make_footage()
    scene = bpy.data.scenes.new("other")
    with bpy.context.temp_override(scene=scene, view_layer=scene.view_layers[0]):
        root = shots.import_shot(bpy.context, footage, make_solve(footage), set_scene=True)
    assert scene.objects.get(root.name) == root
