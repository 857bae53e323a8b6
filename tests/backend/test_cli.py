"""`retake render`, `compare` and `doctor` as a user calls them: what they write, and what they say of bad input."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from retake_backend import cli, footage
from retake_backend.weights import shipped
from retake_shared import archive
from retake_shared.shot import Cameras, Edit, Solve, Tracks

FRAMES, WIDTH, HEIGHT = 5, 64, 48
IDENTITY = {"retake_edit": 1}
ORBIT = {"retake_edit": 1, "camera": [{"move": "orbit", "degrees": 4, "frames": [0, FRAMES]}]}


def make_solve(frames: int = FRAMES) -> Solve:
    """A textured wall 4 units away, seen by a camera that does not move; one object, "post", in front of it."""
    K = np.array([[60.0, 0, WIDTH / 2], [0, 60.0, HEIGHT / 2], [0, 0, 1]])
    x, y = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-1.5, 1.5, 7))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, 4.0)], 1)
    objects = (np.abs(points[:, 0]) < 0.3).astype(np.int32)
    points[objects == 1, 2] = 3.5
    cameras = Cameras(np.tile(np.eye(4), (frames, 1, 1)), np.tile(K, (frames, 1, 1)), WIDTH, HEIGHT)
    tracks = Tracks.make(np.tile(points, (frames, 1, 1)), objects=objects)
    return Solve(cameras, tracks, object_names={1: "post"})


def write_clip(path: Path, frames: int = FRAMES) -> Path:
    picture = cv2.resize(np.random.default_rng(1).integers(0, 255, (12, 16, 3), np.uint8), (WIDTH, HEIGHT))
    footage.write_video(path, [picture] * frames, Fraction(16))
    return path


@pytest.fixture(autouse=True)
def own_engines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETAKE_ENGINES", raising=False)


@pytest.fixture
def shot(tmp_path: Path) -> Path:
    """A folder with clip.mp4, solve.npz and edit.json; its name has what real folders have."""
    folder = tmp_path / "Übung 映像 shot"
    folder.mkdir()
    write_clip(folder / "clip.mp4")
    archive.save(folder / "solve.npz", make_solve())
    (folder / "edit.json").write_text(json.dumps(ORBIT))
    return folder


def render(shot: Path, *more: object, footage: object = None, solve: object = None, edit: object = None) -> int:
    inputs = ("--footage", footage or shot / "clip.mp4", "--solve", solve or shot / "solve.npz")
    words = ["render", *inputs, "--edit", edit or shot / "edit.json", "--out", shot / "take", *more]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return cli.main([str(word) for word in words])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pixels(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name.endswith(".png")}


def test_a_take_holds_its_frames_and_all_that_repeats_it(shot: Path) -> None:
    assert render(shot, "--seed", 7) == 0
    take = files(shot / "take")
    expected = {f"{kind}_{i:05d}.png" for kind in ("frame", "holes") for i in range(FRAMES)}
    assert set(take) == expected | {"take.json", "solve.npz", "edit.npz"}
    described = json.loads(take["take.json"])
    assert described["settings"]["seed"] == 7
    assert described["frames"] == [0, FRAMES]
    assert described["footage_sha256"] == footage.sha256(shot / "clip.mp4")
    assert described["edit_sha256"] == footage.sha256(shot / "take" / "edit.npz")
    assert [path.name for path in shot.iterdir() if path.suffix == ".part"] == []


def test_an_edit_of_nothing_gives_the_footage_itself(shot: Path) -> None:
    (shot / "edit.json").write_text(json.dumps(IDENTITY))
    assert render(shot) == 0
    with footage.FootageReader(shot / "clip.mp4") as reader:
        for i in range(FRAMES):
            png = cv2.imdecode(np.frombuffer((shot / "take" / f"frame_{i:05d}.png").read_bytes(), np.uint8), 1)
            np.testing.assert_array_equal(png[..., ::-1], reader.frame(i))


def test_a_take_is_repeated_from_its_own_folder_to_the_byte(shot: Path) -> None:
    assert render(shot) == 0
    again = ["render", "--take", str(shot / "take"), "--footage", str(shot / "clip.mp4"), "--out", str(shot / "again")]
    assert cli.main(again) == 0
    assert pixels(shot / "again") == pixels(shot / "take")
    for name in ("solve.npz", "edit.npz"):
        assert (shot / "again" / name).read_bytes() == (shot / "take" / name).read_bytes()


# An engine that uses a first frame, without weights: it shows it once in place of every frame.
SHOWING = """
import numpy as np
from retake_backend.engines.base import RenderedFrame

class ShowingEngine:
    name, version = "showing", "1"

    def render(self, request, report):
        start, stop = request.settings.frame_range(request.solve)
        for index in range(start, stop):
            yield RenderedFrame(index, request.first_frame, np.zeros(request.first_frame.shape[:2], np.uint8))

    def notes(self):
        return ()
"""


@pytest.fixture
def showing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "showing_engine.py").write_text(SHOWING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RETAKE_ENGINES", "showing_engine:ShowingEngine")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_an_edited_first_frame_lies_beside_the_take_and_makes_it_again(shot: Path, showing: None, suffix: str) -> None:
    first = shot / f"first edit{suffix}"
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    first.write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    assert render(shot, "--engine", "showing", "--first-frame", first) == 0
    kept = shot / "take" / "first_frame.png"
    assert (kept.read_bytes() == first.read_bytes()) == (suffix == ".png")
    np.testing.assert_array_equal(footage.read_image(kept), footage.read_image(first))
    described = json.loads((shot / "take" / "take.json").read_text())
    assert described["first_frame_sha256"] == footage.sha256(kept)
    first.unlink()
    again = ["render", "--take", str(shot / "take"), "--footage", str(shot / "clip.mp4"), "--out", str(shot / "again")]
    assert cli.main(again) == 0
    assert pixels(shot / "again") == pixels(shot / "take")
    assert cli.main([*again, "--engine", "preview"]) == 0  # which does not look at it
    assert not (shot / "again" / "first_frame.png").exists()
    kept.write_bytes(b"another")
    assert cli.main(again) == 2


def test_a_first_frame_that_is_none_or_that_nobody_looks_at_is_refused(
    shot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = shot / "cut.png"
    cut.write_bytes(footage.encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8))[:60])
    use = ("--engine", "trajectory-attention", "--option", "use=first-frame")
    for wrong in (shot / "clip.mp4", shot / "nowhere.png", shot, cut):
        assert render(shot, *use, "--first-frame", wrong) == 2
        told = capsys.readouterr().err
        assert str(wrong) in told
        assert "Choose a picture of the first frame" in told
    good = shot / "good.png"
    footage.write_png(good, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for engine in (("--engine", "preview"), use[:2]):
        assert render(shot, *engine, "--first-frame", good) == 2
        assert "--option use=first-frame" in capsys.readouterr().err
    assert not (shot / "take").exists()


def test_other_footage_is_not_taken_for_a_takes_own(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(shot) == 0
    other = write_clip(shot / "other.mp4", FRAMES + 1)
    assert cli.main(["render", "--take", str(shot / "take"), "--footage", str(other), "--out", str(shot / "x")]) == 2
    assert "not the footage of this take" in capsys.readouterr().err


def test_range_and_size_are_as_asked_and_numbered_as_in_the_footage(shot: Path) -> None:
    assert render(shot, "--frames", "2:4", "--size", "32x24") == 0
    frames = sorted(path.name for path in (shot / "take").glob("frame_*.png"))
    assert frames == ["frame_00002.png", "frame_00003.png"]
    data = (shot / "take" / frames[0]).read_bytes()
    assert cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (24, 32, 3)


def test_an_edit_archive_renders_as_the_moves_it_came_from(shot: Path) -> None:
    assert render(shot) == 0
    first = pixels(shot / "take")
    assert render(shot, edit=shot / "take" / "edit.npz", solve=shot / "take" / "solve.npz", footage=None) == 0
    assert pixels(shot / "take") == first


def test_a_take_is_replaced_and_nothing_else_is(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(shot) == 0
    assert render(shot, "--frames", "0:2") == 0
    assert len(pixels(shot / "take")) == 4
    mine = shot / "holiday"
    mine.mkdir()
    (mine / "photo.jpg").write_bytes(b"mine")
    assert render(shot, "--out", mine) == 2
    assert "is not a take" in capsys.readouterr().err
    assert files(mine) == {"photo.jpg": b"mine"}
    assert render(shot, "--out", shot / "clip.mp4") == 2
    assert (shot / "clip.mp4").stat().st_size > 500


def pickled(path: Path) -> Path:
    np.savez(path, coords=np.array([{"an": "object"}], dtype=object))
    return path


def truncated(path: Path) -> Path:
    archive.save(path, make_solve())
    path.write_bytes(path.read_bytes()[:-400])
    return path


def other_length(path: Path) -> Path:
    archive.save(path, make_solve(FRAMES + 3))
    return path


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path


def text(content: str):
    def write(path: Path) -> Path:
        path.write_text(content)
        return path

    return write


BAD_INPUTS = {
    "solve truncated": ("solve", "s.npz", truncated, "s.npz"),
    "solve pickled": ("solve", "s.npz", pickled, "s.npz"),
    "solve of another length": ("solve", "s.npz", other_length, "frames"),
    "solve is text": ("solve", "s.npz", text("hello"), "s.npz"),
    "solve missing": ("solve", "s.npz", Path, "s.npz"),
    "footage is text": ("footage", "f.mp4", text("hello"), "f.mp4"),
    "footage without pictures": ("footage", "f.mp4", sound_only, "f.mp4"),
    "footage missing": ("footage", "f.mp4", Path, "f.mp4"),
    "edit is no JSON": ("edit", "e.json", text("{"), "e.json"),
    "edit nests without end": ("edit", "e.json", text("[" * 200_000), "e.json"),
    "edit of an unknown object": (
        "edit",
        "e.json",
        text('{"retake_edit": 1, "objects": [{"object": "zebra", "remove": true}]}'),
        "zebra",
    ),
    "edit is a solve": ("edit", "e.npz", lambda path: archive.save(path, make_solve()) or path, "e.npz"),
    "edit archive pickled": ("edit", "e.npz", pickled, "e.npz"),
    "edit missing": ("edit", "e.json", Path, "e.json"),
}


@pytest.mark.parametrize(("role", "name", "write", "told"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_named_and_leaves_nothing(shot, role, name, write, told, capsys) -> None:
    path = write(shot / name)
    before = sorted(entry.name for entry in shot.iterdir())
    assert render(shot, **{role: path}) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert sorted(entry.name for entry in shot.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--frames", "3:99"), "frame"),
        (("--frames", "3:1"), "frame"),
        (("--size", "1x1"), "size"),
        (("--seed", "-1"), "seed"),
        (("--engine", "zebra"), "zebra"),
    ],
)
def test_bad_settings_are_named(shot: Path, words: tuple[str, str], told: str, capsys) -> None:
    assert render(shot, *words) == 2
    assert told in capsys.readouterr().err
    assert not (shot / "take").exists()


def test_an_edit_for_another_shot_is_refused(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive.save(shot / "long.npz", Edit.identity(make_solve(FRAMES + 1)))
    assert render(shot, edit=shot / "long.npz") == 2
    assert "edit" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="needs a place where not even root can write")
def test_a_place_that_cannot_be_written_is_named(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(shot, "--out", "/proc/takes/one") == 2
    assert "/proc/takes" in capsys.readouterr().err


def command(shot: Path) -> list[str]:
    inputs = ["--footage", shot / "clip.mp4", "--solve", shot / "solve.npz", "--edit", shot / "edit.json"]
    words = ["-m", "retake_backend.cli", "render", *inputs, "--out", shot / "out" / "take"]
    return [sys.executable, *(str(word) for word in words)]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file size")
def test_a_full_disk_is_told_and_leaves_nothing(shot: Path) -> None:
    import resource

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(command(shot), preexec_fn=small_disk, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((shot / "out").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_no_half_take(shot: Path, number: int) -> None:
    frames = 400
    write_clip(shot / "clip.mp4", frames)
    archive.save(shot / "solve.npz", make_solve(frames))
    with subprocess.Popen(command(shot), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list((shot / "out").glob("**/frame_*.png")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, number)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 130, said
    assert list((shot / "out").iterdir()) == []


def test_compare_shows_takes_beside_their_footage(shot: Path) -> None:
    assert render(shot) == 0
    assert render(shot, "--out", shot / "second") == 0
    video = shot / "compare.mp4"
    words = ["compare", "--footage", shot / "clip.mp4", "--out", video, shot / "take", shot / "second"]
    assert cli.main([str(word) for word in words]) == 0
    with footage.FootageReader(video) as reader, footage.FootageReader(shot / "clip.mp4") as source:
        assert (reader.footage.frames, reader.footage.width, reader.footage.height) == (FRAMES, 3 * WIDTH, 2 * HEIGHT)
        left = reader.frame(2)[:HEIGHT, :WIDTH].astype(int)
        assert np.abs(left - source.frame(2)).mean() < 8


def test_compare_names_a_folder_that_is_no_take(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--footage", shot / "clip.mp4", "--out", shot / "c.mp4", shot]
    assert cli.main([str(word) for word in words]) == 2
    assert "is not a take" in capsys.readouterr().err


def test_doctor_tells_versions_device_and_what_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--home", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "torch" in said
    assert "preview" in said
    assert "none is running" in said
    (tmp_path / "connection.json").write_text("{")
    assert cli.main(["doctor", "--home", str(tmp_path)]) == 0
    assert "is not a connection file" in capsys.readouterr().out


@pytest.mark.parametrize("here", [True, False])
def test_whether_the_model_that_comes_with_the_backend_is_here_is_told(
    here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RETAKE_MODELS", raising=False)
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "with the backend")
    if here:
        folder = tmp_path / "with the backend" / "draft"
        folder.mkdir(parents=True)
        for name in ("config.json", shipped.WEIGHTS):
            (folder / name).touch()
    assert cli.main(["doctor", "--home", str(tmp_path)]) == 0
    assert ("draft (lacks weights)" in capsys.readouterr().out) == (not here)
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path / "models"))
    assert cli.main(["models", "list"]) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("draft ")]
    assert told.endswith("comes with the backend" if here else "missing, install the backend again")


def test_a_path_that_the_terminal_cannot_show_is_no_failure(shot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' own encoding of a pipe knows few letters; what was done all along is done."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "cp1252"))
    assert cli.main(["frame", "--footage", str(shot / "clip.mp4"), "--out", str(shot / "映像.png")]) == 0
    sys.stdout.flush()
    assert b"\\u6620\\u50cf.png" in written.getvalue()


def test_bad_usage_is_told_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["render"], ["render", "--footage", "f", "--out", "o", "--size", "big"], ["paint"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom retake_backend import cli\ntry:\n    cli.main(['--help'])\nfinally:\n"
        "    print(sorted({'numpy', 'torch', 'cv2', 'av'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(f"\n    {name} " in done.stdout for name in cli.COMMANDS)
