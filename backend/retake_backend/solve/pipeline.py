"""The stages of a solve in order, each with progress, a kept result and a picture to look at.

Results are kept in a folder under the names of all that they follow from (footage, options, the stages' versions), so
that a second run with another option repeats only what that changes.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared import fitting
from retake_shared.clicks import Click
from retake_shared.errors import BadShot, RetakeError
from retake_shared.shot import Cameras, Footage, Solve, Tracks

from .. import __version__, footage
from ..engines.base import Progress, Report
from ..footage import FootageReader, encode_png
from ..weights.store import WeightStore
from . import cameras, clicking, depth, footing, lift, look, masks, monocular, objects, points, proxy, trackers
from .kept import Kept, key
from .report import SceneCuts, SolveReport, failed, judge
from .stages import LONGER_SIDE, CameraSolve, DepthMaps, Focal, Gray, Lifted, ObjectGroups, PointTracks

STAGES = ("points", "masks", "cameras", "objects", "depth", "world")
"""In their order, as `Progress` and the pictures of the stages call them when they end; masks only with clicks."""

FEWEST_FRAMES = 5
MOST_FRAMES = 1500
SELECTED = 4000
"""Points that go on to the cameras; what is followed beyond them is shorter or crowded."""

_VERSION = 1  # of what this module does between the stages
_FEWEST_POINTS = 100
_ROOM = 512 << 20
"""Bytes of working pictures kept in memory; of longer clips they are decoded again."""

Result = TypeVar("Result", PointTracks, masks.GivenMasks, CameraSolve, ObjectGroups, DepthMaps, Lifted)


@dataclass(frozen=True)
class SolveSettings:
    """What the user may say about a shot.

    focal_mm with sensor_mm (its longer side), or fov (degrees across), or neither: estimated. frames: (first, stop) of
    the footage, None for all. step: look at every step-th frame only, those between are interpolated. masks: a folder
    of mask images (see `masks.read`), or None. tracker: what follows the points, see `trackers.create`. clicks: on
    what moves, to be followed by a network (see `clicking`). depth: the network that tells it, "" for the preferred one
    (see `monocular`).
    """

    focal_mm: float | None = None
    sensor_mm: float = 36.0
    fov: float | None = None
    frames: tuple[int, int] | None = None
    step: int = 1
    masks: Path | None = None
    tracker: str = trackers.DEFAULT
    depth: str = ""
    clicks: tuple[Click, ...] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        """Those of STAGES that a solve with these settings goes through."""
        return tuple(stage for stage in STAGES if self.clicks or stage != "masks")

    def focal(self, size: tuple[int, int]) -> Focal | None:
        """For a picture of `size`. Raises BadShot when the values cannot be."""
        if self.focal_mm is not None and self.fov is not None:
            raise BadShot("two focal lengths were given.", "--focal and --fov", "Give one of them.")
        if self.focal_mm is not None:
            return Focal.from_mm(self.focal_mm, size, self.sensor_mm)
        return None if self.fov is None else Focal.from_fov(self.fov, size)


def working_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the working picture: at most LONGER_SIDE, and as near to the footage's proportions as can be."""
    longer, shorter = max(width, height), min(width, height)
    if longer <= LONGER_SIDE:
        return width, height

    def squeeze(side: int) -> float:
        exact = shorter * side / longer
        return abs(max(1, round(exact)) / exact - 1)

    side = min(range(LONGER_SIDE, LONGER_SIDE - 33, -1), key=squeeze)
    other = max(1, round(shorter * side / longer))
    return (side, other) if width >= height else (other, side)


class WorkingPictures:
    """Frames of the footage at the size that is worked on, by number: (h, w, 3) uint8 sRGB.

    Large footage is read through a proxy in `folder`, which is made (telling `report`) when the first picture is asked
    for: not at all where every stage is kept from before.
    """

    def __init__(self, reader: FootageReader, sha256: str, chosen: range, folder: Path, report: Report) -> None:
        self._reader, self._sha256, self.chosen = reader, sha256, chosen
        self._folder, self._report = folder, report
        self.size = working_size(reader.footage.width, reader.footage.height)
        self.proxied = proxy.worth(reader.footage.width, reader.footage.height, self.size, len(chosen))
        self._proxy: NDArray[np.uint8] | None = None
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._most = max(16, _ROOM // (self.size[0] * self.size[1] * 3))

    def __len__(self) -> int:
        return len(self.chosen)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        if self.proxied:
            if self._proxy is None:
                self._proxy = proxy.pictures(
                    self._reader, self._sha256, self.chosen, self.size, self._folder, self._report
                )
            return np.asarray(self._proxy[index], np.uint8)
        if index not in self._kept:
            frame = self._reader.frame(self.chosen[index])
            if frame.shape[1::-1] != self.size:
                frame = np.asarray(cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA), np.uint8)
            self._kept[index] = frame
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return self._kept[index]

    __getitem__ = __call__

    def grays(self, report: Report) -> list[Gray]:
        """All frames without colour."""
        frames = []
        for index in range(len(self)):
            report(Progress("reading footage", index, len(self)))
            frames.append(np.asarray(cv2.cvtColor(self(index), cv2.COLOR_RGB2GRAY), np.uint8))
        report(Progress("reading footage", len(self), len(self)))
        return frames


@dataclass(frozen=True)
class Solved:
    """solve: of the footage's px and frames, from its first on. report: how far to trust it."""

    solve: Solve
    report: SolveReport


def solve_footage(
    reader: FootageReader, settings: SolveSettings, folder: Path, report: Report, store: WeightStore | None = None
) -> Solved:
    """Solve the footage; results and pictures of the stages go to `folder`.

    Raises Cancelled, and RetakeError where the shot cannot be solved: why, and what to do.
    """
    chosen = _chosen(reader.footage, settings)
    clicking.check(settings.clicks, reader.footage, chosen)
    follower = clicking.network(store) if settings.clicks else ""
    network = monocular.network(settings.depth, store)
    run = _Run(reader, settings, chosen, Kept(folder), report)
    # What the user gave comes first: points are followed for minutes before a slip in it would be told.
    focal = settings.focal(run.pictures.size)
    given = None if settings.masks is None else masks.read(settings.masks, chosen, run.pictures.size)
    followed = run.points()

    masked = [_masks_name(settings.masks), [str(click) for click in settings.clicks], follower, clicking.VERSION]
    if settings.clicks:
        scale = (run.pictures.size[0] / reader.footage.width, run.pictures.size[1] / reader.footage.height)
        drawn = given
        given = run.stage(
            "masks",
            masks.GivenMasks,
            key(run.name, masked),
            lambda: clicking.follow(settings.clicks, run.pictures, chosen, scale, report, store, drawn),
            lambda made: look.of_masks(followed, made, run.pictures),
        )
    # Where neither the user nor the camera's motion tells the focal length, a picture may.
    asks = focal is None and monocular.tells_view(store)
    teller = monocular.identity(monocular.DEPTH_PRO, store) if asks else ""
    with_focal = (run.name, None if focal is None else [focal.px, focal.source], masked, teller)
    hint = None if given is None else _still(followed, given, run.pictures.size)
    solved = run.stage(
        "cameras",
        CameraSolve,
        key(*with_focal, cameras.VERSION),
        lambda: run.cameras(followed, focal, hint, asks, store),
        lambda made: look.of_cameras(followed, made, run.pictures),
    )
    upto: tuple[object, ...] = (*with_focal, cameras.VERSION, objects.VERSION)
    groups = run.stage(
        "objects",
        ObjectGroups,
        key(*upto),
        lambda: objects.find_objects(followed, solved, given, report, run.pictures),
        lambda made: look.of_objects(followed, made, run.pictures),
    )
    upto = (*upto, depth.VERSION, monocular.identity(network, store))
    maps = run.stage(
        "depth",
        DepthMaps,
        key(*upto),
        lambda: depth.estimate_depth(followed, solved, groups, run.pictures, report, store, network),
        look.of_depth,
    )
    lifted = run.stage(
        "world",
        Lifted,
        key(*upto, lift.VERSION),
        lambda: lift.lift(followed, solved, groups, maps, report),
        look.of_lift,
    )
    known = reader.footage
    notes = (*reader.notes, *lifted.notes)
    if given is not None and settings.clicks:
        notes = (*clicking.notes(given, settings.clicks, store), *notes)
    if settings.tracker != trackers.DEFAULT:
        notes = (*notes, f"The points were followed by {run.tracker.name} ({run.tracker.licence}).")
    if settings.step > 1:
        notes = (*notes, f"Every {fitting.ordinal(settings.step)} frame was solved; those between are interpolated.")
    told = judge(
        followed,
        solved,
        groups,
        maps,
        frames=(chosen.start, chosen[-1] + 1),
        scale=known.width / run.pictures.size[0],
        notes=notes,
        seconds=tuple(run.seconds.items()),
    )
    return Solved(_in_footage(lifted, groups, known, chosen, told), told)


def refused(error: RetakeError, footage: Footage, settings: SolveSettings) -> SolveReport:
    """The report of a shot that `solve_footage` raised `error` for."""
    return failed(error, settings.frames or (0, footage.frames))


class _Run:
    """One run over one range of one footage."""

    def __init__(
        self, reader: FootageReader, settings: SolveSettings, chosen: range, kept: Kept, report: Report
    ) -> None:
        self.kept, self.report, self.seconds = kept, report, dict[str, float]()
        self.tracker = trackers.create(settings.tracker)
        sha256 = reader.footage.sha256 or footage.sha256(reader.path)
        self.pictures = WorkingPictures(reader, sha256, chosen, kept.folder, report)
        self.name = key(
            sha256, [chosen.start, chosen.stop, chosen.step], list(self.pictures.size), SELECTED,
            [self.tracker.name, self.tracker.version()], footing.VERSION, proxy.VERSION * self.pictures.proxied, _VERSION,
        )  # fmt: skip
        self.chosen, self.where = chosen, f"{reader.path.name}, frames {chosen.start} to {chosen[-1]}"

    def points(self) -> PointTracks:
        """The points of the range, after it was looked at: whether anything can be followed in it."""
        return self.stage(
            "points", PointTracks, self.name, self._follow, lambda made: look.of_points(made, self.pictures)
        )

    def cameras(
        self,
        followed: PointTracks,
        focal: Focal | None,
        hint: NDArray[np.bool_] | None,
        asks: bool,
        store: WeightStore | None,
    ) -> CameraSolve:
        """The cameras; with `asks` once more where they were solved with a focal length that nothing tells."""
        solved = cameras.solve_cameras(followed, self.pictures.size, focal, hint, self.report)
        if not (asks and "assumed" in solved.focal_source):
            return solved
        told = monocular.focal(self.pictures, len(self.pictures), self.pictures.size, self.report, store)
        return solved if told is None else cameras.solve_cameras(followed, self.pictures.size, told, hint, self.report)

    def _follow(self) -> PointTracks:
        frames = self.pictures.grays(self.report)
        if why := footing.trouble(frames):
            raise BadShot(f"cannot be solved: {why}.", self.where, "Use footage, or a range of it, that shows a scene.")
        if found := footing.cuts(frames):
            first = [self.chosen[t] for t in (0, *found)]
            raise SceneCuts(self.where, list(zip(first, [*first[1:], self.chosen[-1] + 1], strict=True)))
        own = self.tracker.name == trackers.DEFAULT
        all_points = points.follow(frames, self.report) if own else self.tracker.follow(self.pictures, self.report)
        chosen = points.select(all_points, self.pictures.size, SELECTED)
        if len(chosen) < _FEWEST_POINTS:
            raise BadShot(
                f"only {len(chosen)} points can be followed in it.",
                self.where,
                "Use sharper, brighter footage, with more texture in the picture, or a longer clip.",
            )
        return chosen

    def stage(
        self,
        stage: str,
        kind: type[Result],
        name: str,
        make: Callable[[], Result],
        picture: Callable[[Result], NDArray[np.uint8]],
    ) -> Result:
        """The kept result of a stage, or a new one, kept, with its picture beside."""
        found = self.kept.load(stage, name, kind)
        if found is not None:
            self.report(Progress(f"{stage}: kept from before", 1, 1))
            return found
        began = time.monotonic()
        made = make()
        self.seconds[stage] = time.monotonic() - began
        self.kept.save(stage, name, made)
        shown = picture(made)
        (self.kept.folder / f"{stage}.png").write_bytes(encode_png(shown))
        self.report(Progress(stage, 1, 1, shown))
        return made


def _chosen(known: Footage, settings: SolveSettings) -> range:
    """The footage's frames that are looked at. Raises BadShot."""
    start, stop = settings.frames or (0, known.frames)
    if not 0 <= start < stop <= known.frames:
        raise BadShot(f"frames {start}:{stop} are not in it.", known.path, f"Use frames within 0:{known.frames}.")
    if settings.step < 1:
        raise BadShot(f"is {settings.step}.", "--step", "Use 1 or more.")
    chosen = range(start, stop, settings.step)
    if len(chosen) < FEWEST_FRAMES:
        many = f"{len(chosen)} frame{'s' if len(chosen) > 1 else ''}"
        raise BadShot(f"has only {many} to solve.", known.path, f"Use at least {FEWEST_FRAMES}; 40 and more are good.")
    if len(chosen) > MOST_FRAMES:
        step = -(-len(chosen) // MOST_FRAMES) * settings.step
        raise BadShot(
            f"has {len(chosen)} frames to solve, more than {MOST_FRAMES}.",
            known.path,
            f"Solve a range, as in --frames {start}:{start + 500}, or every {fitting.ordinal(step)} frame with --step {step}.",
        )
    return chosen


def _masks_name(folder: Path | None) -> str:
    """Of the bytes of all mask files, and of how they are read; "" without."""
    if folder is None:
        return ""
    digest = hashlib.sha256(str(masks.VERSION).encode())
    for file in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if file.is_file():
            digest.update(str(file.relative_to(folder)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _still(followed: PointTracks, given: masks.GivenMasks, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N,) False for points that lie on masked objects where they are seen."""
    rows, columns = given.labels.shape[1:]
    covered = np.zeros(len(followed))
    for t in range(followed.frame_count):
        seen = np.flatnonzero(followed.visible[t])
        at = np.floor(followed.uv[t, seen] * (columns / size[0], rows / size[1])).astype(int)
        at = np.clip(at, 0, (columns - 1, rows - 1))
        covered[seen] += given.labels[t, at[:, 1], at[:, 0]] > 0
    return np.asarray(covered < 0.3 * np.maximum(followed.lengths, 1))


def _in_footage(lifted: Lifted, groups: ObjectGroups, known: Footage, chosen: range, told: SolveReport) -> Solve:
    """The solve of the footage's own frames and px: frame t is the footage's frame t.

    Frames before the range hold its first camera and show no track.
    """
    scene = lifted.resized(known.width, known.height)
    source = f"retake solve {__version__} ({told.light})"
    solve = Solve(scene.cameras, scene.tracks, scene.depth, groups.masks, dict(groups.names), source)
    if chosen.step > 1:
        part = replace(known, frames=chosen[-1] + 1 - chosen.start)
        solve, _ = fitting.bind(part, solve, chosen.step)
        solve = replace(solve, source=source)
    return _begun_earlier(solve, chosen.start) if chosen.start else solve


def _begun_earlier(solve: Solve, frames: int) -> Solve:
    def held(values: NDArray) -> NDArray:
        return np.concatenate([np.repeat(values[:1], frames, 0), values])

    def unknown(values: NDArray) -> NDArray:
        return np.concatenate([np.zeros((frames, *values.shape[1:]), values.dtype), values])

    old, tracks = solve.cameras, solve.tracks
    return replace(
        solve,
        cameras=Cameras(held(old.c2w), held(old.K), old.width, old.height),
        tracks=Tracks(
            held(tracks.positions), unknown(tracks.visibility), unknown(tracks.confidence), tracks.objects, tracks.ids
        ),
        depth=None if solve.depth is None else unknown(solve.depth),
        masks=None if solve.masks is None else unknown(solve.masks),
        source=f"{solve.source}; frames 0 to {frames - 1} were not solved, they hold the first camera",
    )
