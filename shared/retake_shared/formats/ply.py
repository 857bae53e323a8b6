"""Points of a PLY file of unknown origin: text or binary, with numpy alone. Colours and faces are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import geometry
from ..errors import BadFile
from .npz import DAMAGED, reading

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_MAX_BYTES = 4 << 30
_HEADER_BYTES = 65536


def read_points(path: Path) -> geometry.Array:
    """The vertices (N, 3) of a PLY file. Raises BadFile when there are none, or the file is damaged."""
    where = str(path)
    with reading(where), path.open("rb") as stream:
        if path.stat().st_size > _MAX_BYTES:
            raise BadFile(f"takes more than {_MAX_BYTES >> 30} GiB.", where, "Thin the points out.")
        head = stream.read(_HEADER_BYTES)
        end = head.find(b"end_header")
        if not head.startswith(b"ply") or end < 0:
            raise BadFile("is no PLY file.", where, DAMAGED)
        order, count, fields = _header(head[:end].decode("ascii", "replace").splitlines(), where)
        stream.seek(head.index(b"\n", end) + 1)
        if order:
            row = np.dtype([(name, order + kind) for name, kind in fields])
            rows = np.frombuffer(stream.read(count * row.itemsize), row)
            points = np.stack([rows[axis].astype(np.float64) for axis in "xyz"], -1)
        else:
            names = [name for name, _ in fields]
            columns = [names.index(axis) for axis in "xyz"]
            lines = stream.read().split(b"\n")[:count]
            values = [line.split() for line in lines if len(line.split()) == len(names)]
            points = np.array([[float(words[column]) for column in columns] for words in values]).reshape(-1, 3)
        if len(points) != count:
            raise BadFile(f"claims {count} points and holds {len(points)}.", where, DAMAGED)
        return points


def _header(lines: list[str], where: str) -> tuple[str, int, list[tuple[str, str]]]:
    """Byte order ("" for text), number of vertices, their fields."""
    order, count, fields, element = None, 0, [], ""
    for words in (line.split() for line in lines):
        if words[:1] == ["format"]:
            order = _ORDERS.get(words[1])
        elif words[:1] == ["element"]:
            if words[1] != "vertex" and element != "vertex":
                raise BadFile("has other elements before its points.", where, "Save the points alone.")
            element = words[1]
            count = int(words[2]) if element == "vertex" else count
        elif words[:1] == ["property"] and element == "vertex":
            fields.append((words[-1], _TYPES[words[1]]))
    if order is None or not 0 < count < 2**31 or not {"x", "y", "z"} <= {name for name, _ in fields}:
        raise BadFile("holds no points with x, y and z.", where, DAMAGED)
    return order, count, fields
