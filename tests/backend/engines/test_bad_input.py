"""What an artist gets from a track engine for an odd shot, an odd request or broken weights: a take, or a clear word."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from retake_backend.engines.diffusion.tracks import TrackEngine
from retake_backend.engines.edit_by_track import EditByTrackEngine
from retake_backend.engines.track2view import Track2ViewEngine
from retake_backend.models import parts, resident
from retake_backend.models.random_weights import write_random
from retake_backend.models.wan import LoraSettings, RetakeWanTransformer, add_lora
from retake_backend.weights.store import MissingWeights, write_manifest
from retake_shared.errors import BadFile, BadShot
from retake_shared.shot import Cameras

BASE = "wan2.1-t2v-1.3b"
ASIDE = np.array([1000.0, 0, 0])
ENGINES = pytest.mark.parametrize("kind", [EditByTrackEngine, Track2ViewEngine])


def render(engine: TrackEngine, request):
    return list(engine.render(request, lambda progress: None))


def rgb(frames):
    return np.stack([frame.rgb for frame in frames])


@pytest.fixture
def own_models(models, tmp_path, monkeypatch):
    """A copy of the models that a test may break."""
    folder = tmp_path / "own"
    for name in (BASE, "edit-by-track"):
        shutil.copytree(models / name, folder / name)
    monkeypatch.setenv("RETAKE_MODELS", str(folder))
    return folder


def told(engine, words):
    assert any(words in note for note in engine.notes()), engine.notes()


# ------------------------------------------------------------------------------------------------------------ shots


@ENGINES
def test_a_shot_without_tracks_follows_the_footage_alone(models, shot, kind):
    engine = kind()
    made = rgb(render(engine, shot(5, tracks=0, engine=kind.name)))
    told(engine, "No track guides frames 0 to 4: the shot has none.")
    assert (made == rgb(render(engine, shot(5, options={"tracks": 0}, engine=kind.name)))).all()
    told(engine, "none is asked for")


@ENGINES
def test_tracks_that_are_never_in_the_picture_are_told(models, shot, kind):
    def aside(identity):
        return replace(identity, positions=identity.positions + ASIDE)

    request = shot(5, engine=kind.name, edit=aside)
    tracks = replace(request.solve.tracks, positions=request.solve.tracks.positions + ASIDE)
    request = replace(request, solve=replace(request.solve, tracks=tracks))
    engine = kind()
    assert len(render(engine, request)) == 5
    told(engine, "none is in the picture, before or after the edit")


@ENGINES
def test_removing_everything_leaves_the_source_tracks_and_is_told(models, shot, kind):
    request = shot(5, engine=kind.name, edit=lambda identity: replace(identity, present=identity.present & False))
    engine = kind()
    made = rgb(render(engine, request))
    told(engine, "After the edit all are removed in frames 0 to 4")
    # The model still learns where they were: that is how it knows what to take away.
    assert (made != rgb(render(engine, shot(5, options={"tracks": 0}, engine=kind.name)))).any()


@ENGINES
def test_a_camera_that_looks_away_is_told(models, shot, kind):
    def turned(identity):
        cameras = identity.cameras
        c2w = cameras.c2w.copy()
        c2w[:, :3, :3] = np.diag([-1.0, 1.0, -1.0])  # half a turn about the vertical
        return replace(identity, cameras=Cameras(c2w, cameras.K, cameras.width, cameras.height))

    engine = kind()
    assert len(render(engine, shot(5, engine=kind.name, edit=turned))) == 5
    told(engine, "the camera sees none of them in frames 0 to 4")


def test_4k_footage_comes_back_at_4k(models, shot):
    engine = EditByTrackEngine()
    (frame,) = render(engine, shot(1, picture=(3840, 2160), options={"steps": 1}))
    assert frame.rgb.shape == (2160, 3840, 3)
    assert frame.holes.shape == (2160, 3840)


def test_a_picture_of_a_few_pixels_can_be_made(models, shot):
    assert render(EditByTrackEngine(), shot(2, picture=(16, 16)))[0].rgb.shape == (16, 16, 3)


# --------------------------------------------------------------------------------------------------------- requests


def test_a_huge_prompt_is_cut_and_told(models, shot):
    engine = EditByTrackEngine()
    assert len(render(engine, shot(1, prompt="a disc wanders " * 5000, options={"guidance": 3.0}))) == 1
    told(engine, "512")


def test_a_prompt_in_any_script_and_with_markup_is_taken(models, shot):
    for prompt in ("", "   ", "圆盘 &amp; <b>диск</b> 🎬\n\t", "\x00\ufffd"):
        assert len(render(EditByTrackEngine(), shot(1, prompt=prompt))) == 1


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"options": {"step": 3}}, "step"),
        ({"options": {"steps": -1}}, "steps"),
        ({"options": {"memory": "gigantic"}}, "memory"),
        ({"options": {"strength": float("nan")}}, "strength"),
        ({"options": {"tracks": 2.5}}, "tracks"),
        ({"frames": (3, 90)}, "frames"),
    ],
)
def test_settings_that_make_no_sense_are_named_before_anything_loads(models, shot, settings, field):
    resident.release()
    with pytest.raises(BadShot, match=field):
        render(EditByTrackEngine(), shot(5, **settings))
    assert not resident.kept()


def test_a_window_may_be_as_short_as_its_overlap_asks(models, shot):
    request = shot(11, options={"steps": 1, "window": 5, "overlap": 81})
    assert [frame.index for frame in render(EditByTrackEngine(), request)] == list(range(11))


# ---------------------------------------------------------------------------------------------------------- weights


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="says what a GPU's profile does without one")
def test_on_a_gpu_the_same_seed_gives_the_same_frames(models, shot):
    takes = [rgb(render(EditByTrackEngine(), shot(5, options={"memory": "24"}))) for _ in range(2)]
    assert (takes[0] == takes[1]).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_profile_without_a_gpu_says_why(models, shot):
    with pytest.raises(Exception, match="GPU"):
        render(EditByTrackEngine(), shot(1, options={"memory": "8"}))
