"""Several Blenders at work: started, given one order at a time, watched, killed when they hang, started again."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import retake_shared
from retake_shared.errors import RetakeError

from .inside_blender import MARK

_HERE = Path(__file__).resolve()
_REMEDY = "Give --blender, a Blender of 4.2 or newer or the Python of a bpy wheel, or set RETAKE_BLENDER."
_IN_A_ROW = 4
"""Orders that fail one after the other before the Blender itself is taken to be at fault."""


def find_blender(named: str = "") -> list[str]:
    """What to put before a script to run it with bpy: from `named` (a program, or JSON words), from the environment's
    RETAKE_BLENDER (the same), or the `blender` on the PATH. Raises RetakeError when there is none."""
    words = named or os.environ.get("RETAKE_BLENDER", "") or shutil.which("blender") or ""
    if not words:
        raise RetakeError("no Blender was found.", "synthesize", _REMEDY)
    command = [words]
    if words.lstrip().startswith("["):
        try:
            command = [str(word) for word in json.loads(words)]
        except ValueError as error:
            raise RetakeError(f"is not a JSON list of words: {words:.80}", "--blender", _REMEDY) from error
        if not command:
            raise RetakeError("is an empty list of words.", "--blender", _REMEDY)
    program = shutil.which(command[0])
    if program is None:
        raise RetakeError("there is no such program.", command[0], _REMEDY)
    if len(command) == 1 and Path(program).name.lower().startswith("blender"):
        return [program, "-b", "--factory-startup", "--python"]
    return [program, *command[1:]]


def modules() -> list[str]:
    """What has to be on the path of Blender's Python. Raises RetakeError where the sample shot's modules, of which
    scenes are built, are not beside retake_shared."""
    shared = Path(retake_shared.__file__).resolve().parents[1]
    if not (shared / "sample_shot" / "shapes.py").is_file():
        raise RetakeError(
            "is missing.", str(shared / "sample_shot"), "Run `retake synthesize` from a clone of the repository."
        )
    return [str(_HERE.parents[3]), str(shared), str(shared / "sample_shot")]


@dataclass
class Order:
    """A scene to shoot. fields: of `inside_blender`'s input. tries: how often it has been begun."""

    seed: int
    fields: dict[str, Any]
    tries: int = 0


@dataclass(frozen=True)
class Outcome:
    """How an order went: its seed, and why it failed, "" when it did not."""

    seed: int
    error: str = ""


@dataclass
class _Blender:
    process: subprocess.Popen[bytes]
    order: Order | None = None
    heard: float = field(default_factory=time.monotonic)
    words: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=30))

    def end(self) -> None:
        """Kill it with all that it has started."""
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()


class Crew:
    """A context manager that runs up to `count` Blenders. silence: seconds without a word after which one hangs."""

    def __init__(self, command: list[str], count: int, silence: float = 900.0) -> None:
        self.command, self.count, self.silence = command, count, silence
        self._inbox: queue.Queue[tuple[_Blender, str | None]] = queue.Queue()
        self._blenders: list[_Blender] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for blender in self._blenders:
            blender.end()

    def shoot(self, orders: Iterable[Order], tell: Callable[[int, str], None]) -> Iterator[Outcome]:
        """The outcomes, as they come. An order whose Blender crashes or hangs is given once more, then it has failed.

        tell: called with seed and words at every step, and with (-1, "") a few times a second; what it raises ends the
        work. Raises RetakeError when Blender fails again and again.
        """
        waiting = collections.deque(orders)
        in_a_row = 0
        while waiting or any(blender.order for blender in self._blenders):
            while waiting and (free := self._free()):
                free.order = waiting.popleft()
                free.order.tries += 1
                self._send(free, free.order)
            outcome = self._next(tell, waiting)
            if outcome is None:
                continue
            in_a_row = in_a_row + 1 if outcome.error else 0
            if in_a_row >= _IN_A_ROW:
                remedy = _REMEDY if "Blender" in outcome.error else "Mend that, and give the same command again."
                raise RetakeError(f"failed {in_a_row} times in a row: {outcome.error}", self.command[0], remedy)
            yield outcome

    def _free(self) -> _Blender | None:
        for blender in self._blenders:
            if blender.order is None:
                return blender
        if len(self._blenders) >= self.count:
            return None
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            process = subprocess.Popen(
                [*self.command, str(_HERE.with_name("inside_blender.py"))], env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=sys.platform != "win32",
            )  # fmt: skip
        except OSError as error:
            raise RetakeError(f"cannot be started: {error.strerror}.", self.command[0], _REMEDY) from error
        blender = _Blender(process)
        self._blenders.append(blender)
        threading.Thread(target=self._listen, args=(blender,), daemon=True).start()
        return blender

    def _listen(self, blender: _Blender) -> None:
        assert blender.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # closed under our hands when it is ended
            for line in blender.process.stdout:
                self._inbox.put((blender, line.decode(errors="replace").rstrip()))
        self._inbox.put((blender, None))

    def _send(self, blender: _Blender, order: Order) -> None:
        assert blender.process.stdin is not None
        blender.heard = time.monotonic()
        with contextlib.suppress(OSError):  # one that is gone is found out by the end of its words
            blender.process.stdin.write(json.dumps(order.fields).encode() + b"\n")
            blender.process.stdin.flush()

    def _next(self, tell: Callable[[int, str], None], waiting: collections.deque[Order]) -> Outcome | None:
        """What the next line, or a silence, brings about."""
        tell(-1, "")
        try:
            blender, line = self._inbox.get(timeout=0.2)
        except queue.Empty:
            late = [b for b in self._blenders if b.order and time.monotonic() - b.heard > self.silence]
            return self._lost(late[0], "hangs", waiting) if late else None
        if blender not in self._blenders:
            return None
        if line is None:
            return self._lost(blender, "crashed", waiting)
        said = _said(line)
        if said is None:
            blender.words.append(line)
            return None
        blender.heard = time.monotonic()
        order = blender.order
        assert order is not None
        if "done" in said:
            tell(order.seed, str(said["done"]))
            return None
        blender.order = None
        return Outcome(order.seed, str(said.get("failed", "")))

    def _lost(self, blender: _Blender, how: str, waiting: collections.deque[Order]) -> Outcome | None:
        """End a Blender; its order waits again, or has failed."""
        self._blenders.remove(blender)
        blender.end()
        order = blender.order
        if order is None:
            return None
        if order.tries < 2:
            waiting.appendleft(order)
            return None
        said = " / ".join(word for word in list(blender.words)[-4:] if word) or "it said nothing"
        return Outcome(order.seed, f"Blender {how} (exit code {blender.process.returncode}): {said:.400}")


def _said(line: str) -> dict[str, Any] | None:
    """What our own script says in a line of Blender's, which may print before and behind it; None where it is silent."""
    _, mark, rest = line.partition(MARK)
    if not mark:
        return None
    try:
        said, _ = json.JSONDecoder().raw_decode(rest)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
