"""Footage as Blender sees it: a movie clip, its facts, and the scene settings under which its frames are exact."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path

import bpy
from retake_shared.errors import BadFile
from retake_shared.shot import Footage

from . import sequencer
from .pairing import PICTURES


def load_clip(path: str) -> bpy.types.MovieClip:
    """The video, picture sequence (its first picture) or folder of pictures at `path` as a new movie clip.

    Raises BadFile when it is not there or holds no picture that Blender can read.
    """
    file = Path(bpy.path.abspath(path))
    if file.is_dir():
        pictures = sorted(p for p in file.iterdir() if p.suffix.lower() in PICTURES)
        if not pictures:
            raise BadFile("holds no pictures.", str(file), "Choose a video, or a folder of PNG, JPEG or EXR files.")
        file = pictures[0]
    if not file.is_file():
        raise BadFile("is not there.", str(file), "Choose the video again.")
    try:
        clip = bpy.data.movieclips.load(str(file))
    except RuntimeError as error:
        raise BadFile("cannot be opened.", str(file), "Check that you may read it.") from error
    if clip.size[0] <= 0 or clip.size[1] <= 0 or clip.frame_duration <= 0:
        bpy.data.movieclips.remove(clip)
        raise BadFile(
            "holds no picture that Blender can read.", str(file), "Choose a video file, or convert it to H.264 or PNG."
        )
    return clip


def footage_of(clip: bpy.types.MovieClip, scene: bpy.types.Scene) -> Footage:
    """What Blender knows of the clip. A picture sequence has no rate of its own and gets the scene's."""
    rate = clip.fps if clip.source == "MOVIE" else 0.0
    return Footage(
        path=bpy.path.abspath(clip.filepath),
        width=clip.size[0],
        height=clip.size[1],
        fps=exact_rate(rate if rate > 0 else scene.render.fps / scene.render.fps_base),
        frames=clip.frame_duration,
    )


def probe(path: str, scene: bpy.types.Scene) -> Footage:
    """The footage at `path`, nothing left in the .blend. Raises BadFile."""
    clip = load_clip(path)
    try:
        return footage_of(clip, scene)
    finally:
        bpy.data.movieclips.remove(clip)


def exact_rate(rate: float) -> Fraction:
    """The frame rate that a float32 stands for: whole, n * 1000 / 1001, or the nearest fraction."""
    for candidate in (Fraction(round(rate)), Fraction(round(rate * 1.001) * 1000, 1001)):
        if candidate and abs(float(candidate) - rate) < 2e-6 * rate:
            return candidate
    return Fraction(rate).limit_denominator(10_000)


def scene_rate(fps: Fraction) -> tuple[int, float]:
    """(fps, fps_base) of a scene that plays at that rate: 24000/1001 becomes 24 and 1.001."""
    whole = max(round(fps), 1)
    return whole, float(whole / fps)


def settings_at_stake(scene: bpy.types.Scene, footage: Footage) -> list[str]:
    """What of the artist's scene would change, in words; empty when the scene is not in use or fits already."""
    keyed = any(ob.animation_data and ob.animation_data.action for ob in scene.objects)
    if not (keyed or sequencer.strips(scene)):
        return []
    changes = []
    render = scene.render
    fps, base = scene_rate(footage.fps)
    if (render.fps, round(render.fps_base, 5)) != (fps, round(base, 5)):
        changes.append(f"frame rate {render.fps / render.fps_base:.3f} to {float(footage.fps):.3f}")
    if (render.resolution_x, render.resolution_y) != (footage.width, footage.height):
        changes.append(f"size {render.resolution_x}x{render.resolution_y} to {footage.width}x{footage.height}")
    if scene.view_settings.view_transform != "Standard":
        changes.append(f"view transform {scene.view_settings.view_transform} to Standard")
    return changes


def apply_settings(
    scene: bpy.types.Scene, footage: Footage, frames: int, start: int, aspect: tuple[float, float]
) -> None:
    """Give the scene the footage's rate, size, pixel aspect and range, and a view transform that changes no colour."""
    render = scene.render
    render.fps, render.fps_base = scene_rate(footage.fps)
    render.resolution_x, render.resolution_y, render.resolution_percentage = footage.width, footage.height, 100
    render.pixel_aspect_x, render.pixel_aspect_y = aspect
    scene.frame_start, scene.frame_end = start, start + frames - 1
    with contextlib.suppress(TypeError):  # a studio's own colour configuration may have other names, or other needs
        scene.view_settings.view_transform = "Standard"
        scene.view_settings.look = "None"
    scene.view_settings.exposure, scene.view_settings.gamma = 0.0, 1.0
