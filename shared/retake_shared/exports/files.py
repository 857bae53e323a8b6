"""Writing a file whole or not at all, with the system's refusals in words."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import RetakeError


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` once it is complete. Raises RetakeError."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "xb") as stream:
                yield stream
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RetakeError(
            f"cannot be written: {error.strerror or error}.", str(path), "Choose a place that you may write to."
        ) from error


def write_text(path: Path, text: str) -> None:
    """UTF-8, lines ended by \\n on every system."""
    with replacing(path) as stream:
        stream.write(text.encode())


def number(value: float) -> str:
    """The shortest decimal that reads back as the same float64."""
    return repr(float(value) + 0.0)
