"""`retake curate FOLDER --out DATASET`: what it does, prints and returns."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import re
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from retake_shared.errors import BadFile, Cancelled, RetakeError

from ...engines.base import Progress, Report
from ...footage import FootageReader
from ...progress_line import ChangingLine
from ..dataset import PairWriter
from . import clips, multicamera, stretches
from .clips import Dropped, Made
from .journal import Journal
from .multicamera import Scene
from .stretches import Settings

_ENDS = 1 << 16
"""Bytes at the beginning and at the end of a file by which it is known again; a night's footage is not read for that."""


def curate(arguments: argparse.Namespace, check: Callable[[], None]) -> int:
    """Make training examples of a folder of videos: two clips a few seconds apart of each shot, cameras and 3D tracks
    over both; and of scenes that several cameras filmed at once, where their poses lie with them."""
    settings = Settings(
        arguments.size, arguments.frames, arguments.tracks, arguments.fps, arguments.apart, arguments.fov,
        arguments.seed,
    )  # fmt: skip
    folder: Path = arguments.folder
    if not folder.is_dir():
        raise RetakeError("is no folder.", str(folder), "Give the folder that holds the videos.")
    part, parts = arguments.part
    scenes = multicamera.scenes(folder)
    if scenes and settings.fov is None:
        why = f"{len(scenes)} scenes of several cameras are in it, whose poses tell no lens."
        raise RetakeError(why, str(folder), "Give their field of view, as in --fov 60.")
    in_scenes = {path for scene in scenes for path in scene.videos.values()}
    videos = [path for path in stretches.videos(folder) if path not in in_scenes]
    if not videos and not scenes:
        raise RetakeError("holds no video.", str(folder), f"Expected {', '.join(sorted(stretches.SUFFIXES))} files.")
    with (
        PairWriter(arguments.out, arguments.per_shard, depth=False) as writer,
        Journal(arguments.out, settings) as journal,
        ChangingLine() as line,
    ):
        work = _Work(folder, settings, writer, journal, line, check)
        for path in videos[part::parts]:
            work.video(path)
        for scene in scenes[part::parts]:
            work.scene(scene)
        summary = journal.summarise()
    left_out = ", ".join(f"{count} {reason}" for reason, count in summary["left_out"].items())
    print(
        f"{arguments.out}: {summary['examples']} examples of {summary['kept']} of {summary['looked_at']} stretches in "
        f"{summary['videos']} videos and scenes ({summary['examples_per_hour']:.0f} an hour)"
        + (f"; left out: {left_out}" if left_out else "")
    )
    return 0


@dataclass(frozen=True)
class _Work:
    """One run of one curation."""

    folder: Path
    settings: Settings
    writer: PairWriter
    journal: Journal
    line: ChangingLine
    check: Callable[[], None]

    def video(self, path: Path) -> None:
        """All stretches of a video."""
        relative = path.relative_to(self.folder).as_posix()
        name = _name(relative, [path])
        if name in self.journal.ended:
            return
        report = self._report(relative)
        try:
            with FootageReader(path) as reader:
                found = self._stretches(reader, relative, report)
                if not found:
                    self._note(name, relative, lambda: _drop("too short"))
                for stretch in found:
                    which = f"{name}_{stretch.start:06d}_{stretch.gap:03d}"
                    self._note(which, relative, lambda s=stretch: self._clips(reader, relative, s, report))  # type: ignore[misc]
                notes = reader.notes
        except BadFile as error:
            why = str(error)
            self._note(name, relative, lambda: _drop("unreadable", why))
            notes = ()
        self.journal.through(name, relative, notes)

    def scene(self, scene: Scene) -> None:
        """All couples of cameras of a scene."""
        relative = scene.cameras.relative_to(self.folder).as_posix()
        name = _name(relative, [scene.cameras, *scene.videos.values()])
        if name in self.journal.ended:
            return
        report = self._report(relative)
        for couple in multicamera.couples(scene, self.settings.seed):
            which = f"{name}_{_name('_'.join(couple))}"
            self._note(which, relative, lambda c=couple: self._cameras(scene, c, relative, report))  # type: ignore[misc]
        self.journal.through(name, relative)

    def _stretches(self, reader: FootageReader, relative: str, report: Report) -> list[stretches.Stretch]:
        fps = float(reader.footage.fps)
        random = np.random.default_rng([self.settings.seed, *hashlib.sha256(relative.encode()).digest()])
        found = []
        for shot in stretches.shots(reader, report):
            found += stretches.stretches(shot, fps, self.settings, random)
        return found

    def _note(self, name: str, source: str, make: Callable[[], Made]) -> None:
        """Make the examples of one name, keep them or the reason why there are none, and note it."""
        if name in self.journal.done:
            return
        began = time.monotonic()
        facts: dict[str, Any]
        try:
            made = make()
        except Dropped as why:
            verdict, facts = why.reason, {"detail": why.detail}
        except Cancelled:
            raise
        except (RetakeError, ArithmeticError, LookupError, ValueError, RuntimeError, cv2.error) as error:
            # One clip in a thousand must not end a night's work; it is counted, and told in full.
            verdict, facts = "failed", {"detail": f"{type(error).__name__}: {error}"}
            self.line.say(traceback.format_exc().rstrip())
        else:
            for suffix, pair in made.pairs.items():
                if name + suffix not in self.writer:
                    self.writer.add(pair, name + suffix)
            self.writer.secure()  # what the journal calls kept is never made again
            verdict, facts = "kept", {"examples": len(made.pairs), **made.facts}
        seconds = time.monotonic() - began
        self.journal.looked_at(name, verdict, seconds, source=source, **facts)
        self.line.say(f"{name}: {verdict}{_shown(facts)} ({seconds:.1f} s)")

    def _clips(self, reader: FootageReader, relative: str, stretch: stretches.Stretch, report: Report) -> Made:
        known, settings = reader.footage, self.settings
        size = stretches.solve_size((known.width, known.height), settings.size)
        if size is None:
            raise Dropped("too small", f"{known.width}x{known.height} px")
        try:
            pictures = stretches.pictures(reader, stretch.chosen, size, report)
        except BadFile as error:
            raise Dropped("unreadable", str(error)) from error
        origin = {"name": relative, "start": stretch.start, "step": stretch.step}
        seen = replace(settings, fov=stretches.field_of_view(settings.fov, (known.width, known.height), size))
        return clips.make(pictures, known.fps / stretch.step, stretch.gap, seen, origin, report)

    def _cameras(self, scene: Scene, couple: tuple[str, str], relative: str, report: Report) -> Made:
        settings, taken, known, rates = self.settings, [], [], []
        assert settings.fov is not None
        try:
            for name in couple:
                with FootageReader(scene.videos[name]) as reader:
                    footage = reader.footage
                    step = settings.step(float(footage.fps))
                    chosen = range(0, (settings.frames - 1) * step + 1, step)
                    size = stretches.solve_size((footage.width, footage.height), settings.size)
                    if size is None:
                        raise Dropped("too small", f"{name}: {footage.width}x{footage.height} px")
                    if chosen[-1] >= footage.frames:
                        raise Dropped("too short", f"{name}: {footage.frames} frames")
                    taken.append(stretches.pictures(reader, chosen, size, report))
                    known.append(multicamera.cameras(scene, name, footage, size, chosen, settings.fov))
                    rates.append(footage.fps / step)
        except BadFile as error:
            raise Dropped("unreadable", str(error)) from error
        if taken[0].shape != taken[1].shape or rates[0] != rates[1]:
            raise Dropped("not synchronised", "the two cameras differ in size or rate")
        origin = {"name": relative, "cameras": list(couple), "step": step}
        return multicamera.make(taken[0], taken[1], (known[0], known[1]), rates[0], settings, origin, report)

    def _report(self, what: str) -> Report:
        """Shows where the work is, on a terminal; asks everywhere whether to stop."""

        def report(progress: Progress) -> None:
            self.check()
            self.line.change(f"{what}: {progress.stage} {progress.done} of {progress.total}")

        return report


def _drop(reason: str, detail: str = "") -> Made:
    raise Dropped(reason, detail)


def _shown(facts: dict[str, Any]) -> str:
    shown = facts.get("detail") or ", ".join(f"{key} {value}" for key, value in facts.items() if key != "detail")
    return f", {shown}" if shown else ""


def _name(relative: str, files: Iterable[Path] = ()) -> str:
    """A name for examples: readable, and one for each path and content: of the files, their sizes and ends."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(relative).stem)[:24].strip("-") or "video"
    digest = hashlib.sha256(relative.encode())
    for path in files:
        with contextlib.suppress(OSError), path.open("rb") as stream:  # noted as unreadable when its turn comes
            size = stream.seek(0, 2)
            digest.update(f"\n{size}\n".encode())
            for start in (0, max(0, size - _ENDS)):
                stream.seek(start)
                digest.update(stream.read(_ENDS))
    return f"{stem}-{digest.hexdigest()[:8]}"
