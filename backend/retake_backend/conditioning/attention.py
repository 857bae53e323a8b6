"""Attention with absent keys, and the Transformer over time within each track that both track conditioners share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .fourier import time_encoding

MAX_CUDA_BATCH = 65_535
"""Sequences times heads in one attention call: beyond it CUDA's memory-efficient kernels refuse to launch."""
SHORT = 512
"""Tokens of a sequence up to which attention on a CPU is computed by plain products."""


def over_frames(function: Callable[..., Tensor], tokens_per_pass: int, *tensors: Tensor) -> Tensor:
    """function(*tensors) over slices along dimension 1, joined again: bounds the memory of what lies in between.

    tensors (B, f, n, ...): a slice has as many frames as keep B * frames * max(n) within tokens_per_pass, at least 1.
    """
    per_frame = len(tensors[0]) * max(tensor.shape[2] for tensor in tensors)
    frames = max(1, tokens_per_pass // max(1, per_frame))
    slices = zip(*(torch.split(tensor, frames, 1) for tensor in tensors), strict=True)
    return torch.cat([function(*part) for part in slices], 1)


def by_frame(tokens: Tensor, frames: int, grid: tuple[int, int]) -> Tensor:
    """Video tokens (B, f * h * w, d) -> (B, f, h * w, d). Raises ValueError when they are not so many."""
    cells = grid[0] * grid[1]
    if tokens.shape[1] != frames * cells:
        raise ValueError(f"{tokens.shape[1]} tokens; expected {frames} latent frames of {grid[0]} x {grid[1]} cells")
    return tokens.view(len(tokens), frames, cells, -1)


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """(B, n, width) -> (B, heads, n, width / heads)."""
    return tokens.view(*tokens.shape[:2], heads, -1).transpose(1, 2)


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, short: int = SHORT) -> Tensor:
    """softmax(q k^T / sqrt(head)) v of (N, heads, S, head); mask: bool, True = seen, as torch's. short: tokens.

    torch's fused kernel, save for short sequences on a CPU, where it takes three to ten times as long in bfloat16 as the
    plain products do (90 ms against 8 for 448 sequences of 10 tokens in 4 heads, backward included).
    """
    if q.device.type != "cpu" or max(q.shape[2], k.shape[2]) > short:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    attended: Tensor = logits.softmax(-1).to(v.dtype) @ v
    return attended


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, present: Tensor | None = None, rows: int = 4096
) -> Tensor:
    """softmax(q k^T / sqrt(width / heads)) v per head, over the keys that are present.

    queries (B, Q, width), keys and values (B, K, width), present (B, K) bool or None for all. Returns (B, Q, width); a
    row with no present key is zero, not NaN. At most `rows` queries at a time, which bounds the memory where no fused
    kernel exists.
    """
    if keys.shape[1] == 0 or queries.shape[1] == 0:
        return torch.zeros_like(queries)
    k, v = _by_head(keys, heads), _by_head(values, heads)
    mask = any_key = None
    if present is not None:
        any_key = present.any(1)
        mask = (present | ~any_key[:, None])[:, None, None, :]
    parts = []
    for part in torch.split(queries, rows, 1):
        attended = dot_product_attention(_by_head(part, heads), k, v, mask)
        parts.append(attended.transpose(1, 2).flatten(-2))
    out = torch.cat(parts, 1)
    return out if any_key is None else out.masked_fill(~any_key[:, None, None], 0.0)


class TemporalBlock(nn.Module):
    """Pre-norm Transformer block: self-attention without the padded frames, then a GELU feed-forward."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, int(width * mlp_ratio))
        self.mlp_out = nn.Linear(int(width * mlp_ratio), width)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm_attention(tokens)).chunk(3, -1)
        tokens = tokens + self.attention_out(attend(q, k, v, self.heads, present))
        mixed: Tensor = tokens + self.mlp_out(gelu(self.mlp_in(self.norm_mlp(tokens))))
        return mixed


class TemporalTransformer(nn.Module):
    """Mixes each track's features over time; tracks never see each other."""

    def __init__(self, width: int, heads: int, layers: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.blocks = nn.ModuleList(TemporalBlock(width, heads, mlp_ratio) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, present: Tensor, tokens_per_pass: int) -> Tensor:
        """features (B, f, N, width), present (B, f, N) bool -> (B, f, N, width).

        Frames where a track is absent are no keys, yet come out with what its present frames say (the padding mask
        of both papers). About `tokens_per_pass` tokens are mixed at a time.
        """
        batch, frames, count, width = features.shape
        if count == 0:
            return features
        position = time_encoding(frames, width, features.device).to(features.dtype)
        tokens = features.transpose(1, 2).flatten(0, 1)
        padding = present.transpose(1, 2).flatten(0, 1)
        tracks = max(1, min(tokens_per_pass // frames, MAX_CUDA_BATCH // self.heads))
        parts = []
        for part, part_present in zip(torch.split(tokens, tracks), torch.split(padding, tracks), strict=True):
            part = part + position
            for block in self.blocks:
                part = block(part, part_present)
            parts.append(self.norm(part))
        return torch.cat(parts).view(batch, count, frames, width).transpose(1, 2)
