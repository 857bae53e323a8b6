"""The command line inside Blender: `blender -b [shot.blend] --command retake render | import ...`, and `batch.py`.

Exit codes: 0 done, 2 bad input, 3 no take came of it (the backend, the engine or the disk failed), 130 stopped by the
user. Progress goes to stdout, a line each; errors go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bpy
from retake_shared import edit_script, fitting, formats
from retake_shared.arguments import add_first_frame, add_settings, add_solve, hints, settings
from retake_shared.errors import RetakeError
from retake_shared.shot import TAKE_FILE, Edit, RenderSettings, Solve

from . import engine_settings, models, preferences, take_list, take_requests, takes
from .link import Link
from .messages import Backend, ModelsTold, Printer
from .scene import footage_clip, objects, readback, shots
from .takes import JobRecord

DONE, BAD_INPUT, NO_TAKE, STOPPED = 0, 2, 3, 130


def main(argv: Sequence[str]) -> int:
    """Run `render ...`, `import ...`, or the arguments of render alone; see the module for the exit codes."""
    argv = list(argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv.insert(0, "render")
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as end:  # argparse has said what is wrong
        return int(end.code or 0)
    try:
        with _interruptible():
            code: int = arguments.run(arguments)
        return code
    except KeyboardInterrupt:
        print("Retake: stopped.", file=sys.stderr)
        return STOPPED
    except RetakeError as error:
        print(f"Retake: {error}", file=sys.stderr)
        return BAD_INPUT


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Blender keeps Ctrl-C to itself, and SIGTERM would end it without a word to the backend."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="retake", description="Render footage again along edited tracks and cameras.")
    commands = parser.add_subparsers(required=True, metavar="render | import")

    render = commands.add_parser(
        "render", help="render the open .blend, or a shot from files", description=_render.__doc__
    )
    render.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the take's folder; a take there is replaced"
    )
    render.add_argument("--shot", help="name of the shot in the .blend (the active one)")
    render.add_argument(
        "--footage", type=Path, metavar="F", help="a video; with --solve and --edit, instead of a .blend"
    )
    add_solve(render)
    add_settings(render)
    add_first_frame(render)
    render.add_argument("--backend", metavar="COMMAND", help="the backend's program (as in the preferences)")
    render.add_argument("--home", type=Path, metavar="DIR", help="the backend's folder (as in the preferences)")
    render.set_defaults(run=_render)

    bring = commands.add_parser("import", help="make a .blend of a shot", description=_import.__doc__)
    bring.add_argument("--footage", required=True, type=Path, metavar="F")
    add_solve(bring, required=True)
    bring.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .blend to write")
    bring.add_argument(
        "--density", type=int, default=shots.DEFAULT_DENSITY, metavar="N", help="empties at most (%(default)s)"
    )
    bring.set_defaults(run=_import)
    return parser


def _import(arguments: argparse.Namespace) -> int:
    """Make a .blend of a video and its solve, with cameras, objects and tracks ready to be edited."""
    root = shots.import_files(
        bpy.context, str(arguments.footage.absolute()), str(arguments.solve.absolute()),
        density=arguments.density, set_scene=True, step=arguments.step, hints=hints(arguments),
    )  # fmt: skip
    for line in root.retake.report.splitlines():
        print(f"Retake: {line}")
    out = arguments.out.absolute()
    try:
        bpy.ops.wm.save_as_mainfile(filepath=str(out))
    except RuntimeError as error:
        raise RetakeError(f"cannot be written ({str(error).strip()}).", str(out), "Choose another --out.") from None
    print(f"Retake: {out}")
    return DONE


@dataclass(frozen=True)
class _Job:
    """What to render: the shot's name and video, its solve, the edit of it, the engine's settings, and the edited
    first frame that the panel names, if any."""

    shot: str
    footage: Path
    solve: Solve
    edit: Edit
    settings: RenderSettings
    first_frame: str = ""


def _render(arguments: argparse.Namespace) -> int:
    """Render the shot of the open .blend as it is keyed; or a video, its solve and an edit, without any .blend."""
    job = _from_files(arguments) if arguments.footage or arguments.solve else _from_scene(arguments)
    job = replace(job, settings=job.settings.changed(settings(arguments)))
    start, stop = job.settings.frame_range(job.solve)
    record = JobRecord(job.shot, str(job.footage), job.settings, start, stop)
    first_frame = _first_frame(arguments, job)

    out = arguments.out.absolute()
    folder = _folder_for(out)
    place = preferences.backend_place(bpy.context)
    if arguments.backend:
        place = replace(place, command=arguments.backend, connection_file=None, may_start=True)
    if arguments.home:
        place = replace(place, home=arguments.home.absolute(), models=None, connection_file=None)
    link, printer = Link(place), Printer()
    try:
        _check_weights(link, job.settings, printer)
        takes.claim(folder, record)
        link.render(folder, record, job.solve, job.edit, first_frame)
        record = link.wait(folder, printer)
    finally:
        link.close()
        if record.state != "done" and folder != out:
            takes.delete(folder)
    if record.state == "cancelled":
        raise KeyboardInterrupt
    if record.state != "done":
        print(f"Retake: {record.error} {record.remedy}".rstrip(), file=sys.stderr)
        return NO_TAKE
    if folder != out:
        takes.delete(out)
        os.replace(folder, out)
    take = takes.read_take(out)
    for note in take.notes:
        print(f"Retake: {note}")
    rate = (stop - start) / max(take.seconds, 1e-6)
    print(f"Retake: {out}: {stop - start} frames in {take.seconds:.1f} s ({rate:.1f} a second)")
    return DONE


def _first_frame(arguments: argparse.Namespace, job: _Job) -> Path | None:
    """The edited first frame: what the command line names, else the panel. Raises RetakeError."""
    wanted = engine_settings.wants_first_frame(job.settings.engine, job.settings.options)
    if not wanted and arguments.first_frame:
        raise RetakeError(
            "the engine would not look at it.", "--first-frame",
            "Add --engine trajectory-attention --option use=first-frame, or leave it out.",
        )  # fmt: skip
    if not wanted:
        return None
    chosen = arguments.first_frame or job.first_frame
    if not chosen:
        raise RetakeError("an edited first frame is needed.", "--first-frame", "Name a picture, for example a PNG.")
    path = Path(bpy.path.abspath(str(chosen))).absolute()
    if not path.is_file():
        raise RetakeError("is not there.", str(path), "Choose another --first-frame.")
    return path


def _check_weights(link: Link, settings: RenderSettings, hear: Printer) -> None:
    """Raise RetakeError naming the weights that the engine lacks, before anything is made. What is not known is left
    to the engine."""
    if models.missing(settings.engine, settings.options) == []:
        return
    for ask in (link.start if link.place.may_start else link.test, link.models):
        ask().wait(60)
        for message in link.messages():
            hear(message)
            if isinstance(message, Backend | ModelsTold):
                models.apply(message)
    lacking = models.missing(settings.engine, settings.options)
    if lacking:
        names = " and ".join(f"`retake models {'pull' if m.kind == 'base' else 'import'} {m.name}`" for m in lacking)
        licences = ", ".join(sorted({model.licence for model in lacking if model.licence}))
        raise RetakeError(
            f"these weights are missing: {models.in_words(lacking)}{licences and f'; licence: {licences}'}.",
            engine_settings.label_of(settings.engine), f"Get them with {names}, or in Retake's preferences.",
        )  # fmt: skip


def _from_scene(arguments: argparse.Namespace) -> _Job:
    context = bpy.context
    if arguments.shot:
        root = next((root for root in take_list.shots() if root.name == arguments.shot), None)
    else:
        root = shots.active_shot(context) or next(take_list.shots(), None)
    if root is None:
        found = ", ".join(root.name for root in take_list.shots()) or "none"
        raise RetakeError(f"there is no such shot in the .blend; it has: {found}.", bpy.data.filepath,
                          "Open a .blend with a shot, or give --footage, --solve and --edit.")  # fmt: skip
    settings = take_requests.settings_of(root)
    if arguments.edit:
        solve = objects.current_solve(root)
        edit, settings = edit_script.load(arguments.edit, solve)
    else:
        print("Retake: reading the edit", flush=True)
        scene = context.scene if root in context.scene.objects[:] else root.users_scene[0]
        layer = context.view_layer if scene == context.scene else scene.view_layers[0]
        layer.update()  # one that was never shown may know nothing of its collections
        with context.temp_override(scene=scene, view_layer=layer):
            solve, edit = readback.read_edit(bpy.context, root)
    return _Job(root.name, take_requests.footage_path(root), solve, edit, settings, root.retake.first_frame)


def _from_files(arguments: argparse.Namespace) -> _Job:
    missing = [f"--{name}" for name in ("footage", "solve", "edit") if getattr(arguments, name) is None]
    if missing:
        raise RetakeError(f"{' and '.join(missing)} is missing.", "render", "Give all three, or open a .blend.")
    path = arguments.footage.absolute()
    footage = footage_clip.probe(str(path), bpy.context.scene)
    solve, read_notes = formats.read(arguments.solve, footage, hints(arguments))
    solve, fit_notes = fitting.bind(footage, solve, arguments.step)
    for note in (*read_notes, *fit_notes, fitting.check_convention(solve)):
        print(f"Retake: {note}")
    edit, settings = edit_script.load(arguments.edit, solve)
    return _Job(path.stem, path, solve, edit, settings)


def _folder_for(out: Path) -> Path:
    """Where to render: `out` itself, or beside it while it holds an older take, which is kept until the new is whole."""
    holds_take = (out / TAKE_FILE).exists() or (out / takes.JOB_FILE).exists()
    if holds_take:
        return out.with_name(f".{out.name}.{os.getpid()}.part")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RetakeError("is in use and is not a take.", str(out), "Choose another folder with --out.")
    return out


_command: Any = None


def register() -> None:
    global _command
    _command = bpy.utils.register_cli_command("retake", main)


def unregister() -> None:
    bpy.utils.unregister_cli_command(_command)
