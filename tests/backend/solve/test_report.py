"""The traffic light of a solve: green for a true one, never for a wrong one, however small its own error says it is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from retake_backend.solve.report import SceneCuts, SolveReport, failed, judge
from retake_backend.solve.stages import CameraSolve, DepthMaps, ObjectGroups, PointTracks
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

WIDTH, HEIGHT, FRAMES, POINTS = 672, 384, 40, 900


def _turned(degrees: float, axis: int) -> NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.eye(3)
    a, b = [(1, 2), (0, 2), (0, 1)][axis]
    rotation[[a, b], [a, b]], rotation[a, b], rotation[b, a] = c, -s, s
    return rotation


def _shot(way: float = 1.5) -> tuple[PointTracks, CameraSolve, ObjectGroups]:
    """A camera that goes `way` to the right before a scene 3 to 9 units deep, followed to 0.2 px, as it truly was."""
    random = np.random.default_rng(0)
    c2w = np.tile(np.eye(4), (FRAMES, 1, 1))
    c2w[:, 0, 3] = np.linspace(0, way, FRAMES)
    c2w[:, 1, 3] = 0.1 * way * np.sin(np.linspace(0, 3, FRAMES))
    for t in range(FRAMES):
        c2w[t, :3, :3] = _turned(6 * t / FRAMES * min(way, 1), 1)
    K = np.tile(np.array([[600.0, 0, WIDTH / 2], [0, 600.0, HEIGHT / 2], [0, 0, 1]]), (FRAMES, 1, 1))
    depth = random.uniform(3, 9, POINTS)
    seen_first = random.uniform((-60, 0), (WIDTH + 120, HEIGHT), (POINTS, 2))
    world = geometry.unproject(seen_first, depth, c2w[0], K[0])
    cameras = Cameras(c2w, K, WIDTH, HEIGHT)
    true, z = cameras.project(np.broadcast_to(world, (FRAMES, POINTS, 3)))
    visible = geometry.inside_image(true, z, WIDTH, HEIGHT)
    uv = true + random.normal(0, 0.2, true.shape)
    uv[~visible] = np.nan
    points = PointTracks(uv.astype(np.float32), visible, visible.astype(np.float32))
    residual = np.linalg.norm(uv - true, axis=2).astype(np.float32)
    solve = CameraSolve(
        cameras, "moving", world, np.ones(POINTS, bool), residual, "estimated from the points", np.ones(FRAMES, bool)
    )
    return points, solve, ObjectGroups(np.zeros(POINTS, np.int32))


def _judged(points: PointTracks, solve: CameraSolve, groups: ObjectGroups) -> SolveReport:
    return judge(points, solve, groups, None, frames=(0, FRAMES), scale=2.0)


@pytest.mark.parametrize(("k1", "light"), [(-0.12, "yellow"), (-0.004, "green")])
def test_a_lens_that_bends_is_told_with_how_far_tracks_lie_beside_the_footage(k1: float, light: str) -> None:
    """The archive's cameras are those of a lens that bends nothing: its tracks do not lie on bent footage."""
    points, solve, groups = _shot()
    centre = (WIDTH / 2, HEIGHT / 2)
    xy = (points.uv - centre) / 600
    bent = (xy * (1 + k1 * (xy**2).sum(-1, keepdims=True)) * 600 + centre).astype(np.float32)
    seen = PointTracks(bent, points.visible, points.confidence)
    report = _judged(seen, replace(solve, distortion=(k1,), undistorted=points.uv), groups)
    where, _ = solve.cameras.project(np.broadcast_to(solve.world, (FRAMES, POINTS, 3)))  # as the archive shows them
    off = np.linalg.norm(where - bent, axis=2)[points.visible]
    assert report.beside == pytest.approx(2 * np.quantile(off, 0.99), abs=0.7)  # px of the footage
    assert report.reprojection < 1  # which is measured on straight points and tells nothing of it
    assert report.light == light, report.reasons
    assert any(f"{report.beside:.1f} px beside" in reason for reason in report.reasons) == (light == "yellow")


def test_a_true_solve_is_green_and_measured() -> None:
    report = _judged(*_shot())
    assert report.light == "green", report.reasons
    assert report.reasons == ()
    assert report.reprojection == pytest.approx(2 * 0.2 * np.sqrt(2 * np.log(2)), rel=0.1)  # px of the footage
    assert report.agreement > 0.99
    assert report.coverage > 0.9
    assert 8 < report.parallax < 25
    assert report.focal == (1200, 1200)
    assert report.field_of_view == pytest.approx(58.5, abs=0.1)


def test_cameras_that_miss_exactly_followed_points_are_doubted() -> None:
    """Bent to explain what moves along with them, they explain all of it, within half a px or so."""
    points, solve, groups = _shot()
    sway = 0.005 * np.sin(2 * np.pi * solve.world[:, 0] / 3)  # of the scene, as bent cameras see it
    bent = replace(solve, world=solve.world * (1 + sway[:, None] * (-1, 1, 0)))
    report = _judged(points, bent, groups)
    assert 0.5 < report.reprojection / 2 < 0.8
    assert report.light == "yellow"
    assert any("were followed to" in reason for reason in report.reasons), report.reasons


def _other_cameras(solve: CameraSolve, c2w: NDArray | None = None, K: NDArray | None = None) -> CameraSolve:
    old = solve.cameras
    cameras = Cameras(old.c2w if c2w is None else c2w, old.K if K is None else K, old.width, old.height)
    return replace(solve, cameras=cameras)


def _mirrored(solve: CameraSolve) -> CameraSolve:
    c2w = solve.cameras.c2w.copy()
    c2w[:, :3, 3] *= -1
    return _other_cameras(solve, c2w)


def _turned_wrong(solve: CameraSolve) -> CameraSolve:
    c2w = solve.cameras.c2w.copy()
    for t in range(FRAMES):
        c2w[t, :3, :3] = _turned(-8 * t / FRAMES, 0) @ c2w[t, :3, :3]
    return _other_cameras(solve, c2w)


def _late(solve: CameraSolve) -> CameraSolve:
    return _other_cameras(solve, np.roll(solve.cameras.c2w, FRAMES // 2, axis=0))


def _too_long_a_lens(solve: CameraSolve) -> CameraSolve:
    K = solve.cameras.K.copy()
    K[:, [0, 1], [0, 1]] *= 1.6
    return _other_cameras(solve, None, K)


def _shaken(solve: CameraSolve) -> CameraSolve:
    c2w = solve.cameras.c2w.copy()
    c2w[:, :3, 3] += np.random.default_rng(1).normal(0, 0.3, (FRAMES, 3))
    return _other_cameras(solve, c2w)


def _behind(solve: CameraSolve) -> CameraSolve:
    world = solve.world.copy()
    world[::3] = 2 * solve.cameras.c2w[:, :3, 3].mean(0) - world[::3]
    return replace(solve, world=world)


@pytest.mark.parametrize("spoil", [_mirrored, _turned_wrong, _late, _too_long_a_lens, _shaken, _behind])
def test_wrong_cameras_are_not_green_even_if_the_solver_claims_a_small_error(spoil) -> None:  # type: ignore[no-untyped-def]
    points, solve, groups = _shot()
    wrong = spoil(solve)
    assert np.nanmedian(wrong.residual) < 0.3  # what it claims
    assert _judged(points, wrong, groups).light != "green"
    # Also where no point has a place that could give it away.
    bare = replace(wrong, world=np.full_like(wrong.world, np.nan))
    if wrong.cameras is not solve.cameras:
        assert _judged(points, bare, groups).agreement < 0.85


def test_points_that_move_as_they_like_make_it_red() -> None:
    points, solve, groups = _shot()
    random = np.random.default_rng(2)
    drift = np.cumsum(random.normal(0, 3, points.uv.shape), axis=0).astype(np.float32)
    report = _judged(replace(points, uv=points.uv + drift), solve, groups)
    assert report.light == "red"
    assert any("agree" in reason for reason in report.reasons)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: replace(s, solved=np.arange(FRAMES) < 36), "frames"),
        (lambda s: replace(s, world=s.world + 0.02), "miss"),
        (lambda s: replace(s, static=np.arange(POINTS) < 250), "still"),
        (lambda s: replace(s, focal_source="assumed"), "focal"),
        (lambda s: replace(s, focal_source="estimated from the points, roughly"), "roughly"),
        (lambda s: replace(s, kind="rotation"), "turns on the spot"),
        (lambda s: replace(s, kind="static"), "stands still"),
    ],
)
def test_what_speaks_against_a_solve_is_said(change, word: str) -> None:  # type: ignore[no-untyped-def]
    points, solve, groups = _shot()
    report = _judged(points, change(solve), groups)
    assert report.light != "green"
    assert any(word in reason for reason in report.reasons), report.reasons


def test_a_camera_that_hardly_moves_is_not_green() -> None:
    report = _judged(*_shot(way=0.05))
    assert report.light == "yellow"
    assert "parallax" in report.words()[0]


def _distorted(uv, solve):  # type: ignore[no-untyped-def]
    """Straight px (T, N, 2) as the solve's lens shows them (OpenCV's k1)."""
    focal, centre = solve.cameras.K[:, None, [0, 1], [0, 1]], solve.cameras.K[:, None, :2, 2]
    straight = (uv - centre) / focal
    return (straight * (1 + solve.distortion[0] * (straight**2).sum(-1, keepdims=True)) * focal + centre).astype(
        uv.dtype
    )


def test_an_object_is_no_fault_of_the_camera() -> None:
    points, solve, groups = _shot()
    random = np.random.default_rng(3)
    moving = np.arange(POINTS) < 150
    uv = points.uv.copy()
    uv[:, moving] += np.linspace(0, 80, FRAMES, dtype=np.float32)[:, None, None] * random.normal(1, 0.1, (150, 1))
    static, world = ~moving, np.where(moving[:, None], np.nan, solve.world)
    labels = moving.astype(np.int32)
    seen = replace(points, uv=uv.astype(np.float32))
    report = _judged(seen, replace(solve, static=static, world=world), replace(groups, labels=labels, names={0: "background", 1: "car"}))  # fmt: skip
    assert report.light == "green", report.reasons
    assert report.objects == (("car", 150),)
    assert any("car (150 tracks)" in line for line in report.words())

    # With a strongly bent lens beside it, the same object may be what bent it; a little distortion is any lens's.
    focal = float(np.median(solve.cameras.K[:, 0, 0]))
    radius = float(np.hypot(solve.cameras.width, solve.cameras.height)) / 2
    for bend, light in ((12.0, "yellow"), (1.0, "green")):
        k1 = bend / radius / (radius / focal) ** 2
        bent = replace(solve, static=static, world=world, distortion=(k1,))
        told = _judged(replace(seen, uv=_distorted(seen.uv, bent)), bent, replace(groups, labels=labels, names={0: "background", 1: "car"}))  # fmt: skip
        assert told.light == light, told.reasons
        assert any(f"{bend:.0f} px" in reason for reason in told.reasons) == (light == "yellow")


def test_the_report_says_what_was_made_do_with_and_is_json() -> None:
    points, solve, groups = _shot()
    depth = DepthMaps(np.ones((FRAMES, 4, 6), np.float32), "interpolated between points", True, ("No network.",))
    report = judge(points, replace(solve, notes=("The lens bends.",)), groups, depth, frames=(10, 50), scale=1.0)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["light"] == "green"
    assert data["frames"] == [10, 50]
    assert "Depth is only interpolated between points." in data["fallbacks"]
    assert data["notes"] == ["The lens bends.", "No network."]
    assert "frames 10 to 49" in " ".join(data["words"])


def test_a_solve_without_any_point_at_rest_is_red_and_json() -> None:
    points, solve, groups = _shot()
    nowhere = replace(solve, static=np.zeros(POINTS, bool))
    report = _judged(points, nowhere, groups)
    assert report.light == "red"
    json.dumps(report.to_json(), allow_nan=False)


def test_a_shot_that_cannot_be_solved_says_why_and_where_it_can_be_split() -> None:
    report = failed(SceneCuts("clip.mp4", [(0, 14), (14, 30)]), (0, 30))
    assert report.light == "red"
    assert report.split == ((0, 14), (14, 30))
    assert report.words() == (
        "red: clip.mp4: has a scene cut at frame 14. Solve each scene by itself: --frames 0:14 or --frames 14:30.",
    )
    assert failed(BadShot("it is black.", "clip.mp4")).split == ()
