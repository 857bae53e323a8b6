"""Depth of single pictures by a network, where its weights are installed."""

from __future__ import annotations

from ..weights.store import WeightStore

NAMES = ("depth-anything-v2-small", "depth-pro")
"""By the catalogue, the preferred first."""


def installed(store: WeightStore | None = None) -> str:
    """The name of the network that can be used here, "" when there is none."""
    return ""
