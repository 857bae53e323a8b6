"""What an engine must be better than: the footage itself, and the preview with its holes filled smoothly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from ..engines.base import Progress, RenderedFrame, RenderRequest, Report
from ..engines.preview import PreviewEngine


class CopyEngine:
    """Gives every frame of the range as it was filmed; no place counts as invented."""

    name = "copy"
    version = "1"

    def notes(self) -> tuple[str, ...]:
        return ()

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        start, stop = request.settings.frame_range(request.solve)
        for t in range(start, stop):
            report(Progress("copying", t - start, stop - start))
            picture = request.footage.frame(t)
            size = request.settings.size
            if size is not None and size != picture.shape[1::-1]:
                picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
            yield RenderedFrame(t, picture, np.zeros(picture.shape[:2], np.uint8))


class SmoothEngine:
    """The preview, its holes filled smoothly: what `draft` starts from, and must make better."""

    name = "smooth"
    version = "1"

    def __init__(self) -> None:
        self._preview = PreviewEngine()

    def notes(self) -> tuple[str, ...]:
        return self._preview.notes()

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        settings = replace(request.settings, engine="preview", options={"fill": "smooth"})
        yield from self._preview.render(replace(request, settings=settings), report)
