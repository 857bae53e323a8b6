"""The process that renders: one job at a time, told by its broker over stdin and stdout (see `broker.supervisor`).

It stays up between jobs and ends when its stdin ends, so it never outlives its broker. What an engine says with
RetakeError is the job's answer; any other exception ends the process, for the broker to try again in a fresh one.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, get_args

from retake_shared import archive
from retake_shared.errors import BadFile, Cancelled, RetakeError
from retake_shared.shot import Edit, RenderSettings, Solve, Take

from . import device, engines
from .broker.assets import AssetStore
from .engines.base import Progress, RenderedFrame, RenderRequest
from .footage import FootageReader, encode_png
from .render import InputHashes, render_take

_REPORT_SECONDS = 0.05
_ENCODERS = 2
_WAITING_FRAMES = 8


class Worker:
    """Does the jobs that come over `commands` and tells of them over `output`."""

    def __init__(self, assets: AssetStore, device: str, commands: IO[bytes], output: IO[bytes]) -> None:
        self._assets, self._device, self._output = assets, device, output
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        threading.Thread(target=self._listen, args=(commands,), daemon=True).start()

    def run(self) -> None:
        """Work until the process is ended."""
        self._tell("ready", engines=engines.available(), device=self._device)
        while True:
            _Job(self._jobs.get(), self._assets, self._cancelled, self._tell).run()

    def _listen(self, commands: IO[bytes]) -> None:
        for line in commands:
            command = json.loads(line)
            if command["kind"] == "cancel":
                self._cancelled.add(command["job"])
            else:
                self._jobs.put(command)
        os._exit(0)  # the broker is gone: nobody is left to render for, whatever the other threads are doing

    def _tell(self, kind: str, **fields: Any) -> None:
        self._output.write(json.dumps({"kind": kind, **fields}).encode() + b"\n")
        self._output.flush()


class _Job:
    def __init__(self, order: dict[str, Any], assets: AssetStore, cancelled: set[str], tell: Any) -> None:
        self._order, self._assets, self._cancelled = order, assets, cancelled
        self._name = {"job": order["job"], "attempt": order["attempt"]}
        self._send = tell
        self._reported = 0.0

    def run(self) -> None:
        try:
            self._render()
        except Cancelled:
            self._tell("cancelled")
        except RetakeError as error:
            told = {key: self._readable(getattr(error, key)) for key in ("what", "where", "remedy")}
            self._tell("failed", error=told)
        else:
            self._tell("done")

    def _render(self) -> None:
        order = self._order
        self._check_cancelled()
        settings = RenderSettings.from_json(order["settings"])
        solve, edit = self._read(order["solve"], Solve), self._read(order["edit"], Edit)
        hashes = InputHashes(order["footage"], order["solve"], order["edit"])
        with (
            FootageReader(self._assets.path(order["footage"])) as footage,
            concurrent.futures.ThreadPoolExecutor(_ENCODERS) as encoders,
        ):
            waiting: collections.deque[concurrent.futures.Future[list[dict[str, Any]]]] = collections.deque()
            try:
                for made in render_take(RenderRequest(footage, solve, edit, settings), hashes, self._report):
                    self._check_cancelled()
                    waiting.append(encoders.submit(self._keep, made))
                    while waiting and (waiting[0].done() or len(waiting) > _WAITING_FRAMES):
                        self._tell_frames(waiting.popleft().result())
                while waiting:
                    self._tell_frames(waiting.popleft().result())
            finally:
                encoders.shutdown(wait=True, cancel_futures=True)

    def _keep(self, made: RenderedFrame | Take) -> list[dict[str, Any]]:
        """Store what was rendered; return it as it is told. In an encoder's thread."""
        if isinstance(made, Take):
            description = json.dumps(made.to_json(), indent=1).encode()
            return [{"kind": "take", "sha256": self._assets.put(description), "nbytes": len(description)}]
        told = []
        for kind, picture in (("rgb", made.rgb), ("holes", made.holes)):
            png = encode_png(picture)
            told.append({"kind": kind, "index": made.index, "sha256": self._assets.put(png), "nbytes": len(png)})
        return told

    def _read(self, sha256: str, kind: type[Any]) -> Any:
        content = archive.load(self._assets.path(sha256))
        if not isinstance(content, kind):
            raise BadFile(f"is no {kind.__name__.lower()}.", kind.__name__.lower(), "Generate again.")
        return content

    def _report(self, progress: Progress) -> None:
        self._check_cancelled()
        now = time.monotonic()
        if now - self._reported > _REPORT_SECONDS or progress.done >= progress.total:
            self._reported = now
            self._tell("progress", stage=progress.stage[:80], done=int(progress.done), total=int(progress.total))

    def _check_cancelled(self) -> None:
        if self._order["job"] in self._cancelled:
            raise Cancelled

    def _readable(self, words: str) -> str:
        """An asset lies under its hash: say which of the job's files it is."""
        for role in ("footage", "solve", "edit"):
            place = str(self._assets.path(self._order[role]))
            words = words.replace(place, self._order["name"] if role == "footage" else role)
        return words[:2000]

    def _tell_frames(self, frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            self._tell("frame", frame=frame)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._send(kind, **self._name, **fields)


def main() -> None:
    """Entry of `python -m retake_backend.worker`, started by the broker alone (`broker.supervisor.worker_command`)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--device", choices=get_args(device.Device), default="auto")
    parser.add_argument("--cores", type=int, default=0)
    arguments = parser.parse_args()
    had = device.restrict(arguments.device, arguments.cores)
    # Libraries print to stdout as they like: they get stderr, and the broker's channel a descriptor of its own.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Worker(AssetStore(arguments.assets), had, sys.stdin.buffer, output).run()


if __name__ == "__main__":
    main()
