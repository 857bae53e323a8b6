"""`retake train CONFIG` and `retake fit SHOT`: what they print and return."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from retake_shared import fitting, formats
from retake_shared.arguments import at_least, hints
from retake_shared.errors import Cancelled, RetakeError

from ..progress_line import ProgressLine
from .config import Config, config_path, read_config
from .sources import Source


class GentleStop:
    """SIGINT and SIGTERM ask a training to stop after its step, with a checkpoint; a second one stops it at once."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        os.write(2, b"\nretake: stopping after this step; once more to stop at once, without a checkpoint.\n")

    def check(self) -> None:
        """Raise Cancelled when the user wants the work to stop."""
        if self._asked:
            raise Cancelled


def train(arguments: argparse.Namespace) -> int:
    """Train as a configuration says, or go on where it was stopped."""
    if arguments.show:
        print(_text(arguments.config), end="")
        return 0
    config = _changed(read_config(arguments.config), arguments.out)
    if arguments.slurm:
        from . import slurm
        from .config import check_shares

        nodes, gpus = slurm.nodes_and_gpus(arguments.slurm)
        check_shares(config, nodes * gpus)
        words = [str(arguments.config), *(["--out", str(arguments.out)] if arguments.out else [])]
        print(slurm.script(words, Path(arguments.config).stem, nodes, gpus, Path.cwd()), end="")
        return 0
    _run(config, GentleStop().check)
    return 0


def fit(arguments: argparse.Namespace) -> int:
    """Train shortly on one shot: footage and its solve."""
    from ..footage import FootageReader
    from .config import from_table
    from .examples import HeldPairs
    from .fit import FitSettings, shot_pairs

    stop = GentleStop()
    config = _changed(read_config(arguments.config or f"fit-{arguments.engine}"), arguments.out)
    config = _going_on(config, arguments.start)
    if arguments.steps:
        at_least(1, "--steps", arguments.steps)
        if len(config.stage) != 1:
            raise RetakeError("needs a configuration of one stage.", "--steps", "Change the steps in the file.")
        config = replace(config, stage=(replace(config.stage[0], steps=arguments.steps),))
    shots = [data for stage in config.stage for data in stage.data if data.shot]
    if not shots:
        raise RetakeError("trains on no shot.", str(arguments.config), "Add {shot = true} to the data of a stage.")
    settings = from_table(FitSettings, shots[0].settings, "the shot's settings")
    with FootageReader(arguments.footage) as reader, ProgressLine(stop.check) as line:
        found, read_notes = formats.read(arguments.solve, reader.footage, hints(arguments))
        solve, fit_notes = fitting.bind(reader.footage, found, arguments.step)
        for note in (*reader.notes, *read_notes, *fit_notes):
            print(f"retake: {note}", file=sys.stderr)
        pairs = shot_pairs(reader, solve, config.picture, settings, config.seed, line, arguments.prompt)
    _run(config, stop.check, HeldPairs(pairs, config.picture, config.seed))
    return 0


def _run(config: Config, check: Callable[[], None], shot: Source | None = None) -> None:
    """The training itself; says where it goes and what comes of it."""
    import torch

    from ..models import memory
    from . import loop, registry
    from .examples import captions_of, open_held_out, open_stages
    from .processes import Processes

    processes = Processes(config.device, config.precision)
    with ProgressLine(check, told=processes.first) as line, memory.gpu_errors_in_words():
        stages = open_stages(config, processes.device, shot)
        held_out = open_held_out(config, processes.device)
        torch.manual_seed(config.seed)  # of what begins from nothing
        trainee = registry.make_trainee(config.trainee, config.model)
        if isinstance(trainee, registry.ReadsCaptions):
            trainee.module.to(processes.device)
            trainee.read_captions(captions_of(config), line)
        if processes.first:
            count = sum(p.numel() for p in trainee.module.parameters() if p.requires_grad)
            print(f"{config.trainee}: {count:,} weights, {config.steps} steps to {config.out}", flush=True)
        began = time.monotonic()
        result = loop.train(config, trainee, stages, line, held_out=held_out, processes=processes, note=line.note)
    if processes.first:
        print(f"{result}: done in {time.monotonic() - began:.0f} s")
        if use := _use(config.trainee, result):
            print(f"To use it: {use}")


def _use(trainee: str, result: Path) -> str:
    """What to do with a result so that takes are made with it, "" where no engine uses it."""
    from ..weights.catalogue import CATALOGUE

    if trainee not in CATALOGUE:
        return ""
    command = f"retake models import {trainee} {shlex.quote(str(result))} --replace"
    return f"{command}  (in Blender: Import…, in Retake's preferences, under Models)"


def _changed(config: Config, out: Path | None) -> Config:
    return replace(config, out=out) if out else config


def _going_on(config: Config, start: Path | None) -> Config:
    """The configuration with weights to go on from: those named, or installed, unless it says which itself."""
    from ..weights.catalogue import CATALOGUE
    from ..weights.store import WeightStore
    from .registry import kind_of

    name, key = config.trainee, kind_of(config.trainee).start
    if start is None and key and key not in config.model:
        entry = WeightStore().entry(name) if name in CATALOGUE else None
        start = entry.place if entry is not None and entry.state == "installed" else None
    if start is None:
        return config
    if not key:
        raise RetakeError(f"{config.trainee} begins from nothing.", "--from", "Leave it out.")
    return replace(config, model={**config.model, key: str(start)})


def _text(config: str) -> str:
    read_config(config)
    return config_path(config).read_text("utf-8")
