"""Wan with source concatenation: the real classes at a tiny size."""

import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from retake_backend.conditioning.trajectory_attention import TrajectoryAttention
from retake_backend.models.wan import LoraSettings, RetakeWanTransformer, add_lora

TINY = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32,
}  # fmt: skip
FRAMES, TOKENS, WIDTH = 3, 3 * 4 * 6, 24


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # tensors this small only wait for a second thread


@pytest.fixture(params=["sequential", "shared"])
def wan(request):
    torch.manual_seed(0)
    return RetakeWanTransformer(**TINY, rope_positions=request.param).eval()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, FRAMES, 8, 12),
        "timestep": torch.tensor([700, 30]),
        "encoder_hidden_states": torch.randn(2, 7, 16),
        "source_latents": torch.randn(2, 4, FRAMES, 8, 12),
    }


def track_tokens(scale=1.0, batch=2):
    return tuple(scale * torch.randn(batch, TOKENS, WIDTH) for _ in range(2))


def base_of(wan):
    base = WanTransformer3DModel(**TINY).eval()
    base.load_state_dict(wan.state_dict())
    return base


def run_base(base, inputs):
    """Plain diffusers on the concatenated latents."""
    both = torch.cat([inputs["source_latents"], inputs["hidden_states"]], 2).to(base.dtype)
    text = inputs["encoder_hidden_states"].to(base.dtype)
    return base(both, inputs["timestep"], text, return_dict=False)[0][:, :, FRAMES:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_track_tokens_leave_the_base_output_bit_for_bit(inputs, dtype):
    wan = RetakeWanTransformer(**TINY).eval()
    base = base_of(wan).to(dtype)
    wan.to(dtype)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    own = run_base(base, inputs)
    assert torch.equal(wan(**inputs).sample, own)
    assert torch.equal(wan(**inputs, track_tokens=track_tokens(0.0)).sample, own)
    assert not torch.equal(wan(**inputs, track_tokens=track_tokens()).sample, own)
    before = wan.source_tokens(inputs["source_latents"])
    wan(**inputs, track_tokens=track_tokens())
    assert torch.equal(wan.source_tokens(inputs["source_latents"]), before)  # nothing of the last call stays
    assert torch.equal(wan(**inputs).sample, own)


def test_without_a_source_it_is_plain_wan(wan, inputs):
    del inputs["source_latents"]
    wan(**inputs, source_latents=torch.randn(2, 4, FRAMES, 8, 12))
    (output,) = wan(**inputs, return_dict=False)
    assert torch.equal(output, base_of(wan)(**inputs).sample)


def test_track_tokens_join_the_tokens_they_are_for(wan, inputs):
    """Adding the difference of two sources' tokens to one source is the other source: order, rows and columns hold."""
    other = torch.randn(2, 4, FRAMES, 8, 12)
    source, changed = wan.source_tokens(inputs["source_latents"]), wan.source_tokens(other)
    assert source.shape == (2, TOKENS, WIDTH)
    by_tokens = wan(**inputs, track_tokens=(changed - source, torch.zeros_like(source))).sample
    by_latents = wan(**{**inputs, "source_latents": other}).sample
    torch.testing.assert_close(by_tokens, by_latents, atol=1e-5, rtol=1e-4)
    target, moved = wan.source_tokens(inputs["hidden_states"]), wan.source_tokens(other)
    by_tokens = wan(**inputs, track_tokens=(torch.zeros_like(source), moved - target)).sample
    by_latents = wan(**{**inputs, "hidden_states": other}).sample
    torch.testing.assert_close(by_tokens, by_latents, atol=1e-5, rtol=1e-4)


def test_shared_positions_turn_source_and_target_alike():
    latents = torch.zeros(1, 4, 2 * FRAMES, 8, 12)
    shared = RetakeWanTransformer(**TINY, rope_positions="shared")
    shared.rope.videos = 2
    sequential = RetakeWanTransformer(**TINY)
    for cut, kept in zip(shared.rope(latents), sequential.rope(latents), strict=True):
        assert cut.shape == kept.shape
        assert torch.equal(cut[:, :TOKENS], kept[:, :TOKENS])
        assert torch.equal(cut[:, TOKENS:], kept[:, :TOKENS])
        assert not torch.equal(cut, kept)


def test_shared_positions_see_source_and_target_as_one_place(inputs):
    """With both videos equal, every token has a twin at its own position: both halves come out the same."""
    wan = RetakeWanTransformer(**TINY, rope_positions="shared").eval()
    outputs = []
    wan.proj_out.register_forward_hook(lambda _, __, out: outputs.append(out))
    wan(**{**inputs, "source_latents": inputs["hidden_states"]})
    torch.testing.assert_close(outputs[0][:, :TOKENS], outputs[0][:, TOKENS:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(wan, inputs, lora):
    if lora:
        add_lora(wan, LoraSettings(rank=4, alpha=4))
    wan.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            wan.enable_gradient_checkpointing()
        torch.manual_seed(2)
        tokens = [t.requires_grad_() for t in track_tokens()]
        wan.zero_grad()
        wan(**inputs, track_tokens=tuple(tokens)).sample.square().mean().backward()
        trained = [p for p in wan.parameters() if p.requires_grad]
        gradients.append([t.grad for t in tokens] + [p.grad.clone() for p in trained if p.grad is not None])
    assert len(gradients[0]) > 10
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)
    assert all(tokens.abs().max() > 0 for tokens in gradients[0][:2])


def test_lora_stands_on_the_blocks_only_and_starts_at_nothing(wan, inputs):
    own = wan(**inputs).sample
    add_lora(wan, LoraSettings())
    assert torch.equal(wan(**inputs).sample, own)
    adapted = {name.split(".lora_A")[0] for name, _ in wan.named_parameters() if ".lora_A" in name}
    layers = [f"attn{a}.{n}" for a in (1, 2) for n in ("to_q", "to_k", "to_v", "to_out.0")] + [
        "ffn.net.0.proj",
        "ffn.net.2",
    ]
    assert adapted == {f"blocks.{block}.{layer}" for block in range(2) for layer in layers}
    assert {name for name, p in wan.named_parameters() if p.requires_grad} == {
        name for name, _ in wan.named_parameters() if ".lora_" in name
    }
    assert wan.blocks[0].attn1.to_q.lora_A["retake"].weight.shape == (64, 24)
    wan(**inputs).sample.square().mean().backward()
    assert all(p.grad.abs().max() > 0 for n, p in wan.named_parameters() if ".lora_B" in n and "to_k" not in n)


def test_lora_settings_are_checked():
    with pytest.raises(ValueError, match="query"):
        LoraSettings(layers=("query",))
    with pytest.raises(ValueError, match="rank is 0"):
        LoraSettings(rank=0)


def test_what_does_not_fit_is_told(wan, inputs):
    with pytest.raises(ValueError, match="source latents are"):
        wan(**{**inputs, "source_latents": torch.zeros(2, 4, FRAMES + 1, 8, 12)})
    with pytest.raises(ValueError, match="share one"):
        wan(**{**inputs, "timestep": torch.zeros(2, TOKENS)})
    with pytest.raises(ValueError, match=r"\(2, 142, 24\), the model's 144 of width 24"):
        wan(**inputs, track_tokens=tuple(t[:, 1:] for t in track_tokens()))
    with pytest.raises(ValueError, match="need the source"):
        wan(**{**inputs, "source_latents": None}, track_tokens=track_tokens())
    with pytest.raises(ValueError, match="rope_positions"):
        RetakeWanTransformer(**TINY, rope_positions="both")


def test_the_stock_pipeline_runs_it(wan):
    """Source and track tokens of one video go through diffusers' own pipeline, with guidance, two videos at once."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1] * 4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = WanPipeline(tokenizer=None, text_encoder=None, vae=vae.eval(), scheduler=scheduler, transformer=wan)
    pipeline.set_progress_bar_config(disable=True)

    def render(**conditions):
        return pipeline(
            prompt_embeds=torch.ones(1, 7, 16), negative_prompt_embeds=torch.zeros(1, 7, 16), height=64, width=96,
            num_frames=9, num_inference_steps=2, guidance_scale=5.0, generator=torch.Generator().manual_seed(0),
            num_videos_per_prompt=2, output_type="latent", attention_kwargs=conditions or None,
        ).frames  # fmt: skip

    source, tokens = torch.randn(1, 4, FRAMES, 8, 12), track_tokens(batch=1)
    plain, concatenated = render(), render(source_latents=source)
    tracked = render(source_latents=source, track_tokens=tokens)
    assert plain.shape == concatenated.shape == tracked.shape == (2, 4, FRAMES, 8, 12)
    assert not torch.equal(plain, concatenated)
    assert not torch.equal(concatenated, tracked)
    assert torch.equal(tracked, render(source_latents=source, track_tokens=tokens))


def test_the_blocks_compile_whole_with_tracks_and_trajectories(wan, inputs):
    """Regional compilation without a graph break; the eager backend, since only the tracing is in question."""
    branches = TrajectoryAttention.beside(wan)
    for branch in branches.branches:
        torch.nn.init.normal_(branch.to_out.weight)
    branches.attach(wan)
    branches.follow(torch.rand(1, 2 * FRAMES, 9, 2), torch.rand(1, 2 * FRAMES, 9) > 0.3)
    tokens = track_tokens()
    with torch.no_grad():
        eager = wan(**inputs, track_tokens=tokens).sample
        wan.compile_repeated_blocks(fullgraph=True, backend="eager")
        torch.testing.assert_close(wan(**inputs, track_tokens=tokens).sample, eager, atol=1e-5, rtol=1e-4)
        branches.follow(torch.rand(1, 2 * FRAMES, 5, 2), torch.rand(1, 2 * FRAMES, 5) > 0.3)
        assert not torch.equal(wan(**inputs, track_tokens=tokens).sample, eager)


def test_the_default_configuration_is_wan_2_1_1_3b():
    with torch.device("meta"):
        model = RetakeWanTransformer()
    assert sum(p.numel() for p in model.parameters()) == 1_418_996_800
