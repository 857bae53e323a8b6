"""Cameras, projection and rigid motion in one convention.

Poses are camera-to-world matrices `c2w` (4, 4) with OpenCV axes (x right, y down, z into the scene). Intrinsics `K`
(3, 3) are in pixels with the image's top-left corner at (0, 0), so the first pixel's centre is (0.5, 0.5). Depth is z
in camera space, in world units. All functions take and return float64 unless they say otherwise, and broadcast over
leading dimensions where the shapes show `...`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def invert_rigid(pose: ArrayLike) -> Array:
    """Inverse of rigid transforms (..., 4, 4): w2c from c2w and back. Exact for rotations, no linear solve."""
    pose = np.asarray(pose, np.float64)
    inverse = np.zeros_like(pose)
    rotation_t = np.swapaxes(pose[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_t, pose[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


def transform(matrix: ArrayLike, points: ArrayLike) -> Array:
    """Apply affine matrices (..., 4, 4) to points (..., N, 3)."""
    matrix, points = np.asarray(matrix, np.float64), np.asarray(points, np.float64)
    moved: Array = points @ np.swapaxes(matrix[..., :3, :3], -1, -2) + matrix[..., None, :3, 3]
    return moved


def project(points: ArrayLike, c2w: ArrayLike, K: ArrayLike) -> tuple[Array, Array]:
    """Project world points (..., N, 3) through cameras c2w (..., 4, 4), K (..., 3, 3).

    Returns uv (..., N, 2) in pixels and depth (..., N). Points at or behind the camera plane have depth <= 0 and
    uv = nan, so that they can never be mistaken for something in the picture.
    """
    camera = transform(invert_rigid(c2w), points)
    K = np.asarray(K, np.float64)
    depth = camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = camera[..., :2] / np.where(depth > 0, depth, np.nan)[..., None]
    u = K[..., None, 0, 0] * xy[..., 0] + K[..., None, 0, 1] * xy[..., 1] + K[..., None, 0, 2]
    v = K[..., None, 1, 1] * xy[..., 1] + K[..., None, 1, 2]
    return np.stack([u, v], -1), depth


def unproject(uv: ArrayLike, depth: ArrayLike, c2w: ArrayLike, K: ArrayLike) -> Array:
    """World points (..., N, 3) of pixels uv (..., N, 2) at camera-space depth (..., N). Inverse of `project`."""
    uv, depth, K = (np.asarray(a, np.float64) for a in (uv, depth, K))
    y = (uv[..., 1] - K[..., None, 1, 2]) / K[..., None, 1, 1]
    x = (uv[..., 0] - K[..., None, 0, 2] - K[..., None, 0, 1] * y) / K[..., None, 0, 0]
    camera = np.stack([x * depth, y * depth, depth], -1)
    return transform(c2w, camera)


def inside_image(uv: ArrayLike, depth: ArrayLike, width: int, height: int) -> NDArray[np.bool_]:
    """Which projections (..., N, 2), (..., N) lie in front of the camera and on the picture [0, width) x [0, height)."""
    uv, depth = np.asarray(uv), np.asarray(depth)
    with np.errstate(invalid="ignore"):
        u, v = uv[..., 0], uv[..., 1]
        return (depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)


def rescale_intrinsics(K: ArrayLike, from_size: tuple[int, int], to_size: tuple[int, int]) -> Array:
    """K (..., 3, 3) of a picture of from_size (width, height) px, after the picture is resized to to_size."""
    scale = np.diag([to_size[0] / from_size[0], to_size[1] / from_size[1], 1.0])
    return scale @ np.asarray(K, np.float64)


def crop_intrinsics(K: ArrayLike, left: float, top: float) -> Array:
    """K (..., 3, 3) after `left` columns and `top` rows are cut off the picture (negative: padded)."""
    K = np.array(K, np.float64)
    K[..., 0, 2] -= left
    K[..., 1, 2] -= top
    return K


def intrinsics(fx: ArrayLike, fy: ArrayLike, cx: ArrayLike, cy: ArrayLike) -> Array:
    """K (..., 3, 3) from focal lengths and principal point in px."""
    fx, fy, cx, cy = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (fx, fy, cx, cy)))
    K = np.zeros((*fx.shape, 3, 3))
    K[..., 0, 0], K[..., 1, 1], K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = fx, fy, cx, cy, 1.0
    return K


def quaternion_from_matrix(rotation: ArrayLike) -> Array:
    """Unit quaternions wxyz (..., 4) of rotation matrices (..., 3, 3), w >= 0. Stable for every angle (Shepperd)."""
    m = np.asarray(rotation, np.float64)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    xy, yx, xz, zx, yz, zy = m[..., 0, 1], m[..., 1, 0], m[..., 0, 2], m[..., 2, 0], m[..., 1, 2], m[..., 2, 1]
    candidates = np.stack(
        [
            np.stack([1 + xx + yy + zz, zy - yz, xz - zx, yx - xy], -1),
            np.stack([zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx], -1),
            np.stack([xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy], -1),
            np.stack([yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz], -1),
        ],
        -2,
    )
    largest = np.argmax(np.stack([xx + yy + zz, xx, yy, zz], -1), -1)
    q = np.take_along_axis(candidates, largest[..., None, None], -2)[..., 0, :]
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q)


def matrix_from_quaternion(quaternion: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) of quaternions wxyz (..., 4) of any non-zero length (Hamilton)."""
    q = np.asarray(quaternion, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def continuous_quaternions(quaternions: ArrayLike) -> Array:
    """Flip signs of (T, 4) so that neighbours lie in one hemisphere: keys that interpolate the short way."""
    q = np.array(quaternions, np.float64)
    if len(q) > 1:
        flips = np.sign(np.einsum("ti,ti->t", q[1:], q[:-1]))
        q[1:] *= np.cumprod(np.where(flips == 0, 1.0, flips))[:, None]
    return q


def slerp(a: ArrayLike, b: ArrayLike, weight: ArrayLike) -> Array:
    """Spherical interpolation of unit quaternions (..., 4) by weight (...) in [0, 1], the short way round."""
    a, b, weight = (np.asarray(v, np.float64) for v in (a, b, weight))
    dot = np.sum(a * b, -1)
    b = np.where(dot[..., None] < 0, -b, b)
    angle = np.arccos(np.clip(np.abs(dot), 0.0, 1.0))
    sine = np.sin(angle)
    small = sine < 1e-8
    safe = np.where(small, 1.0, sine)
    wa = np.where(small, 1 - weight, np.sin((1 - weight) * angle) / safe)
    wb = np.where(small, weight, np.sin(weight * angle) / safe)
    q: Array = wa[..., None] * a + wb[..., None] * b
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    return q


def interpolate_poses(times: ArrayLike, poses: ArrayLike, at: ArrayLike) -> Array:
    """Poses (S, 4, 4) at `at` (S,) from poses (T, 4, 4) at increasing `times` (T,): slerp and lerp, held at the ends."""
    times, poses, at = (np.asarray(v, np.float64) for v in (times, poses, at))
    if len(times) == 1:
        return np.repeat(poses, len(at), 0)
    left = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    weight = np.clip((at - times[left]) / (times[left + 1] - times[left]), 0.0, 1.0)
    q = quaternion_from_matrix(poses[:, :3, :3])
    out = np.tile(np.eye(4), (len(at), 1, 1))
    out[:, :3, :3] = matrix_from_quaternion(slerp(q[left], q[left + 1], weight))
    out[:, :3, 3] = (1 - weight)[:, None] * poses[left, :3, 3] + weight[:, None] * poses[left + 1, :3, 3]
    return out


def sample_rows(values: ArrayLike, at: ArrayLike) -> Array:
    """Rows of values (T, ...) at fractional indices `at` (S,): linear between neighbours, held at the ends."""
    values, at = np.asarray(values, np.float64), np.asarray(at, np.float64)
    at = np.clip(at, 0, len(values) - 1)
    left = np.minimum(np.floor(at).astype(int), max(len(values) - 2, 0))
    right = np.minimum(left + 1, len(values) - 1)
    weight = (at - left).reshape((-1,) + (1,) * (values.ndim - 1))
    rows: Array = np.where(weight == 0, values[left], (1 - weight) * values[left] + weight * values[right])
    return rows


def look_at(eye: ArrayLike, target: ArrayLike, down: ArrayLike) -> Array:
    """c2w (..., 4, 4) of a camera at eye looking at target, with its image y axis as near `down` as possible.

    eye, target (..., 3) and `down` (3,) or (..., 3) are world coordinates; `down` must not be parallel to the view.
    """
    eye, target, down = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (eye, target, down)))
    forward = target - eye
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(down, forward)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    c2w = np.zeros((*eye.shape[:-1], 4, 4))
    c2w[..., :3, 0], c2w[..., :3, 1], c2w[..., :3, 2] = right, np.cross(forward, right), forward
    c2w[..., :3, 3], c2w[..., 3, 3] = eye, 1.0
    return c2w


def axis_rotation(axis: ArrayLike, angle: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) by angle (...) in radians about a unit axis (3,), right-handed."""
    x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.asarray(angle, np.float64)[..., None, None]
    rotation: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return rotation


def rotation_from_vector(vector: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3): right-handed about the vector by its length, rad."""
    vector = np.asarray(vector, np.float64)
    half = np.linalg.norm(vector, axis=-1, keepdims=True) / 2
    return matrix_from_quaternion(np.concatenate([np.cos(half), vector * np.sinc(half / np.pi) / 2], -1))
