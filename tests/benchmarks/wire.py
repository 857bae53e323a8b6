"""How long the frames of a take spend between two processes, against copying them in memory."""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from retake_backend.broker.server import Broker, Limits
from retake_shared.client import Client

FRAMES, HEIGHT, WIDTH = 81, 384, 672
_ROUNDS = 5


def measure() -> dict[str, float]:
    """Send 81 raw frames of 672x384 through the encrypted data socket, both ways, and copy the same bytes in memory.

    Sending includes hashing on both sides and, upwards, writing and syncing the file. Medians, in seconds; the ratios
    are against the copy of the same bytes in the same run. The broker runs in a thread here: one core does for all.
    """
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "assets").mkdir()
        broker = Broker(home, Limits())
        thread = threading.Thread(target=broker.run)
        thread.start()
        try:
            with Client(broker.connection) as client:
                copy, up, down, digest = [], [], [], []
                for number in range(_ROUNDS):
                    frames[0, 0, 0, 0] = number  # new bytes, or nothing would be sent
                    content = frames.tobytes()
                    target = np.empty_like(frames)
                    copy.append(_seconds(lambda target=target: np.copyto(target, frames)))
                    digest.append(_seconds(lambda content=content: hashlib.sha256(content).digest()))
                    up.append(_seconds(lambda content=content: client.ensure_asset(content)))
                    name = hashlib.sha256(content).hexdigest()
                    down.append(_seconds(lambda name=name: client.fetch_bytes(name)))
        finally:
            broker.end()
            thread.join()
            broker.close()
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


def _seconds(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(measure())
