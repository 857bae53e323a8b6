"""Export: the shot's cameras and tracks for other programs, by the shared formats and by Blender's own exporters."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty
from retake_shared.errors import RetakeError

from ..scene import exporting, shots


class RETAKE_OT_export(bpy.types.Operator):
    """Write the shot's camera and tracks for another program"""

    bl_idname = "retake.export"
    bl_label = "Export"

    kind: EnumProperty(
        name="Format",
        items=[(name, kind.label, kind.description) for name, kind in exporting.KINDS.items()],
        default="nuke",
    )
    what: EnumProperty(
        name="What",
        items=[
            ("TARGET", "Edit", "The camera and the objects as you have keyed them"),
            ("SOURCE", "Footage", "The camera and the tracks as they were solved"),
        ],
        default="TARGET",
    )
    limit: IntProperty(
        name="Tracks",
        description="At most so many tracks become nodes or empties, even over the picture",
        default=exporting.DEFAULT_TRACKS,
        min=0,
        soft_max=2000,
    )
    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    check_existing: BoolProperty(options={"HIDDEN"}, default=True)  # the file browser asks before it overwrites

    @classmethod
    def description(cls, _context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        """The tooltip: what the format is for."""
        return exporting.KINDS[properties.kind].description

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if shots.active_shot(context) is None:
            cls.poll_message_set("Import a shot first")
            return False
        cls.poll_message_set("Leave edit mode first")
        return context.mode == "OBJECT"

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        root = shots.active_shot(context)
        folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
        self.filepath = str(folder / f"{bpy.path.clean_name(root.name)}{exporting.KINDS[self.kind].suffix}")
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def check(self, _context: bpy.types.Context) -> bool:
        """The file browser asks whether the name still fits the format that was chosen."""
        path = str(self._path())
        changed = path != self.filepath
        self.filepath = path
        return changed

    def execute(self, context: bpy.types.Context) -> set[str]:
        if not self.filepath:
            self.report({"ERROR"}, "No file was given. Choose where to write.")
            return {"CANCELLED"}
        path = self._path()
        try:
            notes = exporting.export(
                context, shots.active_shot(context), self.kind, path, target=self.what == "TARGET", limit=self.limit
            )
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        for note in notes:
            self.report({"WARNING"}, note)
        self.report({"INFO"}, f"Written: {path}")
        return {"FINISHED"}

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(self, "kind")
        layout.prop(self, "what", expand=True)
        row = layout.row()
        row.active = self.kind in ("nuke", *exporting.BLENDER_KINDS)
        row.prop(self, "limit")

    def _path(self) -> Path:
        """The chosen path with the format's suffix, in place of another format's; a folder keeps none."""
        path = Path(bpy.path.abspath(self.filepath))
        suffixes = {kind.suffix for kind in exporting.KINDS.values() if kind.suffix}
        stem = path.with_suffix("") if path.suffix.lower() in suffixes else path
        suffix = exporting.KINDS[self.kind].suffix
        return stem.with_name(stem.name + suffix) if suffix else stem


class RETAKE_MT_export(bpy.types.Menu):
    """The formats, in the Shot panel"""

    bl_idname = "RETAKE_MT_export"
    bl_label = "Export"

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        for name, kind in exporting.KINDS.items():
            row = layout.row()
            row.enabled = not exporting.why_unavailable(name)
            text = f"{kind.label} ({kind.suffix})" if kind.suffix else kind.label
            row.operator("retake.export", text=text).kind = name
        layout.separator()
        layout.operator("retake.clip_from_shot", icon="TRACKER")


register, unregister = bpy.utils.register_classes_factory((RETAKE_OT_export, RETAKE_MT_export))
