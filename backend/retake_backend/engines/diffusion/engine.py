"""The flow of one take that every diffusion engine shares; an engine subclasses `DiffusionEngine` with what is its own.

Text once for a take, then for each window: footage to the model's size, conditioning (once, whatever the steps and the
guidance), denoising, decoding. Where the device runs out of memory, the window is begun again with the next smaller
profile; frames that were handed out stay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray
from retake_shared import engine_options
from torch import Tensor

from ...conditioning.coordinates import Framing
from ...models import memory, resident, speed
from ...models.codec import LatentToRgb, VideoCodec
from ...models.memory import OutOfMemory, Profile
from ...models.text import EncodedPrompts, encode_prompts
from ...weights.store import MANIFEST, WeightStore
from ..base import Progress, RenderedFrame, RenderRequest, Report
from . import sampling
from .framing import TRAINED_AREA, Fitted
from .reprojection import Fill, Moved, Reprojection
from .sampling import Overlap, Schedule, Step
from .watched import watched
from .windows import Window, in_order, plan_windows, window_notes

Picture = NDArray[np.uint8]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Loading:
    """What a model is to be loaded from and for.

    places: folder of each model that the engine named, in its order, the base first. distilled: the base is a
    few-step variant, so that parts trained on the base are of other weights (`load_parts(other_weights=True)`).
    """

    places: tuple[Path, ...]
    profile: Profile
    options: Mapping[str, Any]
    distilled: bool
    report: Report


@dataclass
class Model:
    """What `load` gives, placed in memory by the profile; kept between takes, so nothing of a take belongs here.

    transformer: the denoiser. codec: frames <-> latents. place: the base's folder. conditioner: or None.
    notes: about what was loaded, repeated on every take.
    """

    transformer: ModelMixin
    codec: VideoCodec
    place: Path
    conditioner: ModelMixin | None = None
    notes: tuple[str, ...] = ()


@dataclass
class WindowJob:
    """One window of one take, as the hooks see it. What is costly is made when first asked for, once.

    options: all of the engine's, checked. number, count: this window of how many. frames: (F, h, w, 3) uint8 sRGB,
    the footage at the model's size; F = window.length = 4k + 1. indices: (F,) the footage frame that each shows (a
    last one may repeat). before: (overlap, h, w, 3) uint8, frames of the take itself that this window takes over from
    the one before, None for the first. framing: what of the solve's picture the model sees, for `pair_tracks`.
    report: for progress; may raise Cancelled, which is to pass. note: adds a sentence to the take's notes.
    prompts: embeddings, None for an engine without text.
    """

    request: RenderRequest
    options: Mapping[str, Any]
    schedule: Schedule
    profile: Profile
    fitted: Fitted
    framing: Framing
    window: Window
    number: int
    count: int
    indices: NDArray[np.int64]
    frames: Picture
    before: Picture | None
    codec: VideoCodec
    prompts: EncodedPrompts | None
    report: Report
    note: Callable[[str], None]
    reprojection: Callable[[Fill], Reprojection]
    _source: Tensor | None = field(default=None, init=False)
    _colours: LatentToRgb | None = field(default=None, init=False)
    _moved: dict[Fill, Moved] = field(default_factory=dict, init=False)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """(1, C, f, H, W) of the window's latents."""
        stride, rows, columns = self.codec.strides
        count, height, width = self.frames.shape[:3]
        return 1, self.codec.channels, (count - 1) // stride + 1, height // rows, width // columns

    @property
    def grid(self) -> tuple[int, int]:
        """Token cells (h, w) of the model's picture: Wan's patches are 2 x 2 latents."""
        return self.latent_shape[3] // 2, self.latent_shape[4] // 2

    @property
    def source_latents(self) -> Tensor:
        """Clean latents (1, C, f, H, W) float32 of the footage, on the CPU."""
        if self._source is None:
            self._source = self.encode(self.frames, "encoding the footage")
        return self._source

    def encode(self, frames: Picture, stage: str = "encoding") -> Tensor:
        """Latents (1, C, f, H, W) float32 of frames (F, h, w, 3) uint8 at the model's size, on the CPU."""
        latents = self.codec.encode(frames, self.report, stage)
        if self._colours is None:
            self._colours = LatentToRgb.fit(latents, frames)
        return latents

    def moved(self, fill: Fill = "all") -> Moved:
        """The footage moved along the edit by geometry alone, at the model's size: rgb (F, h, w, 3) uint8 and holes
        (F, h, w) bool. The preview runs once for all windows; beyond the take's range its last frame is held."""
        if fill not in self._moved:
            last = self.request.settings.frame_range(self.request.solve)[1] - 1
            made = self.reprojection(fill).frames([min(int(i), last) for i in self.indices], self.report)
            rgb = [self.fitted.bring(picture) for picture in made.rgb]
            holes = [self.fitted.bring(mask.astype(np.uint8) * 255) > 127 for mask in made.holes]
            self._moved[fill] = Moved(np.stack(rgb), np.stack(holes))
        return self._moved[fill]

    @property
    def colours(self) -> LatentToRgb:
        """How latents look, fitted to what was encoded first, else to the footage's first frame."""
        if self._colours is None:
            self.encode(self.frames[:1], "encoding the footage")
        assert self._colours is not None
        return self._colours

    def picture(self, clean: Tensor) -> Picture | None:
        """A rough look (h, w, 3) uint8 at the middle of latents (1, C, f, H, W); None where it is not asked for."""
        if not self.options["show"]:
            return None
        middle = clean.shape[2] // 2
        return np.asarray(self.colours(clean[:, :, middle : middle + 1])[0])

    def generator(self) -> torch.Generator:
        """All of this window's chance, on the CPU."""
        return sampling.window_generator(self.request.settings.seed, self.number)


class DiffusionEngine(ABC):
    """An engine around a video model. A subclass gives `name`, `load` and `condition`, and changes what else differs.

    Hooks, in the order in which they are called: `weights`, `profile`, `schedule`, `fitted`, `windows`, `prompts`, then, for each profile
    that is tried, `load` and `speed_up`, and for each window `produce` (which calls `condition`, `start`) and `holes`.
    """

    name: ClassVar[str]
    version = "1"
    device = "cpu"
    """What the last take was made on, in words."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    # --- what an engine gives ---

    @abstractmethod
    def load(self, wanted: Loading) -> Model:
        """Load everything, and place it in memory by the profile (`models.memory.place`). Raises BadFile, Cancelled."""

    @abstractmethod
    def condition(self, model: Model, job: WindowJob) -> dict[str, Any]:
        """Keyword arguments for every forward of the denoiser in this window, on its device. Called once a window."""

    # --- what an engine may change ---

    trained_area: ClassVar[int] = TRAINED_AREA
    """px of the pictures that the model was trained on."""
    multiple: ClassVar[int] = 16
    """Sides of the model's pictures are multiples of this, px."""

    def weights(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Names in the catalogue that these options need, the base first."""
        description = engine_options.describe(self.name)
        assert description is not None, self.name
        return description.needs(options)

    def load_key(self, options: Mapping[str, Any]) -> Hashable:
        """What of the options `load` depends on; the weights and the profile are known to matter."""
        return ()

    def schedule(self, options: Mapping[str, Any], distilled: bool) -> Schedule:
        """How to denoise; distilled: the base is a few-step variant."""
        return sampling.choose(options, distilled)

    def fitted(self, request: RenderRequest, options: Mapping[str, Any]) -> Fitted:
        """How the footage comes to the model's size."""
        footage = request.footage.footage
        return Fitted.plan(
            (footage.width, footage.height),
            options["fit"],
            options["working_size"],
            self.trained_area,
            self.multiple,
            request.settings.size,
        )

    def profile(self, options: Mapping[str, Any]) -> Profile:
        """The device and how its memory is used, to begin with."""
        return memory.choose(options["memory"])

    def windows(self, start: int, stop: int, options: Mapping[str, Any]) -> list[Window]:
        """The pieces in which frames [start, stop) are made."""
        return plan_windows(start, stop, options["window"], options["overlap"])

    def prompts(self, request: RenderRequest, schedule: Schedule) -> tuple[str, ...]:
        """The prompts to encode; () for a model without text."""
        settings = request.settings
        return (settings.prompt, settings.negative_prompt) if schedule.guidance > 1 else (settings.prompt,)

    def speed_up(self, model: Model, wanted: Loading, steps: int) -> tuple[str, ...]:
        """Make the loaded denoiser fast for a run of so many steps; what was done, in a few words each."""
        return speed.prepare(model.transformer, wanted.profile, wanted.options["quality"], steps)

    def produce(self, model: Model, job: WindowJob) -> Picture:
        """The frames (F, h, w, 3) uint8 of one window at the model's size."""
        return job.codec.decode(self.denoise(model, job), job.report)

    def start(self, model: Model, job: WindowJob) -> Tensor:
        """Clean latents (1, C, f, H, W) that a strength below 1 keeps something of."""
        if job.options["start"] == "footage":
            return job.source_latents
        return job.encode(job.moved().rgb, "encoding the preview")

    def holes(self, model: Model, job: WindowJob) -> Picture | None:
        """(F, h, w) uint8 at the model's size, 255 where the picture was invented; None: this engine cannot tell."""
        return None

    # --- the flow ---

    def notes(self) -> tuple[str, ...]:
        """What the last `render` had to decide, in words for the artist."""
        return tuple(dict.fromkeys(self._notes))

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        """Yield the frames of the request's range in order.

        Raises BadShot (settings, range), MissingWeights, BadFile (weights, footage), OutOfMemory when no smaller
        profile is left, RetakeError for what is wrong with the device, and what `report` raises.
        """
        self._notes = []
        run = _Run.prepared(self, request)
        yield from watched(run.frames, report)

    def denoise(self, model: Model, job: WindowJob) -> Tensor:
        """Latents (1, C, f, H, W) float32 of one window."""
        condition = self.condition(model, job)
        device = job.profile.device
        strength = job.options["strength"]
        start = self.start(model, job).to(device) if strength < 1 else None
        overlap = None if job.before is None else Overlap(job.encode(job.before).to(device))
        generator = job.generator()
        noise = torch.randn(job.latent_shape, generator=generator)
        settings = job.request.settings
        assert job.prompts is not None
        if job.options["show"]:
            _ = job.colours  # now, as the VAE may have to share the device with the denoiser later
        where = f", window {job.number + 1} of {job.count}" if job.count > 1 else ""

        def tell(step: Step) -> None:
            picture = job.picture(step.clean)
            job.report(Progress(f"denoising{where}", step.index + 1, step.total, picture))

        steps = job.schedule.steps - (sampling.first_step(job.schedule.steps, strength) if start is not None else 0)
        job.report(Progress(f"denoising{where}", 0, steps))
        speed.new_video(model.transformer)
        return sampling.sample(
            model.transformer,
            sampling.make_scheduler(job.schedule, model.place),
            noise.to(device),
            guidance=job.schedule.guidance,
            prompt=job.prompts.of(settings.prompt),
            negative_prompt=job.prompts.of(settings.negative_prompt) if job.schedule.guidance > 1 else None,
            condition=condition,
            dtype=job.profile.dtype,
            start=start,
            strength=strength,
            overlap=overlap,
            generator=generator,
            after_step=tell,
        )


@dataclass
class _Run:
    """One take in the making. profile and model change when memory runs out."""

    engine: DiffusionEngine
    request: RenderRequest
    options: Mapping[str, Any]
    store: WeightStore
    names: tuple[str, ...]
    distilled: bool
    schedule: Schedule
    profile: Profile
    note: Callable[[str], None]
    prompts: EncodedPrompts | None = None
    model: Model | None = None

    @classmethod
    def prepared(cls, engine: DiffusionEngine, request: RenderRequest) -> _Run:
        """All that can be refused before anything loads."""
        description = engine_options.describe(engine.name)
        assert description is not None, engine.name
        options = description.checked(request.settings.options)
        request.settings.frame_range(request.solve)
        store = WeightStore()
        names = engine.weights(options)
        distilled = description.distilled(options)
        has_distilled = distilled is not None and not store.missing([distilled])
        if distilled is not None and has_distilled:
            names = (distilled, *names[1:])
        store.require(names)
        profile = engine.profile(options)
        engine.device = profile.words
        schedule = engine.schedule(options, has_distilled)
        run = cls(engine, request, options, store, names, has_distilled, schedule, profile, engine._notes.append)
        run._tell_choices(distilled)
        return run

    def frames(self, report: Report) -> Generator[RenderedFrame]:
        """The take's frames, in order; in a thread of its own (`watched`)."""
        request, options, engine = self.request, self.options, self.engine
        start, stop = request.settings.frame_range(request.solve)
        footage = request.footage.footage
        size = request.settings.size or (footage.width, footage.height)
        fitted = engine.fitted(request, options)
        windows = engine.windows(start, stop, options)
        for note in (*fitted.notes, *window_notes(windows, stop, len(request.solve))):
            self.note(note)
        invented: dict[int, Picture] = {}
        previews: dict[Fill, Reprojection] = {}

        def reprojection(fill: Fill) -> Reprojection:
            if fill not in previews:
                previews[fill] = Reprojection(request, fitted.content, fill)
            return previews[fill]

        def make(window: Window, before: Picture | None) -> Picture:
            number = windows.index(window)
            frames, holes = self._smaller_until_it_fits(
                lambda: self._window(window, (number, len(windows)), fitted, before, reprojection, report), report
            )
            if holes is not None:
                invented.update(zip(range(window.start, min(window.stop, stop)), holes, strict=False))
            return frames

        self.prompts = self._smaller_until_it_fits(lambda: self._encode_prompts(report), report)
        for index, picture in in_order(windows, stop, make):
            holes = invented.pop(index, None)
            if holes is None:
                mask = np.zeros((size[1], size[0]), np.uint8)
            else:
                mask = np.where(fitted.take_back(holes, size) > 127, np.uint8(255), np.uint8(0))
            yield RenderedFrame(index, fitted.take_back(picture, size), mask)
        for preview in previews.values():
            for note in preview.notes():
                self.note(f"Preview: {note}")

    def _encode_prompts(self, report: Report) -> EncodedPrompts | None:
        wanted = self.engine.prompts(self.request, self.schedule)
        if not wanted:
            return None
        with memory.gpu_errors_in_words():
            encoded = encode_prompts(self.store.place(self.names[0]), wanted, self.profile, report)
        for note in encoded.notes:
            self.note(note)
        return encoded

    def _window(
        self,
        window: Window,
        which: tuple[int, int],
        fitted: Fitted,
        before: Picture | None,
        reprojection: Callable[[Fill], Reprojection],
        report: Report,
    ) -> tuple[Picture, Picture | None]:
        """One window's frames and holes at the model's size. Raises OutOfMemory."""
        with memory.gpu_errors_in_words(), torch.no_grad():
            model = self._loaded(report)
            indices = window.frames(len(self.request.solve))
            job = WindowJob(
                request=self.request,
                options=self.options,
                schedule=self.schedule,
                profile=self.profile,
                fitted=fitted,
                framing=fitted.framing(self.request.solve.cameras),
                window=window,
                number=which[0],
                count=which[1],
                indices=indices,
                frames=self._footage(indices, fitted, report),
                before=before,
                codec=model.codec,
                prompts=self.prompts,
                report=report,
                note=self.note,
                reprojection=reprojection,
            )
            return self.engine.produce(model, job), self.engine.holes(model, job)

    def _footage(self, indices: NDArray[np.int64], fitted: Fitted, report: Report) -> Picture:
        pictures: dict[int, Picture] = {}
        for done, index in enumerate(dict.fromkeys(int(i) for i in indices)):
            report(Progress("reading footage", done, len(indices)))
            pictures[index] = fitted.bring(self.request.footage.frame(index))
        return np.stack([pictures[int(i)] for i in indices])

    def _loaded(self, report: Report) -> Model:
        if self.model is None:
            places = tuple(self.store.place(name) for name in self.names)
            stamps = tuple((str(place), (place / MANIFEST).stat().st_mtime_ns) for place in places)
            wanted = Loading(places, self.profile, self.options, self.distilled, report)
            key = (type(self.engine).__qualname__, stamps, self.profile, self.engine.load_key(self.options))
            report(Progress("loading the model", 0, 1))
            self.model = resident.keep(key, lambda: self.engine.load(wanted))
            for note in self.model.notes:
                self.note(note)
            faster = self.engine.speed_up(self.model, wanted, self.schedule.steps)
            if faster:
                self.note(f"Speed: {', '.join(faster)}.")
        return self.model

    def _smaller_until_it_fits(self, work: Callable[[], Value], report: Report) -> Value:
        """What `work` gives, with the first profile from the current one down that has the memory for it."""
        while True:
            try:
                return work()
            except OutOfMemory as error:
                smaller = memory.smaller(self.profile)
                if smaller is None:
                    raise OutOfMemory(error.what, error.where, f"{_LESS_WORK} {error.remedy}".strip()) from error
            # Outside of the handler: the error's traceback holds what filled the memory.
            self.note(f"The {self.profile.name} GB profile ran out of memory; the {smaller.name} GB one made the rest.")
            report(Progress(f"starting again with {smaller.name} GB", 0, 1))
            self.model = None
            resident.release()
            self.profile = smaller
            self.engine.device = smaller.words

    def _tell_choices(self, distilled: str | None) -> None:
        schedule, options, settings = self.schedule, self.options, self.request.settings
        if options["quality"] == "fast" and not self.distilled:
            absent = f", as {distilled} is not installed" if distilled else ""
            self.note(f"No few-step weights are used{absent}: {schedule.steps} steps of the full model are a draft.")
        guided = schedule.guidance > 1
        if guided and self.engine.prompts(self.request, schedule) and not settings.prompt.strip():
            self.note("There is no prompt, so nothing is guided by one: each step is computed once, not twice.")
            self.schedule = schedule = replace(schedule, guidance=1.0)
            guided = False
        guidance = f"guidance {schedule.guidance:g}" if guided else "no guidance"
        named = {"unipc": "UniPC", "euler": "Euler", "few-step": "few-step"}[schedule.scheduler]
        self.note(f"{schedule.steps} steps, {named} scheduler, {guidance}, seed {settings.seed}.")
        if options["strength"] < 1:
            self.note(f"It starts from the {options['start']} at strength {options['strength']:g}.")
        self.note(f"Made on {self.profile.words}.")
        licences = []
        for name in self.names:
            entry = self.store.entry(name)
            licences.append(f"{entry.model.label}: {entry.licence or 'no licence given'}")
            for note in entry.notes():
                self.note(note)
        self.note(f"Licences: {'; '.join(licences)}.")


_LESS_WORK = "Choose a smaller working size or fewer frames a window."
