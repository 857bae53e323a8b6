"""Choose an object of the shot from the sidebar, so that the viewport's tools act on its handle."""

from __future__ import annotations

import bpy
from bpy.props import StringProperty


class RETAKE_OT_select_object(bpy.types.Operator):
    """Select this object's handle: move, rotate or scale it, then key it with I"""

    bl_idname = "retake.select_object"
    bl_label = "Select Object"
    bl_options = {"REGISTER", "UNDO"}

    handle: StringProperty(name="Handle", description="Name of the empty", options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("Leave edit mode first")
        return context.mode == "OBJECT"

    def execute(self, context: bpy.types.Context) -> set[str]:
        handle = context.view_layer.objects.get(self.handle)
        if handle is None:
            self.report({"ERROR"}, f"{self.handle} is not in this view layer. Include its collection.")
            return {"CANCELLED"}
        for selected in context.selected_objects:
            selected.select_set(False)
        context.view_layer.objects.active = handle
        handle.select_set(True)
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory((RETAKE_OT_select_object,))
