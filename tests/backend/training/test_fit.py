"""`retake fit`: pairs out of one's own shot, and a short training on them from the command line."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from retake_backend import cli
from retake_backend.conditioning.track2view import Track2ViewConditioner
from retake_backend.footage import FootageReader
from retake_backend.models import parts
from retake_backend.models.draft import DraftTransformer
from retake_backend.models.draft_weights import load_draft, save_draft
from retake_backend.training import checkpoints
from retake_backend.training.config import Picture
from retake_backend.training.examples import HeldPairs
from retake_backend.training.fit import FitSettings, clip_starts, shot_pairs
from retake_backend.weights import shipped
from retake_backend.weights.store import WeightStore
from retake_shared import archive
from retake_shared.errors import BadShot, Cancelled
from safetensors.torch import load_file

CONFIG = """
trainee = "track2view"
out = "unused"
precision = "fp32"
device = "cpu"
model = {licence = "CC0-1.0", weights = "fp32", conditioner = {width = 32, heads = 2, layers = 1}, lora = {rank = 4, alpha = 4}}
picture = {width = 64, height = 32, frames = 5, tracks = 50}
batch = {size = 2}
stage = [{name = "shot", steps = 3, data = [{shot = true, settings = {count = 6}}]}]
keep = {every = 2}
"""
DRAFT = """
trainee = "draft"
out = "unused"
precision = "fp32"
device = "cpu"
picture = {width = 64, height = 32, frames = 2, tracks = 50}
batch = {size = 1}
stage = [{name = "shot", steps = 2, data = [{shot = true, settings = {count = 2, moved = true}}]}]
"""


SMALL_DRAFT = {
    "width": 24, "heads": 2, "layers": 2, "ffn_dim": 16, "fine": 8, "coarse": 8, "track_width": 16, "track_heads": 2,
    "longer_side": 64,
}  # fmt: skip


def quiet(progress):
    pass


@pytest.fixture
def shot(sample_shot):
    """The sample shot, 81 frames of a walker: reader and solve."""
    with FootageReader(sample_shot / "walk.mp4") as reader:
        yield reader, archive.load_solve(sample_shot / "walk.solve.npz")


@settings(max_examples=60, deadline=None)
@given(
    strategies.integers(2, 400), strategies.integers(1, 90), strategies.floats(1, 60), strategies.floats(0, 6),
    strategies.integers(0, 99),
)  # fmt: skip
def test_clips_lie_in_the_shot_and_as_far_apart_as_was_said(frames, length, fps, nearest, seed):
    wanted = FitSettings(count=20, nearest=nearest, furthest=nearest + 2)
    if frames <= length:
        with pytest.raises(BadShot, match=f"has {frames} frames"):
            clip_starts(frames, length, fps, wanted, seed)
        return
    starts = clip_starts(frames, length, fps, wanted, seed)
    room = frames - length
    for source, target in starts:
        assert 0 <= source <= room
        assert 0 <= target <= room
        assert 1 <= abs(source - target) <= max(1, round(wanted.furthest * fps))
        assert abs(source - target) >= min(room, round(nearest * fps))
    assert starts == clip_starts(frames, length, fps, wanted, seed)


def test_a_pair_is_an_edit_whose_truth_was_shot(shot):
    """The edit's tracks, seen by its cameras, lie where the solve saw them in the target's frames."""
    reader, solve = shot
    picture = Picture(width=336, height=192, frames=9, tracks=50)
    pairs = shot_pairs(reader, solve, picture, FitSettings(count=5), 3, quiet)
    assert len(pairs) == 5
    whole = solve.cameras.resized(336, 192)
    for pair in pairs:
        source, target = (int(word) for word in pair.origin["name"].split() if word.isdigit())
        assert abs(source - target) >= 16
        uv, _ = pair.edit.cameras.project(pair.edit.positions)
        expected, true_depth = whole.frames(target, target + 9).project(solve.tracks.positions[target : target + 9])
        front = true_depth > 0
        assert np.abs(uv - expected)[front].max() < 1e-6
        picture_there = next(reader.small_frames(range(target, target + 1), (336, 192)))
        assert (pair.target[0] == picture_there).all()
        assert (pair.solve.tracks.visibility == solve.tracks.visibility[source : source + 9]).all()


def test_another_shape_keeps_tracks_on_what_they_were_on(shot):
    """A square is cut out of the middle: cameras are cut with the picture."""
    reader, solve = shot
    (pair, *_) = shot_pairs(reader, solve, Picture(width=96, height=96, frames=3), FitSettings(count=1), 0, quiet)
    assert pair.size == (96, 96)
    source = int(pair.origin["name"].split()[1])
    uv, _ = solve.cameras.frames(source, source + 3).project(solve.tracks.positions[source : source + 3])
    cut, _ = pair.solve.cameras.project(pair.solve.tracks.positions)
    assert np.abs(cut - (uv - [(672 - 384) / 2, 0]) * 96 / 384).max() < 0.51  # of a pixel: crops are whole pixels


def test_held_pairs_come_round_after_round(shot):
    reader, solve = shot
    picture = Picture(width=64, height=32, frames=5, tracks=30)
    pairs = shot_pairs(reader, solve, picture, FitSettings(count=4), 0, quiet)
    held = HeldPairs(pairs, picture, 0)
    first = [held.piece(number, 1).target for number in range(8)]
    for turn in (first[:4], first[4:]):
        assert len({tensor.numpy().tobytes() for tensor in turn}) == len({p.target.tobytes() for p in pairs})
    assert torch.equal(held.piece(3, 2).target, torch.cat([held.piece(6, 1).target, held.piece(7, 1).target]))


def test_it_can_be_cancelled_while_it_reads(shot):
    def report(progress):
        if progress.done > 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        shot_pairs(*shot, Picture(width=64, height=32, frames=5), FitSettings(), 0, report)


def fit(sample_shot, out, config, *more):
    solve = str(sample_shot / "walk.solve.npz")
    return ["fit", str(sample_shot / "walk.mp4"), "--solve", solve, "--out", str(out), "--config", str(config), *more]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


def test_a_shot_is_fitted_imported_and_fitted_further(models, sample_shot, tmp_path, config, monkeypatch, capsys):
    home = tmp_path / "models"
    home.mkdir()
    (home / "wan2.1-t2v-1.3b").symlink_to(models / "wan2.1-t2v-1.3b")
    monkeypatch.setenv("RETAKE_MODELS", str(home))
    assert cli.main(fit(sample_shot, tmp_path / "first", config)) == 0
    out = capsys.readouterr().out
    result = tmp_path / "first" / "result"
    assert f"retake models import track2view {result} --replace" in out
    assert cli.main(["models", "import", "track2view", str(result)]) == 0
    assert len(checkpoints.found(tmp_path / "first")) == 2
    # The next fit goes on from what is installed, as its first averages show.
    assert cli.main(fit(sample_shot, tmp_path / "second", config, "--steps", "1")) == 0
    wan = parts.load_base(home / "wan2.1-t2v-1.3b")
    start = parts.load_parts(home / "track2view", wan, [Track2ViewConditioner]).conditioner.state_dict()
    one = checkpoints.read(checkpoints.found(tmp_path / "second")[0]).weights
    key = "conditioner.temporal.blocks.0.to_qkv.weight"
    moved = (one[key] - start[key.removeprefix("conditioner.")]).abs().max()
    assert 0 < moved < 1e-5  # one step of warm-up away


def test_stopped_by_hand_it_leaves_a_checkpoint(models, sample_shot, tmp_path, config):
    """SIGINT to the real command, as Ctrl-C sends it."""
    config.write_text(
        CONFIG.replace("steps = 3", "steps = 5000").replace("{every = 2}", "{every = 4000}") + "look = {metrics = 1}\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "retake_backend.cli", *fit(sample_shot, out, config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    figures = out / "metrics.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (figures.exists() and figures.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "stopping after this step" in said
    (kept,) = checkpoints.found(out)
    assert checkpoints.read(kept).step >= json.loads(figures.read_text().splitlines()[-1])["step"]


def test_the_draft_model_is_fitted_too(sample_shot, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path / "models"))
    torch.manual_seed(0)
    save_draft(tmp_path / "start", DraftTransformer(**SMALL_DRAFT))
    path = tmp_path / "draft.toml"
    path.write_text(DRAFT)
    assert cli.main(fit(sample_shot, tmp_path / "out", path, "--from", str(tmp_path / "start"))) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("To use it: retake ")]
    load_draft(tmp_path / "out" / "result")
    before, after = (load_file(next((tmp_path / f).glob("*.safetensors"))) for f in ("start", "out/result"))
    assert before.keys() == after.keys()
    # And the engine takes what was fitted once the command that the words name has been given.
    assert cli.main(shlex.split(told.partition("retake ")[2].partition("(")[0])) == 0
    assert WeightStore().place("draft") == tmp_path / "models" / "draft"
    fitted = load_file(tmp_path / "models" / "draft" / shipped.WEIGHTS)
    assert all(torch.equal(fitted[name], after[name]) for name in after)


def test_a_shot_that_is_too_short_or_a_configuration_without_one_is_refused(sample_shot, tmp_path, config, capsys):
    config.write_text(CONFIG.replace("frames = 5", "frames = 81"))
    assert cli.main(fit(sample_shot, tmp_path / "out", config)) == 2
    assert "has 81 frames, and a clip 81. Train on clips of at most 80" in capsys.readouterr().err
    config.write_text(CONFIG.replace("{shot = true, settings = {count = 6}}", '{generator = "scenes"}'))
    assert cli.main(fit(sample_shot, tmp_path / "out", config)) == 2
    assert "shot = true" in capsys.readouterr().err


def test_fits_of_nothing_are_refused(sample_shot, tmp_path, config, capsys):
    assert cli.main(fit(sample_shot, tmp_path / "out", config, "--steps", "-1")) == 2
    assert "--steps: is -1." in capsys.readouterr().err
    config.write_text(CONFIG.replace("count = 6", "count = 0"))
    assert cli.main(fit(sample_shot, tmp_path / "out", config)) == 2
    assert '"count" is 0' in capsys.readouterr().err
