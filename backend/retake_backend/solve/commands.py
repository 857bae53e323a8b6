"""`retake solve VIDEO`: what it prints and returns."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from retake_shared import archive
from retake_shared.errors import Cancelled, RetakeError

from ..engines.base import Progress
from ..footage import FootageReader
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
        arguments.focal, arguments.sensor, arguments.fov, arguments.frames, arguments.step, arguments.masks
    )
    if settings.masks is not None and not settings.masks.exists():
        raise RetakeError("does not exist.", str(settings.masks), "Choose the folder of masks again.")
    began = time.monotonic()
    with FootageReader(arguments.footage) as reader, _Line(check) as line:
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
    print("\n".join(solved.report.words()))
    tracks = len(solved.solve.tracks)
    print(f"{out}: {len(solved.solve)} frames, {tracks} tracks in {time.monotonic() - began:.1f} s")
    return 0


def _write(path: Path, report: SolveReport) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    part.replace(path)


class _Line:
    """Shows progress: a line that changes on a terminal, one line per stage elsewhere."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check, self._stage, self._shown = check, "", 0.0
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._stage:
            print(file=sys.stderr)

    def __call__(self, progress: Progress) -> None:
        self._check()
        now = time.monotonic()
        new = progress.stage != self._stage
        if not self._terminal:
            if new:
                print(progress.stage, file=sys.stderr, flush=True)
        elif new or now - self._shown > 0.1 or progress.done == progress.total:
            share = f" {progress.done} of {progress.total}" if progress.total > 1 else ""
            print(f"{chr(10) if new and self._stage else chr(13)}{progress.stage}{share}   ", end="", file=sys.stderr)
            self._shown = now
        self._stage = progress.stage
