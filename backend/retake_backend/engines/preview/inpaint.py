"""Invention: pixels that no frame shows, from the picture around them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from .grids import Map

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Cells = NDArray[np.int64]
RADIUS = 3
OFFSETS = np.stack(
    np.meshgrid(np.arange(-RADIUS, RADIUS + 1), np.arange(-RADIUS, RADIUS + 1), indexing="ij"), -1
).reshape(-1, 2)
MOST_CELLS = 6000
MOST_RISE = 0.08
"""How far up or down texture may come from, in picture heights: sky stays above ground."""


def push_pull(rgb: Picture, hole: Mask) -> Picture:
    """The picture (H, W, 3) with `hole` filled smoothly from its rim inwards, by averages of ever coarser levels."""
    if not hole.any():
        return rgb
    if min(hole.shape) > 256:
        # Smooth anyway: half the size is enough, and four times as fast.
        half = (hole.shape[1] // 2, hole.shape[0] // 2)
        known = cv2.resize((~hole).astype(np.float32), half, interpolation=cv2.INTER_AREA)
        kept = cv2.resize(np.where(hole[..., None], 0, rgb).astype(np.uint8), half, interpolation=cv2.INTER_AREA)
        mean = np.clip(kept / np.maximum(known, 0.05)[..., None], 0, 255).astype(np.uint8)
        filled_half = push_pull(mean, known < 0.3)
        out = rgb.copy()
        out[hole] = cv2.resize(filled_half, hole.shape[::-1], interpolation=cv2.INTER_LINEAR)[hole]
        return out
    weight = (~hole).astype(np.float32)
    levels = [(rgb.astype(np.float32) * weight[..., None], weight)]
    while min(levels[-1][1].shape) > 2 and (levels[-1][1] <= 0).any():
        colour, weight = levels[-1]
        levels.append((cv2.pyrDown(colour), cv2.pyrDown(weight)))  # type: ignore[arg-type]
    colour, weight = levels.pop()
    mean = colour.sum((0, 1)) / max(float(weight.sum()), 1e-6) if weight.any() else np.full(3, 127.0)
    filled = np.where(weight[..., None] > 1e-4, colour / np.maximum(weight, 1e-4)[..., None], mean).astype(np.float32)
    while levels:
        colour, weight = levels.pop()
        coarser = cv2.pyrUp(filled, dstsize=(weight.shape[1], weight.shape[0]))
        trust = np.minimum(weight * 2, 1)[..., None]
        filled = trust * colour / np.maximum(weight, 1e-4)[..., None] + (1 - trust) * coarser
    out = rgb.copy()
    out[hole] = np.clip(np.rint(filled[hole]), 0, 255).astype(np.uint8)
    return out


def patch_fill(rgb: Picture, hole: Mask, tick: Callable[[], None], rounds: int = 5) -> Picture:
    """The picture (H, W, 3) with `hole` filled by texture from elsewhere in it (PatchMatch, coarse to fine).

    Seconds for a large hole: meant for a background that is filled once per shot. The finest level is chosen so that
    it stays within a few thousand cells; the full resolution is copied along the offsets found there. Deterministic.
    """
    if not hole.any() or hole.all():
        return push_pull(rgb, hole)
    height, width = hole.shape
    scale = max(1.0, np.sqrt(hole.sum() / MOST_CELLS), max(height, width) / 512)
    sizes = []
    while max(height, width) / scale > 40:
        sizes.append((max(16, round(width / scale)), max(16, round(height / scale))))
        scale *= 2
    rng = np.random.default_rng(0)
    smooth = push_pull(rgb, hole)
    shift: NDArray[np.float64] | None = None
    previous: Map | None = None
    for size in reversed(sizes):
        level_hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.01
        level = cv2.resize(smooth, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        if previous is not None:
            level = np.where(level_hole[..., None], cv2.resize(previous, size, interpolation=cv2.INTER_LINEAR), level)
        found = _fill_level(level, level_hole, shift, rng, rounds, tick)
        if found is None:
            continue
        previous, shift = found
    if shift is None:
        return smooth
    return _copy_along(smooth, hole, shift)


def _fill_level(
    level: Map,
    hole: Mask,
    shift: NDArray[np.float64] | None,
    rng: np.random.Generator,
    rounds: int,
    tick: Callable[[], None],
) -> tuple[Map, NDArray[np.float64]] | None:
    """The level filled and, per cell, the offset (rows, columns, 2) in cells to where its patch was found."""
    height, width = hole.shape
    blocked = cv2.dilate(hole.astype(np.uint8), np.ones((2 * RADIUS + 1,) * 2, np.uint8)) > 0
    blocked[:RADIUS] = blocked[-RADIUS:] = True
    blocked[:, :RADIUS] = blocked[:, -RADIUS:] = True
    if (~blocked).sum() < 16:
        return None
    wanted = cv2.dilate(hole.astype(np.uint8), np.ones((RADIUS + 1,) * 2, np.uint8)) > 0
    targets = np.argwhere(wanted)
    number = np.full((height, width), -1)
    number[wanted] = np.arange(len(targets))
    if shift is None:
        match = np.stack([targets[:, 0], rng.integers(width, size=len(targets))], 1)
    else:
        grown = cv2.resize(shift, (width, height), interpolation=cv2.INTER_NEAREST) * 2
        match = targets + np.rint(grown[targets[:, 0], targets[:, 1]]).astype(np.int64)
    match = _onto_sources(match, blocked, rng)
    rise = max(2.0, MOST_RISE * height)
    # Pixels near the rim are known or soon settled: they count for more.
    inside = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 3)
    certainty = np.power(1.15, -np.minimum(inside, 30)).astype(np.float32)
    wide = cv2.copyMakeBorder(certainty, *(RADIUS,) * 4, cv2.BORDER_CONSTANT, value=0)
    around = targets[:, None] + OFFSETS[None] + RADIUS
    patch_weight = wide[around[..., 0], around[..., 1]]
    for _ in range(rounds):
        padded = cv2.copyMakeBorder(level, *(RADIUS,) * 4, cv2.BORDER_REPLICATE)
        own = padded[around[..., 0], around[..., 1]]
        cost = _cost(level, own, patch_weight, match)
        for step in (1, 2, 1):
            for direction in ((0, step), (0, -step), (step, 0), (-step, 0)):
                beside = targets + direction
                beside = np.clip(beside, 0, [height - 1, width - 1])
                neighbour = number[beside[:, 0], beside[:, 1]]
                candidate = match[np.maximum(neighbour, 0)] - direction
                near = (neighbour >= 0) & (np.abs(candidate[:, 0] - targets[:, 0]) <= rise)
                match, cost = _better(level, own, patch_weight, match, cost, candidate, blocked, near)
        reach = max(height, width) / 2
        while reach >= 1:
            candidate = match + np.rint(rng.uniform(-reach, reach, match.shape)).astype(np.int64)
            near = np.abs(candidate[:, 0] - targets[:, 0]) <= rise
            match, cost = _better(level, own, patch_weight, match, cost, candidate, blocked, near)
            reach /= 3
        level = _vote(level, hole, targets, match, cost)
        tick()
    offsets = np.zeros((height, width, 2))
    offsets[targets[:, 0], targets[:, 1]] = match - targets
    return level, offsets


def _onto_sources(match: Cells, blocked: Mask, rng: np.random.Generator) -> Cells:
    """match (N, 2), each one that is no source replaced by a random source of its own row, or of the nearest row."""
    height, width = blocked.shape
    match = np.clip(match, RADIUS, [height - 1 - RADIUS, width - 1 - RADIUS])
    rows_with = np.flatnonzero((~blocked).any(1))
    for at in np.flatnonzero(blocked[match[:, 0], match[:, 1]]):
        row = rows_with[np.argmin(np.abs(rows_with - match[at, 0]))]
        match[at] = row, rng.choice(np.flatnonzero(~blocked[row]))
    return match


def _cost(level: Map, own: Map, weight: Map, match: Cells) -> NDArray[np.float32]:
    found = level[match[:, None, 0] + OFFSETS[None, :, 0], match[:, None, 1] + OFFSETS[None, :, 1]]
    difference = found - own
    return np.einsum("nkc,nkc,nk->n", difference, difference, weight) / weight.sum(1)  # type: ignore[no-any-return]


def _better(
    level: Map,
    own: Map,
    weight: Map,
    match: Cells,
    cost: NDArray[np.float32],
    candidate: Cells,
    blocked: Mask,
    allowed: Mask,
) -> tuple[Cells, NDArray[np.float32]]:
    """match and its cost with `candidate` taken where it is a whole known patch and fits better."""
    height, width = blocked.shape
    clipped = np.clip(candidate, RADIUS, [height - 1 - RADIUS, width - 1 - RADIUS])
    usable = ~blocked[clipped[:, 0], clipped[:, 1]] & (clipped == candidate).all(1) & (candidate != match).any(1)
    index = np.flatnonzero(usable & allowed)
    if not len(index):
        return match, cost
    new_cost = _cost(level, own[index], weight[index], candidate[index])
    better = new_cost < cost[index]
    wins = index[better]
    match, cost = match.copy(), cost.copy()
    match[wins], cost[wins] = candidate[wins], new_cost[better]
    return match, cost


def _vote(level: Map, hole: Mask, targets: Cells, match: Cells, cost: NDArray[np.float32]) -> Map:
    """Every hole cell as the mean of what the patches around it say, better fits counting for more."""
    height, width = hole.shape
    trust = np.exp(-cost / max(2.0 * float(np.quantile(cost, 0.75)), 1e-6))
    total, weight = np.zeros((height * width, 3)), np.zeros(height * width)
    for dy, dx in OFFSETS:
        y, x = targets[:, 0] + dy, targets[:, 1] + dx
        inside = (y >= 0) & (x >= 0) & (y < height) & (x < width)
        at = (y * width + x)[inside]
        said = level[match[inside, 0] + dy, match[inside, 1] + dx]
        for c in range(3):
            total[:, c] += np.bincount(at, trust[inside] * said[:, c], minlength=height * width)
        weight += np.bincount(at, trust[inside], minlength=height * width)
    mean = (total / np.maximum(weight, 1e-9)[:, None]).reshape(height, width, 3).astype(np.float32)
    return np.where((hole & (weight.reshape(height, width) > 0))[..., None], mean, level)


def _copy_along(rgb: Picture, hole: Mask, shift: NDArray[np.float64]) -> Picture:
    """The hole at full resolution: each pixel a blend of what the offsets of the four cells around it point at."""
    height, width = hole.shape
    scale_y, scale_x = height / shift.shape[0], width / shift.shape[1]
    rows, columns = np.nonzero(hole)
    at_y, at_x = (rows + 0.5) / scale_y - 0.5, (columns + 0.5) / scale_x - 0.5
    top, left = np.floor(at_y).astype(int), np.floor(at_x).astype(int)
    total, weight = np.zeros((len(rows), 3)), np.zeros(len(rows))
    for dy in (0, 1):
        for dx in (0, 1):
            cell_y, cell_x = np.clip(top + dy, 0, shift.shape[0] - 1), np.clip(left + dx, 0, shift.shape[1] - 1)
            offset = shift[cell_y, cell_x]
            y = np.clip(np.rint(rows + offset[:, 0] * scale_y).astype(int), 0, height - 1)
            x = np.clip(np.rint(columns + offset[:, 1] * scale_x).astype(int), 0, width - 1)
            share = np.abs(1 - dy - (at_y - top)) * np.abs(1 - dx - (at_x - left)) + 1e-6
            share = share * np.where(hole[y, x], 1e-4, 1.0)
            total += share[:, None] * rgb[y, x]
            weight += share
    out = rgb.copy()
    out[rows, columns] = np.clip(np.rint(total / weight[:, None]), 0, 255).astype(np.uint8)
    return out
