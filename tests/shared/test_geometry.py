"""Wrong geometry shows as tracks that slide off what they follow: checked against OpenCV, pycolmap, scipy and itself."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from retake_shared import geometry


def vectors(low: float, high: float, *shape: int) -> st.SearchStrategy:
    return hnp.arrays(np.float64, shape, elements=st.floats(low, high, allow_subnormal=False))


@st.composite
def poses(draw: st.DrawFn, count: int = 1) -> np.ndarray:
    """(count, 4, 4) any rotation, half turns included, any place."""
    q = draw(vectors(-1, 1, count, 4))
    q[np.linalg.norm(q, axis=1) < 1e-3] = [0, 1, 0, 0]
    pose = np.tile(np.eye(4), (count, 1, 1))
    pose[:, :3, :3] = geometry.matrix_from_quaternion(q)
    pose[:, :3, 3] = draw(vectors(-50, 50, count, 3))
    return pose


FOCAL = st.floats(50, 3000)
SKEWED_K = st.builds(
    lambda fx, fy, cx, cy, skew: geometry.intrinsics(fx, fy, cx, cy) + skew * np.eye(3)[0][:, None] * np.eye(3)[1],
    FOCAL, FOCAL, st.floats(0, 2000), st.floats(0, 2000), st.floats(-20, 20),
)  # fmt: skip


@given(poses(), SKEWED_K, vectors(0, 2000, 6, 2), vectors(0.05, 100, 6))
def test_project_undoes_unproject(c2w, K, uv, depth):
    points = geometry.unproject(uv, depth, c2w[0], K)
    back, z = geometry.project(points, c2w[0], K)
    np.testing.assert_allclose(z, depth, atol=1e-9)
    np.testing.assert_allclose(back, uv, atol=1e-5)


@given(poses(3))
def test_inverse_of_rigid_motion(c2w):
    np.testing.assert_allclose(geometry.invert_rigid(c2w) @ c2w, np.tile(np.eye(4), (3, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(geometry.invert_rigid(geometry.invert_rigid(c2w)), c2w, atol=1e-9)
    np.testing.assert_allclose(geometry.invert_rigid(c2w), np.linalg.inv(c2w), atol=1e-9)


def test_points_behind_the_camera_are_never_in_the_picture():
    K = geometry.intrinsics(100, 100, 50, 50)
    uv, depth = geometry.project([[0, 0, -1], [0, 0, 0], [0, 0, 1]], np.eye(4), K)
    assert np.isnan(uv[:2]).all()
    assert uv[2].tolist() == [50, 50]
    assert geometry.inside_image(uv, depth, 100, 100).tolist() == [False, False, True]


def test_picture_edges():
    uv = np.array([[0, 0], [99.999, 79.999], [100, 40], [40, 80], [-1e-9, 5]])
    assert geometry.inside_image(uv, np.ones(5), 100, 80).tolist() == [True, True, False, False, False]


def test_projection_broadcasts_over_frames():
    random = np.random.default_rng(0)
    points = random.uniform([-1, -1, 2], [1, 1, 5], (4, 7, 3))
    c2w = np.stack([geometry.look_at([t * 0.1, 0, 0], [0, 0, 3], [0, 1, 0]) for t in range(4)])
    K = geometry.intrinsics(random.uniform(80, 120, 4), 100, 50, 40)
    uv, depth = geometry.project(points, c2w, K)
    for t in range(4):
        one, z = geometry.project(points[t], c2w[t], K[t])
        np.testing.assert_array_equal(uv[t], one)
        np.testing.assert_array_equal(depth[t], z)


def test_projection_agrees_with_opencv():
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(1)
    c2w = geometry.look_at([1, -2, -3], [0.2, 0.1, 4], [0.1, 1, 0])
    K = geometry.intrinsics(410, 380, 333.5, 190.25)
    points = random.uniform([-2, -2, 2], [2, 2, 8], (100, 3))
    w2c = np.linalg.inv(c2w)
    expected, _ = cv2.projectPoints(points, cv2.Rodrigues(w2c[:3, :3])[0], w2c[:3, 3], K, None)
    np.testing.assert_allclose(geometry.project(points, c2w, K)[0], expected[:, 0], atol=1e-9)


PYCOLMAP = """
import json, sys
import numpy as np, pycolmap
data = json.load(sys.stdin)
pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array(data["quaternion_xyzw"])), np.array(data["translation"]))
camera = pycolmap.Camera(model="PINHOLE", width=data["width"], height=data["height"], params=data["params"])
points = np.array([pose * np.array(point) for point in data["points"]])
json.dump(np.array(camera.img_from_cam(points)).tolist(), sys.stdout)
"""


def test_projection_agrees_with_pycolmap():
    if importlib.util.find_spec("pycolmap") is None:
        pytest.skip("pycolmap is not in this environment")
    random = np.random.default_rng(2)
    c2w = geometry.look_at([1, -2, -3], [0.2, 0.1, 4], [0.1, 1, 0])
    w2c = geometry.invert_rigid(c2w)
    points = random.uniform([-2, -2, 2], [2, 2, 8], (50, 3))
    question = {
        "quaternion_xyzw": np.roll(geometry.quaternion_from_matrix(w2c[:3, :3]), -1).tolist(),
        "translation": w2c[:3, 3].tolist(),
        "width": 640, "height": 360, "params": [410, 380, 333.5, 190.25], "points": points.tolist(),
    }  # fmt: skip
    # A process of its own: pycolmap and OpenCV abort when one process loads both.
    answer = subprocess.run(
        [sys.executable, "-c", PYCOLMAP], input=json.dumps(question), capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    uv, _ = geometry.project(points, c2w, geometry.intrinsics(410, 380, 333.5, 190.25))
    np.testing.assert_allclose(uv, json.loads(answer.stdout), atol=1e-9)


def picture_of_blobs(uv: np.ndarray, width: int, height: int) -> np.ndarray:
    """Soft dots centred at uv (N, 2) px, corner of the picture at (0, 0): (N, height, width), one dot each."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    return np.exp(-((x - uv[:, :1, None]) ** 2 + (y[:, None] - uv[:, 1:, None]) ** 2) / (2 * 6.0**2))


def blob_centres(picture: np.ndarray) -> np.ndarray:
    x, y = np.arange(picture.shape[2]) + 0.5, np.arange(picture.shape[1]) + 0.5
    total = picture.sum((1, 2))
    return np.stack([(picture * x).sum((1, 2)), (picture * y[:, None]).sum((1, 2))], 1) / total[:, None]


POINTS = np.array([[-0.2, 0.1, 2.0], [0.3, -0.1, 2.5], [0.0, 0.05, 3.0]])
K_BLOBS = geometry.intrinsics(200, 210, 91, 67)


def test_cropped_intrinsics_fit_a_cropped_picture():
    uv, _ = geometry.project(POINTS, np.eye(4), K_BLOBS)
    cropped = picture_of_blobs(uv, 180, 140)[:, 9:, 14:]
    expected, _ = geometry.project(POINTS, np.eye(4), geometry.crop_intrinsics(K_BLOBS, 14, 9))
    np.testing.assert_allclose(blob_centres(cropped), expected, atol=1e-3)


@pytest.mark.parametrize("size", [(90, 70), (60, 140)])
def test_rescaled_intrinsics_fit_a_resized_picture(size):
    """A pixel-centre convention that is off would show as a quarter of a pixel and more."""
    uv, _ = geometry.project(POINTS, np.eye(4), K_BLOBS)
    picture = picture_of_blobs(uv, 180, 140)
    across, along = 180 // size[0], 140 // size[1]
    resized = picture.reshape(len(uv), size[1], along, size[0], across).mean((2, 4))
    expected, _ = geometry.project(POINTS, np.eye(4), geometry.rescale_intrinsics(K_BLOBS, (180, 140), size))
    np.testing.assert_allclose(blob_centres(resized), expected, atol=1e-3)


@given(poses(5))
def test_quaternions_return_to_their_matrix(c2w):
    q = geometry.quaternion_from_matrix(c2w[:, :3, :3])
    np.testing.assert_allclose(np.linalg.norm(q, axis=1), 1, atol=1e-12)
    assert (q[:, 0] >= 0).all()
    np.testing.assert_allclose(geometry.matrix_from_quaternion(q), c2w[:, :3, :3], atol=1e-9)


def test_rotations_agree_with_scipy():
    transform = pytest.importorskip("scipy.spatial.transform")
    random = np.random.default_rng(3)
    q = random.normal(size=(200, 4))
    q[:4] = np.eye(4)
    q[4:7, 0] = 0  # half turns
    expected = transform.Rotation.from_quat(np.roll(q, -1, 1))
    np.testing.assert_allclose(geometry.matrix_from_quaternion(q), expected.as_matrix(), atol=1e-12)
    back = np.roll(geometry.quaternion_from_matrix(expected.as_matrix()), -1, 1)
    np.testing.assert_allclose(transform.Rotation.from_quat(back).as_matrix(), expected.as_matrix(), atol=1e-12)
    vector = random.normal(size=(50, 3)) * random.uniform(0, 8, (50, 1))
    vector[0] = 0
    expected = transform.Rotation.from_rotvec(vector).as_matrix()
    np.testing.assert_allclose(geometry.rotation_from_vector(vector), expected, atol=1e-12)
    for v in vector[1:5]:
        expected = transform.Rotation.from_rotvec(v).as_matrix()
        np.testing.assert_allclose(geometry.axis_rotation(v, np.linalg.norm(v)), expected, atol=1e-12)
    keys = transform.Rotation.random(2, random)
    expected = transform.Slerp([0, 1], keys)(np.linspace(0, 1, 9)).as_matrix()
    key_poses = np.tile(np.eye(4), (2, 1, 1))
    key_poses[:, :3, :3] = keys.as_matrix()
    got = geometry.interpolate_poses([0, 1], key_poses, np.linspace(0, 1, 9))
    np.testing.assert_allclose(got[:, :3, :3], expected, atol=1e-9)


def test_interpolated_poses_hit_their_keys_and_hold_beyond():
    c2w = np.stack([geometry.look_at([t, 0, 0], [0, 0, 4], [0, 1, 0]) for t in (0.0, 1.0, 3.0)])
    at = geometry.interpolate_poses([2, 4, 8], c2w, [0, 2, 3, 4, 8, 11])
    np.testing.assert_allclose(at[[0, 1, 3, 4, 5]], c2w[[0, 0, 1, 2, 2]], atol=1e-12)
    np.testing.assert_allclose(at[2, :3, 3], (c2w[0, :3, 3] + c2w[1, :3, 3]) / 2)
    np.testing.assert_allclose(geometry.interpolate_poses([5], c2w[:1], [0, 9]), c2w[[0, 0]])


def test_continuous_quaternions_never_jump():
    angle = np.linspace(0, 4 * np.pi, 50)
    q = geometry.quaternion_from_matrix(geometry.axis_rotation([0.2, 1, 0.1], angle))
    smooth = geometry.continuous_quaternions(q)
    assert np.abs(np.diff(q, axis=0)).max() > 1  # what a naive export would key
    assert np.abs(np.diff(smooth, axis=0)).max() < 0.2
    np.testing.assert_allclose(geometry.matrix_from_quaternion(smooth), geometry.matrix_from_quaternion(q), atol=1e-12)


@given(vectors(-10, 10, 3), vectors(-10, 10, 3))
def test_look_at_puts_the_target_on_the_axis(eye, target):
    forward = target - eye
    if np.linalg.norm(np.cross(forward, [0, 1, 0])) < 1e-3:
        return
    c2w = geometry.look_at(eye, target, [0, 1, 0])
    np.testing.assert_allclose(c2w[:3, :3] @ c2w[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(c2w[:3, :3]) > 0
    in_camera = geometry.transform(geometry.invert_rigid(c2w), target[None])[0]
    np.testing.assert_allclose(in_camera, [0, 0, np.linalg.norm(forward)], atol=1e-8)
    assert c2w[1, 1] > 0  # upright
    assert abs(c2w[1, 0]) < 1e-9  # level


def test_sampled_rows():
    rows = np.array([[0.0, 10], [1, 20], [4, 40]])
    got = geometry.sample_rows(rows, [-1, 0, 0.5, 1, 1.25, 2, 7])
    np.testing.assert_allclose(got, [[0, 10], [0, 10], [0.5, 15], [1, 20], [1.75, 25], [4, 40], [4, 40]])
    np.testing.assert_array_equal(geometry.sample_rows(rows, np.arange(3)), rows)
    np.testing.assert_array_equal(geometry.sample_rows(rows[:1], [0, 3]), rows[[0, 0]])
