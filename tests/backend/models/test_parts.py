"""Trained parts: what is saved apart from the base comes back, and what does not belong is refused by name."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel, WanPipeline, WanTransformer3DModel
from retake_backend.conditioning.trajectory_attention import TrajectoryAttention
from retake_backend.models.memory import OutOfMemory, gpu_errors_in_words
from retake_backend.models.parts import load_base, load_branches, load_parts, replaced, save_branches, save_parts
from retake_backend.models.wan import LoraSettings, RetakeWanTransformer, add_lora
from retake_shared.errors import BadFile
from safetensors.torch import load_file, save_file

TINY = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32,
}  # fmt: skip
NAME = "Tiny/Wan-for-tests"
SETTINGS = LoraSettings(rank=4, alpha=8, layers=("ffn", "q"))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # tensors this small only wait for a second thread


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a base as the hub keeps it: a pipeline's `transformer` subfolder of diffusers' own class."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    WanTransformer3DModel(**TINY).save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def trained(base, tmp_path):
    """(transformer with a woken LoRA, conditioner, the folder both are saved in)."""
    torch.manual_seed(1)
    transformer = load_base(base)
    add_lora(transformer, SETTINGS)
    for name, parameter in transformer.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter)
    conditioner = TrajectoryAttention.beside(transformer, sampling="bilinear")
    for parameter in conditioner.parameters():
        torch.nn.init.normal_(parameter)
    folder = tmp_path / "parts"
    save_parts(folder, transformer, base=NAME, licence="Apache-2.0", conditioner=conditioner, lora="retake")
    return transformer, conditioner, folder


def run(transformer):
    torch.manual_seed(2)
    latents, source = torch.randn(2, 1, 4, 3, 8, 12)
    with torch.no_grad():
        return transformer(latents, torch.tensor([500]), torch.randn(1, 7, 16), source_latents=source).sample


def test_parts_come_back_as_they_were(base, trained):
    transformer, conditioner, folder = trained
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*"))
    assert files == [
        "conditioner/config.json", "conditioner/diffusion_pytorch_model.safetensors", "conditioner/part.json",
        "lora/part.json", "lora/pytorch_lora_weights.safetensors",
    ]  # fmt: skip
    fresh = load_base(base)
    assert not torch.equal(run(fresh), run(transformer))
    parts = load_parts(folder, fresh, [TrajectoryAttention])
    assert torch.equal(run(fresh), run(transformer))
    assert parts.licences == {"conditioner": "Apache-2.0", "lora": "Apache-2.0"}
    assert isinstance(parts.conditioner, TrajectoryAttention)
    assert parts.conditioner.config.sampling == "bilinear"
    for name, value in conditioner.state_dict().items():
        assert torch.equal(parts.conditioner.state_dict()[name], value)
    assert fresh.peft_config["retake"].lora_alpha == 8
    fresh.disable_adapters()
    assert torch.equal(run(fresh), run(load_base(base)))
    save_parts(folder, transformer, base=NAME, licence="Apache-2.0", lora="retake")  # over the old one
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*")) == files


def test_a_lora_that_is_there_already_stays_in_use(base, trained):
    _, _, folder = trained
    fresh = load_base(base)
    add_lora(fresh, LoraSettings(rank=2), name="few_steps")
    load_parts(folder, fresh, [TrajectoryAttention])
    assert fresh.active_adapters() == ["few_steps", "retake"]


def test_the_lora_opens_in_the_stock_pipeline_too(base, trained):
    transformer, _, folder = trained
    fresh = load_base(base)
    pipeline = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=None, transformer=fresh)
    pipeline.load_lora_weights(folder / "lora")
    assert torch.equal(run(fresh), run(transformer))


def test_parts_fit_the_base_at_any_precision(base, trained):
    _, _, folder = trained
    half = load_base(base, dtype=torch.bfloat16)
    assert half.patch_embedding.weight.dtype == torch.bfloat16
    assert load_parts(folder, half, [TrajectoryAttention]).lora == "retake"


def test_parts_of_another_base_are_refused_in_words(base, trained):
    _, _, folder = trained
    with pytest.raises(BadFile, match=f'another base, "{NAME}": num_layers is 2 there and 3 here') as refused:
        load_parts(folder, RetakeWanTransformer(**{**TINY, "num_layers": 3}), [TrajectoryAttention])
    assert "Use the base it was trained on" in refused.value.remedy
    with pytest.raises(BadFile, match="rope_positions is 'sequential' there and 'shared' here"):
        load_parts(folder, load_base(base, rope_positions="shared"), [TrajectoryAttention])
    other = RetakeWanTransformer(**TINY)
    before = run(other)
    with pytest.raises(BadFile, match="same shape but other weights"):
        load_parts(folder, other, [TrajectoryAttention])
    assert torch.equal(run(other), before)
    load_parts(folder, other, [TrajectoryAttention], other_weights=True)
    assert not torch.equal(run(other), before)


def edit(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.mark.parametrize("part", ["conditioner", "lora"])
def test_a_key_that_does_not_fit_is_named_and_nothing_is_loaded(base, trained, part):
    _, _, folder = trained
    path = next((folder / part).glob("*.safetensors"))
    whole, key = path.read_bytes(), sorted(load_file(path))[0]
    fresh = load_base(base)
    before = run(fresh)
    for change, message in (
        (lambda w: w.pop(key), f"lacks {key}"),
        (lambda w: w.update({key: torch.zeros(3, 3)}), rf"does not fit: {key}: \(3, 3\) where"),
        (lambda w: w.update({"stranger": torch.zeros(1)}), "has unknown stranger"),
    ):
        path.write_bytes(whole)
        edit(path, change)
        with pytest.raises(BadFile, match=message):
            load_parts(folder, fresh, [TrajectoryAttention])
    assert torch.equal(run(fresh), before)
    assert not getattr(fresh, "peft_config", None)


@pytest.mark.parametrize("part", ["conditioner", "lora"])
def test_half_a_download_and_a_pickle_are_refused(base, trained, part):
    _, _, folder = trained
    path = next((folder / part).glob("*.safetensors"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadFile, match="not a whole safetensors file"):
        load_parts(folder, load_base(base), [TrajectoryAttention])
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(BadFile, match="not a whole safetensors file"):
        load_parts(folder, load_base(base), [TrajectoryAttention])
    path.unlink()
    torch.save({"x": torch.zeros(1)}, path.with_suffix(".bin"))
    with pytest.raises(BadFile, match="not a whole safetensors file"):
        load_parts(folder, load_base(base), [TrajectoryAttention])


def test_a_strange_description_is_refused(base, trained, tmp_path):
    _, _, folder = trained
    fresh, path = load_base(base), folder / "conditioner" / "part.json"
    with pytest.raises(BadFile, match='the kind "TrajectoryAttention"'):
        load_parts(folder, fresh)
    part = json.loads(path.read_text())
    for text in ("{", "[]", json.dumps({**part, "kind": "lora"}), json.dumps({**part, "retake_part": 2}), "[" * 10_000):
        path.write_text(text)
        with pytest.raises(BadFile, match="no description of a conditioner"):
            load_parts(folder, fresh, [TrajectoryAttention])
    with pytest.raises(BadFile, match="neither"):
        load_parts(tmp_path / "nothing", fresh)


def test_a_base_that_is_not_whole_or_not_safetensors_is_refused(base, tmp_path):
    config = (base / "transformer" / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    source = base / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(source)
    del weights["blocks.1.ffn.net.2.weight"]
    save_file(weights, tmp_path / source.name)
    with pytest.raises(BadFile, match=r'missing weight "blocks\.1\.ffn\.net\.2\.weight" \(1 in all\)'):
        load_base(tmp_path)
    (tmp_path / source.name).unlink()
    torch.save(load_file(source), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(BadFile, match="no Wan transformer in safetensors"):
        load_base(tmp_path)
    with pytest.raises(BadFile, match="no Wan transformer in safetensors"):
        load_base("nobody/has-this")  # and no network is asked


def test_too_little_memory_for_a_base_is_no_damage(base, monkeypatch):
    """Who is told to pull the model again would download it for nothing."""

    def run_out(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5000000000 bytes.")

    monkeypatch.setattr(RetakeWanTransformer, "from_pretrained", run_out)
    with pytest.raises(OutOfMemory, match="main memory"), gpu_errors_in_words():
        load_base(base)


def test_the_distilled_base_opens_without_its_sparse_attention(base, tmp_path):
    """FastWan's repository holds a gate for every block; a user who chose Fast would be told to pull it again."""
    (tmp_path / "config.json").write_bytes((base / "transformer" / "config.json").read_bytes())
    weights = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    gates = {f"blocks.{n}.to_gate_compress.{kind}": torch.zeros(24) for n in (0, 1) for kind in ("weight", "bias")}
    save_file(weights | gates, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    loaded = load_base(tmp_path).state_dict()
    assert loaded.keys() == weights.keys()
    save_file(weights | {"blocks.0.other.weight": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(BadFile, match=r'unexpected weight "blocks\.0\.other\.weight"'):
        load_base(tmp_path)


def test_a_part_needs_a_licence_and_an_adapter_of_ours(base, tmp_path):
    transformer = load_base(base)
    with pytest.raises(ValueError, match="licence"):
        save_parts(tmp_path, transformer, base=NAME, licence=" ")
    with pytest.raises(ValueError, match='no adapter "retake"'):
        save_parts(tmp_path, transformer, base=NAME, licence="MIT", lora="retake")


def tiny_svd(seed=0, channels=(32, 64)):
    torch.manual_seed(seed)
    return UNetSpatioTemporalConditionModel(
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=(2, 2),
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )


def run_svd(unet):
    torch.manual_seed(3)
    latents, image, ids = torch.randn(1, 3, 8, 8, 8), torch.randn(1, 1, 32), torch.tensor([[6.0, 127.0, 0.02]])
    with torch.no_grad():
        return unet(latents, torch.tensor(1.0), image, ids).sample


def test_branches_of_stable_video_diffusion_come_back_joined_to_it(tmp_path):
    unet = tiny_svd()
    own = run_svd(unet)
    branches = TrajectoryAttention.beside(unet)
    for parameter in branches.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_branches(tmp_path, unet, branches, base="svd-xt", licence="CC-BY-4.0")
    fresh = tiny_svd()
    loaded = load_branches(tmp_path, fresh)
    for name, value in branches.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert torch.equal(run_svd(fresh), own)
    loaded.follow(torch.rand(1, 3, 5, 2), torch.ones(1, 3, 5, dtype=torch.bool))
    assert not torch.equal(run_svd(fresh), own)
    loaded.follow(None)
    assert torch.equal(run_svd(fresh), own)


def test_branches_of_another_base_are_refused_by_what_differs(base, tmp_path):
    wan, unet = load_base(base), tiny_svd()
    save_branches(tmp_path / "svd", unet, TrajectoryAttention.beside(unet), base="svd-xt", licence="CC0-1.0")
    save_branches(tmp_path / "wan", wan, TrajectoryAttention.beside(wan), base=NAME, licence="CC0-1.0")
    with pytest.raises(BadFile, match='another base, "svd-xt"'):
        load_branches(tmp_path / "svd", wan)
    with pytest.raises(BadFile, match=f'another base, "{NAME}"'):
        load_branches(tmp_path / "wan", unet)
    with pytest.raises(BadFile, match="block_out_channels is"):
        load_branches(tmp_path / "svd", tiny_svd(channels=(32, 32)))
    other = tiny_svd(seed=1)
    with pytest.raises(BadFile, match="same shape but other weights"):
        load_branches(tmp_path / "svd", other)
    load_branches(tmp_path / "svd", other, other_weights=True)
    with pytest.raises(BadFile, match="neither a conditioner nor a lora"):
        load_branches(tmp_path, wan)


def test_branches_beside_layers_that_the_base_lacks_are_refused(base, tmp_path):
    wan = load_base(base)
    save_branches(tmp_path, wan, TrajectoryAttention.beside(wan), base=NAME, licence="CC0-1.0")
    config = tmp_path / "conditioner" / "config.json"
    config.write_text(config.read_text("utf-8").replace("blocks.1.attn1", "blocks.7.attn1"), "utf-8")
    with pytest.raises(BadFile, match=r"blocks\.7\.attn1"):
        load_branches(tmp_path, wan)


def test_a_lora_alone_is_no_branches(base, trained):
    _, _, folder = trained
    shutil.rmtree(folder / "conditioner")
    with pytest.raises(BadFile, match="holds no trajectory branches"):
        load_branches(folder, load_base(base))


def test_what_was_saved_before_stays_when_its_place_cannot_be_taken(tmp_path, monkeypatch):
    """Or a full disk or a virus scanner would take both: the weights of before and those of now."""
    folder, rename = tmp_path / "conditioner", os.replace
    with replaced(folder) as beside:
        (beside / "weights").write_text("before")

    def in_use(source, target):
        if Path(source).name == "conditioner.part":
            raise PermissionError(13, "Access is denied")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", in_use)
        with pytest.raises(PermissionError), replaced(folder) as beside:
            (beside / "weights").write_text("now")
    assert (folder / "weights").read_text() == "before"
    with replaced(folder) as beside:
        (beside / "weights").write_text("now")
    assert (folder / "weights").read_text() == "now"
    assert [path.name for path in tmp_path.iterdir()] == ["conditioner"]
