"""Kept latents are the codec's own, and never another video's or another model's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from retake_backend.models import memory
from retake_backend.models.codec import VideoCodec
from retake_backend.models.random_weights import write_random
from retake_backend.training.latents import KeptLatents, key
from retake_shared.errors import BadShot, RetakeError


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "wan"
    write_random("wan2.1-t2v-1.3b", place)
    return VideoCodec.load(place, replace(memory.choose("cpu"), vae_dtype=torch.float32))


def video(seed, frames=5, size=32):
    return np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3), np.uint8)


def test_a_video_is_encoded_once(codec, tmp_path):
    kept = KeptLatents(tmp_path, codec)
    first = kept.encode(video(0))
    expected = codec.encode(video(0))
    assert first.shape == expected.shape
    assert first.dtype == torch.float32
    torch.testing.assert_close(first, expected, atol=2e-3, rtol=1e-3)
    again = KeptLatents(tmp_path, codec)
    assert torch.equal(again.encode(video(0)), first)
    assert (kept.made, kept.found, again.made, again.found) == (1, 0, 0, 1)


def test_other_frames_sizes_and_weights_are_other_latents(codec, tmp_path):
    kept = KeptLatents(tmp_path, codec)
    kept.encode(video(0))
    part, folded = video(0, 9)[:5], video(0).reshape(5, 64, 16, 3)
    assert not torch.equal(kept.encode(video(1)), kept.encode(part))
    assert kept.encode(folded).shape[-2:] == (8, 2)  # the same bytes in another shape
    before = key(codec)
    weight = next(codec.vae.parameters())
    with torch.no_grad():
        weight[..., :1] += 0.01
    assert key(codec) != before
    changed = KeptLatents(tmp_path, codec)
    changed.encode(video(0))
    assert changed.made == 1


def test_a_damaged_file_is_made_again(codec, tmp_path):
    first = KeptLatents(tmp_path, codec).encode(video(3))
    [path] = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    kept = KeptLatents(tmp_path, codec)
    assert torch.equal(kept.encode(video(3)), first)
    assert kept.made == 1
    assert torch.equal(KeptLatents(tmp_path, codec).encode(video(3)), first)


def test_what_cannot_be_is_told(codec, tmp_path):
    with pytest.raises(BadShot, match="VAE"):
        KeptLatents(tmp_path, codec).encode(video(0, 4))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RetakeError, match="Free some space"):
        KeptLatents(tmp_path / "file", codec).encode(video(0))
    assert not list(tmp_path.rglob("*.part"))
