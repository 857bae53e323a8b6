"""Takes on disk: one folder each, with all that is needed to show it, restore its edit and render it again.

    shot_takes/                 beside shot.blend
        take_001/
            job.json            who asked for what; written first, so that no frame is ever without a name
            solve.npz edit.npz  exactly what the engine got (a solve that takes share is one file with many links)
            first_frame.png     the edited first frame, where the take is made from one
            frame_00000.png     the frames that have come so far, numbered as in the footage; holes_00000.png beside
            take.json           the result's description; there when, and only when, the take is complete

No bpy here: the link's thread writes these files, Blender's main thread reads the small ones.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from retake_shared.errors import BadFile, RetakeError
from retake_shared.shot import SOLVE_FILE, TAKE_FILE, RenderSettings, Take

JOB_FILE = "job.json"

STATES = ("rendering", "done", "failed", "cancelled")
"""What a take can be: frames may still come; complete; or ended without being complete."""

_FRAME = re.compile(r"frame_(\d{5,})\.png")
_NUMBERED = re.compile(r"take_(\d+)")
_AGAIN = "Render the take again."


@dataclass(frozen=True)
class JobRecord:
    """The content of `job.json`.

    job: the id under which the backend knows it, made here, so that a lost reply loses nothing. shot: name of the
    shot's root. footage: path of the video. start, stop: the footage frames asked for. *_sha256: the exact inputs, ""
    until they are written; first_frame_sha256 is "" also for a take without an edited first frame. error, remedy: why it failed.
    """

    shot: str
    footage: str
    settings: RenderSettings
    start: int
    stop: int
    job: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = "rendering"
    solve_sha256: str = ""
    edit_sha256: str = ""
    first_frame_sha256: str = ""
    error: str = ""
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"retake_job": 1, **asdict(self), "settings": self.settings.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str) -> JobRecord:
        """Read what `to_json` wrote. Raises BadFile naming `where`."""
        words = ("shot", "footage", "job", "state", "solve_sha256", "edit_sha256", "error", "remedy")
        try:
            if data["state"] not in STATES or not re.fullmatch("[0-9a-f]{32}", data["job"]):
                raise ValueError("state or job id is none")
            return cls(
                settings=RenderSettings.from_json(data["settings"]),
                start=int(data["start"]),
                stop=int(data["stop"]),
                first_frame_sha256=str(data.get("first_frame_sha256", "")),  # job files of before have none
                **{name: str(data[name]) for name in words},
            )
        except (KeyError, TypeError, ValueError, RetakeError) as error:
            raise BadFile(f"is not a take's job ({error!r:.120}).", where, _AGAIN) from error


@dataclass(frozen=True)
class TakeOnDisk:
    """A take folder as it was when `look` read it. frames: file names by footage frame, in order."""

    folder: Path
    record: JobRecord
    take: Take | None
    frames: dict[int, str]


def takes_folder(blend: str, unsaved: Path) -> Path:
    """The folder of all takes of a .blend, beside it; `unsaved` for a .blend that has no file yet."""
    return Path(blend).with_name(f"{Path(blend).stem}_takes") if blend else unsaved


def create(parent: Path, record: JobRecord) -> Path:
    """A new, numbered take folder in `parent`, holding `job.json`. Raises RetakeError when it cannot be written."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(m[1]) for p in parent.iterdir() if (m := _NUMBERED.fullmatch(p.name))), default=0)
        while True:
            folder = parent / f"take_{number:03d}"
            try:
                folder.mkdir()
                break
            except FileExistsError:  # another Blender was quicker
                number += 1
        write_record(folder, record)
    except OSError as error:
        raise cannot_write(parent, error) from error
    return folder


def claim(folder: Path, record: JobRecord) -> None:
    """Make `folder`, which the user named, a take folder. Raises RetakeError when it holds a take already."""
    if (folder / TAKE_FILE).exists() or (folder / JOB_FILE).exists():
        raise RetakeError("holds a take already.", str(folder), "Choose another folder, or delete this one.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, record)
    except OSError as error:
        raise cannot_write(folder, error) from error


def cannot_write(place: Path, error: OSError) -> RetakeError:
    """What to tell when a take's files cannot be written."""
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    remedy = "Free some space, then continue the take." if full else "Save the .blend where you may write."
    return RetakeError(f"cannot be written ({error.strerror or error}).", str(place), remedy)


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or nothing. Raises OSError."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_record(folder: Path, record: JobRecord) -> None:
    """Write `job.json`. Raises OSError."""
    write_file(folder / JOB_FILE, json.dumps(record.to_json(), indent=1).encode())


def write_solve(folder: Path, content: bytes, sha256: str) -> None:
    """Write `solve.npz`, or link it to the newest other take's if that is the same. Raises OSError."""
    target = folder / SOLVE_FILE
    for other in reversed(scan(folder.parent)):
        if other == folder:
            continue
        try:
            if read_record(other).solve_sha256 == sha256 and (other / SOLVE_FILE).stat().st_size == len(content):
                os.link(other / SOLVE_FILE, target)
                return
        except (BadFile, OSError):  # no links on this disk, or no such file: write our own
            pass
        break
    write_file(target, content)


def read_record(folder: Path) -> JobRecord:
    """The job of a take folder. Raises BadFile."""
    path = folder / JOB_FILE
    return JobRecord.from_json(_read_json(path), str(path))


def read_take(folder: Path) -> Take | None:
    """The description of a complete take, None while it is not complete. Raises RetakeError when it is broken."""
    path = folder / TAKE_FILE
    return Take.from_json(_read_json(path), str(path)) if path.exists() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json_object(path.read_bytes(), str(path))
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror}).", str(path), _AGAIN) from error


def json_object(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `content`. Raises BadFile naming `where`."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"is not JSON ({error!s:.120}).", where, _AGAIN) from error
    if not isinstance(data, dict):
        raise BadFile("is not a JSON object.", where, _AGAIN)
    return data


def frame_files(folder: Path) -> dict[int, str]:
    """File names of the frames in `folder` by footage frame, in order."""
    try:
        found = {int(m[1]): m[0] for entry in os.scandir(folder) if (m := _FRAME.fullmatch(entry.name))}
    except OSError:
        return {}
    return dict(sorted(found.items()))


def look(folder: Path) -> TakeOnDisk:
    """Read a take folder. A complete take is done whatever its job says. Raises RetakeError."""
    record, take = read_record(folder), read_take(folder)
    if take is not None:
        record = replace(record, state="done", error="", remedy="")
    return TakeOnDisk(folder, record, take, frame_files(folder))


def scan(parent: Path) -> list[Path]:
    """The take folders in `parent`, lowest number first."""
    if not parent.is_dir():
        return []
    numbered = [(int(m[1]), p) for p in parent.iterdir() if (m := _NUMBERED.fullmatch(p.name))]
    return [p for _, p in sorted(numbered) if (p / JOB_FILE).is_file()]


def delete(folder: Path) -> None:
    """Delete a take folder for good. It loses its name first: an interrupted deletion leaves no half take.

    Raises RetakeError when the system refuses.
    """
    doomed = folder.with_name(f".deleted_{folder.name}_{uuid.uuid4().hex[:8]}")
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RetakeError(f"cannot be deleted ({error.strerror}).", str(folder), "Close what uses it.") from error
    shutil.rmtree(doomed, ignore_errors=True)
