"""A job from files and a take into a folder: what `retake render` does around `render.render_take`."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retake_shared import archive, edit_script, fitting, formats
from retake_shared.engine_options import describe
from retake_shared.errors import BadFile, BadShot, RetakeError
from retake_shared.shot import (
    EDIT_FILE,
    FIRST_FRAME_FILE,
    SOLVE_FILE,
    TAKE_FILE,
    Edit,
    RenderSettings,
    Solve,
    Take,
    frame_name,
    holes_name,
)

from .engines.base import RenderRequest
from .footage import FootageReader, Picture, encode_png, read_image, sha256, write_png
from .progress_line import ProgressLine
from .render import InputHashes, render_take

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Job:
    """A request whose inputs are at hand as bytes too, as they go beside the frames.

    solve, edit: archives. first_frame: a PNG, or nothing.
    """

    request: RenderRequest
    hashes: InputHashes
    solve: bytes
    edit: bytes
    first_frame: bytes = b""


def open_job(
    footage: Path,
    solve: Path,
    edit: Path,
    changes: dict[str, Any],
    step: int | None = None,
    first_frame: Path | None = None,
    hints: formats.Hints | None = None,
) -> Job:
    """The job that files describe. changes: RenderSettings fields that win over the edit's own; step: `fitting.bind`.

    first_frame: an image file, an edited picture of the first frame asked for. hints: what the solve may not say.

    Raises RetakeError naming the file at fault; tells on stderr what was adapted on the way in.
    """
    reader = FootageReader(footage)
    try:
        found, read_notes = formats.read(solve, reader.footage, hints)
        bound, fit_notes = fitting.bind(reader.footage, found, step)
        for note in (*reader.notes, *read_notes, *fit_notes):
            print(f"retake: {note}", file=sys.stderr)
        target, settings = edit_script.load(edit, bound)
        return _job(reader, bound, target, settings.changed(changes), first_frame)
    except BaseException:
        reader.close()
        raise


def open_take(folder: Path, footage: Path, changes: dict[str, Any], first_frame: Path | None = None) -> Job:
    """The job that made the take in `folder`, from what lies beside its frames. Raises RetakeError.

    first_frame: an image file in the place of the take's own edited first frame.
    """
    take = read_take(folder)
    found, written = sha256(footage), take.footage_sha256
    if found != written:
        raise BadShot(
            f"is not the footage of this take (sha256 {found[:12]}..., wanted {written[:12]}...).",
            str(footage),
            "Give the very file that the take was made from.",
        )
    solve, edit = read_inputs(folder, take)
    settings = take.settings.changed(changes)
    if first_frame is None and take.first_frame_sha256 and _uses_first_frame(settings):
        first_frame = folder / FIRST_FRAME_FILE
        _check_own(first_frame, take.first_frame_sha256)
    reader = FootageReader(footage)
    try:
        return _job(reader, solve, edit, settings, first_frame)
    except BaseException:
        reader.close()
        raise


def read_inputs(folder: Path, take: Take) -> tuple[Solve, Edit]:
    """The solve and the edit beside a take's frames. Raises BadFile when they are missing or not the take's own."""
    for name, written in ((SOLVE_FILE, take.solve_sha256), (EDIT_FILE, take.edit_sha256)):
        _check_own(folder / name, written)
    return archive.load_solve(folder / SOLVE_FILE), archive.load_edit(folder / EDIT_FILE)


def _check_own(path: Path, written: str) -> None:
    """Raise BadFile unless the file has the hash that is written of it."""
    if not path.is_file():
        raise BadFile("is missing.", str(path), "Without it the take cannot be rendered again.")
    if sha256(path) != written:
        raise BadFile("is not what this take was made from.", str(path), "Render the take again from its shot.")


def read_take(folder: Path) -> Take:
    """What `folder/take.json` says. Raises BadFile when it is no take, BadShot when it says nonsense."""
    path = folder / TAKE_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadFile(
            "is not a take: it holds no take.json.", str(folder), "Name a folder that Retake wrote."
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadFile(f"is not JSON ({error!r:.80}).", str(path), "Render the take again.") from None
    return Take.from_json(data, str(path))


def read_first_frame(path: Path) -> tuple[bytes, Picture]:
    """An edited first frame: the PNG to keep of it, the file's own bytes where it is one, and its picture.

    Raises BadFile when the file is no image.
    """
    picture = read_image(path, "Choose a picture of the first frame, for example a PNG.")
    own = path.read_bytes()
    return (own if own.startswith(_PNG) else encode_png(picture)), picture


def _uses_first_frame(settings: RenderSettings) -> bool:
    """Whether the engine makes its take from an edited first frame; of one that is not Retake's own nobody knows."""
    engine = describe(settings.engine)
    return engine is None or engine.checked(settings.options).get("use") == "first-frame"


def _job(
    reader: FootageReader, solve: Solve, edit: Edit, settings: RenderSettings, first_frame: Path | None = None
) -> Job:
    kept, picture = (b"", None) if first_frame is None else read_first_frame(first_frame)
    if picture is not None and not _uses_first_frame(settings):
        raise BadShot(
            "the engine would not look at it.",
            "--first-frame",
            "Add --engine trajectory-attention --option use=first-frame, or leave it out.",
        )
    solve_bytes, edit_bytes = archive.to_bytes(solve), archive.to_bytes(edit)
    hashes = InputHashes(
        footage=sha256(reader.path),
        solve=hashlib.sha256(solve_bytes).hexdigest(),
        edit=hashlib.sha256(edit_bytes).hexdigest(),
        first_frame=hashlib.sha256(kept).hexdigest() if kept else "",
    )
    return Job(RenderRequest(reader, solve, edit, settings, picture), hashes, solve_bytes, edit_bytes, kept)


def write_take(job: Job, out: Path, check: Callable[[], None]) -> Take:
    """Render into `out`: whole, or not at all. A take already there is replaced once the new one is complete.

    check: called often, raises Cancelled when the work is to stop. Frames gather in a hidden folder beside `out`.
    Raises RetakeError when `out` holds something else, and what check and the engine raise.
    """
    out = out.absolute()
    _check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".part", dir=out.parent))
    except OSError as error:
        remedy = "Choose another place with --out."
        raise RetakeError(f"cannot be written ({error.strerror}).", str(out), remedy) from None
    try:
        new = part / "new"
        new.mkdir()
        take = _render_into(new, job, check)
        (new / SOLVE_FILE).write_bytes(job.solve)
        (new / EDIT_FILE).write_bytes(job.edit)
        if job.first_frame:
            (new / FIRST_FRAME_FILE).write_bytes(job.first_frame)
        (new / TAKE_FILE).write_text(json.dumps(take.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
        check()
        _check_free(out)
        _replace(out, new, part / "old")
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for note in take.notes:
        print(f"retake: {note}", file=sys.stderr)
    return take


def _replace(out: Path, new: Path, old: Path) -> None:
    """Put `new` in the place of `out`, which goes to `old`; whatever happens, `out` is one of the two."""
    try:
        if out.exists():
            out.rename(old)
        new.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise


def _check_free(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / TAKE_FILE).is_file()):
        raise RetakeError("is in use and is not a take.", str(out), "Choose another folder with --out.")


def _render_into(folder: Path, job: Job, check: Callable[[], None]) -> Take:
    with ProgressLine(check) as line:
        for result in render_take(job.request, job.hashes, line):
            if isinstance(result, Take):
                return result
            write_png(folder / frame_name(result.index), result.rgb)
            write_png(folder / holes_name(result.index), result.holes)
    raise RuntimeError("the engine ended without a take")
