"""FVD (Unterthiner et al. 2018): the Frechet distance between what I3D sees in two sets of videos.

The network is I3D RGB trained on Kinetics-400 (Carreira and Zisserman 2017) with its 400 logits, as the published FVD
uses it. Weights: the public `rgb_imagenet.pt` of pytorch-i3d as safetensors, in its own names.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor, nn
from torch.nn import functional

from .networks import load_weights

SIDE, LEAST_FRAMES = 224, 9
"""px of the square that I3D sees; frames below which it has nothing to average over."""

_MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
_POOL_BEFORE = {
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}

Shape = tuple[int, int, int]


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Between the Gaussians of features a (n, d) and b (m, d): |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)).

    nan for fewer than two of either.
    """
    if min(len(a), len(b)) < 2:
        return float("nan")
    # With fewer videos than features the covariances are singular; tr (A B)^(1/2) is the nuclear norm of Xa Xb^T,
    # where A = Xa^T Xa: exact, and no square root of an unsound matrix is taken.
    means, spreads = [], []
    for features in (np.asarray(a, np.float64), np.asarray(b, np.float64)):
        means.append(features.mean(0))
        spreads.append((features - features.mean(0)) / np.sqrt(len(features) - 1))
    common = linalg.svdvals(spreads[0] @ spreads[1].T).sum()
    return float(((means[0] - means[1]) ** 2).sum() + sum((s**2).sum() for s in spreads) - 2 * common)


class I3d(nn.Module):
    """The RGB stream up to its logits."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, 64, (7, 7, 7), (2, 2, 2))
        self.Conv3d_2b_1x1 = _Unit(64, 64)
        self.Conv3d_2c_3x3 = _Unit(64, 192, (3, 3, 3))
        for name, (width, widths) in _MIXED.items():
            self.add_module(name, _Mixed(width, widths))
        self.logits = _Logits(classes)

    @classmethod
    def load(cls, path: Path) -> I3d:
        """With the weights of a file. Raises BadFile."""
        model = cls()
        load_weights(model, path, {n: n for n in model.state_dict() if not n.endswith("num_batches_tracked")})
        return model.eval()

    def forward(self, videos: Tensor) -> Tensor:
        """Logits (N, classes), mean over time, of videos (N, 3, T, 224, 224) in [-1, 1]."""
        x = _pool(self.Conv3d_1a_7x7(videos), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in _MIXED:
            if name in _POOL_BEFORE:
                x = _pool(x, *_POOL_BEFORE[name])
            x = self.get_submodule(name)(x)
        x = functional.avg_pool3d(x, (2, 7, 7), 1)
        logits: Tensor = self.logits.conv3d(x)
        return logits.mean((2, 3, 4))

    @torch.inference_mode()
    def features(self, video: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(classes,) of one video (T, H, W, 3), which is squeezed to the square that I3D sees."""
        small = [cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for picture in video]
        device = self.logits.conv3d.weight.device
        clip = torch.from_numpy(np.stack(small).astype(np.float32)).to(device).permute(3, 0, 1, 2)[None] / 127.5 - 1
        return np.asarray(self(clip)[0].double().cpu().numpy())


class _Logits(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, classes, 1)


class _Unit(nn.Module):
    """Convolution, normalisation, ReLU; padded as TensorFlow's SAME pads."""

    def __init__(self, width: int, out: int, kernel: Shape = (1, 1, 1), stride: Shape = (1, 1, 1)) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(width, out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out, eps=1e-3)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv3d(_same(x, self.kernel, self.stride))))


class _Mixed(nn.Module):
    def __init__(self, width: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Unit(width, widths[0])
        self.b1a, self.b1b = _Unit(width, widths[1]), _Unit(widths[1], widths[2], (3, 3, 3))
        self.b2a, self.b2b = _Unit(width, widths[3]), _Unit(widths[3], widths[4], (3, 3, 3))
        self.b3b = _Unit(width, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.b3b(_pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], 1)


def _same(x: Tensor, kernel: Shape, stride: Shape) -> Tensor:
    padding: list[int] = []
    for length, size, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(size - (step if length % step == 0 else length % step), 0)
        padding += [total // 2, total - total // 2]
    return functional.pad(x, padding)


def _pool(x: Tensor, kernel: Shape, stride: Shape) -> Tensor:
    # Everything pooled comes from a ReLU, so that zeros around it change no maximum.
    return functional.max_pool3d(_same(x, kernel, stride), kernel, stride)
