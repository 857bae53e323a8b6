"""Trajectory Attention on Stable Video Diffusion, the paper's own base: from one picture to 25 frames, without text.

diffusers' pipeline makes the latents as it is; what it starts from, which trajectories its temporal attention follows
and the decoding are here. It starts from the picture of the use, or, for the footage, from its first frame, as the
paper does: where the edit moves that frame already, from the preview of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import StableVideoDiffusionPipeline
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler, EulerDiscreteSchedulerOutput
from numpy.typing import NDArray
from PIL import Image
from retake_shared.errors import BadFile
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from ..conditioning.trajectory_attention import TrajectoryAttention
from ..conditioning.trajectory_uses import offset
from ..models import memory, parts
from ..models.codec import VideoCodec
from ..models.loading import PULL_AGAIN, pretrained
from ..models.memory import Profile
from .base import Progress, RenderedFrame, RenderRequest, Report
from .diffusion.engine import DiffusionEngine, Loading, Model, Picture, WindowJob
from .diffusion.sampling import Schedule
from .diffusion.windows import Window, plan_windows
from .following import ENGINE, SAME_VIEW, Followed, checked, unedited

FRAMES = 25
"""What SVD-XT was trained to make at once."""
STEPS = {"fast": 12, "standard": 25, "best": 50}
"""Standard is diffusers' default; the others are chosen."""
LEAST_GUIDANCE, MOST_GUIDANCE = 1.0, 3.0
"""Guidance rises from the first frame to the last: diffusers' defaults, as the three settings below."""
FPS, MOTION_BUCKET, NOISE = 7, 127, 0.02
_DECODED_AT_ONCE = {"24": 8, "12": 4, "8": 2, "6": 1, "cpu": 8}
"""Frames per pass of the decoder, which mixes them: more are steadier and need more memory."""
OVERLAP = 5
"""Frames that a window takes over from the one before (chosen)."""
_SILENT = {"strength": 1.0, "start": "preview", "scheduler": "auto", "shift": 0.0, "window": 81, "overlap": 17}
"""Options that mean nothing here, at their defaults."""


class SvdTrajectories(DiffusionEngine):
    """Trajectory branches beside the temporal attention of Stable Video Diffusion.

    Longer ranges are made 25 frames at a time. A window starts from a frame of the one before, and the frames that it
    takes over are kept while denoising, as Wan's are. Shorter ranges are 25 frames, too.
    """

    name = ENGINE
    trained_area = 1024 * 576
    multiple = 64
    _followed: Followed

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        options = checked(request)
        self._followed = Followed(request, options)
        ignored = [name for name, default in _SILENT.items() if options[name] != default]
        settings = request.settings.changed({"options": {name: _SILENT[name] for name in ignored}})
        told = ignored + (["prompt"] if settings.prompt or settings.negative_prompt else [])
        notes = [f"Stable Video Diffusion has no {', '.join(told)}: left out."] if told else []
        for frame in super().render(replace(request, settings=settings), report):
            self._notes += [note for note in notes if note not in self._notes]
            yield frame

    # --- hooks ---

    def load_key(self, options: Mapping[str, Any]) -> Hashable:
        return "svd"

    def schedule(self, options: Mapping[str, Any], distilled: bool) -> Schedule:
        steps = options["steps"] or STEPS[options["quality"]]
        return Schedule(steps, options["guidance"] or MOST_GUIDANCE, "euler")

    def windows(self, start: int, stop: int, options: Mapping[str, Any]) -> list[Window]:
        if stop - start <= FRAMES:
            return [Window(start, start + FRAMES, 0)]
        return plan_windows(start, stop, FRAMES, OVERLAP)

    def prompts(self, request: RenderRequest, schedule: Schedule) -> tuple[str, ...]:
        return ()

    def speed_up(self, model: Model, wanted: Loading, steps: int) -> tuple[str, ...]:
        return ()  # a UNet: none of Wan's blocks

    def load(self, wanted: Loading) -> SvdModel:
        base, trained = wanted.places
        profile = _precise(wanted.profile)
        wanted.report(Progress("loading the model", 0, 4))
        unet = _part(base, "unet", UNetSpatioTemporalConditionModel, profile.dtype)
        wanted.report(Progress("loading the model", 1, 4))
        branches = parts.load_branches(trained, unet)
        wanted.report(Progress("loading the model", 2, 4))
        image_encoder = _part(base, "image_encoder", CLIPVisionModelWithProjection, profile.dtype)
        wanted.report(Progress("loading the model", 3, 4))
        codec = SvdCodec(_part(base, "vae", AutoencoderKLTemporalDecoder, profile.vae_dtype), profile)
        try:
            scheduler = TellingScheduler.from_pretrained(str(base), subfolder="scheduler", local_files_only=True)
            extractor = CLIPImageProcessorPil.from_pretrained(
                str(base / "feature_extractor"), local_files_only=True, trust_remote_code=False
            )
        except (OSError, TypeError, ValueError, RecursionError) as error:
            raise BadFile(f"lacks a scheduler or a feature extractor ({error}).", str(base), PULL_AGAIN) from error
        memory.place(unet, profile, "denoiser")
        memory.place(branches, profile, "conditioner")
        if profile.tile:
            unet.enable_forward_chunking()
        pipeline = _Pipeline(codec.vae, image_encoder, unet, scheduler, extractor)  # type: ignore[arg-type]
        pipeline.profile = profile
        pipeline.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
        return SvdModel(unet, codec, base, branches, pipeline=pipeline)

    def condition(self, model: Model, job: WindowJob) -> dict[str, Any]:
        """Nothing for the forwards: the pipeline has its own, and the branches know the trajectories."""
        return {}

    def produce(self, model: Model, job: WindowJob) -> Picture:
        assert isinstance(model, SvdModel)
        assert isinstance(model.conditioner, TrajectoryAttention)
        branches, followed = model.conditioner, self._followed
        halves = followed.halves(job, job.latent_shape[3:], 1)
        picture = self._first_picture(job, offset(halves))
        if not job.number:
            self._tell(job)
        branches.follow(halves.target)
        try:
            latents = self._latents(model.pipeline, job, picture)
        finally:
            branches.follow(None)
        return job.codec.decode(latents, job.report)

    # --- one window ---

    def _first_picture(self, job: WindowJob, off: float) -> Picture:
        """What the window begins with (h, w, 3). off: by how much the edit moves it, of the picture."""
        if job.before is not None:
            return np.asarray(job.before[0])
        picture = self._followed.picture(job.fitted)
        moved = SAME_VIEW < off < float("inf")
        if picture is not None:
            if moved and self._followed.use == "image":
                job.note(
                    f"The edited camera does not begin where the image was taken ({off:.1%} of the picture off): "
                    "Stable Video Diffusion begins with the image all the same."
                )
            return picture
        if moved:
            job.note("The edit moves the first frame already: Stable Video Diffusion starts from the preview of it.")
            return np.asarray(job.moved().rgb[0])
        return np.asarray(job.frames[0])

    def _tell(self, job: WindowJob) -> None:
        job.note(f"Stable Video Diffusion computes in {str(_precise(job.profile).dtype).removeprefix('torch.')}.")
        start, stop = self._followed.start, self._followed.stop
        if stop - start < FRAMES:
            job.note(f"Stable Video Diffusion makes {FRAMES} frames at once: {FRAMES - stop + start} are left out.")
        elif job.count > 1:
            job.note(
                f"Stable Video Diffusion makes {FRAMES} frames at once, each {FRAMES} from those before: "
                "what is in sight at first may drift."
            )
        if self._followed.use == "first-frame" and not unedited(job.request):
            job.note("The footage's own motion is kept: the edit's cameras and objects do not count for this use.")

    def _latents(self, pipeline: _Pipeline, job: WindowJob, picture: Picture) -> Tensor:
        where = f", window {job.number + 1} of {job.count}" if job.count > 1 else ""
        steps = job.schedule.steps
        height, width = picture.shape[:2]

        generator = job.generator()
        channels, rows, columns = (job.latent_shape[i] for i in (1, 3, 4))
        noise = torch.randn((1, len(job.frames), channels, rows, columns), generator=generator)
        kept = None if job.before is None else job.encode(job.before).transpose(1, 2)

        def tell(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            scheduler = pipeline.scheduler
            look = None if scheduler.clean is None else job.picture(scheduler.clean.transpose(1, 2))
            job.report(Progress(f"denoising{where}", step + 1, steps, look))
            latents = tensors["latents"]
            if kept is not None:
                count = kept.shape[1]
                at_level = kept + scheduler.sigmas[step + 1].to(kept) * noise[:, :count]
                tensors["latents"] = torch.cat([at_level.to(latents), latents[:, count:]], 1)
            return tensors

        job.report(Progress(f"denoising{where}", 0, steps))
        latents: Tensor = pipeline(
            Image.fromarray(picture),
            height=height,
            width=width,
            num_frames=len(job.frames),
            num_inference_steps=steps,
            min_guidance_scale=min(LEAST_GUIDANCE, job.schedule.guidance),
            max_guidance_scale=job.schedule.guidance,
            fps=FPS,
            motion_bucket_id=MOTION_BUCKET,
            noise_aug_strength=NOISE,
            generator=generator,
            latents=noise.to(_precise(job.profile).dtype),
            output_type="latent",
            callback_on_step_end=tell,
        ).frames
        return latents.transpose(1, 2)


@dataclass
class SvdModel(Model):
    """pipeline: diffusers', around the same UNet and VAE."""

    pipeline: _Pipeline = None  # type: ignore[assignment]


class TellingScheduler(EulerDiscreteScheduler):  # type: ignore[misc]
    """diffusers' Euler, which remembers its last estimate of the clean latents: the pipeline does not hand it on."""

    clean: Tensor | None = None

    def step(self, *args: Any, **kwargs: Any) -> EulerDiscreteSchedulerOutput | tuple[Tensor, ...]:
        made: EulerDiscreteSchedulerOutput | tuple[Tensor, ...] = super().step(*args, **kwargs)
        self.clean = made[1] if isinstance(made, tuple) else made.pred_original_sample
        return made


class _Pipeline(StableVideoDiffusionPipeline):  # type: ignore[misc]
    """diffusers' pipeline, its image encoder and VAE on the device only while they work."""

    profile: Profile

    @property
    def _execution_device(self) -> torch.device:
        return self.profile.device

    def _encode_image(self, *args: Any, **kwargs: Any) -> Tensor:
        self.image_encoder.to(self.profile.device)
        embeddings: Tensor = super()._encode_image(*args, **kwargs)
        memory.put_aside(self.image_encoder, self.profile)
        return embeddings

    def _encode_vae_image(self, *args: Any, **kwargs: Any) -> Tensor:
        memory.place(self.vae, self.profile, "vae")
        latents: Tensor = super()._encode_vae_image(*args, **kwargs)
        memory.put_aside(self.vae, self.profile)
        return latents


class SvdCodec(VideoCodec):
    """Stable Video Diffusion's VAE: a latent frame for every frame, decoded a few at a time."""

    def __init__(self, vae: AutoencoderKLTemporalDecoder, profile: Profile) -> None:
        self.vae: Any = vae
        self.profile = profile
        config: Any = vae.config
        spatial = 2 ** (len(config.block_out_channels) - 1)
        self.strides = (1, spatial, spatial)
        self.channels = int(config.latent_channels)
        self._factor = float(config.scaling_factor)
        memory.place(vae, profile, "vae")
        memory.put_aside(vae, profile)

    def encode(self, frames: NDArray[np.uint8], report: Report | None = None, stage: str = "encoding") -> Tensor:
        """sRGB frames (F, H, W, 3) uint8 -> latents (1, C, F, h, w) float32 on the CPU, scaled as they are denoised."""
        made = []
        with self._on_device():
            for index, frame in enumerate(frames):
                if report is not None:
                    report(Progress(stage, index, len(frames)))
                pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
                mode = self.vae.encode(pixels.to(self.profile.device, self.profile.vae_dtype)).latent_dist.mode()
                made.append(mode.float().cpu() * self._factor)
        return torch.stack(made, 2)

    def decode(self, latents: Tensor, report: Report | None = None, stage: str = "decoding") -> NDArray[np.uint8]:
        """Latents (1, C, F, h, w) on any device -> sRGB frames (F, H, W, 3) uint8."""
        frames, made = latents[0].transpose(0, 1), []
        at_once = _DECODED_AT_ONCE[self.profile.name]
        with self._on_device():
            for start in range(0, len(frames), at_once):
                if report is not None:
                    report(Progress(stage, start, len(frames)))
                part = (frames[start : start + at_once].float() / self._factor).to(
                    self.profile.device, self.profile.vae_dtype
                )
                pixels = self.vae.decode(part, num_frames=len(part)).sample
                levels = (pixels.float().clamp(-1, 1) * 0.5 + 0.5) * 255 + 0.5
                made.append(levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(made)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """The VAE on its device; it leaves that again where the profile says so, also when the user cancels."""
        memory.place(self.vae, self.profile, "vae")
        try:
            with torch.no_grad():
                yield
        finally:
            memory.put_aside(self.vae, self.profile)


def _precise(profile: Profile) -> Profile:
    """float16 on CUDA, as these weights are published; else float32. The pipeline keeps its latents in this type, and
    on CPUs convolutions in bfloat16 are the slower ones (measured)."""
    if profile.device.type == "cuda":
        return replace(profile, dtype=torch.float16)
    return replace(profile, dtype=torch.float32, vae_dtype=torch.float32)


def _part(base: Path, folder: str, kind: Any, dtype: torch.dtype) -> Any:
    """One model of the pipeline, safetensors only. Raises BadFile naming the first key that does not fit."""
    # Buffers that older transformers saved are unknown to newer ones: only diffusers' models are held to it.
    model = pretrained(
        kind, base, kind.__name__, base / folder, others=not issubclass(kind, ModelMixin), subfolder=folder, dtype=dtype
    )
    return model.eval().requires_grad_(False)
