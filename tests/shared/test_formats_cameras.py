"""Camera paths of other programs: every convention read right, the lens told, times and gaps, damage in words.

A user would get a camera that moves the wrong way, or at the wrong time.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retake_shared import formats
from retake_shared.errors import BadFile, RetakeError
from retake_shared.formats import Hints
from retake_shared.shot import Footage

from tests.shared.made_up_scene import CX, CY, FX, FY, H, Scene, T, W, error_px

SCENE = Scene()
CENTRED = Scene(K=np.array([[FX, 0, W / 2], [0, FX, H / 2], [0, 0, 1.0]]))
"""As the formats without intrinsics can have it."""
FOV = float(np.degrees(2 * np.arctan(W / 2 / FX)))
HINTS = Hints(fov=FOV, size=(W, H))


def quaternions(matrices: np.ndarray) -> np.ndarray:
    """x y z w."""
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    return rotation.from_matrix(matrices[:, :3, :3]).as_quat()


def footage(frames: int = T, fps: Fraction = Fraction(25), name: str = "clip.mp4") -> Footage:
    return Footage(f"/videos/{name}", W, H, fps, frames)


def tum(times: np.ndarray | None = None, scene: Scene = CENTRED) -> str:
    times = np.arange(T) * 0.04 + 1305031098.6659 if times is None else times
    rows = np.concatenate([times[:, None], scene.c2w[:, :3, 3], quaternions(scene.c2w)], 1)
    return "# timestamp tx ty tz qx qy qz qw\n" + "\n".join(" ".join(f"{v:.10f}" for v in row) for row in rows)


def kitti() -> str:
    return "\n".join(" ".join(f"{v:.10e}" for v in pose[:3].ravel()) for pose in CENTRED.c2w)


def euroc() -> str:
    times = 1403636579758555392 + np.arange(T, dtype=np.int64) * 40_000_000
    q = quaternions(CENTRED.c2w)[:, [3, 0, 1, 2]]
    rows = [
        ",".join([str(t), *(f"{v:.10f}" for v in (*pose[:3, 3], *quat))])
        for t, pose, quat in zip(times, CENTRED.c2w, q, strict=True)
    ]
    return "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], ...\n" + "\n".join(rows)


def realestate() -> str:
    lines = ["https://www.youtube.com/watch?v=mGFQkgadzRQ"]
    for t, pose in enumerate(SCENE.w2c):
        values = [FX / W, FY / H, CX / W, CY / H, 0, 0, *pose[:3].ravel()]
        lines.append(f"{123665000 + 40000 * t} " + " ".join(f"{v:.10f}" for v in values))
    return "\n".join(lines)


def to_unreal(vectors: np.ndarray) -> np.ndarray:
    """Right, down, forward -> forward, right, up."""
    return np.stack([vectors[..., 2], vectors[..., 0], -vectors[..., 1]], -1)


def recammaster() -> str:
    content: dict[str, dict[str, str]] = {}
    for t, pose in enumerate(CENTRED.c2w):
        right, down, forward = pose[:3, :3].T
        rows = [*(to_unreal(axis) for axis in (forward, right, -down)), to_unreal(pose[:3, 3]) * 100]
        text = " ".join(f"[{' '.join(f'{v:.10g}' for v in row)} {int(i == 3)}]" for i, row in enumerate(rows)) + " "
        content[f"frame{t}"] = {"cam01": "[1 0 0 0] [-0 1 0 0] [0 -0 1 0] [3390 1380 240 1] ", "cam07": text}
    return json.dumps(content)


def nerfstudio(**changes: object) -> str:
    gl = SCENE.c2w @ np.diag([1.0, -1, -1, 1])
    frames = [{"file_path": f"images/frame_{t + 1:05d}.png", "transform_matrix": gl[t].tolist()} for t in range(T)]
    content = {"fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, "w": W, "h": H, "frames": frames[::-1]}
    return json.dumps({key: value for key, value in (content | changes).items() if value is not None})


def failure_of(path: Path, clip: Footage | None) -> RetakeError | None:
    try:
        formats.read(path, clip)
    except RetakeError as error:
        return error
    return None


TEXTS = {
    "TUM trajectory": ("trajectory.txt", tum, CENTRED),
    "KITTI trajectory": ("00.txt", kitti, CENTRED),
    "EuRoC trajectory": ("data.csv", euroc, CENTRED),
    "RealEstate10K": ("4a2d6753676df096.txt", realestate, SCENE),
    "ReCamMaster": ("camera_extrinsics.json", recammaster, CENTRED),
    "nerfstudio / instant-ngp": ("transforms.json", nerfstudio, SCENE),
}


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, "utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize("solver", TEXTS)
def test_every_convention_projects_like_the_path_it_was_written_from(write, solver):
    name, make, scene = TEXTS[solver]
    path = write(name, make())
    assert formats.detect(path) == solver
    solve, notes = formats.read(path, None, Hints(fov=FOV, size=(W, H), camera="cam07" * (solver == "ReCamMaster")))
    assert (len(solve), solve.cameras.width, solve.cameras.height) == (T, W, H)
    assert error_px(scene, solve.cameras) < 1e-4
    assert len(solve.tracks) == 0
    assert any("objects cannot" in note for note in notes)
    assert "poses read as" in solve.source


def test_lyra_projects_like_the_path_it_was_written_from(tmp_path):
    path = tmp_path / "trajectory.npz"
    sizes = {"image_height": np.int64(H), "image_width": np.int64(W)}
    np.savez(path, w2c=SCENE.w2c, intrinsics=np.tile(SCENE.K, (T, 1, 1)), **sizes)
    assert formats.detect(path) == "Lyra"
    solve, _ = formats.read(path)
    assert (solve.cameras.width, solve.cameras.height) == (W, H)
    assert error_px(SCENE, solve.cameras) < 1e-4
    np.savez(path, w2c=SCENE.w2c, intrinsics=np.tile(SCENE.K, (T, 1, 1)))
    solve, notes = formats.read(path)
    assert (solve.cameras.width, solve.cameras.height) == (100, 60)  # twice the principal point, and told
    assert any("twice the principal point" in note for note in notes)


def test_a_lens_that_the_file_does_not_tell_is_assumed_aloud_or_given(write):
    path = write("poses.txt", kitti())
    solve, notes = formats.read(path, footage())
    assert (solve.cameras.width, solve.cameras.height) == (W, H)
    assert solve.cameras.K[0, 0, 0] == pytest.approx(W / 2 / np.tan(np.radians(25)))
    assert any("50 degrees" in note and "--fov" in note for note in notes)
    solve, notes = formats.read(path, footage(), Hints(fov=90))
    assert solve.cameras.K[0, 0, 0] == pytest.approx(W / 2)
    assert any("90 degrees, as given" in note for note in notes)
    _, notes = formats.read(path)
    assert any("1280x720 is assumed" in note for note in notes)
    with pytest.raises(RetakeError, match=r"0\.1 to 170"):
        Hints(fov=180)


def test_times_tell_the_frames_where_poses_are_not_one_a_frame(write):
    """Ground truth at 100 Hz for a clip of 25 frames a second: a pose for every frame's time, not every row a frame."""
    fine = np.arange(4 * T - 3) / 100
    dense = Scene(c2w=CENTRED.c2w[np.minimum(np.rint(fine * 25).astype(int), T - 1)], K=CENTRED.K)
    solve, notes = formats.read(write("a.txt", tum(1e9 + fine, dense)), footage(), HINTS)
    assert len(solve) == T
    np.testing.assert_allclose(solve.cameras.c2w[:, :3, 3], CENTRED.c2w[:, :3, 3], atol=1e-5)
    assert any("100 a second" in note and "25 frames" in note for note in notes)
    solve, _ = formats.read(write("a.txt", tum(1e9 + fine, dense)), footage(5), HINTS)
    assert len(solve) == 5  # a path that goes on after the clip's end
    # As many poses as frames are the frames, whatever the times say.
    solve, notes = formats.read(write("b.txt", tum(1e9 + np.arange(T) * 0.5)), footage(), HINTS)
    assert error_px(CENTRED, solve.cameras) < 1e-4
    assert not any("a second" in note for note in notes)


@pytest.mark.parametrize("times", [np.arange(T), 7e8 + np.arange(T) * 0.04])
def test_frames_without_a_pose_are_interpolated_and_named(write, times):
    kept = np.array([0, 1, 2, 4, 5, 8])
    some = Scene(c2w=CENTRED.c2w[kept], K=CENTRED.K)
    solve, notes = formats.read(write("kf.txt", tum(times[kept], some)), None, HINTS)
    assert len(solve) == T
    np.testing.assert_allclose(solve.cameras.c2w[kept], CENTRED.c2w[kept], atol=1e-5)
    middle = (CENTRED.c2w[2, :3, 3] + CENTRED.c2w[4, :3, 3]) / 2
    np.testing.assert_allclose(solve.cameras.c2w[3, :3, 3], middle, atol=1e-5)
    assert any("frames 3, 6-7" in note for note in notes)


@pytest.mark.parametrize(("first", "frames"), [(3, 40), (3, 11), (0, 40), (1, 40)])
def test_frame_numbers_count_from_the_footages_first_frame(write, first, frames):
    """A tracker that needed three frames to start: its first pose is not the first frame's."""
    solve, notes = formats.read(write("a.txt", tum(np.arange(T) + first * 1.0)), footage(frames), HINTS)
    start = 2 if (first, frames) == (3, 11) else first if first > 1 else 0
    assert len(solve) == T + start
    assert error_px(CENTRED, replace(solve.cameras, c2w=solve.cameras.c2w[start:], K=solve.cameras.K[start:])) < 1e-4
    np.testing.assert_allclose(solve.cameras.c2w[0], CENTRED.c2w[0], atol=1e-6)
    assert any("No pose for frames 0-" in note for note in notes) == bool(start)


def test_rows_in_disorder_are_put_in_order_of_time(write):
    order = np.random.default_rng(0).permutation(T)
    shuffled = Scene(c2w=CENTRED.c2w[order], K=CENTRED.K)
    solve, _ = formats.read(write("s.txt", tum(order * 0.04, shuffled)), None, HINTS)
    assert error_px(CENTRED, solve.cameras) < 1e-4


def test_one_of_several_cameras_is_the_named_one_or_the_footages_else_the_first_and_told(write):
    path = write("camera_extrinsics.json", recammaster())
    solve, notes = formats.read(path, footage(name="cam07.mp4"), HINTS)
    assert error_px(CENTRED, solve.cameras) < 1e-4
    assert not any("cam01" in note for note in notes)
    solve, notes = formats.read(path, None, HINTS)
    np.testing.assert_allclose(solve.cameras.c2w[3, :3, 3], [13.8, -2.4, 33.9])
    assert any("cam01, cam07" in note for note in notes)
    with pytest.raises(BadFile, match="cam01, cam07"):
        formats.read(path, None, Hints(camera="cam11"))


def test_transforms_json_has_lenses_of_every_kind(write):
    only_angle = dict.fromkeys(("fl_x", "fl_y", "cx", "cy")) | {"camera_angle_x": 2 * np.arctan(W / 2 / FX)}
    solve, _ = formats.read(write("transforms.json", nerfstudio(**only_angle)))
    assert error_px(CENTRED, solve.cameras) < 1e-4
    frames = json.loads(nerfstudio())["frames"]
    for t, frame in enumerate(frames):
        frame |= {"fl_x": 50.0 + t, "fl_y": 60.0, "cx": 48.0, "cy": 32.0, "w": W, "h": H}
    text = json.dumps({"frames": frames})
    solve, _ = formats.read(write("transforms.json", text))
    np.testing.assert_allclose(solve.cameras.K[:, 0, 0], 50.0 + np.arange(T)[::-1])  # frames come in name order
    _, notes = formats.read(write("transforms.json", nerfstudio(k1=0.1, camera_model="OPENCV")))
    assert any("bends the picture" in note for note in notes)
    frames = json.loads(nerfstudio())["frames"]
    del frames[4]
    solve, notes = formats.read(write("transforms.json", nerfstudio(frames=frames)))
    assert len(solve) == T
    assert any("frame 4" in note for note in notes)
    with pytest.raises(BadFile, match="panorama"):
        formats.read(write("transforms.json", nerfstudio(camera_model="EQUIRECTANGULAR")))


def _ply(points: np.ndarray, kind: str) -> bytes:
    head = f"ply\nformat {kind} 1.0\nelement vertex {len(points)}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "property uchar red\nend_header\n"
    if kind == "ascii":
        return (head + "".join(f"{x:.9g} {y:.9g} {z:.9g} 7\n" for x, y, z in points)).encode()
    order = "<" if "little" in kind else ">"
    rows = np.zeros(len(points), [(axis, order + "f4") for axis in "xyz"] + [("red", "u1")])
    rows["x"], rows["y"], rows["z"] = points.T
    return head.encode() + rows.tobytes()


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_nerfstudios_points_become_tracks(write, tmp_path, kind):
    path = write("transforms.json", nerfstudio(ply_file_path="sparse_pc.ply"))
    _, notes = formats.read(path)
    assert any("not beside the file" in note for note in notes)
    content = _ply(SCENE.points(), kind)
    (tmp_path / "sparse_pc.ply").write_bytes(content)
    solve, notes = formats.read(path)
    np.testing.assert_allclose(solve.tracks.positions[3], SCENE.points(), rtol=1e-6)
    uv = SCENE.project(SCENE.points())
    np.testing.assert_array_equal(solve.tracks.visibility, ((uv >= 0) & (uv < [W, H])).all(-1))
    assert any("60 of 60 points" in note for note in notes)
    for damaged in (content[:-9], content[:40], b"", content.replace(b"vertex 60", b"vertex 99999999"), content.replace(b"float x", b"float q")):  # fmt: skip
        (tmp_path / "sparse_pc.ply").write_bytes(damaged)
        with pytest.raises(BadFile, match=r"sparse_pc\.ply"):
            formats.read(path)
    _, notes = formats.read(write("transforms.json", nerfstudio(ply_file_path="../../etc/passwd")))
    assert any("not beside the file" in note for note in notes)


def test_a_folder_with_a_transforms_file_is_enough(write, tmp_path):
    write("transforms.json", nerfstudio())
    assert formats.detect(tmp_path) == "nerfstudio / instant-ngp"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", tum().replace("\n", "\n1 2 3 0 0 0 0 9\n", 3), "quaternion|numbers|no solve"),
        ("a.txt", tum() + "\n1 2 3", "line 11.*8 numbers"),
        ("a.txt", kitti() + "\n" + " ".join("1" * 12), "frame 9"),
        ("a.txt", kitti() + "\n" + " ".join(["nan"] * 11 + ["x"]), "line 10.*12 numbers"),
        ("r.json", recammaster().replace('"frame3"', '"shot3"'), "shot3"),
        ("r.json", recammaster().replace("[3390 1380 240 1]", "[3390 1380 1]", 1), "frame0.cam01.*16 numbers"),
        ("t.json", nerfstudio(fl_x="wide"), "fl_x.*number"),
        ("t.json", nerfstudio(w=0), "w, h"),
        ("t.json", nerfstudio(frames=[{"transform_matrix": [[1, 2], [3]]}]), r"frames\[0\].*4x4"),
        ("t.json", "{not json", "not JSON"),
        ("t.json", "{}", "no solve that Retake reads"),
        ("t.txt", "some words\nof a letter\n", "no solve that Retake reads"),
    ],
)
def test_what_is_wrong_is_named_by_file_place_and_remedy(write, name, text, words):
    path = write(name, text)
    with pytest.raises(BadFile, match=words) as caught:
        formats.read(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("solver", TEXTS)
def test_damaged_text_gives_a_solve_or_a_clear_error(tmp_path, solver, data):
    name, make, _ = TEXTS[solver]
    content = bytearray(make().encode())
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    content = content[:cut]
    patch = st.tuples(st.integers(0, max(len(content) - 1, 0)), st.one_of(
        st.binary(min_size=1, max_size=6), st.sampled_from([b"nan", b"1e400", b"-", b"{", b"]", b"\n", b"null", b"99999999999"])
    ))  # fmt: skip
    for at, new in data.draw(st.lists(patch, max_size=4)):
        content[at : at + len(new)] = new
    path = tmp_path / name
    path.write_bytes(content)
    error = failure_of(path, data.draw(st.sampled_from([None, footage(), footage(400)])))
    assert error is None or str(path) in str(error)


# ---- the real thing ----


@pytest.mark.parametrize(
    ("name", "solver", "frames"),
    [
        ("tum_freiburg1_xyz.txt", "TUM trajectory", 3000),
        ("kitti_00.txt", "KITTI trajectory", 4541),
        ("realestate10k_4a2d6753676df096.txt", "RealEstate10K", 16),
        ("recammaster_camera_extrinsics.json", "ReCamMaster", 81),
        ("lyra_trajectory.npz", "Lyra", 500),
    ],
)
def test_real_files(sample_data, name, solver, frames):
    path = sample_data / "solves" / "trajectories" / name
    assert formats.detect(path) == solver
    solve, notes = formats.read(path)
    assert len(solve) == frames
    assert notes


def test_real_paths_move_as_their_scenes_do(sample_data):
    """KITTI's car drives along its own view; ReCamMaster's cam01 pans right and cam07 rises; Lyra's first pose is the origin."""
    folder = sample_data / "solves" / "trajectories"
    car = formats.read(folder / "kitti_00.txt")[0].cameras.c2w
    step = np.diff(car[:, :3, 3], axis=0)
    along = np.einsum("ti,ti->t", step, car[:-1, :3, 2]) / np.maximum(np.linalg.norm(step, axis=1), 1e-9)
    assert np.median(along) > 0.99
    pan = formats.read(folder / "recammaster_camera_extrinsics.json", None, Hints(camera="cam01"))[0].cameras.c2w
    assert (pan[0, :3, :3].T @ pan[40, :3, 2])[0] > 0.1  # the view has turned towards the first frame's right
    rise = formats.read(folder / "recammaster_camera_extrinsics.json", None, Hints(camera="cam07"))[0].cameras.c2w
    moved = rise[0, :3, :3].T @ (rise[80, :3, 3] - rise[0, :3, 3])
    assert moved[1] < -0.2  # up is -y, metres
    lyra = formats.read(folder / "lyra_trajectory.npz")[0]
    assert (lyra.cameras.width, lyra.cameras.height) == (1280, 720)
    assert np.abs(lyra.cameras.c2w[0] - np.eye(4)).max() < 1e-3
