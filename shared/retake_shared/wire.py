"""ZeroMQ sockets as Retake uses them: CURVE always, an allow-list of one key, nothing that blocks for ever, and assets
in chunks under credit.

A wrong key is silence in ZeroMQ and a lost peer is an endless reconnection; `Link` watches its socket's monitor and
turns both into `BackendGone`. A link belongs to one thread.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import IO, Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from . import protocol
from .errors import RetakeError
from .protocol import CHUNK_BYTES, WINDOW, Message, Refused

ZAP_DOMAIN = b"retake"
HEARTBEAT_MS = 2000
SILENCE_MS = 10_000
_LARGEST_FRAME = 2 * CHUNK_BYTES
_QUEUED = 256
"""Messages that wait for a client that does not read: pictures are large."""
_ZAP_ADDRESS = "inproc://zeromq.zap.01"

Moved = Callable[[int, int], None]
"""Called with (bytes moved, bytes in all) while an asset travels. May raise to stop the transfer."""


class BackendGone(RetakeError):
    """The backend cannot be reached, refused our key, or stopped answering."""


@dataclass(frozen=True)
class Keys:
    """A CURVE key pair in Z85."""

    public: str
    secret: str

    @classmethod
    def make(cls) -> Keys:
        """A fresh random pair."""
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())


class AllowList:
    """The ZAP authenticator of a context: lets in those client keys and nobody else.

    Must exist before the context's sockets listen, and `answer` must be called whenever `socket` is readable:
    without it no client gets through its handshake.
    """

    def __init__(self, context: zmq.Context[Any], client_keys: Collection[str]) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(_ZAP_ADDRESS)
        self.turned_away = 0
        self._allowed = {key.encode() for key in client_keys}

    def answer(self) -> None:
        """Answer one pending handshake."""
        version, request, domain, _address, _identity, mechanism, *credentials = self.socket.recv_multipart()
        key = z85.encode(credentials[0]) if mechanism == b"CURVE" and credentials else b""
        good = domain == ZAP_DOMAIN and key in self._allowed
        self.turned_away += not good
        status = (b"200", b"OK") if good else (b"400", b"this key is not known here")
        self.socket.send_multipart([version, request, *status, b"client" if good else b"", b""])


def listen(context: zmq.Context[Any], keys: Keys, host: str = "127.0.0.1") -> tuple[zmq.Socket[Any], str]:
    """A ROUTER on a free port of `host` that speaks CURVE, and its endpoint. Sends raise zmq.Again, never block."""
    socket = context.socket(zmq.ROUTER)
    _limit(socket)
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
    socket.zap_domain = ZAP_DOMAIN
    # Without this a message to a client that reads too slowly, or has left, is dropped without a word.
    socket.router_mandatory = True
    socket.sndhwm = _QUEUED
    port = socket.bind_to_random_port(f"tcp://{host}", min_port=49152, max_port=65535)
    return socket, f"tcp://{host}:{port}"


def _limit(socket: zmq.Socket[Any]) -> None:
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, _LARGEST_FRAME)
    socket.heartbeat_ivl, socket.heartbeat_timeout, socket.heartbeat_ttl = HEARTBEAT_MS, SILENCE_MS, SILENCE_MS
    socket.handshake_ivl = SILENCE_MS


def receive(socket: zmq.Socket[Any]) -> tuple[bytes, list[zmq.Frame]]:
    """One message of a ROUTER without waiting: the sender's routing id and its frames. Raises zmq.Again.

    Frames beyond what a message may have are read and dropped, all but one: `protocol.decode` then refuses it.
    """
    sender = socket.recv(zmq.NOBLOCK)
    frames: list[zmq.Frame] = []
    while socket.rcvmore:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        if len(frames) <= 1 + protocol.MAX_BUFFERS:
            frames.append(frame)
    return sender, frames


def send(socket: zmq.Socket[Any], receiver: bytes, message: Message) -> bool:
    """Send from a ROUTER without waiting. False when the receiver's queue is full; raises zmq.ZMQError when it is gone."""
    try:
        socket.send_multipart([receiver, *protocol.encode(message)], zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return False
    return True


class Link:
    """A client's end of one of the broker's sockets."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, server_key: str, keys: Keys) -> None:
        self._endpoint = endpoint
        self._socket = context.socket(zmq.DEALER)
        _limit(self._socket)
        self._socket.curve_serverkey = server_key.encode()
        self._socket.curve_publickey, self._socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
        # A broker that comes back has another port and other keys: reconnecting would only hide that it is gone.
        self._socket.reconnect_ivl = -1
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
        )  # fmt: skip
        self._monitor.linger = 0
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._next_id = 0
        self._open = False
        self._unasked: deque[Message] = deque()
        self._socket.connect(endpoint)

    def close(self) -> None:
        """Close at once; what is not sent is dropped."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)

    def wait_open(self, timeout: float) -> None:
        """Wait for the handshake. Raises BackendGone saying which of silence, a closed door or a wrong key it was."""
        deadline = time.monotonic() + timeout
        while not self._open:
            left = deadline - time.monotonic()
            if left <= 0 or not self._monitor.poll(max(1, int(left * 1000))):
                raise self._gone(f"the backend does not answer within {timeout:g} s.")
            self._read_monitor()

    def send(self, kind: str, fields: dict[str, Any], buffers: tuple[Any, ...] = ()) -> int:
        """Send a request, return its id. Raises BackendGone when it cannot leave."""
        self._next_id += 1
        frames = protocol.encode(Message(kind, fields, buffers, id=self._next_id))
        if len(frames[0]) > protocol.HEADER_BYTES:
            raise Refused(
                "too_large", f"the request has {len(frames[0])} bytes; {protocol.HEADER_BYTES} may be sent.", kind,
                "Shorten the prompt or the engine's options.",
            )  # fmt: skip
        deadline = time.monotonic() + SILENCE_MS / 1000
        while True:
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
                break
            except zmq.Again:  # the queue is full, or there is nobody left to send to
                if self._monitor.poll(10):
                    self._read_monitor()
                elif time.monotonic() > deadline:
                    raise self._gone("the backend takes no more messages.") from None
        return self._next_id

    def receive(self, timeout: float) -> Message | None:
        """The next message, or None after `timeout` seconds. Raises BackendGone when the connection is lost."""
        deadline = time.monotonic() + timeout
        while True:
            wait = max(0, int((deadline - time.monotonic()) * 1000 + 0.999))
            ready = dict(self._poller.poll(wait))
            if self._socket in ready:
                frames = self._socket.recv_multipart(copy=False)
                return protocol.decode(frames, protocol.REPLY_HEADER_BYTES)
            if self._monitor in ready:
                self._read_monitor()
            elif time.monotonic() >= deadline:
                return None

    def reply(self, request: int, timeout: float) -> Message:
        """The reply to a request; events that come before it are kept for `unasked`. Raises Refused, BackendGone."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.receive(max(0.0, deadline - time.monotonic()))
            if message is None:
                raise self._gone(f"the backend did not answer for {timeout:g} s.")
            if message.re is None and message.kind == "event":
                if message.fields.get("event") != "beat":
                    self._unasked.append(message)
            elif message.kind == "refused" and message.re in (request, None):
                raise protocol.refused_from(message.fields)
            elif message.re == request:
                return message

    def ask(self, kind: str, timeout: float, **fields: Any) -> Message:
        """Send a request and wait for its reply. Raises Refused, BackendGone."""
        return self.reply(self.send(kind, fields), timeout)

    def unasked(self, timeout: float) -> Message | None:
        """The next event, or None after `timeout` seconds. Raises BackendGone."""
        if self._unasked:
            return self._unasked.popleft()
        deadline = time.monotonic() + timeout
        while True:
            message = self.receive(max(0.0, deadline - time.monotonic()))
            if message is None or message.kind == "event":
                return message

    def forget_unasked(self, which: Callable[[Message], bool]) -> None:
        """Drop those of the events that were kept so far."""
        self._unasked = deque(message for message in self._unasked if not which(message))

    def _read_monitor(self) -> None:
        event = recv_monitor_message(self._monitor)["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._open = True
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise self._gone("the backend refused our key.", "Its connection file is of another run: read it again.")
        elif self._open:
            raise self._gone("the connection to the backend is lost.")
        elif event == zmq.EVENT_CLOSED:
            raise self._gone("nothing listens there.")
        else:
            raise self._gone(
                "the handshake failed: the keys are not this backend's.", "Read its connection file again."
            )

    def _gone(self, what: str, remedy: str = "Start the backend again.") -> BackendGone:
        return BackendGone(what, self._endpoint, remedy)


def push_asset(link: Link, file: IO[bytes], sha256: str, nbytes: int, moved: Moved | None, timeout: float) -> int:
    """Send an asset unless the broker has it; return the number of bytes sent. Raises Refused, BackendGone."""
    offered = link.ask("offer", timeout, sha256=sha256, nbytes=nbytes)
    if offered.kind == "have":
        return 0
    upload, sent = offered.fields.get("upload"), 0
    waiting: deque[tuple[int, int]] = deque()
    while sent < nbytes or waiting:
        while sent < nbytes and len(waiting) < WINDOW:
            chunk = file.read(min(CHUNK_BYTES, nbytes - sent))
            if not chunk:
                what, name = "the file became shorter while it was sent.", str(getattr(file, "name", ""))
                raise Refused("wrong_hash", what, name, "Try again once it is written.")
            waiting.append((link.send("chunk", {"upload": upload, "offset": sent}, (chunk,)), sent + len(chunk)))
            sent += len(chunk)
        request, reached = waiting.popleft()
        link.reply(request, timeout)
        if moved:
            moved(reached, nbytes)
    return sent


def pull_asset(link: Link, file: IO[bytes], sha256: str, moved: Moved | None, timeout: float) -> int:
    """Write an asset into `file`; return its size. Raises Refused (also when the bytes have another hash), BackendGone."""
    digest = hashlib.sha256()
    waiting: deque[int] = deque()
    total, asked, done = CHUNK_BYTES, 0, 0
    first = True
    while first or done < total:
        while asked < total and len(waiting) < (1 if first else WINDOW):
            request = {"sha256": sha256, "offset": asked, "nbytes": CHUNK_BYTES}
            waiting.append(link.send("read", request))
            asked += CHUNK_BYTES
        piece = link.reply(waiting.popleft(), timeout)
        total, first = protocol.whole(piece.fields, "total"), False
        data = memoryview(piece.buffers[0]) if piece.buffers else memoryview(b"")
        if piece.fields.get("offset") != done or len(data) != min(CHUNK_BYTES, total - done):
            raise Refused("malformed", "a piece of an asset is out of place.", sha256, "Fetch it again.")
        digest.update(data)
        file.write(data)
        done += len(data)
        if moved:
            moved(done, total)
    if digest.hexdigest() != sha256:
        raise Refused("wrong_hash", "what came is not what was asked for.", sha256, "Fetch it again.")
    return done
