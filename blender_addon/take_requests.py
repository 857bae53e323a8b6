"""Takes that are asked for: what the shot's panel says, checked, written into the take's folder and sent over the link.

Only Blender's main thread runs this; each function answers at once, and what comes of the take is told to `rendering`.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy
from retake_shared.errors import BadFile, BadShot
from retake_shared.shot import EDIT_FILE, FIRST_FRAME_FILE, SOLVE_FILE, Edit, RenderSettings, Solve

from . import engine_settings, linked, models, rendering, take_list, takes
from .takes import JobRecord, TakeOnDisk


def settings_of(root: bpy.types.Object) -> RenderSettings:
    """What the shot's panel asks for. Raises BadShot when the frame range leaves the shot."""
    shot = root.retake
    frames = None
    if shot.use_range:
        first, last = shot.range[0] - shot.start, shot.range[1] - shot.start
        if not 0 <= first <= last < shot.frames:
            end = shot.start + shot.frames - 1
            raise BadShot(
                f"the frame range {shot.range[0]} to {shot.range[1]} leaves the shot.", root.name,
                f"Choose frames from {shot.start} to {end}, the first not after the last.",
            )  # fmt: skip
        frames = (first, last + 1)
    return RenderSettings(
        engine=shot.engine_name,
        prompt=shot.prompt,
        negative_prompt=shot.negative_prompt,
        options=engine_settings.read(shot),
        seed=shot.seed,
        frames=frames,
        size=tuple(shot.render_size) if shot.use_size else None,
    )


def lacking(root: bpy.types.Object) -> str:
    """Which weights the shot's engine lacks, in words; "" when it has them, or when that is not known."""
    engine = root.retake.engine_name
    found = models.missing(engine, options_of(root))
    return f"{engine_settings.label_of(engine)} lacks {models.in_words(found)}: get it first" if found else ""


def options_of(root: bpy.types.Object) -> dict[str, Any]:
    """The options that the panel asks for; none while they are no options."""
    try:
        return engine_settings.read(root.retake)
    except BadShot:
        return {}


def check(root: bpy.types.Object) -> None:
    """Raise what `begin` would raise for this shot, before its edit is read, which takes a while."""
    first_frame_path(root, settings_of(root))
    footage_path(root)


def first_frame_path(root: bpy.types.Object, settings: RenderSettings) -> Path | None:
    """The edited first frame that the shot's panel names, None for settings that want none. Raises BadShot when it is
    not there."""
    if not engine_settings.wants_first_frame(settings.engine, settings.options):
        return None
    if not root.retake.first_frame:
        raise BadShot(
            "an edited first frame is needed.", "First frame",
            "Save the first frame, paint it over in another program, and choose the result.",
        )  # fmt: skip
    path = Path(bpy.path.abspath(root.retake.first_frame))
    if not path.is_file():
        raise BadShot("the edited first frame is not there.", str(path), "Choose the picture again.")
    return path


def footage_path(root: bpy.types.Object) -> Path:
    """The shot's video. Raises BadShot when it is not where it was."""
    if root.retake.clip is None:
        raise BadShot("its movie clip is gone.", root.name, "Undo its deletion, or import the shot again.")
    path = Path(bpy.path.abspath(root.retake.footage))
    if path.is_dir() or root.retake.clip.source == "SEQUENCE":
        raise BadShot(
            "the footage is a sequence of pictures; the backend takes a video file.", str(path),
            "Make a lossless video of it (FFmpeg) and import the shot from that.",
        )  # fmt: skip
    if not path.exists():
        raise BadShot("the footage is not there.", str(path), "Put it back, or set its path under Files and Report.")
    return path


def begin(
    context: bpy.types.Context,
    root: bpy.types.Object,
    solve: Solve,
    edit: Edit,
    settings: RenderSettings,
    folder: Path | None = None,
) -> Path:
    """Start a take of the shot and list it; return its folder. Raises RetakeError.

    folder: where the user wants it; None makes a numbered one beside the .blend.
    """
    edit.check_against(solve)
    first_frame = first_frame_path(root, settings)
    start, stop = settings.frame_range(solve)
    record = JobRecord(root.name, str(footage_path(root)), settings, start, stop)
    if folder is None:
        folder = takes.create(take_list.takes_parent(), record)
    else:
        takes.claim(folder, record)
    take_list.enter(root, TakeOnDisk(folder, record, None, {}))
    rendering.watch(context, folder)
    linked.link(context).render(folder, record, solve, edit, first_frame)
    return folder


def begin_again(
    context: bpy.types.Context, root: bpy.types.Object, folder: Path, settings: RenderSettings | None = None
) -> Path:
    """Render the edit of the take in `folder` once more, as a new take; return its folder. Raises RetakeError.

    settings: in place of the take's own, but for the frames; an edited first frame is then the panel's, too.
    """
    old = takes.look(folder).record
    if settings is not None:  # the edit's frames stay its own
        settings = replace(settings, frames=old.settings.frames)
    first_frame = first_frame_path(root, settings) if settings else None
    record = JobRecord(
        root.name,
        str(footage_path(root)),
        settings or old.settings,
        old.start,
        old.stop,
        solve_sha256=old.solve_sha256,
        edit_sha256=old.edit_sha256,
        first_frame_sha256="" if settings else old.first_frame_sha256,
    )
    new = takes.create(folder.parent, record)
    try:
        for name in (SOLVE_FILE, EDIT_FILE, *((FIRST_FRAME_FILE,) if record.first_frame_sha256 else ())):
            _link_or_copy(folder / name, new / name)
    except FileNotFoundError as error:
        takes.delete(new)
        what = "the take ended before its edit was written."
        raise BadFile(what, str(folder), "Generate a new take.") from error
    except OSError as error:
        takes.delete(new)
        raise takes.cannot_write(new, error) from error
    take_list.enter(root, TakeOnDisk(new, record, None, {}))
    rendering.watch(context, new)
    linked.link(context).render(new, record, first_frame=first_frame)
    return new


def resume(context: bpy.types.Context, root: bpy.types.Object, folder: Path) -> None:
    """Go on with a take that failed or was cancelled, keeping the frames it has. Raises RetakeError."""
    found = takes.look(folder)
    record = replace(found.record, state="rendering", error="", remedy="", footage=str(footage_path(root)))
    take_list.enter(root, replace(found, record=record))
    rendering.watch(context, folder)
    linked.link(context).render(folder, record)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # a disk without links
        shutil.copyfile(source, target)
