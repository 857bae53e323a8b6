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

import errno
import hashlib
import json
import os
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from retake_shared.errors import BadFile, RetakeError
from torch.utils.data import IterableDataset, get_worker_info

from .. import locking
from . import shards, shards_pairs
from .pairs import Pair

VERSION = 1
INDEX = "dataset.json"
_REMEDY = "Give the folder of a data set that Retake wrote."


class DamagedData(UserWarning):
    """Part of a data set cannot be used; it is left out, and counted."""


@dataclass(frozen=True)
class Shard:
    """One line of `dataset.json`. pairs, frames: how many lie in it. sha256: of the file."""

    name: str
    pairs: int
    frames: int
    bytes: int
    sha256: str


def index(folder: Path) -> tuple[Shard, ...]:
    """The shards of a data set, in order. Raises BadFile."""
    path = folder / INDEX
    try:
        data = json.loads(path.read_bytes())
        if data["retake"] != "dataset" or data["version"] != VERSION:
            raise BadFile(f"is version {data['version']!r:.40} of {data['retake']!r:.40}.", str(path), "Update Retake.")
        found = tuple(
            Shard(str(s["name"]), int(s["pairs"]), int(s["frames"]), int(s["bytes"]), str(s["sha256"]))
            for s in data["shards"]
        )
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror}).", str(path), _REMEDY) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadFile(f"is no data set's index ({error!r:.80}).", str(path), _REMEDY) from error
    for shard in found:
        if not _is_shard(shard.name) or shard.pairs < 0:
            raise BadFile(f"names {shard.name!r:.80} as a shard.", str(path), _REMEDY)
    return found


def _is_shard(name: str) -> bool:
    stem, dot, suffix = name.partition(".")
    return dot + suffix == ".tar" and stem.startswith("shard_") and stem[6:].isascii() and stem[6:].isdecimal()


# --- writing --------------------------------------------------------------------------------------------------------


class PairWriter:
    """Adds examples to the data set in `folder`, which is made where it is not there; a context manager.

    per_shard: examples in a shard. depth: keep the solves' depth maps, which are much the largest part of an example
    and of use only for making the reprojection. names: of the examples that are there; one that is added is there even
    if this process is killed. One writer at a time. Leaving the block ends the last shard; after an error it stays in
    the making, and the next writer goes on with it. Raises RetakeError (disk full, folder in use), BadFile.
    """

    def __init__(self, folder: Path, per_shard: int = 64, depth: bool = True) -> None:
        self.folder, self.per_shard, self.depth = Path(folder), per_shard, depth
        self.names: set[str] = set()
        self._stream: IO[bytes] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / ".writing", "ab")  # noqa: SIM115 - held until close
        if not locking.lock(self._lock.fileno()):
            self._lock.close()
            raise RetakeError("somebody is writing there.", str(self.folder), "Wait for it, or use another folder.")
        try:
            self._resume()
        except BaseException:
            self._release()
            raise

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def add(self, pair: Pair, name: str) -> None:
        """Add an example under a name of letters, digits, - and _ that no other has. It is there when this returns."""
        if not shards.NAME.fullmatch(name):
            raise RetakeError(f"{name!r:.100} is no name.", "dataset", "Use up to 80 of A-Z a-z 0-9 - and _.")
        if name in self.names:
            raise RetakeError(f"{name} is there already.", str(self.folder), "Give every example its own name.")
        members, info = shards_pairs.to_members(pair, self.depth)
        data = shards.pack(name, members, info)
        try:
            stream = self._stream or self._begin()
            whole = stream.seek(0, 2)
            try:
                stream.write(data)
                stream.flush()
            except BaseException:
                self._cut(whole)
                raise
        except OSError as error:
            raise _unwritable(error, self.folder) from error
        self.names.add(name)
        self._pairs += 1
        self._frames += len(pair)
        if self._pairs >= self.per_shard:
            self._end_shard()

    def close(self, finished: bool = True) -> None:
        """End the last shard, or leave it for the next writer. Nothing can be added afterwards."""
        try:
            if finished and self._stream is not None and self._pairs:
                self._end_shard()
        finally:
            self._release()

    def __enter__(self) -> PairWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=error is None)

    # --- the folder ---

    def _resume(self) -> None:
        """Find what is there; finish what a writer before was killed in."""
        try:
            known = {shard.name: shard for shard in index(self.folder)}
        except BadFile:
            if (self.folder / INDEX).exists():
                raise
            known = {}
        self._shards = []
        for path in sorted(self.folder.glob("shard_*.tar")):
            if not _is_shard(path.name):
                continue
            with open(path, "rb") as stream:
                found = shards.scan(stream)
            self.names |= {entry.name for entry in found.entries}
            self._shards.append(known.get(path.name) or self._described(path, found))
        self._number = 1 + max((int(s.name[6:-4]) for s in self._shards), default=-1)
        self._pairs = self._frames = 0
        part = self._part
        if part.exists():
            self._go_on(part)
        self._write_index()

    def _go_on(self, part: Path) -> None:
        """Continue a shard in the making, behind its last whole example."""
        self._stream = open(part, "r+b", buffering=0)  # noqa: SIM115 - held until the shard ends
        whole = 0
        for entry in shards.scan(self._stream).entries:
            try:
                _, info = shards.read(self._stream, entry, str(part))
                self._frames += int(info["shape"][0])
            except (BadFile, LookupError, TypeError, ValueError):  # it was not on the disk when the power went
                break
            self.names.add(entry.name)
            self._pairs += 1
            whole = entry.end
        self._cut(whole)
        if self._pairs >= self.per_shard:
            self._end_shard()

    @property
    def _part(self) -> Path:
        return self.folder / f"shard_{self._number:05d}.part"

    def _begin(self) -> IO[bytes]:
        self._stream = open(self._part, "w+b", buffering=0)  # noqa: SIM115 - held until the shard ends
        return self._stream

    def _cut(self, size: int) -> None:
        if self._stream is not None:
            self._stream.truncate(size)
            self._stream.seek(size)

    def _end_shard(self) -> None:
        assert self._stream is not None
        whole = self._stream.seek(0, 2)
        try:
            try:
                shards.end(self._stream)
                os.fsync(self._stream.fileno())
            except BaseException:
                self._cut(whole)
                raise
            with open(self._part, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = self._stream.tell()
            self._stream.close()
            self._stream = None
            path = self._part.with_suffix(".tar")
            self._part.replace(path)
            self._shards.append(Shard(path.name, self._pairs, self._frames, size, digest))
            self._number += 1
            self._pairs = self._frames = 0
            self._write_index()
        except OSError as error:
            raise _unwritable(error, self.folder) from error

    def _described(self, path: Path, found: shards.Scan) -> Shard:
        """The line of a shard that is not in the index yet."""
        frames = 0
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            for entry in found.entries:
                frames += int(shards.read(stream, entry, str(path))[1]["shape"][0])
        return Shard(path.name, len(found.entries), frames, path.stat().st_size, digest)

    def _write_index(self) -> None:
        content = {
            "retake": "dataset",
            "version": VERSION,
            "pairs": sum(shard.pairs for shard in self._shards),
            "frames": sum(shard.frames for shard in self._shards),
            "shards": [asdict(shard) for shard in self._shards],
        }
        part = self.folder / f"{INDEX}.part"
        with open(part, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(self.folder / INDEX)

    def _release(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._lock.close()


def _unwritable(error: OSError, folder: Path) -> RetakeError:
    full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
    remedy = "Free some space on that disk" if full else "Use a folder that you may write to"
    why = error.strerror or str(error)
    return RetakeError(f"cannot be written: {why}.", str(folder), f"{remedy}, and start again; nothing is lost.")


# --- reading --------------------------------------------------------------------------------------------------------


class _Shards:
    """The examples of data sets by number, 0 .. len - 1, in the order in which they lie there."""

    def __init__(self, folders: Sequence[Path]) -> None:
        listed = [(Path(folder) / shard.name, shard.pairs) for folder in folders for shard in index(Path(folder))]
        self.paths = [path for path, _ in listed]
        self.starts = [0, *accumulate(pairs for _, pairs in listed)]
        self._open: tuple[int, IO[bytes], tuple[shards.Entry, ...]] | None = None

    def __len__(self) -> int:
        return self.starts[-1]

    def name_and_pair(self, number: int) -> tuple[str, Pair]:
        """Raises BadFile or BadShot when it is damaged."""
        at = bisect_right(self.starts, number) - 1
        path, place = self.paths[at], number - self.starts[at]
        stream, entries = self._opened(at)
        if place >= len(entries):
            raise BadFile(f"example {place} of {self.starts[at + 1] - self.starts[at]} is not there.", str(path))
        entry = entries[place]
        members, info = shards.read(stream, entry, str(path))
        return entry.name, shards_pairs.from_members(members, info, f"{path}: {entry.name}")

    def _opened(self, at: int) -> tuple[IO[bytes], tuple[shards.Entry, ...]]:
        if self._open is None or self._open[0] != at:
            self.close()
            path = self.paths[at]
            try:
                stream = open(path, "rb")  # noqa: SIM115 - kept until another shard is read
            except OSError as error:
                raise BadFile(f"cannot be opened: {error.strerror}.", str(path), "Copy the shard again.") from error
            found = shards.scan(stream)
            expected = self.starts[at + 1] - self.starts[at]
            if found.damage or len(found.entries) < expected:
                why = found.damage or "the index promises more"
                warnings.warn(f"{path}: {len(found.entries)} of {expected} examples: {why}.", DamagedData, stacklevel=2)
            self._open = (at, stream, found.entries)
        return self._open[1], self._open[2]

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def read(folder: Path | Sequence[Path]) -> Iterator[tuple[str, Pair]]:
    """Name and example, one by one, in order, once. What is damaged is left out and told by a DamagedData warning,
    the last of which has the count. Raises BadFile when there is no data set."""
    held = _Shards([folder] if isinstance(folder, Path) else folder)
    skipped = 0
    try:
        for number in range(len(held)):
            try:
                yield held.name_and_pair(number)
            except RetakeError as error:
                skipped += 1
                warnings.warn(str(error), DamagedData, stacklevel=2)
    finally:
        held.close()
    if skipped:
        warnings.warn(f"{skipped} of {len(held)} examples were left out.", DamagedData, stacklevel=2)


class PairDataset(IterableDataset[Pair]):
    """The examples of data sets as a stream without end, for a DataLoader with any number of workers.

    The order is one for a seed and an epoch: the shards are shuffled, and the examples in a window of `shuffle` (0: as
    they lie), so that reading stays nearly in sequence and nothing is held in memory. Rank r of `world` gets every
    world-th example; an epoch is cut so that all ranks get equally many. Give `batch` as the DataLoader's batch_size:
    the stream of a rank is then the same for any number of workers.

    position: how many examples of this rank's stream are done; iteration begins there. The loop that trains adds to it
    (workers read ahead, they do not know), and keeps `state_dict`. skipped: bad examples so far, in whose places others
    were given. Raises BadFile where there is no data set, none in it, or no example that can be read.
    """

    _SLOTS = 128

    def __init__(
        self,
        folders: Path | Sequence[Path],
        *,
        seed: int = 0,
        shuffle: int = 1024,
        rank: int = 0,
        world: int = 1,
        batch: int = 1,
    ) -> None:
        self.folders = [folders] if isinstance(folders, Path) else list(folders)
        self.seed, self.shuffle, self.rank, self.world, self.batch = seed, shuffle, rank, world, batch
        self.position = 0
        self._skipped = torch.zeros(self._SLOTS, dtype=torch.int64).share_memory_()
        starts = _Shards(self.folders).starts
        self.pairs, self._sizes = starts[-1], np.diff(starts)
        if self.pairs < world:
            raise BadFile(f"holds {self.pairs} examples for {world} processes.", str(self.folders[0]), "Make more.")

    @property
    def per_epoch(self) -> int:
        """Examples that each rank gets of one epoch."""
        return self.pairs // self.world

    @property
    def skipped(self) -> int:
        """Bad examples so far, in this process and its workers."""
        return int(self._skipped.sum())

    def state_dict(self) -> dict[str, int]:
        """Where the stream is; plain numbers."""
        return {"position": self.position, "seed": self.seed, "pairs": self.pairs}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there. Raises BadFile when the data or the seed are others than they were."""
        for key in ("seed", "pairs"):
            if state[key] != self.state_dict()[key]:
                what = f"{key} is {self.state_dict()[key]}, it was {state[key]}."
                raise BadFile(what, str(self.folders[0]), "Go on with the same data and seed, or start anew.")
        self.position = state["position"]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The numbers of all examples in the order of an epoch."""
        starts = np.concatenate([[0], np.cumsum(self._sizes)])
        if not self.shuffle:
            return np.arange(self.pairs)
        random = np.random.default_rng([self.seed, epoch])
        numbers = np.concatenate([np.arange(starts[s], starts[s + 1]) for s in random.permutation(len(self._sizes))])
        # As a buffer shuffles: each place is drawn from a window, and the next in line takes the drawn one's place.
        drawn = random.integers(0, self.shuffle, self.pairs)
        for at in range(self.pairs):
            other = at + int(drawn[at]) % min(self.shuffle, self.pairs - at)
            numbers[at], numbers[other] = numbers[other], numbers[at]
        return numbers

    def __iter__(self) -> Iterator[Pair]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        held = _Shards(self.folders)
        epoch, order = -1, np.zeros(0, np.int64)
        at = self.position
        try:
            while True:
                if (at - self.position) // self.batch % workers == worker:
                    if epoch != at // self.per_epoch:
                        epoch = at // self.per_epoch
                        order = self.order(epoch)
                    place = at % self.per_epoch * self.world + self.rank
                    yield self._good(held, order, place, worker)
                at += 1
        finally:
            held.close()

    def _good(self, held: _Shards, order: NDArray[np.int64], place: int, worker: int) -> Pair:
        """The example at a place of the order, or the next good one behind it."""
        for ahead in range(len(order)):
            number = int(order[(place + ahead) % len(order)])
            try:
                return held.name_and_pair(number)[1]
            except RetakeError as error:
                self._skipped[worker % self._SLOTS] += 1
                warnings.warn(str(error), DamagedData, stacklevel=2)
        raise BadFile("holds no example that can be read.", str(self.folders[0]), "Make the data set again.")
