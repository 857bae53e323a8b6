"""ReCamMaster's camera JSON: `frameN.camMM` = "[r r r 0] [r r r 0] [r r r 0] [tx ty tz 1]".

Row vectors, Unreal's axes (x forward, y right, z up, left-handed), centimetres. Several cameras a file: the one named
by the user, or by the footage's file name, else the first.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from .. import geometry
from ..errors import BadFile
from ..shot import Footage, Solve
from . import camera_path, textfile
from .hints import Hints

NAME = "ReCamMaster"
LOOKED_FOR = 'JSON of {"frame0": {"cam01": "[...] [...] [...] [...]"}}'

_FRAME = re.compile(r"frame(\d{1,9})")
_FROM_UNREAL = np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])
"""Unreal's forward, right, up -> right, down, forward."""


def recognises(content: Any) -> bool:
    """Frames by number, with a text for each camera."""
    if not isinstance(content, dict) or not content:
        return False
    key, cameras = next(iter(content.items()))
    return bool(_FRAME.fullmatch(key)) and isinstance(cameras, dict) and all(
        isinstance(value, str) for value in cameras.values()
    )  # fmt: skip


def read(path: Path, footage: Footage | None, hints: Hints) -> tuple[Solve, list[str]]:
    """The camera, and notes. Raises BadFile."""
    content = textfile.load_json(path)
    rows: dict[int, dict[str, Any]] = {}
    for key, cameras in content.items():
        match = _FRAME.fullmatch(key)
        if match is None or not isinstance(cameras, dict):
            raise BadFile("is no frame of cameras.", f"{path}: {key[:40]}", "Expected frame0, frame1, ...")
        rows[int(match[1])] = cameras
    names = sorted({name for cameras in rows.values() for name in cameras})
    name, notes = _choose(names, footage, hints, path)
    numbers = np.array(sorted(number for number, cameras in rows.items() if name in cameras))
    matrices = np.array([_matrix(rows[int(n)][name], f"{path}: frame{n}.{name}") for n in numbers])
    # A file's matrix times a row vector; as columns: transposed. Both sides change axes, so handedness is kept right.
    rotation = _FROM_UNREAL @ matrices[:, :3, :3].transpose(0, 2, 1) @ _FROM_UNREAL.T
    poses = np.tile(np.eye(4), (len(numbers), 1, 1))
    poses[:, :3, :3] = rotation
    poses[:, :3, 3] = matrices[:, 3, :3] @ _FROM_UNREAL.T / 100
    reading = "row vectors in Unreal's axes, centimetres"
    solve, made = camera_path.assemble(
        str(path), NAME, poses, footage, hints, reading=reading, times=numbers, whole=True
    )
    return solve, [*notes, *made]


def _choose(names: list[str], footage: Footage | None, hints: Hints, path: Path) -> tuple[str, list[str]]:
    if not names:
        raise BadFile("holds no camera.", str(path), "Export the cameras again.")
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    wanted = hints.camera or (PurePath(footage.path).stem if footage else "")
    if wanted in names:
        return wanted, []
    if hints.camera:
        raise BadFile(f'there is no camera "{hints.camera}".', str(path), f"The file has: {shown}.")
    return names[0], [f"Of {len(names)} cameras ({shown}) {names[0]} is read."] if len(names) > 1 else []


def _matrix(text: Any, where: str) -> geometry.Array:
    words = re.findall(r"[^\s\[\],]+", text) if isinstance(text, str) else []
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        values = np.zeros(0)
    if values.shape != (16,):
        raise BadFile(
            f"is not 16 numbers: {str(text)[:60]!r}.", where, 'Expected "[r r r 0] [...] [...] [tx ty tz 1]".'
        )
    return values.reshape(4, 4)
