"""The engines whose conditioner adds track tokens to Wan's: source video beside the noisy target, tracks to both."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers.models.modeling_utils import ModelMixin
from retake_shared.errors import BadFile

from ...conditioning.coordinates import PairingSettings, TrackPairs, pair_tracks
from ...models import memory, parts
from ...models.codec import VideoCodec
from ..base import Progress
from .engine import DiffusionEngine, Loading, Model, WindowJob


class TrackEngine(DiffusionEngine):
    """Wan with a conditioner and a LoRA. A subclass says which conditioner."""

    conditioner: ClassVar[type[ModelMixin]]

    def load(self, wanted: Loading) -> Model:
        base, trained = wanted.places
        wanted.report(Progress("loading the model", 0, 3))
        transformer = parts.load_base(base, rope_positions=parts.rope_positions(trained), dtype=wanted.profile.dtype)
        wanted.report(Progress("loading the model", 1, 3))
        found = parts.load_parts(trained, transformer, [self.conditioner], other_weights=wanted.distilled)
        if found.conditioner is None:
            raise BadFile("holds no conditioner.", str(trained), "Import the whole part: conditioner and LoRA.")
        wanted.report(Progress("loading the model", 2, 3))
        codec = VideoCodec.load(base, wanted.profile)
        memory.place(transformer, wanted.profile, "denoiser")
        memory.place(found.conditioner, wanted.profile, "conditioner")
        notes = () if found.lora else (f"{trained.name} has no LoRA: the base is used as it is.",)
        return Model(transformer, codec, base, found.conditioner, notes)

    def condition(self, model: Model, job: WindowJob) -> dict[str, Any]:
        """Source latents, clean, and the track tokens of both views."""
        device, dtype = job.profile.device, job.profile.dtype
        source = job.source_latents.to(device, dtype)
        condition: dict[str, Any] = {"source_latents": source}
        pairs = self._pairs(job)
        if not pairs.source.shape[2]:
            return condition  # the tokens would be zero
        assert model.conditioner is not None
        memory.place(model.conditioner, job.profile, "conditioner")
        tokens = model.transformer.source_tokens(source).to(device)
        tokens = model.conditioner(tokens, pairs.to(device), job.grid)
        memory.put_aside(model.conditioner, job.profile)
        condition["track_tokens"] = tuple(each.to(dtype) for each in tokens)
        return condition

    def _pairs(self, job: WindowJob) -> TrackPairs:
        """The window's tracks in both views; what is odd about them is told."""
        request, window = job.request, job.window
        settings = PairingSettings(tracks=job.options["tracks"], seed=request.settings.seed)
        pairs = pair_tracks(request.solve, request.edit, (window.start, window.stop), job.grid, job.framing, settings)
        where = f"frames {window.start} to {int(job.indices[-1])}"
        count = pairs.source.shape[2]
        given = request.edit.positions.shape[1]
        if not count:
            why = (
                "the shot has none"
                if not given
                else "none is asked for"
                if not settings.tracks
                else ("none is in the picture, before or after the edit")
            )
            job.note(f"No track guides {where}: {why}. The picture follows the footage and the prompt alone.")
        else:
            kept = f"{count} of {given} tracks guide" if count < given else f"{count} tracks guide"
            job.note(f"{kept} {where}.")
            if not pairs.target_present.any():
                removed = not request.edit.present[window.start : window.stop].any()
                why = "all are removed" if removed else "the camera sees none of them"
                job.note(f"After the edit {why} in {where}: what it shows is invented.")
        return pairs
