"""How a model uses the memory it finds: profiles named by the gigabytes of a GPU, chosen, carried out, made smaller.

    24    everything stays on the GPU, bfloat16, VAE in float32
    12    the denoiser stays on the GPU; text encoder and VAE come and go
    8     the denoiser's weights in 8 bits (cast to bfloat16 layer by layer), the VAE in tiles
    6     the same, and the blocks come to the GPU one at a time
    cpu   no GPU: bfloat16 where the processor multiplies it in hardware, else float32

A profile is a decision about precision too: fp8 weights change the picture a little. It therefore depends on the
device alone (and on what is free on it), and the take's notes name it.
"""

from __future__ import annotations

import contextlib
import gc
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import psutil
import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.hooks.hooks import HookRegistry
from diffusers.models.modeling_utils import ModelMixin
from retake_shared.errors import RetakeError
from torch import nn

from .. import device as machine
from ..conditioning.trajectory_attention import TrajectoryAttention

Memory = Literal["auto", "24", "12", "8", "6", "cpu"]
Name = Literal["24", "12", "8", "6", "cpu"]
Role = Literal["denoiser", "vae", "text", "conditioner"]

GB = 1024**3
_FREE_FOR: tuple[tuple[Name, float], ...] = (("24", 21.0), ("12", 10.0), ("8", 6.0))
"""GB that must be free for a profile: the largest phase of Wan 1.3B at 81 x 384 x 672 with its source, and some room."""

_USE_CPU = "Choose CPU as memory (slow), or the preview engine, which needs no GPU."
_NEED_LESS = (
    "Choose less memory, a shorter window or a smaller working size, or end other programs that use it; a viewport of "
    "Blender in rendered mode is one."
)


@dataclass(frozen=True)
class Profile:
    """How everything of one job is held. Frozen: the same profile on the same device gives the same frames.

    device: where the denoiser, the conditioners and the VAE compute. text_device: where the text encoder computes.
    dtype: of the denoiser. vae_dtype, text_dtype: of VAE and text encoder; conditioners that run once are float32.
    fp8: the denoiser's weights are stored in float8 and cast to dtype layer by layer. offload: its blocks come to
    the device one at a time. tile: the VAE works in tiles. keep: the VAE stays on the device between its turns, and
    the text encoder comes to it whole. fuse_lora: adapters are merged into the weights. device_words: the device as
    people know it.
    """

    name: Name
    device: torch.device
    text_device: torch.device
    dtype: torch.dtype
    vae_dtype: torch.dtype
    text_dtype: torch.dtype
    fp8: bool = False
    offload: bool = False
    tile: bool = False
    keep: bool = False
    fuse_lora: bool = False
    device_words: str = ""

    @property
    def words(self) -> str:
        """For the take's notes: device, memory and precision."""
        held = "" if self.name == "cpu" else f", {self.name} GB profile"
        weights = ", 8-bit weights" if self.fp8 else ""
        return f"{self.device_words}{held}{weights}, {str(self.dtype).removeprefix('torch.')}"


class OutOfMemory(RetakeError):
    """A device has too little memory for what was asked of it. A smaller profile may do: see `smaller`."""


class DeviceLost(RetakeError):
    """The GPU failed in the middle of its work: nothing more can be done with it in this process."""

    ends_process = True
    """Whoever runs jobs reports this error and then goes on in a fresh process."""


def choose(memory: str) -> Profile:
    """The profile asked for, or with "auto" the one that fits what is free on the GPU; without a GPU the CPU's.

    A profile larger than the GPU is the user's word and is given. Raises RetakeError when a GPU's profile is asked
    for and torch can use none: it says why (no GPU, no driver, a torch without CUDA, kept for Blender).
    """
    gpu = None if memory == "cpu" or machine.only_cpu() else _gpu()
    if memory == "cpu" or (memory == "auto" and gpu is None):
        return _cpu_profile()
    if gpu is None:
        raise _no_gpu(memory)
    if memory == "auto":
        free = _free(gpu) / GB
        memory = next((name for name, needed in _FREE_FOR if free >= needed), "6")
    return gpu_profile(cast(Name, memory), gpu, *_precision_and_words(gpu))


def smaller(profile: Profile) -> Profile | None:
    """The next profile that needs less of the same device; None when there is none. Never the CPU: hours are no
    fallback for minutes.

    What was placed for the larger one must be loaded again: 8-bit weights are not made from merged ones.
    """
    following: dict[str, Name] = {"24": "12", "12": "8", "8": "6"}
    name = following.get(profile.name)
    return None if name is None else gpu_profile(name, profile.device, profile.dtype, profile.device_words)


def place(module: nn.Module, profile: Profile, role: Role) -> None:
    """Bring a loaded module to where and how the profile holds it: precision, casting, offloading, tiles, device.

    To be called once adapters (LoRA) are on it; calling it again for the same profile brings it back to the device
    after `put_aside`. role "text": inputs go to `profile.text_device`. role "conditioner": float32, and the model's
    own dtype for branches that run in every step. Raises ValueError for a module placed by another profile.

    Side effects that callers must know: with `offload` the denoiser's weights lie in the CPU's memory between calls,
    so `next(module.parameters()).device` says "cpu"; use `profile.device`. With `fuse_lora` the adapters are gone,
    merged into the weights.
    """
    before = getattr(module, _PLACED, None)
    if before is not None and before != (profile, role):
        raise ValueError(f"{type(module).__name__} is placed for the profile {before[0].name}: load it again")
    if role == "denoiser":
        _place_denoiser(module, profile, first=before is None)
    elif role == "vae":
        _cast(module, profile.vae_dtype)
        module.to(profile.device)
        tiling = getattr(module, "enable_tiling" if profile.tile else "disable_tiling", None)
        if callable(tiling):  # Stable Video Diffusion's decoder has none: it decodes a few frames at a time
            with contextlib.suppress(NotImplementedError):
                tiling()
    elif role == "text":
        _place_text(module, profile, first=before is None)
    else:
        _cast(module, profile.dtype if isinstance(module, TrajectoryAttention) else torch.float32)
        module.to(profile.device)
    setattr(module, _PLACED, (profile, role))


def put_aside(module: nn.Module, profile: Profile) -> None:
    """Let a module leave the device until it is placed again; nothing where the profile keeps all on the device."""
    if not profile.keep and profile.device.type != "cpu" and not _is_offloaded(module):
        module.to("cpu")


@contextmanager
def gpu_errors_in_words() -> Iterator[None]:
    """Turn what torch says of devices into errors with a remedy: OutOfMemory, or RetakeError for driver and device.

    Any other exception passes as it is.
    """
    try:
        yield
    except (RuntimeError, AssertionError, MemoryError) as error:
        told = in_words(error)
        if told is None:
            raise
        if not isinstance(told, OutOfMemory):
            raise told from error
        # The traceback holds every tensor of the step that failed: memory that the next try needs.
        traceback.clear_frames(error.__traceback__)
        raise told from error.with_traceback(None)


def in_words(error: BaseException) -> RetakeError | None:
    """What an exception of torch's means for the user; None when it says nothing of a device."""
    if isinstance(error, RetakeError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory("There is too little main memory for this.", "memory", _NEED_LESS)
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or re.search(_OUT_OF_MEMORY, text):
        place = "main memory" if "CPUAllocator" in text else "memory left on the GPU"
        size = re.search(r"[Tt]ried to allocate ([\d.]+ ?[KMGT]?i?B|\d+ bytes)", text)
        more = f" ({_readable(size[1])} more were needed)" if size else ""
        return OutOfMemory(f"There is too little {place} for this{more}.", "memory", _NEED_LESS)
    for pattern, what, remedy in _DEVICE_ERRORS:
        if re.search(pattern, text):
            return RetakeError(what, "GPU", remedy)
    if isinstance(error, torch.AcceleratorError) or re.search(_FAILED, text):
        line = text.strip().splitlines()[0][:200]
        return DeviceLost(
            f"The GPU failed while it was at work: {line}",
            "GPU",
            "Generate again. If it happens again, update the GPU's driver, or undo its overclocking.",
        )
    return None


def release() -> None:
    """Give memory that nothing refers to any more back to the system and to other programs."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def processor_dtype() -> torch.dtype:
    """bfloat16 where this processor multiplies it in hardware (AVX512-BF16, AMX), else float32.

    By what the processor says and not by timing: the same machine must give the same frames again.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        told = torch.cpu.get_capabilities()
        fast = bool(told.get("avx512_bf16") or told.get("amx_bf16"))
    else:
        fast = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    return torch.bfloat16 if fast else torch.float32


# ------------------------------------------------------------------------------------------------------- the device

_PLACED = "_retake_placed"

_OUT_OF_MEMORY = (
    r"out of memory|CPUAllocator: (?:can't allocate|not enough) memory|not enough memory: you tried to allocate"
    r"|CU(?:BLAS|DNN|SOLVER|FFT)_STATUS_(?:ALLOC_FAILED|NOT_INITIALIZED)|HOST_ALLOCATION_FAILED"
)
"""CUBLAS_STATUS_NOT_INITIALIZED: what cuBLAS says when the GPU is too full even for its workspace."""

_DEVICE_ERRORS = (
    (
        r"Found no NVIDIA driver|no CUDA-capable device is detected|No CUDA GPUs are available",
        "This machine has no GPU that torch can use: no NVIDIA driver answers.",
        f"Install NVIDIA's driver if there is such a GPU. {_USE_CPU}",
    ),
    (
        r"driver version is insufficient|driver on your system is too old|unsupported display driver",
        "The GPU's driver is older than this torch needs.",
        f"Update NVIDIA's driver and start the machine again. {_USE_CPU}",
    ),
    (
        r"no kernel image is available|is not compatible with the current PyTorch|device kernel image is invalid",
        "This GPU is too old, or too new, for the installed torch.",
        f"Install a build of torch for this GPU (pytorch.org tells which). {_USE_CPU}",
    ),
    (
        r"not compiled with CUDA|PyTorch is not linked with support for (?:cuda|mps)",
        "The installed torch is built without GPU support.",
        f"Install its CUDA build into the backend's environment. {_USE_CPU}",
    ),
    (
        r"devices? is/are busy or unavailable|all CUDA-capable devices are busy",
        "Another program holds the GPU for itself.",
        f"End it, or set the GPU's compute mode to default. {_USE_CPU}",
    ),
    (
        r"invalid device ordinal",
        "The GPU that was asked for does not exist.",
        f"Correct CUDA_VISIBLE_DEVICES. {_USE_CPU}",
    ),
)
_FAILED = r"CUDA error|CUDA driver error|CUDNN_STATUS_|CUBLAS_STATUS_|cuDNN error|MPS backend (?:failed|error)"


def _gpu() -> torch.device | None:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return None


def _no_gpu(memory: str) -> RetakeError:
    where = f"memory {memory}"
    if machine.only_cpu():
        return RetakeError(
            "The preferences leave the GPU to Blender.",
            where,
            "Change Device in the extension's preferences. " + _USE_CPU,
        )
    found = machine.nvidia_gpus()
    if found and torch.version.cuda is None:
        what = f"The installed torch is built without GPU support, though this machine has an {found[0].words}."
        return RetakeError(what, where, f"Install its CUDA build into the backend's environment. {_USE_CPU}")
    what = "This machine has no GPU that torch can use."
    if torch.version.cuda is not None:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            told = in_words(error)
            if told is not None:
                return RetakeError(told.what, where, told.remedy)
    return RetakeError(what, where, f"If there is one, install its driver. {_USE_CPU}")


def _free(gpu: torch.device) -> int:
    """Bytes that a job could have: what is free, and what this process itself holds and would let go of."""
    if gpu.type == "cuda":
        with gpu_errors_in_words():
            return int(torch.cuda.mem_get_info(gpu)[0] + torch.cuda.memory_reserved(gpu))
    shared = psutil.virtual_memory().available  # Apple's GPUs share the main memory
    return int(min(torch.mps.recommended_max_memory(), shared + torch.mps.driver_allocated_memory()))


def gpu_profile(name: Name, gpu: torch.device, dtype: torch.dtype, device_words: str) -> Profile:
    """One of the GPU's four. Apple's GPUs (not tried on one) know no float8 and have nowhere to offload to: there 8
    and 6 only work in tiles."""
    small, apple = name in ("8", "6"), gpu.type == "mps"
    return Profile(
        name=name,
        device=gpu,
        text_device=gpu,
        dtype=dtype,
        vae_dtype=dtype if small and dtype == torch.bfloat16 else torch.float32,
        text_dtype=torch.bfloat16,  # T5 overflows float16
        fp8=small and not apple,
        offload=name == "6" and not apple,
        tile=small,
        keep=name == "24",
        fuse_lora=not small or apple,
        device_words=device_words,
    )


def _precision_and_words(gpu: torch.device) -> tuple[torch.dtype, str]:
    if gpu.type == "mps":
        return torch.bfloat16, f"Apple GPU, {psutil.virtual_memory().total / GB:.0f} GB shared"
    found = torch.cuda.get_device_properties(gpu)
    # Before Ampere there is no bfloat16 in hardware; Wan's weights are known to work in float16.
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return dtype, f"{found.name}, {found.total_memory / GB:.0f} GB"


def _cpu_profile() -> Profile:
    cpu, dtype = torch.device("cpu"), processor_dtype()
    words = f"CPU, {torch.get_num_threads()} threads"
    return Profile("cpu", cpu, cpu, dtype, dtype, dtype, keep=True, fuse_lora=True, device_words=words)


# ---------------------------------------------------------------------------------------------------------- placing


def _place_denoiser(module: nn.Module, profile: Profile, first: bool) -> None:
    if not first:
        if not profile.offload:
            module.to(profile.device)
        return
    if not profile.offload:
        module.to(profile.device)
    if profile.fuse_lora and getattr(module, "peft_config", None):
        # Before the cast, so that it is rounded once; the adapters' own memory is free again.
        module.fuse_lora()  # type: ignore[operator]
        module.unload_lora()  # type: ignore[operator]
    _cast(module, profile.dtype)
    if profile.fp8:
        # diffusers leaves out embeddings, norms and adapters: a LoRA in 8 bits would be lost in the rounding.
        module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=profile.dtype)  # type: ignore[operator]
    if profile.offload:
        # Without a stream: the blocks' 8-bit weights cross in a few percent of the time that they compute for, and
        # the tracing that prefetching needs would switch the step cache off (it replaces its hooks unseen).
        module.enable_group_offload(  # type: ignore[operator]
            onload_device=profile.device, offload_device=torch.device("cpu"), num_blocks_per_group=1
        )


def _place_text(module: nn.Module, profile: Profile, first: bool) -> None:
    stack: nn.Module = getattr(module, "encoder", module)
    _cast(module, profile.text_dtype)
    if profile.keep or not hasattr(stack, "block"):
        module.to(profile.text_device)
    elif first:
        # UMT5's 11 GB layer by layer: each is needed once, for one prompt.
        apply_group_offloading(stack, profile.text_device, num_blocks_per_group=1)


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Parameters to dtype, but those that diffusers keeps in float32; buffers stay (the rotary table among them)."""
    if _is_cast(module):
        return
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    if not isinstance(module, ModelMixin) and dtype != torch.float16:
        kept = set()  # transformers means float16 alone by it
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            wanted = torch.float32 if kept & set(name.split(".")) else dtype
            parameter.data = parameter.data.to(wanted)


def _is_cast(module: nn.Module) -> bool:
    return any(_has_hook(part, "layerwise_casting") for part in module.modules())


def _is_offloaded(module: nn.Module) -> bool:
    return any(_has_hook(part, "group_offloading") for part in module.modules())


def _has_hook(module: nn.Module, name: str) -> bool:
    registry = getattr(module, "_diffusers_hook", None)
    return isinstance(registry, HookRegistry) and registry.get_hook(name) is not None


def _readable(size: str) -> str:
    """ "400000000000 bytes" as people say it."""
    count = re.fullmatch(r"(\d+) bytes", size)
    return f"{int(count[1]) / GB:.1f} GB" if count else size.replace("iB", "B")
