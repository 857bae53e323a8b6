"""Footage of any size to the size the model works at, and its pictures back to the take's size.

Positions are continuous px with pixel centres at .5: resizing maps the picture's edges to each other, padding shifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

from ...conditioning.coordinates import Framing

Fit = Literal["pad", "resize"]
TRAINED_AREA = 384 * 672
"""px of the pictures that the papers trained their models on (Wan 1.3B)."""
_CLOSE = 0.75
"""Footage of this share of the trained area, or more, keeps its pixels: resampling would cost more than it gains."""


@dataclass(frozen=True)
class Fitted:
    """How one size of footage comes to the model's size. All sizes are (width, height) in px.

    footage: as shot. content: the footage once resized. size: the model's picture, multiples of 16 (or as asked).
    left, top: where the content begins in it; around it the edges are continued. notes: what was decided, in words.
    """

    footage: tuple[int, int]
    content: tuple[int, int]
    size: tuple[int, int]
    left: int
    top: int
    notes: tuple[str, ...] = ()

    @classmethod
    def plan(
        cls,
        footage: tuple[int, int],
        fit: Fit = "pad",
        working_size: int = 0,
        trained_area: int = TRAINED_AREA,
        multiple: int = 16,
        take: tuple[int, int] | None = None,
    ) -> Fitted:
        """footage: (width, height). working_size: longer side to work at, 0 = the area that the model was trained on,
        to which small footage is brought up, too. take: size that pictures are brought back to, for the notes; None =
        the footage's. Raises BadShot for sizes below 1.
        """
        raise NotImplementedError

    @property
    def identity(self) -> bool:
        """Whether the footage already has the model's size: nothing is resampled or padded."""
        return self.footage == self.content == self.size

    def bring(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture (H, W, 3) or mask (H, W), uint8, of any size, at the model's size: resized, then padded."""
        raise NotImplementedError

    def take_back(self, picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """A picture or mask of the model's size without its padding, at `size` (width, height)."""
        raise NotImplementedError

    def framing(self, cameras: Cameras) -> Framing:
        """What of the solve's picture (its size may differ from the footage's) the model sees."""
        raise NotImplementedError
