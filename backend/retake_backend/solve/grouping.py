"""Which moving points belong together: neighbours that move alike, parts that hold together, and what carries on.

Three steps, each on what the one before could not tell: points of one rigid piece (region merging on the graph of
neighbours, as of Brox and Malik's long-term trajectories), pieces that hang on each other at a joint, and what was
followed of one thing before and after its points were lost.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Groups = NDArray[np.int32]
"""(N,) the number of each point's group, from 0."""

_ALIKE = 0.35
"""Mean affinity between two groups of neighbours from which they are one piece."""

_JOINTS = 3
"""Pairs of neighbours by which two pieces are judged in each frame: those that move the most alike."""

_SWING = 1.5
"""How differently, in units of what is alike, the two sides of a joint may move."""

_TOGETHER = 0.3
"""From which on two pieces hold together: how much of the time they do, and whether they stay together."""

_ON = 3
"""Frames for which a piece whose points were lost is taken to go on as it went."""

_LOST = 4
"""Frames around the loss of a piece's points in which they may slide, and in which others of it may be found."""

_FAR, _FAST = 0.5, 1.0
"""Of its own length, and px a frame, that a piece goes by itself to be told from others by its way."""

_BESIDE, _BY = 0.75, 0.4
"""Of the way that two pieces go together: how far they may move against each other. Of the time: how much they are
near each other at least."""


def velocities(uv: Array, visible: Flags) -> Array:
    """(T, N, 2) px a frame over the frames around each, nan where a point was not followed on either side."""
    velocity = np.full(uv.shape, np.nan)
    frames = len(uv)
    for t in range(frames):
        before, after = max(t - 2, 0), min(t + 2, frames - 1)
        both = visible[before] & visible[after] & visible[t]
        velocity[t, both] = (uv[after, both] - uv[before, both]) / max(after - before, 1)
    return velocity


def unlike(a: Array, b: Array) -> Array:
    """How differently points move that have velocities (..., 2): 1 for as much as a body's points may.

    A fast or a large motion varies more over a body than a slow one does.
    """
    speed = np.maximum(np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1))
    apart: Array = np.linalg.norm(a - b, axis=-1) / (0.6 + 0.25 * speed)
    return apart


# ---- pieces ----


def pieces(uv: Array, visible: Flags, near: float) -> Groups:
    """Points of (T, N, 2) px joined while they stay neighbours, `near` px at most, and move alike."""
    pairs, affinity = _pairs(uv, visible, near)
    return _merge(uv.shape[1], pairs, affinity)


def _pairs(uv: Array, visible: Flags, near: float) -> tuple[NDArray[np.int64], Array]:
    """Pairs of neighbours (P, 2), and how much (P,) they belong together: 1 for those that stay near and move alike."""
    frames, count = visible.shape
    velocity = velocities(uv, visible)
    moving: Flags = np.asarray(np.isfinite(velocity).all(-1))
    keys, apart = [], []
    for t in range(frames):
        here = np.flatnonzero(moving[t])
        if len(here) < 2:
            continue
        found = cKDTree(uv[t, here]).query_pairs(near, output_type="ndarray")
        i, j = here[found[:, 0]], here[found[:, 1]]
        i, j = np.minimum(i, j), np.maximum(i, j)
        keys.append(i * count + j)
        apart.append(unlike(velocity[t, i], velocity[t, j]))
    if not keys or not sum(map(len, keys)):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    key, where = np.unique(np.concatenate(keys), return_inverse=True)
    met = np.bincount(where)
    # Squares: two points that part for a moment are less alike than two that differ a little all the time.
    apart_mean = np.sqrt(np.bincount(where, np.concatenate(apart) ** 2) / met)
    i, j = key // count, key % count
    common = np.einsum("tp,tp->p", moving[:, i].astype(np.float32), moving[:, j].astype(np.float32))
    enough = met >= min(3, frames)
    stay = met / np.maximum(common, 1)
    affinity = stay**2 * np.exp(-(apart_mean**2))
    return np.stack([i, j], 1)[enough], affinity[enough]


def _merge(count: int, pairs: NDArray[np.int64], affinity: Array) -> Groups:
    """Neighbours merged, the most alike first, until no two groups are alike enough."""
    total: dict[int, dict[int, list[float]]] = defaultdict(dict)
    for (i, j), a in zip(pairs.tolist(), affinity.tolist(), strict=True):
        total[i][j] = total[j][i] = [a, 1.0]
    parent = np.arange(count)
    alive = np.ones(count, bool)
    queue = [(-a, i, j, 1.0) for (i, j), a in zip(pairs.tolist(), affinity.tolist(), strict=True) if a > _ALIKE]
    heapq.heapify(queue)
    while queue:
        value, i, j, weight = heapq.heappop(queue)
        if not (alive[i] and alive[j]):
            continue
        current = total[i].get(j)
        if current is None or current[1] != weight or -value != current[0] / current[1]:
            continue
        if len(total[i]) < len(total[j]):
            i, j = j, i
        alive[j] = False
        parent[j] = i
        del total[i][j]
        for k, (a, w) in total.pop(j).items():
            if k == i:
                continue
            del total[k][j]
            old = total[i].get(k, [0.0, 0.0])
            merged = [old[0] + a, old[1] + w]
            total[i][k] = total[k][i] = merged
            if merged[0] / merged[1] > _ALIKE:
                heapq.heappush(queue, (-merged[0] / merged[1], i, k, merged[1]))
    for i in range(count):
        root = i
        while parent[root] != root:
            root = int(parent[root])
        parent[i] = root
    return np.unique(parent, return_inverse=True)[1].astype(np.int32)


# ---- parts of one body ----


def join_parts(groups: Groups, uv: Array, visible: Flags, near: float) -> Groups:
    """Groups that hold together all the time and do not drift apart, joined, the surest first.

    The limbs of a body, the sides of a rolling ball: a limb moves at its joint as its body does, whenever both are
    seen. What passes before the body, or is thrown and caught, does so now and then.
    """
    parts = _Parts(groups, uv, visible, near)
    result = groups.copy()
    score = {pair: parts.together(*pair) for pair in parts.meetings}
    while score:
        i, j = max(score, key=lambda pair: (score[pair], pair))
        if score[i, j] <= _TOGETHER:
            break
        changed = parts.join(i, j)
        result[result == j] = i
        score = {pair: value for pair, value in score.items() if j not in pair}
        score.update({pair: parts.together(*pair) for pair in changed})
    return np.unique(result, return_inverse=True)[1].astype(np.int32)


class _Parts:
    """Groups with what is known of them in every frame.

    seen: (G, T) where a group has points that are followed; there: or had a few frames before, or will have. mean:
    (G, T, 2) px a frame, velocity. meetings: of two groups i < j, (K, 2) arrays of frames and how unlike the pairs of
    neighbours between them move that are the most alike.
    """

    def __init__(self, groups: Groups, uv: Array, visible: Flags, near: float) -> None:
        count, frames = int(groups.max(initial=-1)) + 1, len(uv)
        velocity = _velocities_to_the_end(uv, visible)
        real: Flags = np.asarray(np.isfinite(velocity).all(-1))
        uv, velocity = _carried_on(uv, velocity)
        known: Flags = np.asarray(np.isfinite(velocity).all(-1))
        self.seen, self.there = np.zeros((count, frames), bool), np.zeros((count, frames), bool)
        self.mean = np.zeros((count, frames, 2))
        self.meetings: dict[tuple[int, int], list[Array]] = defaultdict(list)
        for t in range(frames):
            here = np.flatnonzero(known[t])
            if not len(here):
                continue
            amount = np.bincount(groups[here], minlength=count)
            self.there[:, t] = amount > 0
            self.seen[:, t] = np.bincount(groups[here], real[t, here], minlength=count) > 0
            for axis in (0, 1):
                total = np.bincount(groups[here], velocity[t, here, axis], minlength=count)
                self.mean[:, t, axis] = total / np.maximum(amount, 1)
            # Where a group is followed, its points that only go on say nothing.
            telling = here[real[t, here] | ~self.seen[groups[here], t]]
            self._meet(t, groups[telling], uv[t, telling], velocity[t, telling], near)
        self.weight = self.there * np.bincount(groups, minlength=count)[:, None].astype(np.float64)

    def _meet(self, t: int, groups: Groups, uv: Array, velocity: Array, near: float) -> None:
        found = cKDTree(uv).query_pairs(near, output_type="ndarray")
        found = found[groups[found[:, 0]] != groups[found[:, 1]]]
        if not len(found):
            return
        apart = unlike(velocity[found[:, 0]], velocity[found[:, 1]])
        pairs = np.sort(groups[found], 1)
        order = np.lexsort((apart, pairs[:, 1], pairs[:, 0]))
        pairs, apart = pairs[order], apart[order]
        starts = np.flatnonzero(np.concatenate([[True], (pairs[1:] != pairs[:-1]).any(1)]))
        for start, values in zip(starts, np.split(apart, starts[1:]), strict=True):
            closest = values[:_JOINTS]
            i, j = pairs[start].tolist()
            self.meetings[i, j].append(np.stack([np.full(len(closest), float(t)), closest], 1))

    def together(self, i: int, j: int) -> float:
        """How surely two groups are parts of one body, -1 where they are not there together."""
        frames = self.seen.shape[1]
        common = self.seen[i] & self.seen[j]
        if common.sum() < 2:
            common = self.there[i] & self.there[j]
        if common.sum() < min(2, frames - 1):
            return -1.0
        at, apart = np.concatenate(self.meetings[i, j]).T
        order = np.lexsort((apart, at))
        at, apart = at[order].astype(np.int64), apart[order]
        few = np.arange(len(at)) - np.searchsorted(at, at) < _JOINTS
        alike = np.bincount(at[few], np.exp(-((apart[few] / _SWING) ** 2)), minlength=frames)
        held = alike / np.maximum(np.bincount(at[few], minlength=frames), 1)
        a, b = self.mean[i, common], self.mean[j, common]
        drift = np.linalg.norm((a - b).mean(0))
        speed = (np.linalg.norm(a, axis=-1) + np.linalg.norm(b, axis=-1)).mean()
        return float(held[common].mean() ** 2 * np.exp(-((drift / (0.6 + 0.35 * speed)) ** 2)))

    def join(self, i: int, j: int) -> list[tuple[int, int]]:
        """Make j a part of i; the pairs whose meetings are others now."""
        both = np.maximum(self.weight[i] + self.weight[j], 1e-9)[:, None]
        self.mean[i] = (self.mean[i] * self.weight[i][:, None] + self.mean[j] * self.weight[j][:, None]) / both
        self.weight[i] += self.weight[j]
        self.there[i] |= self.there[j]
        self.seen[i] |= self.seen[j]
        del self.meetings[min(i, j), max(i, j)]
        for pair in [pair for pair in self.meetings if j in pair]:
            other = pair[0] if pair[1] == j else pair[1]
            self.meetings[min(i, other), max(i, other)] += self.meetings.pop(pair)
        return [pair for pair in self.meetings if i in pair]


def _velocities_to_the_end(uv: Array, visible: Flags) -> Array:
    """As `velocities`, over fewer frames where a point begins and ends."""
    frames = len(uv)
    velocity = np.full(uv.shape, np.nan)
    for before, after in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 1), (1, 2), (2, 2)):
        for t in range(before, frames - after):
            both = visible[t - before] & visible[t + after] & visible[t]
            velocity[t, both] = (uv[t + after, both] - uv[t - before, both]) / (before + after)
    return velocity


def _carried_on(uv: Array, velocity: Array) -> tuple[Array, Array]:
    """Both (T, N, 2) with `_ON` frames more at the ends of each point's life, at its velocity there."""
    known: Flags = np.asarray(np.isfinite(velocity).all(-1))
    places, speeds = np.where(known[..., None], uv, np.nan), velocity.copy()
    for step in range(1, _ON + 1):
        for sign, source, target in (
            (1, slice(None, -step), slice(step, None)),
            (-1, slice(step, None), slice(None, -step)),
        ):
            free = known[source] & ~np.isfinite(speeds[target]).all(-1)
            places[target][free] = (uv[source] + sign * step * velocity[source])[free]
            speeds[target][free] = velocity[source][free]
    return places, speeds


# ---- one thing after its points were lost ----


@dataclass(frozen=True)
class Way:
    """How far a group goes by itself. length: px of all its way. speed: px a frame. turns: in its own lengths."""

    length: float
    speed: float
    turns: float


def way(members: Flags, uv: Array, visible: Flags, own: Array, near: float) -> Way:
    """Of the group of members (N,), `near` px long at least. own: (T, N) px a frame, nan where it is not known."""
    which = np.flatnonzero(members)
    steps, lengths = [], []
    for t in np.flatnonzero(visible[:, which].any(1)):
        here = which[visible[t, which]]
        lengths.append(float(np.linalg.norm(np.ptp(uv[t, here], 0))))
        known = own[t, here][np.isfinite(own[t, here])]
        if len(known):
            steps.append(float(np.median(known)))
    if not steps:
        return Way(0.0, 0.0, 0.0)
    return Way(sum(steps), float(np.median(steps)), sum(steps) / max(float(np.median(lengths)), near))


def carry_on(groups: Groups, uv: Array, visible: Flags, own: Array, near: float) -> Groups:
    """Groups that each go far by themselves, those joined that are one thing.

    Where they are there at the same time, they go the same way, near each other (a ball that rolls turns under its
    points); else one is found where the other was lost: a ball when it is kicked. own: as for `way`.
    """
    ways = [way(groups == number, uv, visible, own, near) for number in range(int(groups.max(initial=-1)) + 1)]
    far = [number for number, gone in enumerate(ways) if gone.turns > _FAR and gone.speed > _FAST]
    alias = np.arange(len(ways))
    for k, a in enumerate(far):
        for b in far[k + 1 :]:
            # What goes fast is found a frame's way farther off.
            reach = near + min(ways[a].speed, ways[b].speed)
            if _one_thing(groups == a, groups == b, uv, visible, own, reach):
                alias[alias == alias[b]] = alias[a]
    return np.unique(alias[groups], return_inverse=True)[1].astype(np.int32)


def _one_thing(a: Flags, b: Flags, uv: Array, visible: Flags, own: Array, reach: float) -> bool:
    """Whether two groups, given by their members (N,), are one thing, parts of it at most `reach` px apart."""
    seen = visible[:, a].any(1), visible[:, b].any(1)
    common = np.flatnonzero(seen[0] & seen[1])
    if not len(common):
        first, second = (a, b) if seen[0].argmax() < seen[1].argmax() else (b, a)
        lost = int(np.flatnonzero(visible[:, first].any(1))[-1])
        found = int(visible[:, second].any(1).argmax())
        close = _distance(uv[lost, first & visible[lost]], uv[found, second & visible[found]]) < reach
        return 0 < found - lost <= _LOST and close
    apart = np.array([_distance(uv[t, a & visible[t]], uv[t, b & visible[t]]) for t in common])
    if len(common) <= _LOST:
        return bool(apart.min() < reach)
    against, gone = [], []
    for t in common[:-1]:
        followed = [m & visible[t] & visible[t + 1] for m in (a, b)]
        if all(f.any() for f in followed):
            # Not by the groups' middles: they leap as points come and go.
            first, second = ((uv[t + 1, f] - uv[t, f]).mean(0) for f in followed)
            against.append(first - second)
        speeds = [own[t, m & np.isfinite(own[t])] for m in (a, b)]
        if all(len(s) for s in speeds):
            gone.append(min(float(np.median(s)) for s in speeds))
    if not against or not gone:
        return False
    swing = np.linalg.norm(against, axis=1).mean()
    return bool((apart < reach).mean() > _BY and swing < _BESIDE * np.mean(gone))


def _distance(a: Array, b: Array) -> float:
    """Between the nearest of two sets of points (n, 2)."""
    return float(cKDTree(a).query(b)[0].min())
