"""Footage of any size to the size the model works at, and its pictures back to the take's size.

Positions are continuous px with pixel centres at .5: resizing maps the picture's edges to each other, padding shifts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
        width, height = footage
        if min(footage) < 1 or (take is not None and min(take) < 1) or working_size < 0:
            raise BadShot(f"footage is {width} x {height} px, the take {take}, working size {working_size}.", "size")
        choose = _padded if fit == "pad" else _stretched
        if working_size:
            content, size = choose(footage, working_size / max(footage), multiple)
        else:
            content, size = _for_area(choose, footage, trained_area, multiple)
        left, top = ((of - part) // 2 for of, part in zip(size, content, strict=True))
        return cls(footage, content, size, left, top, _notes(footage, content, size, take or footage))

    def bring(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture (H, W, 3) or mask (H, W), uint8, of any size, at the model's size: resized, then padded."""
        picture = _resized(picture, self.content)
        if self.content == self.size:
            return picture
        (width, height), (w, h) = self.size, self.content
        right, bottom = width - w - self.left, height - h - self.top
        edges = [(self.top, bottom), (self.left, right), (0, 0)]
        return np.pad(picture, edges[: picture.ndim], mode="edge")

    def take_back(self, picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """A picture or mask of the model's size without its padding, at `size` (width, height)."""
        if picture.shape[1::-1] != self.size:
            raise ValueError(f"the picture is {picture.shape[1::-1]}, the model's size {self.size}")
        width, height = self.content
        content = picture[self.top : self.top + height, self.left : self.left + width]
        return np.ascontiguousarray(_resized(content, size))

    def framing(self, cameras: Cameras) -> Framing:
        """What of the solve's picture (its size may differ from the footage's) the model sees."""
        x, y = cameras.width / self.content[0], cameras.height / self.content[1]  # solve's px per model's px
        return Framing(-self.left * x, -self.top * y, self.size[0] * x, self.size[1] * y)


_Choice = tuple[tuple[int, int], tuple[int, int]]
"""content and size, each (width, height)."""


def _padded(footage: tuple[int, int], scale: float, multiple: int) -> _Choice:
    """The footage scaled, to whole px; each side then padded to the next multiple."""
    width, height = (max(1, round(side * scale)) for side in footage)
    return (width, height), (-(-width // multiple) * multiple, -(-height // multiple) * multiple)


def _stretched(footage: tuple[int, int], scale: float, multiple: int) -> _Choice:
    """The footage scaled, each side to the nearest multiple."""
    width, height = (max(1, round(side * scale / multiple)) * multiple for side in footage)
    return (width, height), (width, height)


def _for_area(
    choose: Callable[[tuple[int, int], float, int], _Choice], footage: tuple[int, int], area: int, multiple: int
) -> _Choice:
    """The largest size that stays within the area; the footage's own, where that is not much smaller."""
    content, size = choose(footage, 1.0, multiple)
    if content == footage and _CLOSE * area <= size[0] * size[1] <= area:
        return content, size
    # Of the scales at which the longer side is a multiple, the largest that fits; there the longer side needs no
    # padding. Each step down takes one multiple off it.
    longer = max(1, math.ceil(math.sqrt(area / (footage[0] * footage[1])) * max(footage) / multiple))
    for count in range(longer, 0, -1):
        content, size = choose(footage, count * multiple / max(footage), multiple)
        if size[0] * size[1] <= area:
            break
    return content, size


def _resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Sides that shrink are averaged, sides that grow are interpolated; the same picture where none changes."""
    height, width = picture.shape[:2]
    smaller = (min(width, size[0]), min(height, size[1]))
    if smaller != (width, height):
        picture = cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if size != smaller:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
    return picture


def _notes(
    footage: tuple[int, int],
    content: tuple[int, int],
    size: tuple[int, int],
    take: tuple[int, int],
) -> tuple[str, ...]:
    def px(wh: tuple[int, int]) -> str:
        return f"{wh[0]} x {wh[1]}"

    notes = []
    if size != take:
        notes.append(f"The model works at {px(size)}, the take is brought back to {px(take)}.")
    if content != size:
        across, down = size[0] - content[0], size[1] - content[1]
        sides = [f"{extra} px {word}" for extra, word in ((across, "across"), (down, "down")) if extra]
        notes.append(f"The edges are continued by {' and '.join(sides)} for the model and cut off again.")
    stretch = content[0] / content[1] * footage[1] / footage[0]
    if abs(stretch - 1) >= 0.01:
        notes.append(f"For the model the picture is stretched by {abs(stretch - 1):.1%} and back.")
    return tuple(notes)
