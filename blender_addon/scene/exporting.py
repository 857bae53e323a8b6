"""A shot's cameras and tracks as files: by the shared formats, and by Blender's own exporters from a baked scene.

Alembic, FBX and USD get a scene of their own, built for the occasion: one camera, the handles and some tracks, each
keyed on every frame in the world as it stands at the current frame, without parents, constraints or anything else of
the artist's scene, which is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray
from retake_shared import exports, geometry
from retake_shared.errors import RetakeError
from retake_shared.exports import Content

from . import camera, curves, evaluation, footage_clip, objects, readback, tracks

BLENDER_KINDS = {
    "alembic": exports.Kind("Alembic", ".abc", "Camera, objects and tracks, for nearly every 3D program"),
    "fbx": exports.Kind("FBX", ".fbx", "Camera, objects and tracks, for Maya, Unreal, Unity and others"),
    "usd": exports.Kind("USD", ".usdc", "Camera, objects and tracks, for Houdini, Nuke, Omniverse and others"),
}
"""The formats that Blender writes itself."""

KINDS = {**exports.KINDS, **BLENDER_KINDS}

DEFAULT_TRACKS = 200
"""Tracks that become nodes or empties of a file at most: enough to place things by, light enough to work with."""

Z_UP_TO_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def why_unavailable(kind: str) -> str:
    """Why this Blender cannot write a format, "" when it can: distributions build it without some libraries."""
    label = KINDS[kind].label
    if kind in ("alembic", "usd") and not getattr(bpy.app.build_options, kind):
        return f"This Blender was built without {label}"
    if kind == "fbx" and "fbx" not in dir(bpy.ops.export_scene):
        return "The add-on FBX Format is switched off in the preferences"
    return ""


def content_of(context: bpy.types.Context, root: bpy.types.Object, target: bool) -> Content:
    """The shot's cameras and tracks in the solve's world: as the scene shows them now (target), or as solved."""
    if not target:
        return exports.of_solve(objects.current_solve(root), root.name)
    solve, edit = readback.read_edit(context, root)
    return exports.of_edit(edit, solve, root.name)


def export(
    context: bpy.types.Context, root: bpy.types.Object, kind: str, path: Path, *, target: bool = True,
    limit: int = DEFAULT_TRACKS,
) -> list[str]:  # fmt: skip
    """Write the shot to `path`, a file or a folder as `KINDS` tells; notes for the artist.

    target: the edit, else the footage's own cameras and tracks. limit: tracks as nodes or empties at most. Nuke, chan
    and Blender's formats are written in the scene's world, the others in the solve's own. Raises RetakeError.
    """
    lacking = why_unavailable(kind)
    if lacking:
        raise RetakeError(f"it cannot be written: {lacking}.", str(path), "Choose another format.")
    content = content_of(context, root, target)
    if kind in BLENDER_KINDS:
        handles = handle_matrices(context, root, len(content)) if target else {}
        return _by_blender(context, root, kind, path, content, handles, limit)
    options = exports.Options(
        start=root.retake.start,
        fps=Fraction(*root.retake.fps),
        axes=limit,
        world=Z_UP_TO_Y_UP @ world_of(root),
    )
    return exports.write(kind, path, content, options)


def world_of(root: bpy.types.Object) -> NDArray[np.float64]:
    """The transform (4, 4) of the solve's world to the scene's, as the root stands at the current frame."""
    shift = np.eye(4)
    shift[:3, 3] = -np.array(root.retake.origin)
    return np.array(root.matrix_world) @ shift


def handle_matrices(context: bpy.types.Context, root: bpy.types.Object, frames: int) -> dict[str, NDArray[np.float64]]:
    """World matrices (T, 4, 4) of the shot's objects that have a handle and are not removed, by label."""
    handles = [handle for handle in objects.handles_of(root) if not handle.retake_handle.removed]
    matrices = np.zeros((frames, len(handles), 4, 4))
    with evaluation.everything_evaluated(context, [root, *handles]):
        for frame in range(frames):
            context.scene.frame_set(root.retake.start + frame)
            for column, handle in enumerate(handles):
                matrices[frame, column] = handle.matrix_world
    return {handle.retake_handle.label: matrices[:, column] for column, handle in enumerate(handles)}


def _by_blender(
    context: bpy.types.Context, root: bpy.types.Object, kind: str, path: Path, content: Content,
    handles: dict[str, NDArray[np.float64]], limit: int,
) -> list[str]:  # fmt: skip
    world = world_of(root)
    content = content.moved(world)
    rows = tracks.choose(content.tracks, content.cameras, limit)
    with baked(root, content, handles, rows) as scene:
        _run(context, scene, kind, path)
    notes = []
    if len(rows) < len(content.tracks):
        notes.append(f"{len(rows)} of {len(content.tracks)} tracks were written, even over the picture.")
    K = content.cameras.K
    if np.abs(K[:, 0, 0] / K[:, 1, 1] - 1).max() > 1e-6:
        notes.append("Pixels are not square: set the pixel aspect where the file is used, as it has no place for it.")
    return notes


@contextmanager
def baked(
    root: bpy.types.Object, content: Content, handles: dict[str, NDArray[np.float64]], rows: NDArray[np.int64]
) -> Iterator[bpy.types.Scene]:
    """A scene with a camera, an empty for each handle and for each of the tracks, keyed on every frame in world space.

    content is in the scene's world already. All of it is gone afterwards.
    """
    shot = root.retake
    scene = bpy.data.scenes.new(f"{root.name} export")
    made: list[bpy.types.Object] = []
    try:
        aspect = tuple(shot.pixel_aspect)
        render = scene.render
        render.fps, render.fps_base = footage_clip.scene_rate(Fraction(*shot.fps))
        render.resolution_x, render.resolution_y, render.resolution_percentage = *shot.size, 100
        render.pixel_aspect_x, render.pixel_aspect_y = aspect
        scene.frame_start, scene.frame_end = shot.start, shot.start + len(content) - 1
        made.append(camera.create(f"{root.name} camera", content.cameras, np.zeros(3), aspect, shot.start))
        source = shot.target_camera.data if shot.target_camera is not None else None
        if source is not None:
            made[0].data.clip_start, made[0].data.clip_end = source.clip_start, source.clip_end
        writer = curves.ActionWriter(scene.name)
        for label, matrices in handles.items():
            made.append(_moving_empty(f"{root.name} {label}", matrices, writer, shot.start))
        for row in rows.tolist():
            label = content.object_names.get(int(content.tracks.objects[row]), "background")
            empty = bpy.data.objects.new(f"{root.name} {label} {content.tracks.ids[row]}", None)
            empty.location = content.tracks.positions[0, row]
            curves.write(writer.curves_for(empty), "location", content.tracks.positions[:, row], shot.start)
            made.append(empty)
        for ob in made:
            scene.collection.objects.link(ob)
        scene.camera = made[0]
        yield scene
    finally:
        actions = {ob.animation_data.action for ob in made if ob.animation_data and ob.animation_data.action}
        cameras = [ob.data for ob in made if ob.data is not None]
        actions |= {data.animation_data.action for data in cameras if data.animation_data}
        bpy.data.scenes.remove(scene)
        bpy.data.batch_remove([*made, *cameras])
        curves.remove_actions_without_users([action for action in actions if action is not None])


def _moving_empty(
    name: str, matrices: NDArray[np.float64], writer: curves.ActionWriter, start: int
) -> bpy.types.Object:
    empty = bpy.data.objects.new(name, None)
    empty.rotation_mode = "QUATERNION"
    parts = [Matrix(matrix.tolist()).decompose() for matrix in matrices]
    location, rotation, scale = (np.array([list(part[index]) for part in parts]) for index in range(3))
    fcurves = writer.curves_for(empty)
    for path, values in (
        ("location", location),
        ("rotation_quaternion", geometry.continuous_quaternions(rotation)),
        ("scale", scale),
    ):
        curves.write(fcurves, path, values, start)
        setattr(empty, path, values[0].tolist())
    return empty


def _run(context: bpy.types.Context, scene: bpy.types.Scene, kind: str, path: Path) -> None:
    """Blender's exporter on that scene, written whole or not at all. Raises RetakeError."""
    label = KINDS[kind].label
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with context.temp_override(
            scene=scene, view_layer=scene.view_layers[0], selected_objects=[], active_object=None
        ):
            result = _EXPORTERS[kind](str(part), scene)
        if result != {"FINISHED"} or not part.is_file():
            raise RetakeError(f"Blender did not write it as {label}.", str(path), "Look into Blender's console.")
        part.replace(path)
    except RuntimeError as error:  # an operator's report of an error
        raise RetakeError(
            f"Blender did not write it as {label}: {str(error).strip()}", str(path), "Look into Blender's console."
        ) from error
    except OSError as error:
        raise RetakeError(
            f"cannot be written: {error.strerror or error}.", str(path), "Choose a place that you may write to."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _alembic(path: str, scene: bpy.types.Scene) -> set[str]:
    return bpy.ops.wm.alembic_export(
        filepath=path, check_existing=False, start=scene.frame_start, end=scene.frame_end, as_background_job=False
    )


def _fbx(path: str, _scene: bpy.types.Scene) -> set[str]:
    return bpy.ops.export_scene.fbx(
        filepath=path, check_existing=False, object_types={"CAMERA", "EMPTY"}, bake_anim=True,
        bake_anim_use_nla_strips=False, bake_anim_use_all_actions=False, bake_anim_simplify_factor=0.0,
    )  # fmt: skip


def _usd(path: str, _scene: bpy.types.Scene) -> set[str]:
    return bpy.ops.wm.usd_export(filepath=path, check_existing=False, export_animation=True, export_materials=False)


_EXPORTERS = {"alembic": _alembic, "fbx": _fbx, "usd": _usd}
