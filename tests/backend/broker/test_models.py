"""Models through the broker: what is here is told and told again, tasks run beside everything else, memory is freed."""

import shutil
import time

import psutil
import pytest
from retake_backend.weights.catalogue import CATALOGUE
from retake_backend.weights.store import write_manifest
from retake_shared import protocol
from retake_shared.client import ModelState, Refused

from tests.backend.weights.conftest import SHARDS, wan
from tests.backend.weights.conftest import VACE as REPOSITORY
from tests.backend.weights.local_hub import LocalHub, Repository

VACE = "wan2.1-vace-1.3b"
SLOW = 30 * 2**30
"""A file of so many bytes takes a minute to hash, and no room on the disk."""


def install(models, name, nbytes=1000, **about):
    """A folder that the store takes for the model: what is in its files, a verification alone would find out."""
    place = models / name
    (place / "transformer").mkdir(parents=True)
    with (place / "transformer" / "weights.safetensors").open("wb") as file:
        file.truncate(nbytes)
    write_manifest(place, name, random=True, licence="CC0-1.0", **about)
    return place


def install_slow(models, name):
    return install(models, name, SLOW, hashes={"transformer/weights.safetensors": "0" * 64})


def state_of(client, name):
    return next(model for model in client.models().models if model.name == name)


def follow(client, name, until, timeout=20):
    """The states of a model as they are told, up to the first that `until` is true of."""
    told, deadline = [], time.monotonic() + timeout
    while time.monotonic() < deadline:
        for event in client.poll(0.5):
            if event.kind == "model" and event.data["name"] == name:
                assert (event.job, event.sequence) == ("", 0)
                told.append(ModelState.from_json(event.data))
                if until(told[-1]):
                    return told
    raise AssertionError(f"not told within {timeout} s; told: {told}")


def ended(model):
    return model.task == ""


def task_processes(backend):
    broker = psutil.Process(backend.process.pid)
    return [child for child in broker.children() if "retake_backend.weights.task" in child.cmdline()]


def ready(engines, name="vace"):
    return next((engine["ready"] for engine in engines if engine["name"] == name), None)


def wait_until(condition, timeout=10):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)


def test_the_catalogue_and_what_is_missing_is_told(start_backend, worker_of):
    backend = start_backend()
    with backend.client() as client:
        models = client.models()
        assert models.place == str(backend.home / "models")
        assert [model.name for model in models.models] == list(CATALOGUE)
        wan, parts = state_of(client, "wan2.1-t2v-1.3b"), state_of(client, "track2view")
        assert (wan.state, wan.kind, wan.task, wan.licence, wan.error) == ("missing", "base", "", "Apache-2.0", None)
        assert wan.nbytes > 10**9
        assert parts.kind == "parts"
        worker_of(client)
        assert ready(client.info.engines, "preview")
        track2view = next(engine for engine in client.info.engines if engine["name"] == "track2view")
        assert not track2view["ready"]
        assert {"name": wan.name, "label": wan.label, "bytes": wan.nbytes, "licence": wan.licence} in track2view[
            "missing"
        ]


def test_a_model_imported_in_a_terminal_is_noticed_and_so_is_its_going(start_backend, worker_of):
    backend = start_backend()
    models = backend.home / "models"
    with backend.client() as client, backend.client() as other:
        worker_of(client)
        assert ready(client.info.engines) is False
        place = install(models, VACE)
        assert follow(client, VACE, lambda model: model.state == "installed")[-1].random
        wait_until(lambda: ready(client.hello().engines))
        heard = other.poll()
        assert [event.data["state"] for event in heard if event.kind == "model"] == ["installed"]
        assert ready([event for event in heard if event.kind == "engines"][-1].data["engines"]), "nobody has to ask"
        shutil.rmtree(place)
        follow(client, VACE, lambda model: model.state == "missing")
        wait_until(lambda: ready(client.hello().engines) is False)


def test_what_was_told_of_a_model_before_an_answer_is_not_told_after_it(start_backend):
    """Else a model that is being verified looks idle again."""
    backend = start_backend()
    with backend.client() as client, backend.client() as other:
        install(backend.home / "models", VACE)
        follow(other, VACE, lambda model: model.state == "installed")
        assert client.verify(VACE).task
        assert follow(client, VACE, lambda model: True)[0].task


def test_a_download_without_the_internet_fails_in_words(start_backend, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with start_backend().client() as client:
        assert client.pull(VACE).task in ("pull", "waiting")
        told = follow(client, VACE, ended, 60)
        assert told[0].task == "pull"
        assert "HF_HUB_OFFLINE" in told[-1].error["what"]
        assert told[-1].error["remedy"]
        assert state_of(client, VACE).error == told[-1].error, "it is still known later"
        client.pull("track2view")
        assert follow(client, "track2view", ended, 60)[-1].error["remedy"], "nobody has published it"


def test_a_model_is_downloaded_stopped_gone_on_with_and_its_engine_ready(
    start_backend, worker_of, monkeypatch, tmp_path
):
    hub = LocalHub({REPOSITORY: Repository(wan("WanVACEPipeline", "WanVACETransformer3DModel", 30))})
    hub.delay = 0.05  # for each 64 kB of 5 MB
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, value in {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}.items():
        monkeypatch.setenv(name, value)
    backend = start_backend()
    try:
        with backend.client() as client:
            worker_of(client)
            client.pull(VACE)
            told = follow(client, VACE, lambda model: model.task == "pull" and model.done > 2**20, 60)
            assert [model.done for model in told] == sorted(model.done for model in told)
            assert 5 * 2**20 < told[-1].total < 6 * 2**20, "the hub was asked how much it is"
            client.stop(VACE)
            stopped = follow(client, VACE, ended)[-1]
            assert (stopped.state, stopped.error) == ("partial", None)
            assert 2**20 < stopped.done < stopped.total
            hub.delay = 0.0
            client.pull(VACE)
            pulled = follow(client, VACE, ended, 60)[-1]
            assert (pulled.state, pulled.error, pulled.random) == ("installed", None, False)
            assert hub.starts(SHARDS[1])[-1] > 2**19, "what had come was not fetched again"
            wait_until(lambda: ready(client.hello().engines))
    finally:
        hub.close()


def test_a_damaged_model_is_found_and_its_engine_not_ready(start_backend, worker_of):
    backend = start_backend()
    place = install(backend.home / "models", VACE)
    with backend.client() as client:
        worker_of(client)
        wait_until(lambda: ready(client.hello().engines))
        client.verify(VACE)
        assert follow(client, VACE, ended)[-1].error is None
        with (place / "transformer" / "weights.safetensors").open("r+b") as file:
            file.write(b"x")
        client.verify(VACE)
        last = follow(client, VACE, ended)[-1]
        assert last.state == "damaged"
        assert "weights.safetensors" in last.error["what"]
        wait_until(lambda: ready(client.hello().engines) is False)


def test_tasks_are_done_one_after_the_other_beside_everything_else(start_backend, shot):
    backend = start_backend()
    for name in (VACE, "svd-xt"):
        install_slow(backend.home / "models", name)
    with backend.client() as client, backend.client() as other:
        assert client.verify(VACE).task == "verify"
        assert client.verify("svd-xt").task == "waiting"
        assert client.verify(VACE).task == "verify", "asked twice is done once"
        assert follow(client, VACE, lambda model: model.done > 0)[-1].total == SLOW
        with pytest.raises(Refused, match="under way"):
            client.pull(VACE)
        assert len(task_processes(backend)) == 1
        began = time.monotonic()
        other.stats()
        assert time.monotonic() - began < 0.5, "nobody waits for it"
        assert list(other.events(shot.submit(other), timeout=30))[-1].kind == "done"
        client.stop("svd-xt")
        assert state_of(client, "svd-xt").task == ""
        (first,) = task_processes(backend)
        client.stop(VACE)
        client.verify(VACE)
        wait_until(lambda: [task for task in task_processes(backend) if task.pid != first.pid])
        client.stop(VACE)
        stopped = follow(client, VACE, ended)[-1]
        assert (stopped.error, stopped.state) == (None, "installed")
        assert task_processes(backend) == []
        assert client.stop(VACE).task == "", "nothing to stop is no error"


def test_a_task_keeps_the_backend_up_and_ends_with_it(start_backend):
    backend = start_backend(idle_seconds=0.5)
    install_slow(backend.home / "models", VACE)
    with backend.client() as client:
        client.verify(VACE)
        follow(client, VACE, lambda model: model.done > 0)
    time.sleep(7)  # by then it has noticed that the client has left
    assert backend.process.poll() is None
    (task,) = task_processes(backend)
    backend.kill()
    task.wait(8)
    backend.start()
    with backend.client() as client:
        assert state_of(client, VACE).state == "installed"
        client.verify(VACE)
        follow(client, VACE, lambda model: model.done > 0)
        (task,) = task_processes(backend)
        client.shutdown()
    assert backend.process.wait(10) == 0
    task.wait(5)


def test_a_model_is_removed_but_not_under_a_job(start_backend, shot, worker_of):
    backend = start_backend()
    place = install(backend.home / "models", VACE)
    with backend.client() as client:
        worker_of(client)
        job = shot.submit(client, seconds=0.2)
        with pytest.raises(Refused) as refused:
            client.remove(VACE)
        assert refused.value.reason == "busy"
        list(client.events(job, timeout=30))
        client.remove(VACE)
        last = follow(client, VACE, ended)[-1]
        assert (last.state, last.error) == ("missing", None)
        assert not place.exists()
        wait_until(lambda: ready(client.hello().engines) is False)
        assert list(client.events(shot.submit(client, frames=(0, 1)), timeout=30))[-1].kind == "done"


@pytest.mark.parametrize("name", ["gpt-9", "../assets", "", "WAN2.1-T2V-1.3B", "x" * 64])
@pytest.mark.parametrize("request_kind", ["pull", "stop", "verify", "remove"])
def test_only_models_of_the_catalogue_can_be_named(shared_backend, request_kind, name):
    with shared_backend.client() as client:
        with pytest.raises(Refused) as refused:
            getattr(client, request_kind)(name)
        assert refused.value.reason == "no_model"
        assert refused.value.reason in protocol.REASONS
        assert client.stats()["open_jobs"] == 0


def test_memory_is_freed_when_asked_but_not_under_a_job(start_backend, shot, worker_of):
    megabytes = 300
    with start_backend().client() as client:
        client.free()  # also when no worker is up yet
        worker = worker_of(client)
        assert list(client.events(shot.submit(client, frames=(0, 2), keep=megabytes), timeout=60))[-1].kind == "done"
        held = worker.memory_info().rss
        client.free()
        assert held - worker.memory_info().rss > 0.8 * megabytes * 2**20
        job = shot.submit(client, seconds=0.3)
        wait_until(lambda: client.job(job).state == "running")
        with pytest.raises(Refused) as refused:
            client.free()
        assert refused.value.reason == "busy"
        client.cancel(job)
        wait_until(lambda: client.job(job).state == "cancelled")
        client.free()
        assert worker.is_running()


def test_workers_ask_nothing_of_the_internet(start_backend, worker_of, tmp_path):
    backend = start_backend(models=tmp_path / "weights")
    with backend.client() as client:
        environment = worker_of(client).environ()
        assert client.models().place == str(tmp_path / "weights")
    assert environment["RETAKE_MODELS"] == str(tmp_path / "weights")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY"):
        assert environment[name] == "1"
