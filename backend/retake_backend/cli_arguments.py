"""The words of the command line: `retake`'s parser, and the arguments of each of its commands.

Nothing heavy is imported, so that `--help` is there at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from retake_shared.arguments import (
    add_first_frame,
    add_settings,
    add_solve,
    frames,
    option,
    seconds,
    share,
    size,
)

from . import __version__

EXPORTS = ("npz", "colmap", "nerfstudio", "nuke", "chan")
"""The names of `retake_shared.exports.KINDS`, which are not loaded for `--help`."""


DEPTHS = ("depth-anything-v2-small", "depth-pro")
"""The names of `solve.monocular.NAMES`, likewise."""


class Command(NamedTuple):
    """One command. run: parsed arguments -> exit code; its docstring is the description. add: adds its arguments.
    help: a few words for the list of commands."""

    run: Callable[[argparse.Namespace], int]
    add: Callable[[argparse.ArgumentParser], None]
    help: str


def parser_of(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of `retake COMMAND ...`; what it parses has the command's `run` as `command`."""
    parser = argparse.ArgumentParser(prog="retake", description="Render footage again along edited tracks and cameras.")
    parser.add_argument("--version", action="version", version=f"retake {__version__}")
    parsers = parser.add_subparsers(required=True, metavar=" | ".join(commands))
    for name, command in commands.items():
        own = parsers.add_parser(name, help=command.help, description=command.run.__doc__)
        command.add(own)
        own.set_defaults(command=command.run)
    return parser


def add_serve(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake serve`."""
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="jobs, assets and the connection file (default: yours)"
    )
    add_use(parser)
    parser.add_argument("--models", type=Path, metavar="DIR", help="weights ($RETAKE_MODELS, else models in the home)")


def add_use(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what of the machine may be used (`device.restrict`)."""
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: leave the GPU alone (auto)")
    parser.add_argument("--cores", type=int, default=0, metavar="N", help="CPU cores to use at most (all)")


def add_solving(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake solve`."""
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
    add_use(parser)


def add_render(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake render`."""
    parser.add_argument("--footage", required=True, type=Path, metavar="F", help="a video, or a folder of images")
    add_solve(parser)
    parser.add_argument(
        "--take", type=Path, metavar="DIR", help="render this take again, in place of --solve and --edit"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the take's folder; a take there is replaced"
    )
    add_settings(parser)
    add_first_frame(parser)


def add_train(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake train`."""
    parser.add_argument("config", metavar="CONFIG", help="a TOML file, or the name of a ready one: edit-by-track, ...")
    parser.add_argument("--out", type=Path, metavar="DIR", help="in the place of the configuration's own")
    parser.add_argument("--show", action="store_true", help="print the configuration and do nothing, to copy it")
    parser.add_argument("--slurm", default="", metavar="NODESxGPUS", help="print a Slurm script that trains on so many")


def add_fit(parser: argparse.ArgumentParser) -> None:
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


def add_curate(parser: argparse.ArgumentParser) -> None:
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


def add_generate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake generate`."""
    parser.add_argument("--out", required=True, type=Path, metavar="DATASET", help="its folder; what is there stays")
    parser.add_argument("--clips", required=True, type=int, metavar="N", help="how many pairs of videos in all")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of what is drawn (%(default)s)")
    parser.add_argument("--size", type=size, default=(224, 128), metavar="WxH", help="of the pictures, px (224x128)")
    parser.add_argument("--frames", type=int, default=9, metavar="F", help="of each video (%(default)s)")
    parser.add_argument("--tracks", type=int, default=700, metavar="N", help="of each pair (%(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="images to paint half of the surfaces with (none)")


def add_synthesize(parser: argparse.ArgumentParser) -> None:
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


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake evaluate`."""
    parser.add_argument(
        "--set", required=True, metavar="NAME|DIR",
        help="sample, held-out, shifted:FOOTAGE:SOLVE:K, or a folder of examples, DyCheck, RealEstate10K or DAVIS",
    )  # fmt: skip
    parser.add_argument(
        "--engine",
        required=True,
        action="append",
        metavar="NAME",
        help="may be repeated; copy: the footage itself, smooth: preview, its holes filled smoothly",
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


def add_convert(parser: argparse.ArgumentParser) -> None:
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


def add_export(parser: argparse.ArgumentParser) -> None:
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


def add_compare(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake compare`."""
    parser.add_argument("--footage", required=True, type=Path, metavar="F")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .mp4 to write")
    parser.add_argument(
        "takes", nargs="+", type=Path, metavar="TAKE", help="folder of a take; one row of pictures each"
    )


def add_frame(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake frame`."""
    parser.add_argument("--footage", required=True, type=Path, metavar="F")
    parser.add_argument("--frame", type=int, default=0, metavar="N", help="counted from 0 (%(default)s)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .png to write")


def add_models(parser: argparse.ArgumentParser) -> None:
    """The commands under `retake models`."""
    actions = parser.add_subparsers(required=True, dest="action")
    listing = actions.add_parser("list", help="every model, its size and licence, and whether it is here")
    listing.add_argument("--json", action="store_true", help="for programs")
    pull = actions.add_parser("pull", help="download models from the hub, or go on with it")
    pull.add_argument("names", nargs="+", metavar="NAME")
    verify = actions.add_parser("verify", help="hash every file again")
    verify.add_argument("names", nargs="*", metavar="NAME", help="all that are installed when none is named")
    importing = actions.add_parser("import", help="take a model from a folder")
    importing.add_argument("name", metavar="NAME")
    importing.add_argument(
        "folder", type=Path, metavar="FOLDER", help="diffusers' layout, a hub cache, what was trained"
    )
    importing.add_argument("--link", action="store_true", help="hard links in place of copies, where that works")
    importing.add_argument("--replace", action="store_true", help="a model of that name which is installed already")
    random = actions.add_parser("random", help="tiny random weights in place of models, to try the road without them")
    random.add_argument("names", nargs="*", metavar="NAME", help="all that are not here when none is named")
    remove = actions.add_parser("remove", help="remove a model and free its space")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    actions.metavar = " | ".join(actions.choices)
    for action in actions.choices.values():
        action.add_argument("--models", type=Path, metavar="DIR", help="their folder ($RETAKE_MODELS, else your own)")


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """The arguments of `retake doctor`."""
    parser.add_argument("--home", type=Path, metavar="DIR")
