"""Several processes in one training, over gloo on the CPU, as torchrun and Slurm start them."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from retake_backend.training import checkpoints, loop
from retake_backend.training.loop import train
from retake_backend.training.processes import Processes
from retake_shared.errors import RetakeError

from tests.backend.training.loop_trials import PROCESS, Colours, Numbered, config_of, lines, quiet, result_of


def test_two_processes_make_the_steps_of_one(tmp_path):
    """Each takes half of a step's pieces: the same weights up to rounding, split weights (FSDP) or whole."""
    alone = train(config_of(tmp_path / "alone"), Colours(), [Numbered()], quiet)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(PROCESS), "many", str(tmp_path)],
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:  # two that wait for each other would go on doing so
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    expected = result_of(alone)
    for sharding in ("none", "full"):
        made = result_of(tmp_path / sharding / loop.RESULT)
        for name, value in expected.items():
            torch.testing.assert_close(made[name], value, rtol=2e-5, atol=2e-6)
        kept = checkpoints.read(checkpoints.found(tmp_path / sharding)[-1])
        one = checkpoints.read(checkpoints.found(tmp_path / "alone")[-1])
        for name, value in one.moments.items():
            torch.testing.assert_close(kept.moments[name], value, rtol=2e-4, atol=1e-6)
        first, other = lines(tmp_path / "alone")[0], lines(tmp_path / sharding)[0]
        assert other["gradient_norm"] == pytest.approx(first["gradient_norm"], rel=1e-5)
        assert other["loss"] == pytest.approx(first["loss"], rel=1e-5)
        assert other["tracks"] == first["tracks"]
        assert other["seldom"] == 3.0  # one process tells it, of half of the pieces
    for rank in "01":
        assert json.loads((tmp_path / f"stopped-{rank}.json").read_text()) == [
            str(tmp_path / "stopped" / "checkpoints" / "step-00000003")
        ]
    # What two processes kept, one goes on from.
    train(config_of(tmp_path / "full", 14), Colours(), [Numbered()], quiet)
    assert lines(tmp_path / "full")[-1]["step"] == 14


def test_weights_are_not_split_over_one_process(tmp_path):
    with pytest.raises(RetakeError, match=r"there is one process.*torchrun"):
        train(config_of(tmp_path, sharding="full"), Colours(), [Numbered()], quiet)


def test_pieces_that_cannot_be_shared_out_are_refused_before_anything_starts(tmp_path):
    processes = Processes("cpu", "fp32")
    processes.count = 3
    with pytest.raises(RetakeError, match=r"2 pieces \(size 4 / at_once 2\).*multiple of 6"):
        train(config_of(tmp_path), Colours(), [Numbered()], quiet, processes=processes)
    assert not list(tmp_path.iterdir())
