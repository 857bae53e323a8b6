"""A frame of the footage as a picture: to be painted over elsewhere, or as the one image that a take is made from."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import StringProperty
from retake_shared.errors import RetakeError

from .. import engine_settings, errands, linked, preferences, take_requests
from ..scene import shots
from .waiting import errand_begun


class RETAKE_OT_save_first_frame(bpy.types.Operator):
    """Write the footage's first frame of the part to be rendered to a PNG file, to be painted over in another program"""

    bl_idname = "retake.save_first_frame"
    bl_label = "Save First Frame"

    filepath: StringProperty(name="File", description="The PNG to write", subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: StringProperty(default="*.png", options={"HIDDEN"})
    check_existing: bpy.props.BoolProperty(default=True, options={"HIDDEN"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = ""
        if shots.active_shot(context) is None:
            reason = "Import a shot first"
        elif preferences.backend_place(context).connection_file is not None:
            reason = "The backend is not Retake's own, and only that can write the frame here"
        elif errands.running("frame"):
            reason = "A frame is being written: wait"
        cls.poll_message_set(reason)
        return not reason

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if not self.filepath:
            shot = shots.active_shot(context).retake
            folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
            name = f"{Path(shot.footage).stem}_frame_{_first(shot):05d}.png"
            self.filepath = str(folder / name)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        root = shots.active_shot(context)
        try:
            footage = take_requests.footage_path(root)
            take_requests.settings_of(root)
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if not self.filepath:
            self.report({"ERROR"}, "No file is named. Say where to write the picture.")
            return {"CANCELLED"}
        target = Path(bpy.path.ensure_ext(bpy.path.abspath(self.filepath), ".png"))
        errands.begin("frame")
        linked.link(context).save_frame(footage, _first(root.retake), target)
        return errand_begun(self, "frame")


class RETAKE_OT_image_from_timeline(bpy.types.Operator):
    """Take the footage frame that the timeline is at"""

    bl_idname = "retake.image_from_timeline"
    bl_label = "Current Frame"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("Import a shot first")
        return shots.active_shot(context) is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        shot = shots.active_shot(context).retake
        index = min(max(context.scene.frame_current - shot.start, 0), shot.frames - 1)
        setattr(shot.options, engine_settings.identifier("trajectory-attention", "image_frame"), index)
        return {"FINISHED"}


def _first(shot: bpy.types.RetakeShot) -> int:
    """The footage frame with which the part to be rendered begins."""
    return shot.range[0] - shot.start if shot.use_range else 0


register, unregister = bpy.utils.register_classes_factory((RETAKE_OT_save_first_frame, RETAKE_OT_image_from_timeline))
