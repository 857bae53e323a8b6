"""A folder in the place of another, so that one of the two is always there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def put_in_place(whole: Path, place: Path, before: Path) -> None:
    """Rename the folder `whole` to `place`; what stands there makes room, and stays when that fails.

    before: a name on the same disk for what makes room; what lies there from an interrupted run goes.
    """
    clear(before)
    there = os.path.lexists(place)
    try:
        if there:
            os.replace(place, before)
        os.replace(whole, place)
    except BaseException:
        if there and not os.path.lexists(place):
            os.replace(before, place)
        raise
    clear(before)


def clear(folder: Path) -> None:
    """Delete a folder, or the link in its place: what that points to is the user's own."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
