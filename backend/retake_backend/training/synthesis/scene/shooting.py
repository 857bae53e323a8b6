"""A scene of a plan, built, shown at any moment, rendered, and written down with all that is known about it.

For each version k of the scene, the folder gets `version-k.solve.npz` (exact cameras, the tracks of all surface points
of all versions, depth, masks) and the pictures `version-k/frame_*.png`; at last `scene.json`. What is there already
is kept, so that an interrupted scene goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bpy
import ground_truth
import numpy as np
from mathutils import Vector
from numpy.typing import NDArray
from retake_shared import archive, geometry
from retake_shared.shot import Cameras, Solve, Tracks, frame_name

from .. import views
from ..plan import FPS, Scene, Version
from . import imported, places, props

_ATTEMPTS = 12
_NEAREST = 0.5
"""Metres that must be free before the camera."""
_WITHOUT_DENOISER = 4
"""How many times the light paths, where nothing takes the noise away."""
_SEEN = 0.03
"""Share of the picture that those who act take up at least."""


@dataclass(frozen=True)
class Settings:
    """How a scene is rendered. samples: light paths per pixel. points: surface points picked in each version.
    map_step: depth is kept at every map_step-th pixel. threads: cores to render with."""

    width: int
    height: int
    samples: int
    bounces: int
    points: int
    map_step: int
    threads: int


@dataclass(frozen=True)
class Points:
    """N surface points. picked: (N,) the version each was picked in. twin: (N,) the point at the same place of the
    actor's copy or original, -1 where there is none."""

    surface: ground_truth.SurfacePoints
    picked: NDArray[np.int32]
    twin: NDArray[np.int32]


class Shooting:
    """A built scene."""

    def __init__(self, scene: Scene, settings: Settings) -> None:
        self.plan, self.settings = scene, settings
        bpy.ops.wm.read_factory_settings(use_empty=True)
        bpy.context.scene.render.fps = FPS
        places.build_place(scene.place, scene.seed)
        self._stand_models()
        self.things = [self._thing(index) for index in range(len(scene.actors))]
        numbers = {mesh.name: number for number, thing in enumerate(self.things, 1) for mesh in thing.meshes}
        bpy.context.view_layer.update()
        self.surfaces = ground_truth.Surfaces(numbers)
        self.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
        bpy.context.scene.collection.objects.link(self.camera)
        bpy.context.scene.camera = self.camera
        self.camera.data.clip_start, self.camera.data.clip_end = 0.02, 300
        _set_up_cycles(settings)
        middle = (scene.frames - 1) / 2 / FPS
        self.shows = [
            [None if motion is None else thing.act(motion, middle) for thing, motion in zip(self.things, v.motions, strict=True)]
            for v in scene.versions
        ]  # fmt: skip
        self.cameras = [self._cameras(version) for version in scene.versions]

    def _thing(self, index: int) -> props.Thing:
        actor = self.plan.actors[index]
        if actor.kind == "figure":
            return imported.build_figure(actor)
        return imported.build_asset(actor) if actor.kind == "asset" else props.build_prop(actor)

    def _stand_models(self) -> None:
        rng = np.random.default_rng([self.plan.seed, 14])
        for i, path in enumerate(self.plan.props):
            turn, reach = 2 * np.pi * (i + rng.uniform(0, 1)) / len(self.plan.props), rng.uniform(places.CLEAR, 4.0)
            at = float(reach * np.cos(turn)), float(reach * np.sin(turn))
            imported.place_model(path, f"Model {i}", *at, float(rng.uniform(0, 6.28)), float(rng.uniform(0.4, 1.6)))

    def show(self, number: int, frame: int) -> None:
        """Bring everyone to a frame of a version."""
        for thing, motion, show in zip(
            self.things, self.plan.versions[number].motions, self.shows[number], strict=True
        ):
            if motion is None or show is None:
                thing.park()
            else:
                show(motion.moments[frame] / FPS)
        bpy.context.view_layer.update()

    def look(self, number: int, frame: int) -> None:
        """`show`, and read the surfaces."""
        self.show(number, frame)
        self.surfaces.update()

    # -------------------------------------------------------------------------------------------------- cameras

    def _cameras(self, version: Version) -> Cameras:
        """The first draw of the version's cameras that stand free and see those who act, in all versions of that view."""
        plan, best, best_score = self.plan, None, -1.0
        same = [k for k, other in enumerate(plan.versions) if other.view == version.view]
        for attempt in range(_ATTEMPTS):
            size = self.settings.width, self.settings.height
            cameras = views.draw(plan.seed, version.view, attempt, plan.frames, *size)
            score = min(self._worth(cameras, k) for k in same)
            if score > best_score:
                best, best_score = cameras, score
            if score >= 1:
                break
        assert best is not None
        return best

    def _worth(self, cameras: Cameras, number: int) -> float:
        """1 for cameras with room before them and all who act in the picture, less for others."""
        there = [i for i, motion in enumerate(self.plan.versions[number].motions, 1) if motion is not None]
        worth = []
        for frame in sorted({0, len(cameras) // 2, len(cameras) - 1}):
            self.look(number, frame)
            depth, numbers = self._cast(cameras, frame, max(cameras.height // 24, 1))
            if depth[depth > 0].min(initial=np.inf) < _NEAREST:
                return 0.0
            together = min((numbers > 0).mean() / _SEEN, 1.0)
            worth.append(together * float(np.mean([(numbers == i).any() for i in there])) if there else 1.0)
        return min(worth)

    def _cast(
        self, cameras: Cameras, frame: int, step: int, box: tuple[int, int, int, int] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Depth (m along the view axis, 0 on nothing) and object numbers at the centres of blocks of step x step px, in
        columns and rows left, top, right, bottom of the picture."""
        left, top, right, bottom = box or (0, 0, cameras.width, cameras.height)
        u, v = np.meshgrid(np.arange(left + step / 2, right, step), np.arange(top + step / 2, bottom, step))
        eye = cameras.c2w[frame, :3, 3]
        uv = np.stack([u, v], -1).reshape(-1, 2)
        ways = geometry.unproject(uv, np.ones(len(uv)), cameras.c2w[frame], cameras.K[frame]) - eye
        lengths = np.linalg.norm(ways, axis=1)
        start, hit = Vector(eye), self.surfaces.hit
        met = [hit(start, Vector(ray)) for ray in (ways / lengths[:, None]).tolist()]
        triangles, distances = np.array([m[0] for m in met], np.int64), np.array([m[1] for m in met], np.float64)
        depth = np.where(triangles >= 0, distances / lengths, 0)
        numbers = np.where(triangles >= 0, self.surfaces.objects[triangles], 0)
        return depth.reshape(u.shape).astype(np.float32), numbers.reshape(u.shape).astype(np.uint8)

    # ---------------------------------------------------------------------------------------------------- truth

    def points(self) -> Points:
        """Points on the surfaces seen in each version. Those on an actor that has a copy lie on the copy as well, at the
        same place of its surface, and the other way round."""
        triangles, weights, origin = [], [], []
        for number, version in enumerate(self.plan.versions):
            there = [motion is not None for motion in version.motions]
            share = self.settings.points // 2 // max(sum(there), 1)
            counts = [self.settings.points - share * sum(there), *(share * is_there for is_there in there)]
            picked = ground_truth.pick_points(
                self.surfaces, self.cameras[number], lambda frame, k=number: self.look(k, frame), counts,
                seed=self.plan.seed * 8 + number,
            )  # fmt: skip
            triangles.append(picked.triangles)
            weights.append(picked.weights)
            origin.append(np.full(len(picked.triangles), number, np.int32))
        found, shares, version_of = np.concatenate(triangles), np.concatenate(weights), np.concatenate(origin)
        twin = np.full(len(found), -1, np.int32)
        count = len(found)
        for copy, actor in enumerate(self.plan.actors):
            if actor.copy_of < 0:
                continue
            pair = [np.flatnonzero(self.surfaces.objects == number + 1) for number in (actor.copy_of, copy)]
            for own, other in (pair, pair[::-1]):
                on = np.flatnonzero(np.isin(found[:count], own))
                twin[on] = np.arange(len(found), len(found) + len(on))
                found = np.concatenate([found, other[np.searchsorted(own, found[on])]])
                shares = np.concatenate([shares, shares[on]])
                version_of = np.concatenate([version_of, version_of[on]])
                twin = np.concatenate([twin, on])
        return Points(ground_truth.SurfacePoints(found, shares), version_of, twin)

    def truth(self, number: int, points: ground_truth.SurfacePoints) -> Solve:
        """All that is known of a version."""
        cameras, step = self.cameras[number], self.settings.map_step
        shape = len(cameras), len(points.triangles)
        positions, visibility = np.zeros((*shape, 3)), np.zeros(shape, bool)
        depth, masks = [], []
        for frame in range(len(cameras)):
            self.look(number, frame)
            positions[frame] = points.positions(self.surfaces)
            visibility[frame] = ground_truth.see(self.surfaces, cameras, frame, positions[frame])
            depth.append(self._cast(cameras, frame, step)[0])
            masks.append(self._mask(cameras, frame))
        objects = self.surfaces.objects[points.triangles]
        tracks = Tracks.make(positions, visibility, objects=objects)
        names = {i: actor.name for i, actor in enumerate(self.plan.actors, 1)}
        return Solve(cameras, tracks, np.stack(depth), np.stack(masks), names, "exact: rendered")

    def _mask(self, cameras: Cameras, frame: int) -> NDArray[np.uint8]:
        """Object numbers (height, width); rays go only where an actor can be."""
        mask = np.zeros((cameras.height, cameras.width), np.uint8)
        own = np.unique(self.surfaces.triangles[self.surfaces.objects > 0])
        points = self.surfaces.vertices[own]
        points = points[points[:, 2] > props.PARKED / 2]
        uv, depth = geometry.project(points, cameras.c2w[frame], cameras.K[frame])
        if not len(uv):
            return mask
        size = cameras.width, cameras.height
        box = (0, 0, *size)
        if (depth > 0).all():
            (left, top), (right, bottom) = np.clip(np.floor(uv.min(0)), 0, size), np.clip(np.ceil(uv.max(0)), 0, size)
            box = int(left), int(top), int(right), int(bottom)
        if box[0] < box[2] and box[1] < box[3]:
            mask[box[1] : box[3], box[0] : box[2]] = self._cast(cameras, frame, 1, box)[1]
        return mask

    # ------------------------------------------------------------------------------------------------- pictures

    def render(self, number: int, frame: int, path: Path) -> None:
        """Write the picture of a frame of a version, an 8-bit sRGB PNG."""
        cameras = self.cameras[number]
        self.show(number, frame)
        ground_truth.apply_camera(self.camera, cameras, frame)
        part = path.with_stem(path.stem + "_part")  # a file that has its final name is complete
        bpy.context.scene.render.filepath = str(part)
        bpy.ops.render.render(write_still=True)
        part.replace(path)


def _set_up_cycles(settings: Settings) -> None:
    scene = bpy.context.scene
    render, cycles = scene.render, scene.cycles
    render.engine, render.resolution_x, render.resolution_y = "CYCLES", settings.width, settings.height
    render.resolution_percentage, render.use_persistent_data = 100, True
    render.threads_mode, render.threads = "FIXED", settings.threads
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGB"
    render.image_settings.compression = 15
    scene.view_settings.view_transform = "Standard"  # sRGB in is sRGB out
    cycles.device, cycles.seed, cycles.use_adaptive_sampling = "CPU", 7, False
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = settings.bounces, settings.bounces, 2
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 4.0
    cycles.samples, cycles.use_denoising = settings.samples, True
    try:
        cycles.denoiser = "OPENIMAGEDENOISE"
        cycles.denoising_prefilter = "FAST"  # textures are sharp already; this saves a third of a small frame's time
    except TypeError:  # a Blender that was built without it, as some distributions do
        cycles.samples, cycles.use_denoising = settings.samples * _WITHOUT_DENOISER, False


def shoot(scene: Scene, settings: Settings, folder: Path, tell: Callable[[str], None]) -> None:
    """Everything of a scene, into `folder`. tell: called with the name of each piece of work that is done."""
    folder.mkdir(parents=True, exist_ok=True)
    shooting = Shooting(scene, settings)
    tell("built")
    points = shooting.points()
    tell("points")
    for number in range(len(scene.versions)):
        solve = folder / f"version-{number}.solve.npz"
        if not solve.exists():
            archive.save(solve, shooting.truth(number, points.surface))
        tell(f"truth {number}")
        pictures = folder / f"version-{number}"
        pictures.mkdir(exist_ok=True)
        for frame in range(scene.frames):
            path = pictures / frame_name(frame)
            if not path.exists():
                shooting.render(number, frame, path)
                tell(f"frame {number} {frame}")
    part = folder / "scene.json.part"
    part.write_text(json.dumps({"picked": points.picked.tolist(), "twin": points.twin.tolist()}), encoding="utf-8")
    part.replace(folder / "scene.json")
