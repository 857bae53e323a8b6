"""The yardstick: a take that is the footage itself, whatever was asked for."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from ..engines.base import Progress, RenderedFrame, RenderRequest, Report


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
