"""What the user knows and a file may not say: the lens, the picture's size, which camera of several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import geometry
from ..errors import BadFile
from ..shot import Footage

ASSUMED_FOV = 50.0
"""Degrees across the width: between a phone (65) and a 50 mm lens (40), taken when nobody says better."""

ASSUMED_SIZE = (1280, 720)


@dataclass(frozen=True)
class Hints:
    """Used only where the file itself says nothing.

    fov: field of view across the picture's width in degrees. size: (width, height) in px of the picture that was
    solved or tracked. camera: the name of one of several cameras in a file.
    """

    fov: float | None = None
    size: tuple[int, int] | None = None
    camera: str = ""

    def __post_init__(self) -> None:
        if self.fov is not None and not 0.1 <= self.fov <= 170:
            raise BadFile(f"a field of view of {self.fov:g} degrees.", "fov", "Give 0.1 to 170 degrees.")
        if self.size is not None and not all(1 <= side <= 65536 for side in self.size):
            raise BadFile(
                f"a picture of {self.size[0]}x{self.size[1]} px.", "size", "Give the footage's width, height."
            )

    def picture_size(self, footage: Footage | None) -> tuple[tuple[int, int], list[str]]:
        """(width, height) for a file that names none: what the user said, the footage's, else an assumed one, told."""
        if self.size is not None:
            return self.size, []
        if footage is not None:
            return (footage.width, footage.height), []
        width, height = ASSUMED_SIZE
        return ASSUMED_SIZE, [f"The file does not tell its picture size: {width}x{height} is assumed."]

    def lens(self, size: tuple[int, int], frames: int) -> tuple[geometry.Array, list[str]]:
        """K (T, 3, 3) for a file without intrinsics, the principal point in the middle, and a note."""
        fov = ASSUMED_FOV if self.fov is None else self.fov
        focal = size[0] / 2 / np.tan(np.radians(fov) / 2)
        K = np.tile(geometry.intrinsics(focal, focal, size[0] / 2, size[1] / 2), (frames, 1, 1))
        if self.fov is not None:
            return K, [f"The file has no focal length: a field of view of {fov:g} degrees, as given, is used."]
        return K, [
            f"The file has no focal length: a field of view of {fov:g} degrees across the width is assumed. Give the "
            "real one (--fov) for a camera that fits the footage."
        ]
