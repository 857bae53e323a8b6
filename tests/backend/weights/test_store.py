"""What is installed, as the user is told: missing, partial, damaged, random; and what removing frees."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from retake_backend.weights import commands, shipped
from retake_backend.weights.catalogue import CATALOGUE
from retake_backend.weights.store import MissingWeights, WeightStore, put_in_place, write_manifest
from retake_shared import engine_options
from retake_shared.errors import BadFile, RetakeError

from .conftest import Ran, wan, write_folder

Retake = Callable[..., Ran]
VACE = "wan2.1-vace-1.3b"


@pytest.fixture
def installed(store: WeightStore) -> Path:
    """VACE as it stands after a pull."""
    files = wan("WanVACEPipeline", "WanVACETransformer3DModel", 30)
    unwanted = {"README.md", "Wan2.1_VAE.pth", "modeling.py", "transformer/diffusion_pytorch_model.bin"}
    place = write_folder({name: files[name] for name in files.keys() - unwanted}, store.folder / VACE)
    write_manifest(place, VACE, repository="Wan-AI/x", commit="2" * 40, licence="Apache-2.0")
    return place


def quiet(done: int, total: int, stage: str) -> None:
    pass


def test_every_engine_names_weights_that_the_catalogue_has() -> None:
    named = {name for engine in engine_options.ENGINES for name in engine.weights}
    assert named <= CATALOGUE.keys()
    along = {name for engine in engine_options.ENGINES if engine.shipped for name in engine.weights}
    assert along == {name for name, model in CATALOGUE.items() if model.kind == "own"}
    assert {"wan2.1-t2v-1.3b", "wan2.1-vace-1.3b", "fastwan2.1-t2v-1.3b", "svd-xt"} <= CATALOGUE.keys()


def test_what_is_missing_is_said_with_size_licence_and_command(store: WeightStore) -> None:
    assert {entry.state for entry in store.entries() if not entry.shipped} == {"missing"}
    with pytest.raises(MissingWeights) as one:
        store.place("svd-xt")
    for words in ("svd-xt", "4.5 GB", "Stability AI Community License", "retake models pull svd-xt"):
        assert words in str(one.value)
    with pytest.raises(MissingWeights) as both:
        store.require(["wan2.1-t2v-1.3b", "edit-by-track"])
    assert [model.name for model in both.value.models] == ["wan2.1-t2v-1.3b", "edit-by-track"]
    assert "17.6 GB, Apache-2.0" in str(both.value)
    assert "retake models import edit-by-track FOLDER" in str(both.value)
    assert [model.name for model in store.missing(["svd-xt"])] == ["svd-xt"]
    with pytest.raises(RetakeError, match="no model of the catalogue"):
        store.entry("../../etc")


def test_an_installed_model_is_found_by_name(store: WeightStore, installed: Path, retake: Retake) -> None:
    entry = store.entry(VACE)
    assert (entry.state, entry.place, entry.random, entry.licence) == ("installed", installed, False, "Apache-2.0")
    assert entry.nbytes == entry.total > 5_000_000
    assert store.place(VACE) == installed
    assert not store.missing([VACE])
    told = json.loads(retake("list", "--json").out)
    assert told["place"] == str(store.folder)
    rows = {row["name"]: row for row in told["models"]}
    assert rows.keys() == CATALOGUE.keys()
    assert (rows[VACE]["state"], rows[VACE]["bytes"]) == ("installed", entry.nbytes)
    table = retake("list").out
    for name in CATALOGUE:
        assert name in table
    assert str(store.folder) in table


def test_what_comes_with_the_backend_is_here_and_cannot_be_taken_away(
    store: WeightStore, retake: Retake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = store.entry("draft")
    assert (entry.state, entry.shipped, entry.place) == ("installed", True, shipped.SHIPPED / "draft")
    assert store.place("draft") == entry.place
    rows = {row["name"]: row for row in json.loads(retake("list", "--json").out)["models"]}
    assert rows["draft"]["shipped"]
    assert not rows[VACE]["shipped"]
    (line,) = [line for line in retake("list").out.splitlines() if line.startswith("draft ")]
    assert "Apache-2.0" in line
    assert line.endswith("comes with the backend")
    assert "no model is installed" in retake("verify").out
    assert "none of" in commands.summary(store)
    verified = retake("verify", "draft")
    assert verified.code == 2
    assert "no checksums" in verified.err
    assert "stays" in retake("remove", "draft", "--yes").out
    pulled = retake("pull", "draft")
    assert (pulled.code, "installed already" in pulled.out) == (0, True)
    assert retake("random", "draft").code == 2
    assert (entry.place / shipped.WEIGHTS).is_file()
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path)  # a backend that came without it
    with pytest.raises(MissingWeights, match=r"comes with the backend.*retake models import draft FOLDER"):
        store.place("draft")


def test_listing_reads_no_weights(store: WeightStore) -> None:
    """The panel asks for the list while Blender waits; 40 GB are not to be read for it."""
    place = store.folder / VACE
    place.mkdir(parents=True)
    with (place / "model.safetensors").open("wb") as file:
        file.truncate(40_000_000_000)  # a hole: nothing on the disk, days of zeros to hash
    write_manifest(place, VACE, hashes={"model.safetensors": "0" * 64})
    began = time.monotonic()
    entries = store.entries()
    assert time.monotonic() - began < 0.5
    assert next(entry for entry in entries if entry.model.name == VACE).nbytes == 40_000_000_000


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_file_of_another_size_is_seen_at_once(store: WeightStore, installed: Path, how: str) -> None:
    file = installed / "text_encoder/model.safetensors"
    if how == "cut":
        os.truncate(file, 5)
    else:
        file.unlink()
    assert store.entry(VACE).state == "damaged"
    with pytest.raises(MissingWeights, match=r"is damaged .*text_encoder/model\.safetensors.*retake models pull"):
        store.place(VACE)
    assert [model.name for model in store.missing([VACE])] == [VACE]


def test_verify_finds_one_wrong_bit_and_remembers_it(store: WeightStore, installed: Path, retake: Retake) -> None:
    assert retake("verify", VACE).code == 0
    file = installed / "vae/diffusion_pytorch_model.safetensors"
    right = file.read_bytes()
    file.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    assert store.entry(VACE).state == "installed"
    found = retake("verify", VACE)
    assert found.code == 1
    assert "vae/diffusion_pytorch_model.safetensors" in found.err
    assert "transformer" not in found.err.split("retake:")[1]
    assert store.entry(VACE).state == "damaged"
    assert "vae/diffusion_pytorch_model.safetensors" in retake("list").out
    file.write_bytes(right)
    assert retake("verify").code == 0
    assert store.entry(VACE).state == "installed"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "svd-xt"},
        {"retake_model": 2},
        {"files": {}},
        {"files": {"../../secret": {"bytes": 1, "sha256": ""}}},
        {"files": {"/etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"files": ["a"]},
        {"files": {"a": {"bytes": "many"}}},
        {"files": {"a": {"bytes": float("inf"), "sha256": ""}}},
        {"files": {"a\0b": {"bytes": 1, "sha256": ""}}},
        {"files": {"\ud800": {"bytes": 1, "sha256": ""}}},
    ],
)
def test_a_manifest_that_was_tampered_with_is_no_installed_model(
    store: WeightStore, installed: Path, change: dict[str, object]
) -> None:
    path = installed / "retake_model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    entry = store.entry(VACE)
    assert entry.state == "damaged"
    assert "retake_model.json" in entry.damage
    with pytest.raises(MissingWeights):
        store.place(VACE)
    with pytest.raises(BadFile, match=r"retake_model\.json"):
        store.verify(VACE, quiet)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '{"retake_model": 1}'])
def test_a_manifest_that_is_none_is_told(store: WeightStore, installed: Path, content: str) -> None:
    (installed / "retake_model.json").write_text(content)
    assert store.entry(VACE).state == "damaged"


def test_a_folder_put_there_by_hand_is_not_taken_for_a_model(store: WeightStore, installed: Path) -> None:
    (installed / "retake_model.json").unlink()
    entry = store.entry(VACE)
    assert entry.state == "damaged"
    assert "retake_model.json" in entry.damage


def test_removing_asks_and_says_what_is_free_again(
    store: WeightStore, installed: Path, retake: Retake, environment: dict[str, str]
) -> None:
    refused = retake("remove", VACE)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert store.entry(VACE).state == "installed"

    def asked(answer: str) -> str:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "retake_backend.cli", "models", "remove", VACE]
        process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, text=True, env=environment)
        os.write(ours, f"{answer}\n".encode())
        said = process.communicate(timeout=20)[0]
        os.close(ours)
        os.close(theirs)
        return said

    said = asked("")
    assert f"Remove {VACE} (5.3 MB" in said
    assert "kept" in said
    assert store.entry(VACE).state == "installed"
    assert "5.3 MB are free again" in asked("y")
    assert not installed.exists()
    assert "is not here" in retake("remove", VACE, "--yes").out


@pytest.fixture
def elsewhere(installed: Path, tmp_path: Path) -> Path:
    """Where the installed model really lies: its place in the store is a link."""
    place = tmp_path / "elsewhere"
    os.replace(installed, place)
    installed.symlink_to(place)
    return place


def test_removing_a_model_that_is_elsewhere_leaves_it_there(store: WeightStore, elsewhere: Path) -> None:
    assert store.entry(VACE).state == "installed"
    store.remove(VACE)
    assert store.entry(VACE).state == "missing"
    assert (elsewhere / "model_index.json").exists()


def test_a_model_that_is_elsewhere_is_replaced_again_and_again(
    store: WeightStore, installed: Path, elsewhere: Path
) -> None:
    for _ in range(2):
        whole = write_folder({"model_index.json": b"new"}, store.folder / ".incoming" / VACE)
        put_in_place(store, VACE, whole)
        assert (installed / "model_index.json").read_bytes() == b"new"
        assert not os.path.lexists(store.folder / ".incoming" / f"{VACE}.removed")
    store.remove(VACE)
    assert not installed.exists()
    assert (elsewhere / "model_index.json").read_bytes() != b"new"


def test_a_model_that_cannot_be_replaced_stays(
    store: WeightStore, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_folder({"model_index.json": b"new"}, store.folder / ".incoming" / VACE)
    replace = os.replace

    def in_use(source: Path, target: Path) -> None:
        if Path(source) == whole:
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", in_use)
    with pytest.raises(PermissionError):
        put_in_place(store, VACE, whole)
    assert store.entry(VACE).state == "installed"


def test_removing_also_clears_what_a_stopped_pull_left(store: WeightStore) -> None:
    left = write_folder({"a.part": b"x" * 1000}, store.folder / ".incoming" / VACE)
    assert store.entry(VACE).state == "partial"
    assert store.remove(VACE) == 1000
    assert not left.exists()
    assert store.entry(VACE).state == "missing"


def test_random_models_of_every_name_are_told_apart(store: WeightStore, retake: Retake) -> None:
    from retake_backend.models.random_weights import write_random

    for name in CATALOGUE:
        write_random(name, store.folder / name)
    assert {entry.state for entry in store.entries()} == {"installed"}
    assert all(entry.random and entry.licence == "CC0-1.0" for entry in store.entries())
    assert store.random("svd-xt")
    assert retake("list").out.count("random weights") == len(CATALOGUE)
    assert retake("verify").code == 0


def test_the_doctors_line_names_the_models(store: WeightStore, installed: Path) -> None:
    line = commands.summary(store)
    assert str(store.folder) in line
    assert f"{VACE} (installed)" in line
    os.truncate(installed / "text_encoder/model.safetensors", 5)
    assert f"{VACE} (damaged)" in commands.summary(store)


def test_the_folder_is_the_users_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: WeightStore
) -> None:
    monkeypatch.setenv("RETAKE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RETAKE_MODELS", raising=False)
    plain = WeightStore()
    assert plain.folder == tmp_path / "home" / "models"
    with pytest.raises(MissingWeights, match=r"Run: retake models pull svd-xt\.$"):
        plain.place("svd-xt")
    # The add-on keeps a folder of its own, which a command typed elsewhere must be told of.
    with pytest.raises(MissingWeights) as missing:
        store.place("svd-xt")
    assert f"pull svd-xt --models '{store.folder}'" in str(missing.value)
    monkeypatch.setenv("RETAKE_MODELS", str(store.folder))
    assert WeightStore().folder == store.folder
