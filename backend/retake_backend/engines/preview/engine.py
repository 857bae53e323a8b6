"""The `preview` engine: layers of the footage, each moved as its tracks and the camera are, in depth order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot, Cancelled
from retake_shared.shot import BACKGROUND

from ..base import Progress, RenderedFrame, RenderRequest, Report
from .grids import Grid, Map, remap_points
from .hidden import HiddenParts
from .inpaint import patch_fill, push_pull
from .mattes import Mattes
from .motion import STILL, Motion, fit_motion, forward_map
from .plan import Layer, Plan, make_plan
from .plates import Plate, chosen_frames, continue_plate, fill_from_plates, is_static, level_seam, median_plate
from .surfaces import Surface, Surfaces
from .warp import Inverse, invert

Picture = NDArray[np.uint8]
Value = TypeVar("Value")
FILLS = ("none", "frames", "all")
GREY = 127
WORKERS = 2
"""Frames in the making at once; most of the work is in numpy and OpenCV, which run side by side."""


class PreviewEngine:
    """Geometric reprojection. Option `fill`: what to put where the rendered source frame shows nothing.

    "all" (default): other frames of the footage, then invention; "frames": other frames only; "none": nothing. What is
    left is grey and marked as hole.
    """

    name = "preview"
    version = "1"

    def __init__(self) -> None:
        self._notes: list[str] = []

    def notes(self) -> tuple[str, ...]:
        """What the last `render` had to decide, in words for the artist."""
        return tuple(self._notes)

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        """Yield the frames of the request's range in order. Raises BadShot, BadFile, and what `report` raises."""
        self._notes = []
        start, stop = request.settings.frame_range(request.solve)
        stage = _Stage(Progress("reading tracks", 0, 1))
        with ThreadPoolExecutor(WORKERS, "preview") as workers:
            try:
                scene = _watched(
                    workers.submit(_Scene.prepared, request, stage, self._notes, start, stop), stage, report
                )
                ahead: deque[Future[RenderedFrame]] = deque()
                for t in range(start, stop):
                    while len(ahead) <= WORKERS and t + len(ahead) < stop:
                        ahead.append(workers.submit(scene.render, t + len(ahead)))
                    stage.progress = Progress("rendering", t - start, stop - start)
                    yield _watched(ahead.popleft(), stage, report)
            finally:
                stage.stopped = True
                workers.shutdown(cancel_futures=True)
        report(Progress("rendering", stop - start, stop - start))
        scene.conclude()


@dataclass
class _Stage:
    """What the workers are at, told to the artist by the thread that asked; stopped: they should give up."""

    progress: Progress
    stopped: bool = False


def _watched(work: Future[Value], stage: _Stage, report: Report) -> Value:
    """The result of `work`, with `report` called at least three times a second until it is there."""
    report(stage.progress)
    while not wait([work], timeout=0.3).done:
        report(stage.progress)
    return work.result()


@dataclass
class _Canvas:
    """The picture as it grows, back to front. depth: (H, W) of what is shown; invented: nothing in the footage."""

    rgb: Picture
    depth: Map
    invented: NDArray[np.bool_]


class _Scene:
    """One request, with everything that its frames share."""

    @classmethod
    def prepared(cls, request: RenderRequest, stage: _Stage, notes: list[str], start: int, stop: int) -> _Scene:
        """The scene, ready to render frames start .. stop - 1."""
        scene = cls(request, stage, notes)
        scene.prepare(start, stop)
        return scene

    def __init__(self, request: RenderRequest, stage: _Stage, notes: list[str]) -> None:
        self.request, self.stage, self.notes = request, stage, notes
        self.reading = threading.Lock()
        footage, solve, edit = request.footage.footage, request.solve, request.edit
        self.fill = request.settings.options.get("fill", "all")
        if self.fill not in FILLS:
            raise BadShot(f"is {self.fill!r:.40}.", "settings.options.fill", f"Use one of {', '.join(FILLS)}.")
        self.width, self.height = request.settings.size or (footage.width, footage.height)
        self.source = solve.cameras.resized(self.width, self.height)
        self.target = edit.cameras.resized(self.width, self.height)
        self.picture = lru_cache(maxsize=max(6, (256 << 20) // (self.width * self.height * 3)))(self._picture)
        self.surfaces = Surfaces(solve, self.source, self.picture)
        self.mattes = Mattes(solve, self.surfaces, self.picture)
        self.hidden = HiddenParts(self.mattes, self.surfaces, self.picture)
        self.plan: Plan = make_plan(solve, edit, self.source, self.target, self.mattes.numbers)
        self.plates: list[Plate] = []
        self.whole: Plate | None = None
        self.away = 0
        self.unseen: dict[int, set[int]] = {}

    # --- preparation ---

    def prepare(self, start: int, stop: int) -> None:
        frames = len(self.request.solve)
        if self.plan.identity[start:stop].all():
            return
        if not self.surfaces.known:
            self.notes.append(
                "No tracks and no depth: everything is taken as far away, so camera moves show no parallax."
            )
        depths = self.surfaces.depth[self.surfaces.visible]
        static = is_static(self.source, float(np.quantile(depths, 0.02)) if len(depths) else 1.0)
        self.mattes.learn(chosen_frames(0, frames, 16), static, self._ticker("learning the objects", 49))
        if self.fill == "none":
            return
        if static:
            chosen = chosen_frames(0, frames, max(3, min(24, (768 << 20) // (self.width * self.height * 3))))
            tick = self._ticker("reading the background", len(chosen))
            plate = median_plate(chosen, self.picture, self.mattes.cut, tick)
            plate = replace(plate, surface=self._background_depth(plate.frame))
            if self.fill == "all":
                # Filled once for the whole shot, so that what is invented stands still in the world.
                filled = patch_fill(plate.rgb, ~plate.shown, self._ticker("inventing what is never seen", 25))
                plate = self.whole = replace(plate, rgb=filled)
            self.plates = [plate]
        else:
            chosen = chosen_frames(0, frames, max(3, min(16, (512 << 20) // (self.width * self.height * 3))))
            tick = self._ticker("reading the background", len(chosen))
            for frame in chosen:
                shown = ~self.mattes.cut(frame)
                self.plates.append(Plate(frame, self.picture(frame), shown, self.surfaces.measured(frame)))
                tick()

    def _background_depth(self, frame: int) -> Surface | None:
        """The frame's measured depth with objects taken out, or None."""
        measured = self.surfaces.measured(frame)
        return None if measured is None else self._without_objects(measured, self.mattes.cut(frame))

    def _without_objects(self, measured: Surface, cut: NDArray[np.bool_]) -> Surface:
        """The surface with what lies under `cut` (H, W) torn out, its disparity 0."""
        size = (measured.grid.columns, measured.grid.rows)
        out = cv2.resize(cut.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        torn = out if measured.torn is None else measured.torn | out
        return Surface(measured.grid, np.where(out, 0, measured.disparity).astype(np.float32), torn)

    def _ticker(self, name: str, total: int) -> Callable[[], None]:
        """A function to call after each of `total` steps of the stage `name`."""
        steps = iter(range(1, total + 1))

        def tick() -> None:
            if self.stage.stopped:
                raise Cancelled
            self.stage.progress = Progress(name, next(steps, total), total)

        return tick

    def _picture(self, frame: int) -> Picture:
        with self.reading:
            rgb = self.request.footage.frame(frame)
        if rgb.shape[:2] != (self.height, self.width):
            shrinks = rgb.shape[0] > self.height and rgb.shape[1] > self.width
            rgb = cv2.resize(
                rgb, (self.width, self.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            )  # type: ignore[assignment]
        return rgb

    def conclude(self) -> None:
        if self.away:
            self.notes.append(f"In {self.away} frames the camera sees nothing that the footage shows.")
        names = self.request.edit.object_names
        for number, frames in sorted(self.unseen.items()):
            name = names.get(number, f"object {number}")
            self.notes.append(f"{name} is missing in {len(frames)} frames: the footage does not show it at its moment.")

    # --- one frame ---

    def render(self, t: int) -> RenderedFrame:
        if self.plan.identity[t]:
            return RenderedFrame(t, self.picture(t).copy(), np.zeros((self.height, self.width), np.uint8))
        canvas = self._background(t)
        layers = [
            (layer, self._motion(layer, t))
            for layer in self.plan.layers
            if layer.source != BACKGROUND and layer.present[t]
        ]
        drawn = [d for layer, motion in layers if (d := self._warped(layer, motion, t)) is not None]
        for layer_picture in sorted(drawn, key=lambda d: -d.distance):
            layer_picture.over(canvas)
        holes = canvas.invented
        if self.fill == "all":
            if holes.all():
                self.away += 1
                canvas.rgb[:] = GREY
        else:
            canvas.rgb[holes] = GREY
        return RenderedFrame(t, canvas.rgb, holes.astype(np.uint8) * 255)

    def _motion(self, layer: Layer, t: int) -> Motion:
        if layer.unmoved[t] or not len(layer.rows):
            return STILL
        edit, tracks = self.request.edit, self.request.solve.tracks
        s = int(layer.frames[t])
        rows = layer.rows[edit.present[t, layer.rows]]
        if not len(rows):
            return STILL
        origin = edit.source_track[rows]
        uv, depth = self.surfaces.uv[s, origin], self.surfaces.depth[s, origin]
        good = depth > 0
        if not good.any():
            good = np.ones(len(rows), bool)
            uv, depth = np.nan_to_num(uv), np.ones(len(rows))
        weights = np.where(self.surfaces.visible[s, origin], 1.0, 0.02)[good]
        distance = float(np.median(depth[good]))
        grid = Grid.over(self.width, self.height, self.surfaces.coarse, self.surfaces.margin)
        return fit_motion(
            tracks.positions[s, origin[good]], edit.positions[t, rows[good]], uv[good], weights, distance, grid
        )

    def _views(self, s: int, t: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        return (self.source.c2w[s], self.source.K[s]), (self.target.c2w[t], self.target.K[t])

    def _background(self, t: int) -> _Canvas:
        layer = self.plan.layers[0]
        s = int(layer.frames[t])
        picture = self.picture(s)
        motion = self._motion(layer, t)
        views = self._views(s, t)
        smooth = invert(
            forward_map(self.surfaces.smooth(BACKGROUND, s), motion, *views),
            Grid.over(self.width, self.height, self.surfaces.coarse),
        )
        behind = self._filled_depth(smooth)
        depths = [behind]
        if self.plan.camera_unmoved[t] and layer.unmoved[t]:
            edited = tuple(
                {other.source for other in self.plan.layers if not (other.unmoved[t] and other.present[t])}
                | self._unshown()
            )
            hole = self.mattes.cut(s, edited)
            rgb = picture.copy()
            depth = behind
        else:
            rgb, hole, depth, torn_open = self._warped_background(s, t, motion, smooth, behind)
            depths = [behind] if torn_open is None else [torn_open, behind]
        if not layer.present[t]:
            hole[:] = True
        if not hole.any() or self.fill == "none":
            return _Canvas(rgb, depth, hole)
        rgb, invented = self._filled(rgb, hole, depths, s, smooth, views[1])
        return _Canvas(rgb, depth, invented)

    def _filled(
        self, rgb: Picture, hole: NDArray[np.bool_], depths: list[Map], s: int, smooth: Inverse, view: tuple[Any, Any]
    ) -> tuple[Picture, NDArray[np.bool_]]:
        """The background with its hole filled, and what of it no frame shows.

        depths: guesses at how far lies what the hole shows, the likeliest first.
        """
        ring = cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        fill = rgb.copy()
        unknown = ring
        for depth in depths:
            unknown = fill_from_plates(self.plates, fill, unknown, depth, view, self.source)
        level_seam(fill, rgb, ring & ~hole & ~unknown, hole & ~unknown)
        invented = unknown & hole
        usable = ring & ~unknown
        if self.fill == "all" and invented.any():
            if self.whole is not None:
                unknown = continue_plate(self.whole, fill, unknown, depths[-1], view, self.source)
                usable = ring & ~unknown
            else:
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

    def _unshown(self) -> set[int]:
        shown = {layer.source for layer in self.plan.layers}
        return set(self.mattes.numbers) - shown

    def _filled_depth(self, inverse: Inverse) -> Map:
        """The inverse's depth at every pixel, continued where nothing lands."""
        disparity = np.where(inverse.valid, 1 / np.maximum(inverse.depth, 1e-9), 0).astype(np.float32)
        if not inverse.valid.any():
            return np.full((self.height, self.width), 1e9, np.float32)
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
        full = inverse.grid.to_picture(disparity, self.width, self.height)
        return np.asarray(1 / np.maximum(full, 1e-9), np.float32)

    def _warped_background(
        self, s: int, t: int, motion: Motion, smooth: Inverse, behind: Map
    ) -> tuple[Picture, NDArray[np.bool_], Map, Map | None]:
        """The background of frame `s` as frame `t` shows it, its hole, its depth, and what tears reveal."""
        cut = self.mattes.cut(s)
        measured = self.surfaces.measured(s)
        depth, torn_open = behind, None
        inverse = smooth
        if measured is not None:
            measured = self._without_objects(measured, cut)
            inverse = invert(
                forward_map(measured, motion, *self._views(s, t)),
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
        rgb = np.asarray(
            cv2.remap(self.picture(s), x - 0.5, y - 0.5, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        )
        inside = (x >= 0.5) & (y >= 0.5) & (x <= self.width - 0.5) & (y <= self.height - 0.5)
        hidden = cv2.remap(cut.astype(np.uint8), x - 0.5, y - 0.5, cv2.INTER_NEAREST, borderValue=0) > 0
        return rgb.astype(np.uint8, copy=False), ~(valid & inside) | hidden, depth, torn_open

    # --- objects ---

    def _warped(self, layer: Layer, motion: Motion, t: int) -> _LayerPicture | None:
        s = int(layer.frames[t])
        whole = self.hidden.whole(s, layer.source)
        if whole is None:
            self.unseen.setdefault(layer.number, set()).add(t)
            return None
        inverse = invert(
            forward_map(self.surfaces.smooth(layer.source, s), motion, *self._views(s, t)),
            Grid.over(self.width, self.height, self.surfaces.coarse),
        )
        box = _box_of(inverse, whole.matte)
        if box is None:
            return None
        left, top, right, bottom = box
        grid = inverse.grid
        shifted = Grid(grid.origin_x - left, grid.origin_y - top, grid.step, grid.columns, grid.rows)
        size = (right - left, bottom - top)
        x, y, depth = (shifted.to_picture(a, *size) for a in (inverse.x, inverse.y, inverse.depth))
        valid = shifted.to_picture(inverse.valid.astype(np.float32), *size)
        rgb = np.asarray(
            cv2.remap(whole.rgb, x - 0.5, y - 0.5, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.uint8
        )
        matte = cv2.remap(whole.matte, x - 0.5, y - 0.5, cv2.INTER_LINEAR, borderValue=0)
        alpha = np.asarray(matte * (valid > 0.5) * np.float32(1 / 255), np.float32)
        invented = cv2.remap(whole.invented.astype(np.uint8), x - 0.5, y - 0.5, cv2.INTER_NEAREST, borderValue=0) > 0
        return _LayerPicture((left, top), rgb, alpha, depth, invented)


@dataclass(frozen=True)
class _LayerPicture:
    """One object as the target camera sees it, at `corner` (x, y) of the picture."""

    corner: tuple[int, int]
    rgb: Picture
    alpha: Map
    depth: Map
    invented: NDArray[np.bool_]

    @property
    def distance(self) -> float:
        solid = self.depth[self.alpha > 0.5]
        return float(np.median(solid)) if len(solid) else 0.0

    def over(self, canvas: _Canvas) -> None:
        rows = slice(self.corner[1], self.corner[1] + self.alpha.shape[0])
        columns = slice(self.corner[0], self.corner[0] + self.alpha.shape[1])
        # A surface slightly behind is not hidden: the layers' depths are estimates, their order in the footage a fact.
        alpha = np.where(self.depth < canvas.depth[rows, columns] * 1.08, self.alpha, 0)
        below = canvas.rgb[rows, columns]
        canvas.rgb[rows, columns] = np.rint(below + alpha[..., None] * (self.rgb.astype(np.float32) - below))
        solid = alpha > 0.5
        canvas.depth[rows, columns][solid] = self.depth[solid]
        canvas.invented[rows, columns][solid] = self.invented[solid]


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


def _box_of(inverse: Inverse, matte: Picture) -> tuple[int, int, int, int] | None:
    """left, top, right, bottom px of where the matte lands in the target picture, or None."""
    height, width = matte.shape
    size = 2 * int(np.ceil(inverse.grid.step)) + 1
    thick = cv2.dilate(matte, np.ones((size, size), np.uint8))
    lands = cv2.remap(thick, inverse.x - 0.5, inverse.y - 0.5, cv2.INTER_NEAREST, borderValue=0) > 0
    lands &= cv2.dilate(inverse.valid.astype(np.uint8), np.ones((3, 3))) > 0
    rows, columns = np.flatnonzero(lands.any(1)), np.flatnonzero(lands.any(0))
    if not len(rows):
        return None
    step, grid = inverse.grid.step, inverse.grid
    left = int(max(0, np.floor(grid.origin_x + (columns[0] - 1.5) * step)))
    top = int(max(0, np.floor(grid.origin_y + (rows[0] - 1.5) * step)))
    right = int(min(width, np.ceil(grid.origin_x + (columns[-1] + 1.5) * step)))
    bottom = int(min(height, np.ceil(grid.origin_y + (rows[-1] + 1.5) * step)))
    return (left, top, right, bottom) if right > left and bottom > top else None
