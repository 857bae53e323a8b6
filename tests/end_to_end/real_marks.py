"""Marking what moves in a real Blender's window, with a real mouse: through the footage's camera, and in the Movie Clip
Editor; with screenshots.

    blender-gui --python tests/end_to_end/real_marks.py -- --footage F --solve S --out DIR

Writes DIR/*.png and DIR/marks.json (px by which marks miss what was clicked) and quits with 0, or with 1 when a step
failed. $RETAKE_MODELS names a folder without the weights that follow marks.
"""

import argparse
import json
import sys
from pathlib import Path

import bpy
from bpy_extras.view3d_utils import location_3d_to_region_2d

sys.path.insert(0, str(Path(__file__).resolve().parent))
import real_window as gui
from real_solve import press


def run(arguments):
    """The session, a generator: each value yielded is a number of seconds to wait, or a test that must become true."""
    out = Path(arguments.out)
    yield 1.0
    package = sys.modules[gui.extension_name()]
    geometry = sys.modules["retake_shared.geometry"]
    gui.remove_default_objects()
    panel = bpy.types.RETAKE_PT_marks  # closed at first; no script can open it
    bpy.utils.unregister_class(panel)
    panel.bl_options = set()
    bpy.utils.register_class(panel)
    view = gui.area("VIEW_3D")
    view.spaces.active.show_region_ui = True
    with bpy.context.temp_override(window=gui.window(), area=view, region=gui.main_region(view)):
        bpy.ops.retake.import_shot(footage=arguments.footage, solve=arguments.solve)
        view.spaces.active.region_3d.view_perspective = "CAMERA"
        bpy.ops.view3d.view_center_camera()
    yield 1.0
    next(region for region in view.regions if region.type == "UI").active_panel_category = "Retake"
    root = bpy.context.scene.retake_shot
    shot, scene = root.retake, bpy.context.scene
    solve = package.scene.objects.current_solve(root)
    target = scene.camera = shot.target_camera
    frame = shot.frames // 2
    scene.frame_set(shot.start + frame)
    moving = {ob.retake_track: ob for ob in scene.objects if ob.retake_track >= 0}
    uv, _ = geometry.project(solve.tracks.positions[frame], solve.cameras.c2w[frame], solve.cameras.K[frame])
    rows = [row for row in moving if solve.tracks.objects[row] == 1 and solve.tracks.visibility[frame, row]]
    row = rows[len(rows) // 2]

    # Through the footage's camera: the mouse goes to a track's empty, the mark must lie on the track in the footage.
    with bpy.context.temp_override(window=gui.window(), area=view, region=gui.main_region(view)):
        assert bpy.ops.retake.mark_moving("INVOKE_DEFAULT") == {"RUNNING_MODAL"}
    yield 1.5
    assert scene.camera == shot.source_camera
    region = gui.main_region(view)
    at = location_3d_to_region_2d(region, view.spaces.active.region_3d, moving[row].matrix_world.translation)
    yield from click(region, *at)
    assert len(shot.clip.retake_marks) == 1, "no mark was set"
    mark = shot.clip.retake_marks[0]
    mark.name = "walker"
    assert mark.frame == frame + 1
    missed = max(abs(a - b) for a, b in zip(mark.at, uv[row], strict=True))
    yield from click(region, 30, 30)  # beside the picture
    gui.screenshot(out / "1_marking.png")
    press("Return")
    yield 1.0
    assert scene.camera == target, "the scene's camera did not come back"
    assert len(shot.clip.retake_marks) == 1
    scene.camera = shot.source_camera
    yield 1.0
    gui.screenshot(out / "2_marked.png")

    # In the Movie Clip Editor: the place is known from the editor's own drawing, zoomed and moved.
    view.type = "CLIP_EDITOR"
    view.spaces.active.clip = shot.clip
    view.spaces.active.show_region_ui = True
    yield 1.5
    next(region for region in view.regions if region.type == "UI").active_panel_category = "Retake"
    region = gui.main_region(view)
    with bpy.context.temp_override(window=gui.window(), area=view, region=region):
        bpy.ops.clip.view_all()
        bpy.ops.clip.view_zoom_out()
    yield 1.5
    seen = package.scene.marking.view_of(bpy.context, view, region)
    wanted = [float(uv[row, 0]), float(uv[row, 1])]
    with bpy.context.temp_override(window=gui.window(), area=view, region=region):
        assert bpy.ops.retake.mark_moving("INVOKE_DEFAULT") == {"RUNNING_MODAL"}
    yield 1.0
    yield from click(region, *seen.shown(*wanted))
    press("Return")
    yield 1.5
    assert len(shot.clip.retake_marks) == 2, "no mark was set in the editor"
    in_editor = max(abs(a - b) for a, b in zip(shot.clip.retake_marks[1].at, wanted, strict=True))
    gui.screenshot(out / "3_clip_editor.png")
    view.type = "VIEW_3D"

    # With a backend that lacks the weights, the button says what is missing.
    bpy.ops.retake.start_backend()
    yield lambda: bool(package.models.every())
    yield 1.5
    with bpy.context.temp_override(window=gui.window(), area=view, region=gui.main_region(view)):
        assert not bpy.ops.retake.mark_moving.poll()
    gui.screenshot(out / "4_missing_weights.png")
    bpy.ops.retake.stop_backend()
    yield lambda: bpy.context.window_manager.retake.backend_state == "OFF"
    told = {
        "px missed through the camera": round(missed, 2),
        "px of the footage to one of the screen": round(1 / seen.scale[0], 2),
        "px missed in the editor": round(in_editor, 2),
    }
    (out / "marks.json").write_text(json.dumps(told, indent=1))


def click(region, x, y):
    """A click of the real mouse at px of a region."""
    height = gui.window().height
    press("mousemove", "--sync", str(round(region.x + x)), str(round(height - 1 - region.y - y)))
    yield 0.5
    press("click", "1")
    yield 1.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--footage", required=True)
    parser.add_argument("--solve", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args(sys.argv[sys.argv.index("--") + 1 :])
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    bpy.context.preferences.view.show_splash = False
    bpy.context.preferences.filepaths.use_auto_save_temporary_files = False
    gui.drive(run(arguments))


if __name__ == "__main__":
    main()
