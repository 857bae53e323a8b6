"""One take on its way: what it is made of goes to the backend, its frames come into its folder. No bpy.

All that is known of it lies in the folder, so that any of its steps can be done again by another Blender.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retake_shared import archive
from retake_shared.client import Client, Event, JobSpec
from retake_shared.errors import BadFile, Cancelled, RetakeError
from retake_shared.protocol import FINAL, Refused
from retake_shared.shot import (
    EDIT_FILE,
    FIRST_FRAME_FILE,
    SOLVE_FILE,
    TAKE_FILE,
    Edit,
    Solve,
    Take,
    frame_name,
    holes_name,
)

from . import takes
from .messages import FrameArrived, LinkMessage, Progress, RoughPicture
from .takes import JobRecord
from .thumbnail import read_thumbnail

PICTURES = 0.7
"""Seconds between two small pictures for the panel."""


@dataclass
class Delivery:
    """A take in the hands of the link's thread.

    solve, edit: until they are written into the folder; None when they lie there already. first_frame: the artist's
    file, until it is copied there; None when there is none, or the folder has it. retry: a job that failed at
    the backend begins anew. say: tells the main thread. stop_if_asked: called often, raises to stop. following:
    whether the backend has the job and tells of it. seen: (epoch, sequence) of the last event that was dealt with.
    """

    folder: Path
    record: JobRecord
    solve: Solve | None
    edit: Edit | None
    retry: bool
    say: Callable[[LinkMessage], None]
    stop_if_asked: Callable[[Path], None]
    first_frame: Path | None = None
    seen: tuple[str, int] = ("", 0)
    following: bool = False
    cancel_sent: bool = False
    returns: int = 0
    description: bytes = b""
    next_picture: float = 0.0

    def begin(self, client: Client) -> None:
        """Bring the job to the backend, unless it has it, and ask for all that happens to it. Raises RetakeError."""
        known = client.job(self.record.job).state
        if self.retry and known in ("failed", "cancelled"):
            self.record, known = replace(self.record, job=uuid.uuid4().hex), "unknown"
        self.retry = False
        if known == "unknown":
            self._write_inputs()
            try:
                client.submit(self._send_inputs(client), self.record.job)
            except Refused as refused:  # the cache was cleared between the two
                if refused.reason != "missing_assets":
                    raise
                client.submit(self._send_inputs(client), self.record.job)
        snapshot = client.subscribe(self.seen, self.record.job)
        self.following = True
        for state in snapshot.jobs:
            if state.progress and state.state not in FINAL:
                self.say(Progress(self.folder, *state.progress))

    def follow(self, client: Client, event: Event) -> bool:
        """Deal with one event of the job; True when the take is complete.

        Raises Cancelled, and RetakeError when the take has failed.
        """
        data = event.data
        if event.kind == "progress":
            self.say(Progress(self.folder, str(data["stage"]), int(data["done"]), int(data["total"])))
        elif event.kind == "queued":
            self.say(Progress(self.folder, "waiting for the backend", 0, 0))
        elif event.kind == "picture":
            self.say(RoughPicture(self.folder, event.picture))
        elif event.kind == "frame":
            self._fetch(client, data)
        elif event.kind == "failed":
            raise RetakeError(*(str(data.get(name, "")) for name in ("what", "where", "remedy")))
        elif event.kind == "cancelled":
            raise Cancelled
        elif event.kind == "done":
            self._complete()
        if event.sequence:  # only now: what a lost connection interrupted is asked for again
            self.seen = (event.epoch, event.sequence)
        return event.kind == "done"

    def write_record(self) -> None:
        """Write `job.json`. Raises RetakeError."""
        try:
            takes.write_record(self.folder, self.record)
        except OSError as error:
            raise takes.cannot_write(self.folder, error) from error

    def keep_inputs(self) -> None:
        """Write what the take is made of into its folder, where it does not lie yet: it ends, and may be continued.
        Raises RetakeError."""
        if self.solve is not None or self.first_frame is not None:
            self._write_inputs()

    def _write_inputs(self) -> None:
        if self.solve is not None and self.edit is not None:
            self.say(Progress(self.folder, "writing the edit", 0, 0))
            solve, edit = archive.to_bytes(self.solve), archive.to_bytes(self.edit)
            hashes = [hashlib.sha256(content).hexdigest() for content in (solve, edit)]
            self.record = replace(self.record, solve_sha256=hashes[0], edit_sha256=hashes[1])
            try:
                takes.write_file(self.folder / EDIT_FILE, edit)
                takes.write_solve(self.folder, solve, hashes[0])
            except OSError as error:
                raise takes.cannot_write(self.folder, error) from error
            self.solve = self.edit = None
        if self.first_frame is not None:
            self._keep_first_frame(self.first_frame)
            self.first_frame = None
        self.write_record()

    def _keep_first_frame(self, path: Path) -> None:
        """Copy the edited first frame beside the take, as it is: the file may be painted over for the next one."""
        try:
            content = path.read_bytes()
        except OSError as error:
            what = f"cannot be read ({error.strerror})."
            raise BadFile(what, str(path), "Choose the picture of the first frame again.") from error
        try:
            takes.write_file(self.folder / FIRST_FRAME_FILE, content)
        except OSError as error:
            raise takes.cannot_write(self.folder, error) from error
        self.record = replace(self.record, first_frame_sha256=hashlib.sha256(content).hexdigest())

    def _send_inputs(self, client: Client) -> JobSpec:
        footage = Path(self.record.footage)
        self.say(Progress(self.folder, "reading the footage", 0, 0))
        spec = JobSpec(
            footage_sha256=client.ensure_asset(footage, self._moved("sending the footage")),
            footage_name=footage.name,
            solve_sha256=client.ensure_asset(self.folder / SOLVE_FILE, self._moved("sending the solve")),
            edit_sha256=client.ensure_asset(self.folder / EDIT_FILE, self._moved("sending the edit")),
            settings=self.record.settings,
            first_frame_sha256=self._send_first_frame(client),
        )
        self.stop_if_asked(self.folder)
        return spec

    def _send_first_frame(self, client: Client) -> str:
        if not self.record.first_frame_sha256:
            return ""
        return client.ensure_asset(self.folder / FIRST_FRAME_FILE, self._moved("sending the first frame"))

    def _moved(self, stage: str) -> Callable[[int, int], None]:
        def tell(done: int, total: int) -> None:
            self.stop_if_asked(self.folder)
            self.say(Progress(self.folder, stage, done, total))

        return tell

    def _fetch(self, client: Client, data: dict[str, Any]) -> None:
        kind, sha256 = data["kind"], data["sha256"]
        try:
            if kind == "take":
                self.description = client.fetch_bytes(sha256)
                return
            index = int(data["index"])
            if not self.record.start <= index < self.record.stop:
                raise RetakeError(f"frame {index} came, which was not asked for.", "", "Update the backend.")
            target = self.folder / (frame_name(index) if kind == "rgb" else holes_name(index))
            if not _same_file(target, sha256):
                client.fetch(sha256, target)
        except Refused as refused:
            if refused.reason != "no_asset":
                raise
            remedy = "Render the take again; the same seed gives the same frames."
            raise RetakeError("the backend no longer keeps this take's frames.", "", remedy) from refused
        if kind == "rgb":
            picture = None
            if time.monotonic() >= self.next_picture:
                picture = read_thumbnail(target)
                self.next_picture = time.monotonic() + PICTURES
            self.say(FrameArrived(self.folder, index, picture))

    def _complete(self) -> None:
        """Write `take.json`, which says that the take is complete, once it is."""
        Take.from_json(takes.json_object(self.description, TAKE_FILE))
        missing = set(range(self.record.start, self.record.stop)) - takes.frame_files(self.folder).keys()
        if missing:
            what = f"{len(missing)} frames are missing, the first is {min(missing)}."
            raise RetakeError(what, str(self.folder), "Continue the take.")
        try:
            takes.write_file(self.folder / TAKE_FILE, self.description)
        except OSError as error:
            raise takes.cannot_write(self.folder, error) from error


def _same_file(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror}).", str(path), "Check the folder.") from error
