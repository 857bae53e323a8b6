"""COLMAP models: every form and camera model, compared with pycolmap; frames in order, gaps told."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
import time
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retake_shared import fitting, formats, geometry
from retake_shared.errors import BadFile, RetakeError
from retake_shared.formats import colmap, colmap_model
from retake_shared.formats.colmap_cameras import MODELS, ModelCamera
from retake_shared.shot import Footage

# In a process of its own: pycolmap and cv2 or av in one process abort it.
REFERENCE = """
import json, sys, numpy as np, pycolmap
model = pycolmap.Reconstruction(sys.argv[1])
images = sorted(model.images.values(), key=lambda image: image.name)
points = sorted(model.points3D)
json.dump({
    "names": [image.name for image in images],
    "w2c": [image.cam_from_world().matrix().tolist() for image in images],
    "K": [image.camera.calibration_matrix().tolist() for image in images],
    "ids": points,
    "xyz": [model.points3D[i].xyz.tolist() for i in points],
    "seen": [sorted({p.point3D_id for p in image.points2D if p.has_point3D()}) for image in images],
    "error": float(np.mean([
        np.linalg.norm(image.project_point(model.points3D[p.point3D_id].xyz) - p.xy)
        for image in images for p in image.points2D if p.has_point3D()])),
}, open(sys.argv[2], "w"))
"""

needs_pycolmap = pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="needs pycolmap as reference")


def reference(folder: Path, tmp_path: Path) -> dict:
    out = tmp_path / "reference.json"
    subprocess.run([sys.executable, "-c", REFERENCE, str(folder), str(out)], check=True, capture_output=True)
    return json.loads(out.read_text())


@needs_pycolmap
@pytest.mark.parametrize(
    ("name", "frames", "count", "error"),
    [
        ("colmap_apple/sparse_bin", 50, 6472, 0.36),
        ("colmap_apple/sparse_txt", 50, 6472, 0.36),
        ("colmap_castle_bin", 11, 7862, 0.63),
        ("colmap_castle_txt", 11, 7862, 0.63),
    ],
)
def test_real_models_agree_with_pycolmap(sample_data, tmp_path, name, frames, count, error):
    folder = sample_data / "solves" / name
    assert formats.detect(folder) == "COLMAP"
    solve, notes = formats.read(folder)
    expected = reference(folder, tmp_path)
    assert len(solve) == frames == len(expected["names"])
    assert len(solve.tracks) == count
    w2c = geometry.invert_rigid(solve.cameras.c2w)
    # Old text files round to six digits, which leaves their quaternions not quite of length 1.
    np.testing.assert_allclose(w2c[:, :3], expected["w2c"], atol=1e-6 if "castle_txt" in name else 1e-9)
    np.testing.assert_allclose(solve.cameras.K, expected["K"], atol=1e-9)
    np.testing.assert_array_equal(solve.tracks.ids, expected["ids"])
    np.testing.assert_allclose(solve.tracks.positions[0], expected["xyz"], atol=1e-12)
    np.testing.assert_array_equal(solve.tracks.positions[0], solve.tracks.positions[-1])
    for frame, seen in enumerate(expected["seen"]):
        visible = solve.tracks.ids[solve.tracks.visibility[frame]]
        assert set(visible.tolist()) <= set(seen)
        assert len(visible) >= len(seen) - 1  # one castle point lies behind the image that observes it
    assert expected["error"] == pytest.approx(error, abs=0.01)
    assert any(f"mean error of {expected['error']:.2f} px" in note for note in notes)
    assert fitting.reproject(solve).fit.inside > 0.99


def test_text_and_binary_are_the_same_solve(sample_data):
    solves = sample_data / "solves"
    for one, other in (("colmap_apple/sparse_bin", "colmap_apple/sparse_txt"),
                       ("colmap_castle_bin", "colmap_castle_txt")):  # fmt: skip
        a, b = formats.read(solves / one)[0], formats.read(solves / other)[0]
        np.testing.assert_allclose(a.cameras.c2w, b.cameras.c2w, atol=1e-5)
        np.testing.assert_allclose(a.cameras.K, b.cameras.K, rtol=1e-6)
        np.testing.assert_array_equal(a.tracks.ids, b.tracks.ids)
        np.testing.assert_allclose(a.tracks.positions[0], b.tracks.positions[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(a.tracks.visibility, b.tracks.visibility)


def test_any_file_or_parent_folder_will_do(sample_data):
    solves = sample_data / "solves"
    assert formats.detect(solves / "colmap_castle_bin" / "points3D.bin") == "COLMAP"
    solve, notes = formats.read(solves / "colmap_apple", Footage("apple.mp4", 1296, 720, Fraction(10), 50))
    assert len(solve) == 50
    assert any("2 models" in note for note in notes)


def test_the_apple_model_lies_on_its_footage(sample_data):
    footage = Footage("apple.mp4", 1296, 720, Fraction(10), 50)
    solve, notes = formats.read(sample_data / "solves/colmap_apple/sparse_bin", footage)
    solve, _ = fitting.bind(footage, solve)
    assert (solve.cameras.width, solve.cameras.height) == (1296, 720)
    # Pinhole against the observed (slightly bent) positions: within the lens's bend that the note tells.
    model = colmap_model.load(sample_data / "solves/colmap_apple/sparse_bin")
    image = min(model.images, key=lambda image: image.name)
    row = {int(i): n for n, i in enumerate(solve.tracks.ids)}
    pairs = [(row[int(i)], xy) for i, xy in zip(image.point_ids, image.xy, strict=True) if int(i) in row]
    uv, _ = solve.cameras.project(solve.tracks.positions)
    observed = np.array([xy for _, xy in pairs]) * [1296 / 640, 720 / 356]
    distance = np.linalg.norm(uv[0, [n for n, _ in pairs]] - observed, axis=1)
    assert np.median(distance) < 2
    assert any("2.6 px at the corners" in note for note in notes)


PROJECT = """
import json, sys, numpy as np, pycolmap
cameras = json.load(open(sys.argv[1]))
points = np.array(json.load(open(sys.argv[2])))
out = []
for model, params in cameras:
    camera = pycolmap.Camera(model=model, width=640, height=480, params=params)
    out.append([np.asarray(camera.img_from_cam(p)).tolist() for p in points])
json.dump(out, open(sys.argv[3], "w"))
"""


@needs_pycolmap
def test_every_camera_model_bends_as_colmap_says(tmp_path):
    values = {"f": 500, "fx": 500, "fy": 510, "cx": 320, "cy": 240, "omega": 0.4, "alpha": 0.55, "beta": 1.1, "k": -0.1}
    small = {"k0": 0.03, "k1": 0.05, "k2": -0.02, "k3": 0.01, "k4": 0.004, "k5": 0.002, "k6": 0.001,
             "p0": 0.002, "p1": 0.003, "p2": -0.002, "sx1": 0.001, "sy1": -0.002,
             "s0": 0.001, "s1": 0.002, "s2": -0.001, "s3": 0.003}  # fmt: skip
    cameras = [
        (name, [float((values | small)[key]) for key in keys.split()])
        for name, keys in MODELS.values()
        if name != "EQUIRECTANGULAR"
    ]
    points = np.random.default_rng(0).uniform((-0.5, -0.4, 1), (0.5, 0.4, 1.2), (30, 3))
    (tmp_path / "cameras.json").write_text(json.dumps(cameras))
    (tmp_path / "points.json").write_text(json.dumps(points.tolist()))
    files = [str(tmp_path / name) for name in ("cameras.json", "points.json", "out.json")]
    run = subprocess.run([sys.executable, "-c", PROJECT, *files], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    for (name, params), expected in zip(cameras, json.loads((tmp_path / "out.json").read_text()), strict=True):
        camera = ModelCamera(name, 640, 480, tuple(params))
        p = camera.named
        uv = camera.distort(points[:, :2] / points[:, 2:]) * [p["fx"], p["fy"]] + [p["cx"], p["cy"]]
        np.testing.assert_allclose(uv, expected, atol=1e-6, err_msg=name)
        assert (camera.bend_at_corner() < 1e-9) == ("PINHOLE" in name)


# ---- models made here ----


def write_model(folder: Path, names: list[str], points: int = 30, camera: str = "PINHOLE 640 480 500 505 320 240"
                ) -> np.ndarray:  # fmt: skip
    """A text model whose image i looks at static points from (number in the name, 0, 0); returns the points."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    xyz = rng.uniform((-3, -2, 9), (3, 2, 12), (points, 3))
    (folder / "cameras.txt").write_text(f"# cameras\n1 {camera}\n")
    images, tracks = "", [""] * points
    for number, name in enumerate(names, 1):
        x = 0.1 * number
        uv = (xyz - [x, 0, 0])[:, :2] / xyz[:, 2:] * [500, 505] + [320, 240]
        seen = "" if points == 0 else " ".join(f"{u} {v} {i + 1}" for i, (u, v) in enumerate(uv))
        images += f"{number} 1 0 0 0 {-x} 0 0 1 {name}\n{seen}\n"
        tracks = [t + f" {number} {i}" for i, t in enumerate(tracks)]
    (folder / "images.txt").write_text(images)
    lines = [f"{i + 1} {p[0]} {p[1]} {p[2]} 9 9 9 0.5{t}\n" for i, (p, t) in enumerate(zip(xyz, tracks, strict=True))]
    (folder / "points3D.txt").write_text("".join(lines))
    return xyz


def footage(frames: int) -> Footage:
    return Footage("x.mp4", 640, 480, Fraction(24), frames)


def test_missing_images_are_interpolated_and_named(tmp_path):
    write_model(tmp_path / "a b – ü", [f"frame {n:05d}.png" for n in (1, 2, 3, 6, 7)])
    solve, notes = formats.read(tmp_path / "a b – ü")
    assert len(solve) == 7
    assert any("No image is registered for frames 3-4" in note for note in notes)
    np.testing.assert_allclose(solve.cameras.c2w[:, 0, 3], [0.1, 0.2, 0.3, 0.3 + 0.1 / 3, 0.3 + 0.2 / 3, 0.4, 0.5])
    assert solve.tracks.visibility.all()
    assert solve.tracks.confidence[0, 0] == pytest.approx(np.exp(-0.25) * 0.8)


@pytest.mark.parametrize(
    ("names", "frames", "expected", "total"),
    [
        (["10.png", "9.png", "8.png"], None, [8, 9, 10], 3),  # by number, not by letter
        ([f"{n:04d}.jpg" for n in range(5)], None, [0, 1, 2, 3, 4], 5),
        ([f"{n:04d}.jpg" for n in range(1, 6)], 5, [1, 2, 3, 4, 5], 5),
        ([f"{n:04d}.jpg" for n in range(3, 50)], 50, list(range(3, 50)), 50),  # counted from 0, begins late
        ([f"{n:04d}.jpg" for n in range(3, 51)], 50, list(range(3, 51)), 50),  # counted from 1, begins late
        ([f"{n:04d}.jpg" for n in range(47)], 50, list(range(47)), 50),  # the end is not registered
        ([f"{n:04d}.jpg" for n in range(10)], 50, list(range(10)), 10),  # a part, or a stride: fitting decides
        ([f"take2_{n:03d}_v4.png" for n in (5, 6, 8)], None, [5, 6, 8], 4),  # the digits that differ
        (["anna.png", "bert.png"], None, None, 2),
        (["a_20240101.png", "a_19990101.png"], None, None, 2),  # dates are no frame numbers
    ],
)
def test_frame_numbers_come_from_the_names(tmp_path, names, frames, expected, total):
    write_model(tmp_path, names)
    images, numbers, count, notes = colmap.frame_order(
        colmap_model.load(tmp_path).images, footage(frames) if frames else None
    )
    assert count == total
    assert (np.diff(numbers) > 0).all()
    assert numbers[-1] < count
    if expected is None:
        assert any("no frame numbers" in note for note in notes)
        assert [image.name for image in images] == sorted(names)
    else:
        found = [[int(word) for word in colmap._split(image.name)[1::2]] for image in images]
        assert all(number in row for number, row in zip(expected, found, strict=True))
        np.testing.assert_array_equal(np.diff(numbers), np.diff(expected))


def test_of_a_rig_one_camera_is_taken(tmp_path):
    names = [f"left/{n:03d}.png" for n in range(4)] + [f"right/{n:03d}.png" for n in range(5)]
    write_model(tmp_path, names)
    solve, notes = formats.read(tmp_path)
    assert len(solve) == 5
    assert any('"right"' in note for note in notes)


def test_a_lens_is_told_in_pixels_and_a_panorama_refused(tmp_path):
    write_model(tmp_path, ["0.png", "1.png"], camera="OPENCV 640 480 500 505 320 240 0.1 0 0 0")
    _, notes = formats.read(tmp_path)
    bend = np.hypot(*(np.array([320 / 500, 240 / 505]) * 0.1 * (0.64**2 + (240 / 505) ** 2) * [500, 505]))
    assert any(f"up to {bend:.1f} px at the corners" in note for note in notes)
    write_model(tmp_path, ["0.png", "1.png"], camera="EQUIRECTANGULAR 640 480 640 480")
    with pytest.raises(BadFile, match="panorama"):
        formats.read(tmp_path)


def test_no_points_and_one_image_are_a_solve_and_no_image_is_not(tmp_path):
    write_model(tmp_path / "one", ["0.png"])
    assert len(formats.read(tmp_path / "one")[0]) == 1
    write_model(tmp_path / "none", ["0.png", "1.png"], points=0)
    solve, notes = formats.read(tmp_path / "none")
    assert len(solve.tracks) == 0
    assert any("no points" in note for note in notes)
    write_model(tmp_path / "empty", [])
    with pytest.raises(BadFile, match="no image is registered"):
        formats.read(tmp_path / "empty")


def test_of_a_huge_model_the_best_points_are_kept(tmp_path, monkeypatch):
    write_model(tmp_path, ["0.png", "1.png"])
    monkeypatch.setattr(colmap, "MAX_TRACK_POINTS", 20)
    solve, notes = formats.read(tmp_path)
    assert len(solve.tracks) == 10
    assert any("Of 30 points the 10" in note for note in notes)


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("cameras.txt", "1 PINHOLE 640 480 500 505 320\n", "cameras.txt, line 1.*parameters"),
        ("cameras.txt", "1 FOO 640 480 500\n", "unknown camera model FOO"),
        ("cameras.txt", "2 PINHOLE 640 480 500 505 320 240\n", "does not have"),
        ("cameras.txt", "1 PINHOLE 640 480 nan 505 320 240\n", "cameras.txt, line 1"),
        ("cameras.txt", "1 PINHOLE 640 480 -500 505 320 240\n", "cameras.txt, line 1"),
        ("images.txt", "1 0 0 0 0 1 0 0 1 0.png\n\n", "pose of image 0.png"),
        ("images.txt", "1 1 0 0 0 1 0 0 1 0.png\n3 4\n", "images.txt, line 2"),
        ("images.txt", "1 1 0 0 0 1 0\n\n", "images.txt, line 1"),
        ("points3D.txt", "1 2 3\n", "points3D.txt, line 1"),
        ("points3D.txt", "1 0 0 9 1 1 1 0.5\n1 0 0 9 1 1 1 0.5\n", "share an id"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, file, line, words):
    write_model(tmp_path, ["0.png", "1.png"])
    (tmp_path / file).write_text(line)
    with pytest.raises(BadFile, match=words) as caught:
        formats.read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def write_binary(folder: Path, model: colmap_model.Model) -> None:
    """The same model as COLMAP's binary files."""
    pack = struct.pack
    camera = model.cameras[1]
    data = pack("<QIiQQ4d", 1, 1, 1, camera.width, camera.height, *camera.params)
    (folder / "cameras.bin").write_bytes(data)
    data = pack("<Q", len(model.images))
    for number, image in enumerate(model.images, 1):
        data += pack("<I7dI", number, *image.qvec, *image.tvec, image.camera_id) + image.name.encode() + b"\0"
        data += pack("<Q", len(image.xy))
        data += b"".join(pack("<ddQ", *xy, i) for xy, i in zip(image.xy, image.point_ids, strict=True))
    (folder / "images.bin").write_bytes(data)
    data = pack("<Q", len(model.points.ids))
    for i, xyz, error in zip(model.points.ids, model.points.xyz, model.points.error, strict=True):
        data += pack("<Q3d3BdQ", i, *xyz, 9, 9, 9, error, 1) + pack("<II", 1, 0)
    (folder / "points3D.bin").write_bytes(data)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory) -> dict[str, bytes]:
    """A small model as text and as binary: every byte of it matters."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, [f"{n}.png" for n in range(4)], points=6)
    write_binary(folder, colmap_model.load(folder))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_written_as_binary_is_the_same(small_model, tmp_path):
    solves = {}
    for suffix in (".bin", ".txt"):
        (tmp_path / suffix).mkdir()
        for name, data in small_model.items():
            if name.endswith(suffix):
                (tmp_path / suffix / name).write_bytes(data)
        solves[suffix] = formats.read(tmp_path / suffix)[0]
    np.testing.assert_array_equal(solves[".bin"].tracks.positions, solves[".txt"].tracks.positions)
    np.testing.assert_array_equal(solves[".bin"].cameras.c2w, solves[".txt"].cameras.c2w)
    assert solves[".bin"].tracks.visibility.all()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".bin", ".txt"]),
    name=st.sampled_from(["cameras", "images", "points3D"]),
    cut=st.floats(0, 3),
    patches=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=9)), max_size=4),
)
def test_damaged_models_give_a_solve_or_a_clear_error(small_model, tmp_path, suffix, name, cut, patches):
    folder = tmp_path / suffix
    folder.mkdir(exist_ok=True)
    for other in ("cameras", "images", "points3D"):
        data = bytearray(small_model[other + suffix])
        if other == name:
            data = data[: int(cut * len(data))]
            for at, patch in patches:
                start = int(at * len(data))
                data[start : start + len(patch)] = patch[: len(data) - start]
        (folder / f"{other}{suffix}").write_bytes(data)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = failure_of(folder)
    assert error is None or str(folder) in str(error)
    assert time.perf_counter() - start < 5


def failure_of(path: Path) -> RetakeError | None:
    try:
        formats.read(path)
    except RetakeError as error:
        return error
    return None
