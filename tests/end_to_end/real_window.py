"""The add-on in a real Blender's window: import, edit, generate, watch, compare, cancel; with a screenshot of each.

    blender-gui --python tests/end_to_end/real_window.py -- --footage F --solve S --out DIR

Blender runs this, with a window and with the extension enabled. It writes DIR/*.png and DIR/window.json (how long
the window was held up, what the takes became) and quits with 0, or with 1 when a step failed. Screenshots need
ImageMagick's `import` and an X display.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import bpy

STEP_LIMIT = float(os.environ.get("STEP_LIMIT", 120))
"""Seconds after which a step that waits for something has failed."""


def run(arguments):
    """The session, a generator: each value yielded is a number of seconds to wait, or a test that must become true."""
    out = Path(arguments.out)
    yield 1.0
    package = sys.modules[extension_name()]
    held = watch(package)
    bpy.ops.wm.save_as_mainfile(filepath=str(out / "shot.blend"))
    remove_default_objects()

    view, region = area("VIEW_3D"), None
    view.spaces.active.show_region_ui = True
    yield 1.0
    region = next(region for region in view.regions if region.type == "UI")
    region.active_panel_category = "Retake"
    yield 1.0
    screenshot(out / "1_empty.png")

    with bpy.context.temp_override(window=window(), area=view, region=main_region(view)):
        bpy.ops.retake.import_shot(footage=arguments.footage, solve=arguments.solve, density=arguments.density)
        view.spaces.active.region_3d.view_perspective = "CAMERA"
        view.spaces.active.overlay.show_relationship_lines = False
        bpy.ops.view3d.view_center_camera()
    yield 2.0
    screenshot(out / "2_imported.png")

    shot = bpy.context.scene.retake_shot
    handle = next(
        (ob for ob in bpy.data.objects if ob.retake_role == "HANDLE" and ob.retake_handle.number == arguments.object),
        None,
    )
    with bpy.context.temp_override(window=window(), area=view, region=main_region(view)):
        bpy.ops.retake.orbit(degrees=arguments.degrees)
        if handle is not None:
            bpy.ops.retake.select_object(handle=handle.name)
            handle.location.x += arguments.step
            handle.keyframe_insert("location", frame=bpy.context.scene.frame_start)
    bpy.context.scene.frame_set(bpy.context.scene.frame_start + shot.retake.frames // 2)
    yield 2.0
    screenshot(out / "3_edited.png")

    state = bpy.context.window_manager.retake
    frame = bpy.context.scene.frame_current
    generate(view)
    yield lambda: state.done > 20 or state.job_state != "READING"
    screenshot(out / "4_reading.png")
    yield lambda: state.job_state == "RUNNING" and state.stage == "rendering" and state.done > 5
    yield 1.0
    screenshot(out / "5_rendering.png")
    yield lambda: not state.job
    take = shot.retake.takes[0]
    assert take.state == "DONE", take.message
    assert bpy.context.scene.frame_current == frame, "the current frame was not restored"
    yield 1.5
    screenshot(out / "6_done.png")

    lower = area("DOPESHEET_EDITOR") or area("TIMELINE")
    lower.type = view.type = "SEQUENCE_EDITOR"
    lower.spaces.active.view_type, view.spaces.active.view_type = "SEQUENCER", "PREVIEW"
    lower.spaces.active.show_region_ui = True
    yield 1.0
    side = next(region for region in lower.regions if region.type == "UI")
    side.active_panel_category = "Retake"
    with bpy.context.temp_override(window=window(), area=lower, region=main_region(lower)):
        bpy.ops.sequencer.view_all()
        bpy.ops.retake.compare(against="FOOTAGE", split=0.5)
    yield 3.0
    screenshot(out / "7_compared.png")
    view.type = "VIEW_3D"
    yield 1.0
    generate(view)
    yield lambda: state.job_state == "RUNNING" and state.stage == "rendering" and state.done > 3
    began = time.monotonic()
    bpy.ops.retake.cancel()
    yield lambda: not state.job
    cancelled = time.monotonic() - began
    second = shot.retake.takes[1]
    yield 1.0
    screenshot(out / "8_cancelled.png")
    assert second.state in ("CANCELLED", "DONE"), second.state

    # A take goes on when its file is opened again.
    generate(view)
    yield lambda: state.job_state == "RUNNING" and state.stage == "rendering" and state.done > 3
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    state = bpy.context.window_manager.retake
    yield 0.5
    screenshot(out / "9_opened_again.png")
    assert state.job, "the take was not taken up again"
    yield lambda: not state.job
    third = bpy.context.scene.retake_shot.retake.takes[2]
    assert third.state == "DONE", third.message
    bpy.ops.wm.save_mainfile()
    report = {
        "blender": bpy.app.version_string,
        "frames": len(list((out / "shot_takes/take_001").glob("frame_*.png"))),
        "first take": bpy.context.scene.retake_shot.retake.takes[0].state,
        "second take": bpy.context.scene.retake_shot.retake.takes[1].state,
        "third take, its file opened again meanwhile": third.state,
        "seconds to cancel": round(cancelled, 3),
        "longest hold of the window, ms": {name: round(1000 * max(times), 1) for name, times in held.items() if times},
    }
    (out / "window.json").write_text(json.dumps(report, indent=1))
    bpy.ops.retake.stop_backend()
    yield lambda: state.backend_state == "OFF"


def watch(package):
    """Time every call with which the add-on holds the window up; {name: seconds of each call}."""
    held = {"generate": [], "messages": []}
    generating, rendering = package.operators.generating, package.rendering

    read, pump = generating.RETAKE_OT_generate.modal, rendering.pump

    def timed_modal(self, context, event):  # Blender counts the arguments of what it calls
        with holding("generate"):
            return read(self, context, event)

    def timed_pump(budget):
        with holding("messages"):
            pump(budget)

    @contextlib.contextmanager
    def holding(name):
        began = time.perf_counter()
        yield
        held[name].append(time.perf_counter() - began)

    generating.RETAKE_OT_generate.modal, rendering.pump = timed_modal, timed_pump
    return held


def generate(view):
    with bpy.context.temp_override(window=window(), area=view, region=main_region(view)):
        assert bpy.ops.retake.generate("INVOKE_DEFAULT") == {"RUNNING_MODAL"}


def window():
    return bpy.context.window_manager.windows[0]


def area(kind):
    return next((area for area in window().screen.areas if area.type == kind), None)


def main_region(area):
    return next(region for region in area.regions if region.type == "WINDOW")


def screenshot(path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LD_")}
    subprocess.run(["import", "-window", "root", str(path)], check=True, env=environment, timeout=60)


def extension_name():
    """The package that the enabled extension is, among `sys.modules`."""
    names = [addon.module for addon in bpy.context.preferences.addons]
    return next(name for name in names if name.endswith((".retake", "blender_addon")))


def remove_default_objects():
    """Leave nothing of the start-up scene that would stand before the shot."""
    for name in ("Cube", "Light", "Camera"):
        if name in bpy.data.objects:
            bpy.data.objects.remove(bpy.data.objects[name])


def drive(session):
    """Run the session from a timer, so that the window draws between its steps."""
    waiting, deadline = None, 0.0

    def step():
        nonlocal waiting, deadline
        try:
            if waiting is not None:
                if not waiting():
                    assert time.monotonic() < deadline, (
                        f"waited too long; the backend: {bpy.context.window_manager.retake.backend_message}"
                    )
                    return 0.05
                waiting = None
            wish = next(session)
            if callable(wish):
                waiting, deadline = wish, time.monotonic() + STEP_LIMIT
                return 0.05
            return wish
        except StopIteration:
            leave(0)
        except Exception:
            traceback.print_exc()
            leave(1)
        return None

    bpy.app.timers.register(step, first_interval=1.0, persistent=True)


def leave(code):
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)
    bpy.ops.wm.quit_blender()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--footage", required=True)
    parser.add_argument("--solve", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--density", type=int, default=2000)
    parser.add_argument("--object", type=int, default=1, help="number of the object to move")
    parser.add_argument("--step", type=float, default=0.5, help="how far")
    parser.add_argument("--degrees", type=float, default=8.0, help="of the camera's orbit")
    arguments = parser.parse_args(sys.argv[sys.argv.index("--") + 1 :])
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    bpy.context.preferences.view.show_splash = False
    bpy.context.preferences.filepaths.use_auto_save_temporary_files = False
    drive(run(arguments))


if __name__ == "__main__":
    main()
