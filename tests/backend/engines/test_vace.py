"""The vace engine: VACE is given what its own pipeline gives it, paints only what no frame shows, and keeps the rest."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_vace import WanVACEPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from retake_backend import cli
from retake_backend.engines.base import Progress, RenderedFrame, RenderRequest
from retake_backend.engines.diffusion.engine import Loading, Model, WindowJob
from retake_backend.engines.diffusion.repainting import SEAM, whole_cells, widened
from retake_backend.engines.vace import Control, VaceEngine, control_video
from retake_backend.models import memory, resident
from retake_backend.models.random_weights import write_random
from retake_shared.errors import BadFile
from retake_shared.geometry import axis_rotation
from retake_shared.shot import Edit, RenderSettings, frame_name, holes_name
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

if "preview_scenes" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "preview_scenes", Path(__file__).resolve().parents[1] / "preview_scenes.py"
    )
    sys.modules["preview_scenes"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["preview_scenes"])
scenes = sys.modules["preview_scenes"]

FRAMES, WIDTH, HEIGHT = scenes.FRAMES, scenes.WIDTH, scenes.HEIGHT
OPTIONS = {"steps": 2, "working_size": 96, "show": False}
MODEL = "wan2.1-vace-1.3b"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("models")
    write_random(MODEL, folder / MODEL)
    yield folder
    resident.release()


@pytest.fixture(autouse=True)
def installed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model is the installed one."""
    monkeypatch.setenv("RETAKE_MODELS", str(models))


@pytest.fixture(scope="module")
def shot() -> tuple:
    """A board walks before a wall, the camera stands still: footage, solve."""
    path = np.stack([np.linspace(-0.9, 0.9, FRAMES), np.zeros(FRAMES), np.full(FRAMES, 4.0)], 1)
    return scenes.shoot([scenes.background(), scenes.board(path)], scenes.still_cameras())


@pytest.fixture(scope="module")
def aside(shot: tuple) -> Edit:
    """The camera a metre to the left: a strip of the wall at the left was never seen."""
    edit = Edit.identity(shot[1])
    return replace(edit, cameras=scenes.moved(edit.cameras, np.tile([-1.0, 0.0, 0.0], (FRAMES, 1))))


class Watched(VaceEngine):
    """The engine, with what it gave to the model and what came of it kept for comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[WindowJob] = []
        self.controls: list[Control] = []
        self.latents: list[Tensor] = []
        self.told: list[Progress] = []

    def denoise(self, model: Model, job: WindowJob) -> Tensor:
        self.jobs.append(job)
        self.controls.append(self._control(job))
        self.latents.append(super().denoise(model, job))
        return self.latents[-1]

    def take(self, shot: tuple, edit: Edit, prompt: str = "", **more: Any) -> list[RenderedFrame]:
        options = {**OPTIONS, **more.pop("options", {})}
        settings = RenderSettings(engine="vace", prompt=prompt, options=options, **more)
        return list(self.render(RenderRequest(*shot, edit, settings), self.told.append))


def preview(shot: tuple, edit: Edit, **settings: Any) -> list[RenderedFrame]:
    return scenes.render(*shot, edit, **settings)


# --- what VACE is given ---


def test_latents_are_those_of_diffusers_own_pipeline(shot: tuple, aside: Edit, models: Path) -> None:
    """Control, mask, scale, guidance and steps together: one bit of difference and weights would see other input."""
    engine = Watched()
    engine.take(
        shot,
        aside,
        "a wall",
        negative_prompt="blur",
        seed=7,
        frames=(0, 9),
        options={"guidance": 4.0, "control": 0.7, "steps": 3},
    )
    ((job,), (control,), (made,)) = engine.jobs, engine.controls, engine.latents
    profile, place = job.profile, models / MODEL
    assert 0.05 < control.generated.mean() < 0.95
    stock = WanVACEPipeline(
        AutoTokenizer.from_pretrained(place / "tokenizer"),
        UMT5EncoderModel.from_pretrained(place / "text_encoder", dtype=profile.text_dtype),
        AutoencoderKLWan.from_pretrained(place / "vae", dtype=profile.vae_dtype),
        UniPCMultistepScheduler.from_pretrained(place / "scheduler"),
        WanVACETransformer3DModel.from_pretrained(place / "transformer", dtype=profile.dtype),
    )
    pictures = control.frames.astype(np.float32) / 255
    pictures[control.generated] = 0.5
    mask = np.repeat(control.generated[..., None], 3, -1).astype(np.float32)
    noise = torch.randn(job.latent_shape, generator=torch.Generator().manual_seed(7))
    expected = stock(
        "a wall",
        "blur",
        video=[pictures],
        mask=[mask],
        conditioning_scale=0.7,
        height=pictures.shape[1],
        width=pictures.shape[2],
        num_frames=9,
        num_inference_steps=3,
        guidance_scale=4.0,
        latents=noise,
        output_type="latent",
    ).frames
    assert torch.equal(made, expected)
    assert (made - noise).abs().mean() > 0.01


def test_the_control_is_the_preview_and_exact_grey_where_nothing_is_shown(shot: tuple, aside: Edit) -> None:
    engine = Watched()
    engine.take(shot, aside, frames=(0, 5))
    (control,) = engine.controls
    fitted = engine.jobs[0].fitted
    frames = preview(shot, aside, frames=(0, 5))
    np.testing.assert_array_equal(control.frames, np.stack([fitted.bring(frame.rgb) for frame in frames]))
    holes = np.stack([fitted.bring(frame.holes) > 0 for frame in frames])
    np.testing.assert_array_equal(control.painted, widened(holes, 8))
    np.testing.assert_array_equal(control.generated, whole_cells(control.painted))
    video = control_video(control.frames, control.generated)
    assert (video[0].permute(1, 2, 3, 0)[torch.from_numpy(control.generated)] == 0).all()
    kept = video[0].permute(1, 2, 3, 0).numpy()[~control.generated]
    np.testing.assert_allclose(kept, control.frames[~control.generated] / 127.5 - 1, atol=1e-6)


def test_a_second_window_is_given_what_the_first_made(shot: tuple, aside: Edit) -> None:
    """VACE's own way to go on: the frames taken over are control, and are not generated again."""
    engine = Watched()
    frames = engine.take(shot, aside, options={"window": 9, "overlap": 5})
    assert [frame.index for frame in frames] == list(range(FRAMES))
    first, second = engine.controls
    job = engine.jobs[1]
    assert job.window.overlap == 5
    np.testing.assert_array_equal(second.frames[:5], job.before)
    assert not second.generated[:5].any()
    assert second.generated[5:].any()
    assert second.painted[:5].any()
    at = job.window.start - engine.jobs[0].window.start
    painted = first.painted[at : at + 5]
    assert (second.frames[:5] != first.frames[at : at + 5])[painted].mean() > 0.5  # not the preview's own filling
    assert sum(progress.stage == "rendering" and progress.done == 0 for progress in engine.told) == 1


# --- what the take shows ---


def test_a_shot_in_which_nothing_moves_is_the_footage(shot: tuple) -> None:
    engine = Watched()
    for frame in engine.take(shot, Edit.identity(shot[1]), frames=(2, 8)):
        np.testing.assert_array_equal(frame.rgb, shot[0].frame(frame.index))
        assert not frame.holes.any()
    assert not engine.latents
    assert "The footage shows all of frames 2 to 7: nothing had to be painted there." in engine.notes()


def test_footage_is_kept_to_the_pixel_and_holes_are_exact(shot: tuple, aside: Edit) -> None:
    engine = Watched()
    made = engine.take(shot, aside, frames=(0, 5))
    (control,), fitted = engine.controls, engine.jobs[0].fitted
    for frame, expected, painted in zip(made, preview(shot, aside, frames=(0, 5)), control.painted, strict=True):
        np.testing.assert_array_equal(frame.holes, expected.holes)
        there = fitted.take_back(painted.astype(np.uint8) * 255, (WIDTH, HEIGHT)) > 127
        reach = 2 * int(np.ceil(SEAM * WIDTH / fitted.content[0])) + 5
        near = cv2.dilate(there.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
        assert (~near).mean() > 0.3
        np.testing.assert_array_equal(frame.rgb[~near], expected.rgb[~near])
        assert there[frame.holes > 0].mean() > 0.95
        assert np.abs(frame.rgb[there].astype(int) - expected.rgb[there]).mean() > 10


def test_without_keeping_all_of_the_picture_is_the_models(shot: tuple, aside: Edit) -> None:
    engine = Watched()
    made = engine.take(shot, aside, frames=(0, 5), options={"keep": False})
    pictures = engine.jobs[0].codec.decode(engine.latents[0])
    for frame, picture, expected in zip(made, pictures, preview(shot, aside, frames=(0, 5)), strict=True):
        np.testing.assert_array_equal(frame.rgb, engine.jobs[0].fitted.take_back(picture, (WIDTH, HEIGHT)))
        np.testing.assert_array_equal(frame.holes, expected.holes)


def test_a_camera_that_looks_away_gets_an_invented_take_and_is_told(shot: tuple) -> None:
    edit = Edit.identity(shot[1])
    c2w = edit.cameras.c2w.copy()
    c2w[:, :3, :3] = c2w[:, :3, :3] @ axis_rotation([0, 1, 0], np.pi)
    engine = Watched()
    made = engine.take(shot, replace(edit, cameras=replace(edit.cameras, c2w=c2w)), frames=(0, 5))
    assert all((frame.holes == 255).all() for frame in made)
    assert engine.controls[0].generated.all()
    assert all(frame.rgb.std() > 5 for frame in made)
    notes = " ".join(engine.notes())
    assert "In 5 frames the camera sees nothing that the footage shows" in notes
    assert "There is no prompt to say what frames show" in notes


@pytest.mark.parametrize("size", [(50, 90), (WIDTH * 2, HEIGHT * 2)])
def test_a_take_of_another_size_is_kept_at_that_size(shot: tuple, aside: Edit, size: tuple[int, int]) -> None:
    engine = Watched()
    (frame,) = engine.take(shot, aside, size=size, frames=(3, 4))
    (expected,) = preview(shot, aside, size=size, frames=(3, 4))
    assert frame.rgb.shape == (size[1], size[0], 3)
    np.testing.assert_array_equal(frame.holes, expected.holes)
    right = slice(size[0] * 3 // 4, None)
    np.testing.assert_array_equal(frame.rgb[:, right], expected.rgb[:, right])


def test_less_strength_starts_from_the_preview_that_is_already_there(shot: tuple, aside: Edit) -> None:
    engine, again = Watched(), Watched()
    weak = engine.take(shot, aside, frames=(0, 5), options={"strength": 0.5, "keep": False})
    strong = again.take(shot, aside, frames=(0, 5), options={"keep": False})
    start = engine.jobs[0].codec.encode(engine.controls[0].frames)
    assert (engine.latents[0] - start).abs().mean() < (again.latents[0] - start).abs().mean()
    assert (weak[0].rgb != strong[0].rgb).any()
    assert sum(progress.stage == "rendering" and progress.done == 0 for progress in engine.told) == 1


def test_the_same_seed_paints_the_same_and_another_does_not(shot: tuple, aside: Edit) -> None:
    one, same, other = (Watched().take(shot, aside, frames=(0, 5), seed=seed)[4] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.rgb, same.rgb)
    assert (one.rgb != other.rgb)[one.holes > 0].mean() > 0.5


@pytest.mark.parametrize(
    ("key", "words"), [("vace_blocks.0.proj_in.weight", 'missing weight "vace_blocks.0.proj_in'), ("", "no VACE")]
)
def test_damaged_weights_are_refused_by_name(models: Path, tmp_path: Path, key: str, words: str) -> None:
    shutil.copytree(models / MODEL, tmp_path / MODEL)
    (file,) = (tmp_path / MODEL / "transformer").glob("*.safetensors")
    if key:
        weights = load_file(file)
        del weights[key]
        save_file(weights, file, {"format": "pt"})
    else:
        file.write_bytes(file.read_bytes()[:-10])
    wanted = Loading((tmp_path / MODEL,), memory.choose("cpu"), {}, False, lambda progress: None)
    with pytest.raises(BadFile, match=words) as refused:
        VaceEngine().load(wanted)
    assert str(tmp_path / MODEL) in refused.value.where


# --- from the command line ---


def test_a_take_of_the_sample_shot(sample_shot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["render", "--footage", sample_shot / "walk.mp4", "--solve", sample_shot / "walk.solve.npz"]
    words += ["--edit", sample_shot / "edit.json", "--engine", "vace", "--out", tmp_path / "take"]
    words += ["--frames", "30:35", "--size", "336x192"]
    words += [f"--option={name}={json.dumps(value)}" for name, value in {**OPTIONS, "working_size": 112}.items()]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert cli.main([str(word) for word in words]) == 0, capsys.readouterr().err
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    take = json.loads((tmp_path / "take" / "take.json").read_text("utf-8"))
    assert (take["settings"]["engine"], take["width"], take["height"], take["frames"]) == ("vace", 336, 192, [30, 35])
    assert any("random" in note for note in take["notes"])
    for index in range(30, 35):
        picture, holes = (cv2.imread(str(tmp_path / "take" / name(index))) for name in (frame_name, holes_name))
        assert picture.shape == (192, 336, 3)
        assert 0.005 < (holes > 0).mean() < 0.2
