"""SpatialTrackerV2 and TAPIP3D files: read right, told apart, mended or refused. The user would lose a whole solve."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retake_shared import archive, fitting, formats, geometry
from retake_shared.errors import BadFile, RetakeError
from retake_shared.shot import Cameras, Solve, Tracks

T, N, W, H = 7, 40, 336, 190


def world(seed: int = 0) -> dict[str, np.ndarray]:
    """Points that a walking, turning camera sees, in TAPIP3D's and SpatialTrackerV2's common layout (w2c)."""
    rng = np.random.default_rng(seed)
    time_ = np.arange(T) / T
    c2w = np.tile(np.eye(4), (T, 1, 1))
    c2w[:, :3, :3] = geometry.axis_rotation((0.2, 1.0, 0.1), 2.0 + 0.5 * time_)
    c2w[:, :3, 3] = np.stack([5 + time_, 0.1 * time_, -3 + 2 * time_], -1)
    K = geometry.intrinsics(300 + 20 * time_, 310 + 20 * time_, W / 2, H / 2)
    uv = rng.uniform((20, 20), (W - 20, H - 20), (N, 2))
    start = geometry.unproject(uv, rng.uniform(8, 12, N), c2w[3], K[3])
    coords = start[None] + 0.05 * time_[:, None, None] * rng.normal(size=(1, N, 3))
    return {
        "coords": coords.astype(np.float32),
        "extrinsics": geometry.invert_rigid(c2w).astype(np.float32),
        "intrinsics": K.astype(np.float32),
        "c2w": c2w,
    }


def tapip3d(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    arrays = world()
    del arrays["c2w"]
    rng = np.random.default_rng(1)
    arrays["video"] = np.zeros((T, 3, H, W), np.float32)
    arrays["depths"] = np.full((T, H, W), 0, np.float32)
    arrays["visibs"] = rng.random((T, N)) > 0.2
    arrays["query_points"] = np.concatenate([np.zeros((N, 1)), arrays["coords"][0]], 1).astype(np.float32)
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def spatialtracker(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    arrays = tapip3d(query_points=None)
    arrays["visibs"] = np.where(arrays["visibs"], 1.1, 0.3).astype(np.float32)[..., None]
    arrays["unc_metric"] = np.ones((T, H, W), np.float32)
    return {key: value for key, value in (arrays | changes).items() if value is not None}


@pytest.fixture
def save(tmp_path: Path):
    def save(arrays: dict[str, np.ndarray], name: str = "result.npz") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
        return path

    return save


def test_tapip3d_is_read_as_it_is_written(save):
    path = save(tapip3d())
    assert formats.detect(path) == "TAPIP3D"
    solve, notes = formats.read(path)
    expected = world()
    assert notes == []
    assert (solve.cameras.width, solve.cameras.height) == (W, H)
    np.testing.assert_allclose(solve.cameras.c2w, expected["c2w"], atol=1e-6)
    np.testing.assert_array_equal(solve.cameras.K, expected["intrinsics"].astype(float))
    np.testing.assert_array_equal(solve.tracks.positions, expected["coords"].astype(float))
    np.testing.assert_array_equal(solve.tracks.visibility, tapip3d()["visibs"])
    assert solve.source.startswith("TAPIP3D, poses read as world-to-camera")


def test_spatialtracker_is_told_from_tapip3d_by_its_visibility_and_cut_above_half(save):
    visibs = np.full((T, N, 1), 1.0, np.float32)
    visibs[2, 3], visibs[2, 4] = 0.5, 0.51
    path = save(spatialtracker(visibs=visibs, query_points=np.zeros((N, 3))), "anything.npz")
    assert formats.detect(path) == "SpatialTrackerV2"
    solve, _ = formats.read(path)
    assert not solve.tracks.visibility[2, 3]
    assert solve.tracks.visibility[2, 4]
    assert solve.tracks.confidence[0, 0] == pytest.approx(0.8)
    assert solve.depth is not None
    assert solve.depth.shape == (T, H, W)


@pytest.mark.parametrize("video", [(T, 3, H, W), (T, H, W, 3)])
def test_picture_size_comes_from_the_video_in_either_layout(save, video):
    solve, _ = formats.read(save(tapip3d(video=np.zeros(video, np.uint8), depths=None)))
    assert (solve.cameras.width, solve.cameras.height) == (W, H)


def test_poses_stored_the_other_way_round_are_noticed_used_and_said(save):
    stored = geometry.invert_rigid(world()["extrinsics"]).astype(np.float32)
    solve, notes = formats.read(save(tapip3d(extrinsics=stored)))
    np.testing.assert_allclose(solve.cameras.c2w, world()["c2w"], atol=1e-5)
    assert any("camera-to-world" in note and "%" in note for note in notes)
    flip = np.diag([1.0, -1, -1, 1])
    solve, notes = formats.read(save(tapip3d(extrinsics=(world()["c2w"] @ flip).astype(np.float32))))
    np.testing.assert_allclose(solve.cameras.c2w, world()["c2w"], atol=1e-5)
    assert any("OpenGL" in note for note in notes)


def test_depth_maps_settle_a_convention_that_the_frame_alone_cannot(save):
    """A camera that only moves along its view: points stay inside the frame under both readings."""
    rng = np.random.default_rng(0)
    c2w = np.tile(np.eye(4), (T, 1, 1))
    c2w[:, 2, 3] = np.linspace(0, 3, T)
    coords = np.tile(rng.uniform((-1, -0.5, 10), (1, 0.5, 10.1), (N, 3)), (T, 1, 1)).astype(np.float32)
    depths = np.ones((T, H, W), np.float32) * (10 - c2w[:, 2, 3])[:, None, None].astype(np.float32)
    arrays = tapip3d(coords=coords, depths=depths, extrinsics=c2w.astype(np.float32))  # declared w2c, stored c2w
    solve, notes = formats.read(save(arrays))
    np.testing.assert_allclose(solve.cameras.c2w, c2w, atol=1e-6)
    assert notes


def test_one_intrinsics_matrix_and_3x4_poses_are_accepted(save):
    arrays = tapip3d()
    path = save(tapip3d(intrinsics=arrays["intrinsics"][3], extrinsics=arrays["extrinsics"][:, :3]))
    solve, _ = formats.read(path)
    assert solve.cameras.K.shape == (T, 3, 3)
    np.testing.assert_allclose(solve.cameras.c2w, world()["c2w"], atol=1e-6)


def test_segments_become_named_objects(save):
    segments = np.arange(N) % 3
    solve, _ = formats.read(save(tapip3d(segments=segments)))
    assert solve.object_names == {0: "background", 1: "object 1", 2: "object 2"}
    np.testing.assert_array_equal(solve.tracks.objects, segments)
    for names in (
        np.array(["background", "man", "ball"]),
        np.array(["man", "ball"]),
        np.array(json.dumps({"1": "man", "2": "ball"})),
        np.array(json.dumps(["man", "ball"])),
    ):
        solve, _ = formats.read(save(tapip3d(segments=segments, segment_names=names)))
        assert solve.object_names == {0: "background", 1: "man", 2: "ball"}
    solve, _ = formats.read(save(tapip3d(segments=segments, segment_names=np.array(["person", "person"]))))
    assert list(solve.object_names.values()) == ["background", "person", "person 2"]
    with pytest.raises(BadFile, match="segment_names"):
        formats.read(save(tapip3d(segments=segments, segment_names=np.array("{not json"))))


def test_nan_points_are_held_hidden_and_told(save):
    arrays = tapip3d(visibs=np.ones((T, N), bool))
    arrays["coords"][2:4, 5] = np.nan
    arrays["coords"][:, 6] = np.nan
    solve, notes = formats.read(save(arrays))
    assert len(solve.tracks) == N - 1
    assert 6 not in solve.tracks.ids
    assert not solve.tracks.visibility[2:4, 5].any()
    c = arrays["coords"][:, 5].astype(float)
    np.testing.assert_allclose(solve.tracks.positions[2, 5], c[1] + (c[4] - c[1]) / 3, rtol=1e-6)
    assert any("1 of 40 tracks are NaN at every frame" in note for note in notes)
    assert any("1 of 40 tracks are NaN at some frames" in note for note in notes)
    arrays["coords"][:] = np.nan
    with pytest.raises(BadFile, match="all 40 tracks"):
        formats.read(save(arrays))


def test_nan_cameras_are_interpolated_or_refused_by_name(save):
    arrays = tapip3d()
    arrays["extrinsics"][3] = np.nan
    arrays["intrinsics"][4, 0, 0] = np.inf
    solve, notes = formats.read(save(arrays))
    assert any("poses of frame 3 " in note for note in notes)
    assert any("intrinsics of frame 4 " in note for note in notes)
    np.testing.assert_allclose(solve.cameras.c2w[3], world()["c2w"][3], atol=1e-2)
    arrays["extrinsics"][1:6] = np.nan
    with pytest.raises(BadFile, match="frames 1-5"):
        formats.read(save(arrays))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"extrinsics": np.tile(np.eye(4) * 2, (T, 1, 1))}, "extrinsics"),
        ({"extrinsics": np.tile(np.diag([1.0, 1, -1, 1]), (T, 1, 1))}, "mirrored"),
        ({"extrinsics": np.tile(np.eye(4), (T + 1, 1, 1))}, "extrinsics.*shape"),
        ({"intrinsics": np.tile(np.eye(4), (T, 1, 1))}, "intrinsics.*shape"),
        ({"intrinsics": np.zeros((T, 3, 3))}, "positive focal"),
        ({"visibs": np.ones((T, N + 1), bool)}, "visibs.*shape"),
        ({"coords": np.zeros((0, N, 3), np.float32)}, "no frame"),
        ({"coords": np.zeros((T, N, 3), np.int32)}, "type int32"),
        ({"depths": np.zeros((T, 4, H, W), np.float32)}, "depths.*shape"),
        ({"segments": np.full(N, -1)}, "segments"),
        ({"segments": np.zeros(N + 2, int)}, "segments.*shape"),
    ],
)
def test_wrong_arrays_are_refused_by_file_field_and_expectation(save, fault, words):
    path = save(tapip3d(**fault))
    with pytest.raises(BadFile, match=words) as caught:
        formats.read(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_points_behind_the_camera_are_hidden_and_told(save):
    arrays = tapip3d(visibs=np.ones((T, N), bool))
    behind = world()["c2w"][2] @ np.array([0, 0, -5, 1.0])
    arrays["coords"][2, 7] = behind[:3]
    solve, notes = formats.read(save(arrays))
    assert not solve.tracks.visibility[2, 7]
    assert any("1 track points of 1 tracks" in note and "behind" in note for note in notes)


def test_one_frame_and_zero_tracks_are_solves(save):
    one = {k: v[:1] for k, v in tapip3d().items() if k != "query_points"}
    solve, _ = formats.read(save(one))
    assert len(solve) == 1
    none = tapip3d(coords=np.zeros((T, 0, 3), np.float32), visibs=np.zeros((T, 0), bool), query_points=np.zeros((0, 4)))
    solve, notes = formats.read(save(none))
    assert len(solve.tracks) == 0
    assert any("no tracks" in note for note in notes)
    assert "no tracks" in fitting.check_convention(solve)


def test_paths_with_spaces_and_any_script_work(save):
    path = save(tapip3d(), "Aufnahme 1 – 日本語/résultat final.npz")
    assert formats.read(str(path))[0].source.startswith("TAPIP3D")


def test_our_own_archive_is_recognised_and_an_edit_is_refused(save, tmp_path):
    solve, _ = formats.read(save(tapip3d()))
    archive.save(tmp_path / "solve.npz", solve)
    assert formats.detect(tmp_path / "solve.npz") == "Retake"
    again, notes = formats.read(tmp_path / "solve.npz")
    assert notes == []
    np.testing.assert_array_equal(again.tracks.positions, solve.tracks.positions)


def test_a_stranger_is_refused_with_what_was_looked_for_and_found(save, tmp_path):
    path = save({"w2c": np.zeros((3, 4, 4)), "image_width": np.array(640)})
    with pytest.raises(BadFile) as caught:
        formats.detect(path)
    for word in ("w2c 3x4x4", "image_width scalar", "SpatialTrackerV2", "TAPIP3D", "ViPE", "COLMAP", "coords"):
        assert word in str(caught.value)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").write_text("hello")
    with pytest.raises(BadFile, match=r"a folder with note\.txt"):
        formats.detect(tmp_path / "folder")
    with pytest.raises(BadFile, match="does not exist"):
        formats.read(tmp_path / "absent.npz")
    (tmp_path / "empty.npz").touch()
    with pytest.raises(BadFile, match="0 bytes"):
        formats.read(tmp_path / "empty.npz")


def test_pickled_arrays_are_never_opened(tmp_path):
    path = tmp_path / "evil.npz"
    arrays = tapip3d(visibs=None)
    np.savez(path, **arrays, visibs=np.array([[print] * N] * T, object))
    with pytest.raises(BadFile):
        formats.read(path)
    with zipfile.ZipFile(path, "w") as file:
        for key, value in tapip3d().items():
            stream = io.BytesIO()
            if key == "coords":  # the header alone says what it is; nothing may look further
                np.lib.format.write_array_header_1_0(
                    stream, {"descr": "|O", "fortran_order": False, "shape": (T, N, 3)}
                )
                stream.write(b"cos\nsystem\n(S'false'\ntR.")
            else:
                np.save(stream, value)
            file.writestr(f"{key}.npy", stream.getvalue())
    with pytest.raises(BadFile, match="pickled"):
        formats.read(path)


def test_a_claim_larger_than_the_file_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for key, value in tapip3d().items():
            stream = io.BytesIO()
            np.save(stream, value)
            if key == "coords":
                stream = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    stream, {"descr": "<f4", "fortran_order": False, "shape": (T, 40_000_000, 3)}
                )
                stream.write(bytes(1000))
            file.writestr(f"{key}.npy", stream.getvalue())
    tracemalloc.start()
    with pytest.raises(BadFile, match="claims"):
        formats.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def failure_of(path: Path) -> RetakeError | None:
    try:
        solve, _ = formats.read(path)
        fitting.check_convention(solve)
    except RetakeError as error:
        return error
    return None


SMALL = io.BytesIO()
_small = tapip3d(video=None, depths=np.ones((T, 4, 6), np.float32))
np.savez_compressed(SMALL, **_small)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.one_of(st.none(), st.integers(0, len(SMALL.getvalue()))),
    patches=st.lists(
        st.tuples(st.integers(0, len(SMALL.getvalue()) - 1), st.binary(min_size=1, max_size=8)), max_size=4
    ),
)
def test_damaged_bytes_give_a_solve_or_a_clear_error_quickly(tmp_path, cut, patches):
    data = bytearray(SMALL.getvalue()[:cut])
    for at, patch in patches:
        data[at : at + len(patch)] = patch[: max(len(data) - at, 0)]
    path = tmp_path / "damaged.npz"
    path.write_bytes(data)
    start = time.perf_counter()
    error = failure_of(path)
    assert error is None or str(path) in str(error)
    assert time.perf_counter() - start < 5


VALUES = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30, 3e38, 1e-30])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(["coords", "extrinsics", "intrinsics", "depths"]),
    where=st.lists(st.tuples(st.integers(0, 10**6), VALUES), min_size=1, max_size=30),
)
def test_wild_numbers_give_a_solve_or_a_clear_error(tmp_path, key, where):
    arrays = {k: np.array(v) for k, v in _small.items()}
    for at, value in where:
        arrays[key].reshape(-1)[at % arrays[key].size] = value
    path = tmp_path / "wild.npz"
    np.savez(path, **arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = failure_of(path)
    assert error is None or str(path) in str(error)


# ---- the real thing ----


def test_real_spatialtracker_file(sample_data):
    path = sample_data / "solves" / "spatialtrackerv2_13f.npz"
    assert formats.detect(path) == "SpatialTrackerV2"
    solve, notes = formats.read(path)
    assert solve.tracks.positions.shape == (13, 52, 3)
    assert (solve.cameras.width, solve.cameras.height) == (256, 192)
    assert solve.cameras.K[0, 0, 0] != solve.cameras.K[-1, 0, 0]  # K is animated
    assert any("visibs" in note for note in notes)
    result = fitting.reproject(solve)
    assert result.fit.inside == 1.0
    assert result.fit.agreeing > 0.9
    assert result.other == ""


def test_real_spatialtracker_file_with_inverted_poses_is_still_read_right(sample_data, tmp_path):
    with np.load(sample_data / "solves" / "spatialtrackerv2_13f.npz") as file:
        arrays = {key: file[key] for key in file.files if key != "meta_json"}
    right, _ = formats.read(sample_data / "solves" / "spatialtrackerv2_13f.npz")
    arrays["extrinsics"] = arrays["inv_extrinsics"]
    arrays["visibs"] = np.ones((13, 52, 1), np.float32)
    np.savez(tmp_path / "swapped.npz", **arrays)
    solve, notes = formats.read(tmp_path / "swapped.npz")
    np.testing.assert_allclose(solve.cameras.c2w, right.cameras.c2w, atol=1e-5)
    assert any("camera-to-world" in note for note in notes)


def test_real_juggle_solve(sample_data):
    path = sample_data / "solves" / "juggle_planar.npz"
    assert formats.detect(path) == "TAPIP3D"
    start = time.perf_counter()
    solve, _ = formats.read(path)
    assert time.perf_counter() - start < 2
    assert solve.tracks.positions.shape == (81, 2669, 3)
    assert (solve.cameras.width, solve.cameras.height) == (672, 378)
    assert np.bincount(solve.tracks.objects).tolist() == [1481, 1144, 44]
    assert fitting.reproject(solve).fit.inside > 0.99
    # The file's own queries (t, x, y; whole numbers at pixel centres) are where the tracks were picked.
    with np.load(path) as file:
        queries = file["query_points"]
    uv, _ = solve.cameras.project(solve.tracks.positions)
    picked = uv[queries[:, 0].astype(int), np.arange(len(queries))]
    assert np.median(np.linalg.norm(picked - (queries[:, 1:] + 0.5), axis=1)) < 0.01


def test_convention_line_doubts_a_solve_whose_poses_are_inverted():
    arrays = world()
    tracks = Tracks.make(arrays["coords"])
    cameras = Cameras(arrays["c2w"], arrays["intrinsics"], W, H)
    assert "96.4%" in fitting.check_convention(Solve(cameras, tracks, source="TAPIP3D, poses read as world-to-camera"))
    inverted = Cameras(geometry.invert_rigid(arrays["c2w"]), arrays["intrinsics"], W, H)
    assert "inverted it would be 96.4%" in fitting.check_convention(Solve(inverted, tracks))
    flipped = Cameras(arrays["c2w"] @ np.diag([1.0, -1, -1, 1]), arrays["intrinsics"], W, H)
    assert "OpenGL axes it would be 96.4%" in fitting.check_convention(Solve(flipped, tracks))
