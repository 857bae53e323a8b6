"""The `vace` engine: the preview is repainted where the footage shows nothing, by VACE with its public weights.

The preview is VACE's control video, the mask of its holes says what to generate. The control's latents are made by
diffusers' own WanVACEPipeline, so that they are those the weights were trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_vace import WanVACEPipeline
from numpy.typing import NDArray
from torch import Tensor

from ..models import memory
from ..models.codec import VideoCodec
from ..models.loading import pretrained
from .base import Progress, RenderedFrame, RenderRequest, Report
from .diffusion.engine import DiffusionEngine, Loading, Model, WindowJob
from .diffusion.framing import Fitted
from .diffusion.repainting import SEAM, painted_over, whole_cells, widened
from .diffusion.reprojection import Reprojection

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Control:
    """What VACE is given for one window, at the model's size.

    frames: (F, h, w, 3) uint8, what is kept: the preview, and first the frames taken over from the window before.
    painted: (F, h, w) bool, what of the take is the model's painting. generated: (F, h, w) bool, what the model makes
    anew: the cells that `painted` touches, without the frames taken over, which are painted already.
    """

    frames: Picture
    painted: Mask
    generated: Mask


class VaceEngine(DiffusionEngine):
    """The footage where it shows the place, VACE's painting elsewhere; with `keep` off, VACE's picture everywhere."""

    name = "vace"

    def __init__(self) -> None:
        super().__init__()
        self._joining: _Joining | None = None

    def load(self, wanted: Loading) -> Model:
        (place,) = wanted.places
        wanted.report(Progress("loading the model", 0, 2))
        transformer = pretrained(
            WanVACETransformer3DModel, place / "transformer", "VACE transformer", place, dtype=wanted.profile.dtype
        )
        wanted.report(Progress("loading the model", 1, 2))
        codec = VideoCodec.load(place, wanted.profile)
        memory.place(transformer, wanted.profile, "denoiser")
        return Model(transformer, codec, place)

    def produce(self, model: Model, job: WindowJob) -> Picture:
        """The window's frames; where the footage is kept, its own pixels at the model's size."""
        control = self._control(job)
        if not job.options["keep"]:
            return super().produce(model, job)
        if not control.generated.any():
            job.note(f"The footage shows all of {_span(job)}: nothing had to be painted there.")
            return control.frames
        painting = super().produce(model, job)
        frames = control.frames.copy()
        for index, painted in enumerate(control.painted):
            frames[index] = painted_over(frames[index], painting[index], painted, SEAM)
        return frames

    def condition(self, model: Model, job: WindowJob) -> dict[str, Any]:
        """The control's latents, and how strictly each of VACE's blocks follows them."""
        control, profile = self._control(job), job.profile
        chunks = 2 * job.latent_shape[2]
        with _at_work(model.codec, _counted(job.report, "encoding the preview", chunks)):
            latents = control_latents(
                model.codec.vae,
                model.transformer,
                control_video(control.frames, control.generated),
                control.generated,
                profile.device,
            )
        blocks = len(model.transformer.config.vace_layers)
        return {
            "control_hidden_states": latents.to(profile.device, profile.dtype),
            "control_hidden_states_scale": torch.full(
                (blocks,), float(job.options["control"]), device=profile.device, dtype=profile.dtype
            ),
        }

    def start(self, model: Model, job: WindowJob) -> Tensor:
        """Clean latents (1, C, f, H, W) that a strength below 1 keeps something of."""
        if job.options["start"] == "footage":
            return job.source_latents
        return job.encode(self._control(job).frames, "encoding the preview")

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        """Yield the frames of the request's range in order. Raises what `DiffusionEngine.render` raises."""
        self._joining = None
        for frame in super().render(request, report):
            assert self._joining is not None  # a frame comes from a window
            yield self._joining.finished(frame, report)
        if self._joining is not None:
            self._notes += self._joining.notes(bool(request.settings.prompt.strip()))
            self._joining = None

    def _control(self, job: WindowJob) -> Control:
        """The window's control; the take's preview is rendered for its first window."""
        if self._joining is None:
            self._joining = _Joining(Reprojection(job.request), job.fitted, job.options)
        return self._joining.control(job)


@dataclass
class _Joining:
    """One take's footage moved by the preview, at the take's own size, and how the painting joins it.

    away: frames so far that show nothing of the footage.
    """

    preview: Reprojection
    fitted: Fitted
    options: Mapping[str, Any]
    away: int = 0
    _window: tuple[int, Control] | None = None

    def control(self, job: WindowJob) -> Control:
        """The control of a window, made once."""
        if self._window is None or self._window[0] != job.number:
            self._window = job.number, self._control(job)
        return self._window[1]

    def _control(self, job: WindowJob) -> Control:
        frames, holes = np.empty_like(job.frames), np.empty(job.frames.shape[:3], bool)
        for at, index in enumerate(np.minimum(job.indices, self.preview.stop - 1)):
            moved = self.preview.frames([int(index)], job.report)
            frames[at], holes[at] = self.fitted.bring(moved.rgb[0]), self._brought(moved.holes[0])
        painted = widened(holes, self.options["grow"])
        generated = whole_cells(painted)
        if job.before is not None:
            frames[: len(job.before)] = job.before
            generated[: len(job.before)] = False
        return Control(frames, painted, generated)

    def _brought(self, holes: Mask) -> Mask:
        """Holes at the model's size: every pixel with some of a hole in it."""
        return np.asarray(self.fitted.bring(holes.astype(np.uint8) * 255) > 0)

    def finished(self, frame: RenderedFrame, report: Report) -> RenderedFrame:
        """The frame with the footage's own pixels where they are kept, and its exact holes."""
        moved = self.preview.frames([frame.index], report)
        footage, holes = moved.rgb[0], moved.holes[0]
        self.away += bool(holes.all())
        frame = replace(frame, holes=holes.astype(np.uint8) * 255)
        if not self.options["keep"]:
            return frame
        if not holes.any():
            return replace(frame, rgb=footage)
        painted = widened(self._brought(holes)[None], self.options["grow"])[0]
        size = self.preview.size
        painted = self.fitted.take_back(painted.astype(np.uint8) * 255, size) > 127
        seam = SEAM * size[0] / self.fitted.content[0]
        return replace(frame, rgb=painted_over(footage, frame.rgb, painted, seam))

    def notes(self, prompt: bool) -> list[str]:
        """What the preview and the painting had to decide; prompt: whether there is one."""
        told = [f"Preview: {note}" for note in self.preview.notes()]
        if self.away and not prompt:
            told.append("There is no prompt to say what frames show that see nothing of the footage.")
        return told


# --- VACE's own input ---


def control_video(frames: Picture, generated: Mask) -> Tensor:
    """VACE's control (1, 3, F, H, W) float32 in [-1, 1]: frames (F, H, W, 3) sRGB, and exact grey where generated.

    Grey is 127.5, which uint8 cannot say; in [-1, 1] it is 0.
    """
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None]
    # The pipeline's own arithmetic on pictures, so that kept pixels are those it would have, bit for bit.
    video = 2.0 * (video.to(torch.float32) / 255.0) - 1.0
    return video.masked_fill(torch.from_numpy(generated)[None, None], 0.0)


@torch.no_grad()
def control_latents(vae: Any, transformer: Any, video: Tensor, generated: Mask, device: torch.device) -> Tensor:
    """What VACE takes as `control_hidden_states`: (1, 16 + 16 + 64, f, h, w) in the VAE's dtype.

    Latents of what is kept, latents of what is generated, and the 8 x 8 mask values of each cell. vae: diffusers'
    own, on `device`. transformer: for its patch size. video: of `control_video`. generated: (F, H, W); F is 4k + 1.
    """
    around: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "scheduler": None}
    pipeline: Any = WanVACEPipeline(vae=vae, transformer=transformer, **around)
    mask = torch.from_numpy(generated)[None, None].to(device, torch.float32)
    references: list[list[Tensor]] = [[]]
    latents: Tensor = pipeline.prepare_video_latents(video.to(device), mask, references, None, device)
    return torch.cat([latents, pipeline.prepare_masks(mask, references).to(latents)], 1)


@contextmanager
def _at_work(codec: VideoCodec, before: Callable[[], None]) -> Iterator[None]:
    """The codec's VAE on its device; `before` is called before every chunk that it encodes, and may raise."""
    memory.place(codec.vae, codec.profile, "vae")
    hook = codec.vae.encoder.register_forward_pre_hook(lambda module, args: before())
    try:
        yield
    finally:
        hook.remove()
        codec.vae.clear_cache()  # what an interrupted run had in it
        memory.put_aside(codec.vae, codec.profile)


def _counted(report: Report, stage: str, chunks: int) -> Callable[[], None]:
    done = 0

    def before() -> None:
        nonlocal done
        report(Progress(stage, min(done, chunks), chunks))  # in tiles there are more
        done += 1

    return before


def _span(job: WindowJob) -> str:
    """The frames that the window adds to the take, in words."""
    stop = job.request.settings.frame_range(job.request.solve)[1]
    first, last = int(job.indices[job.window.overlap]), min(int(job.indices[-1]), stop - 1)
    return f"frames {first} to {last}" if first < last else f"frame {first}"
