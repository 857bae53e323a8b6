"""The draft models: before training they are the reprojection, and what they learn they keep on disk."""

import json
from functools import partial

import pytest
import torch
from retake_backend.conditioning.attention import dot_product_attention
from retake_backend.conditioning.coordinates import TrackPairs
from retake_backend.models.draft import DraftTransformer
from retake_backend.models.draft_weights import load_draft, save_draft
from retake_backend.models.memory import OutOfMemory, gpu_errors_in_words
from retake_backend.models.refiner import Refiner, nearest_seen
from retake_shared.errors import BadFile
from safetensors.torch import load_file, save_file

TINY = {
    "width": 24, "heads": 2, "layers": 2, "ffn_dim": 32, "fine": 8, "coarse": 16,
    "track_width": 16, "track_heads": 2,
}  # fmt: skip
KINDS = {"transformer": (DraftTransformer, TINY), "refiner": (Refiner, {"channels": (8, 16, 24), "depth": 1})}
FRAMES, HEIGHT, WIDTH = 5, 16, 24


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # tensors this small only wait for a second thread


def make(kind, trained=True):
    """A model of this kind; trained: its weights are not those of a fresh one, so that it changes pictures."""
    torch.manual_seed(0)
    cls, config = KINDS[kind]
    model = cls(**config).eval()
    if trained:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def views(count=2, seed=0):
    """source, moved, holes and tracks of `count` videos."""
    draw = torch.Generator().manual_seed(seed)
    source, moved = torch.rand(2, count, 3, FRAMES, HEIGHT, WIDTH, generator=draw) * 2 - 1
    holes = (torch.rand(count, 1, FRAMES, HEIGHT, WIDTH, generator=draw) < 0.2).float()
    xyz = torch.rand(2, count, FRAMES, 7, 3, generator=draw)
    there = torch.ones(count, FRAMES, 7, dtype=torch.bool)
    return source, moved, holes, TrackPairs(xyz[0], xyz[1], there, there, there)


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_before_training_the_picture_is_the_reprojection_bit_for_bit(kind, steps):
    source, moved, holes, tracks = views()
    made = make(kind, trained=False).repaint(source, moved, holes, tracks, chance(), steps)
    assert torch.equal(made, moved)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_makes_the_same_picture(kind):
    model = make(kind)
    first, again, other = (model.repaint(*views(), chance(seed), 2) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind == "refiner")  # which knows no chance


@pytest.mark.parametrize("kind", KINDS)
def test_videos_of_a_batch_do_not_see_each_other(kind):
    model = make(kind)
    source, moved, holes, tracks = views(2)
    noisy, t = torch.zeros_like(moved), torch.tensor([1.0, 0.5])

    def run(s, m, h, tr, t):
        if kind == "refiner":
            return model(s, m, h)
        return model(noisy[: len(s)], t, m, h, model.read_source(s, tr))

    with torch.no_grad():
        both = run(source, moved, holes, tracks, t)
        for i in range(2):
            one = TrackPairs(*(getattr(tracks, name)[i : i + 1] for name in tracks.__dataclass_fields__))
            alone = run(source[i : i + 1], moved[i : i + 1], holes[i : i + 1], one, t[i : i + 1])
            torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_transformer_hears_of_everything_it_is_given():
    model = make("transformer")
    source, moved, holes, tracks = views()
    elsewhere = TrackPairs(
        tracks.source, tracks.target.flip(2), tracks.source_present, tracks.target_present, tracks.source_visible
    )
    made = model.repaint(source, moved, holes, tracks, chance())
    for other in (
        (source.flip(-1), moved, holes, tracks),
        (source, moved, 1 - holes, tracks),
        (source, moved, holes, elsewhere),
    ):
        assert not torch.equal(made, model.repaint(*other, chance()))


def test_the_transformer_looks_across_the_whole_picture_and_all_frames():
    """The convolutions reach a few px; only attention carries a far corner or a far frame to a hole."""
    model = make("transformer")
    source, moved, holes, tracks = views(1)
    made = model.repaint(source, moved, holes, tracks, chance())
    moved[:, :, 0, :8, :8] += 1
    changed = (model.repaint(source, moved, holes, tracks, chance()) - made).abs().amax((0, 1))
    assert changed[0, -1, -1] > 0
    assert changed[-1, 0, 0] > 0


def test_attention_by_plain_products_is_attention(monkeypatch):
    """Short sequences on a CPU take another way, long ones and GPUs the fused kernel: the same picture."""
    model = make("transformer")
    plain = model.repaint(*views(), chance(), 2)
    fused = partial(dot_product_attention, short=0)
    monkeypatch.setattr("retake_backend.models.draft.dot_product_attention", fused)
    torch.testing.assert_close(plain, model.repaint(*views(), chance(), 2), rtol=1e-4, atol=1e-5)


def test_without_tracks_there_is_still_a_picture():
    source, moved, holes, tracks = views()
    none = tracks.select(torch.tensor([], dtype=torch.long))
    assert torch.isfinite(make("transformer").repaint(source, moved, holes, none, chance())).all()


def test_a_hole_is_seen_through_the_nearest_frame_that_shows_it():
    moved = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 3, 5, 2, 2).clone()
    holes = torch.zeros(1, 1, 5, 2, 2)
    holes[:, :, 1:4, 0, 0] = 1
    holes[:, :, :, 1, 1] = 1
    seen = nearest_seen(moved, holes)[0, 0]
    assert seen[:, 0, 0].tolist() == [0, 0, 0, 4, 4]  # of two as near the earlier
    assert seen[:, 1, 1].tolist() == [0, 1, 2, 3, 4]  # nobody shows it: as it was
    assert seen[:, 0, 1].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_sides_that_make_no_tokens_are_refused(kind):
    source, moved, holes, tracks = views()
    with pytest.raises(ValueError, match="20 x 16 px"):
        make(kind).repaint(source[..., :20], moved[..., :20], holes[..., :20], tracks, chance())


# --- on disk ---


@pytest.fixture(params=KINDS)
def saved(request, tmp_path):
    """A trained model and the folder it is saved in."""
    model = make(request.param)
    save_draft(tmp_path / "draft", model, "Trained on nothing, for 0 h.")
    return model, tmp_path / "draft"


def test_what_is_saved_comes_back(saved):
    model, folder = saved
    loaded = load_draft(folder)
    assert type(loaded) is type(model)
    made, again = (each.repaint(*views(), chance()) for each in (model, loaded))
    torch.testing.assert_close(made, again, atol=0.03, rtol=0)  # bfloat16 on disk
    assert {file.name for file in folder.iterdir()} == {
        "config.json", "diffusion_pytorch_model.safetensors", "README.md",
    }  # fmt: skip
    assert all(
        tensor.dtype == torch.bfloat16 for tensor in load_file(folder / "diffusion_pytorch_model.safetensors").values()
    )
    assert all(file.stat().st_mode & 0o044 for file in folder.iterdir())  # others can use what comes with the package
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "Trained on nothing, for 0 h." in card


def test_saving_replaces_a_model_whole_and_changes_none_in_memory(saved):
    model, folder = saved
    (folder / "stale.txt").write_text("of the model before")
    before = [parameter.clone() for parameter in model.parameters()]
    save_draft(folder, model)
    assert not (folder / "stale.txt").exists()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("damage", ["no config", "a foreign class", "a key missing", "cut off", "a pickle"])
def test_damaged_weights_are_refused_by_name(saved, damage):
    _, folder = saved
    weights, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
    if damage == "no config":
        config.unlink()
    elif damage == "a foreign class":
        config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "AutoencoderKL"}))
    elif damage == "a key missing":
        tensors = load_file(weights)
        del tensors["head.conv.weight"]
        save_file(tensors, weights, {"format": "pt"})
    elif damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        torch.save(load_file(weights), folder / "diffusion_pytorch_model.bin")
        weights.unlink()
    with pytest.raises(BadFile) as error:
        load_draft(folder)
    assert str(folder) in error.value.where


def test_too_little_memory_is_no_damage(saved, monkeypatch):
    model, folder = saved

    def run_out(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5000000000 bytes.")

    monkeypatch.setattr(type(model), "from_pretrained", run_out)
    with pytest.raises(OutOfMemory, match="main memory"), gpu_errors_in_words():
        load_draft(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadFile, match="draft"):
        load_draft(tmp_path / "draft")
