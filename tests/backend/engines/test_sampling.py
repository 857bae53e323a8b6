"""The denoising loop against diffusers' own pipelines, with tiny random weights of the real classes."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanVideoToVideoPipeline
from retake_backend.engines.diffusion import sampling
from retake_backend.engines.diffusion.sampling import Overlap, Schedule, choose, first_step, make_scheduler, sample
from retake_backend.models.parts import load_base
from retake_backend.models.random_weights import write_random
from retake_shared import engine_options
from retake_shared.errors import BadFile, Cancelled

BASE = "wan2.1-t2v-1.3b"
FRAMES, HEIGHT, WIDTH = 9, 32, 48
SHAPE = (1, 16, 3, 4, 6)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # tensors this small only wait for a second thread


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / BASE
    write_random(BASE, folder)
    return folder


@pytest.fixture(scope="module")
def wan(place):
    return load_base(place).eval()


def texts():
    torch.manual_seed(3)
    return {"prompt": torch.randn(1, 512, 32), "negative_prompt": torch.randn(1, 512, 32)}


def noise(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def options(**given):
    return engine_options.describe("edit-by-track").checked(given)


@torch.no_grad()
def own(wan, place, schedule, **changes):
    given = {"guidance": schedule.guidance, "dtype": torch.float32, **texts(), **changes}
    return sample(wan, make_scheduler(schedule, place), given.pop("noise", noise()), **given)


def stock(kind, place, **changes):
    pipeline = kind.from_pretrained(place, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for name, module in changes.items():
        setattr(pipeline, name, module)
    return pipeline


@pytest.mark.parametrize(("steps", "guidance"), [(3, 5.0), (12, 5.0), (4, 1.0)])
def test_the_picture_is_that_of_diffusers_own_pipeline_bit_for_bit(wan, place, steps, guidance):
    text = texts()
    expected = stock(WanPipeline, place)(
        prompt_embeds=text["prompt"], negative_prompt_embeds=text["negative_prompt"], height=HEIGHT, width=WIDTH,
        num_frames=FRAMES, num_inference_steps=steps, guidance_scale=guidance, latents=noise(), output_type="latent",
    ).frames  # fmt: skip
    made = own(wan, place, Schedule(steps, guidance, "unipc"))
    assert made.isfinite().all()
    assert made.std() > 0
    assert torch.equal(made, expected)


def test_euler_is_that_of_diffusers_with_the_models_shift(wan, place):
    text = texts()
    pipeline = stock(WanPipeline, place, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    expected = pipeline(
        prompt_embeds=text["prompt"], negative_prompt_embeds=text["negative_prompt"], height=HEIGHT, width=WIDTH,
        num_frames=FRAMES, num_inference_steps=5, guidance_scale=5.0, latents=noise(), output_type="latent",
    ).frames  # fmt: skip
    assert torch.equal(own(wan, place, Schedule(5, 5.0, "euler")), expected)


@pytest.mark.parametrize("strength", [0.3, 0.58, 0.8, 1.0])
def test_a_strength_enters_the_schedule_where_diffusers_video_to_video_does(wan, place, strength):
    """And from the same noised latents: the picture is the same, bit for bit."""
    text = texts()
    steps = 10
    pipeline = stock(WanVideoToVideoPipeline, place)
    video = np.random.default_rng(0).random((FRAMES, HEIGHT, WIDTH, 3), np.float32)
    seen = []
    expected = pipeline(
        video=list(video), prompt_embeds=text["prompt"], height=HEIGHT, width=WIDTH,
        negative_prompt_embeds=text["negative_prompt"], num_inference_steps=steps, strength=strength,
        guidance_scale=5.0, generator=torch.Generator().manual_seed(0), output_type="latent",
        callback_on_step_end=lambda pipe, index, timestep, kwargs: seen.append(timestep.clone()) or kwargs,
    ).frames  # fmt: skip
    config = pipeline.vae.config
    mean, std = (torch.tensor(values).view(1, 16, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    with torch.no_grad():
        pixels = pipeline.video_processor.preprocess_video(list(video), HEIGHT, WIDTH)
        start = (pipeline.vae.encode(pixels).latent_dist.mode() - mean) * (1.0 / std)
    schedule = Schedule(steps, 5.0, "unipc")
    made = own(wan, place, schedule, start=start, strength=strength)
    timesteps = make_scheduler(schedule, place).timesteps[first_step(steps, strength) :]
    assert torch.equal(timesteps, torch.stack(seen))
    assert torch.equal(made, expected)


def test_the_least_strength_still_does_a_step():
    assert first_step(3, 0.05) == 2
    assert first_step(1, 0.05) == 0
    assert first_step(50, 1.0) == 0


def test_few_step_weights_run_at_the_levels_they_were_distilled_at(place):
    levels = make_scheduler(Schedule(3, 1.0, "few-step"), place).sigmas
    assert levels.tolist() == pytest.approx([1.0, 0.757, 0.522, 0.0])
    for steps in (1, 2, 4, 8):
        levels = make_scheduler(Schedule(steps, 1.0, "few-step"), place).sigmas
        assert len(levels) == steps + 1
        assert levels[0] == 1
        assert (levels.diff() < 0).all()


def test_few_steps_end_in_what_the_model_believes_and_repeat_with_the_seed(wan, place):
    schedule = Schedule(3, 1.0, "few-step")
    believed = []
    runs = [
        own(
            wan, place, schedule, generator=torch.Generator().manual_seed(seed),
            after_step=lambda step: believed.append(step.clean),
        )
        for seed in (5, 5, 6)
    ]  # fmt: skip
    assert torch.equal(runs[0], believed[2])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])  # the noise between the steps comes from the seed


@pytest.mark.parametrize("scheduler", ["unipc", "euler", "few-step"])
def test_a_windows_overlap_stays_what_the_window_before_made_of_it(wan, place, scheduler):
    """At every step the model sees it at that step's noise level, and the rest follows it."""
    clean = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(9))
    schedule = Schedule(4, 1.0, scheduler)
    inputs = []
    hook = wan.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(kwargs["hidden_states"]), with_kwargs=True
    )
    chance = {"generator": torch.Generator().manual_seed(1)}
    made = own(wan, place, schedule, overlap=Overlap(clean), **chance)
    hook.remove()
    assert torch.equal(made[:, :, :2], clean)
    levels = make_scheduler(schedule, place).sigmas
    for seen, level in zip(inputs, levels, strict=False):
        torch.testing.assert_close(seen[:, :, :2], (1 - level) * clean + level * noise()[:, :, :2])
    free = own(wan, place, schedule, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(made[:, :, 2:], free[:, :, 2:])


@pytest.mark.parametrize("scheduler", ["unipc", "euler", "few-step"])
def test_a_model_in_bfloat16_does_not_round_the_latents(place, scheduler):
    """Rounded after every step to 8 bits, many steps would leave grain."""
    half = load_base(place, dtype=torch.bfloat16).eval()
    seen = []
    made = own(
        half, place, Schedule(3, 1.0, scheduler), dtype=torch.bfloat16,
        generator=torch.Generator().manual_seed(1), after_step=lambda step: seen.append(step.clean.dtype),
    )  # fmt: skip
    assert made.dtype == torch.float32
    assert set(seen) == {torch.float32}
    assert not torch.equal(made, made.bfloat16().float())


def test_conditioning_reaches_every_forward_of_both_branches(wan, place):
    source = torch.randn(SHAPE)
    plain = own(wan, place, Schedule(2, 5.0, "unipc"))
    assert not torch.equal(own(wan, place, Schedule(2, 5.0, "unipc"), condition={"source_latents": source}), plain)


def test_without_guidance_each_step_is_one_forward_and_with_it_two(wan, place):
    for guidance, forwards in ((1.0, 3), (5.0, 6)):
        calls = []
        hook = wan.register_forward_pre_hook(lambda module, args, calls=calls: calls.append(1))
        own(wan, place, Schedule(3, guidance, "unipc"))
        hook.remove()
        assert len(calls) == forwards


def test_cancel_stops_before_the_next_step(wan, place):
    calls = []
    hook = wan.register_forward_pre_hook(lambda module, args: calls.append(1))

    def cancel(step):
        if step.index == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        own(wan, place, Schedule(9, 1.0, "unipc"), after_step=cancel)
    hook.remove()
    assert len(calls) == 2


def test_what_a_quality_means():
    assert choose(options(), distilled=False) == Schedule(50, 5.0, "unipc")
    assert choose(options(quality="best"), distilled=True) == Schedule(50, 5.0, "unipc")
    assert choose(options(quality="fast"), distilled=True) == sampling.QUALITY["distilled"]
    assert choose(options(quality="fast"), distilled=False) == Schedule(8, 1.0, "unipc")
    asked = options(quality="fast", steps=6, guidance=3, scheduler="euler", shift=5)
    assert choose(asked, distilled=True) == Schedule(6, 3.0, "euler", 5.0)


def test_a_shift_moves_the_levels(place):
    own_shift, moved = (make_scheduler(Schedule(5, 5.0, "unipc", shift), place).sigmas for shift in (0.0, 8.0))
    assert own_shift[1] == pytest.approx(3 * 0.8 / (1 + 2 * 0.8), abs=1e-3)
    assert moved[1] == pytest.approx(8 * 0.8 / (1 + 7 * 0.8), abs=1e-3)


@pytest.mark.parametrize(
    "written",
    [
        "[1]",
        "{",
        '{"flow_shift": null}',
        '{"_class_name": "UniPCMultistepScheduler", "solver_type": "none"}',
        '{"_class_name": "UniPCMultistepScheduler", "use_dynamic_shifting": true}',
    ],
)
def test_a_damaged_scheduler_configuration_is_named(tmp_path, written):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(written)
    with pytest.raises(BadFile, match="configure a scheduler") as error:
        make_scheduler(Schedule(3, 1.0, "unipc"), tmp_path)
    assert "scheduler_config.json" in str(error.value)
