"""Engines: each turns footage, a solve and an edit into the frames of a take (`base.Engine`).

Engines are known by name. The modules load when an engine is created, so that listing them costs nothing. A further
engine comes in through the environment of the process that renders, never through a message:
`RETAKE_ENGINES="package.module:Class other.module:Class"`, each class with its own `name`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from retake_shared.errors import RetakeError

if TYPE_CHECKING:
    from .base import Engine

_BUILT_IN = {
    "preview": ("retake_backend.engines.preview:PreviewEngine", "Preview (reprojection)", "nothing; any CPU"),
}
"""name: (module:class, label for the artist, what it needs)."""


def _load(place: str) -> type[Engine]:
    module, _, attribute = place.partition(":")
    engine: type[Engine] = getattr(importlib.import_module(module), attribute)
    return engine


def _from_environment() -> dict[str, type[Engine]]:
    return {engine.name: engine for engine in map(_load, os.environ.get("RETAKE_ENGINES", "").split())}


def available() -> list[dict[str, str]]:
    """The engines of this machine: name, label and what they need, in words."""
    built_in = [{"name": name, "label": label, "needs": needs} for name, (_, label, needs) in _BUILT_IN.items()]
    return built_in + [{"name": name, "label": name, "needs": "RETAKE_ENGINES"} for name in _from_environment()]


def create(name: str) -> Engine:
    """The engine called `name`. Raises RetakeError listing the names that exist."""
    if name in _BUILT_IN:
        return _load(_BUILT_IN[name][0])()
    further = _from_environment()
    if name in further:
        return further[name]()
    names = ", ".join([*_BUILT_IN, *further])
    raise RetakeError(f'there is no engine "{name}".', "settings.engine", f"This backend has: {names}.")
