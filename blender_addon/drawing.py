"""What panels and preferences draw alike: wrapped words, and a model with all that can be done with it."""

from __future__ import annotations

import textwrap

import bpy
from retake_shared.client import ModelState

from . import errands, models

MODEL_ICONS = {"missing": "IMPORT", "partial": "SORTTIME", "installed": "CHECKMARK", "damaged": "ERROR"}

_NOT_DOWNLOADED = {
    "parts": "Nobody has published these weights: train them, or import a folder.",
    "own": "This model comes with the backend: remove what was imported, or install the backend again.",
}
"""Where models come from that cannot be downloaded, by their kind."""
_OFFLINE = "Online Access is off in Blender's preferences, under System: nothing can be downloaded."


def wrapped(
    layout: bpy.types.UILayout, context: bpy.types.Context, text: str, icon: str = "NONE", inset: int = 0
) -> None:
    """Labels for a text of any length, broken at the region's width. inset: pixels that boxes around it take."""
    width = context.region.width if context.region else 220
    scale = context.preferences.system.ui_scale or 1.0  # 0 without a window
    inset += 50 if icon == "NONE" else 66
    characters = max(16, int((width / scale - inset) / 6.1))
    column = layout.column(align=True)
    column.scale_y = 0.8
    for paragraph in text.splitlines():
        for line in textwrap.wrap(paragraph, characters, break_long_words=True):
            column.label(text=line, icon=icon)
            icon = "BLANK1" if icon != "NONE" else icon


def draw_model(layout: bpy.types.UILayout, context: bpy.types.Context, model: ModelState, manage: bool = False) -> None:
    """A model: its size, its licence, what is being done with it, and the buttons. manage: those of the preferences too."""
    column = layout.column(align=True)
    column.use_property_split = False
    row = column.row(align=True)
    row.label(text=model.label or model.name, icon=MODEL_ICONS.get(model.state, "QUESTION"))
    end = row.row()
    end.alignment = "RIGHT"
    words = models.size_in_words(model.nbytes)
    end.label(text=f"{models.IN_WORDS.get(model.state, model.state)}, {words}" if manage else words)
    if model.licence:
        if model.licence_url.startswith("https://") and not model.random:
            column.operator("wm.url_open", text=model.licence, icon="URL").url = model.licence_url
        else:
            column.label(text=model.licence, icon="BLANK1")
    if model.shipped:
        column.label(text="Comes with the backend; one that you trained can take its place", icon="BLANK1")
    if model.random and manage:
        column.label(text="Random weights, for trials: its takes are noise", icon="BLANK1")
    if model.task:
        _draw_task(column, model)
    else:
        _draw_buttons(column, context, model, manage)
    if model.error:
        told = (f"{model.error.get('what', '')} {model.error.get('remedy', '')}").strip()
        wrapped(column, context, told[:1].upper() + told[1:], "ERROR", 20)


def draw_models(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The section Models of the preferences: every model of the backend's catalogue."""
    header, body = layout.panel("retake_models")
    header.label(text="Models")
    if body is None:
        return
    if not models.every():
        body.label(text="Start the backend to see which models are here.", icon="INFO")
        return
    body.label(text=f"In {models.place}", icon="DISK_DRIVE")
    if not bpy.app.online_access:
        body.label(text=_OFFLINE, icon="INFO")
    for model in models.every():
        draw_model(body.box(), context, model, manage=True)
    draw_errand(body, context, "import", "Importing the folder…")


def _draw_task(layout: bpy.types.UILayout, model: ModelState) -> None:
    row = layout.row(align=True)
    words = model.stage.capitalize() or models.TASKS.get(model.task, model.task)
    if model.total:
        done, total = models.size_in_words(model.done), models.size_in_words(model.total)
        row.progress(factor=min(model.done / model.total, 1.0), type="BAR", text=f"{words} {done} of {total}")
    else:
        row.label(text=f"{words}…", icon="SORTTIME")
    row.operator("retake.stop_model", text="", icon="X").model = model.name


def _draw_buttons(layout: bpy.types.UILayout, context: bpy.types.Context, model: ModelState, manage: bool) -> None:
    wanted = model.state != "installed" or model.random
    if wanted and model.kind in _NOT_DOWNLOADED:
        wrapped(layout, context, _NOT_DOWNLOADED[model.kind], "BLANK1", 20)
    elif wanted and not manage and not bpy.app.online_access:
        wrapped(layout, context, _OFFLINE, "BLANK1", 20)
    row = layout.row(align=True)
    if wanted and model.kind not in _NOT_DOWNLOADED:
        text = {"partial": "Get the Rest", "damaged": "Get Again"}.get(model.state, "Get")
        row.operator("retake.pull_model", text=text, icon="IMPORT").model = model.name
    if wanted or (manage and model.kind == "own"):  # a model of the user's own takes the place of what is here
        row.operator("retake.import_model", text="Import…", icon="FILE_FOLDER").model = model.name
    if manage and model.state != "missing" and not model.shipped:
        row.operator("retake.verify_model", text="Verify", icon="CHECKMARK").model = model.name
        row.operator("retake.remove_model", text="Remove", icon="TRASH").model = model.name


def draw_errand(layout: bpy.types.UILayout, context: bpy.types.Context, errand: str, running: str) -> None:
    """What has become of an errand; running: the words while it is on its way."""
    ended = errands.ended(errand)
    if errands.running(errand):
        layout.label(text=running, icon="SORTTIME")
    elif ended is not None:
        wrapped(layout, context, ended.words, "CHECKMARK" if ended.good else "ERROR")
