"""Measured matrices -> the target tracks of an edit. Numbers only, no bpy.

Positions are compared with where the solve has them in the root's space, in which Blender computed them; what is
within float32 noise of the solve becomes the solve's own value, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.shot import Solve

from .evaluation import NOISE, snap

NEIGHBOURS = 4
"""A track without an empty deviates from its handle as this many nearest empties of its object do."""


@dataclass(frozen=True)
class Space:
    """The root's space: matrices (T, 4, 4) of the root in Blender's world; the solve's world less origin (3,)."""

    matrices: NDArray[np.float64]
    origin: NDArray[np.float64]

    def local(self, world: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions (T, N, 3) of Blender's world in the root's space, and their noise (T, N) there."""
        inverse = np.linalg.inv(self.matrices)
        return geometry.transform(inverse, world), self.noise(np.linalg.norm(world, axis=2))

    def noise(self, reach: NDArray[np.float64]) -> NDArray[np.float64]:
        """Float32 noise (T, N), in the root's space, of positions as far from Blender's origin as reach (T, N)."""
        far = np.linalg.norm(self.matrices[:, :3, 3], axis=1)
        grow = np.linalg.norm(np.linalg.inv(self.matrices)[:, :3, :3], 2, axis=(1, 2))
        return NOISE * (reach + far[:, None]) * grow[:, None]


@dataclass(frozen=True)
class Handle:
    """One handle. number: of its object in the edit; copy_of: the solve's object whose tracks it shows. centre (3,):
    its tracks' origin in the root's space. shown (T,): the source frames it shows. matrices (T, 4, 4): in Blender's
    world. present (T,): whether it is in the picture."""

    number: int
    copy_of: int
    centre: NDArray[np.float64]
    shown: NDArray[np.float64]
    matrices: NDArray[np.float64]
    present: NDArray[np.bool_]

    @property
    def is_copy(self) -> bool:
        return self.number != self.copy_of


@dataclass(frozen=True)
class Empties:
    """The track empties. rows (E,): of the solve. under (E,): index of the handle each hangs under, -1 for none.
    positions (T, E, 3): in Blender's world."""

    rows: NDArray[np.int64]
    under: NDArray[np.int64]
    positions: NDArray[np.float64]


@dataclass(frozen=True)
class Targets:
    """Target tracks, as the fields of `shot.Edit`."""

    positions: NDArray[np.float64]
    present: NDArray[np.bool_]
    rows: NDArray[np.int64]
    source_frame: NDArray[np.float64]
    numbers: NDArray[np.int64]
    is_copy: NDArray[np.bool_]


def collect(
    solve: Solve, space: Space, handles: list[Handle], empties: Empties, has_empty: NDArray[np.bool_]
) -> Targets:
    """All target tracks: the solve's own first, in its order, absent where the artist deleted them; then the copies'.

    has_empty (N,): which tracks got an empty at import; the others follow their handle and its empties.
    """
    local, noise = space.local(empties.positions)
    blocks = []
    for index, handle in enumerate(handles):
        hung = np.flatnonzero(empties.under == index)
        dense = np.flatnonzero((solve.tracks.objects == handle.copy_of) & ~has_empty)
        rest, dense_rest = (_rest(solve, rows, handle.shown) for rows in (empties.rows[hung], dense))
        here = rest - space.origin
        read = snap(local[:, hung], here, noise[:, hung])
        blocks.append(_block(handle, empties.rows[hung], _to_world(read, rest, space)))
        if len(dense):
            deviation = np.where(read == here, 0.0, read - _carried(space, handle, here))
            dense_here = dense_rest - space.origin
            follow = _carried(space, handle, dense_here) + _spread(deviation, here, dense_here)
            blocks.append(_block(handle, dense, _to_world(follow, dense_rest, space)))

    loose = np.flatnonzero(empties.under == -1)
    rows = empties.rows[loose]
    rest = solve.tracks.positions[:, rows]
    read = snap(local[:, loose], rest - space.origin, noise[:, loose])
    blocks.append(_unhandled(solve, rows, _to_world(read, rest, space), present=True))

    own = [block.rows for block in blocks if not block.is_copy.any()]
    gone = np.setdiff1d(np.arange(len(solve.tracks)), np.concatenate(own))
    blocks.append(_unhandled(solve, gone, solve.tracks.positions[:, gone], present=False))
    return _in_order(blocks)


def _rest(solve: Solve, rows: NDArray[np.int64], shown: NDArray[np.float64]) -> NDArray[np.float64]:
    return geometry.sample_rows(solve.tracks.positions[:, rows], shown)


def _carried(space: Space, handle: Handle, here: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the handle alone takes tracks that rest at here (T, M, 3) in the root's space."""
    matrices = np.linalg.inv(space.matrices) @ handle.matrices
    reach = np.linalg.norm(here, axis=2) * np.linalg.norm(space.matrices[:, :3, :3], 2, axis=(1, 2))[:, None]
    return snap(geometry.transform(matrices, here - handle.centre), here, space.noise(reach))


def _to_world(read: NDArray[np.float64], rest: NDArray[np.float64], space: Space) -> NDArray[np.float64]:
    """Positions of the root's space in the solve's world; where they rest, exactly rest (T, M, 3)."""
    return np.where(read == rest - space.origin, rest, read + space.origin)


def _block(handle: Handle, rows: NDArray[np.int64], positions: NDArray[np.float64]) -> Targets:
    shape = positions.shape[:2]
    return Targets(
        positions=positions,
        present=np.broadcast_to(handle.present[:, None], shape),
        rows=rows,
        source_frame=np.broadcast_to(handle.shown[:, None], shape),
        numbers=np.full(len(rows), handle.number),
        is_copy=np.full(len(rows), handle.is_copy),
    )


def _unhandled(solve: Solve, rows: NDArray[np.int64], positions: NDArray[np.float64], present: bool) -> Targets:
    shape = positions.shape[:2]
    return Targets(
        positions=positions,
        present=np.full(shape, present),
        rows=rows,
        source_frame=np.broadcast_to(np.arange(len(solve), dtype=np.float64)[:, None], shape),
        numbers=solve.tracks.objects[rows].astype(np.int64),
        is_copy=np.zeros(len(rows), bool),
    )


def _in_order(blocks: list[Targets]) -> Targets:
    rows, numbers, is_copy = (np.concatenate([getattr(b, n) for b in blocks]) for n in ("rows", "numbers", "is_copy"))
    order = np.lexsort((rows, np.where(is_copy, numbers, 0), is_copy))
    over_time = ("positions", "present", "source_frame")
    positions, present, source_frame = (np.concatenate([getattr(b, n) for b in blocks], 1)[:, order] for n in over_time)
    return Targets(positions, present, rows[order], source_frame, numbers[order], is_copy[order])


def _spread(deviation: NDArray[np.float64], at: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    """What tracks at `to` (T, D, 3) do when tracks at `at` (T, E, 3) deviate by (T, E, 3): a mean of the nearest.

    Neighbours are chosen once, by their distances in the shot's first, middle and last frame.
    """
    if not deviation.any():
        return np.zeros(to.shape)
    frames = sorted({0, len(at) // 2, len(at) - 1})
    squared = sum(((to[f] ** 2).sum(1)[:, None] - 2 * to[f] @ at[f].T + (at[f] ** 2).sum(1)[None]) for f in frames)
    count = min(NEIGHBOURS, at.shape[1])
    nearest = np.argpartition(squared, count - 1, axis=1)[:, :count]
    weight = 1 / np.maximum(np.take_along_axis(squared, nearest, 1), 1e-12)
    weight /= weight.sum(1, keepdims=True)
    return np.einsum("tdkc,dk->tdc", deviation[:, nearest], weight)
