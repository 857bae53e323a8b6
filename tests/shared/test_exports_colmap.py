"""A COLMAP export is a model to COLMAP itself, and shows every point where the solve does."""

from dataclasses import replace

import numpy as np
import pytest
from retake_shared import exports, formats, geometry
from retake_shared.errors import RetakeError
from retake_shared.exports import colmap
from retake_shared.shot import Edit, Tracks

pycolmap = pytest.importorskip("pycolmap", reason="COLMAP lives in the backend's environment")


def plain_projection(cameras, positions):
    """uv (T, N, 2) px by nothing but numpy's inverse."""
    local = np.einsum(
        "tij,tnj->tni", np.linalg.inv(cameras.c2w), np.pad(positions, ((0, 0), (0, 0), (0, 1)), constant_values=1)
    )
    seen = np.einsum("tij,tnj->tni", cameras.K, local[..., :3])
    return seen[..., :2] / seen[..., 2:]


@pytest.fixture
def zoomed(make_solve):
    """A solve whose focal length and centre change, all tracks visible."""
    solve = make_solve(frames=7)
    t = np.arange(7)
    K = geometry.intrinsics(300 + 5 * t, 320 + 5 * t, 160 + t, 90 - 0.5 * t)
    tracks = replace(solve.tracks, visibility=np.ones_like(solve.tracks.visibility))
    return replace(solve, cameras=replace(solve.cameras, K=K), tracks=tracks)


@pytest.mark.parametrize("rigs", [True, False])
def test_colmap_reads_poses_lens_and_points(zoomed, tmp_path, rigs):
    notes = exports.write("colmap", tmp_path, exports.of_solve(zoomed))
    assert "8 that move" in notes[0]
    if not rigs:  # as COLMAP before 3.12 wrote and reads
        for name in ("rigs.txt", "frames.txt"):
            (tmp_path / name).unlink()
    model = pycolmap.Reconstruction(str(tmp_path))
    assert (model.num_images(), model.num_points3D(), model.num_cameras(), model.num_frames()) == (7, 4, 7, 7)
    standing = zoomed.tracks.positions[:, zoomed.tracks.objects == 0]
    expected = plain_projection(zoomed.cameras, standing)
    for number, image in model.images.items():
        assert image.name == f"frame_{number - 1:05d}.png"
        assert image.has_pose
        for column in range(4):
            uv = image.project_point(standing[0, column])
            np.testing.assert_allclose(uv, expected[number - 1, column], atol=1e-6)
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 1e-6
    assert model.compute_mean_track_length() > 5


def test_our_reader_gives_the_same_cameras_and_points(zoomed, tmp_path):
    exports.write("colmap", tmp_path, exports.of_solve(zoomed))
    solve, _ = formats.read(tmp_path)
    np.testing.assert_allclose(solve.cameras.c2w, zoomed.cameras.c2w, atol=1e-12)
    np.testing.assert_allclose(solve.cameras.K, zoomed.cameras.K, atol=1e-12)
    np.testing.assert_allclose(solve.tracks.positions, zoomed.tracks.positions[:, :4], atol=1e-12)


def test_an_edit_is_exported_as_it_is_shown(make_solve, tmp_path):
    """Moved camera, a removed and a copied track, frames from the middle of the footage."""
    solve = make_solve(frames=6)
    edit = Edit.identity(solve)
    c2w = edit.cameras.c2w.copy()
    c2w[:, :3, 3] += [0.1, -0.05, 0.2]
    copied = np.append(edit.source_track, 0).astype(np.int32)
    positions = edit.positions[:, copied].copy()
    positions[:, -1] += [0.2, 0, 0]
    present = np.ones((6, len(copied)), bool)
    present[:, 1] = False
    edit = replace(
        edit, cameras=replace(edit.cameras, c2w=c2w), positions=positions, present=present, source_track=copied,
        source_frame=edit.source_frame[:, copied], objects=edit.objects[copied],
    )  # fmt: skip
    content = exports.of_edit(edit, solve).frames(2, 6)
    assert len(np.unique(content.tracks.ids)) == len(copied)
    exports.write("colmap", tmp_path, content)
    model = pycolmap.Reconstruction(str(tmp_path))
    assert sorted(image.name for image in model.images.values()) == [f"frame_{n:05d}.png" for n in range(2, 6)]
    points = np.array([point.xyz for point in model.points3D.values()])
    for column in (0, 2, 3, len(copied) - 1):
        seen = bool(solve.tracks.visibility[2:, copied[column]].any())
        assert bool((np.abs(points - positions[0, column]).max(1) < 1e-9).any()) == seen
    assert np.abs(points - positions[0, 1]).max(1).min() > 1e-6, "the removed track is there"
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 1e-6


def test_jitter_of_a_standing_track_becomes_its_error(make_solve, tmp_path):
    solve = make_solve(frames=40)
    random = np.random.default_rng(3)
    positions = solve.tracks.positions + random.normal(0, 0.004, solve.tracks.positions.shape)
    solve = replace(solve, tracks=Tracks.make(positions, objects=solve.tracks.objects))
    exports.write("colmap", tmp_path, exports.of_solve(solve))
    model = pycolmap.Reconstruction(str(tmp_path))
    assert model.num_points3D() == 4
    written = np.mean([point.error for point in model.points3D.values()])
    model.update_point_3d_errors()
    assert 0.1 < written < 1
    assert written == pytest.approx(model.compute_mean_reprojection_error(), rel=0.02)


def test_a_folder_with_a_binary_model_is_refused(make_solve, tmp_path):
    (tmp_path / "cameras.bin").write_bytes(b"")
    with pytest.raises(RetakeError, match=r"holds another model \(cameras.bin\)"):
        colmap.write(tmp_path, exports.of_solve(make_solve()))
    assert [entry.name for entry in tmp_path.iterdir()] == ["cameras.bin"]


def test_without_tracks_there_are_cameras(make_solve, tmp_path):
    solve = replace(make_solve(), tracks=Tracks.empty(6))
    assert exports.write("colmap", tmp_path, exports.of_solve(solve)) == []
    model = pycolmap.Reconstruction(str(tmp_path))
    assert (model.num_images(), model.num_cameras(), model.num_points3D()) == (6, 1, 0)
