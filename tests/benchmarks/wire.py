"""How long the frames of a take spend between two processes, against copying them in memory."""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from retake_shared.client import start_or_find

FRAMES, HEIGHT, WIDTH = 81, 384, 672
_ROUNDS = 5


def measure() -> dict[str, float]:
    """Send 81 raw frames of 672x384 through the encrypted data socket, both ways, and copy the same bytes in memory.

    Sending includes hashing on both sides and, upwards, writing and syncing the file. Medians, in seconds; the ratios
    are against the copy of the same bytes in the same run. The broker is a real one in a process of its own.
    """
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    copy, digest, up, down = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        serve = [sys.executable, "-m", "retake_backend.cli", "serve", "--home", folder]
        with start_or_find(Path(folder), serve) as client:
            for number in range(_ROUNDS):
                frames[0, 0, 0, 0] = number  # new bytes, or nothing would be sent
                content, target = frames.tobytes(), np.empty_like(frames)
                copy.append(_seconds(np.copyto, target, frames))
                digest.append(_seconds(hashlib.sha256, content))
                up.append(_seconds(client.ensure_asset, content))
                down.append(_seconds(client.fetch_bytes, hashlib.sha256(content).hexdigest()))
            client.shutdown()
            while client.where.alive():
                time.sleep(0.01)
    memcpy, sent, fetched = (statistics.median(values) for values in (copy, up, down))
    return {
        "megabytes": frames.nbytes / 1e6,
        "memcpy_seconds": memcpy,
        "sha256_seconds": statistics.median(digest),
        "send_seconds": sent,
        "fetch_seconds": fetched,
        "send_ratio": sent / memcpy,
        "wire_ratio": fetched / memcpy,
    }


def _seconds(action, *arguments) -> float:
    began = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - began


if __name__ == "__main__":
    print(measure())
