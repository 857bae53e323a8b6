"""Frames to latents and back: the real VAE classes at a tiny size, against diffusers' own pipelines."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanVideoToVideoPipeline
from retake_backend.models import memory
from retake_backend.models.codec import LatentToRgb, VideoCodec
from retake_backend.models.random_weights import write_random
from retake_shared.errors import BadFile, BadShot, Cancelled

NAME = "wan2.1-t2v-1.3b"
CPU = replace(memory.choose("cpu"), dtype=torch.float32, vae_dtype=torch.float32, text_dtype=torch.float32)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # tensors this small only wait for a second thread


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / NAME
    write_random(NAME, place)
    return place


@pytest.fixture(scope="module")
def codec(place):
    return VideoCodec.load(place, CPU)


def moving(frames, height, width, seed=0):
    """A video with something in it: drifting colour gradients and noise, (F, H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    t, y, x = np.mgrid[:frames, :height, :width].astype(float)
    phases = rng.uniform(0, 6, (3, 1, 1, 1))
    waves = 128 + 90 * np.sin(x / 9 + y / 13 + t / 2 + phases) + rng.normal(0, 8, (3, frames, height, width))
    return np.clip(waves, 0, 255).astype(np.uint8).transpose(1, 2, 3, 0)


def test_latents_are_those_of_the_stock_pipeline(place, codec):
    frames = moving(9, 64, 96)
    pipe = WanVideoToVideoPipeline.from_pretrained(place, scheduler=UniPCMultistepScheduler(**flow()))
    video = pipe.video_processor.preprocess_video(list(frames.astype(np.float32) / 255.0), 64, 96)
    # The pipeline samples the posterior; the mode is its middle, and the same every time.
    mode = pipe.vae.encode(video).latent_dist.mode()
    shape = (1, 16, 1, 1, 1)
    mean = torch.tensor(pipe.vae.config.latents_mean).view(shape)
    std = 1.0 / torch.tensor(pipe.vae.config.latents_std).view(shape)
    latents = codec.encode(frames)
    assert latents.shape == (1, 16, 3, 8, 12)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, (mode - mean) * std)
    assert torch.equal(latents, codec.encode(frames)), "the same frames must give the same latents"


def flow():
    return {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def test_frames_are_those_that_the_stock_pipeline_makes_of_the_same_latents(place, codec):
    pipe = WanPipeline.from_pretrained(place)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = UniPCMultistepScheduler(**flow())
    started = {}

    def keep(pipe, step, timestep, tensors):
        started["latents"] = tensors["latents"].clone()
        return tensors

    stock = pipe(
        prompt="a room",
        height=64,
        width=96,
        num_frames=9,
        num_inference_steps=1,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(4),
        callback_on_step_end=keep,
    ).frames[0]
    frames = codec.decode(started["latents"])
    assert frames.shape == (9, 64, 96, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, np.floor(stock * 255 + 0.5).astype(np.uint8))
    assert frames.std() > 1, "a picture of one colour would compare equal to anything"


TILE = {"tile_sample_min_height": 64, "tile_sample_min_width": 64} | {
    "tile_sample_stride_height": 48,
    "tile_sample_stride_width": 48,
}  # a quarter of the usual, so that small pictures have several


@pytest.mark.parametrize("size", [(80, 112), (48, 104), (72, 32), (64, 64)])
def test_tiles_give_what_diffusers_tiles_give(place, size):
    codec = VideoCodec.load(place, replace(CPU, tile=True))
    stock = AutoencoderKLWan.from_pretrained(place, subfolder="vae").eval()
    assert codec.vae.use_tiling
    for vae in (codec.vae, stock):
        vae.enable_tiling(**TILE)
    frames = moving(5, *size)
    seen = []
    latents = codec.encode(frames, seen.append)
    assert_counted(seen)
    tiles = 1 if max(size) <= 64 else -(-size[0] // 48) * -(-size[1] // 48)
    assert len(seen) == 2 * tiles
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
    mean = torch.tensor(stock.config.latents_mean).view(1, 16, 1, 1, 1)
    std = torch.tensor(stock.config.latents_std).view(1, 16, 1, 1, 1)
    with torch.no_grad():
        assert torch.equal(latents, (stock.encode(pixels).latent_dist.mode() - mean) * (1.0 / std))
        raw = latents / (1.0 / std) + mean
        expected = stock.decode(raw).sample[0].permute(1, 2, 3, 0).numpy()
    seen.clear()
    decoded = codec.decode(latents, seen.append)
    assert_counted(seen)
    assert len(seen) == 2 * tiles
    assert np.array_equal(decoded, np.floor((expected * 0.5 + 0.5) * 255 + 0.5).astype(np.uint8))


def assert_counted(seen):
    assert [each.done for each in seen] == list(range(len(seen)))
    assert {each.total for each in seen} == {len(seen)}


def test_a_video_is_encoded_and_decoded_chunk_by_chunk_and_told(codec):
    seen = []
    latents = codec.encode(moving(13, 32, 32), seen.append)
    assert_counted(seen)
    assert (len(seen), seen[0].stage) == (4, "encoding")
    seen.clear()
    assert len(codec.decode(latents, seen.append, "finishing")) == 13
    assert_counted(seen)
    assert (len(seen), seen[0].stage) == (4, "finishing")


def test_work_stops_between_chunks_and_the_next_job_is_not_touched_by_it(codec):
    frames, other = moving(13, 32, 32), moving(13, 32, 32, seed=1)
    expected = codec.encode(frames)
    expected_frames = codec.decode(expected)

    def stop_at(count):
        def report(progress):
            if progress.done == count:
                raise Cancelled

        return report

    with pytest.raises(Cancelled):
        codec.encode(other, stop_at(2))
    assert torch.equal(codec.encode(frames), expected)
    with pytest.raises(Cancelled):
        codec.decode(codec.encode(other), stop_at(2))
    assert np.array_equal(codec.decode(expected), expected_frames)
    assert all(each is None for each in codec.vae._feat_map), "an interrupted run keeps its features in memory"
    assert not codec.vae.encoder._forward_pre_hooks
    assert not codec.vae.decoder._forward_hooks


@pytest.mark.parametrize("frames", [1, 5])
def test_one_frame_is_a_video_too(codec, frames):
    latents = codec.encode(moving(frames, 32, 48))
    assert latents.shape == (1, 16, (frames + 3) // 4, 4, 6)
    assert codec.decode(latents).shape == (frames, 32, 48, 3)


@pytest.mark.parametrize("shape", [(4, 32, 32, 3), (5, 30, 32, 3), (5, 32, 36, 3)])
def test_frames_that_the_vae_cannot_take_are_refused(codec, shape):
    with pytest.raises(BadShot, match=rf"{shape[0]} frames of {shape[2]} x {shape[1]} px"):
        codec.encode(np.zeros(shape, np.uint8))


def test_frames_may_be_a_view_of_others(codec):
    frames = moving(9, 32, 64)
    assert torch.equal(codec.encode(frames[:5, :, 8:40]), codec.encode(frames[:5, :, 8:40].copy()))
    flipped = frames[::-1, :, ::-1]
    assert torch.equal(codec.encode(flipped), codec.encode(flipped.copy()))


def test_at_half_precision_latents_are_still_float32_and_close(place, codec):
    frames = moving(5, 64, 64)
    half = VideoCodec.load(place, replace(CPU, vae_dtype=torch.bfloat16))
    assert next(half.vae.parameters()).dtype == torch.bfloat16
    exact, rough = codec.encode(frames), half.encode(frames)
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().mean() < 0.05 * exact.abs().mean()
    difference = codec.decode(exact).astype(int) - half.decode(exact)
    assert np.abs(difference).mean() < 3


def test_pixels_beyond_black_and_white_are_clamped(place):
    codec = VideoCodec.load(place, CPU)
    codec.vae.decoder.conv_out.weight.mul_(50)
    frames = codec.decode(torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert frames.min() == 0
    assert frames.max() == 255


def test_a_vae_with_larger_cells_and_patches_works_too(tmp_path):
    """As Wan 2.2's is built: residual blocks, 2 x 2 patches, 16 px cells."""
    torch.manual_seed(0)
    AutoencoderKLWan(
        base_dim=8, z_dim=6, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 6, latents_std=[1.5] * 6, is_residual=True, in_channels=12, out_channels=12,
        patch_size=2, scale_factor_temporal=4, scale_factor_spatial=16,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    codec = VideoCodec.load(tmp_path, CPU)
    assert (codec.strides, codec.channels) == ((4, 16, 16), 6)
    frames = moving(5, 64, 96)
    latents = codec.encode(frames)
    assert latents.shape == (1, 6, 2, 4, 6)
    with torch.no_grad():
        expected = codec.vae.decode(latents * 1.5 + 0.1).sample[0].permute(1, 2, 3, 0).numpy()
    difference = codec.decode(latents).astype(int) - np.floor((expected * 0.5 + 0.5) * 255 + 0.5)
    assert np.abs(difference).max() <= 1


def test_damaged_weights_are_named(place, tmp_path):
    with pytest.raises(BadFile, match="Pull the model again"):
        VideoCodec.load(tmp_path, CPU)
    vae = tmp_path / "vae"
    AutoencoderKLWan.from_pretrained(place, subfolder="vae").save_pretrained(vae)
    weights = vae / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadFile, match="vae"):
        VideoCodec.load(tmp_path, CPU)
    weights.rename(vae / "diffusion_pytorch_model.bin")  # a pickle would have this name
    with pytest.raises(BadFile, match="vae"):
        VideoCodec.load(tmp_path, CPU)


def test_the_rough_look_finds_the_colours_of_the_footage():
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (3, 6, 8, 3))
    frames = np.repeat(np.repeat(cells[[0, 1, 1, 1, 1, 2, 2, 2, 2]], 8, 1), 8, 2).astype(np.uint8)
    mix = torch.from_numpy(rng.normal(0, 1, (16, 3)).astype(np.float32))
    colours = torch.from_numpy(cells.astype(np.float32) / 100 - 1)
    latents = torch.einsum("cr,fhwr->cfhw", mix, colours)[None] + 0.3
    look = LatentToRgb.fit(latents, frames)
    assert look.weights.shape == (17, 3)
    picture = look(latents)
    assert picture.shape == (3, 6, 8, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - cells).max() <= 1


def test_the_rough_look_at_the_vaes_own_latents_is_better_than_one_colour(codec):
    frames = moving(9, 96, 128)
    latents = codec.encode(frames)
    look = LatentToRgb.fit(latents, frames)
    means = frames[[0]].reshape(12, 8, 16, 8, 3).mean((1, 3))
    error = np.abs(look(latents)[0] - means).mean()
    assert error < 0.9 * np.abs(means - means.mean((0, 1))).mean()
    assert look(30 * latents).max() == 255  # far outside: clamped, not wrapped
    assert look(30 * latents).min() == 0


@pytest.mark.parametrize("value", [0, 255, 77])
def test_footage_of_one_colour_has_a_rough_look_too(codec, value):
    frames = np.full((5, 32, 32, 3), value, np.uint8)
    latents = codec.encode(frames)
    assert np.abs(LatentToRgb.fit(latents, frames)(latents).astype(int) - value).max() <= 1


def test_latents_frame_by_frame_have_a_rough_look_too():
    frames = moving(5, 32, 32)
    latents = torch.randn(1, 4, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    assert LatentToRgb.fit(latents, frames)(latents).shape == (5, 4, 4, 3)
    with pytest.raises(ValueError, match="are not of frames"):
        LatentToRgb.fit(latents, frames[:4])
