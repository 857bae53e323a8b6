"""Large footage is decoded once: a second solve reads its small pictures from where the first one kept them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from retake_backend.engines.base import Progress
from retake_backend.footage import FootageReader, write_video
from retake_backend.solve import proxy
from retake_backend.solve.pipeline import SolveSettings, solve_footage
from retake_shared import geometry
from retake_shared.errors import Cancelled

SIZE = (120, 80)


def ignore(_: Progress) -> None:
    pass


def large(index: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:320, 0:480]
    waves = 128 + 60 * np.sin((columns + 5 * index) / 40) + 50 * np.cos((rows - 3 * index) / 30)
    return np.repeat(waves[..., None], 3, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("footage") / "large.mp4"
    write_video(path, (large(i) for i in range(20)), 24)
    return path


def test_it_holds_the_chosen_frames(video: Path, tmp_path: Path) -> None:
    with FootageReader(video) as reader:
        chosen = range(2, 20, 3)
        made = proxy.pictures(reader, "a", chosen, SIZE, tmp_path, ignore)
        assert made.shape == (len(chosen), SIZE[1], SIZE[0], 3)
        for t, index in enumerate(chosen):
            scaled = cv2.resize(reader.frame(index), SIZE, interpolation=cv2.INTER_AREA)
            assert np.abs(made[t].astype(int) - scaled).max() <= 6
        with pytest.raises(ValueError, match="read-only"):
            made[0] = 0
    assert [f.suffix for f in tmp_path.iterdir()] == [".npy"]


def test_a_second_time_the_footage_is_not_read(video: Path, tmp_path: Path) -> None:
    with FootageReader(video) as reader:
        made = proxy.pictures(reader, "a", range(20), SIZE, tmp_path, ignore)
    told: list[Progress] = []
    again = proxy.pictures(reader, "a", range(20), SIZE, tmp_path, told.append)  # the reader is closed
    np.testing.assert_array_equal(again, made)
    assert not told


def test_other_footage_another_range_and_a_damaged_one_are_read_anew(video: Path, tmp_path: Path) -> None:
    with FootageReader(video) as reader:
        made = np.array(proxy.pictures(reader, "a", range(20), SIZE, tmp_path, ignore))
        part = proxy.pictures(reader, "a", range(5, 15), SIZE, tmp_path, ignore)
        np.testing.assert_array_equal(part, made[5:15])
        for name in ("b", "c", "d"):
            proxy.pictures(reader, name, range(20), SIZE, tmp_path, ignore)
        kept = list(tmp_path.iterdir())
        assert len(kept) == 2  # the oldest are removed
        newest = max(kept, key=lambda f: f.stat().st_mtime)
        newest.write_bytes(newest.read_bytes()[:5000])
        np.testing.assert_array_equal(proxy.pictures(reader, "d", range(20), SIZE, tmp_path, ignore), made)


def test_stopping_leaves_nothing_behind(video: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 3:
            raise Cancelled

    with FootageReader(video) as reader, pytest.raises(Cancelled):
        proxy.pictures(reader, "a", range(20), SIZE, tmp_path, stop)
    assert not list(tmp_path.iterdir())


def test_only_large_footage_of_a_bearable_length_has_one() -> None:
    assert proxy.worth(3840, 2160, (672, 378), 1000)
    assert not proxy.worth(672, 378, (672, 378), 81)
    assert not proxy.worth(3840, 2160, (672, 378), 5000)  # 3.8 GB


@pytest.fixture(scope="module")
def large_shot(tmp_path_factory: pytest.TempPathFactory, sample_shot: Path) -> Path:
    """The sample shot, every eighth frame, at twice its size: large enough for a proxy."""
    path = tmp_path_factory.mktemp("shot") / "large.mp4"
    with FootageReader(sample_shot / "walk.mp4") as reader:
        wide = (cv2.resize(reader.frame(8 * t), (1344, 768), interpolation=cv2.INTER_CUBIC) for t in range(7))
        write_video(path, (np.asarray(p, np.uint8) for p in wide), 2, quality=8)
    return path


def test_a_solve_of_large_footage_reads_it_once_and_agrees_with_one_without(
    large_shot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with FootageReader(large_shot) as reader:
        through = solve_footage(reader, SolveSettings(), tmp_path / "a", lambda p: told.append(p.stage)).solve
    (kept,) = (tmp_path / "a").glob("proxy-*.npy")
    assert kept.stat().st_size == pytest.approx(7 * 672 * 384 * 3, abs=200)
    assert told.count("reading footage") > 7

    # Another lens asks for the pictures again: from the proxy, whatever has become of the video meanwhile.
    with FootageReader(large_shot) as reader:
        monkeypatch.setattr(reader, "frame", None)
        monkeypatch.setattr(reader, "small_frames", None)
        solve_footage(reader, SolveSettings(fov=50), tmp_path / "a", ignore)
    monkeypatch.setattr(proxy, "worth", lambda *_: False)
    with FootageReader(large_shot) as reader:
        direct = solve_footage(reader, SolveSettings(), tmp_path / "b", ignore).solve
    assert not list((tmp_path / "b").glob("proxy-*"))
    assert len(through.tracks) == pytest.approx(len(direct.tracks), rel=0.05)
    np.testing.assert_allclose(through.cameras.K[:, 0, 0], direct.cameras.K[:, 0, 0], rtol=0.02)
    turns = [geometry.invert_rigid(s.cameras.c2w[0])[:3, :3] @ s.cameras.c2w[:, :3, :3] for s in (through, direct)]
    angle = np.degrees(
        np.arccos(np.clip((np.trace(turns[0] @ np.swapaxes(turns[1], 1, 2), axis1=1, axis2=2) - 1) / 2, -1, 1))
    )
    assert angle.max() < 0.3
