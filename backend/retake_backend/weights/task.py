"""One model pulled, verified or removed in a process of its own, for the broker, which stays free of the hub.

    python -m retake_backend.weights.task pull|verify|remove NAME

Tells what happens by JSON lines on stdout, at most five a second while it works:

    {"kind": "progress", "done": bytes, "total": bytes, "stage": words}
    {"kind": "done"} | {"kind": "failed", "what", "where", "remedy"} | {"kind": "stopped"}

The store is that of $RETAKE_MODELS. It stops when asked to (SIGTERM, SIGINT) or when its stdin ends, which it does
when the broker dies; what was pulled stays, and the next pull goes on from there. Exit codes: 0 done, 1 failed, 130
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from retake_shared.errors import BadFile, Cancelled, RetakeError

from ..environment import own_stdin
from .store import WeightStore

_EVERY = 0.2  # seconds between two lines of progress
_PATIENCE = 3.0  # seconds for a stop, before the process ends itself: a pull survives that too


class _Stop:
    """Set by a signal or by the end of stdin; `check` then raises Cancelled."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        threading.Thread(target=self._watch, args=(own_stdin(),), daemon=True).start()

    def check(self) -> None:
        if self._asked.is_set():
            raise Cancelled

    def _hear(self, number: int, frame: FrameType | None) -> None:
        already = self._asked.is_set()
        self._asked.set()
        if not already:
            raise Cancelled  # out of a read of the network that waits

    def _watch(self, stdin: int) -> None:
        while os.read(stdin, 1 << 12):
            pass
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        else:
            self._asked.set()
        time.sleep(_PATIENCE)
        os._exit(130)


class _Progress:
    """Lines of progress, the first of each stage and the last of all among them."""

    def __init__(self, stop: _Stop) -> None:
        self._stop, self._last, self._stage = stop, 0.0, ""

    def __call__(self, done: int, total: int, stage: str) -> None:
        self._stop.check()
        now = time.monotonic()
        if stage != self._stage or done == total or now - self._last >= _EVERY:
            self._last, self._stage = now, stage
            _tell({"kind": "progress", "done": done, "total": total, "stage": stage})


def main(argv: Sequence[str] | None = None) -> int:
    """Do one task; see the module for what it tells and its exit codes."""
    parser = argparse.ArgumentParser(prog="retake_backend.weights.task")
    parser.add_argument("action", choices=("pull", "verify", "remove"))
    parser.add_argument("name")
    arguments = parser.parse_args(argv)
    try:
        _do(arguments.action, arguments.name, _Progress(_Stop()))
    except Cancelled:
        _tell({"kind": "stopped"})
        return 130
    except RetakeError as error:
        _tell({"kind": "failed", "what": error.what, "where": error.where, "remedy": error.remedy})
        return 1
    except OSError as error:
        what, where = f"{error.strerror or error}.", str(error.filename or arguments.name)
        _tell(
            {"kind": "failed", "what": what, "where": where, "remedy": "Check the folder and its disk, and try again."}
        )
        return 1
    _tell({"kind": "done"})
    return 0


def damaged(name: str, wrong: Sequence[str]) -> BadFile:
    """What a verification found, as an error."""
    return BadFile(f"is damaged: {'; '.join(wrong)}.", name, "Pull or import it again; what is right is kept.")


def _do(action: str, name: str, progress: _Progress) -> None:
    store = WeightStore()
    if action == "pull":
        from .pull import pull

        pull(name, store, progress)
    elif action == "verify":
        wrong = store.verify(name, progress)
        if wrong:
            raise damaged(name, wrong)
    else:
        store.remove(name)


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main())
