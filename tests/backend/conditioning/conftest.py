"""What the conditioners' tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from retake_backend.conditioning.coordinates import TrackPairs


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The papers' formulas written out, `reference.py`."""
    spec = importlib.util.spec_from_file_location("conditioning_reference", Path(__file__).with_name("reference.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def random_pairs() -> Callable[..., TrackPairs]:
    """make(videos, frames, count, seed=0): tracks all over the picture and a little beyond, a third of each absent."""

    def make(videos: int, frames: int, count: int, seed: int = 0) -> TrackPairs:
        generator = torch.Generator().manual_seed(seed)

        def view() -> torch.Tensor:
            xyz = torch.rand(videos, frames, count, 3, generator=generator)
            xyz[..., :2] = 1.3 * xyz[..., :2] - 0.15
            return xyz

        def some() -> torch.Tensor:
            return torch.rand(videos, frames, count, generator=generator) > 0.33

        return TrackPairs(view(), view(), some(), some(), some())

    return make
