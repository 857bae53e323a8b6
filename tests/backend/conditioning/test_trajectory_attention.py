"""Trajectory attention: the paper's algorithms, beside Wan's and SVD's own attention."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel, WanTransformer3DModel
from peft import LoraConfig
from retake_backend.conditioning import trajectory_attention
from retake_backend.conditioning.coordinates import TrackPairs
from retake_backend.conditioning.trajectory_attention import (
    TrajectoryAttention,
    TrajectoryBranch,
    back_project,
    paired_trajectories,
    sample_trajectories,
    trajectory_cells,
)

_spec = importlib.util.spec_from_file_location(
    "reference_trajectory", Path(__file__).with_name("reference_trajectory.py")
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

FRAMES, GRID = 3, (4, 6)
SAMPLINGS = ["nearest", "bilinear"]
TOLERANCE = {"nearest": 2e-5, "bilinear": 2e-3}
"""A cell that a trajectory only brushes is divided by its small float32 weight."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tensors this small only wait for a second thread


@pytest.fixture
def wan():
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    ).eval()  # fmt: skip


@pytest.fixture
def svd():
    return UNetSpatioTemporalConditionModel(
        sample_size=16, in_channels=8, out_channels=4, block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=32, projection_class_embeddings_input_dim=96, layers_per_block=1,
        cross_attention_dim=32, num_attention_heads=(2, 4), num_frames=FRAMES,
    ).eval()  # fmt: skip


def run_wan(model, batch=1, frames=FRAMES, dtype=torch.float32):
    inputs = torch.Generator().manual_seed(5)
    latents = (
        torch.randn(1, 4, frames, 8, 12, generator=inputs, dtype=torch.float32).to(dtype).repeat(batch, 1, 1, 1, 1)
    )
    text = torch.randn(1, 7, 16, generator=inputs).to(dtype).repeat(batch, 1, 1)
    return model(latents, torch.full((batch,), 500), text, return_dict=False)[0]


def run_svd(model, batch=1):
    inputs = torch.Generator().manual_seed(5)
    latents = torch.randn(batch, FRAMES, 8, 8, 16, generator=inputs)
    text = torch.randn(batch, 1, 32, generator=inputs)
    added = torch.tensor([[6.0, 127.0, 0.02]]).repeat(batch, 1)
    return model(latents, 1.0, text, added_time_ids=added, return_dict=False)[0]


def random_trajectories(count=9, batch=1, frames=FRAMES):
    """Positions over the picture, a third of the tokens invalid, the first trajectory never valid."""
    positions = torch.rand(batch, frames, count, 2)
    valid = torch.rand(batch, frames, count) > 0.33
    valid[:, :, 0] = False
    return positions, valid


def woken(branches):
    """Branches as training leaves them: no output projection is zero any more."""
    for branch in branches.branches:
        torch.nn.init.normal_(branch.to_out.weight, std=0.3)
        torch.nn.init.normal_(branch.to_out.bias, std=0.3)
    return branches


def in_float64(branch):
    return {key: value.detach().double().numpy() for key, value in branch.state_dict().items()}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_sampling_and_back_projection_are_the_papers(sampling):
    positions, valid = random_trajectories(batch=2)
    positions[:, 0, 1:5] = torch.tensor([[0.0, 0.0], [0.999, 0.001], [0.49, 0.999], [0.001, 0.5]])  # the borders too
    hidden, values = torch.randn(2, FRAMES * 24, 5).double(), torch.randn(2, FRAMES, 9, 5).double()
    where = trajectory_cells(positions, valid, GRID, sampling)
    sampled = sample_trajectories(hidden, where.cells, where.weights)
    summed = back_project(torch.zeros_like(hidden), values, where.cells, where.weights)
    projected = torch.where(where.count[..., None] > 0, summed / where.count[..., None], 0)
    for b in range(2):
        Z, Tr, M = hidden[b].numpy().reshape(FRAMES, *GRID, 5), positions[b].double().numpy(), valid[b].numpy()
        np.testing.assert_allclose(sampled[b], reference.sample(Z, Tr, M, sampling), atol=1e-5)
        truth = reference.back_project(values[b].numpy(), Tr, M, *GRID, sampling).reshape(-1, 5)
        np.testing.assert_allclose(projected[b], truth, atol=TOLERANCE[sampling])


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("norm_eps", [None, 1e-5])
def test_a_branch_is_the_papers(sampling, norm_eps):
    branch = TrajectoryBranch(
        width=8, inner=12, heads=2, bias=norm_eps is not None, norm_eps=norm_eps, chunk=4
    ).double()
    for parameter in branch.parameters():
        torch.nn.init.normal_(parameter)
    positions, valid = random_trajectories(batch=2)
    hidden = torch.randn(2, FRAMES * 24, 8).double()
    residual = branch(hidden, trajectory_cells(positions, valid, GRID, sampling))
    for b in range(2):
        Z = hidden[b].numpy().reshape(FRAMES, *GRID, 8)
        truth = reference.branch(
            Z, positions[b].double().numpy(), valid[b].numpy(), in_float64(branch), 2, sampling, eps=norm_eps
        )
        np.testing.assert_allclose(residual[b].detach(), truth.reshape(-1, 8), atol=TOLERANCE[sampling])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_point_comes_back_to_the_cell_it_was_sampled_from(sampling):
    """Rows and columns swapped, or source and target frames, and motion would go anywhere."""
    positions = torch.tensor([[[(4.5) / 6, 1.5 / 4]], [[0.5 / 6, 3.5 / 4]], [[2.5 / 6, 0.5 / 4]]])[None]
    valid = torch.ones(1, 3, 1, dtype=torch.bool)
    where = trajectory_cells(positions, valid, GRID, sampling)
    hidden = torch.zeros(1, 3, 4, 6, 1)
    hidden[0, 0, 1, 4] = hidden[0, 1, 3, 0] = hidden[0, 2, 0, 2] = 1
    sampled = sample_trajectories(hidden.reshape(1, -1, 1), where.cells, where.weights)
    torch.testing.assert_close(sampled, torch.ones(1, 3, 1, 1), atol=1e-5, rtol=0)
    back = back_project(torch.zeros(1, 72, 1), sampled, where.cells, where.weights)
    torch.testing.assert_close(back.reshape(hidden.shape), hidden, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_before_training_wan_gives_its_own_output_bit_for_bit(wan, dtype):
    wan.to(dtype)
    own = run_wan(wan, dtype=dtype)
    branches = TrajectoryAttention.beside(wan)
    branches.attach(wan)
    branches.follow(*random_trajectories())
    assert branches.dtype == dtype
    assert torch.equal(run_wan(wan, dtype=dtype), own)
    assert not torch.equal(run_wan(woken(branches) and wan, dtype=dtype), own)
    branches.follow(None)
    assert torch.equal(run_wan(wan, dtype=dtype), own)
    branches.follow(*random_trajectories())
    branches.detach()
    assert torch.equal(run_wan(wan, dtype=dtype), own)


def test_before_training_svd_gives_its_own_output_bit_for_bit(svd):
    own = run_svd(svd)
    branches = TrajectoryAttention.beside(svd)
    branches.attach(svd)
    branches.follow(*random_trajectories())
    assert torch.equal(run_svd(svd), own)
    assert not torch.equal(run_svd(woken(branches) and svd), own)


def watch(layer):
    """Lists that fill with what goes into and comes out of an attention layer, its own hooks included."""
    seen, came = [], []
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    layer.register_forward_hook(lambda _, args, out: came.append(out.detach()))
    return seen, came


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_wans_full_attention_gains_what_the_paper_says(wan, sampling):
    positions, valid = random_trajectories()
    branches = woken(TrajectoryAttention.beside(wan, layers=["blocks.0.attn1"], sampling=sampling))
    before_in, before = watch(wan.blocks[0].attn1)
    run_wan(wan)
    branches.attach(wan)
    branches.follow(positions, valid)
    _, after = watch(wan.blocks[0].attn1)
    run_wan(wan)
    gained = (after[0] - before[0]).reshape(FRAMES, *GRID, 24)
    truth = reference.branch(
        before_in[0].double().numpy().reshape(FRAMES, *GRID, 24), positions[0].double().numpy(), valid[0].numpy(),
        in_float64(branches.branches[0]), heads=2, sampling=sampling, turned=4, eps=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(gained, truth, atol=TOLERANCE[sampling])
    assert np.abs(truth).max() > 0.1


def test_svds_temporal_attention_gains_what_the_paper_says_at_every_resolution(svd):
    positions, valid = random_trajectories()
    branches = woken(TrajectoryAttention.beside(svd))
    layers = [svd.get_submodule(name) for name in branches.config.layers]
    branches.attach(svd)
    assert {svd.get_submodule(n).to_q.in_features for n in branches.config.layers} == {32, 64}
    grids = {}
    for name in branches.config.layers:
        owner = svd.get_submodule(name.split(".temporal_transformer_blocks")[0])
        owner.register_forward_pre_hook(lambda _, args, name=name: grids.update({name: tuple(args[0].shape[-2:])}))
    watched = [watch(layer) for layer in layers]
    branches.follow(positions, valid)
    run_svd(svd)
    for name, layer, branch, (seen, came) in zip(
        branches.config.layers, layers, branches.branches, watched, strict=True
    ):
        handles, layer._forward_hooks = layer._forward_hooks, {}
        own = layer(seen[0])
        layer._forward_hooks = handles
        (h, w), width = grids[name], seen[0].shape[-1]
        Z = seen[0].double().numpy().reshape(h, w, FRAMES, width).transpose(2, 0, 1, 3)
        truth = reference.branch(
            Z, positions[0].double().numpy(), valid[0].numpy(), in_float64(branch), layer.heads, "nearest"
        )
        gained = (came[0] - own).detach().reshape(h, w, FRAMES, width).permute(2, 0, 1, 3)
        np.testing.assert_allclose(gained, truth, atol=1e-4)
    assert len(set(grids.values())) == 2


@pytest.mark.parametrize("lora", [False, True])
def test_weights_are_inherited_from_the_layer_beside(wan, lora):
    if lora:
        wan.add_adapter(LoraConfig(r=2, target_modules=r"blocks\.\d+\.attn1\.to_q"))
    branches = TrajectoryAttention.beside(wan)
    assert len(branches.branches) == 2
    for branch, block in zip(branches.branches, wan.blocks, strict=True):
        own = getattr(block.attn1.to_q, "base_layer", block.attn1.to_q)
        assert torch.equal(branch.to_q.weight, own.weight)
        assert torch.equal(branch.to_v.bias, block.attn1.to_v.bias)
        assert torch.equal(branch.norm_k.weight, block.attn1.norm_k.weight)
        assert branch.norm_q.eps == block.attn1.norm_q.eps
        assert not branch.to_out.weight.any()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_order_passes_and_absent_trajectories_change_nothing(sampling):
    branch = TrajectoryBranch(8, 8, 2, bias=True, norm_eps=1e-6, chunk=100)
    torch.nn.init.normal_(branch.to_out.weight)
    positions, valid = random_trajectories(count=12)
    valid[:, :, 5] = False
    hidden = torch.randn(1, FRAMES * 24, 8)
    full = branch(hidden, trajectory_cells(positions, valid, GRID, sampling))
    order = torch.randperm(12)
    shuffled = branch(hidden, trajectory_cells(positions[:, :, order], valid[:, :, order], GRID, sampling))
    torch.testing.assert_close(shuffled, full, atol=1e-5, rtol=1e-4)
    kept = torch.tensor([i for i in range(12) if i not in (0, 5)])
    without = branch(hidden, trajectory_cells(positions[:, :, kept], valid[:, :, kept], GRID, sampling))
    torch.testing.assert_close(without, full, atol=1e-6, rtol=1e-5)
    wild = torch.where(valid[..., None], positions, torch.nan)  # what lies where nothing is valid must not matter
    assert torch.equal(branch(hidden, trajectory_cells(wild, valid, GRID, sampling)), full)
    branch.chunk = 5
    torch.testing.assert_close(branch(hidden, trajectory_cells(positions, valid, GRID, sampling)), full)


def test_an_invalid_frame_is_excluded_from_the_softmax():
    """What a trajectory says must not depend on how the picture looks where it is hidden."""
    branch = TrajectoryBranch(8, 8, 2, bias=True, norm_eps=None, chunk=100)
    torch.nn.init.normal_(branch.to_out.weight)
    positions = torch.full((1, FRAMES, 1, 2), 0.3)
    valid = torch.tensor([True, False, True])[None, :, None]
    hidden = torch.randn(1, FRAMES * 24, 8)
    first = branch(hidden, trajectory_cells(positions, valid, GRID, "nearest"))
    hidden[:, 24:48] += 10
    second = branch(hidden, trajectory_cells(positions, valid, GRID, "nearest"))
    assert torch.equal(first, second)
    two = branch(
        hidden[:, [*range(24), *range(48, 72)]], trajectory_cells(positions[:, :2], valid[:, [0, 2]], GRID, "nearest")
    )
    torch.testing.assert_close(torch.cat([two[:, :24], two[:, 24:]], 1), first[:, [*range(24), *range(48, 72)]])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter_once_the_output_moves(wan, checkpointing):
    branches = woken(TrajectoryAttention.beside(wan))
    branches.attach(wan)
    branches.follow(*random_trajectories())
    wan.requires_grad_(False)
    wan.train()
    run_wan(wan).square().mean().backward()
    plain = {name: p.grad.clone() for name, p in branches.named_parameters()}
    assert all(grad.abs().max() > 0 for name, grad in plain.items() if "to_k.bias" not in name)
    if checkpointing:
        branches.zero_grad()
        wan.enable_gradient_checkpointing()
        run_wan(wan).square().mean().backward()
        for name, parameter in branches.named_parameters():
            torch.testing.assert_close(parameter.grad, plain[name])


def test_an_untrained_output_projection_gets_a_gradient_and_no_nan(wan):
    branches = TrajectoryAttention.beside(wan)
    branches.attach(wan)
    branches.follow(*random_trajectories())
    run_wan(wan).square().mean().backward()
    for branch in branches.branches:
        assert branch.to_out.weight.grad.abs().max() > 0
        assert all(torch.isfinite(p.grad).all() for p in branch.parameters())


@pytest.mark.parametrize("count", [0, 1, 20_000])
def test_any_number_of_trajectories(wan, count):
    branches = woken(TrajectoryAttention.beside(wan))
    branches.attach(wan)
    branches.follow(torch.rand(1, FRAMES, count, 2), torch.rand(1, FRAMES, count) > 0.2)
    with torch.no_grad():
        assert torch.isfinite(run_wan(wan)).all()


def test_cells_are_computed_once_per_video_not_per_step_or_guidance_branch(wan, svd, monkeypatch):
    calls = []
    original = trajectory_cells
    monkeypatch.setattr(
        trajectory_attention, "trajectory_cells", lambda *args: calls.append(args[2]) or original(*args)
    )
    branches = woken(TrajectoryAttention.beside(wan))
    branches.attach(wan)
    branches.follow(*random_trajectories())
    for _ in range(2):
        single = run_wan(wan)
        double = run_wan(wan, batch=2)
    assert calls == [GRID]
    torch.testing.assert_close(double, single.repeat(2, 1, 1, 1, 1), atol=1e-5, rtol=1e-4)
    svd_branches = woken(TrajectoryAttention.beside(svd))
    svd_branches.attach(svd)
    svd_branches.follow(*random_trajectories())
    for _ in range(2):
        run_svd(svd, batch=2)
    assert sorted(calls[1:]) == [(4, 8), (8, 16)]


def test_bfloat16_stays_near_float32(wan):
    branches = woken(TrajectoryAttention.beside(wan))
    branches.attach(wan)
    own = run_wan(wan)
    branches.follow(*random_trajectories())
    exact = run_wan(wan)
    branches.to(torch.bfloat16)
    rounded = run_wan(wan)
    assert rounded.dtype == exact.dtype == torch.float32
    assert (rounded - exact).norm() < 0.02 * (exact - own).norm()


def test_trajectories_over_other_frames_than_the_models_are_refused_in_words(wan, svd):
    for model, run in ((wan, run_wan), (svd, run_svd)):
        branches = TrajectoryAttention.beside(model)
        branches.attach(model)
        branches.follow(*random_trajectories(frames=5))
        with pytest.raises(ValueError, match="cover 5 frames, the model sees 3"):
            run(model)
    with pytest.raises(ValueError, match="has no temporal or full attention"):
        TrajectoryAttention.beside(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="stand by"):
        TrajectoryAttention.beside(wan).attach(svd)


def test_positions_off_the_picture_are_not_followed(wan):
    branches = woken(TrajectoryAttention.beside(wan))
    branches.attach(wan)
    positions, valid = random_trajectories()
    valid[:, 1, :4] = False
    branches.follow(positions, valid)
    inside = run_wan(wan)
    positions[:, 1, :4] = torch.tensor([[1.01, 0.5], [-0.01, 0.5], [0.5, 1.0], [torch.nan, 0.5]])
    valid[:, 1, :4] = True
    branches.follow(positions, valid)
    assert torch.equal(run_wan(wan), inside)


def test_pairs_of_tracks_become_source_then_target():
    present = torch.ones(1, 2, 4, dtype=torch.bool)
    removed, seen = present.clone(), present.clone()
    removed[0, :, 1], seen[0, 1, 2] = False, False
    pairs = TrackPairs(torch.rand(1, 2, 4, 3), torch.rand(1, 2, 4, 3), present, removed, seen)
    positions, valid = paired_trajectories(pairs)
    assert torch.equal(positions[:, :2], pairs.source[..., :2])
    assert torch.equal(positions[:, 2:], pairs.target[..., :2])
    assert valid[0].tolist() == [
        [True] * 4,
        [True, True, False, True],
        [True, False, True, True],
        [True, False, False, True],
    ]


def test_saved_branches_load_as_they_were(wan, tmp_path):
    branches = woken(TrajectoryAttention.beside(wan, sampling="bilinear", chunk=7))
    branches.attach(wan)
    video = random_trajectories()
    branches.follow(*video)
    trained = run_wan(wan)
    branches.save_pretrained(tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["config.json", "diffusion_pytorch_model.safetensors"]
    branches.detach()
    loaded = TrajectoryAttention.from_pretrained(tmp_path)
    loaded.attach(wan)
    loaded.follow(*video)
    assert torch.equal(run_wan(wan), trained)
