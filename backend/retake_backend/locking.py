"""One process at a time: a lock on an open file."""

from __future__ import annotations

import sys


def lock(descriptor: int) -> bool:
    """Take the lock of an open file, if nobody has it; the system frees it when this process ends, however it ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
