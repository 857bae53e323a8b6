""".npz and transforms.json: what is read back is what was written, by our readers and by plain parsing."""

import json
from dataclasses import replace

import numpy as np
import pytest
from retake_shared import exports, fitting, formats
from retake_shared.errors import BadShot, RetakeError
from retake_shared.exports import spatialtracker
from retake_shared.shot import Footage


def test_the_npz_is_read_back_exactly(make_solve, tmp_path):
    solve = make_solve(frames=5, depth=True)
    path = tmp_path / "sölve.npz"
    exports.write("npz", path, exports.of_solve(solve))
    assert formats.detect(path) == "SpatialTrackerV2"
    back, _ = formats.read(path)
    np.testing.assert_array_equal(back.cameras.K, solve.cameras.K)
    np.testing.assert_allclose(back.cameras.c2w, solve.cameras.c2w, atol=1e-15)
    np.testing.assert_array_equal(back.tracks.positions, solve.tracks.positions)
    np.testing.assert_array_equal(back.tracks.visibility, solve.tracks.visibility)
    np.testing.assert_array_equal(back.tracks.confidence, solve.tracks.confidence)
    assert (back.cameras.width, back.cameras.height) == (320, 180)
    assert back.depth.shape == (5, 180, 320)
    np.testing.assert_array_equal(back.depth[:, 18::36, 17::36][:, :, :9], solve.depth[:, :, :9])


def test_the_npz_has_the_shapes_and_values_that_the_solver_saves(make_solve, tmp_path):
    solve = make_solve(frames=3, depth=True)
    random = np.random.default_rng(0)
    video = random.integers(0, 256, (3, 90, 160, 3)).astype(np.uint8)
    exports.write("npz", tmp_path / "a.npz", exports.of_solve(solve), exports.Options(pictures=lambda: iter(video)))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "coords": (3, 12, 3), "extrinsics": (3, 4, 4), "intrinsics": (3, 3, 3), "visibs": (3, 12, 1),
            "confs": (3, 12, 1), "depths": (3, 180, 320), "unc_metric": (3, 180, 320), "video": (3, 3, 180, 320),
        }  # fmt: skip
        np.testing.assert_allclose(arrays["video"][:, :, ::2, ::2], video.transpose(0, 3, 1, 2) / 255, atol=1e-6)
        # The solver's own projection: w2c, then K.
        local = (
            np.einsum("tij,tnj->tni", arrays["extrinsics"][:, :3, :3], arrays["coords"])
            + arrays["extrinsics"][:, None, :3, 3]
        )
        seen = np.einsum("tij,tnj->tni", arrays["intrinsics"], local)
    uv, _ = solve.cameras.project(solve.tracks.positions)
    np.testing.assert_allclose(seen[..., :2] / seen[..., 2:], uv, atol=1e-6)


def test_a_4k_solve_makes_a_small_npz_that_fits_its_footage_again(make_solve, tmp_path):
    solve = make_solve(frames=2)
    solve = replace(solve, cameras=solve.cameras.resized(3840, 2160))
    notes = exports.write("npz", tmp_path / "a.npz", exports.of_solve(solve))
    assert "640x360" in notes[0]
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    back, _ = formats.read(tmp_path / "a.npz")
    fitted, _ = fitting.bind(Footage("clip.mp4", 3840, 2160, 24, 2), back)
    before, _ = solve.cameras.project(solve.tracks.positions)
    after, _ = fitted.cameras.project(fitted.tracks.positions)
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert spatialtracker._size(1921, 1081) == (672, 378)


def test_too_few_pictures_leave_no_file(make_solve, tmp_path):
    options = exports.Options(pictures=lambda: iter(np.zeros((2, 9, 16, 3), np.uint8)))
    with pytest.raises(BadShot, match="2 pictures for 6 frames"):
        exports.write("npz", tmp_path / "a.npz", exports.of_solve(make_solve()), options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("zoom", [False, True])
def test_transforms_are_opengl_cameras_with_lenses_and_points(make_solve, tmp_path, zoom):
    solve = make_solve(frames=4)
    solve.tracks.visibility[:] = True
    if zoom:
        solve = replace(
            solve, cameras=replace(solve.cameras, K=solve.cameras.K * np.linspace(1, 1.1, 4)[:, None, None])
        )
        solve.cameras.K[:, 2, 2] = 1
    exports.write("nerfstudio", tmp_path, exports.of_solve(solve), exports.Options(images="pictures"))
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert [frame["file_path"] for frame in content["frames"]][:2] == [
        "pictures/frame_00000.png",
        "pictures/frame_00001.png",
    ]
    assert ("fl_x" in content) != zoom
    uv, _ = solve.cameras.project(solve.tracks.positions)
    for row, frame in enumerate(content["frames"]):
        lens = {**content, **frame}
        pose = np.linalg.inv(np.array(frame["transform_matrix"]))
        local = solve.tracks.positions[row] @ pose[:3, :3].T + pose[:3, 3]
        assert (local[:, 2] < 0).all(), "OpenGL cameras look along -z"
        u = lens["cx"] + lens["fl_x"] * local[:, 0] / -local[:, 2]
        v = lens["cy"] - lens["fl_y"] * local[:, 1] / -local[:, 2]
        np.testing.assert_allclose(np.stack([u, v], 1), uv[row], atol=1e-6)
    lines = (tmp_path / content["ply_file_path"]).read_text().splitlines()
    points = np.array([line.split()[:3] for line in lines[lines.index("end_header") + 1 :]], float)
    np.testing.assert_allclose(points, solve.tracks.positions[0, :4], atol=1e-12)
    back, _ = formats.read(tmp_path)
    np.testing.assert_allclose(back.cameras.c2w, solve.cameras.c2w, atol=1e-12)
    np.testing.assert_allclose(back.cameras.K, solve.cameras.K, atol=1e-12)


def test_an_unknown_format_and_a_place_that_cannot_be_are_refused(make_solve, tmp_path):
    content = exports.of_solve(make_solve())
    with pytest.raises(RetakeError, match="there is no format 'fbx'"):
        exports.write("fbx", tmp_path / "a", content)
    (tmp_path / "file").write_text("")
    for kind in exports.KINDS:
        with pytest.raises(RetakeError, match="cannot be written"):
            exports.write(kind, tmp_path / "file" / "inside", content)
