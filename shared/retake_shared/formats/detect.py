"""Whose result a path is, by content, and reading it.

Files that are .npz are told apart by their arrays, text and JSON files by their first lines, other results by the
files of their folder; for those the folder, or any file in it, may be given.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import BadFile, BadShot
from ..lifting import Tracks2D
from ..shot import Footage, Solve
from . import (
    colmap,
    cotracker,
    depth_anything,
    euroc,
    gen3c,
    kitti,
    lyra,
    megasam,
    realestate10k,
    recammaster,
    retake,
    spatialtracker,
    tapip3d,
    tapip3d_input,
    textfile,
    transforms_json,
    tum,
    vggt,
    vipe,
    wanmove,
)
from .hints import Hints
from .npz import NpzFile, reading

_OF_ARRAYS = (retake, spatialtracker, tapip3d, megasam, vggt, depth_anything, tapip3d_input, lyra)
_OF_FOLDERS: tuple[tuple[ModuleType, Callable[..., tuple[Solve, list[str]]]], ...] = (
    (vipe, vipe.read),
    (gen3c, gen3c.read),
    (megasam, megasam.read_folder),
    (colmap, colmap.read),
)
_OF_TEXT = (realestate10k, euroc, tum, kitti)
_OF_JSON = (transforms_json, recammaster)
_ALL = (*_OF_ARRAYS, vipe, gen3c, colmap, *_OF_JSON, *_OF_TEXT, cotracker, wanmove)

_COLMAP_FILES = ("cameras", "images", "points3D", "rigs", "frames", "project")

Content = tuple[Solve | Tracks2D, list[str]]
Reader = Callable[[Footage | None, Hints], Content]


def detect(path: str | os.PathLike[str]) -> str:
    """The name of the solver whose result `path` is. Raises BadFile listing what was looked for and what was found."""
    return _identify(Path(path))[0]


def read(
    path: str | os.PathLike[str], footage: Footage | None = None, hints: Hints | None = None
) -> tuple[Solve, list[str]]:
    """The solve that lies at `path`, and notes for the user: what was repaired, inferred, assumed or left out.

    footage helps where a result does not say enough by itself (which clip of several, how many frames, picture size);
    hints give what some files cannot say (the field of view). `fitting.bind` is still needed to bring the solve to the
    footage's size and frames. Raises BadFile, also for tracks in 2D, which are no solve by themselves.
    """
    content, notes = read_any(path, footage, hints)
    if isinstance(content, Tracks2D):
        raise BadFile(
            f"holds tracks in 2D ({content.source}), no cameras.",
            str(path),
            "Combine it with a solve of the same footage: retake convert TRACKS --with SOLVE --out solve.npz. "
            "A solve with depth maps also lifts what moves.",
        )
    return content, notes


def read_any(path: str | os.PathLike[str], footage: Footage | None = None, hints: Hints | None = None) -> Content:
    """Like `read`, but tracks in 2D are given as they are, for `lifting.lift`. Raises BadFile."""
    try:
        return _identify(Path(path))[1](footage, hints or Hints())
    except BadShot as error:  # an invariant of Solve: name the file it came from
        where = f"{path}: {error.where}" if error.where else str(path)
        raise BadFile(error.what, where, error.remedy) from error
    except MemoryError as error:
        raise BadFile("does not fit into memory.", str(path), "Solve at a smaller size, or fewer frames.") from error


def is_torch_file(path: Path) -> bool:
    """Whether a file was written by torch.save: a zip around a pickle, or, of old, a pickle."""
    with reading(str(path)):
        if not path.is_file():
            return False
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
        with path.open("rb") as stream:
            return stream.read(1) == b"\x80"


def _identify(path: Path) -> tuple[str, Reader]:
    with reading(str(path)):
        path.stat()
        is_zip = path.is_file() and zipfile.is_zipfile(path)
        is_other = path.is_file() and not is_zip and path.stem not in _COLMAP_FILES
        for module, reader in _OF_FOLDERS:
            # A model's folder may hold other files too: an .npz or a trajectory in it speaks for itself.
            if module is colmap and (is_zip or (is_other and _of_words(path) is not None)):
                continue
            found = module.find(path)
            if found is not None:
                return module.NAME, lambda footage, hints, r=reader, source=found: r(source, footage)
        found_words = None if is_zip else _of_words(path)
        if found_words is not None:
            return found_words
        for pairs, name, read_pair in ((wanmove.find, wanmove.NAME, wanmove.read),
                                       (cotracker.find_pair, cotracker.NAME, cotracker.read_pair)):  # fmt: skip
            pair = pairs(path)
            if pair is not None:
                return name, lambda footage, hints, r=read_pair, source=pair: (r(source, hints), [])
    if is_torch_file(path):
        raise BadFile(
            "was written by PyTorch, whose files are not opened here.",
            str(path),
            "Turn it into a solve with Retake's backend: retake convert FILE --out solve.npz.",
        )
    if not is_zip:
        if path.is_dir():
            raise _unknown(path, _listing(path), (vipe, colmap, gen3c, megasam, transforms_json, wanmove))
        raise _unknown(path, f"a file of {path.stat().st_size} bytes, no .npz", (*_OF_JSON, *_OF_TEXT))
    with NpzFile(path) as npz:
        for module in _OF_ARRAYS:
            if module.recognises(npz):
                return module.NAME, lambda footage, hints, m=module: _read_arrays(m.read, path, footage)
        if cotracker.recognises(npz):
            return cotracker.NAME, lambda footage, hints: (_read_arrays(cotracker.read, path, hints), [])
        raise _unknown(path, npz.describe(), (*_OF_ARRAYS, cotracker))


def _of_words(path: Path) -> tuple[str, Reader] | None:
    """The reader of a text or JSON file, or of a folder with a transforms.json."""
    inside = transforms_json.find(path)
    if inside is not None:
        content = textfile.load_json(inside)
        for module in _OF_JSON:
            if module.recognises(content):
                return module.NAME, lambda footage, hints, m=module: m.read(inside, footage, hints)
    if path.is_file():
        for module in _OF_TEXT:
            if module.recognises(path):
                return module.NAME, lambda footage, hints, m=module: m.read(path, footage, hints)
    return None


def _read_arrays(reader: Callable[[NpzFile, Any], Any], path: Path, argument: Any) -> Any:
    with NpzFile(path) as npz:
        return reader(npz, argument)


def _unknown(path: Path, found: str, likely: tuple[ModuleType, ...]) -> BadFile:
    """likely: the formats that such a file or folder could have been, whose contents are spelt out."""
    wanted = "; ".join(f"{module.NAME}: {module.LOOKED_FOR}" for module in likely)
    others = ", ".join(module.NAME for module in _ALL if module not in likely)
    return BadFile(
        f"is no solve that Retake reads. Found: {found}.", str(path), f"Looked for {wanted}. Also read: {others}."
    )


def _listing(folder: Path) -> str:
    names = []
    for entry in sorted(folder.iterdir())[:12]:
        names.append(entry.name + "/" * entry.is_dir())
    return "a folder with " + ", ".join(names) if names else "an empty folder"
