"""The small models in training: the draft transformer, its convolutional yardstick, and the paper's own form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from retake_shared.errors import BadFile
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..conditioning.attention import dot_product_attention
from ..conditioning.coordinates import TrackPairs
from ..conditioning.edit_by_track import EditByTrackConditioner
from ..models import parts
from ..models.draft import DraftTransformer, rotated
from ..models.draft_layers import flat, unflat
from ..models.draft_weights import DraftModel, load_draft, save_draft
from ..models.refiner import Refiner
from ..models.wan import RetakeWanTransformer
from .batches import Batch
from .draft_loss import LossSettings, correction_loss


@dataclass(frozen=True)
class DraftSettings:
    """How the draft transformer or the refiner is trained.

    model: arguments of the model's class that differ from its defaults. start: a folder of weights to go on from,
    which then decides all of `model`; None = fresh ones. at_noise: share of the examples at timestep 1, which is all
    that one step ever sees; the others are spread evenly below. steps: of a sample. (The last two concern the
    transformer alone.) tracks: False hides them and the reprojection, which is made of them: the model then corrects the
    source, for comparison. about: Markdown for the model card of what is saved.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    start: Path | None = None
    loss: LossSettings = field(default_factory=LossSettings)
    at_noise: float = 0.5
    steps: int = 1
    tracks: bool = True
    about: str = ""


class _OnReprojection:
    """What the two models that correct a reprojection share."""

    kind: type[DraftModel]

    def __init__(self, settings: DraftSettings | None = None) -> None:
        self.settings = settings or DraftSettings()
        if self.settings.start is None:
            self.module: DraftModel = self.kind(**self.settings.model)
        else:
            self.module = load_draft(self.settings.start)
        if not isinstance(self.module, self.kind):
            what = f"is of the kind {type(self.module).__name__} and no {self.kind.__name__}."
            raise BadFile(what, str(self.settings.start), "Begin from another folder: --from, or `start` of the model.")
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        self.module.train()

    def sample(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """(B, 3, F, H, W) float32 in [-1, 1]."""
        filled, holes = self._corrected(batch)
        return self.module.repaint(batch.source, filled, holes, self._tracks(batch), generator, self.settings.steps)

    def save(self, folder: Path) -> None:
        """The weights as the engine `draft` reads them."""
        save_draft(folder, self.module, self.settings.about)

    def _corrected(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the model corrects, and its holes."""
        if not self.settings.tracks:
            return batch.source, torch.zeros_like(batch.source[:, :1])
        if batch.moved is None or batch.holes is None:
            raise ValueError("the batch has no reprojections: the draft model is trained on examples that have them")
        return batch.moved, batch.holes

    def _tracks(self, batch: Batch) -> TrackPairs:
        return batch.tracks if self.settings.tracks else batch.tracks.select(torch.tensor([], dtype=torch.long))


class DraftTrainee(_OnReprojection):
    """`DraftTransformer` by rectified flow on the residual, the clean residual being what is predicted.

    The losses of examples near timestep 0 show the truth: whether anything was learnt only samples tell.
    """

    kind = DraftTransformer
    module: DraftTransformer

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The mean loss of a batch that has reprojections. Raises ValueError for one that has none."""
        filled, holes = self._corrected(batch)
        t = _timesteps(len(batch), self.settings.at_noise, generator).to(filled.device)
        noisy = self.module.add_noise(batch.target - filled, t, generator)
        read = self.module.read_source(batch.source, self._tracks(batch))
        made = filled + self.module(noisy, t, filled, holes, read)
        return correction_loss(made, filled, batch.target, holes, self.settings.loss)


class RefinerTrainee(_OnReprojection):
    """`Refiner`, by the same loss without noise."""

    kind = Refiner
    module: Refiner

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The mean loss of a batch that has reprojections. Raises ValueError for one that has none."""
        filled, holes = self._corrected(batch)
        made = filled + self.module(batch.source, filled, holes)
        return correction_loss(made, filled, batch.target, holes, self.settings.loss)


# --- the paper's own form ---


@dataclass(frozen=True)
class PaperSettings:
    """Edit-by-Track in small: no reprojection, the whole model trained, pixels in place of latents.

    transformer, conditioner: arguments of `RetakeWanTransformer` and `EditByTrackConditioner` that differ from the
    defaults here. tracks: False leaves the conditioner out. token: px to a side of what a token holds, even; small ones
    make small pictures learnt faster. at_noise: as in `DraftSettings`. steps: of a sample.
    """

    transformer: Mapping[str, Any] = field(default_factory=dict)
    conditioner: Mapping[str, Any] = field(default_factory=dict)
    tracks: bool = True
    token: int = 8
    at_noise: float = 0.25
    steps: int = 8

    def __post_init__(self) -> None:
        if self.token < 2 or self.token % 2:
            raise ValueError(f'"token" is {self.token}, it must be even')


_TEXT = 16
_SMALL_WAN = {
    "num_attention_heads": 4,
    "attention_head_dim": 48,
    "text_dim": _TEXT,
    "freq_dim": 128,
    "ffn_dim": 768,
    "num_layers": 6,
    "rope_positions": "shared",
}
_SMALL_CONDITIONER = {"width": 128, "heads": 4, "temporal_layers": 1}


class PlainAttention:
    """Wan's attention by `dot_product_attention`: on a CPU, videos of a few hundred tokens train faster by it."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """As diffusers calls it: hidden_states (B, S, d); rotary_emb (1, S, 1, head) each, for self-attention."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(context)), attn.to_v(context)
        q, k, v = (each.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for each in (q, k, v))
        if rotary_emb is not None:
            angles = (rotary_emb[0][0, :, 0], rotary_emb[1][0, :, 0])
            q, k = rotated(q, angles), rotated(k, angles)
        mixed: Tensor = dot_product_attention(q.to(v.dtype), k.to(v.dtype), v).transpose(1, 2).flatten(-2)
        out: Tensor = attn.to_out[0](mixed)
        return out


class PaperModel(nn.Module):
    """The transformer and its conditioner (None: without tracks)."""

    def __init__(self, settings: PaperSettings) -> None:
        super().__init__()
        self.fold = settings.token // 2  # Wan's patches of 2 x 2 latents make the token
        channels = {"in_channels": 3 * self.fold**2, "out_channels": 3 * self.fold**2}
        self.transformer = RetakeWanTransformer(**{**_SMALL_WAN, **channels, **settings.transformer})
        self.transformer.set_attn_processor(PlainAttention())
        width = self.transformer.config.num_attention_heads * self.transformer.config.attention_head_dim
        self.conditioner = (
            EditByTrackConditioner(width, **{**_SMALL_CONDITIONER, **settings.conditioner}) if settings.tracks else None
        )

    def forward(self, noisy: Tensor, timestep: Tensor, batch: Batch) -> Tensor:
        """The clean target's latents of noisy ones, see `to_latents`, at timestep (B,) in [0, 1]."""
        source = to_latents(batch.source, self.fold)
        tokens = None
        if self.conditioner is not None:
            grid = (source.shape[3] // 2, source.shape[4] // 2)
            tokens = self.conditioner(self.transformer.source_tokens(source), batch.tracks, grid)
        text = noisy.new_zeros(len(noisy), 1, _TEXT)
        (clean,) = self.transformer(
            noisy, 1000 * timestep, text, return_dict=False, source_latents=source, track_tokens=tokens
        )
        return clean.float()  # type: ignore[no-any-return]


class PaperTrainee:
    """Flow matching on the target half, the clean video being what is predicted.

    Velocities of pixels are mostly noise, which a width of 192 cannot carry; the picture it can.
    """

    def __init__(self, settings: PaperSettings | None = None) -> None:
        self.settings = settings or PaperSettings()
        self.module = PaperModel(self.settings).train()

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The mean squared error of the clean video."""
        clean = to_latents(batch.target, self.module.fold)
        t = _timesteps(len(batch), self.settings.at_noise, generator).to(clean.device)
        share = t.view(-1, 1, 1, 1, 1)
        noisy = (1 - share) * clean + share * _noise(clean, generator)
        loss = (self.module(noisy, t, batch) - clean).square().mean()
        return loss, {"mse": float(loss.detach())}

    @torch.no_grad()
    def sample(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """(B, 3, F, H, W) float32 in [-1, 1], in even steps from noise."""
        current, t, steps = _noise(to_latents(batch.target, self.module.fold), generator), 1.0, self.settings.steps
        for step in range(steps):
            clean = self.module(current, torch.full((len(batch),), t, device=current.device), batch)
            following = 1 - (step + 1) / steps
            current, t = clean + following / t * (current - clean), following
        return to_video(current, self.module.fold).clamp(-1, 1)

    def save(self, folder: Path) -> None:
        """The transformer in diffusers' layout under transformer/, the conditioner as a part that belongs to it."""
        self.module.transformer.save_pretrained(folder / "transformer", safe_serialization=True)
        if self.module.conditioner is not None:
            parts.save_parts(
                folder,
                self.module.transformer,
                base="Edit-by-Track in small",
                licence="Apache-2.0",
                conditioner=self.module.conditioner,
            )


def to_latents(video: Tensor, fold: int) -> Tensor:
    """(B, 3, F, H, W) -> (B, 3 fold^2, F, H / fold, W / fold): every latent pixel holds fold x fold px."""
    return unflat(pixel_unshuffle(flat(video.float()), fold), video.shape[2])


def to_video(latents: Tensor, fold: int) -> Tensor:
    """The other way round."""
    return unflat(pixel_shuffle(flat(latents), fold), latents.shape[2])


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)


def _timesteps(count: int, at_noise: float, generator: torch.Generator) -> Tensor:
    """(count,) timesteps, a share `at_noise` of them 1, the others even in [0, 1]."""
    drawn = torch.rand(2, count, generator=generator, device=generator.device)
    return torch.where(drawn[0] < at_noise, 1.0, drawn[1])
