"""A trainee of a few hundred weights and sources without files, for the tests of the loop."""

import json
from pathlib import Path

import torch
from retake_backend.conditioning.coordinates import TrackPairs
from retake_backend.training.batches import Batch
from retake_backend.training.config import Augmentation, BatchSettings, Config, Data, Keep, Look, Optimiser, Stage
from safetensors.torch import load_file, save_file
from torch import nn

NO_AUGMENTATION = Augmentation(fewest_tracks=1, noise=0, gap=0, gap_share=0, object_share=0, prompt_share=0)

PROCESS = Path(__file__).parent / "loop_process.py"
"""Trains in a process of its own, to be killed."""


def quiet(progress):
    """A report that nobody reads."""


def lines(out):
    """The metrics that a training wrote, a mapping a line."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tracks_of(count, frames, tracks, generator):
    xyz = torch.rand(2, count, frames, tracks, 3, generator=generator)
    there = torch.rand(3, count, frames, tracks, generator=generator) < 0.9
    return TrackPairs(xyz[0], xyz[1], there[0], there[1], there[2] & there[0])


def batch_of(seed, count=2, frames=5, height=16, width=16, tracks=12, moved=False):
    """Random pictures; the target is a known change of the source's colours, so that it can be learned."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.rand(count, 3, frames, height, width, generator=generator) * 2 - 1
    target = (0.5 * source.flip(1) + 0.2).clamp(-1, 1)
    reprojected = (source, (torch.rand(count, 1, frames, height, width) < 0.1).float()) if moved else (None, None)
    return Batch(source, target, tracks_of(count, frames, tracks, generator), ("a ball",) * count, *reprojected)


class Numbered:
    """Random examples by number; remembers what was asked for."""

    def __init__(self, offset=0):
        self.offset, self.asked = offset, []

    def piece(self, number, count):
        self.asked.append(number)
        return batch_of(self.offset + number, count)


class Colours:
    """Learns the change of colours: two layers a pixel, with noise on what it sees, so that chance matters."""

    def __init__(self, frozen=True, noise=0.05):
        torch.manual_seed(0)
        self.module = nn.ModuleDict(
            {
                "frozen": nn.Linear(3, 3),
                "layers": nn.ModuleList([nn.Linear(3, 16), nn.Linear(16, 3)]),
            }
        )
        self.module["frozen"].requires_grad_(not frozen)
        self.noise = noise

    def made(self, source, generator=None):
        seen = source.movedim(1, -1)
        if generator is not None:
            seen = seen + self.noise * torch.randn(seen.shape, generator=generator)
            seen = torch.nn.functional.dropout(seen, 0.1 if self.noise else 0.0)  # torch's own chance
        first, second = self.module["layers"]
        return second(torch.tanh(first(self.module["frozen"](seen)))).movedim(-1, 1)

    def loss(self, batch, generator):
        off = (self.made(batch.source, generator) - batch.target).square().mean()
        return off, {"tracks": float(batch.tracks.source_present.sum())}

    @torch.no_grad()
    def sample(self, batch, generator):
        return self.made(batch.source)

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.module.state_dict(), folder / "colours.safetensors")  # as diffusers saves


def config_of(out, steps=12, **changes):
    given = {
        "trainee": "colours",
        "stage": (Stage("synthetic", steps, (Data(generator="numbered"),)),),
        "out": out,
        "device": "cpu",
        "precision": "fp32",
        "optimiser": Optimiser(learning_rate=0.02, warm_up=2, average=0.9),
        "keep": Keep(every=4, last=2),
        "look": Look(metrics=1, every=0),
        "batch": BatchSettings(size=4, at_once=2),
        **changes,
    }
    return Config(**given)


def result_of(folder):
    return load_file(folder / "colours.safetensors")
