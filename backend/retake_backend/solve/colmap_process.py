"""COLMAP's mappers in a process of their own: a crash, an endless solve or a cancel there costs nothing here.

    python -m retake_backend.solve.colmap_process FOLDER incremental|global SECONDS

FOLDER holds `tracks.npz` (uv (K, N, 2) float32 px nan where unseen, size (2,), focal, focal_known, zoom) and gets
`incremental.npz` or `global.npz` (frames (k,) int64 rows of uv, c2w (k, 4, 4), focal (k,) px, error px, points count).
No pickled data either way. What COLMAP prints is kept in FOLDER/<mapper>.log.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import RetakeError

MAPPERS = ("incremental", "global")
_POLL = 0.05  # s
_STUCK = 5  # times its patience, on the clock on the wall, after which a mapper is taken to hang
_SEED = 1
_REACH = 9  # keyframes that are matched with each other
_LEAST = 24  # common points of two keyframes


@dataclass(frozen=True)
class Mapped:
    """Keyframes that a mapper solved. rows: (k,) int64. c2w: (k, 4, 4). focal: (k,) px. error: mean, px."""

    mapper: str
    rows: NDArray[np.int64]
    c2w: NDArray[np.float64]
    focal: NDArray[np.float64]
    error: float
    points: int


def solve_keyframes(
    uv: NDArray[np.float32],
    size: tuple[int, int],
    focal: float,
    focal_known: bool,
    zoom: bool,
    check: Callable[[], None],
    mappers: Sequence[str] = MAPPERS,
    patience: float = 60.0,
) -> tuple[list[Mapped], str]:
    """Solve keyframes uv (K, N, 2) with each of the mappers, at the same time; and what they printed.

    focal: px, exact when focal_known, else where to begin. zoom: a focal length of its own for every keyframe. A
    mapper that fails, or works for more than `patience` seconds, gives nothing: seconds of its own, so that a busy
    machine finds what an idle one does. Raises what `check` raises (the
    processes are then ended), and RetakeError where pycolmap is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="retake-colmap-") as place:
        folder = Path(place)
        np.savez(folder / "tracks.npz", uv=uv, size=np.array(size), focal=focal, focal_known=focal_known, zoom=zoom)
        running = {mapper: _start(folder, mapper, patience) for mapper in mappers}
        try:
            end = time.monotonic() + _STUCK * patience
            while any(process.poll() is None for process in running.values()) and time.monotonic() < end:
                check()
                time.sleep(_POLL)
        finally:
            for process in running.values():
                if process.poll() is None:
                    process.kill()
                process.wait()
        logs = {mapper: (folder / f"{mapper}.log").read_text(errors="replace") for mapper in mappers}
        if any("No module named 'pycolmap'" in log for log in logs.values()):
            raise RetakeError("pycolmap is not installed.", "camera solve", "Install the backend again.")
        mapped = [result for mapper in mappers if (result := _read(folder, mapper)) is not None]
        return mapped, "\n".join(f"== {mapper}\n{log}" for mapper, log in logs.items())


def _start(folder: Path, mapper: str, patience: float) -> subprocess.Popen[bytes]:
    roots = [str(Path(__file__).parents[2]), *(p for p in sys.path if p)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1"}
    with open(folder / f"{mapper}.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "retake_backend.solve.colmap_process", str(folder), mapper, str(patience)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def _read(folder: Path, mapper: str) -> Mapped | None:
    try:
        with np.load(folder / f"{mapper}.npz", allow_pickle=False) as data:
            return Mapped(mapper, data["frames"], data["c2w"], data["focal"], float(data["error"]), int(data["points"]))
    except (OSError, ValueError, KeyError):
        return None


def main(folder: Path, mapper: str, patience: float) -> int:
    """Run one mapper; 0 when it solved something."""
    _work_at_most(patience)
    import pycolmap

    with np.load(folder / "tracks.npz", allow_pickle=False) as data:
        uv, size, focal = data["uv"], data["size"], float(data["focal"])
        known, zoom = bool(data["focal_known"]), bool(data["zoom"])
    pycolmap.set_random_seed(_SEED)
    database = folder / f"{mapper}.db"
    _write_database(pycolmap, database, uv, size, focal, known, zoom)
    output = folder / f"{mapper}.out"
    output.mkdir()
    if mapper == "incremental":
        models = _incremental(pycolmap, database, output, known)
    else:
        models = _global(pycolmap, database, output, known)
    if not models:
        print("no model")
        return 1
    model = max(models.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()))
    rows, poses, focals = [], [], []
    for image in sorted(model.images.values(), key=lambda image: image.name):
        if not image.has_pose:
            continue
        rows.append(int(image.name[:5]))
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().inverse().matrix()
        poses.append(pose)
        focals.append(image.camera.params[0])
    print(model.summary())
    if len(rows) < 2:
        return 1
    np.savez(
        folder / f"{mapper}.npz",
        frames=np.array(rows, np.int64),
        c2w=np.array(poses),
        focal=np.array(focals),
        error=model.compute_mean_reprojection_error(),
        points=model.num_points3D(),
    )
    return 0


def _work_at_most(seconds: float) -> None:
    """End this process when it has worked so long; where the system cannot, whoever started it has a clock."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        wanted = int(np.ceil(seconds))
        resource.setrlimit(resource.RLIMIT_CPU, (wanted if most < 0 else min(wanted, most), most))


def _write_database(
    pycolmap: Any, path: Path, uv: NDArray[np.float32], size: NDArray[Any], focal: float, known: bool, zoom: bool
) -> None:
    """Keyframes with the points they see, and for every two near ones which are the same, verified."""
    visible = np.isfinite(uv[..., 0])
    options = pycolmap.TwoViewGeometryOptions()
    options.compute_relative_pose = True
    options.ransac.max_error = 2.0
    options.ransac.random_seed = _SEED
    options.ransac.max_num_trials = 1000
    with pycolmap.Database.open(str(path)) as database:
        cameras: list[Any] = []
        for _ in range(len(uv) if zoom else 1):
            camera = pycolmap.Camera.create_from_model_name(
                len(cameras) + 1, "SIMPLE_PINHOLE", focal, int(size[0]), int(size[1])
            )
            camera.has_prior_focal_length = known
            camera.camera_id = database.write_camera(camera)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            cameras.append((camera, database.write_rig(rig)))
        images, numbers = [], []
        for row in range(len(uv)):
            camera, rig_id = cameras[row if zoom else 0]
            image = pycolmap.Image(name=f"{row:05d}.png", camera_id=camera.camera_id)
            image.image_id = database.write_image(image)
            frame = pycolmap.Frame()
            frame.rig_id = rig_id
            frame.add_data_id(image.data_id)
            database.write_frame(frame)
            seen = np.flatnonzero(visible[row])
            database.write_keypoints(image.image_id, uv[row, seen].astype(np.float32))
            images.append((image.image_id, camera))
            number = np.full(uv.shape[1], -1)
            number[seen] = np.arange(len(seen))
            numbers.append(number)
        for a in range(len(uv)):
            for b in range(a + 1, len(uv)):
                gap = b - a
                if gap > _REACH and gap % _REACH:
                    continue
                both = np.flatnonzero(visible[a] & visible[b])
                if len(both) < _LEAST:
                    continue
                matches = np.stack([numbers[a][both], numbers[b][both]], 1).astype(np.uint32)
                geometry = pycolmap.estimate_two_view_geometry(
                    images[a][1],
                    uv[a, visible[a]].astype(np.float64),
                    images[b][1],
                    uv[b, visible[b]].astype(np.float64),
                    matches,
                    options,
                )
                database.write_matches(images[a][0], images[b][0], matches)
                if len(geometry.inlier_matches) >= _LEAST:
                    database.write_two_view_geometry(images[a][0], images[b][0], geometry)


def _incremental(pycolmap: Any, database: Path, output: Path, known: bool) -> Any:
    options = pycolmap.IncrementalPipelineOptions()
    options.multiple_models = False
    options.min_model_size = 3
    options.random_seed = _SEED
    options.num_threads = 1
    options.extract_colors = False
    options.ba_refine_focal_length = not known
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.3
    options.ba_global_max_refinements = 2
    options.ba_local_max_refinements = 1
    options.ba_global_max_num_iterations = 25
    options.ba_local_max_num_iterations = 12
    options.mapper.init_min_tri_angle = 4.0  # a film moves less between keyframes than photographs do
    options.mapper.init_min_num_inliers = 50
    options.mapper.abs_pose_refine_focal_length = not known
    options.mapper.filter_min_tri_angle = 0.5
    options.triangulation.min_angle = 0.5
    return pycolmap.incremental_mapping(str(database), str(output), str(output), options)


def _global(pycolmap: Any, database: Path, output: Path, known: bool) -> Any:
    options = pycolmap.GlobalPipelineOptions()
    options.random_seed = _SEED
    options.num_threads = 1
    options.multiple_models = False
    options.mapper.bundle_adjustment.refine_focal_length = not known
    options.mapper.global_positioning.use_gpu = False
    options.mapper.bundle_adjustment.ceres.use_gpu = False
    options.mapper.bundle_adjustment.ceres.solver_options.max_num_iterations = 40
    options.mapper.ba_num_iterations = 2
    options.mapper.min_tri_angle_deg = 0.5
    options.mapper.retriangulation.min_angle = 0.5
    return pycolmap.global_mapping(str(database), str(output), str(output), options)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
