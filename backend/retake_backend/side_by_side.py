"""Takes beside their footage, as one video: source | tracks before and after the edit | take; one row a take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.shot import Take, frame_name

from .footage import FootageReader, Picture, read_image, write_video
from .render_files import read_inputs, read_take

WIDEST = 1920
"""Width of the video in px at most; three pictures share it."""
TRACKS_DRAWN = 500
BEFORE = (150, 150, 150)
AFTER = ((120, 200, 255), (255, 170, 60), (120, 230, 110), (250, 110, 160), (200, 150, 255), (250, 240, 100))
"""Colours in sRGB: background first, then the objects in turn."""


@dataclass(frozen=True)
class Row:
    """One take, ready to draw. before, after: uv (T, N, 2) in [0, 1] of width and height, NaN where nothing is drawn.

    colors: (N,) index into AFTER.
    """

    folder: Path
    take: Take
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    colors: NDArray[np.int64]


def write(footage: Path, takes: list[Path], out: Path) -> int:
    """Write the comparison to `out` and return its number of frames. Raises RetakeError, OSError."""
    rows = [_read_row(folder) for folder in takes]
    start, stop = max(row.take.start for row in rows), min(row.take.stop for row in rows)
    if start >= stop:
        raise BadShot("the takes have no frame in common.", "compare", "Compare takes of overlapping frame ranges.")
    with FootageReader(footage) as reader:
        if stop > reader.footage.frames:
            raise BadShot(f"has only {reader.footage.frames} frames.", str(footage), "Give the takes' own footage.")
        width = min(reader.footage.width, WIDEST // 3) // 2 * 2
        height = max(2, round(width * reader.footage.height / reader.footage.width / 2) * 2)
        return write_video(out, _pictures(reader, rows, start, stop, (width, height)), reader.footage.fps)


def _read_row(folder: Path) -> Row:
    take = read_take(folder)
    solve, edit = read_inputs(folder, take)
    drawn = _drawn(edit.objects)
    source = edit.source_track[drawn]
    scale = np.array([solve.cameras.width, solve.cameras.height])

    before, depth = solve.cameras.project(solve.tracks.positions[:, source])
    before = np.where((solve.tracks.visibility[:, source] & (depth > 0))[..., None], before / scale, np.nan)

    shown = np.clip(np.rint(edit.source_frame[:, drawn]), 0, len(solve) - 1).astype(int)
    visible = solve.tracks.visibility[shown, source] & edit.present[:, drawn]
    after, depth = edit.cameras.project(edit.positions[:, drawn])
    after = np.where((visible & (depth > 0))[..., None], after / scale, np.nan)
    objects = edit.objects[drawn]
    return Row(folder, take, before, after, np.where(objects, (objects - 1) % (len(AFTER) - 1) + 1, 0))


def _drawn(objects: NDArray[np.int32]) -> NDArray[np.intp]:
    """Indices of the tracks to draw: as many of each object, spread over all of its tracks."""
    numbers = np.unique(objects)
    own = [np.flatnonzero(objects == number) for number in numbers]
    most = TRACKS_DRAWN // max(len(numbers), 1)
    chosen = [every[np.linspace(0, len(every) - 1, min(most, len(every))).astype(int)] for every in own]
    return np.concatenate(chosen) if chosen else np.zeros(0, np.intp)


def _pictures(
    reader: FootageReader, rows: list[Row], start: int, stop: int, size: tuple[int, int]
) -> Iterator[Picture]:
    for t in range(start, stop):
        source = cv2.resize(reader.frame(t), size, interpolation=cv2.INTER_AREA)
        panels = []
        for row in rows:
            picture = read_image(row.folder / frame_name(t), "Render the take again.")
            take = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            panels.append(np.hstack([source, draw_tracks(source, row, t), take]))
        yield np.vstack(panels).astype(np.uint8)


def draw_tracks(picture: NDArray[Any], row: Row, t: int) -> Picture:
    """Frame t's tracks over a darkened picture: grey where they were, coloured by object where they go."""
    canvas = (picture * 0.35).astype(np.uint8)
    scale = np.array(canvas.shape[1::-1])
    fine = 16  # cv2 draws at 1/16 px with shift=4; it puts pixel centres at whole numbers
    before, after = (np.clip((uv * scale - 0.5) * fine, -1e6, 1e6) for uv in (row.before[t], row.after[t]))
    for index in np.flatnonzero(np.isfinite(before[:, 0])):
        x, y = before[index].astype(int).tolist()
        if np.isfinite(after[index, 0]):
            cv2.line(canvas, (x, y), after[index].astype(int).tolist(), (90, 90, 90), 1, cv2.LINE_AA, shift=4)
        cv2.circle(canvas, (x, y), int(1.2 * fine), BEFORE, -1, cv2.LINE_AA, shift=4)
    for index in np.flatnonzero(np.isfinite(after[:, 0])):
        center = after[index].astype(int).tolist()
        cv2.circle(canvas, center, int(1.8 * fine), AFTER[row.colors[index]], -1, cv2.LINE_AA, shift=4)
    return canvas
