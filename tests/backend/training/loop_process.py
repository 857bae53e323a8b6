"""A training of `loop_trials` in a process of its own: python loop_process.py KIND OUT [STEP]."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from loop_trials import Colours, Numbered, config_of
from retake_backend.training import checkpoints
from retake_backend.training.loop import train
from retake_backend.training.processes import Processes
from retake_shared.errors import Cancelled
from torch.distributed.tensor import DTensor


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Telling(Colours):
    """Tells of each piece, in one of the two processes, what the other has nothing of: first, as dicts are in order."""

    def __init__(self, index):
        super().__init__()
        self.index = index

    def loss(self, batch, generator):
        off, figures = super().loss(batch, generator)
        return off, {"seldom": 6.0, **figures} if self.index == 1 else figures


def main(kind, out, step=0):
    torch.set_num_threads(1)
    if kind == "killed":  # at a step

        def report(progress):
            if progress.done == step:
                die()

        train(config_of(out), Colours(), [Numbered()], report)
    elif kind == "killed-writing":  # with the checkpoint of a step nearly written
        replace = os.replace

        def fatal(source, target):
            if str(target).endswith(f"{step:08d}"):
                die()
            replace(source, target)

        checkpoints.os.replace = fatal
        train(config_of(out), Colours(), [Numbered()], lambda progress: None)
    elif kind == "many":  # one of several processes
        for sharding in ("none", "full"):
            processes = Processes("cpu", "fp32")
            config = config_of(out / sharding, sharding=sharding)
            model = Telling(processes.index)
            if processes.index == 1:  # what begins from nothing begins elsewhere in each process
                torch.nn.init.normal_(model.module["layers"][0].weight)
            train(config, model, [Numbered()], lambda progress: None, processes=processes)
            split = any(isinstance(weight, DTensor) for weight in model.module["layers"].parameters())
            assert split == (sharding == "full")
        # What one process is told to stop, all stop, and one keeps.

        def stopped(progress):
            if processes.index == 1 and progress.done == 3:
                raise Cancelled

        try:
            train(config_of(out / "stopped"), Colours(), [Numbered()], stopped, processes=processes)
        except Cancelled:
            (out / f"stopped-{processes.index}.json").write_text(
                json.dumps([str(p) for p in checkpoints.found(out / "stopped")])
            )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
