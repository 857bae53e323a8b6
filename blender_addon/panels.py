"""The sidebar tab, its panels in the order of work: Shot, Objects, Camera, Generate, Takes, Backend.

Drawing reads what is in the .blend and in memory; it never touches the disk or waits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
import bpy.utils.previews
import numpy as np
from numpy.typing import NDArray
from retake_shared.engine_options import Option, describe
from retake_shared.shot import BACKGROUND, frame_name

from . import engine_settings, models, rendering, solving, take_list
from .drawing import draw_errand, draw_model, wrapped
from .scene import objects, readback, shots, tracking
from .solve_report import LIGHTS, parsed

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

_COLOUR = "SEQUENCE_COLOR" if bpy.app.version < (4, 4, 0) else "STRIP_COLOR"
LIGHT_ICONS = {"green": f"{_COLOUR}_04", "yellow": f"{_COLOUR}_03", "red": f"{_COLOUR}_01"}

_pictures: bpy.utils.previews.ImagePreviewCollection | None = None


def picture(
    layout: bpy.types.UILayout, path: Path, pixels: NDArray[np.float32] | None = None, scale: float = 7.0
) -> None:
    """The picture at `path`: from pixels (h, w, 4) at once, without them as soon as Blender's thread has read it."""
    key = str(path)
    if key not in _pictures:
        _pictures.clear()
        if pixels is None:
            _pictures.load(key, key, "IMAGE")
        else:
            made = _pictures.new(key)
            made.image_size = pixels.shape[1::-1]
            made.image_pixels_float.foreach_set(pixels.ravel())
    layout.template_icon(_pictures[key].icon_id, scale=scale)


class _Tab:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Retake"


class _ShotTab(_Tab):
    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return shots.active_shot(context) is not None


class _SequencerTab:
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = "Retake"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return shots.active_shot(context) is not None


def _split(layout: bpy.types.UILayout) -> bpy.types.UILayout:
    layout.use_property_split, layout.use_property_decorate = True, False
    return layout


# ----------------------------------------------------------------------------------------------------------- the shot


class RETAKE_PT_shot(_Tab, bpy.types.Panel):
    """Footage and solve."""

    bl_label = "Shot"
    bl_order = 0

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        root = shots.active_shot(context)
        if root is None:
            draw_solving(layout, context)
            row = layout.row(align=True)
            row.scale_y = 1.5
            row.operator("retake.import_shot", text="Import Shot", icon="FILE_MOVIE")
            row.operator("retake.solve_footage", text="Solve Footage…", icon="TRACKER")
            if not solving.busy():
                words = "Import a video with what a solver made of it (or drop both on the viewport), or solve it here."
                wrapped(layout, context, words)
            if tracking.solved_clips():
                layout.operator("retake.import_clip", icon="TRACKER")
            return
        shot = root.retake
        row = layout.row(align=True)
        row.prop(context.scene, "retake_shot", text="")
        row.operator("retake.solve_footage", text="", icon="TRACKER")
        row.operator("retake.import_shot", text="", icon="ADD")
        draw_solving(layout, context)
        column = layout.column(align=True)
        column.label(text=Path(shot.footage).name, icon="FILE_MOVIE")
        rate = shot.fps[0] / shot.fps[1]
        column.label(text=f"{shot.size[0]} × {shot.size[1]}, {rate:.5g} fps", icon="BLANK1")
        last = shot.start + shot.frames - 1
        column.label(text=f"{shot.frames} frames: {shot.start} to {last}", icon="BLANK1")
        layout.menu("RETAKE_MT_export", icon="EXPORT")


def draw_solving(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Footage that is being solved: a bar for each stage, the picture of the last one, Cancel; and what became of it."""
    now = solving.current
    if now is None:
        for job in solving.interrupted[:1]:
            box = layout.box()
            wrapped(box, context, f"The solve of {job.name} was cut short. What was done is kept.", "INFO", 20)
            row = box.row(align=True)
            row.operator("retake.continue_solve", icon="PLAY")
            row.operator("retake.dismiss_solve", text="", icon="X")
        return
    if now.state == "done":
        return
    box = layout.box()
    if now.busy:
        row = box.row()
        row.label(text=f"Solving {now.job.name}" if now.state == "running" else "Stopping…", icon="TRACKER")
        row.operator("retake.cancel_solve", text="", icon="X")
        _draw_parts(box, now)
        if now.picture:
            picture(box, Path(now.picture), scale=10.5)
    elif now.state == "importing":
        words = f"{now.job.name} is solved."
        if now.stray:
            words += " Another file has been opened meanwhile."
        wrapped(box, context, f"{words} {solving.why_not_import(context)}".strip(), "CHECKMARK", 20)
        row = box.row(align=True)
        row.operator("retake.import_solved", icon="IMPORT")
        row.operator("retake.dismiss_solve", text="", icon="X")
    else:
        cancelled = now.state == "cancelled"
        words = f"{now.job.name}: cancelled. What was done is kept." if cancelled else now.words
        wrapped(box, context, words, "CANCEL" if cancelled else "ERROR", 20)
        row = box.row(align=True)
        row.operator("retake.continue_solve", text="Go On" if cancelled else "Again", icon="PLAY")
        row.operator("retake.dismiss_solve", text="", icon="X")


def _draw_parts(layout: bpy.types.UILayout, now: solving.Solving) -> None:
    column = layout.column(align=True)
    if not now.parts:
        column.label(text="Starting…", icon="SORTTIME")
    for part in now.parts:
        row = column.row(align=True)
        if part.ended:
            row.label(text=f"{part.label}, kept from before" if part.kept else part.label, icon="CHECKMARK")
        elif part.words:
            row.progress(factor=part.share, type="BAR", text=f"{part.label}: {part.words}")
        else:
            row.active = False
            row.label(text=part.label, icon="BLANK1")


class RETAKE_PT_solve(_ShotTab, bpy.types.Panel):
    """How far the solve can be trusted."""

    bl_label = "Solve"
    bl_parent_id = "RETAKE_PT_shot"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        root = shots.active_shot(context)
        return root is not None and bool(root.retake.solve_report)

    def draw_header_preset(self, context: bpy.types.Context) -> None:
        report = parsed(shots.active_shot(context).retake.solve_report)
        if report is not None:
            self.layout.label(icon=LIGHT_ICONS[report.light])

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        report = parsed(shots.active_shot(context).retake.solve_report)
        if report is None:
            layout.label(text="Its report cannot be read.", icon="ERROR")
            return
        layout.label(text=LIGHTS[report.light], icon=LIGHT_ICONS[report.light])
        for reason in report.reasons:
            wrapped(layout, context, reason, "BLANK1")
        for fact in report.facts:
            wrapped(layout, context, fact, "DOT")
        if report.notes:
            header, body = layout.panel("retake_solve_notes", default_closed=True)
            header.label(text=f"{len(report.notes)} Notes")
            if body is not None:
                for note in report.notes:
                    wrapped(body, context, note, "DOT")


class RETAKE_PT_report(_ShotTab, bpy.types.Panel):
    """What the import found and changed."""

    bl_label = "Files and Report"
    bl_parent_id = "RETAKE_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        shot = shots.active_shot(context).retake
        column = self.layout.column()
        column.prop(shot, "footage", text="")
        if shot.solve:
            column.label(text=Path(shot.solve).name, icon="TRACKER")
        for line in shot.report.splitlines() or ["Nothing was changed."]:
            wrapped(self.layout, context, line, "DOT")


class RETAKE_PT_world(_ShotTab, bpy.types.Panel):
    """Which way is up, and how large a metre is."""

    bl_label = "Up and Scale"
    bl_parent_id = "RETAKE_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        wrapped(layout, context, "Select tracks that lie on the ground, or two whose distance you know.")
        column = layout.column(align=True)
        column.operator("retake.ground_from_selection", icon="GRID")
        column.operator("retake.scale_from_distance", text="Scale From Distance…", icon="FIXED_SIZE")
        wrapped(layout, context, "Or turn, move and scale the shot's root by hand. No edit changes.")


class RETAKE_PT_objects(_ShotTab, bpy.types.Panel):
    """The actors: move, rotate and scale their handles in the viewport."""

    bl_label = "Objects"
    bl_order = 1

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        root = shots.active_shot(context)
        active = objects.handle_of(context.view_layer.objects.active)
        column = layout.column(align=True)
        for handle in objects.handles_of(root):
            own = handle.retake_handle
            row = column.row(align=True)
            icon = "WORLD" if own.number == BACKGROUND else "EMPTY_AXIS"
            chosen = row.operator("retake.select_object", text=own.label, icon=icon, depress=handle == active)
            chosen.handle = handle.name
            name = "retake.restore_object" if own.removed else "retake.remove_object"
            row.operator(name, text="", icon="HIDE_ON" if own.removed else "HIDE_OFF").object = own.label
        if active is None or objects.root_of(active) != root:
            wrapped(layout, context, "Select an object, then move its handle and key it.")
            return
        own = active.retake_handle
        timing = _timing_in_words(own)
        if timing:
            layout.label(text=timing, icon="TIME")
        if own.number != BACKGROUND:
            row = layout.row(align=True)
            row.prop(own, "depth", slider=True)
            row.operator("retake.slide_depth", text="", icon="CON_TRACKTO").object = own.label
        grid = layout.grid_flow(row_major=True, columns=2, even_columns=True, align=True)
        grid.operator("retake.retime", text="Retime…", icon="TIME").object = own.label
        grid.operator("retake.duplicate_object", text="Duplicate", icon="DUPLICATE").object = own.label
        grid.operator("retake.select_tracks", text="Tracks", icon="RESTRICT_SELECT_OFF").object = own.label
        grid.operator("retake.reset_object", text="Reset", icon="LOOP_BACK").object = own.label


def _timing_in_words(own: bpy.types.RetakeHandle) -> str:
    if own.freeze >= 0:
        return f"Stands still, frame {own.freeze}"
    words = []
    if own.offset:
        words.append(f"{abs(own.offset):g} frames {'late' if own.offset > 0 else 'early'}")
    if own.speed != 1:
        words.append(f"speed {own.speed:g}")
    if own.reverse:
        words.append("backwards")
    return ", ".join(words).capitalize()


class RETAKE_PT_assign(_ShotTab, bpy.types.Panel):
    """Tracks into objects."""

    bl_label = "Tracks Into Objects"
    bl_parent_id = "RETAKE_PT_objects"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column(align=True)
        column.operator("retake.add_object", text="New From Selection…", icon="ADD")
        column.operator("retake.assign_selected", text="Add Selection", icon="RESTRICT_SELECT_OFF")
        column.operator("retake.assign_box", text="Add From Box…", icon="SELECT_SET")
        column.operator("retake.assign_mask", text="Add From Mask…", icon="MOD_MASK")


class RETAKE_PT_camera(_ShotTab, bpy.types.Panel):
    """The camera of the edit."""

    bl_label = "Camera"
    bl_order = 2

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.prop(shots.active_shot(context).retake, "target_camera", text="")
        grid = layout.grid_flow(row_major=True, columns=2, even_columns=True, align=True)
        grid.operator("retake.orbit", icon="DRIVER_ROTATIONAL_DIFFERENCE")
        grid.operator("retake.push_in", icon="FULLSCREEN_EXIT")
        grid.operator("retake.dolly", icon="EMPTY_SINGLE_ARROW")
        grid.operator("retake.freeze_camera", icon="FREEZE")
        layout.operator("retake.reset_camera", text="Reset to Footage", icon="LOOP_BACK")


# ----------------------------------------------------------------------------------------------------------- rendering


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


def _amount(count: int) -> str:
    return f"{count / 2**20:.1f}" if count > 100_000 else str(count)


class RETAKE_PT_generate(_ShotTab, bpy.types.Panel):
    """What to render, and the button."""

    bl_label = "Generate"
    bl_order = 3

    def draw(self, context: bpy.types.Context) -> None:
        layout = _split(self.layout)
        root = shots.active_shot(context)
        shot = root.retake
        options = rendering.options_of(root)
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
        column = layout.column(align=True, heading="Part")
        row = column.row(align=True)
        row.prop(shot, "use_range", text="")
        sub = row.row(align=True)
        sub.active = shot.use_range
        sub.prop(shot, "range", text="")
        column = layout.column(align=True, heading="Size")
        row = column.row(align=True)
        row.prop(shot, "use_size", text="")
        sub = row.row(align=True)
        sub.active = shot.use_size
        sub.prop(shot, "render_size", text="")

        state = context.window_manager.retake
        if busy:
            return
        for text in _warnings(context):
            wrapped(layout, context, text, "INFO")
        if rendering.lacking(root):
            wrapped(layout, context, "Its weights are missing, see above.", "ERROR")
        row = layout.row()
        row.scale_y = 1.6
        row.operator("retake.generate", text="Generate Take", icon="RENDER_ANIMATION")
        if state.message:
            wrapped(layout.box(), context, state.message, "ERROR")


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


class RETAKE_PT_takes(_ShotTab, bpy.types.Panel):
    """What was rendered."""

    bl_label = "Takes"
    bl_order = 4

    def draw(self, context: bpy.types.Context) -> None:
        draw_takes(self.layout, context)


class RETAKE_PT_sequencer_takes(_SequencerTab, bpy.types.Panel):
    """The takes, where their strips are."""

    bl_label = "Takes"

    def draw(self, context: bpy.types.Context) -> None:
        if rendering.busy(context):
            draw_running(self.layout, context)
        draw_takes(self.layout, context)


class RETAKE_PT_backend(_Tab, bpy.types.Panel):
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
    info = rendering.backend().info
    if info is not None and state.backend_state == "READY":
        wrapped(layout, context, f"Retake {info.software}, {info.device or 'device not known yet'}")


_register_classes, _unregister_classes = bpy.utils.register_classes_factory(
    (
        RETAKE_PT_shot,
        RETAKE_PT_solve,
        RETAKE_PT_report,
        RETAKE_PT_world,
        RETAKE_PT_objects,
        RETAKE_PT_assign,
        RETAKE_PT_camera,
        RETAKE_PT_generate,
        RETAKE_UL_takes,
        RETAKE_PT_takes,
        RETAKE_PT_sequencer_takes,
        RETAKE_PT_backend,
    )
)


def register() -> None:
    global _pictures
    _register_classes()
    _pictures = bpy.utils.previews.new()


def unregister() -> None:
    global _pictures
    _unregister_classes()
    if _pictures is not None:
        bpy.utils.previews.remove(_pictures)
        _pictures = None
