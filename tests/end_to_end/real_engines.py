"""The panels of the engines in a real Blender's window: what is missing, what comes, what a take looks like meanwhile.

    RETAKE_MODELS=DIR blender-gui --python tests/end_to_end/real_engines.py -- --footage F --solve S --out DIR

Blender runs this, with a window and with the extension enabled, and with models of random weights for
`edit-by-track`. It writes DIR/*.png and DIR/engines.json and quits with 0, or with 1 when a step failed.
"""

import argparse
import json
import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
import real_window
from real_window import area, main_region, screenshot


def run(arguments):
    """The session, a generator as in `real_window`."""
    out = Path(arguments.out)
    yield 1.0
    extension = real_window.extension_name()
    package = sys.modules[extension]
    errands, linked, models, rendering = package.errands, package.linked, package.models, package.rendering
    held = real_window.watch(package)
    bpy.ops.wm.save_as_mainfile(filepath=str(out / "shot.blend"))
    real_window.remove_default_objects()
    view = area("VIEW_3D")
    view.spaces.active.show_region_ui = True
    yield 1.0
    side = next(region for region in view.regions if region.type == "UI")
    side.active_panel_category = "Retake"
    with bpy.context.temp_override(window=real_window.window(), area=view, region=main_region(view)):
        bpy.ops.retake.import_shot(footage=arguments.footage, solve=arguments.solve, density=200)
        bpy.ops.retake.orbit(degrees=6)
    shot = bpy.context.scene.retake_shot.retake
    state = bpy.context.window_manager.retake

    shot.engine = "vace"
    yield 1.0
    screenshot(out / "1_backend_off.png")
    bpy.ops.retake.start_backend()
    yield lambda: state.backend_state == "READY" and models.every() and linked.backend().info.engines
    for number, name in enumerate(("preview", "edit-by-track", "track2view", "trajectory-attention", "vace")):
        shot.engine = name
        linked.redraw()
        yield 1.5
        screenshot(out / f"2_{number}_{name}.png")
    main = package.take_panels.MAIN_OPTIONS
    package.take_panels.MAIN_OPTIONS = tuple(shot.options.bl_rna.properties.keys())
    linked.redraw()
    yield 1.5
    screenshot(out / "3_all_options.png")
    package.take_panels.MAIN_OPTIONS = main

    shot.engine = "trajectory-attention"
    for use, base in (("image", "svd"), ("first-frame", "wan")):
        shot.options.use, shot.options.base = use, base
        linked.redraw()
        yield 1.5
        screenshot(out / f"4_{use}.png")
    target = out / "first.png"
    bpy.ops.retake.save_first_frame(filepath=str(target))
    yield lambda: not errands.running("frame")
    assert errands.ended("frame").good, errands.ended("frame").words
    assert target.stat().st_size > 10_000
    linked.redraw()
    yield 1.5
    screenshot(out / "5_first_frame_saved.png")

    # What a download looks like: the messages that the backend sends meanwhile.
    from retake_shared.client import ModelState

    shot.options.use, shot.options.base = "image", "svd"
    coming, failed = models.find("svd-xt"), models.find("trajectory-attention-svd")
    told = {
        "label": coming.label,
        "nbytes": coming.nbytes,
        "licence": coming.licence,
        "licence_url": coming.licence_url,
    }
    rendering.apply(package.messages.ModelTold(
        ModelState(coming.name, **told, task="pull", done=1_200_000_000, total=4_510_000_000)
    ))  # fmt: skip
    rendering.apply(package.messages.ModelTold(ModelState(
        failed.name, label=failed.label, kind="parts", nbytes=failed.nbytes,
        error={"what": "the folder holds no part.json.", "where": "", "remedy": "Choose the folder of the parts."},
    )))  # fmt: skip
    linked.redraw()
    yield 1.5
    screenshot(out / "6_progress.png")
    rendering.apply(package.messages.ModelTold(coming))
    rendering.apply(package.messages.ModelTold(failed))

    shot.engine, shot.prompt = "edit-by-track", "a man walks past a ball"
    shot.options.steps, shot.options.working_size = arguments.steps, 256
    shot.use_range, shot.range = True, (shot.start, shot.start + 8)
    real_window.generate(view)
    yield lambda: rendering.latest_picture(bpy.context) is not None or not state.job
    rough = rendering.latest_picture(bpy.context)
    assert rough is not None, shot.takes[-1].message
    yield 0.5
    screenshot(out / "7_rough.png")
    yield lambda: not state.job
    take = shot.takes[-1]
    assert take.state == "DONE", take.message
    assert rough[0].name.startswith("rough picture"), rough
    yield 1.0
    screenshot(out / "8_done.png")

    yield bpy.ops.retake.free_memory.poll  # the backend says every few seconds whether its worker is busy
    bpy.ops.retake.free_memory()
    yield lambda: "held in memory" in state.backend_message
    yield 0.5
    screenshot(out / "9_freed.png")

    view.type = "PREFERENCES"  # larger than the preferences' own window
    bpy.context.preferences.active_section = "ADDONS"
    bpy.context.window_manager.addon_search = "Retake"
    with bpy.context.temp_override(window=real_window.window(), area=view, region=main_region(view)):
        bpy.ops.preferences.addon_expand(module=extension)
    yield 2.0
    screenshot(out / "10_preferences.png")
    told = {
        "blender": bpy.app.version_string,
        "take": take.state,
        "notes": take.message,
        "longest hold of the window, ms": {name: round(1000 * max(times), 1) for name, times in held.items() if times},
    }
    (out / "engines.json").write_text(json.dumps(told, indent=1))
    bpy.ops.retake.stop_backend()
    yield lambda: state.backend_state == "OFF"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--footage", required=True)
    parser.add_argument("--solve", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args(sys.argv[sys.argv.index("--") + 1 :])
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    bpy.context.preferences.view.show_splash = False
    bpy.context.preferences.filepaths.use_auto_save_temporary_files = False
    real_window.drive(run(arguments))


if __name__ == "__main__":
    main()
