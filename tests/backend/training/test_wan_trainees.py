"""The track methods in training on a tiny Wan: what learns, what stays, and that takes are made of the result."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from retake_backend.engines.base import RenderRequest
from retake_backend.engines.edit_by_track import EditByTrackEngine
from retake_backend.engines.track2view import Track2ViewEngine
from retake_backend.engines.trajectory_attention import TrajectoryAttentionEngine
from retake_backend.models import memory, resident
from retake_backend.models.text import encode_prompts
from retake_backend.training import checkpoints
from retake_backend.training.config import BatchSettings, Config, Data, Optimiser, Picture, Stage
from retake_backend.training.examples import HeldPairs
from retake_backend.training.loop import train
from retake_backend.training.registry import make_trainee
from retake_backend.weights.importing import import_folder
from retake_backend.weights.store import WeightStore
from retake_shared.errors import BadFile, Cancelled, RetakeError
from retake_shared.shot import Footage, RenderSettings


class Pictures:
    """Footage in memory, with the reader's interface."""

    def __init__(self, video):
        self.video, self.notes = video, ()
        self.footage = Footage("memory", video.shape[2], video.shape[1], Fraction(16), len(video))

    def frame(self, index):
        return self.video[index]


SMALL = {"width": 32, "heads": 2}
SETTINGS = {
    "edit-by-track": {"conditioner": {**SMALL, "temporal_layers": 1}, "lora": {"rank": 4, "alpha": 4}},
    "track2view": {"conditioner": {**SMALL, "layers": 1}, "lora": {"rank": 4, "alpha": 4}},
    "trajectory-attention": {},
}
ENGINES = {
    "edit-by-track": EditByTrackEngine,
    "track2view": Track2ViewEngine,
    "trajectory-attention": TrajectoryAttentionEngine,
}
NAMES = list(SETTINGS)


@pytest.fixture
def trainee(models):
    """A function that makes one on the tiny Wan, in float32."""

    def make(name, **more):
        torch.manual_seed(0)
        settings = {"licence": "CC0-1.0", "weights": "fp32", "samples": {"steps": 2}, **SETTINGS[name], **more}
        return make_trainee(name, settings)

    return make


def step(trainee, batch, seed=0):
    loss, _ = trainee.loss(batch, torch.Generator().manual_seed(seed))
    loss.backward()
    return float(loss.detach())


def trained(trainee):
    return {name: p for name, p in trainee.module.named_parameters() if p.requires_grad}


def descend(trainee, batch, rate, steps):
    """Plain gradient descent, each step with noise of its own."""
    optimiser = torch.optim.SGD(trained(trainee).values(), rate)
    for seed in range(steps):
        optimiser.zero_grad()
        step(trainee, batch, seed)
        optimiser.step()


@pytest.mark.parametrize("name", NAMES)
def test_an_overfit_batch_is_learned_and_the_base_stays_as_it_is_bit_for_bit(trainee, one_of_a_ball, name):
    model = trainee(name, levels={"distribution": "uniform", "shift": 1.0})
    before = {n: p.detach().clone() for n, p in model.module.named_parameters() if not p.requires_grad}
    optimiser = torch.optim.AdamW(trained(model).values(), 5e-3)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        losses.append(step(model, one_of_a_ball, seed=3))  # the same noise: the loss can only fall by learning
        optimiser.step()
    assert losses[-1] < 0.97 * losses[0]
    assert before
    assert all(torch.equal(dict(model.module.named_parameters())[n], p) for n, p in before.items())


@pytest.mark.parametrize("name", NAMES)
def test_every_new_weight_learns(trainee, one_of_a_ball, name):
    """What starts as zero hides what lies before it from the first gradient; after a few steps nothing is hidden."""
    model = trainee(name)
    descend(model, one_of_a_ball, rate=1.0, steps=3)
    silent = [name for name, p in trained(model).items() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", NAMES)
def test_saved_parts_are_imported_and_make_a_take(trainee, pairs_of_a_ball, models, tmp_path, ball, name, monkeypatch):
    model = trainee(name)
    descend(model, pairs_of_a_ball, rate=10.0, steps=2)
    model.save(tmp_path / "result")
    home = tmp_path / "models"
    home.mkdir()
    (home / "wan2.1-t2v-1.3b").symlink_to(models / "wan2.1-t2v-1.3b")
    monkeypatch.setenv("RETAKE_MODELS", str(home))
    entry = import_folder(name, tmp_path / "result", WeightStore(), lambda *progress: None)
    assert (entry.state, entry.licence) == ("installed", "CC0-1.0")
    pair = ball()
    options = {"working_size": 64, "steps": 2, "memory": "cpu", "quality": "standard"}
    request = RenderRequest(
        Pictures(pair.source), pair.solve, pair.edit, RenderSettings(engine=name, options=options, seed=1)
    )
    take = [frame.rgb for frame in ENGINES[name]().render(request, lambda progress: None)]
    resident.release()
    assert len(take) == 5
    # The very weights that were trained: another training makes another take.
    (home / name).rename(home / "kept")
    for parameter in trained(model).values():
        parameter.data.mul_(1.5)
    model.save(tmp_path / "other")
    import_folder(name, tmp_path / "other", WeightStore(), lambda *progress: None)
    other = [frame.rgb for frame in ENGINES[name]().render(request, lambda progress: None)]
    assert any((a != b).any() for a, b in zip(take, other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_training_goes_on_from_parts(trainee, pairs_of_a_ball, tmp_path, name):
    """The second stage, or a fit, begins with the very loss that the first ended with."""
    model = trainee(name)
    descend(model, pairs_of_a_ball, rate=10.0, steps=1)
    with torch.no_grad():
        ended, _ = model.loss(pairs_of_a_ball, torch.Generator().manual_seed(5))
        model.save(tmp_path / "parts")
        fresh = trainee(name)
        again = trainee(name, parts=str(tmp_path / "parts"))
        assert trained(again).keys() == trained(model).keys()
        assert float(again.loss(pairs_of_a_ball, torch.Generator().manual_seed(5))[0]) == float(ended)
        assert float(fresh.loss(pairs_of_a_ball, torch.Generator().manual_seed(5))[0]) != float(ended)


@pytest.mark.parametrize("name", NAMES)
def test_running_blocks_again_going_back_changes_no_gradient(trainee, pairs_of_a_ball, name):
    gradients = []
    for checkpointing in (True, False):
        model = trainee(name, checkpointing=checkpointing)
        for branch in trained(model).values():  # away from zero, so that all gradients count
            branch.data.add_(0.02)
        step(model, pairs_of_a_ball)
        gradients.append({n: p.grad for n, p in trained(model).items()})
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])


def test_bfloat16_keeps_what_is_trained_in_float32(trainee, pairs_of_a_ball):
    model = trainee("edit-by-track", weights="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = step(model, pairs_of_a_ball)
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in trained(model).values())
    exact = step(trainee("edit-by-track"), pairs_of_a_ball)
    assert rounded == pytest.approx(exact, rel=0.02)


def test_only_the_target_is_noised_and_scored(trainee, pairs_of_a_ball, monkeypatch):
    """Source latents reach the model clean; the loss is the target's velocity alone, at the timestep of its noise."""
    model = trainee("edit-by-track")
    seen = {}

    def forward(**given):
        seen.update(given)
        return (torch.zeros_like(given["hidden_states"]),)

    monkeypatch.setattr(model.transformer, "forward", forward)
    with torch.no_grad():
        loss, _ = model.loss(pairs_of_a_ball, torch.Generator().manual_seed(0))
    clean = model._latents(pairs_of_a_ball.target)
    assert torch.equal(seen["source_latents"], model._latents(pairs_of_a_ball.source))
    sigma = (seen["timestep"] / 1000).view(-1, 1, 1, 1, 1)
    noise = (seen["hidden_states"] - (1 - sigma) * clean) / sigma
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    assert float(loss) == pytest.approx(float((noise - clean).square().mean()), rel=1e-4)


def test_kept_latents_are_used_and_lost_frames_are_not_kept(trainee, pairs_of_a_ball, tmp_path, monkeypatch):
    model = trainee("track2view", latents=str(tmp_path / "latents"))
    with torch.no_grad():
        first, _ = model.loss(pairs_of_a_ball, torch.Generator().manual_seed(0))
        plain, _ = trainee("track2view").loss(pairs_of_a_ball, torch.Generator().manual_seed(0))
        assert float(first) == pytest.approx(float(plain), rel=1e-3)
        kept = len(list((tmp_path / "latents").rglob("*.safetensors")))
        assert kept == 2  # both pairs show the same source and the same target
        lost = pairs_of_a_ball.source.clone()
        lost[:, :, 1] = 0
        model.loss(replace(pairs_of_a_ball, source=lost), torch.Generator().manual_seed(0))
        assert len(list((tmp_path / "latents").rglob("*.safetensors"))) == kept
        monkeypatch.setattr(type(model.codec), "encode", lambda *given: pytest.fail("the VAE was asked again"))
        again, _ = model.loss(pairs_of_a_ball, torch.Generator().manual_seed(0))
    assert float(again) == float(first)


def test_captions_are_read_ahead_and_come_as_the_engine_reads_prompts(trainee, pairs_of_a_ball, monkeypatch):
    model = trainee("edit-by-track")
    stages = []
    model.read_captions(["a ball", "a ball", "a cat on a mat", ""], lambda progress: stages.append(progress.stage))
    assert stages == ["reading captions"]
    expected = encode_prompts(model.place, ["a ball", ""], memory.choose("cpu"), lambda progress: None)
    monkeypatch.setattr(type(model), "_read", lambda *given: pytest.fail("the text encoder was loaded again"))
    text = model._text(["a ball", ""])
    assert text.shape == (2, 512, 32)
    assert torch.equal(text, torch.cat([expected.of("a ball"), expected.of("")]).float())
    model.loss(pairs_of_a_ball, torch.Generator().manual_seed(0))


def test_samples_are_videos_of_the_batch(trainee, pairs_of_a_ball):
    model = trainee("track2view")
    sample = model.sample(pairs_of_a_ball, torch.Generator().manual_seed(0))
    assert sample.shape == pairs_of_a_ball.target.shape
    assert torch.equal(sample, model.sample(pairs_of_a_ball, torch.Generator().manual_seed(0)))
    assert not torch.equal(sample, model.sample(pairs_of_a_ball, torch.Generator().manual_seed(1)))
    assert sample.abs().max() <= 1


def test_a_key_that_the_model_does_not_know_is_named(trainee):
    with pytest.raises(BadFile, match=r'unknown key "temporal_layrs".*Did you mean "temporal_layers"'):
        trainee("edit-by-track", conditioner={"temporal_layrs": 3})
    with pytest.raises(RetakeError, match="no trainee"):
        make_trainee("edit-by-trick", {})


def test_a_base_that_is_not_here_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path))
    with pytest.raises(RetakeError, match="retake models pull"):
        make_trainee("edit-by-track", {"licence": "CC0-1.0"})


@pytest.mark.parametrize("name", ["edit-by-track", "trajectory-attention"])
def test_stopped_and_resumed_in_a_new_trainee_equals_uninterrupted_bit_for_bit(trainee, ball, tmp_path, name):
    pairs = HeldPairs([ball(seed=seed) for seed in range(3)], Picture(64, 48, 5, 30), 0)

    def stop_at_two(progress):
        if progress.done == 2:
            raise Cancelled

    def config(out):
        return Config(
            name, (Stage("a", 3, (Data(shot=True),)),), tmp_path / out, device="cpu", precision="fp32",
            batch=BatchSettings(1, 1), optimiser=Optimiser(1e-3, warm_up=0),
        )  # fmt: skip

    train(config("whole"), trainee(name), [pairs], lambda progress: None)
    with pytest.raises(Cancelled):
        train(config("stopped"), trainee(name), [pairs], stop_at_two)
    train(config("stopped"), trainee(name), [pairs], lambda progress: None)
    whole, stopped = (checkpoints.read(checkpoints.found(tmp_path / out)[-1]) for out in ("whole", "stopped"))
    assert whole.step == stopped.step == 3
    for part in ("weights", "average", "moments"):
        first, second = getattr(whole, part), getattr(stopped, part)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
