"""The client of a backend: start it or find it, send assets and jobs, follow events, fetch results.

Blocking, with a timeout on everything, for use from one thread; `poll` suits a thread that has other things to do. All
failures are RetakeErrors: `BackendGone` (start or find it again, `subscribe` with the last event seen),
`VersionMismatch`, `Refused` (with a reason) and `StartFailed`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from . import __version__, connection, protocol, wire
from .connection import Connection
from .errors import BadFile, RetakeError
from .protocol import Message, Refused, VersionMismatch
from .shot import RenderSettings
from .wire import BackendGone, Moved

__all__ = [
    "BackendGone",
    "BrokerInfo",
    "Client",
    "Event",
    "JobSpec",
    "JobState",
    "ModelState",
    "Models",
    "Refused",
    "Snapshot",
    "StartFailed",
    "VersionMismatch",
    "start_or_find",
]

LOG_NAME = "backend.log"
_LOG_LIMIT = 4 * 1024 * 1024
_started: list[subprocess.Popen[bytes]] = []  # kept, so that a backend that ends is reaped and not a zombie


class StartFailed(RetakeError):
    """The backend could not be started; `what` holds the last lines of its log."""


@dataclass(frozen=True)
class BrokerInfo:
    """What a broker says of itself. worker: starting, idle, busy or failing. engines: {name, label, description, ready,
    missing} of each, see `protocol`; they and the device are known once the worker has started (`worker` is no longer
    "starting"), and the event `engines` tells when they change."""

    version: int
    software: str
    epoch: str
    nonce: str
    pid: int
    worker: str
    engines: tuple[dict[str, Any], ...]
    device: str


@dataclass(frozen=True)
class JobSpec:
    """A job: assets by sha256 (see `Client.ensure_asset`) and what is asked of the engine. footage_name: for lists.
    first_frame_sha256: an image file, an edited picture of the job's first frame; "" for none."""

    footage_sha256: str
    footage_name: str
    solve_sha256: str
    edit_sha256: str
    settings: RenderSettings
    first_frame_sha256: str = ""


@dataclass(frozen=True)
class JobState:
    """Where a job is. state: queued, running, done, failed, cancelled or unknown. attempt: from 1, 0 while never run.

    created: seconds since the epoch of the clock. sequence: of its last stored event. progress: the last (stage, done,
    total) or None. error: {what, where, remedy} of a failed job.
    """

    job: str
    state: str
    attempt: int = 0
    name: str = ""
    created: float = 0.0
    sequence: int = 0
    cancelling: bool = False
    progress: tuple[str, int, int] | None = None
    error: dict[str, str] | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> JobState:
        """Read one entry of the broker's list."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        if known.get("progress") is not None:
            known["progress"] = tuple(known["progress"])
        return cls(**known)


@dataclass(frozen=True)
class ModelState:
    """A model of the backend's catalogue. kind: base, parts or own. nbytes: how much it takes, about.

    shipped: it is the one that comes with the backend.
    state: missing, partial, installed or damaged. task: "" (none), waiting, pull, verify or remove; stage: a word
    or two on it; done, total: its progress in bytes, total 0 while unknown. error: {what, where, remedy} of the last task if that failed.
    """

    name: str
    label: str = ""
    kind: str = "base"
    nbytes: int = 0
    licence: str = ""
    licence_url: str = ""
    state: str = "missing"
    random: bool = False
    shipped: bool = False
    task: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    error: dict[str, str] | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelState:
        """Read what the broker says of a model: in a reply, or as the data of the event `model`."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**known | {"nbytes": data.get("bytes", 0)})


@dataclass(frozen=True)
class Models:
    """The backend's catalogue. place: the folder where its models lie."""

    place: str
    models: tuple[ModelState, ...]


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; see `protocol` for the kinds and their data. sequence 0: not stored.

    job: "" for the kinds `engines` and `model`, which are of no job. picture: the JPEG of a `picture`.
    """

    epoch: str
    job: str
    sequence: int
    kind: str
    data: dict[str, Any]
    picture: bytes = b""

    @property
    def final(self) -> bool:
        """Whether the job has come to its end."""
        return self.kind in protocol.FINAL


@dataclass(frozen=True)
class Snapshot:
    """Jobs, newest first, as they were at `sequence` of `epoch`: what a client remembers to come back later."""

    epoch: str
    sequence: int
    jobs: tuple[JobState, ...]


class Client:
    """A connection to a running broker."""

    def __init__(self, where: Connection, timeout: float = 5.0) -> None:
        """Raises BackendGone when there is no broker at `where`, or it takes other keys; VersionMismatch."""
        self.where = where
        self.timeout = timeout
        self._hashes: dict[tuple[str, int, int], str] = {}
        self._context: zmq.Context[Any] = zmq.Context()
        keys = wire.Keys(where.client_key, where.client_secret)
        try:
            self._control = wire.Link(self._context, where.control, where.server_key, keys)
            self._data = wire.Link(self._context, where.data, where.server_key, keys)
            self._control.wait_open(timeout)
            self._data.wait_open(timeout)
            self.info = self.hello()
            if self.info.nonce != where.nonce:
                raise BackendGone("another backend answers there.", where.control, "Read its connection file again.")
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, connection_file: Path, timeout: float = 5.0) -> Client:
        """Connect to the broker that wrote this file. Raises BackendGone also when there is no such file."""
        try:
            return cls(connection.read(connection_file), timeout)
        except FileNotFoundError:
            raise BackendGone("no backend is running.", str(connection_file), "Start the backend.") from None

    def close(self) -> None:
        """Close the connection; jobs go on without it."""
        for name in ("_control", "_data"):
            if hasattr(self, name):
                getattr(self, name).close()
        self._context.destroy(linger=0)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> BrokerInfo:
        """Ask the broker who it is. Raises VersionMismatch, BackendGone."""
        try:
            reply = self._control.ask(
                "hello", self.timeout, versions=list(protocol.VERSIONS), software=__version__
            ).fields
        except Refused as refused:
            if refused.reason != "version":
                raise
            raise VersionMismatch(refused.what, self.where.control, refused.remedy) from None
        version = reply.get("chosen")
        if version not in protocol.VERSIONS:
            raise VersionMismatch(f"the backend answers in protocol {version!r:.20}.", self.where.control)
        return BrokerInfo(
            version=version,
            software=str(reply.get("software", "")),
            epoch=str(reply.get("epoch", "")),
            nonce=str(reply.get("nonce", "")),
            pid=int(reply.get("pid", 0)),
            worker=str(reply.get("worker", "")),
            engines=tuple(reply.get("engines", ())),
            device=str(reply.get("device", "")),
        )

    def ensure_asset(self, source: bytes | Path, progress: Moved | None = None) -> str:
        """Make sure that the broker has these bytes or this file; return the sha256 that names them.

        Nothing is sent when the broker has them already. progress: (bytes sent, bytes in all); may raise to stop.
        Raises BadFile, Refused (disk_full, too_large, ...), BackendGone.
        """
        if isinstance(source, bytes):
            name = hashlib.sha256(source).hexdigest()
            wire.push_asset(self._data, io.BytesIO(source), name, len(source), progress, self.timeout + 30)
            return name
        try:
            with source.open("rb") as file:
                about = os.fstat(file.fileno())
                key = (str(source), about.st_size, about.st_mtime_ns)
                if key not in self._hashes:
                    self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
                    file.seek(0)
                name = self._hashes[key]
                wire.push_asset(self._data, file, name, about.st_size, progress, self.timeout + 30)
                return name
        except OSError as error:
            raise BadFile(f"cannot be read ({error.strerror}).", str(source), "Choose another file.") from None

    def submit(self, spec: JobSpec, job: str | None = None) -> str:
        """Hand in a job; when this returns its id, the job is stored and will be done. Give `job` (32 hex digits) to
        repeat a submit whose reply was lost: it is done once. Raises Refused (missing_assets, disk_full, ...)."""
        job = job or uuid.uuid4().hex
        further = {"first_frame": spec.first_frame_sha256} if spec.first_frame_sha256 else {}
        self._control.ask(
            "submit",
            self.timeout,
            job=job,
            name=spec.footage_name,
            footage=spec.footage_sha256,
            solve=spec.solve_sha256,
            edit=spec.edit_sha256,
            settings=spec.settings.to_json(),
            **further,
        )
        return job

    def subscribe(self, since: tuple[str, int] | None = None, job: str | None = None) -> Snapshot:
        """Have events sent from now on: of one job, or of all. since: (epoch, sequence) last seen, whose successors
        are sent too; ("", 0) = from the beginning; None = only what comes. A later subscription replaces this one.
        Events of no job (`engines`, `model`) come without any."""
        fields: dict[str, Any] = {} if job is None else {"job": job}
        if since is not None:
            fields |= {"epoch": since[0], "since": since[1]}
        reply = self._control.ask("subscribe", self.timeout, **fields).fields
        # What came before the reply belongs to the subscription before.
        self._control.forget_unasked(lambda message: bool(message.fields.get("job")))
        jobs = tuple(JobState.from_json(entry) for entry in reply["jobs"])
        return Snapshot(reply["epoch"], reply["sequence"], jobs)

    def poll(self, timeout: float = 0.0) -> list[Event]:
        """Events that have come; waits up to `timeout` seconds for the first. Raises BackendGone."""
        events = []
        message = self._control.unasked(timeout)
        while message is not None:
            if message.fields.get("event") != "beat":
                events.append(_event(message))
            message = self._control.unasked(0)
        return events

    def events(self, job: str, since: tuple[str, int] = ("", 0), timeout: float | None = None) -> Iterator[Event]:
        """Follow one job from `since` to its end; events of no job are dropped meanwhile. Raises BackendGone, and
        Refused("unknown") for an unknown job. timeout: the longest silence in seconds that is put up with, None = any."""
        if self.subscribe(since, job).jobs == ():
            raise Refused("unknown", "the backend does not know this job.", job, "Generate again.")
        while True:
            message = self._control.unasked(3600.0 if timeout is None else timeout)
            if message is None and timeout is not None:
                raise BackendGone(f"nothing heard of the job for {timeout:g} s.", self.where.control)
            if message is not None and message.fields.get("job") == job:
                event = _event(message)
                yield event
                if event.final:
                    return

    def cancel(self, job: str) -> JobState:
        """Ask for a job to stop; returns at once. The event `cancelled` (or another final one) tells when it has."""
        return self._state(self._control.ask("cancel", self.timeout, job=job))

    def release(self, job: str) -> JobState:
        """Say that the take is safely here, so that the broker may drop its frames when it needs the space."""
        return self._state(self._control.ask("release", self.timeout, job=job))

    def job(self, job: str) -> JobState:
        """Where one job is; state "unknown" for one that the broker never had."""
        entries = self._control.ask("jobs", self.timeout, job=job).fields["jobs"]
        return JobState.from_json(entries[0]) if entries else JobState(job, "unknown")

    def jobs(self) -> list[JobState]:
        """The latest jobs of this backend, newest first, other clients' too."""
        entries = self._control.ask("jobs", self.timeout).fields["jobs"]
        return [JobState.from_json(entry) for entry in entries]

    def models(self) -> Models:
        """The catalogue, and which of its models are here. The events `model` tell what changes from now on."""
        reply = self._control.ask("models", self.timeout).fields
        self._control.forget_unasked(lambda message: message.fields["event"] == "model")  # the reply is newer
        return Models(str(reply["place"]), tuple(ModelState.from_json(entry) for entry in reply["models"]))

    def pull(self, model: str) -> ModelState:
        """Have a model of the catalogue downloaded, or a stopped download gone on with; returns at once. Needs the
        internet on the backend's machine. Raises Refused (no_model)."""
        return self._changed_model("pull", model)

    def stop(self, model: str) -> ModelState:
        """End what is being done with a model; a download can be gone on with later. Raises Refused (no_model)."""
        return self._changed_model("stop", model)

    def verify(self, model: str) -> ModelState:
        """Have a model's files compared with their checksums; returns at once. Raises Refused (no_model)."""
        return self._changed_model("verify", model)

    def remove(self, model: str) -> ModelState:
        """Have a model deleted from the disk; returns at once. Raises Refused (no_model; busy while a job
        waits or runs)."""
        return self._changed_model("remove", model)

    def free(self) -> None:
        """Have the worker let go of the models that it keeps in memory between jobs, and wait until it has. Raises
        Refused (busy while a job runs)."""
        self._control.ask("free", self.timeout + 30)

    def fetch(self, sha256: str, into: Path, progress: Moved | None = None) -> int:
        """Fetch an asset into the file `into`, which appears only when complete and right; return its size.

        Raises Refused (no_asset, wrong_hash), BackendGone, BadFile when `into` cannot be written.
        """
        part = into.with_name(f"{into.name}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                size = wire.pull_asset(self._data, file, sha256, progress, self.timeout + 10)
                file.flush()
                os.fsync(file.fileno())  # once released, the broker's copy may go
            os.replace(part, into)
        except OSError as error:
            raise BadFile(
                f"cannot be written ({error.strerror}).", str(into), "Free some space or choose another folder."
            ) from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return size

    def fetch_bytes(self, sha256: str) -> bytes:
        """Fetch a small asset into memory. Raises Refused, BackendGone."""
        buffer = io.BytesIO()
        wire.pull_asset(self._data, buffer, sha256, None, self.timeout + 10)
        return buffer.getvalue()

    def stats(self) -> dict[str, Any]:
        """Counters since the broker started: bytes and assets moved, refusals, jobs."""
        return self._control.ask("stats", self.timeout).fields

    def shutdown(self) -> None:
        """End the broker in order; a job that runs is done by the next one."""
        self._control.ask("shutdown", self.timeout)

    def _state(self, reply: Message) -> JobState:
        return JobState.from_json(reply.fields)

    def _changed_model(self, kind: str, model: str) -> ModelState:
        """What a request about a model answers. What was told of it before is older, and is told no more."""
        state = ModelState.from_json(self._control.ask(kind, self.timeout, model=model).fields)

        def older(message: Message) -> bool:
            return bool(message.fields["event"] == "model" and message.fields["data"].get("name") == model)

        self._control.forget_unasked(older)
        return state


def _event(message: Message) -> Event:
    fields, kind = message.fields, message.fields["event"]
    picture = bytes(memoryview(message.buffers[0])) if kind == "picture" and message.buffers else b""
    return Event(fields["epoch"], fields["job"], fields["sequence"], kind, fields["data"], picture)


def start_or_find(home: Path, command: Sequence[str], timeout: float = 30.0) -> Client:
    """A client of the backend of `home`: of the one that runs, else of a new one started with `command`.

    The new one is detached: it outlives this process; what it prints goes to `home`/backend.log. Raises StartFailed
    with the last lines of that log, VersionMismatch when the running one speaks another protocol.
    """
    home = home.absolute()
    file = home / connection.FILE_NAME
    running = _running(file)
    if running is not None:
        with contextlib.suppress(BackendGone):
            return Client(running)

    log, before, process = _start(home, command)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        running = _running(file)
        if running is not None:
            with contextlib.suppress(BackendGone):
                return Client(running)
        # It may have ended because another process started one at the same moment: then that one's file appears.
        if process.poll() is not None and _running(file) is None:
            raise StartFailed(
                f"the backend ended at once (exit code {process.returncode}):\n{_tail(log, before)}", str(log),
                "Check the backend's place in the preferences.",
            )  # fmt: skip
        time.sleep(0.02)
    raise StartFailed(f"the backend did not answer within {timeout:g} s:\n{_tail(log, before)}", str(log), "Try again.")


def _running(file: Path) -> Connection | None:
    try:
        found = connection.read(file)
    except (OSError, BadFile):
        return None
    return found if found.alive() else None


def _start(home: Path, command: Sequence[str]) -> tuple[Path, int, subprocess.Popen[bytes]]:
    """The log, how long it was before, and the process."""
    log = home / LOG_NAME
    _started[:] = [earlier for earlier in _started if earlier.poll() is None]
    try:
        home.mkdir(parents=True, exist_ok=True)
        full = log.exists() and log.stat().st_size > _LOG_LIMIT
        with log.open("wb" if full else "ab") as output:
            before = output.tell()
            detached: dict[str, Any] = (
                {"creationflags": 0x00000200 | 0x08000000}  # a process group of its own, no console window
                if sys.platform == "win32"
                else {"start_new_session": True}
            )
            process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=home, **detached
            )
    except OSError as error:
        where = str(error.filename or home)
        raise StartFailed(f"the backend cannot be started ({error.strerror}).", where, "Check the path.") from None
    _started.append(process)
    return log, before, process


def _tail(log: Path, start: int, lines: int = 12) -> str:
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 8192))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
