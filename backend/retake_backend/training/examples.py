"""The sources that a configuration names: pairs on disk, pairs from nothing, or pairs that are at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from retake_shared.errors import BadFile, BadShot

from ..conditioning.coordinates import PairingSettings
from . import shards
from .batches import Batch, collate
from .config import Config, Data, Picture, from_table
from .dataset import PairDataset, index
from .framed import framed
from .generator.made import GeneratorSettings, make_batch
from .moved import with_moved
from .pairs import Pair
from .sources import Mixture, Source


@dataclass(frozen=True)
class PairsSettings:
    """shuffle: see `dataset.PairDataset`. moved: examples without a reprojection get one, by the real preview; slow, so
    that a data set for the draft model better brings them. in_memory: examples are read once and kept at the size that
    is trained on: where the model is small, reading would take as long as training."""

    shuffle: int = 1024
    moved: bool = False
    in_memory: bool = False

    def __post_init__(self) -> None:
        if self.shuffle < 0:
            raise ValueError(f'"shuffle" is {self.shuffle}, it must be at least 0')


class PairsSource:
    """The examples of a data set, epoch after epoch in another order; spans and choice of tracks differ each time."""

    def __init__(self, folder: Path, settings: PairsSettings, picture: Picture, seed: int) -> None:
        self._settings, self._picture, self._seed = settings, picture, seed
        keep = self._small if settings.in_memory else None
        self._data = PairDataset(folder, seed=seed, shuffle=settings.shuffle, keep=keep)

    @property
    def skipped(self) -> int:
        """Damaged examples so far, in whose places others were given."""
        return self._data.skipped

    def piece(self, number: int, count: int) -> Batch:
        numbers = range(number * count, (number + 1) * count)
        return pairs_batch([self._data.example(n) for n in numbers], numbers, self._picture, self._seed, self._settings)

    def _small(self, pair: Pair) -> Pair:
        """All frames of an example at the size that is trained on; depth and masks only where they will be needed."""
        small = framed(pair, replace(self._picture, frames=len(pair)))
        if self._settings.moved and pair.moved is None:
            return small
        return replace(small, solve=replace(small.solve, depth=None, masks=None))


class HeldPairs:
    """A few examples in memory, one after the other; the order is drawn anew for each round."""

    def __init__(self, pairs: Sequence[Pair], picture: Picture, seed: int) -> None:
        self._pairs, self._picture, self._seed = pairs, picture, seed

    def piece(self, number: int, count: int) -> Batch:
        numbers = range(number * count, (number + 1) * count)
        pairs = [self._pairs[self._which(n)] for n in numbers]
        return pairs_batch(pairs, numbers, self._picture, self._seed, PairsSettings())

    def _which(self, number: int) -> int:
        turn, place = divmod(number, len(self._pairs))
        return int(np.random.default_rng((self._seed, turn)).permutation(len(self._pairs))[place])


class GeneratedSource:
    """Pairs from nothing, made on `device`; never the same one twice."""

    def __init__(self, settings: GeneratorSettings, picture: Picture, seed: int, device: torch.device | str) -> None:
        scenes = replace(settings.scenes, frames=picture.frames, width=picture.width, height=picture.height)
        self._settings = replace(settings, scenes=scenes, tracks=picture.tracks)
        self._seed, self._device = seed, device

    def piece(self, number: int, count: int) -> Batch:
        return make_batch(self._settings, count, mixed(self._seed, number), self._device)


def pairs_batch(
    pairs: Sequence[Pair], numbers: Sequence[int], picture: Picture, seed: int, settings: PairsSettings
) -> Batch:
    """Examples at the size that is trained on, as a batch; their numbers decide what is left to chance."""
    ready = []
    for pair, number in zip(pairs, numbers, strict=True):
        pair = framed(pair, picture, mixed(seed, number))
        ready.append(with_moved(pair) if settings.moved and pair.moved is None else pair)
    generator = torch.Generator().manual_seed(mixed(seed, numbers[0]))
    return collate(ready, PairingSettings(tracks=picture.tracks), generator)


def open_stages(config: Config, device: torch.device | str, shot: Source | None = None) -> list[Source]:
    """What each stage takes its examples from. shot: the pairs of the shot that is fitted.

    Raises BadFile: no such data, or keys that it does not know.
    """
    return [
        _mixture(stage.data, config.picture, mixed(config.seed, number), device, f"stage {stage.name}", shot)
        for number, stage in enumerate(config.stage)
    ]


def open_held_out(config: Config, device: torch.device | str) -> Batch | None:
    """The examples of the samples, None where none are wanted. Generated ones are none that training sees."""
    look = config.look
    if not look.every:
        return None
    source = _mixture(look.data, config.picture, mixed(config.seed, len(config.stage), look.seed), device, "look")
    return source.piece(0, look.samples)


def captions_of(config: Config) -> set[str]:
    """Every caption of the data sets of all stages and of the held-out examples, read without their pictures."""
    data = [each for stage in config.stage for each in stage.data] + list(config.look.data)
    captions = {""}
    for folder in {each.pairs for each in data if each.pairs is not None}:
        for path in (folder / shard.name for shard in index(folder)):
            # What is damaged or missing is left out, and told, when it is read.
            with contextlib.suppress(OSError), path.open("rb") as stream:
                for entry in shards.scan(stream).entries:
                    with contextlib.suppress(BadFile):
                        captions.add(str(shards.describe(stream, entry, str(path)).get("caption", "")))
    return captions


def _mixture(
    data: Sequence[Data],
    picture: Picture,
    seed: int,
    device: torch.device | str,
    where: str,
    shot: Source | None = None,
) -> Mixture:
    sources = tuple(_source(each, picture, mixed(seed, n), device, where, shot) for n, each in enumerate(data))
    return Mixture(sources, tuple(each.weight for each in data))


def _source(
    data: Data, picture: Picture, seed: int, device: torch.device | str, where: str, shot: Source | None
) -> Source:
    settings: Mapping[str, object] = data.settings
    if data.shot:
        if shot is None:
            raise BadFile("asks for pairs of the shot.", where, "Start it with `retake fit`, or name other data.")
        return shot
    if data.pairs is not None:
        return PairsSource(data.pairs, from_table(PairsSettings, settings, where), picture, seed)
    if data.generator != "scenes":
        raise BadFile(f'there is no generator "{data.generator}".', where, 'There is "scenes".')
    try:
        return GeneratedSource(from_table(GeneratorSettings, settings, where), picture, seed, device)
    except BadShot as error:
        raise BadFile(error.what, where, error.remedy) from error


def mixed(*numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
