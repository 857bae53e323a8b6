"""Where things are: the shot's ground and scale in the world, and how far an object is from the footage's camera."""

from __future__ import annotations

import math

import bpy
from bpy.props import BoolProperty, FloatProperty
from retake_shared.errors import RetakeError

from ..scene import objects, placing, shots, view_ray
from .editing import ObjectOperator, ShotOperator

_DRAG = 300.0
"""Pixels of mouse movement that change the depth e-fold."""


class RETAKE_OT_ground_from_selection(ShotOperator, bpy.types.Operator):
    """Turn and move the whole shot so that the selected tracks, three or more, lie on the ground. No edit changes"""

    bl_idname = "retake.ground_from_selection"
    bl_label = "Ground From Selection"

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        off = placing.lay_on_ground(context, root, placing.selected_points(context, root))
        return f"The ground is at Z = 0; the tracks are {off:.3g} from it on average"


class RETAKE_OT_scale_from_distance(ShotOperator, bpy.types.Operator):
    """Scale the whole shot so that two selected tracks are as far apart as they were in reality. No edit changes"""

    bl_idname = "retake.scale_from_distance"
    bl_label = "Scale From Distance"

    distance: FloatProperty(
        name="Distance", description="Between the two selected tracks", default=1.0, min=0.0, unit="LENGTH"
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        root = shots.active_shot(context)
        try:
            self.distance = placing.distance_of(root, placing.selected_points(context, root))
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return context.window_manager.invoke_props_dialog(self, confirm_text="Scale")

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        factor = placing.scale_to(context, root, placing.selected_points(context, root), self.distance)
        return f"The shot is {factor:.4g} times as large"


class RETAKE_OT_slide_depth(ObjectOperator, bpy.types.Operator):
    """Bring an object nearer or farther along the view rays: the footage's camera sees it as before. Drag the mouse, Shift for small steps"""

    bl_idname = "retake.slide_depth"
    bl_label = "Slide Depth"
    bl_options = {"REGISTER", "UNDO", "GRAB_CURSOR", "BLOCKING"}

    depth: FloatProperty(
        name="Depth", description="As a multiple of the object's own", default=1.0, min=0.01, soft_max=4.0
    )
    key: BoolProperty(name="Key", description="Set a key at the current frame", options={"SKIP_SAVE"})

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        handle = self.handle(context)
        view_ray.slide(root, handle, self.depth)
        if self.key:
            handle.keyframe_insert(view_ray.DEPTH)
        return ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        try:
            self._handle = self.handle(context)
            view_ray.ensure_rail(shots.active_shot(context), self._handle)
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.object = objects.addresses(shots.active_shot(context)).get(self._handle, "")
        self._before = self.depth = self._handle.retake_handle.depth
        self._x = event.mouse_x
        context.window_manager.modal_handler_add(self)
        self._tell(context)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type == "MOUSEMOVE":
            step = (event.mouse_x - self._x) / _DRAG * (0.1 if event.shift else 1.0)
            self._x = event.mouse_x
            self.depth = self.depth * math.exp(step)
            self._handle.retake_handle.depth = self.depth
            self._tell(context)
        elif event.type in {"LEFTMOUSE", "RET", "NUMPAD_ENTER"} and event.value == "PRESS":
            context.area.header_text_set(None)
            return self.execute(context)
        elif event.type in {"RIGHTMOUSE", "ESC"}:
            self._handle.retake_handle.depth = self._before
            if self._before == 1.0 and not objects.is_keyed(self._handle, view_ray.DEPTH):
                view_ray.remove_rail(shots.active_shot(context), self._handle)
            context.area.header_text_set(None)
            return {"CANCELLED"}
        return {"RUNNING_MODAL"}

    def _tell(self, context: bpy.types.Context) -> None:
        words = f"{self._handle.retake_handle.label}: depth × {self.depth:.3f}"
        context.area.header_text_set(f"{words}   |   Shift: small steps, Enter: done, Esc: back")


register, unregister = bpy.utils.register_classes_factory(
    (RETAKE_OT_ground_from_selection, RETAKE_OT_scale_from_distance, RETAKE_OT_slide_depth)
)
