"""An edit -> keys: a take's cameras, objects and tracks come back to the timeline, ready to be changed again.

The inverse of `readback`. An object's motion goes onto its handle as far as one movement explains it; what single
tracks do beyond that goes onto their empties.
"""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.retiming import retimed_frames
from retake_shared.shot import Edit, Solve

from . import curves, objects, target_camera, tracks

_ROUNDS = 8
"""Of reweighting, so that a few tracks that were moved by themselves do not pull their object along."""


def restore(context: bpy.types.Context, root: bpy.types.Object, solve: Solve, edit: Edit) -> list[str]:
    """Key the shot's target camera, handles and empties as the edit has them; what was keyed there before is lost.

    solve: the one that the edit was made with. Returns notes on what could not be brought back as it was. Raises
    BadShot, the scene unchanged, when the edit is not one of this shot.
    """
    current = objects.current_solve(root)
    edit.check_against(solve)
    if solve.tracks.positions.shape != current.tracks.positions.shape or len(edit) != root.retake.frames:
        raise BadShot("was made from another solve than this shot.", root.name, "Import that footage and solve again.")
    target_camera.find(context.scene, root)

    numbers = [int(number) for number in np.unique(edit.objects)]
    for number in np.unique(solve.tracks.objects).tolist():
        _own_handle(root, solve, number)
    _assign_as(root, solve, current)
    target_camera.write(root, edit.cameras)
    notes, used = [], set()
    for number in sorted(numbers, key=lambda n: n not in solve.object_names):
        columns = np.flatnonzero(edit.objects == number)
        handle = _handle_for(root, solve, edit, number, columns, used)
        used.add(handle)
        notes += _place(context, root, handle, solve, edit, columns)
    for handle in objects.handles_of(root):
        if handle not in used and objects.is_copy(handle):
            objects.set_removed(context, handle, True)
            notes.append(f"{handle.retake_handle.label} is not in this take and was removed from the picture.")
    context.scene.frame_set(context.scene.frame_current)
    return notes


def _own_handle(root: bpy.types.Object, solve: Solve, number: int) -> bpy.types.Object:
    try:
        return objects.own_handle(root, number)
    except BadShot:  # deleted since: the tracks' empties are gone with it, the object as a whole comes back
        size = 0.05 * max(ob.empty_display_size for ob in (root, *objects.handles_of(root))) * 10
        return objects.create_handle(root, solve.object_names[number], number, objects.pivot(root, solve, number), size)


def _assign_as(root: bpy.types.Object, solve: Solve, current: Solve) -> None:
    """Put every track back into the object that it belonged to when the take was made."""
    moved = solve.tracks.objects != current.tracks.objects
    for number in np.unique(solve.tracks.objects[moved]).tolist():
        rows = np.flatnonzero(moved & (solve.tracks.objects == number))
        objects.assign(root, rows.tolist(), objects.own_handle(root, number))


def _handle_for(
    root: bpy.types.Object,
    solve: Solve,
    edit: Edit,
    number: int,
    columns: NDArray[np.int64],
    used: set[bpy.types.Object],
) -> bpy.types.Object:
    """The handle of an object of the edit: the one with its number, else a copy that is there, else a new copy."""
    base = int(solve.tracks.objects[edit.source_track[columns[0]]])
    free = [handle for handle in objects.handles_of(root) if handle not in used]
    for handle in free:
        if handle.retake_handle.number == number:
            return handle
    for handle in free:
        if handle.retake_handle.copy_of == base and (objects.is_copy(handle) or handle.retake_handle.number != base):
            return handle
    copy = objects.duplicate(root, objects.own_handle(root, base), edit.object_names.get(number, ""))
    if number not in {handle.retake_handle.number for handle in objects.handles_of(root)}:
        copy.retake_handle.number = number
    return copy


def _place(
    context: bpy.types.Context,
    root: bpy.types.Object,
    handle: bpy.types.Object,
    solve: Solve,
    edit: Edit,
    columns: NDArray[np.int64],
) -> list[str]:
    notes = []
    shot, own = root.retake, handle.retake_handle
    objects.reset(context, root, handle)
    handle.rotation_mode = "XYZ"
    rows, shown = edit.source_track[columns], edit.source_frame[:, columns[0]].astype(np.float64)
    timing = timing_of(shown)
    if timing is None:
        notes.append(f"{own.label} was retimed in a way that no setting gives; its keys follow, its picture does not.")
    elif timing != {}:
        objects.retime(root, handle, **timing)
    _key_removed(context, handle, ~edit.present[:, columns].any(1), shot.start)

    origin, centre = np.array(shot.origin), np.array(own.centre)
    rest = geometry.sample_rows(solve.tracks.positions[:, rows], objects.source_frames(handle, len(solve)))
    rest, target = rest - origin - centre, edit.positions[:, columns] - origin
    tolerance = 1e-5 * (np.abs(target).max(initial=0.0) + 1e-9)
    matrices = np.tile(np.eye(4), (len(solve), 1, 1))
    matrices[:, :3, 3] = centre
    if np.abs(rest + centre - target).max(initial=0.0) > tolerance:
        matrices = fit_motion(rest, target)
        _key_handle(handle, matrices, shot.start)

    local = geometry.transform(np.linalg.inv(matrices), target)
    column_of = {int(row): column for column, row in enumerate(rows)}
    changed = np.abs(local - rest).max((0, 2)) > tolerance
    empties = [e for e in objects.empties_under(handle) if changed[column_of.get(e.retake_track, 0)]]
    empties = [empty for empty in empties if empty.retake_track in column_of]
    if empties:
        wanted = [column_of[empty.retake_track] for empty in empties]
        tracks.set_positions(empties, local[:, wanted], shot.start, handle.name)
    return notes


def timing_of(shown: NDArray[np.float64]) -> dict[str, float | int | bool] | None:
    """The arguments of `objects.retime` that give those source frames (T,); {} for none, None when nothing does."""
    frames = len(shown)
    if np.allclose(shown, np.arange(frames), atol=1e-3):
        return {}
    if np.ptp(shown) < 1e-3 and abs(shown[0] - round(shown[0])) < 1e-3:
        return {"freeze": round(float(shown[0]))}
    for reverse in (False, True):
        forward = frames - 1 - shown if reverse else shown
        running = np.flatnonzero((forward > 1e-3) & (forward < frames - 1 - 1e-3))
        if len(running) < 2:
            continue
        speed = float((forward[running[-1]] - forward[running[0]]) / (running[-1] - running[0]))
        if speed <= 0:
            continue
        speed = round(speed, 4)
        offset = round(float(np.mean(running - forward[running] / speed)), 3)
        if np.allclose(retimed_frames(frames, offset, speed, None, reverse), shown, atol=0.02):
            return {"offset": offset, "speed": speed, "reverse": reverse}
    return None


def fit_motion(rest: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Similarities (T, 4, 4) that take points rest (T, N, 3) nearest to target (T, N, 3), frame by frame.

    What most points do counts, not the mean of all. Fewer than four points tell only where they went.
    """
    frames, count = rest.shape[:2]
    weight = np.ones((frames, count))
    for _ in range(_ROUNDS):
        share = weight / weight.sum(1, keepdims=True)
        middle, goal = np.einsum("tn,tnc->tc", share, rest), np.einsum("tn,tnc->tc", share, target)
        a, b = rest - middle[:, None], target - goal[:, None]
        linear = np.tile(np.eye(3), (frames, 1, 1))
        if count >= 4:
            u, sizes, vt = np.linalg.svd(np.einsum("tn,tni,tnj->tij", share, b, a))
            sign = np.ones((frames, 3))
            sign[:, 2] = np.sign(np.linalg.det(u @ vt))
            spread = np.maximum(np.einsum("tn,tnc->t", share, a**2), 1e-30)
            scale = (sizes * sign).sum(1) / spread
            linear = scale[:, None, None] * (u * sign[:, None]) @ vt
        shift = goal - np.einsum("tij,tj->ti", linear, middle)
        distance = np.linalg.norm(np.einsum("tij,tnj->tni", linear, rest) + shift[:, None] - target, axis=2)
        weight = 1 / np.maximum(distance, 1e-7 * (np.abs(target).max(initial=0.0) + 1e-9))
    matrices = np.tile(np.eye(4), (frames, 1, 1))
    matrices[:, :3, :3], matrices[:, :3, 3] = linear, shift
    return matrices


def _key_handle(handle: bpy.types.Object, matrices: NDArray[np.float64], start: int) -> None:
    location, rotation, scale = np.empty((3, len(matrices), 3))
    euler = None
    for frame, matrix in enumerate(matrices):
        place, turn, size = Matrix(matrix.tolist()).decompose()
        euler = turn.to_euler("XYZ", euler) if euler else turn.to_euler("XYZ")
        location[frame], rotation[frame], scale[frame] = place, euler, size
    fcurves = curves.ActionWriter(f"{handle.name} motion").curves_for(handle)
    for path, values in (("location", location), ("rotation_euler", rotation), ("scale", scale)):
        curves.write(fcurves, path, values, start)


def _key_removed(context: bpy.types.Context, handle: bpy.types.Object, removed: NDArray[np.bool_], start: int) -> None:
    if removed.all() or not removed.any():
        objects.set_removed(context, handle, bool(removed.all()))
        return
    for frame in np.flatnonzero(np.diff(removed, prepend=~removed[:1])).tolist():
        handle.retake_handle.removed = bool(removed[frame])
        handle.keyframe_insert("retake_handle.removed", frame=start + frame)
