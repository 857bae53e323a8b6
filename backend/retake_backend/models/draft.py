"""The draft model: a small Wan-shaped rectified-flow transformer that corrects what geometry alone gets wrong.

It is the flow of the large engines in little: source and target video lie on one frame axis, the 3D track encoder of
Edit-by-Track adds to both, noise and loss are on the target alone. What differs is that it has to run on a CPU:

- there is no VAE: a latent frame is a video frame, a token a cell of 8 x 8 px, and a few convolutions at 1/2, 1/4 and
  1/8 size carry the picture past the token grid, so that no cells show; what is near at hand they learn much sooner
  than attention does;
- the target's input also holds the footage moved by geometry (`preview`'s reprojection), its holes filled smoothly, and
  the source at the same moment; what is denoised is the residual to the reprojection, so that before training the
  model's picture is just that;
- the blocks, Wan's without text, attend within a frame (source and target together) and along time in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from ..conditioning.attention import dot_product_attention
from ..conditioning.coordinates import TrackPairs
from ..conditioning.edit_by_track import EditByTrackConditioner
from .draft_layers import STRIDE, ConvBlock, Head, Upsample, check_size, flat

Rotation = tuple[Tensor, Tensor]
_MAX_POSITIONS = 1024


@dataclass(frozen=True)
class Source:
    """What of a video does not change from step to step.

    picture: (B, 3, F, H, W) the source itself. tokens: (B, F, h * w, d) of it, its track tokens added. tracks:
    (B, F, h * w, d), track tokens of the target.
    """

    picture: Tensor
    tokens: Tensor
    tracks: Tensor


class DraftAttention(nn.Module):
    """Wan's self-attention: queries and keys normalised across heads, then rotated by their positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.norm_q = nn.LayerNorm(width, 1e-6, bias=False)
        self.norm_k = nn.LayerNorm(width, 1e-6, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: Rotation) -> Tensor:
        """tokens (N, S, d), each of the N sequences by itself."""
        q, k, v = self.to_qkv(tokens).chunk(3, -1)
        q, k = rotated(self._by_head(self.norm_q(q)), rotation), rotated(self._by_head(self.norm_k(k)), rotation)
        out: Tensor = self.to_out(dot_product_attention(q, k, self._by_head(v)).transpose(1, 2).flatten(-2))
        return out

    def _by_head(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


def rotated(tokens: Tensor, rotation: Rotation) -> Tensor:
    """tokens (N, heads, S, head) turned pairwise by Wan's rotary angles, cos and sin (S, head)."""
    cos, sin = (each.to(tokens.dtype) for each in rotation)
    first, second = tokens.reshape(*tokens.shape[:-1], -1, 2).unbind(-1)
    return tokens * cos + torch.stack([-second, first], -1).flatten(-2) * sin


class DraftBlock(nn.Module):
    """Wan's transformer block without the attention to text, over the tokens of a frame or those along time.

    SiLU in place of GELU: on a CPU that alone would be an eighth of a training step.
    """

    def __init__(self, width: int, heads: int, ffn_dim: int, over: Literal["space", "time"]) -> None:
        super().__init__()
        self.over = over
        self.norm1 = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.attn1 = DraftAttention(width, heads)
        self.norm3 = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(width, ffn_dim), nn.SiLU(), nn.Linear(ffn_dim, width))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(self, tokens: Tensor, modulation: Tensor, rotation: Rotation) -> Tensor:
        """tokens (B, 2, F, h * w, d) of source and target; modulation (B, 6, d); rotation: of what is attended over."""
        table = (self.scale_shift_table + modulation.float()).to(tokens.dtype)[:, :, None, None, None]
        shift, scale, gate, c_shift, c_scale, c_gate = table.unbind(1)
        normed = self.norm1(tokens) * (1 + scale) + shift
        tokens = tokens + self._attend(normed, rotation) * gate
        normed = self.norm3(tokens) * (1 + c_scale) + c_shift
        mixed: Tensor = tokens + self.ffn(normed) * c_gate
        return mixed

    def _attend(self, tokens: Tensor, rotation: Rotation) -> Tensor:
        batch, videos, frames, cells, width = tokens.shape
        if self.over == "space":
            rows = tokens.transpose(1, 2).reshape(batch * frames, videos * cells, width)
            mixed: Tensor = self.attn1(rows, rotation)
            return mixed.view(batch, frames, videos, cells, width).transpose(1, 2)
        rows = tokens.permute(0, 3, 1, 2, 4).reshape(batch * cells, videos * frames, width)
        mixed = self.attn1(rows, rotation)
        return mixed.view(batch, cells, videos, frames, width).permute(0, 2, 3, 1, 4)


class DraftTransformer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Source, filled reprojection, holes and tracks -> the target video, in 1 to a few steps.

    width, heads, layers, ffn_dim: of the blocks, every second of which attends along time. fine, coarse: channels of
    the convolutions at 1/2 and 1/4 of the picture's size. track_width, track_heads, track_layers: of the track encoder.
    noise: standard deviation of the flow's noise, in the picture's range of 2; as residuals are small, so is it.
    longer_side: px, of the pictures that it works on best. All is chosen by this project.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        width: int = 192,
        heads: int = 4,
        layers: int = 2,
        ffn_dim: int = 384,
        fine: int = 48,
        coarse: int = 96,
        track_width: int = 96,
        track_heads: int = 4,
        track_layers: int = 1,
        noise: float = 0.1,
        longer_side: int = 80,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if width % heads or width // heads % 6:
            raise ValueError(f"width {width} over {heads} heads: a head's width must be a multiple of 6")
        self.noise = noise
        self.source_embedding = nn.Conv2d(3, width, STRIDE, STRIDE)
        self.conditioner = EditByTrackConditioner(width, track_width, track_heads, temporal_layers=track_layers)
        self.view_embedding = nn.Parameter(torch.randn(2, width) / width**0.5)  # tells source from target

        self.first = nn.Conv2d(10 * 4, fine, 3, padding=1)
        self.fine_in = ConvBlock(fine, fine)
        self.to_coarse = nn.Conv2d(fine, coarse, 3, 2, 1)
        self.coarse_in = ConvBlock(coarse, coarse)
        self.patch_embedding = nn.Conv2d(coarse, width, 2, 2)
        self.deep_in = ConvBlock(width, width)

        self.timesteps = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(256, width)
        self.time_projection = nn.Linear(width, 6 * width)
        self.rope = WanRotaryPosEmbed(width // heads, (1, 1, 1), _MAX_POSITIONS)
        self.blocks = nn.ModuleList(
            DraftBlock(width, heads, ffn_dim, "time" if layer % 2 else "space") for layer in range(layers)
        )

        self.deep_out = ConvBlock(width, width)
        self.from_tokens = Upsample(width, coarse)
        self.coarse_out = ConvBlock(2 * coarse, coarse)
        self.from_coarse = Upsample(coarse, fine)
        self.fine_out = ConvBlock(2 * fine, fine)
        self.head = Head(fine)

    def read_source(self, source: Tensor, tracks: TrackPairs) -> Source:
        """Once a video: source (B, 3, F, H, W) in [-1, 1], one entry of the tracks a video frame."""
        check_size(source)
        frames, grid = source.shape[2], (source.shape[3] // STRIDE, source.shape[4] // STRIDE)
        embedded = self.source_embedding(flat(source.to(self.dtype)))
        tokens = _by_frame(embedded, frames)
        tau_source, tau_target = self.conditioner(tokens.flatten(1, 2), tracks, grid)
        return Source(source, tokens + tau_source.view_as(tokens), tau_target.view_as(tokens))

    def forward(self, noisy: Tensor, timestep: Tensor, filled: Tensor, holes: Tensor, source: Source) -> Tensor:
        """The clean residual target - filled, (B, 3, F, H, W) float32, of a noisy one.

        noisy: as `add_noise` makes it. timestep: (B,), 1 = noise alone, 0 = clean. filled (B, 3, F, H, W) in [-1, 1]:
        the reprojection, its holes (B, 1, F, H, W) in {0, 1} filled smoothly. source: of `read_source`.
        """
        frames = filled.shape[2]
        fine, coarse, tokens = self._down(torch.cat([noisy, filled, holes, source.picture.to(noisy)], 1))
        grid = (tokens.shape[2], tokens.shape[3])
        tokens = _by_frame(tokens, frames) + source.tracks
        both = torch.stack([source.tokens.expand_as(tokens), tokens], 1)
        both = both + self.view_embedding[:, None, None].to(both.dtype)
        embedded = self.time_embedder(self.timesteps(1000 * timestep).to(self.dtype))
        modulation = self.time_projection(nn.functional.silu(embedded)).view(len(embedded), 6, -1)
        within, along = self._rotations(frames, grid)
        for block in self.blocks:
            both = block(both, modulation, along if block.over == "time" else within)
        tokens = both[:, 1].flatten(0, 1).transpose(1, 2)
        tokens = tokens.reshape(*tokens.shape[:2], *grid)
        residual: Tensor = self.head(self._up(tokens, fine, coarse, frames), frames)
        return residual

    def add_noise(self, residual: Tensor, timestep: Tensor, generator: torch.Generator) -> Tensor:
        """The residual (B, 3, F, H, W) on its straight way to noise, at timestep (B,)."""
        drawn = torch.randn(residual.shape, generator=generator, device=generator.device).to(residual)
        t = timestep.view(-1, 1, 1, 1, 1).to(residual)
        return (1 - t) * residual + t * self.noise * drawn

    @torch.no_grad()
    def repaint(
        self,
        source: Tensor,
        filled: Tensor,
        holes: Tensor,
        tracks: TrackPairs,
        generator: torch.Generator,
        steps: int = 1,
    ) -> Tensor:
        """The target (B, 3, F, H, W) float32 in [-1, 1], in `steps` even steps from noise.

        filled, holes: the reprojection, as in `forward`.
        """
        read = self.read_source(source, tracks)
        dtype = read.tokens.dtype
        filled, holes = filled.float(), holes.float()
        noise = torch.randn(filled.shape, generator=generator, device=generator.device).to(filled) * self.noise
        residual, t = noise, 1.0
        for step in range(steps):
            timestep = torch.full((len(filled),), t, device=filled.device)
            clean = self(residual.to(dtype), timestep, filled.to(dtype), holes.to(dtype), read)
            following = 1 - (step + 1) / steps
            residual, t = clean + following / t * (residual - clean), following
        return (filled + residual).clamp(-1, 1)

    def _down(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 10, F, H, W) -> features at 1/2 and 1/4 of the size, and the target's tokens (B * F, d, h, w)."""
        frames = target.shape[2]
        fine = self.fine_in(self.first(pixel_unshuffle(flat(target), 2)), frames)
        coarse = self.coarse_in(self.to_coarse(fine), frames)
        return fine, coarse, self.deep_in(self.patch_embedding(coarse), frames)

    def _up(self, tokens: Tensor, fine: Tensor, coarse: Tensor, frames: int) -> Tensor:
        """Tokens (B * F, d, h, w) and the features beside them -> features at 1/2 of the size."""
        tokens = self.deep_out(tokens, frames)
        coarse = self.coarse_out(torch.cat([self.from_tokens(tokens), coarse], 1), frames)
        features: Tensor = self.fine_out(torch.cat([self.from_coarse(coarse), fine], 1), frames)
        return features

    def _rotations(self, frames: int, grid: tuple[int, int]) -> tuple[Rotation, Rotation]:
        """Wan's rotary positions within a frame and along time; source and target stand at the same ones."""
        cells = self.view_embedding.new_empty(1, 1, 1, *grid)
        within, along = self.rope(cells), self.rope(self.view_embedding.new_empty(1, 1, frames, 1, 1))
        return _twice(within), _twice(along)


def _by_frame(cells: Tensor, frames: int) -> Tensor:
    """(B * F, d, h, w) -> (B, F, h * w, d)."""
    tokens = cells.flatten(2).transpose(1, 2)
    return tokens.reshape(-1, frames, *tokens.shape[1:])


def _twice(rotation: Rotation) -> Rotation:
    """(1, S, 1, head) of one video -> (2 S, head) for both at the same positions."""
    cos, sin = (each[0, :, 0].float().repeat(2, 1) for each in rotation)
    return cos, sin
