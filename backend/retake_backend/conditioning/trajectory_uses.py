"""A shot and its edit -> the trajectories of Trajectory Attention's three uses, in the model's picture.

Each use gives two halves with the same trajectories: where they pass the source video and where they pass the target.
A model with both videos in its tokens follows source then target (`Trajectories.then`); one that starts from an image
follows the target alone. What the model starts from as source: the footage (a video), one frame of it held (an
image), or an edited picture of the first frame held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from retake_shared.shot import Cameras, Edit, Solve

from .coordinates import Framing, select_tracks
from .trajectories import (
    Trajectories,
    sample_map,
    trajectories_from_image,
    trajectories_from_points,
    trajectories_from_video,
)

SAME_PLACE = 1e-4
"""A track that the edit moves by less than this share of its distance from the camera is not moved by it."""
SAME_SURFACE = 0.05
"""A depth map that differs by more than this share from a track's own depth shows another surface there: beside the
edge of an object it would send the track far off."""


@dataclass(frozen=True)
class Halves:
    """The same L trajectories in source and target, f frames each, in screen units of one picture."""

    source: Trajectories
    target: Trajectories

    def joined(self) -> Trajectories:
        """Source then target, (2f, L), as Wan's tokens lie."""
        return self.source.then(self.target)

    def select(self, which: NDArray[np.int64]) -> Halves:
        """The trajectories that an index names."""
        halves = (Trajectories(h.positions[:, which], h.valid[:, which]) for h in (self.source, self.target))
        return Halves(*halves)

    def framed(self, cameras: Cameras, framing: Framing) -> Halves:
        """From screen units of the cameras' picture to those of the model's, which shows `framing` of it."""
        size, corner = np.array([cameras.width, cameras.height]), np.array([framing.left, framing.top])
        extent = np.array([framing.width, framing.height])

        def brought(half: Trajectories) -> Trajectories:
            return Trajectories((half.positions * size - corner) / extent, half.valid)

        return Halves(brought(self.source), brought(self.target))

    def spread(self, objects: NDArray[np.int32], limit: int, seed: int, grid: tuple[int, int]) -> Halves:
        """At most `limit` of the trajectories that the target shows, spread over its objects (L,) and grid cells."""
        useful = np.flatnonzero(self.target.valid.any(0))
        valid, positions = self.target.valid[:, useful], self.target.positions[:, useful]
        if not len(useful):
            return self.select(useful)
        first = positions[valid.argmax(0), np.arange(len(useful))]
        column, row = (np.clip(np.floor(first[:, axis] * grid[1 - axis]), 0, grid[1 - axis] - 1) for axis in (0, 1))
        cells = (row * grid[1] + column).astype(np.int64)
        seen = (self.source.valid[:, useful].sum(0) + valid.sum(0)).astype(np.int64)
        return self.select(useful[select_tracks(objects[useful], cells, seen, limit, seed)])


def video_trajectories(
    solve: Solve, edit: Edit, frames: NDArray[np.int64], depth: NDArray[np.float32] | None = None
) -> Halves:
    """A camera move on the footage, objects that the edit moves included: Algorithm 4.

    frames: (f,) of the shot. depth: (f, h, w) the solve's maps at these frames in the tracks' scale, or None. L = the
    edit's tracks. Where a track is moved by the camera alone and the map shows its surface, the map moves it, as the
    paper does; elsewhere its own depth and the edit's position do. Where the solver did not see a track it is left
    out of both halves; a retimed one is looked for at the moment that it shows.
    """
    rows = edit.source_track
    source_cameras, target_cameras = _at(solve.cameras, frames), _at(edit.cameras, frames)
    positions = solve.tracks.positions[frames][:, rows]
    source = trajectories_from_points(positions, solve.tracks.visibility[frames][:, rows], source_cameras)
    # Half frames go up, as in the preview.
    moment = np.clip(np.floor(edit.source_frame[frames] + 0.5), 0, len(solve) - 1).astype(int)
    seen = solve.tracks.visibility[moment, rows] & edit.present[frames]
    target = trajectories_from_points(edit.positions[frames], seen, target_cameras)
    if depth is None:
        return Halves(source, target)
    uv, distance = source_cameras.project(positions)
    by_map = trajectories_from_video(uv, seen, depth, source_cameras, target_cameras)
    size = (solve.cameras.width, solve.cameras.height)
    read = np.stack([sample_map(d, at, "nearest") for d, at in zip(depth.astype(np.float64), uv / size, strict=True)])
    with np.errstate(invalid="ignore"):
        same = np.abs(read - distance) <= SAME_SURFACE * np.abs(distance)
    moved = np.linalg.norm(edit.positions[frames] - positions, axis=-1)
    literal = same & (moved <= SAME_PLACE * np.abs(distance))
    return Halves(
        source,
        Trajectories(
            np.where(literal[..., None], by_map.positions, target.positions),
            np.where(literal, by_map.valid, target.valid),
        ),
    )


def image_trajectories(
    depth: NDArray[np.floating], image: Cameras, path: Cameras, grid: tuple[int, int] | None = None
) -> Halves:
    """A camera move on one image: Algorithm 3. In the source, the image held, every trajectory stays where it is.

    depth, image, path, grid: as in `trajectories_from_image`.
    """
    still = Cameras(np.repeat(image.c2w, len(path), 0), np.repeat(image.K, len(path), 0), image.width, image.height)
    return Halves(trajectories_from_image(depth, image, still, grid), trajectories_from_image(depth, image, path, grid))


def first_frame_trajectories(solve: Solve, frames: NDArray[np.int64], first: int) -> Halves:
    """The footage's own motion for an edited picture of its frame `first` (Section 4.3). L = the solve's tracks.

    In the source, that picture held, every trajectory stays where it is at `first`, and is left out when hidden there.
    """
    tracks = solve.tracks
    held = np.full(len(frames), first)
    source = trajectories_from_points(tracks.positions[held], tracks.visibility[held], _at(solve.cameras, held))
    target = trajectories_from_points(tracks.positions[frames], tracks.visibility[frames], _at(solve.cameras, frames))
    return Halves(source, target)


def offset(halves: Halves) -> float:
    """How far the target's first frame lies from the source's: median of the larger side, in screen units.

    Infinite where no trajectory is in both.
    """
    both = halves.source.valid[0] & halves.target.valid[0]
    if not both.any():
        return float("inf")
    return float(np.median(np.abs(halves.target.positions[0, both] - halves.source.positions[0, both]).max(-1)))


def _at(cameras: Cameras, frames: NDArray[np.int64]) -> Cameras:
    return Cameras(cameras.c2w[frames], cameras.K[frames], cameras.width, cameras.height)
