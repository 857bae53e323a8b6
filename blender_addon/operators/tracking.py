"""Between shots and Blender's motion tracking: a solved clip as a shot, a shot as a clip."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty
from retake_shared.errors import RetakeError

from ..scene import shots, tracking
from .importing import look_through_camera


def _clips(_self: bpy.types.Operator, _context: bpy.types.Context | None) -> list[tuple[str, str, str]]:
    items = [(clip.name, clip.name, clip.filepath) for clip in tracking.solved_clips()]
    _clips.kept = items  # Blender keeps no reference to these words
    return items


class RETAKE_OT_import_clip(bpy.types.Operator):
    """Make a shot of a movie clip whose camera Blender has solved: its camera, its tracks and its tracking objects"""

    bl_idname = "retake.import_clip"
    bl_label = "Shot From Solved Clip"
    bl_options = {"REGISTER", "UNDO"}
    bl_property = "clip"

    clip: EnumProperty(name="Clip", items=_clips)
    set_scene: BoolProperty(
        name="Set up the scene",
        description="Give the scene the footage's frame rate, size, range and a neutral view transform",
        default=True,
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.mode != "OBJECT":
            cls.poll_message_set("Leave edit mode first")
            return False
        cls.poll_message_set("Solve a clip's camera in the Movie Clip Editor first")
        return bool(tracking.solved_clips())

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        shown = getattr(context.space_data, "clip", None)
        if shown in tracking.solved_clips():
            self.clip = shown.name
        return context.window_manager.invoke_props_dialog(self, confirm_text="Import")

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            root = tracking.import_clip(context, bpy.data.movieclips[self.clip], set_scene=self.set_scene)
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        for line in filter(None, root.retake.report.splitlines()):
            self.report({"INFO"}, line)
        look_through_camera(context)
        return {"FINISHED"}


class RETAKE_OT_clip_from_shot(bpy.types.Operator):
    """Make a movie clip of the shot, with its lens and its tracks as 2D tracks, for Blender's tracking tools"""

    bl_idname = "retake.clip_from_shot"
    bl_label = "Movie Clip With Tracks"
    bl_options = {"REGISTER", "UNDO"}

    limit: IntProperty(
        name="Tracks", description="At most so many, even over the picture", default=tracking.DEFAULT_MARKERS, min=8
    )
    solve: BoolProperty(
        name="Solve",
        description="Have Blender solve the clip, and add a camera that follows it, laid over the shot's own. Blender's "
        "Python cannot hand a finished solution over",
        default=True,
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.mode != "OBJECT":
            cls.poll_message_set("Leave edit mode first")
            return False
        cls.poll_message_set("Import a shot first")
        return shots.active_shot(context) is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        root = shots.active_shot(context)
        try:
            clip, notes = tracking.clip_from_shot(root, self.limit)
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        notes.append(f'The clip "{clip.name}" has the tracks.')
        if self.solve:
            try:
                tracking.solve_clip(context, clip)
                made, away = tracking.follow_clip(root, clip)
                notes.append(f"{made.name} follows it, within {away:.2%} of the path of the shot's own camera.")
            except RetakeError as error:  # the clip is of use all the same
                self.report({"WARNING"}, str(error))
        for note in notes:
            self.report({"INFO"}, note)
        return {"FINISHED"}


def _draw_in_clip_menu(self: bpy.types.Menu, _context: bpy.types.Context) -> None:
    self.layout.separator()
    self.layout.operator("retake.import_clip", icon="TRACKER")


_register, _unregister = bpy.utils.register_classes_factory((RETAKE_OT_import_clip, RETAKE_OT_clip_from_shot))


def register() -> None:
    """The operators, and one of them in the Clip menu of the Movie Clip Editor."""
    _register()
    bpy.types.CLIP_MT_clip.append(_draw_in_clip_menu)


def unregister() -> None:
    """Undo `register`."""
    bpy.types.CLIP_MT_clip.remove(_draw_in_clip_menu)
    _unregister()
