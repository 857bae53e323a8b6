"""A scene as plain data, drawn from a seed: where it is, who acts in it, and the versions that are rendered of it.

World: metres, z up, the ground at z = 0; what happens, happens within about two metres of the origin. A version is one
choice of motions and one of cameras; each two versions whose difference is an edit make a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

FPS = 16
PLACES = ("room", "studio", "meadow", "street")
LEGS = ("walk", "run", "march", "sneak", "sidestep", "backwards", "turn", "jump", "idle", "squat")
"""What a person does with the legs; the arms do something of their own."""
DEEDS = {
    "person": LEGS,
    "ball": ("roll", "bounce", "drop"),
    "box": ("toss", "drop", "slide", "spin"),
    "flag": ("wave",),
    "jelly": ("wobble", "hop"),
    "worm": ("crawl",),
    "asset": ("toss", "slide", "spin"),
    "figure": ("act",),
}
"""The actions of each kind of actor. asset: a model from a file; figure: a character from a file, with its actions."""
_PROPS = ("ball", "box", "flag", "jelly", "worm")
_SAME = ("action", "seed", "at", "heading")


@dataclass(frozen=True)
class Actor:
    """Something that moves. seed: of its looks. copy_of: the index of the actor that it is a second one of, or -1.
    file: the model that it is loaded from, "" for those that are built."""

    kind: str
    name: str
    seed: int
    copy_of: int = -1
    file: str = ""


@dataclass(frozen=True)
class Motion:
    """What an actor does. seed: of all that is not said here. at: (x, y) m in the middle of the clip. heading: rad.
    moments: per frame, the frame of the action that it shows; a retimed motion is the same one at other moments."""

    action: str
    seed: int
    at: tuple[float, float]
    heading: float
    moments: tuple[float, ...]

    def same_deed(self, other: Motion) -> bool:
        """Whether both are one motion, perhaps at other moments."""
        return all(getattr(self, name) == getattr(other, name) for name in _SAME)


@dataclass(frozen=True)
class Version:
    """One rendering. motions: of each actor, None where it is not there. view: the number of its cameras."""

    motions: tuple[Motion | None, ...]
    view: int


@dataclass(frozen=True)
class Scene:
    """A scene of `frames` frames, all of it following from `seed`. props: files of models that may stand about."""

    seed: int
    frames: int
    place: str
    actors: tuple[Actor, ...]
    versions: tuple[Version, ...]
    props: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The scene's name, and the beginning of the names of its pairs."""
        return f"synthetic-{self.seed:06d}"

    def pairs(self) -> list[tuple[int, int, str]]:
        """Source version, target version and kind ("camera", "objects", "both", "removal", "retime", "duplicate")."""
        count = len(self.versions)
        found = [(a, b, self.kind(a, b)) for a in range(count) for b in range(count) if a != b]
        return [(a, b, kind) for a, b, kind in found if kind]

    def pair_name(self, source: int, target: int) -> str:
        """The name of a pair, which says what it is made again from."""
        return f"{self.name}-{source}{target}"

    def kind(self, source: int, target: int) -> str:
        """What leads from one version to another; "" where no edit does: an actor would appear, or show moments that
        the source does not."""
        a, b = self.versions[source], self.versions[target]
        kinds = set()
        for actor, before, after in zip(self.actors, a.motions, b.motions, strict=True):
            if before is None and after is not None:
                if actor.copy_of < 0 or a.motions[actor.copy_of] is None:
                    return ""
                kinds.add("duplicate")
            elif before is not None and after is None:
                kinds.add("removal")
            elif before is not None and after is not None and before != after:
                if not before.same_deed(after):
                    kinds.add("objects")
                elif before.moments == tuple(range(self.frames)):
                    kinds.add("retime")
                else:
                    return ""
        for kind in ("removal", "duplicate", "retime"):
            if kind in kinds:
                return kind
        moved = a.view != b.view
        return "both" if kinds and moved else "objects" if kinds else "camera" if moved else ""


@dataclass(frozen=True)
class Files:
    """Models that the user has. figures: characters with actions (FBX). models: things (GLB, glTF, OBJ, FBX)."""

    figures: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    @classmethod
    def find(cls, mixamo: Path | None, assets: Path | None) -> Files:
        """All files in the folders and below, sorted, so that a seed keeps its meaning."""
        return cls(_listed(mixamo, {".fbx"}), _listed(assets, {".glb", ".gltf", ".obj", ".fbx"}))


def _listed(folder: Path | None, endings: set[str]) -> tuple[str, ...]:
    if folder is None:
        return ()
    return tuple(sorted(str(path) for path in folder.resolve().rglob("*") if path.suffix.lower() in endings))


def draw(seed: int, frames: int, files: Files | None = None) -> Scene:
    """The scene of a seed, with three versions: the first, one with other cameras or motions or both, and one with an
    actor removed, doubled or at another time, or with yet other motions."""
    files = files or Files()
    rng = np.random.default_rng([seed, 1])
    actors = _actors(rng, files)
    plain = tuple(float(t) for t in range(frames))
    first = Version(tuple(_motion(rng, actor, plain, i) for i, actor in enumerate(actors)), 0)
    changed = _with_other_motions(rng, first, actors)
    second = [replace(first, view=1), changed, replace(changed, view=1)][rng.choice(3, p=[0.25, 0.2, 0.55])]
    change = str(rng.choice(["removal", "duplicate", "retime", "both"], p=[0.3, 0.2, 0.3, 0.2]))
    view = int(rng.choice([0, 2]))
    which = int(rng.integers(len(actors)))
    third = replace(first, view=view)
    if change == "removal":
        third = replace(third, motions=_put(third.motions, which, None))
    elif change == "retime":
        motion = first.motions[which]
        assert motion is not None
        third = replace(third, motions=_put(third.motions, which, replace(motion, moments=_retimed(rng, frames))))
    elif change == "both":
        third = replace(_with_other_motions(rng, first, actors), view=2)
    versions = [first, second, third]
    if change == "duplicate":
        actors, versions = _doubled(rng, actors, versions, which)
    props = tuple(files.models[i] for i in rng.permutation(len(files.models))[:6])
    return Scene(seed, frames, str(rng.choice(PLACES)), actors, tuple(versions), props)


def _actors(rng: np.random.Generator, files: Files) -> tuple[Actor, ...]:
    kinds = ["person"] if rng.random() < 0.8 else []
    kinds += [str(k) for k in rng.choice([*_PROPS, "person"], int(rng.integers(1, 3)), p=[*[0.17] * 5, 0.15])]
    actors = []
    for i, kind in enumerate(kinds):
        file = ""
        if kind == "person" and files.figures and rng.random() < 0.6:
            kind, file = "figure", str(rng.choice(files.figures))
        elif kind != "person" and files.models and rng.random() < 0.5:
            kind, file = "asset", str(rng.choice(files.models))
        actors.append(Actor(kind, f"{kind} {i + 1}", int(rng.integers(1 << 30)), file=file))
    return tuple(actors)


def _motion(rng: np.random.Generator, actor: Actor, moments: tuple[float, ...], place: int) -> Motion:
    """place: actors of other numbers start elsewhere, so that they seldom meet."""
    turn = 2.4 * place + rng.uniform(-0.7, 0.7)
    reach = rng.uniform(0.0, 0.7) if place == 0 else rng.uniform(0.9, 1.6)
    at = (float(reach * np.cos(turn)), float(reach * np.sin(turn)))
    action = str(rng.choice(DEEDS[actor.kind]))
    return Motion(action, int(rng.integers(1 << 30)), at, float(rng.uniform(-np.pi, np.pi)), moments)


def _with_other_motions(rng: np.random.Generator, version: Version, actors: tuple[Actor, ...]) -> Version:
    """One actor or more, every second one on average, do something else."""
    some = rng.random(len(actors)) < 0.5
    some[rng.integers(len(actors))] = True
    new = tuple(
        _motion(rng, actor, motion.moments, i) if motion is not None and other else motion
        for i, (actor, motion, other) in enumerate(zip(actors, version.motions, some, strict=True))
    )
    return replace(version, motions=new)


def _doubled(
    rng: np.random.Generator, actors: tuple[Actor, ...], versions: list[Version], which: int
) -> tuple[tuple[Actor, ...], list[Version]]:
    """A second one of an actor in the last version, doing the same a step aside."""
    motion = versions[-1].motions[which]
    assert motion is not None
    turn, reach = rng.uniform(-np.pi, np.pi), rng.uniform(0.8, 1.5)
    at = (float(motion.at[0] + reach * np.cos(turn)), float(motion.at[1] + reach * np.sin(turn)))
    copy = replace(actors[which], name=f"{actors[which].name} copy", copy_of=which)
    found = [replace(v, motions=(*v.motions, None)) for v in versions[:-1]]
    last = replace(versions[-1], motions=(*versions[-1].motions, replace(motion, at=at)))
    return (*actors, copy), [*found, last]


def _retimed(rng: np.random.Generator, frames: int) -> tuple[float, ...]:
    """Moments within the clip: reversed, slower, frozen, late, or faster and then held."""
    t, last = np.arange(frames), frames - 1
    how = int(rng.integers(5))
    moments = [
        last - t,
        0.5 * t + last * rng.uniform(0, 0.5),
        0 * t + round(last * rng.uniform(0.2, 0.8)),
        np.maximum(t - round(last * rng.uniform(0.15, 0.5)), 0),
        np.minimum(rng.uniform(1.5, 2.0) * t, last),
    ][how]
    return tuple(float(m) for m in moments)


def _put(motions: Sequence[Motion | None], which: int, motion: Motion | None) -> tuple[Motion | None, ...]:
    return (*motions[:which], motion, *motions[which + 1 :])
