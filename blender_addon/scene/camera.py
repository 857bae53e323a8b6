"""Cameras between the solver's convention and Blender's.

A solver's camera looks along its +z with y down and has fx, fy, cx, cy in px; Blender's looks along its -z with y up
and has a lens in mm and a shift in picture widths, and the ratio fx / fy is the scene's pixel aspect, one for all
frames. Exact to 5e-4 px, the precision of Blender's float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix, Vector
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.shot import Cameras

from . import curves

SENSOR_WIDTH = 36.0
"""mm; with a horizontal fit, so that lens / SENSOR_WIDTH = fx / picture width."""

LEVEL = np.radians(20)
"""How far a camera may look up or down on average and still be taken for level."""

OPENCV_TO_BLENDER = np.diag([1.0, -1.0, -1.0, 1.0])
"""c2w_blender = c2w_opencv @ OPENCV_TO_BLENDER, and back."""


@dataclass(frozen=True)
class Lens:
    """What Blender's camera data holds, per frame: lens (T,) mm, shift_x and shift_y (T,) in picture widths."""

    lens: NDArray[np.float64]
    shift_x: NDArray[np.float64]
    shift_y: NDArray[np.float64]


def pixel_aspect(cameras: Cameras) -> tuple[float, float]:
    """The scene's pixel aspect (x, y), both >= 1, for cameras whose fx and fy differ; the median over the frames."""
    ratio = float(np.median(cameras.K[:, 0, 0] / cameras.K[:, 1, 1]))
    if abs(ratio - 1) < 1e-6:
        return 1.0, 1.0
    return (1.0, ratio) if ratio > 1 else (1 / ratio, 1.0)


def lens_of(cameras: Cameras, aspect: tuple[float, float]) -> Lens:
    """Lens and shifts of the cameras in a scene with that pixel aspect. fx, cx and cy are kept; fy follows fx."""
    width, height = cameras.width, cameras.height
    return Lens(
        lens=cameras.K[:, 0, 0] * SENSOR_WIDTH / width,
        shift_x=(width / 2 - cameras.K[:, 0, 2]) / width,
        shift_y=(cameras.K[:, 1, 2] - height / 2) / width * (aspect[1] / aspect[0]),
    )


def intrinsics_from_projection(
    projection: NDArray[np.float64], rest: NDArray[np.float64], width: int, height: int, aspect: tuple[float, float]
) -> NDArray[np.float64]:
    """K (T, 3, 3) from Blender's projection matrices (T, 4, 4), `Object.calc_matrix_camera` at width x height.

    rest (T, 3, 3): the source cameras' K. What one pixel aspect for all frames cannot hold (fx / fy and skew that
    differ from frame to frame) comes from there.
    """
    K = np.array(rest, np.float64)
    fx = projection[:, 0, 0] * width / 2
    fy = projection[:, 1, 1] * height / 2 * (aspect[1] / aspect[0])  # in Blender fy = fx / aspect; so this is fx again
    scale_x, scale_y = fx / rest[:, 0, 0], fy / rest[:, 0, 0]
    K[:, 0, 0] *= scale_x
    K[:, 0, 1] *= scale_x
    K[:, 1, 1] *= scale_y
    K[:, 0, 2] = width / 2 * (1 - projection[:, 0, 2])
    K[:, 1, 2] = height / 2 * (1 + projection[:, 1, 2])
    return K


def poses_from_matrices(local: NDArray[np.float64]) -> NDArray[np.float64]:
    """c2w (T, 4, 4), OpenCV axes, from camera matrices (T, 4, 4) in the root's space, whatever their scale.

    Blender's camera ignores its own scale: the view direction and the up axis decide.
    """
    matrices = local @ OPENCV_TO_BLENDER
    forward = matrices[:, :3, 2] / np.linalg.norm(matrices[:, :3, 2], axis=1, keepdims=True)
    right = np.cross(matrices[:, :3, 1], forward)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    poses = np.tile(np.eye(4), (len(local), 1, 1))
    poses[:, :3, 0], poses[:, :3, 1], poses[:, :3, 2] = right, np.cross(forward, right), forward
    poses[:, :3, 3] = matrices[:, :3, 3]
    return poses


def up_rotation(cameras: Cameras) -> Matrix:
    """Rotation that stands the shot upright: up in the pictures becomes Blender's +Z, the mean view direction +Y.

    Up is the world axis within LEVEL of the pictures' mean up, as most solvers' worlds have one and a camera that
    looks down a little must not tilt the ground; without such an axis it is the mean itself. A world whose +z is up
    stays as it is.
    """
    down, forward = cameras.c2w[:, :3, 1].mean(0), cameras.c2w[:, :3, 2].mean(0)
    up = _nearest_axis(-down if np.linalg.norm(down) > 1e-3 else np.array([0.0, -1.0, 0.0]))
    if up[2] == 1:
        return Matrix.Identity(3)
    forward = forward - up * (forward @ up)
    if np.linalg.norm(forward) < 1e-3:  # straight up or down, or all round: any heading will do
        forward = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    forward = _nearest_axis(forward)
    forward = forward - up * (forward @ up)
    forward /= np.linalg.norm(forward)
    return Matrix(np.stack([np.cross(forward, up), forward, up]).tolist())


def _nearest_axis(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """The world axis within LEVEL of a direction (3,), else the direction itself, normalised."""
    direction = direction / np.linalg.norm(direction)
    axis = np.zeros(3)
    largest = np.argmax(np.abs(direction))
    axis[largest] = np.sign(direction[largest])
    return axis if direction @ axis > np.cos(LEVEL) else direction


def create(
    name: str, cameras: Cameras, origin: NDArray[np.float64], aspect: tuple[float, float], start: int
) -> bpy.types.Object:
    """A camera object, in no collection yet, keyed on every frame; its parent's space is the solve's world - origin."""
    data = bpy.data.cameras.new(name)
    data.sensor_fit, data.sensor_width = "HORIZONTAL", SENSOR_WIDTH
    camera = bpy.data.objects.new(name, data)
    camera.rotation_mode = "QUATERNION"
    key(camera, cameras, origin, aspect, start)
    return camera


def key(
    camera: bpy.types.Object, cameras: Cameras, origin: NDArray[np.float64], aspect: tuple[float, float], start: int
) -> None:
    """Key the camera, which must use quaternions, on every frame; lens and shift are keyed when they change.

    Keys outside the frames start .. start + T - 1 and all other curves are removed.
    """
    matrices = cameras.c2w @ OPENCV_TO_BLENDER
    location = matrices[:, :3, 3] - origin
    rotation = geometry.continuous_quaternions(geometry.quaternion_from_matrix(matrices[:, :3, :3]))
    _replace_curves(camera, f"{camera.name} motion", {"location": location, "rotation_quaternion": rotation}, start)
    camera.location, camera.rotation_quaternion = Vector(location[0]), rotation[0]

    lens = lens_of(cameras, aspect)
    moving = {
        path: values[:, None]
        for path, values in vars(lens).items()
        if np.ptp(values) > 1e-9 * max(1.0, abs(float(values[0])))
    }
    _replace_curves(camera.data, f"{camera.name} lens", moving, start)
    for path, values in vars(lens).items():
        setattr(camera.data, path, float(values[0]))


def _replace_curves(id_: bpy.types.ID, name: str, values: dict[str, NDArray[np.float64]], start: int) -> None:
    if id_.animation_data is not None:
        old = id_.animation_data.action
        id_.animation_data_clear()
        if old is not None:
            curves.remove_actions_without_users([old])
    if values:
        fcurves = curves.ActionWriter(name).curves_for(id_)
        for path, channels in values.items():
            curves.write(fcurves, path, channels, start)


def lock(camera: bpy.types.Object) -> None:
    """Keep the artist from moving the footage's own camera by accident."""
    camera.lock_location = camera.lock_rotation = camera.lock_scale = (True, True, True)
    camera.lock_rotation_w = camera.lock_rotations_4d = True
    camera.hide_select = True


def show_footage(camera: bpy.types.Object, clip: bpy.types.MovieClip, alpha: float) -> None:
    """The clip fills the camera's frame as its background. It plays by frame number, whatever the scene's rate."""
    data = camera.data
    data.show_background_images = True
    background = data.background_images.new()
    background.source, background.clip = "MOVIE_CLIP", clip
    background.frame_method = "STRETCH"  # a pixel aspect other than 1 changes the frame's shape, not the footage's
    background.alpha = alpha
