"""The worker process: started, given one job at a time, watched, killed and started again.

Line protocol, one JSON object a line. To the worker: {"kind": "run", job, attempt, footage, solve, edit, name, settings} and
{"kind": "cancel", job}; the end of its stdin ends it. From it: ready {engines, device}, progress {stage, done, total},
frame {frame}, done, failed {error}, cancelled; all but the first with job and attempt. What carries another attempt
than the current one is stale and dropped.
"""

from __future__ import annotations

import collections
import contextlib
import json
import queue
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retake_shared.protocol import Refused

from .store import Assignment, JobStore

ATTEMPTS = 3
_STARTUP_SECONDS = 180.0
_LONGEST_LINE = 1024 * 1024
_RETRY_SECONDS = 1.0


class _Worker:
    """One worker process and the two threads that read what it prints."""

    def __init__(self, number: int, command: Sequence[str], inbox: Inbox) -> None:
        self.number = number
        self.ready = False
        self.assignment: Assignment | None = None
        self.heard = time.monotonic()
        self.steps: collections.deque[float] = collections.deque(maxlen=50)
        self.cancel_deadline: float | None = None
        self.errors: collections.deque[str] = collections.deque(maxlen=12)
        self.process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._readers = [
            threading.Thread(target=self._read_lines, args=(inbox,), daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def tell(self, line: dict[str, Any]) -> None:
        """Send one line; a worker that is gone is found out by its end of output."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(line).encode() + b"\n")
            self.process.stdin.flush()

    def end(self) -> str:
        """Kill it if it lives, and return its last words."""
        with contextlib.suppress(OSError):
            self.process.kill()
        code = self.process.wait()
        self._readers[1].join(0.5)
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        return "\n".join(self.errors) or f"it said nothing (exit code {code})"

    def _read_lines(self, inbox: Inbox) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            while line := lines.readline(_LONGEST_LINE):
                inbox.put((self.number, line))
        inbox.put((self.number, b""))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            while line := lines.readline(4096):
                said = line.decode(errors="replace").rstrip()
                self.errors.append(said[:500])
                print(f"worker {self.number}: {said}", file=sys.stderr, flush=True)


class Inbox:
    """A queue from threads to a loop that polls: `waker` is readable while something may be in it."""

    def __init__(self) -> None:
        self.waker, self._bell = socket.socketpair()
        self.waker.setblocking(False)
        self._bell.setblocking(False)
        self._items: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()

    def put(self, item: tuple[int, bytes]) -> None:
        """Add an item and wake the loop."""
        self._items.put(item)
        with contextlib.suppress(OSError):  # a full pipe means that the loop is about to wake anyway
            self._bell.send(b".")

    def take(self) -> list[tuple[int, bytes]]:
        """All items, in order."""
        with contextlib.suppress(OSError):
            self.waker.recv(4096)
        items = []
        with contextlib.suppress(queue.Empty):
            while True:
                items.append(self._items.get_nowait())
        return items

    def close(self) -> None:
        """Free the sockets."""
        self.waker.close()
        self._bell.close()


class Supervisor:
    """Keeps one worker, gives it the stored jobs in order and stores what comes of them. For one thread."""

    def __init__(self, store: JobStore, command: Sequence[str], lease_seconds: float, cancel_seconds: float) -> None:
        """lease_seconds: the shortest silence after which a working worker is taken for hung. cancel_seconds: how long
        it may take to stop."""
        self.inbox = Inbox()
        self.progress: dict[str, tuple[str, int, int]] = {}
        self.fresh: set[str] = set()
        """Jobs whose progress has changed; whoever tells it empties the set."""
        self.engines: list[dict[str, str]] = []
        self.device = ""
        self.started = self.deaths = 0
        self._store, self._command = store, command
        self._lease_seconds, self._cancel_seconds = lease_seconds, cancel_seconds
        self._worker: _Worker | None = None
        self._failed_starts = 0
        self._start_at = self._retry_at = 0.0
        self._backlog: collections.deque[tuple[int, dict[str, Any]]] = collections.deque()

    @property
    def state(self) -> str:
        """starting, idle, busy, or failing when no worker can be started."""
        if self._worker is None:
            return "failing" if self._failed_starts >= ATTEMPTS else "starting"
        if not self._worker.ready:
            return "starting"
        return "busy" if self._worker.assignment else "idle"

    @property
    def pid(self) -> int:
        """Process number of the worker, 0 when there is none."""
        return self._worker.process.pid if self._worker else 0

    def step(self) -> None:
        """Take in what the worker said and do what is due. Never raises for want of disk space: it tries again."""
        for number, line in self.inbox.take():
            self._backlog.append((number, _parse(line)))
        now = time.monotonic()
        if now < self._retry_at:
            return
        try:
            self._take_in()
            self._watch(now)
            self._start(now)
            self._assign()
        except Refused as refused:
            # Nothing is lost: what could not be stored stays in the backlog, and a silent worker is not blamed.
            print(f"broker: {refused}; trying again", file=sys.stderr, flush=True)
            self._retry_at = now + _RETRY_SECONDS
            if self._worker:
                self._worker.heard = now + _RETRY_SECONDS

    def cancel(self, job: str) -> None:
        """Stop the job if it runs; kill its worker when it does not stop in time."""
        worker = self._worker
        if worker and worker.assignment and worker.assignment.job == job and worker.cancel_deadline is None:
            worker.tell({"kind": "cancel", "job": job})
            worker.cancel_deadline = time.monotonic() + self._cancel_seconds

    def stop(self) -> None:
        """Kill the worker. Its job stays running in the store: the next broker queues it again."""
        if self._worker:
            self._worker.end()
        self.inbox.close()

    def _take_in(self) -> None:
        while self._backlog:
            number, line = self._backlog[0]
            taken = 1
            if self._worker and number == self._worker.number:
                if line["kind"] == "frame":
                    taken = self._take_frames()
                else:
                    self._take_line(self._worker, line)
            for _ in range(taken):
                self._backlog.popleft()

    def _take_frames(self) -> int:
        """Store all frames at the head of the backlog in one transaction; return how many lines that were."""
        assert self._worker is not None
        frames, taken = [], 0
        for number, line in self._backlog:
            if number != self._worker.number or line["kind"] != "frame":
                break
            if self._current(line):
                frames.append(line["frame"])
            taken += 1
        if frames and self._worker.assignment:
            self._heard(self._worker)
            self._store.frames(self._worker.assignment.job, frames)
        return taken

    def _take_line(self, worker: _Worker, line: dict[str, Any]) -> None:
        kind = line["kind"]
        if kind == "end":
            self._bury("the worker died")
        elif kind == "ready":
            worker.ready, self._failed_starts = True, 0
            self.engines, self.device = line["engines"], line["device"]
        elif self._current(line):
            assert worker.assignment is not None
            job = worker.assignment.job
            self._heard(worker)
            if kind == "progress":
                self.progress[job] = (line["stage"], line["done"], line["total"])
                self.fresh.add(job)
            elif kind in ("done", "failed", "cancelled"):
                self._store.finish(job, kind, line.get("error", {}))
                self._unassign(worker)

    def _current(self, line: dict[str, Any]) -> bool:
        assignment = self._worker.assignment if self._worker else None
        return assignment is not None and (line.get("job"), line.get("attempt")) == (assignment.job, assignment.attempt)

    def _heard(self, worker: _Worker) -> None:
        now = time.monotonic()
        worker.steps.append(now - worker.heard)
        worker.heard = now

    def _unassign(self, worker: _Worker) -> None:
        if worker.assignment:
            self.progress.pop(worker.assignment.job, None)
            self.fresh.discard(worker.assignment.job)
        worker.assignment, worker.cancel_deadline = None, None
        worker.steps.clear()

    def _watch(self, now: float) -> None:
        worker = self._worker
        if worker is None:
            return
        if not worker.ready:
            if now - worker.heard > _STARTUP_SECONDS:
                self._bury(f"the worker was not ready after {_STARTUP_SECONDS:g} s")
        elif worker.cancel_deadline is not None and now > worker.cancel_deadline:
            self._bury("the worker did not stop when asked")
        elif worker.assignment:
            lease = max(self._lease_seconds, 3 * statistics.median(worker.steps) if worker.steps else 0.0)
            if now - worker.heard > lease:
                self._bury(f"the worker was silent for {lease:.0f} s")

    def _bury(self, why: str) -> None:
        """End the worker and settle what it was doing."""
        worker = self._worker
        assert worker is not None
        words = worker.end()
        if worker.assignment:
            error = {
                "what": f"{why.capitalize()}, {ATTEMPTS} times. Its last words:\n{words}",
                "where": "backend",
                "remedy": "Choose a smaller size or fewer frames, or send us the backend's log.",
            }
            self._store.died(worker.assignment.job, why, ATTEMPTS, error)
            self._unassign(worker)
        self.deaths += 1
        if not worker.ready:
            self._start_failed(words)
        self._worker = None

    def _start_failed(self, words: str) -> None:
        self._failed_starts += 1
        self._start_at = time.monotonic() + min(30.0, 0.25 * 2**self._failed_starts)
        if self._failed_starts >= ATTEMPTS:
            what = f"The worker cannot be started. Its last words:\n{words}"
            self._store.fail_queued({"what": what, "where": "backend", "remedy": "Set the backend up again."})

    def _start(self, now: float) -> None:
        if self._worker or now < self._start_at:
            return
        if self._failed_starts < ATTEMPTS or self._store.open_jobs():
            self.started += 1
            try:
                self._worker = _Worker(self.started, self._command, self.inbox)
            except OSError as error:  # no memory or no processes left
                self._start_failed(str(error))

    def _assign(self) -> None:
        worker = self._worker
        if worker and worker.ready and worker.assignment is None:
            worker.assignment = self._store.begin_next()
            if worker.assignment:
                worker.heard = time.monotonic()
                spec = {name: worker.assignment.spec[name] for name in ("footage", "solve", "edit", "name", "settings")}
                worker.tell({"kind": "run", "job": worker.assignment.job, "attempt": worker.assignment.attempt, **spec})


def worker_command(assets: Path, device: str = "auto", cores: int = 0) -> list[str]:
    """How the broker starts a worker: in its own Python, with what it may use (see `retake_backend.device`)."""
    command = [sys.executable, "-m", "retake_backend.worker", "--assets", str(assets)]
    return [*command, "--device", device, "--cores", str(cores)]


def _parse(line: bytes) -> dict[str, Any]:
    """A worker's line; its end of output is {"kind": "end"}, anything else that is not a line of ours is "noise"."""
    if not line:
        return {"kind": "end"}
    try:
        parsed = json.loads(line)
    except ValueError:
        return {"kind": "noise"}
    return parsed if isinstance(parsed, dict) and isinstance(parsed.get("kind"), str) else {"kind": "noise"}
