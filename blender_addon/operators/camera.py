"""Camera presets: each adds a move to what the target camera does now and keys the result on every frame."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, IntVectorProperty, StringProperty
from mathutils import Vector
from retake_shared import camera_moves
from retake_shared.shot import Cameras

from ..scene import camera, objects, target_camera
from .editing import ShotOperator, chosen_handle, footage_frame

EASES = (
    ("smooth", "Smooth", "Start and stop at rest"),
    ("linear", "Linear", "The same speed all the way"),
)

PIVOTS = (
    ("SHOT", "Middle of the shot", "On the view axis of the middle frame, at the shot's depth"),
    ("OBJECT", "Object", "The middle of an object's tracks, where its handle has them now"),
    ("CURSOR", "3D cursor", "Where the 3D cursor is"),
)


class MoveOperator(ShotOperator):
    """A preset. `move` is the pure function; it gets the cameras in the solve's world and the frame range."""

    frames: IntVectorProperty(
        name="Frames",
        description="First and last scene frame of the move; afterwards it is held. 0 0: the whole shot",
        size=2,
        default=(0, 0),
        options={"SKIP_SAVE"},
    )
    ease: EnumProperty(name="Ease", items=EASES, default="smooth")

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        cameras = target_camera.read(context, root)
        target_camera.write(root, self.move(context, root, cameras))
        return ""

    def move(self, context: bpy.types.Context, root: bpy.types.Object, cameras: Cameras) -> Cameras:
        raise NotImplementedError

    def range(self, root: bpy.types.Object) -> tuple[int, int] | None:
        """Footage frames (start, stop), or None for all."""
        first, last = self.frames
        return None if first == last == 0 else (first - root.retake.start, last + 1 - root.retake.start)


class PivotOperator(MoveOperator):
    """A `MoveOperator` about a point."""

    pivot: EnumProperty(name="About", items=PIVOTS, default="SHOT")
    object: StringProperty(name="Object", description="Empty: that of the active handle or track")

    def pivot_point(self, context: bpy.types.Context, root: bpy.types.Object) -> np.ndarray:
        """(3,) in the solve's world."""
        if self.pivot == "SHOT" and not self.object:
            return camera_moves.default_pivot(objects.current_solve(root), frames=self.range(root))
        if self.pivot == "CURSOR":
            place = context.scene.cursor.location
        else:
            handle = chosen_handle(context, self.object)
            own = handle.retake_handle
            middle = camera_moves.default_pivot(objects.current_solve(root), own.copy_of, self.range(root))
            place = handle.matrix_world @ Vector(middle - np.array(root.retake.origin) - np.array(own.centre))
        return np.array(root.matrix_world.inverted() @ place) + np.array(root.retake.origin)


class RETAKE_OT_orbit(PivotOperator, bpy.types.Operator):
    """Travel on a circle around a point while looking the same way at it"""

    bl_idname = "retake.orbit"
    bl_label = "Orbit"

    degrees: FloatProperty(name="Degrees", description="Positive: to the camera's right", default=15.0)

    def move(self, context: bpy.types.Context, root: bpy.types.Object, cameras: Cameras) -> Cameras:
        point, up = self.pivot_point(context, root), camera_moves.mean_up(objects.current_solve(root).cameras)
        return camera_moves.orbit(cameras, self.degrees, point, self.range(root), self.ease, axis=up)


class RETAKE_OT_dolly(MoveOperator, bpy.types.Operator):
    """Travel forward, or back, along the view"""

    bl_idname = "retake.dolly"
    bl_label = "Dolly"

    distance: FloatProperty(name="Distance", description="Negative: back", default=0.5, unit="LENGTH")

    def move(self, _context: bpy.types.Context, root: bpy.types.Object, cameras: Cameras) -> Cameras:
        return camera_moves.dolly(cameras, self.distance, self.range(root), self.ease)


class RETAKE_OT_push_in(PivotOperator, bpy.types.Operator):
    """Travel toward a point, by a share of the way to it"""

    bl_idname = "retake.push_in"
    bl_label = "Push In"

    factor: FloatProperty(name="Share", description="Of the way to the point; negative: away", default=0.25, max=0.99)
    keep_size: BoolProperty(name="Dolly zoom", description="Zoom out meanwhile, so that what is there keeps its size")

    def move(self, context: bpy.types.Context, root: bpy.types.Object, cameras: Cameras) -> Cameras:
        point = self.pivot_point(context, root)
        return camera_moves.push_in(cameras, self.factor, point, self.range(root), self.ease, self.keep_size)


class RETAKE_OT_freeze_camera(ShotOperator, bpy.types.Operator):
    """Hold the camera of one frame through the whole shot, while the objects go on"""

    bl_idname = "retake.freeze_camera"
    bl_label = "Freeze"

    frame: IntProperty(
        name="Frame", description="Scene frame to hold. -1: the current one", default=-1, options={"SKIP_SAVE"}
    )

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        at = footage_frame(context, root, self.frame)
        target_camera.write(root, camera_moves.freeze(target_camera.read(context, root), at))
        return ""


class RETAKE_OT_reset_camera(ShotOperator, bpy.types.Operator):
    """Put the camera back on the footage's own path. Its keys and constraints are deleted"""

    bl_idname = "retake.reset_camera"
    bl_label = "Reset Camera"

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        shot = root.retake
        cameras = objects.current_solve(root).cameras
        if shot.target_camera is None or shot.target_camera.name not in context.scene.objects:
            name = f"{root.name} camera"
            made = camera.create(name, cameras, np.array(shot.origin), tuple(shot.pixel_aspect), shot.start)
            made.retake_role, made.parent = "TARGET_CAMERA", root
            objects.collection_of(root).objects.link(made)
            if shot.source_camera is not None:
                like = shot.source_camera.data
                made.data.clip_start, made.data.clip_end = like.clip_start, like.clip_end
                made.data.display_size = like.display_size
            if shot.clip is not None:
                camera.show_footage(made, shot.clip, 0.5)
            shot.target_camera = context.scene.camera = made
        target_camera.write(root, cameras)
        return ""


register, unregister = bpy.utils.register_classes_factory(
    (RETAKE_OT_orbit, RETAKE_OT_dolly, RETAKE_OT_push_in, RETAKE_OT_freeze_camera, RETAKE_OT_reset_camera)
)
