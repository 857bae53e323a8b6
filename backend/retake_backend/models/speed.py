"""What makes a denoiser faster without another model: attention kernels, compiled blocks, steps that reuse the last.

Each is used only where it was seen to pay, and all of it is undone before the next job.
"""

from __future__ import annotations

from typing import Literal

from diffusers.models.modeling_utils import ModelMixin

from .memory import Profile

Quality = Literal["fast", "standard", "best"]


def prepare(transformer: ModelMixin, profile: Profile, quality: Quality, steps: int) -> tuple[str, ...]:
    """Make a placed denoiser fast for a run of `steps` steps; say what was done, for the take's notes.

    Undoes what an earlier call did. "best" computes every step in full with torch's own attention. The caller wraps
    each forward in `transformer.cache_context("cond")` or `("uncond")`, and calls `new_video(transformer)` before
    each window, so that no step reuses another video's.
    """
    raise NotImplementedError


def new_video(transformer: ModelMixin) -> None:
    """Forget the steps of the last window."""
    raise NotImplementedError


def undo(transformer: ModelMixin) -> None:
    """The denoiser as it was before `prepare`."""
    raise NotImplementedError
