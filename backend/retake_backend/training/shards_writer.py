"""Writing a data set: one example at a time, each there for good once it is added. `dataset` says how it lies on disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from retake_shared.errors import BadFile, RetakeError

from .. import locking
from . import shards, shards_pairs
from .pairs import Pair

VERSION = 1
INDEX = "dataset.json"
_REMEDY = "Give the folder of a data set that Retake wrote."


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


class PairWriter:
    """Adds examples to the data set in `folder`, which is made where it is not there; a context manager.

    per_shard: examples in a shard. depth: keep the solves' depth maps, which are much the largest part of an example
    and of use only for making the reprojection. names: of the examples that are there; one that is added is there even
    if this process is killed, and after `secure` even if the power goes. shapes: (frames, height, width) of the first
    in each shard that was there. One writer at a time. Leaving the block ends the last shard; after an error it stays
    in the making, and the next writer goes on with it. Raises RetakeError (disk full, folder in use), BadFile, and
    OSError where the folder cannot be opened.
    """

    def __init__(self, folder: Path, per_shard: int = 64, depth: bool = True) -> None:
        self.folder, self.per_shard, self.depth = Path(folder), per_shard, depth
        self.names: set[str] = set()
        self.shapes: set[tuple[int, int, int]] = set()
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

    def expect(self, frames: int, size: tuple[int, int]) -> None:
        """Raise RetakeError where examples of other frames or another size (width, height) px are there."""
        for there, height, width in self.shapes - {(frames, size[1], size[0])}:
            raise RetakeError(
                f"holds examples of {there} frames of {width}x{height} px.", str(self.folder),
                f"Use another folder, or the settings it was made with: --size {width}x{height} --frames {there}.",
            )  # fmt: skip

    def add(self, pair: Pair, name: str) -> None:
        """Add an example under a name of letters, digits, - and _ that no other has. It is there when this returns."""
        if not shards.NAME.fullmatch(name):
            raise RetakeError(f"{name!r:.100} is no name.", "dataset", "Use up to 80 of A-Z a-z 0-9 - and _.")
        if name in self.names:
            raise RetakeError(f"{name} is there already.", str(self.folder), "Give every example its own name.")
        members, info = shards_pairs.to_members(pair, self.depth)
        data = shards.pack(name, members, info)
        try:
            self._append(self._stream or self._begin(), data)
        except OSError as error:
            raise _unwritable(error, self.folder) from error
        self.names.add(name)
        self._pairs += 1
        self._frames += len(pair)
        if self._pairs >= self.per_shard:
            self._end_shard()

    def secure(self) -> None:
        """Have what was added on the disk itself, as whoever notes elsewhere that it is there must. Raises RetakeError."""
        if self._stream is not None:
            try:
                os.fsync(self._stream.fileno())
            except OSError as error:
                raise _unwritable(error, self.folder) from error

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
                self._note_shape(stream, path, found)
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
        whole, found = 0, shards.scan(self._stream)
        self._note_shape(self._stream, part, found)
        for entry in found.entries:
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

    def _note_shape(self, stream: IO[bytes], path: Path, found: shards.Scan) -> None:
        for entry in found.entries[:1]:
            with contextlib.suppress(
                BadFile, LookupError, TypeError, ValueError
            ):  # told, and left out, when it is read
                frames, height, width = (int(n) for n in shards.describe(stream, entry, str(path))["shape"])
                self.shapes.add((frames, height, width))

    @property
    def _part(self) -> Path:
        return self.folder / f"shard_{self._number:05d}.part"

    def _begin(self) -> IO[bytes]:
        # Never over one that is there: it may be whole, and only could not be given its name.
        self._stream = open(self._part, "x+b", buffering=0)  # noqa: SIM115 - held until the shard ends
        return self._stream

    def _append(self, stream: IO[bytes], data: bytes) -> None:
        """All of it or nothing."""
        whole = stream.seek(0, 2)
        try:
            rest = memoryview(data)
            while rest:  # a disk that is almost full takes a part, and says so only when asked for more
                rest = rest[stream.write(rest) :]
        except BaseException:
            self._cut(whole)
            raise

    def _cut(self, size: int) -> None:
        if self._stream is not None:
            self._stream.truncate(size)
            self._stream.seek(size)

    def _end_shard(self) -> None:
        assert self._stream is not None
        whole = self._stream.seek(0, 2)
        try:
            try:
                self._append(self._stream, shards.END)
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
