"""A tracker that the user has installed follows the points; one that is not there says what it needs, and under which
licence; and nothing of others is imported until it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from retake_backend.cli import main
from retake_backend.engines.base import Progress
from retake_backend.footage import write_video
from retake_backend.solve import plugins, trackers
from retake_shared.errors import BadFile, Cancelled, RetakeError
from safetensors.numpy import load_file

WIDTH, HEIGHT, FRAMES = 224, 136, 50
STEP = np.array([1.7, 0.6])
"""px a frame by which the wall moves."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("RETAKE_TRACKERS", "lk_tracker:LucasKanade lk_tracker:Absent")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def wall() -> list[NDArray[np.uint8]]:
    """A textured wall that slides through the picture."""
    noise = np.random.default_rng(5).normal(0, 1, (300, 400, 3)).astype(np.float32)
    soft = sum(cv2.GaussianBlur(noise, (0, 0), 1.3 * 2**k) * 2**k for k in range(4))
    texture = np.clip(128 + 45 * soft / soft.std(), 0, 255).astype(np.uint8)
    frames = []
    for t in range(FRAMES):
        shift = np.float32([[1, 0, STEP[0] * t - 100], [0, 1, STEP[1] * t - 60]])
        frames.append(cv2.warpAffine(texture, shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC))
    return frames


def ignore(_: Progress) -> None:
    pass


def test_a_tracker_from_the_environment_follows_through_a_clip_of_several_windows(wall: list) -> None:
    tracks = trackers.create("lk").follow(wall, ignore)
    assert tracks.frame_count == FRAMES
    moved = tracks.uv - STEP * np.arange(FRAMES)[:, None, None]
    middle = np.nanmedian(moved, axis=0)
    error = np.linalg.norm(moved - middle, axis=2)
    assert np.nanmedian(error) < 0.1
    assert np.nanpercentile(error, 95) < 0.5
    # Longer than a window of 20: tracks go on where windows meet.
    crossing = (WIDTH * 0.6) / STEP[0]
    assert tracks.lengths.max() > 0.9 * min(FRAMES, crossing)
    assert (tracks.lengths > 20).sum() > 150


def test_every_frame_is_covered_with_points(wall: list) -> None:
    tracks = trackers.create("lk").follow(wall, ignore)
    for t in (0, FRAMES // 2, FRAMES - 1):
        at = tracks.uv[t, tracks.visible[t]]
        cells = {(int(x // 28), int(y // 34)) for x, y in at}
        assert len(cells) > 0.8 * 8 * 4
    assert not tracks.confidence[~tracks.visible].any()
    assert np.isnan(tracks.uv[~tracks.visible]).all()


def test_windows_cover_all_frames_and_share_some() -> None:
    for count, window in ((5, 20), (20, 20), (21, 20), (50, 20), (500, 96), (33, 20)):
        found = trackers.windows(count, window)
        assert found[0][0] == 0
        assert found[-1][1] == count
        assert all(stop - start <= window for start, stop in found)
        assert all(a[1] - b[0] >= trackers.OVERLAP for a, b in pairwise(found))


def test_following_can_be_stopped(wall: list) -> None:
    def stop(progress: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        trackers.create("lk").follow(wall, stop)


def test_own_tracker_is_one_of_them(wall: list) -> None:
    tracks = trackers.create().follow(wall[:8], ignore)
    assert len(tracks) > 200


def test_what_is_not_installed_says_what_to_install_and_its_licence() -> None:
    for name, licence in (("cotracker3", "CC BY-NC 4.0"), ("tapir", "Apache-2.0"), ("spatialtracker2", "CC BY-NC 4.0")):
        with pytest.raises(RetakeError) as told:
            trackers.create(name)
        assert licence in str(told.value)
        assert "github.com" in str(told.value)
        assert str(plugins.weights_folder()) in str(told.value)
    with pytest.raises(RetakeError, match=r"pip install absent.*CC BY-NC"):
        trackers.create("absent")


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(RetakeError, match=r"flow \(ready\), cotracker3 \(not installed\).*lk \(ready\)"):
        trackers.create("no-such")


def test_a_class_that_cannot_be_loaded_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("no_such_module:Tracker", "lk_tracker:NoSuch", "lk_tracker"):
        monkeypatch.setenv("RETAKE_TRACKERS", place)
        with pytest.raises(RetakeError, match="RETAKE_TRACKERS"):
            trackers.create("lk")


def test_packages_of_others_are_recognised_but_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that would end the program if it were imported, and an unrelated one of the same name."""
    for package, file in (("cotracker", "predictor.py"), ("tapnet", "torch/tapir_model.py"), ("models", "other.py")):
        place = tmp_path / "site" / package / file
        place.parent.mkdir(parents=True)
        place.write_text("raise SystemExit('imported')")
        (tmp_path / "site" / package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    missing = {tracker.name: tracker.missing for tracker in trackers.listing()}
    assert "pip install" not in missing["cotracker3"]  # the package is there, the weights are not
    assert "convert it" in missing["cotracker3"]
    assert "pip install" not in missing["tapir"]
    assert "Clone" in missing["spatialtracker2"]
    weights = plugins.weights_folder() / plugins.CoTracker3.weights[0]
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    assert plugins.CoTracker3.available()
    with pytest.raises(SystemExit, match="imported"):
        trackers.create("cotracker3").follow([np.zeros((32, 32, 3), np.uint8)] * 2, ignore)


def test_looking_at_the_list_imports_no_network() -> None:
    code = (
        "import sys; from retake_backend.solve import trackers; trackers.listing();"
        "print([m for m in ('torch', 'cotracker', 'tapnet', 'models', 'huggingface_hub') if m in sys.modules])"
    )
    known = {k: v for k, v in os.environ.items() if k != "RETAKE_TRACKERS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=known)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_published_weights_become_safetensors_without_being_unpickled(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    source, target = tmp_path / "scaled_offline.pth", tmp_path / "deep" / "scaled_offline.safetensors"
    torch.save({"model": network.state_dict()}, source)
    assert plugins.main([str(source), str(target)]) == 0
    read = load_file(target)
    assert read.keys() == network.state_dict().keys()
    np.testing.assert_array_equal(read["0.weight"], network[0].weight.detach().numpy())
    again = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    plugins._fill(again, target)
    assert torch.equal(again[0].weight, network[0].weight)
    with pytest.raises(BadFile, match="does not hold the weights"):
        plugins._fill(torch.nn.Linear(2, 2), target)


def test_a_file_that_would_run_code_is_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "evil.pth", tmp_path / "evil.safetensors"
    torch.save({"model": {"weight": torch.nn.ReLU()}}, source)
    assert plugins.main([str(source), str(target)]) == 1
    assert "evil.pth" in capsys.readouterr().err
    assert not target.exists()
    torch.save([1, 2], source)
    with pytest.raises(BadFile, match="holds no weights"):
        plugins.convert(source, target)


def test_a_solve_is_told_which_tracker_to_use(wall: list, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The pan of the wall is solved from the points of the tracker from outside, and the report names it."""
    video, out = tmp_path / "wall.mp4", tmp_path / "solve.npz"
    write_video(video, wall[:16], 24)
    assert main(["solve", str(video), "--out", str(out), "--tracker", "lk"]) == 0
    report = out.with_suffix(".report.json").read_text()
    assert "followed by lk (Apache-2.0 (OpenCV))" in report
    capfd.readouterr()
    assert main(["solve", str(video), "--out", str(out), "--tracker", "absent"]) != 0
    assert "pip install absent" in capfd.readouterr().err


def test_a_package_that_lacks_another_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "site" / "tapnet" / "torch"
    place.mkdir(parents=True)
    (place / "tapir_model.py").write_text("import einshape_that_is_not_there")
    weights = plugins.weights_folder() / plugins.Tapir.weights[0]
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(RetakeError, match="einshape_that_is_not_there"):
        trackers.create("tapir").follow([np.zeros((32, 32, 3), np.uint8)] * 2, ignore)
