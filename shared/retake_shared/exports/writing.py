"""The formats by name, and writing one of them: what the command line and Blender call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import RetakeError
from . import chan, colmap, nerfstudio, nuke, spatialtracker
from .content import Content, y_up

Pictures = Callable[[], Iterable[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Options:
    """What only some formats need.

    start: the number that footage frame 0 has in Nuke's and chan files. fps: of a Nuke script. axes: how many tracks
    become Axis nodes of a Nuke script. images: folder of the pictures beside a COLMAP model or transforms.json, as
    written there. world: (4, 4), the world for Nuke and chan, None = the one that `y_up` makes. colours: (N, 3) uint8
    RGB of the tracks. pictures: called, gives the frames (H, W, 3) uint8 RGB one after the other, for .npz.
    """

    start: int = 1
    fps: Fraction = Fraction(24)
    axes: int = 0
    images: str = "images"
    world: NDArray[np.float64] | None = None
    colours: NDArray[np.uint8] | None = None
    pictures: Pictures | None = None


@dataclass(frozen=True)
class Kind:
    """A format: its name in menus, the file's suffix, "" when it is a folder, and what it is for."""

    label: str
    suffix: str
    description: str


KINDS = {
    "npz": Kind("SpatialTrackerV2", ".npz", "Cameras, tracks in 3D and depth in one .npz with SpatialTrackerV2's keys"),
    "colmap": Kind("COLMAP", "", "A COLMAP model as text: cameras, images and the points that stand still"),
    "nerfstudio": Kind("nerfstudio", "", "transforms.json and points3d.ply for nerfstudio, instant-ngp and splatting"),
    "nuke": Kind("Nuke Script", ".nk", "A Nuke script with the camera, and tracks as Axis nodes"),
    "chan": Kind("Nuke Channels", ".chan", "The camera as a .chan file, for Nuke, Houdini and others"),
}
"""Every format, by the name that the command line uses."""


def write(kind: str, path: str | os.PathLike[str], content: Content, options: Options | None = None) -> list[str]:
    """Write the content to `path` (a file, or a folder that is made) and return notes for the user.

    Raises RetakeError when the place cannot be written or the content cannot be held.
    """
    options, path = options or Options(), Path(path)
    if kind not in KINDS:
        raise RetakeError(f"there is no format {kind!r:.40}.", "export", f"Choose {', '.join(KINDS)}.")
    if kind == "npz":
        return spatialtracker.write(path, content, options.pictures)
    if kind == "colmap":
        return colmap.write(path, content, colours=options.colours)
    if kind == "nerfstudio":
        return nerfstudio.write(path, content, images=options.images, colours=options.colours)
    world = y_up(content.cameras) if options.world is None else options.world
    turned = content.moved(world)
    if kind == "nuke":
        notes = nuke.write(path, turned, start=options.start, fps=options.fps, axes=options.axes)
    else:
        notes = chan.write(path, turned, start=options.start)
    if options.world is None and not np.array_equal(world, np.eye(4)):
        notes.append("The world was turned so that up in the pictures is +Y, as these programs have it.")
    return notes
