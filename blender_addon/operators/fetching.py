"""The backend's models: get, stop, verify, remove, import; and let go of those in its memory."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import StringProperty

from .. import errands, linked, models, preferences, rendering
from .waiting import answered, errand_begun


def why_no_backend() -> str:
    """Why the backend cannot be asked for anything; "" when it can."""
    return "" if linked.backend().state == "ready" else "Start the backend first"


class _ModelOperator:
    """Asks the backend to do `request` with a model; the panel shows how it goes."""

    request = ""
    model: StringProperty(name="Model", description="Its name in the backend's catalogue")

    @classmethod
    def why_not(cls, _context: bpy.types.Context) -> str:
        return why_no_backend()

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = cls.why_not(context)
        cls.poll_message_set(reason)
        return not reason

    def execute(self, context: bpy.types.Context) -> set[str]:
        return answered(self, linked.link(context).model(self.request, self.model), "ready")


def _label(name: str) -> str:
    model = models.find(name)
    return model.label if model and model.label else name


class RETAKE_OT_pull_model(_ModelOperator, bpy.types.Operator):
    """Have the backend download this model from the internet. What is already here is not sent again"""

    bl_idname = "retake.pull_model"
    bl_label = "Get"
    request = "pull"

    @classmethod
    def why_not(cls, _context: bpy.types.Context) -> str:
        if not bpy.app.online_access:
            return "Allow Online Access in Blender's preferences, under System, first"
        return why_no_backend()


class RETAKE_OT_stop_model(_ModelOperator, bpy.types.Operator):
    """Stop what is being done with this model. A download can be gone on with later"""

    bl_idname = "retake.stop_model"
    bl_label = "Stop"
    request = "stop"


class RETAKE_OT_verify_model(_ModelOperator, bpy.types.Operator):
    """Compare this model's files with their checksums"""

    bl_idname = "retake.verify_model"
    bl_label = "Verify"
    request = "verify"


class RETAKE_OT_remove_model(_ModelOperator, bpy.types.Operator):
    """Delete this model from the backend's disk. Cannot be undone"""

    bl_idname = "retake.remove_model"
    bl_label = "Remove"
    request = "remove"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_no_backend() or ("A take is being rendered: cancel it, or wait" if rendering.busy(context) else "")

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self, event, title="Remove Model?", message=f"{_label(self.model)} is deleted from the disk.",
            confirm_text="Remove", icon="WARNING",
        )  # fmt: skip


class RETAKE_OT_import_model(bpy.types.Operator):
    """Take a folder on this computer in as this model: one that you trained, or downloaded by other means"""

    bl_idname = "retake.import_model"
    bl_label = "Import Model"

    model: StringProperty(name="Model", description="Its name in the backend's catalogue", options={"SKIP_SAVE"})
    directory: StringProperty(name="Folder", description="The folder with its files", subtype="DIR_PATH")
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = ""
        if preferences.backend_place(context).connection_file is not None:
            reason = "The backend is not Retake's own: import on its computer, with `retake models import`"
        elif errands.running("import"):
            reason = "A folder is being imported: wait"
        cls.poll_message_set(reason)
        return not reason

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        folder = Path(bpy.path.abspath(self.directory))
        if not self.directory or not folder.is_dir():
            self.report({"ERROR"}, f"{folder} is no folder. Choose the one with the model's files.")
            return {"CANCELLED"}
        errands.begin("import")
        found = models.find(self.model)
        replace = found is not None and found.state in ("installed", "damaged")
        linked.link(context).import_model(self.model, folder, replace)
        return errand_begun(self, "import")


class RETAKE_OT_free_memory(bpy.types.Operator):
    """Let go of the models that the backend holds in the GPU's memory between takes. The next take loads them again"""

    bl_idname = "retake.free_memory"
    bl_label = "Free GPU Memory"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = why_no_backend()
        if not reason and (rendering.busy(context) or linked.backend().info.worker == "busy"):
            reason = "A take is being rendered: cancel it, or wait"
        cls.poll_message_set(reason)
        return not reason

    def execute(self, context: bpy.types.Context) -> set[str]:
        return answered(self, linked.link(context).free(), "ready")


register, unregister = bpy.utils.register_classes_factory(
    (
        RETAKE_OT_pull_model,
        RETAKE_OT_stop_model,
        RETAKE_OT_verify_model,
        RETAKE_OT_remove_model,
        RETAKE_OT_import_model,
        RETAKE_OT_free_memory,
    )
)
