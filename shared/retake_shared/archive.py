"""A solve or an edit <-> one file.

The file is a plain .npz: a zip of .npy members, uncompressed, without pickle, readable with `np.load`. The first
member, `header`, is UTF-8 JSON held in a uint8 array: `{"retake": "solve" | "edit", "version": 1, ...}` with the
fields that are no arrays (width and height of the cameras, object names, source). The others are the arrays of
`shot.Solve` and `shot.Edit` under their own names, in a fixed order and with fixed time stamps, so that the same
content gives the same bytes on every machine and its sha256 names it.

Files come from anywhere. Reading one trusts nothing: sizes are checked before memory is taken, every member's type
and rank must be the expected one, and whatever is wrong is a `BadFile` or `BadShot` with file, field and remedy.
"""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadFile, BadShot, RetakeError
from .shot import Cameras, Edit, Solve, Tracks

VERSION = 1
MAX_BYTES = 4 << 30
"""The most that the arrays of one file may take, together."""

_HEADER = "header"
_MAX_HEADER_BYTES = 1 << 20
_CHUNK = 16 << 20
_CAMERAS = {"c2w": ("<f8", 3), "K": ("<f8", 3)}
_LAYOUT: dict[str, dict[str, tuple[str, int]]] = {
    "solve": {
        **_CAMERAS,
        "positions": ("<f8", 3),
        "visibility": ("|b1", 2),
        "confidence": ("<f4", 2),
        "objects": ("<i4", 1),
        "ids": ("<i8", 1),
        "depth": ("<f4", 3),
        "masks": ("|u1", 3),
    },
    "edit": {
        **_CAMERAS,
        "positions": ("<f8", 3),
        "present": ("|b1", 2),
        "source_track": ("<i4", 1),
        "source_frame": ("<f4", 2),
        "objects": ("<i4", 1),
    },
}
_OPTIONAL = {"depth", "masks"}
_DAMAGED = "Copy or save the file again; it is damaged."
_NOT_OURS = "Use a file that Retake saved, or import the solver's own file."


def to_bytes(content: Solve | Edit, *, compress: bool = False) -> bytes:
    """The file's bytes: same content, same bytes, unless compressed (see `save`). Raises BadShot when the arrays exceed
    MAX_BYTES."""
    stream = io.BytesIO()
    _write(stream, content, zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)
    return stream.getvalue()


def from_bytes(data: bytes | bytearray | memoryview, where: str = "archive") -> Solve | Edit:
    """What `to_bytes` wrote. `where` names the bytes in errors. Raises BadFile or BadShot."""
    return _read(io.BytesIO(data), where)


def save(path: str | os.PathLike[str], content: Solve | Edit, *, compress: bool = False) -> None:
    """Write content to `path`, whole or not at all: a file that was there stays until the new one is complete.

    compress makes the file smaller and slower to write; its bytes then depend on this Python's zlib, so that only
    `to_bytes` gives the content's identity. Raises RetakeError when the place cannot be written.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with open(part, "xb") as stream:
                _write(stream, content, zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RetakeError(f"cannot be written: {error.strerror or error}.", str(path), _remedy(error)) from error


def load(path: str | os.PathLike[str]) -> Solve | Edit:
    """The solve or edit in the file at `path`. Raises BadFile or BadShot."""
    try:
        with open(path, "rb") as stream:
            return _read(stream, str(path))
    except OSError as error:
        raise BadFile(
            f"cannot be opened: {error.strerror or error}.", str(path), "Check the path and that you may read it."
        ) from error


def load_solve(path: str | os.PathLike[str]) -> Solve:
    """The solve in the file at `path`. Raises BadFile (also when it holds an edit) or BadShot."""
    content = load(path)
    if not isinstance(content, Solve):
        raise BadFile("holds an edit, not a solve.", str(path), "Give the solve's file here.")
    return content


def load_edit(path: str | os.PathLike[str]) -> Edit:
    """The edit in the file at `path`. Raises BadFile (also when it holds a solve) or BadShot."""
    content = load(path)
    if not isinstance(content, Edit):
        raise BadFile("holds a solve, not an edit.", str(path), "Give the edit's file here.")
    return content


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return "Free some space on that disk, or save elsewhere."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "Make the folder first, or save elsewhere."
    return "Save into a folder that you may write to."


# ---------------------------------------------------------------------------------------------------- writing


def _fields(content: Solve | Edit) -> tuple[str, dict[str, Any]]:
    """Kind and fields of the content, arrays and plain values alike, None where a solve has none."""
    shared = {
        "width": content.cameras.width,
        "height": content.cameras.height,
        "object_names": {str(number): name for number, name in sorted(content.object_names.items())},
        "c2w": content.cameras.c2w,
        "K": content.cameras.K,
    }
    if isinstance(content, Edit):
        own = {name: getattr(content, name) for name in _LAYOUT["edit"] if name not in _CAMERAS}
        return "edit", {**shared, **own}
    tracks = {name: getattr(content.tracks, name) for name in ("positions", "visibility", "confidence")}
    tracks |= {"objects": content.tracks.objects, "ids": content.tracks.ids}
    return "solve", {**shared, **tracks, "source": content.source, "depth": content.depth, "masks": content.masks}


def _write(stream: IO[bytes], content: Solve | Edit, compression: int) -> None:
    kind, fields = _fields(content)
    arrays = {
        name: np.ascontiguousarray(fields[name], dtype)
        for name, (dtype, _) in _LAYOUT[kind].items()
        if fields[name] is not None
    }
    size = sum(array.nbytes for array in arrays.values())
    if size > MAX_BYTES:
        raise BadShot(
            f"its arrays take {size / 2**30:.1f} GiB, more than the {MAX_BYTES >> 30} GiB of one file.",
            kind,
            "Use smaller depth maps and masks, or fewer frames.",
        )
    plain = {name: value for name, value in fields.items() if name not in _LAYOUT[kind]}
    text = json.dumps({"retake": kind, "version": VERSION, **plain}, separators=(",", ":"))
    with zipfile.ZipFile(stream, "w") as archive:
        _write_member(archive, _HEADER, np.frombuffer(text.encode(), np.uint8), compression)
        for name, array in arrays.items():
            _write_member(archive, name, array, compression)


def _write_member(archive: zipfile.ZipFile, name: str, array: NDArray[Any], compression: int) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # else Windows and Unix would give other bytes
    info.compress_type = compression
    info.file_size = head.tell() + array.nbytes
    with archive.open(info, "w") as member:
        member.write(head.getvalue())
        member.write(array.reshape(-1).view(np.uint8).data)


# ---------------------------------------------------------------------------------------------------- reading


def _read(stream: IO[bytes], where: str) -> Solve | Edit:
    start = stream.read(6)
    if not zipfile.is_zipfile(stream):
        raise BadFile(*_what_instead(start, where))
    stream.seek(0)
    try:
        with zipfile.ZipFile(stream) as archive:
            kind, header, members = _directory(archive, where)
            arrays = {
                name: _read_member(archive, members[name], *expected, f"{where}: {name}")
                for name, expected in _LAYOUT[kind].items()
                if name in members
            }
            return _assemble(kind, header, arrays)
    except BadShot as error:
        raise BadShot(error.what, f"{where}: {error.where}", error.remedy or _DAMAGED) from error
    except (RetakeError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, numpy and json raise a dozen kinds on damaged bytes; all mean this
        raise BadFile(f"cannot be read ({type(error).__name__}: {error!s:.200}).", where, _DAMAGED) from error


def _what_instead(start: bytes, where: str) -> tuple[str, str, str]:
    if not start:
        return "is empty.", where, _DAMAGED
    if start.startswith(b"PK"):
        return "is cut off: the end of the archive is missing.", where, _DAMAGED
    if start.startswith(b"\x80"):
        return "is a Python pickle, which Retake never opens.", where, _NOT_OURS
    return "is not a Retake archive.", where, _NOT_OURS


def _directory(archive: zipfile.ZipFile, where: str) -> tuple[str, dict[str, Any], dict[str, zipfile.ZipInfo]]:
    """Kind, header and members by name, after all that can be checked without reading an array."""
    infos = archive.infolist()
    members = {info.filename.removesuffix(".npy"): info for info in infos}
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES + _MAX_HEADER_BYTES:
        raise BadFile(
            f"unpacks to {total / 2**30:.1f} GiB, more than the {MAX_BYTES >> 30} GiB allowed.", where, _NOT_OURS
        )
    for info in infos:
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise BadFile("declares two different sizes.", f"{where}: {info.filename}", _DAMAGED)
    if _HEADER not in members:
        raise BadFile("is not a Retake archive: it has no header.", where, _NOT_OURS)
    if members[_HEADER].file_size > _MAX_HEADER_BYTES:
        raise BadFile(f"takes {members[_HEADER].file_size} bytes.", f"{where}: {_HEADER}", _DAMAGED)
    text = _read_member(archive, members[_HEADER], "|u1", 1, f"{where}: {_HEADER}").tobytes()
    header = json.loads(text)
    kind = header.get("retake") if isinstance(header, dict) else None
    if kind not in _LAYOUT:
        raise BadFile(f"holds {kind!r:.80}, not a solve or an edit.", f"{where}: {_HEADER}", _NOT_OURS)
    version = header.get("version")
    if type(version) is not int or version < 1:
        raise BadFile(f"version is {version!r:.80}.", f"{where}: {_HEADER}", _DAMAGED)
    if version > VERSION:
        raise BadFile(
            f"was written by a newer Retake (file version {version}; this one reads up to {VERSION}).",
            where,
            "Update Retake.",
        )
    expected = _LAYOUT[kind].keys()
    unknown = members.keys() - expected - {_HEADER}
    if unknown or len(members) != len(infos):
        what = f"holds unknown members {sorted(unknown)!s:.200}." if unknown else "holds a member twice."
        raise BadFile(what, where, _NOT_OURS)
    missing = sorted(expected - _OPTIONAL - members.keys())
    if missing:
        raise BadFile("is missing.", f"{where}: {missing[0]}", _DAMAGED)
    return kind, header, members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, dtype: str, rank: int, where: str) -> NDArray[Any]:
    """One member as an array of exactly this dtype and rank; its memory is taken only once its size adds up.

    zipfile compares the checksum as the last byte is read.
    """
    with archive.open(info) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise BadFile("is an array in another .npy version.", where, _NOT_OURS)
        shape, fortran_order, actual = np.lib.format.read_array_header_1_0(member)
        if actual.hasobject:
            raise BadFile("holds Python objects (a pickle), which Retake never opens.", where, _NOT_OURS)
        if actual.str != dtype or fortran_order or len(shape) != rank:
            raise BadFile(
                f"is {actual} of shape {shape!s:.80}.", where, f"Expected {np.dtype(dtype)} with {rank} dimensions."
            )
        size = actual.itemsize
        for length in shape:
            size *= length
        if min(shape) < 0 or member.tell() + size != info.file_size:
            raise BadFile(
                f"declares shape {shape!s:.80}, which does not fit its {info.file_size} bytes.", where, _DAMAGED
            )
        raw = np.empty(size, np.uint8)
        for begin in range(0, size, _CHUNK):
            data = member.read(min(_CHUNK, size - begin))
            raw[begin : begin + len(data)] = np.frombuffer(data, np.uint8)
            if len(data) < min(_CHUNK, size - begin):
                raise BadFile("is cut off.", where, _DAMAGED)
    values = raw != 0 if dtype == "|b1" else raw.view(dtype)
    return values.reshape(shape)


def _assemble(kind: str, header: dict[str, Any], arrays: dict[str, Any]) -> Solve | Edit:
    for name, expected in (("width", int), ("height", int), ("object_names", dict)):
        if type(header.get(name)) is not expected:
            raise BadShot(f"is {header.get(name)!r:.80}.", f"{_HEADER}.{name}", f"Expected {expected.__name__}.")
    names = header["object_names"]
    if not all(number.isdecimal() and isinstance(name, str) for number, name in names.items()):
        raise BadShot(f"is {names!r:.80}.", f"{_HEADER}.object_names", "Expected names by object number.")
    common: dict[str, Any] = {
        "cameras": Cameras(arrays.pop("c2w"), arrays.pop("K"), header["width"], header["height"]),
        "object_names": {int(number): name for number, name in names.items()},
    }
    if kind == "edit":
        return Edit(**common, **arrays)
    maps = {name: arrays.pop(name, None) for name in ("depth", "masks")}
    return Solve(**common, tracks=Tracks(**arrays), **maps, source=str(header.get("source", "")))
