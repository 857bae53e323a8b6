"""Cameras are found where they were, for every kind of shot; points that move are told from those that stand still."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from retake_backend.engines.base import Progress
from retake_backend.solve import motion
from retake_backend.solve.assembly import straightened
from retake_backend.solve.bundle import Bundle
from retake_backend.solve.camera_job import Job
from retake_backend.solve.cameras import solve_cameras
from retake_backend.solve.colmap_process import solve_keyframes
from retake_backend.solve.stages import CameraSolve, Focal, PointTracks
from retake_shared import archive, geometry
from retake_shared.errors import BadShot, Cancelled

SIZE = (640, 360)
FOCAL = 600.0
FRAMES = 40


def quiet(progress: Progress) -> None:
    pass


@dataclass
class Scene:
    """What was filmed. c2w (T, 4, 4), f (T,), moving (N,) bool."""

    points: PointTracks
    c2w: NDArray[np.float64]
    f: NDArray[np.float64]
    moving: NDArray[np.bool_]


def turned(yaw: NDArray[np.float64], pitch: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, 3, 3) camera to world."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    Ry = np.stack([np.stack([cy, zero, sy], -1), np.stack([zero, one, zero], -1), np.stack([-sy, zero, cy], -1)], -2)
    Rx = np.stack([np.stack([one, zero, zero], -1), np.stack([zero, cp, -sp], -1), np.stack([zero, sp, cp], -1)], -2)
    pose: NDArray[np.float64] = Ry @ Rx
    return pose


def film(
    position: NDArray[np.float64],
    rotation: NDArray[np.float64],
    f: NDArray[np.float64],
    movers: float = 0.2,
    outliers: float = 0.03,
    noise: float = 0.3,
    count: int = 900,
    k1: float = 0.0,
    seed: int = 0,
) -> Scene:
    """A room of points, a share of them on three things that walk through it, followed as well as points are:
    noise px that grows with time, a share of sightings anywhere, points that come and go."""
    rng = np.random.default_rng(seed)
    T = len(position)
    c2w = np.tile(np.eye(4), (T, 1, 1))
    c2w[:, :3, :3], c2w[:, :3, 3] = rotation, position
    K = geometry.intrinsics(f, f, SIZE[0] / 2, SIZE[1] / 2)
    # every point is born in some frame's picture, at some depth: a picture that is always full
    born = rng.integers(0, T, count)
    uv = rng.uniform([10, 10], [SIZE[0] - 10, SIZE[1] - 10], (count, 2))
    world = geometry.unproject(uv[:, None], rng.uniform(3, 12, (count, 1)), c2w[born], K[born])[:, 0]
    X = np.repeat(world[None], T, 0)
    moving = np.zeros(count, bool)
    walkers = np.array_split(np.arange(int(movers * count)), 3)
    for number, group in enumerate(walkers):
        if not len(group):
            continue
        moving[group] = True
        middle = np.array([-1.2 + 1.2 * number, 0.2, 4.0])
        body = middle + rng.uniform([-0.5, -0.8, -0.2], [0.5, 0.8, 0.2], (len(group), 3))
        way = np.array([[0.05, 0, 0.03], [-0.04, 0, 0], [0.03, 0.01, -0.02]][number])
        t = np.arange(T)[:, None]
        X[:, group] = body + (t * way + np.concatenate([0 * t, 0.1 * np.sin(t / 3), 0 * t], 1))[:, None]
    seen, depth = geometry.project(X, c2w, K)
    if k1:
        xy = (seen - np.array(SIZE) / 2) / f[:, None, None]
        seen = xy * (1 + k1 * np.sum(xy**2, -1, keepdims=True)) * f[:, None, None] + np.array(SIZE) / 2
    visible = geometry.inside_image(seen, depth, *SIZE)
    age = np.abs(np.arange(T)[:, None] - born)
    visible &= age < rng.integers(8, 30, count)
    seen = seen + rng.normal(size=seen.shape) * noise
    seen = seen + np.cumsum(rng.normal(size=seen.shape), 0) * 0.02 * (noise > 0)
    wild = rng.uniform(size=visible.shape) < outliers
    seen = np.where(wild[..., None], rng.uniform(0, 1, seen.shape) * SIZE, seen)
    points = PointTracks(np.where(visible[..., None], seen, np.nan), visible, visible.astype(np.float32))
    return Scene(points, c2w, f, moving)


def errors(found: NDArray[np.float64], true: NDArray[np.float64]) -> tuple[float, float]:
    """RMS of the position, in % of the path, and mean error of the rotation, degrees, after alignment of whole poses."""
    U, _, Vt = np.linalg.svd(np.einsum("tij,tkj->ik", true[:, :3, :3], found[:, :3, :3]))
    R = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
    p, q = found[:, :3, 3] @ R.T, true[:, :3, 3]
    p, q = p - p.mean(0), q - q.mean(0)
    scale = np.sum(p * q) / max(np.sum(p * p), 1e-12)
    path = max(float(np.linalg.norm(np.diff(q, axis=0), axis=1).sum()), 1e-12)
    cosine = (np.einsum("tij,tij->t", R @ found[:, :3, :3], true[:, :3, :3]) - 1) / 2
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return float(np.sqrt(np.mean(np.sum((scale * p - q) ** 2, 1)))) / path * 100, float(angle.mean())


def told_apart(scene: Scene, solve: CameraSolve) -> tuple[float, float]:
    """Share of the still points called static, and share of the static ones that do move. Of points seen for long."""
    long = scene.points.lengths >= 6
    return float(solve.static[long & ~scene.moving].mean()), float(scene.moving[solve.static & long].mean())


Rendered = Callable[[str], Scene]


@pytest.fixture(scope="module")
def rendered() -> Iterator[Rendered]:
    """Points of one of the scenes that solvers are measured on, followed to 0.1 px."""
    place = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, place)
    import solve_scenes

    def make(name: str) -> Scene:
        scene = solve_scenes.SCENES[name]()
        rng = np.random.default_rng(0)
        born, start = rng.integers(0, scene.count, 900), rng.uniform((4, 4), np.array(scene.size) - 4, (900, 2))
        uv, visible, objects, _ = scene.follow(born, start)
        visible = visible & (np.abs(np.arange(scene.count)[:, None] - born) < rng.integers(8, 30, 900))
        uv = uv + rng.normal(size=uv.shape) * 0.1
        points = PointTracks(np.where(visible[..., None], uv, np.nan), visible, visible.astype(np.float32))
        return Scene(points, scene.cameras.c2w, scene.cameras.K[:, 0, 0], objects > 0)

    yield make
    sys.path.remove(place)


ramp = np.linspace(0, 1, FRAMES)
none = np.zeros(FRAMES)
same = np.full(FRAMES, FOCAL)


def still_position() -> NDArray[np.float64]:
    return np.zeros((FRAMES, 3))


def orbit() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A quarter's third around what is 6 away."""
    angle = np.radians(30) * ramp
    return np.stack([-6 * np.sin(angle), 0.3 * ramp, 6 - 6 * np.cos(angle)], 1), turned(angle, none)


def dolly() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.stack([0.4 * ramp, 0.05 * np.sin(5 * ramp), 1.5 * ramp], 1), turned(0.05 * ramp, 0.02 * ramp)


def test_static_camera_stays_where_it_is() -> None:
    scene = film(still_position(), turned(none, none), same, movers=0.4)
    solve = solve_cameras(scene.points, SIZE, None, None, quiet)
    assert solve.kind == "static"
    assert solve.focal_source == "assumed"
    assert (solve.cameras.c2w == np.eye(4)).all()
    kept, wrong = told_apart(scene, solve)
    assert kept > 0.8
    assert wrong < 0.05


def test_given_focal_length_is_kept() -> None:
    scene = film(still_position(), turned(none, none), same)
    solve = solve_cameras(scene.points, SIZE, Focal.from_mm(35, SIZE), None, quiet)
    assert solve.cameras.K[0, 0, 0] == pytest.approx(35 / 36 * 640)
    assert solve.focal_source.startswith("given: 35 mm")
    scene = film(*dolly(), same)
    solve = solve_cameras(scene.points, SIZE, Focal(FOCAL, "given: so"), None, quiet)
    assert np.allclose(solve.cameras.K[:, 0, 0], FOCAL)
    assert errors(solve.cameras.c2w, scene.c2w)[0] < 0.5


def test_tripod_pan_only_turns() -> None:
    scene = film(still_position(), turned(0.5 * ramp, 0.1 * np.sin(4 * ramp)), same, movers=0.3)
    solve = solve_cameras(scene.points, SIZE, None, None, quiet)
    assert solve.kind == "rotation"
    assert np.isnan(solve.world).all()
    assert np.ptp(solve.cameras.c2w[:, :3, 3], axis=0).max() == 0
    assert errors(solve.cameras.c2w, scene.c2w)[1] < 0.1
    assert solve.cameras.K[:, 0, 0] == pytest.approx(FOCAL, rel=0.02)
    kept, wrong = told_apart(scene, solve)
    assert kept > 0.9
    assert wrong < 0.05


def test_zoom_on_a_tripod_is_a_focal_curve() -> None:
    f = FOCAL * (1 + 0.6 * ramp**2)
    scene = film(still_position(), turned(0.3 * ramp, none), f)
    solve = solve_cameras(scene.points, SIZE, None, None, quiet)
    assert solve.kind == "rotation"
    assert errors(solve.cameras.c2w, scene.c2w)[1] < 0.3
    assert np.abs(solve.cameras.K[:, 0, 0] / f - 1).max() < 0.04
    assert any("zoom" in note for note in solve.notes)


@pytest.mark.parametrize("movers", [0.0, 0.4])
def test_orbit(movers: float) -> None:
    scene = film(*orbit(), same, movers=movers)
    solve = solve_cameras(scene.points, SIZE, None, None, quiet)
    assert solve.kind == "moving"
    position, angle = errors(solve.cameras.c2w, scene.c2w)
    assert position < 0.3
    assert angle < 0.1
    assert solve.cameras.K[:, 0, 0] == pytest.approx(FOCAL, rel=0.02)
    kept, wrong = told_apart(scene, solve)
    assert kept > 0.9
    assert wrong < 0.05
    assert solve.solved.all()


@pytest.mark.parametrize("name", ["one_object", "large_object"])
def test_what_keeps_pace_with_the_camera_is_not_taken_for_a_part_of_the_scene(rendered: Rendered, name: str) -> None:
    """Seen from any two frames it may stand still, only nearer or farther: cameras can be bent until it nearly fits."""
    scene = rendered(name)
    solve = solve_cameras(scene.points, (448, 256), None, None, quiet)
    position, angle = errors(solve.cameras.c2w, scene.c2w)
    kept, wrong = told_apart(scene, solve)
    assert position < 0.3
    assert angle < 0.15
    assert solve.cameras.K[:, 0, 0] == pytest.approx(scene.f, rel=0.02)
    assert kept > 0.95
    assert wrong < 0.02


def test_a_long_lens_is_not_shortened_by_what_is_usual(rendered: Rendered) -> None:
    scene = rendered("tele")
    solve = solve_cameras(scene.points, (448, 256), None, None, quiet)
    assert solve.cameras.K[:, 0, 0] == pytest.approx(scene.f, rel=0.03)
    assert errors(solve.cameras.c2w, scene.c2w)[0] < 0.2


def test_a_zoom_against_a_move_is_not_a_wide_lens_in_a_world_inside_out(rendered: Rendered) -> None:
    scene = rendered("dolly_zoom")
    solve = solve_cameras(scene.points, (448, 256), None, None, quiet)
    position, angle = errors(solve.cameras.c2w, scene.c2w)
    assert position < 1
    assert angle < 0.5
    assert np.abs(solve.cameras.K[:, 0, 0] / scene.f - 1).max() < 0.15
    assert any("zoom" in note for note in solve.notes)


def test_a_camera_that_creeps_is_not_on_a_tripod() -> None:
    """Over a few frames everything stands still; over the clip it does not."""
    scene = film(0.035 * orbit()[0], turned(0.0175 * ramp, none), same, movers=0.0, outliers=0.01, noise=0.1)
    solve = solve_cameras(scene.points, SIZE, None, None, quiet)
    assert solve.kind == "little parallax"
    assert "roughly" in solve.focal_source  # so little tells it to a third at best, however well all fits
    assert errors(solve.cameras.c2w, scene.c2w)[0] < 3


@pytest.mark.parametrize("noise", [0.2, 0.4])
def test_how_exactly_points_were_followed_is_told_without_cameras(noise: float) -> None:
    """Whatever else moves: distances from a line of points that are off by so much in x and in y."""
    scene = film(*orbit(), same, movers=0.2, outliers=0.05, noise=noise)
    assert 0.6 * noise < motion.exactness(scene.points, lambda: None) < 1.1 * noise


def test_dolly() -> None:
    scene = film(*dolly(), same)
    solve = solve_cameras(scene.points, SIZE, None, None, quiet)
    position, angle = errors(solve.cameras.c2w, scene.c2w)
    assert position < 0.5
    assert angle < 0.1
    assert solve.cameras.K[:, 0, 0] == pytest.approx(FOCAL, rel=0.03)
    step = np.diff(solve.cameras.c2w[:, :3, 3], 2, axis=0)
    true = np.diff(scene.c2w[:, :3, 3], 2, axis=0)
    scale = np.linalg.norm(scene.c2w[-1, :3, 3]) / np.linalg.norm(np.subtract(*solve.cameras.c2w[[-1, 0], :3, 3]))
    assert np.linalg.norm(step, axis=1).mean() * scale < np.linalg.norm(true, axis=1).mean() + 0.01  # no jitter


def test_sample_shot() -> None:
    truth = archive.load_solve(Path(__file__).parents[3] / "shared/sample_shot/walk.solve.npz")
    cameras = truth.cameras.resized(672, 384)
    uv, _ = cameras.project(truth.tracks.positions)
    visible = truth.tracks.visibility & np.isfinite(uv).all(-1)
    uv = uv + np.random.default_rng(0).normal(size=uv.shape) * 0.3
    points = PointTracks(np.where(visible[..., None], uv, np.nan), visible, visible.astype(np.float32))
    solve = solve_cameras(points, (672, 384), None, None, quiet)
    position, angle = errors(solve.cameras.c2w, cameras.c2w)
    assert position < 0.3
    assert angle < 0.3
    assert solve.cameras.K[0, 0, 0] == pytest.approx(cameras.K[0, 0, 0], rel=0.02)


def test_zoom_while_moving() -> None:
    f = FOCAL * (1 + 0.5 * ramp)
    scene = film(*orbit(), f)
    solve = solve_cameras(scene.points, SIZE, None, None, quiet)
    position, angle = errors(solve.cameras.c2w, scene.c2w)
    assert position < 2
    assert angle < 0.5
    assert np.abs(solve.cameras.K[:, 0, 0] / f - 1).max() < 0.06


def test_better_than_the_mappers_alone() -> None:
    scene = film(*orbit(), same, movers=0.25)
    rows = np.arange(0, FRAMES, 3)
    mapped, _ = solve_keyframes(scene.points.uv[rows], SIZE, 554.0, False, False, lambda: None)
    alone = min(errors(m.c2w, scene.c2w[rows[m.rows]])[0] for m in mapped if len(m.rows) == len(rows))
    solve = solve_cameras(scene.points, SIZE, None, None, quiet)
    assert errors(solve.cameras.c2w, scene.c2w)[0] < alone


def test_bent_lens_is_made_straight() -> None:
    scene = film(*orbit(), same, k1=-0.12)
    solve = solve_cameras(scene.points, SIZE, None, None, quiet)
    assert solve.distortion[0] == pytest.approx(-0.12, abs=0.02)
    assert errors(solve.cameras.c2w, scene.c2w)[0] < 0.5
    assert solve.undistorted is not None
    uv, _ = solve.cameras.project(solve.world[solve.static])
    off = np.linalg.norm(uv - solve.undistorted[:, solve.static], axis=-1)
    assert np.nanmedian(off) < 0.6


def test_masked_points_are_made_straight_too() -> None:
    """Else what was masked before a lens that bends would have no tracks: they are brought to 3D by where they are."""
    scene = film(*orbit(), same)
    job = Job.of(scene.points, SIZE, None, ~scene.moving, quiet)
    bent = Bundle(
        np.tile(np.eye(3), (FRAMES, 1, 1)), np.zeros((FRAMES, 3)), np.full(FRAMES, FOCAL), np.zeros((0, 3)),
        job.centre, k1=-0.12,
    )  # fmt: skip
    straight = straightened(job, bent)
    assert (np.isfinite(straight).all(2) == scene.points.visible).all()
    assert np.nanmax(np.abs(straight - scene.points.uv)[:, scene.moving]) > 1


def test_same_points_same_cameras() -> None:
    scene = film(*dolly(), same)
    first, second = (solve_cameras(scene.points, SIZE, None, None, quiet) for _ in range(2))
    assert (first.cameras.c2w == second.cameras.c2w).all()
    assert (first.static == second.static).all()


def test_masked_points_take_no_part() -> None:
    scene = film(*orbit(), same, movers=0.6)
    solve = solve_cameras(scene.points, SIZE, None, ~scene.moving, quiet)
    assert not solve.static[scene.moving].any()
    assert errors(solve.cameras.c2w, scene.c2w)[0] < 0.5


def test_frames_without_points_are_bridged() -> None:
    scene = film(*orbit(), same)
    visible = scene.points.visible.copy()
    visible[18:20] = False
    uv = np.where(visible[..., None], scene.points.uv, np.nan)
    solve = solve_cameras(PointTracks(uv, visible, visible.astype(np.float32)), SIZE, None, None, quiet)
    assert list(np.flatnonzero(~solve.solved)) == [18, 19]
    assert errors(solve.cameras.c2w, scene.c2w)[0] < 1


def test_too_few_points_are_told() -> None:
    scene = film(*orbit(), same, count=20)
    with pytest.raises(BadShot, match="points could be followed"):
        solve_cameras(scene.points, SIZE, None, None, quiet)


def test_points_that_agree_on_nothing_are_told() -> None:
    scene = film(*orbit(), same, count=300)
    rng = np.random.default_rng(1)
    wild = scene.points.uv + np.cumsum(rng.normal(scale=12, size=scene.points.uv.shape), 0)
    with pytest.raises(BadShot):
        solve_cameras(replace(scene.points, uv=wild), SIZE, None, None, quiet)


def test_cancel_ends_the_mappers_at_once() -> None:
    scene = film(*orbit(), same)
    begun = time.monotonic()

    def check() -> None:
        if time.monotonic() - begun > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        solve_keyframes(scene.points.uv, SIZE, 554.0, False, False, check)
    assert time.monotonic() - begun < 3
