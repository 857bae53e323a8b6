"""Thousands of points followed through a clip: long, over the whole frame, honest about when they are lost.

Dense inverse search flow, both ways, takes every point to the next frame; there it is aligned, affinely, with the
patch that it was born as, so that errors do not add up. A point whose patch is not found there is lost, unless its
appearance has changed slowly, then it goes on from a new patch. Lost points are looked for again where their
neighbours went, for a while. Places where no point is left get new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..engines.base import Progress, Report
from . import patches
from .patches import RADIUS, Templates, sample
from .stages import Gray, PointTracks

VERSION = 1

POINTS = 3000
"""How many points are aimed at in one frame."""

OCCLUSION = 24
"""Frames for which a lost point is looked for."""

SHORTEST = 5
"""Frames. A point seen in fewer of them says nothing."""

_FOUND, _CERTAIN, _SAME, _AGAIN = 0.80, 0.90, 0.93, 0.96
"""Correlation with its patch from which on a point is found; found although the flow is not sure; with the frame
before, still the same although it no longer looks like its patch; found again after it was lost."""
_FLAT = 0.5
_WIDE, _WIDE_FROM = 2.0, 0.15
"""px by which noise may move a point; more is too flat a place to follow."""
EDGE = 0.8
"""px per frame by which flow may differ within a patch; more is the border of something that moves on its own."""
_CONSISTENT, _CONSISTENT_SHARE = 0.7, 0.05
"""px, and share of the motion, by which flow there and back may miss."""
_APART = 0.8
"""Share of the points' spacing that new points keep from those that are there."""
_NEIGHBOURS = 10
_ASKED = 800
_LIVE, _LOST, _DEAD = 0, 1, 2

Flow = NDArray[np.float32]


def follow(frames: Sequence[Gray], report: Report) -> PointTracks:
    """Points of all frames, (h, w) uint8 each, all of one size. Same frames, same points. Raises Cancelled."""
    tracker = _Tracker(frames)
    steps = len(frames) - 1
    with ThreadPoolExecutor(2) as pool:  # flow of the next frames while the points of these are aligned

        def begun(t: int) -> tuple[Future[Flow], Future[Flow]]:
            a, b = frames[min(t, steps)], frames[min(t + 1, steps)]
            return pool.submit(flow_between, a, b), pool.submit(flow_between, b, a)

        coming = begun(0)
        for t in range(steps):
            report(Progress("following points", t, steps))
            (ahead, back), coming = coming, begun(t + 1)
            tracker.step(t, ahead.result(), back.result())
    report(Progress("following points", steps, steps))
    return tracker.result()


def flow_between(a: Gray, b: Gray) -> Flow:
    """(h, w, 2) px from each pixel of a to where it lies in b."""
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(dense.calc(a, b, np.zeros((*a.shape, 2), np.float32)), np.float32)


@dataclass
class _Rows:
    """What is known of every point so far; arrays grow by doubling."""

    uv: NDArray[np.float32]
    match: NDArray[np.float32]
    state: NDArray[np.int8]
    born: NDArray[np.int32]
    lost: NDArray[np.int32]
    renewed: NDArray[np.int32]
    slot: NDArray[np.int32]
    affine: NDArray[np.float32]
    scale: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def empty(cls, frames: int, room: int) -> _Rows:
        return cls(
            uv=np.full((room, frames, 2), np.nan, np.float32),
            match=np.zeros((room, frames), np.float32),
            state=np.full(room, _DEAD, np.int8),
            born=np.zeros(room, np.int32),
            lost=np.zeros(room, np.int32),
            renewed=np.zeros(room, np.int32),
            slot=np.full(room, -1, np.int32),
            affine=np.zeros((room, 2, 2), np.float32),
            scale=np.ones(room, np.float32),
            deviation=np.zeros(room, np.float32),
        )

    def grown(self) -> _Rows:
        more = _Rows.empty(self.uv.shape[1], len(self.uv))
        return _Rows(**{k: np.concatenate([v, getattr(more, k)]) for k, v in vars(self).items()})


class _Tracker:
    def __init__(self, frames: Sequence[Gray], points: int = POINTS) -> None:
        self.frames = frames
        self.height, self.width = frames[0].shape
        self.spacing = max(6.0, float(np.sqrt(self.width * self.height / points)))
        self.rows = _Rows.empty(len(frames), 4 * points)
        self.count = 0
        self.pool: Templates | None = None
        self.free: list[int] = []
        self.image = patches.smooth(frames[0])
        self.edge = np.zeros((self.height, self.width), np.float32)

    # --- one frame ---

    def step(self, t: int, ahead: Flow, back: Flow) -> None:
        """Take the points from frame t to t + 1; new ones first, where frame t has none."""
        self.edge = edges(ahead)
        self._seed(t, ahead, back)
        image = patches.smooth(self.frames[t + 1])
        self._advance(t, image, ahead, back)
        self.image = image
        self._find_again(t + 1)
        self._thin(t + 1)

    def _advance(self, t: int, image: NDArray[np.float32], ahead: Flow, back: Flow) -> None:
        rows = self.rows
        live = np.flatnonzero(rows.state[: self.count] == _LIVE)
        p = rows.uv[live, t]
        move = sample(ahead, p)
        q = p + move
        miss = np.linalg.norm(q + sample(back, q) - p, axis=1)
        moved = np.linalg.norm(move, axis=1)
        consistent = miss < _CONSISTENT + _CONSISTENT_SHARE * moved
        whole = self._inside(q, RADIUS * rows.scale[live] + 1)
        tried = np.flatnonzero(whole & (miss < 3 + 0.2 * moved))
        found, affine, match = self._align(image, live[tried], q[tried])
        away = np.linalg.norm(found - q[tried], axis=1)
        sure = consistent[tried]
        good = (match >= np.where(sure, _FOUND, _CERTAIN)) & (away < np.where(sure, 1.5, 1.0) + 0.1 * moved[tried])
        good &= _sane(affine, rows.scale[live[tried]])
        hit = tried[good]
        q[hit] = found[good]
        rows.affine[live[hit]] = affine[good]
        kept = np.zeros(len(live), bool)
        kept[hit] = True
        scores = np.zeros(len(live), np.float32)
        scores[hit] = match[good]

        # The flow is sure of these, their patch is not found: has the appearance changed, or is it another thing?
        doubt = np.flatnonzero(consistent & ~kept & self._inside(q, 1))
        if len(doubt):
            same = patches.correlation(self.image, p[doubt], image, q[doubt])
            rim = ~whole[doubt]
            calm = sample(self.edge, p[doubt]) < EDGE
            on = (rim | (same >= _SAME)) & calm  # a patch that the frame cuts off cannot be compared
            doubt, same, rim = doubt[on], same[on], rim[on]
            kept[doubt] = True
            scores[doubt] = np.where(rim, 0.87, 0.9 * same)
            self._renew(live[doubt[~rim]], image, q[doubt[~rim]])
        rows.uv[live[kept], t + 1] = q[kept]
        rows.match[live[kept], t + 1] = scores[kept]
        rows.state[live[~kept]], rows.lost[live[~kept]] = _LOST, t
        gone = live[~kept & ~self._inside(q, 1)]
        self._drop(gone)

    def _align(
        self, image: NDArray[np.float32], which: NDArray[np.intp], start: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        if not len(which) or self.pool is None:
            return start, self.rows.affine[which], np.zeros(len(which), np.float32)
        return patches.align(image, self.pool[self.rows.slot[which]], start, self.rows.affine[which])

    def _renew(self, which: NDArray[np.intp], image: NDArray[np.float32], uv: NDArray[np.float32]) -> None:
        """Let points go on from what they look like now."""
        if len(which) and self.pool is not None:
            straight = self.rows.scale[which, None, None] * np.eye(2, dtype=np.float32)
            new = patches.templates(image, uv, straight)
            self.pool.put(self.rows.slot[which], new)
            self.rows.affine[which] = straight
            self.rows.renewed[which] += 1
            self.rows.deviation[which] = np.maximum(self.rows.deviation[which], new.deviation)

    # --- lost and found ---

    def _find_again(self, t: int) -> None:
        """Look for lost points in frame t where their neighbours went."""
        rows = self.rows
        lost = np.flatnonzero(rows.state[: self.count] == _LOST)
        self._drop(lost[t - rows.lost[lost] > OCCLUSION])
        ago = t - rows.lost[lost]
        lost = lost[(ago <= OCCLUSION) & ((ago < 3) | ((lost + t) % 2 == 0))]  # every other frame is often enough
        live = np.flatnonzero(rows.state[: self.count] == _LIVE)
        start, spread = np.full((len(lost), 2), np.nan, np.float32), np.zeros(len(lost), np.float32)
        for since in np.unique(rows.lost[lost]):
            group = np.flatnonzero(rows.lost[lost] == since)
            start[group], spread[group] = self._predict(lost[group], live, int(since), t)
        with np.errstate(invalid="ignore"):
            inside = self._inside(start, RADIUS * rows.scale[lost] + 1)
        lost, start, spread = lost[inside], start[inside], spread[inside]
        if not len(lost):
            return
        found, affine, match = self._align(self.image, lost, start)
        away = np.linalg.norm(found - start, axis=1)
        good = (match >= _AGAIN) & (away < 1 + spread / 2) & _sane(affine, rows.scale[lost])
        good &= rows.deviation[lost] < _FLAT / 2
        lost = lost[good]
        rows.state[lost] = _LIVE
        rows.uv[lost, t], rows.match[lost, t], rows.affine[lost] = found[good], match[good], affine[good]
        self._merge(lost, t)

    def _predict(
        self, lost: NDArray[np.intp], live: NDArray[np.intp], since: int, t: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where points lost after frame `since` are in frame t, by the nearest that moved as they did, and how sure."""
        rows = self.rows
        unknown = np.full((len(lost), 2), np.nan, np.float32), np.zeros(len(lost), np.float32)
        live = live[np.isfinite(rows.uv[live, since, 0]) & (rows.born[live] < since)]
        live = live[:: 1 + len(live) // _ASKED]
        if len(live) < _NEIGHBOURS or since == 0:
            return unknown
        p, q = rows.uv[lost, since], rows.uv[live, since]
        speed, theirs = p - rows.uv[lost, since - 1], q - rows.uv[live, since - 1]
        near = ((p[:, None] - q) ** 2).sum(2)
        unlike = ((speed[:, None] - theirs) ** 2).sum(2)
        alike = unlike < (0.7 + 0.1 * np.linalg.norm(speed, axis=1)[:, None]) ** 2
        near = np.where(alike, near, np.inf)  # a point just born has no motion to compare, and is not looked for
        best = np.argpartition(near, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        near = np.take_along_axis(near, best, 1)
        usable = np.isfinite(near).all(1) & (near.max(1) < (20 * self.spacing) ** 2)
        # Their motion as a plane over the picture, the nearer ones counting more.
        offset = np.concatenate([q[best] - p[:, None], np.ones((*best.shape, 1), np.float32)], 2)
        motion = rows.uv[live, t][best] - q[best]
        weight = 1 / (near + self.spacing**2)
        weight[~usable] = 0
        weighted = offset * weight[..., None]
        normal = np.einsum("nki,nkj->nij", weighted, offset) + np.diag([0.1, 0.1, 1e-6])
        plane = np.linalg.solve(normal, np.einsum("nki,nkc->nic", weighted, motion))
        miss = np.abs(np.einsum("nki,nic->nkc", offset, plane) - motion).max(2)
        start = np.where(usable[:, None], p + plane[:, 2], np.nan)
        return start.astype(np.float32), np.minimum(np.median(miss, axis=1), 3).astype(np.float32)

    def _merge(self, found: NDArray[np.intp], t: int) -> None:
        """Points born while these were lost, in their place, are the same points: they become one."""
        rows = self.rows
        live = np.flatnonzero(rows.state[: self.count] == _LIVE)
        for row in found:
            young = live[rows.born[live] > rows.lost[row]]
            apart = np.linalg.norm(rows.uv[young, t] - rows.uv[row, t], axis=1)
            for other in young[apart < self.spacing / 2]:
                offset = rows.uv[row, t] - rows.uv[other, t]
                if np.linalg.norm(offset) < 2.5:
                    fill = np.isnan(rows.uv[row, :, 0]) & np.isfinite(rows.uv[other, :, 0])
                    rows.uv[row, fill] = rows.uv[other, fill] + offset
                    rows.match[row, fill] = 0.9 * rows.match[other, fill]
                rows.uv[other] = np.nan
                self._drop(np.array([other]))
            live = live[rows.state[live] == _LIVE]

    def _drop(self, which: NDArray[np.intp]) -> None:
        self.rows.state[which] = _DEAD
        slots = self.rows.slot[which]
        self.free.extend(slots[slots >= 0].tolist())
        self.rows.slot[which] = -1

    def _thin(self, t: int) -> None:
        """Where points have run together, one of them slipped: the oldest stays."""
        live = np.flatnonzero(self.rows.state[: self.count] == _LIVE)
        uv = self.rows.uv[live, t]
        for shift in (0.0, 0.5):
            cell = np.floor(uv / 2 + shift).astype(np.int64)
            key = cell[:, 1] * 100_000 + cell[:, 0]
            _, first = np.unique(key, return_index=True)  # the first row is the oldest point
            twice = np.ones(len(live), bool)
            twice[first] = False
            self._drop(live[twice])
            self.rows.uv[live[twice], t] = np.nan
            live, uv = live[~twice], uv[~twice]

    # --- new points ---

    def _seed(self, t: int, ahead: Flow, back: Flow) -> None:
        """A point at the best place of every cell of the frame that has none."""
        where = self._places(t, ahead, back)
        if not len(where):
            return
        new, scale = patches.templates(self.image, where), np.ones(len(where), np.float32)
        wide = np.flatnonzero((new.deviation > _WIDE_FROM) & self._inside(where, _WIDE * RADIUS + 1))
        if len(wide):  # a place that shows little is followed by more of its surroundings
            straight = np.broadcast_to(_WIDE * np.eye(2, dtype=np.float32), (len(wide), 2, 2))
            wider = patches.templates(self.image, where[wide], straight)
            better = wider.deviation < 0.7 * new.deviation[wide]
            new.put(wide[better], wider[better])
            scale[wide[better]] = _WIDE
        good = new.deviation < _FLAT
        where, new, scale = where[good], new[good], scale[good]
        if not len(where):
            return
        while self.count + len(where) > len(self.rows.state):
            self.rows = self.rows.grown()
        slots = self._slots(len(where))
        rows, which = self.rows, np.arange(self.count, self.count + len(where))
        assert self.pool is not None
        self.pool.put(slots, new)
        rows.uv[which, t], rows.match[which, t] = where, 1
        rows.state[which], rows.born[which], rows.slot[which] = _LIVE, t, slots
        rows.scale[which], rows.deviation[which] = scale, new.deviation
        rows.affine[which] = scale[:, None, None] * np.eye(2, dtype=np.float32)
        self.count += len(where)

    def _places(self, t: int, ahead: Flow, back: Flow) -> NDArray[np.float32]:
        """(n, 2) px, the places of frame t that can be followed best, one in each empty cell."""
        score = patches.sharpness(self.image)
        target = np.stack(np.meshgrid(np.arange(self.width), np.arange(self.height)), -1).astype(np.float32) + ahead
        returned = ahead + patches.taken(back, target)
        moved = np.linalg.norm(ahead, axis=2)
        score[np.linalg.norm(returned, axis=2) > _CONSISTENT + _CONSISTENT_SHARE * moved] = 0
        score[self.edge > EDGE] = 0
        rim = RADIUS + 1
        score[:rim], score[-rim:], score[:, :rim], score[:, -rim:] = 0, 0, 0, 0
        live = self.rows.uv[: self.count, t][self.rows.state[: self.count] == _LIVE]
        pixel = np.clip(np.floor(live).astype(int), 0, [self.width - 1, self.height - 1])
        near = np.zeros(score.shape, np.uint8)
        near[pixel[:, 1], pixel[:, 0]] = 1
        reach = 2 * round(_APART * self.spacing) + 1
        score[cv2.dilate(near, np.ones((reach, reach), np.uint8)) > 0] = 0
        across, down = max(1, round(self.width / self.spacing)), max(1, round(self.height / self.spacing))
        xs = np.arange(self.width) * across // self.width
        ys = np.arange(self.height) * down // self.height
        pixels = np.flatnonzero(score > 0)
        cell = ys[pixels // self.width] * across + xs[pixels % self.width]
        order = np.lexsort((-score.ravel()[pixels], cell))
        _, first = np.unique(cell[order], return_index=True)
        best = pixels[order[first]]
        return np.stack([best % self.width + 0.5, best // self.width + 0.5], -1).astype(np.float32)

    def _slots(self, count: int) -> NDArray[np.int32]:
        """Free places in the pool of templates, which grows when there are too few."""
        side = (2 * RADIUS + 1) ** 2
        if len(self.free) < count:
            size = 0 if self.pool is None else len(self.pool.deviation)
            more = max(count, size, 1024)
            room = Templates(
                np.zeros((more, side), np.float32), np.zeros((more, 6, side), np.float32), np.zeros(more, np.float32)
            )
            self.pool = room if self.pool is None else self.pool.extended(room)
            self.free.extend(range(size, size + more))
        taken, self.free = self.free[:count], self.free[count:]
        return np.array(taken, np.int32)

    def _inside(self, uv: NDArray[np.float32], rim: float | NDArray[np.float32]) -> NDArray[np.bool_]:
        x, y = uv[:, 0], uv[:, 1]
        return np.asarray((x >= rim) & (y >= rim) & (x <= self.width - rim) & (y <= self.height - rim))

    # --- the whole ---

    def result(self) -> PointTracks:
        """What was followed, without what cannot be trusted: the last frames before a loss, and short pieces."""
        rows, n = self.rows, self.count
        uv = np.ascontiguousarray(rows.uv[:n].transpose(1, 0, 2))
        match = np.ascontiguousarray(rows.match[:n].T)
        visible = np.isfinite(uv[..., 0])
        last = len(uv) - 1
        for t in range(last - 1, -1, -1):  # weak frames before a loss: it had slipped already
            visible[t] &= ~(~visible[t + 1] & (match[t] < 0.85))
        visible = _long_pieces(visible, 3)
        sharp = 1 / (1 + (rows.deviation[:n] / 0.2) ** 2) * 0.9 ** rows.renewed[:n]
        confidence = sharp * np.clip((match - 0.6) / 0.35, 0, 1)
        uv[~visible], confidence[~visible] = np.nan, 0
        return PointTracks(uv, visible, confidence.astype(np.float32)).select(visible.sum(0) >= SHORTEST)


def edges(flow: Flow) -> NDArray[np.float32]:
    """(h, w) px by which flow differs within a patch."""
    coarse = np.ascontiguousarray(flow[::2, ::2])
    box = np.ones((5, 5), np.uint8)
    spread = (cv2.dilate(coarse, box) - cv2.erode(coarse, box)).max(2)
    spread /= 1 + 0.1 * np.hypot(coarse[..., 0], coarse[..., 1])
    return np.asarray(cv2.resize(spread, flow.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.float32)


def _sane(affine: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which patches are neither turned inside out nor blown up."""
    area = (affine[:, 0, 0] * affine[:, 1, 1] - affine[:, 0, 1] * affine[:, 1, 0]) / scale**2
    return np.asarray((area > 0.2) & (area < 5) & (np.abs(affine).max((1, 2)) < 3 * scale))


def _long_pieces(visible: NDArray[np.bool_], shortest: int) -> NDArray[np.bool_]:
    """visible (T, N) without pieces of fewer than `shortest` frames in a row."""
    kept = np.zeros_like(visible)
    for start in range(len(visible) - shortest + 1):
        piece = visible[start : start + shortest].all(0)
        kept[start : start + shortest] |= piece
    return kept


def select(points: PointTracks, size: tuple[int, int], count: int = 3000) -> PointTracks:
    """At most `count` of the points, in their order: the longest and surest, evenly over frame and clip."""
    if len(points) <= count:
        return points
    worth = points.confidence.sum(0) + 0.01 * points.lengths
    across = max(1, round(np.sqrt(count / 12 * size[0] / size[1])))
    down = max(1, round(across * size[1] / size[0]))
    rank = np.full(len(points), len(points))
    for t in np.unique(np.linspace(0, points.frame_count - 1, 13).round().astype(int)):
        seen = np.flatnonzero(points.visible[t])
        cell = np.floor(points.uv[t, seen] / size * (across, down)).astype(int)
        cell = np.clip(cell[:, 1], 0, down - 1) * across + np.clip(cell[:, 0], 0, across - 1)
        order = np.lexsort((-worth[seen], cell))
        starts = np.r_[True, np.diff(cell[order]) > 0]
        first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
        place = seen[order]
        rank[place] = np.minimum(rank[place], np.arange(len(order)) - first)
    best = np.lexsort((-worth, rank))[:count]
    return points.select(np.sort(best))
