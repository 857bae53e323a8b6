"""One training example: two videos of the same thing, and what is known of how the first became the second.

It is a take with its truth, in the project's own words: `source` is the footage, `solve` its solve, `edit` what was
changed, and `target` the footage that would have been shot had the scene been so. Whatever renders, conditions on or
measures edits therefore works on training examples as it does on an artist's shot; the sample shot is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.shot import Edit, Solve

Video = NDArray[np.uint8]


@dataclass(frozen=True)
class Moved:
    """The source as `preview` moves it along the edit. rgb: (F, H, W, 3) uint8 sRGB, holes filled smoothly; holes:
    (F, H, W) bool, True where no frame of the source shows the place."""

    rgb: Video
    holes: NDArray[np.bool_]


@dataclass(frozen=True)
class Pair:
    """One example of F frames of H x W px.

    source, target: (F, H, W, 3) uint8 sRGB. solve: of the source. edit: source -> target; target frame t is the
    edit's frame t. moved: the reprojection, where somebody made it already. caption: what is seen, "" where nobody
    said. origin: plain JSON values that tell where it is from: "kind" ("synthetic", "generated" or "real"), "name",
    and whatever makes it again, such as a seed. Raises BadShot when the parts do not belong together.
    """

    source: Video
    target: Video
    solve: Solve
    edit: Edit
    moved: Moved | None = None
    fps: Fraction = Fraction(16)
    caption: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.source.shape
        if self.source.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
            raise BadShot(f"is {self.source.dtype} of shape {shape}.", "pair.source", "Expected uint8 (F, H, W, 3).")
        videos = {"target": self.target, **({"moved": self.moved.rgb} if self.moved else {})}
        for name, video in videos.items():
            if video.shape != shape or video.dtype != np.uint8:
                raise BadShot(f"is {video.dtype} of shape {video.shape}.", f"pair.{name}", f"Expected uint8 {shape}.")
        if self.moved and self.moved.holes.shape != shape[:3]:
            raise BadShot(f"shape is {self.moved.holes.shape}.", "pair.moved.holes", f"Expected {shape[:3]}.")
        if len(self.solve) != shape[0]:
            raise BadShot(f"covers {len(self.solve)} frames, the source has {shape[0]}.", "pair.solve")
        cameras = self.solve.cameras
        if abs(cameras.width * shape[1] - cameras.height * shape[2]) > max(shape):  # more than a px of proportion
            raise BadShot(
                f"is of a picture of {cameras.width} x {cameras.height} px, the source has {shape[2]} x {shape[1]}.",
                "pair.solve",
            )
        self.edit.check_against(self.solve)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) px."""
        return self.source.shape[2], self.source.shape[1]

    def frames(self, start: int, stop: int) -> Pair:
        """The example over frames start .. stop - 1. A retimed edit may show source frames that are left out."""
        moved = self.moved and Moved(self.moved.rgb[start:stop], self.moved.holes[start:stop])
        edit = self.edit.frames(start, stop)
        return replace(
            self,
            source=self.source[start:stop],
            target=self.target[start:stop],
            solve=self.solve.frames(start, stop),
            edit=replace(edit, source_frame=edit.source_frame - start),
            moved=moved,
        )
