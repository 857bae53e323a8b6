"""`retake export` as a user calls it: which cameras are meant, the pictures that go along, what it says of bad input."""

import json
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from retake_backend import cli, cli_arguments, footage
from retake_shared import archive, edit_script, exports
from retake_shared.shot import Cameras, Edit, Solve, Tracks

FRAMES, WIDTH, HEIGHT = 5, 64, 48
ORBIT = {"retake_edit": 1, "camera": [{"move": "orbit", "degrees": 4, "frames": [0, FRAMES]}]}


def make_solve() -> Solve:
    """A wall 4 units away with a moving "post" before it, a camera that travels to the right."""
    K = np.array([[60.0, 0, WIDTH / 2], [0, 60.0, HEIGHT / 2], [0, 0, 1]])
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 9), np.linspace(-1.2, 1.2, 7))
    points = np.tile(np.stack([x.ravel(), y.ravel(), np.full(x.size, 4.0)], 1), (FRAMES, 1, 1))
    objects = (np.abs(points[0, :, 0]) < 0.3).astype(np.int32)
    points[:, objects == 1, 1] += 0.1 * np.arange(FRAMES)[:, None]
    c2w = np.tile(np.eye(4), (FRAMES, 1, 1))
    c2w[:, 0, 3] = 0.05 * np.arange(FRAMES)
    cameras = Cameras(c2w, np.tile(K, (FRAMES, 1, 1)), WIDTH, HEIGHT)
    return Solve(cameras, Tracks.make(points, objects=objects), object_names={1: "post"})


@pytest.fixture
def shot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RETAKE_ENGINES", raising=False)
    folder = tmp_path / "Übung 映像 shot"
    folder.mkdir()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([x * 4, y * 5, np.full_like(x, 90)], -1).astype(np.uint8)
    for frame in range(FRAMES):
        (folder / "pictures").mkdir(exist_ok=True)
        footage.write_png(folder / "pictures" / f"{frame:03d}.png", np.roll(picture, -frame, 1))
    archive.save(folder / "track.npz", make_solve())
    (folder / "edit.json").write_text(json.dumps(ORBIT))
    return folder


def export(*words: object) -> int:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return cli.main(["export", *map(str, words)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_every_format_can_be_asked_for(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(exports.KINDS) == cli_arguments.EXPORTS
    for kind, facts in exports.KINDS.items():
        out = shot / f"out_{kind}{facts.suffix}"
        assert export(shot / "track.npz", "--to", kind, "--out", out) == 0, kind
        assert out.is_file() == bool(facts.suffix)
    assert f"{FRAMES} frames, 63 tracks written for chan" in capsys.readouterr().out


def test_with_footage_a_dataset_is_complete_and_its_points_have_colours(shot: Path) -> None:
    footage_path = shot / "pictures"
    assert export(shot / "track.npz", "--to", "colmap", "--out", shot / "set", "--footage", footage_path) == 0
    assert sorted(path.name for path in (shot / "set").iterdir()) == ["images", "sparse"]
    model = pycolmap.Reconstruction(str(shot / "set" / "sparse" / "0"))
    assert model.num_points3D() == 56
    for image in model.images.values():
        read = cv2.imread(str(shot / "set" / "images" / image.name))[..., ::-1]
        np.testing.assert_array_equal(read, cv2.imread(str(footage_path / f"{image.name[8:11]}.png"))[..., ::-1])
    first = next(image for image in model.images.values() if image.name == "frame_00000.png")
    for point in model.points3D.values():
        u, v = first.project_point(point.xyz)
        np.testing.assert_array_equal(point.color, [int(u) * 4, int(v) * 5, 90])

    assert export(shot / "track.npz", "--to", "nerfstudio", "--out", shot / "ns", "--footage", footage_path) == 0
    frames = json.loads((shot / "ns" / "transforms.json").read_text())["frames"]
    assert all((shot / "ns" / frame["file_path"]).is_file() for frame in frames)
    assert export(shot / "track.npz", "--to", "npz", "--out", shot / "a.npz", "--footage", footage_path) == 0
    with np.load(shot / "a.npz") as arrays:
        assert arrays["video"].max() > 0.9


def test_an_edit_script_is_exported_with_its_solve(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--to", "nerfstudio", "--out", shot / "out")
    assert export(shot / "edit.json", *words) == 2
    assert "--solve" in capsys.readouterr().err
    assert export(shot / "edit.json", *words, "--solve", shot / "track.npz", "--footage", shot / "pictures") == 0
    assert "no pictures are written" in capsys.readouterr().err
    edit, _ = edit_script.load(shot / "edit.json", make_solve())
    frames = json.loads((shot / "out" / "transforms.json").read_text())["frames"]
    poses = np.array([frame["transform_matrix"] for frame in frames]) @ np.diag([1, -1, -1, 1])
    np.testing.assert_allclose(poses, edit.cameras.c2w, atol=1e-12)
    assert not (shot / "out" / "images").exists()


def test_an_archived_edit_is_told_from_a_solve(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solve = make_solve()
    moved = Edit.identity(solve)
    moved = replace(moved, cameras=replace(moved.cameras, c2w=moved.cameras.c2w.copy()))
    moved.cameras.c2w[:, 1, 3] = -1
    archive.save(shot / "target.npz", moved)
    assert export(shot / "target.npz", "--to", "colmap", "--out", shot / "out") == 0
    assert "Without its solve" in capsys.readouterr().err
    model = pycolmap.Reconstruction(str(shot / "out"))
    centres = np.array([image.projection_center() for image in model.images.values()])
    np.testing.assert_allclose(centres[:, 1], -1)


def test_a_take_goes_with_its_own_pictures_frames_and_size(shot: Path) -> None:
    render = ["render", "--footage", shot / "pictures", "--solve", shot / "track.npz", "--edit", shot / "edit.json"]
    assert cli.main([str(w) for w in [*render, "--out", shot / "take", "--frames", "1:4", "--size", "32x24"]]) == 0
    assert export(shot / "take", "--to", "colmap", "--out", shot / "out") == 0
    model = pycolmap.Reconstruction(str(shot / "out" / "sparse" / "0"))
    assert {(camera.width, camera.height) for camera in model.cameras.values()} == {(32, 24)}
    names = sorted(image.name for image in model.images.values())
    assert names == [f"frame_{n:05d}.png" for n in (1, 2, 3)]
    for name in names:
        assert (shot / "out" / "images" / name).is_file()
    edit = archive.load_edit(shot / "take" / "edit.npz")
    centres = {image.name: image.projection_center() for image in model.images.values()}
    np.testing.assert_allclose([centres[name] for name in names], edit.cameras.c2w[1:4, :3, 3], atol=1e-9)
    assert export(shot / "take", "--to", "nuke", "--out", shot / "a.nk", "--start", 1001) == 0
    text = (shot / "a.nk").read_text()
    assert "first_frame 1002" in text
    assert f"fps {float(Fraction(24))}" in text


def test_a_path_without_a_lens_gets_one(shot: Path) -> None:
    """A TUM trajectory knows no lens and no picture size: --fov and the footage do."""
    lines = [f"{frame} {0.1 * frame} 0 0 0 0 0 1" for frame in range(FRAMES)]
    (shot / "path.txt").write_text("\n".join(lines) + "\n")
    words = ("--footage", shot / "pictures", "--fov", 90, "--to", "nerfstudio", "--out", shot / "out")
    assert export(shot / "path.txt", *words) == 0
    content = json.loads((shot / "out" / "transforms.json").read_text())
    assert (content["w"], content["h"]) == (WIDTH, HEIGHT)
    assert content["fl_x"] == pytest.approx(WIDTH / 2)


def test_beside_a_model_of_colmaps_own_no_picture_is_written(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shot / "set" / "sparse" / "0").mkdir(parents=True)
    (shot / "set" / "sparse" / "0" / "cameras.bin").write_bytes(b"")
    words = ("--to", "colmap", "--out", shot / "set", "--footage", shot / "pictures")
    assert export(shot / "track.npz", *words) == 2
    assert "holds another model" in capsys.readouterr().err
    assert [path.name for path in (shot / "set").iterdir()] == ["sparse"]


def test_bad_input_is_an_answer(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shot / "text.npz").write_text("hello")
    (shot / "cut.npz").write_bytes((shot / "track.npz").read_bytes().replace(b"PK\1\2", b"PK\1\0"))
    cases = [
        (shot / "text.npz", "--out", shot / "o", "is no solve that Retake reads"),
        (shot / "nothing", "--out", shot / "o", "does not exist"),
        (shot / "track.npz", "--out", shot / "track.npz", "is what is to be exported"),
        (shot / "track.npz", "--out", shot / "text.npz", "--solve", shot / "text.npz", "is the solve"),
        (shot / "track.npz", "--out", shot / "o", "--step", 2, "Give --footage too"),
        (shot / "cut.npz", "--out", shot / "o", "cannot be read"),
        (shot / "track.npz", "--out", shot / "o", "--frames", "3:9", "frames 3:9 are not all in it"),
        (shot / "track.npz", "--out", shot / "text.npz" / "o", "cannot be written"),
    ]
    for path, *words, said in cases:
        assert export(path, "--to", "nerfstudio", *words) == 2, path
        assert said in capsys.readouterr().err
    assert not (shot / "o").exists()
