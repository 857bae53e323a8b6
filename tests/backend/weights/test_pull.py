"""Pulling models: what comes, what never comes, and what is said when it cannot."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from retake_backend.weights.store import WeightStore, write_manifest

from .conftest import SHARDS, SVD, T2V, VACE, WEIGHTS, Ran, as_json, weights, write_folder
from .local_hub import LocalHub

Retake = Callable[..., Ran]
BIG = SHARDS[1]


def test_a_pulled_model_is_whole_and_holds_nothing_that_was_not_wanted(
    retake: Retake, hub: LocalHub, models: Path, store: WeightStore
) -> None:
    done = retake("pull", "wan2.1-t2v-1.3b", HF_TOKEN="hf_secret")
    assert done.code == 0, done.err
    assert "17.6 GB" in done.out
    assert "Apache-2.0" in done.out
    assert str(models) in done.out
    place = store.place("wan2.1-t2v-1.3b")
    came = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    manifest = json.loads(came.pop("retake_model.json"))
    source = hub.repositories[T2V].files
    unwanted = {"README.md", "Wan2.1_VAE.pth", "modeling.py", "transformer/diffusion_pytorch_model.bin"}
    expected = {name: content for name, content in source.items() if name not in unwanted}
    # The text encoder in bfloat16, which the T2V repository has in float32 only.
    lent = hub.repositories[VACE].files
    expected |= {name: lent[name] for name in lent if name.startswith("text_encoder/")}
    assert came == expected
    assert (manifest["repository"], manifest["commit"]) == (T2V, "1" * 40)
    assert manifest["borrowed"] == {"text_encoder": {"repository": VACE, "commit": "2" * 40}}
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["random"] is False
    assert not (models / ".incoming" / "wan2.1-t2v-1.3b").exists()
    assert not any("README" in line or ".bin" in line or ".pth" in line or ".py" in line for line in hub.asked)
    # A token is for the hub, not for whoever stores its files.
    assert {sent.token for sent in hub.sent if sent.path.endswith(".safetensors")} == {""}
    assert {sent.token for sent in hub.sent if sent.path.endswith(".json")} == {"hf_secret"}


def test_pulling_again_fetches_nothing(retake: Retake, hub: LocalHub) -> None:
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    asked = len(hub.asked)
    again = retake("pull", "wan2.1-vace-1.3b")
    assert again.code == 0
    assert "installed already" in again.out
    assert len(hub.asked) == asked


def test_a_file_that_is_not_what_the_hub_names_is_refused(retake: Retake, hub: LocalHub, store: WeightStore) -> None:
    for path in (BIG, "tokenizer/tokenizer.json"):  # one with a sha256, one that git names
        hub.altered = {path}
        failed = retake("pull", "wan2.1-vace-1.3b")
        assert failed.code == 2
        assert path in failed.err
        assert "hash" in failed.err
        assert store.entry("wan2.1-vace-1.3b").state == "partial"
    hub.altered.clear()
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    assert retake("verify", "wan2.1-vace-1.3b").code == 0


def test_random_weights_give_way_to_the_real_ones(retake: Retake, store: WeightStore) -> None:
    """Who tried the demo has them under the same names."""
    place = write_folder({"model_index.json": b"{}"}, store.folder / "wan2.1-vace-1.3b")
    write_manifest(place, "wan2.1-vace-1.3b", random=True)
    assert store.random("wan2.1-vace-1.3b")
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    assert not store.random("wan2.1-vace-1.3b")
    assert (place / BIG).exists()


def test_a_gated_model_says_where_to_accept_its_licence(retake: Retake, hub: LocalHub, store: WeightStore) -> None:
    for token in ({}, {"HF_TOKEN": "hf_of_somebody_who_did_not"}):
        refused = retake("pull", "svd-xt", **token)
        assert refused.code == 2
        assert f"https://huggingface.co/{SVD}" in refused.err
        assert "accept the licence" in refused.err
        assert "HF_TOKEN" in refused.err
    assert retake("pull", "svd-xt", HF_TOKEN="hf_accepted").code == 0
    place = store.place("svd-xt")
    # Half the download: the weights in 16 bits, under the names that are loaded.
    for file, stem in (("unet", WEIGHTS), ("vae", WEIGHTS), ("image_encoder", "model.safetensors")):
        half = stem.replace(".safetensors", ".fp16.safetensors")
        assert (place / file / stem).read_bytes() == hub.repositories[SVD].files[f"{file}/{half}"]
        assert not (place / file / half).exists()
    assert not (place / "svd_xt.safetensors").exists()


def test_what_the_hub_does_not_have_is_told(retake: Retake, hub: LocalHub) -> None:
    unknown = hub.repositories.pop(T2V)
    missing = retake("pull", "wan2.1-t2v-1.3b")
    assert missing.code == 2
    assert "no such repository" in missing.err
    assert "retake models import wan2.1-t2v-1.3b FOLDER" in missing.err
    hub.repositories[T2V] = unknown
    listed, unknown.files = unknown.files, dict(unknown.files)
    unknown.siblings = lambda: type(unknown)(listed).siblings()  # type: ignore[method-assign]
    del unknown.files[SHARDS[0]]
    gone = retake("pull", "wan2.1-t2v-1.3b")
    assert gone.code == 2
    assert SHARDS[0] in gone.err
    assert "no longer" in gone.err


def test_without_network_the_other_way_is_told(retake: Retake, hub: LocalHub, store: WeightStore) -> None:
    for more in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        failed = retake("pull", "wan2.1-t2v-1.3b", **more)
        assert failed.code == 2
        assert "another machine" in failed.err
        assert "retake models import wan2.1-t2v-1.3b FOLDER" in failed.err
    assert not hub.asked
    assert store.entry("wan2.1-t2v-1.3b").state == "missing"


def test_parts_that_nobody_published_are_not_asked_for(retake: Retake, hub: LocalHub) -> None:
    failed = retake("pull", "edit-by-track")
    assert failed.code == 2
    assert "nobody has published" in failed.err
    assert "import edit-by-track" in failed.err
    unknown = retake("pull", "../evil")
    assert unknown.code == 2
    assert "wan2.1-t2v-1.3b" in unknown.err
    assert not hub.asked


def test_a_disk_that_is_too_small_is_told_before_anything_comes(
    retake: Retake, hub: LocalHub, store: WeightStore
) -> None:
    hub.repositories[VACE].listed_bytes[BIG] = 10**17
    failed = retake("pull", "wan2.1-vace-1.3b")
    assert failed.code == 2
    assert "100000.0 TB" in failed.err
    assert "free" in failed.err
    assert "RETAKE_MODELS" in failed.err
    assert not hub.sent
    assert store.entry("wan2.1-vace-1.3b").state == "missing"


def test_what_two_models_share_is_fetched_and_kept_once(retake: Retake, hub: LocalHub, store: WeightStore) -> None:
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    hub.sent.clear()
    assert retake("pull", "wan2.1-t2v-1.3b").code == 0
    shared = ("text_encoder/model.safetensors", f"vae/{WEIGHTS}")
    for file in shared:
        assert hub.bytes_sent(file) == 0
        assert (store.place("wan2.1-t2v-1.3b") / file).samefile(store.place("wan2.1-vace-1.3b") / file)
    own = sum(store.entry("wan2.1-vace-1.3b").nbytes for _ in "1") - sum(
        (store.place("wan2.1-vace-1.3b") / file).stat().st_size for file in shared
    )
    freed = store.remove("wan2.1-vace-1.3b")
    assert abs(freed - own) < 10_000  # the rest stays, for the other; the manifest is small
    assert retake("verify", "wan2.1-t2v-1.3b").code == 0


def test_a_shared_file_that_was_damaged_there_is_fetched(retake: Retake, hub: LocalHub, store: WeightStore) -> None:
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    shared = store.place("wan2.1-vace-1.3b") / "text_encoder/model.safetensors"
    right = shared.read_bytes()
    shared.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    assert retake("pull", "wan2.1-t2v-1.3b").code == 0
    assert (store.place("wan2.1-t2v-1.3b") / "text_encoder/model.safetensors").read_bytes() == right


def test_a_repository_that_changed_meanwhile_is_pulled_as_it_is_now(
    retake: Retake, hub: LocalHub, models: Path, store: WeightStore
) -> None:
    hub.down.add("scheduler/scheduler_config.json")
    repository = hub.repositories[VACE]
    assert retake("pull", "wan2.1-vace-1.3b").code == 2
    hub.down.clear()
    hub.sent.clear()
    repository.commit = "9" * 40
    repository.files[SHARDS[0]] = weights(77)
    del repository.files["tokenizer/spiece.model"]
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    place = store.place("wan2.1-vace-1.3b")
    assert (place / SHARDS[0]).read_bytes() == repository.files[SHARDS[0]]
    assert not (place / "tokenizer/spiece.model").exists()
    assert hub.bytes_sent(BIG) == 0  # that one is the same
    assert json.loads((place / "retake_model.json").read_text())["commit"] == "9" * 40


def test_pulling_a_damaged_model_mends_it(retake: Retake, hub: LocalHub, store: WeightStore) -> None:
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    file = store.place("wan2.1-vace-1.3b") / SHARDS[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert retake("verify").code == 1
    hub.sent.clear()
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    assert {sent.path for sent in hub.sent} == {SHARDS[0]}
    assert retake("verify").code == 0


def test_a_repository_of_pickles_is_refused_before_anything_comes(retake: Retake, hub: LocalHub) -> None:
    files = hub.repositories[VACE].files
    for name in [name for name in files if name.startswith("transformer/") and name.endswith(".safetensors")]:
        del files[name]
    failed = retake("pull", "wan2.1-vace-1.3b")
    assert failed.code == 2
    assert "transformer" in failed.err
    assert "safetensors" in failed.err
    assert not hub.sent


def test_a_repository_cannot_write_outside_its_folder(
    retake: Retake, hub: LocalHub, models: Path, tmp_path: Path
) -> None:
    outside = ("../evil.json", "transformer/../../../evil.json", "/evil.json", "transformer/.hidden.json")
    on_windows = ("transformer/a\\..\\..\\evil.json", "transformer/C:evil.json", "LICENSE\\..\\evil.json")
    for path in outside + on_windows:
        hub.repositories[VACE].files[path] = as_json({})
    assert retake("pull", "wan2.1-vace-1.3b").code == 0
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.rglob(".hidden*"))
    assert not os.path.exists("/evil.json")


def test_a_model_of_another_kind_is_not_installed(retake: Retake, hub: LocalHub, store: WeightStore) -> None:
    hub.repositories[VACE].files["model_index.json"] = as_json({"_class_name": "WanPipeline"})
    failed = retake("pull", "wan2.1-vace-1.3b")
    assert failed.code == 2
    assert "WanVACEPipeline" in failed.err
    assert store.entry("wan2.1-vace-1.3b").state == "partial"
