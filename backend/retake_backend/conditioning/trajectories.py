"""Pixel trajectories of a shot: Trajectory Attention's Algorithms 3 and 4, on cameras, depth and tracks.

The paper's three uses, each one function: a camera path through one image (`trajectories_from_image`, 4.1), a camera
path through a video (`trajectories_from_video`, 4.2), the motion of a video kept while its first frame is edited
(`trajectories_from_points`, 4.3). Plain numpy; `trajectory_attention` takes the result into a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

Sampling = Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Trajectories:
    """L pixel trajectories over F frames: the paper's `Tr` and `M`, frames first as everywhere in this project.

    positions: (F, L, 2) float32, x and y in screen units: (0, 0) is the picture's top-left corner, (1, 1) its
    bottom-right corner, whatever its size in px. valid: (F, L) bool; positions are 0 where it is False.
    """

    positions: NDArray[np.floating[Any]]
    valid: NDArray[np.bool_]

    def __post_init__(self) -> None:
        valid = np.ascontiguousarray(self.valid, bool)
        if np.shape(self.positions) != (*valid.shape, 2) or valid.ndim != 2:
            raise BadShot(
                f"shapes are {np.shape(self.positions)} and {valid.shape}.",
                "trajectories",
                "Expected (F, L, 2), (F, L).",
            )
        positions = np.where(valid[..., None], self.positions, 0).astype(np.float32)
        if not np.isfinite(positions).all():
            raise BadShot("a valid position is NaN or infinite.", "trajectories")
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "valid", valid)

    def __len__(self) -> int:
        return int(self.valid.shape[1])

    def at(self, frames: Sequence[int] | NDArray[Any]) -> Trajectories:
        """The trajectories at these frames only, as the latent frames of a video need them."""
        index = np.asarray(frames, int)
        return Trajectories(self.positions[index], self.valid[index])

    def then(self, other: Trajectories) -> Trajectories:
        """These frames followed by the other's, trajectory by trajectory: source then target, as Wan's tokens lie."""
        if len(self) != len(other):
            raise BadShot(f"{len(self)} trajectories cannot go on as {len(other)}.", "trajectories")
        return Trajectories(
            np.concatenate([self.positions, other.positions]), np.concatenate([self.valid, other.valid])
        )


def trajectories_from_points(
    positions: NDArray[np.float64], visible: NDArray[np.bool_], cameras: Cameras
) -> Trajectories:
    """Where world points positions (F, L, 3) pass through the picture; valid inside the image and where `visible`.

    Section 4.3 with a solve's own tracks and cameras: an edited first frame keeps the motion of the video. With an
    edit's positions and cameras it is Algorithm 4 with the depth of each point known, so that no map is sampled.
    """
    uv, depth = cameras.project(positions)
    inside = geometry.inside_image(uv, depth, cameras.width, cameras.height)
    return Trajectories(uv / (cameras.width, cameras.height), inside & np.asarray(visible, bool))


def trajectories_from_image(
    depth: NDArray[np.floating[Any]], image: Cameras, path: Cameras, grid: tuple[int, int] | None = None
) -> Trajectories:
    """Algorithm 3: where the pixels of one image go as the camera moves along `path`.

    depth: (h, w) camera-space z of the image in world units, 0 or not finite where unknown. image: its camera, one
    frame. path: F cameras of the same picture size. grid: (rows, columns) of pixels followed, evenly over the image;
    None = every pixel of the depth map, as the paper writes. Valid inside the image, in front of the camera and where
    the depth is known; hidden surfaces stay valid, as in the paper.
    """
    if len(image) != 1:
        raise BadShot(f"the image has {len(image)} cameras.", "trajectories", "Expected one.")
    _same_size(image, path)
    rows, columns = depth.shape if grid is None else grid
    screen = np.stack(np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows), -1)
    centres = screen.reshape(-1, 2) * (path.width, path.height)
    known = sample_map(np.asarray(depth, np.float64), screen.reshape(-1, 2), "nearest")
    translation, moved = pixel_translation(centres, known, image, 0, path)
    trajectories = centres + translation
    inside = geometry.inside_image(trajectories, moved, path.width, path.height)
    return Trajectories(trajectories / (path.width, path.height), inside)


def trajectories_from_video(
    points: NDArray[np.float64],
    visible: NDArray[np.bool_],
    depth: NDArray[np.floating[Any]],
    source: Cameras,
    target: Cameras,
    sampling: Sampling = "nearest",
) -> Trajectories:
    """Algorithm 4: where the points followed through a video lie once its camera is another one.

    points: (F, L, 2) px of the source picture. visible: (F, L), the paper's M_o. depth: (F, h, w) camera-space z of
    the video in world units, 0 or not finite where unknown. source, target: F cameras each, of one picture size.
    sampling: how the camera's translation field is read at a point; the paper does not say, and `nearest` (chosen)
    keeps the two sides of a depth edge apart. Valid where visible, on the source picture over a known depth, and
    inside the target picture.
    """
    _same_size(source, target)
    frames = len(points)
    if not frames == len(visible) == len(depth) == len(source) == len(target):
        lengths = [frames, len(visible), len(depth), len(source), len(target)]
        raise BadShot(f"points, visible, depth, source and target last {lengths} frames.", "trajectories")
    size = np.array([source.width, source.height], np.float64)
    height, width = depth.shape[1:]
    screen = np.stack(np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height), -1)
    centres = screen.reshape(-1, 2) * size
    trajectories = np.full(points.shape, np.nan)
    for f in range(frames):  # one frame's field at a time: all of them would be gigabytes
        known = np.asarray(depth[f], np.float64).ravel()
        translation, _ = pixel_translation(centres, known, source, f, target.frames(f, f + 1))
        field = translation.reshape(height, width, 2)
        trajectories[f] = points[f] + sample_map(field, points[f] / size, sampling)
    inside = geometry.inside_image(trajectories, np.ones(trajectories.shape[:2]), target.width, target.height)
    return Trajectories(trajectories / size, inside & np.asarray(visible, bool))


def pixel_translation(
    pixels: NDArray[np.float64], depth: NDArray[np.float64], source: Cameras, frame: int, target: Cameras
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The paper's T: how far pixels (P, 2) of the source camera at `frame` move, seen from each target camera.

    depth: (P,) camera-space z at the pixels. Returns the translation (F, P, 2) in px, nan where the depth is unknown
    or the point lies behind the target camera, and the depth (F, P) in the target cameras.
    """
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)
    points = geometry.unproject(pixels, depth, source.c2w[frame], source.K[frame])
    with np.errstate(invalid="ignore"):
        uv, moved = target.project(np.broadcast_to(points, (len(target), *points.shape)))
    return uv - pixels, moved


def sample_map(field: NDArray[np.float64], screen: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """Values (L, ...) of a map (h, w, ...) at screen positions (L, 2); nan off the picture or beside an unknown one."""
    height, width = field.shape[:2]
    with np.errstate(invalid="ignore"):
        on = (screen >= 0).all(-1) & (screen < 1).all(-1)
    x, y = np.where(on, screen[:, 0], 0.5) * width, np.where(on, screen[:, 1], 0.5) * height
    tail = (1,) * (field.ndim - 2)
    if sampling == "nearest":
        # A position just under 1 may round up to the size itself.
        values = field[np.minimum(y.astype(int), height - 1), np.minimum(x.astype(int), width - 1)]
    elif sampling == "bilinear":
        left, top = np.floor(x - 0.5).astype(int), np.floor(y - 0.5).astype(int)
        values = np.zeros((len(screen), *field.shape[2:]))
        for row in (top, top + 1):
            for column in (left, left + 1):
                weight = (1 - np.abs(x - 0.5 - column)) * (1 - np.abs(y - 0.5 - row))
                corner = field[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
                weight = weight.reshape(-1, *tail)
                values += np.where(weight > 0, weight * corner, 0)  # a neighbour of no weight may be unknown
    else:
        raise ValueError(f'sampling is "{sampling}", expected "nearest" or "bilinear"')
    return np.where(on.reshape(-1, *tail), values, np.nan)


def _same_size(first: Cameras, second: Cameras) -> None:
    sizes = [(c.width, c.height) for c in (first, second)]
    if sizes[0] != sizes[1]:
        raise BadShot(f"cameras are of {sizes[0]} and {sizes[1]} px.", "trajectories", "Resize one of them.")
