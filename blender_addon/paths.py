"""Paths that may be relative to the .blend, as Blender's own are: `//footage/clip.mp4`."""

from __future__ import annotations

import bpy

BLEND_RELATIVE = (
    {"PATH_SUPPORTS_BLEND_RELATIVE"}
    if "is_path_supports_blend_relative" in bpy.types.Property.bl_rna.properties
    else set()
)
"""Options of a property that may hold one: newer Blenders warn, and make the path absolute, unless it says so."""
