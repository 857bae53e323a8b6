"""What holds for every track conditioner: it cannot harm an untrained model, and it reads tracks as a set."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from retake_backend.conditioning.coordinates import TrackPairs
from retake_backend.conditioning.edit_by_track import EditByTrackConditioner
from retake_backend.conditioning.track2view import Track2ViewConditioner

D, GRID, FRAMES = 24, (3, 4), 3
CELLS = FRAMES * GRID[0] * GRID[1]

VARIANTS = {
    "edit-by-track": (EditByTrackConditioner, {"kernel_width": 0.15}),
    "without kernel start": (EditByTrackConditioner, {"kernel_start": False}),
    "2D": (EditByTrackConditioner, {"dims": 2, "depth_injection": False}),
    "3D without depth injection": (EditByTrackConditioner, {"depth_injection": False}),
    "gaussian": (EditByTrackConditioner, {"splat": "gaussian", "depth_injection": False}),
    "track2view": (Track2ViewConditioner, {"layers": 2}),
    "track2view, average by count": (Track2ViewConditioner, {"layers": 1, "average": "count"}),
    "track2view at the model's width": (Track2ViewConditioner, {"layers": 1, "token_dim": 32}),
}


def build(name, trained=True, **more):
    torch.manual_seed(0)
    kind, options = VARIANTS[name]
    model = kind(**{"token_dim": D, "width": 32, "heads": 2, "frequencies": 4, **options, **more})
    if trained:
        torch.nn.init.normal_(model.out.weight, std=0.2)
    return model


def tokens_for(model, videos=1, frames=FRAMES):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(videos, frames * GRID[0] * GRID[1], model.config.token_dim, generator=generator)


each_variant = pytest.mark.parametrize("name", VARIANTS)


@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untrained_conditioner_leaves_the_base_model_as_it_is(name, dtype, random_pairs):
    model = build(name, trained=False).to(dtype)
    tokens = tokens_for(model, 2).to(dtype)
    for tau in model(tokens, random_pairs(2, FRAMES, 40), GRID):
        assert tau.shape == tokens.shape
        assert tau.dtype == dtype
        assert torch.equal(tokens + tau, tokens)


@each_variant
def test_the_order_of_tracks_does_not_matter(name, random_pairs):
    model, pairs = build(name), random_pairs(1, FRAMES, 17)
    tokens = tokens_for(model)
    shuffled = pairs.select(torch.randperm(17, generator=torch.Generator().manual_seed(1)))
    for straight, other in zip(model(tokens, pairs, GRID), model(tokens, shuffled, GRID), strict=True):
        assert straight.abs().max() > 0.01
        torch.testing.assert_close(straight, other, rtol=1e-4, atol=1e-5)


@each_variant
def test_an_absent_track_is_as_good_as_a_removed_one(name, random_pairs):
    model, pairs = build(name), random_pairs(1, FRAMES, 17)
    tokens = tokens_for(model)
    gone = torch.arange(17) % 3 == 0
    masked = replace(pairs, source_present=pairs.source_present & ~gone, target_present=pairs.target_present & ~gone)
    removed = pairs.select(~gone)
    for by_mask, by_removal in zip(model(tokens, masked, GRID), model(tokens, removed, GRID), strict=True):
        torch.testing.assert_close(by_mask, by_removal, rtol=1e-4, atol=1e-5)


@each_variant
def test_what_stands_at_absent_places_is_never_read(name, random_pairs):
    model, pairs = build(name), random_pairs(1, FRAMES, 9)
    tokens = tokens_for(model)
    noise = random_pairs(1, FRAMES, 9, seed=5)
    other = replace(
        pairs,
        source=torch.where(pairs.source_present[..., None], pairs.source, noise.source),
        target=torch.where(pairs.target_present[..., None], pairs.target, noise.target),
    )
    for one, two in zip(model(tokens, pairs, GRID), model(tokens, other, GRID), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@each_variant
def test_a_removed_object_leaves_the_source_view_alone(name, random_pairs):
    model, pairs = build(name), random_pairs(1, FRAMES, 9)
    tokens = tokens_for(model)
    removed = replace(pairs, target_present=torch.zeros_like(pairs.target_present))
    source, target = model(tokens, removed, GRID)
    assert torch.equal(source, model(tokens, pairs, GRID)[0])
    assert not target.any()


@each_variant
def test_gradients_reach_every_parameter_and_the_tokens(name, random_pairs):
    model = build(name)
    tokens = tokens_for(model, 2).requires_grad_()
    source, target = model(tokens, random_pairs(2, FRAMES, 12), GRID)
    ((source - 0.3).square().sum() + (target + 0.2).square().sum()).backward()
    for parameter_name, parameter in [*model.named_parameters(), ("tokens", tokens)]:
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@each_variant
def test_one_step_from_zero_moves_the_output(name, random_pairs):
    """The zero projection itself learns: a conditioner that starts at zero is not stuck there."""
    model = build(name, trained=False)
    tokens, pairs = tokens_for(model), random_pairs(1, FRAMES, 12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    (model(tokens, pairs, GRID)[1] - 1).square().mean().backward()
    optimizer.step()
    assert model(tokens, pairs, GRID)[1].any()


@each_variant
def test_no_tracks_give_zero_and_still_train(name, random_pairs):
    model, pairs = build(name), random_pairs(1, FRAMES, 0)
    source, target = model(tokens_for(model), pairs, GRID)
    assert not source.any()
    assert not target.any()
    (source.sum() + target.sum()).backward()
    assert model.out.weight.grad is not None


@each_variant
def test_all_tracks_absent_give_zero_and_finite_gradients(name, random_pairs):
    model, pairs = build(name), random_pairs(1, FRAMES, 5)
    nobody = torch.zeros_like(pairs.source_present)
    tokens = tokens_for(model).requires_grad_()
    source, target = model(tokens, replace(pairs, source_present=nobody, target_present=nobody), GRID)
    assert not source.any()
    assert not target.any()
    (source.sum() + target.sum()).backward()
    assert tokens.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["edit-by-track", "gaussian", "track2view"])
@pytest.mark.parametrize(("count", "dtype"), [(1, torch.float32), (20_000, torch.float32), (20_000, torch.bfloat16)])
def test_any_number_of_tracks(name, count, dtype, random_pairs):
    more = {"layers": 1} if "track2view" in name else {"temporal_layers": 1}
    model = build(name, token_dim=8, width=16, **more).to(dtype)
    pairs = random_pairs(1, 2, count)
    pairs.source[:, :, 0, :2] = pairs.target[:, :, 0, :2] = 0.4
    pairs.source_present[:, :, 0] = pairs.target_present[:, :, 0] = True
    with torch.no_grad():
        for tau in model(tokens_for(model, frames=2).to(dtype), pairs, GRID):
            assert tau.isfinite().all()
            assert tau.any()


@each_variant
def test_bf16_agrees_with_fp32(name, random_pairs):
    model, pairs = build(name), random_pairs(1, FRAMES, 30)
    tokens = tokens_for(model)
    exact = torch.cat(model(tokens, pairs, GRID))
    half = torch.cat(model.to(torch.bfloat16)(tokens.to(torch.bfloat16), pairs, GRID))
    assert (half.float() - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()


@each_variant
def test_working_in_small_passes_changes_nothing(name, random_pairs):
    whole, small, pairs = build(name), build(name, tokens_per_pass=1), random_pairs(2, FRAMES, 7)
    small.load_state_dict(whole.state_dict())
    tokens = tokens_for(whole, 2)
    for one, two in zip(whole(tokens, pairs, GRID), small(tokens, pairs, GRID), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@each_variant
def test_a_batch_gives_what_each_video_gives(name, random_pairs):
    model, first, second = build(name), random_pairs(1, FRAMES, 6), random_pairs(1, FRAMES, 11, seed=3)
    tokens = tokens_for(model, 2)
    together = model(tokens, TrackPairs.batch([first, second]), GRID)
    alone = [model(tokens[i : i + 1], pairs, GRID) for i, pairs in enumerate((first, second))]
    for view in range(2):
        torch.testing.assert_close(together[view], torch.cat([a[view] for a in alone]), rtol=1e-4, atol=1e-5)


@each_variant
def test_saved_and_loaded_it_is_the_same(name, random_pairs, tmp_path):
    model, pairs = build(name), random_pairs(1, FRAMES, 12)
    model.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob("*") if p.suffix != ".json"] == ["diffusion_pytorch_model.safetensors"]
    loaded = type(model).from_pretrained(tmp_path)
    assert dict(loaded.config)["width"] == 32
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == type(model).__name__
    tokens = tokens_for(model)
    for one, two in zip(model.eval()(tokens, pairs, GRID), loaded(tokens, pairs, GRID), strict=True):
        assert torch.equal(one, two)


@each_variant
def test_tokens_of_another_size_are_refused(name, random_pairs):
    model = build(name)
    with pytest.raises(ValueError, match="36 tokens; expected 2 latent frames of 3 x 4 cells"):
        model(tokens_for(model), random_pairs(1, 2, 5), GRID)


@pytest.mark.parametrize("kind", [EditByTrackConditioner, Track2ViewConditioner])
def test_its_parameters_stay_few_beside_the_video_model(kind):
    """Wan 1.3B has 1.4 billion: a conditioner at default width adds no more than 2 %."""
    with torch.device("meta"):
        parameters = sum(
            p.numel() for p in kind(**({"kernel_start": False} if "Edit" in kind.__name__ else {})).parameters()
        )
    assert parameters < 0.021 * 1_418_996_800


def test_pairs_move_and_select_every_field(random_pairs):
    pairs = random_pairs(2, FRAMES, 6)
    picked = pairs.to("cpu").select(torch.tensor([4, 1]))
    for field in fields(pairs):
        np.testing.assert_array_equal(getattr(picked, field.name), getattr(pairs, field.name)[:, :, [4, 1]])
