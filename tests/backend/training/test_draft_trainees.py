"""The small models in training: they learn from a batch, leave chance to the generator, and save what the engine reads."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from retake_backend.conditioning.edit_by_track import EditByTrackConditioner
from retake_backend.models.draft_weights import load_draft
from retake_backend.models.parts import load_base, load_parts
from retake_backend.training.draft_loss import LossSettings, correction_loss
from retake_backend.training.draft_trainees import (
    DraftSettings,
    DraftTrainee,
    PaperSettings,
    PaperTrainee,
    RefinerTrainee,
    to_latents,
    to_video,
)
from retake_backend.training.generator.made import GeneratorSettings, make_batch
from retake_backend.training.generator.scenes import SceneSettings
from retake_backend.training.registry import make_trainee
from retake_shared.errors import BadFile

TINY_DRAFT = {
    "width": 24, "heads": 2, "layers": 2, "ffn_dim": 32, "fine": 8, "coarse": 16,
    "track_width": 16, "track_heads": 2,
}  # fmt: skip
TINY_REFINER = {"channels": (8, 16, 24), "depth": 1}
TINY_PAPER = PaperSettings(
    transformer={"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2},
    conditioner={"width": 16, "heads": 2},
    steps=2,
)


@pytest.fixture(scope="module")
def batch():
    scenes = SceneSettings(frames=3, width=32, height=24, still_camera=0.0)
    return make_batch(GeneratorSettings(scenes, tracks=24, samples=1), 2, 3)


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def trainee(kind, **settings):
    torch.manual_seed(0)
    if kind == "paper":
        return PaperTrainee(TINY_PAPER)
    cls, model = {"draft": (DraftTrainee, TINY_DRAFT), "refiner": (RefinerTrainee, TINY_REFINER)}[kind]
    return cls(DraftSettings(model=model, **settings))


def trained(made, batch, steps, rate=3e-3):
    """The losses of some steps on one batch."""
    optimiser = torch.optim.AdamW(made.module.parameters(), lr=rate)
    losses = []
    for step in range(steps):
        loss, told = made.loss(batch, chance(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        assert all(isinstance(value, float) for value in told.values())
    return losses


@pytest.mark.parametrize("kind", ["draft", "refiner", "paper"])
def test_a_model_learns_a_batch(kind, batch):
    losses = trained(trainee(kind), batch, 40)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("kind", ["draft", "refiner"])
def test_what_is_learnt_shows_in_the_holes(kind, batch):
    made = trainee(kind, at_noise=1.0)
    trained(made, batch, 80)
    made.module.eval()
    off = (made.sample(batch, chance()) - batch.target).square()
    before = (batch.moved - batch.target).square()
    inside = batch.holes.expand_as(off) > 0.5
    assert off[inside].mean() < 0.9 * before[inside].mean()


@pytest.mark.parametrize("kind", ["draft", "paper"])
def test_all_chance_comes_from_the_generator(kind, batch):
    made = trainee(kind)
    for parameter in made.module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)  # a fresh draft model takes no notice of the noise
    losses = []
    for seed, torchs in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(torchs)
        losses.append(float(made.loss(batch, chance(seed))[0].detach()))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("kind", ["draft", "refiner"])
def test_every_weight_learns(kind, batch):
    """After a few steps, as much is zero before the first."""
    made = trainee(kind)
    trained(made, batch, 3)
    made.loss(batch, chance())[0].backward()
    still = [name for name, weight in made.module.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not still


@pytest.mark.parametrize("kind", ["draft", "refiner"])
def test_without_tracks_nothing_that_is_made_of_them_is_seen(kind, batch):
    """Or a comparison with the same model without tracks would say nothing."""
    made = trainee(kind, tracks=False)
    trained(made, batch, 3)
    elsewhere = replace(batch, tracks=batch.tracks.select(torch.arange(3)), moved=-batch.moved, holes=1 - batch.holes)
    assert torch.equal(made.sample(batch, chance()), made.sample(elsewhere, chance()))
    assert torch.equal(made.loss(batch, chance())[0], made.loss(elsewhere, chance())[0])


@pytest.mark.parametrize("kind", ["draft", "refiner"])
def test_the_engine_reads_what_is_saved_and_training_goes_on_from_it(kind, batch, tmp_path):
    made = trainee(kind, about="Trained on one batch.")
    trained(made, batch, 5)
    made.save(tmp_path / kind)
    assert "Trained on one batch." in (tmp_path / kind / "README.md").read_text()
    again = type(made)(DraftSettings(start=tmp_path / kind))
    for name, weight in load_draft(tmp_path / kind).state_dict().items():
        torch.testing.assert_close(weight, again.module.state_dict()[name])
    other = RefinerTrainee if kind == "draft" else DraftTrainee
    with pytest.raises(BadFile, match="and no"):
        other(DraftSettings(start=tmp_path / kind))


def test_a_batch_without_reprojections_is_refused(batch):
    bare = type(batch)(batch.source, batch.target, batch.tracks, batch.captions)
    with pytest.raises(ValueError, match="no reprojections"):
        trainee("draft").loss(bare, chance())
    assert torch.isfinite(trainee("paper").loss(bare, chance())[0])


def test_a_configuration_makes_them_by_name():
    made = make_trainee("draft", {"model": TINY_DRAFT, "loss": {"holes": 4.0}})
    assert isinstance(made, DraftTrainee)
    assert made.settings.loss.holes == 4.0
    assert isinstance(make_trainee("refiner", {"model": TINY_REFINER}), RefinerTrainee)


# --- the loss ---


def test_a_pixel_in_a_hole_counts_more_than_one_beside_it_and_that_more_than_others():
    truth, holes = torch.zeros(1, 3, 1, 64, 64), torch.zeros(1, 1, 1, 64, 64)
    holes[..., 28:36, 28:36] = 1
    losses = []
    for row in (32, 26, 8):
        made = truth.clone()
        made[..., row, 32] = 1
        losses.append(float(correction_loss(made, truth, truth, holes, LossSettings())[0]))
    assert losses[0] > losses[1] > losses[2] > 0
    assert correction_loss(truth, truth, truth, holes, LossSettings())[0] == 0


def test_the_least_loss_is_at_the_mean_of_what_may_be_there():
    """Else one step from noise would be drawn to one of the answers, and be wrong twice as often."""

    def grey(value):
        return torch.full((1, 3, 1, 16, 16), value)

    def loss(made, truth):
        return float(
            correction_loss(grey(made), grey(0.3), grey(truth), torch.ones(1, 1, 1, 16, 16), LossSettings())[0]
        )

    losses = [loss(made, 0.0) + loss(made, 0.6) for made in (0.0, 0.15, 0.3, 0.45, 0.6)]
    assert min(losses) == losses[2]


def test_an_example_without_holes_and_one_where_nothing_is_seen_both_count():
    truth, filled = torch.zeros(2, 3, 1, 16, 16), torch.zeros(2, 3, 1, 16, 16)
    holes = torch.stack([torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)])
    for example in range(2):
        made = filled.clone()
        made[example] += 0.1
        loss, told = correction_loss(made, filled, truth, holes, LossSettings())
        assert loss > 0
        assert set(told) == {"holes", "rest"}


# --- the paper's own form ---


@pytest.mark.parametrize(
    "conditioner",
    [
        {"splat": "gaussian", "depth_injection": False},
        {"dims": 2, "depth_injection": False},
        {"depth_injection": False},
    ],
    ids=["gaussian", "2D", "3D"],
)
def test_the_rows_of_the_papers_ablation_train(conditioner, batch):
    settings = PaperSettings(TINY_PAPER.transformer, {**TINY_PAPER.conditioner, **conditioner}, steps=2)
    made = PaperTrainee(settings)
    trained(made, batch, 3)
    assert made.sample(batch, chance()).shape == batch.target.shape


def test_the_papers_form_comes_back_from_disk(batch, tmp_path):
    made = trainee("paper")
    trained(made, batch, 2)
    made.save(tmp_path)
    transformer = load_base(tmp_path / "transformer", rope_positions="shared")
    conditioner = load_parts(tmp_path, transformer, [EditByTrackConditioner]).conditioner
    for there, here in ((transformer, made.module.transformer), (conditioner, made.module.conditioner)):
        for name, weight in here.state_dict().items():
            assert torch.equal(there.state_dict()[name], weight), name


def test_the_papers_form_attends_as_wan_does(batch):
    """Its own way to compute attention must be Wan's, or the weights would mean something else in the engines."""
    made = trainee("paper")
    trained(made, batch, 2)
    noisy, t = to_latents(batch.target, made.module.fold), torch.tensor([1.0, 0.5])
    with torch.no_grad():
        own = made.module(noisy, t, batch)
        made.module.transformer.set_attn_processor(WanAttnProcessor())
        torch.testing.assert_close(own, made.module(noisy, t, batch), rtol=1e-4, atol=1e-5)


def test_pixels_go_into_latents_and_back():
    video = torch.rand(2, 3, 3, 8, 12)
    assert to_latents(video, 4).shape == (2, 48, 3, 2, 3)
    assert torch.equal(to_video(to_latents(video, 4), 4), video)
