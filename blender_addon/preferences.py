"""Where the backend is and where it keeps its files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty
from retake_shared import connection

from .drawing import draw_models
from .launch import BACKEND_VARIABLE, Place

PLACES = (
    ("OWN", "On this computer", "Retake starts the backend when it is needed"),
    ("RUNNING", "One that runs already", "Use a backend that somebody else started, by its connection file"),
)

DEVICES = (
    ("auto", "Automatic", "What the engine does best on"),
    ("cpu", "CPU Only", "No GPU is touched: it stays free for Blender"),
)


def _absolute(name: str) -> Callable[[RetakePreferences, bpy.types.Context], None]:
    """Has a path that the file browser made relative to the open .blend mean the same in every other one."""

    def update(page: RetakePreferences, _context: bpy.types.Context) -> None:
        path = getattr(page, name)
        if path.startswith("//") and bpy.data.filepath:
            setattr(page, name, bpy.path.abspath(path))

    return update


class RetakePreferences(bpy.types.AddonPreferences):
    """The preferences' page."""

    bl_idname = __package__

    place: EnumProperty(name="Backend", items=PLACES, default="OWN")
    backend_command: StringProperty(
        name="Program",
        description="The retake program, the folder of its environment, its Python, or a command line. "
        f"Empty: what ${BACKEND_VARIABLE} says, else retake on the PATH",
        subtype="FILE_PATH",
        update=_absolute("backend_command"),
    )
    device: EnumProperty(
        name="Device",
        items=DEVICES,
        default="auto",
        description="What is solved on, and what the backend renders on, from its next start",
    )
    cores: IntProperty(
        name="CPU Cores",
        description="How many cores a solve, and the backend from its next start, may use at most; 0: all of them",
        default=0,
        min=0,
        soft_max=os.cpu_count() or 1,
    )
    start_automatically: BoolProperty(
        name="Start When Needed", description="Generate starts the backend if it does not run", default=True
    )
    connection_file: StringProperty(
        name="Connection File",
        description="The connection.json in that backend's folder",
        subtype="FILE_PATH",
        update=_absolute("connection_file"),
    )
    cache_folder: StringProperty(
        name="Cache",
        description="Where the backend keeps jobs, footage, its log and weights. Empty: Retake's own folder; the weights "
        "then lie where the program retake has them in a terminal",
        subtype="DIR_PATH",
        update=_absolute("cache_folder"),
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(self, "place", expand=True)
        if self.place == "OWN":
            layout.prop(self, "backend_command", placeholder="retake on the PATH")
            layout.prop(self, "cache_folder", placeholder=str(default_home()))
            layout.prop(self, "device")
            layout.prop(self, "cores")
            layout.prop(self, "start_automatically")
        else:
            layout.prop(self, "connection_file", placeholder=str(default_home() / connection.FILE_NAME))
        state = context.window_manager.retake
        kind = next(
            item
            for item in state.bl_rna.properties["backend_state"].enum_items
            if item.identifier == state.backend_state
        )
        box = layout.box()
        box.label(text=f"{kind.name}: {state.backend_message or kind.description}")
        row = box.row(align=True)
        row.operator("retake.start_backend", icon="PLAY")
        row.operator("retake.stop_backend", icon="SNAP_FACE")
        row.operator("retake.test_backend", icon="CHECKMARK")
        draw_models(layout, context)


def preferences(context: bpy.types.Context) -> RetakePreferences | None:
    """The add-on's preferences; None when it is registered without being enabled, as a script may do."""
    addon = context.preferences.addons.get(__package__)
    return addon.preferences if addon else None


def extension_folder(name: str) -> Path | None:
    """A folder of our own among the user's Blender files; None when this does not run as an extension."""
    try:
        return Path(bpy.utils.extension_path_user(__package__, path=name, create=True))
    except ValueError:
        return None


def default_home() -> Path:
    """Where the backend keeps its files unless the user says otherwise."""
    if os.environ.get("RETAKE_HOME"):
        return connection.default_home()
    return extension_folder("backend") or connection.default_home()


def default_models() -> Path | None:
    """The folder of the weights unless the user says otherwise: the one that `retake` has in a terminal, so that no
    Blender and no terminal gets gigabytes a second time. None where the environment names one, or the home."""
    if os.environ.get("RETAKE_MODELS") or os.environ.get("RETAKE_HOME"):
        return None
    return connection.default_home() / "models"


def backend_place(context: bpy.types.Context) -> Place:
    """Where the backend is, in plain values for the link's thread."""
    chosen = preferences(context)
    if chosen is None:
        return Place(default_home(), default_models())
    home, models = default_home(), default_models()
    if chosen.cache_folder:
        home, models = Path(bpy.path.abspath(chosen.cache_folder)), None
    if chosen.place == "RUNNING":
        file = Path(bpy.path.abspath(chosen.connection_file)) if chosen.connection_file else home / connection.FILE_NAME
        return Place(home, connection_file=file, may_start=False)
    return Place(
        home,
        models,
        command=bpy.path.abspath(chosen.backend_command),
        device=chosen.device,
        cores=chosen.cores,
        may_start=chosen.start_automatically,
    )


register, unregister = bpy.utils.register_classes_factory((RetakePreferences,))
