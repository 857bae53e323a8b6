"""Results that do not know everything: the lens is given at import, and a video's result is found by its solver's name."""

from __future__ import annotations

import json
import shutil
from math import degrees, radians
from pathlib import Path

import bpy
import numpy as np
import pytest
from retake_shared import archive

from blender_addon import cli
from blender_addon.scene import pairing, shots


@pytest.fixture
def path_of_a_camera(make_footage, make_solve, tmp_path):
    """(footage, file): a camera path in KITTI's format, which has no lens."""
    footage = make_footage()
    file = tmp_path / "path.txt"
    rows = make_solve(footage).cameras.c2w[:, :3].reshape(footage.frames, 12)
    file.write_text("\n".join(" ".join(f"{v:.9e}" for v in row) for row in rows))
    return footage, file


def field_of_view(root):
    camera = root.retake.source_camera.data
    return degrees(2 * np.arctan(camera.sensor_width / 2 / camera.lens))


def test_a_field_of_view_is_given_with_the_import(path_of_a_camera):
    footage, file = path_of_a_camera
    assert bpy.ops.retake.import_shot(footage=footage.path, solve=str(file), fov=radians(72)) == {"FINISHED"}
    root = shots.active_shot(bpy.context)
    assert field_of_view(root) == pytest.approx(72, abs=0.01)
    assert "72 degrees, as given" in root.retake.report


def test_without_one_it_is_assumed_and_told(path_of_a_camera):
    footage, file = path_of_a_camera
    assert bpy.ops.retake.import_shot(footage=footage.path, solve=str(file)) == {"FINISHED"}
    root = shots.active_shot(bpy.context)
    assert field_of_view(root) == pytest.approx(50, abs=0.01)
    assert "assumed" in root.retake.report


def test_blenders_command_line_takes_it_too(path_of_a_camera, tmp_path):
    footage, file = path_of_a_camera
    words = ["--footage", footage.path, "--solve", str(file), "--out", str(tmp_path / "made.blend")]
    assert cli.main(["import", *words, "--fov", "40"]) == cli.DONE
    assert field_of_view(shots.active_shot(bpy.context)) == pytest.approx(40, abs=0.01)
    assert cli.main(["import", *words, "--fov", "400"]) == cli.BAD_INPUT


@pytest.mark.parametrize("name", ["predictions.npz", "results.npz", "trajectory.npz"])
def test_a_result_is_known_by_its_solvers_name(tmp_path, name):
    video = tmp_path / "holiday.mp4"
    video.write_bytes(b"")
    arrays = {
        "predictions.npz": {
            "extrinsic": np.tile(np.eye(4)[:3], (4, 1, 1)), "intrinsic": np.tile(np.eye(3) * 300, (4, 1, 1)),
            "depth": np.ones((4, 8, 12, 1)), "world_points": np.ones((4, 8, 12, 3)), "images": np.ones((4, 3, 8, 12)),
        },
        "results.npz": {
            "extrinsics": np.tile(np.eye(4)[:3], (4, 1, 1)), "intrinsics": np.tile(np.eye(3) * 300, (4, 1, 1)),
            "depth": np.ones((4, 8, 12)), "conf": np.ones((4, 8, 12)), "image": np.ones((4, 8, 12, 3), np.uint8),
        },
        "trajectory.npz": {
            "w2c": np.tile(np.eye(4), (4, 1, 1)), "intrinsics": np.tile(np.eye(3) * 300, (4, 1, 1)),
            "image_height": np.array(8), "image_width": np.array(12),
        },
    }  # fmt: skip
    np.savez(tmp_path / name, **arrays[name])
    np.savez(tmp_path / "something_else.npz", nothing=np.zeros(1))
    assert pairing.find_solve(video) == tmp_path / name


def test_a_folder_of_pictures_with_its_transforms_is_footage_and_solve(make_footage, make_solve, tmp_path):
    footage = make_footage(folder_name="images")
    shutil.copytree(Path(footage.path).parent, tmp_path / "images")
    solve = make_solve(footage)
    frames = [
        {"file_path": f"images/picture_{i:04d}.png", "transform_matrix": (pose @ np.diag([1, -1, -1, 1])).tolist()}
        for i, pose in enumerate(solve.cameras.c2w)
    ]
    content = {"fl_x": 288.0, "fl_y": 288.0, "cx": 160, "cy": 90, "w": 320, "h": 180, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    assert pairing.find_footage(tmp_path / "transforms.json") == tmp_path / "images/picture_0000.png"
    assert bpy.ops.retake.import_shot(filepath=str(tmp_path / "transforms.json")) == {"FINISHED"}
    assert shots.active_shot(bpy.context).retake.frames == footage.frames


def test_the_video_of_a_solve_of_our_own_finds_it_before_its_tracks_in_2d(make_footage, make_solve, tmp_path):
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"")
    np.savez(tmp_path / "clip.npz", tracks=np.zeros((4, 9, 2)), visibility=np.ones((4, 9), bool))
    archive.save(tmp_path / "clip.solve.npz", make_solve(make_footage()))
    assert pairing.find_solve(video) == tmp_path / "clip.solve.npz"
