"""Where the loop's batches come from: endless numbered pieces, mixed by weight, prepared ahead.

A piece is a function of its number: the same whatever was made before it, on which process, and however often the
training was killed. So the place in the data is the step, and nothing else need be remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from .batches import Batch


class Source(Protocol):
    """An endless sequence of examples."""

    def piece(self, number: int, count: int) -> Batch:
        """Examples number * count .. (number + 1) * count - 1, by whatever order the source has. One thread asks."""
        ...


def skipped(sources: Iterable[Source]) -> int:
    """Damaged examples so far, in whose places others were given, of those sources that count them."""
    return sum(getattr(source, "skipped", 0) for source in sources)


@dataclass(frozen=True)
class Mixture:
    """One source out of several, each piece whole from one of them: of every so many pieces each gives its share, as
    evenly as whole numbers go, and its own pieces in its own order."""

    sources: tuple[Source, ...]
    weights: tuple[float, ...]

    @property
    def skipped(self) -> int:
        """Those of all its sources."""
        return skipped(self.sources)

    def piece(self, number: int, count: int) -> Batch:
        weights = [Fraction(str(weight)) for weight in self.weights]  # as written: 0.3 is three tenths
        left = sum(weights)
        for source, weight in zip(self.sources[:-1], weights[:-1], strict=True):
            share = weight / left
            mine = int(number * share)
            if int((number + 1) * share) > mine:
                return source.piece(mine, count)
            number, left = number - mine, left - weight
        return self.sources[-1].piece(number, count)


class Feed:
    """The pieces of one process, from a step on, prepared ahead in a thread of their own. Close it at the end.

    Iterating gives (number of the piece within the whole training, batch); a step has size / at_once pieces, which the
    processes take turns at.
    """

    def __init__(
        self, stages: Sequence[tuple[int, Source]], *, size: int, at_once: int, ahead: int, step: int, process: int,
        processes: int,
    ) -> None:  # fmt: skip
        """stages: (steps, source) each. process: this one of how many."""
        self._pieces = _pieces(stages, size // at_once, step, process, processes)
        self._thread = ThreadPoolExecutor(1, "examples")
        self._waiting: deque[tuple[int, Future[Batch]]] = deque()
        self._ahead, self._at_once = ahead, at_once

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *failure: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return self

    def __next__(self) -> tuple[int, Batch]:
        while len(self._waiting) <= self._ahead and (following := next(self._pieces, None)) is not None:
            piece, source = following
            self._waiting.append((piece, self._thread.submit(source.piece, piece, self._at_once)))
        if not self._waiting:
            raise StopIteration
        piece, batch = self._waiting.popleft()
        return piece, batch.result()


def _pieces(
    stages: Sequence[tuple[int, Source]], per_step: int, step: int, process: int, processes: int
) -> Iterator[tuple[int, Source]]:
    """(number of the piece, where from) of one process from `step` to the end."""
    done = 0
    for steps, source in stages:
        for at in range(max(step, done), done + steps):
            for piece in range(at * per_step + process, (at + 1) * per_step, processes):
                yield piece, source
        done += steps
