"""The command line of the backend: `retake serve | solve | render | train | fit | convert | export | ...` (--help).

Exit codes: 0 done, 1 something is not right (doctor, models verify), 2 bad input or bad usage, 130 stopped by the user. Modules load
when a command needs them: `serve` starts without torch, `--help` without anything.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from retake_shared.arguments import (
    add_first_frame,
    add_settings,
    add_solve,
    frames,
    hints,
    option,
    seconds,
    settings,
    share,
    size,
)
from retake_shared.errors import Cancelled, RetakeError

from . import __version__

EXPORTS = ("npz", "colmap", "nerfstudio", "nuke", "chan")
"""The names of `retake_shared.exports.KINDS`, which are not loaded for `--help`."""


DEPTHS = ("depth-anything-v2-small", "depth-pro")
"""The names of `solve.monocular.NAMES`, likewise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; see the module for the exit codes."""
    arguments = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="retake", description="Render footage again along edited tracks and cameras.")
    parser.add_argument("--version", action="version", version=f"retake {__version__}")
    commands = parser.add_subparsers(
        required=True,
        metavar="serve | solve | render | train | fit | curate | generate | synthesize | evaluate | convert | export | compare | frame | models | doctor",
    )

    serve = commands.add_parser("serve", help="wait for jobs from Blender", description="Wait for jobs from Blender.")
    serve.add_argument("--home", type=Path, metavar="DIR", help="jobs, assets and the connection file (default: yours)")
    serve.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: leave the GPU alone (auto)")
    serve.add_argument("--cores", type=int, default=0, metavar="N", help="CPU cores to render with at most (all)")
    serve.add_argument("--models", type=Path, metavar="DIR", help="weights ($RETAKE_MODELS, else models in the home)")
    serve.set_defaults(command=_serve)

    solving = commands.add_parser("solve", help="cameras, tracks and depth of a video", description=_solve.__doc__)
    _add_solve_footage(solving)
    solving.set_defaults(command=_solve)

    render = commands.add_parser("render", help="render one edit to a folder", description=_render.__doc__)
    render.add_argument("--footage", required=True, type=Path, metavar="F", help="a video, or a folder of images")
    add_solve(render)
    render.add_argument(
        "--take", type=Path, metavar="DIR", help="render this take again, in place of --solve and --edit"
    )
    render.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the take's folder; a take there is replaced"
    )
    add_settings(render)
    add_first_frame(render)
    render.set_defaults(command=_render)

    _add_train(commands.add_parser("train", help="train a model on pairs", description=_train.__doc__))

    _add_fit(commands.add_parser("fit", help="train shortly on one shot", description=_fit.__doc__))

    _add_curate(commands.add_parser("curate", help="training examples from videos", description=_curate.__doc__))

    _add_evaluate(commands.add_parser("evaluate", help="engines against the truth", description=_evaluate.__doc__))

    _add_generate(commands.add_parser("generate", help="training examples from nothing", description=_generate.__doc__))

    _add_synthesize(
        commands.add_parser("synthesize", help="training examples from Blender", description=_synthesize.__doc__)
    )

    _add_convert(commands.add_parser("convert", help="any solve to Retake's archive", description=_convert.__doc__))

    _add_export(
        commands.add_parser("export", help="cameras and tracks for other programs", description=_export.__doc__)
    )

    compare = commands.add_parser("compare", help="takes beside their footage", description=_compare.__doc__)
    compare.add_argument("--footage", required=True, type=Path, metavar="F")
    compare.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .mp4 to write")
    compare.add_argument(
        "takes", nargs="+", type=Path, metavar="TAKE", help="folder of a take; one row of pictures each"
    )
    compare.set_defaults(command=_compare)

    frame = commands.add_parser("frame", help="one frame of a footage as a PNG", description=_frame.__doc__)
    frame.add_argument("--footage", required=True, type=Path, metavar="F")
    frame.add_argument("--frame", type=int, default=0, metavar="N", help="counted from 0 (%(default)s)")
    frame.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .png to write")
    frame.set_defaults(command=_frame)

    _add_models(commands.add_parser("models", help="the weights of the engines", description=_models.__doc__))

    doctor = commands.add_parser("doctor", help="what is installed and running", description=_doctor.__doc__)
    doctor.add_argument("--home", type=Path, metavar="DIR")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake train`."""
    parser.add_argument("config", metavar="CONFIG", help="a TOML file, or the name of a ready one: edit-by-track, ...")
    parser.add_argument("--out", type=Path, metavar="DIR", help="in the place of the configuration's own")
    parser.add_argument("--show", action="store_true", help="print the configuration and do nothing, to copy it")
    parser.add_argument("--slurm", default="", metavar="NODESxGPUS", help="print a Slurm script that trains on so many")
    parser.set_defaults(command=_train)


def _add_fit(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake fit`."""
    parser.add_argument("footage", type=Path, metavar="FOOTAGE", help="a video, or a folder of images")
    add_solve(parser, required=True)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="checkpoints, samples and the result")
    parser.add_argument(
        "--engine", default="edit-by-track", choices=("edit-by-track", "track2view", "draft"),
        help="whose model (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="DIR", help="the weights to go on from (the installed ones)"
    )
    parser.add_argument("--prompt", default="", help="what the shot shows")
    parser.add_argument("--steps", type=int, default=0, metavar="N", help="how long (as the configuration says)")
    parser.add_argument("--config", metavar="CONFIG", help="a TOML file (fit-ENGINE, see retake train --show)")
    parser.set_defaults(command=_fit)


def _add_curate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake curate`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="videos, in folders of any depth")
    parser.add_argument("--out", required=True, type=Path, metavar="DATASET", help="the data set; goes on with its own")
    parser.add_argument("--size", type=size, default=(448, 256), metavar="WxH", help="of the examples (448x256)")
    parser.add_argument("--frames", type=int, default=17, metavar="N", help="of each clip (%(default)s)")
    parser.add_argument("--tracks", type=int, default=2000, metavar="N", help="at most (%(default)s)")
    parser.add_argument("--fps", type=float, default=16.0, metavar="RATE", help="about that of the clips (%(default)g)")
    parser.add_argument(
        "--apart", type=seconds, default=(1.0, 5.0), metavar="A:B", help="seconds from source to target (1:5)"
    )
    parser.add_argument("--fov", type=float, metavar="DEG", help="field of view across the width, if all have the same")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (%(default)s)")
    parser.add_argument("--per-shard", type=int, default=64, metavar="N", help="examples in a file (%(default)s)")
    parser.add_argument(
        "--part", type=share, default=(0, 1), metavar="I/N", help="every N-th video from the I-th, 0/N to N-1/N, each "
        "part with an --out of its own, to work on many machines (all)",
    )  # fmt: skip
    parser.set_defaults(command=_curate)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake evaluate`."""
    parser.add_argument(
        "--set", required=True, metavar="NAME|DIR",
        help="sample, held-out, shifted:FOOTAGE:SOLVE:K, or a folder of examples, DyCheck, RealEstate10K or DAVIS",
    )  # fmt: skip
    parser.add_argument(
        "--engine", required=True, action="append", metavar="NAME", help="may be repeated; copy: the footage itself"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="takes, report.html, report.json, table.md"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N items (all)")
    parser.add_argument("--size", type=size, metavar="WxH", help="of the pictures, in pixels (each item's own)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--option",
        action="append",
        type=option,
        metavar="NAME=VALUE",
        help="for the engines that have it; may be repeated",
    )
    parser.set_defaults(command=_evaluate)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake generate`."""
    parser.add_argument("--out", required=True, type=Path, metavar="DATASET", help="its folder; what is there stays")
    parser.add_argument("--clips", required=True, type=int, metavar="N", help="how many pairs of videos in all")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of what is drawn (%(default)s)")
    parser.add_argument("--size", type=size, default=(224, 128), metavar="WxH", help="of the pictures, px (224x128)")
    parser.add_argument("--frames", type=int, default=9, metavar="F", help="of each video (%(default)s)")
    parser.add_argument("--tracks", type=int, default=700, metavar="N", help="of each pair (%(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="images to paint half of the surfaces with (none)")
    parser.set_defaults(command=_generate)


def _add_synthesize(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake synthesize`."""
    parser.add_argument("--out", required=True, type=Path, metavar="DATASET", help="its folder; what is there stays")
    parser.add_argument("--clips", required=True, type=int, metavar="N", help="how many pairs of videos")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first scene (%(default)s)")
    parser.add_argument("--size", type=size, default=(224, 128), metavar="WxH", help="of the pictures, px (224x128)")
    parser.add_argument("--frames", type=int, default=17, metavar="F", help="of each video (%(default)s)")
    parser.add_argument("--processes", type=int, default=0, metavar="P", help="Blenders at a time (one a core)")
    parser.add_argument("--quality", choices=("draft", "full"), default="draft", help="of the pictures (%(default)s)")
    parser.add_argument(
        "--blender", default="", metavar="CMD", help="a Blender, or a Python with bpy ($RETAKE_BLENDER, else blender)"
    )
    parser.add_argument("--mixamo", type=Path, metavar="DIR", help="characters with actions (FBX), to act among others")
    parser.add_argument("--assets", type=Path, metavar="DIR", help="models (GLB, glTF, OBJ, FBX), as props")
    parser.set_defaults(command=_synthesize)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake convert`."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="a solve, or tracks in 2D, of any program that is known"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="NPZ", help="the archive to write")
    parser.add_argument(
        "--with", dest="other", type=Path, metavar="FILE", help="tracks in 2D for a solve, or a solve for them"
    )
    parser.add_argument("--footage", type=Path, metavar="F", help="bring the solve to this video's size and frames")
    parser.add_argument("--step", type=int, metavar="N", help="the solve holds every N-th frame of the footage")
    parser.add_argument(
        "--fov", type=float, metavar="DEG", help="field of view across the width, for files without a lens"
    )
    parser.add_argument(
        "--size", type=size, metavar="WxH", help="of the solved or tracked picture, for files without it"
    )
    parser.add_argument("--camera", default="", metavar="NAME", help="which one of several cameras in a file")
    parser.set_defaults(command=_convert)


def _add_export(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake export`."""
    parser.add_argument("file", type=Path, metavar="SOLVE_OR_EDIT", help="a solve, an edit, or the folder of a take")
    parser.add_argument("--to", required=True, choices=EXPORTS, help="for which program")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help="the file or the folder to write")
    parser.add_argument("--footage", type=Path, metavar="F", help="the video that was solved; its pictures go along")
    add_solve(parser)
    parser.add_argument("--frames", type=frames, metavar="A:B", help="footage frames A to B - 1 (all)")
    parser.add_argument(
        "--start", type=int, default=1, metavar="N", help="number of the first footage frame, for Nuke (%(default)s)"
    )
    parser.add_argument("--axes", type=int, default=0, metavar="N", help="tracks as Axis nodes, for Nuke (%(default)s)")
    parser.set_defaults(command=_export)


def _add_solve_footage(parser: argparse.ArgumentParser) -> None:
    """The words of `retake solve`."""
    parser.add_argument("footage", type=Path, metavar="VIDEO", help="a video, or a folder of images")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the solve.npz to write")
    lens = parser.add_mutually_exclusive_group()
    lens.add_argument("--focal", type=float, metavar="MM", help="the focal length, if you know it (estimated)")
    lens.add_argument("--fov", type=float, metavar="DEG", help="or the horizontal field of view")
    parser.add_argument("--sensor", type=float, default=36.0, metavar="MM", help="its longer side (%(default)g)")
    parser.add_argument("--frames", type=frames, metavar="A:B", help="footage frames A to B - 1 (all)")
    parser.add_argument("--step", type=int, default=1, metavar="N", help="look at every N-th frame (%(default)s)")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="mask images of what moves, one per frame")
    parser.add_argument(
        "--click", action="append", default=[], metavar="FRAME,X,Y[,NAME]",
        help="something moves at this place of the footage (frames from 0, px); SAM 2 follows it. May be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--tracker", default="flow", metavar="NAME",
        help="what follows the points (%(default)s): cotracker3, tapir, spatialtracker2, where you installed them",
    )  # fmt: skip
    parser.add_argument(
        "--depth", choices=DEPTHS, help=f"the network that tells depth ({DEPTHS[0]}, if it is here; else none)"
    )
    parser.add_argument(
        "--progress", choices=("words", "json"), default="words", help="json: a line a step on stdout, for programs"
    )


def _add_models(parser: argparse.ArgumentParser) -> None:
    """The commands under `retake models`."""
    actions = parser.add_subparsers(
        required=True, dest="action", metavar="list | pull | verify | import | random | remove"
    )
    listing = actions.add_parser("list", help="every model, its size and licence, and whether it is here")
    listing.add_argument("--json", action="store_true", help="for programs")
    pull = actions.add_parser("pull", help="download models from the hub, or go on with it")
    pull.add_argument("names", nargs="+", metavar="NAME")
    verify = actions.add_parser("verify", help="hash every file again")
    verify.add_argument("names", nargs="*", metavar="NAME", help="all that are installed when none is named")
    importing = actions.add_parser("import", help="take a model from a folder")
    importing.add_argument("name", metavar="NAME")
    importing.add_argument("folder", type=Path, metavar="FOLDER", help="diffusers' layout, a hub cache, trained parts")
    importing.add_argument("--link", action="store_true", help="hard links in place of copies, where that works")
    importing.add_argument("--replace", action="store_true", help="a model of that name which is installed already")
    random = actions.add_parser("random", help="tiny random weights in place of models, to try the road without them")
    random.add_argument("names", nargs="*", metavar="NAME", help="all that are not here when none is named")
    remove = actions.add_parser("remove", help="remove a model and free its space")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    for action in (listing, pull, verify, importing, random, remove):
        action.add_argument("--models", type=Path, metavar="DIR", help="their folder ($RETAKE_MODELS, else your own)")
    parser.set_defaults(command=_models)


def _serve(arguments: argparse.Namespace) -> int:
    from retake_shared import connection

    from .broker import server

    home = arguments.home or connection.default_home()
    limits = server.Limits(device=arguments.device, cores=arguments.cores, models=arguments.models)
    server.serve(home, limits, lambda running: print(f"retake: serving {home} at {running.control}", flush=True))
    return 0


def _solve(arguments: argparse.Namespace) -> int:
    """Solve a shot: cameras, 3D tracks, depth and moving objects from the footage alone, and a report of how far to
    trust them."""
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


if __name__ == "__main__":
    sys.exit(main())
