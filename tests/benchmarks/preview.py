"""How fast the preview engine renders: the sample shot's edit, 672x384 with about 2000 tracks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from retake_backend.engines.base import RenderRequest
from retake_backend.engines.preview import PreviewEngine
from retake_backend.footage import FootageReader
from retake_shared import archive
from retake_shared.shot import RenderSettings

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "sample_shot"


def measure(frames: int = 81) -> dict[str, Any]:
    """Frames per second of a whole take, preparation included, decoding not; and against cv2.remap of as many frames.

    preview_remap_ratio: seconds of the take over seconds of one bicubic remap of each frame in the same run.
    """
    solve = archive.load_solve(SAMPLE / "walk.solve.npz")
    edit = archive.load_edit(SAMPLE / "edited.edit.npz")
    with FootageReader(SAMPLE / "walk.mp4") as footage:
        pictures = list(footage.frames())  # stay in the reader's memory
        request = RenderRequest(footage, solve, edit, RenderSettings(frames=(0, frames)))
        began = time.perf_counter()
        first = 0.0
        for frame in PreviewEngine().render(request, lambda progress: None):
            first = first or time.perf_counter() - began
            height, width = frame.rgb.shape[:2]
        seconds = time.perf_counter() - began

        x, y = np.meshgrid(np.arange(width, dtype=np.float32) + 0.3, np.arange(height, dtype=np.float32) + 0.3)
        began = time.perf_counter()
        for picture in pictures[:frames]:
            cv2.remap(picture, x, y, cv2.INTER_CUBIC)
        remap = time.perf_counter() - began
    return {
        "preview_fps": frames / seconds,
        "preview_remap_ratio": seconds / remap,
        "preview_first_frame_seconds": first,
        "preview_frames": frames,
        "preview_size": [width, height],
        "preview_tracks": len(solve.tracks),
    }
