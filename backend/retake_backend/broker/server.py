"""The broker's loop: the control socket, the subscribers, the worker and the models, in one thread."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from retake_shared import connection, protocol, wire
from retake_shared.connection import Connection
from retake_shared.errors import BadFile, RetakeError
from retake_shared.protocol import Message, Refused

from .. import __version__, locking
from .assets import AssetStore, storage_error
from .models import Models
from .store import JobStore
from .supervisor import Patience, Supervisor, worker_command, worker_environment
from .transfer import TransferThread

_TICK_MS = 100
_BEAT_SECONDS = 5.0
_PRUNE_SECONDS = 60.0
_BATCH = 64
_FREE_REQUESTS = 64


class AlreadyRunning(RetakeError):
    """Another broker serves this home. address: its control endpoint, "" when it does not tell."""

    def __init__(self, home: Path, address: str) -> None:
        super().__init__(
            f"a backend already runs here{' at ' + address if address else ''}.", str(home), "Use that one, or end it."
        )
        self.address = address


@dataclass(frozen=True)
class Limits:
    """What a broker allows itself. idle_seconds: it ends after that long without clients and jobs. cache_bytes: assets
    that no job needs are dropped beyond it. asset_bytes: the largest file taken. patience: with the worker. device,
    cores: what its worker may use, see `worker_command`. models: folder of models, None = $RETAKE_MODELS, else `models`
    in the broker's home."""

    idle_seconds: float = 1800.0
    cache_bytes: int = 50 * 1024**3
    asset_bytes: int = 16 * 1024**3
    patience: Patience = field(default_factory=Patience)
    device: str = "auto"
    cores: int = 0
    models: Path | None = None


def serve(home: Path, limits: Limits | None = None, started: Callable[[Connection], None] | None = None) -> None:
    """Serve jobs from the folder `home` until told to end, by SIGTERM, SIGINT, a client, or for want of work.

    started: called once clients can connect. Raises AlreadyRunning, and Refused when the folder cannot be used.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (home / "assets").mkdir(exist_ok=True)
        lock = (home / "broker.lock").open("a+b")
    except OSError as error:
        raise storage_error(error, home) from None
    with lock:
        if not locking.lock(lock.fileno()):
            raise AlreadyRunning(home, _other_address(home))
        broker = Broker(home, limits or Limits())
        try:
            with _signals(broker.end):
                if started:
                    started(broker.connection)
                broker.run()
        finally:
            broker.close()


class Broker:
    """Everything that one run of the broker owns."""

    def __init__(self, home: Path, limits: Limits) -> None:
        """Open the store, listen and write the connection file. Raises Refused."""
        self._home, self._limits = home, limits
        self._assets = AssetStore(home / "assets")
        self._assets.sweep()
        self._store = JobStore(home / "jobs.sqlite")
        self._store.recover()
        self._context: zmq.Context[Any] = zmq.Context()
        server, client = wire.Keys.make(), wire.Keys.make()
        self._doorkeeper = wire.AllowList(self._context, [client.public])
        self._control, control_address = wire.listen(self._context, server)
        data, data_address = wire.listen(self._context, server)
        self._transfer = TransferThread(self._context, data, self._assets, limits.asset_bytes, limits.cache_bytes)
        self._transfer.start()
        named = os.environ.get("RETAKE_MODELS")
        models = (limits.models or (Path(named) if named else home / "models")).absolute()
        self._models = Models(models)
        self._supervisor = Supervisor(
            self._store,
            worker_command(self._assets.root, limits.device, limits.cores),
            limits.patience,
            worker_environment(models),
        )
        self._notices = _Notices()
        self._present: dict[bytes, dict[str, int]] = {}  # who said hello and is still connected: the notices it has
        self._waiting_for_free: list[tuple[bytes, int | None]] = []
        self._subscribers: dict[bytes, _Subscriber] = {}
        self._counters = {"requests": 0, "refused": 0}
        self._heard = self._beaten = time.monotonic()
        self._pruned = 0.0
        self._ending = False
        self.connection = Connection(
            control=control_address,
            data=data_address,
            server_key=server.public,
            client_key=client.public,
            client_secret=client.secret,
            pid=os.getpid(),
            started=connection.process_started(os.getpid()),
            nonce=secrets.token_hex(16),
            software=__version__,
            versions=protocol.VERSIONS,
        )
        try:
            connection.write(self.connection, home)
        except OSError as error:
            self.close()
            raise storage_error(error, home) from None

    def end(self) -> None:
        """Leave the loop soon."""
        self._ending = True

    def close(self) -> None:
        """End in order: connection file, worker, sockets, store."""
        connection.remove(self._home, self.connection.nonce)
        self._supervisor.stop()
        self._models.close()
        self._transfer.stop()
        self._store.close()
        self._context.destroy(linger=500)

    def run(self) -> None:
        """Serve until the end is asked for."""
        poller = zmq.Poller()
        wakers = (self._supervisor.inbox.waker, self._models.inbox.waker)
        for socket in (self._control, self._doorkeeper.socket, *wakers):
            poller.register(socket, zmq.POLLIN)
        while not self._ending:
            ready = dict(poller.poll(_TICK_MS))
            if self._doorkeeper.socket in ready:
                self._doorkeeper.answer()
            if self._control in ready:
                self._serve_some()
            self._models.step()
            self._supervisor.paused = self._models.removing
            self._supervisor.step()
            self._take_notice()
            self._tell()
            self._keep_house()

    def _serve_some(self) -> None:
        for _ in range(_BATCH):  # so that no flood of requests keeps the worker and the others waiting
            try:
                sender, frames = wire.receive(self._control)
            except zmq.Again:
                return
            self._serve(sender, frames)

    def _serve(self, sender: bytes, frames: list[zmq.Frame]) -> None:
        self._heard = time.monotonic()
        self._counters["requests"] += 1
        request: Message | None = None
        try:
            request = protocol.decode(frames)
            answer = self._answer(sender, request)
            if answer is None:
                return
            kind, fields = answer
        except Refused as refused:
            self._counters["refused"] += 1
            kind, fields = "refused", protocol.refusal(refused)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            kind, fields = "refused", protocol.refusal(Refused("internal", "the backend made an error; see its log."))
        self._reply(sender, request.id if request else None, kind, fields)

    def _reply(self, sender: bytes, request: int | None, kind: str, fields: dict[str, Any]) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it has left, or asks without ever reading
            wire.send(self._control, sender, Message(kind, fields, re=request))

    def _answer(self, sender: bytes, request: Message) -> tuple[str, dict[str, Any]] | None:
        """Kind and fields of the reply, None when it comes later."""
        fields = request.fields
        if request.kind == "hello":
            welcome = self._hello(fields)
            self._present.setdefault(sender, dict(self._notices.versions))
            self._models.look()
            return "welcome", welcome
        if request.version not in protocol.VERSIONS:
            raise self._no_version(f"protocol {request.version} is not spoken here.")
        match request.kind:
            case "submit":
                return "accepted", self._submit(fields)
            case "cancel":
                job = protocol.job_id(fields)
                self._store.cancel(job)
                self._supervisor.cancel(job)
                return "state", self._entry(job)
            case "release":
                self._store.release(protocol.job_id(fields))
                return "state", self._entry(protocol.job_id(fields))
            case "jobs":
                return "jobs", {"jobs": self._entries(fields)}
            case "subscribe":
                return "snapshot", self._subscribe(sender, fields)
            case "models":
                self._models.look()
                return "models", {"models": self._models.all(), "place": str(self._models.folder)}
            case "pull" | "verify":
                return "model", self._models.ask(request.kind, protocol.text(fields, "model", 64))
            case "remove":
                return "model", self._remove(protocol.text(fields, "model", 64))
            case "stop":
                return "model", self._models.stop(protocol.text(fields, "model", 64))
            case "free":
                return self._free(sender, request.id)
            case "stats":
                return "stats", self._stats()
            case "shutdown":
                self.end()
                return "goodbye", {}
        raise Refused("unknown_kind", f'there is no request "{request.kind}" on the control socket.', "message")

    def _hello(self, fields: dict[str, Any]) -> dict[str, Any]:
        theirs = fields.get("versions")
        version = protocol.common_version(theirs) if isinstance(theirs, list) else None
        if version is None:
            raise self._no_version(f"the client speaks protocol {theirs!r:.60}, the backend {list(protocol.VERSIONS)}.")
        return {
            "chosen": version,
            "versions": list(protocol.VERSIONS),
            "software": __version__,
            "nonce": self.connection.nonce,
            "epoch": self._store.epoch,
            "pid": self.connection.pid,
            "worker": self._supervisor.state,
            "engines": self._supervisor.engines,
            "device": self._supervisor.device,
        }

    def _no_version(self, what: str) -> Refused:
        remedy = f"Install the add-on and the backend in the same version; the backend is {__version__}."
        return Refused("version", what, "protocol", remedy, {"versions": list(protocol.VERSIONS)})

    def _submit(self, fields: dict[str, Any]) -> dict[str, Any]:
        job = protocol.job_id(fields)
        settings = fields.get("settings")
        if not isinstance(settings, dict):
            raise Refused("malformed", "settings are not an object.", "submit")
        roles = ["footage", "solve", "edit"]
        if fields.get("first_frame") is not None:
            roles.append("first_frame")
        assets = {role: protocol.sha256(fields, role) for role in roles}
        spec: dict[str, Any] = {**assets, "name": protocol.text(fields, "name", 255), "settings": settings}
        if self._store.entry(job)["state"] == "unknown":
            missing = self._assets.missing(list(assets.values()))
            if missing:
                raise Refused(
                    "missing_assets", f"{len(missing)} files are not here.", job, "Send them first.", {"missing": missing}
                )  # fmt: skip
        return self._store.submit(job, spec)

    def _remove(self, model: str) -> dict[str, Any]:
        if self._store.open_jobs():
            what = "jobs wait or run, and may need it."
            raise Refused("busy", what, model, "Wait for their end, or cancel them.")
        described = self._models.ask("remove", model)
        self._supervisor.free()  # where files in use cannot be removed, and in any case it is of no use any more
        return described

    def _free(self, sender: bytes, request: int | None) -> tuple[str, dict[str, Any]] | None:
        if self._supervisor.state == "busy":
            raise Refused("busy", "a job runs with the models.", "free", "Wait for its end, or cancel it.")
        self._supervisor.free()
        if not self._supervisor.freeing:
            return "freed", {}
        if len(self._waiting_for_free) >= _FREE_REQUESTS:
            raise Refused("busy", "the memory is being freed.", "free", "Wait a moment.")
        self._waiting_for_free.append((sender, request))
        return None

    def _subscribe(self, sender: bytes, fields: dict[str, Any]) -> dict[str, Any]:
        job = protocol.job_id(fields) if fields.get("job") is not None else None
        last = self._store.last_sequence()
        cursor = last
        if fields.get("since") is not None:
            since = protocol.whole(fields, "since")
            cursor = since if fields.get("epoch") == self._store.epoch and since <= last else 0
        jobs = self._entries(fields)
        self._subscribers[sender] = _Subscriber(cursor, job)
        return {"epoch": self._store.epoch, "sequence": last, "jobs": jobs}

    def _entries(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        if fields.get("job") is None:
            entries = self._store.entries()
        else:
            entries = [self._store.entry(protocol.job_id(fields))]
        return [self._with_progress(entry) for entry in entries if entry["state"] != "unknown"]

    def _entry(self, job: str) -> dict[str, Any]:
        return self._with_progress(self._store.entry(job))

    def _with_progress(self, entry: dict[str, Any]) -> dict[str, Any]:
        progress = self._supervisor.progress.get(entry["job"])
        return {**entry, "progress": progress} if progress else entry

    def _stats(self) -> dict[str, Any]:
        return {
            **self._counters,
            **self._transfer.counters,
            "turned_away": self._doorkeeper.turned_away,
            "workers_started": self._supervisor.started,
            "worker_deaths": self._supervisor.deaths,
            "worker_pid": self._supervisor.pid,
            "open_jobs": self._store.open_jobs(),
            "clients": len(self._present),
            "subscribers": len(self._subscribers),
        }

    def _take_notice(self) -> None:
        """See what has changed with models and engines, and answer those who waited for free memory."""
        if self._models.installed_changed:
            self._models.installed_changed = False
            self._supervisor.ask_engines()
        if self._supervisor.engines_changed:
            self._supervisor.engines_changed = False
            told = {"engines": self._supervisor.engines, "device": self._supervisor.device}
            self._notices.put("engines", "engines", told)
        for model in sorted(self._models.changed):
            self._notices.put(f"model {model}", "model", self._models.describe(model))
        self._models.changed.clear()
        if self._waiting_for_free and not self._supervisor.freeing:
            for sender, request in self._waiting_for_free:
                self._reply(sender, request, "freed", {})
            self._waiting_for_free.clear()

    def _tell(self) -> None:
        """Send everybody what is new to them; what a full queue does not take is sent later."""
        for sender, seen in list(self._present.items()):
            try:
                for key, version, event, data in self._notices.newer_than(seen):
                    if not self._send_passing(sender, "", event, data):
                        break
                    seen[key] = version
            except zmq.ZMQError:
                self._forget(sender)
        fresh = [(job, self._supervisor.progress[job]) for job in sorted(self._supervisor.fresh)]
        self._supervisor.fresh.clear()
        pictures = dict(self._supervisor.pictures)
        self._supervisor.pictures.clear()
        last = self._store.last_sequence() if self._subscribers else 0
        for sender, subscriber in list(self._subscribers.items()):
            try:
                if subscriber.cursor < last and not self._send_tail(sender, subscriber, last):
                    continue
                for job, (stage, done, total) in fresh:
                    if subscriber.job in (None, job):
                        self._send_passing(sender, job, "progress", {"stage": stage, "done": done, "total": total})
                for job, jpeg in pictures.items():
                    if subscriber.job in (None, job):
                        self._send_passing(sender, job, "picture", {}, (jpeg,))
            except zmq.ZMQError:
                self._forget(sender)
        if time.monotonic() - self._beaten > _BEAT_SECONDS:
            self._beaten = time.monotonic()
            if not self._reachable():
                print("broker: the connection file is gone; ending", file=sys.stderr, flush=True)
                self.end()
            for sender in list(self._present):
                try:
                    self._send_passing(sender, "", "beat", {})
                except zmq.ZMQError:  # the only way to learn that a client has left
                    self._forget(sender)

    def _reachable(self) -> bool:
        """Whether the connection file is still ours: not when somebody has emptied the folder to free its space."""
        try:
            return connection.read(self._home / connection.FILE_NAME).nonce == self.connection.nonce
        except FileNotFoundError:
            return False
        except (OSError, BadFile):
            return True

    def _forget(self, sender: bytes) -> None:
        self._present.pop(sender, None)
        self._subscribers.pop(sender, None)

    def _send_tail(self, sender: bytes, subscriber: _Subscriber, last: int) -> bool:
        while events := self._store.tail(subscriber.cursor, subscriber.job, _BATCH):
            for event in events:
                if not wire.send(self._control, sender, Message("event", event)):
                    return False
                subscriber.cursor = event["sequence"]
        subscriber.cursor = max(subscriber.cursor, last)
        return True

    def _send_passing(
        self, sender: bytes, job: str, event: str, data: dict[str, Any], buffers: tuple[bytes, ...] = ()
    ) -> bool:
        passing = {"epoch": self._store.epoch, "job": job, "sequence": 0, "time": time.time(), "event": event}
        return wire.send(self._control, sender, Message("event", {**passing, "data": data}, buffers))

    def _keep_house(self) -> None:
        now = time.monotonic()
        if now - self._pruned > _PRUNE_SECONDS:
            self._pruned = now
            self._transfer.prune(self._store.needed())
        quiet_since = max(self._heard, self._transfer.heard)
        if now - quiet_since > self._limits.idle_seconds:
            if self._present or self._store.open_jobs() or self._models.busy:
                self._heard = now
            else:
                print("broker: nothing to do for long; ending", file=sys.stderr, flush=True)
                self.end()


@dataclass
class _Subscriber:
    """cursor: the sequence that it has been sent. job: the only one it wants to hear of, None = all."""

    cursor: int
    job: str | None


class _Notices:
    """The latest news of no job, each under a key and with a version, for everybody who has not had it."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self._news: dict[str, tuple[str, dict[str, Any]]] = {}
        self._count = 0

    def put(self, key: str, event: str, data: dict[str, Any]) -> None:
        """Take the place of what was told under this key."""
        self._count += 1
        self.versions[key], self._news[key] = self._count, (event, data)

    def newer_than(self, seen: dict[str, int]) -> list[tuple[str, int, str, dict[str, Any]]]:
        """(key, version, event, data) of what somebody has not had, the oldest first."""
        due = [(version, key) for key, version in self.versions.items() if version > seen.get(key, 0)]
        return [(key, version, *self._news[key]) for version, key in sorted(due)]


@contextlib.contextmanager
def _signals(end: Callable[[], None]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: end()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _other_address(home: Path, patience: float = 5.0) -> str:
    """Where the broker that holds the lock listens; it may be just starting."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, BadFile):
            other = connection.read(home / connection.FILE_NAME)
            if other.alive():
                return other.control
        time.sleep(0.05)
    return ""
