"""What Blender shows -> an edit: evaluated world positions, frame by frame, back in the solve's world.

Parents, constraints, drivers and NLA count, because Blender's own evaluation is read. The root's place, rotation and
scale do not: they are taken out again. Blender computes in float32; where a track or a camera is within that noise of
the solve, it is the solve's value, so that an unedited shot reads back as exactly the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import bpy
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.shot import Edit, Solve

from . import curves, objects, reference, target_camera
from .evaluation import everything_evaluated
from .targets import Empties, Handle, Space, collect


def read_edit(context: bpy.types.Context, root: bpy.types.Object) -> tuple[Solve, Edit]:
    """The shot's solve, with the artist's objects, and the edit of it that the scene shows now.

    Evaluates every frame of the shot, then restores the current one; un-keyed changes of keyed channels are lost by
    that, as by any change of frame (`unkeyed_changes`). Raises BadShot.
    """
    steps = read_steps(context, root)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value()


def read_steps(
    context: bpy.types.Context, root: bpy.types.Object
) -> Generator[int, None, Callable[[], tuple[Solve, Edit]]]:
    """`read_edit` one frame a step, for the window: yields the number of frames read so far and returns the rest of
    the work, which gives (solve, edit); it touches no bpy, so that a thread may do it.

    Closing the generator restores the frame and what was made visible for reading.
    """
    scene, solve = context.scene, objects.current_solve(root)
    yield 0
    cast = _cast(scene, root, solve)
    target = target_camera.find(scene, root)
    start, frames = root.retake.start, len(solve)
    positions = np.empty((frames, len(cast.empties), 3))
    handles = np.empty((frames, len(cast.handles), 4, 4))
    removed = np.empty((frames, len(cast.handles)), bool)
    roots, cameras, projections = (np.empty((frames, 4, 4)) for _ in range(3))
    with everything_evaluated(context, [root, target, *cast.handles, *cast.empties]):
        everything = scene.objects
        place = {ob: index for index, ob in enumerate(everything)}
        empties_at, handles_at = (np.array([place[ob] for ob in g], np.int64) for g in (cast.empties, cast.handles))
        buffer = np.empty((len(everything), 4, 4), np.float32)  # matrices as Blender writes them: transposed
        for frame in range(frames):
            scene.frame_set(start + frame)
            if len(everything) != len(buffer):  # foreach_get is silent when there are fewer
                raise BadShot("it changed while it was read.", scene.name, "Start again and leave it alone meanwhile.")
            everything.foreach_get("matrix_world", buffer.ravel())
            positions[frame] = buffer[empties_at, 3, :3]
            handles[frame] = buffer[handles_at].swapaxes(1, 2)
            roots[frame], cameras[frame] = buffer[place[root]].T, buffer[place[target]].T
            depsgraph = context.evaluated_depsgraph_get()
            projections[frame] = target_camera.projection(target.evaluated_get(depsgraph), depsgraph, root)
            removed[frame] = [handle.retake_handle.removed for handle in cast.handles]  # keys write to the original too
            yield frame + 1
    if (np.abs(np.linalg.det(roots[:, :3, :3])) < 1e-30).any():
        raise BadShot("its scale is 0.", root.name, "Give the shot's root a scale above 0.")

    yield frames  # restoring the frame took as long as reading one

    numbers, names = _numbers(cast.handles, solve)
    moved = [
        Handle(
            number=numbers[index],
            copy_of=handle.retake_handle.copy_of,
            centre=np.array(handle.retake_handle.centre),
            shown=objects.source_frames(handle, frames),
            matrices=handles[:, index],
            present=~removed[:, index],
        )
        for index, handle in enumerate(cast.handles)
    ]
    target_cameras = target_camera.cameras_from(solve.cameras, root, roots, cameras, projections)
    space, has_empty = Space(roots, np.array(root.retake.origin)), reference.has_empty(objects.reference_mesh(root))
    empties = Empties(cast.rows, cast.under, positions)

    def finish() -> tuple[Solve, Edit]:
        targets = collect(solve, space, moved, empties, has_empty)
        return solve, Edit(
            cameras=target_cameras,
            positions=targets.positions,
            present=targets.present,
            source_track=targets.rows,
            source_frame=targets.source_frame,
            objects=targets.numbers,
            object_names=names,
        )

    return finish


def unkeyed_changes(context: bpy.types.Context, root: bpy.types.Object) -> list[str]:
    """Names of the target camera and the handles that were moved without a key where keys are, at this frame.

    Such a change is gone as soon as the frame changes, so also when the edit is read.
    """
    frame = context.scene.frame_current_final
    changed = []
    for ob in (root.retake.target_camera, *objects.handles_of(root)):
        for fcurve in (ob and curves.curves_of(ob)) or ():
            try:
                value = ob.path_resolve(fcurve.data_path)
            except ValueError:
                continue
            if isinstance(value, str):  # a keyed choice
                continue
            value = value if isinstance(value, (int, float)) else value[fcurve.array_index]
            if abs(float(value) - fcurve.evaluate(frame)) > 1e-5 * max(1.0, abs(float(value))):
                changed.append(ob.name)
                break
    return changed


@dataclass(frozen=True)
class _Cast:
    """Who takes part. handles: of the shot. empties: its track empties; rows (E,) the solve's rows they show; under
    (E,) the index of the handle each hangs under, -1 for none."""

    handles: list[bpy.types.Object]
    empties: list[bpy.types.Object]
    rows: NDArray[np.int64]
    under: NDArray[np.int64]


def _cast(scene: bpy.types.Scene, root: bpy.types.Object, solve: Solve) -> _Cast:
    in_scene = set(scene.objects)
    handles = [handle for handle in objects.handles_of(root) if handle in in_scene]
    index_of = {handle: index for index, handle in enumerate(handles)}
    in_shot = set(objects.collection_of(root).all_objects)
    empties, rows, under = [], [], []
    for ob in in_scene:
        row = ob.retake_track
        if not 0 <= row < len(solve.tracks):
            continue
        handle = objects.handle_of(ob.parent)
        if handle is None:
            # Hung elsewhere by the artist it counts; left hanging because its handle was deleted it does not.
            lost = ob.parent is None and all(h.retake_handle.number != solve.tracks.objects[row] for h in handles)
            if ob not in in_shot or lost:
                continue
        elif handle not in index_of:
            continue
        empties.append(ob)
        rows.append(row)
        under.append(-1 if handle is None else index_of[handle])
    return _Cast(handles, empties, np.array(rows, np.int64), np.array(under, np.int64))


def _numbers(handles: list[bpy.types.Object], solve: Solve) -> tuple[list[int], dict[int, str]]:
    """The object number of each handle in the edit, and all objects' names.

    A handle that Blender's own Duplicate made has its model's number; it gets a new one, and so becomes a copy.
    """
    names = dict(solve.object_names)
    numbers: list[int] = []
    next_free = 1 + max([*names, *(handle.retake_handle.number for handle in handles)])
    for handle in handles:
        number = handle.retake_handle.number
        if number in numbers:
            number, next_free = next_free, next_free + 1
        names.setdefault(number, handle.retake_handle.label)
        numbers.append(number)
    return numbers, objects.unique_names(names)
