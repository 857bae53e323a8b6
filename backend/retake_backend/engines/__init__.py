"""Engines: each turns footage, a solve and an edit into the frames of a take (`base.Engine`).

Engines are known by name. The modules load when an engine is created, so that listing them costs nothing; labels and
options stand in `retake_shared.engine_options`. A further engine comes in through the environment of the process that
renders, never through a message: `RETAKE_ENGINES="package.module:Class other.module:Class"`, each class with its own
`name`.

There is one module or folder an engine. What several share: `diffusion`; `following`, for Trajectory Attention on Wan
and on Stable Video Diffusion (`svd`). `draft_composition` carries what `draft` paints over to the footage.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from retake_shared import engine_options
from retake_shared.errors import RetakeError

from ..weights.store import WeightStore

if TYPE_CHECKING:
    from .base import Engine

_BUILT_IN = {
    "preview": "retake_backend.engines.preview:PreviewEngine",
    "draft": "retake_backend.engines.draft:DraftEngine",
    "edit-by-track": "retake_backend.engines.edit_by_track:EditByTrackEngine",
    "track2view": "retake_backend.engines.track2view:Track2ViewEngine",
    "trajectory-attention": "retake_backend.engines.trajectory_attention:TrajectoryAttentionEngine",
    "vace": "retake_backend.engines.vace:VaceEngine",
}
"""name: module:class, of every engine in `engine_options.ENGINES`."""


def _load(place: str) -> type[Engine]:
    module, _, attribute = place.partition(":")
    engine: type[Engine] = getattr(importlib.import_module(module), attribute)
    return engine


def _from_environment() -> dict[str, type[Engine]]:
    return {engine.name: engine for engine in map(_load, os.environ.get("RETAKE_ENGINES", "").split())}


def available(store: WeightStore | None = None) -> list[dict[str, Any]]:
    """The engines of this machine, as `protocol` tells them: name, label, description, ready, missing.

    ready: what it cannot do without is installed. missing: what is not, as {name, label, bytes, licence} each. Only
    names and sizes of files are looked at; torch is not imported.
    """
    store = store or WeightStore()
    told: list[dict[str, Any]] = []
    for engine in engine_options.ENGINES:
        entries = [entry for name in engine.weights if (entry := store.entry(name)).state != "installed"]
        missing = [
            {
                "name": entry.model.name,
                "label": entry.model.label,
                "bytes": entry.total,
                "licence": entry.model.licence,
            }
            for entry in entries
        ]
        about = {"name": engine.name, "label": engine.label, "description": engine.description}
        told.append({**about, "ready": not missing, "missing": missing})
    further = [
        {"name": name, "label": name, "description": "", "ready": True, "missing": []} for name in _from_environment()
    ]
    return told + further


def create(name: str) -> Engine:
    """The engine called `name`. Raises RetakeError listing the names that exist."""
    if name in _BUILT_IN:
        return _load(_BUILT_IN[name])()
    further = _from_environment()
    if name in further:
        return further[name]()
    names = ", ".join([*_BUILT_IN, *further])
    raise RetakeError(f'there is no engine "{name}".', "settings.engine", f"This backend has: {names}.")
