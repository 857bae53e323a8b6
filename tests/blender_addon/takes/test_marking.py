"""Pointing at what moves: marks lie where the artist clicked, are kept with the footage, and become objects."""

from __future__ import annotations

import json
import subprocess
import types
from pathlib import Path

import bpy
import numpy as np
import pytest
from bpy_extras.view3d_utils import location_3d_to_region_2d
from mathutils import Matrix
from retake_shared import geometry
from retake_shared.clicks import MODEL
from retake_shared.client import Models, ModelState

from blender_addon import marks_panel, models, solving
from blender_addon.messages import ModelsTold
from blender_addon.operators.marking import RETAKE_OT_mark_moving
from blender_addon.scene import marking, shots
from blender_addon.solve_process import read_record

from .test_panels import Layout
from .test_solve import blend, clip  # noqa: F401

WRITE_MODEL = """
import sys
from pathlib import Path
from retake_backend.models.random_weights import write_random
write_random(sys.argv[1], Path(sys.argv[2]) / sys.argv[1])
"""


def drawn() -> list[str]:
    texts: list[str] = []
    for panel in (marks_panel.RETAKE_PT_marks, marks_panel.RETAKE_PT_clip_marks):
        panel.draw(types.SimpleNamespace(layout=Layout(texts)), bpy.context)
    return texts


def through_camera(root, pan=(0.03, -0.02), zoom=0.8):
    """(area, region) of a 3D view through the scene's camera, as large and as far moved as an artist's may be. The
    wheel has no windows; the matrix is Blender's own."""
    scene, depsgraph = bpy.context.scene, bpy.context.evaluated_depsgraph_get()
    camera, render = scene.camera, scene.render
    region = types.SimpleNamespace(width=800, height=500, x=100, y=40, type="WINDOW")
    seen = camera.calc_matrix_camera(
        depsgraph, x=render.resolution_x, y=render.resolution_y, scale_x=render.pixel_aspect_x, scale_y=render.pixel_aspect_y
    )  # fmt: skip
    moved = Matrix.Translation((*pan, 0)) @ Matrix.Diagonal((zoom, 0.7 * zoom, 1, 1))
    looking = types.SimpleNamespace(
        view_perspective="CAMERA",
        perspective_matrix=moved @ seen @ camera.evaluated_get(depsgraph).matrix_world.normalized().inverted(),
    )
    space = types.SimpleNamespace(use_local_camera=False, camera=None, region_3d=looking)
    return types.SimpleNamespace(type="VIEW_3D", spaces=types.SimpleNamespace(active=space)), region


@pytest.mark.parametrize("aspect", [1.0, 1.3])
@pytest.mark.parametrize("turned", [False, True])
def test_a_click_lands_on_the_track_under_it(make_footage, make_solve, aspect, turned):
    footage = make_footage()
    solve = make_solve(footage, aspect=aspect, varying=True)
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    if turned:  # the artist may have set the world straight
        root.scale, root.rotation_euler, root.location = (3, 3, 3), (0.2, -0.1, 1.0), (5, 1, -2)
    scene = bpy.context.scene
    scene.camera = root.retake.source_camera
    scene.frame_set(root.retake.start + 5)
    area, region = through_camera(root)
    view = marking.view_of(bpy.context, area, region)
    assert (view.clip, view.frame) == (root.retake.clip, 6)
    uv, depth = geometry.project(solve.tracks.positions[5], solve.cameras.c2w[5], solve.cameras.K[5])
    inside = geometry.inside_image(uv, depth, footage.width, footage.height)
    tracks = {ob.retake_track: ob for ob in bpy.data.objects if ob.retake_track >= 0}
    checked = 0
    for row in np.flatnonzero(inside):
        if row in tracks:
            on_screen = location_3d_to_region_2d(
                region, area.spaces.active.region_3d, tracks[row].matrix_world.translation
            )
            np.testing.assert_allclose(view.place(*on_screen), uv[row], atol=0.02)
            np.testing.assert_allclose(view.shown(*uv[row]), on_screen, atol=0.05)
            checked += 1
    assert checked > 10
    corner = view.shown(0, 0)
    assert view.place(corner[0] - 2, corner[1]) is None
    assert view.place(corner[0] + 2, corner[1] + 2) is None


def test_through_another_camera_or_beside_the_footage_nothing_can_be_marked(shot):
    root, _ = shot
    scene = bpy.context.scene
    scene.camera = root.retake.target_camera
    area, region = through_camera(root)
    assert marking.view_of(bpy.context, area, region) is None  # it may have been moved: the picture lies elsewhere
    scene.camera = root.retake.source_camera
    scene.frame_set(root.retake.start - 1)
    assert marking.view_of(bpy.context, area, region) is None
    scene.frame_set(root.retake.start)
    assert marking.view_of(bpy.context, area, region) is not None
    area.spaces.active.region_3d.view_perspective = "PERSP"
    assert marking.view_of(bpy.context, area, region) is None


def test_a_script_marks_and_the_list_shows_and_takes_away(shot):
    root, _ = shot
    mark = bpy.ops.retake.mark_moving
    assert mark(frame=3, x=100.5, y=50, name="ball") == {"FINISHED"}
    assert mark(frame=5, x=20, y=170) == {"FINISHED"}
    made = root.retake.clip.retake_marks
    assert [(m.name, m.frame, tuple(m.at)) for m in made] == [("ball", 3, (100.5, 50)), ("", 5, (20, 170))]
    texts = drawn()
    assert {"Frame 3", "Frame 5", "Solve With Marks…"} <= set(texts)
    bpy.ops.retake.show_mark(index=1)
    assert bpy.context.scene.frame_current == root.retake.start + 4
    bpy.ops.retake.remove_mark(index=0)
    assert [m.frame for m in made] == [5]
    with pytest.raises(RuntimeError, match="no mark 3"):
        bpy.ops.retake.remove_mark(index=3)
    bpy.ops.retake.remove_mark(index=0)
    assert not bpy.ops.retake.remove_mark.poll()
    assert "Solve With Marks…" not in drawn()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"frame": 9, "x": 1, "y": 1}, "frames 1 to 8"),
        ({"x": 1, "y": 1}, "no frame 0"),
        ({"frame": 1, "x": 320, "y": 1}, "320 x 180"),
        ({"frame": 1}, "not in the picture"),
        ({"frame": 1, "x": 1, "y": 1, "clip": "none"}, 'no clip "none"'),
    ],
)
def test_a_mark_that_leads_nowhere_is_refused(shot, where, words):
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.retake.mark_moving(**where)
    assert not shot[0].retake.clip.retake_marks


def test_without_footage_there_is_nothing_to_mark(fresh_scene):
    assert not bpy.ops.retake.mark_moving.poll()
    assert "Open footage first." in drawn()


def test_missing_weights_are_told_with_size_licence_and_a_button(shot):
    here = ModelState(MODEL, "SAM 2.1 Tiny", "base", 156_000_000, "Apache-2.0", "https://example.org", "missing")
    try:
        models.apply(ModelsTold(Models("/models", (here,))))
        assert not bpy.ops.retake.mark_moving.poll()
        texts = drawn()
        assert {"SAM 2.1 Tiny", "156 MB", "Apache-2.0", "Get"} <= set(texts)
        with pytest.raises(RuntimeError, match=r"SAM 2\.1 Tiny \(156 MB, Apache-2\.0\) is not here"):
            bpy.ops.retake.mark_moving(frame=1, x=1, y=1)
        models.apply(ModelsTold(Models("/models", (ModelState(MODEL, "SAM 2.1 Tiny", state="installed"),))))
        assert bpy.ops.retake.mark_moving.poll()
        assert "Get" not in drawn()
    finally:
        models.forget()


def test_marking_ends_when_its_view_is_gone_and_touches_what_is_freed_no_more(shot):
    """Joined to another, or in another workspace: a click belongs to what lies there now."""
    root, _ = shot
    scene = bpy.context.scene
    methods = {
        name: value for name, value in vars(RETAKE_OT_mark_moving).items() if isinstance(value, types.FunctionType)
    }
    marking_now = type("Marking", (), methods)()
    area = types.SimpleNamespace(regions=[])  # without header_text_set, which a freed area must not be asked for
    marking_now._area, marking_now._added, marking_now._camera = area, 0, root.retake.target_camera.name
    scene.camera = root.retake.source_camera

    def click(*areas):
        window = types.SimpleNamespace(screen=types.SimpleNamespace(areas=list(areas)))
        manager = types.SimpleNamespace(windows=[])
        context = types.SimpleNamespace(window=window, scene=scene, window_manager=manager)
        event = types.SimpleNamespace(type="LEFTMOUSE", value="PRESS", mouse_x=10, mouse_y=10)
        return marking_now.modal(context, event)

    assert click(area) == {"PASS_THROUGH"}
    assert click() == {"CANCELLED"}
    assert scene.camera == root.retake.target_camera
    marking_now._camera = "removed meanwhile"
    assert click() == {"CANCELLED"}


def test_marks_that_blender_has_no_frame_for_do_not_keep_a_solve_from_coming_in(shot):
    footage = shot[0].retake.clip
    marking.keep(footage, ("--click", "98,10,20", "--step", "2", "--click", "1,10,20,dog"))
    assert [(m.name, m.frame) for m in footage.retake_marks] == [("dog", 2)]


def test_marks_are_saved_with_the_file(shot, tmp_path):
    bpy.ops.retake.mark_moving(frame=2, x=10, y=20, name="dog")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "marked.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "marked.blend"))
    (mark,) = shots.active_shot(bpy.context).retake.clip.retake_marks
    assert (mark.name, mark.frame, tuple(mark.at)) == ("dog", 2, (10, 20))


def test_footage_without_a_solve_is_marked_and_solved_with_its_marks(
    clip,  # noqa: F811
    home,
    backend_python,
    blend,  # noqa: F811
    tmp_path_factory,
    monkeypatch,
):
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([backend_python, "-c", WRITE_MODEL, MODEL, str(folder)], check=True, timeout=120)
    monkeypatch.setenv("RETAKE_MODELS", str(folder))
    footage = bpy.data.movieclips.load(str(clip))
    bpy.ops.retake.mark_moving(clip=footage.name, frame=4, x=112, y=64, name="walker")
    bpy.ops.retake.mark_moving(clip=footage.name, frame=6, x=30, y=100)
    assert bpy.ops.retake.solve_footage(filepath=str(clip)) == {"FINISHED"}
    assert solving.current.job.words == ("--click", "3,112,64,walker", "--click", "5,30,100")
    assert "masks" in [part.name for part in solving.current.parts]
    root = shots.active_shot(bpy.context)
    assert root.retake.clip != footage
    assert [(m.name, m.frame) for m in root.retake.clip.retake_marks] == [("walker", 4), ("", 6)]
    handles = {ob.retake_handle.label for ob in bpy.data.objects if ob.retake_role == "HANDLE"}
    assert handles & {"walker", "object 2"}
    assert "random" in root.retake.solve_report


def test_without_its_weights_a_solve_with_marks_says_what_to_get(clip, home, blend, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path / "none"))
    footage = bpy.data.movieclips.load(str(clip))
    bpy.ops.retake.mark_moving(clip=footage.name, frame=4, x=112, y=64)
    with pytest.raises(RuntimeError, match=r"sam2\.1-tiny is not installed \(156\.0 MB, Apache-2\.0\)"):
        bpy.ops.retake.solve_footage(filepath=str(clip))


def test_a_solve_that_was_cut_short_keeps_its_marks(clip, blend):  # noqa: F811
    job = solving.job_for(str(clip), ("--click", "3,112,64,walker"))
    job.record.write_text(
        json.dumps({"footage": job.footage, "out": job.out, "words": list(job.words), "set_scene": True})
    )
    assert read_record(Path(job.record)).words == job.words


def test_without_its_root_a_source_camera_shows_no_footage(shot):
    root, _ = shot
    bpy.context.scene.camera = root.retake.source_camera
    area, region = through_camera(root)
    bpy.data.objects.remove(root)
    assert marking.view_of(bpy.context, area, region) is None


def test_a_clip_with_an_offset_is_marked_in_the_frame_that_it_shows(shot):
    root, _ = shot
    footage = root.retake.clip
    footage.frame_offset = 2
    corners = types.SimpleNamespace(view_to_region=lambda x, y, **_: (x * 320, y * 180))
    area = types.SimpleNamespace(
        type="CLIP_EDITOR", spaces=types.SimpleNamespace(active=types.SimpleNamespace(clip=footage))
    )
    bpy.context.scene.frame_set(footage.frame_start + 1)
    view = marking.view_of(bpy.context, area, types.SimpleNamespace(view2d=corners))
    assert view.frame == 4
    marking.add(footage, view.frame, 5, 5)
    bpy.context.scene.frame_set(footage.frame_start)
    bpy.ops.retake.show_mark(index=0)
    assert bpy.context.scene.frame_current == footage.frame_start + 1
