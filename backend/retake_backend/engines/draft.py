"""The `draft` engine: the small diffusion model that comes with the backend corrects what geometry alone gets wrong.

The flow is that of the large engines: the footage moved by the preview, windows, a conditioner of tracks, denoising in
a few steps. What differs is that there is no VAE and no text, and that the model sees small pictures: the take is the
preview at full size, its holes filled smoothly, changed by what the model says (`draft_composition`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from retake_shared import engine_options
from torch import Tensor

from ..conditioning.coordinates import PairingSettings, TrackPairs, pair_tracks_at
from ..models import memory, resident
from ..models.draft import DraftTransformer
from ..models.draft_layers import STRIDE
from ..models.draft_weights import DraftModel, load_draft
from ..weights.contents import sha256_of
from ..weights.shipped import WEIGHTS
from ..weights.store import WeightStore
from .base import Progress, RenderedFrame, RenderRequest, Report
from .diffusion.framing import Fitted
from .diffusion.reprojection import Reprojection
from .diffusion.sampling import window_generator
from .diffusion.watched import watched
from .diffusion.windows import Window, in_order, plan_windows, window_notes
from .draft_composition import Composition, Mask, Picture

UNCHANGED = 2
"""Levels of 255 up to which a reprojection without holes is the footage as it was: there is nothing to correct."""


class DraftEngine:
    """Preview, corrected by the model in `folder`; None: the one that was imported, else that which comes along."""

    name = "draft"
    version = "1"
    device = "cpu"
    """What the last take was made on, in words."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._notes: list[str] = []

    def notes(self) -> tuple[str, ...]:
        """What the last `render` had to decide, in words for the artist."""
        return tuple(dict.fromkeys(self._notes))

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        """Yield the frames of the request's range in order.

        Raises MissingWeights where the weights are not here, BadShot (settings, range), BadFile (weights, footage),
        OutOfMemory, and what `report` raises.
        """
        self._notes = []
        description = engine_options.describe(self.name)
        assert description is not None
        options = description.checked(request.settings.options)
        request.settings.frame_range(request.solve)
        folder = self._folder or WeightStore().place(self.name)
        profile = memory.choose(options["memory"])
        self.device = profile.words
        run = _Run(request, options, folder, profile, self._notes)
        yield from watched(run.frames, report)


@dataclass
class _Run:
    """One take in the making."""

    request: RenderRequest
    options: Mapping[str, Any]
    folder: Path
    profile: memory.Profile
    notes: list[str]

    def frames(self, report: Report) -> Generator[RenderedFrame]:
        """The take's frames, in order; in a thread of its own (`watched`)."""
        request, options = self.request, self.options
        report(Progress("loading the model", 0, 1))
        model = self._loaded()
        start, stop = request.settings.frame_range(request.solve)
        footage = request.footage.footage
        preview = Reprojection(request, fill="smooth")
        fitted = Fitted.plan(
            (footage.width, footage.height),
            "pad",
            options["working_size"] or min(int(model.config["longer_side"]), max(footage.width, footage.height)),
            multiple=STRIDE,
            take=preview.size,
        )
        windows = plan_windows(start, stop, options["window"], options["overlap"])
        self.notes += [*fitted.notes, *window_notes(windows, stop, len(request.solve)), *self._told(model)]
        composition = Composition(fitted, preview.size, options["widen"], options["light"])

        def make(window: Window, before: Picture | None) -> Picture:
            where = (windows.index(window), len(windows))
            with memory.gpu_errors_in_words(), torch.no_grad():
                return self._window(model, window, where, preview, composition, report)

        for index, made in in_order(windows, stop, make):
            moved = preview.frames([index], report)
            rgb, holes = moved.rgb[0], moved.holes[0]
            picture = composition.finished(rgb, holes, fitted.bring(rgb), made)
            yield RenderedFrame(index, picture, holes.astype(np.uint8) * 255)
        self.notes += [f"Preview: {note}" for note in preview.notes()]

    def _window(
        self,
        model: DraftModel,
        window: Window,
        which: tuple[int, int],
        preview: Reprojection,
        composition: Composition,
        report: Report,
    ) -> Picture:
        """What the model makes of a window: (F, h, w, 3) uint8 at its size."""
        fitted = composition.fitted
        indices = np.minimum(window.frames(len(self.request.solve)), preview.stop - 1)
        moved, holes = self._moved(indices, preview, composition, report)
        source = np.stack([fitted.bring(self.request.footage.frame(int(index))) for index in indices])
        apart = np.abs(source.astype(np.int16) - moved).max((1, 2, 3))
        unchanged = (apart <= UNCHANGED) & ~holes.any((1, 2))
        if unchanged.all():
            return moved
        where = f", window {which[0] + 1} of {which[1]}" if which[1] > 1 else ""
        report(Progress(f"denoising{where}", 0, 1))
        made = model.repaint(
            self._brought(source),
            self._brought(moved),
            torch.from_numpy(holes)[None, None].to(self.profile.device, torch.float32),
            self._tracks(indices, fitted).to(self.profile.device),
            window_generator(self.request.settings.seed, which[0]),
            self.options["steps"],
        )
        rgb = ((made[0].permute(1, 2, 3, 0).cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        rgb[unchanged] = moved[unchanged]
        picture = rgb[len(rgb) // 2] if self.options["show"] else None
        report(Progress(f"denoising{where}", 1, 1, picture))
        return rgb

    def _moved(
        self, indices: NDArray[np.int64], preview: Reprojection, composition: Composition, report: Report
    ) -> tuple[Picture, Mask]:
        """The reprojection (F, h, w, 3) and its holes (F, h, w) at the model's size."""
        rgb, holes = [], []
        for index in indices:  # one at a time: the take's pictures may be large
            moved = preview.frames([int(index)], report)
            rgb.append(composition.fitted.bring(moved.rgb[0]))
            holes.append(composition.mostly(moved.holes[0]))
        return np.stack(rgb), np.stack(holes)

    def _tracks(self, indices: NDArray[np.int64], fitted: Fitted) -> TrackPairs:
        request = self.request
        grid = (fitted.size[1] // STRIDE, fitted.size[0] // STRIDE)
        settings = PairingSettings(tracks=self.options["tracks"], seed=request.settings.seed)
        framing = fitted.framing(request.solve.cameras)
        return pair_tracks_at(request.solve, request.edit, indices, grid, framing, settings)

    def _brought(self, pictures: Picture) -> Tensor:
        """(F, h, w, 3) uint8 -> (1, 3, F, h, w) float32 in [-1, 1] on the device."""
        video = torch.from_numpy(pictures).permute(3, 0, 1, 2)[None]
        return video.to(self.profile.device, torch.float32) / 127.5 - 1

    def _loaded(self) -> DraftModel:
        weights = self.folder / WEIGHTS
        stamp = weights.stat().st_mtime_ns if weights.is_file() else 0
        key = ("draft", str(self.folder), stamp, self.profile)

        def load() -> DraftModel:
            model = load_draft(self.folder, self.profile.dtype)
            model.to(device=self.profile.device, memory_format=torch.channels_last)  # type: ignore[call-arg]
            return model

        with memory.gpu_errors_in_words():
            return resident.keep(key, load)

    def _told(self, model: DraftModel) -> list[str]:
        """About the model and what it runs on."""
        steps, seed = self.options["steps"], self.request.settings.seed
        named = "1 step" if steps == 1 else f"{steps} steps"
        transformer = isinstance(model, DraftTransformer)
        how = f"{named}, seed {seed}" if transformer else "The convolutional model, in one step without chance"
        return [f"{how}.", *_about_weights(self.folder), f"Made on {self.profile.words}."]


def _about_weights(folder: Path) -> list[str]:
    """Which weights they are: a take of others is another take."""
    entry = WeightStore().entry(DraftEngine.name)
    digest = sha256_of(folder / WEIGHTS)[:12]
    if folder != entry.place:
        return [f"Weights: those in {folder} (sha256 {digest})."]
    which = "those that come with the backend" if entry.shipped else "imported ones"
    return [f"Weights: {which} (sha256 {digest}).", *entry.notes()]
