"""Retake: re-keyframe the camera and the actors of footage you have already shot.

`scene` holds the shot as bpy data, `operators` are thin calls of its functions, `link` talks to the backend. The add-on
has one link, in `linked`: `take_requests` and `solving` send over it, `rendering` brings what it says into the .blend.
"""

from . import cli, marks_panel, panels, preferences, properties, rendering, solving, tab, take_panels
from .operators import (
    backend,
    camera,
    choosing,
    editing,
    exporting,
    fetching,
    first_frame,
    generating,
    importing,
    marking,
    placing,
    solve_footage,
    taking,
    tracking,
)

_MODULES = (
    properties,
    preferences,
    rendering,
    solving,
    importing,
    solve_footage,
    marking,
    tracking,
    exporting,
    choosing,
    editing,
    placing,
    camera,
    first_frame,
    generating,
    taking,
    backend,
    fetching,
    tab,
    panels,
    take_panels,
    marks_panel,
    cli,
)


def register() -> None:
    """Called by Blender, also while it allows no access to the scene."""
    for module in _MODULES:
        module.register()


def unregister() -> None:
    """Called when the add-on is switched off, and when Blender closes."""
    for module in reversed(_MODULES):
        module.unregister()
