"""Looking into a model's files without running anything in them: hashes, safetensors headers, configurations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK = 1 << 22


def sha256_of(path: Path, progress: Callable[[int], None] = lambda nbytes: None) -> str:
    """The sha256 of a file in hex. progress: called with the bytes read so far; may raise to stop."""
    return _hash(path, hashlib.sha256(), progress)


def git_sha1_of(path: Path, progress: Callable[[int], None] = lambda nbytes: None) -> str:
    """The id that git gives the file's content, in hex: how the hub names small files."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    return _hash(path, digest, progress)


def _hash(path: Path, digest: hashlib._Hash, progress: Callable[[int], None]) -> str:
    done = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            progress(done)
    return digest.hexdigest()
