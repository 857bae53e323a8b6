"""`retake evaluate` as a user runs it: engines side by side on a set, what fails is named, a second run goes on."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from retake_backend import cli
from retake_backend.engines.base import RenderedFrame, RenderRequest, Report
from retake_backend.engines.preview import PreviewEngine
from retake_backend.evaluation import control, measuring, networks
from retake_backend.evaluation.picture import psnr
from retake_backend.evaluation.sets import Item
from retake_backend.footage import write_png
from retake_shared import archive
from retake_shared.errors import Cancelled
from retake_shared.shot import frame_name, holes_name

from tests.backend.evaluation.tiny import FRAMES, tiny_pair


class BreakingEngine:
    """Gives one frame, then fails, as engines do when memory runs out."""

    name, version = "breaking", "1"

    def notes(self) -> tuple[str, ...]:
        return ()

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        picture = request.footage.frame(0)
        yield RenderedFrame(0, picture, np.zeros(picture.shape[:2], np.uint8))
        raise RuntimeError("out of memory, as it were")


class CountingEngine:
    """A copy that counts how often it was asked."""

    name, version = "counting", "1"
    asked = 0
    stop_at: int | None = None

    def notes(self) -> tuple[str, ...]:
        return ()

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        type(self).asked += 1
        for t in range(len(request.solve)):
            if t == self.stop_at:
                raise Cancelled
            yield RenderedFrame(t, request.footage.frame(t), np.zeros(request.footage.frame(t).shape[:2], np.uint8))


def write_examples(folder: Path, names: tuple[str, ...] = ("one",), step: float = 0.0) -> Path:
    """A set as a user lays it out: a folder an example. step 0: the edit holds the camera still, which spares the
    search for its path."""
    pair = tiny_pair(step=step)
    for name in names:
        for kind in ("source", "target"):
            (folder / name / kind).mkdir(parents=True)
            for t, picture in enumerate(getattr(pair, kind)):
                write_png(folder / name / kind / f"{t:03d}.png", picture)
        archive.save(folder / name / "solve.npz", pair.solve)
        archive.save(folder / name / "edit.npz", pair.edit)
    return folder


@pytest.fixture(autouse=True)
def _own_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    classes = ("BreakingEngine", "CountingEngine")
    monkeypatch.setenv("RETAKE_ENGINES", " ".join(f"{__name__}:{name}" for name in classes))
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(CountingEngine, "asked", 0)
    monkeypatch.setattr(CountingEngine, "stop_at", None)


def evaluate(folder: Path | str, out: Path, *engines: str, more: tuple[str, ...] = ()) -> int:
    asked = [word for engine in engines for word in ("--engine", engine)]
    return cli.main(["evaluate", "--set", str(folder), *asked, "--out", str(out), *more])


def report_of(out: Path) -> dict:
    content: dict = json.loads((out / "report.json").read_text())
    return content


def test_preview_and_copy_on_a_tiny_set(tmp_path: Path) -> None:
    folder, out = write_examples(tmp_path / "set", step=0.2), tmp_path / "out"
    assert evaluate(folder, out, "preview", "smooth", "copy") == 0
    table = report_of(out)["table"]
    pair = tiny_pair()
    expected = [psnr(a, b) for a, b in zip(pair.source, pair.target, strict=True)]
    curve = [float(value) for value in report_of(out)["items"]["one"]["copy"]["psnr"]]
    assert curve == pytest.approx(expected)
    assert curve[0] == np.inf  # both cameras begin at one place; the mean over the clip must not become infinite
    assert table["copy"]["psnr"] == pytest.approx(np.mean([measuring.EQUAL, *expected[1:]]))
    assert report_of(out)["items"]["one"]["preview"]["psnr"][-1] > curve[-1] + 3
    assert table["preview"]["ssim"] > table["copy"]["ssim"]
    assert table["preview"]["epe_proven"] < table["copy"]["epe_proven"] / 2
    assert table["smooth"]["psnr_outside"] == table["preview"]["psnr_outside"]
    assert table["smooth"]["psnr_holes"] != table["preview"]["psnr_holes"]
    assert table["truth"]["epe_proven"] < 1
    assert table["truth"]["camera_failed"] == 0
    assert table["truth"]["rot_track2view"] < 0.5

    left_out = report_of(out)["left_out"]
    assert left_out.keys() >= {"LPIPS", "mLPIPS", "FVD", "CLIP-T", "CLIP-F", "CLIP-V", "Mat.Pix"}
    text = (out / "table.md").read_text()
    assert "left out: FVD" in text
    assert "| PSNR (dB) |" in text
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4 * 5  # source, truth and three takes
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # one file: nothing is fetched


def test_what_is_rendered_is_not_rendered_again_unless_its_inputs_change(tmp_path: Path) -> None:
    folder, out = write_examples(tmp_path / "set"), tmp_path / "out"
    assert evaluate(folder, out, "counting") == 0
    first = (out / "table.md").read_text()
    assert evaluate(folder, out, "counting") == 0
    assert CountingEngine.asked == 1
    assert (out / "table.md").read_text() == first
    evaluate(folder, out, "counting", more=("--seed", "3"))
    assert CountingEngine.asked == 2
    (out / "items" / "one" / "counting" / frame_name(2)).unlink()
    evaluate(folder, out, "counting", more=("--seed", "3"))
    assert CountingEngine.asked == 3


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = write_examples(tmp_path / "set", ("one", "two")), tmp_path / "out"
    evaluate(folder, out, "counting", more=("--limit", "1"))
    monkeypatch.setattr(CountingEngine, "stop_at", 3)
    assert evaluate(folder, out, "counting") == 130
    assert not (out / "items" / "two" / "counting").exists()
    monkeypatch.setattr(CountingEngine, "stop_at", None)
    assert evaluate(folder, out, "counting") == 0
    assert CountingEngine.asked == 3  # the first item once, the second twice
    assert report_of(out)["table"]["counting"]["items"] == 2


def test_a_run_that_is_stopped_while_it_measures_ends_and_calls_nothing_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_examples(tmp_path / "set"), tmp_path / "out"

    def stopped(*_: object) -> None:
        raise Cancelled

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "measure", stopped)
        assert evaluate(folder, out, "copy") == 130
    assert not (out / "report.json").exists()
    assert evaluate(folder, out, "copy") == 0


def test_an_engine_that_fails_is_counted_and_named_and_the_others_go_on(tmp_path: Path) -> None:
    folder, out = write_examples(tmp_path / "set"), tmp_path / "out"
    assert evaluate(folder, out, "breaking", "copy") == 1
    report = report_of(out)
    assert report["failures"] == [
        {"item": "one", "engine": "breaking", "error": "RuntimeError: out of memory, as it were"}
    ]
    assert report["table"]["breaking"]["failed"] == ["one"]
    assert report["table"]["breaking"]["items"] == 0
    assert report["table"]["copy"]["items"] == 1
    assert "out of memory" in (out / "report.html").read_text()
    assert "failed: one, breaking" in (out / "table.md").read_text()


@pytest.mark.parametrize("damage", ["cut", "gone", "short"])
def test_a_damaged_item_is_named_and_the_rest_measured(tmp_path: Path, damage: str) -> None:
    folder, out = write_examples(tmp_path / "set", ("good", "ill")), tmp_path / "out"
    if damage == "cut":
        path = folder / "ill" / "solve.npz"
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "gone":
        shutil.rmtree(folder / "ill" / "target")
    else:
        (folder / "ill" / "target" / f"{FRAMES - 1:03d}.png").unlink()
    assert evaluate(folder, out, "copy") == 1
    report = report_of(out)
    assert [failure["item"] for failure in report["failures"]] == ["ill"]
    assert report["table"]["copy"]["items"] == 1


def test_a_take_that_was_damaged_later_is_named(tmp_path: Path) -> None:
    folder, out = write_examples(tmp_path / "set"), tmp_path / "out"
    evaluate(folder, out, "copy")
    (out / "items" / "one" / "copy" / frame_name(1)).write_bytes(b"no picture")
    assert evaluate(folder, out, "copy") == 1
    assert "frame_00001.png" in report_of(out)["failures"][0]["error"]


def test_holes_that_were_damaged_later_cost_what_needs_them_and_are_made_again_when_gone(tmp_path: Path) -> None:
    folder, out = write_examples(tmp_path / "set"), tmp_path / "out"
    assert evaluate(folder, out, "copy") == 0
    assert "psnr_outside" in report_of(out)["table"]["copy"]
    hole = out / "items" / "one" / "preview" / holes_name(1)
    hole.write_bytes(b"no picture")
    (out / "items" / "one" / "copy.json").unlink()
    (out / "items" / "one" / "truth.json").unlink()
    assert evaluate(folder, out, "copy") == 1
    assert {failure["engine"] for failure in report_of(out)["failures"]} == {"copy", "truth"}
    assert holes_name(1) in report_of(out)["failures"][0]["error"]
    hole.unlink()
    assert evaluate(folder, out, "copy") == 0


def test_what_was_measured_without_holes_is_measured_again_when_they_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_examples(tmp_path / "set"), tmp_path / "out"

    def broken(*_: object) -> Iterator[RenderedFrame]:
        raise RuntimeError("no memory left for the preview")

    with monkeypatch.context() as without:
        without.setattr(PreviewEngine, "render", broken)
        assert evaluate(folder, out, "copy") == 0
    assert report_of(out)["items"]["one"]["copy"]["values"].keys().isdisjoint({"psnr_holes", "psnr_outside"})
    assert evaluate(folder, out, "copy") == 0
    assert "psnr_outside" in report_of(out)["items"]["one"]["copy"]["values"]


@pytest.mark.parametrize(
    ("engines", "more", "words"),
    [
        (("nobody",), (), 'no engine "nobody"'),
        (("copy", "copy"), (), "twice"),
        (("copy",), ("--limit", "0"), "--limit"),
        (("copy",), ("--option", "fill=none"), "none of the engines has it"),
        (("preview",), ("--option", "fill=blue"), "fill"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_rendered(
    tmp_path: Path, engines: tuple[str, ...], more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_examples(tmp_path / "set"), tmp_path / "out"
    assert evaluate(folder, out, *engines, more=more) == 2
    assert words in capsys.readouterr().err
    assert not (out / "report.json").exists()


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    folder, out = write_examples(tmp_path / "set"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert evaluate(folder, out, "copy") == 2
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


# --- one clip ---


def measured(video: np.ndarray, item: Item, holes: np.ndarray | None = None) -> dict[str, float]:
    known = measuring.look_at(item, holes, lambda: None)
    return measuring.measure(video, known, networks.Networks(), lambda: None).values


def test_holes_and_the_rest_are_told_apart() -> None:
    pair = tiny_pair()
    video, holes = pair.target.copy(), np.zeros(pair.target.shape[:3], bool)
    holes[:, :20, :30] = True
    video[:, :10, :10] = 0
    found = measured(video, Item(pair), holes)
    assert found["psnr_outside"] == measuring.EQUAL
    assert found["psnr_holes"] == pytest.approx(
        np.mean([psnr(v, t, h) for v, t, h in zip(video, pair.target, holes, strict=True)])
    )
    assert found["psnr_holes"] < found["psnr"]


def test_covisible_measures_are_there_when_the_set_says_what_is() -> None:
    pair = tiny_pair()
    assert "mssim" not in measured(pair.source, Item(pair))
    found = measured(pair.source, Item(pair, covisible=np.ones(pair.target.shape[:3], bool)))
    assert found["mssim"] == pytest.approx(found["ssim"], abs=1e-9)
    assert found["mpsnr"] == pytest.approx(found["psnr"])


def test_without_a_truth_only_what_needs_none_is_measured() -> None:
    pair = tiny_pair()
    found = measured(pair.source, Item(pair, truth=False))
    assert "psnr" not in found
    assert found["epe"] > 1


def test_a_video_that_stands_still_where_tracks_move_is_off_by_their_motion() -> None:
    """The wall's tracks go 4 px a frame to the left (0.2 units at 4 units, 80 px): a still picture misses them by that."""
    pair = tiny_pair()
    wanted = control.targets(pair.edit, pair.size)
    still = np.repeat(pair.target[:1], FRAMES, 0)
    distance, _ = control.retrack(still, wanted, lambda: None)
    begun = wanted.compared & (wanted.first == 0)
    for t in range(1, FRAMES):
        where = begun & (np.arange(FRAMES)[:, None] == t)
        assert control.epe(distance, where) == pytest.approx(4 * t, abs=0.3)


def test_a_black_video_has_no_camera_and_misses_the_tracks_by_their_motion() -> None:
    pair = tiny_pair()
    black = np.zeros_like(pair.target)
    found = measured(black, Item(pair))
    assert found["epe"] > 4
    assert found["camera_failed"] == 100
    assert "ate" not in found


def test_a_track_behind_a_nearer_one_is_taken_to_be_hidden() -> None:
    pair = tiny_pair()
    positions = pair.edit.positions.copy()
    positions[:, 40] *= 0.5  # half as far, on the same ray of the first camera
    behind = pair.edit.positions[:, 40:41]
    edit = replace(
        pair.edit,
        positions=np.concatenate([positions, behind], 1),
        present=np.ones((FRAMES, positions.shape[1] + 1), bool),
        source_track=np.append(pair.edit.source_track, 40),
        source_frame=np.repeat(np.arange(FRAMES, dtype=np.float32)[:, None], positions.shape[1] + 1, 1),
        objects=np.append(pair.edit.objects, 0),
    )
    wanted = control.targets(edit, pair.size)
    at = np.linalg.norm(wanted.uv[0] - edit.cameras.project(behind)[0][0, 0], axis=1) < 1e-6
    assert at.sum() >= 1  # the near one, and the far one where the cameras later see past it
    assert wanted.visible[0, at].sum() == 1
