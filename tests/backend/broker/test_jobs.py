"""A job from submit to take, over real sockets and through real processes."""

import json
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
import pytest
from retake_backend.broker.supervisor import Patience
from retake_backend.footage import FootageReader
from retake_shared import protocol
from retake_shared.client import Refused
from retake_shared.shot import Take

cv2 = pytest.importorskip("cv2")

FRAMES = 8


def kinds(events):
    return [event.kind for event in events if event.kind not in ("progress", "frame")]


def test_a_take_comes_back_frame_exact(shared_backend, shot, tmp_path):
    with shared_backend.client() as client:
        events = list(client.events(shot.submit(client), timeout=30))
        assert kinds(events) == ["queued", "running", "done"]
        frames = {(e.data["kind"], e.data.get("index")): e.data for e in events if e.kind == "frame"}
        assert len(frames) == 2 * FRAMES + 1
        stored = [event.sequence for event in events if event.sequence]
        assert stored == sorted(set(stored))
        assert any(event.kind == "progress" for event in events)

        with FootageReader(shot.footage) as reader:
            for index in range(FRAMES):
                data = frames["rgb", index]
                into = tmp_path / f"{index}.png"
                assert client.fetch(data["sha256"], into) == data["nbytes"]
                picture = cv2.cvtColor(cv2.imread(str(into)), cv2.COLOR_BGR2RGB)
                assert np.array_equal(picture, reader.frame(index))
        take = Take.from_json(json.loads(client.fetch_bytes(frames["take", None]["sha256"])))
        assert (take.start, take.stop, take.notes) == (0, FRAMES, ("a trial",))
        assert take.footage_sha256 == client.ensure_asset(shot.footage)
        assert not list(tmp_path.glob("*.part"))
        state = client.job(events[0].job)
        assert (state.state, state.attempt, state.sequence) == ("done", 1, stored[-1])


def test_an_asset_is_sent_once(start_backend, shot):
    with start_backend().client() as client:
        list(client.events(shot.submit(client, frames=(0, 1)), timeout=30))
        sent = client.stats()
        assert sent["uploads"] == 3
        assert sent["bytes_received"] == shot.footage.stat().st_size + len(shot.solve_bytes) + len(shot.edit_bytes)
        list(client.events(shot.submit(client, frames=(1, 2)), timeout=30))
        again = client.stats()
        assert (again["uploads"], again["bytes_received"]) == (3, sent["bytes_received"])


def test_the_same_submit_twice_is_one_job(shared_backend, shot):
    with shared_backend.client() as client:
        spec, job = shot.spec(client, frames=(0, 1)), uuid.uuid4().hex
        assert client.submit(spec, job) == client.submit(spec, job) == job
        assert [state.job for state in client.jobs()].count(job) == 1
        assert kinds(client.events(job, timeout=30)) == ["queued", "running", "done"]
        client.submit(spec, job)
        assert client.job(job).state == "done"
        with pytest.raises(Refused) as refused:
            client.submit(shot.spec(client, frames=(0, 2)), job)
        assert refused.value.reason == "conflict"


def test_a_job_without_its_files_is_refused_naming_them(shared_backend, shot):
    with shared_backend.client() as client:
        spec = shot.spec(client)
        with pytest.raises(Refused) as refused:
            client.submit(type(spec)(spec.footage_sha256, "x", "0" * 64, spec.edit_sha256, spec.settings))
        assert refused.value.reason == "missing_assets"
        assert refused.value.fields["missing"] == ["0" * 64]


def test_what_the_engine_says_reaches_the_client_without_retry(shared_backend, shot):
    with shared_backend.client() as client:
        events = list(client.events(shot.submit(client, fail=2), timeout=30))
        assert kinds(events) == ["queued", "running", "failed"]
        assert events[-1].data == {
            "what": "the trial engine does not like it.", "where": "frame 2", "remedy": "Use another engine."
        }  # fmt: skip
        assert client.job(events[0].job).error == events[-1].data


def test_a_lost_gpu_fails_one_job_in_words_and_the_next_has_a_fresh_process(shared_backend, shot, worker_of):
    with shared_backend.client() as client:
        before = worker_of(client)
        lost, after = shot.submit(client, lost=2), shot.submit(client)
        (failed,) = [e for e in client.events(lost, timeout=60) if e.kind == "failed"]
        assert "GPU failed" in failed.data["what"]
        assert kinds(client.events(after, timeout=60))[-1] == "done"
        assert client.job(lost).attempt == 1
        assert client.job(after).attempt == 1, "it does not begin in the process that is about to end"
        assert worker_of(client) != before


def test_a_program_that_an_engine_starts_does_not_read_what_the_broker_says(shared_backend, shot):
    with shared_backend.client() as client:
        events = client.events(shot.submit(client, frames=(0, 1), starts="cat"), timeout=20)
        assert kinds(events)[-1] == "done", "cat reads its stdin to the end"


@pytest.mark.parametrize("wrong", ["engine", "edit", "footage", "frames"])
def test_wrong_input_fails_with_a_remedy_and_the_users_names(shared_backend, shot, wrong):
    with shared_backend.client() as client:
        wanted = {"engine": {"engine": "no such"}, "frames": {"frames": (0, 99)}}.get(wrong, {})
        spec = shot.spec(client, **wanted)
        if wrong == "edit":
            spec = type(spec)(spec.footage_sha256, "x", spec.solve_sha256, spec.solve_sha256, spec.settings)
        if wrong == "footage":
            text = client.ensure_asset(b"this is no video")
            spec = type(spec)(text, "holiday.mp4", spec.solve_sha256, spec.edit_sha256, spec.settings)
        last = list(client.events(client.submit(spec), timeout=30))[-1]
        assert last.kind == "failed"
        assert last.data["what"]
        if wrong == "footage":
            assert "holiday.mp4" in last.data["where"] + last.data["what"]
            assert str(shared_backend.home) not in json.dumps(last.data)


def test_cancel_answers_at_once_and_stops_within_a_step(shared_backend, shot, worker_of):
    with shared_backend.client() as client:
        before = worker_of(client)
        job = shot.submit(client, seconds=0.3)
        client.subscribe(("", 0), job)
        wait_for(client, "frame")
        began = time.monotonic()
        answer = client.cancel(job)
        assert time.monotonic() - began < 0.1
        assert answer.state in ("running", "cancelled")
        wait_for(client, "cancelled")
        assert time.monotonic() - began < 1.0
        assert client.job(job).state == "cancelled"
        assert worker_of(client).pid == before.pid, "a worker that stops by itself is kept"
        assert client.cancel(job).state == "cancelled", "asking again changes nothing"


def test_a_waiting_job_is_cancelled_without_ever_running(shared_backend, shot):
    with shared_backend.client() as client:
        first, second = shot.submit(client, seconds=0.1), shot.submit(client)
        client.cancel(second)
        assert kinds(client.events(second, timeout=30)) == ["queued", "cancelled"]
        assert kinds(client.events(first, timeout=30))[-1] == "done"


def test_a_worker_that_does_not_stop_is_killed(start_backend, shot):
    with start_backend(patience=Patience(cancel_seconds=0.5)).client() as client:
        job = shot.submit(client, hang=1)
        client.subscribe(("", 0), job)
        wait_for(client, "frame", "progress")
        time.sleep(0.1)
        client.cancel(job)
        began = time.monotonic()
        wait_for(client, "cancelled")
        assert 0.4 < time.monotonic() - began < 3
        assert client.job(job).attempt == 1
        assert kinds(client.events(shot.submit(client, frames=(0, 2)), timeout=30))[-1] == "done"


def test_two_clients_see_each_their_own_job_and_may_see_all(shared_backend, shot):
    with shared_backend.client() as one, shared_backend.client() as other, shared_backend.client() as watcher:
        watcher.subscribe()
        jobs = [shot.submit(client, seconds=0.02, seed=seed) for seed, client in enumerate((one, other))]
        for client, job in zip((one, other), jobs, strict=True):
            events = list(client.events(job, timeout=30))
            assert kinds(events) == ["queued", "running", "done"]
            assert {event.job for event in events} == {job}
        seen = set()
        while len(seen) < 2:
            polled = watcher.poll(10)
            assert polled
            seen |= {event.job for event in polled if event.kind == "done"}
        assert seen == set(jobs)


def test_progress_is_thinned_and_the_end_still_told(shared_backend, shot):
    with shared_backend.client() as client:
        events = list(client.events(shot.submit(client, engine="chattering", frames=(0, 1)), timeout=60))
        assert events[-1].kind == "done"
        assert len([event for event in events if event.kind == "progress"]) < 200


def test_a_client_that_comes_back_is_told_what_it_missed(shared_backend, shot):
    with shared_backend.client() as client:
        job = shot.submit(client, seconds=0.05)
        seen = []
        for event in client.events(job, timeout=30):
            seen += [event] if event.sequence else []
            if len(seen) == 5:
                break
    with shared_backend.client() as client:
        rest = [e for e in client.events(job, (seen[-1].epoch, seen[-1].sequence), timeout=30) if e.sequence]
        whole = [e for e in client.events(job, timeout=30) if e.sequence]
        strange = [e for e in client.events(job, ("another epoch", 10**6), timeout=30) if e.sequence]
    assert seen + rest == whole == strange
    assert whole[-1].kind == "done"


def test_an_unknown_job_is_said_to_be_unknown(shared_backend):
    with shared_backend.client() as client:
        assert client.job("0" * 32).state == client.cancel("0" * 32).state == "unknown"
        with pytest.raises(Refused, match="does not know"):
            list(client.events("0" * 32, timeout=5))


def test_a_fetch_that_fails_leaves_no_file(shared_backend, tmp_path):
    with shared_backend.client() as client:
        with pytest.raises(Refused) as refused:
            client.fetch("0" * 64, tmp_path / "x.png")
        assert refused.value.reason == "no_asset"
        assert list(tmp_path.iterdir()) == []


def test_an_asset_of_many_chunks_travels_whole_and_can_be_stopped(shared_backend, tmp_path):
    content = np.random.default_rng(3).bytes(20 * protocol.CHUNK_BYTES + 7)
    steps = []

    def stop(done, total):
        raise KeyboardInterrupt

    with shared_backend.client() as client:
        with pytest.raises(KeyboardInterrupt):
            client.ensure_asset(content, stop)
        name = client.ensure_asset(content, lambda done, total: steps.append((done, total)))
        assert steps[-1] == (len(content), len(content))
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        with pytest.raises(KeyboardInterrupt):
            client.fetch(name, tmp_path / "half", stop)
        client.fetch(name, tmp_path / "whole")
        assert (tmp_path / "whole").read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_the_preview_engine_works_through_the_broker(shared_backend, shot, tmp_path):
    with shared_backend.client() as client, FootageReader(shot.footage) as reader:
        events = list(client.events(shot.submit(client, engine="preview"), timeout=60))
        assert kinds(events) == ["queued", "running", "done"], events[-1].data
        frame = next(e.data for e in events if e.kind == "frame" and e.data["kind"] == "rgb" and e.data["index"] == 5)
        client.fetch(frame["sha256"], tmp_path / "5.png")
        picture = cv2.cvtColor(cv2.imread(str(tmp_path / "5.png")), cv2.COLOR_BGR2RGB)
        assert np.array_equal(picture, reader.frame(5)), "an edit that changes nothing gives the footage back"


def test_a_cancel_does_not_wait_behind_pixels(shared_backend, shot):
    stop = threading.Event()

    def pour():
        with shared_backend.client() as client:
            while not stop.is_set():
                client.ensure_asset(np.random.default_rng().bytes(8 * protocol.CHUNK_BYTES))

    pouring = threading.Thread(target=pour)
    pouring.start()
    try:
        with shared_backend.client() as client:
            seconds = []
            for _ in range(20):
                began = time.monotonic()
                client.cancel("0" * 32)
                seconds.append(time.monotonic() - began)
                time.sleep(0.05)
    finally:
        stop.set()
        pouring.join()
    assert sorted(seconds)[-3] < 0.1, seconds


def test_a_new_subscription_is_not_mixed_with_the_one_before(shared_backend, shot):
    with shared_backend.client() as client:
        client.subscribe(("", 0))
        other = shot.submit(client)
        job = shot.submit(client, frames=(0, 1))
        assert {event.job for event in client.events(job, timeout=30)} == {job}
        assert client.job(other).state == "done"


def test_the_broker_loads_no_pictures_and_no_engine():
    code = (
        "import sys, retake_backend.broker.server; "
        "print(sorted({'numpy', 'torch', 'cv2', 'av', 'retake_backend.engines'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def wait_for(client, *wanted, timeout=15):
    """Poll until an event of one of these kinds comes."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for event in client.poll(0.5):
            if event.kind in wanted:
                return event
    raise AssertionError(f"no {wanted} within {timeout} s")


def test_a_worker_keeps_to_the_cores_it_was_given(start_backend, worker_of):
    with start_backend(cores=1).client() as client:
        assert len(worker_of(client).cpu_affinity()) == 1
        assert client.hello().device == "CPU, 1 core"
