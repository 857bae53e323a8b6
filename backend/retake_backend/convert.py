"""`retake convert`: any solve that Retake reads, PyTorch's files among them, to Retake's own archive.

Beside what `retake_shared.formats` reads, two kinds of .pth are known: a DROID-SLAM reconstruction (`tstamps`, `disps`
(t, H, W), `poses` (t, 7) w2c, `intrinsics` (t, 4) in eighths of px; keyframes only) and ATI's tracks (the bytes of an
.npz with `array` (n, 121, 1, 3): x, y, visibility, each times 8, zeros after the end). Tracks in 2D and a solve with
cameras are put together.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared import archive, fitting, formats, geometry, lifting
from retake_shared.errors import BadFile, BadShot, RetakeError
from retake_shared.formats import cotracker, megasam, posed_depth
from retake_shared.formats.detect import is_torch_file
from retake_shared.formats.npz import NpzFile
from retake_shared.lifting import Tracks2D
from retake_shared.shot import Footage, Solve, Tracks

from . import foreign_tensors

DROID, ATI = "DROID-SLAM", "ATI"

_OCTET = 8
"""DROID-SLAM saves its intrinsics at an eighth of its picture; ATI saves coordinates times eight."""


def spare(out: Path, *inputs: tuple[Path | None, str]) -> None:
    """Raise RetakeError where `out` is one of the inputs, each with what to say of it then."""
    for given, what in inputs:
        if given is not None and out.exists() and given.exists() and out.samefile(given):
            raise RetakeError(what, str(out), "Choose another --out.")


def check_step(step: int | None, footage: Path | None) -> None:
    """Raise RetakeError for a step that nothing would take."""
    if step is not None and footage is None:
        raise RetakeError("says nothing without the footage.", "--step", "Give --footage too.")


def convert(
    path: Path,
    out: Path,
    *,
    other: Path | None = None,
    footage: Path | None = None,
    step: int | None = None,
    hints: formats.Hints | None = None,
) -> tuple[Solve, list[str]]:
    """Write the solve at `path` to `out` as Retake's archive; return it, and notes for the user.

    other: with tracks in 2D, the solve whose cameras and depth lift them, or the other way round. footage: the video,
    which tells sizes and frames that files lack; the solve is then brought to it (step: see `fitting.bind`).
    Raises RetakeError.
    """
    converted = "is the file to be converted."
    spare(out, (path, converted), (other, converted), (footage, "is the footage."))
    check_step(step, footage)
    known: Footage | None = None
    if footage is not None:
        from .footage import FootageReader  # needs the video libraries, which nothing else here does

        with FootageReader(footage) as reader:
            known = reader.footage
    hints = hints or formats.Hints()
    content, notes = read(path, known, hints)
    if other is not None:
        second, more = read(other, known, hints)
        content, joined = combine(content, second, (path, other))
        notes += more + joined
    if isinstance(content, Tracks2D):
        raise RetakeError(
            f"holds tracks in 2D ({content.source}); the cameras are missing.",
            str(path),
            "Give a solve of the same footage too: --with SOLVE. With depth maps it also lifts what moves.",
        )
    if known is not None:
        content, fitted = fitting.bind(known, content, step)
        notes += fitted
    archive.save(out, content)
    return content, notes


def read(path: Path, footage: Footage | None, hints: formats.Hints) -> tuple[Solve | Tracks2D, list[str]]:
    """What lies at `path`, in any format, and notes. Raises BadFile."""
    if not is_torch_file(path):
        return formats.read_any(path, footage, hints)
    try:
        content = foreign_tensors.load(path)
        if isinstance(content, bytes):
            return _ati(content, path, hints), []
        if isinstance(content, dict) and {"poses", "disps", "intrinsics"} <= content.keys():
            return _droid(content, path)
    except BadShot as error:
        raise BadFile(error.what, f"{path}: {error.where}", error.remedy) from error
    except MemoryError as error:
        raise BadFile("does not fit into memory.", str(path), "Save a shorter part.") from error
    found = ", ".join(map(str, content))[:200] if isinstance(content, dict) else f"a {type(content).__name__}"
    raise BadFile(
        f"is no solve that Retake reads. Found: {found}.",
        str(path),
        f"Of PyTorch's files these are known: {DROID} (poses, disps, intrinsics, tstamps) and {ATI} (bytes of an .npz).",
    )


def combine(first: Solve | Tracks2D, second: Solve | Tracks2D, names: tuple[Path, Path]) -> tuple[Solve, list[str]]:
    """One solve of tracks in 2D and a solve with cameras, whichever comes first, and notes. Raises RetakeError."""
    if isinstance(first, Tracks2D) and isinstance(second, Solve):
        return _lifted(first, second, names[0])
    if isinstance(second, Tracks2D) and isinstance(first, Solve):
        return _lifted(second, first, names[1])
    what = "tracks in 2D, and the cameras are missing" if isinstance(first, Tracks2D) else "a solve with cameras"
    raise RetakeError(
        f"holds {what}, like {names[0]}.", str(names[1]), "Give tracks in 2D (CoTracker, Wan-Move, ATI) and a solve."
    )


def _lifted(points: Tracks2D, solve: Solve, where: Path) -> tuple[Solve, list[str]]:
    """The solve with the points as tracks, added to those that it has."""
    notes = []
    frames, solved = len(points.uv), len(solve)
    if frames != solved:
        count = min(frames, solved)
        notes.append(f"The tracks have {frames} frames, the solve {solved}: the first {count} of both are used.")
        points, solve = points.frames(0, count), solve.frames(0, count)
    size = solve.cameras.width, solve.cameras.height
    uv, visible = points.uv, points.visible
    if points.size is not None:
        uv = uv * (np.array(size) / points.size)
    else:
        seen = uv[visible]
        inside = ((seen >= -0.5) & (seen <= np.array(size) + 0.5)).all(-1)
        if inside.mean() < 0.9:
            far = seen.max(0)
            raise RetakeError(
                f"the tracks reach x {far[0]:.0f}, y {far[1]:.0f} px, but the solve's picture is {size[0]}x{size[1]}.",
                str(where),
                "Tell the size of the picture that was tracked: --size WIDTHxHEIGHT.",
            )
        notes.append(
            f"The tracks are taken for those of a picture of {size[0]}x{size[1]} px, the solve's (else: --size)."
        )
    try:
        tracks, lift_notes = lifting.lift(uv, visible, solve.cameras, solve.depth, points.confidence)
    except BadShot as error:
        raise RetakeError(error.what, str(where), error.remedy) from error
    own = solve.tracks
    if len(own):
        first = int(own.ids.max()) + 1
        tracks = Tracks(
            np.concatenate([own.positions, tracks.positions], 1),
            np.concatenate([own.visibility, tracks.visibility], 1),
            np.concatenate([own.confidence, tracks.confidence], 1),
            np.concatenate([own.objects, tracks.objects]),
            np.concatenate([own.ids, tracks.ids + first]),
        )
        lift_notes.append(f"They were added to the solve's own {len(own)} tracks, with ids from {first} on.")
    source = "; ".join(filter(None, [solve.source, f"tracks of {points.source}"]))
    return replace(solve, tracks=tracks, source=source), notes + lift_notes


def _droid(content: dict[Any, Any], path: Path) -> tuple[Solve, list[str]]:
    """A DROID-SLAM reconstruction: cameras for every frame from keyframe to keyframe, tracks lifted from depth."""
    poses = _array(content, "poses", path, (None, 7))
    frames = len(poses)
    intrinsics = _array(content, "intrinsics", path, (frames, 4)).astype(np.float64) * _OCTET
    disparity = _array(content, "disps", path, (frames, None, None))
    stamps = np.arange(frames)
    if "tstamps" in content:
        stamps = np.rint(_array(content, "tstamps", path, (frames,)).astype(np.float64)).astype(np.int64)
    if not frames or stamps[0] < 0 or (np.diff(stamps) < 1).any() or stamps[-1] > 100 * frames + 1000:
        raise BadFile("is not an increasing list of frame numbers.", f"{path}: tstamps", "Solve again.")
    depth = megasam.depth_of(disparity, frames)
    if depth is None:
        raise BadFile("holds no depth.", f"{path}: disps", "Solve again.")
    size = depth.shape[2], depth.shape[1]
    pictures = content.get("images")
    if isinstance(pictures, np.ndarray) and pictures.ndim == 4:
        size = pictures.shape[3], pictures.shape[2]
    elif float(np.median(intrinsics[:, 2])) > size[0]:  # maps at the eighth that the solver works at
        size = size[0] * _OCTET, size[1] * _OCTET
    matrices = megasam.poses_of(poses, f"{path}: poses")
    K = geometry.intrinsics(*intrinsics.T)
    solve, notes = posed_depth.assemble(
        str(path), DROID, matrices, K, size, depth, declared="world-to-camera", solved=stamps
    )
    notes.append(
        f"{DROID} keeps keyframes only, {frames} of {len(solve)} frames. It counts the frames it looked at: if it was run "
        "with a stride, give that as --step."
    )
    return solve, notes


def _array(content: dict[Any, Any], key: str, path: Path, shape: tuple[int | None, ...]) -> NDArray[Any]:
    value = content.get(key)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise BadFile("is no tensor of numbers.", f"{path}: {key}", "Solve again.")
    if value.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True)):
        raise BadFile(f"has shape {value.shape}.", f"{path}: {key}", f"Expected {shape}, None for any length.")
    return value


def _ati(content: bytes, path: Path, hints: formats.Hints) -> Tracks2D:
    """ATI's tracks, without the frames that only fill up its fixed length."""
    with NpzFile(path, io.BytesIO(content)) as npz:
        array = npz.read("array", (None, None, 1, 3), (None, None, 3), kinds="fiu")
    values = array.reshape(*array.shape[:2], 3).transpose(1, 0, 2).astype(np.float64) / _OCTET
    used = np.flatnonzero((values != 0).any((1, 2)))
    if not len(used):
        raise BadFile("holds no track.", f"{path}: array", "Track some points first.")
    values = values[: used[-1] + 1]
    return cotracker.make(values[..., :2], values[..., 2], f"{path}: array", ATI, hints.size, centre=0.0)
