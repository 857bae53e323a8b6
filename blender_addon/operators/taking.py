"""What can be done with a take: render it again, go on with it, compare it, bring its edit back, delete it."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty
from retake_shared import archive
from retake_shared.errors import RetakeError
from retake_shared.shot import EDIT_FILE, FIRST_FRAME_FILE, SOLVE_FILE

from .. import engine_settings, rendering, take_list, take_requests, takes
from ..scene import restore, sequencer, shots


def chosen(context: bpy.types.Context) -> bpy.types.RetakeTake | None:
    """The take that is selected in the list of the shot at hand."""
    return take_list.active_take(shots.active_shot(context))


def is_running(context: bpy.types.Context, take: bpy.types.RetakeTake) -> bool:
    """Whether this very take is being rendered."""
    return context.window_manager.retake.job == take.folder


def why_no_take(context: bpy.types.Context) -> str:
    """Why nothing can be done with a take; "" when it can."""
    return "" if chosen(context) else "Select a take in the list first"


def why_cannot_render(context: bpy.types.Context) -> str:
    """Why the selected take cannot be rendered now; "" when it can."""
    if rendering.busy(context):
        return "A take is being rendered: cancel it, or wait"
    return why_no_take(context)


class _TakeOperator:
    """The selected take of the shot at hand; library errors become reports."""

    why_not = staticmethod(why_no_take)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = cls.why_not(context)
        cls.poll_message_set(reason)
        return not reason

    def execute(self, context: bpy.types.Context) -> set[str]:
        root = shots.active_shot(context)
        take = chosen(context)
        try:
            return self.act(context, root, take, Path(take.folder))
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}

    def rendered(self, context: bpy.types.Context, folder: Path) -> set[str]:
        """In the window the take goes on by itself; in `-b` and scripts wait for its end."""
        if not bpy.app.background:
            return {"FINISHED"}
        record = rendering.wait(context, folder)
        if record.state == "done":
            return {"FINISHED"}
        self.report({"ERROR"}, f"{record.error} {record.remedy}".strip() or "Cancelled.")
        return {"CANCELLED"}


class RETAKE_OT_render_again(_TakeOperator, bpy.types.Operator):
    """Render the edit of this take once more into a new take, with another seed if you like"""

    bl_idname = "retake.render_again"
    bl_label = "Render Again"
    bl_options = {"REGISTER", "UNDO"}
    why_not = staticmethod(why_cannot_render)

    use_panel: BoolProperty(
        name="Settings From Panel",
        description="Engine, prompt, seed and size as the Generate panel has them now, not as this take had them",
        default=False,
    )

    def act(self, context, root, take, folder) -> set[str]:
        settings = take_requests.settings_of(root) if self.use_panel else None
        return self.rendered(context, take_requests.begin_again(context, root, folder, settings))


class RETAKE_OT_continue(_TakeOperator, bpy.types.Operator):
    """Go on with a take that failed or was cancelled, keeping the frames it has"""

    bl_idname = "retake.continue_take"
    bl_label = "Continue"
    bl_options = {"REGISTER", "UNDO"}

    @staticmethod
    def why_not(context: bpy.types.Context) -> str:
        reason = why_cannot_render(context)
        return reason or ("The take is complete" if chosen(context).state == "DONE" else "")

    def act(self, context, root, take, folder) -> set[str]:
        take_requests.resume(context, root, folder)
        return self.rendered(context, folder)


def _others(_self: bpy.types.Operator, context: bpy.types.Context) -> list[tuple[str, str, str, int]]:
    items = [("FOOTAGE", "Footage", "The footage as it was shot", 0)]
    root = shots.active_shot(context) if context else None
    if root is not None:
        items += [
            (f"TAKE{index}", take.name, f"{take.engine}, seed {take.seed}", index + 1)
            for index, take in enumerate(root.retake.takes)
            if index != root.retake.active_take and take.strip
        ]
    _others.kept = items  # Blender keeps no reference to these words
    return items


class RETAKE_OT_compare(_TakeOperator, bpy.types.Operator):
    """Show this take beside the footage or another take in the sequencer, split at a line"""

    bl_idname = "retake.compare"
    bl_label = "Compare"
    bl_options = {"REGISTER", "UNDO"}

    against: EnumProperty(name="Against", items=_others)
    split: FloatProperty(
        name="Split",
        description="Where the line is; 0 shows the take whole",
        default=0.5,
        min=0,
        max=1,
        subtype="FACTOR",
    )

    @staticmethod
    def why_not(context: bpy.types.Context) -> str:
        take = chosen(context)
        return why_no_take(context) or ("" if take.strip else "The take has no frames yet")

    def act(self, context, root, take, folder) -> set[str]:
        scene = take_list.scene_of(root)
        mine = sequencer.find(scene, take.strip)
        if mine is None:
            take_list.fill_strip(root, take)
            mine = sequencer.find(scene, take.strip)
        shot = root.retake
        footage = sequencer.label(root.name, "footage")
        if self.against == "FOOTAGE":
            if shot.clip is None:
                raise RetakeError("its movie clip is gone.", root.name, "Undo its deletion, or choose another take.")
            other = sequencer.add_footage_strip(scene, shot.clip, footage, shot.start)
        else:
            other = sequencer.find(scene, shot.takes[int(self.against[4:])].strip)
        if other is None or mine is None:
            raise RetakeError("has no strip to compare with.", take.name, "Choose another take.")
        ours = {footage, *(t.strip for t in shot.takes)}
        for strip in sequencer.strips(scene):
            if strip.name in ours:
                sequencer.compare(scene, strip.name, 0)
                strip.mute = self.split > 0 and strip not in (mine, other)
        top = max(mine, other, key=lambda strip: strip.channel)
        sequencer.compare(scene, top.name, self.split)
        return {"FINISHED"}


class RETAKE_OT_restore_edit(_TakeOperator, bpy.types.Operator):
    """Key camera, objects and tracks as they were for this take. The keys they have now are replaced"""

    bl_idname = "retake.restore_edit"
    bl_label = "Restore Edit"
    bl_options = {"REGISTER", "UNDO"}
    why_not = staticmethod(why_cannot_render)

    def act(self, context, root, take, folder) -> set[str]:
        solve = archive.load_solve(folder / SOLVE_FILE)
        edit = archive.load_edit(folder / EDIT_FILE)
        settings = takes.read_record(folder).settings
        for note in restore.restore(context, root, solve, edit):
            self.report({"WARNING"}, note)
        shot = root.retake
        for note in engine_settings.write(shot, settings.engine, settings.options):
            self.report({"WARNING"}, note)
        if (folder / FIRST_FRAME_FILE).is_file():
            shot.first_frame = str(folder / FIRST_FRAME_FILE)
        shot.prompt, shot.negative_prompt, shot.seed = settings.prompt, settings.negative_prompt, settings.seed
        self.report({"INFO"}, f"The timeline shows the edit of {take.name}")
        return {"FINISHED"}


class RETAKE_OT_delete_take(_TakeOperator, bpy.types.Operator):
    """Delete this take: its frames on disk, its strip and its place in the list. Cannot be undone"""

    bl_idname = "retake.delete_take"
    bl_label = "Delete Take"

    @staticmethod
    def why_not(context: bpy.types.Context) -> str:
        reason = why_no_take(context)
        return reason or ("It is being rendered: cancel it first" if is_running(context, chosen(context)) else "")

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self, event, title="Delete Take?", message=f"{chosen(context).name} and its frames on disk are lost.",
            confirm_text="Delete", icon="WARNING",
        )  # fmt: skip

    def act(self, context, root, take, folder) -> set[str]:
        takes.delete(folder)
        if take.strip:
            sequencer.remove(take_list.scene_of(root), take.strip)
        shot = root.retake
        shot.takes.remove(shot.active_take)
        shot.active_take = min(shot.active_take, len(shot.takes) - 1)
        return {"FINISHED"}


class RETAKE_OT_open_folder(_TakeOperator, bpy.types.Operator):
    """Show the take's frames in the file browser of your system"""

    bl_idname = "retake.open_take_folder"
    bl_label = "Open Folder"

    def act(self, context, root, take, folder) -> set[str]:
        if not folder.is_dir():
            raise RetakeError("is not there.", str(folder), "Put it back, or delete the take.")
        bpy.ops.wm.path_open(filepath=str(folder))
        return {"FINISHED"}


class RETAKE_OT_refresh_takes(bpy.types.Operator):
    """Make the list say what the take folders hold, also those that were moved here"""

    bl_idname = "retake.refresh_takes"
    bl_label = "Refresh Takes"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("Import a shot first")
        return shots.active_shot(context) is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.reconcile(context)
        return {"FINISHED"}


class RETAKE_OT_show_take(_TakeOperator, bpy.types.Operator):
    """Go to the take's first frame, in its strip"""

    bl_idname = "retake.show_take"
    bl_label = "Show"
    bl_options = {"REGISTER", "UNDO"}

    frame: IntProperty(name="Frame", description="Of the take, counted from 0", default=0, min=0, options={"SKIP_SAVE"})

    def act(self, context, root, take, folder) -> set[str]:
        take_list.fill_strip(root, take)
        scene = take_list.scene_of(root)
        mine = sequencer.find(scene, take.strip)
        if mine is None:
            raise RetakeError("has no frames yet.", take.name, "Wait for the first one.")
        for strip in sequencer.strips(scene):
            if strip.name in {t.strip for t in root.retake.takes}:
                sequencer.compare(scene, strip.name, 0)
                strip.mute, strip.select = strip != mine, strip == mine
        scene.frame_set(root.retake.start + take.frames[0] + self.frame)
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory(
    (
        RETAKE_OT_render_again,
        RETAKE_OT_continue,
        RETAKE_OT_compare,
        RETAKE_OT_restore_edit,
        RETAKE_OT_delete_take,
        RETAKE_OT_open_folder,
        RETAKE_OT_refresh_takes,
        RETAKE_OT_show_take,
    )
)
