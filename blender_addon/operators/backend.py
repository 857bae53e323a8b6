"""Start, stop and test the backend."""

from __future__ import annotations

import bpy

from .. import linked
from .waiting import answered


class RETAKE_OT_start_backend(bpy.types.Operator):
    """Find the generation backend, or start it. It goes on with its jobs when Blender closes"""

    bl_idname = "retake.start_backend"
    bl_label = "Start"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        cls.poll_message_set("The backend runs already")
        return linked.backend().state not in ("starting", "ready")

    def execute(self, context: bpy.types.Context) -> set[str]:
        return answered(self, linked.link(context).start(), "ready")


class RETAKE_OT_stop_backend(bpy.types.Operator):
    """Stop the generation backend. A take that is being rendered can be continued later"""

    bl_idname = "retake.stop_backend"
    bl_label = "Stop"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        cls.poll_message_set("The backend is off")
        return linked.backend().state != "off"

    def execute(self, context: bpy.types.Context) -> set[str]:
        return answered(self, linked.link(context).stop(), "off")


class RETAKE_OT_test_backend(bpy.types.Operator):
    """Say which backend answers and how fast, without starting one"""

    bl_idname = "retake.test_backend"
    bl_label = "Test"

    def execute(self, context: bpy.types.Context) -> set[str]:
        return answered(self, linked.link(context).test(), "ready")


register, unregister = bpy.utils.register_classes_factory(
    (RETAKE_OT_start_backend, RETAKE_OT_stop_backend, RETAKE_OT_test_backend)
)
