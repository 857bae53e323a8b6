"""The footage moved along the edit by geometry alone: what a diffusion engine starts from or is controlled by."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..base import RenderRequest, Report
from ..preview import PreviewEngine

Fill = Literal["all", "frames", "none"]
"""What lies in the holes, as the preview calls it: "all" invention, "frames" and "none" grey."""

IN_MEMORY = 1 << 30
"""Bytes of pictures above which they are kept in a temporary file."""


@dataclass(frozen=True)
class Reprojection:
    """The preview of a range of frames.

    start: footage frame of the first picture. rgb: (T, H, W, 3) uint8 sRGB. holes: (T, H, W) bool, True where no frame
    of the footage shows this place. notes: what the preview had to decide, in words for the artist.
    """

    start: int
    rgb: NDArray[np.uint8]
    holes: NDArray[np.bool_]
    notes: tuple[str, ...]

    def frames(self, indices: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """rgb and holes of footage frames `indices`, in any order, repeats allowed."""
        at = np.asarray(indices, np.int64) - self.start
        if len(at) and not (at.min() >= 0 and at.max() < len(self.rgb)):
            raise IndexError(f"frames {min(indices)} .. {max(indices)} leave those from {self.start}")
        return np.asarray(self.rgb[at]), np.asarray(self.holes[at])


def reprojected(
    request: RenderRequest,
    report: Report,
    frames: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    fill: Fill = "all",
) -> Reprojection:
    """The preview of frames [start, stop) of the shot, whatever engine and options the request names.

    Rendered at once, not window by window: the preview learns the whole shot before its first frame, and its threads
    read the footage. frames: None = the request's range; windows may reach up to 3 beyond it. size: (width, height)
    px; None = the take's own. report hears of its progress and may raise Cancelled. Raises what the preview raises
    (BadShot, BadFile).
    """
    settings, footage = request.settings, request.footage.footage
    start, stop = frames or settings.frame_range(request.solve)
    width, height = size or settings.size or (footage.width, footage.height)
    own = replace(settings, engine="preview", frames=(start, stop), size=(width, height), options={"fill": fill})
    engine = PreviewEngine()
    rgb = _room((stop - start, height, width, 3), np.uint8)
    holes = _room((stop - start, height, width), np.bool_)
    for frame in engine.render(replace(request, settings=own), report):
        rgb[frame.index - start] = frame.rgb
        np.greater(frame.holes, 0, out=holes[frame.index - start])
    return Reprojection(start, rgb, holes, engine.notes())


def _room(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An empty array, in a nameless temporary file where it is large."""
    if int(np.prod(shape)) * np.dtype(dtype).itemsize <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)
