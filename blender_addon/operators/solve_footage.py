"""Solve Footage: from a video alone to a shot."""

from __future__ import annotations

import time
from math import degrees, radians
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty
from retake_shared.errors import BadShot, RetakeError

from .. import linked, rendering, solving
from ..messages import Printer
from ..paths import BLEND_RELATIVE
from ..scene import footage_clip, marking, pairing
from ..solve_report import LIGHTS, parsed
from .importing import asked_again, look_through_camera

LENSES = (
    ("UNKNOWN", "Unknown", "Find it out from the footage"),
    ("FOCAL", "Focal Length", "In millimetres, and how large the sensor is"),
    ("FOV", "Field of View", "Across the width of the picture"),
)
DEPTHS = (
    ("AUTO", "Automatic", "Depth Anything V2 where the backend has it, else between the points"),
    ("DEPTH_PRO", "Depth Pro", "For research only, and minutes a frame without a GPU. Get it in the preferences"),
)


class RETAKE_OT_solve_footage(bpy.types.Operator):
    """Find cameras, 3D tracks, depth and moving objects of a video, then import them. The window stays free meanwhile"""

    bl_idname = "retake.solve_footage"
    bl_label = "Solve Footage"

    filepath: StringProperty(
        name="Footage",
        description="A video, or the first picture of a sequence",
        subtype="FILE_PATH",
        options={"SKIP_SAVE", *BLEND_RELATIVE},
    )
    filter_glob: StringProperty(
        default=";".join(f"*{suffix}" for suffix in (*pairing.VIDEOS, *pairing.PICTURES)),
        options={"HIDDEN", "SKIP_SAVE"},
    )
    lens: EnumProperty(name="Lens", items=LENSES, default="UNKNOWN", options={"SKIP_SAVE"})
    focal: FloatProperty(
        name="Focal Length", description="Of the lens, in millimetres", default=35.0, min=1.0, soft_max=400.0,
        unit="CAMERA", options={"SKIP_SAVE"},
    )  # fmt: skip
    sensor: FloatProperty(
        name="Sensor", description="Its longer side in millimetres; 36 for 35 mm equivalents", default=36.0, min=1.0,
        soft_max=70.0, unit="CAMERA", options={"SKIP_SAVE"},
    )  # fmt: skip
    fov: FloatProperty(
        name="Field of View", description="Across the width", default=radians(60), min=radians(3), max=radians(170),
        subtype="ANGLE", options={"SKIP_SAVE"},
    )  # fmt: skip
    first: IntProperty(
        name="First Frame", description="Of the video, counted from 1", default=1, min=1, options={"SKIP_SAVE"}
    )
    last: IntProperty(
        name="Last Frame", description="0: the video's last", default=0, min=0, options={"SKIP_SAVE"}
    )  # fmt: skip
    step: IntProperty(
        name="Every n-th Frame", description="Look at fewer frames of a long video; those between are interpolated",
        default=1, min=1, soft_max=10, options={"SKIP_SAVE"},
    )  # fmt: skip
    masks: StringProperty(
        name="Masks",
        description="A folder of pictures, one per frame, white where something moves. Empty: what moves is found",
        subtype="DIR_PATH",
        options={"SKIP_SAVE"},
    )
    depth: EnumProperty(
        name="Depth", description="What tells how far away things are", items=DEPTHS, default="AUTO", options={"SKIP_SAVE"}
    )  # fmt: skip
    set_scene: BoolProperty(
        name="Set up the scene",
        description="Give the scene the footage's frame rate, size, range and a neutral view transform",
        default=True,
    )
    browsing: BoolProperty(options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = ""
        if solving.busy():
            reason = "Footage is being solved: cancel it, or wait"
        elif context.mode != "OBJECT":
            reason = "Leave edit mode first"
        cls.poll_message_set(reason)
        return not reason

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if not self.filepath:
            self.browsing = True
            context.window_manager.fileselect_add(self)
            return {"RUNNING_MODAL"}
        try:
            footage = footage_clip.probe(self.filepath, context.scene)
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self._facts = f"{footage.width} × {footage.height}, {float(footage.fps):.5g} fps, {footage.frames} frames"
        self._at_stake = footage_clip.settings_at_stake(context.scene, footage)
        return context.window_manager.invoke_props_dialog(self, width=420, confirm_text="Solve")

    def execute(self, context: bpy.types.Context) -> set[str]:
        if self.browsing and not bpy.app.background:
            # The browser is closed now; the options have a dialog of their own.
            return asked_again(self, bpy.ops.retake.solve_footage, filepath=self.filepath)
        try:
            job = solving.job_for(self.filepath, self._words(), self.set_scene)
            solving.begin(context, job)
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return _ended(self, context)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        if self.browsing:
            layout.label(text="The lens and the frames are asked for next.", icon="INFO")
            return
        column = layout.column(align=True)
        column.label(text=Path(self.filepath).name, icon="FILE_MOVIE")
        column.label(text=self._facts, icon="BLANK1")
        layout.prop(self, "lens", expand=False)
        if self.lens == "FOCAL":
            layout.prop(self, "focal")
            layout.prop(self, "sensor")
        elif self.lens == "FOV":
            layout.prop(self, "fov")
        column = layout.column(align=True)
        column.prop(self, "first")
        column.prop(self, "last")
        layout.prop(self, "step")
        layout.prop(self, "depth")
        layout.prop(self, "masks")
        clip = marking.clip_of(context, self.filepath)
        if clip is not None and clip.retake_marks:
            count = len(clip.retake_marks)
            layout.label(text=f"{count} mark{'s' if count > 1 else ''} of what moves", icon="EYEDROPPER")
        layout.prop(self, "set_scene")
        if self.set_scene and self._at_stake:
            box = layout.box()
            box.label(text="The scene is in use. The import will change its:", icon="ERROR")
            for line in self._at_stake:
                box.label(text=line)

    def _words(self) -> tuple[str, ...]:
        """The options of `retake solve`. Raises BadShot."""
        words: list[str] = []
        if self.lens == "FOCAL":
            words += ["--focal", f"{self.focal:g}", "--sensor", f"{self.sensor:g}"]
        elif self.lens == "FOV":
            words += ["--fov", f"{degrees(self.fov):.6g}"]
        if self.first > 1 or self.last:
            stop = self.last or footage_clip.probe(self.filepath, bpy.context.scene).frames
            if stop < self.first:
                raise BadShot(f"{self.first} to {stop}.", "frames", "The first must not come after the last.")
            words += ["--frames", f"{self.first - 1}:{stop}"]
        if self.step > 1:
            words += ["--step", str(self.step)]
        if self.masks:
            words += ["--masks", str(Path(bpy.path.abspath(self.masks)).absolute())]
        if self.depth == "DEPTH_PRO":
            words += ["--depth", "depth-pro"]
        clip = marking.clip_of(bpy.context, self.filepath)
        if clip is not None:
            words += marking.words(clip)
        return tuple(words)


def _ended(operator: bpy.types.Operator, context: bpy.types.Context) -> set[str]:
    """What an operator returns that began a solve: in the window at once, in `-b` and scripts with the shot."""
    if not bpy.app.background:
        return {"FINISHED"}
    ended = _wait(context)
    if ended.state == "cancelled":
        operator.report({"WARNING"}, "Cancelled; what was done is kept for the next time")
        return {"CANCELLED"}
    if ended.state == "importing":
        solving.bring_in(context)
    if ended.state == "failed":
        operator.report({"ERROR"}, ended.words)
        return {"CANCELLED"}
    report = parsed(ended.report)
    if report is not None:
        operator.report({"INFO"}, f"{LIGHTS[report.light]}. {report.reasons[0]}")
    return {"FINISHED"}


def _wait(context: bpy.types.Context) -> solving.Solving:
    """Block until the solve has ended; tells on stdout how far it is. A KeyboardInterrupt stops it."""
    printer = Printer()
    while solving.busy():
        try:
            for message in linked.link(context).messages():
                rendering.apply(message)
                printer(message)
            time.sleep(0.02)
        except KeyboardInterrupt:
            if solving.current.state == "stopping":
                raise
            solving.cancel(context)
    return solving.current


class RETAKE_OT_cancel_solve(bpy.types.Operator):
    """Stop solving. What is done is kept: the next solve of this footage goes on from there"""

    bl_idname = "retake.cancel_solve"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        cls.poll_message_set("Nothing is being solved")
        return solving.busy()

    def execute(self, context: bpy.types.Context) -> set[str]:
        solving.cancel(context)
        return {"FINISHED"}


class RETAKE_OT_continue_solve(bpy.types.Operator):
    """Go on with the solve that was cut short; stages that were done are not made again"""

    bl_idname = "retake.continue_solve"
    bl_label = "Go On"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        cls.poll_message_set("No solve was cut short")
        again = solving.current is not None and solving.current.state in ("failed", "cancelled")
        return not solving.busy() and bool(again or solving.interrupted)

    def execute(self, context: bpy.types.Context) -> set[str]:
        solving.begin(context, solving.current.job if solving.current is not None else solving.interrupted[0])
        return _ended(self, context)


class RETAKE_OT_dismiss_solve(bpy.types.Operator):
    """Show no more of this solve. Its files stay"""

    bl_idname = "retake.dismiss_solve"
    bl_label = "Dismiss"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        cls.poll_message_set("Footage is being solved: cancel it, or wait")
        return not solving.busy()

    def execute(self, _context: bpy.types.Context) -> set[str]:
        solving.dismiss()
        return {"FINISHED"}


class RETAKE_OT_import_solved(bpy.types.Operator):
    """Bring the shot that was solved into the file that is open now"""

    bl_idname = "retake.import_solved"
    bl_label = "Import Solved Shot"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        ready = solving.current is not None and solving.current.state == "importing"
        cls.poll_message_set(solving.why_not_import(context) if ready else "Nothing was solved")
        return ready and not solving.why_not_import(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        solving.bring_in(context)
        if solving.current.state == "failed":
            self.report({"ERROR"}, solving.current.words)
            return {"CANCELLED"}
        look_through_camera(context)
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory(
    (
        RETAKE_OT_solve_footage,
        RETAKE_OT_cancel_solve,
        RETAKE_OT_continue_solve,
        RETAKE_OT_dismiss_solve,
        RETAKE_OT_import_solved,
    )
)
