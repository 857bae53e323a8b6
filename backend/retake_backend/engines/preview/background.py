"""The background as the target camera sees it: reprojected, and filled where its source frame shows nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.shot import BACKGROUND, Cameras

from .grids import Grid, Map, remap_points
from .inpaint import patch_fill, push_pull
from .mattes import Mattes
from .motion import Motion, forward_map
from .plates import Plate, chosen_frames, continue_plate, fill_from_plates, level_seam, median_plate
from .surfaces import Surface, Surfaces
from .warp import Inverse, invert

Picture = NDArray[np.uint8]
View = tuple[NDArray[np.float64], NDArray[np.float64]]
Ticker = Callable[[str, int], Callable[[], None]]
FILLS = ("none", "frames", "smooth", "all")
INVENTING = ("smooth", "all")
"""The fills that leave nothing grey."""
GREY = 127


@dataclass
class Canvas:
    """The picture as it grows, back to front. depth: (H, W) of what is shown; invented: nothing in the footage."""

    rgb: Picture
    depth: Map
    invented: NDArray[np.bool_]


class Background:
    """Renders the background of frames. cameras: source and target, at working size; fill: one of FILLS."""

    def __init__(
        self,
        cameras: tuple[Cameras, Cameras],
        picture: Callable[[int], Picture],
        surfaces: Surfaces,
        mattes: Mattes,
        fill: str,
    ) -> None:
        self.source, self.target = cameras
        self.picture, self.surfaces, self.mattes, self.fill = picture, surfaces, mattes, fill
        self.width, self.height = self.source.width, self.source.height
        self.plates: list[Plate] = []
        self.whole: Plate | None = None

    def prepare(self, frames: int, static: bool, ticker: Ticker) -> None:
        """Gather what the footage of `frames` frames shows of the background. static: the camera stands still."""
        if self.fill == "none":
            return
        picture_bytes = self.width * self.height * 3
        if static:
            chosen = chosen_frames(0, frames, max(3, min(24, (768 << 20) // picture_bytes)))
            tick = ticker("reading the background", len(chosen))
            plate = median_plate(chosen, self.picture, self.mattes.cut, tick)
            plate = replace(plate, surface=self._depth_without_objects(plate.frame))
            if self.fill in INVENTING:
                # Filled once for the whole shot, so that what is invented stands still in the world.
                filled = patch_fill(plate.rgb, ~plate.shown, ticker("inventing what is never seen", 25))
                plate = self.whole = replace(plate, rgb=filled)
            self.plates = [plate]
            return
        chosen = chosen_frames(0, frames, max(3, min(16, (512 << 20) // picture_bytes)))
        tick = ticker("reading the background", len(chosen))
        for frame in chosen:
            shown = ~self.mattes.cut(frame)
            self.plates.append(Plate(frame, self.picture(frame), shown, self.surfaces.measured(frame)))
            tick()

    def views(self, s: int, t: int) -> tuple[View, View]:
        """(c2w, K) of source frame s and of target frame t."""
        return (self.source.c2w[s], self.source.K[s]), (self.target.c2w[t], self.target.K[t])

    def render(self, s: int, t: int, motion: Motion, leaving: tuple[int, ...] | None) -> Canvas:
        """Source frame s as target frame t shows its background.

        leaving: where the background stays exactly as it is, the objects that do not stay in it; None where it moves.
        """
        smooth = invert(
            forward_map(self.surfaces.smooth(BACKGROUND, s), motion, *self.views(s, t)),
            Grid.over(self.width, self.height, self.surfaces.coarse),
        )
        behind = _filled_depth(smooth, self.width, self.height)
        if leaving is not None:
            rgb, hole = self.picture(s).copy(), self.mattes.cut(s, leaving)
            depth = self._as_measured(s, behind)
        else:
            rgb, hole, depth, torn_open = self._warped(s, t, motion, smooth, behind)
            behind = behind if torn_open is None else torn_open
        if not hole.any() or self.fill == "none":
            return Canvas(rgb, depth, hole)
        rgb, invented = self._filled(rgb, hole, behind, s, smooth, self.views(s, t)[1])
        return Canvas(rgb, depth, invented)

    def _warped(
        self, s: int, t: int, motion: Motion, smooth: Inverse, behind: Map
    ) -> tuple[Picture, NDArray[np.bool_], Map, Map | None]:
        """The background of frame `s` as frame `t` shows it, its hole, its depth, and what tears reveal."""
        cut = self.mattes.cut(s)
        measured = self.surfaces.measured(s)
        depth, torn_open = behind, None
        inverse = smooth
        if measured is not None:
            measured = _without(measured, cut)
            inverse = invert(
                forward_map(measured, motion, *self.views(s, t)),
                Grid.over(self.width, self.height, self.surfaces.fine),
            )
        x = inverse.grid.to_picture(inverse.x, self.width, self.height)
        y = inverse.grid.to_picture(inverse.y, self.width, self.height)
        valid = inverse.grid.to_picture(inverse.valid.astype(np.float32), self.width, self.height) > 0.99
        if measured is not None:
            depth = inverse.grid.to_picture(inverse.depth, self.width, self.height)
            # Behind an object the smooth surface goes on; what else is missing was torn open.
            x_smooth = smooth.grid.to_picture(smooth.x, self.width, self.height)
            y_smooth = smooth.grid.to_picture(smooth.y, self.width, self.height)
            object_hole = cv2.remap(cut.astype(np.uint8), x_smooth - 0.5, y_smooth - 0.5, cv2.INTER_NEAREST) > 0
            torn_open = np.where(valid | object_hole, behind, _far_side(depth, valid, behind))
            depth = np.where(valid, depth, torn_open)
        # OpenCV never ends mirroring a picture that is one pixel wide or high.
        border = cv2.BORDER_REFLECT_101 if min(self.width, self.height) > 1 else cv2.BORDER_REPLICATE
        rgb = np.asarray(cv2.remap(self.picture(s), x - 0.5, y - 0.5, cv2.INTER_CUBIC, borderMode=border))
        inside = (x >= 0.5) & (y >= 0.5) & (x <= self.width - 0.5) & (y <= self.height - 0.5)
        hidden = cv2.remap(cut.astype(np.uint8), x - 0.5, y - 0.5, cv2.INTER_NEAREST, borderValue=0) > 0
        return rgb.astype(np.uint8, copy=False), ~(valid & inside) | hidden, depth, torn_open

    def _as_measured(self, s: int, behind: Map) -> Map:
        """The depth of a background that stays as it is: measured where no object lies, `behind` elsewhere."""
        measured = self.surfaces.measured(s)
        if measured is None:
            return behind
        disparity = measured.grid.to_picture(measured.disparity, self.width, self.height)
        known = (disparity > 0) & ~self.mattes.cut(s)
        return np.where(known, 1 / np.where(known, disparity, 1), behind).astype(np.float32)

    def _filled(
        self, rgb: Picture, hole: NDArray[np.bool_], behind: Map, s: int, smooth: Inverse, view: View
    ) -> tuple[Picture, NDArray[np.bool_]]:
        """The background with its hole filled, and what of it no frame shows.

        behind: (H, W) a guess at how far lies what the hole shows.
        """
        ring = cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        fill = rgb.copy()
        unknown = fill_from_plates(self.plates, fill, ring, behind, view, self.source)
        level_seam(fill, rgb, ring & ~hole & ~unknown, hole & ~unknown)
        invented = unknown & hole
        usable = ring & ~unknown
        if self.fill in INVENTING and invented.any():
            if self.whole is not None:
                unknown = continue_plate(self.whole, fill, unknown, behind, view, self.source)
                usable = ring & ~unknown
            elif self.fill == "all":
                unknown &= ~self._mirrored(fill, invented, s, smooth)
            fill = push_pull(fill, unknown & hole)
        out = np.where(hole[..., None], fill, rgb)
        rim = usable & ~hole
        blend = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), 1.0)[rim][:, None]
        out[rim] = np.rint(rgb[rim] + blend * (fill[rim].astype(np.float32) - rgb[rim])).astype(np.uint8)
        return out, invented

    def _mirrored(self, fill: Picture, wanted: NDArray[np.bool_], s: int, smooth: Inverse) -> NDArray[np.bool_]:
        """Continue source frame `s` beyond its borders by its mirror image, in `fill`; returns where that was done."""
        rows, columns = np.nonzero(wanted)
        fields = np.dstack([smooth.x - np.float32(0.5), smooth.y - np.float32(0.5), smooth.valid.astype(np.float32)])
        x, y, lands = smooth.grid.sample(fields, columns + 0.5, rows + 0.5).T
        right, bottom = self.width - 1, self.height - 1
        use = ((x < 0) | (y < 0) | (x > right) | (y > bottom)) & (lands > 0.99)
        use &= (np.abs(x - right / 2) < right) & (np.abs(y - bottom / 2) < bottom)
        rows, columns, x, y = rows[use], columns[use], np.abs(x[use]), np.abs(y[use])
        x, y = np.where(x > right, 2 * right - x, x), np.where(y > bottom, 2 * bottom - y, y)
        clean = ~self.mattes.cut(s)[np.rint(y).astype(int), np.rint(x).astype(int)]
        here = np.zeros_like(wanted)
        here[rows[clean], columns[clean]] = True
        if clean.any():
            fill[here] = remap_points(self.picture(s), x[clean], y[clean], cv2.INTER_CUBIC)
        return here

    def _depth_without_objects(self, frame: int) -> Surface | None:
        """The frame's measured depth with objects taken out, or None."""
        measured = self.surfaces.measured(frame)
        return None if measured is None else _without(measured, self.mattes.cut(frame))


def _without(measured: Surface, cut: NDArray[np.bool_]) -> Surface:
    """The surface with what lies under `cut` (H, W) torn out, its disparity 0."""
    size = (measured.grid.columns, measured.grid.rows)
    out = cv2.resize(cut.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    torn = out if measured.torn is None else measured.torn | out
    return Surface(measured.grid, np.where(out, 0, measured.disparity).astype(np.float32), torn)


def _filled_depth(inverse: Inverse, width: int, height: int) -> Map:
    """The inverse's depth at every pixel, continued where nothing lands."""
    disparity = np.where(inverse.valid, 1 / np.maximum(inverse.depth, 1e-9), 0).astype(np.float32)
    if not inverse.valid.any():
        return np.full((height, width), 1e9, np.float32)
    if not inverse.valid.all():
        weight = inverse.valid.astype(np.float32)
        total, known = disparity.copy(), weight.copy()
        sigma = 1.0
        while (known < 1e-3).any() and sigma < 200:
            sigma *= 2
            wide = cv2.blur(disparity, (int(2 * sigma) | 1,) * 2, borderType=cv2.BORDER_CONSTANT)
            wide_weight = cv2.blur(weight, (int(2 * sigma) | 1,) * 2, borderType=cv2.BORDER_CONSTANT)
            fresh = (known < 1e-3) & (wide_weight > 1e-3)
            total[fresh], known[fresh] = wide[fresh], wide_weight[fresh]
        disparity = np.asarray(total / np.maximum(known, 1e-6), np.float32)
    full = inverse.grid.to_picture(disparity, width, height)
    return np.asarray(1 / np.maximum(full, 1e-9), np.float32)


def _far_side(depth: Map, valid: NDArray[np.bool_], otherwise: Map) -> Map:
    """Depth of what a torn surface reveals: that of the farther side around, `otherwise` where nothing is near."""
    out = otherwise.copy()
    known = np.where(valid, depth, 0).astype(np.float32)
    distance = cv2.distanceTransform((~valid).astype(np.uint8), cv2.DIST_L2, 3)
    for radius in (24, 12, 6):
        size = (2 * radius + 1,) * 2
        far = known > 0.8 * cv2.dilate(known, np.ones(size, np.uint8))
        weight = cv2.blur((far & valid).astype(np.float32), size)
        mean = cv2.blur(np.where(far, known, 0), size) / np.maximum(weight, 1e-6)
        near = (distance < radius) & (weight > 1e-3)
        out[near] = mean[near]
    return out
