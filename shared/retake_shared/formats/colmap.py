"""A COLMAP model folder (text or binary, with or without rigs and frames) as a solve.

Images are frames in the order of their names; the numbers in the names tell which frames are missing, which are
interpolated. Points do not move: each becomes a track that is visible where an image observes it. Only the pinhole
part of a camera is used, and a note says how far the lens departs from it.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..errors import BadFile
from ..shot import Cameras, Footage, Solve, Tracks
from . import colmap_model, convention, mending
from .colmap_model import Model, ModelImage

NAME = "COLMAP"
LOOKED_FOR = "cameras, images and points3D (.bin or .txt)"

MAX_TRACK_POINTS = 10_000_000
"""Tracks x frames: about 300 MB. Of a larger model the points seen longest and most exactly are kept."""


def find(path: Path) -> tuple[Path, int] | None:
    """The model folder that `path` is, lies in, or contains (sparse/0 and the like), and how many it contains.

    Of several the one with the largest points file is meant. None when there is no model.
    """
    folder = path if path.is_dir() else path.parent
    if colmap_model.suffix_of(folder):
        return folder, 1
    if not path.is_dir():
        return None
    places = [folder, *(folder / name for name in ("sparse", "dense", "dense/sparse"))]
    inside = {p for place in places if place.is_dir() for p in (place, *sorted(place.iterdir())[:200]) if p.is_dir()}
    models = [p for p in sorted(inside) if colmap_model.suffix_of(p)]
    if not models:
        return None
    return max(models, key=lambda p: (p / f"points3D{colmap_model.suffix_of(p)}").stat().st_size), len(models)


def read(source: tuple[Path, int], footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve, in the model's own world, and notes. Raises BadFile."""
    folder, models = source
    model = colmap_model.load(folder)
    if not model.images:
        raise BadFile("no image is registered.", str(folder), "Reconstruct again, with more overlap between images.")
    size, images, notes = _one_size(model, folder)
    if models > 1:
        notes.append(f"There are {models} models; {folder.name}, the largest, is read.")
    images, frames, count, order_notes = frame_order(images, footage)
    notes += order_notes
    missing = np.setdiff1d(np.arange(count), frames)
    if len(missing):
        notes.append(f"No image is registered for {mending.name_frames(missing)}: the camera is interpolated there.")
    poses, K = _cameras(model, images, folder)
    at = np.arange(count)
    # Interpolated as camera-to-world, where the translation is the camera's own path.
    all_poses = geometry.invert_rigid(geometry.interpolate_poses(frames, geometry.invert_rigid(poses), at))
    all_K = geometry.sample_rows(K, np.interp(at, frames, np.arange(len(frames))))
    observed = _observed(model, images)
    tracks, track_notes = _tracks(model, observed, frames, count, str(folder))
    c2w, reading, reading_notes = convention.choose(
        all_poses, all_K, size, tracks.positions, tracks.visibility, "world-to-camera"
    )
    cameras = Cameras(c2w, all_K, *size)
    tracks, behind_notes = mending.hide_behind(tracks, cameras)
    notes += track_notes + _lens_notes(model, images, poses, observed) + reading_notes + behind_notes
    return Solve(cameras, tracks, source=f"{NAME}, poses read as {reading}"), notes


def _one_size(model: Model, folder: Path) -> tuple[tuple[int, int], list[ModelImage], list[str]]:
    """The commonest picture size, and the images that have it."""

    def size_of(image: ModelImage) -> tuple[int, int]:
        camera = model.cameras[image.camera_id]
        return camera.width, camera.height

    if any(model.cameras[image.camera_id].model == "EQUIRECTANGULAR" for image in model.images):
        raise BadFile("is a panorama, which no pinhole camera can show.", str(folder), "Reconstruct pinhole views.")
    size = Counter(size_of(image) for image in model.images).most_common(1)[0][0]
    images = [image for image in model.images if size_of(image) == size]
    left = len(model.images) - len(images)
    return size, images, [f"{left} images of another size than {size[0]}x{size[1]} were left out."] if left else []


def frame_order(
    images: list[ModelImage], footage: Footage | None = None
) -> tuple[list[ModelImage], NDArray[np.int64], int, list[str]]:
    """Images in frame order, their increasing frame numbers, the number of frames they belong to, and notes.

    The frame number is the group of digits in which the names differ most, the rightmost of equals. Frame 0 is the
    image numbered 0 or 1, whichever comes first; when neither exists, what fits the footage's frames, else the first
    image. Names without usable numbers count 0, 1, 2, ... in their order. Of several folders (the cameras of a rig)
    the one with most images is used. A few footage frames missing at the end are counted in.
    """
    notes: list[str] = []
    folders = Counter(str(PurePosixPath(image.name).parent) for image in images)
    if len(folders) > 1:
        chosen = min(folders, key=lambda name: (-folders[name], name))
        notes.append(f'The images lie in {len(folders)} folders; only those of "{chosen}" are taken as frames.')
        images = [image for image in images if str(PurePosixPath(image.name).parent) == chosen]
    images = sorted(images, key=lambda image: [int(w[-18:]) if w.isdecimal() else w for w in _split(image.name)])
    numbers = _numbers([image.name for image in images])
    if numbers is None or np.ptp(numbers) > 20 * len(numbers) + 100:
        notes.append("The image names hold no frame numbers: images are taken as frames 0, 1, 2, ... in name order.")
        return images, np.arange(len(images)), len(images), notes
    order = np.argsort(numbers)
    images, numbers = [images[i] for i in order], numbers[order]
    first, last = int(numbers[0]), int(numbers[-1])
    origin = first
    if first > 1 and footage is not None and last <= footage.frames:
        origin = 1 if last == footage.frames else 0
    count = last - origin + 1
    if footage is not None and count < footage.frames <= 1.1 * count:
        count = footage.frames
    if origin > 1:
        notes.append(f"{PurePosixPath(images[0].name).name} is taken as frame 0.")
    return images, numbers - origin, count, notes


def _split(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _numbers(names: list[str]) -> NDArray[np.int64] | None:
    """The number in each name that tells the frame, or None."""
    parts = [_split(PurePosixPath(name).stem)[1::2] for name in names]
    groups = {len(p) for p in parts}
    if len(groups) != 1 or groups == {0}:
        return None
    columns = [[int(p[g][-15:]) for p in parts] for g in range(groups.pop())]
    best = max(range(len(columns)), key=lambda g: (len(set(columns[g])), g))
    return np.array(columns[best]) if len(set(columns[best])) == len(names) else None


def _cameras(model: Model, images: list[ModelImage], folder: Path) -> tuple[geometry.Array, geometry.Array]:
    """w2c (S, 4, 4) and K (S, 3, 3) of the images."""
    qvec, tvec = (np.array([getattr(image, name) for image in images]) for name in ("qvec", "tvec"))
    sound = (np.abs(qvec) < 1e3).all(1) & (np.abs(qvec) > 1e-6).any(1) & (np.abs(tvec) < mending.ABSURD).all(1)
    if not sound.all():
        name = images[int(np.flatnonzero(~sound)[0])].name
        raise BadFile(f"the pose of image {name} is no rotation and translation.", str(folder), "Export it again.")
    poses = np.tile(np.eye(4), (len(images), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = geometry.matrix_from_quaternion(qvec), tvec
    named = [model.cameras[image.camera_id].named for image in images]
    K = geometry.intrinsics(*([values[key] for values in named] for key in ("fx", "fy", "cx", "cy")))
    return poses, K


def _observed(model: Model, images: list[ModelImage]) -> list[tuple[NDArray[np.intp], geometry.Array]]:
    """For each image: rows of `model.points` that it observes, and where, (P,) and (P, 2) px."""
    observed = []
    ids = model.points.ids
    sound = _sound(model)
    for image in images:
        row = np.searchsorted(ids, image.point_ids)
        known = row < len(ids)
        known[known] = ids[row[known]] == image.point_ids[known]
        known[known] = sound[row[known]]
        known &= (np.abs(image.xy) < mending.ABSURD).all(1)
        observed.append((row[known], image.xy[known]))
    return observed


def _sound(model: Model) -> NDArray[np.bool_]:
    """(N,): which points have a position that can be meant."""
    return np.asarray((np.abs(model.points.xyz) < mending.ABSURD).all(1))


def _tracks(
    model: Model, observed: list[tuple[NDArray[np.intp], geometry.Array]], frames: NDArray[np.int64], count: int,
    where: str,
) -> tuple[Tracks, list[str]]:  # fmt: skip
    """A static track for every point that some image observes; ids are COLMAP's own point ids.

    Confidence: exp(-error / 2 px) * (1 - 1 / images that see the point). Between registered frames a point counts as
    visible where both neighbours see it.
    """
    points = model.points
    seen_by = np.zeros(len(points.ids), np.int64)
    for rows, _ in observed:
        seen_by[np.unique(rows)] += 1
    quality = np.exp(-np.maximum(np.nan_to_num(points.error), 0) / 2) * (1 - 1 / np.maximum(seen_by, 2))
    usable = np.flatnonzero(seen_by > 0)
    notes = []
    if lost := int((~_sound(model)).sum()):
        notes.append(f"{lost} points without a position were left out.")
    limit = max(MAX_TRACK_POINTS // count, 1)
    if len(usable) > limit:
        notes.append(f"Of {len(usable)} points the {limit} that were seen longest and most exactly became tracks.")
        usable = np.sort(usable[np.argsort(-(quality * seen_by)[usable], kind="stable")[:limit]])
    visible = np.zeros((len(frames), len(points.ids)), bool)
    for frame, (rows, _) in enumerate(observed):
        visible[frame, rows] = True
    visible = visible[:, usable]
    at = np.arange(count)
    before = np.clip(np.searchsorted(frames, at, side="right") - 1, 0, len(frames) - 1)
    after = np.clip(np.searchsorted(frames, at), 0, len(frames) - 1)
    if len(usable) and int(points.ids[usable].max()) >= 2**63:
        raise BadFile("a point's id is beyond 2^63.", where, "Export the model again.")
    tracks = Tracks.make(
        np.repeat(points.xyz[None, usable], count, 0),
        visibility=visible[before] & visible[after],
        confidence=np.repeat(quality[None, usable], count, 0),
        ids=points.ids[usable].astype(np.int64),
    )
    return tracks, notes if len(usable) else [
        *notes,
        "The model has no points: the camera can be edited, objects cannot.",
    ]


def _lens_notes(
    model: Model,
    images: list[ModelImage],
    poses: geometry.Array,
    observed: list[tuple[NDArray[np.intp], geometry.Array]],
) -> list[str]:
    """The mean reprojection error of the observations, and how far the lens departs from a pinhole."""
    distances = []
    for image, w2c, (rows, xy) in zip(images, poses, observed, strict=True):
        camera = model.cameras[image.camera_id]
        values = camera.named
        local = geometry.transform(w2c, model.points.xyz[rows])
        front = local[:, 2] > 1e-9
        with np.errstate(all="ignore"):
            bent = camera.distort(local[front, :2] / local[front, 2:])
            uv = bent * [values["fx"], values["fy"]] + [values["cx"], values["cy"]]
            distances.append(np.linalg.norm(uv - xy[front], axis=-1))
    all_distances = np.concatenate(distances)
    notes = []
    if len(all_distances):
        mean = float(np.mean(all_distances))
        notes.append(f"{len(all_distances)} observations reproject with a mean error of {mean:.2f} px.")
    cameras = {image.camera_id: model.cameras[image.camera_id] for image in images}
    worst = max(cameras.values(), key=lambda camera: camera.bend_at_corner())
    bend = worst.bend_at_corner()
    if bend >= 0.1:
        notes.append(
            f"The lens ({worst.model}) bends the picture by up to {bend:.1f} px at the corners; the camera is imported "
            "as a pinhole, so tracks lie that far off there. Undistort the footage for exact results."
        )
    return notes
