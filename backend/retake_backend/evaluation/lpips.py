"""LPIPS (Zhang et al. 2018), version 0.1 on AlexNet: how unlike two pictures look to a network.

Weights: one safetensors file with the two published ones in their own names, torchvision's AlexNet (`features.0.weight`
...) and the linear heads of the lpips package (`lin0.model.1.weight` ...).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .networks import load_weights

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_WIDTHS = (64, 192, 384, 256, 256)
_EPSILON = 1e-10


class Lpips(nn.Module):
    """The distance, in evaluation only."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d, e = _WIDTHS
        relu, pool = nn.ReLU(), nn.MaxPool2d(3, 2)
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 11, 4, 2), relu, pool,
            nn.Conv2d(a, b, 5, padding=2), relu, pool,
            nn.Conv2d(b, c, 3, padding=1), relu,
            nn.Conv2d(c, d, 3, padding=1), relu,
            nn.Conv2d(d, e, 3, padding=1), relu,
        )  # fmt: skip
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in _WIDTHS)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)

    @classmethod
    def load(cls, path: Path) -> Lpips:
        """With the weights of a file. Raises BadFile."""
        model = cls()
        names = {f"heads.{n}.weight": f"lin{n}.model.1.weight" for n in range(len(_WIDTHS))}
        load_weights(model, path, {name: names.get(name, name) for name in model.state_dict()})
        return model.eval()

    def forward(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """Distance maps (N, 1, h, w) of the five layers, of pictures (N, 3, H, W) in [-1, 1]."""
        a, b = (a - self.shift) / self.scale, (b - self.shift) / self.scale
        maps: list[Tensor] = []
        for layer in self.features:
            a, b = layer(a), layer(b)
            if isinstance(layer, nn.ReLU):
                maps.append(self.heads[len(maps)]((_unit(a) - _unit(b)) ** 2))
        return maps

    @torch.inference_mode()
    def distance(
        self, picture: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None
    ) -> float:
        """LPIPS of pictures (H, W, 3). With a mask (H, W), DyCheck's mLPIPS: black outside it, the mean of the map
        inside it; nan for an empty one."""
        if mask is not None and not mask.any():
            return float("nan")
        shown = [p if mask is None else p * mask[..., None] for p in (picture, truth)]
        device = self.shift.device
        a, b = (torch.from_numpy(p.astype(np.float32)).to(device).permute(2, 0, 1)[None] / 127.5 - 1 for p in shown)
        maps = self(a, b)
        if mask is None:
            return float(sum(layer.mean() for layer in maps))
        size = picture.shape[:2]
        whole = sum(functional.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps)
        assert isinstance(whole, Tensor)
        return float(whole[0, 0][torch.from_numpy(mask).to(device)].mean())


def _unit(features: Tensor) -> Tensor:
    return features / (torch.sqrt((features**2).sum(1, keepdim=True)) + _EPSILON)
