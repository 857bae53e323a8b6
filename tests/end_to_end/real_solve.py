"""Solving footage in a real Blender's window: the dialog, the stages while they run, Cancel, the report; with screenshots.

    blender-gui --python tests/end_to_end/real_solve.py -- --footage F --out DIR

Writes DIR/*.png and DIR/solve.json and quits with 0, or with 1 when a step failed.
"""

import argparse
import json
import os
import subprocess
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
    package = sys.modules[gui.extension_name()]
    held = gui.watch(package)
    solving, shots = package.solving, package.panels.shots
    bpy.ops.wm.save_as_mainfile(filepath=str(out / "shot.blend"))
    gui.remove_default_objects()
    view = gui.area("VIEW_3D")
    view.spaces.active.show_region_ui = True
    yield 1.0
    region = next(region for region in view.regions if region.type == "UI")
    region.active_panel_category = "Retake"
    yield 1.0
    gui.screenshot(out / "1_empty.png")

    here = {"window": gui.window(), "area": view, "region": gui.main_region(view)}
    with bpy.context.temp_override(**here):
        bpy.ops.retake.solve_footage("INVOKE_DEFAULT")
    yield 2.0
    browser = next(
        (w, a) for w in bpy.context.window_manager.windows for a in w.screen.areas if a.type == "FILE_BROWSER"
    )
    params = browser[1].spaces.active.params
    params.directory, params.filename = str(Path(arguments.footage).parent).encode(), Path(arguments.footage).name
    yield 1.0
    with bpy.context.temp_override(window=browser[0], area=browser[1], region=gui.main_region(browser[1])):
        bpy.ops.file.execute()
    yield 1.5
    gui.screenshot(out / "2_dialog.png")
    press("Escape")
    yield 1.0

    bpy.ops.retake.solve_footage("EXEC_DEFAULT", filepath=arguments.footage, first=1, last=3)
    yield lambda: not solving.busy()
    assert solving.current.state == "failed", solving.current
    refused = solving.current.words
    yield 1.0
    gui.screenshot(out / "2_refused.png")
    bpy.ops.retake.dismiss_solve()
    imports = timed(solving)
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
    light, frames = json.loads(root.retake.solve_report)["light"], root.retake.frames
    bpy.context.scene.frame_set(frames // 2)
    with bpy.context.temp_override(**here):
        bpy.ops.view3d.view_center_camera()
        handle = package.panels.objects.own_handles(root).get(1)
        if handle is not None:
            bpy.ops.retake.select_object(handle=handle.name)
            bpy.ops.retake.slide_depth("INVOKE_DEFAULT")
            yield 0.5
            press("mousemove_relative", "--sync", "--", "60", "0")
            yield 1.0
            gui.screenshot(out / "8_sliding.png")
            press("Return")
            yield 1.0
            assert handle.retake_handle.depth > 1, handle.retake_handle.depth
    depth = handle.retake_handle.depth if handle is not None else 0.0
    with bpy.context.temp_override(**here):
        view.spaces.active.region_3d.view_perspective = "PERSP"
        bpy.ops.view3d.view_all()
    yield 1.5
    gui.screenshot(out / "9_from_elsewhere.png")

    job = solving.current.job
    job.record.write_text(json.dumps({"footage": job.footage, "out": job.out, "words": [], "set_scene": True}))
    solving.current = None
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    yield 1.5
    gui.screenshot(out / "10_cut_short.png")
    bpy.ops.retake.dismiss_solve()
    report = {
        "frames": frames,
        "light": light,
        "refused": refused,
        "depth after sliding": round(depth, 3),
        "seconds to import": round(max(imports), 3),
        "seconds to start": round(started, 3),
        "seconds to cancel": round(cancelled, 3),
        "longest hold of the window, ms": {name: round(1000 * max(times), 1) for name, times in held.items() if times},
    }
    (out / "solve.json").write_text(json.dumps(report, indent=1))


def press(*words):
    """A key pressed, or what else xdotool does, so that the window gets it as from a hand."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LD_")}
    words = words if len(words) > 1 else ("key", *words)
    subprocess.run(["xdotool", *words], check=True, env=environment, timeout=20)


def timed(solving):
    """Time the imports of what was solved; the list fills with seconds."""
    seconds, bring_in = [], solving.bring_in

    def timed_bring_in(context):
        began = time.perf_counter()
        bring_in(context)
        seconds.append(time.perf_counter() - began)

    solving.bring_in = timed_bring_in
    return seconds


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
