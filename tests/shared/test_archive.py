"""An archive gives back exactly what was saved, names it by its bytes, and cannot be used to hurt the reader."""

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import tempfile
import time
import tracemalloc
import zipfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from retake_shared import archive, geometry
from retake_shared.errors import BadFile, BadShot, RetakeError
from retake_shared.shot import Cameras, Edit, Solve, Tracks

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.dictionaries(st.integers(1, 300), st.text(min_size=1), max_size=3).filter(
    lambda names: (
        len({*names.values(), "background"}) == len(names) + 1
        and not any(name.startswith("object ") for name in names.values())
    )
)


@st.composite
def solves(draw: st.DrawFn) -> Solve:
    frames, count = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    h, w = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def array(dtype, *shape, elements=None):
        return draw(hnp.arrays(dtype, shape, elements=elements))

    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = geometry.rotation_from_vector(array(float, frames, 3, elements=st.floats(-3, 3)))
    c2w[:, :3, 3] = array(float, frames, 3, elements=FINITE)
    focal = array(float, frames, elements=st.floats(1e-3, 1e6))
    return Solve(
        Cameras(c2w, geometry.intrinsics(focal, focal * 1.01, 3, 4), draw(st.integers(1, 9999)), 7),
        Tracks(
            array(float, frames, count, 3, elements=FINITE),
            array(bool, frames, count),
            array(np.float32, frames, count, elements=st.floats(0, 1, width=32)),
            array(np.int32, count, elements=st.integers(0, 2**31 - 1)),
            draw(hnp.arrays(np.int64, count, unique=True)),
        ),
        depth=draw(st.none() | hnp.arrays(np.float32, (frames, h, w), elements=st.floats(0, 1e3, width=32))),
        masks=draw(st.none() | hnp.arrays(np.uint8, (frames, h, w))),
        object_names=draw(NAMES),
        source=draw(st.text()),
    )


def assert_same(a: object, b: object) -> None:
    """Equal to the last bit, types included."""
    assert type(a) is type(b)
    if is_dataclass(a):
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b


@settings(deadline=None)
@given(solves())
def test_round_trip_is_exact_and_deterministic(solve):
    data = archive.to_bytes(solve)
    assert_same(archive.from_bytes(data), solve)
    assert archive.to_bytes(archive.from_bytes(data)) == data
    edit = Edit.identity(solve)
    assert_same(archive.from_bytes(archive.to_bytes(edit)), edit)


def test_names_in_another_order_are_the_same_content(make_solve):
    a = replace(make_solve(), object_names={1: "walker", 2: "ball"})
    b = replace(make_solve(), object_names={2: "ball", 1: "walker"})
    assert archive.to_bytes(a) == archive.to_bytes(b)


def test_bytes_are_the_same_on_every_machine():
    """The hash names a solve between Blender's Python and the backend's, and in takes made years ago."""
    frames, count = 3, 4
    positions = np.arange(frames * count * 3).reshape(frames, count, 3) / 8
    cameras = Cameras(np.tile(np.eye(4), (frames, 1, 1)), np.tile(np.diag([100.0, 100, 1]), (frames, 1, 1)), 64, 48)
    tracks = Tracks.make(positions, objects=np.array([0, 0, 1, 2]))
    masks = np.arange(frames * 6, dtype=np.uint8).reshape(frames, 2, 3) % 3
    solve = Solve(cameras, tracks, masks=masks, object_names={1: "wälker", 2: "ball"}, source="by hand")
    assert hashlib.sha256(archive.to_bytes(solve)).hexdigest() == SOLVE_SHA256
    assert hashlib.sha256(archive.to_bytes(Edit.identity(solve))).hexdigest() == EDIT_SHA256


SOLVE_SHA256 = "a0d8d35df5371442e5ceb5b1e97804d85f7160542312684f6e2b92b5fd598068"
EDIT_SHA256 = "6921f0bf52bdc4130c84b3d1f5e30ff5bd1c954847b943a9653f60e354f2044a"


def test_numpy_reads_it_without_pickle(make_solve):
    solve = make_solve(depth=True)
    with np.load(io.BytesIO(archive.to_bytes(solve)), allow_pickle=False) as members:
        assert json.loads(members["header"].tobytes())["retake"] == "solve"
        np.testing.assert_array_equal(members["positions"], solve.tracks.positions)
        np.testing.assert_array_equal(members["depth"], solve.depth)


def test_loaded_arrays_can_be_written_to(make_solve):
    """Torch warns about, and Blender's foreach_get needs, memory that is not read-only."""
    solve = archive.from_bytes(archive.to_bytes(make_solve(depth=True, masks=True)))
    arrays = (solve.cameras.c2w, solve.tracks.positions, solve.tracks.visibility, solve.depth, solve.masks)
    assert all(array.flags.writeable and array.flags.aligned for array in arrays)


@pytest.mark.parametrize("compress", [False, True])
def test_files_with_any_name(make_solve, tmp_path, compress):
    solve = make_solve(depth=True, masks=True)
    path = tmp_path / "Äpfel und 歩く人 (2).npz"
    archive.save(path, solve, compress=compress)
    assert_same(archive.load_solve(str(path)), solve)
    archive.save(path, Edit.identity(solve), compress=compress)  # over the old one
    assert_same(archive.load_edit(path), Edit.identity(solve))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_kinds_are_told_apart(make_solve, tmp_path):
    archive.save(tmp_path / "a.npz", make_solve())
    archive.save(tmp_path / "b.npz", Edit.identity(make_solve()))
    with pytest.raises(BadFile, match=r"a\.npz: holds a solve, not an edit"):
        archive.load_edit(tmp_path / "a.npz")
    with pytest.raises(BadFile, match=r"b\.npz: holds an edit, not a solve"):
        archive.load_solve(tmp_path / "b.npz")


# ----------------------------------------------------------------------------------------- foreign and damaged bytes


def repacked(data: bytes, header: dict | None = None, compression: int = zipfile.ZIP_STORED, **arrays) -> bytes:
    """The archive with members replaced (None: left out) and header fields changed, as numpy would write it."""
    with np.load(io.BytesIO(data)) as members:
        content = {name: members[name] for name in members.files}
    fields = {**json.loads(content["header"].tobytes()), **(header or {})}
    content["header"] = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    content.update(arrays)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, array in content.items():
            if array is not None:
                member = io.BytesIO()
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=True)
                file.writestr(f"{name}.npy", member.getvalue())
    return stream.getvalue()


@pytest.mark.parametrize(
    ("header", "arrays", "message"),
    [
        ({"version": 2}, {}, "newer Retake .* Update Retake"),
        ({"version": "1"}, {}, "version is '1'"),
        ({"retake": "scene"}, {}, "'scene', not a solve or an edit"),
        ({"width": None}, {}, "header.width"),
        ({"width": -5}, {}, "cameras.size"),
        ({"object_names": {"x": "y"}}, {}, "header.object_names"),
        ({"object_names": {"1": "a", "2": "a"}}, {}, "two objects"),
        ({}, {"c2w": None}, "c2w: is missing"),
        ({}, {"extra": np.zeros(3)}, "unknown members .*extra"),
        ({}, {"positions": np.zeros((6, 12, 2))}, "tracks.positions: shape"),
        ({}, {"positions": np.zeros((6, 12, 3), np.float32)}, "positions: is float32"),
        ({}, {"positions": np.zeros((6, 36))}, "positions: is float64 of shape"),
        ({}, {"positions": np.zeros((3, 12, 6)).T}, "positions: is float64"),
        ({}, {"positions": np.zeros((6, 12, 3), ">f8")}, "positions: is >f8"),
        ({}, {"positions": np.full((6, 12, 3), np.nan)}, "tracks.positions: 216 values are NaN"),
        ({}, {"c2w": np.full((6, 4, 4), np.inf)}, "cameras.c2w: 96 values are NaN or infinite"),
        ({}, {"visibility": np.ones((5, 12), bool)}, "tracks.visibility"),
        ({}, {"ids": np.array([None] * 12)}, "ids: holds Python objects"),
        ({}, {"masks": np.zeros((5, 2, 2), np.uint8)}, "solve.masks"),
    ],
)
def test_wrong_content_is_refused_by_file_and_field(make_solve, header, arrays, message):
    data = repacked(archive.to_bytes(make_solve()), header, **arrays)
    with pytest.raises((BadFile, BadShot), match=message) as caught:
        archive.from_bytes(data, "shot.npz")
    assert caught.value.where.startswith("shot.npz")
    assert caught.value.remedy


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello, world" * 20, "is not a Retake archive"),
        (pickle.dumps(Bomb()), "pickle, which Retake never opens"),
        (b"PK\x03\x04" + b"\0" * 100, "is cut off"),
        (b"PK\x05\x06" + b"\0" * 18, "has no header"),
    ],
)
def test_other_files_are_told_for_what_they_are(tmp_path, data, message):
    path = tmp_path / "solve.npz"
    path.write_bytes(data)
    with pytest.raises(BadFile, match=message):
        archive.load(path)


def test_pickled_members_are_never_executed(make_solve):
    with pytest.raises(BadFile, match="Python objects"):
        archive.from_bytes(repacked(archive.to_bytes(make_solve()), ids=np.array([Bomb()] * 12)))


def test_other_npz_is_no_archive(tmp_path):
    np.savez(tmp_path / "other.npz", coords=np.zeros((3, 4, 3)))
    with pytest.raises(BadFile, match="no header"):
        archive.load(tmp_path / "other.npz")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(BadFile, match="cannot be opened"):
        archive.load(tmp_path / "none.npz")
    with pytest.raises(BadFile, match="cannot be opened"):
        archive.load(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(make_solve, tmp_path, share):
    path = tmp_path / "solve.npz"
    archive.save(path, make_solve(depth=True))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadFile, match=r"cut off.*Copy or save the file again"):
        archive.load(path)


COMPRESSED = pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


@COMPRESSED
@settings(deadline=10_000, max_examples=150)
@given(data=st.data())
def test_damaged_bytes_give_a_clear_error_or_the_right_content(make_solve, compression, data):
    """Flipped, cut, doubled and inserted bytes anywhere: no other exception, no hang, no wrong numbers."""
    solve = make_solve(depth=True, masks=True)
    good = bytearray(repacked(archive.to_bytes(solve), compression=compression))
    damaged = good.copy()
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1) | st.integers(max(0, len(damaged) - 900), len(damaged) - 1))
        match data.draw(st.sampled_from(["set", "set", "set", "cut", "insert", "end"])):
            case "set":
                damaged[at] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                damaged[at:at] = data.draw(st.binary(min_size=1, max_size=20))
            case "end":
                del damaged[max(at, 1) :]
        if not damaged:
            damaged = good[:1]
    try:
        read = archive.from_bytes(bytes(damaged))
    except RetakeError as error:
        told = error
    else:
        assert_same(read.tracks.positions, solve.tracks.positions)
        assert_same(read.cameras.c2w, solve.cameras.c2w)
        return
    assert told.remedy


@settings(deadline=10_000)
@given(noise=st.binary(max_size=300))
def test_noise_gives_a_clear_error(noise):
    for data in (noise, b"PK\x03\x04" + noise, noise + b"PK\x05\x06" + b"\0" * 18):
        with pytest.raises(RetakeError):
            archive.from_bytes(data)


def refused_without_memory(data: bytes, message: str) -> None:
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises((BadFile, BadShot), match=message):
            archive.from_bytes(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    assert time.perf_counter() - began < 10


def with_member(data: bytes, name: str, member: bytes, **header: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, member if info.filename == f"{name}.npy" else old.read(info))
        for key, value in header.items():
            setattr(new.getinfo(f"{name}.npy"), key, value)
    return stream.getvalue()


def npy_head(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
    return head.getvalue()


def test_zip_bomb_is_refused_by_its_declared_size(make_solve, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    data = with_member(archive.to_bytes(make_solve()), "c2w", npy_head((1 << 16, 4, 4)) + bytes(8 << 20))
    assert len(data) < 40_000
    refused_without_memory(data, "unpacks to")


def test_zip_that_declares_less_than_it_holds_is_refused(make_solve):
    """The central directory says 400 bytes, the stream unpacks to 64 MiB."""
    bomb = npy_head((2, 4, 4)) + bytes(64 << 20)
    data = with_member(archive.to_bytes(make_solve()), "c2w", bomb, file_size=len(npy_head((2, 4, 4))) + 256)
    refused_without_memory(data, "c2w|cannot be read")


@pytest.mark.parametrize("shape", [(10**12, 4, 4), (2**62, 4, 4), (0, 10**15, 4), (-1, 4, 4), (10**300, 1, 1)])
def test_array_that_declares_more_than_it_holds_is_refused(make_solve, shape):
    refused_without_memory(
        with_member(archive.to_bytes(make_solve()), "c2w", npy_head(shape) + bytes(64)), "c2w|cannot be read"
    )


def test_huge_header_is_refused(make_solve):
    refused_without_memory(
        repacked(archive.to_bytes(make_solve()), {"source": "x" * (3 << 19)}, zipfile.ZIP_DEFLATED), "header: takes"
    )


def test_deeply_nested_header_is_refused(make_solve):
    nested = npy_head((200_000,), "|u1") + b"[" * 200_000
    with pytest.raises(BadFile, match="cannot be read"):
        archive.from_bytes(with_member(archive.to_bytes(make_solve()), "header", nested))


def test_too_large_a_solve_is_not_written(make_solve, monkeypatch, tmp_path):
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(BadShot, match="smaller depth maps"):
        archive.save(tmp_path / "solve.npz", make_solve(depth=True))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- places to save in


def test_full_disk_keeps_the_old_file_and_leaves_nothing_else(make_solve, tmp_path):
    """The kernel's limit on file sizes stops the write part way, as a full disk does."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "solve.npz"
    archive.save(path, make_solve(frames=2))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(RetakeError) as caught:
            archive.save(path, make_solve(frames=200, depth=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Free some space" in caught.value.remedy
    assert [p.name for p in tmp_path.iterdir()] == ["solve.npz"]
    assert path.read_bytes() == before


def test_full_disk_is_told_as_such(make_solve, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RetakeError, match=r"solve\.npz: cannot be written: No space left.*Free some space"):
        archive.save(tmp_path / "solve.npz", make_solve())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_read_only_folder(make_solve):
    folder = Path(tempfile.mkdtemp(prefix="retake read-only "))
    user = os.geteuid()
    folder.chmod(0o555)
    try:
        if user == 0:
            os.seteuid(65534)  # root may write anywhere
        with pytest.raises(RetakeError, match=r"cannot be written: Permission denied.*may write to"):
            archive.save(folder / "solve.npz", make_solve())
        assert list(folder.iterdir()) == []
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_no_such_folder_and_a_folder_in_the_way(make_solve, tmp_path):
    with pytest.raises(RetakeError, match="Make the folder first"):
        archive.save(tmp_path / "missing" / "solve.npz", make_solve())
    (tmp_path / "solve.npz").mkdir()
    with pytest.raises(RetakeError, match="cannot be written"):
        archive.save(tmp_path / "solve.npz", make_solve())
    assert [p.name for p in tmp_path.iterdir()] == ["solve.npz"]
