"""The words that client and broker exchange, version 1.

A **message** is one header frame, a JSON object in UTF-8 of at most 64 KiB, followed by raw buffer frames.

    version   protocol version the message is written in
    kind      what it is, see below
    id        number of a request, chosen by the client; every request is answered by exactly one reply
    re        in a reply, the id of its request; events have none
    buffers   one {"dtype", "shape", "nbytes"} per buffer frame, in their order; absent when there is none

Unknown fields are ignored, so that a version may add some. A message holds numbers, words and bytes: never code, a
path, a URL or a pickle. Files are **assets**, named by the sha256 of their bytes in 64 hex digits.

A broker owns two sockets, so that a cancel never waits behind pixels. On the **control** socket:

    hello      {versions, software}             -> welcome {chosen, versions, software, nonce, epoch, pid, worker, engines, device}
    submit     {job, name, footage, solve, edit, settings, first_frame?}
                                                -> accepted {job, state}: stored on disk before it is said
    cancel     {job}                            -> state {job}: asked for; the event `cancelled` says that it has happened
    jobs       {job?}                           -> jobs {jobs}: newest first
    subscribe  {epoch, since, job?}             -> snapshot {epoch, sequence, jobs}, and from then on events
    release    {job}                            -> state: the client holds the take; its files may leave the cache
    stats      {}                               -> stats {...}: counters since the broker started
    models     {}                               -> models {models, place}: every model of the catalogue, and their folder
    pull, stop, verify, remove  {model}         -> model {...}: asked for; the events `model` tell what comes of it
    free       {}                               -> freed {}: no model is held in memory any more
    shutdown   {}                               -> goodbye {}; running jobs are done by the next broker

On the **data** socket, each request moves at most one chunk of 1 MiB; a client keeps at most WINDOW of them
unanswered, which is the credit it has:

    offer      {sha256, nbytes}                 -> have {} or go {upload}
    chunk      {upload, offset} + one buffer    -> took {offset} or, for the last, stored {sha256}
    read       {sha256, offset, nbytes}         -> piece {offset, total} + one buffer

`hello`, `welcome` and `refused` keep their meaning in every version. `versions` lists those that a side speaks; the
highest in common is `chosen`. Anything may be answered by **refused** {reason, what, where, remedy}, with `reason` one
word of `REASONS`.

**Events** {epoch, job, sequence, time, event, data} come without being asked for. Those of jobs come in order, to those
who subscribed:

    queued {attempt, why}    running {attempt}    frame {kind, index, sha256, nbytes}: kind is rgb, holes or take (no index)
    done {}    failed {what, where, remedy}    cancelled {}    progress {stage, done, total}
    picture {} + one buffer: a JPEG of at most PICTURE_SIDE pixels, a rough look at what is being made

`sequence` counts the stored events of all jobs; it survives the broker. `epoch` names that count: a client that comes
back with the epoch and the last sequence it saw is sent all that it missed. `progress`, `picture` and the events below
are not stored, carry sequence 0, and a later one may take the place of one not yet sent; the last progress of a job is
in its snapshot. A job is first `submit`ted under an id that the client makes (32 hex digits), so that sending it again
after a lost reply changes nothing. Its footage, solve, edit and first_frame (an edited picture of its first frame, an
image file) are assets.

To all who said hello, with the job "":

    engines {engines, device}: what `welcome` says of them, when it has changed
    model {...}: a model whose state, task or progress has changed
    beat {}: every few seconds; it is how the broker notices that one has left

An **engine** is {name, label, description, ready, missing}; missing lists the models that it needs and that are not
here, each {name, label, bytes, licence}.

A **model** is {name, label, kind, bytes, licence, licence_url, state, random, shipped, task, stage, done, total, error}:

    kind     "base"; "parts" for trained parts that work on a base; "own" for a model that comes with the backend. Of
             these the base alone can be pulled
    bytes    how much it takes, about
    state    what lies in the folder: missing, partial (of a download that stopped; `pull` goes on with it), installed
             or damaged
    random   its weights are random, for trials
    shipped  it is the one that comes with the backend: there is nothing to verify or to remove
    task     what is being done with it: "" for nothing, waiting (tasks are done one after the other), pull, verify or
             remove; stage: a word or two on it; done, total: its progress in bytes, total 0 while unknown
    error    {what, where, remedy} of its last task if that failed, else null

`stop` ends a task (and keeps what a pull has so far), on a model without one it changes nothing. Requests name models
of the catalogue, nothing else: what there is to fetch, and from where, the backend alone knows. `remove` is refused
with "busy" while a job waits or runs, `free` while one runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import RetakeError

VERSIONS = (1,)
HEADER_BYTES = 64 * 1024
REPLY_HEADER_BYTES = 2 * 1024 * 1024
"""What a client accepts from its broker: a list of jobs is longer than any request."""
CHUNK_BYTES = 1024 * 1024
MAX_BUFFERS = 16
MAX_DEPTH = 16
"""How deep the JSON of a header may nest: engine options are flat, and readers recurse."""
WINDOW = 8
PICTURE_SIDE = 512
"""Longer side in pixels of the rough picture of a job."""
PICTURE_BYTES = 256 * 1024

FINAL = frozenset({"done", "failed", "cancelled"})
"""States that a job never leaves. The others: queued, running, and unknown for a job that the broker never had."""

REASONS = {
    "malformed": "the message breaks the rules above",
    "version": "no protocol version in common",
    "unknown_kind": "no such request on this socket",
    "missing_assets": "`missing` lists the assets to send first",
    "conflict": "another job has this id",
    "too_large": "over the size limit",
    "disk_full": "no space where the broker keeps its files",
    "storage": "the broker cannot write where it keeps its files",
    "wrong_hash": "the bytes that came are not those that were announced",
    "no_upload": "this upload was never offered, or was given up",
    "no_asset": "the broker does not have it",
    "busy": "not now; try again",
    "no_model": "no model of the catalogue has this name",
    "internal": "an error inside the broker; its log has it",
}

_ITEM_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
    "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip


class Refused(RetakeError):
    """The other side will not do it. reason: one word of `REASONS`; fields: what the refusal adds, such as `missing`."""

    def __init__(
        self, reason: str, what: str, where: str = "", remedy: str = "", fields: dict[str, Any] | None = None
    ) -> None:
        super().__init__(what, where, remedy)
        self.reason = reason
        self.fields = fields or {}


class VersionMismatch(RetakeError):
    """Client and backend speak no protocol version in common."""


@dataclass(frozen=True)
class Message:
    """One message. fields: the header without kind, id, re, version and buffers. buffers: bytes-like, one per frame."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    buffers: Sequence[Any] = ()
    id: int | None = None
    re: int | None = None
    version: int = VERSIONS[-1]


def common_version(theirs: Iterable[Any]) -> int | None:
    """The highest protocol version that both sides speak, or None."""
    return max((v for v in VERSIONS if v in theirs), default=None)


def encode(message: Message) -> list[Any]:
    """The frames of a message; buffers are passed on, not copied (bytes-like of one dimension or C-contiguous)."""
    header: dict[str, Any] = {**message.fields, "version": message.version, "kind": message.kind}
    if message.id is not None:
        header["id"] = message.id
    if message.re is not None:
        header["re"] = message.re
    if message.buffers:
        header["buffers"] = [_describe(buffer) for buffer in message.buffers]
    return [json.dumps(header, allow_nan=False).encode(), *message.buffers]


def _describe(buffer: Any) -> dict[str, Any]:
    nbytes = memoryview(buffer).nbytes
    return {"dtype": "uint8", "shape": [nbytes], "nbytes": nbytes}


def decode(frames: Sequence[Any], header_limit: int = HEADER_BYTES) -> Message:
    """Read a message from untrusted frames (bytes or zmq.Frame). Raises Refused("malformed") naming what is wrong."""
    if not frames:
        raise _malformed("the message is empty.")
    if len(frames) > 1 + MAX_BUFFERS:
        raise _malformed(f"it has more than {MAX_BUFFERS} buffers.")
    if len(memoryview(frames[0])) > header_limit:
        raise _malformed(f"the header has {len(memoryview(frames[0]))} bytes; the limit is {header_limit}.")
    header = parse_json(bytes(memoryview(frames[0])))
    buffers = tuple(frames[1:])
    _check_buffers(header.pop("buffers", []), buffers)
    return Message(
        kind=text(header, "kind", 32),
        id=whole(header, "id") if header.get("id") is not None else None,
        re=whole(header, "re") if header.get("re") is not None else None,
        version=whole(header, "version"),
        buffers=buffers,
        fields={key: value for key, value in header.items() if key not in ("kind", "id", "re", "version")},
    )


def parse_json(raw: bytes) -> dict[str, Any]:
    """A JSON object from untrusted bytes. Raises Refused("malformed"), also for numbers that are not finite and for
    nesting without end."""
    try:
        header = json.loads(raw, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"the header is not JSON ({type(error).__name__}: {error!s:.100}).") from None
    if not isinstance(header, dict):
        raise _malformed(f"the header is a JSON {type(header).__name__}, not an object.")
    level: list[Any] = [header]
    for _ in range(MAX_DEPTH):
        nested = [value for value in level if isinstance(value, dict | list)]
        level = [item for value in nested for item in (value.values() if isinstance(value, dict) else value)]
    if level:
        raise _malformed(f"the header nests deeper than {MAX_DEPTH}.")
    return header


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is out of range")
    return value


def _check_buffers(declared: Any, buffers: Sequence[Any]) -> None:
    if not isinstance(declared, list) or len(declared) != len(buffers):
        raise _malformed(f"the header declares other buffers than the {len(buffers)} that came.")
    for number, (entry, buffer) in enumerate(zip(declared, buffers, strict=True)):
        where = f"buffer {number}"
        if not isinstance(entry, dict):
            raise _malformed("is not described by an object.", where)
        dtype, shape, nbytes = entry.get("dtype"), entry.get("shape"), whole(entry, "nbytes")
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            raise _malformed(f"dtype is {dtype!r:.40}.", where)
        if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise _malformed(f"shape is {shape!r:.80}.", where)
        if math.prod(shape) * _ITEM_BYTES[dtype] != nbytes:
            raise _malformed(f"{dtype} {shape} is not {nbytes} bytes.", where)
        actual = memoryview(buffer).nbytes
        if actual != nbytes:
            raise _malformed(f"declares {nbytes} bytes and has {actual}.", where)


def _malformed(what: str, where: str = "") -> Refused:
    return Refused("malformed", what, where or "message", "The client and the backend may be of different versions.")


def text(fields: dict[str, Any], name: str, limit: int = 1024) -> str:
    """A string field of at most `limit` characters. Raises Refused("malformed")."""
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > limit:
        raise _malformed(f"{name} is {value!r:.60}, not a text of at most {limit} characters.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _malformed(f"{name} is not valid Unicode.")
    return value


def whole(fields: dict[str, Any], name: str, limit: int = 2**53) -> int:
    """A whole number 0 <= n <= limit. Raises Refused("malformed")."""
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= limit:
        raise _malformed(f"{name} is {value!r:.60}, not a whole number up to {limit}.")
    return value


def _hex(fields: dict[str, Any], name: str, digits: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) != digits or not set(value) <= set("0123456789abcdef"):
        raise _malformed(f"{name} is {value!r:.80}, not {digits} hex digits.")
    return value


def sha256(fields: dict[str, Any], name: str = "sha256") -> str:
    """An asset's name: 64 hex digits, so that it can be part of a path. Raises Refused("malformed")."""
    return _hex(fields, name, 64)


def job_id(fields: dict[str, Any], name: str = "job") -> str:
    """A job's id: 32 hex digits. Raises Refused("malformed")."""
    return _hex(fields, name, 32)


def refusal(error: Refused) -> dict[str, Any]:
    """The fields of the message `refused` that tells `error`."""
    told = {"reason": error.reason, "what": error.what, "where": error.where, "remedy": error.remedy}
    return {**error.fields, **told}


def refused_from(fields: dict[str, Any]) -> Refused:
    """The error that a message `refused` tells."""
    told = {key: str(fields.get(key, "")) for key in ("reason", "what", "where", "remedy")}
    return Refused(**told, fields={key: value for key, value in fields.items() if key not in told})
