"""Actors and things from the user's files: characters with their own actions (FBX), models (GLB, glTF, OBJ, FBX)."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix
from retake_shared import geometry
from retake_shared.errors import BadFile

from ..plan import Actor, Motion
from . import motions
from .gaits import Vec
from .props import Show, Thing

_READERS = {
    ".fbx": "import_scene.fbx",
    ".glb": "import_scene.gltf",
    ".gltf": "import_scene.gltf",
    ".obj": "wm.obj_import",
}


def load(path: str, name: str) -> list[bpy.types.Object]:
    """The objects of a file, named after `name`. Raises BadFile when Blender reads nothing from it."""
    before = set(bpy.data.objects)
    group, operator = _READERS[Path(path).suffix.lower()].split(".")
    try:
        getattr(getattr(bpy.ops, group), operator)(filepath=path)
    except RuntimeError as error:
        raise BadFile(
            f"cannot be imported: {error!s:.200}.", path, "Export it again, or take it out of the folder."
        ) from error
    new = [thing for thing in bpy.data.objects if thing not in before]  # in the file's order
    for thing in new:
        if thing.type not in ("MESH", "ARMATURE", "EMPTY"):
            bpy.data.objects.remove(thing)
    new = [thing for thing in bpy.data.objects if thing not in before]
    meshes = [thing for thing in new if thing.type == "MESH" and len(thing.data.polygons)]
    if not meshes:
        raise BadFile("holds no mesh.", path, "Export it with its skin, or take it out of the folder.")
    for index, thing in enumerate(sorted(new, key=lambda thing: thing.name)):
        thing.name = f"{name} part {index}"
    return new


def _rooted(name: str, things: list[bpy.types.Object]) -> tuple[bpy.types.Object, list[bpy.types.Object]]:
    """An empty that carries all of them, and the meshes among them."""
    root = bpy.data.objects.new(f"{name} root", None)
    bpy.context.scene.collection.objects.link(root)
    for thing in things:
        if thing.parent is None:
            thing.parent = root
    bpy.context.view_layer.update()
    return root, [thing for thing in things if thing.type == "MESH" and len(thing.data.polygons)]


def _vertices(meshes: list[bpy.types.Object]) -> Vec:
    """World positions (V, 3) of all vertices as they are now."""
    depsgraph = bpy.context.evaluated_depsgraph_get()
    found = []
    for mesh in meshes:
        evaluated = mesh.evaluated_get(depsgraph)
        points = np.empty(3 * len(evaluated.data.vertices), np.float32)
        evaluated.data.vertices.foreach_get("co", points)
        found.append(geometry.transform(np.array(evaluated.matrix_world), points.reshape(-1, 3)))
    return np.concatenate(found)


def _bounds(meshes: list[bpy.types.Object]) -> tuple[Vec, Vec]:
    points = _vertices(meshes)
    return points.min(0), points.max(0)


def build_asset(actor: Actor) -> Thing:
    """A model of a file as something that is tossed or pushed, 0.3 to 0.9 m large."""
    rng = np.random.default_rng([actor.seed, 11])
    root, meshes = _rooted(actor.name, load(actor.file, actor.name))
    low, high = _bounds(meshes)
    scale = rng.uniform(0.3, 0.9) / max(float((high - low).max()), 1e-6)
    half = (high - low) * scale / 2
    centred = motions.affine(np.eye(3) * scale, -(low + high) / 2 * scale)

    def act(motion: Motion, middle: float) -> Show:
        at = motions.rigid(motion, half, middle)

        def show(seconds: float) -> None:
            root.matrix_world = Matrix((at(seconds) @ centred).tolist())

        return show

    return Thing(tuple(meshes), act, root)


def place_model(path: str, name: str, x: float, y: float, turn: float, size: float) -> None:
    """A model of a file that stands still on the ground, `size` m large."""
    root, meshes = _rooted(name, load(path, name))
    low, high = _bounds(meshes)
    scale = size / max(float((high - low).max()), 1e-6)
    foot = np.array([*(low + high)[:2] / 2, low[2]])
    turned = geometry.axis_rotation((0, 0, 1), turn) * scale
    root.matrix_world = Matrix(motions.affine(turned, np.array([x, y, 0.0]) - turned @ foot).tolist())


def build_figure(actor: Actor) -> Thing:
    """A character of a file. Its motions are the file's own actions, begun at any time, at the place and in the direction
    that the motion asks for."""
    rng = np.random.default_rng([actor.seed, 12])
    known = set(bpy.data.actions)
    things = load(actor.file, actor.name)
    actions = sorted((action for action in bpy.data.actions if action not in known), key=lambda action: action.name)
    root, meshes = _rooted(actor.name, things)
    skeletons = [thing for thing in things if thing.type == "ARMATURE"]
    if not skeletons:
        raise BadFile("holds no armature.", actor.file, "Export the character with its skeleton.")
    rig, render = skeletons[0], bpy.context.scene.render
    fps = render.fps / render.fps_base  # the importer brings actions to it
    poses = [_poses(rig, action) for action in actions] or [[_pose(rig)]]
    rig.animation_data_clear()
    _take_pose(rig, poses[0][0])
    bpy.context.view_layer.update()
    low, high = _bounds(meshes)
    scale = rng.uniform(1.3, 1.9) / max(float(high[2] - low[2]), 1e-6)
    foot = np.array([*(low + high)[:2] / 2, low[2]])

    def act(motion: Motion, middle: float) -> Show:
        own = np.random.default_rng([motion.seed, 13])
        deed = poses[int(own.integers(len(poses)))]
        last = len(deed) - 1
        begin = own.uniform(0, 1) * last
        turned = geometry.axis_rotation((0, 0, 1), motion.heading) * scale
        matrix = Matrix(motions.affine(turned, np.array([*motion.at, 0.0]) - turned @ foot).tolist())

        def show(seconds: float) -> None:
            # There and back: an action that does not close would jump at its end.
            at = (begin + seconds * fps) % max(2 * last, 1)
            at = min(at, 2 * last - at) if last else 0.0
            whole = min(int(at), max(last - 1, 0))
            before, after = deed[whole], deed[min(whole + 1, last)]
            _take_pose(rig, [a.lerp(b, at - whole) for a, b in zip(before, after, strict=True)])
            root.matrix_world = matrix

        return show

    return Thing(tuple(meshes), act, root)


def _pose(rig: bpy.types.Object) -> list[Matrix]:
    """The transforms of an armature and of all its bones, as they are keyed."""
    return [rig.matrix_basis.copy(), *(bone.matrix_basis.copy() for bone in rig.pose.bones)]


def _take_pose(rig: bpy.types.Object, pose: list[Matrix]) -> None:
    rig.matrix_basis = pose[0]
    for bone, matrix in zip(rig.pose.bones, pose[1:], strict=True):
        bone.matrix_basis = matrix


def _poses(rig: bpy.types.Object, action: bpy.types.Action) -> list[list[Matrix]]:
    """The poses of an action, frame by frame. They are kept and set by hand, as Blender's clock is one for everybody."""
    data = rig.animation_data or rig.animation_data_create()
    data.action = action
    if bpy.app.version >= (4, 4, 0) and data.action_slot is None and len(data.action_suitable_slots):
        data.action_slot = data.action_suitable_slots[0]
    first, last = (int(frame) for frame in action.frame_range)
    found = []
    for frame in range(first, last + 1):
        bpy.context.scene.frame_set(frame)
        found.append(_pose(rig))
    return found
