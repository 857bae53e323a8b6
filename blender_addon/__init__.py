"""Retake: re-keyframe the camera and the actors of footage you have already shot.

`scene` holds the shot as bpy data, `operators` are thin calls of its functions, `link` talks to the backend.
"""

from . import properties

_MODULES = (properties,)


def register() -> None:
    """Called by Blender, also while it allows no access to the scene."""
    for module in _MODULES:
        module.register()


def unregister() -> None:
    for module in reversed(_MODULES):
        module.unregister()
