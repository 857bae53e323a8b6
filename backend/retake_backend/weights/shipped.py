"""Models that are small enough to come with the backend: folders beside its code, never downloaded.

A folder of the same name in the store goes first: a model that was trained further on the user's own shots.
"""

from __future__ import annotations

from pathlib import Path

from retake_shared.engine_options import ENGINES
from retake_shared.errors import RetakeError

from .store import WeightStore

SHIPPED = Path(__file__).parents[1] / "models" / "weights"
NAMES = tuple(engine.shipped for engine in ENGINES if engine.shipped)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def find(name: str, store: WeightStore | None = None) -> Path | None:
    """The folder of the shipped model `name`, None where it is not here. Only names of files are looked at."""
    for folder in ((store or WeightStore()).folder / name, SHIPPED / name):
        if (folder / "config.json").is_file() and (folder / WEIGHTS).is_file():
            return folder
    return None


def place(name: str) -> Path:
    """The folder of the shipped model `name`. Raises RetakeError where it is not here, saying where it should be."""
    folder = find(name)
    if folder is None:
        raise RetakeError(
            f"the weights of {name}, which come with the backend, are not here.",
            str(SHIPPED / name),
            "Install the backend again, or train it: retake train.",
        )
    return folder
