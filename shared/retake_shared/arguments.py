"""Command-line words that `retake render` and Blender's own `--command retake render` share, so that they stay one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RetakeError

if TYPE_CHECKING:  # `--help` needs no numpy
    from .formats import Hints

SETTINGS = ("engine", "prompt", "negative_prompt", "seed", "size", "frames")
"""Fields of `shot.RenderSettings` that a command line can set."""


def add_solve(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The options --solve, --step, --fov and --camera: what `formats.read` and `fitting.bind` need beside the footage."""
    parser.add_argument(
        "--solve", required=required, type=Path, metavar="S", help="its solve, in any format that Retake reads"
    )
    parser.add_argument(
        "--step",
        type=int,
        metavar="N",
        help="the solve holds every N-th frame of the footage (default: its first ones)",
    )
    parser.add_argument(
        "--fov", type=float, metavar="DEG", help="field of view across the width, for solves without a lens"
    )
    parser.add_argument("--camera", default="", metavar="NAME", help="which one of several cameras in a solve")


def hints(arguments: argparse.Namespace) -> Hints:
    """What the options of `add_solve` say that a file may not. Raises BadFile for a field of view that cannot be."""
    from .formats import Hints

    return Hints(fov=arguments.fov, camera=arguments.camera)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The option --edit, and one for each of SETTINGS."""
    parser.add_argument("--edit", type=Path, metavar="E", help="JSON of moves, or .npz of target cameras and tracks")
    parser.add_argument("--engine", help="which engine renders (preview)")
    parser.add_argument("--prompt", help="what the picture shows, for engines that read it")
    parser.add_argument("--negative-prompt", metavar="PROMPT", help="what it must not show")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--size", type=size, metavar="WxH", help="of the take, in pixels (the footage's)")
    parser.add_argument("--frames", type=frames, metavar="A:B", help="footage frames A to B - 1 (all)")
    parser.add_argument(
        "--option", action="append", type=option, metavar="NAME=VALUE", help="one of the engine's own; may be repeated"
    )


def add_first_frame(parser: argparse.ArgumentParser) -> None:
    """The option --first-frame."""
    parser.add_argument(
        "--first-frame",
        type=Path,
        metavar="FILE",
        help="an edited picture of the first frame, for the engine trajectory-attention with --option use=first-frame",
    )


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of SETTINGS that the command line named, and `options` where it named any."""
    named = {name: value for name in SETTINGS if (value := getattr(arguments, name)) is not None}
    return {**named, "options": dict(arguments.option)} if arguments.option else named


def option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value a JSON number, true or false, else a word. Raises argparse.ArgumentTypeError."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE, as in steps=30")
    try:
        parsed = json.loads(value)
    except ValueError:
        return name, value
    return name, parsed if isinstance(parsed, int | float | bool) else value


def at_least(least: int, name: str, value: int) -> None:
    """Raise RetakeError for a number that is too small. name: of its option, as in --clips."""
    if value < least:
        raise RetakeError(f"is {value}.", name, f"Use {least} or more.")


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT. Raises argparse.ArgumentTypeError."""
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is not WIDTHxHEIGHT, as in 672x384")
    return int(width), int(height)


def seconds(text: str) -> tuple[float, float]:
    """FROM:TO in seconds. Raises argparse.ArgumentTypeError."""
    try:
        start, stop = (float(word) for word in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not FROM:TO, as in 1:5") from None
    return start, stop


def share(text: str) -> tuple[int, int]:
    """PART/PARTS, counted from 0. Raises argparse.ArgumentTypeError."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"{text} is not PART/PARTS, as in 0/8 to 7/8")
    return int(part), int(parts)


def frames(text: str) -> tuple[int, int]:
    """FIRST:STOP. Raises argparse.ArgumentTypeError."""
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is not FIRST:STOP, as in 0:81")
    return int(start), int(stop)
