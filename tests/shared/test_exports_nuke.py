"""Nuke's script and .chan show every point where the solve does, by Nuke's own rules written out with scipy."""

import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from retake_shared import exports, geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras, Solve, Tracks

Rotation = pytest.importorskip("scipy.spatial.transform", reason="scipy lives in the backend's environment").Rotation

FRAMES = 9


@pytest.fixture
def solve(make_solve):
    """A world with y down, as most solvers', a lens that zooms, a centre that is off, pixels that are not square."""
    made = make_solve(frames=FRAMES)
    t = np.arange(FRAMES)
    K = geometry.intrinsics(300 + 4 * t, (300 + 4 * t) * 1.07, 150 + t, 97 - 0.4 * t)
    return replace(made, cameras=replace(made.cameras, K=K))


def nodes(text):
    """(class, {knob: value}) of each node of a .nk."""
    found = []
    for kind, body in re.findall(r"^(\w+) \{\n(.*?)^\}", text, re.S | re.M):
        knobs = [line.strip().split(" ", 1) for line in body.splitlines()]
        found.append((kind, dict(knobs)))
    return found


def curve_values(text, frame, fields):
    """The fields of a knob at a frame: numbers, or curves of linear keys."""
    values = []
    for curve, constant in re.findall(r"\{curve ([^}]*)\}|([-+0-9.e]+)", text[1:-1] if text.startswith("{") else text):
        if curve:
            keys = dict(re.findall(r"x(-?\d+) (\S+)", curve))
            values.append(float(keys[str(frame)]))
        else:
            values.append(float(constant))
    assert len(values) == fields
    return np.array(values)


def shown_by_nuke(knobs, root, points, frame):
    """Pixels, from the bottom left, by Nuke's rules: window in halves of haperture, pixel aspect from the format."""
    width, height, *_, aspect, _ = root["format"].strip('"').split()
    width, height, aspect = float(width), float(height), float(aspect)
    rotation = Rotation.from_euler("zxy", curve_values(knobs["rotate"], frame, 3)[[2, 0, 1]], degrees=True)
    local = rotation.inv().apply(points - curve_values(knobs["translate"], frame, 3))
    assert (local[:, 2] < 0).all()
    focal, aperture = curve_values(knobs["focal"], frame, 1)[0], float(knobs["haperture"])
    window = local[:, :2] / -local[:, 2:] * focal / (aperture / 2) - curve_values(knobs["win_translate"], frame, 2)
    return np.array([width / 2, height / 2]) + window * (width / 2) * [1, aspect]


def test_the_camera_of_the_script_shows_the_points_where_the_solve_does(solve, tmp_path):
    options = exports.Options(start=1001, fps=Fraction(24000, 1001), axes=12)
    notes = exports.write("nuke", tmp_path / "shot.nk", exports.of_solve(solve, "1 Übung [exit]"), options)
    assert any("pixel aspect is 1.07" in note for note in notes)
    (_, root), (kind, camera), *axes = nodes((tmp_path / "shot.nk").read_text())
    assert kind == "Camera2"
    assert camera["rot_order"] == "ZXY"
    assert (root["first_frame"], root["last_frame"]) == ("1001", "1009")
    assert float(root["fps"]) == pytest.approx(23.976, abs=1e-3)
    assert len(axes) == 12
    uv, _ = solve.cameras.project(solve.tracks.positions)
    for row in range(FRAMES):
        points = np.array([curve_values(knobs["translate"], 1001 + row, 3) for _, knobs in axes])
        shown = shown_by_nuke(camera, root, points, 1001 + row)
        np.testing.assert_allclose(np.stack([shown[:, 0], 180 - shown[:, 1]], 1), uv[row], atol=1e-4)
    vertical = float(camera["vaperture"]) / 36 * 320 / 180
    assert vertical == pytest.approx(1 / 1.07)
    assert "[" not in (tmp_path / "shot.nk").read_text(), "Nuke would run what stands in brackets"


def test_up_in_the_picture_is_up_in_nuke(solve, tmp_path):
    notes = exports.write("nuke", tmp_path / "a.nk", exports.of_solve(solve))
    assert "up in the pictures is +Y" in notes[-1]
    _, (_, camera) = nodes((tmp_path / "a.nk").read_text())
    rotation = Rotation.from_euler("zxy", curve_values(camera["rotate"], 5, 3)[[2, 0, 1]], degrees=True)
    assert rotation.apply([0, 1, 0])[1] > 0.9
    assert rotation.apply([0, 0, -1])[2] < -0.7


def test_a_world_of_ones_own_is_kept_and_scaled(solve, tmp_path):
    world = np.eye(4)
    world[:3, :3] = 100 * Rotation.from_euler("xyz", [20, 30, 40], degrees=True).as_matrix()
    world[:3, 3] = 5, 6, 7
    exports.write("nuke", tmp_path / "a.nk", exports.of_solve(solve), exports.Options(world=world))
    (_, root), (_, camera) = nodes((tmp_path / "a.nk").read_text())
    points = solve.tracks.positions[4] @ world[:3, :3].T + world[:3, 3]
    uv, _ = solve.cameras.project(solve.tracks.positions)
    shown = shown_by_nuke(camera, root, points, 5)
    np.testing.assert_allclose(np.stack([shown[:, 0], 180 - shown[:, 1]], 1), uv[4], atol=1e-4)
    with pytest.raises(BadShot, match="stretched"):
        exports.of_solve(solve).moved(np.diag([1.0, 2, 1, 1]))
    with pytest.raises(BadShot, match="mirrored"):
        exports.of_solve(solve).moved(np.diag([1.0, 1, -1, 1]))


def test_chan_holds_pose_and_vertical_field_of_view(make_solve, tmp_path):
    solve = make_solve(frames=FRAMES)
    K = geometry.intrinsics(310 + np.arange(FRAMES), 310 + np.arange(FRAMES), 160, 90)
    solve = replace(solve, cameras=replace(solve.cameras, K=K))
    notes = exports.write("chan", tmp_path / "a.chan", exports.of_solve(solve), exports.Options(world=np.eye(4)))
    assert len(notes) == 1, notes
    table = np.loadtxt(tmp_path / "a.chan")
    np.testing.assert_array_equal(table[:, 0], np.arange(1, FRAMES + 1))
    uv, _ = solve.cameras.project(solve.tracks.positions)
    for row, (_, tx, ty, tz, rx, ry, rz, fov) in enumerate(table):
        rotation = Rotation.from_euler("zxy", [rz, rx, ry], degrees=True)
        local = rotation.inv().apply(solve.tracks.positions[row] - [tx, ty, tz])
        focal = 90 / np.tan(np.radians(fov) / 2)
        shown = np.stack([160 - focal * local[:, 0] / local[:, 2], 90 + focal * local[:, 1] / local[:, 2]], 1)
        np.testing.assert_allclose(shown, uv[row], atol=1e-4)


def test_chan_says_what_it_cannot_hold(solve, tmp_path):
    notes = exports.write("chan", tmp_path / "a.chan", exports.of_solve(solve))
    assert any("principal point lies up to 10.0 px off" in note for note in notes)
    assert any("not square" in note for note in notes)


def test_rotations_never_jump(tmp_path):
    """A camera that turns all the way round, looks straight up and straight down."""
    turn = np.linspace(0, 4 * np.pi, 200)
    rotation = Rotation.from_euler("yx", np.stack([turn, np.linspace(-np.pi / 2, np.pi / 2, 200)], 1))
    c2w = np.tile(np.eye(4), (200, 1, 1))
    c2w[:, :3, :3] = rotation.as_matrix()
    cameras = Cameras(c2w, np.tile(geometry.intrinsics(100, 100, 50, 50), (200, 1, 1)), 100, 100)
    content = exports.of_solve(Solve(cameras, Tracks.empty(200)))
    exports.write("chan", tmp_path / "a.chan", content, exports.Options(world=np.eye(4)))
    table = np.loadtxt(tmp_path / "a.chan")
    assert np.abs(np.diff(table[1:-1, 4:7], axis=0)).max() < 10
    back = Rotation.from_euler("zxy", table[:, [6, 4, 5]], degrees=True).as_matrix()
    np.testing.assert_allclose(back, c2w[:, :3, :3] @ np.diag([1, -1, -1]), atol=1e-7)


def test_objects_take_turns_when_not_all_tracks_fit(solve, tmp_path):
    exports.write("nuke", tmp_path / "a.nk", exports.of_solve(solve), exports.Options(axes=3))
    names = [
        knobs["name"].rsplit("_", 1)[0] for kind, knobs in nodes((tmp_path / "a.nk").read_text()) if kind == "Axis2"
    ]
    assert sorted(names) == ["background", "ball", "walker"]
