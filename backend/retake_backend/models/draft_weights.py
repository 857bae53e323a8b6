"""The draft models on disk: config.json, bfloat16 safetensors and a model card; loaded by the class that it names."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from retake_shared.errors import BadFile

from ..weights.shipped import WEIGHTS
from .draft import DraftTransformer
from .loading import pretrained
from .parts import replaced
from .refiner import Refiner

DraftModel = DraftTransformer | Refiner
LICENCE = "Apache-2.0"
_CLASSES: dict[str, type[DraftModel]] = {"DraftTransformer": DraftTransformer, "Refiner": Refiner}
_AGAIN = "Install the backend again, or train the model again."


def save_draft(folder: Path, model: DraftModel, about: str = "") -> None:
    """Write a model into `folder`, which is replaced whole. about: Markdown for its card: data, hours, metrics."""
    rounded = copy.deepcopy(model).bfloat16().to(memory_format=torch.contiguous_format)  # type: ignore[call-arg]
    count = sum(parameter.numel() for parameter in model.parameters())
    with replaced(folder) as beside:
        rounded.save_pretrained(beside, safe_serialization=True)
        (beside / WEIGHTS).chmod(0o644)  # it is written for its owner alone, but may come with the package
        (beside / "README.md").write_text(_card(type(model).__name__, count, about), "utf-8")


def load_draft(folder: Path, dtype: torch.dtype = torch.float32) -> DraftModel:
    """The model in `folder`, on the CPU, ready to use. Raises BadFile for what is missing, foreign or does not fit."""
    try:
        name = str(json.loads((folder / "config.json").read_text("utf-8"))["_class_name"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadFile(
            f"does not say which draft model it is ({error!r}).", str(folder / "config.json"), _AGAIN
        ) from error
    if name not in _CLASSES:
        raise BadFile(f'is of the kind "{name}".', str(folder), f"The draft engine takes {' and '.join(_CLASSES)}.")
    return pretrained(_CLASSES[name], folder, name, folder, _AGAIN, dtype=dtype)  # type: ignore[no-any-return]


def _card(name: str, parameters: int, about: str) -> str:
    return (
        f"""---
license: {LICENCE.lower()}
library_name: diffusers
tags: [video-to-video, track-conditioned, retake]
---

# Retake draft ({name})

{parameters:,} parameters, bfloat16. It makes the takes of Retake's engine `draft`: given footage, the footage moved
along an edit by geometry (the engine `preview`), its holes and the 3D point tracks before and after the edit, it paints
what geometry cannot know. It is no general video model: it has no text, and without a reprojection it makes nothing.

{about.strip()}
""".rstrip()
        + "\n"
    )
