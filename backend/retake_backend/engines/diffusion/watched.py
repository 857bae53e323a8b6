"""Long work in a thread, while the thread that asked keeps telling of it.

One forward of a video model can take minutes on a small machine, as can loading it. A broker takes a worker that says
nothing for hung; so the last progress is said again meanwhile, but not for ever.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from retake_shared.errors import Cancelled

from ..base import Progress, Report

Made = TypeVar("Made")
BEAT = 5.0
"""Seconds after which the last progress is said again."""
PATIENCE = 3600.0
"""Seconds without anything new after which the work is left to be taken for hung."""
_LOOK = 0.2


def watched(work: Callable[[Report], Generator[Made]], report: Report) -> Iterator[Made]:
    """What `work` yields, made in a thread of its own. Its report comes to `report` in the calling thread.

    The work goes on once its report was heard: what `report` raises (Cancelled) ends it before its next step.
    """
    out: queue.Queue[tuple[str, Any]] = queue.Queue(4)
    heard, stopped = threading.Semaphore(0), threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                out.put((kind, value), timeout=_LOOK)
                return
        raise Cancelled

    def tell(progress: Progress) -> None:
        put("progress", progress)
        while not heard.acquire(timeout=_LOOK):
            if stopped.is_set():
                raise Cancelled
        if stopped.is_set():
            raise Cancelled

    def run() -> None:
        with contextlib.suppress(Cancelled):
            try:
                with contextlib.closing(work(tell)) as items:
                    for item in items:
                        put("item", item)
            except BaseException as error:
                put("error", error)
            else:
                put("end", None)

    thread = threading.Thread(target=run, name="render", daemon=True)
    thread.start()
    said, since = Progress("starting", 0, 1), time.monotonic()
    try:
        while True:
            try:
                kind, value = out.get(timeout=BEAT)
            except queue.Empty:
                if time.monotonic() - since < PATIENCE:
                    report(replace(said, picture=None))
                continue
            since = time.monotonic()
            if kind == "progress":
                said = value
                report(value)
                heard.release()
            elif kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()
