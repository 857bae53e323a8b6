"""A model from the hub into the store: asked for by the user, byte by byte, and checked before it counts.

The hub names every file of one commit with its size and hash; those that the catalogue wants are fetched into
`.incoming`, each under a name that holds its hash until it is whole and has that hash. So a pull that was stopped,
killed or cut off goes on where it ended, to the megabyte. `huggingface_hub` speaks to the hub; its
`hf_hub_download` starts a broken file from its beginning (at 5 GB a file, that may be never), so files are fetched
with the `http_get` beneath it. Files that another installed model has too are linked instead.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from retake_shared.errors import BadFile, Cancelled, RetakeError

from . import contents
from .catalogue import Model, find, size_in_words
from .store import (
    INCOMING,
    MANIFEST,
    PLAN,
    Entry,
    Report,
    WeightStore,
    alone,
    further,
    put_in_place,
    read_manifest,
    write_manifest,
)

_CHUNK = 1 << 20  # a cancel is heard, and progress told, once per chunk
_TRIES = 5
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class HubFile:
    """One file to fetch. name: in the store. sha256 for large files, else git_sha1, in hex."""

    name: str
    repository: str
    commit: str
    path: str
    nbytes: int
    sha256: str
    git_sha1: str

    @property
    def part(self) -> str:
        """Its name while it is fetched: of this content and no other."""
        return f"{self.name}.{(self.sha256 or self.git_sha1)[:16]}.part"

    def matches(self, path: Path, progress: Callable[[int], None]) -> bool:
        """Whether the file at `path` is this one, by its size and hash."""
        if path.stat().st_size != self.nbytes:
            return False
        if self.sha256:
            return contents.sha256_of(path, progress) == self.sha256
        return contents.git_sha1_of(path, progress) == self.git_sha1


def pull(name: str, store: WeightStore, report: Report) -> Entry:
    """Bring a model of the catalogue into the store; nothing is fetched that is there and right.

    report: told (bytes here, bytes in all, stage) at least once per megabyte; what it raises (Cancelled) stops the
    pull, and what was fetched stays for the next one. Raises RetakeError in words: no network, not found, licence not
    accepted, disk full, a file that is not what the hub named.
    """
    model = find(name)
    if model.kind == "own":
        what = "comes with the backend; there is nothing to download."
        raise RetakeError(what, name, f"Install the backend again, or run: retake models import {name} FOLDER.")
    if not model.repository:
        raise RetakeError(
            "nobody has published trained parts of this method.",
            name,
            f"Train them, or run: retake models import {name} FOLDER.",
        )
    entry = store.entry(name)
    if entry.state == "installed" and not entry.random:
        return entry
    incoming = store.folder / INCOMING / name
    with alone(store, name):
        report(0, entry.total, "asking the hub")
        files = _ask(model)
        if entry.state == "damaged":
            _take_over_damaged(store.folder / name, incoming)
        incoming.mkdir(parents=True, exist_ok=True)
        total = sum(file.nbytes for file in files)
        (incoming / PLAN).write_text(json.dumps({"total": total}), "utf-8")
        _drop_leftovers(incoming, files)
        ready = _keep_what_is_right(incoming, files, total, report)
        links = _elsewhere(store, [file for file in files if file.name not in ready])
        _check_room(model, incoming, [file for file in files if file.name not in ready and file.name not in links])
        done = sum(file.nbytes for file in files if file.name in ready)
        for file in files:
            if file.name in ready:
                continue
            (incoming / file.name).parent.mkdir(parents=True, exist_ok=True)
            checking = _told(report, done + file.nbytes, total, f"checking {file.name}")
            if not (file.name in links and _link(links[file.name], file, incoming, checking)):
                with _in_words(model, file, incoming):
                    _fetch(file, incoming / file.part, further(report, done, total, f"pulling {file.name}"))
                _finish(file, incoming, checking)
            done += file.nbytes
        report(total, total, "checking")
        contents.check(model, contents.files_of(model, incoming), incoming, sizes=False)
        (incoming / PLAN).unlink()
        _describe(model, files, incoming)
        put_in_place(store, name, incoming)
    return store.entry(name)


def _ask(model: Model) -> list[HubFile]:
    """The files to fetch, at the commits that the repositories stand at now."""
    files: list[HubFile] = []
    for repository in dict.fromkeys((model.repository, *model.borrows.values())):
        with _in_words(model, repository):
            info = _hub().HfApi(library_name="retake").model_info(repository, files_metadata=True, timeout=30)
        for sibling in info.siblings or ():
            name = contents.wanted(model, sibling.rfilename)
            lender = model.borrows.get(name.partition("/")[0], model.repository)
            if not name or lender != repository:
                continue
            sha256 = sibling.lfs.sha256 if sibling.lfs else ""
            if sibling.size is None or not info.sha or not (sha256 or sibling.blob_id):
                raise RetakeError("the hub tells no size or hash of it.", f"{repository}/{name}", "Try again later.")
            files.append(
                HubFile(name, repository, info.sha, sibling.rfilename, sibling.size, sha256, sibling.blob_id or "")
            )
    for folder, kind in model.components.items():
        within = f"{folder}/" if folder else ""
        if kind and not any(file.name.startswith(within) and file.name.endswith(".safetensors") for file in files):
            place = f" in its folder {folder}" if folder else ""
            what = f"the repository has no weights in safetensors{place}; nothing else is ever pulled."
            raise RetakeError(what, model.page, _elsewhere_remedy(model))
    return files


def _fetch(file: HubFile, part: Path, progress: Callable[[int], None]) -> None:
    """Append to `part` what it lacks of the file. progress: told the bytes that are there."""
    hub = _hub()
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get

    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
    url = hub.hf_hub_url(file.repository, file.path, revision=file.commit)
    for attempt in range(_TRIES):
        here = part.stat().st_size if part.exists() else 0
        if here > file.nbytes:
            part.unlink()
            here = 0
        progress(here)
        if here == file.nbytes:
            part.touch()
            return
        try:
            place = hub.get_hf_file_metadata(url, timeout=30).location
            headers = hub.utils.build_hf_headers(library_name="retake") | {"Accept-Encoding": "identity"}
            if urlsplit(place).netloc != urlsplit(url).netloc:
                headers.pop("authorization", None)  # the token is for the hub, not for who stores its files
            with part.open("ab") as out:
                http_get(
                    place,
                    out,
                    resume_size=here,
                    headers=headers,
                    expected_size=file.nbytes,
                    displayed_filename=file.name,
                    tqdm_class=_counter(here, progress),  # type: ignore[arg-type]
                )
            return
        except (httpx2.TransportError, hub.errors.HfHubHTTPError):
            # Its address may have run out, or the connection: as long as something comes, go on from there.
            came = part.exists() and part.stat().st_size > here
            if not came or attempt == _TRIES - 1:
                raise


def _counter(here: int, progress: Callable[[int], None]) -> type:
    """What `http_get` takes for a progress bar: it counts bytes on from `here`."""
    count = here

    class Counter:
        def __init__(self, *args: Any, **settings: Any) -> None:
            pass

        def __enter__(self) -> Counter:
            return self

        def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
            pass

        def update(self, nbytes: int) -> None:
            nonlocal count
            count += nbytes
            progress(count)

    return Counter


def _finish(file: HubFile, incoming: Path, progress: Callable[[int], None]) -> None:
    """Give a fetched file its name if it is what the hub named; it is dropped if not."""
    part = incoming / file.part
    if not file.matches(part, progress):
        part.unlink()
        raise BadFile(
            "what came is not what the hub names: its size or hash differ.",
            f"{file.repository}/{file.path}",
            "Pull again; if it happens again, something between you and the hub changes files.",
        )
    with part.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(part, incoming / file.name)


def _describe(model: Model, files: list[HubFile], incoming: Path) -> None:
    """Write the manifest of what was pulled."""
    commits = {file.repository: file.commit for file in files}
    borrowed = {folder: {"repository": lender, "commit": commits[lender]} for folder, lender in model.borrows.items()}
    write_manifest(
        incoming,
        model.name,
        repository=model.repository,
        commit=commits[model.repository],
        licence=model.licence,
        borrowed=borrowed,
        hashes={file.name: file.sha256 for file in files if file.sha256},
    )


def _take_over_damaged(place: Path, incoming: Path) -> None:
    """Make what is right of a damaged model the beginning of the pull that mends it."""
    if place.is_symlink():  # what it points to is the user's own, and stays as it is
        place.unlink()
    if not place.is_dir():
        return
    incoming.parent.mkdir(exist_ok=True)
    if incoming.exists():
        shutil.rmtree(incoming)
    os.replace(place, incoming)
    (incoming / MANIFEST).unlink(missing_ok=True)


def _drop_leftovers(incoming: Path, files: list[HubFile]) -> None:
    """Remove what belongs to another commit, or was never wanted."""
    kept = {file.name for file in files} | {file.part for file in files} | {PLAN}
    for path in incoming.rglob("*"):
        if (path.is_file() or path.is_symlink()) and path.relative_to(incoming).as_posix() not in kept:
            path.unlink()


def _keep_what_is_right(incoming: Path, files: list[HubFile], total: int, report: Report) -> set[str]:
    """The names of the files that are there whole; others of their names are removed."""
    ready: set[str] = set()
    done = 0
    for file in files:
        path = incoming / file.name
        if not path.exists():
            continue
        if not path.is_symlink() and file.matches(path, further(report, done, total, f"checking {file.name}")):
            ready.add(file.name)
            done += file.nbytes
        else:
            path.unlink()
    return ready


def _elsewhere(store: WeightStore, files: list[HubFile]) -> dict[str, Path]:
    """Those of the files that another installed model has: name -> its file there."""
    there: dict[tuple[int, str], Path] = {}
    for entry in store.entries():
        if entry.state == "installed" and not (entry.random or entry.shipped):
            for name, key in read_manifest(entry.place, entry.model.name).files.items():
                there[key] = entry.place / name
    found = {file.name: there.get((file.nbytes, file.sha256)) for file in files if file.sha256}
    return {name: path for name, path in found.items() if path is not None}


def _link(source: Path, file: HubFile, incoming: Path, progress: Callable[[int], None]) -> bool:
    """Whether the file could be had as another name of `source`; not every file system can, not every file is right."""
    path = incoming / file.name
    try:
        os.link(source, path)
    except OSError:
        return False
    if not file.matches(path, progress):
        path.unlink()
        return False
    return True


def _check_room(model: Model, incoming: Path, files: list[HubFile]) -> None:
    here = sum(path.stat().st_size for file in files if (path := incoming / file.part).exists())
    needed = sum(file.nbytes for file in files) - here
    free = shutil.disk_usage(incoming).free
    if needed > free:
        raise RetakeError(
            f"{model.name} needs {size_in_words(needed)} more, {size_in_words(free)} are free.",
            str(incoming.parent.parent),
            "Free some space, or set RETAKE_MODELS to a folder on a larger disk.",
        )


def _told(report: Report, done: int, total: int, stage: str) -> Callable[[int], None]:
    """A report that stays where it is while a file is hashed; a cancel is heard all the same."""
    return lambda nbytes: report(done, total, stage)


def _hub() -> Any:
    """The hub's library. It counts what its users run on unless told not to; Retake's users were not asked."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub
    import huggingface_hub.errors

    hub: Any = huggingface_hub
    hub.logging.set_verbosity_error()  # what it warns of is either mended or told as an error
    return hub


@contextmanager
def _in_words(model: Model, what: str | HubFile, incoming: Path | None = None) -> Iterator[None]:
    """Turn what the hub, the network and the disk answer into errors that a user can act on."""
    import httpx2

    errors = _hub().errors
    repository, file = (what.repository, what.path) if isinstance(what, HubFile) else (what, "")
    page = f"https://huggingface.co/{repository}"
    go_on = "What was pulled is kept: pull again and it goes on from there."
    try:
        yield
    except (Cancelled, RetakeError):
        raise
    except errors.OfflineModeIsEnabled as error:
        raise RetakeError("HF_HUB_OFFLINE forbids to ask the hub.", repository, _offline_remedy(model)) from error
    except errors.GatedRepoError as error:
        raise RetakeError(
            f"is given only to users who accepted its licence ({model.licence}).",
            page,
            "Sign in there, accept the licence, make a token at https://huggingface.co/settings/tokens, and give it: "
            "set HF_TOKEN, or run: hf auth login.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise RetakeError(
            "the hub has no such repository, or shows it to nobody without a token.", page, _elsewhere_remedy(model)
        ) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise RetakeError("the hub has this file no longer.", f"{repository}/{file}", "Pull again.") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            remedy = "Check the token (HF_TOKEN, or: hf auth login), and that its user accepted the licence there."
            raise RetakeError(f"the hub refuses it ({status}).", page, remedy) from error
        if status == 429:
            raise RetakeError("the hub was asked too often (429).", page, f"Wait some minutes. {go_on}") from error
        raise RetakeError(f"the hub answers {status}.", page, f"Try again later. {go_on}") from error
    except httpx2.TransportError as error:
        words = f"the hub cannot be reached, or the connection broke ({error or type(error).__name__})."
        raise RetakeError(words, repository, f"Check the network. {go_on} {_offline_remedy(model)}") from error
    except OSError as error:
        if error.errno in _FULL and incoming is not None:
            raise RetakeError("the disk is full.", str(incoming), f"Free some space. {go_on}") from error
        if error.errno is not None:
            raise
        raise RetakeError(
            f"did not come whole ({str(error).splitlines()[0]})", f"{repository}/{file}", go_on
        ) from error
    except ValueError as error:
        raise RetakeError(f"the hub's answer makes no sense ({error}).", page, "Try again later.") from error


def _offline_remedy(model: Model) -> str:
    return (
        f"Without network: run `retake models pull {model.name}` on another machine, copy the folder, and here: "
        f"retake models import {model.name} FOLDER."
    )


def _elsewhere_remedy(model: Model) -> str:
    return f"Get {model.label} elsewhere and run: retake models import {model.name} FOLDER."
