"""What makes denoising faster leaves the picture as it was, and leaves no trace behind."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from retake_backend.conditioning.trajectory_attention import TrajectoryAttention
from retake_backend.models import memory, speed
from retake_backend.models.wan import LoraSettings, RetakeWanTransformer, add_lora

LAYERS = 4
TINY = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": LAYERS, "rope_max_seq_len": 32,
}  # fmt: skip
CPU = memory.choose("cpu")
STEPS = 30


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def wan():
    torch.manual_seed(0)
    return RetakeWanTransformer(**TINY).eval()


def count_blocks(wan):
    """A list that grows by the block's number whenever a block computes."""
    computed = []
    for number, block in enumerate(wan.blocks):
        block.attn1.register_forward_hook(lambda *_, number=number: computed.append(number))
    return computed


def denoise(wan, steps=STEPS, seed=1):
    """The sampling loop with guidance, source and track tokens beside the target."""
    torch.manual_seed(seed)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    latents, source = torch.randn(1, 4, 3, 8, 12), torch.randn(1, 4, 3, 8, 12)
    tokens = tuple(torch.randn(1, 72, 24) for _ in range(2))
    texts = {"cond": torch.randn(1, 7, 16), "uncond": torch.zeros(1, 7, 16)}
    with torch.no_grad():
        for time in scheduler.timesteps:
            velocity = {}
            for name, text in texts.items():
                with wan.cache_context(name):
                    velocity[name] = wan(
                        latents, time.expand(1), text, source_latents=source, track_tokens=tokens
                    ).sample
            guided = velocity["uncond"] + 5 * (velocity["cond"] - velocity["uncond"])
            latents = scheduler.step(guided, time, latents, return_dict=False)[0]
    return latents


def test_standard_leaves_out_blocks_and_hardly_changes_the_picture(wan):
    computed = count_blocks(wan)
    assert speed.prepare(wan, CPU, "best", STEPS) == ()
    full = denoise(wan)
    assert len(computed) == 2 * STEPS * LAYERS
    computed.clear()
    assert len(speed.prepare(wan, CPU, "standard", STEPS)) == 1
    quick = denoise(wan)
    assert computed.count(0) == 2 * STEPS  # the first block decides, every time
    assert all(computed.count(block) == computed.count(1) < 2 * STEPS - 4 for block in range(1, LAYERS))
    assert not torch.equal(quick, full)
    assert (quick - full).norm() < 0.05 * full.norm()


def test_each_video_starts_afresh(wan):
    speed.prepare(wan, CPU, "standard", STEPS)
    alone = denoise(wan)
    speed.new_video(wan)
    denoise(wan, seed=2)
    speed.new_video(wan)
    assert torch.equal(denoise(wan), alone)


def test_the_next_job_finds_the_model_as_it_was(wan):
    full = denoise(wan)
    speed.prepare(wan, CPU, "standard", STEPS)
    denoise(wan)
    computed = count_blocks(wan)
    assert speed.prepare(wan, CPU, "best", STEPS) == ()
    assert torch.equal(denoise(wan), full)
    assert len(computed) == 2 * STEPS * LAYERS
    assert not [hook for part in wan.modules() for hook in getattr(getattr(part, "_diffusers_hook", None), "hooks", ())]
    speed.undo(wan)
    speed.new_video(wan)


@pytest.mark.parametrize(("quality", "steps"), [("fast", 4), ("fast", STEPS), ("standard", 8), ("best", 50)])
def test_few_steps_and_best_compute_everything(wan, quality, steps):
    assert speed.prepare(wan, CPU, quality, steps) == ()
    assert not wan.is_cache_enabled


def test_the_cache_works_with_offloaded_blocks_in_8_bits(wan):
    profile = memory.gpu_profile("6", torch.device("cpu"), torch.float32, "a CPU that plays the GPU")
    memory.place(wan, profile, "denoiser")
    full = denoise(wan)
    computed = count_blocks(wan)
    speed.prepare(wan, profile, "standard", STEPS)
    quick = denoise(wan)
    assert computed.count(1) < computed.count(0) == 2 * STEPS
    assert (quick - full).norm() < 0.05 * full.norm()
    speed.undo(wan)
    assert torch.equal(denoise(wan), full)


def test_vace_and_svd_are_let_alone():
    """VACE adds its control between the blocks: a step that is taken over would have it twice."""
    vace = WanVACETransformer3DModel(**TINY, vace_layers=[0, 2], vace_in_channels=8)
    assert speed.prepare(vace, CPU, "standard", 50) == ()
    assert not vace.is_cache_enabled
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), num_attention_heads=(2, 4), cross_attention_dim=32, addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96, layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )  # fmt: skip
    assert speed.prepare(unet, CPU, "standard", 50) == ()
    speed.new_video(unet)
    speed.undo(unet)


def test_compiled_blocks_are_one_graph_for_all_and_go_again(wan):
    """The eager backend: only the tracing is in question. A LoRA, trajectories and the cache are on it."""
    from torch._dynamo.utils import counters

    add_lora(wan, LoraSettings(rank=4, alpha=4))
    branches = TrajectoryAttention.beside(wan)
    for branch in branches.branches:
        torch.nn.init.normal_(branch.to_out.weight)
    branches.attach(wan)
    branches.follow(torch.rand(1, 6, 9, 2), torch.rand(1, 6, 9) > 0.3)
    full = denoise(wan, 3)
    torch._dynamo.reset()
    counters.clear()
    assert speed.compile_blocks(wan, "eager")
    torch.testing.assert_close(denoise(wan, 3), full, atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    compiled = [block.forward for block in wan.blocks]
    wan.enable_cache(speed.FirstBlockCacheConfig(threshold=0.0))
    torch.testing.assert_close(denoise(wan, 3), full, atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    speed.undo(wan)
    assert all(block.forward is not before for block, before in zip(wan.blocks, compiled, strict=True))
    assert not any("forward" in vars(block) for block in wan.blocks)
    assert torch.equal(denoise(wan, 3), full)


def test_kernels_that_are_not_installed_are_not_chosen(wan):
    """Without a GPU none of them runs: torch's own stays, and no model's kernel is changed by the trial."""
    speed.probe_attention.cache_clear()
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: what is fastest there is not known here")
    assert speed.probe_attention(torch.device("cpu"), torch.bfloat16, 2, 16, exact=False, tokens=64) is None
    assert _AttentionBackendRegistry.get_active_backend()[0].value == "native"


def test_a_chosen_kernel_is_this_models_alone_and_goes_again(wan):
    full = denoise(wan, 2)
    speed._use_attention(wan, "_native_math")
    assert {block.attn1.processor._attention_backend.value for block in wan.blocks} == {"_native_math"}
    assert _AttentionBackendRegistry.get_active_backend()[0].value == "native"
    torch.testing.assert_close(denoise(wan, 2), full, atol=1e-4, rtol=1e-4)
    speed.undo(wan)
    assert {block.attn1.processor._attention_backend for block in wan.blocks} == {None}
    assert torch.equal(denoise(wan, 2), full)


def test_a_machine_without_a_compiler_is_told_and_works():
    from torch._inductor import config

    torch._dynamo.reset()
    with config.patch({"cpp.cxx": ("/nowhere/c++",), "force_disable_caches": True}):
        assert "the compiler does not work here" in speed._try_compiler(torch.device("cpu"))
    torch._dynamo.reset()
