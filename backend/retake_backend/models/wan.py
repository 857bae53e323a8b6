"""Wan with the source video in its tokens: `[source, target]` along the frame axis, and track tokens added to both.

None of the model's code is copied: the latents are concatenated before diffusers' forward, the track tokens join in a
hook on `patch_embedding`, and the target's frames are cut out after. Without a source the model is plain Wan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformer3DModel
from peft import LoraConfig
from torch import Tensor, nn

RopePositions = Literal["sequential", "shared"]
TrackTokens = tuple[Tensor, Tensor]
"""tau_src and tau_tgt of a conditioner, each (B, f*h*w, d), frame-major then row-major."""


class SharedPositionsRope(WanRotaryPosEmbed):  # type: ignore[misc]
    """Wan's rotary embedding, with the frames of source and target at the same positions 0 .. f-1."""

    videos = 1
    """How many videos of equal length lie on the frame axis: 2 while a source is concatenated."""

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(1, F*h*w, 1, head_dim) cos and sin for latents (B, C, F, H, W)."""
        frames = hidden_states.shape[2] // self.videos
        cos, sin = super().forward(hidden_states[:, :, :frames])
        return cos.repeat(1, self.videos, 1, 1), sin.repeat(1, self.videos, 1, 1)


class RetakeWanTransformer(WanTransformer3DModel):  # type: ignore[misc]
    """diffusers' Wan, run on `[source, noisy target]`.

    All arguments but one are Wan's own. rope_positions (chosen: the papers do not say): "sequential", frames 0 .. 2f-1
    over source and target, as ReCamMaster trains the same base; "shared", both 0 .. f-1.
    """

    # FastWan was distilled with a sparse attention whose gates lie beside Wan's own weights; full attention has none.
    _keys_to_ignore_on_load_unexpected = [r"\.to_gate_compress\."]  # noqa: RUF012

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        rope_positions: RopePositions = "sequential",
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        if rope_positions == "shared":
            self.rope = SharedPositionsRope(attention_head_dim, patch_size, rope_max_seq_len)
        elif rope_positions != "sequential":
            raise ValueError(f'rope_positions is "{rope_positions}", expected "sequential" or "shared"')
        self._track_tokens: TrackTokens | None = None
        self.patch_embedding.register_forward_hook(self._add_track_tokens)

    def source_tokens(self, source_latents: Tensor) -> Tensor:
        """Tokens (B, f*h*w, d) of clean source latents (B, C, f, H, W): what a conditioner samples, once per video."""
        weight = self.patch_embedding.weight
        tokens: Tensor = self.patch_embedding(source_latents.to(weight.device, weight.dtype))
        return tokens.flatten(2).transpose(1, 2).contiguous()

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        source_latents: Tensor | None = None,
        track_tokens: TrackTokens | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the target's velocity (B, C, f, H, W), of noisy target latents of the same shape.

        timestep: (B,), one for source and target. source_latents: clean, (B or 1, C, f, H, W); None = plain Wan.
        track_tokens: added to the tokens of source and target, batch B or 1. Both may also come in attention_kwargs
        under these names, which is how the stock WanPipeline hands them through.
        """
        options = dict(attention_kwargs or {})
        source_latents = options.pop("source_latents", source_latents)
        track_tokens = options.pop("track_tokens", track_tokens)
        if source_latents is None:
            if track_tokens is not None:
                raise ValueError("track tokens need the source latents beside the target")
            plain: Transformer2DModelOutput | tuple[Tensor] = self._base_forward(
                hidden_states, timestep, encoder_hidden_states, encoder_hidden_states_image, return_dict, options, 1
            )
            return plain
        if source_latents.shape[1:] != hidden_states.shape[1:]:
            raise ValueError(
                f"source latents are {tuple(source_latents.shape)}, the target's {tuple(hidden_states.shape)}"
            )
        if timestep.ndim != 1:
            raise ValueError(f"timestep is {tuple(timestep.shape)}: source and target share one per video, (B,)")
        source = source_latents.to(hidden_states).expand_as(hidden_states)
        both = torch.cat([source, hidden_states], 2)
        self._track_tokens = track_tokens
        try:
            (velocity,) = self._base_forward(
                both, timestep, encoder_hidden_states, encoder_hidden_states_image, False, options, 2
            )
        finally:
            self._track_tokens = None
        velocity = velocity[:, :, hidden_states.shape[2] :]
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def _base_forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text: Tensor,
        image: Tensor | None,
        return_dict: bool,
        options: dict[str, Any],
        videos: int,
    ) -> Any:
        if isinstance(self.rope, SharedPositionsRope):
            self.rope.videos = videos
        return super().forward(hidden_states, timestep, text, image, return_dict, options or None)

    def _add_track_tokens(self, module: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor | None:
        """embedded: (B, d, 2f, h, w), the token grid of source and target."""
        if self._track_tokens is None:
            return None
        tokens = torch.cat(self._track_tokens, 1).to(embedded)
        width, cells = embedded.shape[1], embedded.shape[2:]
        if tokens.shape[1:] != (cells.numel(), width):
            raise ValueError(
                f"track tokens are {tuple(tokens.shape)}, the model's {cells.numel()} of width {width} "
                f"(source and target, {cells[0]} frames of {cells[1]} x {cells[2]})"
            )
        return embedded + tokens.transpose(1, 2).reshape(-1, width, *cells)


_LORA_LAYERS = {
    "q": r"attn[12]\.to_q",
    "k": r"attn[12]\.to_k",
    "v": r"attn[12]\.to_v",
    "o": r"attn[12]\.to_out\.0",
    "ffn": r"ffn\.net\.(?:0\.proj|2)",
}


@dataclass(frozen=True)
class LoraSettings:
    """The low-rank adapters on the blocks (rank 64 in both track papers; the rest chosen).

    layers: of "q", "k", "v", "o" (self- and cross-attention) and "ffn", in every block. The scale is alpha / rank.
    """

    rank: int = 64
    alpha: int = 64
    layers: tuple[str, ...] = ("q", "k", "v", "o", "ffn")

    def __post_init__(self) -> None:
        unknown = [name for name in self.layers if name not in _LORA_LAYERS]
        if unknown or not self.layers:
            raise ValueError(f"LoRA layers are {list(self.layers)}, expected some of {list(_LORA_LAYERS)}")
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"LoRA rank is {self.rank} and alpha {self.alpha}; both must be above 0")

    @property
    def pattern(self) -> str:
        """A pattern that the full names of the adapted layers match; names alone would catch other modules too."""
        return rf"blocks\.\d+\.(?:{'|'.join(layer for name, layer in _LORA_LAYERS.items() if name in self.layers)})"

    @classmethod
    def of(cls, adapter: LoraConfig) -> LoraSettings:
        """The settings of an adapter that `add_lora` made. Raises ValueError for any other."""
        pattern = str(adapter.target_modules)
        layers = tuple(name for name, layer in _LORA_LAYERS.items() if layer in pattern)
        settings = cls(int(adapter.r), int(adapter.lora_alpha), layers)
        if settings.pattern != pattern:
            raise ValueError(f"the adapter stands on other layers: {pattern}")
        return settings


def add_lora(transformer: WanTransformer3DModel, settings: LoraSettings, name: str = "retake") -> None:
    """Put fresh adapters on the blocks, their output zero; they are all that then asks for gradients in the base."""
    transformer.requires_grad_(False)
    transformer.add_adapter(
        LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=settings.pattern), adapter_name=name
    )
