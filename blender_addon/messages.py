"""What the link tells Blender's main thread."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from retake_shared.client import BrokerInfo, Models, ModelState

from .takes import JobRecord

if TYPE_CHECKING:  # it sends these messages
    from .solve_process import SolveJob


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
class RoughPicture:
    """How the take in `folder` begins to look, before it has frames. jpeg: the bytes of a small picture."""

    folder: Path
    jpeg: bytes


@dataclass(frozen=True)
class ModelsTold:
    """The backend's models as they are now; None when there is no backend to say."""

    models: Models | None


@dataclass(frozen=True)
class ModelTold:
    """One model has changed, or what is being done with it has gone on."""

    model: ModelState


@dataclass(frozen=True)
class ErrandEnded:
    """What a program of its own was sent for is done, or was refused. words: what to tell; path: what was written."""

    errand: str
    good: bool
    words: str
    path: Path | None = None


@dataclass(frozen=True)
class SolveProgress:
    """The solve of `job` is in `part` of `parts`, at done of total of `stage`; or that part has ended.

    kept: it had been done by a run before. picture: path of a PNG that shows what came of it, or "".
    """

    job: SolveJob
    part: str
    parts: tuple[str, ...]
    stage: str = ""
    done: int = 0
    total: int = 0
    ended: bool = False
    kept: bool = False
    picture: str = ""


@dataclass(frozen=True)
class SolveEnded:
    """state: done, failed or cancelled. words: what to tell. report: JSON of how far the solve can be trusted, or ""."""

    job: SolveJob
    state: str
    words: str = ""
    report: str = ""


@dataclass(frozen=True)
class TakeEnded:
    """The take is done, failed or cancelled: see the record."""

    folder: Path
    record: JobRecord


LinkMessage = (
    Backend | Progress | FrameArrived | RoughPicture | ModelsTold | ModelTold | ErrandEnded | SolveProgress
    | SolveEnded | TakeEnded
)  # fmt: skip


class Printer:
    """Prints what the link says: each new stage and then a line a second, and what becomes of the backend."""

    def __init__(self) -> None:
        self._line, self._stage, self._told = "", "", 0.0

    def __call__(self, message: LinkMessage) -> None:
        if isinstance(message, Backend):
            self._print(f"backend: {message.state.replace('_', ' ')}{message.what and f', {message.what}'}")
        elif isinstance(message, SolveProgress):
            self._print(f"{message.part}{': kept from before' * message.kept}" if message.ended else message.stage)
        elif isinstance(message, Progress):
            now = time.monotonic()
            if message.stage != self._stage or message.done == message.total or now - self._told >= 1:
                self._stage, self._told = message.stage, now
                self._print(f"{message.stage} {message.done}/{message.total}" if message.total else message.stage)

    def _print(self, line: str) -> None:
        if line != self._line:
            self._line = line
            print(f"Retake: {line}", flush=True)
