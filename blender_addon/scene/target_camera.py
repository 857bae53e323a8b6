"""The target camera's path: what it does now, as the solve's cameras; and cameras keyed onto it."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

from . import camera, curves, objects
from .evaluation import NOISE, everything_evaluated, snap


def find(scene: bpy.types.Scene, root: bpy.types.Object) -> bpy.types.Object:
    """The shot's target camera. Raises BadShot when there is none, or when it is not a perspective camera."""
    target = root.retake.target_camera
    if target is None or scene.objects.get(target.name) != target:
        raise BadShot("the shot has no camera.", root.name, "Choose one in the panel, or press Reset Camera.")
    if target.type != "CAMERA" or target.data.type != "PERSP":
        raise BadShot("it is not a perspective camera.", target.name, "Set its lens type to Perspective.")
    return target


def read(context: bpy.types.Context, root: bpy.types.Object) -> Cameras:
    """What the target camera does in every frame of the shot, everything that Blender evaluates counted. Raises BadShot.

    At once where only its own keys move it; otherwise frame by frame, the current one restored.
    """
    source = objects.current_solve(root).cameras
    target = find(context.scene, root)
    if _only_keys_move(target, root):
        return _from_keys(target, root, source)
    frames = len(source)
    roots, worlds, projections = (np.empty((frames, 4, 4)) for _ in range(3))
    with everything_evaluated(context, [root, target]):
        for frame in range(frames):
            context.scene.frame_set(root.retake.start + frame)
            depsgraph = context.evaluated_depsgraph_get()
            evaluated = target.evaluated_get(depsgraph)
            roots[frame] = root.evaluated_get(depsgraph).matrix_world
            worlds[frame], projections[frame] = evaluated.matrix_world, projection(evaluated, depsgraph, root)
    return cameras_from(source, root, roots, worlds, projections)


def write(root: bpy.types.Object, cameras: Cameras) -> None:
    """Key the target camera on every frame. What else moved it (parents, constraints, drivers, NLA) is taken off."""
    target, shot = root.retake.target_camera, root.retake
    target.constraints.clear()
    target.parent, target.matrix_parent_inverse = root, Matrix.Identity(4)
    target.delta_location, target.delta_rotation_euler = (0, 0, 0), (0, 0, 0)
    target.delta_rotation_quaternion, target.delta_scale = (1, 0, 0, 0), (1, 1, 1)
    target.scale, target.rotation_mode = (1, 1, 1), "QUATERNION"
    target.data.type = "PERSP"
    target.data.sensor_fit, target.data.sensor_width = "HORIZONTAL", camera.SENSOR_WIDTH
    camera.key(target, cameras, np.array(shot.origin), tuple(shot.pixel_aspect), shot.start)


def projection(evaluated: bpy.types.Object, depsgraph: bpy.types.Depsgraph, root: bpy.types.Object) -> Matrix:
    """The evaluated camera's projection of the footage's picture, whatever the scene's size and pixel aspect are."""
    (width, height), (aspect_x, aspect_y) = root.retake.size, root.retake.pixel_aspect
    return evaluated.calc_matrix_camera(depsgraph, x=width, y=height, scale_x=aspect_x, scale_y=aspect_y)


def cameras_from(
    source: Cameras,
    root: bpy.types.Object,
    roots: NDArray[np.float64],
    worlds: NDArray[np.float64],
    projections: NDArray[np.float64],
) -> Cameras:
    """Cameras from what Blender evaluated, (T, 4, 4) each: matrices of the root and the camera, projections.

    Where a value is within float32 noise of the source camera's, it is the source's.
    """
    origin = np.array(root.retake.origin)
    to_local = np.linalg.inv(roots)
    grow = np.linalg.norm(to_local[:, :3, :3], 2, axis=(1, 2))
    c2w = camera.poses_from_matrices(to_local @ worlds)
    far = np.linalg.norm(worlds[:, :3, 3], axis=1) + np.linalg.norm(roots[:, :3, 3], axis=1)
    # Compared in the root's space, where the noise is; what is the source's stays free of "- origin + origin".
    rest = source.c2w[:, :3, 3] - origin
    at_rest = (snap(c2w[:, :3, 3], rest, NOISE * grow * far) == rest).all(1)
    c2w[:, :3, 3] += origin
    c2w[at_rest, :3, 3] = source.c2w[at_rest, :3, 3]
    unturned = np.abs(c2w[:, :3, :3] - source.c2w[:, :3, :3]).max((1, 2)) < NOISE
    c2w[unturned, :3, :3] = source.c2w[unturned, :3, :3]

    K = camera.intrinsics_from_projection(
        projections, source.K, source.width, source.height, tuple(root.retake.pixel_aspect)
    )
    noise = NOISE * np.maximum(np.abs(source.K), source.width)
    return Cameras(c2w, np.where(np.abs(K - source.K) <= noise, source.K, K), source.width, source.height)


def _only_keys_move(target: bpy.types.Object, root: bpy.types.Object) -> bool:
    """Whether keys of location, quaternion, lens and shift are all that moves the camera within the shot."""
    if target.parent != root or target.parent_type != "OBJECT" or target.rotation_mode != "QUATERNION":
        return False
    plain = (
        target.matrix_parent_inverse == Matrix.Identity(4)
        and not len(target.constraints)
        and not any(target.delta_location)
        and tuple(target.delta_rotation_quaternion) == (1, 0, 0, 0)
        and tuple(target.delta_scale) == (1, 1, 1)
        and target.data.sensor_fit == "HORIZONTAL"
        and target.data.sensor_width == camera.SENSOR_WIDTH
    )
    for id_ in (target, target.data):
        animation = id_.animation_data
        if animation is not None and (len(animation.drivers) or len(animation.nla_tracks)):
            return False
    return plain and not target.hide_viewport


def _from_keys(target: bpy.types.Object, root: bpy.types.Object, source: Cameras) -> Cameras:
    frames, shot = len(source), root.retake
    location = _channels(target, "location", 3, shot.start, frames)
    rotation = _channels(target, "rotation_quaternion", 4, shot.start, frames)
    lens, shift_x, shift_y = (
        _channels(target.data, path, 1, shot.start, frames)[:, 0] for path in ("lens", "shift_x", "shift_y")
    )
    local = np.tile(np.eye(4), (frames, 1, 1))
    local[:, :3, :3] = geometry.matrix_from_quaternion(rotation)
    local[:, :3, 3] = location
    aspect_x, aspect_y = shot.pixel_aspect
    projections = np.zeros((frames, 4, 4))
    projections[:, 0, 0] = 2 * lens / camera.SENSOR_WIDTH
    projections[:, 1, 1] = projections[:, 0, 0] * source.width / source.height * aspect_x / aspect_y
    projections[:, 0, 2] = 2 * shift_x
    projections[:, 1, 2] = 2 * shift_y * source.width / source.height * aspect_x / aspect_y
    return cameras_from(source, root, np.tile(np.eye(4), (frames, 1, 1)), local, projections)


def _channels(id_: bpy.types.ID, path: str, count: int, start: int, frames: int) -> NDArray[np.float64]:
    """Values (T, count) of a property, keyed or not."""
    value = getattr(id_, path)
    values = np.tile(np.atleast_1d(np.array(value, np.float64)), (frames, 1))
    fcurves = curves.curves_of(id_)
    for index in range(count):
        fcurve = fcurves.find(path, index=index) if fcurves else None
        if fcurve is not None and not fcurve.mute:
            values[:, index] = [fcurve.evaluate(start + frame) for frame in range(frames)]
    return values
