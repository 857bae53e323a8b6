"""A model from a folder into the store: a copy from another machine, the hub's own cache, or parts just trained."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from retake_shared.errors import BadFile, RetakeError

from . import contents
from .catalogue import Model, find, size_in_words
from .store import (
    INCOMING,
    MANIFEST,
    Entry,
    Manifest,
    Report,
    WeightStore,
    alone,
    further,
    put_in_place,
    read_manifest,
    write_manifest,
)

_BLOCK = 1 << 22
_COMMIT = re.compile(r"[0-9a-f]{40}")


def import_folder(
    name: str, folder: Path, store: WeightStore, report: Report, *, link: bool = False, replace: bool = False
) -> Entry:
    """Copy a model of the catalogue from a folder into the store.

    folder: diffusers' layout; or a repository or snapshot of the hub's cache; or parts as `models.parts` writes them;
    or a model of Retake's own as its training leaves it.
    link: make hard links in place of copies where the file system can (the folder's files must not be changed then).
    replace: the place of a model that is installed already. Whatever else lies in the folder is left there. Raises
    BadFile when it is another model, or its weights are pickled or cut off; RetakeError when the disk is too small.
    """
    model = find(name)
    entry = store.entry(name)
    if entry.state == "installed" and not (entry.random or entry.shipped or replace):
        raise RetakeError("is installed already.", name, "Say --replace to put this one in its place.")
    folder = _snapshot(folder)
    if not folder.is_dir():
        raise BadFile("is no folder.", str(folder), "Name the folder that holds the model.")
    if folder.resolve() == entry.place.resolve():
        raise BadFile("is where the model is kept.", str(folder), "Name a folder elsewhere.")
    manifest = read_manifest(folder, name) if (folder / MANIFEST).exists() else None
    files = contents.files_of(model, folder)
    contents.check(model, files, folder, sizes=manifest is None or not manifest.random)
    total = sum(path.stat().st_size for path in files.values())
    incoming = store.folder / INCOMING / f"{name}.import"  # a pull that stopped stays beside until this is done
    with alone(store, name):
        free = shutil.disk_usage(store.folder).free
        if not link and total > free:
            raise RetakeError(
                f"{name} needs {size_in_words(total)}, {size_in_words(free)} are free.",
                str(store.folder),
                "Free some space, say --link, or set RETAKE_MODELS to a folder on a larger disk.",
            )
        shutil.rmtree(incoming, ignore_errors=True)
        try:
            hashes = _copy(files, incoming, total, report, link)
            if manifest is not None:
                _compare(manifest, hashes, folder)
            write_manifest(
                incoming,
                name,
                repository=manifest.repository if manifest else _repository(model, folder),
                commit=manifest.commit if manifest else _commit(folder),
                licence=(manifest.licence if manifest else "") or _licence(model, files),
                random=manifest is not None and manifest.random,
                borrowed=manifest.borrowed if manifest else None,
                hashes=hashes,
            )
            put_in_place(store, name, incoming)
            shutil.rmtree(store.folder / INCOMING / name, ignore_errors=True)
        except BaseException:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
    return store.entry(name)


def _snapshot(folder: Path) -> Path:
    """The snapshot of a repository in the hub's cache (models--owner--name); the folder itself when it is none."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return folder
    head = folder / "refs" / "main"
    if head.is_file() and (snapshots / head.read_text("utf-8").strip()).is_dir():
        return snapshots / head.read_text("utf-8").strip()
    found = sorted(path for path in snapshots.iterdir() if path.is_dir())
    if len(found) != 1:
        raise BadFile(f"holds {len(found)} snapshots.", str(snapshots), "Name the folder of one of them.")
    return found[0]


def _copy(files: Mapping[str, Path], incoming: Path, total: int, report: Report, link: bool) -> dict[str, str]:
    """Copy or link every file; their sha256 by name."""
    hashes = {}
    done = 0
    for name, path in files.items():
        source, target = path.resolve(), incoming / name
        target.parent.mkdir(parents=True, exist_ok=True)
        progress = further(report, done, total, f"copying {name}")
        if link and _linked(source, target):
            hashes[name] = contents.sha256_of(target, progress)
        else:
            hashes[name] = _copied(source, target, progress)
        done += target.stat().st_size
    return hashes


def _copied(source: Path, target: Path, progress: Callable[[int], None]) -> str:
    """Copy a file; the sha256 of what was written."""
    digest, done = hashlib.sha256(), 0
    with source.open("rb", buffering=0) as file, target.open("wb") as out:
        while block := file.read(_BLOCK):
            out.write(block)
            digest.update(block)
            done += len(block)
            progress(done)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _compare(manifest: Manifest, hashes: Mapping[str, str], folder: Path) -> None:
    """Raise BadFile when what was copied is not what the folder's manifest says was installed."""
    for name, (_, sha256) in manifest.files.items():
        if hashes.get(name) != sha256:
            what = "is gone." if name not in hashes else "is not what was installed: it was damaged on its way."
            raise BadFile(what, str(folder / name), "Copy the folder again.")


def _repository(model: Model, folder: Path) -> str:
    """The repository that a snapshot of the hub's cache is of, the catalogue's when that cannot be told."""
    cache = folder.absolute().parent.parent.name
    return cache.removeprefix("models--").replace("--", "/") if cache.startswith("models--") else model.repository


def _commit(folder: Path) -> str:
    return folder.name if _COMMIT.fullmatch(folder.name) else ""


def _licence(model: Model, files: Mapping[str, Path]) -> str:
    """The licence, for parts the one that they say they are under."""
    if model.kind != "parts":
        return model.licence
    said = [str(contents.read_json(path)["licence"]) for name, path in files.items() if name.endswith("/part.json")]
    return "; ".join(dict.fromkeys(said))
