"""What Blender shows -> an edit: evaluated world positions, frame by frame, back in the solve's world.

Parents, constraints, drivers and NLA count, because Blender's own evaluation is read. The root's place, rotation and
scale do not: they are taken out again. Blender computes in float32; where a track or a camera is within that noise of
the solve, it is the solve's value, so that an unedited shot reads back as exactly the identity.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace

import bpy
import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Edit, Solve

from . import curves, objects, reference, target_camera
from .evaluation import NOISE, everything_evaluated, snap

NEIGHBOURS = 4
"""A track without an empty deviates from its handle as this many nearest empties of its object do."""


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
            return end.value


def read_steps(context: bpy.types.Context, root: bpy.types.Object) -> Generator[int, None, tuple[Solve, Edit]]:
    """`read_edit` one frame a step: yields the number of frames read so far and returns (solve, edit).

    Closing the generator restores the frame and what was made visible for reading.
    """
    solve = objects.current_solve(root)
    cast = _cast(context.scene, root, solve)
    target = target_camera.find(context.scene, root)
    measured = _Measured.empty(len(solve), len(cast.empties), len(cast.handles))
    with everything_evaluated(context, root, [target, *cast.handles, *cast.empties]):
        scene = context.scene
        everything = scene.objects
        place = {ob.as_pointer(): index for index, ob in enumerate(everything)}
        empties, handles, (root_at, camera_at) = (
            np.array([place[ob.as_pointer()] for ob in group], np.int64)
            for group in (cast.empties, cast.handles, (root, target))
        )
        buffer = np.empty((len(everything), 4, 4), np.float32)
        start = root.retake.start
        for frame in range(len(solve)):
            scene.frame_set(start + frame)
            if len(everything) != len(buffer):
                raise BadShot("it changed while it was read.", scene.name, "Start again and leave it alone meanwhile.")
            everything.foreach_get("matrix_world", buffer.ravel())
            measured.positions[frame] = buffer[empties, 3, :3]
            measured.handles[frame] = buffer[handles].swapaxes(1, 2)
            measured.root[frame], measured.camera[frame] = buffer[root_at].T, buffer[camera_at].T
            depsgraph = context.evaluated_depsgraph_get()
            evaluated = target.evaluated_get(depsgraph)
            measured.projection[frame] = target_camera.projection(evaluated, depsgraph, root)
            measured.removed[frame] = [
                handle.evaluated_get(depsgraph).retake_handle.removed for handle in cast.handles
            ]
            yield frame + 1
    return solve, _edit(solve, root, cast, measured)


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
            value = value if isinstance(value, (int, float)) else value[fcurve.array_index]
            if abs(float(value) - fcurve.evaluate(frame)) > 1e-5 * max(1.0, abs(float(value))):
                changed.append(ob.name)
                break
    return changed


# ----------------------------------------------------------------------------------------------- who takes part


@dataclass(frozen=True)
class _Cast:
    """handles: of the shot. empties: its track empties; rows (E,) the solve's rows they show; under (E,) the index of
    the handle each hangs under, -1 for none."""

    handles: list[bpy.types.Object]
    empties: list[bpy.types.Object]
    rows: NDArray[np.int64]
    under: NDArray[np.int64]


def _cast(scene: bpy.types.Scene, root: bpy.types.Object, solve: Solve) -> _Cast:
    in_scene = set(scene.objects)
    handles = [handle for handle in objects.handles_of(root) if handle in in_scene]
    number_of = {handle: index for index, handle in enumerate(handles)}
    collected = set(root.retake.collection.all_objects)
    empties, rows, under = [], [], []
    for ob in scene.objects:
        row = ob.retake_track
        if not 0 <= row < len(solve.tracks):
            continue
        handle = objects.handle_of(ob.parent)
        if handle is None and ob not in collected:  # hung elsewhere by the artist, and of another shot
            continue
        if handle is not None and handle not in number_of:
            if objects.root_of(handle) != root:
                continue
            number_of[handle] = len(handles)
            handles.append(handle)
        if handle is None and ob.parent is None and not _has_handle(handles, int(solve.tracks.objects[row])):
            continue  # its handle was deleted, and the object with it
        empties.append(ob)
        rows.append(row)
        under.append(-1 if handle is None else number_of[handle])
    return _Cast(handles, empties, np.array(rows, np.int64), np.array(under, np.int64))


def _has_handle(handles: list[bpy.types.Object], number: int) -> bool:
    return any(handle.retake_handle.number == number for handle in handles)


# ----------------------------------------------------------------------------------------- numbers to an edit


@dataclass(frozen=True)
class _Measured:
    """World space, as Blender evaluated it: positions (T, E, 3) of the empties, handles (T, H, 4, 4), root and camera
    (T, 4, 4), projection (T, 4, 4), removed (T, H)."""

    positions: NDArray[np.float64]
    handles: NDArray[np.float64]
    root: NDArray[np.float64]
    camera: NDArray[np.float64]
    projection: NDArray[np.float64]
    removed: NDArray[np.bool_]

    @classmethod
    def empty(cls, frames: int, empties: int, handles: int) -> _Measured:
        matrices = [np.empty((frames, 4, 4)) for _ in range(3)]
        return cls(
            np.empty((frames, empties, 3)), np.empty((frames, handles, 4, 4)), *matrices, np.empty((frames, handles), bool)
        )


@dataclass
class _Targets:
    """Blocks of target tracks, collected handle by handle."""

    positions: list[NDArray[np.float64]] = field(default_factory=list)
    present: list[NDArray[np.bool_]] = field(default_factory=list)
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    source_frame: list[NDArray[np.float64]] = field(default_factory=list)
    number: list[NDArray[np.int64]] = field(default_factory=list)
    is_copy: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, positions, present, rows, shown, number, is_copy) -> None:  # noqa: ANN001 - as the fields above
        """present (T,) or (T, M); shown (T,) source frames; number and is_copy of the whole block."""
        frames, count = positions.shape[:2]
        self.positions.append(positions)
        self.present.append(np.broadcast_to(present.reshape(frames, -1), (frames, count)))
        self.rows.append(rows)
        self.source_frame.append(np.broadcast_to(shown[:, None], (frames, count)))
        self.number.append(np.full(count, number))
        self.is_copy.append(np.full(count, is_copy))


def _edit(solve: Solve, root: bpy.types.Object, cast: _Cast, measured: _Measured) -> Edit:
    frames, origin = len(solve), np.array(root.retake.origin)
    try:
        to_local = np.linalg.inv(measured.root)
    except np.linalg.LinAlgError as error:
        raise BadShot("its scale is 0.", root.name, "Give the shot's root a scale above 0.") from error
    grow = np.linalg.norm(to_local[:, :3, :3], 2, axis=(1, 2))  # how much leaving the root's space enlarges noise
    far = np.linalg.norm(measured.root[:, :3, 3], axis=1)

    def local(world: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions (T, N, 3) in the root's space and their noise (T, N)."""
        noise = NOISE * (np.linalg.norm(world, axis=2) + far[:, None]) * grow[:, None]
        return geometry.transform(to_local, world), noise

    positions, noise = local(measured.positions)
    handles = to_local[:, None] @ measured.handles
    given_empty = reference.has_empty(objects.reference_mesh(root))
    targets, names = _Targets(), dict(solve.object_names)
    covered = np.zeros(len(solve.tracks), bool)
    numbers = _numbers(cast.handles, names)
    for index, handle in enumerate(cast.handles):
        number, own = numbers[index], handle.retake_handle
        first = number == own.copy_of
        centre = np.array(own.centre)
        shown = objects.source_frames(handle, frames)
        present = ~measured.removed[:, index]
        hung = np.flatnonzero(cast.under == index)
        dense = np.flatnonzero((solve.tracks.objects == own.copy_of) & ~given_empty)

        def carried(rows: NDArray[np.int64], index=index, centre=centre, shown=shown) -> tuple[NDArray, NDArray]:
            """Where rows are at rest, and where the handle alone takes them: (T, M, 3) each, in the root's space."""
            rest = geometry.sample_rows(solve.tracks.positions[:, rows], shown) - origin
            reach = np.abs(rest).max(-1, initial=0.0) + np.abs(centre).max() + far[:, None] * grow[:, None]
            return rest, snap(geometry.transform(handles[:, index], rest - centre), rest, NOISE * reach)

        rest, moved = carried(cast.rows[hung])
        read = snap(positions[:, hung], rest, noise[:, hung])
        targets.add(read + origin, present, cast.rows[hung], shown, number, not first)
        if len(dense):
            deviation = np.where(read == rest, 0.0, read - moved)
            rest_dense, moved_dense = carried(dense)
            follow = moved_dense + _spread(deviation, rest, rest_dense)
            targets.add(follow + origin, present, dense, shown, number, not first)
        if first:
            covered[cast.rows[hung]] = covered[dense] = True

    loose = np.flatnonzero(cast.under == -1)
    identity = np.arange(frames, dtype=np.float64)
    for number in np.unique(solve.tracks.objects[cast.rows[loose]]).tolist():
        own = loose[solve.tracks.objects[cast.rows[loose]] == number]
        rest = solve.tracks.positions[:, cast.rows[own]] - origin
        read = snap(positions[:, own], rest, noise[:, own]) + origin
        targets.add(read, np.ones(frames, bool), cast.rows[own], identity, number, False)
        covered[cast.rows[own]] = True

    gone = np.flatnonzero(~covered)
    if len(gone):
        nothing = np.zeros((frames, len(gone)), bool)
        for number in np.unique(solve.tracks.objects[gone]).tolist():
            own = solve.tracks.objects[gone] == number
            targets.add(
                solve.tracks.positions[:, gone[own]], nothing[:, own], gone[own], identity, number, False
            )
    return _assemble(solve, root, measured, targets, names)


def _assemble(
    solve: Solve,
    root: bpy.types.Object,
    measured: _Measured,
    targets: _Targets,
    names: dict[int, str],
) -> Edit:
    cameras = target_camera.cameras_from(solve.cameras, root, measured.root, measured.camera, measured.projection)
    if not targets.rows:
        return Edit.identity(replace(solve, cameras=cameras))
    rows, is_copy = np.concatenate(targets.rows), np.concatenate(targets.is_copy)
    order = np.lexsort((rows, np.concatenate(targets.number), is_copy)) if is_copy.any() else np.argsort(rows, kind="stable")
    return Edit(
        cameras=cameras,
        positions=np.concatenate(targets.positions, 1)[:, order],
        present=np.concatenate(targets.present, 1)[:, order],
        source_track=rows[order],
        source_frame=np.concatenate(targets.source_frame, 1)[:, order],
        objects=np.concatenate(targets.number)[order],
        object_names=objects.unique_names(names),
    )


def _numbers(handles: list[bpy.types.Object], names: dict[int, str]) -> list[int]:
    """The object number of each handle; one that Blender's own Duplicate made gets a new number and is a copy.

    Adds the copies to names.
    """
    numbers: list[int] = []
    next_free = 1 + max([*names, *(handle.retake_handle.number for handle in handles)])
    for handle in handles:
        number = handle.retake_handle.number
        if number in numbers:
            number, next_free = next_free, next_free + 1
        if number not in names:
            names[number] = handle.retake_handle.label
        numbers.append(number)
    return numbers


def _spread(
    deviation: NDArray[np.float64], at: NDArray[np.float64], to: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What tracks at `to` (T, D, 3) do when tracks at `at` (T, E, 3) deviate by (T, E, 3): a mean of the nearest.

    Neighbours are chosen once, by the mean distance over the shot's first, middle and last frame.
    """
    if not deviation.any():
        return np.zeros((len(deviation), to.shape[1], 3))
    frames = sorted({0, len(at) // 2, len(at) - 1})
    squared = sum(
        (to[f] ** 2).sum(1)[:, None] - 2 * to[f] @ at[f].T + (at[f] ** 2).sum(1)[None] for f in frames
    )
    count = min(NEIGHBOURS, at.shape[1])
    nearest = np.argpartition(squared, count - 1, axis=1)[:, :count]
    distance = np.maximum(np.take_along_axis(squared, nearest, 1), 1e-12)
    weight = 1 / distance
    weight /= weight.sum(1, keepdims=True)
    return np.einsum("tdkc,dk->tdc", deviation[:, nearest], weight)
