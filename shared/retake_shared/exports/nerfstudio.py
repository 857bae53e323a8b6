"""nerfstudio's `transforms.json`, which instant-ngp and most splatting programs read too, and its points.

`transform_matrix` is c2w with OpenGL axes (x right, y up, looking along -z) in the solve's own world, unscaled and
unturned; `fl_x fl_y cx cy w h` are px with the picture's corner at (0, 0), for all frames or, when K changes, in each.
`points3d.ply` has the tracks that stand still, in the same world.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..shot import frame_name
from .colmap import GREY
from .content import Content, static_tracks
from .files import write_text

POINTS_FILE = "points3d.ply"


def write(
    path: Path, content: Content, *, images: str = "images", colours: NDArray[np.uint8] | None = None
) -> list[str]:
    """Write transforms.json and points3d.ply into the folder `path`. colours: (N, 3) uint8 RGB of the tracks.

    images: the folder beside them in which the pictures lie, or will, as `frame_00000.png` and on.
    """
    cameras = content.cameras
    shared = bool(np.ptp(cameras.K, axis=0).max() == 0)
    lenses = [
        {"fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "cx": float(K[0, 2]), "cy": float(K[1, 2])} for K in cameras.K
    ]
    poses = cameras.c2w @ np.diag([1.0, -1.0, -1.0, 1.0])
    frames = [
        {
            "file_path": f"{images}/{frame_name(content.first + frame)}",
            **({} if shared else lenses[frame]),
            "transform_matrix": (pose + 0.0).tolist(),
        }
        for frame, pose in enumerate(poses)
    ]
    rows, points, _ = static_tracks(content)
    colour = np.full((len(rows), 3), GREY, np.uint8) if colours is None else colours[rows]
    header = {
        "camera_model": "OPENCV",
        "w": cameras.width,
        "h": cameras.height,
        **(lenses[0] if shared else {}),
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "ply_file_path": POINTS_FILE,
        "frames": frames,
    }
    write_text(path / "transforms.json", json.dumps(header, indent=1) + "\n")
    write_text(path / POINTS_FILE, _ply(points, colour))
    notes = []
    if len(rows) < len(content.tracks):
        left = len(content.tracks) - len(rows)
        notes.append(f"{len(rows)} tracks that stand still became points; {left} that move, or are not seen, did not.")
    if np.abs(cameras.K[:, 0, 1]).max() > 0:
        notes.append("The skew of the intrinsics is left out: the file has no place for it.")
    return notes


def _ply(points: NDArray[np.float64], colours: NDArray[np.uint8]) -> str:
    lines = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    lines += [f"property double {axis}" for axis in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    lines.append("end_header")
    for point, colour in zip(points.tolist(), colours.tolist(), strict=True):
        lines.append(" ".join(map(repr, point)) + " " + " ".join(map(str, colour)))
    return "\n".join(lines) + "\n"
