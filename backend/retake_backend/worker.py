"""The process that renders: one job at a time, told by its broker over stdin and stdout (see `broker.supervisor`).

It stays up between jobs, with the models that its engines keep, and ends when its stdin ends, so it never outlives its
broker. What an engine says with RetakeError is the job's answer; any other exception ends the process, for the broker
to try again in a fresh one. While it has a job, a thread says that the process lives and whether it works.
"""

from __future__ import annotations

import argparse
import base64
import collections
import concurrent.futures
import contextlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, get_args

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray
from retake_shared import archive, protocol
from retake_shared.errors import BadFile, BadShot, Cancelled, RetakeError
from retake_shared.shot import Edit, RenderSettings, Solve, Take

from . import device, engines, environment
from .broker.assets import AssetStore
from .engines.base import Progress, RenderedFrame, RenderRequest
from .footage import FootageReader, encode_png, read_image
from .render import InputHashes, render_take

_REPORT_SECONDS = 0.05
_ENCODERS = 2
_WAITING_FRAMES = 8
_PICTURE_SECONDS = 0.2
_PICTURE_QUALITIES = (80, 50, 20)
_IMAGE_BYTES = 256 * 1024**2
_IMAGE_PIXELS = 2**26
"""The largest edited first frame: 8192 x 8192."""
_PULSE_SECONDS = 1.0
_AT_WORK = 0.05
"""CPU seconds a second from which on the process counts as working."""


class Worker:
    """Does the jobs that come over `commands` and tells of them over `output`."""

    def __init__(self, assets: AssetStore, device: str, commands: IO[bytes], output: IO[bytes]) -> None:
        self._assets, self._device, self._output = assets, device, output
        self._telling = threading.Lock()
        self._orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        self._pulse = _Pulse()
        self._pulse.start()
        threading.Thread(target=self._listen, args=(commands,), daemon=True).start()

    def run(self) -> None:
        """Work until the process is ended."""
        self._tell("ready", engines=engines.available(), device=self._device)
        while True:
            order = self._orders.get()
            if order["kind"] == "free":
                free_models()
                self._tell("freed")
            else:
                job = _Job(order, self._assets, self._cancelled, self._tell)
                with self._pulse.of(job):
                    job.run()

    def _listen(self, commands: IO[bytes]) -> None:
        for line in commands:
            command = json.loads(line)
            if command["kind"] == "cancel":
                self._cancelled.add(command["job"])
            elif command["kind"] == "engines":
                self._tell_engines()
            else:
                self._orders.put(command)
        os._exit(0)  # the broker is gone: nobody is left to render for, whatever the other threads are doing

    def _tell_engines(self) -> None:
        try:
            self._tell("engines", engines=engines.available())
        except Exception:  # what cannot be looked at now must not make this thread deaf to a cancel
            traceback.print_exc(file=sys.stderr)

    def _tell(self, kind: str, **fields: Any) -> None:
        line = json.dumps({"kind": kind, **fields}).encode() + b"\n"
        with self._telling:
            self._output.write(line)
            self._output.flush()


def free_models() -> None:
    """Let go of the models that are kept between jobs. Where none was ever loaded, neither is what keeps them."""
    resident = sys.modules.get("retake_backend.models.resident")
    if resident is not None:
        resident.release()


class _Pulse(threading.Thread):
    """Says every second of a job that this process can run Python, and whether it works: with a CPU, its own or that
    of a process it has started (compilers), or by reading from the disk."""

    def __init__(self) -> None:
        super().__init__(name="pulse", daemon=True)
        self._process = psutil.Process()
        self._job: _Job | None = None
        self._begun = threading.Event()
        self._changing = threading.Lock()

    @contextlib.contextmanager
    def of(self, job: _Job) -> Iterator[None]:
        """Tell of `job` as long as this context lasts, and not a line longer."""
        with self._changing:
            self._job = job
        self._begun.set()
        try:
            yield
        finally:
            self._begun.clear()
            with self._changing:
                self._job = None

    def run(self) -> None:
        """The thread's loop."""
        used, read = self._used(), self._read()
        while True:
            self._begun.wait()
            time.sleep(_PULSE_SECONDS)
            used_before, read_before = used, read
            used, read = self._used(), self._read()
            working = used - used_before > _AT_WORK * _PULSE_SECONDS or read != read_before
            with self._changing:
                if self._job is not None:
                    self._job.tell_alive(working)

    def _used(self) -> float:
        """CPU seconds of this process and those it has started."""
        total = time.process_time()
        with contextlib.suppress(psutil.Error):
            for child in self._process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    times = child.cpu_times()
                    total += times.user + times.system
        return total

    def _read(self) -> int:
        """Bytes that came from the disk for this process, mapped files included where the system counts them."""
        with contextlib.suppress(psutil.Error, AttributeError):  # macOS does not tell
            return int(self._process.io_counters().read_bytes)
        return 0


class _Job:
    def __init__(self, order: dict[str, Any], assets: AssetStore, cancelled: set[str], tell: Any) -> None:
        self._order, self._assets, self._cancelled = order, assets, cancelled
        self._name = {"job": order["job"], "attempt": order["attempt"]}
        self._send = tell
        self._reported = self._pictured = 0.0

    def tell_alive(self, working: bool) -> None:
        """Say that the process lives. From any thread."""
        self._tell("alive", working=working)

    def run(self) -> None:
        try:
            self._render()
        except Cancelled:
            self._tell("cancelled")
        except RetakeError as error:
            told = {key: self._readable(getattr(error, key)) for key in ("what", "where", "remedy")}
            ends = getattr(error, "ends_process", False)
            self._tell("failed", error=told, ends=ends)
            if ends:
                os._exit(1)  # nothing more can be done in this process: the broker starts a fresh one
        else:
            self._tell("done")

    def _render(self) -> None:
        order = self._order
        self._check_cancelled()
        settings = RenderSettings.from_json(order["settings"])
        solve, edit = self._read(order["solve"], Solve), self._read(order["edit"], Edit)
        hashes = InputHashes(order["footage"], order["solve"], order["edit"], order.get("first_frame", ""))
        first_frame = self._read_first_frame(order["first_frame"]) if "first_frame" in order else None
        with (
            FootageReader(self._assets.path(order["footage"])) as footage,
            concurrent.futures.ThreadPoolExecutor(_ENCODERS) as encoders,
        ):
            waiting: collections.deque[concurrent.futures.Future[list[dict[str, Any]]]] = collections.deque()
            try:
                request = RenderRequest(footage, solve, edit, settings, first_frame)
                for made in render_take(request, hashes, self._report):
                    self._check_cancelled()
                    waiting.append(encoders.submit(self._keep, made))
                    while waiting and (waiting[0].done() or len(waiting) > _WAITING_FRAMES):
                        self._tell_frames(waiting.popleft().result())
                while waiting:
                    self._tell_frames(waiting.popleft().result())
            except Cancelled:
                raise
            except Exception:  # the engine's error is the answer; the frames that it finished before are still good
                for frames in waiting:
                    with contextlib.suppress(RetakeError):
                        self._tell_frames(frames.result())
                raise
            finally:
                encoders.shutdown(wait=True, cancel_futures=True)

    def _keep(self, made: RenderedFrame | Take) -> list[dict[str, Any]]:
        """Store what was rendered; return it as it is told. In an encoder's thread."""
        if isinstance(made, Take):
            description = json.dumps(made.to_json(), indent=1).encode()
            return [{"kind": "take", "sha256": self._assets.put(description), "nbytes": len(description)}]
        told = []
        for kind, picture in (("rgb", made.rgb), ("holes", made.holes)):
            png = encode_png(picture)
            told.append({"kind": kind, "index": made.index, "sha256": self._assets.put(png), "nbytes": len(png)})
        return told

    def _read(self, sha256: str, kind: type[Any]) -> Any:
        content = archive.load(self._assets.path(sha256))
        if not isinstance(content, kind):
            raise BadFile(f"is no {kind.__name__.lower()}.", kind.__name__.lower(), "Generate again.")
        return content

    def _read_first_frame(self, sha256: str) -> NDArray[np.uint8]:
        path, where, remedy = (
            self._assets.path(sha256),
            "first frame",
            "Export it again, as a PNG of the footage's size.",
        )
        if (self._assets.size(sha256) or 0) > _IMAGE_BYTES:
            raise BadShot(f"has more than {_IMAGE_BYTES >> 20} MB.", where, remedy)
        try:
            picture = read_image(path, remedy)
        except BadFile as error:
            raise BadFile(error.what, where, error.remedy) from None
        height, width = picture.shape[:2]
        if height * width > _IMAGE_PIXELS:
            raise BadShot(f"has {width} x {height} pixels.", where, remedy)
        return picture

    def _report(self, progress: Progress) -> None:
        self._check_cancelled()
        now = time.monotonic()
        last = progress.done >= progress.total
        if now - self._reported > _REPORT_SECONDS or last:
            self._reported = now
            self._tell("progress", stage=progress.stage[:80], done=int(progress.done), total=int(progress.total))
        if progress.picture is not None and (now - self._pictured > _PICTURE_SECONDS or last):
            self._pictured = now
            jpeg = small_jpeg(progress.picture)
            if jpeg:
                self._tell("picture", jpeg=base64.b64encode(jpeg).decode())

    def _check_cancelled(self) -> None:
        if self._order["job"] in self._cancelled:
            raise Cancelled

    def _readable(self, words: str) -> str:
        """An asset lies under its hash: say which of the job's files it is."""
        for role in ("footage", "solve", "edit", "first_frame"):
            if role not in self._order:
                continue
            place = str(self._assets.path(self._order[role]))
            words = words.replace(place, self._order["name"] if role == "footage" else role)
        return words[:2000]

    def _tell_frames(self, frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            self._tell("frame", frame=frame)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._send(kind, **self._name, **fields)


def small_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """A picture (h, w, 3) uint8 sRGB as the JPEG of `protocol`: at most PICTURE_SIDE pixels and PICTURE_BYTES; b"" when
    it cannot be that small."""
    height, width = picture.shape[:2]
    scale = min(1.0, protocol.PICTURE_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    for quality in _PICTURE_QUALITIES:
        good, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if good and data.nbytes <= protocol.PICTURE_BYTES:
            return data.tobytes()
    return b""


def volunteer() -> None:
    """Let Linux, when memory runs out, end this process, which is started again, and not Blender with unsaved work."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def main() -> None:
    """Entry of `python -m retake_backend.worker`, started by the broker alone (`broker.supervisor.worker_command`)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--device", choices=get_args(device.Device), default="auto")
    parser.add_argument("--cores", type=int, default=0)
    arguments = parser.parse_args()
    volunteer()
    had = device.restrict(arguments.device, arguments.cores)
    # Libraries print to stdout as they like: they get stderr, and the broker's channel a descriptor of its own.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    commands = os.fdopen(environment.own_stdin(), "rb")
    try:
        Worker(AssetStore(arguments.assets), had, commands, output).run()
    except Exception:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        # An orderly exit would wait for the thread that reads stdin, and bury these words under its complaints.
        os._exit(1)


if __name__ == "__main__":
    main()
