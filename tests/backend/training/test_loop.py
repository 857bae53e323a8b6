"""The loop: what it writes, that killed equals never killed, and what it says when something is wrong."""

import errno
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from retake_backend.footage import FootageReader, read_image
from retake_backend.training import checkpoints, loop
from retake_backend.training.config import BatchSettings, Data, Keep, Look, Optimiser, Stage
from retake_backend.training.look import sample_figures
from retake_backend.training.loop import TrainingFailed, train
from retake_backend.training.sources import Feed, Mixture
from retake_shared.errors import BadFile, Cancelled, RetakeError

from tests.backend.training.loop_trials import (
    NO_AUGMENTATION,
    PROCESS,
    Colours,
    Numbered,
    batch_of,
    config_of,
    lines,
    quiet,
    result_of,
)


def without_speed(figures):
    return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in figures]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_it_learns_and_leaves_figures_and_the_averaged_weights(tmp_path):
    model = Colours()
    frozen = model.module["frozen"].weight.clone()
    folder = train(config_of(tmp_path, 30), model, [Numbered()], quiet)
    figures = lines(tmp_path)
    assert [line["step"] for line in figures] == list(range(1, 31))
    assert figures[-1]["loss"] < 0.5 * figures[0]["loss"]
    assert figures[0]["learning_rate"] == pytest.approx(0.01)
    assert figures[-1]["learning_rate"] == pytest.approx(0.02)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert torch.equal(model.module["frozen"].weight, frozen)
    saved, kept = result_of(folder), checkpoints.read(checkpoints.found(tmp_path)[-1])
    assert all(torch.equal(saved[n], kept.average[n]) for n in kept.average)
    assert any(not torch.equal(kept.weights[n], kept.average[n]) for n in kept.average)
    assert torch.equal(model.module["layers"][0].weight, kept.weights["layers.0.weight"])  # the averages are put aside


def test_killed_at_any_moment_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    """Killed (-9) at step 6, then with the checkpoint of step 8 half there, then stopped by hand at 9."""
    whole = train(config_of(tmp_path / "whole"), Colours(), [Numbered()], quiet)
    out = tmp_path / "killed"
    for kind, step in (("killed", 6), ("killed-writing", 8)):
        ran = subprocess.run([sys.executable, str(PROCESS), kind, str(out), str(step)], capture_output=True, text=True)
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        assert [path.name for path in checkpoints.found(out)] == ["step-00000004"]

    def stop_at_nine(progress):
        if progress.done == 9:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(config_of(out), Colours(), [Numbered()], stop_at_nine)
    assert checkpoints.found(out)[-1].name == "step-00000009"
    notes = []
    resumed = train(config_of(out), Colours(), [Numbered()], quiet, note=notes.append)
    assert notes == [f"{out}: going on from step 9 of 12."]
    assert same(result_of(whole), result_of(resumed))
    first, second = (checkpoints.read(checkpoints.found(tmp_path / each)[-1]) for each in ("whole", "killed"))
    assert same(first.moments, second.moments)
    assert same(first.weights, second.weights)
    assert without_speed(lines(tmp_path / "whole")) == without_speed(lines(out))
    assert not list(out.rglob("*.part"))


class Cut:
    """The same four examples, in pieces."""

    def piece(self, number, count):
        whole = batch_of(7, 4)
        part = slice(number * count, (number + 1) * count)
        return replace(
            whole,
            source=whole.source[part],
            target=whole.target[part],
            tracks=type(whole.tracks)(*(t[part] for t in vars(whole.tracks).values())),
            captions=whole.captions[part],
        )


def test_a_batch_is_the_same_however_it_is_cut(tmp_path):
    """Pieces of 4 give the gradient of pieces of 1 where a model draws no chance: what one GPU cannot hold, it cuts."""
    norms = []
    for at_once in (4, 1):
        config = config_of(tmp_path / str(at_once), 1, batch=BatchSettings(size=4, at_once=at_once))
        train(replace(config, augmentation=NO_AUGMENTATION), Colours(noise=0), [Cut()], quiet)
        norms.append(lines(tmp_path / str(at_once))[0]["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_stages_follow_each_other_and_resume_in_the_middle(tmp_path):
    stages = (Stage("synthetic", 3, (Data(generator="n"),)), Stage("real", 4, (Data(generator="n"),)))
    config = config_of(tmp_path, stage=stages, batch=BatchSettings(size=2, at_once=1), keep=Keep(every=2))
    sources = [Numbered(), Numbered(1000)]
    seen = []
    train(config, Colours(), sources, lambda progress: seen.append(progress.stage))
    assert sources[0].asked == list(range(6))
    assert sources[1].asked == list(range(6, 14))
    assert seen.count("training, synthetic") == 3
    with Feed([(3, sources[0]), (4, sources[1])], size=2, at_once=1, ahead=2, step=4, process=0, processes=1) as feed:
        assert [piece for piece, _ in feed] == list(range(8, 14))


def test_a_mixture_gives_each_source_its_share_in_its_own_order():
    sources = (Numbered(), Numbered(), Numbered())
    mixture = Mixture(sources, (0.5, 0.3, 0.2))
    for number in range(100):
        mixture.piece(number, 1)
    assert [len(source.asked) for source in sources] == [50, 30, 20]
    assert all(source.asked == list(range(len(source.asked))) for source in sources)
    before = [len(source.asked) for source in sources]
    mixture.piece(100, 1)
    grown = [len(source.asked) > count for source, count in zip(sources, before, strict=True)]
    later = (Numbered(), Numbered(), Numbered())
    Mixture(later, (0.5, 0.3, 0.2)).piece(100, 1)  # what comes does not depend on what came
    assert [bool(source.asked) for source in later] == grown
    assert later[grown.index(True)].asked == sources[grown.index(True)].asked[-1:]


def test_samples_of_held_out_examples_are_kept_as_pictures_videos_and_figures(tmp_path):
    held_out = batch_of(99, 2, moved=True)
    look = Look(metrics=1, every=4, samples=2, data=(Data(generator="n"),))
    pictures = (
        train(config_of(tmp_path, look=look), Colours(), [Numbered()], quiet, held_out=held_out).parent / "samples"
    )
    assert sorted(path.name for path in pictures.iterdir()) == [
        f"step-{step:08d}.{kind}" for step in (4, 8, 12) for kind in ("mp4", "png")
    ]
    picture = read_image(pictures / "step-00000012.png")
    assert picture.shape == (12 + 2 * 16, 4 * 16, 3)  # names, two rows; source, moved, target, sample
    target = ((held_out.target[0, :, 2] * 0.5 + 0.5) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    assert (picture[12:28, 32:48] == target).all()
    with FootageReader(pictures / "step-00000012.mp4") as video:
        assert video.footage.frames == 5
    figures = [line for line in lines(tmp_path) if "psnr" in line]
    assert [line["step"] for line in figures] == [4, 8, 12]
    assert figures[-1]["psnr"] > figures[-1]["psnr_source"] + 1
    assert figures[-1]["psnr_moved"] == pytest.approx(figures[-1]["psnr_source"])
    # Looking leaves no trace in the training.
    other = train(config_of(tmp_path / "blind"), Colours(), [Numbered()], quiet)
    assert same(result_of(other), result_of(tmp_path / loop.RESULT))


def test_samples_are_also_measured_where_the_reprojection_shows_nothing():
    batch = batch_of(0, moved=True)
    inside = batch.holes.bool().expand_as(batch.target)
    sample = torch.where(inside, batch.target.clamp(-0.9, 0.9) + 0.1, 0.0)
    off = (batch.target.clamp(-0.9, 0.9) + 0.1 - batch.target)[inside]
    figures = sample_figures(batch, sample)
    assert figures["psnr_holes"] == pytest.approx(-10 * math.log10(float(off.square().mean()) / 4), abs=0.2)
    off = (batch.moved - batch.target)[inside]
    assert figures["psnr_holes_moved"] == pytest.approx(-10 * math.log10(float(off.square().mean()) / 4), abs=0.2)
    assert not any("holes" in name for name in sample_figures(batch_of(0), sample))
    assert sample_figures(batch, batch.target)["psnr_holes"] == 100.0  # JSON has no infinity, which a reader would get


def test_a_loss_that_is_no_number_stops_with_words_and_the_last_checkpoint_stays(tmp_path):
    class Poisoned(Numbered):
        def piece(self, number, count):
            batch = super().piece(number, count)
            return replace(batch, source=batch.source * float("nan")) if number == 11 else batch

    with pytest.raises(TrainingFailed, match=r"step 6 has loss nan.*checkpoint of step 4 is sound"):
        train(config_of(tmp_path), Colours(), [Poisoned()], quiet)
    assert checkpoints.found(tmp_path)[-1].name == "step-00000004"
    assert all(torch.isfinite(t).all() for t in checkpoints.read(checkpoints.found(tmp_path)[-1]).weights.values())
    train(config_of(tmp_path), Colours(), [Numbered()], quiet)  # the cause gone, it goes on
    assert lines(tmp_path)[-1]["step"] == 12


def full_disk(monkeypatch, when):
    """No room for a checkpoint while when() says so."""
    write = checkpoints._write

    def limited(path, data):
        if when():
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    monkeypatch.setattr(checkpoints, "_write", limited)


def test_a_full_disk_is_told_and_the_training_goes_on(tmp_path, monkeypatch):
    full = {"now": False}

    def report(progress):
        full["now"] = 6 <= progress.done < 10

    full_disk(monkeypatch, lambda: full["now"])
    notes = []
    train(config_of(tmp_path), Colours(), [Numbered()], report, note=notes.append)
    assert notes == [f"{tmp_path}: step 8 could not be kept (the disk is full); the checkpoint before it stays."]
    assert [path.name for path in checkpoints.found(tmp_path)] == ["step-00000004", "step-00000012"]
    assert not list(tmp_path.rglob("*.part"))


def test_without_room_at_the_end_the_last_checkpoint_stays_and_is_named(tmp_path, monkeypatch):
    full = {"now": False}

    def report(progress):
        full["now"] = progress.done >= 6
        if progress.done == 7:
            raise Cancelled

    full_disk(monkeypatch, lambda: full["now"])
    with pytest.raises(RetakeError, match=r"step 7 could not be kept; the last checkpoint is that of step 4.*Free"):
        train(config_of(tmp_path), Colours(), [Numbered()], report, note=lambda text: None)
    checkpoints.read(checkpoints.found(tmp_path)[-1])


def test_figures_that_find_no_room_cost_no_training(tmp_path, monkeypatch):
    path_open = Path.open

    def limited(self, *given, **more):
        if self.name == "metrics.jsonl" and given and given[0] == "a":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return path_open(self, *given, **more)

    monkeypatch.setattr(Path, "open", limited)
    notes = []
    train(config_of(tmp_path), Colours(), [Numbered()], quiet, note=notes.append)
    assert set(notes) == {"Figures could not be written (No space left on device); the training goes on without."}
    assert checkpoints.found(tmp_path)[-1].name == "step-00000012"


def test_a_disk_that_is_full_at_the_beginning_costs_only_the_figures_until_there_is_room(tmp_path, monkeypatch):
    def stop_at_six(progress):
        if progress.done == 6:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(config_of(tmp_path), Colours(), [Numbered()], stop_at_six)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    path_open, steps = Path.open, [6]

    def limited(self, *given, **more):
        if self.name == "metrics.jsonl.part" and steps[-1] < 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return path_open(self, *given, **more)

    monkeypatch.setattr(Path, "open", limited)
    notes = []
    train(config_of(tmp_path), Colours(), [Numbered()], lambda p: steps.append(p.done), note=notes.append)
    assert notes[1:] == 2 * ["Figures could not be written (No space left on device); the training goes on without."]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 9, 10, 11, 12]


def test_two_trainings_do_not_take_away_each_others_checkpoints(tmp_path):
    told = []

    def start_another(progress):
        if progress.done == 5:
            with pytest.raises(RetakeError, match="another training") as refused:
                train(config_of(tmp_path), Colours(), [Numbered()], quiet)
            told.append(refused.value.remedy)

    train(config_of(tmp_path), Colours(), [Numbered()], start_another)
    assert told == ["Wait for its end, or name another folder for `out`."]
    train(config_of(tmp_path), Colours(), [Numbered()], quiet)  # the lock ends with the training


def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path):
    train(config_of(tmp_path), Colours(), [Numbered()], quiet)
    path = checkpoints.found(tmp_path)[-1] / "moments.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadFile, match=r"step-00000012.*no whole checkpoint.*Remove this folder"):
        train(config_of(tmp_path, 20), Colours(), [Numbered()], quiet)
    shutil.rmtree(path.parent)
    train(config_of(tmp_path, 20), Colours(), [Numbered()], quiet)  # from the one before
    assert lines(tmp_path)[-1]["step"] == 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainee": "draft"}, "\"trainee\" is 'colours'"),
        ({"seed": 5}, '"seed" is 0'),
        ({"model": {"width": 3}}, "model"),
    ],
)
def test_another_training_is_not_gone_on_with(tmp_path, changes, words):
    train(config_of(tmp_path), Colours(), [Numbered()], quiet)
    with pytest.raises(BadFile, match=words):
        train(replace(config_of(tmp_path, 20), **changes), Colours(), [Numbered()], quiet)


def test_only_the_last_checkpoints_stay(tmp_path):
    train(config_of(tmp_path, 10, keep=Keep(every=2, last=3)), Colours(), [Numbered()], quiet)
    assert [path.name[-2:] for path in checkpoints.found(tmp_path)] == ["06", "08", "10"]


def test_clipping_and_decay_are_those_of_torch(tmp_path):
    """One step, by hand: the mean of the pieces' gradients, clipped to its norm, through torch's own AdamW."""
    settings = Optimiser(learning_rate=0.1, warm_up=0, clip=0.05, weight_decay=0.3, average=0)
    batch = BatchSettings(size=4, at_once=2)
    train(config_of(tmp_path, 1, optimiser=settings, batch=batch), Colours(), [Numbered()], quiet)
    model = Colours()
    weights = [p for p in model.module.parameters() if p.requires_grad]
    for piece in range(2):
        generator = loop.generator_of(0, piece)
        seen = loop.augmented(batch_of(piece, 2), config_of(tmp_path).augmentation, generator)
        (model.loss(seen, generator)[0] / 2).backward()
    torch.nn.utils.clip_grad_norm_(weights, 0.05)
    torch.optim.AdamW(weights, 0.1, weight_decay=0.3).step()
    kept = checkpoints.read(checkpoints.found(tmp_path)[-1]).weights
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(kept[name], parameter.detach(), rtol=1e-5, atol=1e-7)


def test_asked_to_stop_when_all_is_done_it_ends_with_its_result(tmp_path):
    """Other processes are at the result already: who left them there would let them wait for ever."""

    def stop_at_the_end(progress):
        if progress.done == progress.total:
            raise Cancelled

    folder = train(config_of(tmp_path, 2), Colours(), [Numbered()], stop_at_the_end)
    assert result_of(folder)


def test_a_base_in_bf16_and_arithmetic_in_fp32_are_refused_with_the_way_out(tmp_path):
    """`precision` is what a training that failed is told to change; what hangs together with it must be said."""
    model = Colours()
    model.module["frozen"].bfloat16()
    with pytest.raises(RetakeError, match=r'"fp32".*weights in bf16.*weights = "fp32" under \[model\]'):
        train(config_of(tmp_path), model, [Numbered()], quiet)
    config = config_of(tmp_path, precision="bf16", model={"weights": "bf16"})
    train(config, model, [Numbered()], quiet)
    exact = replace(config, precision="fp32", model={"weights": "fp32"}, stage=config_of(tmp_path, 13).stage)
    train(exact, Colours(), [Numbered()], quiet)  # it goes on, as it was told to
    assert checkpoints.found(tmp_path)[-1].name == "step-00000013"


def test_the_source_of_examples_that_fails_stops_the_training(tmp_path):
    class Broken(Numbered):
        def piece(self, number, count):
            if number == 5:
                raise BadFile("is cut in half.", "shard_00003.tar", "Make it again.")
            return super().piece(number, count)

    with pytest.raises(BadFile, match="shard_00003"):
        train(config_of(tmp_path), Colours(), [Broken()], quiet)


def test_rates_rise_and_fall_as_said():
    rates = [Optimiser(learning_rate=1.0, warm_up=4, schedule="cosine").rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.25, rel=1e-2)
    assert max(rates) == pytest.approx(1, rel=0.01)
    assert rates[50] == pytest.approx(0.5)
    assert rates[-1] < 1e-3
    assert np.argmax(rates) == 3
