"""How fast the video model denoises, against its own matrix products and attention done bare in the same run.

Real size on a GPU (Wan2.1 1.3B, random weights, 81 frames of 672x384 with the source in the tokens), a scaled model on
a CPU; the same code for both. Weights are random: speed and memory do not depend on them, but for the step cache,
whose share of steps left out is only an example.
"""

from __future__ import annotations

import datetime
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from diffusers.models.transformers.transformer_wan import WanAttention
from retake_backend.conditioning.coordinates import TrackPairs
from retake_backend.conditioning.edit_by_track import EditByTrackConditioner
from retake_backend.conditioning.track2view import Track2ViewConditioner
from retake_backend.conditioning.trajectory_attention import TrajectoryAttention, paired_trajectories
from retake_backend.engines.diffusion import sampling
from retake_backend.models import memory, speed
from retake_backend.models.codec import VideoCodec
from retake_backend.models.memory import Profile
from retake_backend.models.wan import RetakeWanTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import UMT5Config, UMT5EncoderModel

H200_TFLOPS = 790.0
"""bf16 matrix products of an H200, measured (8192 x 8192 x 8192)."""
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Scale:
    """Sizes of one run. latent: (frames, height, width) of the latents. tracks: of Edit-by-Track, Track2View and the
    trajectory branch. steps: of a guided run. few_steps: of one without guidance. rounds: timings of a
    forward, repeats: of whole runs, in turns; the best counts."""

    name: str
    wan: dict[str, Any]
    latent: tuple[int, int, int]
    width: int
    tracks: tuple[int, int, int]
    vae: dict[str, Any]
    text: dict[str, Any]
    text_tokens: int = 512
    steps: int = 50
    few_steps: int = 3
    rounds: int = 5
    repeats: int = 1

    @property
    def grid(self) -> tuple[int, int]:
        return self.latent[1] // 2, self.latent[2] // 2

    @property
    def token_dim(self) -> int:
        return int(self.wan["num_attention_heads"] * self.wan["attention_head_dim"])

    @property
    def video(self) -> tuple[int, int, int]:
        """Frames, height and width of the pictures."""
        return (self.latent[0] - 1) * 4 + 1, self.latent[1] * 8, self.latent[2] * 8

    @property
    def words(self) -> str:
        frames, height, width = self.video
        return f"{self.name}, {frames} frames of {width}x{height} beside their source"


REAL = Scale(
    "Wan 2.1 1.3B",
    {"num_attention_heads": 12, "attention_head_dim": 128, "text_dim": 4096, "ffn_dim": 8960, "num_layers": 30},
    latent=(21, 48, 84),
    width=512,
    tracks=(2000, 1152, 576),
    vae={},
    text={"vocab_size": 256_384, "d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_layers": 24, "num_heads": 64},
)
SCALED = Scale(
    "a scaled model",
    {"num_attention_heads": 4, "attention_head_dim": 64, "text_dim": 256, "ffn_dim": 1536, "num_layers": 4},
    latent=(4, 16, 28),
    width=64,
    tracks=(224, 128, 64),
    vae={"base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    text={"vocab_size": 1000, "d_model": 256, "d_kv": 32, "d_ff": 640, "num_layers": 4, "num_heads": 8},
    text_tokens=64,
    steps=16,
    rounds=8,
    repeats=2,
)


def measure(gpu: bool = False) -> dict[str, Any]:
    """The table. gpu: real size on the GPU, whatever its memory; else the scaled model on two threads of the CPU.

    Raises RetakeError in words when a GPU is asked for and torch can use none.
    """
    if gpu:
        profile = memory.choose("24")
    else:
        torch.set_num_threads(2)
        profile = memory.choose("cpu")
    with memory.gpu_errors_in_words(), torch.no_grad():
        return Bench(REAL if gpu else SCALED, profile).run()


@dataclass
class Bench:
    """One run. model, inputs: placed by the largest profile, and used by all parts but those of memory."""

    scale: Scale
    profile: Profile
    figures: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        scale, profile = self.scale, self.profile
        self.figures |= {
            "diffusion_model": scale.words,
            "diffusion_device": profile.words,
            "date": datetime.date.today().isoformat(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        counted = count_flops(scale)
        self.figures["tflop_a_forward"] = counted["all"] / 1e12
        self.figures["tflop_of_attention"] = counted["attention"] / 1e12
        self.figures["matrix_product_tflops"] = matrix_product_rate(profile, 8192 if scale is REAL else 1024)
        self._say("a step")
        model = build_wan(scale, profile.device)
        memory.place(model, profile, "denoiser")
        self.figures["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        self._step(model, counted["all"])
        self._say("conditioners")
        self._conditioners(model)
        self._say("end to end")
        self._end_to_end(model)
        del model
        memory.release()
        for name in ("24", "12", "8", "6"):
            self._say(f"the {name} GB profile")
            try:
                with memory.gpu_errors_in_words():
                    self._profile(memory.gpu_profile(name, profile.device, profile.dtype, profile.device_words))
            except memory.OutOfMemory as error:
                self.figures[f"memory_{name}"] = {f"{name} GB": f"does not fit: {error.what}"}
        return self.figures

    def _say(self, what: str) -> None:
        print(f"   diffusion: {what}", file=sys.stderr, flush=True)

    def _step(self, model: RetakeWanTransformer, flops: float) -> None:
        """One forward: what the product pays, against its matrix products and attention alone."""
        scale, profile = self.scale, self.profile
        inputs = make_inputs(scale, profile)
        shapes = bare_shapes(model, inputs)
        whole, bare = [], []
        for _ in range(scale.rounds):  # in turns, so that another job on the machine slows both
            whole.append(seconds(profile.device, lambda: model(**inputs)))
            bare.append(bare_seconds(shapes, profile))
        forward = min(whole)
        self.figures |= {
            "forward_seconds": forward,
            "step_seconds": 2 * forward,
            "bare_seconds": min(bare),
            "diffusion_ratio": forward / min(bare),
            "forward_tflops": flops / forward / 1e12,
            "share_of_measured_matrix_product": flops / forward / 1e12 / self.figures["matrix_product_tflops"],
        }
        if profile.device.type == "cuda":
            self.figures["share_of_790_tflops"] = self.figures["forward_tflops"] / H200_TFLOPS
            speed.compile_blocks(model)
            began = time.perf_counter()
            model(**inputs)
            self.figures["compiling_seconds"] = time.perf_counter() - began
            self.figures["compiled_forward_seconds"] = best(scale.rounds, profile.device, lambda: model(**inputs))
            speed.undo(model)
            heads, width = scale.wan["num_attention_heads"], scale.wan["attention_head_dim"]
            kernel = speed.probe_attention(profile.device, profile.dtype, heads, width, exact=False)
            self.figures["attention_kernel"] = kernel or "torch's own"

    def _conditioners(self, model: RetakeWanTransformer) -> None:
        """Each conditioner once, against a whole run of guided steps; the branch against a forward without it."""
        scale, profile = self.scale, self.profile
        run = self.figures["forward_seconds"] * 2 * 50
        inputs = make_inputs(scale, profile)
        for name, part, count in (
            ("edit_by_track", edit_by_track(scale), scale.tracks[0]),
            ("track2view", track2view(scale), scale.tracks[1]),
        ):
            memory.place(part, profile, "conditioner")
            pairs = make_pairs(scale, count).to(profile.device)

            def condition(part: nn.Module = part, pairs: TrackPairs = pairs) -> Any:
                return part(model.source_tokens(inputs["source_latents"]), pairs, scale.grid)

            with FlopCounterMode(display=False) as counter:
                condition()
            taken = best(scale.rounds, profile.device, condition)
            self.figures |= {
                f"{name}_tflop": counter.get_total_flops() / 1e12,
                f"{name}_seconds": taken,
                f"{name}_percent_of_50_steps": 100 * taken / run,
            }
            part.to("cpu")
        self.figures["conditioner_percent"] = self.figures["edit_by_track_percent_of_50_steps"]
        branches = TrajectoryAttention.beside(model)
        memory.place(branches, profile, "conditioner")
        plain, joined = [], []
        positions, valid = paired_trajectories(make_pairs(scale, scale.tracks[2]))
        for _ in range(scale.rounds):
            plain.append(seconds(profile.device, lambda: model(**inputs)))
            branches.attach(model)
            branches.follow(positions, valid)
            joined.append(seconds(profile.device, lambda: model(**inputs)))
            branches.detach()
        self.figures["trajectory_branch_percent_of_a_forward"] = 100 * (min(joined) / min(plain) - 1)

    def _end_to_end(self, model: RetakeWanTransformer) -> None:
        """A take without reading and writing: encode, condition, denoise, decode; by quality."""
        scale, profile = self.scale, self.profile
        codec = VideoCodec(build_vae(scale), profile)
        conditioner = edit_by_track(scale)
        memory.place(conditioner, profile, "conditioner")
        pairs = make_pairs(scale, scale.tracks[0]).to(profile.device)
        frames = np.random.default_rng(0).integers(0, 255, (*scale.video, 3), np.uint8)
        qualities = (("best", scale.steps, 5.0), ("standard", scale.steps, 5.0), ("fast", scale.few_steps, 1.0))
        for quality, steps, guidance in qualities * scale.repeats:
            notes = speed.prepare(model, profile, quality, steps)
            clock = Clock(profile.device)
            latents = codec.encode(frames).to(profile.device)
            clock.lap("encode")
            tokens = conditioner(model.source_tokens(latents), pairs, scale.grid)
            clock.lap("condition")
            denoised = sampling.sample(
                model,
                make_schedule(steps),
                torch.randn(1, 16, *scale.latent, generator=torch.Generator().manual_seed(0)).to(profile.device),
                guidance=guidance,
                prompt=torch.randn(1, scale.text_tokens, scale.wan["text_dim"]),
                negative_prompt=torch.zeros(1, scale.text_tokens, scale.wan["text_dim"]),
                condition={"source_latents": latents, "track_tokens": tokens},
                dtype=profile.dtype,
            )
            clock.lap("denoise")
            codec.decode(denoised)
            clock.lap("decode")
            speed.undo(model)
            if not denoised.isfinite().all():
                raise AssertionError("the run that was measured came to no finite picture")
            phases = {f"{quality} {phase}": taken for phase, taken in clock.laps.items()}
            before = self.figures.get(f"{quality}_phases", phases)
            phases = {phase: min(taken, before[phase]) for phase, taken in phases.items()}
            self.figures |= {
                f"{quality}_phases": phases,
                f"{quality}_seconds": sum(phases.values()),
                f"{quality}_made_faster_by": "; ".join(notes) or "nothing",
            }
        denoise = {q: self.figures[f"{q}_phases"][f"{q} denoise"] for q in ("best", "standard")}
        self.figures["standard_speedup"] = denoise["best"] / denoise["standard"]

    def _profile(self, profile: Profile) -> None:
        """Time and, on a GPU, the most memory of each phase with one profile, from nothing loaded."""
        scale, device = self.scale, profile.device
        memory.release()
        peaks: dict[str, float] = {}
        taken: dict[str, float] = {}

        @contextmanager
        def phase(name: str) -> Iterator[None]:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            began = time.perf_counter()
            yield
            speed.synchronize(device)
            taken[f"{profile.name} GB {name} seconds"] = time.perf_counter() - began
            if device.type == "cuda":
                peaks[f"{profile.name} GB {name} peak GB"] = torch.cuda.max_memory_allocated(device) / memory.GB

        encoder = build_text_encoder(scale)
        with phase("text"):
            memory.place(encoder, profile, "text")
            encoder(torch.zeros(1, scale.text_tokens, dtype=torch.long, device=profile.text_device))
        if not profile.keep:
            del encoder
        memory.release()
        model = build_wan(scale, torch.device("cpu") if profile.offload else device)
        memory.place(model, profile, "denoiser")
        memory.release()
        codec = VideoCodec(build_vae(scale), profile)
        frames = np.zeros((*scale.video, 3), np.uint8)
        with phase("encode"):
            latents = codec.encode(frames).to(device)
        conditioner = edit_by_track(scale)
        with phase("condition"):
            memory.place(conditioner, profile, "conditioner")
            source = model.source_tokens(latents).to(device)
            tokens = conditioner(source, make_pairs(scale, scale.tracks[0]).to(device), scale.grid)
            memory.put_aside(conditioner, profile)
        inputs = make_inputs(scale, profile) | {"source_latents": latents, "track_tokens": tokens}
        with phase("first forward"):
            model(**inputs)
        with phase("forward"):
            model(**inputs)
        with phase("decode"):
            codec.decode(latents)
        weights = sum(parameter.nbytes for parameter in model.parameters())
        self.figures[f"memory_{profile.name}"] = {
            **({f"{profile.name} GB peak GB": max(peaks.values())} if peaks else {}),
            **peaks,
            **taken,
            f"{profile.name} GB weights MB": weights / 1e6,
        }


# ----------------------------------------------------------------------------------------------------------- pieces


def build_wan(scale: Scale, device: torch.device) -> RetakeWanTransformer:
    """Random weights in bfloat16, made on the device: there is no file to read."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return RetakeWanTransformer(**scale.wan).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def build_vae(scale: Scale) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(**scale.vae).eval().requires_grad_(False)


def build_text_encoder(scale: Scale) -> UMT5EncoderModel:
    """In the CPU's memory, its weights whatever lay there: filling 11 GB with noise would take a minute."""
    with torch.device("meta"):
        encoder = UMT5EncoderModel(UMT5Config(**scale.text)).to(torch.bfloat16)
    return encoder.to_empty(device="cpu").eval().requires_grad_(False)


def edit_by_track(scale: Scale) -> nn.Module:
    torch.manual_seed(0)
    return EditByTrackConditioner(token_dim=scale.token_dim, width=scale.width, heads=8 if scale is REAL else 4).eval()


def track2view(scale: Scale) -> nn.Module:
    torch.manual_seed(0)
    return Track2ViewConditioner(token_dim=scale.token_dim, width=scale.width, heads=8 if scale is REAL else 4).eval()


def make_pairs(scale: Scale, count: int) -> TrackPairs:
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.rand(1, scale.latent[0], count, 3, generator=generator) for _ in range(2))
    there = torch.ones(source.shape[:3], dtype=torch.bool)
    return TrackPairs(source, target, there, there, there)


def make_inputs(scale: Scale, profile: Profile) -> dict[str, Any]:
    """Arguments of one forward: target, time, text, source and track tokens."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(profile.device, profile.dtype)

    cells = scale.latent[0] * scale.grid[0] * scale.grid[1]
    return {
        "hidden_states": noise(1, 16, *scale.latent),
        "timestep": torch.tensor([700.0], device=profile.device),
        "encoder_hidden_states": noise(1, scale.text_tokens, scale.wan["text_dim"]),
        "source_latents": noise(1, 16, *scale.latent),
        "track_tokens": (noise(1, cells, scale.token_dim), noise(1, cells, scale.token_dim)),
    }


def make_schedule(steps: int) -> UniPCMultistepScheduler:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(steps)
    return scheduler


def count_flops(scale: Scale) -> dict[str, float]:
    """Floating-point operations of one forward, counted over the shapes of its own operators; nothing is computed."""
    meta = memory.gpu_profile("24", torch.device("meta"), torch.bfloat16, "")
    model = build_wan(scale, meta.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**make_inputs(scale, meta))
    flops = {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for name, count in flops.items() if "bmm" in name or "attention" in name)
    return {"all": float(sum(flops.values())), "attention": float(attention)}


def bare_shapes(model: nn.Module, inputs: dict[str, Any]) -> Counter[tuple[Any, ...]]:
    """The linear layers and attentions of one forward: ("linear", rows, in, out) and ("attention", heads, q, k, d)."""
    found: Counter[tuple[Any, ...]] = Counter()

    def linear(module: nn.Linear, args: tuple[Tensor, ...]) -> None:
        found["linear", args[0].numel() // args[0].shape[-1], module.in_features, module.out_features] += 1

    def attention(module: WanAttention, args: tuple[Tensor, ...]) -> None:
        keys = args[1] if args[1] is not None else args[0]
        width = module.to_q.out_features // module.heads
        found["attention", module.heads, args[0].shape[1], keys.shape[1], width] += 1

    hooks = [m.register_forward_pre_hook(linear) for m in model.modules() if isinstance(m, nn.Linear)]
    hooks += [m.register_forward_pre_hook(attention) for m in model.modules() if isinstance(m, WanAttention)]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return found


def bare_seconds(shapes: Counter[tuple[Any, ...]], profile: Profile) -> float:
    """The same products and attentions on tensors of their own, with nothing around them."""
    total = 0.0
    for (kind, *sizes), count in shapes.items():
        if kind == "linear":
            rows, inner, outer = sizes
            made = [(rows, inner), (outer, inner), (outer,)]
            operation: Callable[..., Tensor] = F.linear
        else:
            heads, queries, keys, width = sizes
            made = [(1, heads, queries, width), (1, heads, keys, width), (1, heads, keys, width)]
            operation = F.scaled_dot_product_attention
        tensors = [torch.randn(shape, device=profile.device).to(profile.dtype) for shape in made]
        total += count * best(3, profile.device, lambda: operation(*tensors))  # noqa: B023 (called at once)
    return total


def matrix_product_rate(profile: Profile, size: int) -> float:
    """TFLOP/s of one large matrix product on this device."""
    a, b = (torch.randn(size, size, device=profile.device).to(profile.dtype) for _ in range(2))
    return 2 * size**3 / best(10, profile.device, lambda: a @ b) / 1e12


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    speed.synchronize(device)
    began = time.perf_counter()
    work()
    speed.synchronize(device)
    return time.perf_counter() - began


def best(rounds: int, device: torch.device, work: Callable[[], object]) -> float:
    work()
    return min(seconds(device, work) for _ in range(rounds))


class Clock:
    """Seconds of one phase after the other."""

    def __init__(self, device: torch.device) -> None:
        self.laps: dict[str, float] = {}
        self._device, self._began = device, time.perf_counter()

    def lap(self, phase: str) -> None:
        speed.synchronize(self._device)
        now = time.perf_counter()
        self.laps[phase], self._began = now - self._began, now


# ----------------------------------------------------------------------------------------------------------- report


def markdown(figures: dict[str, Any]) -> str:
    """The table as the README may quote it."""
    lines = [
        f"# {figures['diffusion_model']}",
        "",
        f"{figures['diffusion_device']}; {figures['date']}; torch {figures['torch']}. Random weights. Measured by "
        "`build.py bench --gpu`.",
        "",
        "| figure | value |",
        "|---|---|",
    ]
    for name, value in figures.items():
        for row, number in value.items() if isinstance(value, dict) else [(name, value)]:
            shown = f"{number:.4g}" if isinstance(number, float) else str(number)
            lines.append(f"| {row.replace('_', ' ')} | {shown} |")
    return "\n".join(lines) + "\n"
