"""Runs inside a real Blender with the extension installed: what the bpy wheel cannot show.

A real Blender enables the extension while it starts, with no access to the scene, and gives it the Python packages of
the archive. Prints OK as its last line when all of it held.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import bpy

PACKAGE = "bl_ext.user_default.retake"


def module(name: str):
    return importlib.import_module(f"{PACKAGE}.{name}")


def check_enabled() -> None:
    assert PACKAGE in bpy.context.preferences.addons, "the extension was not enabled at start"
    import retake_shared
    import zmq

    for package in (retake_shared, zmq):
        place = Path(package.__file__).as_posix()
        assert "/extensions/" in place, f"{package.__name__} comes from {place}, not from the extension's wheels"


def check_identity(root: bpy.types.Object) -> None:
    solve, edit = module("scene.readback").read_edit(bpy.context, root)
    import numpy as np

    before, _ = solve.cameras.project(solve.tracks.positions[:, edit.source_track])
    after, _ = edit.cameras.project(edit.positions)
    assert np.abs(after - before).max() < 1e-4


def check_cancel(root: bpy.types.Object) -> None:
    """A take that is cancelled while it renders ends as cancelled, and the next one can be generated."""
    rendering, take_requests, readback = module("rendering"), module("take_requests"), module("scene.readback")
    solve, edit = readback.read_edit(bpy.context, root)
    folder = take_requests.begin(bpy.context, root, solve, edit, take_requests.settings_of(root))
    assert bpy.ops.retake.cancel() == {"FINISHED"}
    record = rendering.wait(bpy.context, folder)
    assert record.state == "cancelled", record
    root.retake.use_range, root.retake.range = True, (root.retake.start, root.retake.start + 1)
    assert bpy.ops.retake.generate() == {"FINISHED"}
    assert [take.state for take in root.retake.takes] == ["CANCELLED", "DONE"]


def main() -> None:
    footage, solve, out = sys.argv[sys.argv.index("--") + 1 :]
    check_enabled()
    assert bpy.ops.retake.import_shot(footage=footage, solve=solve) == {"FINISHED"}
    root = module("scene.shots").active_shot(bpy.context)
    check_identity(root)
    bpy.ops.wm.save_as_mainfile(filepath=str(Path(out) / "shot.blend"))
    check_cancel(root)
    bpy.ops.retake.stop_backend()
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    assert len(module("scene.shots").active_shot(bpy.context).retake.takes) == 2
    print("OK", flush=True)


main()
