"""The models that Retake can use: where they come from, how large they are, and on what terms.

Sizes are those of the files that are pulled, as the hub's pages show them (of FastWan's transformer and of trained
parts: from their parameters); `pull` asks for the exact ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retake_shared.errors import RetakeError

Kind = Literal["base", "parts", "own"]

APACHE = "Apache-2.0"
_APACHE_URL = "https://www.apache.org/licenses/LICENSE-2.0"


@dataclass(frozen=True)
class Model:
    """A model by its name in the catalogue.

    label, purpose: for people. repository: on the hub, "" for what is not there. nbytes: about, on disk.
    kind: "base" is a pipeline in diffusers' layout (or, without `classes`, one model of transformers: its only
    component is ""), "parts" what is trained onto one (`models.parts`), "own" a small model of Retake's own that comes
    with the backend (`shipped`) and makes room for one of the user's.
    gated: the hub gives it only to users who accepted its licence there.
    components: folder -> class that its config.json must name ("" = a folder without weights), for parts the class
    that the conditioner's part.json must name. classes: what model_index.json, or the config.json of an own model, may
    call itself. expects: configuration values by folder that tell this model from others of the same class. base: the
    model that parts are trained on.
    borrows: folder -> repository, where another publishes the same weights smaller. variant: of the files in the
    repository ("fp16"); they lie in the store under their plain names.
    """

    name: str
    label: str
    purpose: str
    kind: Kind
    repository: str
    licence: str
    licence_url: str
    nbytes: int
    gated: bool = False
    components: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    expects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    borrows: Mapping[str, str] = field(default_factory=dict)
    variant: str = ""
    base: str = ""

    @property
    def page(self) -> str:
        """The address of its page on the hub, "" when it has none."""
        return f"https://huggingface.co/{self.repository}" if self.repository else ""


_WAN = {
    "transformer": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
    "text_encoder": "UMT5EncoderModel",
    "tokenizer": "",
    "scheduler": "",
}
_WAN_1_3B = {"transformer": {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128}}
_VACE = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"
# UMT5-XXL (11.4 GB in bfloat16), VAE (508 MB) and tokenizer (22 MB), which all three Wan models have.
_AROUND_WAN = 11_361_900_000 + 507_600_000 + 21_500_000


def _parts(name: str, label: str, conditioner: str, nbytes: int, base: str = "wan2.1-t2v-1.3b") -> Model:
    """Trained parts: nobody has published any, so they have no repository and the licence that their part.json says."""
    purpose = f"trained onto {base}; trained by you or imported"
    components = {"conditioner": conditioner, "lora": ""}
    return Model(name, label, purpose, "parts", "", "", "", nbytes, components=components, base=base)


_MODELS = (
    Model(
        "wan2.1-t2v-1.3b",
        "Wan 2.1 1.3B",
        "base of Edit-by-Track, Track2View and Trajectory Attention",
        "base",
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        APACHE,
        _APACHE_URL,
        5_676_100_000 + _AROUND_WAN,
        components=_WAN,
        classes=("WanPipeline",),
        expects=_WAN_1_3B,
        # Its own repository holds the same text encoder in float32, 22.7 GB.
        borrows={"text_encoder": _VACE},
    ),
    Model(
        "wan2.1-vace-1.3b",
        "Wan 2.1 VACE 1.3B",
        "VACE: repaints what the footage does not show",
        "base",
        _VACE,
        APACHE,
        _APACHE_URL,
        7_150_000_000 + _AROUND_WAN,
        components=_WAN | {"transformer": "WanVACETransformer3DModel"},
        classes=("WanVACEPipeline",),
        expects=_WAN_1_3B,
    ),
    Model(
        "fastwan2.1-t2v-1.3b",
        "FastWan 2.1 1.3B",
        "the same base for few steps: quality Fast",
        "base",
        "FastVideo/FastWan2.1-T2V-1.3B-Diffusers",
        APACHE,
        _APACHE_URL,
        2_980_000_000 + _AROUND_WAN,
        components=_WAN,
        classes=("WanDMDPipeline", "WanPipeline"),
        expects=_WAN_1_3B,
        borrows={"text_encoder": _VACE},
    ),
    Model(
        "svd-xt",
        "Stable Video Diffusion XT",
        "base of Trajectory Attention, 25 frames",
        "base",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        "Stability AI Community License",
        "https://stability.ai/license",
        3_050_000_000 + 1_264_000_000 + 196_000_000,
        gated=True,
        components={
            "unet": "UNetSpatioTemporalConditionModel",
            "vae": "AutoencoderKLTemporalDecoder",
            "image_encoder": "CLIPVisionModelWithProjection",
            "feature_extractor": "",
            "scheduler": "",
        },
        classes=("StableVideoDiffusionPipeline",),
        expects={"unet": {"num_frames": 25}},
        variant="fp16",
    ),
    Model(
        "depth-anything-v2-small",
        "Depth Anything V2 Small",
        "depth of solved footage, of moving objects too",
        "base",
        "depth-anything/Depth-Anything-V2-Small-hf",
        APACHE,
        _APACHE_URL,
        99_200_000,
        components={"": "DepthAnythingForDepthEstimation"},
        expects={"": {"fusion_hidden_size": 64, "depth_estimation_type": "relative"}},
    ),
    Model(
        "depth-pro",
        "Depth Pro",
        "depth of solved footage and its field of view; for research only, and slow without a GPU",
        "base",
        "apple/DepthPro-hf",
        "Apple Machine Learning Research Model License (research only)",
        "https://huggingface.co/apple/DepthPro-hf",
        1_904_000_000,
        components={"": "DepthProForDepthEstimation"},
        expects={"": {"use_fov_model": True}},
    ),
    Model(
        "sam2.1-tiny",
        "SAM 2.1 Tiny",
        "masks of objects in footage from a click",
        "base",
        "facebook/sam2.1-hiera-tiny",
        APACHE,
        _APACHE_URL,
        156_000_000,
        components={"": "Sam2VideoModel"},
    ),
    Model(
        "draft",
        "Draft",
        "the engine of that name; one that you trained goes before it",
        "own",
        "",
        APACHE,
        _APACHE_URL,
        6_440_000,
        classes=("DraftTransformer", "Refiner"),
    ),
    _parts("edit-by-track", "Edit-by-Track", "EditByTrackConditioner", 380_000_000),
    _parts("track2view", "Track2View", "Track2ViewConditioner", 466_000_000),
    _parts("trajectory-attention", "Trajectory Attention", "TrajectoryAttention", 1_134_000_000),
    _parts("trajectory-attention-svd", "Trajectory Attention for SVD", "TrajectoryAttention", 198_000_000, "svd-xt"),
)

CATALOGUE: dict[str, Model] = {model.name: model for model in _MODELS}
"""Every model by its name."""


def find(name: str) -> Model:
    """The model of that name. Raises RetakeError naming those that there are."""
    if name not in CATALOGUE:
        raise RetakeError(f"{name!r:.60} is no model of the catalogue.", "model", f"Use one of {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]


def size_in_words(nbytes: int) -> str:
    """A number of bytes as people read it, in decimal units as the hub and disks are labelled: "17.6 GB"."""
    for unit, digits in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if nbytes >= 10**digits:
            return f"{nbytes / 10**digits:.1f} {unit}"
    return f"{nbytes} bytes"
