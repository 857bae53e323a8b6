"""Weights that are missing, broken, of another kind or of another base: each is refused by name."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from retake_backend.engines.diffusion.tracks import TrackEngine
from retake_backend.engines.edit_by_track import EditByTrackEngine
from retake_backend.models import parts
from retake_backend.models.random_weights import write_random
from retake_backend.models.wan import LoraSettings, RetakeWanTransformer, add_lora
from retake_backend.weights.store import MissingWeights, write_manifest
from retake_shared.errors import BadFile

BASE = "wan2.1-t2v-1.3b"


def render(engine: TrackEngine, request):
    return list(engine.render(request, lambda progress: None))


def rgb(frames):
    return np.stack([frame.rgb for frame in frames])


def told(engine, words):
    assert any(words in note for note in engine.notes()), engine.notes()


@pytest.fixture
def own_models(models, tmp_path, monkeypatch):
    """A copy of the models that a test may break."""
    folder = tmp_path / "own"
    for name in (BASE, "edit-by-track"):
        shutil.copytree(models / name, folder / name)
    monkeypatch.setenv("RETAKE_MODELS", str(folder))
    return folder


def test_weights_that_are_not_here_are_named_with_size_licence_and_command(shot, tmp_path, monkeypatch):
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path))
    with pytest.raises(MissingWeights) as error:
        render(EditByTrackEngine(), shot(5))
    assert [model.name for model in error.value.models] == [BASE, "edit-by-track"]
    for words in ("GB", "Apache-2.0", f"retake models pull {BASE}", "retake models import edit-by-track"):
        assert words in str(error.value)


def test_half_a_download_is_not_taken_for_a_model(own_models, shot):
    (own_models / ".incoming").mkdir()
    (own_models / BASE).rename(own_models / ".incoming" / BASE)
    with pytest.raises(MissingWeights, match="half pulled"):
        render(EditByTrackEngine(), shot(5))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def garble(path):
    """The same size, so that only reading it shows what it is."""
    path.write_bytes(os.urandom(path.stat().st_size))


def pickled(path):
    """A pickle under the name of safetensors, of the size that is expected."""
    size = path.stat().st_size
    torch.save({"weight": torch.zeros(8)}, path)
    assert path.stat().st_size <= size
    with open(path, "ab") as file:
        file.write(b"\0" * (size - path.stat().st_size))


WEIGHTS = [
    (BASE, "transformer/diffusion_pytorch_model.safetensors"),
    (BASE, "vae/diffusion_pytorch_model.safetensors"),
    (BASE, "text_encoder/model.safetensors"),
    ("edit-by-track", "conditioner/diffusion_pytorch_model.safetensors"),
    ("edit-by-track", "lora/pytorch_lora_weights.safetensors"),
]


@pytest.mark.parametrize(("name", "file"), WEIGHTS)
def test_weights_that_were_cut_off_are_damaged(own_models, shot, name, file):
    cut(own_models / name / file)
    with pytest.raises(MissingWeights, match="damaged"):
        render(EditByTrackEngine(), shot(1))


@pytest.mark.parametrize("spoil", [garble, pickled])
@pytest.mark.parametrize(("name", "file"), WEIGHTS)
def test_what_is_no_safetensors_is_refused_by_name_and_never_unpickled(own_models, shot, name, file, spoil):
    spoil(own_models / name / file)
    prompt = f"new {own_models} {spoil.__name__}"  # else the text encoder would not be asked
    with pytest.raises(BadFile) as error:
        render(EditByTrackEngine(), shot(1, prompt=prompt))
    assert str(own_models / name) in str(error.value)


def test_parts_without_a_lora_are_used_and_told(own_models, shot):
    shutil.rmtree(own_models / "edit-by-track" / "lora")
    write_manifest(own_models / "edit-by-track", "edit-by-track", licence="CC0-1.0")
    engine = EditByTrackEngine()
    assert len(render(engine, shot(1))) == 1
    told(engine, "no LoRA")


def test_parts_without_a_conditioner_are_refused(own_models, shot):
    shutil.rmtree(own_models / "edit-by-track" / "conditioner")
    write_manifest(own_models / "edit-by-track", "edit-by-track", licence="CC0-1.0")
    with pytest.raises(BadFile, match="no conditioner"):
        render(EditByTrackEngine(), shot(1))


def test_the_conditioner_of_the_other_method_is_refused(own_models, models, shot):
    shutil.rmtree(own_models / "edit-by-track")
    shutil.copytree(models / "track2view", own_models / "edit-by-track")
    write_manifest(own_models / "edit-by-track", "edit-by-track", licence="CC0-1.0")
    with pytest.raises(BadFile, match="Track2ViewConditioner"):
        render(EditByTrackEngine(), shot(1))


def test_parts_of_another_base_are_refused(own_models, shot):
    """A LoRA trained on a wider model, and parts of a base with the same shape but other weights."""
    wider = RetakeWanTransformer(
        num_attention_heads=4, attention_head_dim=12, text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2
    )
    add_lora(wider, LoraSettings(rank=4, alpha=4))
    parts.save_parts(own_models / "edit-by-track", wider, base="a wider base", licence="CC0-1.0", lora="retake")
    write_manifest(own_models / "edit-by-track", "edit-by-track", licence="CC0-1.0")
    with pytest.raises(BadFile, match="a wider base"):
        render(EditByTrackEngine(), shot(1))
    for name, seed in (("edit-by-track", 0), (BASE, 1)):
        shutil.rmtree(own_models / name)
        write_random(name, own_models / name, seed=seed)
    with pytest.raises(BadFile, match="other weights"):
        render(EditByTrackEngine(), shot(1))


def test_parts_that_were_installed_anew_are_loaded_anew(own_models, shot):
    """Not the ones that the worker still holds from the take before."""
    before = rgb(render(EditByTrackEngine(), shot(1)))
    shutil.rmtree(own_models / "edit-by-track" / "lora")
    write_manifest(own_models / "edit-by-track", "edit-by-track", licence="CC0-1.0")
    assert (rgb(render(EditByTrackEngine(), shot(1))) != before).any()


@pytest.mark.parametrize("positions", ["sequential", "shared"])
def test_the_base_counts_frames_as_the_parts_were_trained(own_models, shot, positions):
    """rope_positions comes from part.json: sequential and shared models cannot be mixed up."""
    wan = parts.load_base(own_models / BASE, rope_positions=positions)
    found = parts.load_parts(
        own_models / "edit-by-track", parts.load_base(own_models / BASE), [EditByTrackEngine.conditioner]
    )
    add_lora(wan, LoraSettings(rank=4, alpha=4))
    parts.save_parts(
        own_models / "edit-by-track", wan, base=BASE, licence="MIT", conditioner=found.conditioner, lora="retake"
    )
    write_manifest(own_models / "edit-by-track", "edit-by-track", licence="MIT")
    description = own_models / "edit-by-track" / "conditioner" / "part.json"
    assert json.loads(description.read_text())["base"]["configuration"]["rope_positions"] == positions
    engine = EditByTrackEngine()
    assert len(render(engine, shot(5))) == 5
    told(engine, "Edit-by-Track: MIT")
