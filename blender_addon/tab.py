"""The sidebar tab: what its panels have in common, and the pictures that they show.

Its panels come in the order of work: Shot, Objects, Camera (`panels`), Generate, Takes, Backend (`take_panels`).
"""

from __future__ import annotations

from pathlib import Path

import bpy
import bpy.utils.previews
import numpy as np
from numpy.typing import NDArray

from .scene import shots

_pictures: bpy.utils.previews.ImagePreviewCollection | None = None
_MOST_PICTURES = 4
"""A solve, a take and the takes of other windows may be in sight together; one must not push the other out."""


def picture(
    layout: bpy.types.UILayout, path: Path, pixels: NDArray[np.float32] | None = None, scale: float = 7.0
) -> None:
    """The picture at `path`: from pixels (h, w, 4) at once, without them as soon as Blender's thread has read it."""
    key = str(path)
    if key in _pictures:
        _pictures[key] = _pictures.pop(key)  # the newest again
    else:
        while len(_pictures) >= _MOST_PICTURES:
            del _pictures[next(iter(_pictures))]
        if pixels is None:
            _pictures.load(key, key, "IMAGE")
        else:
            made = _pictures.new(key)
            made.image_size = pixels.shape[1::-1]
            made.image_pixels_float.foreach_set(pixels.ravel())
    layout.template_icon(_pictures[key].icon_id, scale=scale)


class Tab:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Retake"


class ShotTab(Tab):
    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return shots.active_shot(context) is not None


class SequencerTab(ShotTab):
    bl_space_type = "SEQUENCE_EDITOR"


def register() -> None:
    global _pictures
    _pictures = bpy.utils.previews.new()


def unregister() -> None:
    global _pictures
    if _pictures is not None:
        bpy.utils.previews.remove(_pictures)
        _pictures = None
