"""Examples on disk: a folder of tar shards, written one example at a time, read as a stream.

    dataset.json       {"retake": "dataset", "version": 1, "pairs": 130, "frames": 2210, "shards": [{"name":
                       "shard_00000.tar", "pairs": 64, "frames": 1088, "bytes": 20480000, "sha256": "..."}, ...]}
    shard_00000.tar    64 examples, one behind the other; `shards_pairs` says what an example's members are
    shard_00002.part   the shard in the making, whole up to its last example; nobody reads it but its writer

A shard gets its name when it is whole and on the disk; `dataset.json` is then replaced. Whoever is killed between any
two of these steps goes on from there: the writer looks into its folder, not into a memory of it. There is no pickle,
and nothing is ever unpacked to the disk.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadFile, RetakeError

from . import shards, shards_pairs
from .pairs import Pair
from .shards_writer import PairWriter, index

__all__ = ["DamagedData", "Examples", "PairDataset", "PairWriter", "index", "read"]


_REMEMBERED = 64
"""Shards of which is known where what lies: as many as a window of shuffled examples usually lies in."""


class DamagedData(UserWarning):
    """Part of a data set cannot be used; it is left out, and counted."""


class Examples:
    """The examples of data sets by number, 0 .. len - 1, in the order in which they lie there."""

    def __init__(self, folders: Sequence[Path]) -> None:
        listed = [(Path(folder) / shard.name, shard.pairs) for folder in folders for shard in index(Path(folder))]
        self.paths = [path for path, _ in listed]
        self.starts = [0, *accumulate(pairs for _, pairs in listed)]
        self._entries: OrderedDict[int, tuple[shards.Entry, ...]] = OrderedDict()

    def __len__(self) -> int:
        return self.starts[-1]

    def name_and_pair(self, number: int) -> tuple[str, Pair]:
        """Raises BadFile or BadShot when it is damaged."""
        at = bisect_right(self.starts, number) - 1
        path, place = self.paths[at], number - self.starts[at]
        try:
            with open(path, "rb") as stream:
                entries = self._scanned(at, stream)
                if place >= len(entries):
                    raise BadFile(f"its example {place} is not there.", str(path), "Copy the shard again.")
                members, info = shards.read(stream, entries[place], str(path))
        except OSError as error:
            raise BadFile(f"cannot be read: {error.strerror}.", str(path), "Copy the shard again.") from error
        name = entries[place].name
        return name, shards_pairs.from_members(members, info, f"{path}: {name}")

    def _scanned(self, at: int, stream: IO[bytes]) -> tuple[shards.Entry, ...]:
        if at not in self._entries:
            found = shards.scan(stream)
            expected = self.starts[at + 1] - self.starts[at]
            if found.damage or len(found.entries) < expected:
                what = f"{self.paths[at]}: {len(found.entries)} of {expected} examples"
                warnings.warn(f"{what}: {found.damage or 'the rest is missing'}.", DamagedData, stacklevel=2)
            self._entries[at] = found.entries
            if len(self._entries) > _REMEMBERED:
                self._entries.popitem(last=False)
        return self._entries[at]


def read(folder: Path | Sequence[Path]) -> Iterator[tuple[str, Pair]]:
    """Name and example, one by one, in order, once. What is damaged is left out and told by a DamagedData warning,
    the last of which has the count. Raises BadFile when there is no data set."""
    held = Examples([folder] if isinstance(folder, Path) else folder)
    skipped = 0
    for number in range(len(held)):
        try:
            found = held.name_and_pair(number)
        except RetakeError as error:
            skipped += 1
            warnings.warn(str(error), DamagedData, stacklevel=2)
        else:
            yield found
    if skipped:
        warnings.warn(f"{skipped} of {len(held)} examples were left out.", DamagedData, stacklevel=2)


class PairDataset:
    """The examples of data sets as a sequence without end, epoch after epoch.

    The order is one for a seed and an epoch: the shards are shuffled, and the examples in a window of `shuffle` (0: as
    they lie), so that reading stays nearly in sequence and nothing is held in memory. keep: what of an example is kept
    in memory all the same, and given from then on; None = nothing. skipped: bad examples so far, in whose places others
    were given. Raises BadFile where there is no data set, none in it, or no example that can be read.
    """

    def __init__(
        self,
        folders: Path | Sequence[Path],
        *,
        seed: int = 0,
        shuffle: int = 1024,
        keep: Callable[[Pair], Pair] | None = None,
    ) -> None:
        self.folders = [folders] if isinstance(folders, Path) else list(folders)
        self.seed, self.shuffle, self.skipped = seed, shuffle, 0
        self._keep, self._kept = keep, dict[int, Pair]()
        self._shards = Examples(self.folders)
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self.pairs = len(self._shards)
        if not self.pairs:
            raise BadFile("holds no example.", str(self.folders[0]), "Make some.")

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The numbers of all examples in the order of an epoch."""
        if not self.shuffle:
            return np.arange(self.pairs)
        starts = self._shards.starts
        random = np.random.default_rng([self.seed, epoch])
        numbers = np.concatenate([np.arange(starts[s], starts[s + 1]) for s in random.permutation(len(starts) - 1)])
        # As a buffer shuffles: each place is drawn from a window, and the next in line takes the drawn one's place.
        drawn = random.integers(0, self.shuffle, self.pairs)
        for at in range(self.pairs):
            other = at + int(drawn[at]) % min(self.shuffle, self.pairs - at)
            numbers[at], numbers[other] = numbers[other], numbers[at]
        return numbers

    def example(self, number: int) -> Pair:
        """Example `number`, 0 and up without end. Not for two threads at once."""
        epoch, place = divmod(number, self.pairs)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self.order(epoch)
        return self._good(self._order[1], place)

    def _good(self, order: NDArray[np.int64], place: int) -> Pair:
        """The example at a place of the order, or the next good one behind it."""
        for ahead in range(len(order)):
            number = int(order[(place + ahead) % len(order)])
            if number in self._kept:
                return self._kept[number]
            try:
                pair = self._shards.name_and_pair(number)[1]
                if self._keep is not None:
                    pair = self._kept[number] = self._keep(pair)
                return pair
            except RetakeError as error:
                self.skipped += 1
                warnings.warn(str(error), DamagedData, stacklevel=2)
        raise BadFile("holds no example that can be read.", str(self.folders[0]), "Make the data set again.")
