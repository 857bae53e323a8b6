"""Whole takes of the track engines, from tiny random weights of the real classes on the CPU."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from retake_backend.conditioning.coordinates import PairingSettings, pair_tracks
from retake_backend.conditioning.edit_by_track import EditByTrackConditioner
from retake_backend.conditioning.track2view import Track2ViewConditioner
from retake_backend.engines.edit_by_track import EditByTrackEngine
from retake_backend.engines.track2view import Track2ViewEngine
from retake_backend.models import memory, parts, resident
from retake_backend.models.codec import VideoCodec
from retake_backend.models.wan import RetakeWanTransformer
from retake_shared.errors import Cancelled
from transformers import UMT5EncoderModel

ENGINES = [EditByTrackEngine, Track2ViewEngine]
BASE = "wan2.1-t2v-1.3b"


def render(engine, request, report=lambda progress: None):
    return list(engine.render(request, report))


def rgb(frames):
    return np.stack([frame.rgb for frame in frames])


class Calls:
    """Counts forwards of a class while it stands."""

    def __init__(self, kind):
        self.kind, self.count = kind, 0

    def __enter__(self):
        self._hook = torch.nn.modules.module.register_module_forward_pre_hook(self._see)
        return self

    def _see(self, module, args):
        self.count += isinstance(module, self.kind)

    def __exit__(self, *_):
        self._hook.remove()


@pytest.mark.parametrize(
    ("kind", "conditioner"), [(EditByTrackEngine, EditByTrackConditioner), (Track2ViewEngine, Track2ViewConditioner)]
)
def test_a_take_is_what_the_paper_says_step_by_step(models, shot, kind, conditioner):
    """Encoded by hand, conditioned by hand, denoised by the stock WanPipeline: the same frames, bit for bit.

    Source latents clean and before the noisy target, one timestep for both, track tokens of one common disparity scale
    added to both, with and without the prompt alike.
    """
    request = shot(9, options={"steps": 3}, prompt="a disc", negative_prompt="blur", seed=7, engine=kind.name)
    request = replace(request, settings=replace(request.settings, options={**request.settings.options, "tracks": 30}))
    profile = memory.choose("cpu")
    place = models / BASE
    frames = np.stack([request.footage.frame(i) for i in range(9)])
    with torch.no_grad():
        vae = AutoencoderKLWan.from_pretrained(place, subfolder="vae", dtype=profile.vae_dtype)
        mean, std = (torch.tensor(v).view(1, 16, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
        pixels = 2 * (torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 255.0) - 1
        latents = vae.encode(pixels.to(profile.vae_dtype)).latent_dist.mode().float()
        source = ((latents - mean) * (1.0 / std)).to(profile.dtype)
        wan = parts.load_base(place, dtype=profile.dtype)
        found = parts.load_parts(models / kind.name, wan, [conditioner])
        memory.place(wan, profile, "denoiser")
        pairs = pair_tracks(request.solve, request.edit, (0, 9), (4, 6), None, PairingSettings(tracks=30, seed=7))
        assert pairs.source.shape[2] == 30
        tokens = found.conditioner.float()(wan.source_tokens(source), pairs, (4, 6))
        pipeline = WanPipeline.from_pretrained(place, local_files_only=True)
        pipeline.text_encoder.to(profile.text_dtype)
        pipeline.transformer, pipeline.vae = wan, vae
        pipeline.set_progress_bar_config(disable=True)
        expected = pipeline(
            prompt="a disc", negative_prompt="blur", height=64, width=96, num_frames=9, num_inference_steps=3,
            guidance_scale=5.0, generator=torch.Generator().manual_seed(7), output_type="latent",
            attention_kwargs={"source_latents": source, "track_tokens": tuple(t.to(profile.dtype) for t in tokens)},
        ).frames  # fmt: skip
    expected = VideoCodec.load(place, profile).decode(expected)
    assert (rgb(render(kind(), request)) == expected).all()


@pytest.mark.parametrize("kind", ENGINES)
def test_the_same_request_gives_the_same_frames_and_another_seed_others(models, shot, kind):
    takes = [rgb(render(kind(), shot(5, seed=seed, engine=kind.name))) for seed in (1, 1, 2)]
    resident.release()  # also from freshly loaded weights
    takes.append(rgb(render(kind(), shot(5, seed=1, engine=kind.name))))
    assert (takes[0] == takes[1]).all()
    assert (takes[0] == takes[3]).all()
    assert (takes[0] != takes[2]).any()


def test_the_tracks_and_the_edit_steer_the_picture(models, shot):
    def still(identity):
        return identity

    usual = rgb(render(EditByTrackEngine(), shot(5)))
    assert (usual != rgb(render(EditByTrackEngine(), shot(5, options={"tracks": 0})))).any()
    assert (usual != rgb(render(EditByTrackEngine(), shot(5, edit=still)))).any()


@pytest.mark.parametrize(("frames", "wanted"), [(1, None), (2, None), (3, None), (81, None), (12, (4, 10))])
def test_any_number_of_frames_comes_out_frame_by_frame(models, shot, frames, wanted):
    request = shot(frames, options={"steps": 1, "working_size": 48, "show": False}, frames=wanted)
    made = render(EditByTrackEngine(), request)
    assert [frame.index for frame in made] == list(range(*(wanted or (0, frames))))
    assert all(frame.rgb.shape == (64, 96, 3) for frame in made)
    assert all(frame.rgb.dtype == np.uint8 for frame in made)
    assert all(frame.holes.shape == (64, 96) and not frame.holes.any() for frame in made)


@pytest.mark.parametrize(("size", "fit", "take"), [((97, 51), "pad", None), ((50, 90), "resize", (40, 72))])
def test_any_size_comes_back_at_the_takes_size(models, shot, size, fit, take):
    engine = EditByTrackEngine()
    made = render(engine, shot(2, picture=size, options={"fit": fit}, size=take))
    width, height = take or size
    assert made[0].rgb.shape == (height, width, 3)
    assert made[0].holes.shape == (height, width)


def test_a_long_shot_is_made_in_windows_each_conditioned_once(models, shot):
    """100 frames: text once for the take, the conditioner once for a window, whatever steps and guidance are."""
    options = {"steps": 2, "working_size": 48, "window": 49, "overlap": 9, "guidance": 4.0}
    request = shot(100, options=options, prompt=f"a disc {os.getpid()}")
    engine = EditByTrackEngine()
    stages = []
    with (
        Calls(EditByTrackConditioner) as conditioned,
        Calls(RetakeWanTransformer) as forwards,
        Calls(UMT5EncoderModel) as text,
    ):
        made = render(engine, request, lambda progress: stages.append(progress.stage))
    assert [frame.index for frame in made] == list(range(100))
    assert conditioned.count == 3
    assert forwards.count == 3 * 2 * 2
    assert text.count <= 2
    assert {f"denoising, window {n} of 3" for n in (1, 2, 3)} <= set(stages)
    assert any("3 windows" in note for note in engine.notes())


def test_a_window_takes_over_the_frames_before_it_and_fades_into_its_own(models, shot):
    """Its first frames are what the window before made, through the VAE; the join is a fade between the two."""
    options = {"steps": 2, "window": 9, "overlap": 5, "show": False}
    long = rgb(render(EditByTrackEngine(), shot(13, options=options)))
    first = rgb(render(EditByTrackEngine(), shot(13, options=options, frames=(0, 9))))
    assert (long[:4] == first[:4]).all()
    codec = VideoCodec.load(models / BASE, memory.choose("cpu"))
    repeated = codec.decode(codec.encode(first[4:9]))
    share = (np.arange(1, 6) / 6).astype(np.float32)[:, None, None, None]
    assert np.abs(long[4:9] - (first[4:9] * (1 - share) + repeated * share)).max() <= 0.51


def test_a_rough_picture_comes_with_every_step_when_asked_for(models, shot):
    for show, expected in ((True, 3), (False, 0)):
        told = []
        render(EditByTrackEngine(), shot(5, options={"steps": 3, "show": show}), told.append)
        pictures = [progress.picture for progress in told if progress.picture is not None]
        assert len(pictures) == expected
        assert all(picture.dtype == np.uint8 and picture.shape == (8, 12, 3) for picture in pictures)
        steps = [(p.done, p.total) for p in told if p.stage == "denoising"]
        assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("start", ["preview", "footage"])
def test_a_strength_below_one_starts_from_a_picture(models, shot, start):
    engine = EditByTrackEngine()
    told = []
    request = shot(5, options={"steps": 4, "strength": 0.5, "start": start})
    made = rgb(render(engine, request, lambda progress: told.append(progress.stage)))
    assert told.count("denoising") == 1 + 2  # 0 of 2, then each
    assert any(f"starts from the {start}" in note for note in engine.notes())
    assert (made != rgb(render(engine, shot(5, options={"steps": 4})))).any()


def test_fast_uses_the_few_step_weights_where_they_are(models, shot, tmp_path, monkeypatch):
    engine = EditByTrackEngine()
    with Calls(RetakeWanTransformer) as forwards:
        fast = rgb(render(engine, shot(1, options={"steps": 0, "quality": "fast"}, prompt="a disc")))
    assert forwards.count == 3
    assert any("FastWan" in note for note in engine.notes())
    assert not any("draft" in note for note in engine.notes())
    for name in (BASE, "edit-by-track"):
        (tmp_path / name).symlink_to(models / name)
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path))
    with Calls(RetakeWanTransformer) as forwards:
        slow = rgb(render(engine, shot(1, options={"steps": 0, "quality": "fast"}, prompt="a disc")))
    assert forwards.count == 8
    assert any("fastwan2.1-t2v-1.3b is not installed" in note for note in engine.notes())
    assert (fast != slow).any()


def test_the_notes_say_what_a_take_was_made_of(models, shot):
    engine = EditByTrackEngine()
    render(engine, shot(2, picture=(97, 51)))
    notes = "\n".join(engine.notes())
    for said in (
        "The weights of Wan 2.1 1.3B are random: the picture means nothing.",
        "The weights of Edit-by-Track are random",
        "Edit-by-Track: CC0-1.0",
        "no prompt",
        "no guidance, seed 0",
        "tracks guide frames 0 to 1",
    ):
        assert said in notes
    assert engine.device.startswith("CPU")


def test_cancel_stops_before_the_next_step(models, shot):
    def cancel(progress):
        if progress.stage == "denoising" and progress.done == 2:
            raise Cancelled

    with Calls(RetakeWanTransformer) as forwards, pytest.raises(Cancelled):
        render(EditByTrackEngine(), shot(5, options={"steps": 9}), cancel)
    assert forwards.count == 2


@pytest.mark.parametrize("stage", ["reading footage", "loading the model", "encoding the footage", "decoding"])
def test_cancel_is_heard_in_every_stage(models, shot, stage):
    resident.release()

    def cancel(progress):
        if progress.stage == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        render(EditByTrackEngine(), shot(5, options={"steps": 1}), cancel)
