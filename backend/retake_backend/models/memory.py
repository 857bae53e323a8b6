"""How a model uses the memory it finds: profiles named by the gigabytes of a GPU, chosen, carried out, made smaller.

    24    everything stays on the GPU, bfloat16, VAE in float32
    12    the denoiser stays on the GPU; text encoder and VAE come and go
    8     the denoiser's weights in 8 bits (cast to bfloat16 layer by layer), the VAE in tiles
    6     the same, and the blocks come to the GPU one at a time while the one before computes
    cpu   no GPU: bfloat16 where the processor multiplies it in hardware, else float32

A profile is a decision about precision too: fp8 weights change the picture a little. It therefore depends on the
device alone (and on what is free on it), and the take's notes name it.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.hooks import apply_group_offloading
from diffusers.models.modeling_utils import ModelMixin
from retake_shared.errors import RetakeError
from torch import nn

from .. import device as machine

Memory = Literal["auto", "24", "12", "8", "6", "cpu"]
Role = Literal["denoiser", "vae", "text", "conditioner"]

GB = 1024**3
_FREE_FOR: tuple[tuple[Literal["24", "12", "8"], float], ...] = (("24", 21.0), ("12", 10.0), ("8", 6.0))
"""GB that must be free for a profile: the largest phase of Wan 1.3B at 81 x 384 x 672 with its source, and some room."""

_USE_CPU = "Choose CPU as memory, or the preview engine, which needs no GPU."


@dataclass(frozen=True)
class Profile:
    """How everything of one job is held. Frozen: the same profile on the same device gives the same frames.

    device: where the denoiser, the conditioners and the VAE compute. text_device: where the text encoder computes.
    dtype: of the denoiser. vae_dtype, text_dtype: of VAE and text encoder; conditioners that run once are float32.
    fp8: the denoiser's weights are stored in float8 and cast to dtype layer by layer. offload: its blocks come to
    the device one at a time. tile: the VAE works in tiles. keep: text encoder and VAE stay on the device between
    their turns. fuse_lora: adapters are merged into the weights. device_words: the device as people know it.
    """

    name: Literal["24", "12", "8", "6", "cpu"]
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
        held = "CPU" if self.name == "cpu" else f"{self.name} GB profile"
        weights = "8-bit weights, " if self.fp8 else ""
        return f"{self.device_words}, {held}, {weights}{str(self.dtype).removeprefix('torch.')}"


class OutOfMemory(RetakeError):
    """A device has too little memory for what was asked of it. A smaller profile may do: see `smaller`."""


def choose(memory: str) -> Profile:
    """The profile asked for, or with "auto" the one that fits what is free on the GPU; without a GPU the CPU's.

    A profile larger than the GPU is the user's word and is given. Raises RetakeError when a GPU's profile is asked
    for and torch can use none: it says why (no GPU, no driver, a torch without CUDA, kept for Blender).
    """
    raise NotImplementedError


def smaller(profile: Profile) -> Profile | None:
    """The next profile that needs less of the same device; None when there is none. Never the CPU: hours are no
    fallback for minutes.

    What was placed for the larger one must be loaded again: 8-bit weights are not made from hooked ones.
    """
    raise NotImplementedError


def place(module: nn.Module, profile: Profile, role: Role) -> None:
    """Bring a loaded module to where and how the profile holds it: precision, casting, offloading, tiles, device.

    To be called once adapters (LoRA) are on it; calling it again for the same profile brings it back to the device
    after `put_aside`. role "text": inputs go to `profile.text_device`. role "conditioner": float32, and the model's
    own dtype for branches that run in every step. Raises ValueError for a module placed by another profile.

    Side effects that callers must know: with `offload` the denoiser's weights lie in the CPU's memory between calls,
    so `next(module.parameters()).device` says "cpu"; use `profile.device`.
    """
    raise NotImplementedError


def put_aside(module: nn.Module, profile: Profile) -> None:
    """Let a module leave the device until it is placed again; nothing where the profile keeps all on the device."""
    raise NotImplementedError


@contextmanager
def gpu_errors_in_words() -> Iterator[None]:
    """Turn what torch says of devices into errors with a remedy: OutOfMemory, or RetakeError for driver and device.

    Any other exception passes as it is.
    """
    yield


def release() -> None:
    """Give memory that nothing refers to any more back to the system and to other programs."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
