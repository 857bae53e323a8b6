"""Opening text and JSON files of unknown origin: sizes checked first, numbers checked, lines named in errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .. import geometry
from ..errors import BadFile
from .npz import DAMAGED, reading

MAX_BYTES = 256 << 20
MAX_ROWS = 200_000
"""Poses of nearly two hours at 30 frames a second."""

_HEAD = 4096


def head(path: Path) -> str:
    """The file's beginning as text, "" when it is binary or empty. A character cut in two at its end is left out."""
    with path.open("rb") as stream:
        data = stream.read(_HEAD)
    if b"\0" in data:
        return ""
    text = data.decode("utf-8-sig", errors="replace")
    return "" if "\ufffd" in text[:-4] else text


def first_rows(path: Path, count: int = 3) -> list[list[float]]:
    """The numbers of the first lines that are neither empty nor comments; [] when one of them is not all numbers."""
    rows = []
    lines = head(path).splitlines()
    for line in lines[: -1 if len(lines) > 1 and path.stat().st_size > _HEAD else None]:
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            return []
        if len(rows) == count:
            break
    return rows


def text(path: Path) -> str:
    """The whole file. Raises BadFile when it is no UTF-8, or larger than any solve."""
    with reading(str(path)):
        if path.stat().st_size > MAX_BYTES:
            raise BadFile(f"takes more than {MAX_BYTES >> 20} MiB.", str(path), "Give the camera file itself.")
        try:
            return path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadFile("is not a text file (UTF-8).", str(path), DAMAGED) from error


def table(path: Path, columns: tuple[int, ...], skip: int = 0) -> geometry.Array:
    """Rows of numbers (S, C), C one of `columns`, between spaces or commas; empty lines and # comments are left out.

    skip: lines before the first. Raises BadFile naming the line at fault.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(text(path).splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words or number <= skip:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) not in columns or (rows and len(row) != len(rows[0])):
            expected = " or ".join(map(str, columns))
            raise BadFile(f"is not {expected} numbers: {line[:60]!r}.", f"{path}: line {number}", DAMAGED)
        rows.append(row)
        if len(rows) > MAX_ROWS:
            raise BadFile(f"has more than {MAX_ROWS} poses.", str(path), "Cut it to the footage's part.")
    if not rows:
        raise BadFile("holds no pose.", str(path), DAMAGED)
    return np.array(rows, np.float64)


def load_json(path: Path) -> Any:
    """The file's JSON. Raises BadFile."""
    try:
        return json.loads(text(path))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"is not JSON ({error!s:.80}).", str(path), DAMAGED) from error
