"""Runs inside Blender: exports a procedural person with an action as FBX, and a thing of two parts as GLB.

PYTHON_WITH_BPY synthesis_models.py MODULES_JSON FBX GLB
"""

from __future__ import annotations

import json
import sys

sys.path[:0] = json.loads(sys.argv[-3])

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from retake_backend.training.synthesis.plan import Motion  # noqa: E402
from retake_backend.training.synthesis.scene import people  # noqa: E402
from retake_backend.training.synthesis.scene.gaits import Body, Walk  # noqa: E402
from rigs import apply_pose  # noqa: E402
from shapes import box, build, ellipsoid  # noqa: E402


def main() -> None:
    fbx, glb = sys.argv[-2:]
    bpy.ops.wm.read_factory_settings(use_empty=True)
    body = Body.draw(np.random.default_rng(5))
    armature, _ = people.build_person("Someone", 5, body)
    walk = Walk(body, Motion("walk", 1, (0.0, 0.0), 0.0, (0.0,)), 0.5)
    scene = bpy.context.scene
    scene.render.fps, scene.frame_start, scene.frame_end = 16, 1, 17
    for frame in range(1, 18):
        apply_pose(armature, walk.pose((frame - 1) / 16))
        for bone in armature.pose.bones:
            bone.rotation_mode = "QUATERNION"
            bone.keyframe_insert("rotation_quaternion", frame=frame)
            bone.keyframe_insert("location", frame=frame)
    bpy.ops.export_scene.fbx(filepath=fbx, bake_anim=True, add_leaf_bones=False)

    bpy.ops.wm.read_factory_settings(use_empty=True)
    paint = bpy.data.materials.new("Paint")
    paint.use_nodes = True
    build("Base", [box((0, 0, 5), (10, 10, 10))], [paint])
    build("Knob", [ellipsoid((0, 0, 13), (3, 3, 3))], [paint])
    bpy.ops.export_scene.gltf(filepath=glb)


if __name__ == "__main__":
    main()
