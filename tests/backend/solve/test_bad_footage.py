"""Footage that no solver can make sense of, or hardly: an answer in words, in time, and never a green light by mistake."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from retake_backend.engines.base import Progress
from retake_backend.footage import FootageReader
from retake_backend.solve.pipeline import Solved, SolveSettings, refused, solve_footage
from retake_backend.solve.report import SolveReport
from retake_shared.errors import RetakeError

WIDTH, HEIGHT, FRAMES = 320, 180, 24
LIMIT = 60
"""Seconds of the process's own time that an answer may take; what ends well takes a few."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """What a user is told. solved: None where there is no solve. frames: that the footage holds."""

    report: SolveReport
    solved: Solved | None
    frames: int

    @property
    def words(self) -> str:
        return "\n".join(self.report.words())


def written(path: Path, pictures: Iterable[Picture], rotation: int = 0, **options: str) -> Path:
    """H.264 at 24 frames a second; options: of the container."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "12", "preset": "veryfast"})
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 24)
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def ask(path: Path) -> Answer:
    """Solve the clip as the command does: a solve with its report, or the report of why there is none."""
    began = time.process_time()

    def in_time(_: Progress) -> None:
        assert time.process_time() - began < LIMIT

    frames = 0
    try:
        with FootageReader(path) as reader:
            frames = reader.footage.frames
            try:
                solved = solve_footage(reader, SolveSettings(), path.with_suffix(".stages"), in_time)
            except RetakeError as error:
                return Answer(refused(error, reader.footage, SolveSettings()), None, frames)
    except RetakeError as error:
        return Answer(SolveReport("red", (str(error),), error=str(error)), None, frames)
    finally:
        assert time.process_time() - began < LIMIT
        assert threading.active_count() < 20
    return Answer(solved.report, solved, frames)


def gray(plane: NDArray) -> Picture:
    return np.repeat(np.clip(plane, 0, 255).astype(np.uint8)[..., None], 3, 2)


def texture(seed: int, height: int, width: int, finest: float = 1.2) -> NDArray[np.float32]:
    """A wall with detail at every scale, mean 128."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width)).astype(np.float32)
    soft = sum(cv2.GaussianBlur(noise, (0, 0), finest * 2**k) * 2**k for k in range(4))
    return np.asarray(128 + 45 * soft / np.std(soft), np.float32)


def walls(seed: int = 1, frames: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> Iterator[Picture]:
    """Two walls, the nearer one twice as near, and a camera that goes sideways past them: nothing tells the lens."""
    far = texture(seed, height, width + 4 * frames)
    near = texture(seed + 100, height, width + 8 * frames)
    for t in range(frames):
        picture = far[:, 3 * t : 3 * t + width].copy()
        top, left = int(0.55 * height), 6 * t
        picture[top:, width // 4 : 3 * width // 4] = near[top:, left + width // 4 : left + 3 * width // 4]
        yield gray(picture)


def noise() -> Iterator[Picture]:
    random = np.random.default_rng(0)
    for _ in range(FRAMES):
        yield gray(random.integers(0, 256, (HEIGHT, WIDTH)))


def screen_recording() -> Iterator[Picture]:
    """A page of text that scrolls between two bars that do not, with a pointer on its way."""
    page = np.full((HEIGHT * 4, WIDTH, 3), 250, np.uint8)
    random = np.random.default_rng(3)
    for line in range(12, len(page), 12):
        words = "".join(random.choice(list("abcdefgh  mnorstu"), 44))
        cv2.putText(page, words, (74, line), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (30, 30, 30), 1, cv2.LINE_AA)
    for t in range(FRAMES):
        picture = page[7 * t : 7 * t + HEIGHT].copy()
        picture[:24] = (60, 90, 160)
        picture[:, :64] = (225, 225, 230)
        for row in range(5):
            cv2.putText(picture, f"item {row}", (6, 44 + 18 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (60, 60, 60), 1)
        cv2.putText(picture, "File  Edit  View  Help", (8, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
        cv2.circle(picture, (100 + 6 * t, 60 + 3 * t), 4, (0, 0, 0), -1)
        yield picture


def water(pace: float) -> Iterator[Picture]:
    """Waves of many directions and speeds, near ones larger, over the whole picture."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    depth = 1 / (0.25 + y / HEIGHT)
    across, along = (x - WIDTH / 2) * depth, 260 * depth
    waves = [(random.uniform(0, 2 * np.pi), random.uniform(6, 60), random.uniform(0, 6.3)) for _ in range(48)]
    for t in range(FRAMES):
        height = np.zeros_like(x)
        for direction, length, phase in waves:
            k = 2 * np.pi / length
            speed = pace * np.sqrt(k)
            way = np.cos(direction) * across + np.sin(direction) * along
            height += np.sqrt(length) * np.sin(k * way - speed * t + phase)
        yield gray(128 + 45 * height / height.std())


def test_noise_is_called_noise(tmp_path: Path) -> None:
    answer = ask(written(tmp_path / "noise.mp4", noise()))
    assert answer.solved is None
    assert "noise" in answer.words


def test_black_footage_is_called_black(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    grain = (gray(random.normal(14, 1.0, (HEIGHT, WIDTH))) for _ in range(FRAMES))  # as a sensor sees the dark
    answer = ask(written(tmp_path / "black.mp4", grain))
    assert answer.solved is None
    assert "black" in answer.words


def test_a_still_picture_made_a_video_is_called_frozen(tmp_path: Path) -> None:
    answer = ask(written(tmp_path / "frozen.mp4", [next(walls())] * FRAMES))
    assert answer.solved is None
    assert "frozen" in answer.words


def test_two_frames_are_too_few(tmp_path: Path) -> None:
    answer = ask(written(tmp_path / "two.mp4", walls(frames=2)))
    assert answer.solved is None
    assert "2 frames" in answer.words
    assert "at least" in answer.words


def test_a_cut_in_the_middle_offers_both_scenes(tmp_path: Path) -> None:
    """Both scenes move, and their brightness is alike: only what they show differs."""
    answer = ask(written(tmp_path / "cut.mp4", [*walls(1, 12), *walls(2, 14)]))
    assert answer.solved is None
    assert answer.report.split == ((0, 12), (12, 26))
    assert "--frames 0:12 or --frames 12:26" in answer.words


def test_a_scrolling_page_is_no_scene_with_depth(tmp_path: Path) -> None:
    """Nothing in a screen recording has a camera; a solve of it must not be offered as a good one."""
    answer = ask(written(tmp_path / "screen.mp4", screen_recording()))
    assert answer.report.light != "green", answer.words
    assert answer.report.kind != "moving", answer.words


def test_a_page_that_only_a_pointer_crosses_is_not_solved_as_good(tmp_path: Path) -> None:
    page = next(screen_recording())
    at = [(90 + 8 * t, 60 + 3 * t) for t in range(FRAMES)]
    frames = [np.asarray(cv2.circle(page.copy(), place, 4, (0, 0, 0), -1), np.uint8) for place in at]
    answer = ask(written(tmp_path / "pointer.mp4", frames))
    assert answer.report.light != "green", answer.words
    assert answer.report.kind in ("", "static"), answer.words


@pytest.mark.parametrize("pace", [0.5, 1.5])
def test_water_everywhere_is_never_a_good_solve(tmp_path: Path, pace: float) -> None:
    answer = ask(written(tmp_path / "water.mp4", water(pace)))
    assert answer.report.light != "green", answer.words


def test_footage_of_8k_is_answered_in_time(tmp_path: Path) -> None:
    large = (np.asarray(cv2.resize(frame, (7680, 4320)), np.uint8) for frame in walls(frames=6))
    answer = ask(written(tmp_path / "huge.mp4", large))
    assert answer.frames == 6
    assert answer.report.light != "green"  # six frames are too few to be sure of
    if answer.solved is not None:
        cameras = answer.solved.solve.cameras
        assert (cameras.width, cameras.height) == (7680, 4320)


def test_hours_of_footage_are_refused_with_ranges(tmp_path: Path) -> None:
    frame = next(walls(width=64, height=36))
    answer = ask(written(tmp_path / "long.mp4", (np.roll(frame, t, 1) for t in range(1600))))
    assert answer.solved is None
    assert "1600 frames" in answer.words
    assert "--frames 0:500" in answer.words


def test_a_damaged_tail_leaves_what_is_before_it(tmp_path: Path) -> None:
    path = written(tmp_path / "tail.mp4", walls(frames=30), movflags="faststart")
    data = bytearray(path.read_bytes())
    begin = int(0.75 * len(data))
    data[begin:] = np.random.default_rng(0).integers(0, 256, len(data) - begin, np.uint8).tobytes()
    path.write_bytes(data)
    answer = ask(path)
    assert answer.solved is not None, answer.words
    assert 10 < len(answer.solved.solve) == answer.frames < 30
    assert any("damaged" in note for note in answer.report.notes), answer.words


def test_a_file_that_was_cut_off_while_written_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "cut_off.mp4", walls(frames=8))
    path.write_bytes(path.read_bytes()[:-2000])
    answer = ask(path)
    assert answer.solved is None
    assert "cut_off.mp4" in answer.words


def test_a_phone_held_upright_is_solved_as_it_is_seen(tmp_path: Path) -> None:
    """The file holds a lying picture and a flag; the solve is that of the upright one, to the pixel."""
    lying = (np.rot90(frame, 1) for frame in walls(width=HEIGHT, height=WIDTH))
    answer = ask(written(tmp_path / "phone.mp4", lying, rotation=-90))
    assert answer.solved is not None, answer.words
    solve = answer.solved.solve
    assert (solve.cameras.width, solve.cameras.height) == (HEIGHT, WIDTH)
    assert answer.report.kind == "moving"
    uv, depth = solve.cameras.project(solve.tracks.positions)
    seen = solve.tracks.visibility & (depth > 0)
    step = np.diff(uv, axis=0)[seen[1:] & seen[:-1]]
    # The walls pass to the left, three and six px a frame, whatever way the file holds them.
    assert np.median(np.abs(step[:, 1])) < 0.1
    assert -6.2 < np.median(step[:, 0]) < -2.8


def test_a_focal_length_that_nothing_tells_is_no_green_light(tmp_path: Path) -> None:
    report = ask(written(tmp_path / "walls.mp4", walls())).report
    assert report.light != "green"
    assert any("focal length" in reason for reason in report.reasons), report.reasons
