"""Wan in training: a conditioner and a LoRA (Edit-by-Track, Track2View), or branches alone, on a frozen base.

Flow matching on the target half: the source's latents stay clean before the noisy target's, one timestep for both, loss
on the target alone. What is saved are the parts that the engines of the same names load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray
from torch import Tensor, nn

from ..conditioning.coordinates import TEMPORAL_STRIDE, TrackPairs
from ..conditioning.edit_by_track import EditByTrackConditioner
from ..conditioning.track2view import Track2ViewConditioner
from ..conditioning.trajectories import Sampling
from ..conditioning.trajectory_attention import TrajectoryAttention, paired_trajectories
from ..engines.base import Progress, Report
from ..engines.diffusion import sampling
from ..engines.diffusion.sampling import Schedule
from ..models import memory, parts
from ..models.codec import VideoCodec
from ..models.text import TEXT_TOKENS, encode_prompts
from ..models.wan import LoraSettings, RopePositions, add_lora
from ..weights.catalogue import CATALOGUE
from ..weights.store import MANIFEST, WeightStore, read_manifest
from .batches import Batch
from .flow import Levels, noisy, velocity_loss
from .latents import KeptLatents
from .look import frames

GREY = 128
"""Of every pixel of a source frame that augmentation took away."""
_CAPTIONS_AT_ONCE = 256
"""4 MB each while they are encoded, of which 8 kB a word are kept; a round of them loads the text encoder once."""


@dataclass(frozen=True)
class Samples:
    """How samples are made on the way. steps: of the Euler scheduler, without guidance."""

    steps: int = 20


@dataclass(frozen=True, kw_only=True)
class WanSettings:
    """What is common to all that trains on Wan.

    base: a model of the catalogue, or a folder in diffusers' layout. parts: a folder of parts to go on from, whose
    settings then count for the conditioner, the LoRA and rope_positions; None = fresh ones. licence: of what is
    trained. rope_positions: see `RetakeWanTransformer`. weights: of the frozen base, in memory.
    checkpointing: run blocks again going back rather than keep them. prompts: False trains without text, as nobody
    captioned the data. latents: a folder in which the VAE's work is kept (`latents`); None = encode every time. levels:
    how noise is drawn.
    """

    base: str = "wan2.1-t2v-1.3b"
    parts: Path | None = None
    licence: str
    rope_positions: RopePositions = "sequential"
    weights: Literal["bf16", "fp32"] = "bf16"
    checkpointing: bool = True
    prompts: bool = True
    latents: Path | None = None
    levels: Levels = field(default_factory=Levels)
    samples: Samples = field(default_factory=Samples)


@dataclass(frozen=True)
class EditByTrack:
    """`EditByTrackConditioner`'s arguments of the same names."""

    width: int = 512
    heads: int = 8
    frequencies: int = 8
    temporal_layers: int = 2
    mlp_ratio: float = 2.0
    splat: Literal["attention", "gaussian"] = "attention"
    dims: Literal[2, 3] = 3
    depth_injection: bool = True
    kernel_start: bool = True
    kernel_width: float = 1 / 48
    gaussian_width: float = 0.5


@dataclass(frozen=True)
class Track2View:
    """`Track2ViewConditioner`'s arguments of the same names."""

    width: int = 512
    heads: int = 8
    layers: int = 8
    frequencies: int = 8
    mlp_ratio: float = 4.0
    average: Literal["weights", "count"] = "weights"


@dataclass(frozen=True)
class Branches:
    """`TrajectoryAttention.beside`'s arguments of the same names."""

    sampling: Sampling = "nearest"
    rotary: bool = True


@dataclass(frozen=True, kw_only=True)
class EditByTrackSettings(WanSettings):
    conditioner: EditByTrack = field(default_factory=EditByTrack)
    lora: LoraSettings = field(default_factory=LoraSettings)


@dataclass(frozen=True, kw_only=True)
class Track2ViewSettings(WanSettings):
    conditioner: Track2View = field(default_factory=Track2View)
    lora: LoraSettings = field(default_factory=LoraSettings)


@dataclass(frozen=True, kw_only=True)
class TrajectorySettings(WanSettings):
    branches: Branches = field(default_factory=Branches)


class _WanTrainee:
    """The frozen base, its VAE and text, and the loss. A subclass adds what is trained, and says how it conditions."""

    settings: WanSettings
    conditioner: ModelMixin
    lora: str | None = None

    def __init__(self, settings: WanSettings) -> None:
        self.settings = settings
        self.place, self.base = _place(settings.base)
        positions = settings.rope_positions if settings.parts is None else parts.rope_positions(settings.parts)
        dtype = torch.bfloat16 if settings.weights == "bf16" else torch.float32
        self.transformer = parts.load_base(self.place, rope_positions=positions, dtype=dtype).requires_grad_(False)
        self._add_trained()
        self.conditioner.requires_grad_(True)
        for parameter in (*self.transformer.parameters(), *self.conditioner.parameters()):
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # beside a base in bfloat16, too
        if settings.checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.module = nn.ModuleDict({"transformer": self.transformer, "conditioner": self.conditioner})
        self._codec: VideoCodec | None = None
        self._kept: KeptLatents | None = None
        self._texts: dict[str, Tensor] = {}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """Flow matching on the target half."""
        device = self.transformer.device
        source, target = self._latents(batch.source), self._latents(batch.target)
        noise = torch.randn(target.shape, generator=generator).to(device)
        sigma = self.settings.levels.draw(len(batch), generator).to(device)
        (velocity,) = self.transformer(
            hidden_states=noisy(target, noise, sigma),
            timestep=1000 * sigma,
            encoder_hidden_states=self._text(batch.captions),
            return_dict=False,
            **self._condition(source, _at_latents(batch.tracks)),
        )
        return velocity_loss(velocity, target, noise), {}

    @torch.no_grad()
    def sample(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """(B, 3, F, H, W) float32 in [-1, 1], one example after the other, as the engine makes takes."""
        sources, texts = self._latents(batch.source), self._text(batch.captions)
        tracks = _at_latents(batch.tracks)
        made = []
        for index in range(len(batch)):
            one = slice(index, index + 1)
            condition = self._condition(sources[one], TrackPairs(*(t[one] for t in vars(tracks).values())))
            noise = torch.randn(sources[one].shape, generator=generator).to(sources.device)
            schedule = Schedule(self.settings.samples.steps, 1.0, "euler", self.settings.levels.shift)
            latents = sampling.sample(
                self.transformer, sampling.make_scheduler(schedule, self.place), noise,
                guidance=1.0, prompt=texts[one], condition=condition, dtype=torch.float32,
            )  # fmt: skip
            with torch.autocast(noise.device.type, enabled=False):
                video = torch.from_numpy(self.codec.decode(latents)).permute(3, 0, 1, 2)[None]
            made.append(video.to(noise.device, torch.float32) / 127.5 - 1)
        return torch.cat(made)

    def save(self, folder: Path) -> None:
        """The parts, as the engine and `retake models import` take them."""
        parts.save_parts(
            folder, self.transformer, base=self.base, licence=self.settings.licence,
            conditioner=self.conditioner, lora=self.lora,
        )  # fmt: skip

    @property
    def codec(self) -> VideoCodec:
        """The base's VAE, on the transformer's device."""
        if self._codec is None:
            self._codec = VideoCodec.load(self.place, _profile(self.transformer.device))
        return self._codec

    def _add_trained(self) -> None:
        """Make or load `conditioner`, and the LoRA where there is one."""
        raise NotImplementedError

    def _condition(self, source: Tensor, tracks: TrackPairs) -> dict[str, Any]:
        """What the transformer is told beside noise, time and text, for latents (B, C, f, H, W) and latent frames."""
        raise NotImplementedError

    def _latents(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> clean latents (B, C, f, H/8, W/8) float32 on the transformer's device."""
        device = self.transformer.device
        with torch.autocast(device.type, enabled=False):  # the VAE has a precision of its own
            return torch.cat([self._encode(pixels) for pixels in frames(video)]).to(device)

    def _encode(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(1, C, f, H/8, W/8) of one video. One that lost frames, which will not come again so, is not kept."""
        if self.settings.latents is None or (pixels == GREY).all((1, 2, 3)).any():
            return self.codec.encode(pixels)
        self._kept = self._kept or KeptLatents(self.settings.latents, self.codec)
        return self._kept.encode(pixels)

    def read_captions(self, captions: Iterable[str], report: Report) -> None:
        """Encode captions ahead, so that the text encoder need not come back in the middle of the training."""
        new = sorted(set(captions) - self._texts.keys()) if self.settings.prompts else []
        for start in range(0, len(new), _CAPTIONS_AT_ONCE):
            some = new[start : start + _CAPTIONS_AT_ONCE]
            report(Progress("reading captions", start, len(new)))
            self._read(some)

    def _read(self, captions: Sequence[str]) -> None:
        device = self.transformer.device
        with torch.autocast(device.type, enabled=False):
            encoded = encode_prompts(self.place, captions, _profile(device), lambda progress: None)
        for caption in captions:
            tokens = encoded.of(caption)[0]
            last = int(tokens.any(1).nonzero().max())  # what fills it up is zero
            self._texts[caption] = tokens[: last + 1].clone()

    def _text(self, captions: Sequence[str]) -> Tensor:
        """(B, 512, text_dim) in the base's precision. A caption that is new is encoded once and then remembered."""
        wanted = [caption if self.settings.prompts else "" for caption in captions]
        if new := sorted(set(wanted) - self._texts.keys()):
            self._read(new)
        weight = self.transformer.patch_embedding.weight
        text = weight.new_zeros(len(wanted), TEXT_TOKENS, next(iter(self._texts.values())).shape[1])
        for row, caption in zip(text, wanted, strict=True):
            row[: len(self._texts[caption])] = self._texts[caption].to(row)
        return text


class _TrackTrainee(_WanTrainee):
    """A conditioner that makes track tokens, and a LoRA on the blocks."""

    kind: ClassVar[type[ModelMixin]]
    settings: EditByTrackSettings | Track2ViewSettings

    def _add_trained(self) -> None:
        if self.settings.parts is not None:
            found = parts.load_parts(self.settings.parts, self.transformer, [self.kind])
            if found.conditioner is not None:
                self.conditioner, self.lora = found.conditioner, found.lora
                for name, parameter in self.transformer.named_parameters():
                    parameter.requires_grad_("lora_" in name)
                return
        width = self.transformer.patch_embedding.out_channels
        self.conditioner = self.kind(token_dim=width, **asdict(self.settings.conditioner))  # type: ignore[call-arg]
        add_lora(self.transformer, self.settings.lora)
        self.lora = "retake"

    def _condition(self, source: Tensor, tracks: TrackPairs) -> dict[str, Any]:
        tokens = self.transformer.source_tokens(source)
        grid = (source.shape[3] // 2, source.shape[4] // 2)
        return {"source_latents": source, "track_tokens": self.conditioner(tokens, tracks, grid)}


class EditByTrackTrainee(_TrackTrainee):
    """The 3D track encoder and a LoRA."""

    kind = EditByTrackConditioner

    def __init__(self, settings: EditByTrackSettings) -> None:
        super().__init__(settings)


class Track2ViewTrainee(_TrackTrainee):
    """The dual-view track conditioner and a LoRA."""

    kind = Track2ViewConditioner

    def __init__(self, settings: Track2ViewSettings) -> None:
        super().__init__(settings)


class TrajectoryAttentionTrainee(_WanTrainee):
    """The branches beside Wan's full attention, and nothing else."""

    settings: TrajectorySettings
    conditioner: TrajectoryAttention

    def __init__(self, settings: TrajectorySettings) -> None:
        super().__init__(settings)

    def _add_trained(self) -> None:
        if self.settings.parts is not None:
            self.conditioner = parts.load_branches(self.settings.parts, self.transformer)
        else:
            self.conditioner = TrajectoryAttention.beside(self.transformer, **asdict(self.settings.branches))
            self.conditioner.attach(self.transformer)

    def _condition(self, source: Tensor, tracks: TrackPairs) -> dict[str, Any]:
        self.conditioner.follow(*paired_trajectories(tracks))  # they stay: checkpointing runs blocks again going back
        return {"source_latents": source}


def _at_latents(tracks: TrackPairs) -> TrackPairs:
    """Tracks of video frames (B, F, N, ...) at the frames of their latents."""
    return TrackPairs(*(tensor[:, ::TEMPORAL_STRIDE] for tensor in vars(tracks).values()))


def _place(base: str) -> tuple[Path, str]:
    """The folder of a base, and its name as people know it. Raises MissingWeights."""
    if base not in CATALOGUE:
        return Path(base), Path(base).name
    store = WeightStore()
    store.require([base])
    place = store.place(base)
    random = (place / MANIFEST).exists() and read_manifest(place, base).random
    return place, f"{base} (random)" if random else CATALOGUE[base].repository


def _profile(device: torch.device) -> memory.Profile:
    """VAE and text encoder beside a transformer in training: they come and go, but the VAE is wanted in every step."""
    return memory.choose("cpu" if device.type == "cpu" else "24")
