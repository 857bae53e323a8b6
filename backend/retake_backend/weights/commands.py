"""`retake models list | pull | verify | import | random | remove`: what they print and return."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from retake_shared.errors import RetakeError

from ..progress_line import ProgressLine
from .catalogue import CATALOGUE, find, size_in_words
from .store import Entry, Report, WeightStore
from .task import damaged


def list_models(store: WeightStore, as_json: bool) -> int:
    """Print every model of the catalogue: what it is for, its size and licence, whether it is here, and where."""
    entries = store.entries()
    if as_json:
        print(json.dumps({"place": str(store.folder), "models": [_row(entry) for entry in entries]}, indent=1))
        return 0
    rows = [("name", "for", "size", "licence", "state")]
    for entry in entries:
        about = "" if entry.state == "installed" else "about "
        licence = entry.licence or "not published"
        rows.append((entry.model.name, entry.model.purpose, about + size_in_words(entry.total), licence, _state(entry)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for entry in entries:
        if entry.damage:
            print(f"\n{entry.model.name} is damaged: {entry.damage}")
    print(f"\nplace: {store.folder}")
    return 0


def pull_models(store: WeightStore, names: Sequence[str], check: Callable[[], None]) -> int:
    """Pull the named models, one after the other; says before each what comes, on what terms, and where to."""
    from .pull import pull

    for name in names:
        model, entry = find(name), store.entry(name)
        if entry.state == "installed" and not entry.random:
            print(f"{name} is installed already, in {entry.place}")
            continue
        if model.repository:
            size = size_in_words(model.nbytes)
            print(f"{name}: about {size} from {model.page} ({model.licence}, {model.licence_url}) to {entry.place}")
        with _line(check) as report:
            entry = pull(name, store, report)
        print(f"{name} is installed: {size_in_words(entry.nbytes)} in {entry.place}")
    return 0


def verify_models(store: WeightStore, names: Sequence[str], check: Callable[[], None]) -> int:
    """Hash every file of the named models, of all that are here when none is named; 1 when one is damaged."""
    code = 0
    here = [
        entry.model.name for entry in store.entries() if entry.state in ("installed", "damaged") and not entry.shipped
    ]
    if not (names or here):
        print(f"no model is installed in {store.folder}")
    for name in names or here:
        try:
            with _line(check) as report:
                wrong = store.verify(name, report)
            if wrong:
                raise damaged(name, wrong)
            print(f"{name}: every file is what was installed")
        except RetakeError as error:
            if store.entry(name).state != "damaged":
                raise
            print(f"retake: {error}", file=sys.stderr)
            code = 1
    return code


def import_model(
    store: WeightStore, name: str, folder: Path, link: bool, replace: bool, check: Callable[[], None]
) -> int:
    """Bring a model from a folder into the store."""
    from .importing import import_folder

    with _line(check) as report:
        entry = import_folder(name, folder, store, report, link=link, replace=replace)
    print(f"{name} is installed: {size_in_words(entry.nbytes)} in {entry.place} ({entry.licence})")
    return 0


def random_models(store: WeightStore, names: Sequence[str]) -> int:
    """Write tiny random models under these names, all that are missing when none is named."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    from ..models.random_weights import write_random

    for quiet in (of_diffusers, of_transformers):
        quiet.disable_progress_bar()
    for name in names or [entry.model.name for entry in store.entries() if entry.state == "missing"]:
        model, entry = find(name), store.entry(name)
        if entry.state != "missing":
            raise RetakeError(f"is {entry.state} already.", name, f"Remove it first: retake models remove {name}")
        write_random(name, store.folder / name)
        print(f"{name}: tiny and random; what {model.label} makes with it means nothing")
    return 0


def remove_model(store: WeightStore, name: str, yes: bool) -> int:
    """Remove a model, and what a stopped pull of it left; asks first."""
    entry = store.entry(name)
    if entry.state == "missing":
        print(f"{name} is not here")
        return 0
    if entry.shipped:
        print(f"{name} comes with the backend and stays; none that was imported lies before it")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise RetakeError("needs your word.", f"remove {name}", "Say --yes.")
        answer = input(f"Remove {name} ({size_in_words(entry.nbytes)} in {entry.place})? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print("kept")
            return 0
    freed = store.remove(name)
    print(f"{name} is removed: {size_in_words(freed)} are free again")
    if store.entry(name).shipped:
        print("from now on the one that comes with the backend is used")
    return 0


def summary(store: WeightStore) -> str:
    """One line for `retake doctor`: the folder of models and what is in it."""
    here = [entry for entry in store.entries() if entry.state != "missing" and not entry.shipped]
    said = ", ".join(f"{entry.model.name} ({_state(entry)})" for entry in here)
    return f"{store.folder}: {said or f'none of {len(CATALOGUE)} is installed'}"


def _state(entry: Entry) -> str:
    if entry.state == "partial":
        return f"partial, {size_in_words(entry.nbytes)} here"
    if entry.random:
        return f"{entry.state}, random weights"
    if entry.shipped:
        return "comes with the backend"
    if entry.model.kind == "own":
        said = {"installed": "in place of the backend's own", "missing": "install the backend again"}
        return f"{entry.state}, {said.get(entry.state, 'import it again or remove it')}"
    if entry.state == "missing" and entry.model.gated:
        return "missing, accept its licence first"
    return entry.state


def _row(entry: Entry) -> dict[str, object]:
    model = entry.model
    return {
        "name": model.name,
        "label": model.label,
        "purpose": model.purpose,
        "kind": model.kind,
        "repository": model.repository,
        "licence": entry.licence,
        "licence_url": model.licence_url,
        "gated": model.gated,
        "state": entry.state,
        "bytes": entry.nbytes,
        "total": entry.total,
        "random": entry.random,
        "shipped": entry.shipped,
        "damage": entry.damage,
        "place": str(entry.place),
    }


@contextlib.contextmanager
def _line(check: Callable[[], None]) -> Iterator[Report]:
    """Progress in bytes: a model is one stage, whichever of its files is at hand."""
    at = ""

    def words(_: str, done: int, total: int, pace: float) -> str:
        told = f"{size_in_words(done)} of {size_in_words(total)}"
        if pace:
            told += f", {size_in_words(int(pace))}/s, {(total - done) / pace / 60:.0f} min left"
        return f"{told}: {at}"

    with ProgressLine(check, words=words) as line:

        def report(done: int, total: int, stage: str) -> None:
            nonlocal at
            at = stage
            line.step("", done, total)

        yield report
