"""What the loop is fed with: data sets, generated pairs, mixtures of them, at the size that a model trains on."""

import json
import shutil
import tarfile
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from retake_backend import cli
from retake_backend.training.config import Config, Data, Look, Picture, Stage
from retake_backend.training.dataset import Examples
from retake_backend.training.examples import PairsSettings, PairsSource, captions_of, open_held_out, open_stages
from retake_backend.training.framed import framed
from retake_backend.training.pairs import Moved
from retake_backend.training.shards_writer import PairWriter
from retake_shared.errors import BadFile, BadShot

from tests.backend.training.conftest import ball_pair

SMALL = Picture(width=48, height=32, frames=3, tracks=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of six balls of 5 frames, 64 x 48 px."""
    folder = tmp_path_factory.mktemp("data") / "balls"
    with PairWriter(folder, per_shard=3) as writer:
        for seed in range(6):
            writer.add(ball_pair(seed=seed), f"ball-{seed}")
    return folder


def equal(first, second):
    tensors = ((getattr(first, n), getattr(second, n)) for n in ("source", "target"))
    tracks = zip(vars(first.tracks).values(), vars(second.tracks).values(), strict=True)
    return all(torch.equal(a, b) for a, b in (*tensors, *tracks)) and first.captions == second.captions


def test_a_piece_of_a_data_set_is_the_same_whenever_it_is_asked_for(data):
    first, again = (PairsSource(data, PairsSettings(), SMALL, 7) for _ in range(2))
    pieces = [first.piece(number, 2) for number in range(6)]
    assert pieces[0].source.shape == (2, 3, 3, 32, 48)
    assert pieces[0].tracks.source.shape[1:3] == (3, 16)
    assert pieces[0].captions == ("a ball", "a ball")
    for number in (5, 0, 3):
        assert equal(again.piece(number, 2), pieces[number])
    other = PairsSource(data, PairsSettings(), SMALL, 8)
    assert not all(equal(other.piece(number, 2), piece) for number, piece in enumerate(pieces))


def test_a_damaged_example_is_left_out_and_counted(data, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    shard = broken / "shard_00001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    source = PairsSource(broken, PairsSettings(), SMALL, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(6):
            source.piece(number, 1)
    assert source.skipped >= 1


def test_all_captions_are_known_before_the_training_begins(data, tmp_path):
    with PairWriter(tmp_path / "more") as writer:
        writer.add(replace(ball_pair(), caption="a moon"), "moon")
    stage = Stage("a", 5, (Data(pairs=data), Data(generator="scenes")))
    look = Look(every=5, data=(Data(pairs=tmp_path / "more"),))
    assert captions_of(Config("paper", (stage,), tmp_path, look=look)) == {"", "a ball", "a moon"}


def test_captions_are_read_of_what_can_be_read(data, tmp_path):
    """A shard that is gone, and one whose descriptions are none, cost their examples; the training begins."""
    broken = tmp_path / "broken"
    with PairWriter(broken, per_shard=1) as writer:
        for number, caption in enumerate(("a moon", "a star", "a cloud")):
            writer.add(replace(ball_pair(), caption=caption), f"p{number}")
    (broken / "shard_00000.tar").unlink()
    deep = tarfile.TarInfo("p1.pair.json")
    deep.size = 100_000
    (broken / "shard_00001.tar").write_bytes(deep.tobuf(tarfile.USTAR_FORMAT) + b"[" * deep.size + bytes(1024))
    stage = Stage("a", 5, (Data(pairs=broken),))
    assert captions_of(Config("paper", (stage,), tmp_path)) == {"", "a cloud"}


def test_a_reprojection_is_made_where_it_is_asked_for(data):
    plain = PairsSource(data, PairsSettings(), SMALL, 0).piece(0, 1)
    made = PairsSource(data, PairsSettings(moved=True), SMALL, 0).piece(0, 1)
    assert plain.moved is None
    assert made.moved.shape == made.source.shape
    assert made.holes.shape == (1, 1, 3, 32, 48)
    assert equal(plain, made)


def test_examples_kept_in_memory_are_the_same_ones_and_are_read_once(data, monkeypatch):
    kept, plain = (PairsSource(data, PairsSettings(in_memory=each), SMALL, 0) for each in (True, False))
    for number in range(3):
        assert equal(kept.piece(number, 6), plain.piece(number, 6))
    monkeypatch.setattr(Examples, "name_and_pair", None)
    kept.piece(3, 6)


def test_generated_pieces_repeat_and_held_out_ones_are_others():
    look = Look(every=5, samples=2, data=(Data(generator="scenes"),))
    config = Config(
        "paper", (Stage("a", 5, (Data(generator="scenes"),)), Stage("b", 5, (Data(generator="scenes"),))), "out",
        picture=SMALL, look=look,
    )  # fmt: skip
    first, second = open_stages(config, "cpu")
    assert equal(first.piece(3, 2), open_stages(config, "cpu")[0].piece(3, 2))
    assert not torch.equal(first.piece(3, 2).source, second.piece(3, 2).source)
    held_out = open_held_out(config, "cpu")
    assert len(held_out) == 2
    assert held_out.source.shape[2:] == (3, 32, 48)
    assert held_out.moved is not None
    assert all(
        not torch.equal(held_out.source, stage.piece(n, 2).source) for stage in (first, second) for n in range(3)
    )
    assert open_held_out(replace(config, look=Look()), "cpu") is None


@pytest.mark.parametrize(
    ("data_", "words"),
    [
        (Data(generator="rooms"), 'no generator "rooms".*"scenes"'),
        (Data(generator="scenes", settings={"shadow": True}), 'unknown key "shadow".*Did you mean "shadows"'),
        (Data(generator="scenes", settings={"scenes": {"things": [3]}}), r"things: is \[3\], not a list of 2"),
        (Data(generator="scenes", settings={"samples": 0}), "0 rays a pixel"),
        (Data(shot=True), "retake fit"),
    ],
)
def test_data_that_there_is_not_is_named_with_its_stage(data_, words):
    config = Config("paper", (Stage("first", 5, (data_,)),), "out", picture=SMALL)
    with pytest.raises(BadFile, match=words) as caught:
        open_stages(config, "cpu")
    assert "stage first" in str(caught.value)


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (48, 48), (64, 48), (128, 96)])
def test_tracks_stay_on_their_picture_at_every_size(ball, size):
    """What a track points at keeps its colour: cut and resized pictures, cut and resized cameras."""
    pair = ball(frames=3, width=192, height=144, tracks=60)
    holes = np.zeros((3, 144, 192), bool)
    holes[:, :72] = True
    pair = replace(
        pair,
        moved=Moved(pair.source, holes),
        solve=replace(pair.solve, depth=np.ones((3, 72, 96), np.float32), masks=np.ones((3, 144, 192), np.uint8)),
    )
    small = framed(pair, Picture(width=size[0], height=size[1], frames=3))
    assert small.size == size
    assert small.moved.holes.mean() == pytest.approx(0.5, abs=0.03)
    for before, after, cameras in (
        (pair.source, small.source, "solve"),
        (pair.target, small.target, "edit"),
    ):
        positions = pair.solve.tracks.positions
        uv, _ = getattr(pair, cameras).cameras.project(positions)
        seen, _ = getattr(small, cameras).cameras.project(positions)
        off = []
        for frame in range(3):
            for place, cut in zip(uv[frame], seen[frame], strict=True):
                if (cut >= 1).all() and (cut < np.array(size) - 1).all():
                    old = before[frame, int(place[1]), int(place[0])].astype(int)
                    new = after[frame, int(cut[1]), int(cut[0])].astype(int)
                    off.append(np.abs(old - new).max())
        assert len(off) > 20
        assert np.median(off) < 8  # the ramp changes by a few levels a pixel; half a crop off it would be tens


def test_spans_of_a_longer_example_are_drawn_and_a_shorter_one_is_refused(ball):
    pair = ball(frames=5)
    starts = {framed(pair, replace(SMALL, frames=3), seed).target[0].tobytes() for seed in range(20)}
    assert len(starts) == 3
    assert framed(pair, replace(SMALL, width=64, height=48, frames=5)).source is not None
    with pytest.raises(BadShot, match=r"has 5 frames.*at most 5"):
        framed(pair, replace(SMALL, frames=6))


CONFIG = """
trainee = "paper"
out = "{out}"
precision = "{precision}"
device = "cpu"
picture = {{width = 48, height = 32, frames = 3, tracks = 16}}
batch = {{size = 2, at_once = 2}}
keep = {{every = 5}}
[model]
steps = 1
transformer = {{num_attention_heads = 2, attention_head_dim = 12, ffn_dim = 24, num_layers = 1}}
conditioner = {{width = 16, heads = 2}}
[[stage]]
name = "synthetic"
steps = 3
data = [{{generator = "scenes"}}]
[[stage]]
name = "real"
steps = 3
data = [{{pairs = "{data}", weight = 0.7}}, {{generator = "scenes", weight = 0.3}}]
[look]
metrics = 1
every = 3
samples = 1
data = [{{pairs = "{data}"}}]
"""


def test_damaged_examples_are_told_of_at_the_end_of_a_training(data, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    shard = broken / "shard_00001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    path = tmp_path / "small.toml"
    path.write_text(
        CONFIG.format(out=tmp_path / "run", data=broken, precision="fp32").replace("every = 3", "every = 0")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cli.main(["train", str(path)]) == 0
    figures = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert figures[-1]["skipped"] >= 1
    assert f"{figures[-1]['skipped']:.0f} times a damaged example was left out" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_retake_train_from_the_command_line(data, tmp_path, capsys, precision):
    """Two stages, a mixture, samples and checkpoints of a real small model; then the same command goes on."""
    path = tmp_path / "small.toml"
    path.write_text(CONFIG.format(out=tmp_path / "run", data=data, precision=precision))
    assert cli.main(["train", str(path)]) == 0
    told = capsys.readouterr()
    assert "6 steps" in told.out
    assert "training, real" in told.err
    figures = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in figures if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in figures if "psnr" in line] == [3, 6]
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2
    assert (tmp_path / "run" / "result" / "conditioner" / "part.json").is_file()
    path.write_text(path.read_text().replace('name = "real"\nsteps = 3', 'name = "real"\nsteps = 4'))
    assert cli.main(["train", str(path)]) == 0
    assert "going on from step 6 of 7" in capsys.readouterr().err
