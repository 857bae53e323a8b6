"""Engines side by side on every item of a set: rendered once, measured once, whatever fails named and counted.

    OUT/items/NAME/preview/          the take (`render_files`): frames, take.json, solve and edit
    OUT/items/NAME/preview.json      its measures, and a key that says of what
    OUT/report.json  report.html  table.md

A second run renders only what is not there from the same inputs; a run that is stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared import archive, engine_options
from retake_shared.errors import BadFile, BadShot, Cancelled, RetakeError
from retake_shared.shot import TAKE_FILE, RenderSettings, Take, frame_name, holes_name

from .. import engines
from ..engines.base import Progress, RenderRequest
from ..footage import FootageReader, read_image
from ..progress_line import ProgressLine
from ..render import InputHashes
from ..render_files import Job, read_take, write_take
from . import measuring, networks
from .measuring import Measured
from .sets import Item, ItemSet

TRUTH = "truth"
"""The row of the true videos, measured as if an engine had made them: what the measures themselves err by."""

HOLES_BY = "preview"
_YARDSTICKS = {
    "copy": "retake_backend.evaluation.yardsticks:CopyEngine",
    "smooth": "retake_backend.evaluation.yardsticks:SmoothEngine",
}
_GONE = "Name another folder with --out."


@dataclass(frozen=True)
class Plan:
    """What is to be done. options: the engines' own settings, each for the engines that have it. size: of the pictures,
    None: each item's. limit: items at most."""

    engines: tuple[str, ...]
    out: Path
    limit: int | None = None
    size: tuple[int, int] | None = None
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of a plan. measured: by item, then by engine or TRUTH. failures: (item, engine or "", the error).
    left_out: why a metric is not there, by its name."""

    set_name: str
    plan: Plan
    items: list[str]
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


Shown = Callable[[str, Item, dict[str, NDArray[np.uint8]]], None]
"""Called with each item's name, itself, and the takes that came of it (engine -> (F, H, W, 3))."""


def run(items: ItemSet, plan: Plan, check: Callable[[], None], shown: Shown) -> Outcome:
    """Render and measure. Raises RetakeError for what concerns the whole run, and what `check` raises."""
    _prepare(plan)
    nets = networks.load()
    names = list(items.items[: plan.limit])
    outcome = Outcome(items.name, plan, names, left_out=nets.left_out)
    with ProgressLine(check) as meter:
        for number, name in enumerate(names):
            try:
                item = items.load(number)
                item = item.resized(*plan.size) if plan.size else item
            except RetakeError as error:
                _fail(outcome, name, "", error)
                continue
            worker = _ItemRun(name, item, plan, nets, check, meter)
            takes = worker.run(outcome)
            shown(name, item, takes)
    return outcome


def _prepare(plan: Plan) -> None:
    if len(set(plan.engines)) != len(plan.engines) or not plan.engines:
        raise RetakeError("names no engine, or one twice.", "--engine", "For example --engine preview --engine copy.")
    plugins = os.environ.get("RETAKE_ENGINES", "").split()
    os.environ["RETAKE_ENGINES"] = " ".join(dict.fromkeys([*plugins, *_YARDSTICKS.values()]))
    if plan.limit is not None and plan.limit < 1:
        raise RetakeError(f"is {plan.limit}.", "--limit", "Use 1 or more, or leave it out.")
    for name in plan.engines:
        engines.create(name)
        if (described := engine_options.describe(name)) is not None:
            described.checked(_options_of(name, plan))
    for option in plan.options:
        if not any(option in _options_of(name, plan) for name in plan.engines):
            raise BadShot("none of the engines has it.", f"--option {option}", "Leave it out.")
    if plan.out.exists() and any(plan.out.iterdir()) and not (plan.out / "items").is_dir():
        raise RetakeError("is in use and is no evaluation.", str(plan.out), _GONE)
    try:
        (plan.out / "items").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetakeError(f"cannot be written ({error.strerror}).", str(plan.out), _GONE) from None


def _options_of(engine: str, plan: Plan) -> dict[str, Any]:
    """The plan's options that an engine has; one that came with RETAKE_ENGINES has to make do with all."""
    described = engine_options.describe(engine)
    if described is None:
        return {} if engine in _YARDSTICKS else plan.options
    known = {option.name for option in described.options}
    return {name: value for name, value in plan.options.items() if name in known}


def _fail(outcome: Outcome, item: str, engine: str, error: BaseException) -> None:
    words = str(error) if isinstance(error, RetakeError) else f"{type(error).__name__}: {error}"
    outcome.failures.append((item, engine, words))
    print(f"\n{item}{f', {engine}' if engine else ''}: {words}", flush=True)


class _ItemRun:
    def __init__(
        self,
        name: str,
        item: Item,
        plan: Plan,
        nets: networks.Networks,
        check: Callable[[], None],
        meter: ProgressLine,
    ) -> None:
        self.name, self.item, self.plan, self.nets, self.check, self.meter = name, item, plan, nets, check, meter
        self.folder = plan.out / "items" / _as_file(name)
        self.folder.mkdir(exist_ok=True)
        pair = item.pair
        self.solve, self.edit = archive.to_bytes(pair.solve), archive.to_bytes(pair.edit)
        self.hashes = InputHashes(
            _sha256(pair.source), *(hashlib.sha256(b).hexdigest() for b in (self.solve, self.edit))
        )
        self.known: measuring.Known | None = None

    def run(self, outcome: Outcome) -> dict[str, NDArray[np.uint8]]:
        """Render, then measure, what can be; the takes."""
        takes: dict[str, Take] = {}
        wanted = self.plan.engines if self.item.pair.moved is not None else (*self.plan.engines, HOLES_BY)
        for engine in sorted(dict.fromkeys(wanted), key=lambda name: name != HOLES_BY):
            try:
                takes[engine] = self._take(engine)
            except (KeyboardInterrupt, Cancelled):
                raise
            except Exception as error:  # an engine may fail in any way; that is a result, and the others go on
                if engine in self.plan.engines:
                    _fail(outcome, self.name, engine, error)
        holes_by = takes.get(HOLES_BY) if self.item.pair.moved is None else None
        measured = outcome.measured.setdefault(self.name, {})
        videos: dict[str, NDArray[np.uint8]] = {}
        for engine in self.plan.engines:
            if engine not in takes:
                continue
            try:
                video = videos[engine] = self._frames(engine, takes[engine])
                measured[engine] = self._measured(engine, video, takes[engine], holes_by)
            except Cancelled:
                raise
            except RetakeError as error:  # the take, or the preview's holes, were damaged after they were written
                _fail(outcome, self.name, engine, error)
                continue
            measured[engine].values["seconds"] = takes[engine].seconds
        if self.item.truth:
            try:
                measured[TRUTH] = self._measured(TRUTH, self.item.pair.target, None, holes_by)
            except Cancelled:
                raise
            except RetakeError as error:
                _fail(outcome, self.name, TRUTH, error)
        return videos

    def _settings(self, engine: str) -> RenderSettings:
        pair = self.item.pair
        options = _options_of(engine, self.plan) if engine in self.plan.engines else {}
        return RenderSettings(engine, prompt=pair.caption, seed=self.plan.seed, options=options)

    def _take(self, engine: str) -> Take:
        """The take in the item's folder, rendered now unless it is there already."""
        settings, folder = self._settings(engine), self.folder / engine
        kept = _kept_take(folder)
        if kept is not None and self._is_ours(kept, settings, engine):
            return kept
        pair = self.item.pair
        with FootageReader.of_pictures(pair.source, pair.fps) as reader:
            job = Job(RenderRequest(reader, pair.solve, pair.edit, settings), self.hashes, self.solve, self.edit)
            self._tell(f"rendering by {engine}")
            self.meter.keep()  # the rendering has a line of its own
            return write_take(job, folder, self.check)

    def _is_ours(self, take: Take, settings: RenderSettings, engine: str) -> bool:
        inputs = (take.footage_sha256, take.solve_sha256, take.edit_sha256)
        same = inputs == (self.hashes.footage, self.hashes.solve, self.hashes.edit)
        names = (frame_name, holes_name) if engine == HOLES_BY else (frame_name,)
        files = (self.folder / engine / name(t) for name in names for t in range(take.start, take.stop))
        whole = all(file.is_file() for file in files)
        return same and whole and take.settings == settings and take.engine_version == engines.create(engine).version

    def _frames(self, engine: str, take: Take) -> NDArray[np.uint8]:
        folder = self.folder / engine
        video = np.stack([read_image(folder / frame_name(t)) for t in range(take.start, take.stop)])
        if video.shape != self.item.pair.source.shape:
            raise BadFile(f"is of shape {video.shape}.", str(folder), "Remove that take and evaluate again.")
        return video

    def _measured(self, name: str, video: NDArray[np.uint8], take: Take | None, holes_by: Take | None) -> Measured:
        """The measures of a video, kept beside its take for the next run."""
        path = self.folder / f"{name}.json"
        key = self._key(take, holes_by)
        kept = _read_measures(path, key)
        if kept is not None:
            return kept
        if self.known is None:
            self._tell("following the truth")
            self.known = measuring.look_at(self.item, self._holes(holes_by is not None), self.check)
        self._tell(f"measuring {name}")
        found = measuring.measure(video, self.known, self.nets, self.check)
        _write(path, json.dumps(_as_json(found) | {"key": key}, indent=1))
        return found

    def _key(self, *takes: Take | None) -> str:
        """Of all that measures depend on. takes: the one that is measured, and the one that tells the holes."""
        pair, covisible = self.item.pair, self.item.covisible
        parts = [
            measuring.VERSION, self.hashes.footage, self.hashes.solve, self.hashes.edit, _sha256(pair.target),
            "" if covisible is None else _sha256(covisible), self.item.truth, pair.caption, sorted(self.nets.left_out),
            [take and [take.settings.to_json(), take.engine_version] for take in takes],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _holes(self, rendered: bool) -> NDArray[np.bool_] | None:
        if self.item.pair.moved is not None:
            return self.item.pair.moved.holes
        if not rendered:
            return None
        folder = self.folder / HOLES_BY
        return np.stack([read_image(folder / holes_name(t))[..., 0] > 127 for t in range(len(self.item.pair))])

    def _tell(self, what: str) -> None:
        self.meter(Progress(f"{self.name}: {what}", 0, 1))


def _kept_take(folder: Path) -> Take | None:
    if not (folder / TAKE_FILE).is_file():
        return None
    try:
        return read_take(folder)
    except RetakeError:
        return None


def _as_file(name: str) -> str:
    """A folder's name for an item's; two items never share one."""
    plain = re.sub(r"[^\w.-]+", "_", name).strip("._") or "item"
    return plain if plain == name else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def plain(value: float) -> float | str | None:
    """A measure as JSON has it: null where it is not defined, "inf" where it is infinite."""
    return None if math.isnan(value) else value if math.isfinite(value) else "inf"


def _as_json(found: Measured) -> dict[str, Any]:
    curve = [plain(value) for value in found.curve]
    return {"values": {k: plain(v) for k, v in found.values.items()}, "curve": curve, "features": found.features}


def _read_measures(path: Path, key: str) -> Measured | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["key"] != key:
            return None
        values = {name: math.nan if value is None else float(value) for name, value in data["values"].items()}
        curve = [math.nan if value is None else float(value) for value in data["curve"]]
        return Measured(values, curve, [float(value) for value in data["features"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
