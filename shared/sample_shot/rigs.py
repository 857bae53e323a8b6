"""Figures on armatures: their bones, how a limb's skin follows them, and poses.

A pose is, for every bone, the position (3,) of its head and its rotation from rest (3, 3), in the world.
"""

from __future__ import annotations

from collections.abc import Mapping

import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray
from shapes import Weights

Vec = NDArray[np.float64]
Pose = Mapping[str, tuple[Vec, Vec]]


def build_armature(name: str, bones: Mapping[str, tuple[str, Vec, Vec]]) -> bpy.types.Object:
    """An armature of bones (name: parent or "", head, tail), linked to the scene, at the origin."""
    armature = bpy.data.objects.new(name, bpy.data.armatures.new(name))
    bpy.context.scene.collection.objects.link(armature)
    bpy.context.view_layer.objects.active = armature
    bpy.ops.object.mode_set(mode="EDIT")
    for bone_name, (parent, head, tail) in bones.items():
        bone = armature.data.edit_bones.new(bone_name)
        bone.head, bone.tail, bone.roll = head, tail, 0.0
        if parent:
            bone.parent = armature.data.edit_bones[parent]
    bpy.ops.object.mode_set(mode="OBJECT")
    armature.hide_render = True
    return armature


def skin(mesh: bpy.types.Object, armature: bpy.types.Object, levels: int) -> None:
    """Let the mesh follow the bones that its vertices have weights of, then round it by `levels` of subdivision."""
    mesh.parent = armature
    follow = mesh.modifiers.new("Armature", "ARMATURE")
    follow.object = armature
    smooth = mesh.modifiers.new("Subdivision", "SUBSURF")
    smooth.levels = smooth.render_levels = levels


def chain(*joints: tuple[str, float, float]) -> Weights:
    """Weights down a limb: each (bone, z of its lower end, half-width of the blend), from the top."""

    def weights(vertices: Vec) -> dict[str, Vec]:
        left, result = np.ones(len(vertices)), {}
        for bone, z, blend in joints[:-1]:
            t = np.clip((vertices[:, 2] - z) / (2 * blend) + 0.5, 0, 1)
            share = left * t * t * (3 - 2 * t)
            result[bone], left = share, left - share
        result[joints[-1][0]] = left
        return result

    return weights


def apply_pose(armature: bpy.types.Object, pose: Pose) -> None:
    """Put every bone where the pose says, if the armature is at the origin."""
    world: dict[str, Matrix] = {}
    for bone in armature.pose.bones:
        head, rotation = pose[bone.name]
        rest = bone.bone.matrix_local
        world[bone.name] = Matrix.Translation(head) @ (Matrix(rotation.tolist()) @ rest.to_3x3()).to_4x4()
        if bone.parent is None:
            bone.matrix_basis = rest.inverted() @ world[bone.name]
        else:
            local_rest = bone.parent.bone.matrix_local.inverted() @ rest
            bone.matrix_basis = local_rest.inverted() @ world[bone.parent.name].inverted() @ world[bone.name]
