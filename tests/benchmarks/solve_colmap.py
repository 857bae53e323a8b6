"""pycolmap alone on a folder of frames: SIFT, sequential matching, incremental mapper, all with their defaults.

    python solve_colmap.py FRAMES OUT.npz        (frame_00000.png ..; writes the arrays of `solve.Found`)

The one thing told is that all frames are of one camera. The largest reconstruction counts.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pycolmap


def main(folder: Path, out: Path) -> None:
    pycolmap.logging.minloglevel = 2
    count = len(list(folder.glob("frame_*.png")))
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - began

    with tempfile.TemporaryDirectory() as place:
        database = Path(place) / "database.db"
        with stage("features"):
            pycolmap.extract_features(database, folder, camera_mode=pycolmap.CameraMode.SINGLE)
        with stage("matches"):
            pycolmap.match_sequential(database)
        with stage("mapping"):
            found = pycolmap.incremental_mapping(database, folder, place)

    c2w = np.full((count, 4, 4), np.nan)
    focal = np.full(count, np.nan)
    uv = np.full((count, 0, 2), np.nan)
    world = np.zeros((0, 3))
    if found:
        best = max(found.values(), key=lambda r: (r.num_reg_images(), r.num_points3D()))
        numbers = {identifier: i for i, identifier in enumerate(best.points3D)}
        world = np.array([best.points3D[identifier].xyz for identifier in numbers])
        uv = np.full((count, len(world), 2), np.nan)
        for image in best.images.values():
            if not image.has_pose:
                continue
            t = int(Path(image.name).stem.removeprefix("frame_"))
            c2w[t] = np.vstack([image.cam_from_world().inverse().matrix(), [0, 0, 0, 1]])
            focal[t] = best.cameras[image.camera_id].focal_length
            inside = [numbers[p.point3D_id] for p in image.points2D if p.has_point3D()]
            local = world[inside] @ image.cam_from_world().rotation.matrix().T + image.cam_from_world().translation
            uv[t, inside] = best.cameras[image.camera_id].img_from_cam(local)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.savez(
        out, c2w=c2w, focal=focal, uv=uv, world=world, projected=True, error="" if found else "no reconstruction", peak_mb=peak,
        note=f"{len(found)} pieces" if len(found) > 1 else "",
        stages=list(seconds), seconds=list(seconds.values()),
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
