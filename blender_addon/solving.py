"""Footage being solved: begun here, shown by the panel from what is remembered here, imported when it is done.

Only Blender's main thread runs this. The window is never held up: a program of the backend works, its messages come
through the link. What a crash cut short is found again by the record beside the solve.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import bpy
from retake_shared.errors import RetakeError

from . import linked, preferences
from .messages import SolveEnded, SolveProgress
from .scene import marking, shots
from .scene.pairing import PICTURES
from .solve_process import RECORD, SolveJob, read_record

SUFFIX = ".solve.npz"

_IN_WORDS = {
    "points": "Points", "cameras": "Cameras", "objects": "Objects", "depth": "Depth", "world": "Into 3D",
}  # fmt: skip


@dataclass
class Part:
    """One stage of the solve that runs. share: of it that is done, 0 to 1."""

    name: str
    share: float = 0.0
    words: str = ""
    ended: bool = False
    kept: bool = False

    @property
    def label(self) -> str:
        """Its name for the panel."""
        return _IN_WORDS.get(self.name, self.name.capitalize())


@dataclass
class Solving:
    """The solve that the panel shows. state: running, stopping, importing (it waits for the window), done, failed or
    cancelled. stray: another file was opened meanwhile, so that it is not imported unasked."""

    job: SolveJob
    state: str = "running"
    parts: list[Part] = field(default_factory=list)
    picture: str = ""
    words: str = ""
    report: str = ""
    began: float = field(default_factory=time.monotonic)
    stray: bool = False

    @property
    def busy(self) -> bool:
        """Whether the program still works."""
        return self.state in ("running", "stopping")


current: Solving | None = None
interrupted: list[SolveJob] = []
"""Solves that an earlier Blender began beside this .blend and did not end."""


def folder() -> Path:
    """Where solves of this .blend are written: beside it, or in a folder of our own until it is saved."""
    if bpy.data.filepath:
        return Path(bpy.data.filepath).parent
    return preferences.extension_folder("solves") or preferences.default_home() / "solves"


def job_for(footage: str, words: tuple[str, ...] = (), set_scene: bool = True) -> SolveJob:
    """The job that solves this footage, its solve beside the .blend. Raises RetakeError when the footage is not there."""
    path = Path(bpy.path.abspath(footage)).absolute()
    if not footage or not path.exists():
        raise RetakeError("is not there.", str(path) if footage else "footage", "Choose a video.")
    place = path.parent if path.suffix.lower() in PICTURES else path  # a sequence is solved by its folder
    return SolveJob(str(path), str(folder() / f"{place.stem}{SUFFIX}"), words, set_scene)


def begin(context: bpy.types.Context, job: SolveJob) -> None:
    """Have it solved in the background."""
    global current
    current = Solving(job)
    interrupted[:] = [other for other in interrupted if other.out != job.out]
    linked.link(context).solve(job)
    linked.redraw()


def cancel(context: bpy.types.Context) -> None:
    """Stop the solve that runs; the results of its stages stay for the next one."""
    if current is not None and current.state == "running":
        current.state = "stopping"
        linked.link(context).stop_solving()


def dismiss() -> None:
    """Forget what the panel shows of a solve that has ended, or the first one that was cut short."""
    global current
    if current is not None and not current.busy:
        current = None
    elif current is None and interrupted:
        job = interrupted.pop(0)
        with contextlib.suppress(OSError):
            job.record.unlink()


def busy() -> bool:
    """Whether footage is being solved."""
    return current is not None and current.busy


def apply(message: SolveProgress | SolveEnded) -> None:
    """Remember what a message says."""
    if current is None or message.job != current.job:
        return
    if isinstance(message, SolveEnded):
        current.state = "importing" if message.state == "done" else message.state
        current.words, current.report = message.words, message.report
        return
    if [part.name for part in current.parts] != list(message.parts):
        current.parts = [Part(name) for name in message.parts]
    part = next((part for part in current.parts if part.name == message.part), None)
    if part is None:
        return
    if message.ended:
        part.share, part.ended, part.kept = 1.0, True, message.kept
        current.picture = message.picture or current.picture
    else:
        if part.words != message.stage:
            part.share = 0.0
        share = message.done / message.total if message.total else 0.0
        part.words, part.share = message.stage, max(part.share, min(share, 1.0))


def why_not_import(context: bpy.types.Context) -> str:
    """What the import of a finished solve waits for; "" for nothing."""
    if context.mode != "OBJECT":
        return "Leave edit mode: the solved shot is ready to come in"
    if context.window_manager.retake.job_state == "READING":
        return "The solved shot comes in when the edit has been read"
    return ""


def bring_in(context: bpy.types.Context) -> None:
    """Import the finished solve. Raises RetakeError."""
    assert current is not None
    job = current.job
    try:
        bpy.ops.retake.import_shot("EXEC_DEFAULT", True, footage=job.footage, solve=job.out, set_scene=job.set_scene)
    except RuntimeError as error:  # what the operator reported
        current.state, current.words = "failed", str(error).removeprefix("Error:").strip()
        return
    current.state = "done"
    marking.keep(shots.active_shot(context).retake.clip, job.words)


def settle(context: bpy.types.Context) -> None:
    """Import the solve that has just ended, as soon as the window allows it."""
    if current is None or current.state != "importing" or current.stray or why_not_import(context):
        return
    window = context.window or next(iter(context.window_manager.windows), None)
    with context.temp_override(window=window) if window is not None else contextlib.nullcontext():
        bring_in(bpy.context)


def look_for_interrupted() -> None:
    """Find the records of solves that a crash cut short, beside the .blend that was opened."""
    interrupted.clear()
    with contextlib.suppress(OSError):
        for path in sorted(folder().glob(f"*.solve{RECORD}")):
            with contextlib.suppress(RetakeError):
                job = read_record(path)
                if not (busy() and current.job.out == job.out):
                    interrupted.append(job)


@bpy.app.handlers.persistent
def _on_load(_path: str = "", _unused: object = None) -> None:
    if current is not None:
        current.stray = True
    look_for_interrupted()


def register() -> None:
    bpy.app.handlers.load_post.append(_on_load)


def unregister() -> None:
    global current
    bpy.app.handlers.load_post.remove(_on_load)
    current = None
    interrupted.clear()
