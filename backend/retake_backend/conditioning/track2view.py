"""The dual-view track conditioner of "Track2View: 4D-Consistent Camera-Controlled Video Generation" (section 3.2).

Sampling and scattering are bilinear and have no parameters; learned are a refinement of what was sampled (eq. 1), the
aggregation over time (eq. 2) and the encodings of position and disparity (eq. 3).
"""

from __future__ import annotations

from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn.functional import gelu

from .attention import TemporalTransformer, by_frame, over_frames
from .coordinates import TrackPairs
from .fourier import FourierLinear


def bilinear_weights(xy: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weight of every cell of grid (h, w) at screen coordinates xy (..., N, 2): (..., N, h * w) float32, rows sum to 1.

    Cell centres lie at (column + 0.5) / w, (row + 0.5) / h. Between the outermost centres and the picture's border the
    outermost cells hold. A dense product of two hats: unlike atomic scatters it repeats exactly on a GPU.
    """
    hats = []
    for axis, size in ((1, grid[0]), (0, grid[1])):
        place = (xy[..., axis].float() * size - 0.5).clamp(0, size - 1)
        hats.append((1 - (place[..., None] - torch.arange(size, device=xy.device)).abs()).clamp(min=0))
    rows, columns = hats
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


def inside(xyz: Tensor) -> Tensor:
    """Which coordinates (..., N, 3) lie on the picture: (..., N) bool."""
    return ((xyz[..., :2] >= 0) & (xyz[..., :2] < 1)).all(-1)


class Track2ViewConditioner(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Source video tokens and paired tracks -> track tokens of both views.

    token_dim: the video model's token width d. width: of everything inside; where it equals token_dim the tokens are
    sampled as they are, as in the paper, else through a projection. layers: of the encoder over time (paper: 8).
    heads, frequencies, mlp_ratio: chosen by this project. average: how a cell averages the tracks that reach it,
    "weights" for the mean by bilinear weight, "count" for the sum over their number (a lone track then fades with
    its weight); the paper says only "averaged". tokens_per_pass: how many tokens are worked on at a time; memory only.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        token_dim: int = 1536,
        width: int = 512,
        heads: int = 8,
        layers: int = 8,
        frequencies: int = 8,
        mlp_ratio: float = 4.0,
        average: Literal["weights", "count"] = "weights",
        tokens_per_pass: int = 65_536,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if average not in ("weights", "count"):
            raise ValueError(f'average is "{average}"; expected "weights" or "count"')
        if width % (2 * heads):
            raise ValueError(f"width {width} is not a multiple of twice the {heads} heads")
        self.average, self.tokens_per_pass = average, tokens_per_pass
        self.to_values = nn.Identity() if width == token_dim else nn.Linear(token_dim, width, bias=False)
        self.position = FourierLinear(2, frequencies, width)
        self.refine_norm = nn.LayerNorm(width)
        self.refine_in = nn.Linear(width, int(width * mlp_ratio))
        self.refine_out = nn.Linear(int(width * mlp_ratio), width)
        self.temporal = TemporalTransformer(width, heads, layers, mlp_ratio)
        self.disparity = FourierLinear(1, frequencies, width)
        self.out = nn.Linear(width, token_dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, source_tokens: Tensor, tracks: TrackPairs, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """source_tokens (B, f * h * w, token_dim), tracks of f latent frames, grid (h, w).

        Returns tau_src and tau_tgt, each (B, f * h * w, token_dim) in the tokens' dtype, to be added to the source and
        target video tokens. Zero before training; zero in cells that no track reaches.
        """
        budget = self.tokens_per_pass
        tokens = by_frame(source_tokens, tracks.source.shape[1], grid).to(self.out.weight.dtype)
        valid_source = tracks.source_present & inside(tracks.source)
        valid_target = tracks.target_present & inside(tracks.target)

        def sample(xyz: Tensor, valid: Tensor, values: Tensor) -> Tensor:
            return self._sample(xyz, values, grid).masked_fill(~valid[..., None], 0.0)

        def scatter(xyz: Tensor, valid: Tensor, features: Tensor) -> Tensor:
            track_tokens: Tensor = self.out(self._scatter(xyz, features, valid, grid))
            return track_tokens

        sampled = over_frames(sample, budget, tracks.source, valid_source, self.to_values(tokens))
        features = self.temporal(sampled, valid_source & tracks.source_visible, budget)
        tau_source = over_frames(scatter, budget, tracks.source, valid_source, features)
        tau_target = over_frames(scatter, budget, tracks.target, valid_target, features)
        return tau_source.flatten(1, 2).to(source_tokens.dtype), tau_target.flatten(1, 2).to(source_tokens.dtype)

    def _sample(self, xyz: Tensor, values: Tensor, grid: tuple[int, int]) -> Tensor:
        """Eq. 1: xyz (B, t, N, 3), values (B, t, h * w, width) -> (B, t, N, width)."""
        features = bilinear_weights(xyz[..., :2], grid).to(values.dtype) @ values + self.position(xyz[..., :2])
        refined: Tensor = features + self.refine_out(gelu(self.refine_in(self.refine_norm(features))))
        return refined

    def _scatter(self, xyz: Tensor, features: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
        """Eq. 3 and 4: xyz (B, t, N, 3), features (B, t, N, width), valid (B, t, N) -> (B, t, h * w, width)."""
        features = features + self.disparity(xyz[..., 2:])
        weights = bilinear_weights(xyz[..., :2], grid) * valid[..., None]
        share = weights if self.average == "weights" else (weights > 0).float()
        weights = weights / share.sum(-2, keepdim=True).clamp(min=1e-6)
        return weights.transpose(-1, -2).to(features.dtype) @ features
