"""The 3D track encoder of "Generative Video Motion Editing with 3D Point Tracks" (Edit-by-Track).

    tau_sampled    = Transformer(Attn(rho_src, G, v_src))          sampling, then time within each track
    tau_{src,tgt}  = Attn(G, rho_{src,tgt}, tau_sampled + sigma_{src,tgt})   splatting, per latent frame

rho: encoding of a track's (x, y, disparity); G: the same encoding of the token cells' centres at disparity 0; sigma:
encoding of disparity alone (depth injection). No visibility labels and no distance bias: occlusion is learned.

Rows of the paper's Table 3: fixed Gaussian `splat="gaussian", depth_injection=False`; 2D `dims=2,
depth_injection=False`; 3D without depth injection `depth_injection=False`; the full method is the default.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from .attention import TemporalTransformer, attend, by_frame, over_frames
from .coordinates import TrackPairs, cell_centres
from .fourier import CoordinateEncoder, FourierLinear, angular_frequencies


class CoordinateAttention(nn.Module):
    """The q and k projections of an attention between coordinates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)


def start_as_kernel(encoder: CoordinateEncoder, attentions: list[CoordinateAttention], heads: int, std: float) -> None:
    """Set the weights so that each attention starts as one kernel of screen distance, the same in every head.

    The logits begin as A sum_k w_k (cos(omega_k dx) + cos(omega_k dy)): a softmax that is, near its peak, a Gaussian
    of `std` (fraction of the picture), with w_k = exp(-(4 std omega_k)^2 / 2), so that it keeps falling for four
    times as far. Disparity starts without influence. What is not set to the kernel is small noise, so that
    every weight can learn.
    """
    width = encoder.skip.out_features
    head_width = width // heads
    used = min(encoder.frequencies, head_width // 4)
    if used == 0:
        raise ValueError(f"a head of width {head_width} is too narrow for a coordinate kernel; at least 4 are needed")
    omega = torch.tensor(angular_frequencies(used))
    weight = torch.exp(-((4.0 * std * omega) ** 2) / 2)
    amplitude = 1.0 / (std**2 * (weight * omega**2).sum())
    # q . k / sqrt(head_width) must be the kernel: each side carries the square root.
    gain = torch.sqrt(amplitude * weight * math.sqrt(head_width))
    with torch.no_grad():
        encoder.skip.weight.zero_()
        for axis in range(2):
            for part in range(2):  # sines, cosines
                for k in range(used):
                    feature = (2 * axis + part) * encoder.frequencies + k
                    encoder.skip.weight[(2 * axis + part) * used + k, feature] = gain[k]
        nn.init.normal_(encoder.mlp_out.weight, std=1e-3)
        nn.init.zeros_(encoder.mlp_out.bias)
        for attention in attentions:
            for projection in (attention.to_q, attention.to_k):
                nn.init.normal_(projection.weight, std=0.01)
                for head in range(heads):
                    rows = head * head_width + torch.arange(4 * used)
                    projection.weight[rows, torch.arange(4 * used)] += 1.0


def gaussian_weights(xy: Tensor, grid: tuple[int, int], std: float) -> Tensor:
    """exp(-distance^2 / 2 std^2) of tracks xy (..., N, 2) to the cells of grid (h, w): (..., N, h * w) float32.

    Distance and std in token cells.
    """
    bells = []
    for axis, size in ((1, grid[0]), (0, grid[1])):
        offset = xy[..., axis, None].float() * size - 0.5 - torch.arange(size, device=xy.device)
        bells.append(torch.exp(-offset.square() / (2 * std**2)))
    rows, columns = bells
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


class EditByTrackConditioner(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Source video tokens and paired tracks -> track tokens of both views.

    token_dim: the video model's token width d. width: of everything inside. heads: of every attention; divides width.
    frequencies: octaves of the Fourier features. temporal_layers, mlp_ratio: of the Transformer over time. splat:
    "attention", or "gaussian" to sample and splat with fixed Gaussians (ablation). dims: 3 for rho of (x, y,
    disparity), 2 for (x, y) (ablation; unused by "gaussian"). depth_injection: add sigma. kernel_start, kernel_width:
    start the attentions as a kernel of screen distance with this standard deviation, as a fraction of the picture.
    gaussian_width: standard deviation of the fixed Gaussian, token cells. tokens_per_pass: how many tokens are worked
    on at a time; memory only. All but the paper's wiring is chosen by this project.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        token_dim: int = 1536,
        width: int = 512,
        heads: int = 8,
        frequencies: int = 8,
        temporal_layers: int = 2,
        mlp_ratio: float = 2.0,
        splat: Literal["attention", "gaussian"] = "attention",
        dims: Literal[2, 3] = 3,
        depth_injection: bool = True,
        kernel_start: bool = True,
        kernel_width: float = 1 / 48,
        gaussian_width: float = 0.5,
        tokens_per_pass: int = 65_536,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if splat not in ("attention", "gaussian"):
            raise ValueError(f'splat is "{splat}"; expected "attention" or "gaussian"')
        if dims not in (2, 3):
            raise ValueError(f"dims is {dims}; expected 2 or 3")
        if width % (2 * heads):
            raise ValueError(f"width {width} is not a multiple of twice the {heads} heads")
        self.heads, self.dims, self.splat = heads, dims, splat
        self.gaussian_width, self.tokens_per_pass = gaussian_width, tokens_per_pass
        self.to_values = nn.Linear(token_dim, width, bias=False)
        if splat == "attention":
            self.coordinates = CoordinateEncoder(dims, frequencies, width)
            self.sampling = CoordinateAttention(width)
            self.sampling_out = nn.Linear(width, width)
            self.splatting = CoordinateAttention(width)
            self.splatting_values = nn.Linear(width, width)
            if kernel_start:
                start_as_kernel(self.coordinates, [self.sampling, self.splatting], heads, kernel_width)
        self.temporal = TemporalTransformer(width, heads, temporal_layers, mlp_ratio)
        self.disparity = FourierLinear(1, frequencies, width) if depth_injection else None
        self.out = nn.Linear(width, token_dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, source_tokens: Tensor, tracks: TrackPairs, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """source_tokens (B, f * h * w, token_dim), tracks of f latent frames, grid (h, w).

        Returns tau_src and tau_tgt, each (B, f * h * w, token_dim) in the tokens' dtype, to be added to the source and
        target video tokens. Zero before training; zero where a frame has no track.
        """
        budget = self.tokens_per_pass
        tokens = by_frame(source_tokens, tracks.source.shape[1], grid).to(self.out.weight.dtype)

        def sample(xyz: Tensor, present: Tensor, values: Tensor) -> Tensor:
            return self._sample(xyz, values, grid).masked_fill(~present[..., None], 0.0)

        def splat(xyz: Tensor, present: Tensor, features: Tensor) -> Tensor:
            track_tokens: Tensor = self.out(self._splat(xyz, features, present, grid))
            return track_tokens

        sampled = over_frames(sample, budget, tracks.source, tracks.source_present, self.to_values(tokens))
        features = self.temporal(sampled, tracks.source_present, budget)
        tau_source = over_frames(splat, budget, tracks.source, tracks.source_present, features)
        tau_target = over_frames(splat, budget, tracks.target, tracks.target_present, features)
        return tau_source.flatten(1, 2).to(source_tokens.dtype), tau_target.flatten(1, 2).to(source_tokens.dtype)

    def _encode(self, xyz: Tensor) -> Tensor:
        """rho of coordinates (..., 3): (..., width)."""
        encoded: Tensor = self.coordinates(xyz[..., : self.dims])
        return encoded

    def _encode_cells(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """G of a grid (h, w): (h * w, width), the cells' centres at disparity 0."""
        centres = cell_centres(*grid, device)
        return self._encode(torch.cat([centres, torch.zeros_like(centres[:, :1])], -1))

    def _sample(self, xyz: Tensor, values: Tensor, grid: tuple[int, int]) -> Tensor:
        """What lies under each track: xyz (B, t, N, 3), values (B, t, h * w, width) -> (B, t, N, width)."""
        shape = (*xyz.shape[:3], values.shape[-1])
        if self.splat == "gaussian":
            weights = gaussian_weights(xyz[..., :2], grid, self.gaussian_width)
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
            return weights.to(values.dtype) @ values
        queries = self.sampling.to_q(self._encode(xyz)).flatten(0, 1)
        keys = self.sampling.to_k(self._encode_cells(grid, xyz.device)).expand(len(queries), -1, -1)
        sampled: Tensor = self.sampling_out(attend(queries, keys, values.flatten(0, 1), self.heads))
        return sampled.view(shape)

    def _splat(self, xyz: Tensor, features: Tensor, present: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tracks to cells: xyz (B, t, N, 3), features (B, t, N, width), present (B, t, N) -> (B, t, h * w, width)."""
        if self.disparity is not None:
            features = features + self.disparity(xyz[..., 2:])
        if self.splat == "gaussian":
            weights = gaussian_weights(xyz[..., :2], grid, self.gaussian_width) * present[..., None]
            # One track leaves a Gaussian blob; where tracks crowd they are averaged instead of piling up.
            weights = weights / weights.sum(-2, keepdim=True).clamp(min=1.0)
            return weights.transpose(-1, -2).to(features.dtype) @ features
        keys = self.splatting.to_k(self._encode(xyz)).flatten(0, 1)
        queries = self.splatting.to_q(self._encode_cells(grid, xyz.device)).expand(len(keys), -1, -1)
        values = self.splatting_values(features).flatten(0, 1)
        splatted = attend(queries, keys, values, self.heads, present.flatten(0, 1))
        return splatted.view(*xyz.shape[:2], *splatted.shape[1:])
