"""Reading hand-written JSON strictly: an unknown key, a wrong type or a missing value is told by its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .errors import BadFile, BadShot
from .geometry import Array

REQUIRED: Any = object()
_LARGEST = 1e9


@contextmanager
def within(place: str, joint: str = ".") -> Iterator[None]:
    """Errors raised inside say that they happened at `place`."""
    try:
        yield
    except (BadFile, BadShot) as error:
        where = f"{place}{joint}{error.where}" if error.where else place
        raise type(error)(error.what, where, error.remedy) from error


def parse_object(text: str | bytes, kind: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises BadFile with line and column, for a key given twice, or another value."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise BadFile(f'holds the key "{twice[0]}" twice in one place.', "", "Keep one.")
        return dict(pairs)

    try:
        data = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise BadFile(
            f"is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.", "", "Mend it there."
        ) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadFile(f"is not {kind} ({error!s:.100}).", "", "Save it as JSON text in UTF-8.") from error
    if not isinstance(data, dict):
        raise BadFile(f"is not {kind}: it holds a {type(data).__name__}.", "", "Write one JSON object.")
    return data


class Fields:
    """The values of one JSON object whose keys are known. Every method raises BadFile naming the key."""

    def __init__(self, value: Any, allowed: Sequence[str]) -> None:
        if not isinstance(value, dict):
            raise BadFile(f"is {value!r:.80}.", "", f"Expected an object with keys among: {', '.join(allowed)}.")
        unknown = [key for key in value if key not in allowed]
        if unknown:
            raise BadFile(f"unknown key {unknown[0]!r:.80}.", "", f"Allowed are: {', '.join(allowed)}.")
        self.values = value

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def _of(self, kind: type, name: str, default: Any, expected: str) -> Any:
        if name not in self.values:
            if default is REQUIRED:
                raise BadFile("is missing.", name, f"Expected {expected}.")
            return default
        value = self.values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BadFile(f"is {value!r:.80}.", name, f"Expected {expected}.")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self._of(bool, name, default, "true or false"))

    def text(self, name: str, default: str = REQUIRED) -> str:
        value = str(self._of(str, name, default, "text in quotes"))
        if not value.strip():
            raise BadFile("is empty.", name, "Expected text.")
        return value

    def choice(self, name: str, options: Sequence[str], default: str = REQUIRED) -> str:
        expected = "one of: " + ", ".join(options)
        value = self._of(str, name, default, expected)
        if value not in options:
            raise BadFile(f"is {value!r:.80}.", name, f"Expected {expected}.")
        return str(value)

    def whole(self, name: str, default: int = REQUIRED) -> int:
        return int(self._of(int, name, default, "a whole number"))

    def number(self, name: str, default: float = REQUIRED) -> float:
        value = (
            self.values.get(name, default) if default is not REQUIRED else self._of(object, name, default, "a number")
        )
        return _number(value, name)

    def positive(self, name: str, default: float = REQUIRED) -> float:
        value = self.number(name, default)
        if value <= 0:
            raise BadFile(f"is {value:g}.", name, "Expected a number above 0.")
        return value

    def vector(self, name: str, default: Any = REQUIRED) -> Array:
        """Three numbers, as an array (3,)."""
        value = self._of(list, name, default, "three numbers")
        if len(value) != 3:
            raise BadFile(f"is {value!r:.80}.", name, "Expected three numbers.")
        return np.array([_number(v, name) for v in value])

    def frame_range(self, name: str) -> tuple[int, int] | None:
        """Two whole numbers, or None when absent."""
        value = self._of(list, name, None, "two whole numbers")
        if value is None:
            return None
        if len(value) != 2 or not all(type(v) is int for v in value):
            raise BadFile(f"is {value!r:.80}.", name, "Expected two whole numbers.")
        return value[0], value[1]

    def items(self, name: str, default: Any = REQUIRED) -> list[Any]:
        return list(self._of(list, name, default, "a list"))


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise BadFile(f"is {value!r:.80}.", name, "Expected a number.")
    return float(value)
