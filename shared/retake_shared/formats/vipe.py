"""A ViPE result folder: `pose/N.npz`, `intrinsics/N.npz` and more for every clip N.

`pose/N.npz`: `data` (T, 4, 4) c2w, `inds` frame numbers. `intrinsics/N.npz`: `data` (T, 4) fx fy cx cy in px of
`rgb/N.mp4` (or (T, 5) with MEI's xi), `inds`; `intrinsics/N_camera.txt`: "0: PINHOLE" a line. `mask/N.zip`: label PNG
%05d.png, their names in `mask/N.txt` ("1: person"). `depth/N.zip`: %05d.exr, half, channel Z. ViPE follows no points.
"""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..errors import BadFile
from ..shot import Cameras, Footage, Solve, Tracks
from . import exr, mending, png
from .npz import NpzFile, reading

NAME = "ViPE"
LOOKED_FOR = "pose/*.npz (data, inds) and intrinsics/*.npz"

NO_TRACKS = "ViPE gives cameras but no tracks: the camera can be edited, objects cannot until tracks are added."

_FOLDERS = ("pose", "intrinsics", "mask", "depth", "rgb")
_MAP_SIDE = 640
"""Masks and depth are thinned to whole-number steps until their longer side fits: 81 frames stay under 100 MB."""

_MAX_IMAGE_BYTES = 256 << 20


def find(path: Path) -> tuple[Path, str] | None:
    """(result folder, clip name or "") when `path` is a ViPE result folder, or a folder or file in one; else None."""
    root, clip = path, ""
    if path.is_file():
        if path.parent.name not in _FOLDERS:
            return None
        root, clip = path.parent.parent, path.stem.removesuffix("_camera")
    elif path.name in _FOLDERS and not (path / "pose").is_dir():
        root = path.parent
    if not (root / "intrinsics").is_dir() or not any((root / "pose").glob("*.npz")):
        return None
    return root, clip


def read(source: tuple[Path, str], footage: Footage | None = None) -> tuple[Solve, list[str]]:
    """The solve (cameras, masks, depth; no tracks) of one clip, and notes. Raises BadFile."""
    root, name = source
    clip = _choose_clip(root, name, footage)
    pose_file, intrinsics_file = root / "pose" / f"{clip}.npz", root / "intrinsics" / f"{clip}.npz"
    poses, frames, pose_notes = _read_poses(pose_file)
    K, K_notes = _read_intrinsics(intrinsics_file, root / "intrinsics" / f"{clip}_camera.txt", frames)
    notes = [NO_TRACKS, *pose_notes, *K_notes]
    masks, size, mask_notes = _read_masks(root / "mask" / f"{clip}.zip", frames)
    depth, depth_size, depth_notes = _read_depth(root / "depth" / f"{clip}.zip", frames)
    notes += mask_notes + depth_notes
    size = size or depth_size
    if size is None:
        center = 2 * np.median(K[:, :2, 2], 0)
        size = round(float(center[0])), round(float(center[1]))
        if min(size) < 2:
            raise BadFile(f"the principal point is {center / 2} px.", str(intrinsics_file), "Solve again.")
        notes.append(f"Neither masks nor depth tell the picture size: {size[0]}x{size[1]}, twice the principal point.")
    solve = Solve(
        Cameras(poses, K, *size),
        Tracks.empty(frames),
        depth=depth,
        masks=masks,
        object_names={} if masks is None else _read_names(root / "mask" / f"{clip}.txt", masks),
        source=f"{NAME}, poses read as camera-to-world",
    )
    return solve, notes


def _choose_clip(root: Path, name: str, footage: Footage | None) -> str:
    clips = sorted(p.stem for p in (root / "pose").glob("*.npz"))
    wanted = name or (PurePath(footage.path).stem if footage else "")
    if wanted in clips:
        return wanted
    if len(clips) == 1 and not name:
        return clips[0]
    what = f'there is no clip "{wanted}".' if wanted else "there are several clips."
    more = " and more" if len(clips) > 10 else ""
    raise BadFile(what, str(root / "pose"), f"Choose one of its files: {', '.join(clips[:10])}{more}.")


def _read_poses(path: Path) -> tuple[geometry.Array, int, list[str]]:
    """c2w (T, 4, 4) for every frame from 0 to the last that was solved."""
    with NpzFile(path) as npz:
        data = npz.read("data", (None, 4, 4), kinds="f")
        inds = _frame_numbers(npz, len(data))
    solved, notes = mending.poses(data, f"{path}: data", world_to_camera=False)
    frames = int(inds[-1]) + 1
    missing = np.setdiff1d(np.arange(frames), inds)
    if len(missing):
        notes.append(f"No pose for {mending.name_frames(missing)}: interpolated from the neighbours.")
        solved = geometry.interpolate_poses(inds, solved, np.arange(frames))
    return solved, frames, notes


def _read_intrinsics(path: Path, camera_file: Path, frames: int) -> tuple[geometry.Array, list[str]]:
    """K (T, 3, 3) px, held or interpolated where the file has none."""
    notes: list[str] = []
    kinds: set[str] = set()
    if camera_file.is_file():
        with reading(str(camera_file)):
            lines = camera_file.read_text("utf-8").splitlines()
            kinds = {line.partition(":")[2].strip() for line in lines if line.strip()}
    with NpzFile(path) as npz:
        data = npz.read("data", (None, 4), (None, 5), kinds="f").astype(np.float64)
        inds = _frame_numbers(npz, len(data))
    if "PANORAMA" in kinds:
        raise BadFile("is a panorama, which no pinhole camera can show.", str(path), "Solve it as a pinhole clip.")
    if data.shape[1] == 5:  # MEI: at the picture's centre it is a pinhole of focal length f / (1 + xi)
        data[:, :2] /= 1 + data[:, 4:]
        notes.append(
            f"A wide-angle (MEI) camera, xi {np.median(data[:, 4]):.3f}: its distortion is left out, tracks and picture "
            "will part towards the edges. Undistort the footage for exact results."
        )
    raw = geometry.intrinsics(*data[:, :4].T)
    K, mended = mending.intrinsics(raw, len(raw), f"{path}: data")
    return geometry.sample_rows(K, np.interp(np.arange(frames), inds, np.arange(len(inds)))), notes + mended


def _frame_numbers(npz: NpzFile, count: int) -> NDArray[np.int64]:
    """`inds` (count,), which must increase from 0 or later; 0, 1, 2, ... when the file has none."""
    if not count:
        raise BadFile("holds no frame.", f"{npz.path}: data", "Solve again.")
    inds = npz.read("inds", (count,), kinds="iu").astype(np.int64) if "inds" in npz else np.arange(count)
    # A damaged number must not become millions of interpolated frames.
    if inds[0] < 0 or inds[-1] > 20 * count + 1000 or (np.diff(inds) <= 0).any():
        raise BadFile("is not an increasing list of frame numbers.", f"{npz.path}: inds", "Solve again.")
    return inds


Maps = tuple[NDArray | None, tuple[int, int] | None, list[str]]
"""(T, h, w) maps or None, the (width, height) of the picture they were made from, notes."""


def _read_masks(path: Path, frames: int) -> Maps:
    return _read_maps(path, frames, ".png", "masks", np.uint8)


def _read_depth(path: Path, frames: int) -> Maps:
    try:
        return _read_maps(path, frames, ".exr", "depth", np.float32)
    except exr.Unsupported as error:
        return None, None, [f"The depth maps are left out: they are EXR files {error.what}, which is not read."]


def _read_maps(path: Path, frames: int, suffix: str, what: str, dtype: type) -> Maps:
    """Decode `%05d` images of a zip, thinned so that the longer side is at most _MAP_SIDE."""
    if not path.is_file():
        return None, None, []
    maps: NDArray | None = None
    size: tuple[int, int] | None = None
    step = 1
    seen = np.zeros(frames, bool)
    with reading(str(path)), zipfile.ZipFile(path) as archive:
        for member in sorted(archive.namelist()):
            stem = PurePath(member).stem
            if not member.endswith(suffix) or not stem.isdecimal() or int(stem) >= frames:
                continue
            with reading(f"{path}: {member}"):
                if archive.getinfo(member).file_size > _MAX_IMAGE_BYTES:
                    raise BadFile("is larger than any picture.", f"{path}: {member}", "Copy the result again.")
                data = archive.read(member)
                image = png.decode_labels(data) if suffix == ".png" else exr.decode_channel(data)
                height, width = image.shape
                if size is None:
                    size, step = (width, height), max(1, -(-max(image.shape) // _MAP_SIDE))
                if size != (width, height):
                    raise BadFile(f"is {width}x{height}, the first one {size[0]}x{size[1]}.", f"{path}: {member}")
                thinned = image[step // 2 :: step, step // 2 :: step]
                if maps is None:
                    maps = np.zeros((frames, *thinned.shape), dtype)
                maps[int(stem)] = thinned
                seen[int(stem)] = True
    if maps is None:
        return None, None, [f"{path.name} holds no {what}."]
    absent = np.flatnonzero(~seen)
    return maps, size, [f"No {what} for {mending.name_frames(absent)}."] if len(absent) else []


def _read_names(path: Path, masks: NDArray[np.uint8]) -> dict[int, str]:
    """Object number -> name for every number in the masks but 0; "object N" where mask/N.txt has no line for it."""
    names = {int(n): f"object {n}" for n in np.unique(masks) if n}
    if path.is_file():
        with reading(str(path)):
            for line in path.read_text("utf-8").splitlines():
                number, _, name = line.partition(":")
                if number.strip().isdecimal() and 0 < int(number) < 256 and name.strip():
                    names[int(number)] = name.strip()
    return mending.unique_names(dict(sorted(names.items())))
