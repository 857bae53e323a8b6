"""Opening .npz files of unknown origin: no pickle, no allocation before the claim has been checked."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFile, RetakeError

MAX_ARRAY_BYTES = 4 << 30
"""One array of a solve: 2,000 depth maps of 720 x 720 px. More than that is not a solve that Blender could hold."""

DAMAGED = "Copy or export the file again: it is damaged or incomplete."


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn whatever broken bytes make zipfile, zlib, struct and numpy raise into a BadFile that names `where`."""
    try:
        yield
    except RetakeError:
        raise
    except FileNotFoundError as error:
        raise BadFile("does not exist.", where, "Check the path.") from error
    except PermissionError as error:
        raise BadFile("may not be read.", where, "Check the file's permissions.") from error
    except Exception as error:  # a dozen kinds, none of them documented by the libraries that raise them
        raise BadFile(f"cannot be read ({type(error).__name__}: {error!s:.120}).", where, DAMAGED) from error


@dataclass(frozen=True)
class Header:
    """What an array claims to be, before any of it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool


class NpzFile:
    """The arrays of one .npz. Use as a context manager; only headers are read until `read` asks for an array.

    path: the file. content: where its bytes are when they lie inside another file. headers: key -> Header. Raises
    BadFile when the file is no .npz, or an array is damaged.
    """

    def __init__(self, path: Path, content: IO[bytes] | None = None) -> None:
        self.path = path
        self.headers: dict[str, Header] = {}
        with reading(str(path)):
            source = path if content is None else content
            if not zipfile.is_zipfile(source):
                raise BadFile("is not an .npz file, or its end is missing.", str(path), DAMAGED)
            self._zip = zipfile.ZipFile(source)
        try:
            for info in self._zip.infolist():
                if info.filename.endswith(".npy"):
                    key = info.filename.removesuffix(".npy")
                    with reading(f"{path}: {key}"), self._zip.open(info) as stream:
                        self.headers[key] = read_header(stream)
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def __contains__(self, key: str) -> bool:
        return key in self.headers

    def shape(self, key: str) -> tuple[int, ...]:
        """The array's shape, read from its header; () when the file has no such array."""
        return self.headers[key].shape if key in self.headers else ()

    def describe(self) -> str:
        """The keys with their shapes, for an error message."""
        shown = [f"{key} {'x'.join(map(str, h.shape)) or 'scalar'}" for key, h in list(self.headers.items())[:12]]
        return ", ".join(shown) + (", ..." if len(self.headers) > 12 else "") if shown else "no arrays"

    def read(self, key: str, *shapes: tuple[int | None, ...], kinds: str = "fiub") -> NDArray[Any]:
        """The array `key`, checked against the allowed shapes (None = any length; no shapes = any shape).

        kinds: allowed dtype kinds. Raises BadFile when it is missing, of another shape or type, damaged, or pickled.
        """
        where = f"{self.path}: {key}"
        if key not in self.headers:
            raise BadFile("is missing.", where, f"The file holds: {self.describe()}.")
        header = self.headers[key]
        if header.dtype.hasobject:
            raise BadFile(
                "holds pickled Python objects, which could run code and are never opened.",
                where,
                "Save it as a plain numeric array.",
            )
        if header.dtype.kind not in kinds:
            raise BadFile(f"has type {header.dtype}.", where, "Expected numbers." if "f" in kinds else "")
        if shapes and not any(fits(header.shape, shape) for shape in shapes):
            expected = " or ".join(spell(shape) for shape in shapes)
            raise BadFile(f"has shape {header.shape}.", where, f"Expected {expected}.")
        size = prod(header.shape) * header.dtype.itemsize
        if size > MAX_ARRAY_BYTES:
            raise BadFile(
                f"claims {size / 2**30:.1f} GiB, more than the {MAX_ARRAY_BYTES >> 30} GiB that are accepted.",
                where,
                "Solve at a smaller size, or a shorter part.",
            )
        with reading(where):
            if size > self._zip.getinfo(key + ".npy").file_size:
                raise BadFile(f"claims {size} bytes, but the file holds fewer.", where, DAMAGED)
            with self._zip.open(key + ".npy") as stream:
                read_header(stream)
                data = stream.read(size)
                stream.read(1)  # reaching the end makes zipfile compare the checksum
            flat = np.frombuffer(data, header.dtype)  # raises when bytes are missing
            return flat.reshape(header.shape, order="F" if header.fortran_order else "C")

    def text(self, key: str) -> str | list[str]:
        """A string scalar, or the list of strings of a string array."""
        value = self.read(key, kinds="U")
        return str(value[()]) if value.ndim == 0 else [str(v) for v in value.reshape(-1)]


def read_header(stream: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"array format version {version}")
    if any(length < 0 for length in shape):
        raise ValueError(f"shape {shape}")
    return Header(tuple(int(n) for n in shape), dtype, bool(fortran))


def fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w is None or w == s for s, w in zip(shape, wanted, strict=True))


def spell(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
