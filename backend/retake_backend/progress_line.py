"""Progress of long work in a terminal: what every command of the command line shows."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

from .engines.base import Progress


class ProgressLine:
    """Progress on stderr: a line that changes in a terminal; elsewhere one for each stage and every tenth of it."""

    def __init__(self, check: Callable[[], None], told: bool = True) -> None:
        self._check, self._told, self._terminal = check, told, sys.stderr.isatty()
        self._stage, self._tenth, self._shown = "", -1, 0.0
        self._began, self._first = 0.0, 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *failure: object) -> None:
        self._clear()

    def __call__(self, progress: Progress) -> None:
        self._check()
        if not self._told:
            return
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._tenth, self._began, self._first = progress.stage, -1, now, progress.done
        share = f"{progress.stage}: {progress.done} of {progress.total}"
        done = progress.done - self._first
        if done and now - self._began > 3:  # before, it would be a guess
            left = (now - self._began) / done * (progress.total - progress.done)
            share += f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left"
        if self._terminal:
            if now - self._shown > 0.1 or progress.done == progress.total:
                self._shown = now
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\x1b[K{share[:width]}", end="", file=sys.stderr, flush=True)
        elif 10 * progress.done // max(progress.total, 1) != self._tenth and (self._tenth < 0 or now - self._shown > 2):
            self._tenth, self._shown = 10 * progress.done // max(progress.total, 1), now
            print(share, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A sentence that stays."""
        if self._told:
            self._clear()
            print(f"retake: {text}", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._terminal and self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
