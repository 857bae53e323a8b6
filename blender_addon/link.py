"""The add-on's end of the backend: one thread that owns the client. Requests go in, messages come out. No bpy.

Takes are rendered one after the other, in the order they were asked for; what a take needs and what comes of it lies
in its folder (`takes`), so that a lost connection, a restarted backend or a restarted Blender goes on where the last
one stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared import __version__, archive
from retake_shared.client import BackendGone, BrokerInfo, Client, Event, JobSpec, StartFailed, VersionMismatch
from retake_shared.errors import BadFile, Cancelled, RetakeError
from retake_shared.protocol import FINAL, Refused
from retake_shared.shot import Edit, Solve, Take, frame_name

from . import takes
from .launch import Place
from .takes import JobRecord
from .thumbnail import read_thumbnail

PATIENCE = 60.0
"""Seconds for which a take waits for a backend that went away and cannot be started from here."""
_RETRY = 1.0
_MOST_RETURNS = 5
_POLL = 0.05
_IDLE = 0.5
_PICTURES = 0.7


@dataclass(frozen=True)
class Backend:
    """The backend's state has changed. state: off, starting, ready, lost (being reached again) or other_version."""

    state: str = "off"
    what: str = ""
    remedy: str = ""
    info: BrokerInfo | None = None


@dataclass(frozen=True)
class Progress:
    """The take in `folder` is at done of total of `stage`."""

    folder: Path
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class FrameArrived:
    """Footage frame `index` lies in the take's folder. picture: RGBA (h, w, 4), see `thumbnail`, now and then."""

    folder: Path
    index: int
    picture: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TakeEnded:
    """The take is done, failed or cancelled: see the record."""

    folder: Path
    record: JobRecord


LinkMessage = Backend | Progress | FrameArrived | TakeEnded


class _Closing(Exception):
    """Blender ends, or the add-on is switched off."""


@dataclass
class _Job:
    folder: Path
    record: JobRecord
    solve: Solve | None
    edit: Edit | None
    retry: bool
    seen: tuple[str, int] = ("", 0)
    following: bool = False
    returns: int = 0
    cancel_sent: bool = False
    description: bytes = b""


class Link:
    """Created and called by Blender's main thread; every method answers at once."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.backend = Backend()
        self._messages: queue.SimpleQueue[LinkMessage] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs: deque[_Job] = deque()
        self._to_cancel: list[str] = []
        self._cancelled: set[Path] = set()
        self._closing = threading.Event()
        self._client: Client | None = None
        self._wanted = False
        self._lost_since = self._next_try = self._next_hello = self._next_picture = 0.0
        self._thread = threading.Thread(target=self._run, name="Retake link", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------------------------------- the main thread's side

    def render(self, folder: Path, record: JobRecord, solve: Solve | None = None, edit: Edit | None = None) -> None:
        """Have the take in `folder` rendered. Without solve and edit its folder must hold them.

        A take that the backend has already is followed from where it stands; one that failed there begins anew.
        """
        self._requests.put(_Job(folder, record, solve, edit, retry=True))

    def follow(self, folder: Path, record: JobRecord) -> None:
        """Go on with a take that an earlier Blender asked for; if it has failed meanwhile, say so."""
        self._requests.put(_Job(folder, record, None, None, retry=False))

    def cancel(self, folder: Path) -> None:
        """Stop the take in `folder`; `TakeEnded` tells when it has stopped."""
        self._cancelled.add(folder)

    def start(self) -> threading.Event:
        """Find the backend or start it. The event is set when it is there, or has failed to come."""
        return self._ask(self._start)

    def test(self) -> threading.Event:
        """Find the backend if it runs, and have its state say how fast it answers. The event is set when it has."""
        return self._ask(self._test)

    def stop(self) -> threading.Event:
        """Stop the backend, whoever started it; a job that runs is done when it starts again."""
        return self._ask(self._stop_backend)

    def move(self, place: Place) -> None:
        """From now on the backend is at `place`."""
        if place != self.place:
            self.place = place
            self._ask(self._disconnect)

    def messages(self) -> list[LinkMessage]:
        """What has happened since the last call, in order."""
        found: list[LinkMessage] = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._messages.get_nowait())
        return found

    def wait(self, folder: Path, hear: Callable[[LinkMessage], None]) -> JobRecord:
        """Block until the take in `folder` has ended. A KeyboardInterrupt cancels it, a second one gets through."""
        while True:
            try:
                for message in self.messages():
                    hear(message)
                    if isinstance(message, TakeEnded) and message.folder == folder:
                        return message.record
                time.sleep(_POLL / 2)
            except KeyboardInterrupt:
                if folder in self._cancelled:
                    raise
                self.cancel(folder)

    def close(self, timeout: float = 3.0) -> None:
        """End the thread; the backend and its jobs go on."""
        self._closing.set()
        self._requests.put(lambda: None)
        self._thread.join(timeout)

    # ------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._answer_requests()
                self._end_cancelled()
                if self._client is None:
                    self._reach()
                else:
                    self._work(self._client)
            except _Closing:
                break
            except BackendGone as error:
                self._lose(error)
            except RetakeError as error:
                self._fail(error)
            except Exception as error:  # a bug must reach the artist and must not end the thread
                self._fail(RetakeError(f"Retake itself failed ({type(error).__name__}: {error}).", "", "Report this."))
        self._drop_client()

    def _answer_requests(self) -> None:
        if self._jobs or self._wanted:
            wait = 0.0 if self._client else _POLL
        else:
            wait = _IDLE if self._client else 3600.0
        with contextlib.suppress(queue.Empty):
            request = self._requests.get(wait > 0, wait)
            while True:
                if isinstance(request, _Job):
                    if all(job.folder != request.folder for job in self._jobs):  # a file opened again asks again
                        self._jobs.append(request)
                else:
                    request()
                request = self._requests.get_nowait()

    def _ask(self, action: Callable[[], None]) -> threading.Event:
        answered = threading.Event()

        def answer() -> None:
            try:
                action()
            finally:
                answered.set()

        self._requests.put(answer)
        return answered

    def _say(self, message: LinkMessage) -> None:
        if isinstance(message, Backend):
            if message == self.backend:
                return
            self.backend = message
        self._messages.put(message)

    # ------------------------------------------------------------------------------------------------- the backend

    def _start(self) -> None:
        if self._client is None:
            self._wanted, self._next_try = True, 0.0
            self._reach()

    def _test(self) -> None:
        self._find()
        if self._client is not None:
            began = time.perf_counter()
            info = self._client.hello()
            milliseconds = 1000 * (time.perf_counter() - began)
            self._say(Backend("ready", f"Answers in {milliseconds:.1f} ms.", info=info))
            self._next_hello = time.monotonic() + 5.0

    def _find(self) -> None:
        if self._client is None:
            try:
                self._connect(start=False)
            except VersionMismatch as error:
                self._other_version(error)
            except RetakeError as error:
                self._say(Backend("off", error.what, error.remedy))

    def _reach(self) -> None:
        if not (self._jobs or self._wanted) or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + _RETRY
        start = self.place.may_start or self._wanted
        if self.backend.state != "lost":
            self._say(Backend("starting"))
        try:
            self._connect(start)
        except VersionMismatch as error:
            self._other_version(error)
            self._wanted = False
            self._fail(error)
        except BackendGone as error:
            waiting = self._lost_since and time.monotonic() - self._lost_since < PATIENCE
            if not waiting:
                self._give_up(error)
        except RetakeError as error:
            self._give_up(error)

    def _connect(self, start: bool) -> None:
        self._client = self.place.reach(start)
        self._lost_since, self._wanted = 0.0, False
        self._next_hello = 0.0
        self._say(Backend("ready", info=self._client.info))
        while self._to_cancel:
            with contextlib.suppress(Refused):  # a job that it never had
                self._client.cancel(self._to_cancel.pop())

    def _give_up(self, error: RetakeError) -> None:
        self._wanted, self._lost_since = False, 0.0
        self._say(Backend("off", error.what if isinstance(error, StartFailed) else str(error), error.remedy))
        while self._jobs:
            self._fail(error)

    def _other_version(self, error: VersionMismatch) -> None:
        remedy = error.remedy or "Install the backend and the extension of the same Retake release."
        self._say(Backend("other_version", f"This extension is Retake {__version__}. {error.what}", remedy))

    def _lose(self, error: BackendGone) -> None:
        self._drop_client()
        self._lost_since, self._next_try = time.monotonic(), 0.0
        if not self._jobs:
            self._say(Backend("off", error.what, error.remedy))
            return
        job = self._jobs[0]
        job.following = job.cancel_sent = False
        job.returns += 1
        self._say(Backend("lost", error.what, "The take goes on when the backend is back."))
        if job.returns > _MOST_RETURNS:
            self._fail(RetakeError("the backend went away again and again.", "", "Look into its log, then continue."))

    def _stop_backend(self) -> None:
        if self._client is None:
            self._find()
        if self._client is not None:
            with contextlib.suppress(RetakeError):
                self._client.shutdown()
        self._disconnect()

    def _disconnect(self) -> None:
        self._drop_client()
        self._wanted = False
        self._say(Backend("off"))
        while self._jobs:
            self._fail(RetakeError("the backend was stopped.", "", "Continue the take to start it again."))

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # ------------------------------------------------------------------------------------------------- a take

    def _work(self, client: Client) -> None:
        if time.monotonic() >= self._next_hello:
            info = client.hello()
            self._next_hello = time.monotonic() + (0.5 if info.worker == "starting" else 5.0)
            self._say(Backend("ready", info=info))
        if not self._jobs:
            client.poll()
            return
        job = self._jobs[0]
        if not job.following:
            self._begin(client, job)
        if job.folder in self._cancelled and not job.cancel_sent:
            client.cancel(job.record.job)
            job.cancel_sent = True
        for event in client.poll(_POLL):
            if event.job == job.record.job:
                self._follow(client, job, event)
                if event.final:
                    break

    def _begin(self, client: Client, job: _Job) -> None:
        """Bring the job to the backend, unless it has it, and ask for all that happens to it."""
        known = client.job(job.record.job).state
        if job.retry and known in ("failed", "cancelled"):
            job.record, known = replace(job.record, job=uuid.uuid4().hex), "unknown"
        job.retry = False
        if known == "unknown":
            self._write_inputs(job)
            spec = self._send_inputs(client, job)
            try:
                client.submit(spec, job.record.job)
            except Refused as refused:
                if refused.reason != "missing_assets":
                    raise
                client.submit(self._send_inputs(client, job), job.record.job)
        snapshot = client.subscribe(job.seen, job.record.job)
        job.following = True
        for state in snapshot.jobs:
            if state.progress and state.state not in FINAL:
                self._say(Progress(job.folder, *state.progress))

    def _write_inputs(self, job: _Job) -> None:
        if job.solve is None or job.edit is None:
            self._write_record(job)
            return
        self._say(Progress(job.folder, "writing the edit", 0, 0))
        solve, edit = archive.to_bytes(job.solve), archive.to_bytes(job.edit)
        record = replace(
            job.record,
            solve_sha256=hashlib.sha256(solve).hexdigest(),
            edit_sha256=hashlib.sha256(edit).hexdigest(),
        )
        try:
            takes.write_file(job.folder / takes.EDIT_FILE, edit)
            takes.write_solve(job.folder, solve, record.solve_sha256)
        except OSError as error:
            raise takes.cannot_write(job.folder, error) from error
        job.record, job.solve, job.edit = record, None, None
        self._write_record(job)

    def _write_record(self, job: _Job) -> None:
        try:
            takes.write_record(job.folder, job.record)
        except OSError as error:
            raise takes.cannot_write(job.folder, error) from error

    def _send_inputs(self, client: Client, job: _Job) -> JobSpec:
        footage = Path(job.record.footage)

        def moved(stage: str) -> Any:
            def tell(done: int, total: int) -> None:
                self._stop_if_asked(job)
                self._say(Progress(job.folder, stage, done, total))

            return tell

        self._say(Progress(job.folder, "reading the footage", 0, 0))
        spec = JobSpec(
            footage_sha256=client.ensure_asset(footage, moved("sending the footage")),
            footage_name=footage.name,
            solve_sha256=client.ensure_asset(job.folder / takes.SOLVE_FILE, moved("sending the solve")),
            edit_sha256=client.ensure_asset(job.folder / takes.EDIT_FILE, moved("sending the edit")),
            settings=job.record.settings,
        )
        self._stop_if_asked(job)
        return spec

    def _stop_if_asked(self, job: _Job) -> None:
        if self._closing.is_set():
            raise _Closing
        if job.folder in self._cancelled:
            raise Cancelled

    def _follow(self, client: Client, job: _Job, event: Event) -> None:
        if event.sequence:
            job.seen = (event.epoch, event.sequence)
        data = event.data
        if event.kind == "progress":
            self._say(Progress(job.folder, str(data["stage"]), int(data["done"]), int(data["total"])))
        elif event.kind == "queued":
            self._say(Progress(job.folder, "waiting for the backend", 0, 0))
        elif event.kind == "frame":
            self._fetch(client, job, data)
        elif event.kind == "done":
            self._finish(client, job)
        elif event.kind == "failed":
            self._fail(RetakeError(str(data.get("what", "")), str(data.get("where", "")), str(data.get("remedy", ""))))
        elif event.kind == "cancelled":
            self._end(job, "cancelled")

    def _fetch(self, client: Client, job: _Job, data: dict[str, Any]) -> None:
        kind, sha256 = data["kind"], data["sha256"]
        try:
            if kind == "take":
                job.description = client.fetch_bytes(sha256)
                return
            index = int(data["index"])
            if not job.record.start <= index < job.record.stop:
                raise RetakeError(
                    f"the backend sent frame {index}, which was not asked for.", "", "Update the backend."
                )
            target = job.folder / (frame_name(index) if kind == "rgb" else f"holes_{index:05d}.png")
            if not _same_file(target, sha256):
                client.fetch(sha256, target)
        except Refused as refused:
            if refused.reason != "no_asset":
                raise
            remedy = "Render the take again; the same seed gives the same frames."
            raise RetakeError("the backend no longer keeps this take's frames.", "", remedy) from refused
        if kind == "rgb":
            picture = None
            if time.monotonic() >= self._next_picture:
                picture = read_thumbnail(target)
                self._next_picture = time.monotonic() + _PICTURES
            self._say(FrameArrived(job.folder, index, picture))

    def _finish(self, client: Client, job: _Job) -> None:
        try:
            Take.from_json(takes.json_object(job.description, "take.json"))
            missing = set(range(job.record.start, job.record.stop)) - takes.frame_files(job.folder).keys()
            if missing:
                raise RetakeError(f"{len(missing)} frames are missing, the first is {min(missing)}.", str(job.folder),
                                  "Continue the take.")  # fmt: skip
            takes.write_file(job.folder / takes.TAKE_FILE, job.description)
        except OSError as error:
            raise takes.cannot_write(job.folder, error) from error
        self._end(job, "done")
        with contextlib.suppress(RetakeError):  # only spares the backend some disk
            client.release(job.record.job)

    def _fail(self, error: RetakeError) -> None:
        """End the take that is in hand as failed, if there is one."""
        if not self._jobs:
            if not isinstance(error, VersionMismatch):
                self._say(replace(self.backend, what=str(error), remedy=error.remedy))
            self._closing.wait(_POLL)
            return
        if isinstance(error, Cancelled):
            self._end(self._jobs[0], "cancelled")
        else:
            what = f"{error.where}: {error.what}" if error.where else error.what
            self._end(self._jobs[0], "failed", what, error.remedy)

    def _end_cancelled(self) -> None:
        """Takes that are not followed now end at once, and the backend is told when it can be."""
        for job in [job for job in self._jobs if job.folder in self._cancelled and not job.following]:
            self._to_cancel.append(job.record.job)
            self._end(job, "cancelled")

    def _end(self, job: _Job, state: str, error: str = "", remedy: str = "") -> None:
        self._jobs.remove(job)
        self._cancelled.discard(job.folder)
        record = replace(job.record, state=state, error=error, remedy=remedy)
        # The folder may be gone, or the disk full, which may be the very error: then the message alone tells it.
        with contextlib.suppress(OSError):
            takes.write_record(job.folder, record)
        self._say(TakeEnded(job.folder, record))


def _same_file(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror}).", str(path), "Check the folder.") from error
