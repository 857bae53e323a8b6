"""The `trajectory-attention` engine: attention along known trajectories steers Wan or Stable Video Diffusion.

Its three uses (Xiao et al. 2024, Section 4): a camera move on the footage, edited objects included (Algorithm 4); a
camera move on one frame of it (Algorithm 3); the footage's motion for an edited picture of its first frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from ..conditioning.trajectory_attention import TrajectoryAttention
from ..models import memory, parts
from ..models.codec import VideoCodec
from .base import Progress, RenderedFrame, RenderRequest, Report
from .diffusion.engine import DiffusionEngine, Loading, Model, Picture, WindowJob
from .following import ENGINE, Followed, checked, unedited


class WanTrajectories(DiffusionEngine):
    """Trajectory branches beside the full attention of Wan, whose tokens hold source and target.

    The source video is the footage, or the one picture that the take starts from, held. Chosen, as Wan's text-to-video
    model takes no image: where the take begins with that picture, the target's first latent frame (which is one video
    frame) is pinned to it while denoising, by the mechanism that joins windows.
    """

    name = ENGINE
    _followed: Followed

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        self._followed = Followed(request, checked(request))
        yield from super().render(request, report)

    def load(self, wanted: Loading) -> Model:
        base, trained = wanted.places
        wanted.report(Progress("loading the model", 0, 3))
        transformer = parts.load_base(base, rope_positions=parts.rope_positions(trained), dtype=wanted.profile.dtype)
        wanted.report(Progress("loading the model", 1, 3))
        branches = parts.load_branches(trained, transformer, other_weights=wanted.distilled)
        wanted.report(Progress("loading the model", 2, 3))
        codec = VideoCodec.load(base, wanted.profile)
        memory.place(transformer, wanted.profile, "denoiser")
        memory.place(branches, wanted.profile, "conditioner")
        return Model(transformer, codec, base, branches)

    def produce(self, model: Model, job: WindowJob) -> Picture:
        branches, followed = model.conditioner, self._followed
        assert isinstance(branches, TrajectoryAttention)
        picture = followed.picture(job.fitted)
        if picture is not None:
            job.frames = np.repeat(picture[None], len(job.frames), 0)  # the source video from here on
        halves = followed.halves(job, job.grid, job.codec.strides[0])
        if picture is not None and job.before is None:
            if followed.begins_with_the_picture(halves):
                job.before = picture[None]
            else:
                job.note("The edited camera does not begin where the image was taken: all frames are new views of it.")
        if followed.use == "first-frame" and not job.number and not unedited(job.request):
            job.note("The footage's own motion is kept: the edit's cameras and objects do not count for this use.")
        memory.place(branches, job.profile, "conditioner")
        branches.follow(halves.joined())
        try:
            return super().produce(model, job)
        finally:
            branches.follow(None)

    def condition(self, model: Model, job: WindowJob) -> dict[str, Any]:
        """The source's latents, clean; the branches know the trajectories already."""
        return {"source_latents": job.source_latents.to(job.profile.device, job.profile.dtype)}

    def start(self, model: Model, job: WindowJob) -> Tensor:
        """What a strength below 1 keeps: of one picture, the picture itself; its preview would be the footage's."""
        return super().start(model, job) if self._followed.use == "video" else job.source_latents


class TrajectoryAttentionEngine:
    """`trajectory-attention` as it is chosen; the option `base` says which model makes the take."""

    name = ENGINE
    version = "1"

    def __init__(self) -> None:
        self._made_by: DiffusionEngine = WanTrajectories()

    @property
    def device(self) -> str:
        """What the last take was made on, in words."""
        return self._made_by.device

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        """Yield the frames of the request's range in order. Raises as `DiffusionEngine.render` does."""
        if checked(request)["base"] == "svd":
            from .svd import SvdTrajectories

            self._made_by = SvdTrajectories()
        else:
            self._made_by = WanTrajectories()
        yield from self._made_by.render(request, report)

    def notes(self) -> tuple[str, ...]:
        """What the last `render` had to decide, in words for the artist."""
        return self._made_by.notes()
