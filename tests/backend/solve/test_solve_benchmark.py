"""The scenes that solvers are measured on are what they claim, and a wrong solve is not scored as a right one."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_solve", BENCHMARKS / "solve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))


def places(scene, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    width, height = scene.size
    uv = np.stack([random.uniform(2, width - 2, count), random.uniform(2, height - 2, count)], 1)
    return random.integers(0, scene.count, count), uv


@pytest.mark.parametrize("name", ["two_objects", "barrel", "zoom"])
def test_followed_points_look_alike_wherever_they_are_said_to_be(benchmark: ModuleType, name: str) -> None:
    """Without light from one side, which changes on what turns."""
    scene = benchmark.truth(name)
    object.__setattr__(scene.world, "ambient", 1.0)
    born, uv = places(scene)
    seen, visible, objects, z = scene.follow(born, uv)
    assert np.abs(seen[born, np.arange(len(uv))] - uv).max() < 1e-6
    a, b = 4, 20
    both = visible[a] & visible[b]
    pictures = {t: cv2.GaussianBlur(scene.world.render(t), (0, 0), 1.0) for t in (a, b)}

    def colours(t: int, at: np.ndarray) -> np.ndarray:
        return cv2.remap(pictures[t], (at[None] - 0.5).astype(np.float32), None, cv2.INTER_LINEAR)[0]

    alike = np.abs(colours(a, seen[a, both]) - colours(b, seen[b, both])).mean(1)
    unmoved = np.abs(colours(a, seen[a, both]) - colours(b, seen[a, both])).mean(1)
    assert np.median(alike) < 1.5
    assert np.median(unmoved) > 8
    for number in scene.objects:
        assert np.median(alike[objects[both] == number]) < 4
    depth, numbers = scene.depth_and_objects(b)
    x, y = np.floor(seen[b, both]).astype(int).T
    assert np.mean(np.abs(depth[y, x] / z[b, both] - 1) < 0.01) > 0.95
    assert np.mean(numbers[y, x] == objects[both]) > 0.97


def test_the_same_scene_gives_the_same_frames(benchmark: ModuleType) -> None:
    first, again = (next(benchmark.truth("motion_blur").frames()) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (256, 448, 3)
    assert 20 < first.mean() < 220
    assert first.std() > 15


def test_at_least_twenty_scenes_of_every_kind(benchmark: ModuleType) -> None:
    assert len(benchmark.NAMES) > 20
    assert {benchmark.truth(name).kind for name in ("orbit", "pan", "static_ball")} == {"moving", "rotation", "static"}


def test_the_truth_itself_is_solved_and_what_is_wrong_is_not(benchmark: ModuleType) -> None:
    scene = benchmark.SampleShot()
    uv, z = scene.cameras.project(scene.solve.tracks.positions)
    uv = np.where(scene.solve.tracks.visibility[..., None], uv, np.nan)

    def found(c2w: np.ndarray, **changes: np.ndarray):
        focal = changes.pop("focal", scene.cameras.K[:, 0, 0])
        return benchmark.Found(c2w, focal, uv, z, {}, 1.0, 1.0, objects=scene.solve.tracks.objects, **changes)

    c2w = scene.cameras.c2w
    row = benchmark.score(scene, found(c2w, depth=scene.solve.depth / 3))
    assert row["solved"]
    assert row["ate"] < 1e-6
    assert row["rotation"] < 1e-6
    assert row["focal"] == 0
    assert row["track"] < 1e-6
    assert row["points_depth"] < 0.01
    assert row["dense_depth"] < 0.01
    assert row["objects_found"] > 0.99
    assert row["objects_false"] < 0.01

    half = c2w.copy()
    half[40:] = np.nan
    bent = c2w.copy()
    bent[:, 2, 3] += 0.4 * np.sin(np.arange(81))
    rolled = c2w.copy()
    rolled[:40, :3, :3] = c2w[:40, :3, :3] @ cv2.Rodrigues(np.array([0, 0, 0.2]))[0]
    for wrong, why in ((half, "frames"), (bent, "path"), (rolled, "axes")):
        row = benchmark.score(scene, found(wrong))
        assert not row["solved"]
        assert why in row["why"]
    assert benchmark.score(scene, found(c2w, focal=1.1 * scene.cameras.K[:, 0, 0]))["focal"] == pytest.approx(10)
    row = benchmark.score(scene, benchmark.Found.nothing(81, "ran out of luck", 3.0))
    assert not row["solved"]
    assert row["why"] == "ran out of luck"


def test_a_tripod_that_is_said_to_travel_is_not_solved(benchmark: ModuleType) -> None:
    scene = benchmark.truth("static_ball")
    born, uv = places(scene, 60)
    seen, visible, _, z = scene.follow(born, uv)
    seen = np.where(visible[..., None], seen, np.nan)
    focal = scene.cameras.K[:, 0, 0]
    row = benchmark.score(scene, benchmark.Found(scene.cameras.c2w, focal, seen, z, {}, 1.0, 1.0))
    assert row["solved"]
    assert row["drift"] == pytest.approx(0, abs=1e-9)
    wandering = scene.cameras.c2w.copy()
    wandering[:, 0, 3] += np.linspace(0, 0.5, scene.count)
    row = benchmark.score(scene, benchmark.Found(wandering, focal, seen, z, {}, 1.0, 1.0))
    assert not row["solved"]
    assert "wanders" in row["why"]
