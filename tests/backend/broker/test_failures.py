"""Processes that die, hang and come back: what was acknowledged is done, once, and in order."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from retake_backend.broker.supervisor import Patience
from retake_shared import connection
from retake_shared.client import BackendGone, Client, StartFailed, start_or_find

FRAMES = 8


def kinds(events):
    return [event.kind for event in events if event.kind not in ("progress", "frame")]


def frames(events):
    return [(e.data["kind"], e.data.get("index")) for e in events if e.kind == "frame"]


def every_frame_once(events):
    return sorted(frames(events), key=str) == sorted(
        [(kind, index) for kind in ("rgb", "holes") for index in range(FRAMES)] + [("take", None)], key=str
    )


def test_a_killed_worker_is_replaced_and_the_job_finishes(start_backend, shot, worker_of):
    with start_backend().client() as client:
        worker = worker_of(client)
        job = shot.submit(client, seconds=0.1)
        events = []
        for event in client.events(job, timeout=30):
            events.append(event)
            if len(frames(events)) == 6 and worker.is_running():
                worker.kill()
                killed = time.monotonic()
            if event.kind == "queued" and len(events) > 1:
                assert time.monotonic() - killed < 1
                assert event.data["why"].startswith("the system ended the worker")
        assert kinds(events) == ["queued", "running", "queued", "running", "done"]
        assert [event.data["attempt"] for event in events if event.kind == "running"] == [1, 2]
        assert every_frame_once(events), "what was told before the death is not told again"
        assert client.stats()["worker_deaths"] == 1


def test_a_job_that_kills_every_worker_fails_with_its_last_words(start_backend, shot):
    with start_backend().client() as client:
        events = list(client.events(shot.submit(client, die=1), timeout=60))
        assert kinds(events) == ["queued", *["running", "queued"] * 2, "running", "failed"]
        assert "out of memory, says the trial engine" in events[-1].data["what"]
        assert "3 times" in events[-1].data["what"]
        assert kinds(client.events(shot.submit(client, frames=(0, 1)), timeout=30))[-1] == "done", (
            "the next job is well"
        )


def test_a_job_that_kills_one_worker_finishes(start_backend, shot, tmp_path):
    with start_backend().client() as client:
        events = list(client.events(shot.submit(client, die=3, witness=str(tmp_path / "died")), timeout=60))
        assert kinds(events) == ["queued", "running", "queued", "running", "done"]
        assert every_frame_once(events)


def test_a_worker_that_waits_for_ever_is_replaced(start_backend, shot, tmp_path):
    with start_backend(patience=Patience(still_seconds=3.0)).client() as client:
        events = list(client.events(shot.submit(client, hang=2, witness=str(tmp_path / "hung")), timeout=30))
        assert kinds(events) == ["queued", "running", "queued", "running", "done"]
        assert "stood still" in [event.data["why"] for event in events if event.kind == "queued"][1]


def test_a_frozen_worker_is_replaced(start_backend, shot, worker_of):
    with start_backend(patience=Patience(lease_seconds=3.0)).client() as client:
        worker = worker_of(client)
        job = shot.submit(client, seconds=0.3)
        events = []
        for event in client.events(job, timeout=30):
            events.append(event)
            if len(frames(events)) == 2 and worker.is_running():
                worker.suspend()
        assert kinds(events) == ["queued", "running", "queued", "running", "done"]
        assert "silent" in [event.data["why"] for event in events if event.kind == "queued"][1]
        assert every_frame_once(events)


def test_a_step_that_computes_for_long_is_not_taken_for_hung(start_backend, shot):
    with start_backend(patience=Patience(lease_seconds=2.5, still_seconds=2.5)).client() as client:
        events = list(client.events(shot.submit(client, frames=(0, 2), compute=6.0), timeout=30))
        assert kinds(events) == ["queued", "running", "done"]


def test_a_worker_that_runs_in_circles_is_replaced(start_backend, shot, tmp_path):
    with start_backend(patience=Patience(step_seconds=3.0)).client() as client:
        circling = {"compute": 60.0, "witness": str(tmp_path / "circled")}
        events = list(client.events(shot.submit(client, frames=(0, 2), **circling), timeout=30))
        assert kinds(events) == ["queued", "running", "queued", "running", "done"]
        assert "get on" in [event.data["why"] for event in events if event.kind == "queued"][1]


def test_a_job_for_which_memory_runs_out_fails_in_those_words(start_backend, shot):
    with start_backend().client() as client:
        events = list(client.events(shot.submit(client, killed=2), timeout=60))
        assert kinds(events) == ["queued", *["running", "queued"] * 2, "running", "failed"]
        assert "memory ran out" in events[-1].data["what"]
        assert "Window" in events[-1].data["remedy"]
        job = shot.submit(client, frames=(0, 2), refused_memory=1)
        assert "memory ran out" in list(client.events(job, timeout=60))[-1].data["what"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux chooses whom to end")
def test_when_memory_runs_out_the_worker_goes_first(start_backend, worker_of):
    backend = start_backend()
    with backend.client() as client:
        worker = worker_of(client)
    processes = (worker.pid, backend.process.pid, os.getpid())
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in processes]
    assert scores[0] == 500
    assert scores[0] > max(scores[1:])


def test_frames_finished_before_an_error_are_not_lost(start_backend, shot):
    with start_backend().client() as client:
        events = list(client.events(shot.submit(client, fail=6), timeout=30))
        assert kinds(events) == ["queued", "running", "failed"]
        assert sorted(frames(events)) == sorted((kind, index) for kind in ("rgb", "holes") for index in range(6))


def test_a_killed_broker_loses_no_acknowledged_job(start_backend, shot, worker_of):
    backend = start_backend()
    with backend.client() as client:
        worker = worker_of(client)
        jobs = [shot.submit(client, seconds=0.05, seed=seed) for seed in range(4)]
        seen = []
        for event in client.events(jobs[0], timeout=30):
            seen += [event] if event.sequence else []
            if len(frames(seen)) >= 5:
                break
        backend.kill()
        with pytest.raises(BackendGone, match="lost"):
            client.job(jobs[0])
    worker.wait(3)
    backend.start()
    with backend.client() as client:
        assert {state.job for state in client.jobs()} == set(jobs)
        last = (seen[-1].epoch, seen[-1].sequence)
        rest = [event for event in client.events(jobs[0], last, timeout=30) if event.sequence]
        assert kinds(seen + rest) == ["queued", "running", "queued", "running", "done"]
        assert every_frame_once(seen + rest)
        for job in jobs[1:]:
            events = list(client.events(job, timeout=30))
            assert kinds(events) == ["queued", "running", "done"]
            assert every_frame_once(events)


def test_a_finished_take_survives_the_broker(start_backend, shot, tmp_path):
    backend = start_backend()
    with backend.client() as client:
        job = shot.submit(client)
        taken = [event.data for event in client.events(job, timeout=30) if event.kind == "frame"]
    backend.kill()
    backend.start()
    with backend.client() as client:
        assert client.job(job).state == "done"
        for number, data in enumerate(taken):
            assert client.fetch(data["sha256"], tmp_path / str(number)) == data["nbytes"]


def test_a_cancel_survives_the_broker(start_backend, shot):
    backend = start_backend(patience=Patience(cancel_seconds=60))
    with backend.client() as client:
        job = shot.submit(client, hang=0)
        while client.job(job).state != "running":
            time.sleep(0.02)
        assert client.cancel(job).cancelling
    backend.kill()
    backend.start()
    with backend.client() as client:
        assert client.job(job).state == "cancelled"


@pytest.mark.parametrize("how", ["signal", "message"])
def test_an_orderly_end_leaves_nothing_behind(start_backend, shot, worker_of, how):
    backend = start_backend()
    with backend.client() as client:
        worker = worker_of(client)
        job = shot.submit(client, seconds=0.2)
        while client.job(job).state != "running":
            time.sleep(0.02)
        if how == "message":
            client.shutdown()
        else:
            backend.process.send_signal(signal.SIGTERM)
        assert backend.process.wait(10) == 0
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert not (backend.home / connection.FILE_NAME).exists()
    assert not list((backend.home / "assets").glob("*.part"))
    backend.start()
    with backend.client() as client:
        assert kinds(client.events(job, timeout=30))[-1] == "done"


def test_a_broker_ends_by_itself_when_nobody_needs_it(start_backend, shot):
    backend = start_backend(idle_seconds=0.8)
    with backend.client() as client:
        time.sleep(1.5)
        assert backend.process.poll() is None, "a client keeps it, also one that says nothing"
        job = shot.submit(client, seconds=0.3)
    time.sleep(1.0)
    assert backend.process.poll() is None, "a job keeps it"
    assert backend.process.wait(15) == 0
    backend.start()
    with backend.client() as client:
        assert client.job(job).state == "done"


def test_a_broker_whose_folder_was_deleted_ends(start_backend):
    backend = start_backend()
    shutil.rmtree(backend.home)
    assert backend.process.wait(15) == 0


def test_a_second_broker_tells_the_first_ones_address(start_backend):
    backend = start_backend()
    address = connection.read(backend.home / connection.FILE_NAME).control
    second = subprocess.run(backend.command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode != 0
    assert "already runs" in second.stderr
    assert address in second.stderr
    with backend.client() as client:
        assert client.hello().pid == backend.process.pid


def test_start_or_find_starts_one_and_finds_it_again(start_backend, tmp_path):
    home = tmp_path / "Ünïcode – 家 home"
    backend = type(start_backend())(home, idle_seconds=60)
    with start_or_find(home, backend.command) as one:
        with start_or_find(home, ["/does/not/exist"]) as other:
            assert other.info.pid == one.info.pid
            assert os.getpgid(one.info.pid) != os.getpgid(0), "it outlives the process that started it"
        one.shutdown()


def test_many_at_once_start_one_backend(start_backend, tmp_path):
    backend = type(start_backend())(tmp_path / "together")
    code = (
        "import sys, json; from pathlib import Path; from retake_shared.client import start_or_find\n"
        "print(start_or_find(Path(sys.argv[1]), json.loads(sys.argv[2])).info.pid)"
    )
    command = [sys.executable, "-c", code, str(backend.home), json.dumps(backend.command)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {process.communicate(timeout=40)[0].strip() for process in started}
    with Client.connect(backend.home / connection.FILE_NAME) as client:
        assert pids == {str(client.info.pid)}
        client.shutdown()


@pytest.mark.parametrize("stale", ["dead", "another process", "garbage", "not ours"])
def test_a_stale_connection_file_misleads_nobody(start_backend, stale):
    backend = start_backend()
    file = backend.home / connection.FILE_NAME
    found = connection.read(file)
    backend.kill()
    if stale == "another process":  # the number was given to somebody else: to us
        connection.write(connection.Connection(**{**vars(found), "pid": os.getpid()}), backend.home)
    elif stale == "garbage":
        file.write_bytes(b"\x00\xff{[")
    elif stale == "not ours":
        file.write_text('{"control": 5}')
    with start_or_find(backend.home, backend.command) as client:
        assert client.info.nonce != found.nonce
        client.shutdown()


def test_the_connection_file_is_private(start_backend):
    backend = start_backend()
    assert (backend.home / connection.FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_connection_file_that_is_just_read_is_replaced_a_moment_later(start_backend, monkeypatch):
    """As on Windows, where clients look for it while the backend starts."""
    backend = start_backend()
    found = connection.read(backend.home / connection.FILE_NAME)
    replace, refusals = os.replace, [PermissionError(13, "Access is denied")] * 3

    def in_use(source, target):
        if refusals:
            raise refusals.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", in_use)
    assert connection.read(connection.write(found, backend.home)) == found
    refusals += [PermissionError(13, "Access is denied")] * 100
    with pytest.raises(PermissionError):
        connection.write(found, backend.home)
    assert not list(backend.home.glob("*.part"))


def test_a_backend_that_cannot_start_says_why(tmp_path):
    with pytest.raises(StartFailed, match="words that come at once"):
        start_or_find(tmp_path / "home", ["sh", "-c", "echo words that come at once; exit 1"])
    with pytest.raises(StartFailed, match="no module named retake_nothing"):
        start_or_find(tmp_path / "home", [sys.executable, "-c", "raise SystemExit('no module named retake_nothing')"])
    with pytest.raises(StartFailed, match="cannot be started"):
        start_or_find(tmp_path / "home", [str(tmp_path / "missing" / "python")])
    with pytest.raises(StartFailed, match="did not answer"):
        start_or_find(tmp_path / "home", [sys.executable, "-c", "import time; time.sleep(3)"], timeout=0.5)


def test_a_worker_that_cannot_start_fails_the_job_with_its_words(start_backend, shot, monkeypatch):
    monkeypatch.setenv("RETAKE_ENGINES", "no_such_module:Engine")
    with start_backend().client() as client:
        events = list(client.events(shot.submit(client), timeout=30))
        assert events[-1].kind == "failed"
        assert "no_such_module" in events[-1].data["what"]
        assert client.hello().worker == "failing"


def test_without_a_backend_the_client_says_so(tmp_path):
    with pytest.raises(BackendGone, match="no backend is running"):
        Client.connect(tmp_path / connection.FILE_NAME)


def test_jobs_are_done_in_the_order_they_came(start_backend, shot):
    with start_backend().client() as client:
        jobs = [shot.submit(client, frames=(0, 1), seed=seed) for seed in range(5)]
        client.subscribe(("", 0))
        ended = []
        while len(ended) < 5:
            polled = client.poll(20)
            assert polled
            ended += [event.job for event in polled if event.kind == "done"]
        assert ended == jobs
        assert [state.job for state in client.jobs()] == jobs[::-1]
