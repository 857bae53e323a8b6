"""Measures by networks: the published definitions, on weights under their published names; without weights they are
left out by name, and damaged ones are told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from retake_backend.evaluation import clip, networks
from retake_backend.evaluation.fvd import SIDE, I3d
from retake_backend.evaluation.lpips import Lpips
from retake_backend.weights.store import WeightStore
from retake_shared.errors import BadFile
from safetensors.torch import save_file

from tests.backend.evaluation import inputs

ANSWERS = json.loads(Path(__file__).with_name("second_opinions.json").read_text())


def write_lpips(folder: Path, seed: int = 0) -> Path:
    path = folder / "metrics" / networks.LPIPS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.from_numpy(value) for name, value in inputs.lpips_weights(seed).items()}, path)
    return path


@pytest.mark.parametrize("seed", inputs.SEEDS)
def test_lpips_is_that_of_its_authors(tmp_path: Path, seed: int) -> None:
    model = Lpips.load(write_lpips(tmp_path, seed))
    picture, truth = inputs.pictures(seed)
    other = ANSWERS["lpips"]["answers"][str(seed)]
    assert model.distance(picture, truth) == pytest.approx(other["lpips"], rel=1e-4)
    assert model.distance(picture, truth, inputs.mask(seed)) == pytest.approx(other["mlpips"], rel=1e-4)
    assert model.distance(truth, truth) == 0


def test_without_weights_every_network_measure_is_left_out_by_name(tmp_path: Path) -> None:
    found = networks.load(WeightStore(tmp_path))
    assert found.left_out.keys() == {"LPIPS", "mLPIPS", "FVD", "CLIP-T", "CLIP-F", "CLIP-V", "Mat.Pix"}
    assert str(tmp_path / "metrics" / networks.I3D_FILE) in found.left_out["FVD"]
    assert (found.lpips, found.i3d, found.clip) == (None, None, None)


def test_with_weights_it_is_not_left_out(tmp_path: Path) -> None:
    write_lpips(tmp_path)
    found = networks.load(WeightStore(tmp_path))
    assert found.lpips is not None
    assert found.left_out.keys().isdisjoint({"LPIPS", "mLPIPS"})


def test_weights_cut_in_half_are_told_and_not_ignored(tmp_path: Path) -> None:
    path = write_lpips(tmp_path)
    path.write_bytes(path.read_bytes()[:5_000_000])
    with pytest.raises(BadFile, match="is cut off"):
        networks.load(WeightStore(tmp_path))


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    path = write_lpips(tmp_path)
    weights = {name: torch.from_numpy(value) for name, value in inputs.lpips_weights(0).items()}
    del weights["lin3.model.1.weight"]
    save_file(weights, path)
    with pytest.raises(BadFile, match=r"lin3\.model\.1\.weight"):
        Lpips.load(path)


def test_i3d_has_the_published_shape() -> None:
    """12.7 million parameters under pytorch-i3d's names, and 400 logits of nine frames, which must come out whole."""
    torch.manual_seed(0)
    model = I3d().eval()
    names = model.state_dict().keys()
    assert sum(p.numel() for p in model.parameters()) == 12_697_264
    assert {"Conv3d_1a_7x7.conv3d.weight", "Mixed_4f.b2b.bn.running_var", "Mixed_5c.b3b.conv3d.weight"} <= names
    assert {"logits.conv3d.weight", "logits.conv3d.bias"} <= names
    video = np.random.default_rng(0).integers(0, 256, (9, 40, 60, 3), np.uint8)
    features = model.features(video)
    assert features.shape == (400,)
    assert np.isfinite(features).all()
    assert SIDE == 224


def write_clip(folder: Path) -> Path:
    """CLIP's real classes, tiny and random, with a tokenizer of a few letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    place = folder / "metrics" / networks.CLIP_FOLDER
    place.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(**sizes, vocab_size=len(tokens), eos_token_id=len(tokens) - 1, max_position_embeddings=20)
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=8)
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    ).save_pretrained(place)
    return place


def test_clip_sees_likeness(tmp_path: Path) -> None:
    model = clip.Clip(write_clip(tmp_path))
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (3, 40, 60, 3), np.uint8)
    frames, words = model.pictures(video), model.caption("a walker crosses a room " * 9)
    np.testing.assert_allclose(np.linalg.norm(frames, axis=1), 1)
    assert words.shape == (12,)
    assert clip.clip_v(frames, frames) == pytest.approx(100)
    assert clip.clip_f(np.repeat(frames[:1], 3, 0)) == pytest.approx(100)
    assert clip.clip_f(frames) == pytest.approx(50 * (frames[0] @ frames[1] + frames[1] @ frames[2]))
    assert clip.clip_t(frames, frames[0]) == pytest.approx(100 * (frames @ frames[0]).mean())
    assert np.isnan(clip.clip_f(frames[:1]))


def test_clip_prepares_pictures_as_its_own_processor_does(tmp_path: Path) -> None:
    from transformers import CLIPImageProcessorPil

    model = clip.Clip(write_clip(tmp_path))
    own = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    picture = inputs.pictures(0)[0]
    theirs = own(picture, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(model._prepared(picture), theirs, atol=0.02)


def test_half_a_clip_is_told(tmp_path: Path) -> None:
    place = write_clip(tmp_path)
    (place / "model.safetensors").unlink()
    with pytest.raises(BadFile, match="is not a whole CLIP"):
        networks.load(WeightStore(tmp_path))
