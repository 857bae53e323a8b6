"""Pictures, depth and tracks of boxes and spheres, exact and fast: every face is one homography.

World axes: z up. A scene is plain data that can be asked at any (fractional) frame; px have their centres at .5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry

Array = NDArray[np.float64]
Poses = Callable[[Array], Array]
"""Frames (S,) -> poses (S, 4, 4), local to world."""

_NEAR = 0.02
_TOLERANCE = 2e-3
"""Share of the depth by which a ray may stop before a point and still see it."""
_SHARP = 1.25
"""Texels of the chosen level per sample: a little under what would flicker after supersampling."""


@dataclass(frozen=True)
class Solid:
    """A box, or the ellipsoid in it. half: (3,) half sizes. object: its number, 0 = background.

    textures: one per face (-x +x -y +y -z +z) of a box, the first for a sphere; -1: no face there. inside: a room,
    seen from within. sky: so far that nobody asks for its depth.
    """

    pose: Poses
    half: tuple[float, float, float]
    textures: Sequence[int]
    object: int = 0
    sphere: bool = False
    inside: bool = False
    sky: bool = False


@dataclass(frozen=True)
class Lens:
    """focal: px by frame (S,) -> (S,). k1: radial distortion, x * (1 + k1 r^2) as in COLMAP's SIMPLE_RADIAL."""

    width: int
    height: int
    focal: Callable[[Array], Array]
    k1: float = 0.0

    def K(self, frames: Array) -> Array:
        """(S, 3, 3)"""
        focal = self.focal(frames)
        return geometry.intrinsics(focal, focal, self.width / 2, self.height / 2)

    def straight(self, uv: Array, frame: float) -> Array:
        """Where places (..., 2) px of the picture would lie without distortion."""
        if self.k1 == 0:
            return uv
        K = self.K(np.array([frame]))[0]
        bent = (uv - K[:2, 2]) / K[0, 0]
        xy = bent
        for _ in range(12):
            xy = bent / (1 + self.k1 * (xy**2).sum(-1, keepdims=True))
        found: Array = xy * K[0, 0] + K[:2, 2]
        return found

    def bent(self, uv: Array, frames: Array) -> Array:
        """Where the picture has what a lens without distortion would put at uv (T, N, 2), in `frames` (T,)."""
        K = self.K(frames)
        xy = (uv - K[:, None, :2, 2]) / K[:, :1, :1]
        found: Array = xy * (1 + self.k1 * (xy**2).sum(-1, keepdims=True)) * K[:, :1, :1] + K[:, None, :2, 2]
        return found


class Atlas:
    """Square RGB textures with their smaller levels, in one picture that one cv2.remap reads."""

    def __init__(self, textures: Sequence[NDArray[np.uint8]]) -> None:
        widest = max(len(t) for t in textures)
        self.sizes = np.array([len(t) for t in textures])
        self.pixels = np.zeros((int(self.sizes.sum()), widest * 3 // 2, 3), np.uint8)
        levels = int(np.log2(widest)) + 1
        self.corners = np.zeros((len(textures), levels, 2), np.float32)
        self.last = np.array([int(np.log2(size)) for size in self.sizes])
        top = 0
        for i, texture in enumerate(textures):
            size, x, y, level = len(texture), 0, top, texture
            for k in range(int(self.last[i]) + 1):
                side = size >> k
                self.pixels[y : y + side, x : x + side] = level
                self.corners[i, k] = x, y
                x, y = (size, top) if k == 0 else (x, y + side)
                if side > 1:
                    level = cv2.resize(level, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
            top += size

    def read(self, texture: NDArray[np.int64], st: NDArray[np.float32], level: NDArray[np.float32]) -> NDArray[Any]:
        """(M, 3) float32 colours of textures (M,) at st (M, 2) in [0, 1] and fractional levels (M,)."""
        level = np.clip(level, 0, self.last[texture] - 1).astype(np.float32)
        lower = level.astype(np.int64)
        share = (level - lower)[:, None]
        return (1 - share) * self._level(texture, st, lower) + share * self._level(texture, st, lower + 1)

    def _level(self, texture: NDArray[np.int64], st: NDArray[np.float32], level: NDArray[np.int64]) -> NDArray[Any]:
        side = (self.sizes[texture] >> level).astype(np.float32)[:, None]
        at = np.clip(st * side - 0.5, 0, side - 1) + self.corners[texture, level]
        rows = -(-len(at) // 1024)  # cv2.remap wants a picture narrower than 32768
        at = np.resize(at, (rows, 1024, 2)) if len(at) else at.reshape(0, 1024, 2)
        if not rows:
            return np.zeros((0, 3), np.float32)
        read = cv2.remap(self.pixels, at, None, cv2.INTER_LINEAR)
        return read.reshape(-1, 3)[: len(texture)].astype(np.float32)


@dataclass
class Hits:
    """What rays meet first; arrays of the rays' shape. z: depth, inf for nothing. solid: -1 for nothing."""

    z: NDArray[np.float32]
    solid: NDArray[np.int16]
    texture: NDArray[np.int16]
    st: NDArray[np.float32]
    footprint: NDArray[np.float32]
    shade: NDArray[np.float32]


@dataclass(frozen=True)
class World:
    """Solids before a moving camera. light: (3,) towards the light; ambient: share of the light from everywhere."""

    solids: Sequence[Solid]
    atlas: Atlas
    lens: Lens
    camera: Poses
    light: Array
    ambient: float = 0.55

    def hits(self, frame: float, uv: Array, sought: bool = False) -> Hits:
        """What the rays through uv (rows, columns, 2) px of the picture meet. sought: no grid of a whole picture."""
        at = np.array([frame])
        K, c2w = self.lens.K(at)[0], self.camera(at)[0]
        w2c = geometry.invert_rigid(c2w)
        straight = self.lens.straight(uv, frame).astype(np.float32)
        u, v = straight[..., 0], straight[..., 1]
        shape = u.shape
        hits = Hits(
            np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int16), np.zeros(shape, np.int16),
            np.zeros((*shape, 2), np.float32), np.ones(shape, np.float32), np.ones(shape, np.float32),
        )  # fmt: skip
        for number, solid in enumerate(self.solids):
            pose = solid.pose(at)[0]
            region = (slice(None), slice(None)) if sought else _region(solid, w2c @ pose, K, u, v)
            if region is None:
                continue
            part = _Part(hits, region, u[region], v[region], number)
            if solid.sphere:
                self._sphere(part, solid, pose, w2c, K)
            else:
                self._box(part, solid, pose, w2c, K, c2w[:3, 3])
        return hits

    def _box(self, part: _Part, solid: Solid, pose: Array, w2c: Array, K: Array, eye: Array) -> None:
        for texture, (axis, sign) in zip(solid.textures, _FACES, strict=True):
            centre = pose[:3, 3] + sign * solid.half[axis] * pose[:3, axis]
            normal = sign * pose[:3, axis] * (-1 if solid.inside else 1)
            if texture < 0 or (eye - centre) @ normal <= 0:
                continue
            a, b = [k for k in range(3) if k != axis]
            plane = np.stack([solid.half[a] * pose[:3, a], solid.half[b] * pose[:3, b], centre], 1)
            M = K @ (w2c[:3, :3] @ plane + np.outer(w2c[:3, 3], [0, 0, 1]))
            determinant = np.linalg.det(M)
            if abs(determinant) < 1e-12:
                continue
            H = np.linalg.inv(M)
            q = [np.float32(row[0]) * part.u + np.float32(row[1]) * part.v + np.float32(row[2]) for row in H]
            with np.errstate(divide="ignore"):
                nearer = (q[2] > 1 / part.z) & (q[2] < 1 / _NEAR) & (np.abs(q[0]) <= q[2]) & (np.abs(q[1]) <= q[2])
            w = q[2][nearer]
            st = np.stack([q[0][nearer] / w, q[1][nearer] / w], -1)
            shade = self.ambient + (1 - self.ambient) * max(float(normal @ self.light), 0.0)
            part.put(nearer, 1 / w, texture, st, np.sqrt(abs(1 / determinant) / w**3), np.float32(shade))

    def _sphere(self, part: _Part, solid: Solid, pose: Array, w2c: Array, K: Array) -> None:
        """In the coordinates of the unit sphere: |o + z d| = 1."""
        to_unit = np.diag([*(1 / np.array(solid.half)), 1]) @ geometry.invert_rigid(w2c @ pose)
        d = to_unit[:3, :3] @ np.linalg.inv(K)
        o = to_unit[:3, 3]
        ray = [np.float32(row[0]) * part.u + np.float32(row[1]) * part.v + np.float32(row[2]) for row in d]
        a = ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2
        b = np.float32(o[0]) * ray[0] + np.float32(o[1]) * ray[1] + np.float32(o[2]) * ray[2]
        root = b * b - a * np.float32(o @ o - 1)
        z = (-b - np.sqrt(np.maximum(root, 0))) / a
        nearer = (root > 0) & (z > _NEAR) & (z < part.z)
        z = z[nearer]
        on = np.stack([r[nearer] for r in ray], -1) * z[:, None] + o.astype(np.float32)
        normal = (on / np.array(solid.half)) @ pose[:3, :3].T
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        shade = self.ambient + (1 - self.ambient) * np.maximum(normal @ self.light, 0)
        st = np.stack([np.arctan2(on[:, 1], on[:, 0]) / np.pi, np.clip(on[:, 2], -1, 1)], -1)  # equal-area map
        slant = np.sqrt(np.maximum(root[nearer] / a[nearer], 0.01))
        footprint = z / K[0, 0] / min(solid.half) / np.sqrt(np.pi * slant)
        part.put(nearer, z, solid.textures[0], st, footprint, shade)

    def render(self, frame: float, samples: int = 2, shift: tuple[float, float] = (0, 0)) -> NDArray[np.float32]:
        """(h, w, 3) RGB 0..255. samples: per px and axis. shift: of all samples, px."""
        width, height = self.lens.width, self.lens.height
        u, v = np.meshgrid((np.arange(width * samples) + 0.5) / samples, (np.arange(height * samples) + 0.5) / samples)
        hits = self.hits(frame, np.stack([u, v], -1) + shift)
        texture = hits.texture.ravel().astype(np.int64)
        half = self.atlas.sizes[texture] / (2 * samples)
        level = np.log2(np.maximum(hits.footprint.ravel() * half / _SHARP, 1e-6))
        colour = self.atlas.read(texture, hits.st.reshape(-1, 2) / 2 + 0.5, level) * hits.shade.reshape(-1, 1)
        colour[hits.solid.ravel() < 0] = 0
        picture = colour.reshape(height * samples, width * samples, 3)
        return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.float32)

    def depth_and_objects(self, frame: float, step: int = 1) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """At the centre of every `step`-th px: depth (h, w), 0 on the sky; object number (h, w)."""
        u, v = np.meshgrid(
            np.arange(step // 2, self.lens.width, step) + 0.5, np.arange(step // 2, self.lens.height, step) + 0.5
        )
        hits = self.hits(frame, np.stack([u, v], -1))
        sky = np.array([solid.sky for solid in self.solids] + [True])[hits.solid]
        objects = np.array([solid.object for solid in self.solids] + [0], np.uint8)[hits.solid]
        return np.where(sky, 0, hits.z).astype(np.float32), objects

    def follow(
        self, frames: Array, born: NDArray[np.int64], uv: Array
    ) -> tuple[Array, NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float32]]:
        """Where the surface points seen at uv (N, 2) px in frames[born] (N,) lie in all frames.

        Returns uv (T, N, 2), nan behind the camera, visible (T, N): on the picture and not hidden, object numbers
        (N,), and the depth (T, N). Points on nothing or on the sky are never visible.
        """
        count = len(uv)
        local, solid_of = np.zeros((count, 3)), np.full(count, -1)
        for index in np.unique(born):
            which = np.flatnonzero(born == index)
            frame = frames[index : index + 1]
            hits = self.hits(float(frame[0]), uv[None, which], sought=True)
            z, solid_of[which] = hits.z[0], hits.solid[0]
            z = np.where(np.isfinite(z), z, 1)
            straight = self.lens.straight(uv[which], float(frame[0]))
            world = geometry.unproject(straight, z, self.camera(frame)[0], self.lens.K(frame)[0])
            for number in np.unique(solid_of[which]):
                if number >= 0:
                    on = solid_of[which] == number
                    pose = geometry.invert_rigid(self.solids[number].pose(frame)[0])
                    local[which[on]] = geometry.transform(pose, world[on])
        positions = np.zeros((len(frames), count, 3))
        for number in np.unique(solid_of[solid_of >= 0]):
            on = np.flatnonzero(solid_of == number)
            positions[:, on] = geometry.transform(self.solids[number].pose(frames), local[on][None])
        seen, depth = geometry.project(positions, self.camera(frames), self.lens.K(frames))
        seen = self.lens.bent(seen, frames)
        visible = geometry.inside_image(seen, depth, self.lens.width, self.lens.height)
        visible &= (solid_of >= 0) & ~np.array([solid.sky for solid in self.solids] + [True])[solid_of]
        for index, frame in enumerate(frames):
            which = np.flatnonzero(visible[index])
            if len(which):
                hits = self.hits(float(frame), seen[index, which][None], sought=True)
                visible[index, which] = hits.z[0] > depth[index, which] * (1 - _TOLERANCE)
        objects = np.array([solid.object for solid in self.solids] + [0], np.uint8)[solid_of]
        return seen, visible, objects, depth.astype(np.float32)


_FACES = [(axis, sign) for axis in range(3) for sign in (-1, 1)]
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


@dataclass
class _Part:
    """The rays of a region, and what they met so far."""

    hits: Hits
    region: tuple[slice, slice]
    u: NDArray[np.float32]
    v: NDArray[np.float32]
    number: int

    @property
    def z(self) -> NDArray[np.float32]:
        return self.hits.z[self.region]

    def put(self, where: NDArray[np.bool_], z: Any, texture: int, st: Any, footprint: Any, shade: Any) -> None:
        hits, region = self.hits, self.region
        hits.z[region][where] = z
        hits.solid[region][where] = self.number
        hits.texture[region][where] = texture
        hits.st[region][where] = st
        hits.footprint[region][where] = footprint
        hits.shade[region][where] = shade


def _region(
    solid: Solid, pose: Array, K: Array, u: NDArray[np.float32], v: NDArray[np.float32]
) -> tuple[slice, slice] | None:
    """The part of a grid that a solid can be seen in; None when it cannot."""
    corners = geometry.transform(pose, _CORNERS * solid.half)
    if (corners[:, 2] < _NEAR).all():
        return None
    everything = (slice(None), slice(None))
    if (corners[:, 2] < 2 * _NEAR).any():
        return everything
    projected = corners @ K.T
    uv = projected[:, :2] / projected[:, 2:]
    low, high = uv.min(0), uv.max(0)
    rows = np.flatnonzero((v.max(1) >= low[1]) & (v.min(1) <= high[1]))
    columns = np.flatnonzero((u.max(0) >= low[0]) & (u.min(0) <= high[0]))
    if not len(rows) or not len(columns):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
