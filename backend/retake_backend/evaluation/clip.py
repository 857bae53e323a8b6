"""CLIP-T, CLIP-F and CLIP-V: cosine similarities, times 100, of what CLIP ViT-B/32 sees.

Weights: the folder of `openai/clip-vit-base-patch32` in transformers' layout, as safetensors, with its tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from retake_shared.errors import BadFile

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_BATCH = 16

Features = NDArray[np.float64]


class Clip:
    """Pictures and captions as vectors of length one."""

    def __init__(self, folder: Path) -> None:
        """Raises BadFile when the folder is not a whole CLIP."""
        from transformers import CLIPModel, CLIPTokenizer

        try:
            model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise BadFile(f"is not a whole CLIP ({error!s:.200}).", str(folder), "Copy its files again.") from error
        self.model = model.eval()
        self.side = int(model.config.vision_config.image_size)

    @torch.inference_mode()
    def pictures(self, video: NDArray[np.uint8]) -> Features:
        """(T, d) of pictures (T, H, W, 3)."""
        parts = []
        for begin in range(0, len(video), _BATCH):
            batch = np.stack([self._prepared(picture) for picture in video[begin : begin + _BATCH]])
            seen = self.model.vision_model(torch.from_numpy(batch).to(self.model.device)).pooler_output
            parts.append(self.model.visual_projection(seen))
        return _unit(torch.cat(parts))

    @torch.inference_mode()
    def caption(self, text: str) -> Features:
        """(d,) of a caption; what goes beyond CLIP's context is cut off."""
        longest = int(self.model.config.text_config.max_position_embeddings)
        words = self.tokenizer([text], truncation=True, max_length=longest, return_tensors="pt").to(self.model.device)
        seen = self.model.text_model(**words).pooler_output
        return np.asarray(_unit(self.model.text_projection(seen))[0])

    def _prepared(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(3, side, side): the shorter side to the network's by bicubic, the middle cut out, CLIP's colours."""
        height, width = picture.shape[:2]
        scale = self.side / min(width, height)
        size = (max(self.side, int(width * scale)), max(self.side, int(height * scale)))
        small = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        cut = np.asarray(small.crop((left, top, left + self.side, top + self.side)), np.float32) / 255
        return np.asarray(((cut - _MEAN) / _DEVIATION).transpose(2, 0, 1), np.float32)


def clip_t(frames: Features, caption: Features) -> float:
    """Mean similarity of frames (T, d) with a caption (d,)."""
    return float(100 * (frames @ caption).mean())


def clip_f(frames: Features) -> float:
    """Mean similarity of consecutive frames (T, d); nan for a single one."""
    return float(100 * (frames[1:] * frames[:-1]).sum(1).mean()) if len(frames) > 1 else float("nan")


def clip_v(frames: Features, source: Features) -> float:
    """Mean similarity of frames (T, d) with the source's at the same time."""
    return float(100 * (frames * source).sum(1).mean())


def _unit(features: torch.Tensor) -> Features:
    values = features.double().cpu().numpy()
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))
