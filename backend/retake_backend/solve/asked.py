"""Points that somebody asks for, followed through a clip with the project's own tools: one answer in every frame.

The tracker of `points` chooses points that can be followed and gives them up when they are lost. Here the points are
given and each must be answered for: dense flow takes it on, its patch of the first frame is looked for there, and
while it is hidden it goes where those of the tracker's points went that moved with it before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Progress, Report
from . import patches
from .patches import sample
from .points import EDGE, edges, flow_between, follow
from .stages import Gray, PointTracks

_FOUND, _AGAIN = 0.75, 0.90
"""Correlation with its first patch from which on a point is found, and found again after it was hidden."""
_HIDDEN = 0.4
"""Correlation below which the place shows something else, even where the flow is sure."""
_NEAR = 3.0
"""px by which the patch may lie away from where the flow leads."""
_FLAT = 0.6
"""px by which noise may move a point that is still looked for by its patch."""
_NEIGHBOURS = 4

Places = NDArray[np.float32]


def follow_from(
    frames: Sequence[Gray], uv: NDArray[np.floating], first: NDArray[np.integer], report: Report
) -> tuple[Places, NDArray[np.bool_]]:
    """Follow N points, each from where it is in its first frame on. Same input, same answer. Raises Cancelled.

    frames: T pictures (h, w) uint8. uv: (N, 2) px, pixel centres at .5. first: (N,) frame numbers. Returns uv (T, N, 2)
    float32 px, nan before a point's first frame, and seen (T, N) bool, False where it was taken to be hidden.
    """
    companions = follow(frames, report)
    asked = _Asked(frames, np.asarray(uv, np.float32), np.asarray(first), companions)
    for t in range(len(frames) - 1):
        report(Progress("following points", t, len(frames)))
        asked.step(t)
    return asked.uv, asked.seen


class _Asked:
    def __init__(self, frames: Sequence[Gray], uv: Places, first: NDArray[np.integer], companions: PointTracks) -> None:
        count = len(uv)
        self.frames, self.first, self.companions = frames, first, companions
        self.size = np.array(frames[0].shape[::-1], np.float32)
        self.uv = np.full((len(frames), count, 2), np.nan, np.float32)
        self.uv[first, np.arange(count)] = uv
        self.seen = np.zeros((len(frames), count), bool)
        self.seen[first, np.arange(count)] = True
        self.motion = np.full((count, 2), np.nan, np.float32)  # px a frame, when it was last sure
        self.affine = np.tile(np.eye(2, dtype=np.float32), (count, 1, 1))
        smoothed = [patches.smooth(frame) for frame in frames]
        side = (2 * patches.RADIUS + 1) ** 2
        self.looks = patches.Templates(
            np.zeros((count, side), np.float32), np.zeros((count, 6, side), np.float32), np.zeros(count, np.float32)
        )
        for t in np.unique(first):
            new = np.flatnonzero(first == t)
            self.looks.put(new, patches.templates(smoothed[t], uv[new]))
        self.pictures = smoothed

    def step(self, t: int) -> None:
        """From frame t to t + 1."""
        known = np.flatnonzero(self.first <= t)
        before = self.uv[t, known]
        ahead, back = flow_between(*self.frames[t : t + 2]), flow_between(self.frames[t + 1], self.frames[t])
        move = sample(ahead, before)
        flowed = before + move
        miss = np.linalg.norm(flowed + sample(back, flowed) - before, axis=1)
        sure = miss < 1 + 0.05 * np.linalg.norm(move, axis=1)
        shown = self.seen[t, known]
        start = flowed.copy()
        start[~shown] = self._carried(known[~shown], t, flowed[~shown])
        place, affine, match = patches.align(self.pictures[t + 1], self.looks[known], start, self.affine[known])
        near = np.linalg.norm(place - start, axis=1) < _NEAR
        flat = self.looks.deviation[known] > _FLAT
        found = (match > np.where(shown, _FOUND, _AGAIN)) & near & ~flat
        calm = sample(edges(ahead), before) < EDGE
        kept = found | (shown & sure & calm & ((match > _HIDDEN) | flat))
        outside = ((start < 0) | (start > self.size)).any(1)
        kept &= ~outside
        self.affine[known[found]] = affine[found]
        lost = shown & ~kept
        if lost.any():
            start[lost] = self._carried(known[lost], t, flowed[lost])
        self.uv[t + 1, known] = np.where(found[:, None], place, start)
        self.seen[t + 1, known] = kept
        certain = known[found | ~kept]  # what only the flow says may be what comes in front
        self.motion[certain] = self.uv[t + 1, certain] - self.uv[t, certain]

    def _carried(self, which: NDArray[np.intp], t: int, otherwise: Places) -> Places:
        """Where hidden points (n,) go from frame t to t + 1: as the near companions that move as they did before."""
        companions, ago = self.companions, max(t - 1, 0)
        there = companions.visible[t] & companions.visible[t + 1] & companions.visible[ago]
        if there.sum() < _NEIGHBOURS or not len(which):
            return otherwise
        q = companions.uv[t, there]
        theirs, coming = q - companions.uv[ago, there], companions.uv[t + 1, there] - q
        p, own = self.uv[t, which], self.motion[which]
        known = np.isfinite(own).all(1, keepdims=True)
        unlike = np.linalg.norm(np.where(known, own, 0)[:, None] - theirs, axis=2)
        unlike /= 0.5 + 0.1 * np.linalg.norm(theirs, axis=1)
        cost = np.linalg.norm(p[:, None] - q, axis=2) * (1 + np.where(known, unlike, 0)) ** 2
        best = np.argpartition(cost, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        moved: Places = p + np.median(coming[best], axis=1).astype(np.float32)
        return moved
