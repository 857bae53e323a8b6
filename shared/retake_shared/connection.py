"""Where a backend lives and how to reach it: its home folder and the connection file in it.

The connection file holds the addresses and the keys of one running broker. Whoever can read it can use the broker, so
it is readable by its user alone (0600; on Windows the user's profile folder does this) and appears under its name
only when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import BadFile

FILE_NAME = "connection.json"
_TRIES = 10


@dataclass(frozen=True)
class Connection:
    """A running broker. control, data: ZeroMQ endpoints. Keys are CURVE keys in Z85; the client pair is the session's.

    pid, started: identity of the process (`process_started`). nonce: made at random by this run of the broker, told
    again in its welcome. software: version of the backend; versions: protocol versions it speaks.
    """

    control: str
    data: str
    server_key: str
    client_key: str
    client_secret: str
    pid: int
    started: str
    nonce: str
    software: str
    versions: tuple[int, ...]

    def alive(self) -> bool:
        """Whether the process that wrote this file still runs on this machine (not merely its number)."""
        return process_started(self.pid) == self.started


def default_home() -> Path:
    """The folder where the backend keeps jobs and assets: $RETAKE_HOME, else the user's folder for such state."""
    if os.environ.get("RETAKE_HOME"):
        return Path(os.environ["RETAKE_HOME"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "Retake"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Retake"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "retake"


def write(connection: Connection, home: Path) -> Path:
    """Put the connection file into `home`; it replaces an older one in one step. Raises OSError."""
    path = home / FILE_NAME
    part = home / f"{FILE_NAME}.{secrets.token_hex(4)}.part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(connection), file, indent=1)
        _replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return path


def _replace(part: Path, path: Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            os.replace(part, path)
            return
        except PermissionError:  # Windows replaces no file that a client is just reading
            if not left:
                raise
            time.sleep(0.02)


def read(path: Path) -> Connection:
    """Read a connection file. Raises FileNotFoundError when there is none, BadFile when it is not one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        words = {name: data[name] for name in Connection.__dataclass_fields__}
        good = all(isinstance(words[name], int if name == "pid" else str) for name in words if name != "versions")
        if not good:
            raise TypeError("a field has the wrong type")
        words["versions"] = tuple(int(version) for version in words["versions"])
        return Connection(**words)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFile(
            f"is not a connection file ({error!r:.80}).", str(path), "Delete it; a backend writes a new one."
        ) from None


def remove(home: Path, nonce: str) -> None:
    """Delete the connection file of the broker run `nonce`; leave any other's."""
    with contextlib.suppress(OSError, BadFile):
        if read(home / FILE_NAME).nonce == nonce:
            (home / FILE_NAME).unlink()


def process_started(pid: int) -> str:
    """When process `pid` started, as a word that with the pid identifies it on this machine; "" if it does not run."""
    if sys.platform == "win32":
        return _started_windows(pid)
    if sys.platform == "linux":
        try:
            # The command name may hold spaces and brackets: the fields are counted from its last bracket.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    # It tells in the words and the time zone of who asks, which may be others than the backend's.
    same = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    told = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, env=same, check=False
    )
    return told.stdout.strip()


def _started_windows(pid: int) -> str:
    import ctypes
    from ctypes import wintypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = wintypes.HANDLE
    query_limited_information, still_active = 0x1000, 259
    handle = kernel.OpenProcess(query_limited_information, False, pid)
    if not handle:
        return ""
    try:
        created, ended, kernel_time, user_time = (wintypes.FILETIME() for _ in range(4))
        code = wintypes.DWORD()
        if not kernel.GetExitCodeProcess(wintypes.HANDLE(handle), ctypes.byref(code)) or code.value != still_active:
            return ""
        times = [ctypes.byref(t) for t in (created, ended, kernel_time, user_time)]
        if not kernel.GetProcessTimes(wintypes.HANDLE(handle), *times):
            return ""
        return str((created.dwHighDateTime << 32) + created.dwLowDateTime)
    finally:
        kernel.CloseHandle(wintypes.HANDLE(handle))
