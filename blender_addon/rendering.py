"""Takes in the .blend: filled from the link's messages, shown while they run, found again when a file is opened.

Only Blender's main thread runs this. A take is known by its folder, never by a reference that an undo or another file
would leave dangling; whatever is missing in the .blend when a message comes is made again from the folder.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import traceback
from dataclasses import replace
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import RetakeError
from retake_shared.shot import frame_name

from . import engine_settings, errands, linked, models, solving, take_list, takes
from .messages import (
    Backend,
    ErrandEnded,
    FrameArrived,
    LinkMessage,
    ModelsTold,
    ModelTold,
    Printer,
    Progress,
    RoughPicture,
    SolveEnded,
    SolveProgress,
)
from .scene import shots
from .takes import JobRecord, TakeOnDisk

TICK = 0.1
"""Seconds between two looks at the link's messages."""
BUDGET = 0.015
"""Seconds that one look may take; one message more can take as long again, and the window must not wait 50 ms."""

READING = "reading"
"""What `RetakeState.job` says instead of a folder while the edit is read and the take has none yet."""

_latest: tuple[Path, NDArray[np.float32]] | None = None
_rough = itertools.count()
_stage_began_at = 0
_waiting: list[LinkMessage] = []


# ---------------------------------------------------------------------------------------------- the take that runs


def cancel(context: bpy.types.Context) -> None:
    """Stop the take that is rendered now; its frames are kept."""
    state = context.window_manager.retake
    state.cancel, state.stage = True, "stopping"
    link = linked.in_use()
    if state.job_state != "READING" and link is not None:
        link.cancel(Path(state.job))


def latest_picture(context: bpy.types.Context) -> tuple[Path, NDArray[np.float32]] | None:
    """What the take that is being rendered looks like: its newest frame, or the rough picture that came after it, as
    RGBA (h, w, 4) under a name of its own; None before the first."""
    if _latest is None or str(_latest[0].parent) != context.window_manager.retake.job:
        return None
    return _latest


def busy(context: bpy.types.Context) -> bool:
    """Whether a take is being rendered."""
    return bool(context.window_manager.retake.job)


def time_left(state: bpy.types.RetakeState) -> str:
    """In words, how long the running stage will take; "" while that cannot be said."""
    done = state.done - _stage_began_at  # a take that is taken up again begins in its middle
    if done <= 0 or state.done >= state.total:
        return ""
    seconds = (time.monotonic() - state.started) * (state.total - state.done) / done
    return f"{seconds:.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"


def wait(context: bpy.types.Context, folder: Path) -> JobRecord:
    """Block until the take in `folder` has ended, for scripts and `-b`; tells on stdout how far it is."""
    printer = Printer()

    def hear(message: LinkMessage) -> None:
        apply(message)
        printer(message)

    return linked.link(context).wait(folder, hear)


def watch_reading(context: bpy.types.Context, frames: int) -> None:
    """The panel shows that the edit is being read."""
    _show(context, READING, "READING", "reading the edit", frames)


def watch_nothing(context: bpy.types.Context) -> None:
    """The panel shows the button again."""
    _show(context, "", "IDLE", "", 0)


def watch(context: bpy.types.Context, folder: Path) -> None:
    """The panel shows the take in `folder`, which has just been asked for."""
    _show(context, str(folder), "SENDING", "starting", 0)


def _show(context: bpy.types.Context, job: str, job_state: str, stage: str, total: int) -> None:
    global _stage_began_at
    state, _stage_began_at = context.window_manager.retake, 0
    state.job, state.job_state, state.stage, state.message = job, job_state, stage, ""
    state.done, state.total, state.started, state.cancel = 0, total, time.monotonic(), False
    linked.redraw()


# ------------------------------------------------------------------------------------------------ the folders again


def reconcile(context: bpy.types.Context) -> None:
    """Make the lists say what the folders hold: moved folders, takes that a crash or an undo lost, jobs left open."""
    parent = take_list.takes_parent() if bpy.data.filepath else None
    listed = set()
    for root in take_list.shots():
        for item in root.retake.takes:
            found = _look_again(item, parent)
            if found is None:
                item.state, item.message = "FAILED", "Its folder is gone. Delete the take, or put the folder back."
                continue
            listed.add(found.folder)
            item.folder = str(found.folder)
            take_list.enter(root, found)
            _go_on(context, root, found)
    roots = {root.name: root for root in take_list.shots()}
    for folder in takes.scan(parent) if parent else []:
        if folder in listed:
            continue
        with contextlib.suppress(RetakeError):
            found = takes.look(folder)
            only = next(iter(roots.values())) if len(roots) == 1 else None
            root = roots.get(found.record.shot, only)
            if root is not None:
                take_list.fill_strip(root, take_list.enter(root, found))
                _go_on(context, root, found)


def _look_again(item: bpy.types.RetakeTake, parent: Path | None) -> TakeOnDisk | None:
    places = [Path(item.folder)]
    if parent is not None:
        places.append(parent / places[0].name)
    for place in places:
        with contextlib.suppress(RetakeError):
            found = takes.look(place)
            if place == places[0] or found.record.job == item.job:
                return found
    return None


def _go_on(context: bpy.types.Context, root: bpy.types.Object, found: TakeOnDisk) -> None:
    if found.record.state == "rendering" and not bpy.app.background and not busy(context):
        watch(context, found.folder)
        linked.link(context).follow(found.folder, found.record)


# ------------------------------------------------------------------------------------------------------ the messages


def _tick() -> float:
    try:
        pump(BUDGET)
        solving.settle(bpy.context)
    except Exception:  # Blender drops a timer that raises, and with it all that is still to come
        traceback.print_exc()
    return TICK


def pump(budget: float) -> None:
    """Apply messages of the link for at most about `budget` seconds; the rest waits for the next call."""
    link = linked.in_use()
    if link is None:
        return
    _waiting.extend(link.messages())
    deadline = time.monotonic() + budget
    changed = bool(_waiting)
    while _waiting and time.monotonic() < deadline:
        apply(_waiting.pop(0))
    if changed:
        linked.redraw()


def apply(message: LinkMessage) -> None:
    """Bring one message of the link into the .blend. A message of a take that is in no list here changes nothing."""
    global _latest, _stage_began_at
    state = bpy.context.window_manager.retake
    if isinstance(message, Backend):
        state.backend_state = message.state.upper()
        state.backend_message = " ".join((message.what, message.remedy)).strip()
        engine_settings.learn(message.info.engines if message.info else ())
    if isinstance(message, Backend | ModelsTold | ModelTold):
        models.apply(message)
        return
    if isinstance(message, ErrandEnded):
        errands.apply(message)
        root = shots.active_shot(bpy.context)
        if message.errand == "frame" and message.good and root is not None and not root.retake.first_frame:
            root.retake.first_frame = str(message.path)
        return
    if isinstance(message, SolveProgress | SolveEnded):
        solving.apply(message)
        return
    mine = state.job == str(message.folder)
    if isinstance(message, RoughPicture):
        pixels = decoded(message.jpeg) if mine else None
        if pixels is not None:
            _latest = (message.folder / f"rough picture {next(_rough)}", pixels)
        return
    if isinstance(message, Progress):
        if mine and not state.cancel:
            if state.stage != message.stage:
                state.started, _stage_began_at = time.monotonic(), message.done
            state.stage, state.done, state.total = message.stage, message.done, message.total
            state.job_state = "RUNNING"
        return
    place = take_list.find(message.folder) or _found_again(message.folder)
    if isinstance(message, FrameArrived):
        if message.picture is not None:
            _latest = (message.folder / frame_name(message.index), message.picture)
        if place is not None:
            take_list.fill_strip(*place)
        return
    if place is not None:
        found = TakeOnDisk(message.folder, message.record, None, {})
        with contextlib.suppress(RetakeError):  # the folder may be gone, or its disk full
            found = replace(takes.look(message.folder), record=message.record)
        take_list.fill_strip(place[0], take_list.enter(place[0], found))
    if mine:
        record = message.record
        watch_nothing(bpy.context)
        state.message = f"{record.error} {record.remedy}".strip() if record.state == "failed" else ""


def decoded(picture: bytes, side: int = 256) -> NDArray[np.float32] | None:
    """The pixels RGBA (h, w, 4), sRGB, bottom row first, of a small JPEG, thinned to at most `side` a side; None if it
    is no picture. Takes milliseconds: Blender reads it from memory, and no file or thumbnail of it stays anywhere."""
    image = bpy.data.images.new("Retake rough picture", 1, 1)
    try:
        image.pack(data=picture, data_len=len(picture))
        image.source = "FILE"
        width, height = image.size
        if not width or not height:
            return None
        pixels = np.empty(width * height * 4, np.float32)
        image.pixels.foreach_get(pixels)
    except RuntimeError:
        return None
    finally:
        bpy.data.images.remove(image)
    step = max(1, -(-max(width, height) // side))
    return np.ascontiguousarray(pixels.reshape(height, width, 4)[step // 2 :: step, step // 2 :: step])


def _found_again(folder: Path) -> tuple[bpy.types.Object, bpy.types.RetakeTake] | None:
    """The take after an undo took it off its list; None when its shot is not in this .blend."""
    with contextlib.suppress(RetakeError):
        found = takes.look(folder)
        root = next((root for root in take_list.shots() if root.name == found.record.shot), None)
        if root is not None and folder.parent == take_list.takes_parent():
            return root, take_list.enter(root, found)
    return None


@bpy.app.handlers.persistent
def _on_load(_path: str = "", _unused: object = None) -> None:
    watch_nothing(bpy.context)
    link = linked.in_use()
    if link is not None:  # the window manager may be another file's now, and the link tells only changes
        apply(link.backend)
    reconcile(bpy.context)


def register() -> None:
    bpy.app.handlers.load_post.append(_on_load)
    linked.listen(_tick)


def unregister() -> None:
    bpy.app.handlers.load_post.remove(_on_load)
    linked.close()
    models.forget()
    errands.forget()
    _waiting.clear()
