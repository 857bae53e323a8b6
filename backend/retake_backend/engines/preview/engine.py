"""The `preview` engine: layers of the footage, each moved as its tracks and the camera are, in depth order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot, Cancelled
from retake_shared.shot import BACKGROUND

from ..base import Progress, RenderedFrame, RenderRequest, Report
from .background import FILLS, GREY, INVENTING, Background, Canvas
from .grids import Grid, Map
from .hidden import HiddenParts
from .inpaint import push_pull
from .mattes import Mattes
from .motion import STILL, Motion, fit_motion, forward_map
from .plan import Layer, Plan, make_plan
from .plates import chosen_frames, is_static
from .surfaces import Surfaces
from .warp import Inverse, invert

Picture = NDArray[np.uint8]
Value = TypeVar("Value")
WORKERS = 2
"""Frames in the making at once; most of the work is in numpy and OpenCV, which run side by side."""


class PreviewEngine:
    """Geometric reprojection. Option `fill`: what to put where the rendered source frame shows nothing.

    "all" (default): other frames of the footage, then invention; "smooth": the same, but where the camera moves the
    colours around in place of invention; "frames": other frames only; "none": nothing. What is left is grey and marked
    as hole.
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
        cameras = (self.source, self.target)
        self.background = Background(cameras, self.picture, self.surfaces, self.mattes, self.fill)
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
        chosen = chosen_frames(0, frames, 16)
        self.mattes.learn(chosen, static, self._ticker("learning the objects", 1 + 2 * len(chosen)))
        self.background.prepare(frames, static, self._ticker)

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
        wall = self.plan.layers[0]
        canvas = self.background.render(int(wall.frames[t]), t, self._motion(wall, t), self._leaving(wall, t))
        layers = [
            (layer, self._motion(layer, t))
            for layer in self.plan.layers
            if layer.source != BACKGROUND and layer.present[t]
        ]
        drawn = [d for layer, motion in layers if (d := self._warped(layer, motion, t)) is not None]
        for layer_picture in sorted(drawn, key=lambda d: -d.distance):
            layer_picture.over(canvas)
        holes = canvas.invented
        if self.fill in INVENTING:
            if holes.all():
                self.away += 1
                canvas.rgb[:] = GREY
            elif self.fill == "smooth" and self.background.whole is None:
                # From what is shown around, whatever layer that is: of the truth it is the best guess without a model.
                canvas.rgb = push_pull(canvas.rgb, holes)
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

    def _leaving(self, wall: Layer, t: int) -> tuple[int, ...] | None:
        """The objects that leave their places in a background that itself stays as it is; None where it does not."""
        if not (self.plan.camera_unmoved[t] and wall.unmoved[t]):
            return None
        staying = {layer.source for layer in self.plan.layers if layer.unmoved[t] and layer.present[t]}
        return tuple(n for n in self.mattes.numbers if n not in staying)

    # --- objects ---

    def _warped(self, layer: Layer, motion: Motion, t: int) -> _LayerPicture | None:
        s = int(layer.frames[t])
        whole = self.hidden.whole(s, layer.source)
        if whole is None:
            self.unseen.setdefault(layer.number, set()).add(t)
            return None
        inverse = invert(
            forward_map(self.surfaces.smooth(layer.source, s), motion, *self.background.views(s, t)),
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

    def over(self, canvas: Canvas) -> None:
        rows = slice(self.corner[1], self.corner[1] + self.alpha.shape[0])
        columns = slice(self.corner[0], self.corner[0] + self.alpha.shape[1])
        # A surface slightly behind is not hidden: the layers' depths are estimates, their order in the footage a fact.
        alpha = np.where(self.depth < canvas.depth[rows, columns] * 1.08, self.alpha, 0)
        below = canvas.rgb[rows, columns]
        canvas.rgb[rows, columns] = np.rint(below + alpha[..., None] * (self.rgb.astype(np.float32) - below))
        solid = alpha > 0.5
        canvas.depth[rows, columns][solid] = self.depth[solid]
        canvas.invented[rows, columns][solid] = self.invented[solid]


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
