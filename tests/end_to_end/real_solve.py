"""Solving footage in a real Blender's window: the dialog, the stages while they run, Cancel, the report; with screenshots.

    blender-gui --python tests/end_to_end/real_solve.py -- --footage F --out DIR

Writes DIR/*.png and DIR/solve.json and quits with 0, or with 1 when a step failed.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).resolve().parent))
import real_window as gui


def run(arguments):
    """The session, a generator: each value yielded is a number of seconds to wait, or a test that must become true."""
    out = Path(arguments.out)
    yield 1.0
    names = [addon.module for addon in bpy.context.preferences.addons]
    package = sys.modules[next(name for name in names if name.endswith((".retake", "blender_addon")))]
    held = gui.watch(package)
    solving, shots = package.solving, package.panels.shots
    bpy.ops.wm.save_as_mainfile(filepath=str(out / "shot.blend"))
    for name in ("Cube", "Light", "Camera"):
        if name in bpy.data.objects:
            bpy.data.objects.remove(bpy.data.objects[name])
    view = gui.area("VIEW_3D")
    view.spaces.active.show_region_ui = True
    yield 1.0
    region = next(region for region in view.regions if region.type == "UI")
    region.active_panel_category = "Retake"
    yield 1.0
    gui.screenshot(out / "1_empty.png")

    with bpy.context.temp_override(window=gui.window(), area=view, region=gui.main_region(view)):
        bpy.ops.retake.solve_footage("INVOKE_DEFAULT", filepath=arguments.footage, lens="FOCAL")
    yield 1.5
    gui.screenshot(out / "2_dialog.png")
    press(out, "Escape")
    yield 1.0
    with bpy.context.temp_override(window=gui.window(), area=view, region=gui.main_region(view)):
        began = time.perf_counter()
        bpy.ops.retake.solve_footage("EXEC_DEFAULT", filepath=arguments.footage)
        started = time.perf_counter() - began
    yield lambda: any(part.words and 0.2 < part.share < 1 for part in solving.current.parts)
    gui.screenshot(out / "3_points.png")
    yield lambda: solving.current.picture
    yield 1.0
    gui.screenshot(out / "4_cameras.png")
    bpy.ops.retake.cancel_solve()
    asked = time.perf_counter()
    yield lambda: not solving.busy()
    cancelled = time.perf_counter() - asked
    assert solving.current.state == "cancelled", solving.current
    yield 1.0
    gui.screenshot(out / "5_cancelled.png")
    bpy.ops.retake.continue_solve()
    yield lambda: sum(part.ended for part in solving.current.parts) >= 3
    yield 1.0
    gui.screenshot(out / "6_depth.png")
    yield lambda: solving.current.state in ("done", "failed")
    assert solving.current.state == "done", solving.current.words
    view.spaces.active.region_3d.view_perspective = "CAMERA"
    yield 3.0
    gui.screenshot(out / "7_solved.png")
    root = shots.active_shot(bpy.context)
    told = json.loads(root.retake.solve_report)
    bpy.ops.ed.undo()
    yield 1.0
    report = {
        "frames": root.retake.frames if shots.active_shot(bpy.context) else 0,
        "light": told["light"],
        "seconds to start": round(started, 3),
        "seconds to cancel": round(cancelled, 3),
        "after undo": "shot" if shots.active_shot(bpy.context) else "no shot",
        "longest hold of the window, ms": {name: round(1000 * max(times), 1) for name, times in held.items() if times},
    }
    (out / "solve.json").write_text(json.dumps(report, indent=1))


def press(out, key):
    """Tell the window that a key was pressed, as `xdotool` does, to close what is open."""
    import os
    import subprocess

    environment = {name: value for name, value in os.environ.items() if not name.startswith("LD_")}
    subprocess.run(["xdotool", "key", key], check=False, env=environment, timeout=20)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--footage", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args(sys.argv[sys.argv.index("--") + 1 :])
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    bpy.context.preferences.view.show_splash = False
    bpy.context.preferences.filepaths.use_auto_save_temporary_files = False
    gui.drive(run(arguments))


if __name__ == "__main__":
    main()
