"""The add-on's end of the backend: one thread that owns the client. Requests go in, messages come out. No bpy.

Takes are rendered one after the other, in the order they were asked for; what a take needs and what comes of it lies
in its folder (`takes`), so that a lost connection, a restarted backend or a restarted Blender goes on where the last
one stopped.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from retake_shared import __version__
from retake_shared.client import BackendGone, Client, Event, ModelState, StartFailed, VersionMismatch
from retake_shared.errors import Cancelled, RetakeError
from retake_shared.protocol import Refused
from retake_shared.shot import Edit, Solve

from . import takes
from .delivery import Delivery
from .launch import Place
from .messages import Backend, ErrandEnded, LinkMessage, ModelsTold, ModelTold, TakeEnded
from .solve_process import SolveJob, SolveProcess
from .takes import JobRecord

PATIENCE = 60.0
"""Seconds for which a take waits for a backend that went away and cannot be started from here."""
_RETRY = 1.0
_MOST_RETURNS = 5
_POLL = 0.05
_IDLE = 0.5


class _Closing(Exception):
    """Blender ends, or the add-on is switched off."""


class Link:
    """Created and called by Blender's main thread; every method answers at once."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.backend = Backend()
        self._messages: queue.SimpleQueue[LinkMessage] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs: deque[Delivery] = deque()
        self._to_cancel: list[str] = []
        self._cancelled: set[Path] = set()
        self._closing = threading.Event()
        self._client: Client | None = None
        self._solving: SolveProcess | None = None
        self._wanted = self._models_asked = False
        self._lost_since = self._next_try = self._next_hello = 0.0
        self._thread = threading.Thread(target=self._run, name="Retake link", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------------------------------- the main thread's side

    def render(
        self,
        folder: Path,
        record: JobRecord,
        solve: Solve | None = None,
        edit: Edit | None = None,
        first_frame: Path | None = None,
    ) -> None:
        """Have the take in `folder` rendered. Without solve and edit its folder must hold them.

        first_frame: the artist's edited picture, which is copied into the folder. A take that the backend has already
        is followed from where it stands; one that failed there begins anew.
        """
        self._cancelled.discard(folder)  # a Cancel that came when the take had just ended
        self._requests.put(
            Delivery(folder, record, solve, edit, True, self._say, self._stop_if_asked, first_frame=first_frame)
        )

    def follow(self, folder: Path, record: JobRecord) -> None:
        """Go on with a take that an earlier Blender asked for; if it has failed meanwhile, say so."""
        self._requests.put(Delivery(folder, record, None, None, False, self._say, self._stop_if_asked))

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

    def free(self) -> threading.Event:
        """Have the backend let go of the models that it holds in memory; its state says what came of it. The event is
        set when it has answered."""
        return self._ask(self._free)

    def model(self, request: str, name: str) -> threading.Event:
        """Have something done with a model of the backend: request is pull, stop, verify or remove. `ModelTold` tells
        how it goes. The event is set when the backend has taken it, or refused."""
        change = {"pull": Client.pull, "stop": Client.stop, "verify": Client.verify, "remove": Client.remove}[request]
        return self._ask(lambda: self._request(lambda client: ModelTold(change(client, name))))

    def models(self) -> threading.Event:
        """Ask for all models again, in `ModelsTold`. The event is set when the backend has answered."""
        return self._ask(lambda: self._request(lambda client: ModelsTold(client.models())))

    def import_model(self, name: str, folder: Path, replace: bool = False) -> None:
        """Take a folder on this computer in as the model `name`, in the place of one that lies there if `replace` says
        so; `ErrandEnded` tells when it is done."""

        def run(place: Place) -> ErrandEnded:
            words = place.import_model(name, folder, replace)
            self.models()
            return ErrandEnded("import", True, words)

        self._send("import", run)

    def save_frame(self, footage: Path, index: int, target: Path) -> None:
        """Write footage frame `index` of a video to the PNG file `target`; `ErrandEnded` tells when it is done."""

        def run(place: Place) -> ErrandEnded:
            place.save_frame(footage, index, target)
            return ErrandEnded("frame", True, f"Saved {target}", target)

        self._send("frame", run)

    def solve(self, job: SolveJob) -> None:
        """Have footage solved by a program of its own; `SolveProgress` and in the end `SolveEnded` tell how it goes. One
        that runs is stopped before."""
        self.stop_solving()
        self._solving = SolveProcess(self.place, job, self._say)

    def stop_solving(self) -> None:
        """Stop the solve that runs, if one does."""
        if self._solving is not None:
            self._solving.cancel()

    def _send(self, errand: str, run: Callable[[Place], ErrandEnded]) -> None:
        """Run what takes its time, and nothing of the client, in a thread of its own: takes go on meanwhile."""
        place = self.place

        def work() -> None:
            try:
                self._say(run(place))
            except RetakeError as error:
                self._say(ErrandEnded(errand, False, str(error)))
            except Exception as error:  # a bug must reach the artist, who would wait for its end for ever
                words = f"Retake itself failed ({type(error).__name__}: {error}). Report this."
                self._say(ErrandEnded(errand, False, words))

        threading.Thread(target=work, name=f"Retake {errand}", daemon=True).start()

    def move(self, place: Place) -> None:
        """From now on the backend is at `place`. What only its next start will need cuts no take off."""
        before, self.place = self.place, place
        if (place.home, place.connection_file) != (before.home, before.connection_file):
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
        """End the thread; the backend and its jobs go on, a solve stops and can be gone on with."""
        if self._solving is not None:
            self._solving.forsake()
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
        for job in self._jobs:
            with contextlib.suppress(RetakeError):
                job.keep_inputs()
        self._drop_client()

    def _answer_requests(self) -> None:
        if self._jobs or self._wanted:
            wait = 0.0 if self._client else _POLL
        else:
            wait = _IDLE if self._client else 3600.0
        with contextlib.suppress(queue.Empty):
            request = self._requests.get(wait > 0, wait)
            while True:
                if isinstance(request, Delivery):
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

    def _free(self) -> None:
        def free(client: Client) -> LinkMessage:
            client.free()
            return replace(self.backend, what="No model is held in memory any more.", remedy="")

        self._request(free)

    def _request(self, ask: Callable[[Client], LinkMessage]) -> None:
        """Say what the backend answers; a refusal is told, and no take fails for it."""
        if self._client is None:
            self._say(replace(self.backend, what="The backend is off.", remedy="Start it first."))
            return
        try:
            self._say(ask(self._client))
        except Refused as refused:
            self._say(replace(self.backend, what=str(refused), remedy=""))

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
        what = f"{error.where}: {error.what}" if error.where and not isinstance(error, StartFailed) else error.what
        self._say(Backend("off", what, error.remedy))
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
            self._client, self._models_asked = None, False
            self._say(ModelsTold(None))

    # ------------------------------------------------------------------------------------------------- a take

    def _work(self, client: Client) -> None:
        if time.monotonic() >= self._next_hello:
            info = client.hello()
            changing = info.worker == "starting" or (info.worker == "busy" and not self._jobs)
            self._next_hello = time.monotonic() + (0.5 if changing else 5.0)
            if info != self.backend.info:  # else what was said last still holds
                self._say(Backend("ready", info=info))
        if not self._models_asked:
            self._models_asked = True
            with contextlib.suppress(Refused):  # by a backend of before, which has none
                self._say(ModelsTold(client.models()))
        if not self._jobs:
            for event in client.poll():
                self._hear(event)
            return
        job = self._jobs[0]
        if not job.following:
            job.begin(client)
        if job.folder in self._cancelled and not job.cancel_sent:
            client.cancel(job.record.job)
            job.cancel_sent = True
        for event in client.poll(_POLL):
            if not event.job:
                self._hear(event)
            elif event.job == job.record.job and job.follow(client, event):
                self._end(job, "done")
                with contextlib.suppress(RetakeError):  # only spares the backend some disk
                    client.release(job.record.job)
                break

    def _hear(self, event: Event) -> None:
        """Pass on what has happened to no job in particular."""
        if event.kind == "model":
            self._say(ModelTold(ModelState.from_json(event.data)))
        elif event.kind == "engines" and self.backend.info is not None:
            told = replace(
                self.backend.info, engines=tuple(event.data["engines"]), device=str(event.data.get("device", ""))
            )
            self._say(replace(self.backend, info=told))

    def _stop_if_asked(self, folder: Path) -> None:
        if self._closing.is_set():
            raise _Closing
        if folder in self._cancelled:
            raise Cancelled

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

    def _end(self, job: Delivery, state: str, error: str = "", remedy: str = "") -> None:
        self._jobs.remove(job)
        self._cancelled.discard(job.folder)
        with contextlib.suppress(RetakeError):  # or it could not be continued
            job.keep_inputs()
        record = replace(job.record, state=state, error=error, remedy=remedy)
        # The folder may be gone, or the disk full, which may be the very error: then the message alone tells it.
        with contextlib.suppress(OSError):
            takes.write_record(job.folder, record)
        self._say(TakeEnded(job.folder, record))
        self._next_hello = 0.0  # whether the worker is free again shows at once
