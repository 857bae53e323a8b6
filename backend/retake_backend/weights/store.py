"""What is installed, and where: the folder of models, one manifest in each.

A model is installed when its folder stands under its name with a `retake_model.json` (the manifest) whose files are all
there at their size. It comes to its name by one rename, so that half of a download is never taken for a model.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from retake_shared import connection
from retake_shared.errors import BadFile, RetakeError

from .. import folders
from . import shipped
from .catalogue import CATALOGUE, Model, find, size_in_words
from .contents import sha256_of

MANIFEST = "retake_model.json"
INCOMING = ".incoming"
PLAN = "pull.json"

State = Literal["missing", "partial", "installed", "damaged"]
Report = Callable[[int, int, str], None]
"""(bytes done, bytes in all, what is being done); may raise Cancelled to stop."""


class MissingWeights(RetakeError):
    """Models that the work needs are not installed, or are damaged. models: those, as the catalogue has them."""

    def __init__(self, what: str, remedy: str, models: Iterable[Model]) -> None:
        self.models = tuple(models)
        super().__init__(what, "weights", remedy)


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue as it stands here.

    place: its folder, there or not. nbytes: what lies there; total: what there is when it is installed (about, until
    the hub was asked). random: weights that were never trained, for tests. damage: what is wrong with it, in words.
    shipped: it is the one that comes with the backend, and `place` is there: nothing of it lies in the store.
    """

    model: Model
    state: State
    place: Path
    nbytes: int
    total: int
    random: bool
    licence: str
    damage: str = ""
    shipped: bool = False

    def notes(self) -> list[str]:
        """What the artist has to know of a take made with it."""
        return [f"The weights of {self.model.label} are random: the picture means nothing."] if self.random else []


class WeightStore:
    """The folder of models: `folder`, else $RETAKE_MODELS, else `models` in the home folder. It need not exist."""

    def __init__(self, folder: Path | None = None) -> None:
        named = os.environ.get("RETAKE_MODELS")
        self.folder = folder or (Path(named) if named else connection.default_home() / "models")

    def entries(self) -> list[Entry]:
        """Every model of the catalogue and its state, by names and sizes of files: nothing is hashed."""
        return [self.entry(name) for name in CATALOGUE]

    def entry(self, name: str) -> Entry:
        """One of `entries`. Raises RetakeError for a name that the catalogue does not have."""
        model = find(name)
        place = self.folder / name
        if not place.is_dir():
            if (folder := shipped.find(name)) is not None:
                size = folder_size(folder)
                return Entry(model, "installed", folder, size, size, False, model.licence, shipped=True)
            here, total = self._incoming(model)
            return Entry(model, "partial" if here else "missing", place, here, total, False, model.licence)
        try:
            manifest = read_manifest(place, name)
        except BadFile as error:
            return Entry(model, "damaged", place, folder_size(place), model.nbytes, False, model.licence, str(error))
        damage = manifest.damage or _wrong_sizes(place, manifest.files)
        nbytes = sum(size for size, _ in manifest.files.values())
        state: State = "damaged" if damage else "installed"
        return Entry(model, state, place, nbytes, nbytes, manifest.random, manifest.licence, damage)

    def place(self, name: str) -> Path:
        """The folder of an installed model. Raises MissingWeights saying what, how large, and how to get it."""
        entry = self.entry(name)
        if entry.state != "installed":
            raise missing_weights([entry])
        return entry.place

    def missing(self, names: Iterable[str]) -> list[Model]:
        """Those of the named models that are not installed (damaged ones are not)."""
        return [find(name) for name in names if self.entry(name).state != "installed"]

    def require(self, names: Iterable[str]) -> None:
        """Raise one MissingWeights for all of the named models that are not installed."""
        entries = [entry for name in names if (entry := self.entry(name)).state != "installed"]
        if entries:
            raise missing_weights(entries)

    def random(self, name: str) -> bool:
        """Whether the installed model of that name has random weights."""
        return self.entry(name).random

    def verify(self, name: str, report: Report) -> list[str]:
        """Hash every file of an installed model again; what is wrong, in words, [] when all is right.

        What is found is noted in the manifest, so that the model's state is "damaged" until it is right again.
        Raises MissingWeights when there is no such model here, RetakeError for the one that comes with the backend.
        """
        entry = self.entry(name)
        if entry.shipped:
            raise RetakeError(
                "comes with the backend: there are no checksums of it.", name, "Verify what you imported."
            )
        if entry.state in ("missing", "partial"):
            raise missing_weights([entry])
        manifest = read_manifest(entry.place, name)
        wrong = []
        done = 0
        for file, (size, sha256) in manifest.files.items():
            path = entry.place / file
            if not path.is_file():
                wrong.append(f"{file} is gone")
            elif path.stat().st_size != size:
                wrong.append(f"{file} has {path.stat().st_size:,} bytes in place of {size:,}")
            else:
                found = sha256_of(path, further(report, done, entry.total, "checking"))
                if found != sha256:
                    wrong.append(f"{file} is not what was installed (sha256 {found[:12]} in place of {sha256[:12]})")
            done += size
        written = json.loads((entry.place / MANIFEST).read_text("utf-8"))
        if wrong or written.pop("damage", ""):
            _write_json(entry.place / MANIFEST, written | ({"damage": "; ".join(wrong)} if wrong else {}))
        return wrong

    def remove(self, name: str) -> int:
        """Remove a model and what was pulled of it; the bytes that this frees. 0 when there was nothing in the store."""
        entry = self.entry(name)
        if entry.state == "missing" or entry.shipped:
            return 0
        with alone(self, name):
            return self._remove(name)

    def _remove(self, name: str) -> int:
        freed = 0
        for folder in (self.folder / name, self.folder / INCOMING / name, self.folder / INCOMING / f"{name}.import"):
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                freed += folder_size(folder, only_freed=True)
                # Renamed first: should this be interrupted, half a model does not stand under its name.
                doomed = self.folder / INCOMING / f"{name}.removed"
                doomed.parent.mkdir(exist_ok=True)
                folders.clear(doomed)
                os.replace(folder, doomed)
                shutil.rmtree(doomed)
        return freed

    def _incoming(self, model: Model) -> tuple[int, int]:
        """(bytes pulled, bytes in all) of a model that is on its way."""
        folder = self.folder / INCOMING / model.name
        here = folder_size(folder, without=PLAN)
        try:
            return here, int(json.loads((folder / PLAN).read_text("utf-8"))["total"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return here, model.nbytes


@dataclass(frozen=True)
class Manifest:
    """What `retake_model.json` says. files: name -> (bytes, sha256). damage: what the last verification found."""

    files: dict[str, tuple[int, str]]
    repository: str
    commit: str
    licence: str
    random: bool
    damage: str
    borrowed: dict[str, dict[str, str]]


def write_manifest(
    folder: Path,
    name: str,
    *,
    repository: str = "",
    commit: str = "",
    licence: str = "",
    random: bool = False,
    borrowed: Mapping[str, Mapping[str, str]] | None = None,
    hashes: Mapping[str, str] | None = None,
) -> None:
    """Write the manifest of the model in `folder`: every file that lies there, with its size and sha256.

    name: the catalogue's. repository, commit: where it came from. random: its weights were never trained.
    borrowed: folder -> {"repository", "commit"} of what came from elsewhere. hashes: sha256 of files that were hashed
    already; the rest are hashed here.
    """
    known = hashes or {}
    files = {}
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        if path.is_file() and file != MANIFEST:
            files[file] = {"bytes": path.stat().st_size, "sha256": known.get(file) or sha256_of(path)}
    manifest = {
        "retake_model": 1,
        "name": name,
        "repository": repository,
        "commit": commit,
        "borrowed": {key: dict(value) for key, value in (borrowed or {}).items()},
        "licence": licence,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "random": random,
        "files": files,
    }
    _write_json(folder / MANIFEST, manifest)


def read_manifest(folder: Path, name: str) -> Manifest:
    """The manifest in `folder`. Raises BadFile when it is none, or that of another model."""
    path = folder / MANIFEST
    try:
        written = json.loads(path.read_text("utf-8"))
        if written["retake_model"] != 1 or written["name"] != name:
            raise ValueError(f"it describes {written['name']!r:.40}, version {written['retake_model']!r:.10}")
        files = {_inside(file): (int(entry["bytes"]), str(entry["sha256"])) for file, entry in written["files"].items()}
        if not files:
            raise ValueError("it names no file")
        borrowed = {str(key): {k: str(v) for k, v in of.items()} for key, of in written.get("borrowed", {}).items()}
        text = {key: str(written.get(key, "")) for key in ("repository", "commit", "licence", "damage")}
        return Manifest(files, **text, random=written["random"] is True, borrowed=borrowed)
    except FileNotFoundError:
        raise BadFile("is missing.", str(path), _install_again(name)) from None
    except (OSError, KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise BadFile(f"is no description of {name} ({error}).", str(path), _install_again(name)) from error


@contextmanager
def alone(store: WeightStore, name: str) -> Iterator[None]:
    """Keep a second process from pulling or importing the same model at the same time."""
    from filelock import FileLock, Timeout

    (store.folder / INCOMING).mkdir(parents=True, exist_ok=True)
    lock = FileLock(store.folder / INCOMING / f"{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RetakeError("another process is busy with it.", name, "Wait for it, or stop it first.") from None
    try:
        yield
    finally:
        lock.release()


def further(report: Report, done: int, total: int, stage: str) -> Callable[[int], None]:
    """A report of one file's bytes as those that come after `done` others."""
    return lambda nbytes: report(done + nbytes, total, stage)


def put_in_place(store: WeightStore, name: str, whole: Path) -> None:
    """Give a whole model in `.incoming`, its manifest written, its place; another there is replaced, and stays when
    that fails."""
    folders.put_in_place(whole, store.folder / name, store.folder / INCOMING / f"{name}.removed")


def missing_weights(entries: Iterable[Entry]) -> MissingWeights:
    """The error that says which models are wanted, how large, under which licence, and how they come here."""
    entries = list(entries)
    said, remedies = [], []
    for entry in entries:
        model = entry.model
        if entry.state == "damaged":
            said.append(f"{model.name} is damaged ({entry.damage})")
        else:
            half = ", half pulled" if entry.state == "partial" else ""
            half += ", comes with the backend" if model.kind == "own" else ""
            size = size_in_words(entry.total)
            said.append(f"{model.name} is not installed ({size}, {model.licence or 'not published'}{half})")
        command = f"pull {model.name}" if model.repository else f"import {model.name} FOLDER"
        remedies.append(f"retake models {command}{_option(entry.place.parent)}")
    notes = {
        "parts": " Nobody has published trained parts: train them, or import somebody's.",
        "own": " Removing what was imported, or installing the backend again, brings back the one that comes with it.",
    }
    note = "".join(words for kind, words in notes.items() if any(entry.model.kind == kind for entry in entries))
    return MissingWeights(f"{'; '.join(said)}.", f"Run: {'; '.join(remedies)}.{note}", [e.model for e in entries])


def folder_size(folder: Path, only_freed: bool = False, without: str = "") -> int:
    """Bytes of the files in a folder; only_freed: without those that another model has too (hard links)."""
    total = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # a pull that goes on renames its files
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and path.name != without and not (only_freed and found.st_nlink > 1):
                total += found.st_size
    return total


def _wrong_sizes(place: Path, files: Mapping[str, tuple[int, str]]) -> str:
    """What the sizes alone show to be wrong, "" when they are right."""
    for file, (size, _) in files.items():
        try:
            found = (place / file).stat().st_size
        except OSError:
            return f"{file} is gone"
        if found != size:
            return f"{file} has {found:,} bytes in place of {size:,}"
    return ""


def _inside(file: Any) -> str:
    """A file's name that stays inside the model's folder. Raises ValueError."""
    if not isinstance(file, str) or not file or file.startswith("/") or "\\" in file or ":" in file:
        raise ValueError(f"{file!r:.60} is no file of a model")
    if ".." in file.split("/") or not file.isprintable():
        raise ValueError(f"{file!r:.60} is no file of a model")
    return file


def _option(folder: Path) -> str:
    """What the command line needs to find this folder, "" when it is the one that it takes by itself."""
    if folder == connection.default_home() / "models":
        return ""
    return f" --models {shlex.quote(str(folder))}"


def _install_again(name: str) -> str:
    model = find(name)
    return (
        f"Run: retake models {'pull' if model.repository else 'import'} {name}{'' if model.repository else ' FOLDER'}."
    )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write beside and put in place whole."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    os.replace(beside, path)
