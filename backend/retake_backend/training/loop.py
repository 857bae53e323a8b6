"""The training loop: any trainee, any sources, one process or many, killed and resumed at any step.

All chance is a function of (seed, number of the piece), so a training that was killed and resumed equals one that was
not, bit for bit on one device; and the number of processes changes nothing but rounding.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from retake_shared.errors import BadFile, Cancelled, RetakeError
from torch import Tensor

from .. import locking
from ..engines.base import Progress, Report
from . import checkpoints
from .augment import augmented
from .batches import Batch
from .checkpoints import Checkpoint
from .config import Config, check_shares
from .look import SAMPLES, Log, sample_figures, write_samples
from .processes import Processes, like, whole
from .sources import Feed, Source, skipped
from .symmetries import turned
from .trainees import Trainee

RESULT = "result"
"""The folder of what a training is for: the averaged weights, as `Trainee.save` writes them."""


_ONLY_HOW = ("latents", "samples", "checkpointing", "weights")
"""Keys of a model's settings that may change while it is trained: what is trained and its loss stay, up to rounding."""


class TrainingFailed(RetakeError):
    """The loss or a gradient is no number any more; the last checkpoint is from before."""


def train(
    config: Config,
    trainee: Trainee,
    stages: Sequence[Source],
    report: Report,
    *,
    held_out: Batch | None = None,
    processes: Processes | None = None,
    note: Callable[[str], None] = lambda text: print(f"retake: {text}", file=sys.stderr, flush=True),
) -> Path:
    """Train to the end of the last stage, from the last checkpoint under config.out if there is one; returns the result.

    stages: where each of config.stage takes its examples from. held_out: the examples of the samples. report: called
    every step, by every process; where it raises Cancelled in one, a checkpoint is left and Cancelled passes in all.
    note: what the user should know.
    Raises TrainingFailed, BadFile (a checkpoint of another training), RetakeError (no room for the last checkpoint,
    another training that writes to config.out).
    """
    processes = processes or Processes(config.device, config.precision)
    check_shares(config, processes.count)
    steps = config.steps
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(config.out, processes))
        run = _Run.begun(config, trainee, processes, note)
        log = stack.enter_context(Log(config.out, run.step)) if processes.first else None
        feed = stack.enter_context(run.feed(stages))
        clock, left_out = _Clock(config.batch.size), 0
        while run.step < steps:
            try:
                cancelled = False
                stage = config.stage[config.stage_at(run.step)].name
                report(Progress(f"training, {stage}", run.step, steps))
            except Cancelled:
                cancelled = True
            if processes.any(cancelled):
                run.keep(last_chance=True)
                raise Cancelled
            figures = run.advance(feed, skipped(stages))
            left_out = round(figures["skipped"])
            clock.step()
            done = run.step
            if log and (done % config.look.metrics == 0 or done == steps):
                log.add(done, {**figures, "examples_per_second": clock.rate()})
            if config.look.every and held_out is not None and (done % config.look.every == 0 or done == steps):
                run.look(held_out, log)
            if done % config.keep.every == 0 or done == steps:
                run.keep(last_chance=done == steps)
            if log and log.trouble:
                note(log.trouble)
                log.trouble = ""
        with contextlib.suppress(Cancelled):  # too late: it is done, and one process must not leave the others waiting
            report(Progress(f"training, {config.stage[-1].name}", steps, steps))
    if processes.first and left_out:
        note(f"{left_out} times a damaged example was left out, and another given in its place.")
    return run.result()


@dataclass
class _Run:
    """A training in the middle: after `step` steps of the optimiser."""

    config: Config
    trainee: Trainee
    processes: Processes
    note: Callable[[str], None]
    step: int
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    trained: Mapping[str, Any]
    kept: int = field(default=-1)

    @classmethod
    def begun(cls, config: Config, trainee: Trainee, processes: Processes, note: Callable[[str], None]) -> _Run:
        """At step 0, or as the last checkpoint says."""
        trainee.module.to(processes.device)
        if config.precision == "fp32" and any(p.dtype == torch.bfloat16 for p in trainee.module.parameters()):
            raise RetakeError(
                'is "fp32", and the model has weights in bf16.',
                "precision", 'Set weights = "fp32" under [model] too, or precision = "bf16".',
            )  # fmt: skip
        processes.share(p for p in trainee.module.parameters() if p.requires_grad)
        if config.sharding == "full":
            processes.shard(trainee.module)
        weights: dict[str, Tensor] = {n: p for n, p in trainee.module.named_parameters() if p.requires_grad}
        if not weights:
            raise RetakeError("has no weight to train.", config.trainee, "Let some of them require gradients.")
        settings = config.optimiser
        optimiser = torch.optim.AdamW(
            list(weights.values()),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            foreach=False if processes.sharded else None,  # split and whole weights do not mix in one kernel
        )
        average = {name: p.detach().float().clone() for name, p in weights.items()} if settings.average else {}
        model = {key: value for key, value in config.model.items() if key not in _ONLY_HOW}
        trained = {"trainee": config.trainee, "model": _plain(model), "seed": config.seed}
        run = cls(config, trainee, processes, note, 0, weights, average, optimiser, trained)
        folders = checkpoints.found(config.out)
        if folders:
            run._restore(checkpoints.read(folders[-1]), folders[-1])
            note(f"{config.out}: going on from step {run.step} of {config.steps}.")
        return run

    def feed(self, stages: Sequence[Source]) -> Feed:
        """This process' pieces of what is left."""
        batch = self.config.batch
        steps = [stage.steps for stage in self.config.stage]
        return Feed(
            list(zip(steps, stages, strict=True)),
            size=batch.size, at_once=batch.at_once, ahead=batch.ahead,
            step=self.step, process=self.processes.index, processes=self.processes.count,
        )  # fmt: skip

    def advance(self, feed: Iterator[tuple[int, Batch]], left_out: int) -> dict[str, float]:
        """One step of the optimiser; its figures, over all processes. left_out: damaged examples of this one so far.
        Raises TrainingFailed and changes nothing."""
        config, processes = self.config, self.processes
        self.optimiser.zero_grad(set_to_none=True)
        pieces = config.batch.size // config.batch.at_once
        self.trainee.module.train()
        told: dict[str, float] = {}
        for _ in range(pieces // processes.count):
            piece, batch = next(feed)
            generator = generator_of(config.seed, piece)
            batch = turned(batch.to(processes.device), config.symmetries, generator)
            batch = augmented(batch, config.augmentation, generator)
            with processes.autocast():
                loss, figures = self.trainee.loss(batch, generator)
            (loss / pieces).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": float(loss.detach()), **figures}.items():
                told[name] = told.get(name, 0.0) + value / pieces
        told["skipped"] = float(left_out)
        processes.sum_gradients(self.weights.values())
        norm = processes.norm(p.grad for p in self.weights.values())
        names = processes.names(told)  # a piece may lack what others tell, such as the loss in holes without a hole
        sums = processes.sum(
            torch.tensor(
                [told.get(name, 0.0) for name in names],
                dtype=torch.float64 if processes.device.type == "cpu" else torch.float32,
                device=processes.device,
            )
        )
        told = dict(zip(names, sums.tolist(), strict=True))
        if not (np.isfinite(told["loss"]) and bool(torch.isfinite(norm))):
            raise self._failed(told["loss"], float(norm))
        if config.optimiser.clip:
            shrink = (config.optimiser.clip / norm.clamp(min=1e-12)).clamp(max=1.0)
            for parameter in self.weights.values():
                assert parameter.grad is not None
                parameter.grad.mul_(shrink.to(parameter.grad.dtype))
        rate = config.optimiser.rate(self.step, config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        self._follow()
        return {**told, "gradient_norm": float(norm), "learning_rate": rate}

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the averages follow the weights."""
        stays = min(self.config.optimiser.average, (1 + self.step) / (10 + self.step))
        for name, mean in self.average.items():
            mean.lerp_(self.weights[name].detach().to(mean.dtype), 1 - stays)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the place of the weights, which come back unchanged."""
        before = {name: self.weights[name].detach().clone() for name in self.average}
        with torch.no_grad():
            for name, mean in self.average.items():
                self.weights[name].copy_(mean)
            try:
                yield
            finally:
                for name, value in before.items():
                    self.weights[name].copy_(value)

    def look(self, held_out: Batch, log: Log | None) -> None:
        """Samples of the held-out examples: their figures, strip and video."""
        self.trainee.module.eval()
        batch = held_out.to(self.processes.device)
        with self.averaged(), self.processes.autocast():
            sample = self.trainee.sample(batch, torch.Generator().manual_seed(self.config.look.seed))
        if log is None:
            return
        try:
            picture = write_samples(self.config.out / SAMPLES, self.step, batch, sample, Fraction(16))
        except OSError as error:
            self.note(f"Samples of step {self.step} could not be written ({error.strerror or error}).")
            return
        log.add(self.step, sample_figures(batch, sample), picture)

    def keep(self, *, last_chance: bool = False) -> None:
        """A checkpoint of now. Without room for one the training goes on, unless this is the last chance to have it."""
        if self.step == self.kept:
            return
        written = Checkpoint(
            self.step,
            self.trained,
            {name: whole(tensor) for name, tensor in self.weights.items()},
            {name: whole(tensor) for name, tensor in self.average.items()},
            self._moments(),
        )
        trouble = False
        if self.processes.first:
            try:
                checkpoints.write(self.config.out, written, self.config.keep.last)
            except OSError as error:
                trouble = True
                self._tell_unkept(error)
        if self.processes.any(trouble):
            if last_chance:
                before = "none" if self.kept < 0 else f"that of step {self.kept}"
                raise RetakeError(
                    f"step {self.step} could not be kept; the last checkpoint is {before}.",
                    str(self.config.out), "Free some space and start again: the training goes on from there.",
                )  # fmt: skip
            return
        self.kept = self.step

    def result(self) -> Path:
        """What the training is for: the averaged weights, in the form in which they are used."""
        folder = self.config.out / RESULT
        with self.averaged(), self.processes.whole_layers(self.trainee.module):
            if self.processes.first:
                self.trainee.save(folder)
            self.processes.wait()
        return folder

    def _moments(self) -> dict[str, Tensor]:
        moments = {}
        for name, parameter in self.weights.items():
            for kind, value in self.optimiser.state.get(parameter, {}).items():
                moments[f"{kind}.{name}"] = whole(value)
        return moments

    def _restore(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Raises BadFile where the checkpoint is of another training."""
        for key, value in self.trained.items():
            if checkpoint.trained.get(key) != value:
                raise BadFile(
                    f'is of another training: its "{key}" is {checkpoint.trained.get(key)!r:.200}, now {value!r:.200}.',
                    str(folder), "Choose another out folder, or the settings it was begun with.",
                )  # fmt: skip
        shapes = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        if {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()} != shapes:
            raise BadFile("holds weights of another model.", str(folder), "Choose another out folder.")
        self.step = self.kept = checkpoint.step
        with torch.no_grad():
            for name, parameter in self.weights.items():
                parameter.copy_(like(checkpoint.weights[name], parameter))
                if self.average:
                    kept = checkpoint.average.get(name, checkpoint.weights[name])
                    self.average[name].copy_(like(kept.float(), self.average[name]))
        for name, parameter in self.weights.items():
            state = {}
            for kind in ("exp_avg", "exp_avg_sq"):
                if f"{kind}.{name}" in checkpoint.moments:
                    state[kind] = like(checkpoint.moments[f"{kind}.{name}"], parameter)
                    state["step"] = checkpoint.moments[f"step.{name}"]
            if state:
                self.optimiser.state[parameter] = state

    def _tell_unkept(self, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else str(error.strerror or error)
        self.note(f"{self.config.out}: step {self.step} could not be kept ({why}); the checkpoint before it stays.")

    def _failed(self, loss: float, norm: float) -> TrainingFailed:
        before = "There is no checkpoint yet" if self.kept < 0 else f"The checkpoint of step {self.kept} is sound"
        return TrainingFailed(
            f"step {self.step + 1} has loss {loss:g} and gradient norm {norm:g}; the weights were not changed by it.",
            str(self.config.out),
            f'{before}. Lower optimiser.learning_rate, raise warm_up, or train with precision = "fp32".',
        )


@contextlib.contextmanager
def _alone(out: Path, processes: Processes) -> Iterator[None]:
    """No other training writes to the folder meanwhile: each would take away the other's checkpoints. Where it cannot
    be written to, the first checkpoint will say so. Raises RetakeError, in all processes."""
    with contextlib.ExitStack() as stack:
        taken = False
        if processes.first:
            with contextlib.suppress(OSError):
                out.mkdir(parents=True, exist_ok=True)
                taken = not locking.lock(stack.enter_context(open(out / ".training", "ab")).fileno())
        if processes.any(taken):
            raise RetakeError(
                "another training writes there.", str(out), "Wait for its end, or name another folder for `out`."
            )
        yield


def generator_of(seed: int, piece: int) -> torch.Generator:
    """All chance of one piece of a batch, on the CPU; it also seeds torch's own, for models that use that."""
    number = int(np.random.SeedSequence((seed, piece)).generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(number)
    return torch.Generator().manual_seed(number)


class _Clock:
    """How many examples a second, since it was last asked."""

    def __init__(self, size: int) -> None:
        self._size, self._steps, self._since = size, 0, time.monotonic()

    def step(self) -> None:
        self._steps += 1

    def rate(self) -> float:
        now = time.monotonic()
        rate = self._size * self._steps / max(now - self._since, 1e-9)
        self._steps, self._since = 0, now
        return rate


def _plain(value: Any) -> Any:
    """Settings as JSON keeps them, to compare them with those of a checkpoint."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
