"""Models from a folder: from another machine, from the hub's cache, or just trained; and what is refused, by name."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from retake_backend.weights import shipped
from retake_backend.weights.importing import import_folder
from retake_backend.weights.store import MissingWeights, WeightStore
from retake_shared.errors import BadFile, Cancelled, RetakeError

from .conftest import SHARDS, SVD, T2V, WEIGHTS, Ran, as_json, svd, wan, weights, write_folder

Retake = Callable[..., Ran]
NAME = "wan2.1-t2v-1.3b"


def quiet(done: int, total: int, stage: str) -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in diffusers' layout, with things beside that nobody needs."""
    return write_folder(wan("WanPipeline", "WanTransformer3DModel", 10), tmp_path / "from elsewhere")


def test_a_folder_in_diffusers_layout_becomes_the_model(retake: Retake, store: WeightStore, folder: Path) -> None:
    done = retake("import", NAME, folder)
    assert done.code == 0, done.err
    place = store.place(NAME)
    assert (place / SHARDS[1]).read_bytes() == (folder / SHARDS[1]).read_bytes()
    assert not (place / "README.md").exists()
    assert not list(place.rglob("*.bin")) + list(place.rglob("*.pth")) + list(place.rglob("*.py"))
    assert (folder / "README.md").exists()
    assert retake("verify", NAME).code == 0
    again = retake("import", NAME, folder)
    assert again.code == 2
    assert "--replace" in again.err
    (folder / SHARDS[0]).write_bytes(weights(99))
    assert retake("import", NAME, folder, "--replace").code == 0
    assert (place / SHARDS[0]).read_bytes() == weights(99)
    assert not list((store.folder / ".incoming").glob(f"{NAME}*/"))


def test_links_take_no_space(store: WeightStore, folder: Path) -> None:
    import_folder(NAME, folder, store, quiet, link=True)
    assert (store.place(NAME) / SHARDS[1]).samefile(folder / SHARDS[1])
    assert store.remove(NAME) < 10_000
    assert (folder / SHARDS[1]).exists()


@pytest.mark.parametrize("named", ["repository", "snapshot"])
def test_the_hubs_own_cache_is_a_folder_too(store: WeightStore, tmp_path: Path, named: str) -> None:
    """Who used Wan before has it already: links into a heap of files named by their hash."""
    files = wan("WanPipeline", "WanTransformer3DModel", 10)
    cache = tmp_path / "hub" / f"models--{T2V.replace('/', '--')}"
    snapshot = cache / "snapshots" / ("5" * 40)
    for name, content in files.items():
        blob = cache / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    write_folder({"refs/main": b"5" * 40}, cache)
    import_folder(NAME, cache if named == "repository" else snapshot, store, quiet)
    place = store.place(NAME)
    assert not any(path.is_symlink() for path in place.rglob("*"))
    assert (place / SHARDS[1]).read_bytes() == files[SHARDS[1]]
    manifest = json.loads((place / "retake_model.json").read_text())
    assert (manifest["repository"], manifest["commit"]) == (T2V, "5" * 40)
    assert manifest["licence"] == "Apache-2.0"


def test_a_variant_lies_under_its_plain_name(store: WeightStore, tmp_path: Path) -> None:
    """Stable Video Diffusion in 16 bits, as its users keep it; where both are there, the plain ones."""
    files = {name: content for name, content in svd().items() if ".fp16." in name or not name.endswith(".safetensors")}
    import_folder("svd-xt", write_folder(files, tmp_path / "half"), store, quiet)
    half = files["unet/diffusion_pytorch_model.fp16.safetensors"]
    assert (store.place("svd-xt") / "unet" / WEIGHTS).read_bytes() == half
    import_folder("svd-xt", write_folder(svd(), tmp_path / "both"), store, quiet, replace=True)
    assert (store.place("svd-xt") / "unet" / WEIGHTS).read_bytes() == svd()[f"unet/{WEIGHTS}"]
    assert json.loads((store.place("svd-xt") / "retake_model.json").read_text())["repository"] == SVD


def test_a_model_carried_from_another_machine_is_the_same_there(
    store: WeightStore, folder: Path, tmp_path: Path
) -> None:
    import_folder(NAME, folder, store, quiet)
    carried = store.place(NAME)
    there = WeightStore(tmp_path / "there")
    import_folder(NAME, carried, there, quiet)
    theirs, ours = (json.loads((s.place(NAME) / "retake_model.json").read_text()) for s in (there, store))
    assert theirs["files"] == ours["files"]
    file = carried / SHARDS[1]
    content = bytearray(file.read_bytes())
    content[-7] ^= 4
    file.write_bytes(content)
    with pytest.raises(BadFile, match="damaged on its way") as damaged:
        import_folder(NAME, carried, there, quiet, replace=True)
    assert Path(SHARDS[1]).name in damaged.value.where
    assert there.entry(NAME).state == "installed"  # the one before
    with pytest.raises(BadFile, match=r"describes 'wan2\.1-t2v-1\.3b'"):
        import_folder("fastwan2.1-t2v-1.3b", carried, there, quiet)


def pickled(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\n")


ENDLESS = b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, Infinity]}}'
BROKEN: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: os.truncate(path, 500),
    "cut off: 20 bytes": lambda path: os.truncate(path, 20),
    "no safetensors file": lambda path: path.write_bytes(b""),
    "a pickle": pickled,
    "is a pickle": lambda path: path.write_bytes(b"\x80\x02cos\nsystem\n"),
    "too long": lambda path: path.write_bytes(weights(1) + b"more"),
    "gap": lambda path: path.write_bytes(
        weights(1).replace(b'"data_offsets":[0,1000]', b'"data_offsets":[9,1009]').replace(b"}}  ", b"}}")
    ),
    "no safetensors header": lambda path: path.write_bytes((20).to_bytes(8, "little") + b"x" * 20),
    "header (OverflowError": lambda path: path.write_bytes(len(ENDLESS).to_bytes(8, "little") + ENDLESS + b"x"),
}


@pytest.mark.parametrize("words", BROKEN)
def test_weights_that_are_cut_off_or_pickled_are_refused_by_name(store: WeightStore, folder: Path, words: str) -> None:
    BROKEN[words](folder / SHARDS[0])
    with pytest.raises(BadFile) as refused:
        import_folder(NAME, folder, store, quiet)
    assert words in refused.value.what
    assert refused.value.where == str(folder / SHARDS[0])
    assert "safetensors" in refused.value.remedy
    assert store.entry(NAME).state == "missing"


def test_what_is_not_the_named_model_is_refused(store: WeightStore, folder: Path, tmp_path: Path) -> None:
    def refusal(name: str, source: Path) -> str:
        with pytest.raises(BadFile) as refused:
            import_folder(name, source, store, quiet)
        assert store.entry(name).state == "missing"
        return str(refused.value)

    assert "is a 'WanPipeline' and no WanVACEPipeline" in refusal("wan2.1-vace-1.3b", folder)
    assert "no model_index.json" in refusal(NAME, tmp_path)
    assert "is no folder" in refusal(NAME, tmp_path / "nowhere")
    assert "conditioner/part.json" in refusal("edit-by-track", folder)
    config = folder / "transformer/config.json"
    large = as_json({"_class_name": "WanTransformer3DModel", "num_layers": 40, "num_attention_heads": 40})
    right = config.read_bytes()
    config.write_bytes(large)
    assert "num_layers 40 where Wan 2.1 1.3B has 30" in refusal(NAME, folder)
    config.write_bytes(b"not json")
    assert "transformer/config.json" in refusal(NAME, folder)
    config.write_bytes(right)
    encoder = folder / "text_encoder/config.json"
    right = encoder.read_bytes()
    encoder.write_bytes(as_json({"architectures": 5}))
    assert "is of the kind None and no UMT5EncoderModel" in refusal(NAME, folder)
    encoder.write_bytes(right)
    (folder / SHARDS[1]).unlink()
    assert SHARDS[1] in refusal(NAME, folder)
    for name in (*SHARDS[:1], "transformer/diffusion_pytorch_model.safetensors.index.json"):
        (folder / name).unlink()
    said = refusal(NAME, folder)  # what is left of the transformer is diffusion_pytorch_model.bin
    assert "diffusion_pytorch_model.bin, a format that can run code" in said


def test_trained_parts_come_in_as_they_were_saved(store: WeightStore, tmp_path: Path) -> None:
    from retake_backend.models.random_weights import write_random

    for name in ("edit-by-track", "track2view", "trajectory-attention", "trajectory-attention-svd"):
        folder = tmp_path / name
        write_random(name, folder)
        random = import_folder(name, folder, store, quiet)
        assert random.random
        (folder / "retake_model.json").unlink()  # as training leaves it
        entry = import_folder(name, folder, store, quiet)  # random weights give way without a word
        assert (entry.state, entry.random, entry.licence) == ("installed", False, "CC0-1.0")
    with pytest.raises(BadFile, match="'Track2ViewConditioner' and no EditByTrackConditioner"):
        import_folder("edit-by-track", tmp_path / "track2view", store, quiet, replace=True)
    with pytest.raises(BadFile, match="another base, 'svd-xt"):
        import_folder("trajectory-attention", tmp_path / "trajectory-attention-svd", store, quiet, replace=True)
    assert store.place("edit-by-track")


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """What the training of a draft model leaves, with things beside that are none of it."""
    files = {
        "config.json": as_json({"_class_name": "DraftTransformer", "width": 24}),
        WEIGHTS: weights(50),
        "README.md": b"# Retake draft",
        "diffusion_pytorch_model.bin": b"\x80pickled",
    }
    return write_folder(files, tmp_path / "result")


def test_a_fitted_draft_model_takes_the_place_of_the_shipped_one_until_it_is_removed(
    retake: Retake, store: WeightStore, fitted: Path
) -> None:
    done = retake("import", "draft", fitted)
    assert done.code == 0, done.err
    place = store.place("draft")
    assert place == store.folder / "draft"
    assert sorted(path.name for path in place.iterdir()) == sorted([*shipped.FILES, "retake_model.json"])
    assert (place / WEIGHTS).read_bytes() == weights(50)
    assert (store.entry("draft").shipped, store.entry("draft").licence) == (False, "Apache-2.0")
    assert "in place of the backend's own" in retake("list").out
    assert retake("verify").out.count("draft: every file") == 1
    refused = retake("import", "draft", fitted)
    assert (refused.code, "--replace" in refused.err) == (2, True)
    (fitted / WEIGHTS).write_bytes(weights(51))
    assert retake("import", "draft", fitted, "--replace").code == 0
    assert (place / WEIGHTS).read_bytes() == weights(51)
    assert not list((store.folder / ".incoming").glob("draft*/"))
    removed = retake("remove", "draft", "--yes")
    assert "the one that comes with the backend is used" in removed.out
    assert store.place("draft") == shipped.SHIPPED / "draft"


def test_what_is_no_draft_model_is_refused_and_the_shipped_one_stays(store: WeightStore, fitted: Path) -> None:
    def refusal() -> str:
        with pytest.raises(BadFile) as refused:
            import_folder("draft", fitted, store, quiet)
        assert store.entry("draft").shipped
        assert "`retake fit`" in refused.value.remedy or "safetensors" in refused.value.remedy
        return str(refused.value)

    config = fitted / "config.json"
    config.write_bytes(as_json({"_class_name": "WanTransformer3DModel"}))
    assert "'WanTransformer3DModel' and no DraftTransformer or Refiner" in refusal()
    config.write_bytes(as_json({"_class_name": "Refiner"}))
    os.truncate(fitted / WEIGHTS, 500)
    assert f"{fitted / WEIGHTS}: is cut off" in refusal()
    (fitted / WEIGHTS).unlink()
    assert f"{fitted / WEIGHTS}: is missing" in refusal()
    config.unlink()
    assert f"{config}: is missing" in refusal()


def test_a_damaged_draft_model_is_not_silently_passed_over(store: WeightStore, fitted: Path) -> None:
    """Takes would be another model's without a word."""
    import_folder("draft", fitted, store, quiet)
    os.truncate(store.place("draft") / WEIGHTS, 500)
    with pytest.raises(MissingWeights, match=r"draft is damaged.*Removing what was imported.*brings back"):
        store.place("draft")
    import_folder("draft", fitted, store, quiet)
    assert store.place("draft")


def test_random_models_stay_random(store: WeightStore, tmp_path: Path) -> None:
    from retake_backend.models.random_weights import write_random

    write_random(NAME, tmp_path / "random")
    assert import_folder(NAME, tmp_path / "random", store, quiet).random
    (tmp_path / "random" / "retake_model.json").unlink()
    with pytest.raises(BadFile, match="num_layers 2"):
        import_folder(NAME, tmp_path / "random", store, quiet)


def test_an_import_that_is_stopped_leaves_nothing(store: WeightStore, folder: Path) -> None:
    def stop(done: int, total: int, stage: str) -> None:
        if done > 1_000_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        import_folder(NAME, folder, store, stop)
    assert store.entry(NAME).state == "missing"
    assert not [path for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_what_a_pull_had_so_far_is_kept_until_an_import_succeeds(store: WeightStore, folder: Path) -> None:
    pulled = write_folder({"vae/x.part": b"x" * 1000}, store.folder / ".incoming" / NAME)
    (folder / "model_index.json").rename(folder / "aside")
    with pytest.raises(BadFile):
        import_folder(NAME, folder, store, quiet)
    assert (store.entry(NAME).state, store.entry(NAME).nbytes) == ("partial", 1000)
    (folder / "aside").rename(folder / "model_index.json")
    import_folder(NAME, folder, store, quiet)
    assert not pulled.exists()


def test_a_disk_that_is_too_small_is_told_before_copying(store: WeightStore, folder: Path) -> None:
    import_folder(NAME, folder, store, quiet)
    with (folder / "vae" / "huge.safetensors").open("wb") as file:
        header = json.dumps({"w": {"dtype": "U8", "shape": [10**13], "data_offsets": [0, 10**13]}}).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 10**13)
    with pytest.raises(RetakeError, match=r"10\.0 TB"):
        import_folder(NAME, folder, store, quiet, replace=True)
    assert store.entry(NAME).state == "installed"
