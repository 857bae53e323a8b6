"""A tracker that comes in from outside: OpenCV's pyramidal Lucas-Kanade, frame by frame. Loaded by RETAKE_TRACKERS."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_backend.engines.base import Report
from retake_backend.solve.stages import PointTracks
from retake_backend.solve.trackers import Answer, Frames, Picture, Tracker, in_windows


class LucasKanade(Tracker):
    name = "lk"
    licence = "Apache-2.0 (OpenCV)"
    window = 20

    def follow(self, frames: Frames, report: Report) -> PointTracks:
        return in_windows(frames, follow_given, report, window=self.window, at_once=20_000, aimed=300)


class Absent(LucasKanade):
    name = "absent"
    licence = "CC BY-NC 4.0"

    @classmethod
    def missing(cls) -> str:
        return "Install its package with pip install absent."


def follow_given(window: list[Picture], queries: NDArray[np.float32]) -> Answer:
    """Both ways from the frame in which each point is given."""
    grays = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in window]
    count = len(grays)
    uv = np.full((count, len(queries), 2), np.nan, np.float32)
    given = queries[:, 0].astype(int)
    uv[given, np.arange(len(queries))] = queries[:, 1:]
    for step, order in ((1, range(count - 1)), (-1, range(count - 1, 0, -1))):
        for t in order:
            rows = np.flatnonzero(((given <= t) if step == 1 else (given >= t)) & np.isfinite(uv[t, :, 0]))
            if len(rows):
                # OpenCV's pixel centres lie at whole numbers.
                before = uv[t, rows] - np.float32(0.5)
                after, found, _ = cv2.calcOpticalFlowPyrLK(grays[t], grays[t + step], before, None, winSize=(15, 15))
                back, _, _ = cv2.calcOpticalFlowPyrLK(grays[t + step], grays[t], after, None, winSize=(15, 15))
                kept = (found[:, 0] == 1) & (np.abs(back - before).max(1) < 0.5)
                uv[t + step, rows[kept]] = after[kept] + np.float32(0.5)
    visible = np.isfinite(uv[..., 0])
    return Answer(uv, visible, visible.astype(np.float32))
