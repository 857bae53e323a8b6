"""Results of stages on disk: plain data <-> one .npz, named by everything that it follows from. Never a pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from retake_shared.errors import RetakeError
from retake_shared.shot import Cameras, Tracks

from .masks import GivenMasks
from .stages import CameraSolve, DepthMaps, Lifted, ObjectGroups, PointTracks

_CLASSES = {
    c.__name__: c for c in (PointTracks, GivenMasks, CameraSolve, ObjectGroups, DepthMaps, Lifted, Cameras, Tracks)
}
_HEADER = "header"
_KEPT = 3
"""Results of one stage that are kept, for options that are tried in turn."""

Result = TypeVar("Result")


def key(*parts: object) -> str:
    """A name for everything that a result follows from; each part is JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class Kept:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, stage: str, name: str, kind: type[Result]) -> Result | None:
        """What `save` kept, or None: when there is nothing, and when it is damaged."""
        path = self._path(stage, name)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {member: file[member] for member in file.files}
            value = _built(json.loads(arrays.pop(_HEADER).tobytes()), arrays)
            os.utime(path)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, RetakeError):
            return None
        return value if isinstance(value, kind) else None

    def save(self, stage: str, name: str, value: Any) -> None:
        """Keep a result; the oldest of the stage beyond a few are removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, np.ndarray] = {}
        text = json.dumps(_taken_apart(value, "a", arrays))
        part = self.folder / f"{secrets.token_hex(8)}.part"
        try:
            with open(part, "xb") as stream:
                np.savez(stream, allow_pickle=False, **{_HEADER: np.frombuffer(text.encode(), np.uint8)}, **arrays)
            part.replace(self._path(stage, name))
        finally:
            part.unlink(missing_ok=True)
        for old in sorted(self.folder.glob(f"{stage}-*.npz"), key=lambda f: f.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)

    def _path(self, stage: str, name: str) -> Path:
        return self.folder / f"{stage}-{name}.npz"


def _taken_apart(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    """Plain JSON, the arrays put aside under names of their places."""
    if isinstance(value, np.ndarray):
        arrays[place] = value
        return {"array": place}
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value)]
        parts = {name: _taken_apart(getattr(value, name), f"{place}.{name}", arrays) for name in names}
        return {"class": type(value).__name__, "fields": parts}
    if isinstance(value, tuple):
        return {"tuple": [_taken_apart(part, f"{place}.{i}", arrays) for i, part in enumerate(value)]}
    if isinstance(value, dict):
        return {"names": [[int(number), str(name)] for number, name in value.items()]}
    return value.item() if isinstance(value, np.generic) else value


def _built(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "tuple" in value:
        return tuple(_built(part, arrays) for part in value["tuple"])
    if "names" in value:
        return {int(number): str(name) for number, name in value["names"]}
    fields = {name: _built(part, arrays) for name, part in value["fields"].items()}
    return _CLASSES[value["class"]](**fields)
