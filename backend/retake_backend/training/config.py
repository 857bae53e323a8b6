"""What one training is: a TOML file, read into the dataclasses below. Whatever the papers leave open is a key of it.

    trainee = "edit-by-track"        # which model (`registry`), and under [model] its own keys
    [[stage]]                        # one or several, in order; each with its own data
    name = "synthetic"
    steps = 20000
    data = [{pairs = "data/synthetic", weight = 1.0}]

One stage with several data is the papers' mixed training, one stage with one is synthetic-only or real-only.
"""

from __future__ import annotations

import difflib
import math
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from retake_shared.errors import BadFile, RetakeError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Data:
    """Where examples come from, and which share of them: one of `pairs`, `generator` and `shot`.

    pairs: a folder of pairs (`dataset`). generator: the name of a maker of endless pairs: "scenes". shot: the shot that
    `retake fit` is given. settings: the source's own keys. weight: shares are weight over the sum of the stage's
    weights.
    """

    pairs: Path | None = None
    generator: str = ""
    shot: bool = False
    weight: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if [self.pairs is not None, bool(self.generator), self.shot].count(True) != 1:
            raise ValueError('needs one of "pairs" (a folder), "generator" (a name) and "shot" (true)')
        if self.weight <= 0:
            raise ValueError(f'"weight" is {self.weight}, it must be above 0')


@dataclass(frozen=True)
class Stage:
    """steps: of the optimiser, spent on this stage's data. Weights, averages and moments go on from stage to stage."""

    name: str
    steps: int
    data: tuple[Data, ...]

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.data:
            raise ValueError(f'the stage "{self.name}" needs at least one step and one entry of data')


@dataclass(frozen=True)
class Picture:
    """The pictures that the model trains on. width, height: px, footage is resized to them. frames: 4k + 1 for Wan.
    tracks: at most so many a pair."""

    width: int = 672
    height: int = 384
    frames: int = 81
    tracks: int = 2000

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.frames) < 1 or self.tracks < 0:
            raise ValueError('"width", "height" and "frames" must be at least 1, "tracks" at least 0')


@dataclass(frozen=True)
class BatchSettings:
    """size: examples of one step, over all processes. at_once: of them that one process holds at a time.

    size / at_once must be a multiple of the number of processes. A training depends on both and not on the number of
    processes, up to rounding. ahead: batches prepared while the model is busy.
    """

    size: int = 8
    at_once: int = 1
    ahead: int = 2

    def __post_init__(self) -> None:
        if self.at_once < 1 or self.size < self.at_once or self.size % self.at_once:
            raise ValueError(f'"size" is {self.size}, no multiple of "at_once", {self.at_once}')
        if self.ahead < 1:
            raise ValueError(f'"ahead" is {self.ahead}, it must be at least 1')


@dataclass(frozen=True)
class Optimiser:
    """AdamW. learning_rate: after warm_up steps that rise linearly from 0; "cosine" lets it fall to 0 at the end.

    clip: the largest norm of all gradients together, 0 = none. average: how much of the EMA of the weights stays a
    step, 0 = no EMA; it begins faster: min(average, (1 + step) / (10 + step)).
    """

    learning_rate: float = 1e-4
    warm_up: int = 500
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    average: float = 0.999

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f'"learning_rate" is {self.learning_rate}, it must be above 0')
        for name in ("beta1", "beta2", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'"{name}" is {getattr(self, name)}, it must be in [0, 1)')
        for name in ("warm_up", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f'"{name}" is {getattr(self, name)}, it must be at least 0')

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0 .. steps - 1."""
        rate = self.learning_rate * min(1.0, (step + 1) / max(self.warm_up, 1))
        if self.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
        return rate


@dataclass(frozen=True)
class Augmentation:
    """What training examples lose, so that real tracks and videos need not be perfect. Shares are of examples.

    fewest_tracks: each example keeps a share of its tracks drawn between this and 1 (both papers: 0.5). noise: tracks
    wander by a standard deviation drawn between 0 and this, a fraction of the picture, in noisy_share. gap: in
    gap_share, every track is absent over one span of up to this share of the frames with probability 1/2.
    object_share: of examples in which one whole object's tracks are dropped. frames: each example's source loses a
    share of its frames drawn between 0 and this (Track2View: 0.5), in frames_share. prompt_share: of captions dropped.
    """

    fewest_tracks: float = 0.5
    noise: float = 0.01
    noisy_share: float = 0.5
    gap: float = 0.3
    gap_share: float = 0.3
    object_share: float = 0.1
    frames: float = 0.0
    frames_share: float = 0.5
    prompt_share: float = 0.1

    def __post_init__(self) -> None:
        _all_shares(self)


@dataclass(frozen=True)
class Symmetries:
    """Shares of the examples that are turned into others just as true (`symmetries`): mirrored left to right, played
    backwards, or in other colours (channels change places, contrast falls)."""

    mirrored: float = 0.0
    backwards: float = 0.0
    recoloured: float = 0.0

    def __post_init__(self) -> None:
        _all_shares(self)


@dataclass(frozen=True)
class Keep:
    """Checkpoints: one every so many steps, the last so many of them stay."""

    every: int = 500
    last: int = 3

    def __post_init__(self) -> None:
        if self.every < 1 or self.last < 1:
            raise ValueError('"every" and "last" must be at least 1')


@dataclass(frozen=True)
class Look:
    """What is shown on the way. metrics: a line every so many steps. every: samples every so many steps, 0 = none.
    samples: of how many held-out examples of `data`, always the same ones. seed: of the samples."""

    metrics: int = 10
    every: int = 0
    samples: int = 2
    seed: int = 0
    data: tuple[Data, ...] = ()

    def __post_init__(self) -> None:
        if self.metrics < 1 or self.every < 0 or self.samples < 1:
            raise ValueError('"metrics" and "samples" must be at least 1, "every" at least 0')
        _check_seed(self.seed)
        if self.every and not self.data:
            raise ValueError('samples need held-out "data"')


@dataclass(frozen=True)
class Config:
    """One training. model: the trainee's own keys. out: the folder of everything it writes.

    precision: of the arithmetic ("bf16": weights in training and their moments stay float32). sharding: "none", every
    process holds all weights; "full", they are split over the processes (FSDP).
    """

    trainee: str
    stage: tuple[Stage, ...]
    out: Path
    model: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["fp32", "bf16"] = "bf16"
    sharding: Literal["none", "full"] = "none"
    picture: Picture = field(default_factory=Picture)
    batch: BatchSettings = field(default_factory=BatchSettings)
    optimiser: Optimiser = field(default_factory=Optimiser)
    symmetries: Symmetries = field(default_factory=Symmetries)
    augmentation: Augmentation = field(default_factory=Augmentation)
    keep: Keep = field(default_factory=Keep)
    look: Look = field(default_factory=Look)

    def __post_init__(self) -> None:
        if not self.stage:
            raise ValueError("needs at least one [[stage]]")
        names = [stage.name for stage in self.stage]
        if len(set(names)) < len(names):
            raise ValueError(f"has two stages of one name: {', '.join(names)}")
        _check_seed(self.seed)

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stage)

    def stage_at(self, step: int) -> int:
        """The number of the stage that step 0 .. steps - 1 belongs to."""
        for number, stage in enumerate(self.stage):
            if step < stage.steps:
                return number
            step -= stage.steps
        raise IndexError(step)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 1 << 63:  # what numpy and torch both take
        raise ValueError(f'"seed" is {seed}, it must be at least 0, and below 2^63')


def _all_shares(settings: Augmentation | Symmetries) -> None:
    for each in fields(settings):
        value = getattr(settings, each.name)
        if not 0 <= value <= 1:
            raise ValueError(f'"{each.name}" is {value}, it must be in [0, 1]')


def check_shares(config: Config, processes: int) -> None:
    """Raise RetakeError where a step's pieces cannot be shared out evenly to so many processes."""
    pieces = config.batch.size // config.batch.at_once
    if pieces % processes:
        raise RetakeError(
            f"{pieces} pieces (size {config.batch.size} / at_once {config.batch.at_once}) cannot be shared out to "
            f"{processes} processes.",
            "batch", f"Make size a multiple of {processes * config.batch.at_once}.",
        )  # fmt: skip


def ready_configs() -> dict[str, Path]:
    """The configurations that come with the backend, by name."""
    folder = Path(str(resources.files(__package__) / "configs"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def config_path(named: str | Path) -> Path:
    """The TOML file of that name, else the ready configuration: a folder that is called like one hides none."""
    path = Path(named)
    return path if path.is_file() else ready_configs().get(str(named), path)


def read_config(named: str | Path) -> Config:
    """A configuration from a TOML file, or by the name of a ready one. Relative folders are the working folder's.

    Raises BadFile: no such file, or naming the key that is unknown, missing, of a wrong type or value.
    """
    path = config_path(named)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        what = "does not exist." if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})."
        raise BadFile(what, str(path), f"Name a TOML file, or one of {', '.join(ready_configs())}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadFile(f"is no TOML ({error}).", str(path), "Mend it, or start from a ready configuration.") from None
    return from_table(Config, table, str(path))


def from_table(kind: type[Settings], table: Mapping[str, Any], where: str) -> Settings:
    """A dataclass from plain values, dataclasses within it too; `where` leads errors. Raises BadFile."""
    assert is_dataclass(kind)
    hints, known = get_type_hints(kind), {each.name: each for each in fields(kind)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            meant = f'Did you mean "{near[0]}"?' if near else f"There are: {', '.join(known)}."
            raise BadFile(f'has an unknown key "{key}".', where, meant)
    missing = [
        name
        for name, each in known.items()
        if name not in table and each.default is MISSING and each.default_factory is MISSING
    ]
    if missing:
        raise BadFile(f'lacks the key "{missing[0]}".', where, "Add it.")
    values = {key: _value(hints[key], value, f"{where}, {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise BadFile(f"{error}.", where, "Change it.") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """A TOML value as the type that a field asks for."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return from_table(hint, value, where)
    elif origin is types.UnionType:  # a type or None; TOML has no None
        return _value(next(each for each in inner if each is not type(None)), value, where)
    elif origin is Literal:
        if value in inner:
            return value
        raise BadFile(f'is "{value}".', where, f"Choose one of {', '.join(map(str, inner))}.")
    elif origin is tuple:  # of one kind: of any length, or of the hint's
        if isinstance(value, list) and (inner[-1] is ... or len(value) == len(inner)):
            return tuple(_items(inner[0], value, where))
    elif hint is Path:
        if isinstance(value, str) and value:
            return Path(value)
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif origin is not None:  # Mapping: whoever reads its keys checks them
        if isinstance(value, Mapping):
            return dict(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    expected = {Path: "a text", str: "a text", float: "a number", int: "a whole number", bool: "true or false"}
    several = "a list" if inner and inner[-1] is ... else f"a list of {len(inner)}"
    shown = expected.get(hint, several if origin is tuple else "a table")
    raise BadFile(f"is {value!r:.40}, not {shown}.", where, "Change it.")


def _items(hint: Any, values: Iterable[Any], where: str) -> Iterable[Any]:
    for number, value in enumerate(values):
        yield _value(hint, value, f"{where} {number + 1}")
