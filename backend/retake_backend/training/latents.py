"""Latents of videos, made once and kept: from the second epoch on, training Wan does without the VAE.

A latent is named by the sha256 of the frames as the model gets them (size and span with it) and of the codec's weights,
so that none is ever taken for another, whatever data sets, crops and models share the folder.
FOLDER/KEY/ab/abcd....safetensors holds `latents` (C, f, h, w) float16; KEY names the weights. Any number of processes
may fill one folder.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from retake_shared.errors import RetakeError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..models.codec import VideoCodec

_NAME = "latents"


def key(codec: VideoCodec) -> str:
    """A name of the codec's weights and precision, 16 hex digits."""
    digest = hashlib.sha256(str(codec.profile.vae_dtype).encode())
    for name, value in sorted(codec.vae.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class KeptLatents:
    """A codec whose work is kept in `folder`. made, found: how many videos were encoded, and found encoded, so far."""

    def __init__(self, folder: Path, codec: VideoCodec) -> None:
        self.codec, self.folder = codec, folder / key(codec)
        self.made = self.found = 0

    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """As `VideoCodec.encode`, rounded to float16: (F, H, W, 3) uint8 -> (1, C, f, h, w) float32 on the CPU.

        A file that is damaged is made again. Raises BadShot, and RetakeError where there is no room to keep it.
        """
        digest = hashlib.sha256(str(frames.shape).encode())
        digest.update(np.ascontiguousarray(frames).data)
        name = digest.hexdigest()
        path = self.folder / name[:2] / f"{name}.safetensors"
        latents = _kept(path)
        if latents is not None:
            self.found += 1
            return latents.float()[None]
        latents = self.codec.encode(frames)[0].half().contiguous()
        _keep(path, latents)
        self.made += 1
        return latents.float()[None]


def _kept(path: Path) -> Tensor | None:
    try:
        return load_file(path)[_NAME] if path.is_file() else None
    except (SafetensorError, OSError, KeyError):
        return None


def _keep(path: Path, latents: Tensor) -> None:
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(save({_NAME: latents}))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        why = f"cannot be written: {error.strerror or error}."
        raise RetakeError(why, str(path.parent), "Free some space there, or train without kept latents.") from error
