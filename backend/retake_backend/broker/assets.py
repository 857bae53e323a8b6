"""Files named by the sha256 of their bytes: footage, solves and edits on their way in, frames on their way out.

A file is written under another name, hashed as it is written, synced and renamed: under its own name it is complete
and right. The same bytes are kept once. Broker and worker both write; neither can spoil the other's file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import threading
import time
from pathlib import Path

from retake_shared.protocol import Refused

RECENT_SECONDS = 600.0
"""Assets used that recently are never pruned: a job about to be submitted may need them."""


def storage_error(error: OSError, place: Path) -> Refused:
    """A failed write as a refusal that names the folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Refused("disk_full", "the backend's disk is full.", str(place), "Free some space there.")
    return Refused("storage", f"the backend cannot write ({error.strerror}).", str(place), "Check the folder.")


class AssetStore:
    """The assets under `root`/xx/. Safe to use from several threads and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pruning = threading.Lock()

    def path(self, sha256: str) -> Path:
        """Where the asset lies, or would lie. sha256 must have been checked (`protocol.sha256`)."""
        return self.root / sha256[:2] / sha256

    def missing(self, names: list[str]) -> list[str]:
        """Those of `names` that are not here; the others count as just used."""
        with self._pruning:
            return [name for name in names if not self._touch(name)]

    def size(self, sha256: str) -> int | None:
        """Size in bytes, or None when the asset is not here."""
        try:
            return self.path(sha256).stat().st_size
        except OSError:
            return None

    def _touch(self, sha256: str) -> bool:
        try:
            os.utime(self.path(sha256))
        except OSError:
            return False
        return True

    def put(self, data: bytes) -> str:
        """Keep these bytes, return their name. Raises Refused (disk_full, storage)."""
        incoming = Incoming(self, len(data))
        try:
            incoming.write(data)
            return incoming.keep()
        finally:
            incoming.drop()

    def sweep(self) -> None:
        """Remove what earlier processes left unfinished."""
        for part in self.root.glob("*.part"):
            with contextlib.suppress(OSError):  # on Windows, one that a worker which is about to end has open
                part.unlink()

    def prune(self, limit: int, keep: set[str]) -> int:
        """Remove the least recently used assets outside `keep` until at most `limit` bytes are left; return how many
        bytes are left, which is more than `limit` when the rest is needed or was used a moment ago."""
        entries = sorted(
            (entry.stat().st_mtime, entry.stat().st_size, entry.name)
            for folder in os.scandir(self.root)
            if folder.is_dir()
            for entry in os.scandir(folder.path)
        )
        total = sum(size for _, size, _ in entries)
        for _, size, name in entries:
            if total <= limit:
                break
            if name in keep:
                continue
            with self._pruning, contextlib.suppress(OSError):
                if time.time() - self.path(name).stat().st_mtime > RECENT_SECONDS:
                    self.path(name).unlink()
                    total -= size
        return total


class Incoming:
    """An asset being written. Call `write` for its pieces, `keep`, and in any case `drop` at the end."""

    def __init__(self, store: AssetStore, nbytes: int) -> None:
        """nbytes: what will come. Raises Refused at once when there is no space for it."""
        self.written = 0
        self._store, self._digest = store, hashlib.sha256()
        self._part = store.root / f"{secrets.token_hex(16)}.part"
        try:
            if shutil.disk_usage(store.root).free < nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file = self._part.open("xb", buffering=0)
        except OSError as error:
            raise storage_error(error, store.root) from None

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises Refused; the file is of no use then."""
        rest = memoryview(data)
        self._digest.update(rest)
        try:
            while rest:
                count = self._file.write(rest)
                self.written += count
                rest = rest[count:]
        except OSError as error:
            raise storage_error(error, self._store.root) from None

    def keep(self, expected: str = "") -> str:
        """Finish the asset and return its name. Raises Refused when it is not `expected`, or cannot be stored."""
        name = self._digest.hexdigest()
        if expected and name != expected:
            raise Refused("wrong_hash", "the bytes that came are not those announced.", expected, "Send it again.")
        path = self._store.path(name)
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                _sync_folder(self._store.root)
            self._put_in_place(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise storage_error(error, self._store.root) from None
        return name

    def _put_in_place(self, path: Path) -> None:
        try:
            os.replace(self._part, path)
        except PermissionError:
            # Windows replaces no file that is being read, such as an empty hole mask that many frames share; what
            # stands there is the same bytes, and counts as just used.
            if self._store.size(path.name) != self.written or self._store.missing([path.name]):
                raise

    def drop(self) -> None:
        """Remove what is unfinished; nothing to do after `keep`."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can (Windows does it by itself)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
