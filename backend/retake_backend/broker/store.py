"""Jobs and their events in SQLite: what is acknowledged is on disk.

One connection, used by one thread: several connections on a write-ahead log need a newer SQLite than many systems
have. Every method that writes is one transaction and raises Refused("disk_full" | "storage") with nothing changed.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retake_shared.protocol import FINAL, Refused

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    job TEXT PRIMARY KEY, name TEXT NOT NULL, spec TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,     -- counts the times it was begun; what comes of an older one is stale
    deaths INTEGER NOT NULL DEFAULT 0,      -- workers that died doing it
    cancelling INTEGER NOT NULL DEFAULT 0, released INTEGER NOT NULL DEFAULT 0,
    sequence INTEGER NOT NULL DEFAULT 0, error TEXT);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, created);
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, time REAL NOT NULL, event TEXT NOT NULL,
    data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_job ON events (job, sequence);
CREATE UNIQUE INDEX IF NOT EXISTS frames_once ON events (job, data) WHERE event = 'frame';
"""
_LISTED = 100
_KEPT_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class Assignment:
    """A job as a worker gets it. spec: footage, solve, edit, where it has one first_frame (sha256), name, settings."""

    job: str
    attempt: int
    spec: dict[str, Any]


class JobStore:
    """The jobs of one home. epoch names this store's count of events."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises Refused when the folder cannot be written or the file is not such a store."""
        self._place = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO about VALUES ('epoch', ?)", (secrets.token_hex(8),))
            self.epoch: str = self._one("SELECT value FROM about WHERE name = 'epoch'")[0]
        except sqlite3.Error as error:
            raise self._refusal(error) from None

    def close(self) -> None:
        """Close in order."""
        self._db.close()

    def submit(self, job: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Store a job; the same job again changes nothing. Returns its entry. Raises Refused("conflict")."""
        stored = json.dumps(spec, sort_keys=True)
        row = self._db.execute("SELECT spec FROM jobs WHERE job = ?", (job,)).fetchone()
        if row is not None:
            if row["spec"] != stored:
                raise Refused("conflict", "another job was submitted under this id.", job, "Make a new id.")
            return self.entry(job)
        with self._transaction():
            self._db.execute(
                "INSERT INTO jobs (job, name, spec, state, created) VALUES (?, ?, ?, 'queued', ?)",
                (job, spec["name"], stored, time.time()),
            )
            self._add(job, "queued", {"attempt": 0, "why": "submitted"})
        return self.entry(job)

    def recover(self) -> None:
        """After a broker's end: queue again what ran, finish what was being cancelled, forget what ended long ago."""
        with self._transaction():
            for row in self._db.execute("SELECT job, attempt, cancelling FROM jobs WHERE state = 'running'").fetchall():
                if row["cancelling"]:
                    self._set(row["job"], "cancelled", {})
                else:
                    self._set(row["job"], "queued", {"attempt": row["attempt"], "why": "the backend was restarted"})
            # Its last event is its end: one that waited for long may have ended a moment ago.
            self._db.execute(
                "DELETE FROM jobs WHERE state IN ('done', 'failed', 'cancelled') "
                "AND sequence IN (SELECT sequence FROM events WHERE time < ?)",
                (time.time() - _KEPT_SECONDS,),
            )
            self._db.execute("DELETE FROM events WHERE job NOT IN (SELECT job FROM jobs)")

    def begin_next(self) -> Assignment | None:
        """Begin the oldest queued job: it is running, under a new attempt number. None when nothing is queued."""
        row = self._db.execute(
            "SELECT job, spec, attempt FROM jobs WHERE state = 'queued' ORDER BY created, rowid LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        attempt = row["attempt"] + 1
        with self._transaction():
            self._db.execute("UPDATE jobs SET attempt = ? WHERE job = ?", (attempt, row["job"]))
            self._set(row["job"], "running", {"attempt": attempt})
        return Assignment(row["job"], attempt, json.loads(row["spec"]))

    def frames(self, job: str, frames: list[dict[str, Any]]) -> None:
        """Store that these frames of a running job are there; those already told are not told again."""
        with self._transaction():
            for frame in frames:
                self._add(job, "frame", frame)

    def finish(self, job: str, state: str, data: dict[str, Any]) -> None:
        """Bring a job to its end, once: a job that has ended stays as it is."""
        with self._transaction():
            self._set(job, state, data)

    def died(self, job: str, why: str, attempts: int, error: dict[str, str]) -> None:
        """The worker died doing this job: queue it again, or after `attempts` deaths fail it with `error`."""
        row = self._one("SELECT attempt, deaths, cancelling FROM jobs WHERE job = ?", job)
        with self._transaction():
            self._db.execute("UPDATE jobs SET deaths = deaths + 1 WHERE job = ?", (job,))
            if row["cancelling"]:
                self._set(job, "cancelled", {})
            elif row["deaths"] + 1 >= attempts:
                self._set(job, "failed", error)
            else:
                self._set(job, "queued", {"attempt": row["attempt"], "why": why})

    def cancel(self, job: str) -> str:
        """Ask for a job to stop; one that waits is cancelled at once. Returns its state, "unknown" for none."""
        row = self._db.execute("SELECT state, cancelling FROM jobs WHERE job = ?", (job,)).fetchone()
        if row is None:
            return "unknown"
        with self._transaction():
            if row["state"] == "queued":
                self._set(job, "cancelled", {})
            elif row["state"] == "running":
                self._db.execute("UPDATE jobs SET cancelling = 1 WHERE job = ?", (job,))
        return str(row["state"])

    def release(self, job: str) -> None:
        """The client holds the take: its frames need not be kept."""
        with self._transaction():
            self._db.execute("UPDATE jobs SET released = 1 WHERE job = ?", (job,))

    def fail_queued(self, error: dict[str, str]) -> None:
        """Fail everything that waits: no worker can be started."""
        with self._transaction():
            for row in self._db.execute("SELECT job FROM jobs WHERE state = 'queued'").fetchall():
                self._set(row["job"], "failed", error)

    def needed(self) -> set[str]:
        """The assets that jobs not yet at their end, and takes not yet fetched, rely on."""
        names: set[str] = set()
        for row in self._db.execute(
            "SELECT job, spec, state FROM jobs WHERE state IN ('queued', 'running') OR (state = 'done' AND NOT released)"
        ):
            if row["state"] != "done":
                spec = json.loads(row["spec"])
                names |= {spec[name] for name in ("footage", "solve", "edit", "first_frame") if name in spec}
            for event in self._db.execute("SELECT data FROM events WHERE job = ? AND event = 'frame'", (row["job"],)):
                names.add(json.loads(event["data"])["sha256"])
        return names

    def open_jobs(self) -> int:
        """How many jobs wait or run."""
        return int(self._one("SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running')")[0])

    def last_sequence(self) -> int:
        """The number of the last event ever stored."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(row[0]) if row else 0

    def entry(self, job: str) -> dict[str, Any]:
        """A job as clients see it; state "unknown" when there is none."""
        row = self._db.execute("SELECT * FROM jobs WHERE job = ?", (job,)).fetchone()
        return _entry(row) if row else {"job": job, "state": "unknown"}

    def entries(self) -> list[dict[str, Any]]:
        """The latest jobs, newest first."""
        rows = self._db.execute("SELECT * FROM jobs ORDER BY created DESC, rowid DESC LIMIT ?", (_LISTED,))
        return [_entry(row) for row in rows]

    def tail(self, since: int, job: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` events after sequence `since`, in order, as the fields of event messages."""
        rows = self._db.execute(
            "SELECT * FROM events WHERE sequence > ? AND (?2 IS NULL OR job = ?2) ORDER BY sequence LIMIT ?3",
            (since, job, limit),
        )
        return [{**dict(row), "epoch": self.epoch, "data": json.loads(row["data"])} for row in rows]

    def _one(self, query: str, *values: Any) -> Any:
        return self._db.execute(query, values).fetchone()

    def _set(self, job: str, state: str, data: dict[str, Any]) -> None:
        if self._one("SELECT state FROM jobs WHERE job = ?", job)["state"] in FINAL:
            return
        self._add(job, state, data)
        error = json.dumps(data) if state == "failed" else None
        self._db.execute("UPDATE jobs SET state = ?, error = ? WHERE job = ?", (state, error, job))

    def _add(self, job: str, event: str, data: dict[str, Any]) -> None:
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO events (job, time, event, data) VALUES (?, ?, ?, ?)",
            (job, time.time(), event, json.dumps(data)),
        )
        if cursor.rowcount:
            self._db.execute("UPDATE jobs SET sequence = ? WHERE job = ?", (cursor.lastrowid, job))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._refusal(error) from None
            raise

    def _refusal(self, error: sqlite3.Error) -> Refused:
        place = str(self._place)
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return Refused("disk_full", "the backend's disk is full.", place, "Free some space there.")
        if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            remedy = "Move it away: the backend begins a new one, without the jobs in it."
            return Refused("storage", f"the file of the jobs is damaged ({error}).", place, remedy)
        return Refused("storage", f"the jobs cannot be stored ({error}).", place, "Check the folder and the disk.")


def _entry(row: sqlite3.Row) -> dict[str, Any]:
    error = {name: words[:800] for name, words in json.loads(row["error"]).items()} if row["error"] else None
    return {
        "job": row["job"],
        "state": row["state"],
        "attempt": row["attempt"],
        "name": row["name"],
        "created": row["created"],
        "sequence": row["sequence"],
        "cancelling": bool(row["cancelling"]),
        "error": error,
    }
