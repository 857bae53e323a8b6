"""Generate and Cancel: from the timeline to a take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import bpy
from bpy.props import StringProperty
from retake_shared.errors import RetakeError
from retake_shared.shot import Edit, Solve

from .. import linked, rendering, take_list, take_requests
from ..scene import readback, shots

BUDGET = 0.025
"""Seconds of reading the scene between two turns of the window."""


def why_not(context: bpy.types.Context) -> str:
    """Why nothing can be generated now; "" when it can."""
    if context.mode not in ("OBJECT", "POSE"):
        return "Leave edit mode first"
    root = shots.active_shot(context)
    if root is None:
        return "Import a shot first"
    if root.retake.target_camera is None:
        return "The shot has no camera: set one in the Camera panel"
    if rendering.busy(context):
        return "A take is being rendered: cancel it, or wait"
    return take_requests.lacking(root)


class RETAKE_OT_generate(bpy.types.Operator):
    """Render the shot as it is keyed now into a new take. In the window this goes on in the background"""

    bl_idname = "retake.generate"
    bl_label = "Generate Take"
    bl_options = {"UNDO"}  # no REGISTER: to adjust or repeat it would hold the window until the take is done

    folder: StringProperty(
        name="Folder",
        description="Where the take is written. Empty: a new, numbered folder beside the .blend",
        subtype="DIR_PATH",
        options={"SKIP_SAVE"},
    )

    _steps: Generator[int, None, Callable[[], tuple[Solve, Edit]]] | None = None
    _edited: Future[tuple[Solve, Edit]] | None = None
    _timer: bpy.types.Timer | None = None

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = why_not(context)
        cls.poll_message_set(reason)
        return not reason

    def execute(self, context: bpy.types.Context) -> set[str]:
        root = shots.active_shot(context)
        try:
            take_requests.check(root)
            folder = self._begin(context, root, *readback.read_edit(context, root))
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        record = rendering.wait(context, folder)
        if record.state == "done":
            self.report({"INFO"}, f"{record.stop - record.start} frames in {folder}")
            return {"FINISHED"}
        self.report(
            {"ERROR"} if record.state == "failed" else {"WARNING"},
            f"{record.error} {record.remedy}".strip() or "Cancelled.",
        )
        return {"CANCELLED"}

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        root = shots.active_shot(context)
        try:
            take_requests.check(root)
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self._root_name = root.name
        self._steps = readback.read_steps(context, root)
        rendering.watch_reading(context, root.retake.frames)
        self._timer = context.window_manager.event_timer_add(0.01, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type == "ESC" or context.window_manager.retake.cancel:
            self._stop(context)
            self.report({"INFO"}, "Cancelled; nothing was sent")
            return {"CANCELLED"}
        if event.type != "TIMER":
            # The sidebar's Cancel must work; anything else could change the scene between two frames.
            return {"PASS_THROUGH"} if _over_sidebar(context, event) else {"RUNNING_MODAL"}
        try:
            edited = self._read_on(context)
            if edited is None:
                return {"RUNNING_MODAL"}
            self._stop(context)
            self._begin(context, bpy.data.objects.get(self._root_name), *edited)
        except RetakeError as error:
            self._stop(context)
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        except Exception:  # a bug must not leave the panel waiting for ever
            self._stop(context)
            raise
        return {"FINISHED"}

    def cancel(self, context: bpy.types.Context) -> None:
        self._stop(context)

    def _read_on(self, context: bpy.types.Context) -> tuple[Solve, Edit] | None:
        """Read for one turn of the window; the edit when all is read."""
        if self._edited is not None:
            return self._edited.result() if self._edited.done() else None
        deadline = time.monotonic() + BUDGET
        try:
            while time.monotonic() < deadline:
                context.window_manager.retake.done = next(self._steps)
        except StopIteration as end:
            pool = ThreadPoolExecutor(1, "Retake edit")
            self._edited = pool.submit(end.value)
            pool.shutdown(wait=False)
        linked.redraw()
        return None

    def _begin(self, context: bpy.types.Context, root: bpy.types.Object | None, solve: Solve, edit: Edit) -> Path:
        if root is None:
            raise RetakeError("was deleted or renamed while it was read.", self._root_name, "Generate again.")
        folder = Path(bpy.path.abspath(self.folder)) if self.folder else None
        if folder is None and not bpy.data.filepath:
            self.report({"WARNING"}, f"The .blend is not saved: the take goes into {take_list.takes_parent()}")
        return take_requests.begin(context, root, solve, edit, take_requests.settings_of(root), folder)

    def _stop(self, context: bpy.types.Context) -> None:
        if self._steps is not None:
            with contextlib.suppress(ReferenceError):  # another file was opened meanwhile
                self._steps.close()  # puts the timeline back to the frame it was on
            self._steps = None
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None
        rendering.watch_nothing(context)


def _over_sidebar(context: bpy.types.Context, event: bpy.types.Event) -> bool:
    return any(
        region.type == "UI"
        and region.x <= event.mouse_x < region.x + region.width
        and region.y <= event.mouse_y < region.y + region.height
        for area in context.screen.areas
        for region in area.regions
    )


class RETAKE_OT_cancel(bpy.types.Operator):
    """Stop the take that is being rendered. The frames that have come are kept"""

    bl_idname = "retake.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("No take is being rendered")
        return rendering.busy(context) and not context.window_manager.retake.cancel

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.cancel(context)
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory((RETAKE_OT_generate, RETAKE_OT_cancel))
