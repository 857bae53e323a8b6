"""Pulls that break, stop, are killed or run out of disk go on where they were; and the task that the broker runs."""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from retake_backend.weights.store import WeightStore

from .conftest import MB, SHARDS, SVD, VACE, Ran
from .local_hub import LocalHub

Retake = Callable[..., Ran]
BIG = SHARDS[1]


def start(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def part_of(models: Path, file: str) -> int:
    """Bytes of a file that is on its way."""
    found = list((models / ".incoming").rglob(f"{Path(file).name}.*.part"))
    return found[0].stat().st_size if found else 0


def wait_for(models: Path, nbytes: int) -> None:
    """Until so many bytes of the big file came."""
    deadline = time.monotonic() + 20
    while part_of(models, BIG) < nbytes:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_broken_connection_is_taken_up_by_itself(retake: Retake, hub: LocalHub, store: WeightStore) -> None:
    hub.cut[BIG] = 3 * MB + 500
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    first, second = hub.starts(BIG)
    assert first == 0
    assert second >= 2 * MB
    assert store.entry("wan2.1-vace-1.3b").state == "installed"


def test_a_pull_that_failed_in_the_middle_goes_on_there(
    retake: Retake, hub: LocalHub, models: Path, store: WeightStore
) -> None:
    hub.cut[BIG] = 3 * MB + 500
    original = hub.repositories[VACE].files[BIG]

    class GoneAfterTheBreak(dict):  # type: ignore[type-arg]
        def pop(self, *key: object) -> object:
            found = super().pop(*key)
            if key[0] == BIG:
                hub.down.add(BIG)
            return found

    hub.cut = GoneAfterTheBreak(hub.cut)
    failed = retake("pull", "wan2.1-vace-1.3b")
    assert failed.code == 2
    assert "503" in failed.err
    assert "goes on from there" in failed.err
    here = part_of(models, BIG)
    assert here >= 2 * MB
    entry = store.entry("wan2.1-vace-1.3b")
    assert entry.state == "partial"
    assert 2 * MB <= entry.nbytes < entry.total
    assert "partial" in retake("list").out
    hub.cut = {}
    hub.down.clear()
    before = {sent.path for sent in hub.sent if sent.path != BIG}
    hub.sent.clear()
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    assert hub.starts(BIG) == [here]
    assert hub.bytes_sent(BIG) == len(original) - here
    assert not before & {sent.path for sent in hub.sent}
    assert (store.place("wan2.1-vace-1.3b") / BIG).read_bytes() == original


def test_a_disk_that_fills_up_keeps_what_came(
    retake: Retake, hub: LocalHub, models: Path, environment: dict[str, str]
) -> None:
    limit = 3 * MB + 100  # no file of this process may grow larger, which it hears as it hears of a full disk
    process = subprocess.run(
        [sys.executable, "-m", "retake_backend.cli", "models", "pull", "wan2.1-vace-1.3b"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert process.returncode == 2
    assert "the disk is full" in process.stderr
    here = part_of(models, BIG)
    assert 2 * MB <= here <= limit
    hub.sent.clear()
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    assert hub.starts(BIG) == [here]


def test_two_pulls_of_one_model_do_not_mix(
    retake: Retake, hub: LocalHub, models: Path, environment: dict[str, str]
) -> None:
    hub.delay = 0.02
    process = start(environment, "retake_backend.cli", "models", "pull", "wan2.1-vace-1.3b")
    wait_for(models, MB)
    second = retake("pull", "wan2.1-vace-1.3b")
    assert second.code == 2
    assert "another process" in second.err
    hub.delay = 0
    process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_pull_that_is_stopped_or_killed_goes_on_where_it_was(
    retake: Retake, hub: LocalHub, models: Path, environment: dict[str, str], store: WeightStore, how: signal.Signals
) -> None:
    hub.delay = 0.02
    process = start(environment, "retake_backend.cli", "models", "pull", "wan2.1-vace-1.3b")
    wait_for(models, MB)
    process.send_signal(how)
    began = time.monotonic()
    process.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert store.entry("wan2.1-vace-1.3b").state == "partial"
    assert "partial" in retake("list").out
    here = part_of(models, BIG)
    assert here >= MB
    hub.delay = 0
    time.sleep(0.1)  # the hub hears that the client is gone
    hub.sent.clear()
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    assert hub.starts(BIG) == [here]
    assert retake("verify", "wan2.1-vace-1.3b").code == 0


def lines(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    """What a task tells until it ends, its stdin open all the while as a broker keeps it."""
    assert process.stdout is not None
    told = [json.loads(line) for line in process.stdout]
    process.wait(timeout=10)
    return told


TASK = "retake_backend.weights.task"


def test_the_task_tells_the_broker_byte_by_byte(hub: LocalHub, environment: dict[str, str], store: WeightStore) -> None:
    hub.delay = 0.01
    *told, last = lines(start(environment, TASK, "pull", "wan2.1-vace-1.3b"))
    assert last == {"kind": "done"}
    assert {line["kind"] for line in told} == {"progress"}
    whole = told[-1]["total"]
    done = [int(str(line["done"])) for line in told]
    assert done == sorted(done)
    assert done[-1] == whole
    assert len([line for line in told if line["stage"] == f"pulling {BIG}"]) >= 3
    assert store.entry("wan2.1-vace-1.3b").state == "installed"
    assert lines(start(environment, TASK, "verify", "wan2.1-vace-1.3b"))[-1] == {"kind": "done"}
    assert lines(start(environment, TASK, "remove", "wan2.1-vace-1.3b"))[-1] == {"kind": "done"}
    assert store.entry("wan2.1-vace-1.3b").state == "missing"


def test_the_task_tells_what_failed_and_what_to_do(hub: LocalHub, environment: dict[str, str]) -> None:
    process = start(environment, TASK, "pull", "svd-xt")
    *_, last = lines(process)
    assert process.returncode == 1
    assert last["kind"] == "failed"
    assert "accepted its licence" in str(last["what"])
    assert last["where"] == f"https://huggingface.co/{SVD}"
    assert "HF_TOKEN" in str(last["remedy"])


@pytest.mark.parametrize("how", ["terminate", "stdin"])
def test_the_task_ends_when_asked_or_when_the_broker_is_gone(
    hub: LocalHub, models: Path, environment: dict[str, str], store: WeightStore, how: str
) -> None:
    hub.delay = 0.5  # it waits for the network most of the time
    process = start(environment, TASK, "pull", "wan2.1-vace-1.3b")
    assert process.stdout is not None
    assert process.stdin is not None
    while BIG not in process.stdout.readline():
        pass
    time.sleep(0.7)
    began = time.monotonic()
    if how == "terminate":
        process.terminate()
    else:
        process.stdin.close()
        process.stdin = None
    assert lines(process)[-1] == {"kind": "stopped"}
    assert time.monotonic() - began < 1
    assert process.returncode == 130
    assert store.entry("wan2.1-vace-1.3b").state == "partial"
