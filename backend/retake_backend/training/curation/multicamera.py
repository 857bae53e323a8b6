"""Two synchronised cameras of one scene -> examples, as Track2View makes them of ReCamMaster's MultiCamVideo.

All cameras of a scene share their first picture. Camera A's clip is turned round in time and camera B's appended: one
clip, without a cut, through which points are followed once. A point seen in both halves is then known at the same
moments from two places: whatever moves, its place in the world is where the two lines of sight meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.errors import RetakeError
from retake_shared.formats import Hints, recammaster, textfile
from retake_shared.shot import Cameras, Edit, Footage, Solve, Tracks

from ...engines.base import Report
from ...solve import points
from ...solve.stages import PointTracks
from ..framed import scaled_size
from ..moved import with_moved
from ..pairs import Pair
from .clips import Dropped, Made, alike
from .stretches import SUFFIXES, Settings

Array = NDArray[np.float64]

_MISS = 1.5
"""px by which lines of sight may miss the place where they meet."""
_ANGLE = 0.7
"""Degrees under which the two cameras must see a point for its place to be known."""
_FEWEST = 3
"""Moments at which a mover's place must be known."""
_LEAST_TRACKS = 50


@dataclass(frozen=True)
class Scene:
    """Synchronised cameras: a file of poses, and a video of each camera by its name."""

    cameras: Path
    videos: Mapping[str, Path]


def scenes(folder: Path) -> list[Scene]:
    """The scenes under a folder: every ReCamMaster JSON with videos named as its cameras, beside it or in `videos`
    beside its folder, as MultiCamVideo has them."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            content = textfile.load_json(path)
        except RetakeError:
            continue
        if not recammaster.recognises(content):
            continue
        names = {name for cameras in content.values() if isinstance(cameras, dict) for name in cameras}
        near = [p for place in (path.parent, path.parent.parent / "videos") if place.is_dir() for p in place.iterdir()]
        shown = {p.stem: p for p in sorted(near) if p.suffix.lower() in SUFFIXES and p.stem in names}
        if len(shown) > 1:
            found.append(Scene(path, dict(sorted(shown.items()))))
    return found


def couples(scene: Scene, seed: int) -> list[tuple[str, str]]:
    """The cameras of a scene two by two, drawn; an odd one is left over."""
    names = list(scene.videos)
    drawn = [names[i] for i in np.random.default_rng([seed, len(names)]).permutation(len(names))]
    return list(zip(drawn[::2], drawn[1::2], strict=False))


def cameras(scene: Scene, name: str, footage: Footage, size: tuple[int, int], chosen: range, fov: float) -> Cameras:
    """One camera over the chosen frames of its video, of the pictures of `size` that `stretches.pictures` gives.

    fov: degrees across the whole width of the video. Raises BadFile, and Dropped where poses are too few.
    """
    solve, _ = recammaster.read(scene.cameras, footage, Hints(fov, (footage.width, footage.height), name))
    whole = solve.cameras
    if len(whole) <= chosen[-1]:
        raise Dropped("too short", f"{name} has {len(whole)} poses")
    scaled = whole.resized(*scaled_size((footage.width, footage.height), size))
    left, top = (scaled.width - size[0]) // 2, (scaled.height - size[1]) // 2
    K = geometry.crop_intrinsics(scaled.K, left, top)
    return Cameras(scaled.c2w[list(chosen)], K[list(chosen)], *size)


def make(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    known: tuple[Cameras, Cameras],
    fps: Fraction,
    settings: Settings,
    origin: Mapping[str, Any],
    report: Report,
) -> Made:
    """Examples of two clips (F, h, w, 3) uint8 that begin with the same picture. known: their cameras.

    Raises Dropped, Cancelled.
    """
    frames = len(a)
    if alike(a, b):
        raise Dropped("identical clips")
    if not alike(a[:1], b[:1]):
        raise Dropped("not synchronised", "the first pictures of the two cameras differ")
    joint = np.concatenate([a[::-1], b[1:]])
    grays = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in joint]
    size = (a.shape[2], a.shape[1])
    followed = points.select(points.follow(grays, report), size, settings.tracks)
    both = (known[0].c2w[::-1], known[1].c2w[1:]), (known[0].K[::-1], known[1].K[1:])
    through = Cameras(np.concatenate(both[0]), np.concatenate(both[1]), *size)
    positions, still, rows = places(followed, through)
    if len(rows) < _LEAST_TRACKS:
        raise Dropped("not solved", f"only {len(rows)} tracks are known in 3D")
    visible = followed.visible[:, rows]
    scene = "static" if still.all() else "dynamic"
    facts = {"scene": scene, "camera": "given", "light": "green", "tracks": len(rows), "moving": int((~still).sum())}
    views = (
        (a, known[0], visible[frames - 1 :: -1], followed.confidence[frames - 1 :: -1, rows]),
        (b, known[1], visible[frames - 1 :], followed.confidence[frames - 1 :, rows]),
    )
    made = {}
    for suffix, (source, target) in {"": views, "_back": views[::-1]}.items():
        tracks = Tracks(positions, source[2], source[3], (~still).astype(np.int32), np.arange(len(rows)))
        names = {0: "background", 1: "moving"}
        solve = Solve(source[1], tracks, object_names=names, source="retake curate, cameras given")
        edit = replace(Edit.identity(solve), cameras=target[1])
        small = [
            np.stack([cv2.resize(picture, settings.size, interpolation=cv2.INTER_AREA) for picture in view[0]])
            for view in (source, target)
        ]
        described = {"kind": "real", **origin, "direction": "back" if suffix else "on", **facts}
        made[suffix] = with_moved(Pair(small[0], small[1], solve, edit, fps=fps, origin=described))
    return Made(made, facts)


def places(followed: PointTracks, cameras: Cameras) -> tuple[Array, NDArray[np.bool_], NDArray[np.int64]]:
    """Where points of a joint clip of 2F - 1 frames are: positions (F, M, 3) by moment, who of them stands still (M,),
    and their rows (M,) of `followed`; the others are not known."""
    frames = (len(cameras) + 1) // 2
    uv, visible = np.nan_to_num(followed.uv).astype(np.float64), followed.visible
    one = np.ones(uv.shape[:2])
    rays = geometry.unproject(uv, one, cameras.c2w, cameras.K) - cameras.c2w[:, None, :3, 3]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    eyes = np.broadcast_to(cameras.c2w[:, None, :3, 3], rays.shape)

    standing, sure = _meeting(eyes, rays, visible)
    miss = _misses(np.broadcast_to(standing, rays.shape), uv, visible, cameras)
    still = sure & (np.nanquantile(np.where(visible, miss, np.nan), 0.9, axis=0) < _MISS)
    positions = np.broadcast_to(standing, (frames, *standing.shape)).copy()

    before, after = slice(frames - 1, None, -1), slice(frames - 1, None)  # the same moments, seen by A and by B
    meeting = np.full(positions.shape, np.nan)
    for t in range(frames):
        at = [frames - 1 - t, frames - 1 + t]
        place, sure = _meeting(eyes[at], rays[at], visible[at])
        view = replace(cameras, c2w=cameras.c2w[at], K=cameras.K[at])
        miss = _misses(np.broadcast_to(place, rays[at].shape), uv[at], visible[at], view).max(0)
        good = visible[at].all(0) & sure & (miss < _MISS)
        meeting[t, good] = place[good]
    moving = ~still & (np.isfinite(meeting[..., 0]).sum(0) >= _FEWEST)
    for n in np.flatnonzero(moving):
        positions[:, n] = _way(
            meeting[:, n],
            [(eyes[half, n], rays[half, n], visible[half, n]) for half in (before, after)],
        )
    rows = np.flatnonzero(still | moving)
    return positions[:, rows], still[rows], rows


def _meeting(eyes: Array, rays: Array, visible: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """(N, 3) where the lines of sight (T, N, 3) come nearest to one place, and whether their angle tells it."""
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]
    across = np.where(visible[..., None, None], across, 0.0)
    normal = across.sum(0) + 1e-9 * np.eye(3)
    place = np.linalg.solve(normal, np.einsum("tnij,tnj->ni", across, eyes)[..., None])[..., 0]
    # The widest angle to the first line that sees it; two lines of sight at an angle a differ by their sine.
    first = np.take_along_axis(rays, visible.argmax(0)[None, :, None], 0)
    cosine = np.where(visible, (rays * first).sum(-1), 1.0).min(0)
    return place, cosine < np.cos(np.radians(_ANGLE))


def _misses(place: Array, uv: Array, visible: NDArray[np.bool_], cameras: Cameras) -> Array:
    """(T, N) px between where places are seen and where they should be; very many behind the camera, 0 where not
    seen."""
    where, depth = cameras.project(place)
    with np.errstate(invalid="ignore"):
        miss = np.where(depth > 0, np.linalg.norm(where - uv, axis=-1), 1e6)
    return np.where(visible, miss, 0.0)


def _way(known: Array, halves: list[tuple[Array, Array, NDArray[np.bool_]]]) -> Array:
    """(F, 3) of a mover: the places that are known, and between and before them along the line of sight of a camera
    that sees it, at the distance that the known ones give; straight on where none does."""
    frame = np.arange(len(known))
    good = np.isfinite(known[:, 0])
    way = np.stack([np.interp(frame, frame[good], known[good, axis]) for axis in range(3)], -1)
    left = ~good
    for eyes, rays, visible in halves:
        distance = np.linalg.norm(known[good] - eyes[good], axis=-1)
        between = 1 / np.interp(frame, frame[good], 1 / np.maximum(distance, 1e-9))
        use = visible & left
        way[use] = (eyes + rays * between[:, None])[use]
        left &= ~use
    return way
