"""`retake convert`: PyTorch's files without running them, tracks in 2D put together with cameras, the archive it writes.

A user would run a stranger's code, or lose a DROID-SLAM or ATI result.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retake_backend import cli, convert, foreign_tensors
from retake_shared import archive, formats
from retake_shared.errors import BadFile, RetakeError
from retake_shared.formats import Hints

from tests.shared.made_up_scene import CX, CY, FX, FY, H, Scene, T, W, error_px

SCENE = Scene()


def droid(kept: list[int], scene: Scene = SCENE) -> dict[str, torch.Tensor]:
    """As DROID-SLAM saves it: keyframes, w2c as x y z and a quaternion x y z w, intrinsics in eighths."""
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    quaternions = rotation.from_matrix(scene.w2c[:, :3, :3]).as_quat()
    poses = np.concatenate([scene.w2c[:, :3, 3], quaternions], 1)
    depth, _ = scene.render()
    return {
        "tstamps": torch.tensor(kept, dtype=torch.float32),
        "images": torch.zeros((len(kept), 3, H, W), dtype=torch.uint8),
        "disps": torch.tensor(1 / depth[kept], dtype=torch.float32),
        "poses": torch.tensor(poses[kept], dtype=torch.float64),
        "intrinsics": torch.tensor(np.tile([FX, FY, CX, CY], (len(kept), 1)) / 8, dtype=torch.float64),
    }


def ati(folder: Path, uv: np.ndarray, visible: np.ndarray, dtype: type = np.float32) -> Path:
    """As ATI saves tracks (T, N, 2): bytes of an .npz, 121 frames long, times eight, zeros at the end."""
    array = np.zeros((uv.shape[1], 121, 1, 3), dtype)
    array[:, : len(uv), 0, :2] = np.round(uv * 8, 3).transpose(1, 0, 2)
    array[:, : len(uv), 0, 2] = visible.T * 8
    np.savez_compressed(folder / "inner.npz", array=array)
    torch.save((folder / "inner.npz").read_bytes(), folder / "tracks.pth")
    return folder / "tracks.pth"


def on_wall() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World points (N, 3), uv (T, N, 2), visible (T, N)."""
    depth, _ = SCENE.render()
    rows, columns = np.meshgrid(np.arange(6, H - 6, 9), np.arange(20, W - 6, 11), indexing="ij")
    rays = SCENE.rays()[rows.ravel(), columns.ravel()] * depth[4][rows.ravel(), columns.ravel()][:, None]
    world = rays @ SCENE.c2w[4, :3, :3].T + SCENE.c2w[4, :3, 3]
    uv = SCENE.project(world)
    return world, uv, ((uv > 1) & (uv < [W - 1, H - 1])).all(-1)


@pytest.fixture
def lyra(tmp_path: Path) -> Path:
    path = tmp_path / "trajectory.npz"
    sizes = {"image_height": np.int64(H), "image_width": np.int64(W)}
    np.savez(path, w2c=SCENE.w2c, intrinsics=np.tile(SCENE.K, (T, 1, 1)), **sizes)
    return path


@pytest.fixture
def megasam(tmp_path: Path) -> Path:
    path = tmp_path / "shot_droid.npz"
    np.savez(path, cam_c2w=SCENE.c2w, intrinsic=SCENE.K, depths=SCENE.render()[0].astype(np.float32))
    return path


# ---- PyTorch's files ----


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_come_out_as_pytorch_put_them_in(tmp_path, protocol):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    content = {
        "transposed": base.T,
        "part": base[1:3, ::2],
        "expanded": torch.tensor([[7.0]]).expand(3, 2),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros((0, 4)),
        "brain": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": [(1, "two", None, True, 2.5), {3: [torch.tensor([1, 2])]}],
        **{str(kind): torch.tensor([0, 1, 2]).to(kind) for kind in (
            torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool
        )},
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pth", pickle_protocol=protocol)
    found = foreign_tensors.load(tmp_path / "x.pth")
    assert found.keys() == content.keys()
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            np.testing.assert_array_equal(
                found[key], value.detach().to(torch.float32 if key == "brain" else value.dtype)
            )
    assert found["nested"][0] == (1, "two", None, True, 2.5)
    assert found["nested"][1][3][0].tolist() == [1, 2]


class Evil:
    """Whoever unpickles it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.place}",)


class BuiltinEvil(Evil):
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.place)!r}, 'w')",)


@pytest.mark.parametrize("kind", [Evil, BuiltinEvil])
def test_code_in_a_file_is_refused_by_name_and_never_run(tmp_path, kind):
    path, made = tmp_path / "x.pth", tmp_path / "made"
    torch.save({"poses": torch.zeros(2, 7), "x": kind(made)}, path)
    with pytest.raises(BadFile, match=r"names \w+\.\w+.*could run code"):
        convert.convert(path, tmp_path / "out.npz")
    torch.save({"x": kind(made)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(BadFile, match=r"before PyTorch 1\.6"):
        convert.convert(path, tmp_path / "out.npz")
    path.write_bytes(pickle.dumps(kind(made)))
    with pytest.raises(BadFile, match=r"before PyTorch 1\.6"):
        convert.convert(path, tmp_path / "out.npz")
    assert not made.exists()
    assert not (tmp_path / "out.npz").exists()


def rewritten(path: Path, program: bytes) -> Path:
    """The file with another program in it."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, program if name.endswith("data.pkl") else data)
    return path


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"\x80\x02cposix\nsystem\n(X\x01\x00\x00\x00atR.", r"posix\.system"),
        (b"\x80\x02cbuiltins\ngetattr\n.", r"builtins\.getattr"),
        (b"\x80\x02ctorch\nload\n.", r"torch\.load"),
        (b"\x80\x02(iposix\nsystem\n.", "INST"),
        (b"\x80\x02}}b.", "BUILD"),
        (b"\x80\x02ccollections\nOrderedDict\n)RK\x01b.", "BUILD"),
        (b"\x80\x02}]R.", "no function"),
        (b"\x80\x02]}R.", "no function"),
        (b"\x80\x02ctorch\nFloatStorage\n.", "does not end with a value"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf16\x86R.", "into bytes"),
        (b"\x80\x02]q\x00", "cut off|cannot be read"),
        (b"\x80\x02.", "cannot be read"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f0.", "POP"),
        (b"", "cut off|cannot be read"),
    ],
)
def test_programs_that_no_tensor_needs_are_refused(tmp_path, program, words):
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(BadFile, match=words) as caught:
        foreign_tensors.load(rewritten(tmp_path / "x.pth", program))
    assert str(tmp_path / "x.pth") in str(caught.value)


def tensor_program(offset: int, size: int, stride: int, count: int) -> bytes:
    def number(n: int) -> bytes:
        return b"\x8a\x08" + n.to_bytes(8, "little", signed=True)

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + number(count) + b"tQ"
    )
    head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
    return head + storage + number(offset) + number(size) + b"\x85" + number(stride) + b"\x85\x89}tR."


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0, 3, 1, 2), "larger than its data"),
        ((-1, 1, 1, 2), "no sound shape"),
        ((0, 2, -1, 2), "no sound shape"),
        ((0, 2, 2**41, 2), "no sound shape"),
        ((0, 2**35, 0, 2), "GiB"),
        ((0, 2, 1, 2**33), "GiB|missing bytes|cannot be read"),
        ((0, 2, 1, 3), "missing bytes"),
    ],
)
def test_tensors_that_claim_more_than_they_have_are_refused_before_memory_is_taken(tmp_path, numbers, words):
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pth")
    path = rewritten(tmp_path / "x.pth", tensor_program(*numbers))
    with pytest.raises(BadFile, match=words):
        foreign_tensors.load(path)
    assert foreign_tensors.load(rewritten(path, tensor_program(0, 2, 1, 2))).tolist() == [0, 0]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 9000), patches=st.lists(st.tuples(st.integers(0, 9000), st.binary(min_size=1, max_size=6)), max_size=3), inside=st.booleans())  # fmt: skip
def test_damaged_files_give_a_solve_or_a_clear_error(tmp_path, cut, patches, inside):
    path = tmp_path / "x.pth"
    small = {key: value[:, ..., ::16] if key == "disps" else value for key, value in droid([0, 3, 8]).items()}
    del small["images"]
    torch.save(small, path)
    with zipfile.ZipFile(path) as file:
        program = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    content = bytearray(program if inside else path.read_bytes())[: cut if cut < 8000 else None]
    for at, patch in patches:
        at %= max(len(content), 1)
        content[at : at + len(patch)] = patch
    if inside:
        rewritten(path, bytes(content))
    else:
        path.write_bytes(content)
    error = None
    try:
        convert.read(path, None, Hints())
    except RetakeError as raised:
        error = raised
    assert error is None or str(path) in str(error)


# ---- what they mean ----


def test_droid_slams_keyframes_become_a_camera_for_every_frame_with_lifted_points(tmp_path):
    kept = [0, 2, 3, 8]
    torch.save(droid(kept), tmp_path / "reconstruction.pth")
    solve, notes = convert.convert(tmp_path / "reconstruction.pth", tmp_path / "solve.npz")
    assert (len(solve), solve.cameras.width, solve.cameras.height) == (T, W, H)
    points = np.repeat(SCENE.points()[None], T, 0)
    uv, _ = solve.cameras.project(points)
    assert np.abs(uv - SCENE.project(SCENE.points()))[kept].max() < 1e-4
    np.testing.assert_allclose(solve.cameras.c2w[1, :3, 3], (SCENE.c2w[0] + SCENE.c2w[2])[:3, 3] / 2, atol=1e-6)
    assert len(solve.tracks) > 300
    assert np.abs(SCENE.on_wall(solve.tracks.positions[0])).max() < 1e-3
    assert solve.tracks.visibility[5].any()
    assert any("frames 1, 4-7" in note for note in notes)
    assert any("keyframes only, 4 of 9" in note and "--step" in note for note in notes)
    again = archive.load_solve(tmp_path / "solve.npz")
    np.testing.assert_array_equal(again.tracks.positions, solve.tracks.positions)
    assert formats.detect(tmp_path / "solve.npz") == "Retake"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"tstamps": torch.tensor([0.0, 0, 8])}, "tstamps.*increasing"),
        ({"poses": torch.zeros((3, 6))}, "poses.*shape"),
        ({"poses": torch.zeros((3, 7))}, "poses.*quaternion"),
        ({"intrinsics": "fx"}, "intrinsics.*no tensor"),
        ({"disps": torch.zeros((2, H, W))}, "disps.*shape"),
        ({"poses": None}, "poses.*no tensor"),
    ],
)
def test_wrong_tensors_are_refused_by_file_key_and_remedy(tmp_path, fault, words):
    path = tmp_path / "x.pth"
    torch.save(droid([0, 3, 8]) | fault, path)
    with pytest.raises(BadFile, match=words) as caught:
        convert.convert(path, tmp_path / "out.npz")
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_other_files_of_pytorch_are_refused_with_what_is_in_them(tmp_path):
    torch.save({"weight": torch.zeros(3), "bias": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(BadFile, match=r"weight, bias.*DROID-SLAM.*ATI"):
        convert.convert(tmp_path / "x.pth", tmp_path / "out.npz")
    with pytest.raises(BadFile, match="retake convert"):
        formats.read(tmp_path / "x.pth")  # as Blender does


# ---- tracks in 2D and cameras ----


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_ati_tracks_and_cameras_become_a_solve_whichever_comes_first(tmp_path, lyra, swap, dtype):
    world, uv, visible = on_wall()
    path = ati(tmp_path, np.where(visible[..., None], uv, 0), visible, dtype)
    points, _ = convert.read(path, None, Hints())
    assert points.uv.shape == uv.shape  # the zeros at the end of ATI's 121 frames are no frames
    first, other = (lyra, path) if swap else (path, lyra)
    solve, notes = convert.convert(first, tmp_path / "solve.npz", other=other)
    assert error_px(SCENE, solve.cameras) < 1e-4
    lasting = visible.sum(0) >= 3
    assert len(solve.tracks) >= 0.9 * lasting.sum()
    np.testing.assert_allclose(
        solve.tracks.positions[0], world[solve.tracks.ids], atol=0.05 if dtype is np.uint16 else 1e-2
    )
    assert any("triangulated" in note for note in notes)
    assert "ATI" in solve.source


def test_tracks_are_added_to_the_points_of_a_solve_with_depth(tmp_path, megasam):
    world, uv, visible = on_wall()
    own, _ = formats.read(megasam)
    solve, notes = convert.convert(ati(tmp_path, uv * 2, visible), tmp_path / "solve.npz", other=megasam, hints=Hints(size=(2 * W, 2 * H)))  # fmt: skip
    added = solve.tracks.select(np.arange(len(own.tracks), len(solve.tracks)))
    assert len(added) == len(world)
    seen = added.visibility
    assert np.abs(added.positions - world)[seen].max() < 2e-2
    assert any(f"own {len(own.tracks)} tracks" in note for note in notes)


def test_tracks_of_another_picture_size_are_noticed(tmp_path, lyra):
    _, uv, visible = on_wall()
    path = ati(tmp_path, uv * 5, visible)
    with pytest.raises(RetakeError, match=r"96x64.*--size") as caught:
        convert.convert(path, tmp_path / "solve.npz", other=lyra)
    assert str(path) in str(caught.value)


def test_what_does_not_make_a_solve_is_refused_in_words(tmp_path, lyra, megasam):
    _, uv, visible = on_wall()
    path = ati(tmp_path, uv, visible)
    out = tmp_path / "solve.npz"
    with pytest.raises(RetakeError, match=r"the cameras are missing.*--with"):
        convert.convert(path, out)
    with pytest.raises(RetakeError, match=r"tracks in 2D.*and a solve"):
        convert.convert(path, out, other=path)
    with pytest.raises(RetakeError, match=r"a solve with cameras, like"):
        convert.convert(lyra, out, other=megasam)
    still = tmp_path / "still.npz"
    sizes = {"image_height": np.int64(H), "image_width": np.int64(W)}
    np.savez(still, w2c=np.tile(np.eye(4), (T, 1, 1)), intrinsics=np.tile(SCENE.K, (T, 1, 1)), **sizes)
    with pytest.raises(RetakeError, match=r"tracks\.pth.*camera does not move enough.*depth maps"):
        convert.convert(path, out, other=still)
    assert not out.exists()
    with pytest.raises(RetakeError, match="is the file to be converted"):
        convert.convert(lyra, lyra)
    with pytest.raises(RetakeError, match="is the footage"):
        convert.convert(lyra, megasam, footage=megasam)
    with pytest.raises(RetakeError, match=r"--step.*Give --footage"):
        convert.convert(lyra, out, step=3)


def test_the_command_writes_the_archive_tells_notes_and_brings_it_to_the_footage(tmp_path, capsys, sample_shot):
    poses = "\n".join(f"{t / 100} {0.01 * t} 0 0 0 0 0 1" for t in range(400))
    (tmp_path / "path.txt").write_text(poses)
    video = next(p for p in sorted(sample_shot.iterdir()) if p.suffix in (".mp4", ".mov", ".webm", ".mkv"))
    code = cli.main(["convert", str(tmp_path / "path.txt"), "--out", str(tmp_path / "solve.npz"), "--fov", "60", "--footage", str(video)])  # fmt: skip
    told = capsys.readouterr()
    assert code == 0
    assert "60 degrees, as given" in told.err
    assert "100 a second" in told.err
    assert "TUM trajectory" in told.out
    solve = archive.load_solve(tmp_path / "solve.npz")
    assert len(solve) > 2
    assert cli.main(["convert", str(tmp_path / "absent.npz"), "--out", str(tmp_path / "x.npz")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_files_are_read_without_pytorch(tmp_path):
    """The command starts in a moment, and nothing of PyTorch's own loading can be reached."""
    torch.save(droid([0, 3, 8]), tmp_path / "x.pth")
    code = (
        "import sys; from retake_backend.cli import main; "
        f"code = main(['convert', {str(tmp_path / 'x.pth')!r}, '--out', {str(tmp_path / 'solve.npz')!r}]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "solve.npz").is_file()


# ---- the real thing ----


def test_real_ati_file(sample_data):
    points, _ = convert.read(sample_data / "solves" / "tracks2d" / "ati_bear.pth", None, Hints())
    assert points.uv.shape == (121, 4, 2)
    np.testing.assert_allclose(points.uv[0, 0], [1847.58, 1326.3649])
    assert points.visible.sum(0).tolist() == [96, 121, 121, 121]
