"""What is exported: cameras and tracks over some frames of the footage, as they were solved or as they were edited."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .. import camera_moves, geometry
from ..errors import BadShot
from ..geometry import Array
from ..shot import Cameras, Edit, Solve, Tracks

STATIC = 0.003
"""How far a track may reproject from its middle position on average and still count as standing, as a share of the
picture's longer side: 2 px of 672."""

_LEVEL = float(np.cos(np.radians(20)))
"""Within this of a world axis, up is that axis: most solvers' worlds have one, and a camera that looks down a little
must not tilt the ground."""


@dataclass(frozen=True)
class Content:
    """Cameras and tracks of footage frames first, first + 1, ...

    depth: (T, h, w) float32 camera-space z, 0 where unknown, or None. object_names: by object number. name: of the
    shot, for names inside files.
    """

    cameras: Cameras
    tracks: Tracks
    depth: NDArray[np.float32] | None = None
    object_names: dict[int, str] = field(default_factory=dict)
    name: str = "shot"
    first: int = 0

    def __len__(self) -> int:
        return len(self.cameras)

    def frames(self, start: int, stop: int) -> Content:
        """The rows of footage frames start .. stop - 1. Raises BadShot when there are none, or some are missing."""
        begin, end = start - self.first, stop - self.first
        if not 0 <= begin < end <= len(self):
            last = self.first + len(self)
            raise BadShot(
                f"frames {start}:{stop} are not all in it.", self.name, f"Use a range in {self.first}:{last}."
            )
        return replace(
            self,
            cameras=self.cameras.frames(begin, end),
            tracks=self.tracks.frames(begin, end),
            depth=None if self.depth is None else self.depth[begin:end],
            first=start,
        )

    def moved(self, world: Array) -> Content:
        """The same content in another world: points p become world @ p, a (4, 4) rotation, uniform scale and shift."""
        scale = float(np.cbrt(np.linalg.det(world[:3, :3])))
        if not scale > 1e-12:
            raise BadShot("its world is mirrored or has no size.", self.name, "Give it a scale above 0.")
        rotation = world[:3, :3] / scale
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-4:
            raise BadShot("its world is stretched or skewed.", self.name, "Scale it the same along all axes.")
        c2w = self.cameras.c2w.copy()
        c2w[:, :3, :3] = rotation @ c2w[:, :3, :3]
        c2w[:, :3, 3] = geometry.transform(world, self.cameras.c2w[:, :3, 3])
        positions = geometry.transform(world, self.tracks.positions.reshape(-1, 3)).reshape(self.tracks.positions.shape)
        return replace(
            self,
            cameras=replace(self.cameras, c2w=c2w),
            tracks=replace(self.tracks, positions=positions),
            depth=None if self.depth is None else (self.depth * scale).astype(np.float32),
        )


def of_solve(solve: Solve, name: str = "shot") -> Content:
    """The footage's own cameras and tracks."""
    return Content(solve.cameras, solve.tracks, solve.depth, solve.object_names, name)


def of_edit(edit: Edit, solve: Solve | None = None, name: str = "shot") -> Content:
    """The target cameras and tracks; depth maps belong to the solve's cameras and are left out.

    A track is visible where it is present and, when the solve is given, where its source is seen in the frame whose
    appearance it shows. Tracks keep the ids of the solve; copies get ids of their own.
    """
    visible, confidence = edit.present, edit.present.astype(np.float32)
    ids = np.arange(len(edit.source_track), dtype=np.int64)
    if solve is not None:
        edit.check_against(solve)
        shown = np.clip(np.rint(edit.source_frame).astype(np.int64), 0, len(solve) - 1)
        visible = visible & solve.tracks.visibility[shown, edit.source_track]
        confidence = solve.tracks.confidence[shown, edit.source_track] * edit.present
        ids = solve.tracks.ids[edit.source_track].copy()
        again = np.ones(len(ids), bool)
        again[np.unique(edit.source_track, return_index=True)[1]] = False
        ids[again] = np.arange(again.sum()) + int(solve.tracks.ids.max(initial=-1)) + 1
    tracks = Tracks(edit.positions, visible, confidence, edit.objects, ids)
    return Content(edit.cameras, tracks, None, edit.object_names, name)


def static_tracks(content: Content, tolerance: float = STATIC) -> tuple[NDArray[np.intp], Array, Array]:
    """Rows (P,) of the tracks that stand still, where they stand (P, 3), and their mean reprojection error (P,) px.

    A track stands when the middle (median) of its visible positions projects, on average over the frames where it is
    visible, within `tolerance` longer sides of the picture of where the track itself does. Tracks that are in the picture
    in fewer than two frames are left out: nothing tells whether they stand.
    """
    tracks, cameras = content.tracks, content.cameras
    uv, depth = cameras.project(tracks.positions)
    seen = tracks.visibility & geometry.inside_image(uv, depth, cameras.width, cameras.height)
    rows = np.flatnonzero(seen.sum(0) >= min(2, len(content)))
    with_gaps = np.where(seen[:, rows, None], tracks.positions[:, rows], np.nan)
    middle = np.nanmedian(with_gaps, axis=0) if len(rows) else np.zeros((0, 3))
    at, _ = cameras.project(np.broadcast_to(middle, (len(content), *middle.shape)))
    error = np.where(seen[:, rows], np.linalg.norm(at - uv[:, rows], axis=-1), 0.0)
    error = np.nan_to_num(error, nan=np.inf).sum(0) / np.maximum(seen[:, rows].sum(0), 1)
    stands = error <= tolerance * max(cameras.width, cameras.height)
    return rows[stands], middle[stands], error[stands]


def y_up(cameras: Cameras) -> Array:
    """World transform (4, 4), a rotation, after which up in the pictures is +Y and the mean view direction -Z.

    Up is the world axis within 20 degrees of the pictures' mean up, else that mean itself, as in Blender's import; a
    world whose +Y is up stays as it is.
    """
    try:
        up = _nearest_axis(camera_moves.mean_up(cameras))
    except BadShot:
        up = np.array([0.0, -1.0, 0.0])
    if up[1] == 1:
        return np.eye(4)
    forward = cameras.c2w[:, :3, 2].mean(0)
    forward = forward - up * (forward @ up)
    if np.linalg.norm(forward) < 1e-3:  # straight up or down, or all round: any heading will do
        forward = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    forward = _nearest_axis(forward)
    forward = forward - up * (forward @ up)
    forward /= np.linalg.norm(forward)
    world = np.eye(4)
    world[:3, :3] = np.stack([np.cross(forward, up), up, -forward])
    return world


def _nearest_axis(direction: Array) -> Array:
    """The world axis near a direction (3,), else the direction itself, normalised."""
    direction = direction / np.linalg.norm(direction)
    largest = int(np.argmax(np.abs(direction)))
    axis = np.zeros(3)
    axis[largest] = np.sign(direction[largest])
    return axis if direction @ axis > _LEVEL else direction
