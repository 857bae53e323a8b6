"""What was written of a data set is read again, whatever happened to the writer and to the file since."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import resource
import signal
import subprocess
import sys
import tarfile
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retake_backend.conditioning.coordinates import pair_tracks
from retake_backend.engines.base import RenderRequest
from retake_backend.engines.preview import PreviewEngine
from retake_backend.footage import FootageReader, encode_video
from retake_backend.training.batches import collate
from retake_backend.training.dataset import DamagedData, PairDataset, PairWriter, index, read
from retake_backend.training.moved import with_moved
from retake_backend.training.pairs import Moved, Pair
from retake_backend.training.shards import pack, scan
from retake_backend.training.shards import read as shard_read
from retake_backend.training.shards_pairs import QUALITY, to_members
from retake_shared import archive
from retake_shared.errors import BadFile, RetakeError
from retake_shared.geometry import intrinsics
from retake_shared.shot import Cameras, Edit, RenderSettings, Solve, Tracks


def make_pair(seed=0, frames=3, size=(32, 24), tracks=6, whole=True):
    """Smooth pictures, and a solve and edit of random values; whole: with everything that may be left out."""
    rng = np.random.default_rng(seed)
    width, height = size

    def video():
        coarse = rng.integers(0, 256, (frames, 4, 4, 3), np.uint8)
        return np.stack([cv2.resize(each, size, interpolation=cv2.INTER_CUBIC) for each in coarse])

    K = np.tile(intrinsics(30.0, 31.0, width / 2, height / 2), (frames, 1, 1))
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, 3] = rng.normal(size=(frames, 3))
    positions = rng.normal(size=(frames, tracks, 3)) * 3 + [0, 0, 8]
    objects = rng.integers(0, 3, tracks)
    solve = Solve(
        Cameras(c2w, K, width, height),
        Tracks.make(positions, rng.random((frames, tracks)) > 0.3, objects=objects),
        depth=rng.uniform(0.1, 90, (frames, 5, 7)).astype(np.float32) if whole else None,
        masks=rng.integers(0, 3, (frames, 5, 7)).astype(np.uint8) if whole else None,
        source="random",
    )
    rows = rng.integers(0, tracks, tracks + 2) if tracks else np.zeros(0)
    edit = Edit(
        Cameras(c2w + 0.0, K, width, height),
        rng.normal(size=(frames, len(rows), 3)),
        rng.random((frames, len(rows))) > 0.2,
        rows,
        rng.uniform(0, frames - 1, (frames, len(rows))),
        rng.integers(0, 4, len(rows)),
        {0: "background", 3: "a copy"},
    )
    moved = Moved(video(), rng.random((frames, height, width)) > 0.9) if whole else None
    origin = {"kind": "generated", "name": f"n{seed}", "seed": seed, "more": [1.5, None, {"a": "ü"}]}
    return Pair(video(), video(), solve, edit, moved, Fraction(24000, 1001), "a ball – rolling", origin)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-9))


def write(folder, count, per_shard=4, begin=0):
    with PairWriter(folder, per_shard) as writer:
        for number in range(begin, begin + count):
            writer.add(make_pair(number, whole=False), f"p{number}")


def fill(writer):
    for number in range(9):
        writer.add(make_pair(number, whole=False), f"p{number}")


def names(folder):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return [name for name, _ in read(folder)], [str(each.message) for each in told]


# --- what is written is read ----------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    frames=st.integers(1, 5),
    size=st.tuples(st.integers(16, 49), st.integers(16, 49)),
    tracks=st.integers(0, 9),
    whole=st.booleans(),
)
def test_an_example_comes_back(tmp_path_factory, seed, frames, size, tracks, whole):
    folder = tmp_path_factory.mktemp("set")
    pair = make_pair(seed, frames, size, tracks, whole)
    with PairWriter(folder) as writer:
        writer.add(pair, "only")
    [(name, back)] = read(folder)
    assert (name, back.fps, back.caption, back.origin) == ("only", pair.fps, pair.caption, pair.origin)
    assert psnr(back.source, pair.source) > 36  # random colours, saturated as no footage is
    assert psnr(back.target, pair.target) > 36
    for kind, written, got in (("cameras", pair.solve.cameras, back.solve.cameras), ("edit", pair.edit, back.edit),
                               ("target", pair.edit.cameras, back.edit.cameras),
                               ("tracks", pair.solve.tracks, back.solve.tracks)):  # fmt: skip
        for field, value in vars(written).items():
            if isinstance(value, np.ndarray):
                tolerance = 1e-6 if field == "positions" else 0.0
                np.testing.assert_allclose(getattr(got, field), value, tolerance, err_msg=f"{kind}.{field}")
    assert back.edit.object_names == pair.edit.object_names
    assert back.solve.source == "random"
    assert (back.moved is None) == (pair.moved is None)
    if whole:
        np.testing.assert_array_equal(back.moved.holes, pair.moved.holes)
        assert psnr(back.moved.rgb, pair.moved.rgb) > 36
        np.testing.assert_array_equal(back.solve.masks, pair.solve.masks)
        np.testing.assert_allclose(back.solve.depth, pair.solve.depth, 5e-4)


@pytest.mark.parametrize("clip", ["apple", "juggle", "bigbuckbunny"])
def test_small_pictures_of_real_footage_stay_faithful(sample_data, tmp_path, clip):
    with FootageReader(sample_data / "clips" / f"{clip}.mp4") as reader:
        video = np.stack(list(reader.small_frames(range(9), (160, 96))))
    solve = Solve(Cameras(np.tile(np.eye(4), (9, 1, 1)), np.tile(np.eye(3), (9, 1, 1)), 160, 96), Tracks.empty(9))
    with PairWriter(tmp_path) as writer:
        writer.add(Pair(video, video[::-1], solve, Edit.identity(solve)), clip)
    [(_, back)] = read(tmp_path)
    assert psnr(back.source, video) > 45
    assert min(psnr(a, b) for a, b in zip(back.target, video[::-1], strict=True)) > 43


def test_the_same_pictures_are_the_same_bytes_whatever_lies_in_memory():
    """What a seed makes would be other data the next time."""
    rng, pictures = np.random.default_rng(0), make_pair(frames=9, size=(96, 64)).source
    made = set()
    for _ in range(24):
        sizes = rng.permutation([*rng.integers(1000, 200_000, 40), *[18_432, 6144, 20_480] * 6])
        held = [np.full(size, rng.integers(256), np.uint8) for size in sizes]
        del held[10:]  # what the encoder gets next was in use
        made.add(encode_video(pictures, Fraction(16), QUALITY))
    assert len(made) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_a_machine_of_more_cores_makes_the_same_bytes(sample_shot):
    with FootageReader(sample_shot / "walk.mp4") as reader:
        pictures = list(reader.small_frames(range(17), (224, 128)))
    every = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(every)})
        alone = encode_video(pictures, Fraction(16), QUALITY)
    finally:
        os.sched_setaffinity(0, every)
    assert encode_video(pictures, Fraction(16), QUALITY) == alone


def test_depth_can_be_left_out(tmp_path):
    with PairWriter(tmp_path, depth=False) as writer:
        writer.add(make_pair(), "a")
    [(_, back)] = read(tmp_path)
    assert back.solve.depth is None
    assert back.solve.masks is not None


def test_the_index_says_what_lies_there_and_a_shard_is_a_plain_tar(tmp_path):
    write(tmp_path, 10)
    assert [(s.name, s.pairs, s.frames) for s in index(tmp_path)] == [
        ("shard_00000.tar", 4, 12), ("shard_00001.tar", 4, 12), ("shard_00002.tar", 2, 6),
    ]  # fmt: skip
    for shard in index(tmp_path):
        data = (tmp_path / shard.name).read_bytes()
        assert len(data) == shard.bytes
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert len(tar.getnames()) == 5 * shard.pairs
            solve = tar.extractfile(next(n for n in tar.getnames() if n.endswith(".solve.npz"))).read()
        assert isinstance(archive.from_bytes(solve), Solve)
    assert names(tmp_path) == ([f"p{n}" for n in range(10)], [])


@pytest.mark.parametrize("name", ["", "../a", "a.b", "a/b", "x" * 81, "é"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with PairWriter(tmp_path) as writer, pytest.raises(RetakeError, match="is no name"):
        writer.add(make_pair(), name)


def test_a_name_is_given_once_and_a_folder_has_one_writer(tmp_path):
    with PairWriter(tmp_path) as writer:
        writer.add(make_pair(), "a")
        with pytest.raises(RetakeError, match="there already"):
            writer.add(make_pair(), "a")
        with pytest.raises(RetakeError, match="somebody is writing"):
            PairWriter(tmp_path)
    PairWriter(tmp_path).close()


# --- killed, full, cut, hostile -------------------------------------------------------------------------------------

_WRITES = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from test_dataset import make_pair
from retake_backend.training.dataset import PairWriter
with PairWriter(Path(sys.argv[1]), 3) as writer:
    for number in range(200):
        if f"p{{number}}" not in writer:
            writer.add(make_pair(number, whole=False), f"p{{number}}")
            print(number, flush=True)
"""


def test_what_was_added_survives_the_writers_death(tmp_path):
    code = _WRITES.format(path=[os.path.dirname(__file__), *sys.path])
    added = []
    for lines in (5, 8):
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            added += [int(line) for line in itertools.islice(process.stdout, lines)]
            process.send_signal(signal.SIGKILL)
            added += [int(line) for line in process.stdout]
    write(tmp_path, 1, begin=500)  # a third writer goes on, and finishes
    found, told = names(tmp_path)
    assert not told
    assert len(set(found)) == len(found)
    assert set(found) >= {f"p{number}" for number in added} | {"p500"}
    assert added == sorted(set(added))  # nothing was made twice


@pytest.mark.parametrize("cut", range(0, 100, 9))
def test_a_shard_in_the_making_is_whole_up_to_its_last_example(tmp_path, cut):
    writer = PairWriter(tmp_path)
    for number in range(3):
        writer.add(make_pair(number, whole=False), f"p{number}")
    writer.close(finished=False)
    [part] = tmp_path.glob("*.part")
    data = part.read_bytes()
    keep = len(data) * cut // 100
    part.write_bytes(data[:keep])
    whole = [entry.name for entry in scan(io.BytesIO(data)).entries if entry.end <= keep]
    with PairWriter(tmp_path) as writer:
        assert writer.names == set(whole)
        writer.add(make_pair(9, whole=False), "next")
    assert names(tmp_path) == ([*whole, "next"], [])


def test_bytes_that_never_reached_the_disk_are_no_example(tmp_path):
    writer = PairWriter(tmp_path)
    for number in range(3):
        writer.add(make_pair(number, whole=False), f"p{number}")
    writer.close(finished=False)
    [part] = tmp_path.glob("*.part")
    with open(part, "r+b") as stream:  # as after a loss of power: the length is there, the content is not
        _, second, _ = scan(stream).entries
        stream.seek(second.members["target.mp4"][0])
        stream.write(bytes(second.members["target.mp4"][1]))
    with PairWriter(tmp_path) as writer:
        assert writer.names == {"p0"}
    assert names(tmp_path) == (["p0"], [])


def test_killed_between_the_shard_and_the_index(tmp_path):
    write(tmp_path, 4)
    before = (tmp_path / "dataset.json").read_bytes()
    write(tmp_path, 4, begin=4)
    after = index(tmp_path)
    (tmp_path / "dataset.json").write_bytes(before)
    PairWriter(tmp_path).close()
    assert index(tmp_path) == after
    (tmp_path / "dataset.json").unlink()
    PairWriter(tmp_path).close()
    assert index(tmp_path) == after


def test_a_full_disk_is_told_and_leaves_whole_examples(tmp_path):
    size = len(pack("p0", *to_members(make_pair(0, whole=False))))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = PairWriter(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (round(2.5 * size), hard))
    try:
        with pytest.raises(RetakeError, match="Free some space"):
            fill(writer)
        done = set(writer.names)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 1 <= len(done) <= 3
    writer.close()
    found, told = names(tmp_path)
    assert (set(found), told) == (done, [])


def test_a_shard_that_could_not_get_its_name_is_not_written_over(tmp_path, monkeypatch):
    """Whoever goes on with the same writer all the same would lose what lies in it."""
    replace_file = Path.replace

    def refused(self, target):
        if str(target).endswith(".tar"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refused)
        writer = PairWriter(tmp_path, per_shard=2)
        writer.add(make_pair(0, whole=False), "p0")
        with pytest.raises(RetakeError, match="Permission denied"):
            writer.add(make_pair(1, whole=False), "p1")
        with pytest.raises(RetakeError, match="cannot be written"):
            writer.add(make_pair(2, whole=False), "p2")
        writer.close()
    PairWriter(tmp_path).close()
    assert names(tmp_path) == (["p0", "p1"], [])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.77, 0.97])
def test_a_cut_shard_gives_what_was_before_the_cut_and_the_rest_is_counted(tmp_path, share):
    write(tmp_path, 8)
    path = tmp_path / "shard_00000.tar"
    data = path.read_bytes()
    whole = [e.name for e in scan(io.BytesIO(data)).entries if e.end <= len(data) * share]
    path.write_bytes(data[: int(len(data) * share)])
    found, told = names(tmp_path)
    assert found == [*whole, "p4", "p5", "p6", "p7"]
    assert f"{len(whole)} of 4 examples" in told[0]
    if len(whole) < 4:
        assert told[-1] == f"{4 - len(whole)} of 8 examples were left out."


def test_a_changed_byte_costs_its_example_only(tmp_path):
    write(tmp_path, 4)
    path = tmp_path / "shard_00000.tar"
    with open(path, "r+b") as stream:
        offset, size = scan(stream).entries[1].members["source.mp4"]
        stream.seek(offset + size // 2)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 1]))
    found, told = names(tmp_path)
    assert found == ["p0", "p2", "p3"]
    assert "source.mp4 does not have the checksum" in told[0]
    data = PairDataset(tmp_path, shuffle=0)
    with pytest.warns(DamagedData, match="checksum"):
        got = [data.example(n).origin["name"] for n in range(4)]
    assert got == ["n0", "n2", "n2", "n3"]  # its place is taken: every process still has as many
    assert data.skipped == 1


def test_a_changed_description_costs_its_example(tmp_path):
    """A caption with a letter changed is JSON as before; who reads it would train on what nobody wrote."""
    write(tmp_path, 2)
    path = tmp_path / "shard_00000.tar"
    good = path.read_bytes()
    entry, _ = scan(io.BytesIO(good)).entries
    offset = entry.members["pair.json"][0]

    def changed(at):
        return good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]

    for at in range(offset, good.index(b',"crc":', offset)):
        with pytest.raises(BadFile, match="its description"):
            shard_read(io.BytesIO(changed(at)), entry, "changed")
    path.write_bytes(changed(good.index(b"rolling", offset)))
    found, told = names(tmp_path)
    assert found == ["p1"]
    assert "its description does not have the checksum" in told[0]


def test_descriptions_of_older_data_sets_are_read(tmp_path):
    write(tmp_path, 1)
    path = tmp_path / "shard_00000.tar"
    data = path.read_bytes()
    [entry] = scan(io.BytesIO(data)).entries
    offset, size = entry.members["pair.json"]
    before = data[offset : offset + size].rpartition(b',"crc":')[0] + b"}"
    path.write_bytes(data[:offset] + before.ljust(size) + data[offset + size :])
    assert names(tmp_path) == (["p0"], [])


@pytest.mark.parametrize("size", [200, 512, 2048])
def test_a_hole_in_a_shard_is_told_or_was_empty_before(tmp_path, size):
    """Bytes that never reached the disk read as zeros: what comes of the shard is what was written, or it is told."""
    write(tmp_path, 2)
    good = (tmp_path / "shard_00000.tar").read_bytes()
    written = [shard_read(io.BytesIO(good), entry, "good") for entry in scan(io.BytesIO(good)).entries]
    for at in [*range(0, len(good) - size - 1024, 512), *range(100, len(good) - size - 1024, 1031)]:
        holed = io.BytesIO(good[:at] + bytes(size) + good[at + size :])
        found = scan(holed)
        with contextlib.suppress(BadFile):  # told when it is read
            assert found.damage or [shard_read(holed, entry, "holed") for entry in found.entries] == written, at


def test_a_missing_shard_is_told(tmp_path):
    write(tmp_path, 8)
    (tmp_path / "shard_00001.tar").unlink()
    found, told = names(tmp_path)
    assert found == ["p0", "p1", "p2", "p3"]
    assert "cannot be read" in told[0]
    assert told[-1].startswith("4 of 8")


def test_a_hostile_tar_writes_nowhere_and_takes_no_memory(tmp_path):
    folder, outside = tmp_path / "set", tmp_path / "outside"
    write(folder, 1)
    path = folder / "shard_00000.tar"
    good = path.read_bytes().rstrip(b"\0")
    good += bytes(-len(good) % 512)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("../../outside", str(outside), "p7.source.mp4/../../../outside"):
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"evil!"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo("p8.pair.json")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("é" * 200)
        tar.addfile(member)
    huge = tarfile.TarInfo("p9.pair.json")
    huge.size = 1 << 50
    path.write_bytes(stream.getvalue().rstrip(b"\0") + b"" + _aligned(stream) + good + huge.tobuf(tarfile.GNU_FORMAT))
    found, told = names(folder)
    assert found == ["p0"]
    assert "no part of an example" in told[0]
    assert not outside.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def _aligned(stream):
    return bytes(-len(stream.getvalue().rstrip(b"\0")) % 512)


def _repacked(change):
    members, info = to_members(make_pair(whole=True))
    change(members, info)
    return pack("p0", members, info)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m, i: i.update(shape=[3, 1 << 20, 1 << 20]), "declares pictures"),
        (lambda m, i: i.update(shape=[2, 24, 32]), "more than 2 pictures"),
        (lambda m, i: i.update(shape=[3, 24, 33]), "not 33x24"),
        (lambda m, i: i.update(fps=[1, 0]), "lacks or garbles"),
        (lambda m, i: i.update(version=2), "Update Retake"),
        (lambda m, i: i.pop("origin"), "lacks or garbles"),
        (lambda m, i: m.pop("edit.npz"), "edit.npz is missing"),
        (lambda m, i: m.update({"edit.npz": m["solve.npz"]}), "not what their names say"),
        (lambda m, i: m.update({"solve.npz": b"\x80\x04pickle"}), "pickle"),
        (lambda m, i: m.update({"source.mp4": b"no video at all"}), "cannot be decoded"),
        (lambda m, i: m.update({"holes.bits": bytes(9)}), "cannot be unpacked"),
        (lambda m, i: m.update({"holes.bits": __import__("zlib").compress(bytes(1 << 22))}), "no mask"),
    ],
)
def test_an_example_that_lies_is_left_out(tmp_path, change, why):
    write(tmp_path, 1)
    path = tmp_path / "shard_00000.tar"
    path.write_bytes(_repacked(change) + bytes(1024))
    found, told = names(tmp_path)
    assert found == []
    assert why in told[0]


def test_what_is_no_data_set_is_told(tmp_path):
    with pytest.raises(BadFile, match=r"dataset\.json"):
        PairDataset(tmp_path)
    for text in ("{}", "[]", "garbage", '{"retake": "dataset", "version": 9}',
                 '{"retake": "dataset", "version": 1, "shards": [{"name": "../x.tar", "pairs": 1, "frames": 1, "bytes": 1, "sha256": ""}]}'):  # fmt: skip
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(BadFile, match=r"dataset\.json"):
            index(tmp_path)
        with pytest.raises(BadFile, match=r"dataset\.json"):
            PairWriter(tmp_path)


# --- the stream -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twenty")
    write(folder, 20)
    return folder


def seeds(data, count):
    return [data.example(number).origin["seed"] for number in range(count)]


def test_every_example_comes_once_an_epoch_in_an_order_of_its_own(twenty):
    data = PairDataset(twenty, seed=3, shuffle=6)
    first, second = seeds(data, 20), [int(n) for n in data.order(1)]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second != list(range(20))
    assert first == seeds(PairDataset(twenty, seed=3, shuffle=6), 20)
    assert first != seeds(PairDataset(twenty, seed=4, shuffle=6), 20)
    assert seeds(PairDataset(twenty, shuffle=0), 22) == [*range(20), 0, 1]
    assert sorted(seeds(PairDataset([twenty, twenty], seed=1), 40)) == sorted([*range(20)] * 2)


def test_the_place_of_what_is_damaged_is_taken_by_what_is_good(tmp_path):
    write(tmp_path / "empty", 0)
    with pytest.raises(BadFile, match="holds no example"):
        PairDataset(tmp_path / "empty")
    write(tmp_path, 4, 2)
    path = tmp_path / "shard_00000.tar"
    path.write_bytes(path.read_bytes()[:300])
    data = PairDataset(tmp_path)
    with pytest.warns(DamagedData, match="0 of 2 examples"):
        assert set(seeds(data, 8)) == {2, 3}
    assert data.skipped >= 4
    (tmp_path / "shard_00001.tar").write_bytes(b"")
    with pytest.raises(BadFile, match="no example that can be read"), pytest.warns(DamagedData):
        PairDataset(tmp_path).example(0)


# --- what models see ------------------------------------------------------------------------------------------------


def real_pair(sample_shot, frames=5, size=(112, 64), offset=0.0):
    solve = archive.load_solve(sample_shot / "walk.solve.npz").frames(0, frames)
    with FootageReader(sample_shot / "walk.mp4") as reader:
        video = np.stack(list(reader.small_frames(range(frames), size)))
    edit = Edit.identity(solve)
    c2w = edit.cameras.c2w.copy()
    c2w[:, :3, 3] += offset * c2w[:, :3, 0]
    return Pair(video, video, solve, replace(edit, cameras=replace(edit.cameras, c2w=c2w)))


def test_the_reprojection_is_the_previews(sample_shot):
    still = with_moved(real_pair(sample_shot))
    np.testing.assert_array_equal(still.moved.rgb, still.source)
    assert not still.moved.holes.any()
    pair = real_pair(sample_shot, offset=0.3)
    moved = with_moved(pair).moved
    with FootageReader.of_pictures(pair.source, pair.fps) as reader:
        request = RenderRequest(reader, pair.solve, pair.edit, RenderSettings(options={"fill": "smooth"}))
        frames = list(PreviewEngine().render(request, lambda progress: None))
    np.testing.assert_array_equal(moved.rgb, np.stack([frame.rgb for frame in frames]))
    np.testing.assert_array_equal(moved.holes, np.stack([frame.holes > 0 for frame in frames]))
    assert 0.001 < moved.holes.mean() < 0.5


def test_a_batch_is_what_the_examples_are(sample_shot):
    pairs = [with_moved(real_pair(sample_shot, offset=offset)) for offset in (0.1, 0.3)]
    batch = collate(pairs, 50, torch.Generator().manual_seed(0))
    assert batch.source.shape == batch.target.shape == batch.moved.shape == (2, 3, 5, 64, 112)
    assert batch.holes.shape == (2, 1, 5, 64, 112)
    back = ((batch.source[1].permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(back, pairs[1].source)
    assert batch.tracks.source.shape == (2, 5, 50, 3)
    again = collate(pairs, 50, torch.Generator().manual_seed(0))
    assert torch.equal(batch.tracks.source, again.tracks.source)
    # At the latent frames, the tracks of all frames are those that the engines see.
    every = collate(pairs[:1], 10_000).tracks
    latent = pair_tracks(pairs[0].solve, pairs[0].edit, (0, 5), (4, 7))
    shared = {tuple(xy) for xy in latent.source[0, 0, :, :2].tolist()}
    assert shared <= {tuple(xy) for xy in every.source[0, 0, :, :2].tolist()}
    assert collate([replace(pairs[0], moved=None), pairs[1]]).moved is None
    with pytest.raises(ValueError, match="shapes"):
        collate([pairs[0], make_pair()])
