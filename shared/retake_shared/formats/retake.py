"""Retake's own archive of a solve (see `retake_shared.archive`)."""

from __future__ import annotations

from .. import archive
from ..shot import Footage, Solve
from .npz import NpzFile

NAME = "Retake"
LOOKED_FOR = "an archive that Retake wrote (header, c2w, K)"


def recognises(npz: NpzFile) -> bool:
    """The archive's header of bytes, and cameras under our own names."""
    return "c2w" in npz and "header" in npz and npz.headers["header"].dtype == "u1"


def read(npz: NpzFile, footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve as it was saved. Raises BadFile when the archive is damaged or holds an edit."""
    return archive.load_solve(npz.path), []
