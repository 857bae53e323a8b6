"""Full disks, read-only folders, small caches: refused in words, nothing half-written, nothing acknowledged lost."""

import contextlib
import os
import subprocess
import threading
import time

import pytest
import zmq
from retake_backend.broker.assets import AssetStore
from retake_backend.broker.store import JobStore
from retake_backend.broker.transfer import TransferThread
from retake_shared import wire
from retake_shared.client import Refused

MB = 1024 * 1024


@contextlib.contextmanager
def small_disk(folder, options):
    """A file system of its own at `folder`; skipped where it cannot be mounted."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def refused(action, *arguments):
    with pytest.raises(Refused) as caught:
        action(*arguments)
    return caught.value


def parts(home):
    return list((home / "assets").rglob("*.part"))


def test_a_full_disk_is_refused_and_leaves_no_part(start_backend, tmp_path):
    with small_disk(tmp_path / "disk", "size=40m") as disk, start_backend(disk / "home").client() as client:
        error = refused(client.ensure_asset, os.urandom(60 * MB))
        assert error.reason == "disk_full"
        assert "Free some space" in error.remedy
        assert str(disk) in error.where
        ballast = disk / "ballast"

        def fill(done, total):  # the disk fills up while the file is on its way
            with contextlib.suppress(OSError), ballast.open("ab") as file:
                file.write(bytes(40 * MB))

        assert refused(client.ensure_asset, os.urandom(24 * MB), fill).reason == "disk_full"
        assert parts(disk / "home") == []
        ballast.unlink()
        assert client.ensure_asset(os.urandom(3 * MB))


def test_a_write_that_fails_half_way_leaves_no_part(start_backend, tmp_path):
    """Without the right to mount: the system refuses files over a size."""
    import resource

    backend = start_backend()
    resource.prlimit(backend.process.pid, resource.RLIMIT_FSIZE, (3 * MB, 3 * MB))
    with backend.client() as client:
        assert refused(client.ensure_asset, os.urandom(5 * MB)).reason == "disk_full"
        assert parts(backend.home) == []
        assert client.ensure_asset(os.urandom(2 * MB))


def test_a_job_waits_for_space_and_is_not_lost(start_backend, shot, tmp_path):
    with small_disk(tmp_path / "disk", "size=6m") as disk, start_backend(disk / "home").client() as client:
        spec = shot.spec(client, seconds=0.02)
        ballast = disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(4096))
        jobs, error = [], None
        while error is None and len(jobs) < 500:
            try:
                jobs.append(client.submit(spec))
            except Refused as caught:
                error = caught
        assert error is not None, "a full disk takes no job"
        assert error.reason == "disk_full"
        ballast.unlink()
        for job in jobs:
            last = list(client.events(job, timeout=60))[-1]
            assert last.kind in ("done", "failed")
            assert last.kind == "done" or "full" in last.data["what"]
        assert list(client.events(client.submit(spec), timeout=30))[-1].kind == "done"


def test_a_read_only_home_is_told(tmp_path, start_backend):
    backend = start_backend()
    with small_disk(tmp_path / "locked", "ro") as disk:
        backend.home = disk / "home"
        told = subprocess.run(backend.command, capture_output=True, text=True, timeout=20, check=False)
        assert told.returncode != 0
        assert "cannot write" in told.stderr
        assert str(disk) in told.stderr


def test_a_home_that_is_a_file_is_told(tmp_path, start_backend):
    backend = start_backend()
    (tmp_path / "file").write_text("x")
    backend.home = tmp_path / "file"
    told = subprocess.run(backend.command, capture_output=True, text=True, timeout=20, check=False)
    assert "cannot write" in told.stderr
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "jobs.sqlite").write_bytes(b"this is not a database, whatever its name says" * 100)
    backend.home = tmp_path / "dir"
    told = subprocess.run(backend.command, capture_output=True, text=True, timeout=20, check=False)
    assert "jobs.sqlite" in told.stderr
    assert "Move it away" in told.stderr


def test_the_size_of_one_file_is_limited(start_backend):
    with start_backend(asset_bytes=1 * MB).client() as client:
        assert refused(client.ensure_asset, os.urandom(2 * MB)).reason == "too_large"
        assert client.ensure_asset(os.urandom(MB))


def test_the_cache_drops_the_least_recently_used_and_keeps_what_is_needed(tmp_path):
    (tmp_path / "assets").mkdir()
    store = AssetStore(tmp_path / "assets")
    names = [store.put(os.urandom(1000)) for _ in range(6)]
    for age, name in enumerate(names):
        os.utime(store.path(name), (time.time() - 10_000 + age,) * 2)
    assert store.missing([names[1], "0" * 64]) == ["0" * 64]  # using it makes it recent
    assert store.prune(2500, {names[0]}) == 2000
    assert store.missing(names) == [names[2], names[3], names[4], names[5]]
    assert store.prune(0, set()) == 2000, "what was used a moment ago stays"


def test_the_same_bytes_twice_are_kept_where_a_file_in_use_cannot_be_replaced(tmp_path, monkeypatch):
    """As on Windows: frames of one take may be the same, and one may be on its way to the client."""
    (tmp_path / "assets").mkdir()
    store = AssetStore(tmp_path / "assets")
    name = store.put(b"no hole")
    os.utime(store.path(name), (0, 0))

    def in_use(source, target):
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(os, "replace", in_use)
    assert store.put(b"no hole") == name
    assert store.prune(0, set()) == len(b"no hole"), "it counts as just used"
    assert refused(store.put, b"another").reason == "storage"
    assert list(store.root.glob("*.part")) == []


def test_files_travel_on_when_the_cache_cannot_be_looked_through(tmp_path, monkeypatch):
    store = AssetStore(tmp_path)
    looked = threading.Event()

    def unreadable(limit, keep):
        looked.set()
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(store, "prune", unreadable)
    context, keys = zmq.Context(), wire.Keys.make()
    transfer = TransferThread(context, wire.listen(context, keys)[0], store, MB, MB)
    transfer.start()
    transfer.prune(set())
    assert looked.wait(5)
    transfer.join(0.3)
    assert transfer.is_alive()
    transfer.stop()
    context.destroy(linger=0)


def test_a_job_is_forgotten_long_after_its_end_and_not_after_its_beginning(tmp_path, monkeypatch):
    month = 31 * 24 * 3600
    now = time.time()
    spec = dict.fromkeys(("footage", "solve", "edit"), "0" * 64) | {"name": "x", "settings": {}}
    store = JobStore(tmp_path / "jobs.sqlite")
    monkeypatch.setattr(time, "time", lambda: now - month)
    store.submit("old", spec)
    store.finish("old", "done", {})
    store.submit("waited", spec)
    monkeypatch.setattr(time, "time", lambda: now)
    store.finish("waited", "done", {})
    store.recover()
    assert [entry["job"] for entry in store.entries()] == ["waited"]
    assert [event["event"] for event in store.tail(0, None, 10)] == ["queued", "done"]
    store.close()


def test_takes_not_yet_fetched_are_needed(start_backend, shot, tmp_path):
    backend = start_backend()
    with backend.client() as client:
        job = shot.submit(client)
        made = {event.data["sha256"] for event in client.events(job, timeout=30) if event.kind == "frame"}
        client.shutdown()
        backend.process.wait(10)
    store = JobStore(backend.home / "jobs.sqlite")
    assert store.needed() == made
    store.release(job)
    assert store.needed() == set()
    store.close()
