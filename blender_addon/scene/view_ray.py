"""An object nearer or farther along the view rays: its depth changes, the footage's own camera sees it as before.

Between the root and the handle stands an empty, the rail, which scales all under it about the source camera's place, in
every frame anew. Drivers set it from `RetakeHandle.depth`, so that the depth can be keyed like any other property, and
the handle's own keys stay what they are.
"""

from __future__ import annotations

import bpy
from mathutils import Matrix
from retake_shared.errors import BadShot
from retake_shared.shot import BACKGROUND

DEPTH = "retake_handle.depth"


def slide(root: bpy.types.Object, handle: bpy.types.Object, depth: float) -> None:
    """Put the object at `depth` times its own depth, above 0. Raises BadShot where that cannot be."""
    ensure_rail(root, handle)
    handle.retake_handle.depth = depth


def rail_of(handle: bpy.types.Object) -> bpy.types.Object | None:
    """The handle's own rail; None when it has none."""
    rail = handle.parent
    if rail is None or rail.retake_role != "RAIL" or rail.animation_data is None:
        return None
    targets = {
        variable.targets[0].id
        for curve in rail.animation_data.drivers
        for variable in curve.driver.variables
        if variable.targets[0].data_path == DEPTH
    }
    return rail if targets == {handle} else None


def ensure_rail(root: bpy.types.Object, handle: bpy.types.Object) -> bpy.types.Object:
    """The handle's own rail, made if there is none. Raises BadShot."""
    rail, camera = rail_of(handle), root.retake.source_camera
    if rail is not None:
        return rail
    if handle.retake_handle.number == BACKGROUND:
        raise BadShot(
            "the background has no depth of its own.", handle.name, "Scale the shot's root to change the whole world."
        )
    if camera is None:
        raise BadShot("its source camera is gone.", root.name, "Undo its deletion, or import the shot again.")
    if handle.parent is not None and handle.parent != root and handle.parent.retake_role != "RAIL":
        raise BadShot(f"it hangs under {handle.parent.name}.", handle.name, "Clear its parent first.")
    rail = bpy.data.objects.new(f"{handle.name} view ray", None)
    rail.retake_role, rail.parent = "RAIL", root
    rail.empty_display_size, rail.hide_select = 0.0, True
    for collection in handle.users_collection:
        collection.objects.link(rail)
    for axis in range(3):
        _drive(rail, "location", axis, "(1 - depth) * place", depth=(handle, DEPTH),
               place=(camera, f"location[{axis}]"))  # fmt: skip
        _drive(rail, "scale", axis, "depth", depth=(handle, DEPTH))
    handle.parent, handle.matrix_parent_inverse = rail, Matrix.Identity(4)
    return rail


def remove_rail(root: bpy.types.Object, handle: bpy.types.Object) -> None:
    """Put the object back to its own depth."""
    rail = rail_of(handle)
    handle.retake_handle.property_unset("depth")
    if rail is not None:
        for child in rail.children:
            child.parent, child.matrix_parent_inverse = root, Matrix.Identity(4)
        bpy.data.objects.remove(rail)


def _drive(rail: bpy.types.Object, path: str, axis: int, expression: str, **values: tuple[bpy.types.ID, str]) -> None:
    """A driver of simple arithmetic, which Blender evaluates without Python, so that no file asks for trust."""
    driver = rail.driver_add(path, axis).driver
    driver.type = "SCRIPTED"
    for name, (owner, data_path) in values.items():
        variable = driver.variables.new()
        variable.name, variable.type = name, "SINGLE_PROP"
        variable.targets[0].id, variable.targets[0].data_path = owner, data_path
    driver.expression = expression
