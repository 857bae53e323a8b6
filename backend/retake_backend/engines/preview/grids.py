"""Coarse grids over a picture, and smooth fields on them fitted to scattered points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Value = TypeVar("Value", np.float32, np.uint8)


@dataclass(frozen=True)
class Grid:
    """Nodes at origin + step * (column, row) px, `columns` x `rows` of them; pixel centres lie at .5."""

    origin_x: float
    origin_y: float
    step: float
    columns: int
    rows: int

    @classmethod
    def over(cls, width: int, height: int, step: float, margin: float = 0.0) -> Grid:
        """Nodes in the centres of step x step px cells that cover the picture and `margin` px around it."""
        pad = int(np.ceil(margin / step))
        columns = int(np.ceil(width / step)) + 2 * pad
        rows = int(np.ceil(height / step)) + 2 * pad
        return cls((0.5 - pad) * step, (0.5 - pad) * step, step, columns, rows)

    def nodes(self) -> tuple[Map, Map]:
        """x and y of every node, each (rows, columns) float32 px."""
        x = np.float32(self.origin_x) + np.float32(self.step) * np.arange(self.columns, dtype=np.float32)
        y = np.float32(self.origin_y) + np.float32(self.step) * np.arange(self.rows, dtype=np.float32)
        return np.meshgrid(x, y)  # type: ignore[return-value]

    def index(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[Map, Map]:
        """Fractional column and row of points in px."""
        return (
            ((x - self.origin_x) / self.step).astype(np.float32),
            ((y - self.origin_y) / self.step).astype(np.float32),
        )

    def sample(self, field: Map, x: NDArray[np.floating], y: NDArray[np.floating]) -> Map:
        """Bilinear values of a field (rows, columns[, C]) at points (N,) px, held constant beyond the grid: (N[, C])."""
        column, row = self.index(x, y)
        return remap_points(field, column, row)

    def from_picture(self, picture: NDArray[Value]) -> NDArray[Value]:
        """A picture (height, width[, C]) that this grid covers without margin, averaged over every cell: (rows,
        columns[, C]). The last cells may reach beyond its edges, which are held."""
        height, width = picture.shape[:2]
        below, right = round(self.rows * self.step) - height, round(self.columns * self.step) - width
        if below or right:
            picture = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
        return cv2.resize(picture, (self.columns, self.rows), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]

    def to_picture(self, field: Map, width: int, height: int, interpolation: int = cv2.INTER_LINEAR) -> Map:
        """A field (rows, columns[, C]) at every pixel centre of the picture, (height, width[, C])."""
        if self.step == 1 and (self.columns, self.rows) == (width, height):
            return field
        scale = 1.0 / self.step
        matrix = np.array(
            [[scale, 0, (0.5 - self.origin_x) * scale], [0, scale, (0.5 - self.origin_y) * scale]], np.float64
        )
        return cv2.warpAffine(  # type: ignore[return-value]
            field, matrix, (width, height), flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )


def remap_points(field: NDArray[Value], column: Map, row: Map, interpolation: int = cv2.INTER_LINEAR) -> NDArray[Value]:
    """Values of field (rows, columns[, C]) at (N,) fractional indices, held constant beyond its border: (N[, C])."""
    count = len(column)
    width = 16384  # OpenCV's remap takes maps below 32768 a side
    padded = -(-count // width) * width
    if padded > width:
        column, row = np.resize(column, padded), np.resize(row, padded)
        shape = (-1, width)
    else:
        shape = (1, count)
    values = cv2.remap(field, column.reshape(shape), row.reshape(shape), interpolation, borderMode=cv2.BORDER_REPLICATE)
    return values.reshape((-1, *field.shape[2:]))[:count]  # type: ignore[return-value]


def fit_field(
    grid: Grid,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    values: NDArray[np.floating],
    weights: NDArray[np.floating],
    finest: float = 1.0,
    robust: bool = True,
) -> Map:
    """A smooth field (rows, columns, C) through scattered values (N, C) at points (N,) px with weights (N,) > 0.

    A robust global plane first, then corrections by normalised convolution from coarse to fine (down to `finest`
    cells): planes are met exactly, dense points are followed closely, noise is averaged, and where there is no point
    the nearest ones decide. Deterministic; N = 0 gives zeros.
    """
    values = np.asarray(values, np.float64)
    channels = values.shape[1]
    if len(values) == 0:
        return np.zeros((grid.rows, grid.columns, channels), np.float32)
    node_x, node_y = grid.nodes()
    weights = np.asarray(weights, np.float64)
    centre_x, centre_y = np.average(x, weights=weights), np.average(y, weights=weights)
    reach = max(float(np.sqrt(np.average((x - centre_x) ** 2 + (y - centre_y) ** 2, weights=weights))), grid.step)
    basis = np.stack([np.ones(len(values)), (x - centre_x) / reach, (y - centre_y) / reach], 1)
    plane = np.zeros((3, channels))
    trust = weights.copy()
    for _ in range(4 if robust else 1):
        weighted = basis * trust[:, None]
        ridge = np.diag([1e-9, 0.02, 0.02]) * max(trust.sum(), 1e-12)
        plane = np.linalg.solve(weighted.T @ basis + ridge, weighted.T @ values)
        trust = weights * _trust(values - basis @ plane) if robust else weights
    field: Map = (
        plane[0]
        + plane[1] * ((node_x - centre_x) / reach)[..., None]
        + plane[2] * ((node_y - centre_y) / reach)[..., None]
    ).astype(np.float32)

    column, row = grid.index(x, y)
    inside = (column > -0.5) & (row > -0.5) & (column < grid.columns - 0.5) & (row < grid.rows - 0.5)
    column, row, values, weights, basis = column[inside], row[inside], values[inside], weights[inside], basis[inside]
    if not len(values):
        return field
    cell = np.clip(np.rint(row), 0, grid.rows - 1).astype(int) * grid.columns + np.clip(
        np.rint(column), 0, grid.columns - 1
    ).astype(int)
    unit = max(float(np.median(weights)), 1e-12)
    sigma = max(grid.columns, grid.rows) / 4
    while sigma >= finest:
        residual = np.asarray(values - remap_points(field, column, row).reshape(len(values), channels), np.float64)
        trust = weights / unit * (_trust(residual) if robust else 1.0)
        sums = np.empty((grid.rows, grid.columns, channels + 1), np.float32)
        for channel in range(channels):
            sums[..., channel] = np.bincount(
                cell, trust * residual[:, channel], minlength=grid.rows * grid.columns
            ).reshape(grid.rows, grid.columns)
        sums[..., channels] = np.bincount(cell, trust, minlength=grid.rows * grid.columns).reshape(
            grid.rows, grid.columns
        )
        sums = blur(sums, sigma)
        # One point alone moves the field by its residual within about sigma; farther, the coarser level stays.
        least = 0.12 / (2 * np.pi * sigma * sigma)
        field += sums[..., :channels] / (sums[..., channels:] + least)
        sigma /= 2
    return field


def _trust(residual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (N,) that fall off for residuals (N, C) far beyond the typical one."""
    length = np.sqrt((residual**2).sum(1))
    typical = 3.0 * np.median(length) + 1e-9 * (1.0 + float(length.max(initial=0.0)))
    return np.asarray(1.0 / (1.0 + (length / typical) ** 4))


def blur(field: Map, sigma: float) -> Map:
    """Gaussian blur with zeros beyond the border; wide ones at reduced resolution."""
    rows, columns = field.shape[:2]
    if sigma > 6:
        small = cv2.resize(field, ((columns + 3) // 4, (rows + 3) // 4), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(
            small.reshape((rows + 3) // 4, (columns + 3) // 4, -1), (0, 0), sigma / 4, borderType=cv2.BORDER_CONSTANT
        )
        return cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR).reshape(field.shape)  # type: ignore[return-value]
    return cv2.GaussianBlur(field, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT).reshape(field.shape)  # type: ignore[return-value]
