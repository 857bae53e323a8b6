"""Shards: tar files that hold examples one behind the other, as `NAME.part.suffix` members.

Read by header alone and never unpacked: a member is bytes at a place, whatever its name says. Only plain files of the
POSIX (ustar) form with the names below are looked at; links, folders and everything else in a tar are passed over and
counted. An example is whole when its last member, `NAME.pair.json`, is there; it names every other member with its
length and CRC-32, and ends with its own, so that no example is used of which a byte is missing or changed.
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from retake_shared.errors import BadFile

LAST = "pair.json"
"""The suffix of the member that ends an example."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
"""What an example may be called."""

END = bytes(1024)
"""The end of a tar."""

_MEMBER = re.compile(rf"({NAME.pattern})\.([a-z0-9]{{1,8}}\.[a-z0-9]{{1,8}})")
_BLOCK = 512
_CRC = b',"crc":'
_MAX_JSON = 1 << 20
_MAX_MEMBER = 4 << 30
_DAMAGED = "It is damaged; make it again."


@dataclass(frozen=True)
class Entry:
    """A whole example in a shard. members: (offset, bytes) of each, by suffix. end: offset behind the last."""

    name: str
    members: Mapping[str, tuple[int, int]]
    end: int


@dataclass(frozen=True)
class Scan:
    """What lies in a shard. entries: its whole examples in order. damage: what else is in it or missing, in words, or
    ""."""

    entries: tuple[Entry, ...]
    damage: str = ""


def pack(name: str, members: Mapping[str, bytes], info: Mapping[str, Any]) -> bytes:
    """An example's bytes in a shard. info: plain JSON, to which the members' lengths and checksums are added."""
    files = {suffix: [len(data), zlib.crc32(data)] for suffix, data in members.items()}
    text = json.dumps({**info, "files": files}, separators=(",", ":"), allow_nan=False).encode()[:-1]
    text += _CRC + b"%d}" % zlib.crc32(text)
    pieces = []
    for suffix, data in {**members, LAST: text}.items():
        header = tarfile.TarInfo(f"{name}.{suffix}")
        header.size = len(data)
        pieces += [header.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % _BLOCK)]
    return b"".join(pieces)


def scan(stream: IO[bytes]) -> Scan:
    """Look through a shard's headers. Nothing is raised for what is wrong in it; see `Scan`."""
    size = stream.seek(0, 2)
    entries: list[Entry] = []
    members: dict[str, tuple[int, int]] = {}
    name, at, foreign, torn = "", 0, 0, 0
    why = "it is cut off"
    while at < size:
        stream.seek(at)
        block = stream.read(_BLOCK)
        if not any(block):
            if len(block) == _BLOCK:
                why = f"there is a hole at byte {at}" if _more(stream) else ""
            break
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError):
            why = f"byte {at} begins no member"
            break
        start, at = at + _BLOCK, at + _BLOCK + header.size + -header.size % _BLOCK
        if not 0 <= header.size <= _MAX_MEMBER or at > size:
            break
        found = _MEMBER.fullmatch(header.name) if header.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else None
        if not found:
            foreign += 1
            continue
        if found[1] != name:
            torn += bool(members)
            name, members = found[1], {}
        members[found[2]] = (start, header.size)
        if found[2] == LAST:
            entries.append(Entry(name, members, at))
            members = {}
    torn += bool(members)
    told = [f"{why}, so that what came behind is lost"] if why else []
    told += [f"{torn} of its examples are not whole"] if torn else []
    told += [f"{foreign} members that are no part of an example were passed over"] if foreign else []
    return Scan(tuple(entries), "; ".join(told))


def describe(stream: IO[bytes], entry: Entry, where: str) -> dict[str, Any]:
    """The description of an example, without its other members. Raises BadFile when a byte of it is missing or changed."""
    where = f"{where}: {entry.name}"
    data = _bytes(stream, *entry.members[LAST], _MAX_JSON, where)
    text, noted, crc = data.rpartition(_CRC)
    if noted and crc != b"%d}" % zlib.crc32(text):  # data sets that were begun before it was noted go without
        raise BadFile("its description does not have the checksum that was noted.", where, _DAMAGED)
    try:
        info = json.loads(data)
        if not isinstance(info, dict):
            raise ValueError("it holds no fields")
    except (ValueError, RecursionError) as error:
        raise BadFile("its description is no such JSON.", where, _DAMAGED) from error
    return info


def read(stream: IO[bytes], entry: Entry, where: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The members of an example and its description. Raises BadFile when a byte is missing or changed."""
    info = describe(stream, entry, where)
    where = f"{where}: {entry.name}"
    try:
        files = {str(suffix): (int(size), int(crc)) for suffix, (size, crc) in info["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadFile("its description names no files.", where, _DAMAGED) from error
    members = {}
    for suffix, (size, crc) in files.items():
        if entry.members.get(suffix, (0, -1))[1] != size:
            raise BadFile(f"{suffix} is missing or of another length.", where, _DAMAGED)
        data = _bytes(stream, *entry.members[suffix], _MAX_MEMBER, where)
        if zlib.crc32(data) != crc:
            raise BadFile(f"{suffix} does not have the checksum that was noted.", where, _DAMAGED)
        members[suffix] = data
    return members, info


def _more(stream: IO[bytes]) -> bool:
    """Whether anything but zeros follows."""
    while block := stream.read(1 << 20):
        if block.strip(b"\0"):
            return True
    return False


def _bytes(stream: IO[bytes], offset: int, size: int, most: int, where: str) -> bytes:
    if size > most:
        raise BadFile(f"declares {size} bytes of which {most} are allowed.", where, _DAMAGED)
    stream.seek(offset)
    data = stream.read(size)
    if len(data) != size:
        raise BadFile("is cut off.", where, _DAMAGED)
    return data
