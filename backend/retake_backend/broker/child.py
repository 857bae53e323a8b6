"""A process that the broker starts and speaks with in lines: a worker, or a task with models."""

from __future__ import annotations

import collections
import contextlib
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from .inbox import Inbox


class Child:
    """The process, and two threads that read it: lines of its stdout go into the inbox as (number, line), its end as
    (number, b""); lines of its stderr into the log under its name, the last of them into `errors`. Subclasses say
    how long a line of stdout may be: `longest_line`, bytes; a longer one comes in pieces."""

    longest_line: int

    def __init__(
        self, number: int, name: str, command: Sequence[str], environment: Mapping[str, str], inbox: Inbox
    ) -> None:
        self.number, self.name = number, name
        self.errors: collections.deque[str] = collections.deque(maxlen=12)
        self.process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(environment)
        )
        self._readers = [
            threading.Thread(target=self._read_lines, args=(inbox,), daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def kill(self, seconds: float) -> None:
        """Kill it if it lives, and wait for its end. One that is stuck in the system (a driver, a network disk) ends
        when that lets go: nobody waits longer than `seconds` for it."""
        with contextlib.suppress(OSError):
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def hear_out(self) -> None:
        """Wait a moment for what an ended process said last."""
        self._readers[1].join(0.5)

    def close_stdin(self) -> None:
        """Its stdin ends."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def _read_lines(self, inbox: Inbox) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            while line := lines.readline(self.longest_line):
                inbox.put((self.number, line))
        inbox.put((self.number, b""))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            while line := lines.readline(4096):
                said = line.decode(errors="replace").rstrip()
                self.errors.append(said[:500])
                print(f"{self.name}: {said}", file=sys.stderr, flush=True)
