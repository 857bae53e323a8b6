"""What of a picture is painted anew, and how the painting joins what stays."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Pictures = NDArray[np.uint8]

SEAM = 8.0
"""px of the model's picture over which the footage's own pixels take over from the painting."""


def repaint_mask(holes: Mask, grow: int, block: int = 8) -> Mask:
    """Where the model paints: `holes` (F, H, W) widened by `grow` px, then every block x block cell they touch.

    A cell of latents holds block x block px: it is painted or kept as a whole. H and W are multiples of `block`.
    """
    height, width = holes.shape[1:]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
    mask = np.zeros_like(holes)
    for out, hole in zip(mask, holes, strict=True):
        if not hole.any():
            continue
        wide = cv2.dilate(hole.astype(np.uint8), kernel)
        cells = wide.reshape(height // block, block, width // block, block).any((1, 3))
        out[:] = cells.repeat(block, 0).repeat(block, 1)
    return mask


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
