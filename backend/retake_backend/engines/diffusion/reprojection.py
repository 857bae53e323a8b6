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

Fill = Literal["all", "smooth", "frames", "none"]
"""What lies in the holes, as the preview calls it: "all" and "smooth" invention, "frames" and "none" grey."""

IN_MEMORY = 1 << 30
"""Bytes of pictures above which they are kept in a temporary file."""


@dataclass(frozen=True)
class Moved:
    """Reprojected frames. rgb: (F, H, W, 3) uint8 sRGB; holes: (F, H, W) bool, True where no frame shows this place."""

    rgb: NDArray[np.uint8]
    holes: NDArray[np.bool_]


class Reprojection:
    """The preview of frames [start, stop), the request's range, whatever engine and options the request names.

    Constructing it is cheap. All frames are rendered when the first is asked for, not window by window: the preview
    learns the whole shot before its first frame, and its threads read the footage. size: (width, height) px; None =
    the take's own.
    """

    def __init__(self, request: RenderRequest, size: tuple[int, int] | None = None, fill: Fill = "all") -> None:
        settings, footage = request.settings, request.footage.footage
        self.start, self.stop = settings.frame_range(request.solve)
        self.size = size or settings.size or (footage.width, footage.height)
        # The footage's own size is not asked for: footage may be larger than takes that are asked for.
        own = replace(settings, engine="preview", size=size or settings.size, options={"fill": fill})
        self._request = replace(request, settings=own)
        self._made: Moved | None = None
        self._notes: tuple[str, ...] = ()

    def frames(self, indices: Sequence[int], report: Report) -> Moved:
        """Footage frames `indices`, in any order, repeats allowed, all in [start, stop).

        report hears of the rendering, if this is the first call, and may raise Cancelled. Raises IndexError, and what
        the preview raises (BadShot, BadFile).
        """
        at = np.asarray(indices, np.int64) - self.start
        if len(at) and not (at.min() >= 0 and at.max() < self.stop - self.start):
            raise IndexError(f"frames {min(indices)} .. {max(indices)} are not all in {self.start} .. {self.stop - 1}")
        if self._made is None:
            self._made = self._rendered(report)
        return Moved(np.asarray(self._made.rgb[at]), np.asarray(self._made.holes[at]))

    def notes(self) -> tuple[str, ...]:
        """What the preview had to decide, in words for the artist; nothing before the first frame."""
        return self._notes

    def _rendered(self, report: Report) -> Moved:
        count, (width, height) = self.stop - self.start, self.size
        rgb, holes = _room((count, height, width, 3), np.uint8), _room((count, height, width), np.bool_)
        engine = PreviewEngine()
        for frame in engine.render(self._request, report):
            rgb[frame.index - self.start] = frame.rgb
            np.greater(frame.holes, 0, out=holes[frame.index - self.start])
        self._notes = engine.notes()
        return Moved(rgb, holes)


def _room(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An empty array, in a nameless temporary file where it is large."""
    if int(np.prod(shape)) * np.dtype(dtype).itemsize <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)
