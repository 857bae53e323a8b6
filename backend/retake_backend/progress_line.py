"""Progress of long work in a terminal: what every command of the command line shows, on stderr.

`ChangingLine` is the line itself; `ProgressLine` tells on it how far the stages of some work are.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:  # what shows no pictures loads without what decodes them
    from .engines.base import Progress

Words = Callable[[str, int, int, float], str]
"""How progress is told: of a stage, steps done, steps in all, and steps a second, 0 as long as that would be a guess."""


class ChangingLine:
    """One line that changes, in a terminal, under those that stay; elsewhere only those. told: False says nothing."""

    def __init__(self, told: bool = True) -> None:
        self._told, self._terminal = told, sys.stderr.isatty()
        self._there, self._shown = False, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.clear()

    def change(self, text: str, at_once: bool = False) -> None:
        """Show this in the place of what is there, at most ten times a second unless it is at once."""
        now = time.monotonic()
        if self._told and self._terminal and (at_once or now - self._shown > 0.1):
            self._there, self._shown = True, now
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)

    def keep(self) -> None:
        """What is there stays, and the next line changes."""
        if self._there:
            print(file=sys.stderr, flush=True)
        self._there = False

    def clear(self) -> None:
        """Nothing is there any more."""
        if self._there:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self._there = False

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._told:
            self.clear()
            print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A sentence that stays, as the command line's others are."""
        self.say(f"retake: {text}")


def in_steps(stage: str, done: int, total: int, pace: float) -> str:
    """The `Words` for whatever is counted."""
    words = f"{stage}: {done} of {total}" if total > 1 else stage
    if pace:
        left = (total - done) / pace
        words += f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left"
    return words


class ProgressLine(ChangingLine):
    """Stages one after the other: in a terminal each changes its line; elsewhere one line for each and every tenth of it.

    check: called at every step; raises Cancelled when the user wants the work to stop.
    """

    def __init__(self, check: Callable[[], None], told: bool = True, words: Words = in_steps) -> None:
        super().__init__(told)
        self._check, self._words = check, words
        self._stage: str | None = None
        self._tenth, self._said = -1, 0.0
        self._began, self._first, self._done = 0.0, 0, -1

    def __call__(self, progress: Progress) -> None:
        self.step(progress.stage, progress.done, progress.total)

    def step(self, stage: str, done: int, total: int) -> None:
        """As a call with the same Progress."""
        self._check()
        now, new = time.monotonic(), stage != self._stage
        if new:
            self.keep()
            self._stage, self._tenth, self._began, self._first = stage, -1, now, done
        news, self._done = new or done == total != self._done, done
        spent = now - self._began
        words = self._words(stage, done, total, (done - self._first) / spent if spent > 3 else 0.0)
        if self._terminal:
            self.change(words, at_once=news)
        elif (tenth := 10 * done // max(total, 1)) != self._tenth and (new or now - self._said > 2):
            self._tenth, self._said = tenth, now
            self.say(words)
