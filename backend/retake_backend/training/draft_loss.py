"""How far a made picture is from the truth, measured by how far the reprojection was that it had to correct."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d


@dataclass(frozen=True)
class LossSettings:
    """What counts how much: the holes, the edges (within `edge` px of a hole), and the rest of the picture.

    floor: levels of 255. In each part the mean squared distance is divided by the root of the reprojection's own and
    the floor's: half way between squares, by which only the examples count where nearly all is missing, and shares of
    the reprojection's error, by which those count most where there is nothing to correct.
    """

    holes: float = 1.0
    edges: float = 0.5
    rest: float = 0.5
    edge: int = 4
    floor: float = 3.0


def correction_loss(
    made: Tensor, filled: Tensor, truth: Tensor, holes: Tensor, settings: LossSettings
) -> tuple[Tensor, dict[str, float]]:
    """The weighted mean over examples and parts of the squared distance, divided as `LossSettings` says; and each part's.

    made: the picture; filled: the reprojection that it corrects; truth: all (B, 3, F, H, W) in [-1, 1]. holes
    (B, 1, F, H, W) in {0, 1}. A squared distance is least for the mean of all that may be there, which is what one step
    from noise can know.
    """
    holes, width = holes.float(), 2 * settings.edge + 1
    near = max_pool3d(holes, (1, width, width), 1, (0, settings.edge, settings.edge))
    parts = {
        "holes": (settings.holes, holes),
        "edges": (settings.edges, near - holes),
        "rest": (settings.rest, 1 - near),
    }
    left = (made.float() - truth.float()).square().mean(1, keepdim=True)
    before = (filled.float() - truth.float()).square().mean(1, keepdim=True)
    floor = (settings.floor / 127.5) ** 2
    total, weights = made.new_zeros((), dtype=torch.float32), 0.0
    told = {}
    for name, (weight, part) in parts.items():
        size = part.flatten(1).sum(1)
        some = size > 0
        if not some.any():
            continue
        remains = (left * part).flatten(1).sum(1)[some] / size[some]
        was = (before * part).flatten(1).sum(1)[some] / size[some]
        share = (remains / (was + floor).sqrt()).mean()
        total = total + weight * share
        weights += weight
        told[name] = float(share.detach())
    return total / max(weights, 1e-9), told
