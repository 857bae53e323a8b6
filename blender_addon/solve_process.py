"""`retake solve` as a process of its own: begun, listened to and stopped here, in a thread. No bpy.

While it runs a record lies beside the solve to be (`clip.solve.job.json`), so that a Blender that comes after a crash
knows what was begun; the backend keeps the results of the stages, and a solve that is begun again goes on from them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retake_shared.errors import BadFile, RetakeError

from .launch import Place
from .messages import SolveEnded, SolveProgress
from .solve_report import read_report

RECORD = ".job.json"
OPTIONS = ("--focal", "--sensor", "--fov", "--frames", "--step", "--masks", "--click", "--depth")
"""Of `retake solve` that a job may name, each with a value."""


@dataclass(frozen=True)
class SolveJob:
    """What is to be solved. footage: a video, or the first picture of a sequence. out: the .npz to write. words: options
    of `retake solve`. set_scene: whether the import may change the scene's settings."""

    footage: str
    out: str
    words: tuple[str, ...] = ()
    set_scene: bool = True

    @property
    def name(self) -> str:
        """The footage's name."""
        return Path(self.footage).name

    @property
    def record(self) -> Path:
        """Where the job is written down while it runs."""
        return Path(self.out).with_suffix(RECORD)


def read_record(path: Path) -> SolveJob:
    """The job that a Blender of before wrote down. Raises BadFile."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        job = SolveJob(str(data["footage"]), str(data["out"]), tuple(map(str, data["words"])), bool(data["set_scene"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(f"is no record of a solve ({error!r:.80}).", str(path), "Delete it.") from None
    # It lies where anybody may have put it: it may ask for what the dialog can ask for, beside itself, and no more.
    options = all(
        word in OPTIONS and not value.startswith("-")
        for word, value in zip(job.words[::2], job.words[1::2], strict=False)
    )
    if job.record.name != path.name or not Path(job.footage).is_absolute() or len(job.words) % 2 or not options:
        raise BadFile("is no record of this solve.", str(path), "Delete it.")
    return SolveJob(job.footage, str(path.with_name(Path(job.out).name)), job.words, job.set_scene)


class SolveProcess:
    """One run of `retake solve`. say: gets SolveProgress now and then, and one SolveEnded."""

    def __init__(self, place: Place, job: SolveJob, say: Callable[[SolveProgress | SolveEnded], None]) -> None:
        self.job = job
        self._place, self._say = place, say
        self._process: subprocess.Popen[str] | None = None
        self._stopped = self._forsaken = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="Retake solve", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop; SolveEnded tells when it has."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.terminate()

    def forsake(self) -> None:
        """Stop because Blender ends; the record stays, so that the next one can go on."""
        self._forsaken = True
        self.cancel()

    def _run(self) -> None:
        job = self.job
        try:
            self._write_record()
            words = self._solve()
            ended = SolveEnded(job, "done", words, read_report(Path(job.out)))
        except RetakeError as error:
            state = "cancelled" if self._stopped else "failed"
            ended = SolveEnded(job, state, "" if self._stopped else str(error), "")
        except Exception as error:  # a bug must reach the artist
            ended = SolveEnded(job, "failed", f"Retake itself failed ({type(error).__name__}: {error}). Report this.")
        if not self._forsaken:
            with contextlib.suppress(OSError):
                job.record.unlink()
            self._say(ended)

    def _write_record(self) -> None:
        try:
            self.job.record.parent.mkdir(parents=True, exist_ok=True)
            self.job.record.write_text(json.dumps(asdict(self.job)), encoding="utf-8")
        except OSError as error:
            where = str(self.job.record.parent)
            raise RetakeError(
                f"cannot be written to ({error.strerror}).", where, "Save the .blend elsewhere."
            ) from None

    def _solve(self) -> str:
        """Run the program to its end; its last line. Raises RetakeError with its reason."""
        footage = self.job.footage
        words = ("solve", footage, "--out", self.job.out, "--progress", "json", *self.job.words, *self._place.use)
        command, environ = self._place.program(*words)
        environ["PYTHONIOENCODING"] = "utf-8"
        apart: dict[str, Any] = {"creationflags": 0x08000000} if os.name == "nt" else {"start_new_session": True}
        last = ""
        with tempfile.TemporaryFile() as errors:
            with self._lock:
                if self._stopped:
                    raise RetakeError("stopped.")
                try:
                    self._process = subprocess.Popen(
                        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                        text=True, encoding="utf-8", errors="replace", **apart,
                    )  # fmt: skip
                except OSError as error:
                    raise self._place.cannot_run(command, error) from None
            with self._process as process:
                assert process.stdout is not None
                for line in process.stdout:
                    progress = self._progress(line)
                    if progress is None:
                        last = line.strip() or last
                    elif not self._stopped:
                        self._say(progress)
                code = process.wait()
            if code == 0 and not self._stopped:
                return last
            errors.seek(0)
            told = errors.read()[-20_000:].decode("utf-8", "replace").strip().splitlines()
        reason = next((line for line in reversed(told) if line.startswith("retake: ")), "")
        if not reason:  # no refusal: it broke
            why = told[-1] if told else f"code {code}"
            raise RetakeError(f"The solver itself failed ({why}).", "", "Solve again; if it stays so, report this.")
        raise RetakeError(reason.removeprefix("retake: "))

    def _progress(self, line: str) -> SolveProgress | None:
        if not line.startswith("{"):
            return None
        try:
            data = json.loads(line)
            parts = tuple(str(part) for part in data["parts"])
            return SolveProgress(
                self.job, str(data["part"]), parts, str(data.get("stage", "")), int(data.get("done", 0)),
                int(data.get("total", 0)), bool(data.get("ended")), bool(data.get("kept")), str(data.get("picture", "")),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            return None
