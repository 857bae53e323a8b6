"""The shot in Blender's world: which way is up, where the ground is, how large a metre is. Only the root changes, so no
edit does."""

from __future__ import annotations

from collections.abc import Sequence

import bpy
import numpy as np
from mathutils import Matrix, Vector
from numpy.typing import NDArray
from retake_shared.errors import BadShot

from . import objects

_FLAT = 1e-3
"""Points whose second direction is shorter than this share of the first lie on a line."""


def selected_points(context: bpy.types.Context, root: bpy.types.Object) -> NDArray[np.float64]:
    """(N, 3) in Blender's world: where the selected tracks of the shot are at the current frame."""
    chosen = [ob for ob in context.selected_objects if ob.retake_track >= 0 and objects.root_of(ob) == root]
    return np.array([ob.matrix_world.translation for ob in chosen], np.float64).reshape(-1, 3)


def lay_on_ground(context: bpy.types.Context, root: bpy.types.Object, points: NDArray[np.float64]) -> float:
    """Turn and move the root so that the plane through points (N, 3), of Blender's world, is Z = 0, the camera above it.

    Returns how far the points are from it then, in world units. Raises BadShot.
    """
    if len(points) < 3:
        raise BadShot(f"{len(points)} tracks are selected.", root.name, "Select three or more that lie on the ground.")
    middle = points.mean(0)
    _, lengths, axes = np.linalg.svd(points - middle)
    if lengths[1] <= _FLAT * lengths[0]:
        raise BadShot("the selected tracks lie on a line.", root.name, "Select one more beside them.")
    normal, camera = Vector(axes[2]), root.retake.source_camera
    above = (camera.matrix_world.translation if camera is not None else Vector(middle) + Vector((0, 0, 1))) - Vector(
        middle
    )
    if normal.dot(above) < 0:
        normal.negate()
    turn = normal.rotation_difference(Vector((0, 0, 1))).to_matrix().to_4x4()
    about = Matrix.Translation(middle)
    down = Matrix.Translation((0, 0, -float(middle[2])))
    _place(context, root, down @ about @ turn @ about.inverted() @ root.matrix_world)
    return float(np.sqrt(np.mean(((points - middle) @ axes[2]) ** 2)))


def scale_to(context: bpy.types.Context, root: bpy.types.Object, points: NDArray[np.float64], distance: float) -> float:
    """Scale the root about the world's origin so that two points (2, 3), of Blender's world, are `distance` apart.

    Returns the factor. Raises BadShot.
    """
    now = distance_of(root, points)
    if not distance > 0:
        raise BadShot(f"a distance of {distance:g}.", root.name, "Give one above 0.")
    factor = distance / now
    _place(context, root, Matrix.Scale(factor, 4) @ root.matrix_world)
    for camera in (root.retake.source_camera, root.retake.target_camera):
        if camera is not None and camera.type == "CAMERA":
            camera.data.clip_start, camera.data.clip_end = (
                camera.data.clip_start * factor,
                camera.data.clip_end * factor,
            )
    return factor


def distance_of(root: bpy.types.Object, points: NDArray[np.float64]) -> float:
    """Between two points (2, 3). Raises BadShot when they are not two, or at the same place."""
    if len(points) != 2:
        raise BadShot(f"{len(points)} tracks are selected.", root.name, "Select the two whose distance you know.")
    now = float(np.linalg.norm(points[1] - points[0]))
    if now < 1e-9:
        raise BadShot("the two tracks are at the same place.", root.name, "Select two that are apart.")
    return now


def _place(context: bpy.types.Context, root: bpy.types.Object, matrix: Matrix | Sequence[Sequence[float]]) -> None:
    animation = root.animation_data
    if animation is not None and (animation.action is not None or len(animation.drivers)):
        raise BadShot("the root is animated.", root.name, "Delete its keys first: they would move it back.")
    root.matrix_world = matrix
    context.view_layer.update()
