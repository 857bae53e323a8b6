"""Render the sample shot and write it with everything that is known about it.

    PYTHON_WITH_BPY make_sample_shot.py --work /tmp/sample_shot [--samples 10] [--frames 0:81] [--only source]

Needs the bpy wheel (4.5 or newer) and retake_shared; no downloads. Frames already in the work folder are kept, so that
an interrupted run goes on where it stopped. The videos are encoded from those frames by `encode.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import ball  # noqa: E402
import ground_truth  # noqa: E402
import stage  # noqa: E402
import walker  # noqa: E402
from retake_shared import archive, edit_script  # noqa: E402
from retake_shared.shot import Cameras, Edit, Solve, frame_name  # noqa: E402

FRAMES, WIDTH, HEIGHT, FPS, LENS = 81, 672, 384, 16, 44.0
NAMES = {1: "walker", 2: "ball"}
TRACKS = (1150, 700, 190)
"""How many tracks lie on the background, the walker and the ball."""
PATH = walker.Path(start=(-1.85, 0.75), heading=np.radians(-4.0), turn=np.radians(-7.0))
DEPTH_STEP, DEPTH_LEVELS = 4, 512
"""Depth maps are kept at every fourth pixel, rounded to 1/512 of their power of two, so that they pack well."""
PARTS = ("source", "archives", "edited")


@dataclass(frozen=True)
class Moment:
    """What the set looks like at one instant: seconds into the walk and the roll, and the walker's displacement."""

    walk: float
    roll: float
    moved: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Shot:
    """The scene, and the means to bring it to a moment and render it."""

    def __init__(self, samples: int) -> None:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        stage.build_set()
        self.ball = ball.build_ball()
        self.armature, self.figure = walker.build_walker()
        self.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
        self.scene = bpy.context.scene
        self.scene.collection.objects.link(self.camera)
        self.scene.camera = self.camera
        self.surfaces = ground_truth.Surfaces({self.figure.name: 1, self.ball.name: 2})
        render = self.scene.render
        render.engine, render.resolution_x, render.resolution_y = "CYCLES", WIDTH, HEIGHT
        render.resolution_percentage, render.use_persistent_data = 100, True
        render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGB"
        self.scene.view_settings.view_transform = "Standard"  # sRGB in is sRGB out
        cycles = self.scene.cycles
        cycles.device, cycles.seed, cycles.use_adaptive_sampling = "CPU", 7, False
        cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 3, 2, 1
        cycles.caustics_reflective = cycles.caustics_refractive = False
        cycles.sample_clamp_indirect = 4.0
        cycles.samples, cycles.use_denoising, cycles.denoiser = samples, True, "OPENIMAGEDENOISE"

    def show(self, moment: Moment) -> None:
        """Bring walker and ball to a moment."""
        walker.apply_pose(self.armature, PATH, moment.walk, np.asarray(moment.moved))
        ball.apply_roll(self.ball, moment.roll)
        bpy.context.view_layer.update()

    def render(self, path: Path) -> None:
        """Write the picture of the present state, an 8-bit sRGB PNG."""
        part = path.with_stem(path.stem + "_part")  # a file that has its final name is complete
        self.scene.render.filepath = str(part)
        bpy.ops.render.render(write_still=True)
        part.rename(path)


def source_moment(frame: int) -> Moment:
    """The unedited world at a frame."""
    return Moment(walk=frame / FPS, roll=frame / FPS)


def edited_moment(solve: Solve, edit: Edit, frame: int) -> Moment:
    """The world that the edit asks for at a frame: where the walker's tracks are moved to, when the ball's are from."""
    is_walker, is_ball = edit.objects == 1, edit.objects == 2
    moved = (edit.positions - solve.tracks.positions[:, edit.source_track])[frame, is_walker].mean(0)
    return Moment(walk=frame / FPS, roll=float(edit.source_frame[frame, is_ball][0]) / FPS, moved=tuple(moved))


def make_solve(shot: Shot, cameras: Cameras) -> tuple[Solve, ground_truth.SurfacePoints]:
    """All that is known of the source, with the surface points that its tracks follow."""

    def show(frame: int) -> None:
        shot.show(source_moment(frame))
        shot.surfaces.update()

    points = ground_truth.pick_points(shot.surfaces, cameras, show, TRACKS, seed=1)
    tracks = ground_truth.follow(shot.surfaces, cameras, show, points)
    masks, depth = [], []
    for frame in range(FRAMES):
        show(frame)
        masks.append(ground_truth.mask(shot.surfaces, cameras, frame))
        depth.append(ground_truth.depth_map(shot.surfaces, cameras, frame, DEPTH_STEP))
    mantissa, exponent = np.frexp(np.stack(depth))
    rounded = np.ldexp(np.rint(mantissa * DEPTH_LEVELS) / DEPTH_LEVELS, exponent).astype(np.float32)
    source = "exact: the scene that the footage was rendered from"
    return Solve(cameras, tracks, rounded, np.stack(masks), NAMES, source), points


def check_edit(shot: Shot, solve: Solve, edit: Edit, points: ground_truth.SurfacePoints) -> None:
    """Make sure that the world to be rendered is the edit. Raises ValueError where a target track is elsewhere."""
    for frame in range(0, FRAMES, 8):
        shot.show(edited_moment(solve, edit, frame))
        shot.surfaces.update()
        miss = np.abs(points.positions(shot.surfaces) - edit.positions[frame]).max()
        if miss > 2 / ground_truth.POSITION_LEVELS:
            raise ValueError(f"frame {frame}: the scene misses the edit's tracks by {miss:.2g} m.")


def render_frames(shot: Shot, folder: Path, frames: range, prepare: Callable[[int], None]) -> None:
    """Render what is missing in `folder`; prepare(frame) brings the scene there."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames:
        path = folder / frame_name(frame)
        if not path.exists():
            begun = time.perf_counter()
            prepare(frame)
            shot.render(path)
            print(f"{folder.name} {frame}: {time.perf_counter() - begun:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for rendered frames")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for solve and edit")
    parser.add_argument("--samples", type=int, default=10, help="light paths per pixel, before denoising")
    parser.add_argument("--frames", default=f"0:{FRAMES}", help="which to render, start:stop[:step]")
    parser.add_argument("--only", choices=PARTS, help="one part of the work; edited needs the archives")
    options = parser.parse_args()
    frames = range(FRAMES)[slice(*(int(n) for n in options.frames.split(":")))]
    parts = [options.only] if options.only else PARTS
    shot = Shot(options.samples)
    cameras = ground_truth.camera_path(FRAMES, WIDTH, HEIGHT, LENS)

    def to_source(frame: int) -> None:
        shot.show(source_moment(frame))
        ground_truth.apply_camera(shot.camera, cameras, frame)

    if "source" in parts:
        render_frames(shot, options.work / "source", frames, to_source)
    if "archives" in parts:
        solve, points = make_solve(shot, cameras)
        edit, _ = edit_script.load(HERE / "edit.json", solve)
        check_edit(shot, solve, edit, points)
        archive.save(options.out / "walk.solve.npz", solve, compress=True)
        archive.save(options.out / "edited.edit.npz", edit, compress=True)
    if "edited" in parts:
        solve, edit = (
            archive.load_solve(options.out / "walk.solve.npz"),
            archive.load_edit(options.out / "edited.edit.npz"),
        )

        def to_edited(frame: int) -> None:
            shot.show(edited_moment(solve, edit, frame))
            ground_truth.apply_camera(shot.camera, edit.cameras, frame)

        render_frames(shot, options.work / "edited", frames, to_edited)


if __name__ == "__main__":
    main()
