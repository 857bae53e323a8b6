"""The data socket, in a thread of its own, so that hashing and syncing large files never delay a cancel."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import zmq
from retake_shared import protocol, wire
from retake_shared.protocol import CHUNK_BYTES, Message, Refused

from .assets import AssetStore, Incoming, storage_error

_UPLOADS = 32
_ABANDONED_SECONDS = 60.0


@dataclass
class _Upload:
    sender: bytes
    sha256: str
    nbytes: int
    incoming: Incoming
    heard: float = field(default_factory=time.monotonic)


class TransferThread(threading.Thread):
    """Serves assets. Counters and `cache_bytes` may be read from any thread."""

    def __init__(
        self, context: zmq.Context[Any], socket: zmq.Socket[Any], assets: AssetStore, asset_limit: int, cache_limit: int
    ) -> None:
        super().__init__(name="transfer", daemon=True)
        self.counters = {"uploads": 0, "bytes_received": 0, "bytes_sent": 0, "refused_data": 0}
        self.heard = time.monotonic()
        self._socket, self._assets = socket, assets
        self._asset_limit, self._cache_limit = asset_limit, cache_limit
        self._uploads: dict[str, _Upload] = {}
        self._number = 0
        self._cache_full = False
        address = f"inproc://transfer-{id(self)}"
        self._orders = context.socket(zmq.PAIR)
        self._orders.bind(address)
        self._commander = context.socket(zmq.PAIR)
        self._commander.connect(address)

    def prune(self, keep: set[str]) -> None:
        """Ask for the cache to be brought under its limit, keeping these assets. From the control thread only."""
        self._commander.send(json.dumps(sorted(keep)).encode())

    def stop(self) -> None:
        """End the thread and close its sockets. From the control thread only."""
        self._commander.send(b"")
        self.join(10)
        self._commander.close(0)

    def run(self) -> None:
        """The thread's loop."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._orders, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(1000))
            if self._orders in ready:
                order = self._orders.recv()
                if not order:
                    break
                try:
                    left = self._assets.prune(self._cache_limit, set(json.loads(order)))
                    self._cache_full = left > self._cache_limit
                except OSError as error:  # a folder that cannot be read now must not end the thread
                    print(f"broker: {storage_error(error, self._assets.root)}", file=sys.stderr, flush=True)
            if self._socket in ready:
                with contextlib.suppress(zmq.Again):
                    self._serve(*wire.receive(self._socket))
            self._drop_abandoned()
        for upload in self._uploads.values():
            upload.incoming.drop()
        self._socket.close(0)
        self._orders.close(0)

    def _serve(self, sender: bytes, frames: list[zmq.Frame]) -> None:
        self.heard = time.monotonic()
        request: Message | None = None
        try:
            request = protocol.decode(frames)
            reply = self._answer(sender, request)
        except Refused as refused:
            self.counters["refused_data"] += 1
            reply = Message("refused", protocol.refusal(refused))
        except OSError as error:
            reply = Message("refused", protocol.refusal(storage_error(error, self._assets.root)))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            reply = Message("refused", protocol.refusal(Refused("internal", "the backend made an error; see its log.")))
        answer = Message(reply.kind, reply.fields, reply.buffers, re=request.id if request else None)
        try:
            # A client that stays within its credit never fills its queue; one that does not loses its reply.
            wire.send(self._socket, sender, answer)
        except zmq.ZMQError:
            self._forget(sender)

    def _answer(self, sender: bytes, request: Message) -> Message:
        if request.version not in protocol.VERSIONS:
            raise Refused("version", f"protocol {request.version} is not spoken here.", "message", "Say hello first.")
        match request.kind:
            case "offer":
                return self._offer(sender, request)
            case "chunk":
                return self._chunk(sender, request)
            case "read":
                return self._read(request)
        raise Refused("unknown_kind", f'there is no request "{request.kind}" on the data socket.', "message")

    def _offer(self, sender: bytes, request: Message) -> Message:
        sha256, nbytes = protocol.sha256(request.fields), protocol.whole(request.fields, "nbytes")
        if not self._assets.missing([sha256]):
            return Message("have")
        if not 0 < nbytes <= self._asset_limit:
            limit = f"1 .. {self._asset_limit} bytes"
            raise Refused("too_large", f"the file has {nbytes} bytes; {limit} are taken.", sha256, "Shorten the shot.")
        if self._cache_full:
            raise Refused(
                "disk_full", "the backend's cache is full, and all of it is needed.", str(self._assets.root),
                "Wait for the jobs to end, fetch the finished takes, or give the cache more space.",
            )  # fmt: skip
        if len(self._uploads) >= _UPLOADS:
            raise Refused("busy", f"{_UPLOADS} uploads are under way.", "", "Try again in a minute.")
        self._number += 1
        name = str(self._number)
        self._uploads[name] = _Upload(sender, sha256, nbytes, Incoming(self._assets, nbytes))
        return Message("go", {"upload": name})

    def _chunk(self, sender: bytes, request: Message) -> Message:
        name, offset = protocol.text(request.fields, "upload", 32), protocol.whole(request.fields, "offset")
        upload = self._uploads.get(name)
        if upload is None or upload.sender != sender:
            raise Refused("no_upload", "this upload was not offered, or was given up.", name, "Send the file again.")
        data = memoryview(request.buffers[0]) if len(request.buffers) == 1 else memoryview(b"")
        try:
            reached = upload.incoming.written + len(data)
            if offset != upload.incoming.written or not 0 < len(data) <= CHUNK_BYTES or reached > upload.nbytes:
                raise Refused("malformed", f"a chunk of {len(data)} bytes at {offset} does not follow.", name)
            upload.incoming.write(data)
            upload.heard = time.monotonic()
            self.counters["bytes_received"] += len(data)
            if reached < upload.nbytes:
                return Message("took", {"offset": reached})
            upload.incoming.keep(upload.sha256)
        except BaseException:
            self._give_up(name)
            raise
        self._give_up(name)
        self.counters["uploads"] += 1
        return Message("stored", {"sha256": upload.sha256})

    def _read(self, request: Message) -> Message:
        sha256 = protocol.sha256(request.fields)
        offset = protocol.whole(request.fields, "offset")
        nbytes = protocol.whole(request.fields, "nbytes", CHUNK_BYTES)
        try:
            with self._assets.path(sha256).open("rb", buffering=0) as file:
                total = file.seek(0, 2)
                file.seek(min(offset, total))
                data = file.read(nbytes)
        except FileNotFoundError:
            raise Refused("no_asset", "the backend does not have it (any more).", sha256, "Generate again.") from None
        self.counters["bytes_sent"] += len(data)
        return Message("piece", {"offset": offset, "total": total}, (data,))

    def _give_up(self, name: str) -> None:
        self._uploads.pop(name).incoming.drop()

    def _forget(self, sender: bytes) -> None:
        for name in [name for name, upload in self._uploads.items() if upload.sender == sender]:
            self._give_up(name)

    def _drop_abandoned(self) -> None:
        line = time.monotonic() - _ABANDONED_SECONDS
        for name in [name for name, upload in self._uploads.items() if upload.heard < line]:
            self._give_up(name)
