"""A shot comes into the scene, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray
from retake_shared import camera_moves, fitting, formats
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras, Footage, Solve

from ..solve_report import read_report
from . import camera, footage_clip, objects, reference, tracks

DEFAULT_DENSITY = 2000
"""Empties at most; beyond it playback stutters. The reference mesh always has all tracks."""

PARENT_COLLECTION = "Retake"


def active_shot(context: bpy.types.Context) -> bpy.types.Object | None:
    """The root of the shot that the artist works on: of the active object, else the one picked in the panel."""
    for root in (objects.root_of(context.view_layer.objects.active), context.scene.retake_shot):
        if root is not None and context.scene.objects.get(root.name) == root:
            return root
    return None


def import_files(
    context: bpy.types.Context,
    footage_path: str,
    solve_path: str,
    *,
    density: int = DEFAULT_DENSITY,
    set_scene: bool,
    step: int | None = None,
    hints: formats.Hints | None = None,
) -> bpy.types.Object:
    """Read a video and a solver's output and import them; see `import_shot` and `fitting.bind` (step).

    hints: what the solve's file may not say.

    Raises RetakeError, the scene untouched.
    """
    footage = footage_clip.probe(footage_path, context.scene)
    solve, notes = formats.read(bpy.path.abspath(solve_path), footage, hints)
    solve, fitted = fitting.bind(footage, solve, step)
    report = [*notes, *fitted, fitting.check_convention(solve)]
    root = import_shot(context, footage, solve, density=density, set_scene=set_scene, report=report)
    root.retake.solve, root.retake.solve_report = solve_path, read_report(Path(bpy.path.abspath(solve_path)))
    return root


def import_shot(
    context: bpy.types.Context,
    footage: Footage,
    solve: Solve,
    *,
    density: int = DEFAULT_DENSITY,
    set_scene: bool,
    report: list[str] | None = None,
) -> bpy.types.Object:
    """Build the shot in the scene and return its root, which becomes the active object.

    Matrices are up to date only after Blender's next evaluation (`view_layer.update()`, a change of frame).

    The solve fits the footage (`fitting.bind`). density: empties at most; the other tracks are in the reference mesh
    and follow their object. set_scene: give the scene the footage's rate, size, range and a neutral view transform.
    report: lines for the artist on what reading found. Footage frame 0 lies at the scene's first frame.
    Raises RetakeError, and whatever else goes wrong, with nothing of the shot left behind.
    """
    size = solve.cameras.width, solve.cameras.height
    if size != (footage.width, footage.height):
        raise BadShot(
            f"its cameras are for {size[0]}x{size[1]} px, the footage has {footage.width}x{footage.height}.",
            "solve.cameras",
            "Bring it to the footage's size first (fitting.bind).",
        )
    with all_or_nothing():
        root = _build(context, footage, solve, max(density, 0), report or [])
    scene, shot = context.scene, root.retake
    if set_scene:
        footage_clip.apply_settings(scene, footage, len(solve), shot.start, tuple(shot.pixel_aspect))
    scene.camera, scene.retake_shot = shot.target_camera, root
    shot.reference.hide_set(True, view_layer=context.view_layer)  # it would lie on top of the tracks' empties
    for selected in context.selected_objects:
        selected.select_set(False)
    context.view_layer.objects.active = root
    root.select_set(True)
    return root


def _build(
    context: bpy.types.Context, footage: Footage, solve: Solve, density: int, report: list[str]
) -> bpy.types.Object:
    scene, clip = context.scene, footage_clip.load_clip(footage.path)
    solve, thinned = reference.thinned(solve)
    name = Path(footage.path).stem or "shot"
    collection, tracks_collection = _collections(context, name)
    root = bpy.data.objects.new(name, None)
    root.retake_role = "SHOT"
    collection.objects.link(root)
    start, scale = scene.frame_start, scale_of(solve)
    origin = origin_of(solve.cameras, scale)
    aspect = camera.pixel_aspect(solve.cameras)

    shot = root.retake
    shot.collection, shot.clip = collection, clip
    shot.report = "\n".join([*report, *thinned])
    shot.start, shot.frames, shot.size = start, len(solve), (footage.width, footage.height)
    shot.fps, shot.pixel_aspect, shot.origin = (footage.fps.numerator, footage.fps.denominator), aspect, origin
    shot.range, shot.render_size = (start, start + len(solve) - 1), (footage.width, footage.height)
    clip.frame_start = start

    root.rotation_mode = "QUATERNION"
    root.rotation_quaternion = camera.up_rotation(solve.cameras).to_quaternion()
    root.empty_display_size = 0.1 * scale
    for role, title, alpha in (("SOURCE_CAMERA", "source camera", 1.0), ("TARGET_CAMERA", "camera", 0.5)):
        made = camera.create(f"{name} {title}", solve.cameras, origin, aspect, start)
        made.retake_role, made.parent = role, root
        made.data.clip_start, made.data.clip_end = 0.001 * scale, 1000 * scale
        made.data.display_size = 0.1 * scale
        camera.show_footage(made, clip, alpha)
        collection.objects.link(made)
        setattr(shot, role.lower(), made)
    camera.lock(shot.source_camera)

    handles = {}
    for number, label in sorted(solve.object_names.items()):
        size = 0.1 * scale if number == 0 else 0.05 * scale
        handles[number] = objects.create_handle(root, label, number, objects.pivot(root, solve, number), size)

    rows = tracks.choose(solve.tracks, solve.cameras, density)
    parents = [handles[number] for number in solve.tracks.objects[rows].tolist()]
    centres = np.array([handle.retake_handle.centre for handle in parents]).reshape(-1, 3)
    positions = solve.tracks.positions[:, rows] - origin - centres
    tracks.create(name, tracks_collection, parents, rows, positions, start, tracks.DISPLAY_SHARE * scale)

    has_empty = np.zeros(len(solve.tracks), bool)
    has_empty[rows] = True
    dense = reference.create(f"{name} reference", solve, origin, has_empty, start)
    dense.parent, shot.reference = root, dense
    collection.objects.link(dense)
    return root


def origin_of(cameras: Cameras, scale: float) -> NDArray[np.float64]:
    """The place in the solve's world that becomes the root's origin: the solve's own, unless that is far away.

    Blender computes in float32, so a shot far from its origin would tremble. scale: of the shot, in world units.
    """
    centres = cameras.c2w[:, :3, 3]
    middle = np.median(centres, 0)
    far = np.linalg.norm(middle) > 20 * max(scale, float(np.ptp(centres, 0).max()))
    return middle.astype(np.float32).astype(np.float64) if far else np.zeros(3)


def scale_of(solve: Solve) -> float:
    """The shot's unit of length for the size of things on screen: its median depth, 1 when nothing is known of it."""
    try:
        return max(camera_moves.median_depth(solve, 0), 1e-6)
    except BadShot:
        return 1.0


def _collections(context: bpy.types.Context, name: str) -> tuple[bpy.types.Collection, bpy.types.Collection]:
    """New collections for a shot and, inside it, for its tracks, under the scene's collection for all shots; under
    another one where the artist has excluded that from the view layer, in which nothing of the shot could be selected.
    """
    context.view_layer.update()  # one that was never shown may know nothing of its collections
    included = [layer.collection for layer in context.view_layer.layer_collection.children if not layer.exclude]
    parent = next((c for c in included if c.name.split(".")[0] == PARENT_COLLECTION), None)
    if parent is None:
        parent = bpy.data.collections.new(PARENT_COLLECTION)
        context.scene.collection.children.link(parent)
    own, inner = bpy.data.collections.new(name), bpy.data.collections.new(f"{name} tracks")
    parent.children.link(own)
    own.children.link(inner)
    return own, inner


_MADE_KINDS = ("objects", "collections", "cameras", "meshes", "actions", "movieclips", "node_groups")


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Delete, when the block raises, every object and data-block that it made."""
    before = {kind: {block.as_pointer() for block in getattr(bpy.data, kind)} for kind in _MADE_KINDS}
    try:
        yield
    except BaseException:
        made = [b for kind in _MADE_KINDS for b in getattr(bpy.data, kind) if b.as_pointer() not in before[kind]]
        bpy.data.batch_remove(made)
        raise
