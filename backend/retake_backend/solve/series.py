"""Smooth series in time through values that are uncertain, missing or too large."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded

Array = NDArray[np.float64]


def smooth(values: Array, weight: Array, bend: float, stretch: float = 0.0) -> Array:
    """(T,) the series next to `values` (T,) by `weight` (T,) whose bends cost `bend`, its steps `stretch`.

    Minimises sum w (x - v)^2 + bend sum (second differences)^2 + stretch sum (x[t+1] - x[t])^2 (Whittaker,
    Henderson). Values of weight 0 may be nan. `bend` is about
    (frames / 4)^4 for what is shorter than that to be levelled.
    """
    count = len(values)
    known = weight > 0
    if count < 3 or not known.any():
        fill = float(np.average(values[known], weights=weight[known])) if known.any() else 0.0
        return np.where(known, values, fill)
    bands = np.zeros((3, count))  # upper form: bands[2] the diagonal
    target = np.where(known, weight * np.nan_to_num(values), 0.0)
    bands[2] += weight + 1e-9
    target += 1e-9 * float(np.average(values[known], weights=weight[known]))
    for row, offset in ((1.0, 0), (-2.0, 1), (1.0, 2)):
        for other, shift in ((1.0, 0), (-2.0, 1), (1.0, 2)):
            if shift >= offset:
                part = slice(shift, count - 2 + shift)
                bands[2 - (shift - offset), part] += bend * row * other
    if stretch:
        bands[2, :-1] += stretch
        bands[2, 1:] += stretch
        bands[1, 1:] -= stretch
    solved: Array = solveh_banded(bands, target)
    return solved


def from_below(values: Array, weight: Array, bend: float, stretch: float, spread: float) -> Array:
    """`smooth` for values that are often too large and seldom too small, by more than `spread`."""
    result = smooth(values, weight, bend, stretch)
    for _ in range(8):
        over = np.nan_to_num(values) - result
        trust = np.where(over > 0, 1 / (1 + (over / spread) ** 2) ** 2, 1 / (1 + (over / (4 * spread)) ** 2))
        result = smooth(values, weight * trust, bend, stretch)
    return result
