"""The sidebar's panels of takes: what to generate, what was rendered, and the backend that does it.

Drawing reads what is in the .blend and in memory; it never touches the disk or waits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
from retake_shared.engine_options import Option, describe
from retake_shared.shot import frame_name

from . import engine_settings, linked, models, rendering, take_list, take_requests
from .drawing import draw_errand, draw_model, wrapped
from .scene import readback, shots
from .tab import SequencerTab, ShotTab, Tab, picture

TAKE_ICONS = {"RENDERING": "RENDER_ANIMATION", "DONE": "CHECKMARK", "FAILED": "ERROR", "CANCELLED": "CANCEL"}
MAIN_OPTIONS = ("fill", "use", "base", "quality", "strength", "start", "control")
"""Options that are in sight; all others of an engine are under Engine Settings."""
_ELSEWHERE = ("image_frame",)
BACKEND_ICONS = {
    "OFF": "RADIOBUT_OFF",
    "STARTING": "SORTTIME",
    "READY": "RADIOBUT_ON",
    "LOST": "ERROR",
    "OTHER_VERSION": "ERROR",
}


def draw_running(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """How far the take is, its latest frame, and Cancel."""
    state = context.window_manager.retake
    stage = state.stage.capitalize()
    if state.total:
        factor = state.done / state.total
        layout.progress(factor=factor, type="BAR", text=f"{stage} {_amount(state.done)}/{_amount(state.total)}")
    else:
        layout.label(text=f"{stage}…", icon="SORTTIME")
    left = rendering.time_left(state)
    row = layout.row()
    row.label(text=left or " ")
    row.operator("retake.cancel", icon="CANCEL")
    latest = rendering.latest_picture(context)
    if latest is not None:
        picture(layout, *latest)


def _amount(count: float) -> str:
    return f"{count / 2**20:.1f}" if count > 100_000 else f"{count:.0f}"


class RETAKE_PT_generate(ShotTab, bpy.types.Panel):
    """What to render, and the button."""

    bl_label = "Generate"
    bl_order = 3

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split, layout.use_property_decorate = True, False
        root = shots.active_shot(context)
        shot = root.retake
        options = take_requests.options_of(root)
        busy = rendering.busy(context)
        if busy:  # above the settings, which may fill the sidebar
            draw_running(layout, context)
            layout.separator(type="LINE")
        layout.prop(shot, "engine")
        wrapped(layout, context, engine_settings.description_of(shot.engine_name), "INFO")
        draw_weights(layout, context, shot, options)
        if engine_settings.reads_prompt(shot.engine_name, options):
            layout.prop(shot, "prompt")
            layout.prop(shot, "negative_prompt")
        draw_options(layout, context, shot)
        layout.prop(shot, "seed")
        _draw_choice(layout, "Part", shot, "use_range", "range")
        _draw_choice(layout, "Size", shot, "use_size", "render_size")

        state = context.window_manager.retake
        if busy:
            return
        for text in _warnings(context):
            wrapped(layout, context, text, "INFO")
        if take_requests.lacking(root):
            wrapped(layout, context, "Its weights are missing, see above.", "ERROR")
        row = layout.row()
        row.scale_y = 1.6
        row.operator("retake.generate", text="Generate Take", icon="RENDER_ANIMATION")
        if state.message:
            wrapped(layout.box(), context, state.message, "ERROR")


def _draw_choice(layout: bpy.types.UILayout, heading: str, shot: bpy.types.RetakeShot, switch: str, value: str) -> None:
    """A value that counts only where its switch is on, in one row."""
    row = layout.column(align=True, heading=heading).row(align=True)
    row.prop(shot, switch, text="")
    sub = row.row(align=True)
    sub.active = getattr(shot, switch)
    sub.prop(shot, value, text="")


def draw_weights(
    layout: bpy.types.UILayout, context: bpy.types.Context, shot: bpy.types.RetakeShot, options: dict[str, Any]
) -> None:
    """The models that the chosen engine lacks, each with its size, its licence and a button; or that this is not known."""
    missing = models.missing(shot.engine_name, options)
    state = context.window_manager.retake.backend_state
    if missing is None and state in ("OFF", "LOST"):
        wrapped(layout, context, "Start the backend to see whether its weights are here.", "QUESTION")
        layout.operator("retake.start_backend", text="Start Backend")
    elif missing is None:
        layout.label(text="Looking for its weights…", icon="SORTTIME")
    for model in missing or ():
        draw_model(layout.box(), context, model)
    advised = models.advised(shot.engine_name, options)
    if advised is not None:
        wrapped(layout, context, "Fast is made for other weights; without them few steps look poor:", "INFO")
        draw_model(layout.box(), context, advised)
    if missing or advised:
        draw_errand(layout, context, "import", "Importing the folder…")


def draw_options(layout: bpy.types.UILayout, context: bpy.types.Context, shot: bpy.types.RetakeShot) -> None:
    """The options of the chosen engine: the main ones, and the rest folded away."""
    if describe(shot.engine_name) is None:
        layout.prop(shot, "other_options", placeholder="name=value name=value")
        return
    engine = engine_settings.description(shot.engine_name)
    values = {option.name: engine_settings.value_of(shot, engine.name, option) for option in engine.options}
    shown = [option for option in engine.options if option.name not in _ELSEWHERE]
    for option in shown:
        if option.name in MAIN_OPTIONS:
            _draw_option(layout, shot, engine.name, option, values)
            if option.name == "use":
                _draw_picture_in_use(layout, context, shot, values["use"])
    rest = [option for option in shown if option.name not in MAIN_OPTIONS]
    if not rest:
        return
    changed = sum(values[option.name] != option.default for option in rest)
    header, body = layout.panel("retake_engine_settings", default_closed=True)
    header.label(text=f"Engine Settings ({changed} changed)" if changed else "Engine Settings")
    if body is not None:
        column = body.column()
        for option in rest:
            _draw_option(column, shot, engine.name, option, values)


def _draw_option(
    layout: bpy.types.UILayout, shot: bpy.types.RetakeShot, engine: str, option: Option, values: dict[str, Any]
) -> None:
    row = layout.row()
    row.active = option.name != "start" or values.get("strength") != 1
    row.prop(shot.options, engine_settings.identifier(engine, option.name))


def _draw_picture_in_use(
    layout: bpy.types.UILayout, context: bpy.types.Context, shot: bpy.types.RetakeShot, use: str
) -> None:
    """What a take of Trajectory Attention is made from, where that is not the footage."""
    if use == "image":
        row = layout.row(align=True)
        row.prop(shot.options, engine_settings.identifier("trajectory-attention", "image_frame"))
        row.operator("retake.image_from_timeline", text="", icon="TIME")
    elif use == "first-frame":
        layout.prop(shot, "first_frame")
        layout.operator("retake.save_first_frame", text="Save First Frame…", icon="IMAGE_DATA")
        draw_errand(layout, context, "frame", "Writing the frame…")


def _warnings(context: bpy.types.Context) -> list[str]:
    """What the artist should know before pressing Generate."""
    warnings = []
    unkeyed = readback.unkeyed_changes(context, shots.active_shot(context))
    if unkeyed:
        warnings.append(f"Not keyed, so it will be lost: {', '.join(unkeyed)}.")
    if not bpy.data.filepath:
        warnings.append("Save the .blend first to have its takes beside it.")
    return warnings


class RETAKE_UL_takes(bpy.types.UIList):
    """The takes of the shot, oldest first."""

    def draw_item(self, _context, layout, _data, take, _icon, _active_data, _active_property, _index=0) -> None:
        row = layout.row(align=True)
        row.prop(take, "name", text="", emboss=False, icon=TAKE_ICONS[take.state])
        end = row.row()
        end.alignment = "RIGHT"
        end.label(text=engine_settings.label_of(take.engine))


def draw_takes(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The list of takes and all that can be done with the selected one."""
    root = shots.active_shot(context)
    shot = root.retake
    row = layout.row()
    row.template_list("RETAKE_UL_takes", "", shot, "takes", shot, "active_take", rows=3)
    column = row.column(align=True)
    column.operator("retake.refresh_takes", text="", icon="FILE_REFRESH")
    column.operator("retake.open_take_folder", text="", icon="FILE_FOLDER")
    column.operator("retake.delete_take", text="", icon="TRASH")
    take = take_list.active_take(root)
    if take is None:
        return
    first, last = shot.start + take.frames[0], shot.start + take.frames[1] - 1
    facts = layout.column(align=True)
    facts.scale_y = 0.85
    facts.label(text=f"Frames {first} to {last}, seed {take.seed}", icon="BLANK1")
    seconds = f", {take.seconds:.1f} s" if take.seconds else ""
    facts.label(text=f"{take.size[0]} × {take.size[1]}{seconds}", icon="BLANK1")
    if take.message:
        wrapped(layout, context, take.message, "ERROR" if take.state == "FAILED" else "INFO")
    if take.state == "DONE" and not rendering.busy(context):
        picture(layout, Path(take.folder) / frame_name(sum(take.frames) // 2))
    if take.state in ("FAILED", "CANCELLED"):
        layout.operator("retake.continue_take", icon="PLAY")
    grid = layout.grid_flow(row_major=True, columns=2, even_columns=True, align=True)
    grid.operator("retake.show_take", icon="HIDE_OFF")
    grid.operator_menu_enum("retake.compare", "against", text="Compare", icon="MOD_MIRROR")
    grid.operator("retake.render_again", text="Again", icon="FILE_REFRESH")
    grid.operator("retake.restore_edit", text="Restore", icon="RECOVER_LAST")


class RETAKE_PT_takes(ShotTab, bpy.types.Panel):
    """What was rendered."""

    bl_label = "Takes"
    bl_order = 4

    def draw(self, context: bpy.types.Context) -> None:
        draw_takes(self.layout, context)


class RETAKE_PT_sequencer_takes(SequencerTab, bpy.types.Panel):
    """The takes, where their strips are."""

    bl_label = "Takes"

    def draw(self, context: bpy.types.Context) -> None:
        if rendering.busy(context):
            draw_running(self.layout, context)
        draw_takes(self.layout, context)


class RETAKE_PT_backend(Tab, bpy.types.Panel):
    """The program that renders."""

    bl_label = "Backend"
    bl_order = 5
    bl_options = {"DEFAULT_CLOSED"}

    def draw_header(self, context: bpy.types.Context) -> None:
        self.layout.label(icon=BACKEND_ICONS[context.window_manager.retake.backend_state])

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        draw_backend(layout, context)
        row = layout.row(align=True)
        row.operator("retake.start_backend")
        row.operator("retake.stop_backend")
        row.operator("retake.test_backend")
        layout.operator("retake.free_memory", icon="MEMORY")
        if __package__ in context.preferences.addons:
            layout.operator("preferences.addon_show", text="Preferences", icon="PREFERENCES").module = __package__


def draw_backend(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The backend's state in words."""
    state = context.window_manager.retake
    kinds = state.bl_rna.properties["backend_state"].enum_items
    kind = kinds[state.backend_state]
    layout.label(text=kind.name, icon=BACKEND_ICONS[state.backend_state])
    wrapped(layout, context, state.backend_message or kind.description)
    info = linked.backend().info
    if info is not None and state.backend_state == "READY":
        wrapped(layout, context, f"Retake {info.software}, {info.device or 'device not known yet'}")


register, unregister = bpy.utils.register_classes_factory(
    (
        RETAKE_PT_generate,
        RETAKE_UL_takes,
        RETAKE_PT_takes,
        RETAKE_PT_sequencer_takes,
        RETAKE_PT_backend,
    )
)
