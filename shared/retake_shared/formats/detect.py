"""Whose result a path is, by content, and reading it.

Files that are .npz are told apart by their arrays, ViPE results and COLMAP models by the files of their folder; for
those the folder, or any file in it, may be given.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from ..errors import BadFile, BadShot
from ..shot import Footage, Solve
from . import colmap, retake, spatialtracker, tapip3d, vipe
from .npz import NpzFile, reading

_OF_ARRAYS = (retake, spatialtracker, tapip3d)
_OF_FOLDERS = (vipe, colmap)

Reader = Callable[[Footage | None], tuple[Solve, list[str]]]


def detect(path: str | os.PathLike[str]) -> str:
    """The name of the solver whose result `path` is. Raises BadFile listing what was looked for and what was found."""
    return _identify(Path(path))[0]


def read(path: str | os.PathLike[str], footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve that lies at `path`, and notes for the user: what was repaired, inferred or left out.

    footage helps where a result does not say enough by itself (which clip of several, how many frames, picture size);
    `fitting.bind` is still needed to bring the solve to the footage's size and frames. Raises BadFile.
    """
    try:
        return _identify(Path(path))[1](footage)
    except BadShot as error:  # an invariant of Solve: name the file it came from
        where = f"{path}: {error.where}" if error.where else str(path)
        raise BadFile(error.what, where, error.remedy) from error
    except MemoryError as error:
        raise BadFile("does not fit into memory.", str(path), "Solve at a smaller size, or fewer frames.") from error


def _identify(path: Path) -> tuple[str, Reader]:
    with reading(str(path)):
        path.stat()
        is_zip = path.is_file() and zipfile.is_zipfile(path)
        for module in _OF_FOLDERS:
            found = module.find(path)
            # A model's folder may hold other files too: an .npz in it speaks for itself.
            if found is not None and not (is_zip and module is colmap):
                return module.NAME, lambda footage, m=module, source=found: m.read(source, footage)
    if not is_zip:
        raise _unknown(path, _listing(path) if path.is_dir() else f"a file of {path.stat().st_size} bytes, no .npz")
    with NpzFile(path) as npz:
        for module in _OF_ARRAYS:
            if module.recognises(npz):
                return module.NAME, lambda footage, m=module: _read_arrays(m.read, path, footage)
        raise _unknown(path, npz.describe())


def _read_arrays(
    reader: Callable[[NpzFile, Footage | None], tuple[Solve, list[str]]], path: Path, footage: Footage | None
) -> tuple[Solve, list[str]]:
    with NpzFile(path) as npz:
        return reader(npz, footage)


def _unknown(path: Path, found: str) -> BadFile:
    wanted = "; ".join(f"{module.NAME}: {module.LOOKED_FOR}" for module in (*_OF_ARRAYS, *_OF_FOLDERS))
    return BadFile(f"is no solve that Retake reads. Found: {found}.", str(path), f"Looked for {wanted}.")


def _listing(folder: Path) -> str:
    names = []
    for entry in sorted(folder.iterdir())[:12]:
        names.append(entry.name + "/" * entry.is_dir())
    return "a folder with " + ", ".join(names) if names else "an empty folder"
