"""Tiny models of the real classes with random weights, in the layout of the real ones.

They take every step that the real weights take (loading, text, encoding, conditioning, denoising, decoding) in seconds
on any CPU; their pictures mean nothing, and every take made with them says so. The demo and the tests use them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import StableVideoDiffusionPipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.pipelines.wan.pipeline_wan_vace import WanVACEPipeline
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DepthProConfig,
    DepthProForDepthEstimation,
    Dinov2Config,
    Sam2VideoConfig,
    Sam2VideoModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from ..conditioning.edit_by_track import EditByTrackConditioner
from ..conditioning.track2view import Track2ViewConditioner
from ..conditioning.trajectory_attention import TrajectoryAttention
from ..weights.store import write_manifest
from . import parts
from .draft import DraftTransformer
from .wan import LoraSettings, RetakeWanTransformer, add_lora

_WAN: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
}
_TOKENS = _WAN["num_attention_heads"] * _WAN["attention_head_dim"]
_LICENCE = "CC0-1.0"


def write_random(name: str, folder: Path, seed: int = 0) -> None:
    """Write a tiny random model for the catalogue's `name` into `folder`, which must not exist.

    The same seed gives the same weights, so that trained parts fit their base. Raises KeyError for an unknown name.
    """
    write = _WRITERS[name]
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write(folder)
    write_manifest(folder, name, licence=_LICENCE, random=True)


def _write_wan(folder: Path, seed_offset: int = 0, few_step: bool = False) -> None:
    transformer = _wan(WanTransformer3DModel, seed_offset)
    scheduler: Any = FlowMatchLCMScheduler(shift=8.0) if few_step else _unipc()
    WanPipeline(**_around(), transformer=transformer, scheduler=scheduler).save_pretrained(folder)


def _write_vace(folder: Path) -> None:
    transformer = WanVACETransformer3DModel(**_WAN, vace_layers=[0], vace_in_channels=96)
    WanVACEPipeline(**_around(), transformer=transformer, scheduler=_unipc()).save_pretrained(folder)


def _write_svd(folder: Path) -> None:
    vision = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        patch_size=32,
    )
    extractor: Any = CLIPImageProcessorPil(crop_size=224, size={"shortest_edge": 224})
    StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            latent_channels=4,
        ),
        image_encoder=CLIPVisionModelWithProjection(vision),
        unet=_svd(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            interpolation_type="linear",
            prediction_type="v_prediction",
            sigma_min=0.002,
            sigma_max=700.0,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        feature_extractor=extractor,
    ).save_pretrained(folder)


def _write_depth(folder: Path) -> None:
    dinov2: Any = Dinov2Config
    backbone = dinov2(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=70,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=24,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)


def _write_depth_pro(folder: Path) -> None:
    side = 32
    encoder = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 8,
    }
    make: Any = DepthProConfig
    config = make(
        patch_size=side,
        fusion_hidden_size=8,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_feature_dims=[8, 8, 8],
        merge_padding_value=1,
        use_fov_model=True,
        num_fov_head_layers=1,
        **{f"{name}_model_config": dict(encoder) for name in ("image", "patch", "fov")},
    )
    model = DepthProForDepthEstimation(config)
    bias = [value for name, value in model.named_parameters() if name.startswith("fov_model.head") and value.ndim == 1]
    nn.init.constant_(bias[-1], 50.0)  # degrees: a view that footage may have
    model.save_pretrained(folder)


def _write_sam2(folder: Path) -> None:
    side = 128
    vision = {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "image_size": [side, side],
            "blocks_per_stage": [1, 2, 1, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "global_attention_blocks": [2],
        },
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[side // 4, side // 4], [side // 8, side // 8], [side // 16, side // 16]],
        "fpn_hidden_size": 128,
    }
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": side, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 32, "iou_head_hidden_dim": 32, "num_attention_heads": 2},
        image_size=side,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[side // 16, side // 16],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    Sam2VideoModel(config).save_pretrained(folder)


def _write_conditioner(make: Callable[[], ModelMixin]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        wan = _wan(RetakeWanTransformer)
        conditioner = make()
        add_lora(wan, LoraSettings(rank=4, alpha=4))
        _stir(conditioner)
        _stir(wan, only="lora_B")
        parts.save_parts(
            folder, wan, base="wan2.1-t2v-1.3b (random)", licence=_LICENCE, conditioner=conditioner, lora="retake"
        )

    return write


def _write_branches(model: Callable[[], Any], base: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        beside = model()
        branches = TrajectoryAttention.beside(beside)
        _stir(branches, only="to_out")
        parts.save_branches(folder, beside, branches, base=f"{base} (random)", licence=_LICENCE)

    return write


def _around() -> dict[str, Any]:
    """What a Wan pipeline has beside transformer and scheduler."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(chr(code), -3.0) for code in range(33, 127)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)
    text = UMT5Config(vocab_size=len(vocabulary), d_model=_WAN["text_dim"], d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    vae = AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return {"tokenizer": tokenizer, "text_encoder": UMT5EncoderModel(text).requires_grad_(False), "vae": vae}


def _wan(kind: type[WanTransformer3DModel], seed_offset: int = 0) -> Any:
    """The tiny Wan whose weights depend on the seed alone, whatever was made before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + seed_offset)
        return kind(**_WAN)


def _svd() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed())
        return UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=32,
            num_attention_heads=(2, 2),
            projection_class_embeddings_input_dim=96,
            addition_time_embed_dim=32,
            transformer_layers_per_block=1,
        )


def _unipc() -> Any:
    """The scheduler of Wan's own repositories."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def _stir(module: nn.Module, only: str = "") -> None:
    """Give what starts as zero a value, so that a random part is seen to do something."""
    for name, parameter in module.named_parameters():
        if only in name and not parameter.detach().any():
            nn.init.normal_(parameter, std=0.02)


def _write_draft(folder: Path) -> None:
    model = DraftTransformer(width=24, heads=2, layers=2, ffn_dim=32, fine=8, coarse=16, track_width=16, track_heads=2)
    _stir(model)
    model.save_pretrained(folder)


_WRITERS: dict[str, Callable[[Path], None]] = {
    "wan2.1-t2v-1.3b": _write_wan,
    "fastwan2.1-t2v-1.3b": lambda folder: _write_wan(folder, 1, few_step=True),
    "wan2.1-vace-1.3b": _write_vace,
    "svd-xt": _write_svd,
    "depth-anything-v2-small": _write_depth,
    "depth-pro": _write_depth_pro,
    "sam2.1-tiny": _write_sam2,
    "draft": _write_draft,
    "edit-by-track": _write_conditioner(
        lambda: EditByTrackConditioner(token_dim=_TOKENS, width=32, heads=2, temporal_layers=1)
    ),
    "track2view": _write_conditioner(lambda: Track2ViewConditioner(token_dim=_TOKENS, width=32, heads=2, layers=1)),
    "trajectory-attention": _write_branches(lambda: _wan(RetakeWanTransformer), "wan2.1-t2v-1.3b"),
    "trajectory-attention-svd": _write_branches(_svd, "svd-xt"),
}
