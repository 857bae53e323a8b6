"""What the draft model says, carried over to the footage at the take's size: its pixels stay wherever they agree.

The model works on small pictures. Of what it makes, the take needs the difference to the filled reprojection that it
was given: all of it in the holes, and outside of them only what is smooth, which is light and shadow; the detail is the
footage's.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .diffusion.framing import Fitted
from .diffusion.repainting import widened

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Map = NDArray[np.float32]

SEAM = 2.0
"""px of the model's picture over which the painting fades out around the holes (standard deviation)."""
SMOOTH = 4.0
"""px of the model's picture below which a difference outside the holes is no light (standard deviation)."""
NOTHING = 3.0
"""Levels of 255 up to which a smooth difference is none: the footage's pixels stay as they are."""
AGREES = 12.0
"""Levels of 255 by which the painting may differ in the mean for the preview's detail to stay on it (one e-fold)."""


@dataclass(frozen=True)
class Composition:
    """How pictures of the model's size change those of the take's. size: (width, height) px of the take. widen: px of
    the model's picture by which holes are widened. light: whether smooth changes outside of the holes are carried over.
    """

    fitted: Fitted
    size: tuple[int, int]
    widen: int
    light: bool

    def finished(self, footage: Picture, holes: Mask, moved: Picture, made: Picture) -> Picture:
        """The frame (H, W, 3) uint8 of the take.

        footage: (H, W, 3) uint8, the reprojection at the take's size, its holes (H, W) filled. moved, made: (h, w, 3)
        uint8, what the model was given of it, and its picture. Where nothing changes the footage's pixels come through
        untouched, bit for bit.
        """
        change, detail = self._changes(self.brought(holes), moved, made)
        if not change.any() and (detail == 1).all():
            return footage.copy()
        below = footage.astype(np.float32)
        coarse = self._enlarged(moved.astype(np.float32))
        lost = 1 - np.clip(self._enlarged(detail), 0, 1)[..., None]
        mixed = below + self._enlarged(change) - lost * (below - coarse)
        return np.asarray(np.clip(np.floor(mixed + np.float32(0.5)), 0, 255), np.uint8)

    def mostly(self, holes: Mask) -> Mask:
        """Holes at the model's size as its training showed them: every pixel that is mostly hole."""
        return np.asarray(self._covered(holes) > 127)

    def brought(self, holes: Mask) -> Mask:
        """Holes at the model's size: every pixel with some of a hole in it."""
        return np.asarray(self._covered(holes) > 0)

    def _covered(self, holes: Mask) -> Picture:
        """How much of each pixel of the model's size is hole, (h, w) uint8, 255 = all."""
        return self.fitted.bring(holes.astype(np.uint8) * 255)

    def _changes(self, holes: Mask, moved: Picture, made: Picture) -> tuple[Map, Map]:
        """What is added (h, w, 3), and how much of the reprojection's detail stays (h, w), at the model's size."""
        difference = made.astype(np.float32) - moved
        painted = widened(holes[None], self.widen, specks=0)[0]
        share = _feathered(painted)[..., None]
        smooth = _blurred_outside(difference, painted)
        light = np.sign(smooth) * np.maximum(np.abs(smooth) - NOTHING, 0) if self.light else np.zeros_like(smooth)
        change = light + share * (difference - light)
        apart = np.abs(cv2.GaussianBlur(difference, (0, 0), SMOOTH)).mean(-1)
        agrees = np.exp(-((apart / AGREES) ** 2))
        detail = 1 - share[..., 0] * (1 - agrees)
        return change.astype(np.float32), detail.astype(np.float32)

    def _enlarged(self, values: Map) -> Map:
        """A map of the model's size without its padding, at the take's."""
        (width, height), fitted = self.fitted.content, self.fitted
        content = values[fitted.top : fitted.top + height, fitted.left : fitted.left + width]
        if (width, height) == self.size:
            return content
        shrinks = self.size[0] < width
        return np.asarray(
            cv2.resize(content, self.size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.float32
        )


def _feathered(mask: Mask) -> Map:
    """1 inside the mask (h, w), falling to exactly 0 over three times the seam around it."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    faded = np.exp(-((distance / SEAM) ** 2) / 2)
    return np.where(distance < 3 * SEAM, faded, 0).astype(np.float32)


def _blurred_outside(difference: Map, painted: Mask) -> Map:
    """The smooth part of a difference (h, w, 3), by what lies outside of `painted` (h, w) alone."""
    weight = (~painted).astype(np.float32)
    total = cv2.GaussianBlur(difference * weight[..., None], (0, 0), SMOOTH)
    covered = cv2.GaussianBlur(weight, (0, 0), SMOOTH)
    return np.asarray(total / np.maximum(covered, 1e-3)[..., None], np.float32)
