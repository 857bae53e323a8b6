"""The catalogue's models as clients see them: what lies in their folder, and what is being done with them.

A download, a check or a removal is a **task**, a process of its own (`retake_backend.weights.task KIND NAME`), so that
gigabytes never delay a cancel; one at a time, the others wait. A task tells by lines on its stdout, one JSON object each:

    {"kind": "progress", "done": bytes, "total": bytes, "stage": words}    often; total 0 while unknown
    {"kind": "done"}    {"kind": "failed", "what", "where", "remedy"}    {"kind": "stopped"}    one of these at its end

The end of its stdin asks it to stop, and comes also when the broker ends; what was downloaded stays for the next pull.

The folder may change without the broker, by `retake models import` in a terminal: a thread looks at it every few
seconds, by the dates of a few folders, and at the files only when those have changed.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retake_shared.protocol import Refused

from ..environment import NO_TELEMETRY
from ..weights.catalogue import CATALOGUE
from ..weights.store import INCOMING, MANIFEST, Entry, WeightStore
from .child import Child
from .inbox import Inbox

_LOOK_SECONDS = 2.0
_STOP_SECONDS = 10.0
_PROGRESS_SECONDS = 0.25
_SURVEY = 0


@dataclass(frozen=True)
class _Order:
    kind: str
    model: str


class Models:
    """The models of one folder. For one thread, which calls `step` whenever `inbox.waker` is readable, and often."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = Inbox()
        self.changed: set[str] = set()
        """Models of which something new is to be told; whoever tells it empties the set."""
        self.installed_changed = False
        """Whether engines may have become ready, or not ready any more; whoever deals with it resets it."""
        self._survey = _Survey(folder, self.inbox)
        self._entries = self._survey.look()
        self._asked: collections.deque[_Order] = collections.deque()
        self._task: _Task | None = None
        self._after = 0  # number of the look at the folder that shows what the task has done
        self._count = 0
        self._errors: dict[str, dict[str, str]] = {}
        self._survey.start()

    @property
    def busy(self) -> bool:
        """Whether a task runs or waits."""
        return self._task is not None or bool(self._asked)

    @property
    def removing(self) -> bool:
        """Whether a model is about to go: no job should begin."""
        orders = [*self._asked, *([self._task.order] if self._task else [])]
        return any(order.kind == "remove" for order in orders)

    def describe(self, name: str) -> dict[str, Any]:
        """A model as clients see it, see `retake_shared.protocol`. Raises Refused("no_model")."""
        if name not in CATALOGUE:
            known = f"There are: {', '.join(CATALOGUE)}."
            raise Refused("no_model", "no model of the catalogue has this name.", f"{name:.60}", known)
        model, entry = CATALOGUE[name], self._entries[name]
        task, stage, done, total, error = self._doing(name), "", 0, 0, self._errors.get(name)
        if self._task and self._task.order.model == name:
            done, total, stage = self._task.done, self._task.total, self._task.stage
        elif entry.state == "partial":
            done, total = entry.nbytes, entry.total
        if entry.state == "damaged" and error is None:
            remedy = "Download it again." if model.repository else "Import it again, or remove it."
            error = {"what": entry.damage, "where": str(entry.place), "remedy": remedy}
        return {
            "name": name,
            "label": model.label,
            "kind": model.kind,
            "bytes": model.nbytes if entry.state == "missing" else entry.total,
            "licence": entry.licence,
            "licence_url": model.licence_url,
            "state": entry.state,
            "random": entry.random,
            "shipped": entry.shipped,
            "task": task,
            "stage": stage,
            "done": done,
            "total": total,
            "error": error,
        }

    def all(self) -> list[dict[str, Any]]:
        """Every model of the catalogue, in its order."""
        return [self.describe(name) for name in CATALOGUE]

    def look(self) -> None:
        """Look at the folder soon; `changed` and `installed_changed` tell what was found."""
        self._survey.ask()

    def ask(self, kind: str, name: str) -> dict[str, Any]:
        """Ask for a task: kind is pull, verify or remove. Returns the model. Raises Refused (no_model, busy)."""
        self.describe(name)
        pending = [order.kind for order in self._asked if order.model == name]
        if self._task and self._task.order.model == name and not self._task.stopping:
            pending.append(self._task.order.kind)
        if pending and kind not in pending:
            raise Refused("busy", f"{pending[0]} is under way.", name, "Wait for its end, or stop it.")
        if not pending:
            self._errors.pop(name, None)
            self._asked.append(_Order(kind, name))
            self.changed.add(name)
            self._start_next()
        return self.describe(name)

    def stop(self, name: str) -> dict[str, Any]:
        """End the task of a model, if it has one. Raises Refused("no_model")."""
        self.describe(name)
        self._asked = collections.deque(order for order in self._asked if order.model != name)
        if self._task and self._task.order.model == name:
            self._task.ask_to_stop()
        self.changed.add(name)
        return self.describe(name)

    def step(self) -> None:
        """Take in what tasks said and the thread saw, and start the next task."""
        for number, item in self.inbox.take():
            if number == _SURVEY:
                self._take_look(*item)
            elif self._task and number == self._task.number:
                self._take_line(self._task, item)
        if self._task:
            self._task.insist()
        self._start_next()

    def close(self) -> None:
        """End the task that runs; what it has downloaded stays."""
        self._survey.end()
        if self._task:
            self._task.end()
        self.inbox.close()

    def _doing(self, name: str) -> str:
        if self._task and self._task.order.model == name:
            return self._task.order.kind
        return "waiting" if any(order.model == name for order in self._asked) else ""

    def _start_next(self) -> None:
        if self._task or not self._asked:
            return
        order = self._asked.popleft()
        self._count += 1
        self.changed.add(order.model)
        try:
            self._task, self._after = _Task(self._count, order, self.folder, self.inbox), 0
        except OSError as error:  # no memory or no processes left
            what = f"The task cannot be started ({error.strerror})."
            self._errors[order.model] = {"what": what, "where": "backend", "remedy": "Try again."}

    def _take_line(self, task: _Task, line: bytes) -> None:
        if line:
            if task.take(line):
                self.changed.add(task.order.model)
            return
        error = task.end()
        if error:
            self._errors[task.order.model] = error
        self._after = self._survey.ask()  # it ends for clients with what it has done

    def _take_look(self, number: int, entries: dict[str, Entry] | None) -> None:
        if entries is not None:
            changed = {name for name in entries if entries[name] != self._entries[name]}
            self.installed_changed |= any(
                (entries[name].state, entries[name].random) != (self._entries[name].state, self._entries[name].random)
                for name in changed
            )
            self.changed |= changed
            for name in changed:
                if entries[name].state == "installed" and self._entries[name].state != "installed":
                    self._errors.pop(name, None)  # what failed before does not matter any more
            self._entries = entries
        if self._task and self._after and number >= self._after:
            self.changed.add(self._task.order.model)
            self._task = None


class _Survey(threading.Thread):
    """Looks at the folder and puts (number of the look, entries or None for no change) into the inbox."""

    def __init__(self, folder: Path, inbox: Inbox) -> None:
        super().__init__(name="models", daemon=True)
        self._store, self._inbox = WeightStore(folder), inbox
        self._condition = threading.Condition()
        self._asked = 0
        self._ending = False
        self._dates: list[Any] = []

    def look(self) -> dict[str, Entry]:
        """What lies in the folder now; one that cannot be read holds nothing."""
        self._dates = self._read_dates()
        found = {}
        for name, model in CATALOGUE.items():
            try:
                found[name] = self._store.entry(name)
            except OSError as error:
                place = self._store.folder / name
                words = f"cannot be read ({error.strerror})"
                found[name] = Entry(model, "damaged", place, 0, model.nbytes, False, model.licence, words)
        return found

    def ask(self) -> int:
        """Ask for a look that begins from now on; its number."""
        with self._condition:
            self._asked += 1
            self._condition.notify()
            return self._asked

    def end(self) -> None:
        """Let the thread end."""
        with self._condition:
            self._ending = True
            self._condition.notify()

    def run(self) -> None:
        """The thread's loop."""
        done = 0
        while True:
            with self._condition:
                if self._asked == done:
                    self._condition.wait(_LOOK_SECONDS)
                if self._ending:
                    return
                number = self._asked
            if number > done or self._read_dates() != self._dates:
                self._inbox.put((_SURVEY, (number, self.look())))
            done = number

    def _read_dates(self) -> list[Any]:
        folder = self._store.folder
        places = [folder, folder / INCOMING]
        for name in CATALOGUE:
            places += [folder / name, folder / name / MANIFEST, folder / INCOMING / name]
        dates: list[Any] = []
        for place in places:
            try:
                dates.append(place.stat().st_mtime_ns)
            except OSError:
                dates.append(None)
        return dates


class _Task(Child):
    """One task's process."""

    longest_line = 64 * 1024

    def __init__(self, number: int, order: _Order, folder: Path, inbox: Inbox) -> None:
        self.order = order
        self.done = self.total = 0
        self.stage = ""
        self._told = 0.0
        self._last: dict[str, Any] = {}
        self._kill_at: float | None = None
        environment = {**os.environ, "RETAKE_MODELS": str(folder), **NO_TELEMETRY}
        super().__init__(
            number, f"{order.kind} {order.model}", task_command(order.kind, order.model), environment, inbox
        )

    def take(self, line: bytes) -> bool:
        """Take in a line; whether it is to be told now."""
        try:
            said = json.loads(line)
            kind = said["kind"]
            if kind != "progress":
                self._last = said
                return False
            self.done, self.total, self.stage = int(said["done"]), int(said["total"]), str(said["stage"])[:80]
        except (ValueError, KeyError, TypeError):
            return False
        now = time.monotonic()
        due = now - self._told > _PROGRESS_SECONDS
        self._told = now if due else self._told
        return due

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end: what is asked for now needs a task of its own."""
        return self._kill_at is not None

    def ask_to_stop(self) -> None:
        """Ask it to end soon."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + _STOP_SECONDS
            self.close_stdin()

    def insist(self) -> None:
        """Kill it when it was asked to stop and has not in time."""
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            with contextlib.suppress(OSError):
                self.process.kill()

    def end(self) -> dict[str, str] | None:
        """Wait for its end, at most a moment; {what, where, remedy} if it failed."""
        stopped = self.stopping
        self.ask_to_stop()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.kill(3)
        self.hear_out()
        kind = self._last.get("kind")
        if kind == "failed":
            return {key: str(self._last.get(key, ""))[:2000] for key in ("what", "where", "remedy")}
        if kind in ("done", "stopped") or stopped:
            return None
        words = "\n".join(self.errors) or "It said nothing."
        what = f"The {self.order.kind} ended too soon (exit code {self.process.returncode}). Its last words:\n{words}"
        return {"what": what[:2000], "where": self.order.model, "remedy": "Try again, or send us the backend's log."}


def task_command(kind: str, model: str) -> Sequence[str]:
    """How the broker starts a task: in its own Python."""
    return [sys.executable, "-m", "retake_backend.weights.task", kind, model]
