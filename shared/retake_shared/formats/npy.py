"""Opening a single .npy file of unknown origin: no pickle, no allocation before the claim has been checked."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFile
from .npz import DAMAGED, MAX_ARRAY_BYTES, fits, read_header, reading, spell

_MAGIC = b"\x93NUMPY"


def is_npy(path: Path) -> bool:
    """Whether the file begins as an .npy does."""
    with path.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def shape(path: Path) -> tuple[int, ...]:
    """The array's shape, by its header. Raises BadFile."""
    with reading(str(path)), path.open("rb") as stream:
        return read_header(stream).shape


def read(path: Path, *shapes: tuple[int | None, ...], kinds: str = "fiub") -> NDArray[Any]:
    """The array, checked like those of an `NpzFile`. Raises BadFile when it is of another kind, damaged, or pickled."""
    where = str(path)
    with reading(where), path.open("rb") as stream:
        header = read_header(stream)
        if header.dtype.hasobject:
            raise BadFile(
                "holds pickled Python objects, which could run code and are never opened.",
                where,
                "Save it as a plain numeric array.",
            )
        if header.dtype.kind not in kinds:
            raise BadFile(f"has type {header.dtype}.", where, "Expected numbers.")
        if shapes and not any(fits(header.shape, wanted) for wanted in shapes):
            raise BadFile(f"has shape {header.shape}.", where, f"Expected {' or '.join(map(spell, shapes))}.")
        size = prod(header.shape) * header.dtype.itemsize
        if size > MAX_ARRAY_BYTES:
            raise BadFile(
                f"claims {size / 2**30:.1f} GiB, more than the {MAX_ARRAY_BYTES >> 30} GiB that are accepted.",
                where,
                "Solve at a smaller size, or a shorter part.",
            )
        if size > path.stat().st_size:
            raise BadFile(f"claims {size} bytes, but the file holds fewer.", where, DAMAGED)
        flat = np.frombuffer(stream.read(size), header.dtype)  # raises when bytes are missing
        return flat.reshape(header.shape, order="F" if header.fortran_order else "C")
