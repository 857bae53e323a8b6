"""The denoising loop: which schedule a quality means, and the steps from noise to latents.

Everything random comes from one generator on the CPU, so that a seed means the same noise on every device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from retake_shared.errors import BadFile
from torch import Tensor

SchedulerName = Literal["unipc", "euler", "few-step"]
Scheduler = UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler | FlowMatchLCMScheduler


@dataclass(frozen=True)
class Schedule:
    """How one take is denoised.

    steps: of the whole schedule, of which a strength below 1 runs the last ones. guidance: 1 or less = one forward a
    step. shift: 0 = the model's own.
    """

    steps: int
    guidance: float
    scheduler: SchedulerName
    shift: float = 0.0


QUALITY = {
    "distilled": Schedule(3, 1.0, "few-step"),
    "fast": Schedule(8, 1.0, "unipc"),
    "standard": Schedule(50, 5.0, "unipc"),
    "best": Schedule(50, 5.0, "unipc"),
}
"""What a quality means. 50 steps and guidance 5 are Wan's own and what the track papers evaluate with; "standard" lets
steps that change little reuse the one before (`models.speed`), "best" does not. "distilled" is "fast" with few-step
weights, at the levels they were trained at (FEW_STEP_SIGMAS); "fast" without them is this project's choice."""

FEW_STEP_SIGMAS = (1.0, 0.757, 0.522)
"""The noise levels that FastWan2.1-T2V-1.3B was distilled at (FastVideo's dmd_denoising_steps over 1000). Another
number of steps, or a shift, is off its training."""


def choose(options: Mapping[str, Any], distilled: bool) -> Schedule:
    """The schedule of an engine's checked options; distilled: the weights are few-step ones."""
    quality = options["quality"]
    schedule = QUALITY["distilled" if quality == "fast" and distilled else quality]
    if options["scheduler"] != "auto":
        schedule = replace(schedule, scheduler=options["scheduler"])
    return replace(
        schedule,
        steps=options["steps"] or schedule.steps,
        guidance=options["guidance"] or schedule.guidance,
        shift=options["shift"],
    )


def make_scheduler(schedule: Schedule, folder: Path) -> Scheduler:
    """The scheduler of a model's `folder` (diffusers' layout), its steps set. Raises BadFile.

    UniPC takes the model's own configuration; Euler the shift of it. Few-step weights have levels of their own.
    """
    written, path = _configuration(folder)
    try:
        shift = schedule.shift or float(written.get("flow_shift", written.get("shift", 1.0)))
        if schedule.scheduler == "unipc":
            own = written if written.get("_class_name") == "UniPCMultistepScheduler" else {}
            flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
            scheduler = UniPCMultistepScheduler.from_config({**own, **flow})
            scheduler.set_timesteps(schedule.steps)
        elif schedule.scheduler == "euler":
            scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
            scheduler.set_timesteps(schedule.steps)
        else:
            scheduler = FlowMatchLCMScheduler(shift=1.0)
            scheduler.set_timesteps(schedule.steps, sigmas=_few_step_levels(schedule))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise BadFile(f"does not configure a scheduler ({error}).", str(path), "Pull the model again.") from error
    return scheduler  # type: ignore[no-any-return]


def _few_step_levels(schedule: Schedule) -> list[float]:
    """Noise levels, falling from 1: those of the distillation, or between them; evenly shifted where a shift is asked."""
    even = torch.linspace(1, 0, schedule.steps + 1, dtype=torch.float64)[:-1]
    if schedule.shift:
        levels = schedule.shift * even / (1 + (schedule.shift - 1) * even)
    else:
        levels = _between((*FEW_STEP_SIGMAS, 0.0), (1 - even) * len(FEW_STEP_SIGMAS))
    return levels.tolist()


def window_generator(seed: int, number: int) -> torch.Generator:
    """All the chance of a take's window `number`, on the CPU: the seed itself for the first window."""
    if number:
        seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return torch.Generator("cpu").manual_seed(seed)


@dataclass(frozen=True)
class Step:
    """What is known after a step: index of total, and the model's estimate of the clean latents (1, C, f, H, W)."""

    index: int
    total: int
    clean: Tensor


@dataclass(frozen=True)
class Overlap:
    """Clean latents (1, C, o, H, W) of the first o latent frames, which the window takes over from the one before."""

    clean: Tensor


def sample(
    transformer: torch.nn.Module,
    scheduler: Any,
    noise: Tensor,
    *,
    guidance: float,
    prompt: Tensor,
    negative_prompt: Tensor | None = None,
    condition: Mapping[str, Any] | None = None,
    dtype: torch.dtype,
    start: Tensor | None = None,
    strength: float = 1.0,
    overlap: Overlap | None = None,
    generator: torch.Generator | None = None,
    after_step: Callable[[Step], None] = lambda step: None,
) -> Tensor:
    """Denoise: latents (1, C, f, H, W) float32 on the noise's device.

    scheduler: a `Scheduler` fresh from `make_scheduler`, used up by this. noise: (1, C, f, H, W) float32 standard normal.
    prompt, negative_prompt: (1, 512, text_dim); the second only counts where guidance is above 1. condition: keyword
    arguments of every forward, computed once. dtype: of the transformer's arithmetic. start, strength: clean latents
    that a strength below 1 starts from, noised to where the schedule is entered. generator: on the CPU, for
    schedulers that add fresh noise. after_step: called after each step; what it raises ends the loop.
    """
    device = noise.device
    scheduler.timesteps = scheduler.timesteps.to(device)
    first = first_step(len(scheduler.timesteps), strength) if start is not None else 0
    scheduler.set_begin_index(first)
    sigmas = scheduler.sigmas
    guided = guidance > 1 and negative_prompt is not None
    texts = [("cond", prompt.to(device, dtype))]
    if guided and negative_prompt is not None:
        texts.append(("uncond", negative_prompt.to(device, dtype)))

    def held(latents: Tensor, sigma: Tensor) -> Tensor:
        """latents with the overlap as it is at this noise level."""
        if overlap is None:
            return latents
        count = overlap.clean.shape[2]
        level = sigma.to(latents)
        pinned = (1 - level) * overlap.clean.to(latents) + level * noise[:, :, :count]
        return torch.cat([pinned, latents[:, :, count:]], 2)

    latents = noise
    if start is not None:
        level = sigmas[first].to(noise)
        latents = (1 - level) * start.to(noise) + level * noise
    latents = held(latents, sigmas[first])
    timesteps = scheduler.timesteps[first:]
    for done, timestep in enumerate(timesteps):
        sigma = sigmas[first + done]
        at = {"step_index": done, "sigma": float(sigma), "num_inference_steps": len(timesteps)}
        predicted = []
        for name, text in texts:
            with transformer.cache_context(name, **at):  # type: ignore[operator]
                (velocity,) = transformer(
                    hidden_states=latents.to(dtype),
                    timestep=timestep.expand(len(latents)),
                    encoder_hidden_states=text,
                    return_dict=False,
                    **(condition or {}),
                )
            predicted.append(velocity)
        velocity = predicted[0]
        if guided:
            velocity = predicted[1] + guidance * (predicted[0] - predicted[1])
        if not isinstance(scheduler, UniPCMultistepScheduler):
            # The others hand latents back in the velocity's type: in bfloat16 every step would round them.
            velocity = velocity.to(latents)
        clean = latents - sigma.to(latents) * velocity
        fresh = {"generator": generator} if isinstance(scheduler, FlowMatchLCMScheduler) else {}
        (latents,) = scheduler.step(velocity, timestep, latents, return_dict=False, **fresh)
        latents = held(latents, sigmas[first + done + 1])
        after_step(Step(done, len(timesteps), clean))
    return latents


def first_step(steps: int, strength: float) -> int:
    """The step at which a strength enters a schedule, as diffusers' video-to-video pipelines count; never none."""
    return min(steps - min(int(steps * strength), steps), steps - 1)


def _between(levels: tuple[float, ...], at: Tensor) -> Tensor:
    """levels at fractional indices, linearly."""
    values = torch.tensor(levels, dtype=torch.float64)
    low = at.floor().long().clamp(max=len(levels) - 2)
    return values[low] + (at - low) * (values[low + 1] - values[low])


def _configuration(folder: Path) -> tuple[dict[str, Any], Path]:
    """The scheduler's configuration as it is written, and where."""
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        written = json.loads(path.read_text("utf-8"))
        if not isinstance(written, dict):
            raise ValueError("it holds no fields")
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"does not configure a scheduler ({error}).", str(path), "Pull the model again.") from error
    return written, path
