"""The Slurm script of a training on several nodes: `retake train CONFIG --slurm NODESxGPUS`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from retake_shared.errors import RetakeError

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={job}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
#SBATCH --output={log}
#SBATCH --open-mode=append
# A job that runs out of time is told so five minutes before: it keeps a checkpoint and is put back into the queue,
# from where it goes on.
#SBATCH --signal=TERM@300
#SBATCH --requeue
# Add what your cluster asks for, such as --account, --partition, --time and --cpus-per-task.
set -euo pipefail
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # reads to the end: `head` would break the pipe
export MASTER_ADDR MASTER_PORT={port} OMP_NUM_THREADS=${{OMP_NUM_THREADS:-4}}
cd {folder}
code=0
srun bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec {python} -m retake_backend.cli train {words}
' || code=$?
if [ "$code" -eq {stopped} ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
STOPPED = 130
"""What `retake train` returns when it was stopped and left a checkpoint."""


def nodes_and_gpus(text: str) -> tuple[int, int]:
    """`2x8` -> 2 nodes of 8 GPUs each. Raises RetakeError."""
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,2})", text)
    if not found:
        raise RetakeError(f"{text!r} is no number of nodes and GPUs.", "--slurm", "Write NODESxGPUS, for example 2x8.")
    return int(found[1]), int(found[2])


def script(words: Sequence[str], name: str, nodes: int, gpus: int, folder: Path, port: int = 29500) -> str:
    """The text of the script. words: the arguments of `retake train`. name: of the job. folder: to work in."""
    job = re.sub(r"[^\w.-]", "-", f"retake-{name}")
    # The command lies within single quotes already, for the shell on each node.
    python, quoted = (shlex.join(each).replace("'", "'\\''") for each in ([sys.executable], words))
    return _SCRIPT.format(
        job=job, nodes=nodes, gpus=gpus, log=f"{job}-%j.log", port=port, stopped=STOPPED,
        folder=shlex.quote(str(folder)), python=python, words=quoted,
    )  # fmt: skip
