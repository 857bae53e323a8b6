"""A hub on this machine: what huggingface.co answers, from dictionaries, with the faults that networks have.

Speaks the parts of the hub's interface that a pull uses: the list of a repository's files with sizes and hashes; HEAD
of a file, which sends large ones elsewhere (X-Linked-Size, X-Linked-Etag, Location on another host); GET with Range.
"""

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".model", ".bin", ".pth")


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """files: path -> content. gated: only for `token`. listed_bytes: sizes that are told in place of the true ones."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    gated: bool = False
    token: str = "hf_accepted"
    listed_bytes: dict[str, int] = field(default_factory=dict)

    def siblings(self) -> list[dict[str, object]]:
        listed: list[dict[str, object]] = []
        for path, content in self.files.items():
            nbytes = self.listed_bytes.get(path, len(content))
            entry: dict[str, object] = {"rfilename": path, "size": nbytes, "blobId": git_sha1(content)}
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": nbytes, "pointerSize": 134}
            listed.append(entry)
        return listed


@dataclass(frozen=True)
class Sent:
    """Bytes of a file's content that went out: `start`, and how many from there. token: that came with the request."""

    path: str
    start: int
    nbytes: int
    token: str


class LocalHub:
    """Serves `repositories` at `endpoint`. Its faults are attributes, to be set while it runs.

    cut: path -> bytes after which the connection breaks, once. down: paths answered 503. altered: paths whose first
    byte is sent wrong. delay: seconds before each 64 kB. sent: what went out so far. asked: every request line.
    """

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.cut: dict[str, int] = {}
        self.down: set[str] = set()
        self.altered: set[str] = set()
        self.delay = 0.0
        self.sent: list[Sent] = []
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        # The same machine by another name: to a client it is another host, as the hub's storage is.
        self.storage = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def bytes_sent(self, path: str) -> int:
        return sum(sent.nbytes for sent in self.sent if sent.path == path)

    def starts(self, path: str) -> list[int]:
        return [sent.start for sent in self.sent if sent.path == path]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                parts = unquote(urlsplit(self.path).path).strip("/").split("/")
                if parts[0] == "api":
                    self._list("/".join(parts[2:4]))
                elif parts[0] == "storage":
                    self._content("/".join(parts[1:3]), "/".join(parts[3:]))
                else:
                    self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

            def _list(self, name: str) -> None:
                repository = hub.repositories.get(name)
                if repository is None:
                    self._refuse(401, "RepoNotFound")
                    return
                body = {"id": name, "sha": repository.commit, "siblings": repository.siblings()}
                self._reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

            def _resolve(self, name: str, commit: str, path: str) -> None:
                repository = hub.repositories[name]
                token = self._token()
                if path in hub.down:
                    self._refuse(503, "")
                elif repository.gated and token != repository.token:
                    self._refuse(403 if token else 401, "GatedRepo")
                elif commit != repository.commit:
                    self._refuse(404, "RevisionNotFound")
                elif path not in repository.files:
                    self._refuse(404, "EntryNotFound")
                elif path.endswith(LARGE):
                    content = repository.files[path]
                    sha256 = hashlib.sha256(content).hexdigest()
                    headers = {
                        "X-Repo-Commit": commit,
                        "X-Linked-Size": str(len(content)),
                        "X-Linked-Etag": f'"{sha256}"',
                        "Location": f"{hub.storage}/storage/{name}/{path}",
                    }
                    self._reply(302, headers, b"")
                elif self.command == "HEAD":
                    content = repository.files[path]
                    headers = {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(content)}"'}
                    self._reply(200, headers | {"Content-Length": str(len(content))}, b"")
                else:
                    self._content(name, path)

            def _content(self, name: str, path: str) -> None:
                if path in hub.down:
                    self._refuse(503, "")
                    return
                content = hub.repositories[name].files[path]
                if path in hub.altered:
                    content = bytes([content[0] ^ 255]) + content[1:]
                start = 0
                if "Range" in self.headers:
                    start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                stop = hub.cut.pop(path, len(content))
                done = start
                try:
                    while done < stop:
                        if hub.delay:
                            time.sleep(hub.delay)
                        self.wfile.write(content[done : min(done + (1 << 16), stop)])
                        done = min(done + (1 << 16), stop)
                except OSError:
                    pass  # the client is gone
                hub.sent.append(Sent(path, start, done - start, self._token()))
                if done < len(content):
                    self.close_connection = True

            def _token(self) -> str:
                return self.headers.get("authorization", "").removeprefix("Bearer ")

            def _refuse(self, status: int, code: str) -> None:
                self._reply(status, {"X-Error-Code": code} if code else {}, b"")

            def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        return Handler
