"""Objects of a shot: a handle each, the tracks under it, and what the artist does to them as a whole.

An object is a number in the solve and a handle, an empty, in the scene. A track belongs to the handle it hangs under,
however deep; `Object.retake_track` names its row in the solve. So names and the order of things are the artist's own.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from dataclasses import replace

import bpy
import numpy as np
from numpy.typing import NDArray
from retake_shared import camera_moves, geometry
from retake_shared.errors import BadShot
from retake_shared.retiming import retimed_frames
from retake_shared.shot import BACKGROUND, Solve

from . import curves, reference, tracks, view_ray

# ------------------------------------------------------------------------------------------------- what there is


def root_of(part: bpy.types.Object | None) -> bpy.types.Object | None:
    """The root of the shot that this object hangs under, itself included; None outside of any shot."""
    while part is not None and part.retake_role != "SHOT":
        part = part.parent
    return part


def handle_of(part: bpy.types.Object | None) -> bpy.types.Object | None:
    """The handle that this object hangs under, itself included; None when there is none."""
    while part is not None and part.retake_role != "HANDLE":
        part = part.parent
    return part


def collection_of(root: bpy.types.Object) -> bpy.types.Collection:
    """The shot's own collection; where the artist deleted that, the one in which its root was left."""
    return root.retake.collection or next(iter(root.users_collection), None) or bpy.context.scene.collection


def handles_of(root: bpy.types.Object) -> list[bpy.types.Object]:
    """The handles in the shot's collection: first each object's own, by number, then the copies, by name."""
    handles = [ob for ob in collection_of(root).objects if ob.retake_role == "HANDLE"]
    if root.retake.collection is None:  # other shots may be there, too
        handles = [handle for handle in handles if root_of(handle) == root]
    return sorted(handles, key=lambda ob: (is_copy(ob), ob.retake_handle.number, ob.name))


def addresses(root: bpy.types.Object) -> dict[bpy.types.Object, str]:
    """What operators call each handle by: its label, or its empty's name where another has the same label, as what
    Blender's own Duplicate made has."""
    handles = handles_of(root)
    labels = [handle.retake_handle.label for handle in handles]
    return {
        handle: label if labels.count(label) == 1 else handle.name
        for handle, label in zip(handles, labels, strict=True)
    }


def is_copy(handle: bpy.types.Object) -> bool:
    """Whether the handle shows tracks of another handle's object."""
    return handle.retake_handle.number != handle.retake_handle.copy_of


def own_handles(root: bpy.types.Object) -> dict[int, bpy.types.Object]:
    """The handle of each object of the solve, by number; copies, also those that Blender's Duplicate made, left out."""
    own: dict[int, bpy.types.Object] = {}
    for handle in handles_of(root):
        if not is_copy(handle):
            own.setdefault(handle.retake_handle.number, handle)
    return own


def own_handle(root: bpy.types.Object, number: int) -> bpy.types.Object:
    """The handle of an object of the solve. Raises BadShot when the artist deleted it."""
    handle = own_handles(root).get(number)
    if handle is None:
        raise BadShot(
            f"object {number} has no handle any more.", root.name, "Undo its deletion, or import the shot again."
        )
    return handle


def empties_under(handle: bpy.types.Object) -> list[bpy.types.Object]:
    """The track empties that hang under the handle, in the order of their tracks."""
    empties = [ob for ob in handle.children_recursive if ob.retake_track >= 0 and handle_of(ob) == handle]
    return sorted(empties, key=lambda ob: ob.retake_track)


def current_solve(root: bpy.types.Object) -> Solve:
    """The shot's solve with the artist's objects: tracks as assigned now, objects as named now. Raises BadShot."""
    mesh = reference_mesh(root)
    solve = reference.stored_solve(mesh)
    assigned = reference.assigned_objects(mesh)
    if len(assigned) != len(solve.tracks):
        raise BadShot(
            f"it has {len(assigned)} vertices for {len(solve.tracks)} tracks.",
            mesh.name,
            "Undo the change of the reference mesh.",
        )
    names = dict(solve.object_names)
    names |= {number: handle.retake_handle.label for number, handle in own_handles(root).items()}
    names[BACKGROUND] = solve.object_names[BACKGROUND]
    return replace(solve, tracks=replace(solve.tracks, objects=assigned), object_names=unique_names(names))


def reference_mesh(root: bpy.types.Object) -> bpy.types.Mesh:
    """The mesh that keeps the solve. Raises BadShot when the artist deleted it."""
    mesh = root.retake.reference and root.retake.reference.data
    if mesh is None:
        raise BadShot("its reference mesh is gone.", root.name, "Undo its deletion, or import the shot again.")
    return mesh


def unique_names(names: dict[int, str]) -> dict[int, str]:
    """The same names, a number added where one comes twice: two handles may carry the same label."""
    unique: dict[int, str] = {}
    for number, name in names.items():
        candidate, count = name or f"object {number}", 2
        while candidate in unique.values():
            candidate, count = f"{name or f'object {number}'} {count}", count + 1
        unique[number] = candidate
    return unique


def source_frames(handle: bpy.types.Object, frames: int) -> NDArray[np.float64]:
    """Source frames (T,) that the handle's tracks show, by its retiming."""
    timing = handle.retake_handle
    return retimed_frames(
        frames, timing.offset, timing.speed, timing.freeze if timing.freeze >= 0 else None, timing.reverse
    )


def rest_positions(
    root: bpy.types.Object, handle: bpy.types.Object, solve: Solve, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Positions (T, M, 3) in the handle's space of tracks that nobody moved by hand: the solve's own, retimed."""
    positions = geometry.sample_rows(solve.tracks.positions[:, rows], source_frames(handle, len(solve)))
    return positions - np.array(root.retake.origin) - np.array(handle.retake_handle.centre)


# ------------------------------------------------------------------------------------------------- making them


def create_handle(
    root: bpy.types.Object, label: str, number: int, centre: Sequence[float], size: float
) -> bpy.types.Object:
    """A handle at centre (3,) in the root's space; size in world units."""
    handle = bpy.data.objects.new(label, None)
    handle.retake_role = "HANDLE"
    own = handle.retake_handle
    own.label, own.number, own.copy_of, own.centre = label, number, number, centre
    handle.empty_display_type = "PLAIN_AXES" if number == BACKGROUND else "SPHERE"
    handle.empty_display_size = size
    handle.show_in_front, handle.show_name = True, number != BACKGROUND
    handle.color = colour(number)
    handle.parent = root
    handle.location = own.centre
    collection_of(root).objects.link(handle)
    return handle


def colour(number: int) -> tuple[float, float, float, float]:
    """A colour (r, g, b, a) of its own for each object; the background is grey."""
    if number == BACKGROUND:
        return 0.5, 0.5, 0.5, 1.0
    return *colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 1.0), 1.0


def pivot(root: bpy.types.Object, solve: Solve, number: int) -> NDArray[np.float32]:
    """Where an object's handle stands, (3,) in the root's space, in the float32 that Blender keeps.

    In the middle of what is visible of it when it is first seen; for the background and for an object without tracks
    in the middle of the shot.
    """
    own = solve.tracks.objects == number
    origin = np.array(root.retake.origin)
    if number == BACKGROUND or not own.any():
        try:
            return (camera_moves.default_pivot(solve) - origin).astype(np.float32)
        except BadShot:  # no tracks and no depth: there is no middle
            return np.zeros(3, np.float32)
    seen = solve.tracks.visibility[:, own]
    first = int(np.argmax(seen.any(1)))
    visible = seen[first] if seen[first].any() else slice(None)
    return (np.median(solve.tracks.positions[first, own][visible], 0) - origin).astype(np.float32)


def add_object(root: bpy.types.Object, label: str, rows: NDArray[np.int64] | None = None) -> bpy.types.Object:
    """A new object with the tracks of those rows of the solve (none yet when None). Raises BadShot."""
    solve = current_solve(root)
    number = _free_number(root, solve)
    rows = np.zeros(0, np.int64) if rows is None else rows
    assigned = solve.tracks.objects.copy()
    assigned[rows] = number
    centre = pivot(root, replace(solve, tracks=replace(solve.tracks, objects=assigned)), number)
    names = {handle.retake_handle.label for handle in handles_of(root)}
    size = root.empty_display_size / 2
    handle = create_handle(root, _unused(label, names), number, centre, size)
    if len(rows):
        assign(root, rows, handle)
    return handle


def assign(root: bpy.types.Object, rows: Iterable[int], handle: bpy.types.Object) -> int:
    """Put tracks of the solve into the handle's object; returns how many changed object.

    Their empties move under the handle and keep what was edited on their own keys; in copies of their former object
    nothing changes. Raises BadShot for a handle that is a copy.
    """
    own = own_handles(root)
    if own.get(handle.retake_handle.number) != handle:
        raise BadShot(
            "it is a copy, its tracks belong to another object.", handle.name, "Choose that object, or add a new one."
        )
    solve = current_solve(root)
    rows = np.unique(np.fromiter(rows, np.int64))
    rows = rows[solve.tracks.objects[rows] != handle.retake_handle.number]
    moving = set(rows.tolist())
    for former in own.values():
        if former == handle:
            continue
        empties = [empty for empty in empties_under(former) if empty.retake_track in moving]
        if not empties:
            continue
        theirs = np.array([empty.retake_track for empty in empties])
        before = rest_positions(root, former, solve, theirs)
        after = rest_positions(root, handle, solve, theirs)
        edited = tracks.positions_of(empties, before, root.retake.start) - before
        _write_positions(root, handle, empties, after, edited)
        for empty in empties:
            if empty.parent == former:
                empty.parent = handle
            empty.color = handle.color
    reference.assign(reference_mesh(root), rows, handle.retake_handle.number)
    return len(rows)


def duplicate(root: bpy.types.Object, handle: bpy.types.Object, label: str = "") -> bpy.types.Object:
    """A second handle with its own empties that shows the same tracks, animated like the first. Raises BadShot."""
    solve = current_solve(root)
    names = {other.retake_handle.label for other in handles_of(root)}
    copy = handle.copy()
    copy.name = copy.retake_handle.label = _unused(label or handle.retake_handle.label, names)
    copy.retake_handle.number = _free_number(root, solve)
    copy.color = colour(copy.retake_handle.number)
    curves.make_single_user(copy)
    collection_of(root).objects.link(copy)
    if handle.parent is not None and handle.parent.retake_role == "RAIL":
        view_ray.ensure_rail(root, copy)

    empties = empties_under(handle)
    rows = np.array([empty.retake_track for empty in empties], np.int64)
    positions = tracks.positions_of(empties, rest_positions(root, handle, solve, rows), root.retake.start)
    size = empties[0].empty_display_size if empties else 0.01
    tracks.create(copy.name, tracks_collection(root), [copy] * len(rows), rows, positions, root.retake.start, size)
    return copy


def tracks_collection(root: bpy.types.Object) -> bpy.types.Collection:
    """Where the shot's empties are, apart from its cameras and handles, so that the outliner stays readable."""
    own = root.retake.collection
    if own is None:
        return collection_of(root)
    return own.children[0] if len(own.children) else own


# ----------------------------------------------------------------------------------------------- changing them


def is_keyed(handle: bpy.types.Object, path: str) -> bool:
    """Whether keys of its own set this property of the handle."""
    fcurves = curves.curves_of(handle)
    return fcurves is not None and fcurves.find(path) is not None


def set_removed(context: bpy.types.Context, handle: bpy.types.Object, removed: bool) -> None:
    """Take the object out of the picture in all frames, or put it back; its empties are hidden meanwhile."""
    fcurves = curves.curves_of(handle)
    keyed = fcurves.find("retake_handle.removed") if fcurves else None
    if keyed is not None:
        fcurves.remove(keyed)
    handle.retake_handle.removed = removed
    for empty in empties_under(handle):
        if empty.name in context.view_layer.objects:
            empty.hide_set(removed)


def retime(
    root: bpy.types.Object,
    handle: bpy.types.Object,
    offset: float = 0.0,
    speed: float = 1.0,
    freeze: int = -1,
    reverse: bool = False,
) -> None:
    """Let the object's own motion start `offset` frames later, run at `speed`, stand still, or run backwards.

    The keys of handle and cameras stay where they are, and so does what was edited on the empties' own keys.
    freeze: footage frame, -1 for none. Raises BadShot for values that no motion can have.
    """
    solve = current_solve(root)
    retimed_frames(len(solve), offset, speed, freeze if freeze >= 0 else None, reverse)  # raises before any change
    empties = empties_under(handle)
    rows = np.array([empty.retake_track for empty in empties], np.int64)
    before = rest_positions(root, handle, solve, rows)
    edited = tracks.positions_of(empties, before, root.retake.start) - before
    timing = handle.retake_handle
    timing.offset, timing.speed, timing.freeze, timing.reverse = offset, speed, freeze, reverse
    _write_positions(root, handle, empties, rest_positions(root, handle, solve, rows), edited)


def follow_depth(handle: bpy.types.Object) -> None:
    """What a change of the handle's depth asks for: a rail as soon as it is another than the object's own."""
    root = root_of(handle)
    if root is not None and handle.retake_role == "HANDLE" and handle.retake_handle.depth != 1.0:
        view_ray.ensure_rail(root, handle)


def reset(context: bpy.types.Context, root: bpy.types.Object, handle: bpy.types.Object) -> None:
    """Put the object back to where the footage has it: no keys, constraints, retiming or removal are left."""
    solve = current_solve(root)
    handle.animation_data_clear()
    view_ray.remove_rail(root, handle)
    handle.constraints.clear()
    handle.parent, handle.matrix_parent_inverse = root, handle.matrix_parent_inverse.Identity(4)
    handle.location, handle.scale = handle.retake_handle.centre, (1, 1, 1)
    handle.delta_location, handle.delta_scale = (0, 0, 0), (1, 1, 1)
    handle.rotation_euler, handle.delta_rotation_euler = (0, 0, 0), (0, 0, 0)
    handle.rotation_quaternion, handle.rotation_axis_angle = (1, 0, 0, 0), (0, 0, 1, 0)
    for name in ("offset", "speed", "freeze", "reverse"):
        handle.retake_handle.property_unset(name)
    set_removed(context, handle, False)
    empties = empties_under(handle)
    rows = np.array([empty.retake_track for empty in empties], np.int64)
    tracks.set_positions(empties, rest_positions(root, handle, solve, rows), root.retake.start, handle.name)


def _write_positions(
    root: bpy.types.Object,
    handle: bpy.types.Object,
    empties: Sequence[bpy.types.Object],
    rest: NDArray[np.float64],
    edited: NDArray[np.float64],
) -> None:
    """Key the empties at rest + edited, (T, M, 3) each in the handle's space; edits within float32 noise are none."""
    noise = 4 * np.finfo(np.float32).eps * (np.abs(rest).max(-1, keepdims=True) + 1e-30)
    edited = np.where(np.abs(edited) > noise, edited, 0)  # else keys would drift with each change
    tracks.set_positions(empties, rest + edited, root.retake.start, handle.name)


def _free_number(root: bpy.types.Object, solve: Solve) -> int:
    return 1 + max([*solve.object_names, *(handle.retake_handle.number for handle in handles_of(root))])


def _unused(label: str, names: set[str]) -> str:
    label = label.strip() or "object"
    candidate, count = label, 2
    while candidate in names:
        candidate, count = f"{label} {count}", count + 1
    return candidate
