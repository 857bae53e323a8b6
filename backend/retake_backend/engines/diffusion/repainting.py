"""What of a picture is painted anew, and how the painting joins what stays."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Pictures = NDArray[np.uint8]

SPECK = 16
"""px of the model's picture: a hole of up to so many is no place that the model should paint."""
SEAM = 8.0
"""px of the model's picture over which the footage's own pixels take over from the painting."""


def widened(holes: Mask, grow: int, specks: int = SPECK) -> Mask:
    """Where the take is painted: `holes` (F, H, W) widened by `grow` px.

    Holes of up to `specks` px are left out: a painted cell would be more of a change than what the preview fills in.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
    mask = np.zeros_like(holes)
    for out, hole in zip(mask, holes, strict=True):
        if hole.any():
            out[:] = cv2.dilate(_without_specks(hole, specks).astype(np.uint8), kernel) > 0
    return mask


def whole_cells(mask: Mask, block: int = 8) -> Mask:
    """Every block x block cell that `mask` (F, H, W) touches; H and W are multiples of `block`.

    A cell of latents holds block x block px: the model makes it anew or keeps it as a whole.
    """
    frames, height, width = mask.shape
    cells = mask.reshape(frames, height // block, block, width // block, block).any((2, 4))
    return cells.repeat(block, 1).repeat(block, 2)


def _without_specks(hole: Mask, specks: int) -> Mask:
    """The hole (H, W) without its parts of up to `specks` px; parts up to 4 px apart are one, as along a torn edge."""
    near = cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8))
    count, part = cv2.connectedComponents(near)
    sizes = np.bincount(part[hole], minlength=count)
    return np.asarray(hole & (sizes > specks)[part])


def painted_over(footage: Pictures, painting: Pictures, mask: Mask, seam: float) -> Pictures:
    """One picture (H, W, 3): the footage as it is, but painted inside `mask` (H, W), fading out over `seam` px around.

    Outside of mask and seam the footage's pixels are untouched.
    """
    if not mask.any():
        return footage.copy()
    if mask.all():
        return painting.copy()
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share = np.clip(1 - distance / np.float32(max(seam, 1e-3) + 1), 0, 1)[..., None]
    below = footage.astype(np.float32)
    blended = np.floor(below + share * (painting.astype(np.float32) - below) + np.float32(0.5)).astype(np.uint8)
    return np.where(mask[..., None], painting, blended)
