"""Blender's own tracker and solver on a folder of frames, as an artist in a hurry runs them. Runs on Blender's side.

    python solve_libmv.py FRAMES OUT.npz        (frame_00000.png ..; writes the arrays of `solve.Found`)

Features are detected in the first frame, the middle and the last, tracked both ways, solved with automatic keyframes
and the focal length refined; tracks that miss are removed and the clip is solved again. Where that fails, the tripod
solver is tried.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bpy
import numpy as np

THRESHOLD, APART, MARGIN = 0.1, 24, 16
"""Detection: features lie 1/APART of the longer side apart. Far more than Blender's own settings find (120 px), which
is what one would set for such a clip."""
ERROR = 2.0
"""px: tracks whose mean error is above it are removed before the second solve."""


def main(folder: Path, out: Path) -> None:
    seconds: dict[str, float] = {}
    bpy.ops.wm.read_factory_settings()
    clip = bpy.data.movieclips.load(str(folder / "frame_00000.png"))
    width, height = clip.size
    count = clip.frame_duration
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, count
    window = bpy.context.window_manager.windows[0]
    area = window.screen.areas[0]
    area.type = "CLIP_EDITOR"
    area.spaces.active.clip = clip
    region = next(r for r in area.regions if r.type == "WINDOW")
    settings = clip.tracking.settings
    settings.default_frames_limit = 0
    settings.use_keyframe_selection = True
    settings.refine_intrinsics_focal_length = True
    settings.use_default_normalization = True

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0) + time.perf_counter() - began

    with bpy.context.temp_override(window=window, area=area, region=region):
        for frame in (1, (1 + count) // 2, count):
            scene.frame_set(frame)
            bpy.ops.clip.select_all(action="DESELECT")
            with stage("detect"):
                bpy.ops.clip.detect_features(
                    placement="FRAME", threshold=THRESHOLD, min_distance=max(width, height) // APART, margin=MARGIN
                )
            with stage("track"):
                if frame < count:
                    bpy.ops.clip.track_markers(backwards=False, sequence=True)
                    scene.frame_set(frame)
                if frame > 1:
                    bpy.ops.clip.track_markers(backwards=True, sequence=True)
        error = ""
        with stage("solve"):
            for tripod in (False, True):
                settings.use_tripod_solver = tripod
                error = _solve(clip)
                if not error and not tripod:
                    bpy.ops.clip.clean_tracks(frames=0, error=ERROR, action="DELETE_TRACK")
                    error = _solve(clip)
                if not error:
                    break

    c2w = np.full((count, 4, 4), np.nan)
    tracks = list(clip.tracking.tracks)
    uv = np.full((count, len(tracks), 2), np.nan)
    world = np.full((len(tracks), 3), np.nan)
    if not error:
        for camera in clip.tracking.reconstruction.cameras:
            if 1 <= camera.frame <= count:
                c2w[camera.frame - 1] = np.array(camera.matrix.normalized()) @ np.diag([1, -1, -1, 1])
    for i, track in enumerate(tracks):
        if track.has_bundle:
            world[i] = track.bundle
        for marker in track.markers:
            if not marker.mute and 1 <= marker.frame <= count:
                uv[marker.frame - 1, i] = marker.co[0] * width, (1 - marker.co[1]) * height
    focal = np.full(count, clip.tracking.camera.focal_length_pixels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.savez(
        out, c2w=c2w, focal=focal, uv=uv, world=world, error=error, peak_mb=peak,
        note="tripod solver" if settings.use_tripod_solver and not error else "",
        stages=list(seconds), seconds=list(seconds.values()),
    )  # fmt: skip


def _solve(clip: bpy.types.MovieClip) -> str:
    """What went wrong, or nothing."""
    try:
        bpy.ops.clip.solve_camera()
    except RuntimeError as error:
        return str(error).strip()
    reconstruction = clip.tracking.reconstruction
    if not reconstruction.is_valid or not len(reconstruction.cameras):
        return "no valid reconstruction"
    return ""


if __name__ == "__main__":
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    main(Path(words[0]), Path(words[1]))
