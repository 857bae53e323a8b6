"""Marks on what moves in footage: kept with its movie clip, placed in the views that show it, handed to the solver."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
from bpy_extras.view3d_utils import location_3d_to_region_2d
from retake_shared import clicks
from retake_shared.clicks import Click
from retake_shared.errors import BadShot

from . import objects, shots

OPTION = "--click"
"""Of `retake solve`."""


@dataclass(frozen=True)
class View:
    """A region that shows a frame of a clip. frame: of the footage, counted from 1. origin: region px (x, y) of the
    picture's upper left corner. scale: region px to one px of the footage, x and y (which is negative)."""

    clip: bpy.types.MovieClip
    frame: int
    origin: tuple[float, float]
    scale: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float] | None:
        """px of the footage at region px; None beside the picture."""
        at = ((x - self.origin[0]) / self.scale[0], (y - self.origin[1]) / self.scale[1])
        inside = all(0 <= value < side for value, side in zip(at, self.clip.size, strict=True))
        return at if inside else None

    def shown(self, x: float, y: float) -> tuple[float, float]:
        """Region px of a place in px of the footage."""
        return self.origin[0] + x * self.scale[0], self.origin[1] + y * self.scale[1]


def view_of(context: bpy.types.Context, area: bpy.types.Area, region: bpy.types.Region) -> View | None:
    """What the region shows of footage: a 3D view through a shot's source camera, or the Movie Clip Editor."""
    space = area.spaces.active
    if area.type == "VIEW_3D":
        return _through_camera(context.scene, space, region)
    clip = getattr(space, "clip", None)
    if area.type != "CLIP_EDITOR" or clip is None:
        return None
    frame = context.scene.frame_current - clip.frame_start + clip.frame_offset + 1
    low, high = (region.view2d.view_to_region(*corner, clip=False) for corner in ((0.0, 0.0), (1.0, 1.0)))
    return _view(clip, frame, low, high)


def _through_camera(scene: bpy.types.Scene, space: bpy.types.SpaceView3D, region: bpy.types.Region) -> View | None:
    camera = space.camera if space.use_local_camera else scene.camera
    looking = space.region_3d
    if camera is None or camera.retake_role != "SOURCE_CAMERA" or looking.view_perspective != "CAMERA":
        return None
    root = objects.root_of(camera)
    if root is None or root.retake.clip is None:  # the root was deleted, or the clip
        return None
    shot = root.retake
    turned = camera.matrix_world.normalized()
    corners = [location_3d_to_region_2d(region, looking, turned @ v) for v in camera.data.view_frame(scene=scene)]
    if None in corners:
        return None
    xs, ys = zip(*corners, strict=True)
    return _view(shot.clip, scene.frame_current - shot.start + 1, (min(xs), min(ys)), (max(xs), max(ys)))


def _view(clip: bpy.types.MovieClip, frame: int, low: Sequence[float], high: Sequence[float]) -> View | None:
    width, height = clip.size
    if not (1 <= frame <= clip.frame_duration and high[0] > low[0] and high[1] > low[1]):
        return None
    return View(clip, frame, (low[0], high[1]), ((high[0] - low[0]) / width, (low[1] - high[1]) / height))


def clip_in(context: bpy.types.Context) -> bpy.types.MovieClip | None:
    """The clip that marks are put on: the one that the Movie Clip Editor shows, else the active shot's."""
    space = context.space_data
    if space is not None and space.type == "CLIP_EDITOR":
        return space.clip
    root = shots.active_shot(context)
    return root.retake.clip if root is not None else None


def clip_of(context: bpy.types.Context, footage: str) -> bpy.types.MovieClip | None:
    """The clip of the footage at that path whose marks hold: that of the context, else the first one with marks."""
    path = _path(footage)
    clips = [clip for clip in bpy.data.movieclips if clip.retake_marks and _path(clip.filepath) == path]
    own = clip_in(context)
    if own is not None and _path(own.filepath) == path:
        return own
    return next(iter(clips), None)


def _path(path: str) -> Path:
    return Path(bpy.path.abspath(path)).absolute()


def add(clip: bpy.types.MovieClip, frame: int, x: float, y: float, name: str = "") -> bpy.types.PropertyGroup:
    """Mark what moves at (x, y) px of the footage in a frame counted from 1. Raises BadShot."""
    width, height = clip.size
    if not 1 <= frame <= clip.frame_duration:
        raise BadShot(f"there is no frame {frame}.", clip.name, f"Use one of frames 1 to {clip.frame_duration}.")
    if not (0 <= x < width and 0 <= y < height):
        what = f"({x:g}, {y:g}) is not in the picture."
        raise BadShot(what, clip.name, f"It is {width} x {height} px, counted from the upper left corner.")
    mark = clip.retake_marks.add()
    mark.name, mark.frame, mark.at = name, frame, (x, y)
    return mark


def words(clip: bpy.types.MovieClip) -> tuple[str, ...]:
    """The clip's marks as options of `retake solve`."""
    marked = (Click(mark.frame - 1, *mark.at, mark.name) for mark in clip.retake_marks)
    return tuple(word for click in marked for word in (OPTION, str(click)))


def keep(clip: bpy.types.MovieClip, options: Sequence[str]) -> None:
    """Give a solved shot's clip the marks that its solve was made with; those that Blender has no frame for are left."""
    clip.retake_marks.clear()
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option == OPTION:
            with contextlib.suppress(BadShot):
                click = clicks.parse(value)
                add(clip, click.frame + 1, click.x, click.y, click.name)
