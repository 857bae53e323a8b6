"""Objects: made, filled with tracks, copied, removed, retimed. Moving them needs no tool: key their handles."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import BoolProperty, FloatProperty, IntProperty, StringProperty
from retake_shared.errors import BadShot, RetakeError

from ..scene import objects, picking, shots


def chosen_handle(context: bpy.types.Context, label: str = "") -> bpy.types.Object:
    """The handle of that label, or address, in the active shot; without one that of the active object. Raises BadShot."""
    root = shots.active_shot(context)
    if root is None:
        raise BadShot("there is no shot.", "scene", "Import one first.")
    if label:
        handles = objects.addresses(root)
        labelled = [handle for handle in handles if handle.retake_handle.label == label]
        found = labelled if len(labelled) == 1 else [h for h, name in handles.items() if name == label] or labelled
        if found:
            return found[0]
        names = ", ".join(handles.values())
        raise BadShot(f'there is no object "{label}".', root.name, f"The shot has: {names}.")
    handle = objects.handle_of(context.active_object)
    if handle is None:
        raise BadShot("no object is chosen.", root.name, "Click its handle or one of its tracks first.")
    return handle


def selected_rows(context: bpy.types.Context, root: bpy.types.Object) -> np.ndarray:
    """Rows of the tracks whose empties are selected, those of another shot left out."""
    tracks = [ob for ob in context.selected_objects if ob.retake_track >= 0 and objects.root_of(ob) in (root, None)]
    return np.unique([ob.retake_track for ob in tracks]).astype(np.int64)


def footage_frame(context: bpy.types.Context, root: bpy.types.Object, frame: int) -> int:
    """The footage frame of a scene frame, -1 being the current one. Raises BadShot outside the shot."""
    shot = root.retake
    frame = context.scene.frame_current if frame == -1 else frame
    if not shot.start <= frame < shot.start + shot.frames:
        remedy = f"Use one of frames {shot.start} to {shot.start + shot.frames - 1}."
        raise BadShot(f"frame {frame} is not in the shot.", root.name, remedy)
    return frame - shot.start


class ShotOperator:
    """An operator on the active shot: `run` does the work, what it raises is reported and nothing else changes."""

    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        """Do it; return what to tell the artist, or ""."""
        raise NotImplementedError

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.mode != "OBJECT":
            cls.poll_message_set("Leave edit mode first")
            return False
        cls.poll_message_set("Import a shot first")
        return shots.active_shot(context) is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            message = self.run(context, shots.active_shot(context))
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if message:
            self.report({"INFO"}, message)
        return {"FINISHED"}


class ObjectOperator(ShotOperator):
    """A `ShotOperator` on one object: the one named, else that of the active handle or track."""

    object: StringProperty(
        name="Object", description="Empty: that of the active handle or track", options={"SKIP_SAVE"}
    )

    def handle(self, context: bpy.types.Context) -> bpy.types.Object:
        return chosen_handle(context, self.object)


class RETAKE_OT_add_object(ShotOperator, bpy.types.Operator):
    """Make a new object of the selected tracks; without a selection, an empty one"""

    bl_idname = "retake.add_object"
    bl_label = "Add Object"

    name: StringProperty(name="Name", default="object")

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        rows = selected_rows(context, root)
        handle = objects.add_object(root, self.name, rows)
        activate(context, handle)
        return f"{handle.retake_handle.label}: {len(rows)} tracks"


class RETAKE_OT_assign_selected(ObjectOperator, bpy.types.Operator):
    """Put the selected tracks into an object"""

    bl_idname = "retake.assign_selected"
    bl_label = "Assign Selected Tracks"

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        rows = selected_rows(context, root)
        if not len(rows):
            raise BadShot("no track is selected.", root.name, "Select track empties first, by box select for example.")
        return _assigned(objects.assign(root, rows, self.handle(context)))


class PictureOperator(ObjectOperator):
    """An `ObjectOperator` on tracks by their place in the footage's picture at one frame."""

    frame: IntProperty(
        name="Frame", description="Scene frame of the picture. -1: the current one", default=-1, options={"SKIP_SAVE"}
    )
    hidden: BoolProperty(name="Covered too", description="Also tracks that something covers at that frame")


class RETAKE_OT_assign_box(PictureOperator, bpy.types.Operator):
    """Put the tracks inside a box of the footage's picture into an object"""

    bl_idname = "retake.assign_box"
    bl_label = "Assign Tracks in Box"

    left: FloatProperty(name="Left", subtype="PIXEL")
    top: FloatProperty(name="Top", subtype="PIXEL")
    right: FloatProperty(name="Right", subtype="PIXEL")
    bottom: FloatProperty(name="Bottom", subtype="PIXEL")

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        size = shots.active_shot(context).retake.size
        if self.right <= self.left or self.bottom <= self.top:
            self.left, self.top, self.right, self.bottom = 0, 0, size[0], size[1]
        return context.window_manager.invoke_props_dialog(self)

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        box = (self.left, self.top, self.right, self.bottom)
        handle, frame = self.handle(context), footage_frame(context, root, self.frame)
        rows = picking.rows_in_box(objects.current_solve(root), frame, box, self.hidden)
        return _assigned(objects.assign(root, rows, handle))


class RETAKE_OT_assign_mask(PictureOperator, bpy.types.Operator):
    """Put the tracks under the white of a mask picture into an object"""

    bl_idname = "retake.assign_mask"
    bl_label = "Assign Tracks in Mask"

    filepath: StringProperty(name="Mask", subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_image: BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        handle, frame = self.handle(context), footage_frame(context, root, self.frame)
        mask = picking.load_mask(self.filepath)
        rows = picking.rows_in_mask(objects.current_solve(root), frame, mask, self.hidden)
        return _assigned(objects.assign(root, rows, handle))


class RETAKE_OT_select_tracks(ObjectOperator, bpy.types.Operator):
    """Select the empties of an object"""

    bl_idname = "retake.select_tracks"
    bl_label = "Select Tracks"

    def run(self, context: bpy.types.Context, _root: bpy.types.Object) -> str:
        layer = context.view_layer.objects  # those that it excludes cannot be selected
        empties = [empty for empty in objects.empties_under(self.handle(context)) if layer.get(empty.name) == empty]
        for selected in context.selected_objects:
            selected.select_set(False)
        for empty in empties:
            empty.select_set(True)
        return f"{len(empties)} tracks selected"


class RETAKE_OT_duplicate_object(ObjectOperator, bpy.types.Operator):
    """Add a second one of this object, with keys of its own"""

    bl_idname = "retake.duplicate_object"
    bl_label = "Duplicate Object"

    name: StringProperty(name="Name", description="Empty: numbered after the first", options={"SKIP_SAVE"})

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        copy = objects.duplicate(root, self.handle(context), self.name)
        activate(context, copy)
        return f"{copy.retake_handle.label} added"


class RETAKE_OT_remove_object(ObjectOperator, bpy.types.Operator):
    """Take this object out of the picture. What it covered has to be filled by the engine"""

    bl_idname = "retake.remove_object"
    bl_label = "Remove Object"

    def run(self, context: bpy.types.Context, _root: bpy.types.Object) -> str:
        objects.set_removed(context, self.handle(context), True)
        return ""


class RETAKE_OT_restore_object(ObjectOperator, bpy.types.Operator):
    """Put a removed object back into the picture"""

    bl_idname = "retake.restore_object"
    bl_label = "Restore Object"

    def run(self, context: bpy.types.Context, _root: bpy.types.Object) -> str:
        objects.set_removed(context, self.handle(context), False)
        return ""


class RETAKE_OT_reset_object(ObjectOperator, bpy.types.Operator):
    """Put this object back to where the footage has it. Its keys, constraints and retiming are deleted"""

    bl_idname = "retake.reset_object"
    bl_label = "Reset Object"

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        objects.reset(context, root, self.handle(context))
        return ""


class RETAKE_OT_retime(ObjectOperator, bpy.types.Operator):
    """Let this object's own motion start later or earlier, run faster, slower or backwards, or stand still"""

    bl_idname = "retake.retime"
    bl_label = "Retime Object"

    offset: FloatProperty(name="Delay", description="Frames by which the motion starts later; negative: earlier")
    speed: FloatProperty(name="Speed", description="0.5 is half as fast", default=1.0, min=0.01, soft_max=4)
    reverse: BoolProperty(name="Reverse", description="The motion runs backwards")
    freeze: IntProperty(
        name="Freeze", description="Footage frame, from 0, at which it stands still. -1: it moves", default=-1, min=-1
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        try:
            timing = self.handle(context).retake_handle
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        for name in ("offset", "speed", "reverse", "freeze"):
            setattr(self, name, getattr(timing, name))
        return context.window_manager.invoke_props_dialog(self)

    def run(self, context: bpy.types.Context, root: bpy.types.Object) -> str:
        objects.retime(root, self.handle(context), self.offset, self.speed, self.freeze, self.reverse)
        return ""


def activate(context: bpy.types.Context, ob: bpy.types.Object) -> None:
    """Make this the only selected object, and the active one, unless the view layer excludes it."""
    for selected in context.selected_objects:
        selected.select_set(False)
    if context.view_layer.objects.get(ob.name) != ob:
        return
    context.view_layer.objects.active = ob
    ob.select_set(True)


def _assigned(count: int) -> str:
    return f"{count} tracks changed object"


register, unregister = bpy.utils.register_classes_factory(
    (
        RETAKE_OT_add_object,
        RETAKE_OT_assign_selected,
        RETAKE_OT_assign_box,
        RETAKE_OT_assign_mask,
        RETAKE_OT_select_tracks,
        RETAKE_OT_duplicate_object,
        RETAKE_OT_remove_object,
        RETAKE_OT_restore_object,
        RETAKE_OT_reset_object,
        RETAKE_OT_retime,
    )
)
