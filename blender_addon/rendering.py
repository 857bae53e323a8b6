"""Takes in the .blend: begun here, filled from the link's messages, found again when a file is opened.

Only Blender's main thread runs this. A take is known by its folder, never by a reference that an undo or another file
would leave dangling; whatever is missing in the .blend when a message comes is made again from the folder.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot, RetakeError
from retake_shared.shot import EDIT_FILE, FIRST_FRAME_FILE, SOLVE_FILE, Edit, RenderSettings, Solve, frame_name

from . import engine_settings, models, preferences, solving, take_list, takes
from .link import Link
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

_link: Link | None = None
_latest: tuple[Path, NDArray[np.float32]] | None = None
_rough = itertools.count()
_stage_began_at = 0
_waiting: list[LinkMessage] = []

errands: dict[str, ErrandEnded | None] = {}
"""How the last errand of each kind ended ("import", "frame"); None while it runs."""


def link(context: bpy.types.Context) -> Link:
    """The link, which exists from its first use until the add-on is switched off."""
    global _link
    place = preferences.backend_place(context)
    if _link is None:
        _link = Link(place)
    _link.move(place)
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, persistent=True)
    return _link


def backend() -> Backend:
    """What is known of the backend now."""
    return _link.backend if _link else Backend()


# ----------------------------------------------------------------------------------------------------- begin and end


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


def takes_parent() -> Path:
    """The folder in which new takes of this .blend get theirs."""
    unsaved = preferences.extension_folder("unsaved_takes") or preferences.default_home() / "unsaved_takes"
    return takes.takes_folder(bpy.data.filepath, unsaved)


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
    path = Path(bpy.path.abspath(root.retake.footage))
    if path.is_dir() or (root.retake.clip is not None and root.retake.clip.source == "SEQUENCE"):
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
        folder = takes.create(takes_parent(), record)
    else:
        takes.claim(folder, record)
    take_list.enter(root, TakeOnDisk(folder, record, None, {}))
    _watch(context, folder)
    link(context).render(folder, record, solve, edit, first_frame)
    return folder


def begin_again(
    context: bpy.types.Context, root: bpy.types.Object, folder: Path, settings: RenderSettings | None = None
) -> Path:
    """Render the edit of the take in `folder` once more, as a new take; return its folder. Raises RetakeError.

    settings: in place of the take's own; an edited first frame is then the panel's, too.
    """
    old = takes.look(folder).record
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
    except OSError as error:
        takes.delete(new)
        raise takes.cannot_write(new, error) from error
    take_list.enter(root, TakeOnDisk(new, record, None, {}))
    _watch(context, new)
    link(context).render(new, record, first_frame=first_frame)
    return new


def resume(context: bpy.types.Context, root: bpy.types.Object, folder: Path) -> None:
    """Go on with a take that failed or was cancelled, keeping the frames it has. Raises RetakeError."""
    found = takes.look(folder)
    record = replace(found.record, state="rendering", error="", remedy="", footage=str(footage_path(root)))
    take_list.enter(root, replace(found, record=record))
    _watch(context, folder)
    link(context).render(folder, record)


def cancel(context: bpy.types.Context) -> None:
    """Stop the take that is rendered now; its frames are kept."""
    state = context.window_manager.retake
    state.cancel, state.stage = True, "stopping"
    if state.job_state != "READING" and _link is not None:
        _link.cancel(Path(state.job))


def latest_picture(context: bpy.types.Context) -> tuple[Path, NDArray[np.float32]] | None:
    """What the take that is being rendered looks like: its newest frame, or the rough picture that came after it, as
    RGBA (h, w, 4) under a name of its own; None before the first."""
    if _latest is None or str(_latest[0].parent) != context.window_manager.retake.job:
        return None
    return _latest


def busy(context: bpy.types.Context) -> bool:
    """Whether a take is being rendered."""
    return bool(context.window_manager.retake.job)


def wait_for_backend(answered: threading.Event) -> Backend:
    """Block until the backend has answered, for scripts and `-b`; what is known of it then."""
    answered.wait(60)
    pump(1.0)
    return backend()


def errand_begun(operator: bpy.types.Operator, errand: str) -> set[str]:
    """What an operator returns that sent for something: in the window at once, in `-b` and scripts with its end."""
    redraw()
    if not bpy.app.background:
        return {"FINISHED"}
    while errands[errand] is None:
        pump(1.0)
        time.sleep(0.02)
    ended = errands[errand]
    operator.report({"INFO"} if ended.good else {"ERROR"}, ended.words)
    return {"FINISHED"} if ended.good else {"CANCELLED"}


def wait(context: bpy.types.Context, folder: Path) -> JobRecord:
    """Block until the take in `folder` has ended, for scripts and `-b`; tells on stdout how far it is."""
    printer = Printer()

    def hear(message: LinkMessage) -> None:
        apply(message)
        printer(message)

    return link(context).wait(folder, hear)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # a disk without links
        shutil.copyfile(source, target)


def watch_reading(context: bpy.types.Context, frames: int) -> None:
    """The panel shows that the edit is being read."""
    _show(context, READING, "READING", "reading the edit", frames)


def watch_nothing(context: bpy.types.Context) -> None:
    """The panel shows the button again."""
    _show(context, "", "IDLE", "", 0)


def _watch(context: bpy.types.Context, folder: Path) -> None:
    _show(context, str(folder), "SENDING", "starting", 0)


def _show(context: bpy.types.Context, job: str, job_state: str, stage: str, total: int) -> None:
    global _stage_began_at
    state, _stage_began_at = context.window_manager.retake, 0
    state.job, state.job_state, state.stage, state.message = job, job_state, stage, ""
    state.done, state.total, state.started, state.cancel = 0, total, time.monotonic(), False
    redraw()


# ------------------------------------------------------------------------------------------------ the folders again


def reconcile(context: bpy.types.Context) -> None:
    """Make the lists say what the folders hold: moved folders, takes that a crash or an undo lost, jobs left open."""
    parent = takes_parent() if bpy.data.filepath else None
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
        _watch(context, found.folder)
        link(context).follow(found.folder, found.record)


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
    if _link is None:
        return
    _waiting.extend(_link.messages())
    deadline = time.monotonic() + budget
    changed = bool(_waiting)
    while _waiting and time.monotonic() < deadline:
        apply(_waiting.pop(0))
    if changed:
        redraw()


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
        errands[message.errand] = message
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
        root = bpy.data.objects.get(found.record.shot)
        if root is not None and root.retake_role == "SHOT" and folder.parent == takes_parent():
            return root, take_list.enter(root, found)
    return None


def redraw() -> None:
    """Have the areas that show takes drawn again."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", "SEQUENCE_EDITOR", "PREFERENCES"):
                area.tag_redraw()


def time_left(state: bpy.types.RetakeState) -> str:
    """In words, how long the running stage will take; "" while that cannot be said."""
    done = state.done - _stage_began_at  # a take that is taken up again begins in its middle
    if done <= 0 or state.done >= state.total:
        return ""
    seconds = (time.monotonic() - state.started) * (state.total - state.done) / done
    return f"{seconds:.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"


@bpy.app.handlers.persistent
def _on_load(_path: str = "", _unused: object = None) -> None:
    watch_nothing(bpy.context)
    reconcile(bpy.context)


def register() -> None:
    bpy.app.handlers.load_post.append(_on_load)


def unregister() -> None:
    global _link
    bpy.app.handlers.load_post.remove(_on_load)
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    if _link is not None:
        _link.close()
        _link = None
    models.forget()
    _waiting.clear()
