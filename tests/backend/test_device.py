"""What an artist keeps for Blender, the backend leaves alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TELL = """
import os, sys
import numpy as np
from retake_backend.device import restrict
np.ones((256, 256)) @ np.ones((256, 256))
words = restrict(sys.argv[1], int(sys.argv[2]))
cores = {len(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")}
print(words, max(cores), repr(os.environ.get("CUDA_VISIBLE_DEVICES")), sep="; ")
"""


def told(device: str, cores: int) -> list[str]:
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", TELL, device, str(cores)], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("; ")[-3:]  # a GPU comes before the CPU


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell which cores are used")
def test_cores_and_gpu_are_left_alone() -> None:
    everything = len(os.sched_getaffinity(0))
    assert told("auto", 0) == [
        f"CPU, {everything} core{'s' if everything > 1 else ''}",
        str(everything),
        "'0'",
    ]
    assert told("cpu", 1) == ["CPU, 1 core", "1", "''"]


SOLVE = """
import os, sys
from retake_backend import cli
code = cli.main(sys.argv[1:])
import torch
print(code, repr(os.environ.get("CUDA_VISIBLE_DEVICES")), len(os.sched_getaffinity(0)), torch.cuda.is_available())
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell which cores are used")
def test_a_solve_leaves_them_alone_too(tmp_path: Path) -> None:
    words = [
        "solve",
        str(tmp_path / "nowhere.mp4"),
        "--out",
        str(tmp_path / "s.npz"),
        "--device",
        "cpu",
        "--cores",
        "1",
    ]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run([sys.executable, "-c", SOLVE, *words], capture_output=True, text=True, env=environ)
    assert done.stdout.split() == ["2", "''", "1", "False"], done.stderr
