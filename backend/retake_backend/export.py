"""`retake export`: a solve, an edit or a take as files of other programs.

The formats are `retake_shared.exports`; here they meet files: which cameras are meant, the footage's size and rate, and
the pictures that belong to them. A take has pictures of its own, an edit without a take has none, as nobody has seen
them yet.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from retake_shared import archive, edit_script, exports, fitting, formats, geometry
from retake_shared.errors import BadShot, RetakeError
from retake_shared.exports import Content, colmap
from retake_shared.formats.npz import reading
from retake_shared.shot import SOLVE_FILE, TAKE_FILE, Edit, Footage, Solve, frame_name

from . import convert
from .footage import FootageReader, Picture, read_image, write_png

DATASETS = ("colmap", "nerfstudio")
"""Formats that lie beside a folder of pictures."""

IMAGES = "images"


@dataclass(frozen=True)
class Asked:
    """What the command line asks for, beside what to write and where.

    footage: the video that was solved. solve: of an edit that does not lie beside its own. step: `fitting.bind`. hints:
    what the solve may not say.
    frames: (start, stop) of the footage. start, axes: `exports.Options`.
    """

    footage: Path | None = None
    solve: Path | None = None
    step: int | None = None
    hints: formats.Hints | None = None
    frames: tuple[int, int] | None = None
    start: int = 1
    axes: int = 0


@dataclass(frozen=True)
class _Source:
    """Content, its pictures by footage frame (None when there are none), the rate, and notes."""

    content: Content
    picture: Callable[[int], Picture] | None
    fps: Fraction
    notes: list[str]


def export(path: Path, kind: str, out: Path, asked: Asked, check: Callable[[], None]) -> tuple[Content, list[str]]:
    """Write what lies at `path` (a solve of any program, an edit, a take's folder) to `out`; content and notes.

    check is called between frames and may raise, to stop. Raises RetakeError.
    """
    beside = ((asked.solve, "is the solve."), (asked.footage, "is the footage."))
    files = [(given, what) for given, what in beside if given is not None and given.is_file()]  # folders may take more
    convert.spare(out, (path, "is what is to be exported."), *files)
    convert.check_step(asked.step, asked.footage)
    reader = None if asked.footage is None else FootageReader(asked.footage)
    try:
        source = _open(path, asked, reader)
        content = source.content if asked.frames is None else source.content.frames(*asked.frames)
        return content, source.notes + _write(source, content, kind, out, asked, check)
    finally:
        if reader is not None:
            reader.close()


def _open(path: Path, asked: Asked, reader: FootageReader | None) -> _Source:
    if (path / TAKE_FILE).is_file():
        return _take(path)
    footage = None if reader is None else reader.footage
    fps = Fraction(24) if footage is None else footage.fps
    name = path.stem if asked.footage is None else asked.footage.stem
    edit, notes = _edit(path, asked, footage)
    if edit is not None:
        if reader is not None:
            notes.append("The footage shows the source cameras: no pictures are written for those of an edit.")
        return _Source(replace(edit, name=name), None, fps, notes)
    solve, notes = _solve(path, footage, asked)
    picture = None if reader is None else reader.frame
    return _Source(exports.of_solve(solve, name), picture, fps, notes)


def _solve(path: Path, footage: Footage | None, asked: Asked) -> tuple[Solve, list[str]]:
    """The solve at `path`, brought to the footage when there is one, and notes."""
    content, notes = convert.read(path, footage, asked.hints or formats.Hints())
    if not isinstance(content, Solve):
        raise RetakeError(
            "holds tracks in 2D; the cameras are missing.", str(path), "Combine it with a solve: retake convert --with."
        )
    if footage is not None:
        content, fitted = fitting.bind(footage, content, asked.step)
        notes += fitted
    return content, notes


def _edit(path: Path, asked: Asked, footage: Footage | None) -> tuple[Content | None, list[str]]:
    """The target of the edit at `path`, None when it is no edit, and notes."""
    beside = path.with_name(SOLVE_FILE)
    solve_path = asked.solve or (beside if beside.is_file() and beside != path else None)
    if _is_script(path):
        if solve_path is None:
            raise RetakeError("is an edit script, which moves a solve.", str(path), "Give its solve: --solve S.")
        solve, notes = _solve(solve_path, footage, asked)
        return exports.of_edit(edit_script.load(path, solve)[0], solve), notes
    edit = _archived_edit(path)
    if edit is None:
        return None, []
    if solve_path is None:
        return exports.of_edit(edit), [
            "Without its solve, a track counts as visible wherever the edit has it: --solve."
        ]
    solve, notes = _solve(solve_path, footage, asked)
    try:
        return exports.of_edit(edit, solve), notes
    except BadShot as error:
        if asked.solve is not None:
            raise
        return exports.of_edit(edit), [f"The solve beside it is of another shot and was left alone ({error})."]


def _is_script(path: Path) -> bool:
    """Whether a file is an edit script: JSON with `retake_edit`."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as stream:
        return b'"retake_edit"' in stream.read(edit_script.MAX_BYTES)


def _archived_edit(path: Path) -> Edit | None:
    """The edit in an archive of ours, None when `path` is anything else."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with reading(str(path)), zipfile.ZipFile(path) as members:
        ours = {"header.npy", "source_track.npy"} <= set(members.namelist())
    return archive.load_edit(path) if ours else None


def _take(folder: Path) -> _Source:
    """What a take shows, over its own frames and at its own size, with its own pictures."""
    from . import render_files

    take = render_files.read_take(folder)
    solve, edit = render_files.read_inputs(folder, take)
    content = exports.of_edit(edit, solve, folder.resolve().name).frames(take.start, take.stop)
    content = replace(content, cameras=content.cameras.resized(take.width, take.height))
    return _Source(content, lambda index: read_image(folder / frame_name(index)), take.fps, [])


def _write(
    source: _Source, content: Content, kind: str, out: Path, asked: Asked, check: Callable[[], None]
) -> list[str]:
    options = exports.Options(start=asked.start, fps=source.fps, axes=asked.axes)
    show = source.picture
    if show is None:
        notes = exports.write(kind, out, content, options)
        if kind in DATASETS:
            notes.append(f"Pictures are named {frame_name(content.first)} and on; none were written.")
        return notes

    def pictures() -> Iterator[Picture]:
        for frame in range(content.first, content.first + len(content)):
            check()
            yield show(frame)

    if kind == "npz":
        return exports.write(kind, out, content, replace(options, pictures=pictures))
    if kind not in DATASETS:
        return exports.write(kind, out, content, options)
    place = out / "sparse" / "0" if kind == "colmap" else out
    if kind == "colmap":
        colmap.check_free(place)  # before any picture lies there
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    colours = _Colours(content)
    for row, picture in enumerate(pictures()):
        write_png(out / IMAGES / frame_name(content.first + row), picture)
        colours.look(row, picture)
    notes = exports.write(kind, place, content, replace(options, images=IMAGES, colours=colours.rgb))
    return [*notes, f"{len(content)} pictures were written to {IMAGES}, and the model to {place}."]


class _Colours:
    """The colour of each track, in the first picture that shows it; grey for those never seen. rgb: (N, 3) uint8."""

    def __init__(self, content: Content) -> None:
        cameras = content.cameras
        self._uv, depth = cameras.project(content.tracks.positions)
        seen = content.tracks.visibility & geometry.inside_image(self._uv, depth, cameras.width, cameras.height)
        self._first = np.where(seen.any(0), seen.argmax(0), -1)
        self.rgb: NDArray[np.uint8] = np.full((len(content.tracks), 3), 128, np.uint8)

    def look(self, row: int, picture: Picture) -> None:
        """Take the colours of the tracks that are first seen in frame `row`."""
        rows = np.flatnonzero(self._first == row)
        at = self._uv[row, rows].astype(np.int64)
        self.rgb[rows] = picture[at[:, 1], at[:, 0]]
