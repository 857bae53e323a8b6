"""Wrong keys, wrong versions and messages that no client of ours would send: a refusal, never a hang or a crash."""

import hashlib
import json
import os
import random
import time
from dataclasses import replace

import psutil
import pytest
import zmq
from retake_shared import connection, protocol, wire
from retake_shared.client import BackendGone, Client, VersionMismatch
from retake_shared.protocol import Message, Refused

HELLO = {"version": 1, "kind": "hello", "id": 1, "versions": [1], "software": "x"}


class Raw:
    """A socket with the right keys and no manners."""

    def __init__(self, where, address):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndtimeo = self.socket.rcvtimeo = 5000
        self.socket.curve_serverkey = where.server_key.encode()
        self.socket.curve_publickey, self.socket.curve_secretkey = (
            where.client_key.encode(),
            where.client_secret.encode(),
        )
        self.socket.connect(address)

    def ask(self, *frames):
        self.socket.send_multipart(frames)
        return json.loads(self.socket.recv_multipart()[0])

    def header(self, *buffers, **fields):
        return self.ask(json.dumps({"version": 1, "id": 7, **fields}).encode(), *buffers)

    def close(self):
        self.context.destroy(linger=0)


@pytest.fixture
def where(shared_backend):
    return connection.read(shared_backend.home / connection.FILE_NAME)


@pytest.fixture(params=["control", "data"])
def raw(request, where):
    socket = Raw(where, getattr(where, request.param))
    yield socket
    socket.close()


@pytest.fixture
def data(where):
    socket = Raw(where, where.data)
    yield socket
    socket.close()


@pytest.mark.parametrize("which", ["server", "client", "no broker", "no answer"])
def test_a_wrong_key_or_address_is_an_error_soon(where, which):
    stranger, silent = wire.Keys.make(), zmq.Context()
    listener = silent.socket(zmq.STREAM)
    port = listener.bind_to_random_port("tcp://127.0.0.1")
    wrong, words = {
        "server": ({"server_key": stranger.public}, "handshake failed|does not answer"),
        "client": ({"client_key": stranger.public, "client_secret": stranger.secret}, "refused our key"),
        "no broker": ({"control": "tcp://127.0.0.1:1"}, "nothing listens"),
        "no answer": ({"control": f"tcp://127.0.0.1:{port}"}, "does not answer"),
    }[which]
    began = time.monotonic()
    with pytest.raises(BackendGone, match=words):
        Client(replace(where, **wrong), timeout=1.5)
    assert time.monotonic() - began < 3
    silent.destroy(linger=0)


def test_without_keys_nobody_is_let_in(where):
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(where.control)
    socket.send(json.dumps(HELLO).encode())
    assert not socket.poll(500)
    context.destroy(linger=0)


def test_another_version_is_refused_in_words(where):
    control = Raw(where, where.control)
    reply = control.header(kind="hello", versions=[99], software="9.0")
    assert (reply["kind"], reply["reason"], reply["versions"], reply["re"]) == ("refused", "version", [1], 7)
    assert "same version" in reply["remedy"]
    assert control.header(kind="hello", versions=[99, 1])["chosen"] == 1
    assert control.ask(json.dumps({"version": 99, "kind": "jobs", "id": 1}).encode())["reason"] == "version"
    control.close()


def test_the_client_tells_a_version_mismatch(where, monkeypatch):
    monkeypatch.setattr(protocol, "VERSIONS", (99,))
    with pytest.raises(VersionMismatch, match="same version"):
        Client(where)


MALFORMED = {
    "empty": [b""],
    "not JSON": [b"hello"],
    "not UTF-8": [b"\xff\xfe\x00"],
    "a list": [b"[1, 2]"],
    "deep lists": [b"[" * 60000],
    "deep objects": [b'{"a":' * 12000 + b"1" + b"}" * 12000],
    "nested too deep": [json.dumps({**HELLO, "x": eval("[" * 40 + "]" * 40)}).encode()],
    "NaN": [b'{"version": 1, "kind": "hello", "x": NaN}'],
    "infinite": [b'{"version": 1, "kind": "hello", "x": 1e999}'],
    "huge number": [b'{"version": 1, "kind": "hello", "x": ' + b"9" * 5000 + b"}"],
    "no kind": [b'{"version": 1}'],
    "no version": [b'{"kind": "hello"}'],
    "kind a list": [b'{"version": 1, "kind": []}'],
    "id a text": [json.dumps({**HELLO, "id": "x"}).encode()],
    "id negative": [json.dumps({**HELLO, "id": -1}).encode()],
    "header over 64 KiB": [json.dumps({**HELLO, "x": "y" * 70000}).encode()],
    "buffers not declared": [json.dumps(HELLO).encode(), b"abc"],
    "buffers declared, not sent": [
        json.dumps({**HELLO, "buffers": [{"dtype": "uint8", "shape": [1], "nbytes": 1}]}).encode()
    ],
    "wrong nbytes": [
        json.dumps({**HELLO, "buffers": [{"dtype": "uint8", "shape": [9], "nbytes": 9}]}).encode(), b"abc"
    ],
    "shape against nbytes": [
        json.dumps({**HELLO, "buffers": [{"dtype": "float64", "shape": [3], "nbytes": 3}]}).encode(), b"abc"
    ],
    "monstrous shape": [
        json.dumps({**HELLO, "buffers": [{"dtype": "uint8", "shape": [2**40] * 8, "nbytes": 3}]}).encode(), b"abc"
    ],
    "unknown dtype": [
        json.dumps({**HELLO, "buffers": [{"dtype": "object", "shape": [3], "nbytes": 3}]}).encode(), b"abc"
    ],
    "100 buffers": [json.dumps(HELLO).encode(), *[b""] * 100],
    "surrogate": [b'{"version": 1, "kind": "\\ud800"}'],
}  # fmt: skip


@pytest.mark.parametrize("frames", MALFORMED.values(), ids=MALFORMED)
def test_malformed_messages_are_refused(raw, frames):
    reply = raw.ask(*frames)
    assert (reply["kind"], reply["reason"]) == ("refused", "malformed")
    assert raw.header(kind="nonsense")["reason"] == "unknown_kind"


def test_a_frame_over_the_limit_is_a_lost_connection_not_a_hang(where):
    keys = wire.Keys(where.client_key, where.client_secret)
    context = zmq.Context()
    link = wire.Link(context, where.data, where.server_key, keys)
    link.wait_open(5)
    began = time.monotonic()
    with pytest.raises(BackendGone):
        link.reply(link.send("chunk", {"upload": "1", "offset": 0}, (bytes(4 * protocol.CHUNK_BYTES),)), 20)
    assert time.monotonic() - began < 5
    link.close()
    context.destroy(linger=0)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "offer", "sha256": "../../etc/passwd", "nbytes": 5}, "malformed"),
        ({"kind": "offer", "sha256": "A" * 64, "nbytes": 5}, "malformed"),
        ({"kind": "offer", "sha256": "a" * 64, "nbytes": 0}, "too_large"),
        ({"kind": "offer", "sha256": "a" * 64, "nbytes": 2**50}, "too_large"),
        ({"kind": "offer", "sha256": "a" * 64, "nbytes": 2**70}, "malformed"),
        ({"kind": "offer", "sha256": "a" * 64, "nbytes": True}, "malformed"),
        ({"kind": "chunk", "upload": "999", "offset": 0}, "no_upload"),
        ({"kind": "read", "sha256": "a" * 64, "offset": 0, "nbytes": 2**40}, "malformed"),
        ({"kind": "read", "sha256": "a" * 64, "offset": 0, "nbytes": 5}, "no_asset"),
        ({"kind": "read", "sha256": ["a"], "offset": 0, "nbytes": 5}, "malformed"),
    ],
)
def test_bad_data_requests_are_refused(data, fields, reason):
    assert data.header(**fields)["reason"] == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "pull"}, "malformed"),
        ({"kind": "pull", "model": None}, "malformed"),
        ({"kind": "pull", "model": ["svd-xt"]}, "malformed"),
        ({"kind": "pull", "model": "x" * 65}, "malformed"),
        ({"kind": "pull", "model": "\ud800"}, "malformed"),
        ({"kind": "pull", "model": "https://example.org/model"}, "no_model"),
        ({"kind": "verify", "model": "/etc"}, "no_model"),
        ({"kind": "remove", "model": ".."}, "no_model"),
        ({"kind": "remove", "model": 5}, "malformed"),
        ({"kind": "stop", "model": {}}, "malformed"),
        ({"kind": "submit", "first_frame": "../../etc/passwd"}, "malformed"),
        ({"kind": "submit", "first_frame": 5}, "malformed"),
        ({"kind": "submit", "first_frame": "b" * 64}, "missing_assets"),
    ],
)
def test_bad_control_requests_are_refused(where, fields, reason):
    control = Raw(where, where.control)
    job = {"job": "a" * 32, "name": "x", "settings": {}, "footage": "a" * 64, "solve": "a" * 64, "edit": "a" * 64}
    assert control.header(**(job | fields if fields["kind"] == "submit" else fields))["reason"] == reason
    assert control.header(kind="hello", versions=[1])["kind"] == "welcome"
    control.close()


def test_a_client_of_another_release_works(where, shared_backend, shot):
    """Requests as the first release sent them, and with fields that only a later one could know."""
    control = Raw(where, where.control)
    with shared_backend.client() as client:
        spec = shot.spec(client, frames=(0, 1))
    words = {"footage": spec.footage_sha256, "solve": spec.solve_sha256, "edit": spec.edit_sha256, "name": "shot.mp4"}
    for number, more in enumerate(({}, {"of_the_future": [1], "model": "svd-xt"})):
        job = f"{number}" * 32
        welcome = control.header(kind="hello", versions=[1], software="0.1", **more)
        assert {"chosen", "worker", "engines", "device", "epoch", "nonce", "pid"} <= welcome.keys()
        assert control.header(kind="submit", job=job, settings=spec.settings.to_json(), **words, **more)["job"] == job
        assert control.header(kind="subscribe", job=job, epoch="", since=0, **more)["kind"] == "snapshot"
        seen = []
        while "done" not in seen:
            event = json.loads(control.socket.recv_multipart()[0])
            assert {"epoch", "job", "sequence", "time", "event", "data"} <= event.keys()
            seen += [event["event"]] if event["job"] == job and event["sequence"] else []
        assert seen == ["queued", "running", "frame", "frame", "frame", "done"]
        control.close()
        control = Raw(where, where.control)
    control.close()


@pytest.mark.parametrize("wrong", ["hash", "offset", "too much", "nothing", "another's"])
def test_a_wrong_upload_leaves_nothing(shared_backend, where, data, wrong):
    def chunk(content, offset=0, socket=data):
        buffers = [{"dtype": "uint8", "shape": [len(content)], "nbytes": len(content)}]
        return socket.header(content, kind="chunk", upload=upload, offset=offset, buffers=buffers)

    content = os.urandom(100)
    name = hashlib.sha256(content).hexdigest()
    upload = data.header(kind="offer", sha256=name, nbytes=100)["upload"]
    if wrong == "hash":
        assert chunk(content[::-1])["reason"] == "wrong_hash"
    elif wrong == "offset":
        assert chunk(content, 50)["reason"] == "malformed"
    elif wrong == "too much":
        assert chunk(content * 2)["reason"] == "malformed"
    elif wrong == "nothing":
        assert chunk(b"")["reason"] == "malformed"
    else:
        stranger = Raw(where, where.data)
        assert chunk(content, socket=stranger)["reason"] == "no_upload"
        stranger.close()
        assert chunk(content)["kind"] == "stored"
        return
    assert chunk(content)["reason"] == "no_upload", "a spoilt upload is given up"
    assert not list((shared_backend.home / "assets").glob("*.part"))
    assert data.header(kind="read", sha256=name, offset=0, nbytes=5)["reason"] == "no_asset"


def _noise(random_):
    """One message out of the space between garbage and almost right."""
    kinds = ["hello", "submit", "cancel", "jobs", "subscribe", "release", "stats", "offer", "chunk", "read", "x" * 40]
    kinds += ["models", "pull", "stop", "verify", "remove", "free"]
    values = [
        None, True, -1, 0, 1, 2**70, 0.5, "", "a" * 64, "b" * 32, "../..", [], [1], {}, {"a": {"b": []}}, "\ud800", "é" * 300
    ]  # fmt: skip
    names = [
        "id", "re", "version", "versions", "job", "name", "footage", "solve", "edit", "settings", "since", "epoch",
        "sha256", "nbytes", "offset", "upload", "buffers", "kind", "model", "first_frame",
    ]  # fmt: skip
    header = {"version": 1, "kind": random_.choice(kinds), "id": 1}
    for _ in range(random_.randrange(6)):
        header[random_.choice(names)] = random_.choice(values)
    raw = bytearray(json.dumps(header).encode())
    if random_.random() < 0.3:
        for _ in range(random_.randrange(1, 9)):
            raw[random_.randrange(len(raw))] = random_.randrange(256)
    frames = [bytes(raw)]
    for _ in range(random_.choice([0, 0, 0, 1, 3, 20])):
        frames.append(random_.randbytes(random_.choice([0, 1, 1000, 100_000])))
    return frames


def test_four_thousand_malformed_messages_do_no_harm(start_backend):
    backend = start_backend()
    found = connection.read(backend.home / connection.FILE_NAME)
    random_ = random.Random(5)
    broker = psutil.Process(backend.process.pid)

    def flood(count):
        for address in (found.control, found.data):
            socket = Raw(found, address)
            waiting = 0
            for _ in range(count):
                socket.socket.send_multipart(_noise(random_))
                waiting += 1
                while waiting > 20:
                    waiting -= "re" in json.loads(socket.socket.recv_multipart()[0]) or True
            socket.close()

    flood(500)
    before = broker.memory_info().rss
    flood(2000)
    grown = broker.memory_info().rss - before
    assert backend.process.poll() is None, backend.log()
    assert grown < 8 * 2**20, f"{grown / 2**20:.1f} MB more"
    assert "Traceback" not in backend.log()
    with backend.client() as client:
        assert client.ensure_asset(b"still here")


def test_a_client_that_never_reads_does_not_stop_the_others(start_backend, shot):
    backend = start_backend()
    found = connection.read(backend.home / connection.FILE_NAME)
    deaf = Raw(found, found.control)
    deaf.socket.rcvhwm = 1
    with backend.client() as client:
        for _ in range(5000):
            deaf.socket.send(json.dumps({"version": 1, "kind": "subscribe", "id": 1, "epoch": "", "since": 0}).encode())
        began = time.monotonic()
        assert list(client.events(shot.submit(client), timeout=30))[-1].kind == "done"
        assert time.monotonic() - began < 20
    deaf.close()


def test_a_request_longer_than_the_limit_is_refused_before_it_is_sent(shared_backend, shot):
    with shared_backend.client() as client:
        with pytest.raises(Refused) as refused:
            shot.submit(client, text="x" * 70_000)
        assert refused.value.reason == "too_large"
        assert client.hello()


def test_what_is_encoded_is_decoded():
    message = Message("chunk", {"upload": "7", "text": "ünï \ud800"}, (b"abc", memoryview(b"defg")), id=3)
    assert protocol.decode([bytes(frame) for frame in protocol.encode(message)]) == replace(
        message, buffers=(b"abc", b"defg")
    )
