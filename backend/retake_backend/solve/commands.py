"""`retake solve VIDEO`: what it prints and returns."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from retake_shared import archive, clicks
from retake_shared.errors import Cancelled, RetakeError

from ..engines.base import Progress
from ..footage import FootageReader
from ..progress_line import ProgressLine
from .pipeline import SolveSettings, refused, solve_footage
from .report import SolveReport


def report_path(out: Path) -> Path:
    """Where the report of a solve lies: solve.npz -> solve.report.json."""
    return out.with_suffix(".report.json")


def stages_folder(out: Path) -> Path:
    """Where results and pictures of the stages lie: solve.npz -> solve.stages."""
    return out.with_suffix(".stages")


def solve(arguments: argparse.Namespace, check: Callable[[], None]) -> int:
    """Solve a shot: cameras, 3D tracks, depth and moving objects from the footage alone.

    Writes the solve, a report of how far it can be trusted (.report.json), and a picture of every stage (.stages).
    """
    out: Path = arguments.out
    if out.suffix != ".npz":
        raise RetakeError(f"{out.name} does not end in .npz.", "--out", "Use a name such as solve.npz.")
    settings = SolveSettings(
        arguments.focal, arguments.sensor, arguments.fov, arguments.frames, arguments.step, arguments.masks,
        arguments.tracker, arguments.depth or "", tuple(map(clicks.parse, arguments.click)),
    )  # fmt: skip
    if settings.masks is not None and not settings.masks.exists():
        raise RetakeError("does not exist.", str(settings.masks), "Choose the folder of masks again.")
    began = time.monotonic()
    in_json = arguments.progress == "json"
    meter = _JsonLines(check, settings.stages, stages_folder(out)) if in_json else ProgressLine(check)
    with FootageReader(arguments.footage) as reader, meter as line:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            solved = solve_footage(reader, settings, stages_folder(out), line)
        except Cancelled:
            raise
        except RetakeError as error:
            _write(report_path(out), refused(error, reader.footage, settings))
            raise
    archive.save(out, solved.solve)
    _write(report_path(out), solved.report)
    if arguments.progress == "words":
        print("\n".join(solved.report.words()))
    tracks = len(solved.solve.tracks)
    print(f"{out}: {len(solved.solve)} frames, {tracks} tracks in {time.monotonic() - began:.1f} s")
    return 0


def _write(path: Path, report: SolveReport) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    part.replace(path)


class _JsonLines:
    """Tells a program on stdout how far it is: a JSON object a line, at most ten a second.

    {"part": "cameras", "parts": ["points", "cameras", ...], "stage": "solving cameras", "done": 3, "total": 9}, and at
    the end of a part {"part": ..., "parts": ..., "ended": true, "kept": whether it was made by a run before,
    "picture": path of a PNG, or ""}.
    """

    def __init__(self, check: Callable[[], None], parts: tuple[str, ...], folder: Path) -> None:
        self._check, self._parts, self._folder = check, parts, folder
        self._ended, self._stage, self._told = 0, "", 0.0

    def __enter__(self) -> _JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, progress: Progress) -> None:
        self._check()
        part = self._parts[min(self._ended, len(self._parts) - 1)]
        kept = progress.stage.startswith(f"{part}: ")
        if kept or (progress.stage == part and progress.picture is not None):
            self._ended += 1
            picture = self._folder / f"{part}.png"
            self._say({"part": part, "ended": True, "kept": kept, "picture": str(picture) * picture.is_file()})
            return
        now = time.monotonic()
        if progress.stage == self._stage and now - self._told < 0.1 and progress.done < progress.total:
            return
        self._stage, self._told = progress.stage, now
        self._say({"part": part, "stage": progress.stage, "done": progress.done, "total": progress.total})

    def _say(self, line: dict[str, object]) -> None:
        try:
            print(json.dumps({**line, "parts": self._parts}), flush=True)
        except BrokenPipeError:  # whoever asked is gone; what is kept of the stages is there when they ask again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Cancelled from None
