"""What moves in the footage: the marks in the sidebar's tab, and on the picture where a view shows it."""

from __future__ import annotations

import contextlib
from math import cos, pi, sin

import blf
import bpy
import gpu
from gpu_extras.batch import batch_for_shader
from retake_shared.clicks import MODEL

from . import models, solving
from .drawing import draw_errand, draw_model, wrapped
from .scene import marking, shots

_HERE, _ELSEWHERE = (1.0, 0.65, 0.1, 1.0), (1.0, 0.65, 0.1, 0.35)
"""Colours of marks in the frame that is shown, and of those in others."""
_RADIUS = 9.0

_handlers: list[tuple[type[bpy.types.Space], object]] = []


def draw_marks(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The button, the marks of the footage in view, what follows them, and the solve that uses them."""
    clip = marking.clip_in(context)
    if clip is None:
        layout.label(text="Open footage first.", icon="INFO")
        return
    wrapped(layout, context, "Point at what moves by itself: the solve makes an object of each, and looks past it.")
    layout.operator("retake.mark_moving", icon="EYEDROPPER")
    _draw_model(layout, context)
    column = layout.column(align=True)
    for index, mark in enumerate(clip.retake_marks):
        row = column.row(align=True)
        row.operator("retake.show_mark", text=f"Frame {mark.frame}", icon="RADIOBUT_ON").index = index
        row.prop(mark, "name", text="", placeholder="Object")
        row.operator("retake.remove_mark", text="", icon="X").index = index
    if clip.retake_marks and not solving.busy():
        row = layout.row()
        row.scale_y = 1.3
        row.operator("retake.solve_footage", text="Solve With Marks…", icon="TRACKER").filepath = clip.filepath


def _draw_model(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """What follows the marks, where it is not here; or that this is not known."""
    model = models.find(MODEL)
    if model is not None and model.state != "installed":
        draw_model(layout.box(), context, model)
        draw_errand(layout, context, "import", "Importing the folder…")
    elif model is None and context.window_manager.retake.backend_state in ("OFF", "LOST"):
        wrapped(layout, context, "Start the backend to see whether what follows the marks is here.", "QUESTION")
        layout.operator("retake.start_backend", text="Start Backend")


class RETAKE_PT_marks(bpy.types.Panel):
    """What moves in the shot's footage."""

    bl_label = "What Moves"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Retake"
    bl_parent_id = "RETAKE_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return shots.active_shot(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        draw_marks(self.layout, context)


class RETAKE_PT_clip_marks(bpy.types.Panel):
    """What moves in the footage that the Movie Clip Editor shows, before any solve."""

    bl_label = "What Moves"
    bl_space_type = "CLIP_EDITOR"
    bl_region_type = "UI"
    bl_category = "Retake"

    def draw(self, context: bpy.types.Context) -> None:
        draw_marks(self.layout, context)


def _draw_on_picture() -> None:
    """Rings where the footage's marks lie, filled for those in the frame that is shown."""
    context = bpy.context
    if context.area is None or not getattr(context.space_data, "overlay", None) or not _overlays(context.space_data):
        return
    view = marking.view_of(context, context.area, context.region)
    if view is None or not view.clip.retake_marks:
        return
    shader = gpu.shader.from_builtin("UNIFORM_COLOR")
    gpu.state.blend_set("ALPHA")
    scale = context.preferences.system.ui_scale
    for mark in view.clip.retake_marks:
        x, y = view.shown(*mark.at)
        here = mark.frame == view.frame
        colour = _HERE if here else _ELSEWHERE
        around = [(x + _RADIUS * scale * cos(a * pi / 16), y + _RADIUS * scale * sin(a * pi / 16)) for a in range(33)]
        lines = [batch_for_shader(shader, "LINE_STRIP", {"pos": around})]
        if here:
            cross = [(x - 3 * scale, y), (x + 3 * scale, y), (x, y - 3 * scale), (x, y + 3 * scale)]
            lines.append(batch_for_shader(shader, "LINES", {"pos": cross}))
        for width, drawn in ((4.0, (0.0, 0.0, 0.0, 0.7 * colour[3])), (2.0, colour)):  # seen on any picture
            gpu.state.line_width_set(width)
            shader.uniform_float("color", drawn)
            for line in lines:
                line.draw(shader)
        blf.size(0, 12 * scale)
        blf.enable(0, blf.SHADOW)
        blf.shadow(0, 3, 0, 0, 0, colour[3])
        blf.color(0, *colour)
        blf.position(0, x + (_RADIUS + 4) * scale, y - 4 * scale, 0)
        blf.draw(0, mark.name if here else f"{mark.name} {mark.frame}".strip())
    blf.disable(0, blf.SHADOW)
    gpu.state.line_width_set(1.0)
    gpu.state.blend_set("NONE")


def _overlays(space: bpy.types.Space) -> bool:
    return bool(space.overlay.show_overlays)


_register, _unregister = bpy.utils.register_classes_factory((RETAKE_PT_marks, RETAKE_PT_clip_marks))


def register() -> None:
    """The panels, and the marks on the picture."""
    _register()
    for space in (bpy.types.SpaceView3D, bpy.types.SpaceClipEditor):
        _handlers.append((space, space.draw_handler_add(_draw_on_picture, (), "WINDOW", "POST_PIXEL")))


def unregister() -> None:
    """Undo `register`."""
    while _handlers:
        space, handler = _handlers.pop()
        with contextlib.suppress(ValueError):
            space.draw_handler_remove(handler, "WINDOW")
    _unregister()
