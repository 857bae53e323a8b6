"""Between scattered points of a picture: values spread along the picture's edges."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]

COLOUR = 0.003
"""Of the picture's width a step of Lab counts: 50 are as far as 15 % of the picture."""


def grid(rows: int, columns: int, size: tuple[int, int]) -> Array:
    """(rows * columns, 2) px in a picture of `size` (width, height) of the cells' centres."""
    u = (np.arange(columns) + 0.5) * size[0] / columns
    v = (np.arange(rows) + 0.5) * size[1] / rows
    return np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)


def lab(picture: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
    """(rows, columns, 3) float32 CIE Lab, smoothed a little, of a picture (h, w, 3) uint8 sRGB."""
    small = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def planes(
    uv: Array, values: Array, colours: NDArray[np.float32], size: tuple[int, int], neighbours: int = 12
) -> NDArray[np.float32]:
    """(h, w) values over a picture whose `colours` are (h, w, 3) Lab, from values (N,) at points uv (N, 2) px.

    Each cell takes the plane through the points that are near both in place and in colour: exact where the values
    are a plane of the picture (inverse depth of any flat surface is one), level where there is nothing to lean on.
    The result stays within the values of the points around each cell, a little widened, and positive where those are.
    """
    rows, columns = colours.shape[:2]
    cells = grid(rows, columns, size)
    colour = colours.reshape(-1, 3).astype(np.float64) * (COLOUR * size[0])
    at = cells_of(uv, size, (rows, columns))
    features = np.concatenate([uv, colour[at]], 1)
    count = min(neighbours, len(uv))
    distance, nearest = cKDTree(features).query(np.concatenate([cells, colour], 1), k=count)
    if count == 1:
        distance, nearest = distance[:, None], nearest[:, None]
    reach = np.maximum(distance[:, count // 2][:, None], 1e-6 * size[0])
    weight = np.exp(-0.5 * (distance / reach) ** 2)
    offset = (uv[nearest] - cells[:, None]) / reach[..., None]
    near = values[nearest]
    basis = np.concatenate([np.ones((*near.shape, 1)), offset], -1)
    normal = np.einsum("pk,pki,pkj->pij", weight, basis, basis)
    # Slopes are held back, so that a few points in a row do not tip a plane over.
    normal[:, [1, 2], [1, 2]] += 0.05 * weight.sum(1)[:, None]
    target = np.einsum("pk,pki,pk->pi", weight, basis, near)
    found = np.linalg.solve(normal, target[..., None])[:, 0, 0]
    low, high = near.min(1), near.max(1)
    slack = 0.25 * (high - low)
    low = np.where(low > 0, np.maximum(low - slack, 0.5 * low), low - slack)
    return np.clip(found, low, high + slack).reshape(rows, columns).astype(np.float32)


def cells_of(uv: Array, size: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.intp]:
    """Flat index of the cell of a map of `shape` (rows, columns) that each point (N, 2) px lies in."""
    column = np.clip(uv[:, 0] * shape[1] / size[0], 0, shape[1] - 1).astype(np.intp)
    row = np.clip(uv[:, 1] * shape[0] / size[1], 0, shape[0] - 1).astype(np.intp)
    return row * shape[1] + column


def guided(values: NDArray[Any], guide: NDArray[Any], radius: int, epsilon: float) -> NDArray[np.float32]:
    """The guided filter (He, Sun, Tang) of values (h, w) by one channel (h, w): smooth, with the guide's edges."""
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(x: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(cv2.boxFilter(x, -1, side, borderType=cv2.BORDER_REFLECT), np.float32)

    m_g, m_v = mean(guide), mean(values)
    slope = (mean(guide * values) - m_g * m_v) / (mean(guide * guide) - m_g * m_g + epsilon)
    return np.asarray(mean(slope) * guide + mean(m_v - slope * m_g), np.float32)
