"""The command line of the backend: `retake COMMAND ...`, with the `COMMANDS` at the end of this module.

Exit codes: 0 done, 1 something is not right (doctor, models verify), 2 bad input or bad usage, 130 stopped by the user. Modules load
when a command needs them: `serve` starts without torch, `--help` without anything.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from retake_shared.arguments import hints, settings
from retake_shared.errors import Cancelled, RetakeError

from . import cli_arguments as words
from .cli_arguments import Command, parser_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; see the module for the exit codes."""
    arguments = parser_of(COMMANDS).parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold letters that the terminal lacks: no failure
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = arguments.command(arguments)
        return code
    except (KeyboardInterrupt, Cancelled):
        print("retake: stopped.", file=sys.stderr)
        return 130
    except RetakeError as error:
        print(f"retake: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"retake: {place}{error.strerror or error}.", file=sys.stderr)
        return 2


class Stop:
    """From its making on, SIGINT and SIGTERM stop this process at once.

    Python drops an exception that a signal raises inside a destructor, so the signal is also remembered: `check` raises
    Cancelled once one has come.
    """

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> NoReturn:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise Cancelled when the user wants the work to stop."""
        if self._asked:
            raise Cancelled


def _serve(arguments: argparse.Namespace) -> int:
    """Wait for jobs from Blender."""
    from retake_shared import connection

    from .broker import server

    home = arguments.home or connection.default_home()
    limits = server.Limits(device=arguments.device, cores=arguments.cores, models=arguments.models)
    server.serve(home, limits, lambda running: print(f"retake: serving {home} at {running.control}", flush=True))
    return 0


def _solve(arguments: argparse.Namespace) -> int:
    """Solve a shot: cameras, 3D tracks, depth and moving objects from the footage alone, and a report of how far to
    trust them."""
    from . import device

    device.restrict(arguments.device, arguments.cores)  # before torch loads
    from .solve import commands

    return commands.solve(arguments, Stop().check)


def _render(arguments: argparse.Namespace) -> int:
    """Render one edit of one shot to a folder of PNG frames, the hole masks, and take.json, which repeats it."""
    from . import environment

    os.environ.update(environment.RENDERING)
    from . import render_files

    stop = Stop()
    changes = settings(arguments)
    if arguments.take is not None:
        if arguments.solve or arguments.edit or arguments.step or arguments.fov or arguments.camera:
            raise RetakeError(
                "--take brings its own solve and edit.", "--take",
                "Leave out --solve, --step, --fov, --camera and --edit.",
            )  # fmt: skip
        job = render_files.open_take(arguments.take, arguments.footage, changes, arguments.first_frame)
    elif arguments.solve is None or arguments.edit is None:
        raise RetakeError("a shot and an edit are needed.", "render", "Give --solve and --edit, or --take.")
    else:
        inputs = (arguments.footage, arguments.solve, arguments.edit)
        job = render_files.open_job(*inputs, changes, arguments.step, arguments.first_frame, hints(arguments))
    with job.request.footage:
        take = render_files.write_take(job, arguments.out, stop.check)
    rate = (take.stop - take.start) / max(take.seconds, 1e-6)
    print(f"{arguments.out}: {take.stop - take.start} frames in {take.seconds:.1f} s ({rate:.1f} a second)")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    """Train a model as a TOML file says, or go on where it was stopped or killed. Ctrl-C leaves a checkpoint."""
    from . import environment

    os.environ.update(environment.RENDERING)
    from .training import commands

    return commands.train(arguments)


def _fit(arguments: argparse.Namespace) -> int:
    """Train shortly on one shot: clips of it at different times, each as the edit of another."""
    from . import environment

    os.environ.update(environment.RENDERING)
    from .training import commands

    return commands.fit(arguments)


def _curate(arguments: argparse.Namespace) -> int:
    """Make training examples of a folder of videos: two clips a few seconds apart of each shot, cameras and 3D tracks
    over both. Scenes of several cameras with ReCamMaster's JSON give one camera's clip as another's target. What is
    left out is counted by reason (curation.json); a run that was stopped or killed goes on where it was."""
    from . import environment

    os.environ.update(environment.RENDERING)
    from .training.curation import commands

    return commands.curate(arguments, Stop().check)


def _evaluate(arguments: argparse.Namespace) -> int:
    """Render a set by several engines, measure the takes against the truth, and write a report. Goes on where an earlier
    run stopped."""
    from . import environment

    os.environ.update(environment.RENDERING)
    from .evaluation import commands

    return commands.evaluate(arguments, Stop().check)


def _generate(arguments: argparse.Namespace) -> int:
    """Make pairs of videos of rooms with boxes, balls and cut-out figures, cast ray by ray, thousands an hour, each with
    the reprojection that the preview makes of it. What was made before stays, and a run that is stopped goes on."""
    from . import environment

    os.environ.update(environment.RENDERING)
    from .training.generator import commands

    return commands.generate(arguments, Stop().check)


def _synthesize(arguments: argparse.Namespace) -> int:
    """Render pairs of videos in Blender, headless: characters, props and places drawn from a seed, and all that is known
    about them. What was made before stays, and a run that is stopped goes on."""
    from .training.synthesis import commands

    return commands.synthesize(arguments, Stop().check)


def _convert(arguments: argparse.Namespace) -> int:
    """Write the solve of any program that Retake knows, PyTorch's files among them, as Retake's own archive."""
    from retake_shared.formats import Hints

    from . import convert

    hinted = Hints(arguments.fov, arguments.size, arguments.camera)
    inputs = {"other": arguments.other, "footage": arguments.footage, "step": arguments.step}
    solve, notes = convert.convert(arguments.file, arguments.out, **inputs, hints=hinted)
    for note in notes:
        print(f"retake: {note}", file=sys.stderr)
    picture = f"{solve.cameras.width}x{solve.cameras.height}"
    print(f"{arguments.out}: {len(solve)} frames of {picture} px, {len(solve.tracks)} tracks ({solve.source})")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    """Write cameras and tracks as other programs read them: a solve's own, an edit's targets, or those of a take."""
    from . import export

    stop = Stop()
    names = ("footage", "solve", "step", "frames", "start", "axes")
    asked = export.Asked(**{name: getattr(arguments, name) for name in names}, hints=hints(arguments))
    content, notes = export.export(arguments.file, arguments.to, arguments.out, asked, stop.check)
    for note in notes:
        print(f"retake: {note}", file=sys.stderr)
    print(f"{arguments.out}: {len(content)} frames, {len(content.tracks)} tracks written for {arguments.to}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    """Write a video of the footage, its tracks before and after the edit, and the take, side by side."""
    from . import side_by_side

    frames = side_by_side.write(arguments.footage, arguments.takes, arguments.out)
    print(f"{arguments.out}: {frames} frames")
    return 0


def _frame(arguments: argparse.Namespace) -> int:
    """Write one frame of a footage as the engines see it, to be painted over and given back with --first-frame."""
    from .footage import FootageReader, write_png

    with FootageReader(arguments.footage) as footage:
        if not 0 <= arguments.frame < footage.footage.frames:
            last = footage.footage.frames - 1
            raise RetakeError(f"there is no frame {arguments.frame}.", str(arguments.footage), f"Use 0 to {last}.")
        write_png(arguments.out, footage.frame(arguments.frame))
    print(arguments.out)
    return 0


def _models(arguments: argparse.Namespace) -> int:
    """Tell which models there are, and bring them here: from the hub when you ask for it, or from a folder."""
    from .weights import commands
    from .weights.store import WeightStore

    store = WeightStore(arguments.models)
    if arguments.action == "list":
        return commands.list_models(store, arguments.json)
    if arguments.action == "remove":
        return commands.remove_model(store, arguments.name, arguments.yes)
    if arguments.action == "random":
        return commands.random_models(store, arguments.names)
    stop = Stop()
    if arguments.action == "pull":
        return commands.pull_models(store, arguments.names, stop.check)
    if arguments.action == "verify":
        return commands.verify_models(store, arguments.names, stop.check)
    name, folder = arguments.name, arguments.folder
    return commands.import_model(store, name, folder, arguments.link, arguments.replace, stop.check)


def _doctor(arguments: argparse.Namespace) -> int:
    """Tell what is installed, what it runs on, and whether a backend is running."""
    from retake_shared import connection

    from . import doctor

    return doctor.examine(arguments.home or connection.default_home())


COMMANDS = {
    "serve": Command(_serve, words.add_serve, "wait for jobs from Blender"),
    "solve": Command(_solve, words.add_solving, "cameras, tracks and depth of a video"),
    "render": Command(_render, words.add_render, "render one edit to a folder"),
    "train": Command(_train, words.add_train, "train a model on pairs"),
    "fit": Command(_fit, words.add_fit, "train shortly on one shot"),
    "curate": Command(_curate, words.add_curate, "training examples from videos"),
    "generate": Command(_generate, words.add_generate, "training examples from nothing"),
    "synthesize": Command(_synthesize, words.add_synthesize, "training examples from Blender"),
    "evaluate": Command(_evaluate, words.add_evaluate, "engines against the truth"),
    "convert": Command(_convert, words.add_convert, "any solve to Retake's archive"),
    "export": Command(_export, words.add_export, "cameras and tracks for other programs"),
    "compare": Command(_compare, words.add_compare, "takes beside their footage"),
    "frame": Command(_frame, words.add_frame, "one frame of a footage as a PNG"),
    "models": Command(_models, words.add_models, "the weights of the engines"),
    "doctor": Command(_doctor, words.add_doctor, "what is installed and running"),
}
"""Every command by its name, in the order in which `--help` lists them."""


if __name__ == "__main__":
    sys.exit(main())
