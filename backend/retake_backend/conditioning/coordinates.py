"""Solve and edit -> paired screen coordinates of source and target, as the track conditioners take them.

Pairing: target track m at latent frame i is paired with its own source track (`Edit.source_track`) at the same latent
frame i, as both papers pair them. That holds for retimed objects too: `Edit.source_frame` moves where the target
track is, not which source frame it is paired with; the aggregation over time within a track carries the appearance of
other moments to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras, Edit, Solve
from torch import Tensor

TEMPORAL_STRIDE = 4
"""Video frames per latent frame after the first, of Wan's VAE."""


@dataclass(frozen=True)
class Framing:
    """The rectangle of the solve's picture, in its px, that fills the model's picture once resized.

    A crop lies within the picture; padding makes it reach beyond (left or top < 0, or wider or higher than it).
    """

    left: float
    top: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise BadShot(f"size is {self.width} x {self.height} px.", "framing", "Keep some of the picture.")

    @classmethod
    def whole(cls, cameras: Cameras) -> Framing:
        """The picture as it is: resized only."""
        return cls(0.0, 0.0, cameras.width, cameras.height)


@dataclass(frozen=True)
class PairingSettings:
    """What the papers leave open about which tracks a model sees.

    tracks: at most so many. seed: breaks ties between equally good tracks. margin: a point outside the picture by
    more than this fraction of it is absent. near_quantile, near_headroom: disparity 1 is the largest disparity, but at
    most near_headroom times that quantile of them, so that a few points close to a lens do not flatten the rest.
    """

    tracks: int = 2000
    seed: int = 0
    margin: float = 0.25
    near_quantile: float = 0.99
    near_headroom: float = 2.0

    def __post_init__(self) -> None:
        if self.tracks < 0:
            raise BadShot(f"{self.tracks} tracks are asked for.", "tracks", "Ask for 0 or more.")
        if not 0 <= self.margin <= 0.5:  # the longest period of the Fourier features is 2
            raise BadShot(f"margin is {self.margin}.", "margin", "Keep it between 0 and 0.5.")


@dataclass(frozen=True)
class TrackPairs:
    """N tracks over f latent frames in the source and the target view, a batch of B videos.

    source, target: (B, f, N, 3) float32: x and y as fractions of the model's picture (0 left and top, 1 right and
    bottom; beyond it in the margin), disparity in [0, 1] normalised over both views together. Finite everywhere.
    source_present, target_present: (B, f, N) bool, False where the track is absent: behind the camera, far outside
    the picture, or removed. source_visible: (B, f, N) bool, the solver saw the point there; only Track2View uses it.
    """

    source: Tensor
    target: Tensor
    source_present: Tensor
    target_present: Tensor
    source_visible: Tensor

    def to(self, device: torch.device | str) -> TrackPairs:
        """The same pairs on another device."""
        return TrackPairs(*(getattr(self, field.name).to(device) for field in fields(self)))

    def select(self, which: Tensor) -> TrackPairs:
        """The tracks that an index or mask tensor names, in that order."""
        return TrackPairs(*(getattr(self, field.name)[:, :, which] for field in fields(self)))

    @classmethod
    def batch(cls, pairs: Sequence[TrackPairs]) -> TrackPairs:
        """Pairs of several videos as one batch: where a video has fewer tracks, absent ones fill up."""
        count = max(each.source.shape[2] for each in pairs)

        def padded(tensor: Tensor) -> Tensor:
            missing = tensor.new_zeros(*tensor.shape[:2], count - tensor.shape[2], *tensor.shape[3:])
            return torch.cat([tensor, missing], 2)

        return cls(*(torch.cat([padded(getattr(each, field.name)) for each in pairs]) for field in fields(cls)))


def latent_count(frames: int) -> int:
    """Latent frames of a video: (F - 1) / 4 + 1, with F brought up to 4k + 1 by repeating the last frame."""
    return -(-(frames - 1) // TEMPORAL_STRIDE) + 1


def latent_frames(start: int, stop: int, frames: int) -> NDArray[np.int64]:
    """The video frame nearest to each latent frame of the window [start, stop): (f,) frame numbers, 4 apart.

    frames: length of the shot. A window may reach beyond it: its last frame is then held, as padding holds it.
    Raises BadShot when the window does not begin within the shot.
    """
    if not 0 <= start < min(stop, frames):
        raise BadShot(
            f"frames {start} to {stop} were asked for.",
            "frames",
            f"The shot has frames 0 to {frames - 1}; ask for some.",
        )
    latent = start + TEMPORAL_STRIDE * np.arange(latent_count(stop - start), dtype=np.int64)
    held: NDArray[np.int64] = np.minimum(latent, min(stop, frames) - 1)
    return held


def cell_centres(h: int, w: int, device: torch.device | None = None) -> Tensor:
    """xy of the token cells' centres, row by row: (h * w, 2) float32 in [0, 1]."""
    y = (torch.arange(h, device=device) + 0.5) / h
    x = (torch.arange(w, device=device) + 0.5) / w
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1)


def normalised_disparity(
    depths: Sequence[NDArray[np.float64]], present: Sequence[NDArray[np.bool_]], settings: PairingSettings
) -> list[NDArray[np.float64]]:
    """1 / depth of all views on one scale from 0 (the farthest present point) to 1 (the nearest), 0 where absent.

    depths: each view's camera-space z, positive where present, any shape. One common depth gives 0 everywhere.
    """
    disparities = [np.divide(1.0, z, out=np.zeros_like(z), where=p) for z, p in zip(depths, present, strict=True)]
    values = np.concatenate([d[p] for d, p in zip(disparities, present, strict=True)])
    if not len(values):
        return disparities
    low = values.min()
    high = min(values.max(), settings.near_headroom * np.quantile(values, settings.near_quantile))
    # Depths that agree to rounding are one depth: their differences are no signal to blow up.
    span = high - low if high - low > 1e-9 * high else np.inf
    return [np.where(p, np.clip((d - low) / span, 0.0, 1.0), 0.0) for d, p in zip(disparities, present, strict=True)]


def _screen(
    positions: NDArray[np.float64], cameras: Cameras, framing: Framing, margin: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """xy (f, N, 2) in the model's picture (0 where absent), depth (f, N), and who is present (f, N)."""
    uv, depth = cameras.project(positions)
    xy = (uv - [framing.left, framing.top]) / [framing.width, framing.height]
    with np.errstate(invalid="ignore"):
        present = (depth > 0) & (xy >= -margin).all(-1) & (xy <= 1 + margin).all(-1)
    return np.where(present[..., None], xy, 0.0), depth, present


def _quotas(counts: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """How many tracks each object may keep of its `counts`, `limit` in all.

    Half of the room is shared evenly, so that small objects survive; the rest goes by size.
    """
    if counts.sum() <= limit:
        return counts
    even = max(limit // (2 * len(counts)), min(1, limit // len(counts)))
    quotas: NDArray[np.int64] = np.minimum(counts, even)
    wanted = (limit - quotas.sum()) * (counts - quotas) / max((counts - quotas).sum(), 1)
    quotas = quotas + np.floor(wanted).astype(np.int64)
    rounded_off = np.argsort(np.floor(wanted) - wanted, kind="stable")[: limit - quotas.sum()]
    quotas[rounded_off] += 1
    return quotas


def select_tracks(
    objects: NDArray[np.int32], cells: NDArray[np.int64], seen: NDArray[np.int64], limit: int, seed: int
) -> NDArray[np.int64]:
    """At most `limit` of M tracks, as ascending indices, the same for the same seed.

    objects: (M,) object numbers; each keeps a share (see `_quotas`). cells: (M,) the place of each track on a coarse
    grid: within an object every cell gives its best track before any gives its second. seen: (M,) for how many frames
    a track is seen; the longer the better, equals are drawn by seed.
    """
    if len(objects) <= limit:
        return np.arange(len(objects))
    draw = np.random.default_rng(seed).permutation(len(objects))
    numbers, counts = np.unique(objects, return_counts=True)
    chosen = []
    for number, quota in zip(numbers, _quotas(counts, limit), strict=True):
        own = np.flatnonzero(objects == number)
        own = own[np.lexsort((draw[own], -seen[own], cells[own]))]
        _, first, size = np.unique(cells[own], return_index=True, return_counts=True)
        rank = np.arange(len(own)) - np.repeat(first, size)
        chosen.append(own[np.lexsort((draw[own], -seen[own], rank))][:quota])
    return np.sort(np.concatenate(chosen))


def pair_tracks(
    solve: Solve,
    edit: Edit,
    window: tuple[int, int],
    grid: tuple[int, int],
    framing: Framing | None = None,
    settings: PairingSettings | None = None,
) -> TrackPairs:
    """The tracks of one window of a shot, paired (see the module's docstring), B = 1, on the CPU.

    window: (start, stop) footage frames; it may reach beyond the shot, whose last frame is then held. grid: token
    cells (h, w) of the model's picture, over which the choice of tracks is spread. framing: what of the solve's
    picture the model sees, None for all. A removed object keeps its source coordinates; tracks that are absent from
    both views throughout are left out. Any number of tracks may remain, 0 too. Raises BadShot when the edit is not of
    this solve or the window lies outside the shot.
    """
    return pair_tracks_at(solve, edit, latent_frames(*window, frames=len(solve)), grid, framing, settings)


def pair_tracks_at(
    solve: Solve,
    edit: Edit,
    at: NDArray[np.int64],
    grid: tuple[int, int],
    framing: Framing | None = None,
    settings: PairingSettings | None = None,
) -> TrackPairs:
    """As `pair_tracks`, at the footage frames that `at` (f,) names. Raises BadShot when the edit is not of this solve."""
    edit.check_against(solve)
    settings = settings or PairingSettings()
    framing = framing or Framing.whole(solve.cameras)
    rows = edit.source_track
    source_cameras, target_cameras = (
        Cameras(cameras.c2w[at], cameras.K[at], cameras.width, cameras.height)
        for cameras in (solve.cameras, edit.cameras)
    )
    # Projected once per source track: duplicates share it.
    xy, depth, present = _screen(solve.tracks.positions[at], source_cameras, framing, settings.margin)
    source_xy, source_depth, source_present = xy[:, rows], depth[:, rows], present[:, rows]
    source_visible = solve.tracks.visibility[at][:, rows] & source_present
    target_xy, target_depth, target_present = _screen(edit.positions[at], target_cameras, framing, settings.margin)
    target_present &= edit.present[at]

    useful = np.flatnonzero((source_present | target_present).any(0))
    keep = useful[
        select_tracks(
            edit.objects[useful],
            _first_cells(
                source_xy[:, useful],
                source_present[:, useful],
                target_xy[:, useful],
                target_present[:, useful],
                grid,
            ),
            source_visible[:, useful].sum(0),
            settings.tracks,
            settings.seed,
        )
    ]
    presences = (source_present[:, keep], target_present[:, keep])
    disparities = normalised_disparity((source_depth[:, keep], target_depth[:, keep]), presences, settings)

    def view(xy: NDArray[np.float64], present: NDArray[np.bool_], disparity: NDArray[np.float64]) -> Tensor:
        xyz = np.concatenate([np.where(present[..., None], xy, 0.0), disparity[..., None]], -1)
        return torch.from_numpy(xyz.astype(np.float32))[None]

    return TrackPairs(
        source=view(source_xy[:, keep], presences[0], disparities[0]),
        target=view(target_xy[:, keep], presences[1], disparities[1]),
        source_present=torch.from_numpy(presences[0])[None],
        target_present=torch.from_numpy(presences[1])[None],
        source_visible=torch.from_numpy(source_visible[:, keep])[None],
    )


def _first_cells(
    source_xy: NDArray[np.float64],
    source_present: NDArray[np.bool_],
    target_xy: NDArray[np.float64],
    target_present: NDArray[np.bool_],
    grid: tuple[int, int],
) -> NDArray[np.int64]:
    """The token cell (N,) where each track first shows, in the source, or in the target if never there."""
    columns = np.arange(source_xy.shape[1])
    in_source = np.asarray(source_present.any(0))
    first = np.where(in_source, source_present.argmax(0), target_present.argmax(0))
    xy = np.where(in_source[:, None], source_xy[first, columns], target_xy[first, columns])
    column = np.clip(np.floor(xy[:, 0] * grid[1]), 0, grid[1] - 1)
    row = np.clip(np.floor(xy[:, 1] * grid[0]), 0, grid[0] - 1)
    cells: NDArray[np.int64] = (row * grid[1] + column).astype(np.int64)
    return cells
