"""What Blender wrote of a scene -> examples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared import archive
from retake_shared.errors import BadFile
from retake_shared.shot import Edit, Solve, frame_name

from ...footage import read_image
from ..pairs import Pair
from .plan import FPS, Scene


@dataclass(frozen=True)
class Shots:
    """A scene as it was rendered. pictures: of each version, (F, H, W, 3) uint8. solves: of each version, over all N
    surface points. picked: (N,) the version each point was picked in. twin: (N,) the point at the same place of the
    actor's copy or original, -1 where there is none."""

    pictures: list[NDArray[np.uint8]]
    solves: list[Solve]
    picked: NDArray[np.int32]
    twin: NDArray[np.int32]


def read_shots(scene: Scene, folder: Path) -> Shots:
    """All versions of a scene from the folder that Blender filled. Raises BadFile or BadShot."""
    try:
        known = json.loads((folder / "scene.json").read_bytes())
        picked, twin = np.array(known["picked"], np.int32), np.array(known["twin"], np.int32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(f"cannot be read ({error!r:.80}).", str(folder / "scene.json"), "Remove that folder.") from error
    pictures, solves = [], []
    for number in range(len(scene.versions)):
        frames = [read_image(folder / f"version-{number}" / frame_name(t)) for t in range(scene.frames)]
        pictures.append(np.stack(frames))
        solves.append(archive.load_solve(folder / f"version-{number}.solve.npz"))
    return Shots(pictures, solves, picked, twin)


def make_pair(scene: Scene, shots: Shots, source: int, target: int, made: Mapping[str, Any]) -> Pair:
    """The example that leads from one version to another. made: what belongs in its origin besides the scene."""
    before, after = shots.solves[source], shots.solves[target]
    objects = before.tracks.objects
    shown = _there(scene, source)
    kept = np.flatnonzero(np.isin(shots.picked, (source, target)) & shown[objects])
    names = {0: "background", **{i: actor.name for i, actor in enumerate(scene.actors, 1) if shown[i]}}
    solve = Solve(before.cameras, before.tracks.select(kept), before.depth, before.masks, names, before.source)
    edit = _edit(scene, before, after, _targets(scene, shots, kept, source, target), (source, target))
    origin = {
        "kind": "synthetic", "name": scene.pair_name(source, target), "seed": scene.seed, "versions": [source, target],
        "edit": scene.kind(source, target), "place": scene.place, **made,
    }  # fmt: skip
    pictures, caption = shots.pictures, _caption(scene, target)
    return Pair(pictures[source], pictures[target], solve, edit, fps=Fraction(FPS), caption=caption, origin=origin)


def _there(scene: Scene, version: int) -> NDArray[np.bool_]:
    """Which object numbers a version shows; the background always."""
    return np.array([True, *(motion is not None for motion in scene.versions[version].motions)])


def _targets(
    scene: Scene, shots: Shots, kept: NDArray[np.int64], source: int, target: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Target tracks: the surface point (M,) that each follows, and the row of the source's tracks (M,) that it shows.
    Those of the source come first, then those of a copy that only the target shows."""
    objects = shots.solves[source].tracks.objects
    new = _there(scene, target) & ~_there(scene, source)
    twin = shots.twin[kept]
    doubled = np.flatnonzero((twin >= 0) & new[objects[twin]])
    return np.concatenate([kept, twin[doubled]]), np.concatenate([np.arange(len(kept)), doubled])


def _edit(
    scene: Scene,
    before: Solve,
    after: Solve,
    targets: tuple[NDArray[np.int64], NDArray[np.int64]],
    way: tuple[int, int],
) -> Edit:
    points, source_track = targets
    objects = before.tracks.objects[points]
    gone = ~_there(scene, way[1])[objects]
    # What is gone has no place any more; where it was is as good as any, and finite.
    positions = np.where(gone[None, :, None], before.tracks.positions[:, points], after.tracks.positions[:, points])
    shows = np.repeat(np.arange(scene.frames, dtype=np.float32)[:, None], len(points), 1)
    first, second = (scene.versions[k].motions for k in way)
    for number, (motion, other) in enumerate(zip(first, second, strict=True), 1):
        if motion is not None and other is not None and motion.same_deed(other):
            shows[:, objects == number] = np.array(other.moments, np.float32)[:, None]
    present = np.repeat(~gone[None], scene.frames, 0)
    names = {0: "background", **{n: scene.actors[n - 1].name for n in np.unique(objects).tolist() if n}}
    return Edit(after.cameras, positions, present, source_track.astype(np.int32), shows, objects, names)


_WORDS = {"figure": "person", "asset": "thing"}


def _caption(scene: Scene, version: int) -> str:
    """What is seen, as in "a person, a ball and a flag in a meadow"."""
    there = [actor.kind for actor, motion in zip(scene.actors, scene.versions[version].motions, strict=True) if motion]
    things = [f"a {_WORDS.get(kind, kind)}" for kind in there] or ["nobody"]
    listed = " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
    return f"{listed} in a {scene.place}"
