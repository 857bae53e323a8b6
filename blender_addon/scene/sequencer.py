"""Footage and takes as strips in the Video Sequencer, exact in colour and position.

Data API only: the strip operators need a window. A strip's fit is baked from the scene's size when it is made, so the
scene has the footage's size first (`footage_clip.apply_settings`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import bpy

FOOTAGE_CHANNEL = 1
"""The footage lies at the bottom, takes above it."""

MOST_BYTES = 61
"""Of a strip's name: Blender cuts off the rest, and then finds no strip by the whole name."""


def scene_of(context: bpy.types.Context) -> bpy.types.Scene:
    """The scene whose sequencer the artist sees: since 5.0 the workspace may show another than the window."""
    return getattr(context.workspace, "sequencer_scene", None) or context.scene


def strips(scene: bpy.types.Scene) -> list[bpy.types.Strip]:
    """The top-level strips of the scene; empty when it has no sequencer yet."""
    return list(_collection(scene.sequence_editor)) if scene.sequence_editor else []


def label(shot: str, what: str) -> str:
    """The name of a strip that shows something of a shot, by which it is found again: short enough for Blender."""
    room = MOST_BYTES - len(f" {what}".encode())
    return f"{shot.encode()[:room].decode(errors='ignore')} {what}"


def find(scene: bpy.types.Scene, name: str) -> bpy.types.Strip | None:
    """The strip of that name, or None."""
    return next((strip for strip in strips(scene) if strip.name == name), None)


def span(strip: bpy.types.Strip) -> tuple[int, int]:
    """(first scene frame, the one after the last) that the strip shows."""
    if hasattr(strip, "left_handle"):
        return int(strip.left_handle), int(strip.right_handle)
    return int(strip.frame_final_start), int(strip.frame_final_end)


def free_channel(scene: bpy.types.Scene, start: int, stop: int, lowest: int = FOOTAGE_CHANNEL + 1) -> int:
    """The lowest channel that is empty over scene frames start .. stop - 1."""
    taken = set()
    for strip in strips(scene):
        first, end = span(strip)
        if first < stop and start < end:
            taken.add(strip.channel)
    return next(channel for channel in range(lowest, lowest + len(taken) + 1) if channel not in taken)


def add_take_strip(
    scene: bpy.types.Scene, files: Sequence[Path], name: str, start_frame: int, frames: int = 0, channel: int = 0
) -> bpy.types.Strip:
    """A strip that shows the pictures from scene frame start_frame on.

    files: the pictures there are so far, at least one, all in one folder. frames: how many there will be, so that the
    strip can grow without meeting another. channel: 0 takes the lowest free one above the footage.
    """
    if not files:
        raise ValueError("a strip needs at least one picture")
    length = max(frames, len(files))
    channel = channel or free_channel(scene, start_frame, start_frame + length)
    strip = _editor(scene).new_image(
        name=name,
        filepath=str(files[0]),
        channel=channel,
        frame_start=start_frame,
        fit_method="FIT",
    )
    strip.blend_type = "REPLACE"
    with contextlib.suppress(TypeError):  # a studio's own colour configuration may call it otherwise
        strip.colorspace_settings.name = "sRGB"
    grow_strip(strip, files[1:])
    return strip


def grow_strip(strip: bpy.types.Strip, files: Sequence[Path]) -> None:
    """Append pictures from the strip's own folder; it becomes longer by as many frames."""
    for file in files:
        strip.elements.append(Path(file).name)


def add_footage_strip(
    scene: bpy.types.Scene, clip: bpy.types.MovieClip, name: str, start_frame: int
) -> bpy.types.Strip:
    """The footage itself, at the bottom; the one that is there already when there is one of that name."""
    existing = find(scene, name)
    if existing is not None:
        return existing
    path = bpy.path.abspath(clip.filepath)
    channel = free_channel(scene, start_frame, start_frame + clip.frame_duration, FOOTAGE_CHANNEL)
    if clip.source == "MOVIE":
        strip = _editor(scene).new_movie(
            name=name, filepath=path, channel=channel, frame_start=start_frame, fit_method="FIT"
        )
    else:
        pictures = sorted(p for p in Path(path).parent.iterdir() if p.suffix == Path(path).suffix)
        strip = add_take_strip(scene, pictures[: clip.frame_duration], name, start_frame, channel=channel)
    strip.blend_type = "REPLACE"
    return strip


def remove(scene: bpy.types.Scene, name: str) -> bool:
    """Delete the strip of that name. False when there is none."""
    strip = find(scene, name)
    if strip is None:
        return False
    _collection(scene.sequence_editor).remove(strip)
    return True


def compare(scene: bpy.types.Scene, name: str, split: float = 0.5) -> None:
    """Show the strip of that name right of `split` (a share of the width) and what lies under it left of it.

    split 0 shows the strip whole again. Raises KeyError when there is no such strip.
    """
    strip = find(scene, name)
    if strip is None:
        raise KeyError(name)
    strip.blend_type = "ALPHA_OVER" if split > 0 else "REPLACE"
    width = strip.elements[0].orig_width if strip.type == "IMAGE" else scene.render.resolution_x
    strip.crop.min_x = round(split * (width or scene.render.resolution_x))


def _editor(scene: bpy.types.Scene) -> bpy.types.bpy_prop_collection:
    return _collection(scene.sequence_editor or scene.sequence_editor_create())


def _collection(editor: bpy.types.SequenceEditor) -> bpy.types.bpy_prop_collection:
    return editor.strips if hasattr(editor, "strips") else editor.sequences
