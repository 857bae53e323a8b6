"""The sidebar's panels of the shot: footage and solve, its objects, the camera.

Drawing reads what is in the .blend and in memory; it never touches the disk or waits.
"""

from __future__ import annotations

from pathlib import Path

import bpy
from retake_shared.shot import BACKGROUND

from . import solving
from .drawing import wrapped
from .scene import objects, shots, tracking
from .solve_report import LIGHTS, parsed
from .tab import ShotTab, Tab, picture

_COLOUR = "SEQUENCE_COLOR" if bpy.app.version < (4, 4, 0) else "STRIP_COLOR"
LIGHT_ICONS = {"green": f"{_COLOUR}_04", "yellow": f"{_COLOUR}_03", "red": f"{_COLOUR}_01"}


class RETAKE_PT_shot(Tab, bpy.types.Panel):
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


class RETAKE_PT_solve(ShotTab, bpy.types.Panel):
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


class RETAKE_PT_report(ShotTab, bpy.types.Panel):
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


class RETAKE_PT_world(ShotTab, bpy.types.Panel):
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


class RETAKE_PT_objects(ShotTab, bpy.types.Panel):
    """The actors: move, rotate and scale their handles in the viewport."""

    bl_label = "Objects"
    bl_order = 1

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        root = shots.active_shot(context)
        active = objects.handle_of(context.view_layer.objects.active)
        column = layout.column(align=True)
        addresses = objects.addresses(root)
        for handle, address in addresses.items():
            own = handle.retake_handle
            row = column.row(align=True)
            icon = "WORLD" if own.number == BACKGROUND else "EMPTY_AXIS"
            chosen = row.operator("retake.select_object", text=own.label, icon=icon, depress=handle == active)
            chosen.handle = handle.name
            name = "retake.restore_object" if own.removed else "retake.remove_object"
            row.operator(name, text="", icon="HIDE_ON" if own.removed else "HIDE_OFF").object = address
        if active is None or objects.root_of(active) != root:
            wrapped(layout, context, "Select an object, then move its handle and key it.")
            return
        own, address = active.retake_handle, addresses.get(active, "")
        timing = _timing_in_words(own)
        if timing:
            layout.label(text=timing, icon="TIME")
        if own.number != BACKGROUND:
            row = layout.row(align=True)
            row.prop(own, "depth", slider=True)
            row.operator("retake.slide_depth", text="", icon="CON_TRACKTO").object = address
        grid = layout.grid_flow(row_major=True, columns=2, even_columns=True, align=True)
        grid.operator("retake.retime", text="Retime…", icon="TIME").object = address
        grid.operator("retake.duplicate_object", text="Duplicate", icon="DUPLICATE").object = address
        grid.operator("retake.select_tracks", text="Tracks", icon="RESTRICT_SELECT_OFF").object = address
        grid.operator("retake.reset_object", text="Reset", icon="LOOP_BACK").object = address


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


class RETAKE_PT_assign(ShotTab, bpy.types.Panel):
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


class RETAKE_PT_camera(ShotTab, bpy.types.Panel):
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


register, unregister = bpy.utils.register_classes_factory(
    (
        RETAKE_PT_shot,
        RETAKE_PT_solve,
        RETAKE_PT_report,
        RETAKE_PT_world,
        RETAKE_PT_objects,
        RETAKE_PT_assign,
        RETAKE_PT_camera,
    )
)
