"""Scenes whose cameras, depths, tracks and objects are known exactly: what solvers are measured on. 448x256, 33 frames.

    python tests/benchmarks/solve_scenes.py FOLDER [NAME ...]     writes them as videos, with a sheet to look at

Every scene is seeded: same scene, same frames (posters are cut from the real clips where these are there).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import solve_textures as textures
from numpy.typing import NDArray
from ray_caster import Array, Atlas, Lens, Poses, Solid, World
from retake_shared import geometry
from retake_shared.shot import Cameras

FPS = 24
DOWN = np.array([0.0, 0.0, -1.0])

Kind = Literal["moving", "rotation", "static"]


@dataclass
class Scene:
    """One scene with its truth. kind: what the camera really does (a zoom on a tripod is a rotation's kin).

    tells_focal: False where nothing in the footage
    says the focal length: the camera stands still, or goes along without any turn. exposure: how much the brightness
    wanders. noise: sigma of 255. soft: sigma px of the lens's blur. shutter: how
    long it stays open, of a frame's time.
    """

    name: str
    what: str
    kind: Kind
    world: World
    count: int
    exposure: float = 0.03
    noise: float = 1.5
    soft: float = 0.5
    shutter: float = 0.0
    objects: dict[int, str] = field(default_factory=dict)
    seed: int = 0
    tells_focal: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.world.lens.width, self.world.lens.height

    @property
    def times(self) -> Array:
        """(T,) when the frames are taken, in frames."""
        return np.arange(self.count, dtype=np.float64)

    @cached_property
    def cameras(self) -> Cameras:
        """The true ones, of the picture without distortion."""
        return Cameras(self.world.camera(self.times), self.world.lens.K(self.times), *self.size)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """(h, w, 3) RGB, as a camera gives them: soft, noisy, its exposure wandering."""
        random = np.random.default_rng(self.seed)
        phase = random.uniform(0, 2 * np.pi)
        for t in range(self.count):
            picture = self._exposed(t, random)
            picture = cv2.GaussianBlur(picture, (0, 0), self.soft)
            picture *= 1 + self.exposure * np.sin(phase + 2 * np.pi * t / max(self.count, 30))
            picture += self.noise * random.standard_normal(picture.shape, np.float32)
            yield np.clip(picture + 0.5, 0, 255).astype(np.uint8)

    def _exposed(self, t: int, random: np.random.Generator) -> NDArray[np.float32]:
        if not self.shutter:
            return self.world.render(t)
        moments = 6  # one sample per px each, at different places of the px
        total = np.zeros((self.size[1], self.size[0], 3), np.float32)
        for k in range(moments):
            shift = ((k + 0.5) / moments - 0.5, ((k * 5 % moments) + 0.5) / moments - 0.5)
            total += self.world.render(t + self.shutter * ((k + 0.5) / moments - 0.5), 1, shift)
        return total / moments

    def depth_and_objects(self, t: int, step: int = 1) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Depth (h, w) at px centres, 0 on the sky, and object numbers (h, w); of every `step`-th px."""
        return self.world.depth_and_objects(float(t), step)

    def follow(
        self, born: NDArray[np.int64], uv: Array
    ) -> tuple[Array, NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float32]]:
        """Where what is seen at uv (N, 2) px in frames `born` (N,) goes; see `World.follow`."""
        return self.world.follow(self.times, born, uv)

    def write(self, path: Path) -> None:
        """The footage, as H.264 of good quality."""
        import av

        with av.open(str(path), "w") as video:
            stream = video.add_stream("libx264", rate=FPS, options={"crf": "14", "preset": "veryfast"})
            stream.width, stream.height = self.size
            stream.pix_fmt = "yuv420p"
            for picture in self.frames():
                video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            video.mux(stream.encode())


class Set:
    """What a scene is put together from. Positions in metres, z up, the camera looks along +y."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.solids: list[Solid] = []
        self._textures: list[NDArray[np.uint8]] = []
        self._photographs: list[NDArray[np.uint8]] | None = None

    def texture(self, make: Callable[..., NDArray[np.uint8]], *arguments: float) -> int:
        """A new texture's number."""
        self._textures.append(make(self.random, *arguments))
        return len(self._textures) - 1

    def poster(self) -> int:
        if self._photographs is None:
            self._photographs = textures.photographs()
        self._textures.append(textures.poster(self.random, self._photographs))
        return len(self._textures) - 1

    def box(
        self, place: tuple[float, float, float], half: tuple[float, float, float], paint: int, yaw: float = 0
    ) -> None:
        self.solids.append(Solid(still(place, yaw), half, [paint] * 6))

    def ball(self, place: tuple[float, float, float], radius: float, paint: int) -> None:
        self.solids.append(Solid(still(place), (radius,) * 3, [paint], sphere=True))

    def room(self, plain: bool = False) -> None:
        """8 x 8 x 3.2 m with furniture along the walls and posters on them. plain: hardly any texture."""
        random = self.random
        wall = textures.plain if plain else textures.stone
        paints = [self.texture(wall) for _ in range(4)]
        if not plain:
            paints[2] = self.texture(textures.bricks)
        floor = self.texture(textures.plain, 512, 5.0) if plain else self.texture(textures.bricks, 1024, 24, 4, 0.05)
        paints += [floor, self.texture(textures.plain)]
        self.solids.append(Solid(still((0, 0, 1.6)), (4, 4, 1.6), paints, inside=True))
        for x, z, w, h in ((-2.6, 1.7, 0.55, 0.7), (-0.7, 1.9, 0.6, 0.45), (1.3, 1.8, 0.7, 0.5), (3.0, 1.7, 0.45, 0.6)):
            if not plain or x > 1:
                self.box((x + random.uniform(-0.2, 0.2), 3.98, z), (w, 0.015, h), self.poster())
        if not plain:
            for y in (-1.0, 1.2):
                for x in (-3.98, 3.98):
                    self.box((x, y + random.uniform(-0.5, 0.5), 1.8), (0.015, 0.6, 0.5), self.poster())
        for k in range(4 if plain else 9):
            x = -3.2 + 6.4 * k / (3 if plain else 8) + random.uniform(-0.2, 0.2)
            y = random.uniform(1.7, 3.3) if abs(x) < 2.2 else random.uniform(-0.5, 3.2)
            half = (random.uniform(0.18, 0.45), random.uniform(0.18, 0.4), random.uniform(0.25, 0.75))
            paint = self.texture(textures.plain, 512, 4.0) if plain else self.texture(textures.stone, 512)
            self.box((x, y, half[2]), half, paint, random.uniform(0, np.pi))
            if k % 3 == 0:
                self.ball((x, y, 2 * half[2] + 0.2), 0.2, self.texture(textures.stone, 512))

    def landscape(self) -> None:
        """A square with crates and trees, houses behind, under a sky."""
        random = self.random
        sky = self.texture(textures.clouds)
        self.solids.append(Solid(still((0, 0, 0)), (300, 300, 300), [sky] * 6, inside=True, sky=True))
        self.box((0, 0, -0.55), (150, 150, 0.5), self.texture(textures.grass))
        self.box((0, 8, -0.5), (14, 14, 0.5), self.texture(textures.bricks, 2048, 40, 28, 0.06))
        for k in range(8):
            x, y = -42 + 12 * k + random.uniform(-2, 2), random.uniform(26, 48)
            half = (random.uniform(3, 5), random.uniform(3, 5), random.uniform(2.5, 7))
            self.box((x, y, half[2]), half, self.texture(textures.bricks, 1024, 16, 10, 0.1), random.uniform(-0.4, 0.4))
        for k in range(9):
            x, y = -8 + 2 * k + random.uniform(-0.5, 0.5), random.uniform(3.5, 20)
            half = (random.uniform(0.3, 0.7), random.uniform(0.3, 0.7), random.uniform(0.3, 1.0))
            if abs(x) < 1.6:
                y += 6
            self.box((x, y, half[2]), half, self.texture(textures.stone, 512), random.uniform(0, np.pi))
        for k in range(5):
            x, y = -11 + 5.5 * k + random.uniform(-1, 1), random.uniform(9, 18)
            self.box((x, y, 1.2), (0.12, 0.12, 1.2), self.texture(textures.stone, 256))
            self.ball((x, y, 3.3), 1.3, self.texture(textures.grass, 512))

    def mover(self, pose: Poses, half: tuple[float, float, float], number: int, sphere: bool = False) -> None:
        """An object that goes its own way, with a texture that shows."""
        paint = self.poster() if number % 2 else self.texture(textures.stone, 512, 1.5)
        self.solids.append(Solid(pose, half, [paint] if sphere else [paint] * 6, number, sphere))

    def world(self, lens: Lens, camera: Poses) -> World:
        light = np.array([-0.4, -0.6, 0.7])
        return World(self.solids, Atlas(self._textures), lens, camera, light / np.linalg.norm(light))


def still(place: tuple[float, float, float], yaw: float = 0) -> Poses:
    """Stands at `place`, turned about z."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = geometry.axis_rotation((0, 0, 1), yaw), place
    return lambda frames: np.tile(pose, (len(frames), 1, 1))


def going(path: Callable[[Array], list[Array | float]], turn: tuple[float, float, float] = (0, 0, 0)) -> Poses:
    """Goes along `path(frames)` = x, y, z, turning by the rotation vector `turn` a frame."""

    def poses(frames: Array) -> Array:
        c2w = np.tile(np.eye(4), (len(frames), 1, 1))
        c2w[:, :3, :3] = geometry.rotation_from_vector(frames[:, None] * np.array(turn))
        c2w[:, :3, 3] = np.stack([np.broadcast_to(v, frames.shape) for v in path(frames)], -1)
        return c2w

    return poses


def looking(
    eye: Callable[[Array], list[Array | float]], target: Callable[[Array], list[Array | float]], shake: float = 0
) -> Poses:
    """A camera at eye(frames) that looks at target(frames); shake: of a hand, 1 = 1 cm and 0.35 degrees or so."""
    random = np.random.default_rng(11)
    speed, phase = random.uniform(0.08, 0.45, (6, 4)), random.uniform(0, 2 * np.pi, (6, 4))

    def poses(frames: Array) -> Array:
        at, to = (np.stack([np.broadcast_to(v, frames.shape) for v in path(frames)], -1) for path in (eye, target))
        swing = shake * np.sin(frames[:, None, None] * speed + phase).sum(-1)
        c2w = geometry.look_at(at + 0.006 * swing[:, :3], to, DOWN)
        c2w[:, :3, :3] = c2w[:, :3, :3] @ geometry.rotation_from_vector(np.radians(0.2) * swing[:, 3:])
        return c2w

    return poses


def ease(frames: Array, count: int) -> Array:
    """0 .. 1 over the clip, slow at both ends."""
    t = np.clip(frames / (count - 1), -0.1, 1.1)
    eased: Array = 0.5 * t + 0.5 * t * t * (3 - 2 * t)
    return eased


def _scene(
    name: str,
    what: str,
    kind: Kind,
    eye: Callable[[Array], list[Array | float]],
    target: Callable[[Array], list[Array | float]],
    *,
    outside: bool = False,
    plain: bool = False,
    mm: float | Callable[[Array], Array] = 30.0,
    size: tuple[int, int] = (448, 256),
    count: int = 33,
    shake: float = 0.0,
    k1: float = 0.0,
    movers: tuple[tuple[str, Poses, tuple[float, float, float], bool], ...] = (),
    exposure: float = 0.03,
    noise: float = 1.5,
    soft: float = 0.5,
    shutter: float = 0.0,
    tells_focal: bool = True,
) -> Scene:
    seed = sum(ord(c) * 31**k for k, c in enumerate(name)) % 2**31
    scenery = Set(seed)
    if outside:
        scenery.landscape()
    else:
        scenery.room(plain)
    for number, (_, pose, half, sphere) in enumerate(movers, 1):
        scenery.mover(pose, half, number, sphere)
    px = max(size) / 36

    def focal(frames: Array) -> Array:
        return px * (mm(frames) if callable(mm) else np.full(frames.shape, mm))

    world = scenery.world(Lens(*size, focal, k1), looking(eye, target, shake))
    objects = {number: mover[0] for number, mover in enumerate(movers, 1)}
    return Scene(name, what, kind, world, count, exposure, noise, soft, shutter, objects, seed, tells_focal)


def _rolling(count: int) -> tuple[str, Poses, tuple[float, float, float], bool]:
    """A ball that rolls from left to right."""
    radius = 0.4
    path = going(lambda f: [-1.7 + 3.4 * f / count, 0.3, radius], (0, 3.4 / count / radius, 0))
    return "ball", path, (radius,) * 3, True


def _crate(count: int) -> tuple[str, Poses, tuple[float, float, float], bool]:
    """A box that is carried from right to left, turning."""
    path = going(lambda f: [1.5 - 2.2 * f / count, 0.9, 1.0 + 0.15 * np.sin(f / 6)], (0, 0, 0.02))
    return "crate", path, (0.4, 0.3, 0.45), False


def _bus(count: int) -> tuple[str, Poses, tuple[float, float, float], bool]:
    """So large and near that it fills two fifths of the picture."""
    path = going(lambda f: [-0.9 + 1.6 * f / count, 0.1, 1.0], (0, 0, 0.002))
    return "bus", path, (1.15, 0.4, 0.85), False


_N = 33
_MIDDLE = (0.0, 1.5, 1.2)


def _at(*place: float) -> Callable[[Array], list[Array | float]]:
    return lambda frames: list(place)


def _orbit(degrees: float, radius: float = 3.6) -> Callable[[Array], list[Array | float]]:
    def eye(f: Array) -> list[Array | float]:
        angle = np.radians(degrees) * (ease(f, _N) - 0.5)
        return [radius * np.sin(angle), 1.5 - radius * np.cos(angle), 1.5]

    return eye


def _line(start: tuple[float, float, float], stop: tuple[float, float, float], count: int = _N) -> Callable:
    a, b = np.array(start), np.array(stop)
    return lambda f: list(a[:, None] + (b - a)[:, None] * ease(f, count))


def _turned(angle: Callable[[Array], Array], tilt: bool = False) -> Callable[[Array], list[Array | float]]:
    """A target that makes a camera at (0, -2.6, 1.5) pan (or tilt) by angle(frames) degrees."""

    def target(f: Array) -> list[Array | float]:
        a = np.radians(angle(f))
        if tilt:
            return [0.0, -2.6 + np.cos(a), 1.5 + np.sin(a)]
        return [np.sin(a), -2.6 + np.cos(a), 1.45]

    return target


_STAND = _at(0, -2.6, 1.5)

SCENES: dict[str, Callable[[], Scene]] = {}


def _add(name: str, what: str, kind: Kind, *arguments: object, **options: object) -> None:
    SCENES[name] = lambda: _scene(name, what, kind, *arguments, **options)  # type: ignore[arg-type]


_add("static_ball", "camera on a tripod, a ball rolls through", "static", _STAND, _at(*_MIDDLE), movers=(_rolling(_N),),
     tells_focal=False)  # fmt: skip
_add("static_two", "camera on a tripod, a ball and a crate", "static", _STAND, _at(*_MIDDLE), mm=26.0,
     movers=(_rolling(_N), _crate(_N)), tells_focal=False)  # fmt: skip
_add("orbit", "30 degrees around the room's middle", "moving", _orbit(30), _at(*_MIDDLE))
_add("orbit_outside", "around a square, houses behind", "moving",
     _line((-2.5, -4, 1.7), (2.5, -4, 1.9)), _at(0, 10, 1.2), outside=True, mm=32.0)  # fmt: skip
_add("dolly_out", "backwards, looking ahead", "moving", _line((0.2, -1.6, 1.4), (-0.1, -3.4, 1.5)), _at(*_MIDDLE))
_add("push_in", "towards the middle", "moving", _line((-0.4, -3.4, 1.5), (0.1, -1.2, 1.3)), _at(*_MIDDLE), mm=35.0)
_add("truck", "sideways, looking ahead", "moving", _line((-1.3, -2.8, 1.5), (1.3, -2.8, 1.5)),
     _line((-1.3, 2, 1.3), (1.3, 2, 1.3)), tells_focal=False)  # fmt: skip
_add("handheld", "a hand that walks a little", "moving", _line((-0.5, -2.9, 1.55), (0.4, -2.5, 1.5)), _at(*_MIDDLE),
     shake=2.0, mm=28.0)  # fmt: skip
_add("crane", "up, looking down", "moving", _line((0.3, -3, 0.6), (-0.2, -2.6, 2.7)), _at(*_MIDDLE))
_add("pan", "on a tripod, 35 degrees sideways", "rotation", _STAND, _turned(lambda f: -17.5 + 35 * ease(f, _N)))
_add("tilt", "on a tripod, 20 degrees up", "rotation", _STAND,
     _turned(lambda f: -14 + 20 * ease(f, _N), tilt=True), mm=26.0)  # fmt: skip
_add("pan_ball", "on a tripod, panning with a ball", "rotation", _STAND,
     _turned(lambda f: -12 + 24 * ease(f, _N)), movers=(_rolling(_N),))  # fmt: skip
_add("zoom", "on a tripod, from 26 to 45 mm", "static", _STAND, _at(*_MIDDLE),
     mm=lambda f: 26 + 19 * ease(f, _N))  # fmt: skip
_add("dolly_zoom", "backwards while the lens zooms in", "moving", _line((0.15, -1.6, 1.4), (-0.1, -3.6, 1.5)),
     _at(0, 1.5, 1.3), mm=lambda f: 24 + 15 * ease(f, _N))  # fmt: skip
_add("one_object", "orbit, a crate is carried through", "moving", _orbit(22), _at(*_MIDDLE), movers=(_crate(_N),))
_add("two_objects", "truck, a ball and a crate pass each other", "moving",
     _line((-0.9, -2.9, 1.5), (0.9, -2.8, 1.6)), _at(*_MIDDLE), movers=(_rolling(_N), _crate(_N)))  # fmt: skip
_add("large_object", "two fifths of the picture move on their own", "moving",
     _line((-0.7, -3.2, 1.5), (0.8, -3.0, 1.6)), _at(0, 1, 1.2), mm=26.0, movers=(_bus(_N),))  # fmt: skip
_add("little_parallax", "12 cm sideways", "moving", _line((-0.06, -2.8, 1.5), (0.06, -2.8, 1.5)), _at(*_MIDDLE))
_add("forward", "drives ahead out of doors, shaking a little", "moving", _line((0, -6, 1.5), (0, 1, 1.5)),
     _line((0, 14, 1.5), (0, 21, 1.5)), outside=True, mm=28.0, shake=1.0)  # fmt: skip
_add("low_texture", "painted walls, plain furniture, one poster", "moving", _orbit(26), _at(*_MIDDLE), plain=True,
     mm=28.0)  # fmt: skip
_add("portrait", "upright, truck", "moving", _line((-0.8, -3.2, 1.5), (0.8, -3.2, 1.5)), _at(*_MIDDLE),
     size=(256, 448), mm=26.0)  # fmt: skip
_add("wide", "18 mm, truck", "moving", _line((-0.8, -2.4, 1.4), (0.8, -2.2, 1.5)), _at(*_MIDDLE), mm=18.0)
_add("tele", "90 mm, truck", "moving", _line((-0.9, -3.6, 1.6), (0.9, -3.6, 1.5)), _at(0, 2.8, 1.0), mm=90.0)
_add("motion_blur", "fast, the shutter open for half a frame's time", "moving", _orbit(38), _at(*_MIDDLE),
     count=_N, shutter=0.5, shake=0.7)  # fmt: skip
_add("barrel", "a lens that bends straight lines, orbit", "moving", _orbit(26), _at(*_MIDDLE), mm=24.0, k1=-0.08)
_add("night", "dark, noisy and soft, exposure wanders, orbit", "moving", _orbit(26), _at(*_MIDDLE), noise=7.0,
     soft=0.9, exposure=0.15)  # fmt: skip


def main() -> int:
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(SCENES)
    folder.mkdir(parents=True, exist_ok=True)
    import time

    for name in names:
        began = time.perf_counter()
        scene = SCENES[name]()
        made = time.perf_counter()
        rows = []
        for t, picture in enumerate(scene.frames()):
            if t in (0, scene.count // 2, scene.count - 1):
                rows.append(picture)
        rendered = time.perf_counter()
        depth, objects = scene.depth_and_objects(scene.count - 1)
        z = np.where(depth > 0, np.median(depth[depth > 0]) / np.maximum(depth, 1e-6) / 2, 0)
        truth = cv2.applyColorMap((255 * np.clip(z, 0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)
        truth[objects > 0, 1] = 255
        sheet = np.concatenate([*(r[..., ::-1] for r in rows), truth], 1)
        cv2.imwrite(str(folder / f"{name}.jpg"), cv2.resize(sheet, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA))
        share = float((objects > 0).mean())
        print(
            f"{name:16} built {made - began:.1f} s, {scene.count} frames {rendered - made:.1f} s, objects {share:.0%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
