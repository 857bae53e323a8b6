"""Models that are small enough to come with the backend: folders beside its code, never downloaded.

One of the same name in the store goes first: a model that was trained further on the user's own shots.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "models" / "weights"
WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = ("config.json", WEIGHTS, "README.md")
"""What such a model consists of; the last one, its card, may be missing."""


def find(name: str) -> Path | None:
    """The folder of the model `name` that came with the backend, None for none. Only names of files are looked at."""
    folder = SHIPPED / name
    return folder if all((folder / file).is_file() for file in FILES[:2]) else None
