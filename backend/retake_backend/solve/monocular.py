"""Depth of single pictures by a network, where its weights are installed."""

from __future__ import annotations

from ..engines.base import Report
from ..weights.store import WeightStore
from .stages import Pictures

NAMES = ("depth-anything-v2-small", "depth-pro")
"""By the catalogue, the preferred first."""


def installed(store: WeightStore | None = None) -> str:
    """The name of the network that can be used here, "" when there is none."""
    raise NotImplementedError
