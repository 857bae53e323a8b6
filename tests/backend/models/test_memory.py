"""Every amount of memory gives the same picture, and a device that fails says so in words."""

import gc
import time
import weakref

import pytest
import torch
from diffusers import AutoencoderKLWan, UNetSpatioTemporalConditionModel
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from retake_backend import device
from retake_backend.conditioning.edit_by_track import EditByTrackConditioner
from retake_backend.conditioning.trajectory_attention import TrajectoryAttention
from retake_backend.models import memory
from retake_backend.models.wan import LoraSettings, RetakeWanTransformer, add_lora
from retake_shared.errors import RetakeError
from transformers import UMT5Config, UMT5EncoderModel

TINY = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": 3, "rope_max_seq_len": 32,
}  # fmt: skip
CPU = torch.device("cpu")
NO_GPU = not torch.cuda.is_available() and not torch.backends.mps.is_available()
without_gpu = pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def as_on_a_gpu(name):
    """The profile of a GPU with this much memory, carried out on the CPU: the same hooks and casts."""
    return memory.gpu_profile(name, CPU, torch.bfloat16, "a CPU that plays the GPU")


def wan_with_parts(lora=True, branches=True):
    """A tiny Wan with a LoRA and trajectory branches that both say something."""
    torch.manual_seed(0)
    wan = RetakeWanTransformer(**TINY).eval()
    with torch.no_grad():
        for block in wan.blocks:  # weights of a real model's size: 8 bits round them visibly, and not to nothing
            for name, parameter in block.named_parameters():
                if name.endswith("weight") and parameter.ndim == 2:
                    parameter.normal_(std=0.2)
    if lora:
        add_lora(wan, LoraSettings(rank=4, alpha=4))
        with torch.no_grad():
            for name, parameter in wan.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
    beside = None
    if branches:
        beside = TrajectoryAttention.beside(wan)
        for branch in beside.branches:
            torch.nn.init.normal_(branch.to_out.weight, std=0.2)
        beside.attach(wan)
    return wan, beside


def run(wan, beside, dtype, tracks=True):
    torch.manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(2, 4, 3, 8, 12).to(dtype),
        "timestep": torch.tensor([700, 30]),
        "encoder_hidden_states": torch.randn(2, 7, 16).to(dtype),
        "source_latents": torch.randn(1, 4, 3, 8, 12).to(dtype),
    }
    tokens = tuple(torch.randn(1, 72, 24) for _ in range(2))
    positions, valid = torch.rand(1, 6, 9, 2), torch.rand(1, 6, 9) > 0.3
    if beside is not None:
        beside.follow(positions, valid)
    with torch.no_grad():
        output = wan(**inputs, track_tokens=tokens if tracks else None).sample
    assert output.dtype == dtype
    return output.float()


def far(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(("name", "allowed"), [("24", 0.03), ("12", 0.03), ("8", 0.12), ("6", 0.12)])
def test_every_profile_gives_the_picture_of_float32_with_all_parts_in_it(name, allowed):
    wan, beside = wan_with_parts()
    exact = run(wan, beside, torch.float32)
    without = {
        "lora": run(*wan_with_parts(lora=False), torch.float32),
        "branches": run(*wan_with_parts(branches=False), torch.float32),
        "tracks": run(wan, beside, torch.float32, tracks=False),
    }
    profile = as_on_a_gpu(name)
    memory.place(wan, profile, "denoiser")
    memory.place(beside, profile, "conditioner")
    for _ in range(2):  # the hooks of the first call leave everything ready for the second
        placed = run(wan, beside, torch.bfloat16)
        assert far(placed, exact) < allowed
    for part, other in without.items():
        assert far(placed, other) > 2 * far(placed, exact), f"the {part} got lost"
    assert hasattr(wan, "peft_config") == (name in ("8", "6"))
    stored = {parameter.dtype for parameter in wan.blocks[0].ffn.parameters()} - {torch.float32}
    assert (torch.float8_e4m3fn in stored) == (name in ("8", "6"))
    assert all(p.dtype == torch.bfloat16 for n, p in wan.named_parameters() if "lora_" in n)
    assert beside.dtype == torch.bfloat16  # in 8 bits its inputs would be rounded to 8 bits too


def test_8_and_6_are_the_same_picture_bit_for_bit():
    pictures = []
    for name in ("8", "6"):
        wan, beside = wan_with_parts()
        memory.place(wan, as_on_a_gpu(name), "denoiser")
        memory.place(beside, as_on_a_gpu(name), "conditioner")
        pictures.append(run(wan, beside, torch.bfloat16))
    assert torch.equal(*pictures)


def test_8_bits_halve_the_blocks():
    sizes = {}
    for name in ("12", "8"):
        wan, _ = wan_with_parts(lora=False, branches=False)
        memory.place(wan, as_on_a_gpu(name), "denoiser")
        run(wan, None, torch.bfloat16)
        sizes[name] = sum(p.nbytes for p in wan.blocks.parameters() if p.ndim == 2)
    assert sizes["8"] == sizes["12"] / 2


def test_what_must_stay_precise_does():
    wan, _ = wan_with_parts(lora=False, branches=False)
    before = {name: buffer.clone() for name, buffer in wan.named_buffers()}
    memory.place(wan, as_on_a_gpu("8"), "denoiser")
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in wan.named_buffers())  # the rotary table
    assert wan.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert wan.blocks[0].scale_shift_table.dtype == torch.float32
    assert wan.patch_embedding.weight.dtype == torch.bfloat16
    conditioner = EditByTrackConditioner(token_dim=24, width=32, heads=2)
    memory.place(conditioner, as_on_a_gpu("8"), "conditioner")
    assert conditioner.dtype == torch.float32  # its coordinates are finer than bfloat16


@pytest.mark.parametrize("name", ["12", "8", "6"])
def test_vace_and_svd_are_held_the_same_way(name):
    torch.manual_seed(0)
    vace = WanVACETransformer3DModel(**TINY, vace_layers=[0, 2], vace_in_channels=8).eval()
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), num_attention_heads=(2, 4), cross_attention_dim=32, addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96, layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    ).eval()  # fmt: skip
    inputs = {
        vace: (torch.randn(1, 4, 3, 8, 12), torch.tensor([500]), torch.randn(1, 7, 16)),
        unet: (torch.randn(1, 3, 8, 8, 8), torch.tensor([1.0]), torch.randn(1, 1, 32), torch.rand(1, 3)),
    }
    control = torch.randn(1, 8, 3, 8, 12)

    def forward(model, dtype):
        cast = [t.to(dtype) if t.is_floating_point() and t.ndim > 1 else t for t in inputs[model]]
        more = {"control_hidden_states": control.to(dtype)} if model is vace else {}
        with torch.no_grad():
            return model(*cast, **more).sample.float()

    for model in inputs:
        exact = forward(model, torch.float32)
        memory.place(model, as_on_a_gpu(name), "denoiser")
        for _ in range(2):
            assert far(forward(model, torch.bfloat16), exact) < (0.03 if name == "12" else 0.12)


def test_text_encoder_layer_by_layer_says_the_same():
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=99, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2)
    encoder = UMT5EncoderModel(config).eval()
    tokens, mask = torch.randint(0, 99, (1, 12)), torch.ones(1, 12, dtype=torch.long)
    profiles = [as_on_a_gpu("24"), as_on_a_gpu("12")]
    embedded = []
    for profile in profiles:
        copy = UMT5EncoderModel(config).eval()
        copy.load_state_dict(encoder.state_dict())
        memory.place(copy, profile, "text")
        with torch.no_grad():
            embedded.append(copy(tokens, mask).last_hidden_state)
        assert memory._is_offloaded(copy) == (profile.name == "12")
    assert torch.equal(*embedded)


def test_the_vae_works_in_tiles_where_memory_is_short():
    vae = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1] * 4, num_res_blocks=1, latents_mean=[0.0] * 4,
                           latents_std=[1.0] * 4)  # fmt: skip
    memory.place(vae, as_on_a_gpu("8"), "vae")
    assert vae.use_tiling
    assert vae.dtype == torch.bfloat16
    vae = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1] * 4, num_res_blocks=1)
    memory.place(vae, as_on_a_gpu("12"), "vae")
    assert not vae.use_tiling
    assert vae.dtype == torch.float32


def test_placing_again_is_for_the_same_profile_only():
    wan, _ = wan_with_parts(lora=False, branches=False)
    memory.place(wan, as_on_a_gpu("8"), "denoiser")
    once = run(wan, None, torch.bfloat16)
    memory.put_aside(wan, as_on_a_gpu("8"))
    memory.place(wan, as_on_a_gpu("8"), "denoiser")
    assert torch.equal(run(wan, None, torch.bfloat16), once)
    with pytest.raises(ValueError, match="load it again"):
        memory.place(wan, as_on_a_gpu("6"), "denoiser")


def test_less_memory_is_found_step_by_step_and_never_the_cpu():
    names, profile = [], as_on_a_gpu("24")
    while profile is not None:
        names.append(profile.name)
        assert "plays the GPU" in profile.words
        assert profile.name in profile.words
        profile = memory.smaller(profile)
    assert names == ["24", "12", "8", "6"]
    assert memory.smaller(memory.choose("cpu")) is None


@without_gpu
def test_without_a_gpu_auto_is_the_cpu_and_a_gpus_profile_is_refused_in_words():
    assert memory.choose("auto") == memory.choose("cpu")
    assert "CPU" in memory.choose("auto").words
    for name in ("24", "12", "8", "6"):
        with pytest.raises(RetakeError, match=rf"memory {name}: .*GPU.*Choose CPU"):
            memory.choose(name)


def test_a_gpu_that_is_kept_for_blender_is_not_used(monkeypatch):
    monkeypatch.setenv(device.ONLY_CPU, "1")
    assert memory.choose("auto").name == "cpu"
    with pytest.raises(RetakeError, match="leave the GPU to Blender"):
        memory.choose("12")


def test_the_cpus_precision_is_the_faster_one_here():
    def seconds(dtype):
        layer, tokens = torch.nn.Linear(1024, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        best = float("inf")
        with torch.no_grad():
            for _ in range(6):
                began = time.perf_counter()
                layer(tokens)
                best = min(best, time.perf_counter() - began)
        return best

    chosen = memory.choose("cpu").dtype
    other = torch.float32 if chosen == torch.bfloat16 else torch.bfloat16
    assert seconds(chosen) < 1.3 * seconds(other)


@without_gpu
def test_a_missing_gpu_is_told_in_words():
    with (
        pytest.raises(RetakeError, match=r"built without GPU support|no NVIDIA driver") as told,
        memory.gpu_errors_in_words(),
    ):
        torch.zeros(1, device="cuda")
    assert "Choose CPU" in told.value.remedy
    assert told.value.__cause__ is not None


def test_main_memory_that_runs_out_is_told_with_its_size():
    with (
        pytest.raises(memory.OutOfMemory, match=r"main memory for this \(931\.3 GB more"),
        memory.gpu_errors_in_words(),
    ):
        torch.empty(10**12, dtype=torch.uint8).to(torch.float64)  # the pages of the first are never touched


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 7.79 GiB of which "
                "1.10 GiB is free."
            ),
            memory.OutOfMemory,
            r"memory left on the GPU for this \(2\.25 GB more",
        ),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 17.60 GB, max allowed: 18.13 GB)."),
            memory.OutOfMemory,
            "too little memory left on the GPU",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            memory.OutOfMemory,
            "too little",
        ),
        (MemoryError(), memory.OutOfMemory, "main memory"),
        (
            RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
            RetakeError,
            "no NVIDIA driver answers.*Choose CPU",
        ),
        (
            RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
            RetakeError,
            "older than this torch needs.*Update",
        ),
        (
            RuntimeError("CUDA driver version is insufficient for CUDA runtime version"),
            RetakeError,
            "older than this torch needs",
        ),
        (
            torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
            RetakeError,
            "too old, or too new",
        ),
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"),
            memory.DeviceLost,
            "illegal memory access was encountered Generate again",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
            memory.DeviceLost,
            "CUDNN_STATUS_EXECUTION_FAILED",
        ),
    ],
)
def test_what_a_gpu_says_comes_in_words(error, kind, words):
    with pytest.raises(kind, match=words) as told, memory.gpu_errors_in_words():
        raise error
    assert type(told.value) is kind
    assert told.value.remedy


@pytest.mark.parametrize(
    "error", [ValueError("a"), RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("b")]
)
def test_our_own_mistakes_stay_what_they_are(error):
    with pytest.raises(type(error)) as same, memory.gpu_errors_in_words():
        raise error
    assert same.value is error


def test_what_filled_the_memory_is_free_when_the_next_try_begins():
    held = []

    def step():
        latents = torch.ones(1000)
        held.append(weakref.ref(latents))
        torch.empty(10**14)

    with pytest.raises(memory.OutOfMemory) as told, memory.gpu_errors_in_words():
        step()
    gc.collect()
    assert held[0]() is None, f"still held by {told.value!r}"
    memory.release()


def test_the_device_is_told_in_words():
    """Here without an NVIDIA driver there is no GPU; with one each has a name and its memory."""
    for gpu in device.nvidia_gpus():
        assert gpu.name
        assert 0 < gpu.free <= gpu.total
        assert gpu.words.endswith(" GB")
