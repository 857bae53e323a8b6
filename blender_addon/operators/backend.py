"""Start, stop and test the backend."""

from __future__ import annotations

import time

import bpy
from retake_shared.errors import RetakeError

from .. import preferences, rendering


class RETAKE_OT_start_backend(bpy.types.Operator):
    """Find the generation backend, or start it. It goes on with its jobs when Blender closes"""

    bl_idname = "retake.start_backend"
    bl_label = "Start"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        cls.poll_message_set("The backend runs already")
        return rendering.backend().state not in ("starting", "ready")

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.link(context).start()
        return {"FINISHED"}


class RETAKE_OT_stop_backend(bpy.types.Operator):
    """Stop the generation backend. A take that is being rendered can be continued later"""

    bl_idname = "retake.stop_backend"
    bl_label = "Stop"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        cls.poll_message_set("The backend is off")
        return rendering.backend().state != "off"

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.link(context).stop()
        return {"FINISHED"}


class RETAKE_OT_test_backend(bpy.types.Operator):
    """Say which backend answers, and how fast"""

    bl_idname = "retake.test_backend"
    bl_label = "Test"

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            with preferences.backend_place(context).reach(start=False) as client:
                began = time.perf_counter()
                info = client.hello()
                milliseconds = 1000 * (time.perf_counter() - began)
        except RetakeError as error:
            self.report({"WARNING"}, str(error))
            return {"CANCELLED"}
        engines = ", ".join(engine["name"] for engine in info.engines) or "not known yet"
        self.report(
            {"INFO"},
            f"Retake backend {info.software} answers in {milliseconds:.1f} ms. Worker: {info.worker}, "
            f"device: {info.device or 'not known yet'}, engines: {engines}",
        )
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory(
    (RETAKE_OT_start_backend, RETAKE_OT_stop_backend, RETAKE_OT_test_backend)
)
