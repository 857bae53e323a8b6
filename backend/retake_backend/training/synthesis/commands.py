"""`retake synthesize`: what it asks for, prints and returns."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from retake_shared.arguments import at_least
from retake_shared.errors import BadFile, BadShot, RetakeError

from ...footage import sha256
from ...progress_line import ChangingLine
from ..dataset import PairWriter
from ..moved import with_moved
from . import crew, plan
from .pairing import make_pair, read_shots

WORK = "work"
"""The folder beside the shards in which unfinished scenes lie."""
_TRACKS = 2000


@dataclass(frozen=True)
class Quality:
    """How pictures are rendered. samples: light paths per pixel, before denoising. bounces: of light between things."""

    samples: int
    bounces: int


QUALITIES = {"draft": Quality(8, 2), "full": Quality(24, 4)}


@dataclass(frozen=True)
class Asked:
    """What the command line asks for. size: (width, height) px."""

    out: Path
    clips: int
    seed: int
    size: tuple[int, int]
    frames: int
    processes: int
    quality: str
    blender: str
    files: plan.Files

    def check(self) -> None:
        """Raise RetakeError when it cannot be made."""
        for name, value, least in (
            ("--clips", self.clips, 1), ("--frames", self.frames, 2), ("--seed", self.seed, 0),
            ("--processes", self.processes, 1),
        ):  # fmt: skip
            at_least(least, name, value)
        if min(self.size) < 32:
            raise RetakeError(f"is {self.size[0]}x{self.size[1]}.", "--size", "Use 32 px or more on either side.")

    def scenes(self) -> Iterator[tuple[plan.Scene, list[tuple[int, int, str]]]]:
        """The scenes that make `clips` pairs, each with the pairs that are wanted of it."""
        left, seed = self.clips, self.seed
        while left:
            scene = plan.draw(seed, self.frames, self.files)
            pairs = scene.pairs()[:left]
            left, seed = left - len(pairs), seed + 1
            yield scene, pairs

    def settings(self) -> dict[str, int]:
        """Those of `scene.shooting.Settings`."""
        width, height = self.size
        # Depth at every second pixel of a small picture, every fourth of a large one: about 10,000 rays a frame.
        step = max(1, min(4, round((width * height / 10_000) ** 0.5)))
        threads = max(1, _cores() // self.processes)
        return {
            "width": width, "height": height, **asdict(QUALITIES[self.quality]), "points": _TRACKS // 2,
            "map_step": step, "threads": threads,
        }  # fmt: skip


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def synthesize(arguments: argparse.Namespace, check: Callable[[], None]) -> int:
    """Render pairs of videos in Blender, with everything that is known about them, into a data set."""
    for folder in (arguments.mixamo, arguments.assets):
        if folder is not None and not folder.is_dir():
            raise RetakeError("is no folder.", str(folder), "Give the folder that holds the files.")
    asked = Asked(
        arguments.out, arguments.clips, arguments.seed, arguments.size, arguments.frames,
        arguments.processes or _cores(), arguments.quality, arguments.blender,
        plan.Files.find(arguments.mixamo, arguments.assets),
    )  # fmt: skip
    asked.check()
    with ChangingLine() as line:

        def tell(done: int, total: int, what: str) -> None:
            words = f"{done} of {total} pairs: {what}"
            if what.endswith("done"):
                line.say(words)
            else:
                line.change(words)

        made = make(asked, check, tell)
    hours = max(made.seconds, 1e-6) / 3600
    print(f"{asked.out}: {made.pairs} pairs in {made.seconds:.0f} s ({made.pairs / hours:.0f} clips per hour)")
    for error in made.skipped:
        print(f"retake: skipped {error}", file=sys.stderr)
    return 1 if made.skipped else 0


@dataclass
class Made:
    """What came of it. pairs: made now. there: that were made before. skipped: "NAME: why" of scenes that failed."""

    pairs: int
    there: int
    skipped: list[str]
    seconds: float


Tell = Callable[[int, int, str], None]
"""Pairs done, pairs asked for, and what was done last."""


def make(asked: Asked, check: Callable[[], None], tell: Tell, silence: float = 900.0) -> Made:
    """Fill the data set up to what is asked; what is there stays. check: raises to stop; whatever is finished is kept
    and found again. Raises RetakeError when nothing can be rendered or written."""
    begun = time.monotonic()
    command, modules, settings = crew.find_blender(asked.blender), crew.modules(), asked.settings()
    made = Made(0, 0, [], 0.0)
    origin = {"size": list(asked.size), "frames": asked.frames, "quality": asked.quality}
    with PairWriter(asked.out) as writer, crew.Crew(command, asked.processes, silence) as blenders:
        writer.expect(asked.frames, asked.size)
        wanted = {scene.seed: (scene, pairs) for scene, pairs in asked.scenes()}
        left = {
            seed: [p for p in pairs if scene.pair_name(*p[:2]) not in writer] for seed, (scene, pairs) in wanted.items()
        }
        made.there = asked.clips - sum(map(len, left.values()))
        work = asked.out / WORK / _fingerprint(settings, asked)

        def heard(seed: int, what: str) -> None:
            check()
            if what:
                tell(made.there + made.pairs, asked.clips, f"{wanted[seed][0].name} {what}")

        fields = {"frames": asked.frames, "settings": settings, "modules": modules, **asdict(asked.files)}
        orders = [
            crew.Order(seed, {"seed": seed, "folder": str(work / wanted[seed][0].name), **fields})
            for seed, pairs in left.items() if pairs
        ]  # fmt: skip
        for outcome in blenders.shoot(orders, heard):
            scene, folder = wanted[outcome.seed][0], work / wanted[outcome.seed][0].name
            if outcome.error:
                made.skipped.append(f"{scene.name}: {outcome.error}")
                continue
            try:
                shots = read_shots(scene, folder)
            except RetakeError as error:
                made.skipped.append(f"{scene.name}: {error}")
            else:
                for source, target, _ in left[outcome.seed]:
                    name = scene.pair_name(source, target)
                    try:
                        pair = with_moved(make_pair(scene, shots, source, target, origin))
                    except BadShot as error:  # a camera that sees nothing of it: the others are as good
                        made.skipped.append(f"{name}: {error}")
                        continue
                    writer.add(pair, name)
                    made.pairs += 1
                tell(made.there + made.pairs, asked.clips, f"{scene.name} done")
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # not there, or holding unfinished scenes that another run asked for
        work.rmdir()
        work.parent.rmdir()
    made.seconds = time.monotonic() - begun
    return made


def _fingerprint(settings: dict[str, int], asked: Asked) -> str:
    """The name of the folder of unfinished scenes: other settings or files must not go on with these pictures. Raises
    BadFile where a file cannot be read."""
    digest = hashlib.sha256()
    for kind in (asked.files.figures, asked.files.models):
        digest.update(f"{len(kind)} files\n".encode())
        for file in kind:  # in the order in which a seed draws from them
            try:
                digest.update(f"{Path(file).name}\n{sha256(file)}\n".encode())
            except OSError as error:
                raise BadFile(f"cannot be read: {error.strerror}.", file, "Take it out of the folder.") from error
    size = f"{settings['width']}x{settings['height']}x{asked.frames}-{settings['samples']}"
    return f"{size}-{digest.hexdigest()[:16]}"
