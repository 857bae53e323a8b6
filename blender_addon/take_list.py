"""The list of a shot's takes in the .blend, and their strips in the sequencer. Both follow the take folders.

A take is known by its folder, never by a reference, which an undo or another file would leave dangling.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bpy

from . import preferences, takes
from .scene import sequencer
from .takes import TakeOnDisk


def shots() -> Iterator[bpy.types.Object]:
    """The roots of all shots in the .blend's scenes; one that was deleted may still be among its objects."""
    return (ob for ob in bpy.data.objects if ob.retake_role == "SHOT" and ob.users_scene)


def takes_parent() -> Path:
    """The folder in which new takes of this .blend get theirs."""
    unsaved = preferences.extension_folder("unsaved_takes") or preferences.default_home() / "unsaved_takes"
    return takes.takes_folder(bpy.data.filepath, unsaved)


def find(folder: Path) -> tuple[bpy.types.Object, bpy.types.RetakeTake] | None:
    """The listed take that lies in `folder`, and its shot's root."""
    for root in shots():
        for item in root.retake.takes:
            if Path(item.folder) == folder:
                return root, item
    return None


def active_take(root: bpy.types.Object | None) -> bpy.types.RetakeTake | None:
    """The take that is chosen in the shot's list."""
    if root is None or not 0 <= root.retake.active_take < len(root.retake.takes):
        return None
    return root.retake.takes[root.retake.active_take]


def enter(root: bpy.types.Object, found: TakeOnDisk) -> bpy.types.RetakeTake:
    """The list's entry of a take, made if it is not there, as its folder says."""
    shot = root.retake
    item = next((item for item in shot.takes if Path(item.folder) == found.folder), None)
    if item is None:
        item = shot.takes.add()
        item.folder, item.name = str(found.folder), found.folder.name.replace("_", " ").capitalize()
        shot.active_take = len(shot.takes) - 1
    record, take = found.record, found.take
    item.job, item.state, item.message = (
        record.job,
        record.state.upper(),
        " ".join((record.error, record.remedy)).strip(),
    )
    item.engine, item.prompt, item.seed = record.settings.engine, record.settings.prompt, record.settings.seed
    item.frames = (record.start, record.stop)
    item.size = record.settings.size or tuple(shot.size)
    if take is not None:
        item.seconds, item.created, item.size = take.seconds, take.created, (take.width, take.height)
        item.message = "\n".join(take.notes)
    return item


def scene_of(root: bpy.types.Object) -> bpy.types.Scene:
    """The scene whose sequencer gets the shot's takes."""
    context = bpy.context
    if context.scene is not None and root.name in context.scene.objects:
        return sequencer.scene_of(context)
    return root.users_scene[0] if root.users_scene else context.scene


def fill_strip(root: bpy.types.Object, item: bpy.types.RetakeTake) -> None:
    """Give the take's strip, made if need be, the frames that its folder holds without a gap from its first one on."""
    folder = Path(item.folder)
    frames = takes.frame_files(folder)
    files = []
    for index in range(item.frames[0], item.frames[1]):
        if index not in frames:
            break
        files.append(folder / frames[index])
    scene = scene_of(root)
    strip = sequencer.find(scene, item.strip) if item.strip else None
    if strip is None and files:
        first = root.retake.start + item.frames[0]
        length = item.frames[1] - item.frames[0]
        strip = sequencer.add_take_strip(scene, files, sequencer.label(root.name, item.name), first, length)
        item.strip = strip.name
        _show_sequencer(scene)
    elif strip is not None and len(files) > len(strip.elements):
        sequencer.grow_strip(strip, files[len(strip.elements) :])


def _show_sequencer(scene: bpy.types.Scene) -> None:
    """Since 5.0 a workspace without a sequencer scene shows no strips: give it this one."""
    for window in bpy.context.window_manager.windows:
        if getattr(window.workspace, "sequencer_scene", scene) is None:
            window.workspace.sequencer_scene = scene
