"""The worker process: started, given one job at a time, watched, killed and started again.

Line protocol, one JSON object a line. To the worker: {"kind": "run", job, attempt, footage, solve, edit, name, settings,
first_frame?}, {"kind": "cancel", job}, {"kind": "free"} and {"kind": "engines"}; the end of its stdin ends it. From it:
ready {engines, device}, engines {engines}, freed; and with job and attempt: progress {stage, done, total}, picture
{jpeg: base64}, alive {working}, frame {frame}, done, failed {error, ends}, cancelled. What carries another attempt than
the current one is stale and dropped; `ends` says that the process ends with this job.

**When a worker is taken for hung.** A step may take a second or, on a CPU, an hour, and loading 11 GB says nothing for
minutes, so that silence alone proves little. While it has a job, a worker therefore says `alive` every second, from a
thread of its own, and whether it was working: using a CPU or reading from the disk. It is hung when

    it says nothing at all for `lease_seconds`: frozen, or stuck inside a call that lets no other thread run (on a slow
        disk, loading torch's libraries is such a call, and takes a minute)
    it lives, but neither gets on nor works for `still_seconds`: it waits for what does not come, such as a lock
    it works, but does not get on for `step_seconds`: it runs in circles

where getting on is progress or a frame, and the last two are stretched to three times the job's median step.
"""

from __future__ import annotations

import base64
import binascii
import collections
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retake_shared.protocol import PICTURE_BYTES, Refused

from .. import environment
from .child import Child
from .inbox import Inbox
from .store import Assignment, JobStore

ATTEMPTS = 3
_STARTUP_SECONDS = 180.0
_RETRY_SECONDS = 1.0
_FREE_SECONDS = 30.0
_END_SECONDS = 5.0
_KILLED = -9
_SMALLER = "Choose a smaller size or fewer frames, or send us the backend's log."
_LESS_MEMORY = (
    "Choose a smaller Window, a smaller Working size or less Memory in the engine's options, or close other programs."
)
_OUT_OF_MEMORY = ("MemoryError", "can't allocate memory", "std::bad_alloc")
"""How the last words of a process begin or end that was refused memory by the system."""


@dataclass(frozen=True)
class Patience:
    """How long a worker may be silent, see the module. cancel_seconds: how long it may take to stop."""

    lease_seconds: float = 180.0
    still_seconds: float = 600.0
    step_seconds: float = 4 * 3600.0
    cancel_seconds: float = 5.0


class _Worker(Child):
    """One worker process."""

    longest_line = 1024 * 1024

    def __init__(self, number: int, command: Sequence[str], environment: Mapping[str, str], inbox: Inbox) -> None:
        self.ready = False
        self.assignment: Assignment | None = None
        # When it last said anything, was last at work, and last got on.
        self.alive = self.worked = self.heard = time.monotonic()
        self.steps: collections.deque[float] = collections.deque(maxlen=50)
        self.cancel_deadline: float | None = None
        self.free_deadline: float | None = None
        super().__init__(number, f"worker {number}", command, environment, inbox)

    def tell(self, line: dict[str, Any]) -> None:
        """Send one line; a worker that is gone is found out by its end of output."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(line).encode() + b"\n")
            self.process.stdin.flush()

    def hear(self, moment: float) -> None:
        """Count all three kinds of silence from `moment`."""
        self.alive = self.worked = self.heard = moment

    def ended_for_memory(self) -> bool:
        """Whether it has ended by itself for want of memory: killed by the system, or refused by it in its own words."""
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return False
        self.hear_out()
        last = self.errors[-1] if self.errors else ""
        return code == _KILLED or any(words in last for words in _OUT_OF_MEMORY)

    def end(self) -> str:
        """Kill it if it lives, and return its last words."""
        self.kill(_END_SECONDS)
        self.hear_out()
        self.close_stdin()
        return "\n".join(self.errors) or f"it said nothing (exit code {self.process.returncode})"


class Supervisor:
    """Keeps one worker, gives it the stored jobs in order and stores what comes of them. For one thread."""

    def __init__(
        self, store: JobStore, command: Sequence[str], patience: Patience, environment: Mapping[str, str]
    ) -> None:
        """command, environment: how a worker is started, see `worker_command` and `worker_environment`."""
        self.inbox = Inbox()
        self.progress: dict[str, tuple[str, int, int]] = {}
        self.fresh: set[str] = set()
        """Jobs whose progress has changed; whoever tells it empties the set."""
        self.pictures: dict[str, bytes] = {}
        """The newest rough picture (JPEG) of each job, not yet told; whoever tells it empties this."""
        self.engines: list[dict[str, Any]] = []
        self.device = ""
        self.engines_changed = False
        """Whether they or the device are to be told; whoever tells it resets it."""
        self.paused = False
        """While set, no job is begun."""
        self.started = self.deaths = 0
        self._store, self._command, self._environment = store, command, environment
        self._patience = patience
        self._worker: _Worker | None = None
        self._ask_when_ready = False
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
                self._worker.hear(now + _RETRY_SECONDS)

    def cancel(self, job: str) -> None:
        """Stop the job if it runs; kill its worker when it does not stop in time."""
        worker = self._worker
        if worker and worker.assignment and worker.assignment.job == job and worker.cancel_deadline is None:
            worker.tell({"kind": "cancel", "job": job})
            worker.cancel_deadline = time.monotonic() + self._patience.cancel_seconds

    @property
    def freeing(self) -> bool:
        """Whether the worker has yet to say that it holds no model any more."""
        return self._worker is not None and self._worker.free_deadline is not None

    def free(self) -> None:
        """Have an idle worker let go of the models it keeps; `freeing` tells when it has. Nothing to do without one."""
        worker = self._worker
        if worker and worker.ready and worker.assignment is None and worker.free_deadline is None:
            worker.tell({"kind": "free"})
            worker.free_deadline = time.monotonic() + _FREE_SECONDS

    def ask_engines(self) -> None:
        """Have the worker say again what its engines need; `engines_changed` tells when it was something new."""
        if self._worker and self._worker.ready:
            self._worker.tell({"kind": "engines"})
        else:  # one that is starting may have looked already, and not yet said so
            self._ask_when_ready = True

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
            if worker.assignment and worker.ended_for_memory():
                self._bury("the system ended the worker, most likely because memory ran out", _LESS_MEMORY)
            else:
                self._bury("the worker died")
        elif kind == "ready":
            worker.ready, self._failed_starts = True, 0
            self._take_engines(line["engines"], line["device"])
            if self._ask_when_ready:
                self._ask_when_ready = False
                self.ask_engines()
        elif kind == "engines":
            self._take_engines(line["engines"], self.device)
        elif kind == "freed":
            worker.free_deadline = None
        elif self._current(line):
            assert worker.assignment is not None
            job = worker.assignment.job
            worker.alive = time.monotonic()
            if kind == "alive":
                if line["working"]:
                    worker.worked = worker.alive
                return
            if kind == "picture":
                self._take_picture(job, line["jpeg"])
                return
            self._heard(worker)
            if kind == "progress":
                self.progress[job] = (line["stage"], line["done"], line["total"])
                self.fresh.add(job)
            elif kind in ("done", "failed", "cancelled"):
                self._store.finish(job, kind, line.get("error", {}))
                self._unassign(worker)
                if line.get("ends"):  # else the next job would begin in it, and be counted as what killed it
                    self._bury("the worker ended")

    def _take_engines(self, engines: list[dict[str, Any]], device: str) -> None:
        if (engines, device) != (self.engines, self.device):
            self.engines, self.device, self.engines_changed = engines, device, True

    def _take_picture(self, job: str, encoded: str) -> None:
        with contextlib.suppress(binascii.Error):
            jpeg = base64.b64decode(encoded, validate=True)
            if len(jpeg) <= PICTURE_BYTES:
                self.pictures[job] = jpeg

    def _current(self, line: dict[str, Any]) -> bool:
        assignment = self._worker.assignment if self._worker else None
        return assignment is not None and (line.get("job"), line.get("attempt")) == (assignment.job, assignment.attempt)

    def _heard(self, worker: _Worker) -> None:
        now = time.monotonic()
        worker.steps.append(now - worker.heard)
        worker.hear(now)

    def _unassign(self, worker: _Worker) -> None:
        if worker.assignment:
            self.progress.pop(worker.assignment.job, None)
            self.fresh.discard(worker.assignment.job)
            self.pictures.pop(worker.assignment.job, None)
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
        elif worker.free_deadline is not None and now > worker.free_deadline:
            self._bury("the worker did not free its memory when asked")  # now it has
        elif worker.assignment:
            step = 3 * statistics.median(worker.steps) if worker.steps else 0.0
            still, working = max(self._patience.still_seconds, step), max(self._patience.step_seconds, step)
            if now - worker.alive > self._patience.lease_seconds:
                self._bury(f"the worker was silent for {self._patience.lease_seconds:.0f} s")
            elif now - worker.worked > still:
                self._bury(f"the worker stood still for {still:.0f} s")
            elif now - worker.heard > working:
                self._bury(f"the worker did not get on for {working:.0f} s")

    def _bury(self, why: str, remedy: str = _SMALLER) -> None:
        """End the worker and settle what it was doing."""
        worker = self._worker
        assert worker is not None
        words = worker.end()
        if worker.assignment:
            error = {
                "what": f"{why.capitalize()}, {ATTEMPTS} times. Its last words:\n{words}",
                "where": "backend",
                "remedy": remedy,
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
                self._worker = _Worker(self.started, self._command, self._environment, self.inbox)
            except OSError as error:  # no memory or no processes left
                self._start_failed(str(error))

    def _assign(self) -> None:
        worker = self._worker
        if worker and worker.ready and worker.assignment is None and not (self.paused or self.freeing):
            worker.assignment = self._store.begin_next()
            if worker.assignment:
                worker.hear(time.monotonic())
                assignment = worker.assignment
                worker.tell({**assignment.spec, "kind": "run", "job": assignment.job, "attempt": assignment.attempt})


def worker_command(assets: Path, device: str = "auto", cores: int = 0) -> list[str]:
    """How the broker starts a worker: in its own Python, with what it may use (see `retake_backend.device`)."""
    command = [sys.executable, "-m", "retake_backend.worker", "--assets", str(assets)]
    return [*command, "--device", device, "--cores", str(cores)]


def worker_environment(models: Path) -> dict[str, str]:
    """What a worker finds in its environment: the folder of models, and how to behave (`environment.RENDERING`)."""
    return {**os.environ, **environment.RENDERING, "RETAKE_MODELS": str(models)}


def _parse(line: bytes) -> dict[str, Any]:
    """A worker's line; its end of output is {"kind": "end"}, anything else that is not a line of ours is "noise"."""
    if not line:
        return {"kind": "end"}
    try:
        parsed = json.loads(line)
    except ValueError:
        return {"kind": "noise"}
    return parsed if isinstance(parsed, dict) and isinstance(parsed.get("kind"), str) else {"kind": "noise"}
