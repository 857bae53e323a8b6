"""The reference mesh: every track of the solve as a vertex, and the solve itself, so that a .blend needs nothing else.

The mesh plays: its vertices follow the unedited tracks. Beside the positions of each frame it holds two attributes of
its vertices: `object`, the object that a track is assigned to now, and `has_empty`, whether it got an empty at import.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import bpy
import numpy as np
from numpy.typing import NDArray
from retake_shared import archive
from retake_shared.errors import BadShot
from retake_shared.shot import Solve

OBJECT = "object"
HAS_EMPTY = "has_empty"
POSITION = "position_#"
"""Name of a frame's positions, # being the footage frame."""

MAX_MAP_BYTES = 512 << 20
"""Depth and masks beyond this are thinned out before they go into the .blend, whose strings end at 2 GiB."""


def create(
    name: str, solve: Solve, origin: NDArray[np.float64], has_empty: NDArray[np.bool_], start: int
) -> bpy.types.Object:
    """The reference object, in no collection yet; its parent's space is the solve's world - origin."""
    mesh = bpy.data.meshes.new(name)
    store_solve(mesh, solve)
    positions = (solve.tracks.positions - origin).astype(np.float32)
    mesh.vertices.add(len(solve.tracks))
    mesh.vertices.foreach_set("co", positions[0].ravel())
    for frame, values in enumerate(positions):
        attribute = mesh.attributes.new(POSITION.replace("#", str(frame)), "FLOAT_VECTOR", "POINT")
        attribute.data.foreach_set("vector", values.ravel())
    mesh.attributes.new(OBJECT, "INT", "POINT").data.foreach_set("value", solve.tracks.objects)
    mesh.attributes.new(HAS_EMPTY, "BOOLEAN", "POINT").data.foreach_set("value", has_empty)

    reference = bpy.data.objects.new(name, mesh)
    reference.retake_role = "REFERENCE"
    reference.hide_select = reference.hide_render = True
    modifier = reference.modifiers.new("Play", "NODES")
    modifier.node_group = _player(f"{name} player", start, len(solve))
    return reference


def thinned(solve: Solve) -> tuple[Solve, list[str]]:
    """The solve with depth and masks small enough to live in a .blend, and a note when that changed them."""
    notes, maps = [], {}
    for name in ("depth", "masks"):
        values = getattr(solve, name)
        if values is None or values.nbytes <= MAX_MAP_BYTES:
            continue
        step = int(np.ceil(np.sqrt(values.nbytes / MAX_MAP_BYTES)))
        maps[name] = np.ascontiguousarray(values[:, step // 2 :: step, step // 2 :: step])
        size = maps[name].shape[2], maps[name].shape[1]
        notes.append(f"The {name} were thinned out to {size[0]}x{size[1]} px so that they fit into the .blend.")
    return (replace(solve, **maps) if maps else solve), notes


def store_solve(mesh: bpy.types.Mesh, solve: Solve) -> None:
    """Keep the solve in the mesh."""
    data = archive.to_bytes(solve)
    mesh.retake_archive, mesh.retake_sha256 = data, hashlib.sha256(data).hexdigest()
    _remember(mesh.retake_sha256, solve)


def stored_solve(mesh: bpy.types.Mesh) -> Solve:
    """The solve as it was imported; its arrays are not to be written to. Raises BadShot when it is not there."""
    if mesh.retake_sha256 in _parsed:
        return _parsed[mesh.retake_sha256]
    data = mesh.retake_archive
    if not data:
        raise BadShot("holds no solve.", mesh.name, "Undo what replaced its mesh, or import the shot again.")
    solve = archive.from_bytes(data, f"solve in {mesh.name}")
    if not isinstance(solve, Solve):
        raise BadShot("holds an edit, not a solve.", mesh.name, "Import the shot again.")
    _remember(mesh.retake_sha256, solve)
    return solve


_parsed: dict[str, Solve] = {}
"""The solves used last, by sha256: Blender takes 10 ms to hand out a megabyte."""
_MOST_PARSED = 2


def _remember(sha256: str, solve: Solve) -> None:
    _parsed.pop(sha256, None)
    _parsed[sha256] = solve
    while len(_parsed) > _MOST_PARSED:
        del _parsed[next(iter(_parsed))]


def assigned_objects(mesh: bpy.types.Mesh) -> NDArray[np.int32]:
    """Object number (N,) that each track is assigned to."""
    return _read(mesh, OBJECT, np.int32)


def has_empty(mesh: bpy.types.Mesh) -> NDArray[np.bool_]:
    """Which tracks (N,) got an empty at import."""
    return _read(mesh, HAS_EMPTY, np.bool_)


def assign(mesh: bpy.types.Mesh, rows: NDArray[np.int64], number: int) -> None:
    """Put tracks into the object of that number."""
    objects = assigned_objects(mesh)
    objects[rows] = number
    mesh.attributes[OBJECT].data.foreach_set("value", objects)


def _read(mesh: bpy.types.Mesh, name: str, dtype: type) -> NDArray:
    attribute = mesh.attributes.get(name)
    if attribute is None:
        raise BadShot(f'its attribute "{name}" is gone.', mesh.name, "Undo the change of the reference mesh.")
    values = np.empty(len(attribute.data), dtype)
    attribute.data.foreach_get("value", values)
    return values


def _player(name: str, start: int, frames: int) -> bpy.types.GeometryNodeTree:
    """Nodes that set the vertices to the positions stored for the scene's frame; before and after, the nearest."""
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")

    def node(kind: str, **settings: object) -> bpy.types.Node:
        made = tree.nodes.new(kind)
        made.location = (180 * len(tree.nodes), 0)
        for key, value in settings.items():
            setattr(made, key, value)
        return made

    geometry_in, geometry_out = node("NodeGroupInput"), node("NodeGroupOutput")
    time = node("GeometryNodeInputSceneTime")
    frame = node("ShaderNodeMath", operation="SUBTRACT")
    clamped = node("ShaderNodeClamp")
    text = node("FunctionNodeValueToString")
    attribute_name = node("FunctionNodeReplaceString")
    attribute = node("GeometryNodeInputNamedAttribute", data_type="FLOAT_VECTOR")
    place = node("GeometryNodeSetPosition")

    frame.inputs[1].default_value = start
    clamped.inputs["Max"].default_value = frames - 1
    attribute_name.inputs["String"].default_value = POSITION
    attribute_name.inputs["Find"].default_value = "#"
    for source, target in (
        (time.outputs["Frame"], frame.inputs[0]),
        (frame.outputs[0], clamped.inputs["Value"]),
        (clamped.outputs[0], text.inputs["Value"]),
        (text.outputs[0], attribute_name.inputs["Replace"]),
        (attribute_name.outputs[0], attribute.inputs["Name"]),
        (attribute.outputs["Attribute"], place.inputs["Position"]),
        (geometry_in.outputs[0], place.inputs["Geometry"]),
        (place.outputs[0], geometry_out.inputs[0]),
    ):
        tree.links.new(source, target)
    return tree
