"""Repositories as the hub has them, a hub that serves them, and the command line that pulls from it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from retake_backend.weights.store import WeightStore
from safetensors.numpy import save

from .local_hub import LocalHub, Repository

T2V, VACE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-VACE-1.3B-diffusers"
SVD = "stabilityai/stable-video-diffusion-img2vid-xt"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARDS = [f"transformer/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
MB = 1 << 20


def weights(seed: int, nbytes: int = 1000) -> bytes:
    """A safetensors file of about so many bytes."""
    values = np.random.default_rng(seed).integers(0, 255, nbytes, np.uint8)
    return save({"weight": values})


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def pipeline(kind: str, components: dict[str, str]) -> dict[str, bytes]:
    """The files of a pipeline that hold no weights: model_index.json and a config.json for each component."""
    files = {"model_index.json": as_json({"_class_name": kind})}
    for folder, name in components.items():
        config = {"architectures": [name]} if "encoder" in folder else {"_class_name": name}
        files[f"{folder}/config.json"] = as_json(config)
    return files


def wan(kind: str, transformer: str, seed: int) -> dict[str, bytes]:
    """The repository of a Wan model with two shards, the second one of 5 MB, and things that nobody needs."""
    components = {"transformer": transformer, "vae": "AutoencoderKLWan", "text_encoder": "UMT5EncoderModel"}
    sizes = {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128}
    return pipeline(kind, components) | {
        "transformer/config.json": as_json({"_class_name": transformer} | sizes),
        "transformer/diffusion_pytorch_model.safetensors.index.json": as_json(
            {"weight_map": {"a": Path(SHARDS[0]).name, "b": Path(SHARDS[1]).name}}
        ),
        SHARDS[0]: weights(seed),
        SHARDS[1]: weights(seed + 1, 5 * MB),
        f"vae/{WEIGHTS}": weights(1),  # the same in every Wan
        "text_encoder/model.safetensors": weights(2 if kind == "WanVACEPipeline" else 3, 100_000),
        "tokenizer/tokenizer.json": as_json({"vocabulary": seed}),
        "tokenizer/spiece.model": b"sentencepiece",
        "scheduler/scheduler_config.json": as_json({"_class_name": "UniPCMultistepScheduler"}),
        "README.md": b"# Wan",
        "LICENSE.txt": b"Apache",
        "transformer/diffusion_pytorch_model.bin": b"\x80pickled",
        "Wan2.1_VAE.pth": b"PKpickled",
        "modeling.py": b"import os",
    }


def svd() -> dict[str, bytes]:
    """The repository of Stable Video Diffusion XT: every weight in two precisions, and as one file."""
    components = {
        "unet": "UNetSpatioTemporalConditionModel",
        "vae": "AutoencoderKLTemporalDecoder",
        "image_encoder": "CLIPVisionModelWithProjection",
    }
    return pipeline("StableVideoDiffusionPipeline", components) | {
        "unet/config.json": as_json({"_class_name": components["unet"], "num_frames": 25}),
        f"unet/{WEIGHTS}": weights(20, 2000),
        "unet/diffusion_pytorch_model.fp16.safetensors": weights(21),
        f"vae/{WEIGHTS}": weights(22, 2000),
        "vae/diffusion_pytorch_model.fp16.safetensors": weights(23),
        "image_encoder/model.safetensors": weights(24, 2000),
        "image_encoder/model.fp16.safetensors": weights(25),
        "feature_extractor/preprocessor_config.json": as_json({}),
        "scheduler/scheduler_config.json": as_json({}),
        "svd_xt.safetensors": weights(26, 5000),
    }


def write_folder(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    served = LocalHub(
        {
            T2V: Repository(wan("WanPipeline", "WanTransformer3DModel", 10), commit="1" * 40),
            VACE: Repository(wan("WanVACEPipeline", "WanVACETransformer3DModel", 30), commit="2" * 40),
            SVD: Repository(svd(), commit="3" * 40, gated=True),
        }
    )
    yield served
    served.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The folder of models; its name has what real folders have."""
    return tmp_path / "Modèle 映像"


@pytest.fixture
def store(models: Path) -> WeightStore:
    return WeightStore(models)


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def environment(hub: LocalHub, models: Path, tmp_path: Path) -> dict[str, str]:
    """Of a process that knows this hub and these models, and nothing of who runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "RETAKE_"))}
    return kept | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "RETAKE_MODELS": str(models),
        "RETAKE_HOME": str(tmp_path / "home"),
        "NO_PROXY": "127.0.0.1,localhost",
    }


@pytest.fixture
def retake(environment: dict[str, str]) -> Callable[..., Ran]:
    """`retake models ...` in a process of its own."""

    def run(*words: object, **more: str) -> Ran:
        command = [sys.executable, "-m", "retake_backend.cli", "models", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment | more, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
