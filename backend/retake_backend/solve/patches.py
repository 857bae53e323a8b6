"""Patches of a picture found again in other pictures: affine, to a few hundredths of a pixel, whatever the brightness.

Inverse-compositional alignment (Baker & Matthews): all that does not depend on the other picture is worked out once
for a template, so that thousands of points are followed per frame in numpy. Positions are px, pixel centres at .5.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

RADIUS = 5
"""px. A patch is (2 RADIUS + 1) px square and weighted towards its middle."""

NOISE = 2.0
"""Grey levels that compression and grain move a pixel by."""

_Array = NDArray[np.float32]
_y, _x = (a.ravel() for a in np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1].astype(np.float32))
_WEIGHTS = np.exp(-0.5 * (_x**2 + _y**2) / (0.6 * RADIUS) ** 2).astype(np.float32)
_WEIGHTS /= _WEIGHTS.sum()
_STILL = 0.02
_ALONG_EDGES = 0.02
_AFFINE_DAMPING = np.array([0.0, 0.0, 0.15, 0.15, 0.15, 0.15], np.float32)


def smooth(gray: NDArray[np.uint8]) -> _Array:
    """(h, w) float32: the picture as patches are sampled from it. A little blur makes interpolation exact."""
    return np.asarray(cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 0.7), np.float32)


def sample(field: NDArray, uv: NDArray) -> NDArray:
    """Values (N[, channels]) of a (h, w[, channels]) picture at uv (N, 2), bilinear, the border repeated outside."""
    at = np.asarray(uv, np.float32).reshape(-1, 1, 2) - np.float32(0.5)
    if not len(at):
        return np.zeros((0, *field.shape[2:]), field.dtype)
    parts = (at[begin : begin + _MOST] for begin in range(0, len(at), _MOST))
    return np.concatenate([taken(field, part)[:, 0] for part in parts])


def taken(field: NDArray, at: NDArray[np.float32]) -> NDArray:
    """What field shows at OpenCV's coordinates `at` (h, w, 2): pixel centres at whole numbers."""
    x, y = np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])
    return np.asarray(cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


_MOST = 32000
"""OpenCV holds the sizes of pictures in 15 bits."""


@dataclass
class Templates:
    """N patches as they were seen once.

    values: (N, P) float32, weighted mean 0, weighted variance 1. solver: (N, 6, P) float32, takes a difference of
    normalised patches to (dx, dy, four of the affine part). deviation: (N,) float32 px, how far NOISE moves the point.
    """

    values: _Array
    solver: _Array
    deviation: _Array

    def __getitem__(self, which: NDArray) -> Templates:
        return Templates(*(getattr(self, f.name)[which] for f in fields(self)))

    def put(self, which: NDArray, other: Templates) -> None:
        """Replace the templates that `which` names."""
        for f in fields(self):
            getattr(self, f.name)[which] = getattr(other, f.name)

    def extended(self, other: Templates) -> Templates:
        """These and those."""
        return Templates(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


def _normalised(patches: _Array) -> tuple[_Array, _Array]:
    """Weighted mean 0 and variance 1, and the deviation that was divided by, (N,) grey levels."""
    centred = patches - (patches @ _WEIGHTS)[:, None]
    deviation = np.sqrt(np.einsum("np,np,p->n", centred, centred, _WEIGHTS))
    centred *= (1 / np.maximum(deviation, 1e-3))[:, None]
    return centred, deviation


def _warped(image: _Array, uv: NDArray, affine: NDArray) -> _Array:
    """(N, P) the patches of image around uv (N, 2), warped by affine (N, 2, 2)."""
    uv, affine = np.asarray(uv, np.float32), np.asarray(affine, np.float32)
    patches = np.empty((len(uv), _x.size), np.float32)
    for begin in range(0, len(uv), _MOST):
        part = slice(begin, begin + _MOST)
        u = affine[part, 0, :1] * _x + affine[part, 0, 1:] * _y + (uv[part, :1] - np.float32(0.5))
        v = affine[part, 1, :1] * _x + affine[part, 1, 1:] * _y + (uv[part, 1:] - np.float32(0.5))
        patches[part] = cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return patches


def templates(image: _Array, uv: NDArray, affine: NDArray | None = None) -> Templates:
    """Templates of image (from `smooth`) around uv (N, 2), the patch warped by affine (N, 2, 2)."""
    affine = np.broadcast_to(np.eye(2, dtype=np.float32), (len(uv), 2, 2)) if affine is None else affine
    side = 2 * RADIUS + 1
    values, deviation = _normalised(_warped(image, uv, affine))
    square = values.reshape(-1, side, side)
    gy, gx = (g.reshape(len(uv), -1) for g in np.gradient(square, axis=(1, 2)))
    descent = np.stack([gx, gy, gx * _x, gx * _y, gy * _x, gy * _y], 1)
    # What a change of brightness or contrast would do to the patch says nothing about its place.
    descent -= (descent @ _WEIGHTS)[..., None]
    descent -= np.einsum("nkp,np,p->nk", descent, values, _WEIGHTS, optimize=True)[..., None] * values[:, None]
    weighted = descent * _WEIGHTS
    hessian = np.einsum("nkp,nlp->nkl", weighted, descent, optimize=True)
    damping = np.eye(6, dtype=np.float32) * (_AFFINE_DAMPING + 1e-6) * (1 + np.zeros((len(uv), 1, 1), np.float32))
    solver = np.linalg.solve(hessian + damping, weighted)
    size = np.sqrt(np.abs(affine[:, 0, 0] * affine[:, 1, 1] - affine[:, 0, 1] * affine[:, 1, 0]))
    sigma = size * _deviation(hessian[:, :2, :2] * (deviation**2)[:, None, None])
    return Templates(values, solver.astype(np.float32), sigma.astype(np.float32))


def _deviation(block: _Array) -> _Array:
    """px by which a point may be off, from the curvature (..., 2, 2) of its patch in grey levels.

    NOISE moves it along the direction of the least curvature; and along an edge, what the model leaves out (shadows,
    shapes that are not flat) moves it in proportion to the curvature across. The share is measured, see the tests.
    """
    half = (block[..., 0, 0] - block[..., 1, 1]) / 2
    middle, apart = (block[..., 0, 0] + block[..., 1, 1]) / 2, np.hypot(half, block[..., 0, 1])
    weakest, strongest = np.maximum(middle - apart, 1e-3), middle + apart
    effective = 1 / float((_WEIGHTS**2).sum())  # so many independent pixels
    return np.asarray(np.sqrt((NOISE**2 / effective + _ALONG_EDGES**2 * strongest) / weakest), np.float32)


def sharpness(image: _Array) -> _Array:
    """(h, w) float32: how well the place of each pixel's patch is determined, 1 / px; `Templates.deviation` inverted."""
    gx, gy = cv2.Sobel(image, -1, 1, 0, scale=1 / 8), cv2.Sobel(image, -1, 0, 1, scale=1 / 8)
    box = (RADIUS + 2, RADIUS + 2)  # about the weights' area
    xx, xy, yy = (cv2.blur(a, box) for a in (np.square(gx), np.multiply(gx, gy), np.square(gy)))
    curvature = np.stack([xx, xy, xy, yy], -1).reshape(*image.shape, 2, 2).astype(np.float32)
    return np.asarray(1 / _deviation(curvature), np.float32)


def align(
    image: _Array, found: Templates, uv: NDArray, affine: NDArray, steps: int = 5
) -> tuple[_Array, _Array, _Array]:
    """Where templates lie in image, searched from uv (N, 2) and affine (N, 2, 2).

    Returns uv, affine, and the weighted normalised cross-correlation (N,) there.
    """
    uv, affine = np.array(uv, np.float32), np.array(affine, np.float32)
    correlation = np.zeros(len(uv), np.float32)
    active: NDArray[np.intp] | slice = slice(None)
    part = found
    for step in range(steps + 1):
        patches, _ = _normalised(_warped(image, uv[active], affine[active]))
        correlation[active] = np.einsum("np,np,p->n", patches, part.values, _WEIGHTS)
        if step == steps:
            break
        patches -= part.values
        change = np.einsum("nkp,np->nk", part.solver, patches)
        np.clip(change[:, :2], -2, 2, out=change[:, :2])
        np.clip(change[:, 2:], -0.1, 0.1, out=change[:, 2:])
        linear = affine[active] @ _inverse(change[:, 2:])
        moved = np.einsum("nij,nj->ni", linear, change[:, :2])
        affine[active] = linear
        uv[active] -= moved
        # The correlation of those that stand still is that of one step before: they lie hundredths of a pixel off.
        going = np.hypot(moved[:, 0], moved[:, 1]) > _STILL
        if not going.any():
            break
        if going.mean() < 0.6:  # copying the rest costs more than going on with all
            rows = np.flatnonzero(going)
            active = rows if isinstance(active, slice) else active[rows]
            part = part[rows]
    return uv, affine, correlation


def _inverse(change: _Array) -> _Array:
    """Inverses (N, 2, 2) of the unit matrix + change (N, 4)."""
    a, b, c, d = change[:, 0] + 1, change[:, 1], change[:, 2], change[:, 3] + 1
    inverse = np.stack([d, -b, -c, a], -1).reshape(-1, 2, 2) / (a * d - b * c)[:, None, None]
    return np.asarray(inverse, np.float32)


def correlation(a: _Array, at: NDArray, b: _Array, there: NDArray) -> _Array:
    """(N,) weighted normalised cross-correlation of what a shows around `at` (N, 2) and b around `there`."""
    straight = np.broadcast_to(np.eye(2, dtype=np.float32), (len(at), 2, 2))
    one, _ = _normalised(_warped(a, at, straight))
    other, _ = _normalised(_warped(b, there, straight))
    return np.asarray((one * other) @ _WEIGHTS, np.float32)
