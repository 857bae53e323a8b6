"""Checkpoints: all that a training needs to go on as if it had never stopped, in safetensors and JSON.

    <out>/checkpoints/step-00001000/  weights.safetensors   what is trained
                                      average.safetensors   its EMA, where there is one
                                      moments.safetensors   of AdamW: "exp_avg", "exp_avg_sq", "step" of each weight
                                      state.json            the step, and what was trained

A checkpoint appears whole or not at all. Nothing is pickled; there is no random state, as all chance is a function of
seed and step (`sources`, `loop`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retake_shared.errors import BadFile
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

FOLDER = "checkpoints"
_VERSION = 1
_STATE = "state.json"
_TENSORS = ("weights", "average", "moments")


@dataclass(frozen=True)
class Checkpoint:
    """step: of the optimiser, done. trained: plain values that say what; another training is not resumed from it.

    weights, average: by name, average empty where there is none. moments: "<kind>.<name>".
    """

    step: int
    trained: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]


def write(out: Path, checkpoint: Checkpoint, last: int) -> Path:
    """Write a checkpoint, then remove all but the `last` ones. Raises OSError (disk full) and leaves what was there."""
    folder = out / FOLDER / f"step-{checkpoint.step:08d}"
    beside = folder.with_name(folder.name + ".part")
    try:
        for leftover in folder.parent.glob("step-*.part"):  # of a run that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        beside.mkdir(parents=True)
        for name in _TENSORS:
            tensors = getattr(checkpoint, name)
            if tensors:
                _write(beside / f"{name}.safetensors", save(dict(tensors)))
        state = {"retake_checkpoint": _VERSION, "step": checkpoint.step, "trained": dict(checkpoint.trained)}
        _write(beside / _STATE, json.dumps(state, indent=1, sort_keys=True).encode())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    for old in found(out)[:-last]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def found(out: Path) -> list[Path]:
    """The folders of all checkpoints of a training, oldest first."""
    return sorted(path for path in (out / FOLDER).glob("step-????????") if path.is_dir())


def read(folder: Path) -> Checkpoint:
    """Raises BadFile when it is damaged or none."""
    again = "Remove this folder: the training then goes on from the checkpoint before."
    try:
        state = json.loads((folder / _STATE).read_text("utf-8"))
        if state["retake_checkpoint"] != _VERSION:
            raise ValueError(f"it is of version {state['retake_checkpoint']!r}")
        tensors = {}
        for name in _TENSORS:
            path = folder / f"{name}.safetensors"
            tensors[name] = load_file(path) if path.exists() else {}
        return Checkpoint(int(state["step"]), dict(state["trained"]), **tensors)
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise BadFile(f"is no whole checkpoint ({error!r:.120}).", str(folder), again) from error


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
