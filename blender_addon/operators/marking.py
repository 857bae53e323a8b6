"""Pointing at what moves in footage, so that the next solve makes objects of it."""

from __future__ import annotations

import bpy
from bpy.props import FloatProperty, IntProperty, StringProperty
from retake_shared.clicks import MODEL
from retake_shared.errors import BadShot, RetakeError

from .. import models
from ..scene import marking, shots


def why_no_marks() -> str:
    """Why marks would be of no use: what follows them is known to be missing; "" otherwise."""
    model = models.find(MODEL)
    if model is None or model.state == "installed":
        return ""
    return f"{model.label} ({models.size_in_words(model.nbytes)}, {model.licence}) is not here: get it in the panel"


class RETAKE_OT_mark_moving(bpy.types.Operator):
    """Click on each thing that moves by itself, in a view through the footage's camera or in the Movie Clip Editor. The next solve makes an object of each"""

    bl_idname = "retake.mark_moving"
    bl_label = "Mark What Moves"
    bl_options = {"UNDO"}

    frame: IntProperty(name="Frame", description="Of the footage, counted from 1", options={"SKIP_SAVE"})
    x: FloatProperty(name="X", description="Pixels of the footage from the left", default=-1.0, options={"SKIP_SAVE"})
    y: FloatProperty(name="Y", description="Pixels of the footage from the top", default=-1.0, options={"SKIP_SAVE"})
    name: StringProperty(
        name="Object",
        description="Marks of one name are one object. Empty: an object of its own",
        options={"SKIP_SAVE"},
    )
    clip: StringProperty(
        name="Clip",
        description="The footage's movie clip. Empty: that of the editor or the shot",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        reason = why_no_marks()
        if not bpy.data.movieclips:
            reason = "Import a shot, or open footage in the Movie Clip Editor, first"
        cls.poll_message_set(reason)
        return not reason

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            clip = bpy.data.movieclips.get(self.clip) if self.clip else marking.clip_in(context)
            if clip is None:
                raise BadShot(f'there is no clip "{self.clip}".', "clip", "Import a shot, or name a movie clip.")
            marking.add(clip, self.frame, self.x, self.y, self.name)
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        _redraw(context)
        return {"FINISHED"}

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        self._area, self._added, self._camera = context.area, 0, None
        if self._area is None or self._area.type not in ("VIEW_3D", "CLIP_EDITOR"):
            self.report({"ERROR"}, "Start it in a 3D view or in the Movie Clip Editor.")
            return {"CANCELLED"}
        if self._area.type == "VIEW_3D":
            self._look_through(context)
        context.window_manager.modal_handler_add(self)
        self._tell()
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        done = event.type in {"RIGHTMOUSE", "ESC", "RET", "NUMPAD_ENTER"} and event.value == "PRESS"
        if done or not self._in_sight(context):
            return self._end(context)
        if event.type == "LEFTMOUSE" and event.value == "PRESS":
            at = self._place(context, event)
            if at is not None:
                view, (x, y) = at
                marking.add(view.clip, view.frame, x, y)
                self._added += 1
                self._tell()
                _redraw(context)
                return {"RUNNING_MODAL"}
        return {"PASS_THROUGH"}  # the timeline, the sidebar and the wheel work meanwhile

    def cancel(self, context: bpy.types.Context) -> None:
        self._end(context)

    def _place(
        self, context: bpy.types.Context, event: bpy.types.Event
    ) -> tuple[marking.View, tuple[float, float]] | None:
        """What is under the mouse: the view and px of the footage; None beside the picture and over other regions."""
        x, y = event.mouse_x, event.mouse_y
        under = [r for r in self._area.regions if r.x <= x < r.x + r.width and r.y <= y < r.y + r.height]
        if not under or any(region.type != "WINDOW" for region in under):  # sidebars may lie over the picture
            return None
        region = under[0]
        view = marking.view_of(context, self._area, region)
        at = None if view is None else view.place(x - region.x, y - region.y)
        return None if view is None or at is None else (view, at)

    def _look_through(self, context: bpy.types.Context) -> None:
        """Turn the view to the footage; the scene's camera, or that it had none, comes back in the end."""
        root = shots.active_shot(context)
        space = self._area.spaces.active
        if root is not None and root.retake.source_camera is not None and not space.use_local_camera:
            self._camera = context.scene.camera.name if context.scene.camera is not None else ""
            context.scene.camera = root.retake.source_camera
            space.region_3d.view_perspective = "CAMERA"

    def _in_sight(self, context: bpy.types.Context) -> bool:
        """Whether the area is still in the window: meanwhile it may be joined to another, or the workspace changed."""
        return context.window is not None and self._area in context.window.screen.areas[:]

    def _tell(self) -> None:
        marked = f"{self._added} marked" if self._added else "Click on each thing that moves by itself"
        self._area.header_text_set(f"{marked}   |   Once in a frame where it is seen well   |   Enter or Esc: done")

    def _end(self, context: bpy.types.Context) -> set[str]:
        if any(self._area in screen.areas[:] for screen in bpy.data.screens):  # else its memory is freed
            self._area.header_text_set(None)
        # By name: undo, which works meanwhile, makes all objects anew.
        camera = context.scene.objects.get(self._camera) if self._camera else None
        if camera is not None or self._camera == "":
            context.scene.camera = camera
        _redraw(context)
        return {"FINISHED"} if self._added else {"CANCELLED"}


class _MarkOperator:
    """Does something with mark `index` of the footage in view."""

    index: IntProperty(name="Mark", description="Its place in the list, from 0", min=0, options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("Nothing is marked")
        clip = marking.clip_in(context)
        return clip is not None and bool(clip.retake_marks)

    def execute(self, context: bpy.types.Context) -> set[str]:
        clip = marking.clip_in(context)
        if self.index >= len(clip.retake_marks):
            self.report({"ERROR"}, f"There is no mark {self.index}; {clip.name} has {len(clip.retake_marks)}.")
            return {"CANCELLED"}
        self.run(context, clip)
        _redraw(context)
        return {"FINISHED"}


class RETAKE_OT_remove_mark(_MarkOperator, bpy.types.Operator):
    """Take this mark away"""

    bl_idname = "retake.remove_mark"
    bl_label = "Remove Mark"
    bl_options = {"UNDO"}

    def run(self, _context: bpy.types.Context, clip: bpy.types.MovieClip) -> None:
        clip.retake_marks.remove(self.index)


class RETAKE_OT_show_mark(_MarkOperator, bpy.types.Operator):
    """Go to the frame of this mark"""

    bl_idname = "retake.show_mark"
    bl_label = "Show Mark"

    def run(self, context: bpy.types.Context, clip: bpy.types.MovieClip) -> None:
        context.scene.frame_set(clip.frame_start - clip.frame_offset + clip.retake_marks[self.index].frame - 1)


def _redraw(context: bpy.types.Context) -> None:
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", "CLIP_EDITOR"):
                area.tag_redraw()


register, unregister = bpy.utils.register_classes_factory(
    (RETAKE_OT_mark_moving, RETAKE_OT_remove_mark, RETAKE_OT_show_mark)
)
