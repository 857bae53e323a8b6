"""What makes a denoiser faster without another model: attention kernels, compiled blocks, steps that reuse the last.

Each is used only where it pays, and all of it is undone before the next job:

- attention: on CUDA the fastest of the kernels that are installed, after its result was compared with torch's own.
- compiled blocks: on CUDA, for runs long enough to earn back the compiler's time, never with 8-bit weights.
- step cache (First-Block Cache): "standard" with many steps. A step whose first block changes little of what the last
  full step did takes over what its other blocks did.

On a CPU there is nothing to choose: torch has one fused attention kernel, and compiled blocks give nothing (the time
is in matrix products). MagCache, the other step cache of diffusers, needs ratios measured on the very weights.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import time
from collections.abc import Iterator
from typing import Literal

import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    attention_backend,
    dispatch_attention_fn,
)
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

from .memory import Profile

Quality = Literal["fast", "standard", "best"]

CACHE_FROM_STEPS = 16
"""Steps from which on the cache is used: with fewer, neighbouring steps differ too much for any to be left out."""
CACHE_THRESHOLD = 0.05
"""Relative change of the first block's residual below which a step is taken over: diffusers' default. Chosen: with a
source in the tokens half of them change little anyway, so that this is bolder than it is for a plain video."""
COMPILE_FROM_STEPS = 20
"""Compiling takes about half a minute the first time; it saves a tenth or so of each step."""

_FASTER_BY = 1.1
"""How much faster a kernel must be to be taken, so that chance does not choose and a take repeats."""
_COMPILED = "_retake_compiled"


def prepare(transformer: nn.Module, profile: Profile, quality: Quality, steps: int) -> tuple[str, ...]:
    """Make a placed denoiser fast for a run of `steps` steps; say what was done, for the take's notes.

    Undoes what an earlier call did. "best" computes every step in full with exact attention. The caller wraps each
    forward in `transformer.cache_context("cond")` or `("uncond")`, and calls `new_video(transformer)` before each
    window, so that no step reuses another video's.
    """
    undo(transformer)
    notes = []
    if profile.device.type == "cuda" and (kernel := _fastest_attention(transformer, profile, quality)):
        _use_attention(transformer, kernel)
        notes.append(f"attention by {kernel.strip('_').replace('_', ' ')}")
    if profile.device.type == "cuda" and steps >= COMPILE_FROM_STEPS and not (profile.fp8 or profile.offload):
        problem = _compiler_problem(profile.device)
        if problem:
            notes.append(f"blocks not compiled ({problem})")
        elif compile_blocks(transformer):
            notes.append("compiled blocks")
    if quality == "standard" and steps >= CACHE_FROM_STEPS and _blocks_in_a_row(transformer):
        transformer.enable_cache(FirstBlockCacheConfig(threshold=CACHE_THRESHOLD))  # type: ignore[operator]
        notes.append("steps that change little reuse the one before")
    return tuple(notes)


def new_video(transformer: nn.Module) -> None:
    """Forget the steps of the last window."""
    if isinstance(transformer, CacheMixin) and transformer.is_cache_enabled:
        transformer._reset_stateful_cache()


def undo(transformer: nn.Module) -> None:
    """The denoiser as it was before `prepare`."""
    if isinstance(transformer, CacheMixin) and transformer.is_cache_enabled:
        transformer.disable_cache()
    for block in transformer.modules():
        if block.__dict__.pop(_COMPILED, False):
            del block.forward  # the class's own shows again
    for part in transformer.modules():
        if getattr(getattr(part, "processor", None), "_attention_backend", None) is not None:
            part.processor._attention_backend = None  # type: ignore[union-attr]


def compile_blocks(transformer: nn.Module, backend: str = "inductor") -> bool:
    """Compile what a Wan block computes, once for all of them; whether there are any.

    The block's own forward and not the module: hooks that come around it later (the step cache) stay plain Python,
    which would else break the graph, and be compiled again for each block.
    """
    blocks = [part for part in transformer.modules() if isinstance(part, WanTransformerBlock)]
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=backend)  # type: ignore[method-assign]
        block.__dict__[_COMPILED] = True
    return bool(blocks)


def _blocks_in_a_row(transformer: nn.Module) -> bool:
    """Whether the step cache may work here: the blocks follow one another with nothing between them.

    VACE adds its control between blocks, outside of them: a step that is taken over would have it twice. SVD's UNet
    has no such row.
    """
    blocks = getattr(transformer, "blocks", ())
    return isinstance(transformer, CacheMixin) and len(blocks) > 1 and not hasattr(transformer, "vace_blocks")


# -------------------------------------------------------------------------------------------------------- attention


def _fastest_attention(transformer: nn.Module, profile: Profile, quality: Quality) -> str | None:
    """A kernel that is clearly faster than torch's own and says the same; None to stay with torch's."""
    if "DIFFUSERS_ATTN_BACKEND" in os.environ:
        return None  # the user has chosen
    config = getattr(transformer, "config", {})
    heads, width = config.get("num_attention_heads", 0), config.get("attention_head_dim", 0)
    if not isinstance(heads, int) or not isinstance(width, int) or heads * width == 0:
        return None  # no Wan
    return probe_attention(profile.device, profile.dtype, heads, width, exact=quality == "best")


@functools.cache
def probe_attention(
    device: torch.device, dtype: torch.dtype, heads: int, width: int, exact: bool, tokens: int = 8192
) -> str | None:
    """Try the installed kernels on this device once: the name of the fastest, None where none beats torch's by 10 %.

    exact: leave out the kernels that round inside (8-bit). Nothing is ever downloaded: the hub's kernels are not tried.
    """
    names = ["_flash_3", "flash", "_native_cudnn", *([] if exact else ["sage"])]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, tokens, heads, width, generator=generator).to(device, dtype) for _ in range(3))
    own, best = _try_attention("native", q, k, v)
    chosen = None
    for name in names:
        try:
            result, seconds = _try_attention(name, q, k, v)
        except (RuntimeError, ValueError, ImportError, NotImplementedError):
            continue  # not installed, or not for this GPU
        error = float((result.float() - own.float()).norm() / own.float().norm())
        if error < 0.05 and seconds * (_FASTER_BY if chosen is None else 1.0) < best:
            chosen, best = name, seconds
    return chosen


def _try_attention(name: str, q: Tensor, k: Tensor, v: Tensor, rounds: int = 5) -> tuple[Tensor, float]:
    """The result of attention (B, n, heads, width) by a kernel, and the seconds of its fastest call."""
    with torch.no_grad(), attention_backend(name):
        result: Tensor = dispatch_attention_fn(q, k, v)
        best = float("inf")
        for _ in range(rounds):
            synchronize(q.device)
            began = time.perf_counter()
            dispatch_attention_fn(q, k, v)
            synchronize(q.device)
            best = min(best, time.perf_counter() - began)
    return result, best


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _use_attention(transformer: nn.Module, name: str) -> None:
    with _global_attention_kept():
        transformer.set_attention_backend(name)  # type: ignore[operator]


@contextlib.contextmanager
def _global_attention_kept() -> Iterator[None]:
    """diffusers also sets the kernel for every model there is; that is not ours to change."""
    before = _AttentionBackendRegistry.get_active_backend()[0]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName(before))


# --------------------------------------------------------------------------------------------------------- compiler


@functools.cache
def _compiler_problem(device: torch.device) -> str:
    """Why nothing can be compiled for this device, "" when it can."""
    return "triton is not installed" if importlib.util.find_spec("triton") is None else _try_compiler(device)


def _try_compiler(device: torch.device) -> str:
    """Compile a small function: a compiler that is missing would else be noticed in the middle of a take."""
    try:
        compiled = torch.compile(lambda x: torch.nn.functional.gelu(x * 2).sin())
        compiled(torch.ones(256, device=device))
    except Exception as error:  # whatever a compiler can come to grief over
        return f"the compiler does not work here: {type(error).__name__}"
    return ""
