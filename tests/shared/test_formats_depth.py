"""Results of cameras and depth maps (MegaSaM, VGGT, Depth Anything 3, GEN3C, TAPIP3D's input): read, and points lifted.

A user would get a scene without tracks, tracks beside the picture, or tracks on what moves.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retake_shared import fitting, formats, lifting
from retake_shared.errors import BadFile, RetakeError

from tests.shared.made_up_scene import CX, CY, FX, FY, H, Scene, T, W, error_px

SCENE = Scene()
WITH_BOX = Scene(box=True)


def vectors(w2c: np.ndarray) -> np.ndarray:
    """x y z and a quaternion x y z w (T, 7)."""
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    return np.concatenate([w2c[:, :3, 3], rotation.from_matrix(w2c[:, :3, :3]).as_quat()], 1)


def megasam(scene: Scene) -> dict[str, np.ndarray]:
    depth, _ = scene.render()
    return {
        "images": np.zeros((T, H, W, 3), np.uint8),
        "depths": depth.astype(np.float32),
        "intrinsic": scene.K,
        "cam_c2w": scene.c2w,
    }


def vggt(scene: Scene) -> dict[str, np.ndarray]:
    depth, _ = scene.render()
    return {
        "extrinsic": scene.w2c[:, :3],
        "intrinsic": np.tile(scene.K, (T, 1, 1)),
        "depth": depth.astype(np.float32)[..., None],
        "depth_conf": np.full((T, H, W), 5, np.float32),
        "images": np.zeros((T, 3, H, W), np.float32),
        "pose_enc": np.zeros((T, 9), np.float32),
    }


def depth_anything(scene: Scene) -> dict[str, np.ndarray]:
    depth, _ = scene.render()
    return {
        "image": np.zeros((T, H, W, 3), np.uint8),
        "depth": depth.astype(np.float32),
        "conf": np.ones((T, H, W), np.float32),
        "extrinsics": scene.w2c[:, :3],
        "intrinsics": np.tile(scene.K, (T, 1, 1)),
    }


def tapip3d_input(scene: Scene) -> dict[str, np.ndarray]:
    depth, _ = scene.render()
    return {
        "video": np.zeros((T, H, W, 3), np.uint8),
        "depths": depth.astype(np.float32),
        "intrinsics": np.tile(scene.K, (T, 1, 1)),
        "extrinsics": scene.w2c,
    }


def saver(make: Callable[[Scene], dict[str, np.ndarray]], name: str) -> Callable[[Path, Scene], Path]:
    def save(folder: Path, scene: Scene) -> Path:
        np.savez(folder / name, **make(scene))
        return folder / name

    return save


def megasam_folder(folder: Path, scene: Scene) -> Path:
    depth, moving = scene.render()
    np.save(folder / "poses.npy", vectors(scene.w2c))
    np.save(folder / "intrinsics.npy", np.tile([FX, FY, CX, CY], (T, 1)))
    np.save(folder / "disps.npy", (1 / (depth + 1e-6)).astype(np.float32))
    np.save(folder / "motion_prob.npy", np.where(moving, 0.05, 0.95)[:, 4::8, 4::8].astype(np.float32))
    return folder


def gen3c(folder: Path, scene: Scene) -> Path:
    depth, _ = scene.render()
    np.savez(folder / "camera.npz", w2c=scene.w2c, intrinsics=np.tile(scene.K, (T, 1, 1)))
    np.savez(folder / "depth.npz", depth=depth.astype(np.float32))
    np.savez(folder / "mask.npz", mask=np.ones((T, H, W), np.float32))
    return folder


RESULTS = {
    "MegaSaM": saver(megasam, "shot_sgd_cvd_hr.npz"),
    "MegaSaM folder": megasam_folder,
    "VGGT": saver(vggt, "predictions.npz"),
    "Depth Anything 3": saver(depth_anything, "results.npz"),
    "GEN3C": gen3c,
    "TAPIP3D input": saver(tapip3d_input, "input.npz"),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_cameras_project_and_lifted_points_lie_on_the_wall_where_the_picture_shows_it(tmp_path, kind):
    path = RESULTS[kind](tmp_path, SCENE)
    assert formats.detect(path) == kind.removesuffix(" folder")
    solve, notes = formats.read(path)
    assert (len(solve), solve.cameras.width, solve.cameras.height) == (T, W, H)
    assert error_px(SCENE, solve.cameras) < 1e-4
    assert solve.depth is not None
    assert solve.depth.shape == (T, H, W)
    tracks = solve.tracks
    assert 500 < len(tracks) <= 3000
    assert np.abs(SCENE.on_wall(tracks.positions)).max() < 1e-4 * 6
    # Nothing hides the wall: a point is visible where it lies inside the picture (but for the outermost half pixel).
    uv = SCENE.project(tracks.positions[0])
    inside = ((uv > 0.5) & (uv < [W - 0.5, H - 0.5])).all(-1)
    outside = ((uv < 0) | (uv > [W, H])).any(-1)
    assert tracks.visibility[inside].mean() > (0.85 if kind == "VGGT" else 0.995)
    assert not tracks.visibility[outside].any()
    assert any("lifted from the depth maps" in note for note in notes)
    # Points cover every frame, not only what the first one shows.
    for t in range(T):
        seen = uv[t][tracks.visibility[t]]
        cells = np.unique((seen // 16).astype(int), axis=0)
        assert len(cells) == (W // 16) * (H // 16)
    assert "no tracks" not in fitting.check_convention(solve)


@pytest.mark.parametrize("kind", ["MegaSaM", "MegaSaM folder", "VGGT"])
def test_what_moves_gets_no_points(tmp_path, kind):
    path = RESULTS[kind](tmp_path, WITH_BOX)
    solve, notes = formats.read(path)
    off = np.abs(SCENE.on_wall(solve.tracks.positions[0])) > 0.05
    assert len(solve.tracks) > 500
    assert off.mean() < (0.001 if kind == "MegaSaM folder" else 0.02)
    words = "moves by itself" if kind == "MegaSaM folder" else "they moved"
    assert any(words in note for note in notes)
    # Behind the box a wall point is hidden.
    _, moving = WITH_BOX.render()
    uv = WITH_BOX.project(solve.tracks.positions[0])
    for t in range(T):
        cell = np.clip(uv[t].astype(int), 0, [W - 1, H - 1])
        behind = moving[t][cell[:, 1], cell[:, 0]] & ~off & (uv[t] > 0).all(-1) & (uv[t] < [W, H]).all(-1)
        assert behind.any()
        assert (
            solve.tracks.visibility[t][behind].mean() < 0.15
        )  # at the box's very edge a cell decides for its neighbours


def test_motion_beside_an_npz_is_found_in_either_sense_and_only_if_it_fits(tmp_path):
    (tmp_path / "outputs").mkdir()
    np.savez(tmp_path / "outputs" / "shot_droid.npz", **megasam(WITH_BOX))
    beside = tmp_path / "reconstructions" / "shot"
    beside.mkdir(parents=True)
    _, moving = WITH_BOX.render()
    path = tmp_path / "outputs" / "shot_droid.npz"
    for still in (0.95, 0.05):
        np.save(beside / "motion_prob.npy", np.where(moving, 1 - still, still)[:, None, ::4, ::4].astype(np.float32))
        solve, notes = formats.read(path)
        assert (np.abs(SCENE.on_wall(solve.tracks.positions[0])) < 0.05).mean() > 0.999
        assert any("motion_prob.npy" in note and "gets no points" in note for note in notes)
    np.save(beside / "motion_prob.npy", np.ones((T + 2, 8, 12), np.float32))
    _, notes = formats.read(path)
    assert any("11 frames" in note and "not used" in note for note in notes)


def test_no_point_lies_where_the_solver_saw_motion_even_if_the_depth_shows_none(tmp_path):
    """A person who sways on the spot: no map sees through him, only the solver's own probability tells."""
    folder = megasam_folder(tmp_path, SCENE)
    still = np.full((T, H // 8, W // 8), 0.9, np.float32)
    still[:, 3:5, 5:8] = 0.1
    np.save(folder / "motion_prob.npy", still)
    solve, _ = formats.read(folder)
    uv = SCENE.project(solve.tracks.positions[0])
    swaying = ((uv > [40, 24]) & (uv < [64, 40])).all(-1)
    assert swaying.any()
    assert not solve.tracks.visibility[swaying].any()


@pytest.mark.parametrize("kind", ["MegaSaM", "VGGT"])
def test_poses_stored_the_other_way_round_are_told_by_the_depth_maps(tmp_path, kind):
    stored = Scene(c2w=SCENE.w2c, K=SCENE.K)  # written as if they were the inverse
    arrays = {"MegaSaM": megasam, "VGGT": vggt}[kind](SCENE)
    arrays["cam_c2w" if kind == "MegaSaM" else "extrinsic"] = stored.c2w if kind == "MegaSaM" else stored.w2c[:, :3]
    np.savez(tmp_path / "r.npz", **arrays)
    solve, notes = formats.read(tmp_path / "r.npz")
    assert error_px(SCENE, solve.cameras) < 1e-4
    assert any("poses were read as" in note for note in notes)


def test_half_precision_depth_at_another_size_and_unknown_places_are_fine(tmp_path):
    depth, _ = SCENE.render()
    depth[:, :10] = 0
    depth[2, 20:30, 20:30] = np.nan
    arrays = megasam(SCENE) | {"depths": depth[:, 1::2, 1::2].astype(np.float16)}
    np.savez(tmp_path / "r.npz", **arrays)
    solve, _ = formats.read(tmp_path / "r.npz")
    assert (solve.cameras.width, solve.cameras.height) == (W, H)
    uv = SCENE.project(solve.tracks.positions[0])
    assert len(solve.tracks) > 200
    assert (uv[..., 1][solve.tracks.visibility] >= 8).all()
    assert np.abs(SCENE.on_wall(solve.tracks.positions[0])).max() < 0.1


def test_without_depth_there_are_cameras_and_a_word_about_it(tmp_path):
    arrays = tapip3d_input(SCENE)
    del arrays["depths"]
    np.savez(tmp_path / "input.npz", **arrays)
    solve, notes = formats.read(tmp_path / "input.npz")
    assert error_px(SCENE, solve.cameras) < 1e-4
    assert any("objects cannot" in note for note in notes)
    del arrays["extrinsics"]
    np.savez(tmp_path / "input.npz", **arrays)
    with pytest.raises(BadFile, match=r"without extrinsics.*result"):
        formats.read(tmp_path / "input.npz")


@pytest.mark.parametrize(
    ("kind", "fault", "words"),
    [
        (megasam, {"depths": np.zeros((T + 1, H, W), np.float32)}, "depths.*shape"),
        (megasam, {"cam_c2w": np.tile(np.diag([1.0, 1, -1, 1]), (T, 1, 1))}, "mirrored"),
        (megasam, {"cam_c2w": np.zeros((0, 4, 4))}, "no frame"),
        (megasam, {"intrinsic": np.zeros((3, 3))}, "positive focal"),
        (vggt, {"extrinsic": np.zeros((T, 2, 4))}, "extrinsic.*shape"),
        (vggt, {"depth": np.zeros((T, H, W, 2), np.float32)}, "depth.*shape"),
        (depth_anything, {"intrinsics": np.zeros((T + 3, 3, 3))}, "intrinsics.*shape"),
        (tapip3d_input, {"extrinsics": np.full((T, 4, 4), np.nan)}, "NaN"),
    ],
)
def test_wrong_arrays_are_refused_by_file_field_and_expectation(tmp_path, kind, fault, words):
    path = tmp_path / "r.npz"
    np.savez(path, **(kind(SCENE) | fault))
    with pytest.raises(BadFile, match=words) as caught:
        formats.read(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_pickled_npy_files_are_never_opened(tmp_path):
    folder = megasam_folder(tmp_path, SCENE)
    np.save(folder / "poses.npy", np.array([[print] * 7] * T, object), allow_pickle=True)
    with pytest.raises(BadFile, match=r"poses\.npy.*pickled"):
        formats.read(folder)


def small(scene: Scene, kind: str) -> dict[str, np.ndarray]:
    arrays = {"MegaSaM": megasam, "VGGT": vggt, "Depth Anything 3": depth_anything, "TAPIP3D input": tapip3d_input}[
        kind
    ]
    return {key: value for key, value in arrays(scene).items() if key not in ("images", "image")}


def failure_of(path: Path) -> RetakeError | None:
    try:
        solve, _ = formats.read(path)
        fitting.check_convention(solve)
    except RetakeError as error:
        return error
    return None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("kind", ["MegaSaM", "VGGT", "Depth Anything 3", "TAPIP3D input"])
def test_damaged_bytes_and_wild_numbers_give_a_solve_or_a_clear_error(tmp_path, kind, data):
    arrays = {key: np.array(value) for key, value in small(SCENE, kind).items()}
    for key in data.draw(st.lists(st.sampled_from(sorted(arrays)), max_size=3)):
        at = data.draw(st.integers(0, 10**6))
        if arrays[key].dtype.kind == "f":
            wild = data.draw(st.sampled_from([np.nan, np.inf, -1.0, 0.0, 3e38, 1e-30]))
            arrays[key].reshape(-1)[at % arrays[key].size] = wild
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    content = bytearray(stream.getvalue()[: data.draw(st.one_of(st.none(), st.integers(0, len(stream.getvalue()))))])
    places = st.tuples(st.integers(0, max(len(content) - 1, 0)), st.binary(min_size=1, max_size=8))
    for at, patch in data.draw(st.lists(places, max_size=2)):
        content[at : at + len(patch)] = patch
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    error = failure_of(path)
    assert error is None or str(path) in str(error)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["poses.npy", "intrinsics.npy", "disps.npy", "motion_prob.npy"]),
    cut=st.integers(0, 600),
    patch=st.binary(max_size=8),
)
def test_damaged_npy_files_give_a_solve_or_a_clear_error(tmp_path, name, cut, patch):
    folder = megasam_folder(tmp_path, SCENE)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:cut] + patch + (content[cut + len(patch) :] if len(patch) % 2 else b""))
    error = failure_of(folder)
    assert error is None or str(folder) in str(error)


# ---- the real thing: a real solver's poses and depth maps, in other solvers' files ----


@pytest.mark.parametrize("inverted", [False, True])
def test_real_depth_maps_lift_to_points_and_tell_inverted_poses(sample_data, tmp_path, inverted):
    real, _ = formats.read(sample_data / "solves" / "spatialtrackerv2_13f.npz")
    assert real.depth is not None
    stored = np.linalg.inv(real.cameras.c2w) if inverted else real.cameras.c2w
    np.savez(tmp_path / "r.npz", cam_c2w=stored, intrinsic=real.cameras.K, depths=real.depth)
    solve, notes = formats.read(tmp_path / "r.npz")
    np.testing.assert_allclose(solve.cameras.c2w, real.cameras.c2w, atol=1e-6)
    assert any("poses were read as world-to-camera" in note for note in notes) == inverted
    assert len(solve.tracks) > 2000
    found = fitting.reproject(solve)
    assert found.fit.inside > 0.99
    assert found.fit.agreeing is not None
    assert found.fit.agreeing > 0.99


def test_real_tracks_followed_in_2d_come_back_by_the_depth_maps(sample_data):
    """The solver's own 3D points, projected and lifted again: within a few percent of their depth, as its maps are."""
    real, _ = formats.read(sample_data / "solves" / "spatialtrackerv2_13f.npz")
    uv, z = real.cameras.project(real.tracks.positions)
    tracks, _ = lifting.lift(uv, real.tracks.visibility, real.cameras, real.depth)
    away = np.linalg.norm(tracks.positions - real.tracks.positions[:, tracks.ids], axis=-1) / z[:, tracks.ids]
    assert np.median(away[tracks.visibility]) < 0.02
