"""What the artist points at is followed: through all frames, named, kept, and refused in words where it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from retake_backend.engines.base import Progress
from retake_backend.footage import FootageReader, write_video
from retake_backend.solve import clicking
from retake_backend.solve.masks import GivenMasks
from retake_backend.weights.store import MissingWeights, WeightStore
from retake_shared import archive, clicks
from retake_shared.clicks import MODEL, Click
from retake_shared.errors import BadShot
from retake_shared.shot import Footage

from tests.backend.solve.sample import quiet, random_store

WIDTH, HEIGHT, FRAMES = 192, 108, 30
FOOTAGE = Footage("clip.mp4", 2 * WIDTH, 2 * HEIGHT, Fraction(24), 200)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WeightStore:
    return random_store(tmp_path_factory.mktemp("models"), MODEL)


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.uint8]]:
    noise = np.random.default_rng(3).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    return [np.asarray(np.roll(soft, 3 * t, 1), np.uint8) for t in range(FRAMES)]


def test_an_object_is_where_the_stock_model_says(store: WeightStore, pictures: list[NDArray[np.uint8]]) -> None:
    """Frames made on demand and a memory that forgets change nothing: else long clips would not fit."""
    from transformers import Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    loader: Any = Sam2VideoModel
    model = loader.from_pretrained(store.place(MODEL), local_files_only=True).eval()
    side = model.config.image_size
    seen = [(cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) / 255 - clicking.MEAN) for p in pictures]
    video = torch.from_numpy((np.stack(seen) / clicking.SPREAD).astype(np.float32)).permute(0, 3, 1, 2)
    session = Sam2VideoInferenceSession(video=video, video_height=HEIGHT, video_width=WIDTH, dtype=torch.float32)
    for frame, x, y in ((8, 60.0, 50.0), (15, 90.0, 40.0)):
        at = torch.tensor([[[[x * side / WIDTH, y * side / HEIGHT]]]])
        told = {"point_coords": at, "point_labels": torch.ones((1, 1, 1), dtype=torch.int32)}
        session.add_point_inputs(session.obj_id_to_idx(1), frame, told)
        session.obj_with_new_inputs = [1]
        with torch.inference_mode():
            model(inference_session=session, frame_idx=frame)
    expected = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    with torch.inference_mode():
        for reverse in (False, True):
            for out in model.propagate_in_video_iterator(session, start_frame_idx=8, reverse=reverse):
                expected[out.frame_idx] = cv2.resize(out.pred_masks[0, 0].numpy(), (WIDTH, HEIGHT)) > 0
    assert 0 < expected.mean() < 1
    pointed = [Click(38, 60, 50, "ball"), Click(45, 90, 40, "ball")]
    found = clicking.follow(pointed, pictures, range(30, 60), (1.0, 1.0), quiet, store)
    np.testing.assert_array_equal(found.labels == 1, expected)
    assert found.names == {1: "ball"}


def test_clicks_of_one_name_are_one_object_and_others_their_own(
    store: WeightStore, pictures: list[NDArray[np.uint8]]
) -> None:
    pointed = [Click(2, 100, 60, "man"), Click(2, 300, 60), Click(4, 110, 62, "man"), Click(5, 40, 180, "dog")]
    told: list[Progress] = []
    found = clicking.follow(pointed, pictures[:6], range(6), (0.5, 0.5), told.append, store)
    assert found.names == {1: "man", 2: "object 2", 3: "dog"}
    assert found.labels.shape == (6, HEIGHT, WIDTH)
    assert [p.done for p in told] == list(range(1, 19))
    assert {p.total for p in told} == {18}
    said = " ".join(clicking.notes(found, pointed, store))
    assert "4 clicks" in said
    assert "random" in said


def test_masks_that_were_drawn_stay_and_clicked_ones_come_beside(
    store: WeightStore, pictures: list[NDArray[np.uint8]]
) -> None:
    drawn = np.zeros((4, HEIGHT // 2, WIDTH // 2), np.uint8)
    drawn[:, :20, :30] = 4
    given = GivenMasks(drawn, {4: "crowd"}, "masks of crowd")
    found = clicking.follow([Click(0, 90, 60, "ball")], pictures[:4], range(4), (1.0, 1.0), quiet, store, given)
    assert (found.labels[:, :40, :60] == 4).all()
    assert found.names == {4: "crowd", 5: "ball"}
    assert set(np.unique(found.labels)) <= {0, 4, 5}
    assert "masks of crowd" in found.source


def test_without_its_weights_it_says_what_they_are(tmp_path: Path, store: WeightStore) -> None:
    with pytest.raises(MissingWeights, match=r"156\.0 MB, Apache-2\.0.*retake models pull sam2\.1-tiny"):
        clicking.network(WeightStore(tmp_path))
    assert "random" in clicking.network(store)  # results of trials are not taken for real ones later


@pytest.mark.parametrize(
    ("click", "words"),
    [
        (Click(20, 384, 10), "384 x 216"),
        (Click(20, 10, 216), "384 x 216"),
        (Click(9, 10, 10), "frame 10"),
        (Click(120, 10, 10), "frame 98"),
        (Click(21, 10, 10), "frame 2"),
    ],
)
def test_a_click_that_leads_nowhere_is_refused_with_one_that_would(click: Click, words: str) -> None:
    with pytest.raises(BadShot) as error:
        clicking.check([click], FOOTAGE, range(10, 100, 2))
    assert words in str(error.value)
    clicking.check([Click(10, 0, 0), Click(98, 383.5, 215.5)], FOOTAGE, range(10, 100, 2))


@pytest.mark.parametrize(
    "text", ["12", "12,4", "a,1,2", "1,2,y", "-1,2,3", "1,nan,3", "1,2,-3", "1.5,2,3", "1,inf,2", ""]
)
def test_a_click_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadShot, match="--click"):
        clicks.parse(text)


@pytest.mark.parametrize("text", ["12,310.5,204", "0,0,0,ball", "7,1.25,3,man, the tall one"])
def test_a_click_is_written_as_it_is_read(text: str) -> None:
    assert str(clicks.parse(text)) == text


@pytest.fixture
def retake(store: WeightStore) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str | Path, models: Path = store.folder) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "retake_backend.cli", "solve", *map(str, words)]
        environ = {**os.environ, "RETAKE_MODELS": str(models)}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)

    return run


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, sample_shot: Path) -> Path:
    path = tmp_path_factory.mktemp("clip") / "walk.mp4"
    with FootageReader(sample_shot / "walk.mp4") as reader:
        small = (cv2.resize(reader.frame(4 * t), (320, 183), interpolation=cv2.INTER_AREA) for t in range(9))
        write_video(path, (np.asarray(p[:182], np.uint8) for p in small), Fraction(6), quality=6)
    return path


def test_the_command_line_names_what_was_clicked(retake: Any, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "solve.npz"
    words = (clip, "--out", out, "--click", "4,160,100,ball", "--click", "5,40,150", "--progress", "json")
    done = retake(*words)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ended = {line["part"]: line for line in told if line.get("ended")}
    assert told[0]["parts"] == ["points", "masks", "cameras", "objects", "depth", "world"]
    assert Path(ended["masks"]["picture"]) == tmp_path / "solve.stages" / "masks.png"
    assert set(archive.load_solve(out).object_names.values()) == {"background", "ball", "object 2"}
    notes = " ".join(json.loads(out.with_suffix(".report.json").read_text())["notes"])
    assert "2 clicks and followed by SAM 2.1 Tiny" in notes
    assert "random" in notes
    again = [json.loads(line) for line in retake(*words).stdout.splitlines() if line.startswith("{")]
    assert [line["kept"] for line in again if line.get("ended") and line["part"] in ("points", "masks")] == [True, True]


def test_the_command_line_says_what_a_click_needs_before_it_works(retake: Any, clip: Path, tmp_path: Path) -> None:
    done = retake(clip, "--out", tmp_path / "solve.npz", "--click", "4,160,100", models=tmp_path / "none")
    assert done.returncode == 2
    assert "sam2.1-tiny is not installed (156.0 MB, Apache-2.0)" in done.stderr
    assert not (tmp_path / "solve.stages").exists()
    done = retake(clip, "--out", tmp_path / "solve.npz", "--click", "4,160,1000")
    assert "320 x 182" in done.stderr
    done = retake(clip, "--out", tmp_path / "solve.npz", "--click", "4,160")
    assert "FRAME,X,Y" in done.stderr
