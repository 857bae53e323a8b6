"""Trajectory Attention (Xiao et al. 2024): attention along known pixel trajectories, beside a model's own attention.

One branch per attention layer: hidden states are sampled at the trajectories (Algorithm 1), attend along the frames
of each trajectory, and go back to the cells they came from, averaged (Algorithm 2). q, k and v start as copies of the
layer's, the output projection as zero, and the result is added to the layer's output (Section 3.3, 3.4): an untrained
branch changes nothing. The model's own code and weights stay as they are; branches join it through forward hooks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from .attention import MAX_CUDA_BATCH
from .coordinates import TrackPairs
from .trajectories import Sampling, Trajectories

_ATTENTION_LAYER = re.compile(r"(?:.*\.)?(?:blocks|temporal_transformer_blocks)\.\d+\.attn1")


@dataclass(frozen=True)
class TrajectoryCells:
    """Which cells of an h x w grid the trajectories pass, with which weight: computed once per video and grid.

    cells: (B, F, L, K) int64 into the F*h*w tokens of a video, frame-major then row-major. weights: (B, F, L, K)
    float32, 0 where invalid, else summing to 1 over K. valid: (B, F, L) bool. count: (B, F*h*w) float32, the paper's
    U: the sum of the weights that fall on each cell. K = 1 for nearest, 4 for bilinear sampling.
    """

    cells: Tensor
    weights: Tensor
    valid: Tensor
    count: Tensor
    grid: tuple[int, int]


def trajectory_cells(positions: Tensor, valid: Tensor, grid: tuple[int, int], sampling: Sampling) -> TrajectoryCells:
    """The cells of trajectories on a grid.

    positions: (B, F, L, 2) float32, screen units. valid: (B, F, L) bool. grid: (h, w). A cell's centre is at
    (j + 0.5) / w, (i + 0.5) / h; beyond the outermost centres the outermost cells continue.
    """
    batch, frames, _, _ = positions.shape
    height, width = grid
    size = torch.tensor([width, height], dtype=torch.float32, device=positions.device)
    scaled = torch.where(valid[..., None], positions.float(), 0.5) * size
    if sampling == "nearest":
        corners = scaled.floor()[..., None, :]
        weights = valid[..., None].float()
    elif sampling == "bilinear":
        low = (scaled - 0.5).floor()
        offsets = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float32, device=positions.device)
        corners = low[..., None, :] + offsets
        weights = (1 - (scaled[..., None, :] - 0.5 - corners).abs()).prod(-1) * valid[..., None]
    else:
        raise ValueError(f'sampling is "{sampling}", expected "nearest" or "bilinear"')
    column = corners[..., 0].long().clamp(0, width - 1)
    row = corners[..., 1].long().clamp(0, height - 1)
    frame = torch.arange(frames, device=positions.device)[:, None, None]
    cells = (frame * height + row) * width + column
    nothing, one = weights.new_zeros(batch, frames * height * width, 1), torch.ones_like(weights[..., :1])
    count = back_project(nothing, one, cells, weights)[..., 0]
    return TrajectoryCells(cells, weights, valid, count, grid)


def sample_trajectories(hidden: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """Algorithm 1: hidden states (B, F*h*w, C) at trajectories -> (B, F, L, C), zero where invalid.

    cells, weights: (B, F, L, K) as in `TrajectoryCells`.
    """
    batch, frames, count, corners = cells.shape
    index = cells.flatten(1)[..., None].expand(-1, -1, hidden.shape[-1])
    sampled = hidden.gather(1, index).reshape(batch, frames, count, corners, -1)
    return (sampled * weights[..., None].to(hidden.dtype)).sum(-2)


def back_project(total: Tensor, values: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """The loop of Algorithm 2: total (B, F*h*w, C) with values (B, F, L, C) added at their cells, by their weights.

    The caller divides by the count. Invalid values have weight 0: the paper leaves them out of the count but not of
    the sum, which its masks can only mean as zero.
    """
    batch, tokens, width = total.shape
    rows = (cells.flatten(1) + tokens * torch.arange(batch, device=cells.device)[:, None]).flatten()
    added = (weights[..., None] * values[..., None, :].to(total.dtype)).reshape(-1, width)
    flat = total.reshape(-1, width)
    # Both add in a fixed order, so that a take repeats bit for bit: on CUDA index_put sorts where index_add races.
    flat = flat.index_put((rows,), added, accumulate=True) if flat.is_cuda else flat.index_add(0, rows, added)
    return flat.reshape(total.shape)


class TrajectoryBranch(nn.Module):
    """Multi-head attention along trajectories, of the shape of the attention layer beside which it stands.

    width: channels C of the hidden states. inner: heads * channels per head. bias: of q, k, v. norm_eps: epsilon of
    the RMS norm over all heads that Wan puts on q and k, None where the layer has none. chunk: trajectories per pass,
    which bounds memory and changes nothing else.
    """

    def __init__(self, width: int, inner: int, heads: int, bias: bool, norm_eps: float | None, chunk: int) -> None:
        super().__init__()
        self.heads, self.chunk = heads, chunk
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=bias) for _ in range(3))
        self.norm_q: nn.Module = nn.Identity() if norm_eps is None else nn.RMSNorm(inner, eps=norm_eps)
        self.norm_k: nn.Module = nn.Identity() if norm_eps is None else nn.RMSNorm(inner, eps=norm_eps)
        self.to_out = nn.Linear(inner, width)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, hidden: Tensor, where: TrajectoryCells, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The residual (B, F*h*w, C) for hidden states (B, F*h*w, C): zero in cells that no trajectory passes.

        where: of batch B, or of a divisor of B that repeats (guidance doubles the batch, not the trajectories).
        rotary: cos and sin (F, channels per head) that turn queries and keys by their frame.
        """
        repeats = _repeats(hidden.shape[0], where.cells.shape[0])
        cells, weights, valid, count = (
            t.repeat(repeats, *[1] * (t.ndim - 1)) for t in (where.cells, where.weights, where.valid, where.count)
        )
        kept, total = hidden.dtype, torch.zeros_like(hidden, dtype=torch.promote_types(hidden.dtype, torch.float32))
        hidden = hidden.to(self.to_q.weight.dtype)  # branches may train in float32 beside a model in bfloat16
        step = max(1, min(self.chunk, MAX_CUDA_BATCH // self.heads) // hidden.shape[0])
        for start in range(0, cells.shape[2], step):
            part = slice(start, start + step)
            sampled = sample_trajectories(hidden, cells[:, :, part], weights[:, :, part])
            attended = self._attend(sampled, valid[:, :, part], rotary)
            total = back_project(total, attended, cells[:, :, part], weights[:, :, part])
        count = count[..., None].to(total.dtype)
        return torch.where(count > 0, total / torch.where(count > 0, count, 1), 0).to(kept)

    def _attend(self, sampled: Tensor, valid: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attention along F within each trajectory, (B, F, L, C) -> the same, over its valid tokens only."""
        batch, frames, count, _ = sampled.shape
        sequences = sampled.transpose(1, 2).flatten(0, 1)
        query, key, value = (
            t.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for t in (
                self.norm_q(self.to_q(sequences)),
                self.norm_k(self.to_k(sequences)),
                self.to_v(sequences),
            )
        )
        if rotary is not None:
            query, key = _rotate(query, *rotary), _rotate(key, *rotary)
        keys = valid.transpose(1, 2).flatten(0, 1)
        # A softmax over no key is NaN in some kernels. Never valid, a trajectory may see them all: its weight is 0.
        keys = keys | ~keys.any(-1, keepdim=True)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=keys[:, None, None, :])
        out: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out.reshape(batch, count, frames, -1).transpose(1, 2)


class TrajectoryAttention(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The branches of a whole model: a part of its own, saved and loaded apart from the model it joins.

    layers: names of the model's attention layers, one branch beside each. widths, inner_widths, heads: of each layer.
    bias, norm_eps: as in `TrajectoryBranch`. sampling: "nearest" or "bilinear" for both algorithms (chosen: the paper
    does not say). rotary: turn queries and keys by the frame part of the layer's rotary embedding where it has one
    (chosen: its spatial part would tell a moving trajectory from a still one). chunk: trajectories per pass.

    Use: `branches = TrajectoryAttention.beside(model)`, `branches.attach(model)`, `branches.follow(...)` once per
    video, then run the model as ever. Trajectories must stay until backward is done: checkpointing runs layers again.
    """

    _supports_gradient_checkpointing = False

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        layers: Sequence[str],
        widths: Sequence[int],
        inner_widths: Sequence[int],
        heads: Sequence[int],
        bias: bool = True,
        norm_eps: float | None = None,
        sampling: Sampling = "nearest",
        rotary: bool = True,
        chunk: int = 1024,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sampling, self._rotary = sampling, rotary
        self._branch_of = {
            layer: TrajectoryBranch(width, inner, head, bias, norm_eps, chunk)
            for layer, width, inner, head in zip(layers, widths, inner_widths, heads, strict=True)
        }
        self.branches = nn.ModuleList(self._branch_of.values())
        self._video: tuple[Tensor, Tensor] | None = None
        self._cells: dict[tuple[int, int], TrajectoryCells] = {}
        self._grids: dict[str, tuple[int, int]] = {}
        self._handles: list[RemovableHandle] = []

    @classmethod
    def beside(
        cls,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        sampling: Sampling = "nearest",
        rotary: bool = True,
        chunk: int = 1024,
    ) -> TrajectoryAttention:
        """Branches for Wan's full attention or SVD's temporal attention, q, k and v inherited (Section 3.4).

        layers: which attention layers; None = every one. Raises ValueError where the model has no such layer.
        """
        found = {name: m for name, m in model.named_modules() if _ATTENTION_LAYER.fullmatch(name)}
        names = list(found) if layers is None else list(layers)
        unknown = [name for name in names if name not in found]
        if unknown or not names:
            raise ValueError(
                f"{type(model).__name__} has no temporal or full attention {unknown or ''}; it has {list(found)}"
            )
        chosen = [found[name] for name in names]
        linears = [_linear(layer.to_q) for layer in chosen]
        norm = getattr(chosen[0], "norm_q", None)
        branches = cls(  # type: ignore[no-untyped-call]
            layers=names,
            widths=[linear.in_features for linear in linears],
            inner_widths=[linear.out_features for linear in linears],
            heads=[int(layer.heads) for layer in chosen],  # type: ignore[arg-type]
            bias=linears[0].bias is not None,
            norm_eps=None if norm is None else norm.eps,
            sampling=sampling,
            rotary=rotary,
            chunk=chunk,
        )
        for branch, layer in zip(branches._branch_of.values(), chosen, strict=True):
            for name in ("to_q", "to_k", "to_v"):
                getattr(branch, name).load_state_dict(_linear(getattr(layer, name)).state_dict())
            if norm is not None:
                for name in ("norm_q", "norm_k"):
                    getattr(branch, name).load_state_dict(getattr(layer, name).state_dict())
        weight = linears[0].weight
        return branches.to(device=weight.device, dtype=weight.dtype)  # type: ignore[no-any-return]

    def attach(self, model: nn.Module) -> None:
        """Join the model: from now on its attention layers add what the branches say of the followed trajectories."""
        self.detach()
        modules = dict(model.named_modules())
        missing = [name for name in self._branch_of if name not in modules]
        if missing:
            raise ValueError(f'{type(model).__name__} has no attention layer "{missing[0]}" for its branch to stand by')
        for name, branch in self._branch_of.items():
            layer = modules[name]
            linear = _linear(layer.to_q)
            if (linear.in_features, linear.out_features) != (branch.to_q.in_features, branch.to_q.out_features):
                raise ValueError(
                    f'"{name}" is {linear.in_features} wide in this model, {branch.to_q.in_features} in its branch'
                )
            if "temporal_transformer_blocks" in name:
                owner = name.split(".temporal_transformer_blocks")[0]
                hook = self._temporal_hook(owner, branch)
            else:
                owner = "patch_embedding"
                hook = self._full_hook(owner, branch)
            self._handles.append(layer.register_forward_hook(hook, with_kwargs=True))
        for name, module in modules.items():
            if name == "patch_embedding":  # (B, d, F, h, w) leave it
                self._handles.append(module.register_forward_hook(lambda _, __, out: self._see("patch_embedding", out)))
            elif isinstance(module, TransformerSpatioTemporalModel):  # (B*F, C, h, w) enter it
                see = partial(self._see_input, name)
                self._handles.append(module.register_forward_pre_hook(see, with_kwargs=True))

    def detach(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def follow(self, positions: Tensor | Trajectories | None, valid: Tensor | None = None) -> None:
        """The trajectories of the video that the model sees from now on; None to let the model alone.

        Either `Trajectories` of one video, or positions (B, F, L, 2) in screen units with valid (B, F, L) bool. F
        counts the model's own frames: latent frames, source then target where both are in its tokens. Positions off
        the picture are invalid (M_i of Algorithm 4).
        """
        self._cells.clear()
        if positions is None:
            self._video = None
            return
        if isinstance(positions, Trajectories):
            valid = torch.from_numpy(positions.valid)[None]
            positions = torch.from_numpy(positions.positions)[None]
        if valid is None or positions.shape != (*valid.shape, 2) or valid.ndim != 3:
            shape = None if valid is None else tuple(valid.shape)
            raise ValueError(f"trajectories are {tuple(positions.shape)}, {shape}; expected (B, F, L, 2), (B, F, L)")
        positions, valid = positions.to(self.device, torch.float32), valid.to(self.device, torch.bool)
        self._video = positions, valid & ((positions >= 0) & (positions < 1)).all(-1)

    def _where(self, owner: str, frames: int | None, tokens: int) -> TrajectoryCells | None:
        """The cells on the grid of the layer's owner, from the video's one computation; None to add nothing."""
        if self._video is None or self._video[1].shape[2] == 0:
            return None
        followed = self._video[1].shape[1]
        grid = self._grids[owner]
        if tokens != followed * grid[0] * grid[1] or frames not in (None, followed):
            raise ValueError(
                f"the trajectories cover {followed} frames, the model sees {tokens / (grid[0] * grid[1]):g}; "
                "give them at the model's own frames (Trajectories.at, Trajectories.then)"
            )
        if grid not in self._cells:
            self._cells[grid] = trajectory_cells(*self._video, grid, self._sampling)
        return self._cells[grid]

    def _see(self, owner: str, tensor: Tensor) -> None:
        """Remember the grid of the tokens: the attention layers themselves see them flattened."""
        self._grids[owner] = int(tensor.shape[-2]), int(tensor.shape[-1])

    def _see_input(self, owner: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._see(owner, args[0] if args else kwargs["hidden_states"])

    def _full_hook(self, owner: str, branch: TrajectoryBranch) -> Any:
        """Wan: hidden states (B, F*h*w, C), rotary embedding of every token."""

        def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            hidden: Tensor = args[0] if args else kwargs["hidden_states"]
            where = self._where(owner, None, hidden.shape[1])
            if where is None:
                return output
            rotary: Any = kwargs.get("rotary_emb", args[3] if len(args) > 3 else None)
            if rotary is not None:
                # The first cell of a frame lies at row 0, column 0: only its frame turns it.
                first = slice(None, None, where.grid[0] * where.grid[1])
                rotary = tuple(t[0, first, 0] for t in rotary) if self._rotary else None
            residual: Tensor = branch(hidden, where, rotary)
            return output + residual

        return add

    def _temporal_hook(self, owner: str, branch: TrajectoryBranch) -> Any:
        """SVD: hidden states (B*h*w, F, C) with the frame's embedding already added."""

        def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            hidden: Tensor = args[0] if args else kwargs["hidden_states"]
            cells, frames, width = hidden.shape
            area = self._grids[owner][0] * self._grids[owner][1]
            where = self._where(owner, frames, frames * area)
            if where is None:
                return output
            tokens = hidden.reshape(-1, area, frames, width).transpose(1, 2).flatten(1, 2)
            residual: Tensor = branch(tokens, where)
            return output + residual.reshape(-1, frames, area, width).transpose(1, 2).reshape(cells, frames, width)

        return add


def paired_trajectories(pairs: TrackPairs) -> tuple[Tensor, Tensor]:
    """Positions (B, 2f, N, 2) and valid (B, 2f, N) of source then target, for a model with both in its tokens.

    As in Algorithm 4 a frame in which the source hides the track is left out, of the target too.
    """
    positions = torch.cat([pairs.source[..., :2], pairs.target[..., :2]], 1)
    present = torch.cat([pairs.source_present, pairs.target_present], 1)
    return positions, present & pairs.source_visible.repeat(1, 2, 1)


def _linear(module: Any) -> nn.Linear:
    """The base's own layer: a LoRA wraps it."""
    linear = getattr(module, "base_layer", module)
    assert isinstance(linear, nn.Linear)
    return linear


def _repeats(batch: int, videos: int) -> int:
    if batch % videos:
        raise ValueError(f"trajectories of {videos} videos cannot be shared out to a batch of {batch}")
    return batch // videos


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Wan's rotary embedding of x (..., F, D) by cos, sin (F, D), each pair's value repeated."""
    even, odd = x[..., 0::2], x[..., 1::2]
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(-2).type_as(x)
