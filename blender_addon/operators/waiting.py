"""What operators return that asked the link for something: in the window at once, in `-b` and scripts with its end."""

from __future__ import annotations

import threading
import time

import bpy

from .. import errands, linked, rendering


def answered(operator: bpy.types.Operator, answer: threading.Event, good: str) -> set[str]:
    """In the window the panel will show the answer; in `-b` and scripts wait for it, and fail unless it is `good`."""
    if not bpy.app.background:
        return {"FINISHED"}
    answer.wait(60)
    rendering.pump(1.0)
    backend = linked.backend()
    words = f"{backend.what} {backend.remedy}".strip()
    if backend.state != good:
        operator.report({"WARNING"}, words or f"The backend is {backend.state}.")
        return {"CANCELLED"}
    if backend.info is not None:
        engines = ", ".join(engine["name"] for engine in backend.info.engines) or "not known yet"
        operator.report({"INFO"}, f"Retake backend {backend.info.software}. Engines: {engines}. {words}".strip())
    return {"FINISHED"}


def errand_begun(operator: bpy.types.Operator, errand: str) -> set[str]:
    """In the window the panel will show how the errand ends; in `-b` and scripts wait for it, and fail if it did."""
    linked.redraw()
    if not bpy.app.background:
        return {"FINISHED"}
    while errands.running(errand):
        rendering.pump(1.0)
        time.sleep(0.02)
    ended = errands.ended(errand)
    operator.report({"INFO"} if ended.good else {"ERROR"}, ended.words)
    return {"FINISHED"} if ended.good else {"CANCELLED"}
