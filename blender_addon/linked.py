"""The one link of the add-on to its backend, for all that send something over it.

Lowest of the modules that use the link, and knows none of them: who looks at the messages is told to it when the
add-on is switched on. Only Blender's main thread runs this.
"""

from __future__ import annotations

from collections.abc import Callable

import bpy

from . import preferences
from .link import Link
from .messages import Backend

_link: Link | None = None
_tick: Callable[[], float] | None = None


def listen(tick: Callable[[], float]) -> None:
    """In the window `tick` shall look at the messages from the link's first use on; it says in how many seconds again."""
    global _tick
    _tick = tick


def link(context: bpy.types.Context) -> Link:
    """The link, which exists from its first use until the add-on is switched off."""
    global _link
    place = preferences.backend_place(context)
    if _link is None:
        _link = Link(place)
    _link.move(place)
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, persistent=True)
    return _link


def in_use() -> Link | None:
    """The link, None before its first use."""
    return _link


def backend() -> Backend:
    """What is known of the backend now."""
    return _link.backend if _link else Backend()


def redraw() -> None:
    """Have the areas that show takes, models or the backend drawn again."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", "CLIP_EDITOR", "SEQUENCE_EDITOR", "PREFERENCES"):
                area.tag_redraw()


def close() -> None:
    """End the link, as when the add-on is switched off."""
    global _link
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    if _link is not None:
        _link.close()
        _link = None
