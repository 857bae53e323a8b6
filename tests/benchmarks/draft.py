"""What tracks are worth to the draft model: what ships, beside the same model trained at least as long without any track.

    retake train draft                                              # the model, from its data; and the same again with
    retake train draft-without-tracks.toml                          # another `out`, and tracks = false under [model]
    python tests/benchmarks/draft.py --without-tracks runs/draft-without-tracks/result
                                     --held-out DATASET [--held-out DATASET ...] [--weights FOLDER]

The model without tracks has no reprojection either, which is made of them: it corrects the footage as it is. Measured at
the size of the training on pairs that neither has seen (DATASET as `retake generate` and `retake synthesize` write them,
with reprojections); written to `results/draft.md` and `.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablations import RESULTS, Test, cells, figures, test_of
from numpy.typing import NDArray
from retake_backend.training import dataset
from retake_backend.training.batches import Batch
from retake_backend.training.config import read_config
from retake_backend.training.draft_trainees import DraftSettings, DraftTrainee
from retake_backend.training.examples import PairsSettings, pairs_batch
from retake_backend.training.framed import framed
from retake_backend.training.look import frames
from retake_backend.weights.shipped import SHIPPED
from torch import Tensor

PICTURE = replace(read_config("draft").picture, frames=9)
"""The model's size; of each pair all frames that it has, not only as many as it trains on at a time."""
ENLARGED = 3
"""Times, before points are followed: the tracker is made for pictures larger than 80 px."""
BARS = {"psnr": 3.0, "epe": 0.5}
"""What the tracks have to be worth: dB more than without, and at most this share of the EPE."""

Make = Callable[[Batch, int], Tensor]


def rows(weights: Path, without_tracks: Path) -> dict[str, Make]:
    """By the label of a row: how it makes (B, 3, F, H, W) in [-1, 1] of a batch, with a seed."""

    def of(folder: Path, *, tracks: bool) -> Make:
        trainee = DraftTrainee(DraftSettings(start=folder, tracks=tracks))
        trainee.module.eval()
        return lambda batch, seed: trainee.sample(batch, torch.Generator().manual_seed(seed))

    def moved(batch: Batch, seed: int) -> Tensor:
        assert batch.moved is not None
        return batch.moved

    return {
        "the source, copied": lambda batch, seed: batch.source,
        "draft, trained without tracks": of(without_tracks, tracks=False),
        "the reprojection, holes filled smoothly": moved,
        "draft": of(weights, tracks=True),
    }


def measured(make: Make, on: Sequence[Test]) -> dict[str, Any]:
    """Figures of `ablations.figures` of one row; all examples with the same tracks and seeds in every row."""
    made: list[NDArray[np.uint8]] = []
    for number, test in enumerate(on):
        batch = pairs_batch([test.pair], [number], PICTURE, 0, PairsSettings())
        made.append(frames(make(batch, number))[0])
    return figures(made, on)


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: a row for each model, a column for each set, and whether the bars are met."""
    sets = list(next(iter(found.values())))
    lines = [
        "# What tracks are worth to the draft model",
        "",
        f"PSNR (dB) / EPE (px, where the tracker is right on the true video, with its standard error) at"
        f" {PICTURE.width} x {PICTURE.height} px, on pairs that no training has seen; made by"
        " `tests/benchmarks/draft.py`.",
        "",
        "| | " + " | ".join(f"{name}, {next(iter(found.values()))[name]['clips']} clips" for name in sets) + " |",
        "|---|" + "---|" * len(sets),
    ]
    for label, each in found.items():
        lines.append(f"| {label} | {cells(each)} |")
    without, draft, copy = found["draft, trained without tracks"], found["draft"], found["the source, copied"]
    lines += [
        "",
        f"Bars: {BARS['psnr']:g} dB above the model without tracks and above copying, at most half its EPE.",
        "",
    ]
    for name in sets:
        gain = draft[name]["psnr"] - without[name]["psnr"]
        above = draft[name]["psnr"] - copy[name]["psnr"]
        share = draft[name]["epe"] / without[name]["epe"]
        met = min(gain, above) >= BARS["psnr"] and share <= BARS["epe"]
        lines.append(
            f"- {name}: {gain:+.2f} dB, {above:+.2f} dB above copying, {100 * share:.0f} % of the EPE:"
            f" {'met' if met else 'not met'}."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-tracks", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=SHIPPED / "draft", help="of the draft (those that ship)")
    parser.add_argument("--held-out", type=Path, action="append", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sets = {
        folder.name: [test_of(framed(pair, PICTURE), ENLARGED) for _, pair in dataset.read(folder)]
        for folder in arguments.held_out
    }
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for label, make in rows(arguments.weights, arguments.without_tracks).items():
        found[label] = {name: measured(make, on) for name, on in sets.items()}
        print(label, json.dumps(found[label]), flush=True)
    (RESULTS / "draft.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "draft.md").write_text(table(found))


if __name__ == "__main__":
    main()
