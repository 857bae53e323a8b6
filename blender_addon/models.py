"""What is known of the backend's models: which are here, what is being done with them, which of them an engine lacks.

Plain data that the link's messages fill; drawing and operators read it. Nothing here touches the disk or waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retake_shared.client import Models, ModelState
from retake_shared.engine_options import describe

from .messages import Backend, ModelsTold, ModelTold

IN_WORDS = {"missing": "Not here", "partial": "Partly here", "installed": "Here", "damaged": "Damaged"}
TASKS = {"waiting": "Waiting", "pull": "Downloading", "verify": "Verifying", "remove": "Removing"}

place = ""
"""The folder on the backend's machine where its models lie; "" while not known."""
_models: dict[str, ModelState] = {}
_engines: dict[str, Mapping[str, Any]] = {}


def apply(message: Backend | ModelsTold | ModelTold) -> None:
    """Remember what a message tells."""
    global place
    if isinstance(message, Backend):
        ready = message.state == "ready"
        if not ready:  # what it had may change without it; the next one tells
            forget()
        engines = message.info.engines if message.info is not None and ready else ()
        _engines.clear()
        _engines.update({str(told.get("name")): told for told in engines})
    elif isinstance(message, ModelTold):
        _models[message.model.name] = message.model
    else:
        told = message.models or Models("", ())
        place = told.place
        _models.clear()
        _models.update({model.name: model for model in told.models})


def forget() -> None:
    """Know nothing any more, as before any backend has told."""
    global place
    place = ""
    _models.clear()
    _engines.clear()


def every() -> list[ModelState]:
    """All models of the backend's catalogue; none while no backend has told."""
    return list(_models.values())


def find(name: str) -> ModelState | None:
    """The model of that name, None while it is not known."""
    return _models.get(name)


def known() -> bool:
    """Whether a backend has told what it has."""
    return bool(_models or _engines)


def missing(engine: str, options: Mapping[str, Any]) -> list[ModelState] | None:
    """The models that the engine cannot do without and that are not here; None while that is not known. What comes with
    the backend is here until the backend says otherwise."""
    table = describe(engine)
    of_its_own, needed = (table.weights, table.needs(options)) if table else ((), ())
    if table is not None and not needed:
        return []
    if table is not None and _models:
        states = [_models.get(name, ModelState(name, name)) for name in needed]
        return [model for model in states if model.state != "installed"]
    if engine not in _engines or needed != of_its_own:
        return [] if table is not None and table.shipped else None
    return [
        _models.get(str(told.get("name")), ModelState.from_json(told)) for told in _engines[engine].get("missing", ())
    ]


def advised(engine: str, options: Mapping[str, Any]) -> ModelState | None:
    """A model without which the engine works, but not as these options want it, and that is not here."""
    table = describe(engine)
    found = _models.get((table and table.distilled(options)) or "")
    return found if found is not None and found.state != "installed" else None


def size_in_words(nbytes: int) -> str:
    """Bytes as disks are sold: 17.6 GB."""
    for unit, digits in (("GB", 9), ("MB", 6), ("kB", 3)):
        if nbytes >= 10**digits:
            return f"{nbytes / 10**digits:.{0 if digits < 9 else 1}f} {unit}"
    return f"{nbytes} bytes"


def in_words(models: list[ModelState]) -> str:
    """Models with their sizes, for a sentence."""
    return " and ".join(f"{model.label or model.name} ({size_in_words(model.nbytes)})" for model in models)
