"""A queue from threads to a loop that polls."""

from __future__ import annotations

import contextlib
import queue
import socket
from typing import Any


class Inbox:
    """`waker` is readable while something may be in it. An item: number of the process or thread it is from, content."""

    def __init__(self) -> None:
        self.waker, self._bell = socket.socketpair()
        self.waker.setblocking(False)
        self._bell.setblocking(False)
        self._items: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    def put(self, item: tuple[int, Any]) -> None:
        """Add an item and wake the loop."""
        self._items.put(item)
        with contextlib.suppress(OSError):  # a full pipe means that the loop is about to wake anyway
            self._bell.send(b".")

    def take(self) -> list[tuple[int, Any]]:
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
