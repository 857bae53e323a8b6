"""Models that stay loaded between jobs, so that the second take of a shot does not wait for the disk.

One place, one owner: a slot holds one thing, and asking for another lets go of the one before it first, so that two
never lie in memory together. Any thread may `release`; a job that works with a model meanwhile keeps its own
reference, and the memory is free once it lets go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from . import memory

Kept = TypeVar("Kept")

_lock = threading.Lock()
_slots: dict[str, tuple[Hashable, Any]] = {}
_releases = 0


def keep(key: Hashable, load: Callable[[], Kept], slot: str = "model") -> Kept:
    """What is kept under `key`, loaded if it is not there. Another key in the same slot is let go of first.

    key: all that decides what is loaded (names, places, the profile's name). slot: "model" for the engine's own;
    others stay beside it. When `load` raises, the slot stays empty.
    """
    with _lock:
        held = _slots.get(slot)
        if held is not None and held[0] == key:
            return held[1]  # type: ignore[no-any-return]
        _slots.pop(slot, None)
        began = _releases
    if held is not None:
        del held
        memory.release()
    loaded = load()  # without the lock: it can take a minute, and `release` must answer at once
    with _lock:
        if _releases == began:
            _slots[slot] = (key, loaded)
    return loaded


def release() -> bool:
    """Let go of everything that is kept; whether there was anything. Also what is being loaded will not be kept."""
    global _releases
    with _lock:
        had = bool(_slots)
        _slots.clear()
        _releases += 1
    memory.release()
    return had


def kept() -> tuple[Hashable, ...]:
    """The keys of what is kept."""
    with _lock:
        return tuple(key for key, _ in _slots.values())
