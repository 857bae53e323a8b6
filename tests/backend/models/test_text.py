"""Prompts to embeddings: as diffusers' own pipeline makes them, kept on disk, and nothing left in memory."""

import gc
import os
import shutil
import time
import weakref
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import WanPipeline
from retake_backend.models import memory, text
from retake_backend.models.random_weights import write_random
from retake_backend.models.text import CACHE, encode_prompts
from retake_shared.errors import BadFile, Cancelled
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import UMT5EncoderModel

NAME = "wan2.1-t2v-1.3b"
CPU = replace(memory.choose("cpu"), dtype=torch.float32, vae_dtype=torch.float32, text_dtype=torch.float32)
PROMPT = "A ball rolls &amp; bounces   through a room,\nwarm light."


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # tensors this small only wait for a second thread


@pytest.fixture(autouse=True, scope="module")
def _no_look_through_the_libraries():
    gc.freeze()  # every encoding ends with gc.collect(), which would go through all of torch's objects
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / NAME
    write_random(NAME, place)
    return place


@pytest.fixture
def place(written, tmp_path):
    """A model of its own in a store of its own, its cache empty."""
    shutil.copytree(written, tmp_path / NAME)
    return tmp_path / NAME


@contextmanager
def encoders_at_work():
    """Weak references to every text encoder that runs."""
    seen = []

    def note(module, args):
        if isinstance(module, UMT5EncoderModel):
            seen.append(weakref.ref(module))

    hook = register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def encode(place, prompts, profile=CPU, report=lambda progress: None):
    return encode_prompts(place, prompts, profile, report)


def cached(place):
    return sorted((place.parent / CACHE).glob("*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_those_of_the_stock_pipeline_bit_for_bit(place, dtype):
    prompts = [PROMPT, "", "The Earth â€“ seen from &lt;above&gt;", "long " * 300]
    pipe = WanPipeline.from_pretrained(place, dtype=dtype)
    profile = replace(CPU, text_dtype=dtype)
    for _ in range(2):  # fresh, then from the disk
        encoded = encode(place, prompts, profile)
        for prompt in prompts:
            with torch.no_grad():  # as the pipeline itself calls it
                expected, negative = pipe.encode_prompt(prompt, negative_prompt="", max_sequence_length=512)
            embedding = encoded.of(prompt)
            assert embedding.shape == (1, 512, 32)
            assert embedding.dtype == dtype
            assert torch.equal(embedding, expected)
            assert torch.equal(encoded.of(""), negative)
    assert not torch.equal(encoded.of(PROMPT), encoded.of(""))


def test_a_known_prompt_needs_no_text_encoder_not_even_on_disk(place):
    with encoders_at_work() as seen:
        first = encode(place, [PROMPT, "blurry"])
        assert len(seen) == 2
        encode(place, [PROMPT, "blurry", PROMPT])
        assert len(seen) == 2
        # 11 GB that a user may want back: what is known stays known.
        shutil.rmtree(place / "text_encoder")
        shutil.rmtree(place / "tokenizer")
        again = encode(place, ["blurry", PROMPT])
        assert len(seen) == 2
    for prompt in (PROMPT, "blurry"):
        assert torch.equal(first.of(prompt), again.of(prompt))
    with pytest.raises(BadFile, match="Pull the model again"):
        encode(place, ["something new"])


def test_only_what_is_new_is_encoded_and_the_same_text_once(place):
    with encoders_at_work() as seen:
        encode(place, ["a room"])
        encoded = encode(place, ["a room", "a  room ", "a hall", " a hall"])
        assert len(seen) == 2
    assert torch.equal(encoded.of("a room"), encoded.of("a  room "))
    assert torch.equal(encoded.of("a hall"), encoded.of(" a hall"))


def test_the_embedding_of_a_prompt_does_not_depend_on_its_neighbours(place):
    together = encode(place, ["a room", "a very much longer prompt of a hall"])
    shutil.rmtree(place.parent / CACHE)
    assert torch.equal(encode(place, ["a room"]).of("a room"), together.of("a room"))


def test_the_text_encoder_is_gone_afterwards(place):
    with encoders_at_work() as seen:
        encoded = encode(place, [PROMPT])
    assert seen
    assert all(each() is None for each in seen), "11 GB would stay in memory while the video model loads"
    assert encoded.of(PROMPT).untyped_storage().nbytes() == 512 * 32 * 4, "an embedding keeps a larger tensor alive"


def test_the_text_encoder_is_gone_after_a_stop_too(place):
    def stop(progress):
        if progress.done == 1:
            raise Cancelled

    with encoders_at_work() as seen:
        try:
            encode(place, [PROMPT], report=stop)
        except Cancelled:
            pass
        else:
            pytest.fail("it was not stopped")
    gc.collect()
    assert seen
    assert all(each() is None for each in seen)
    assert cached(place) == []
    assert encode(place, [PROMPT]).of(PROMPT).shape == (1, 512, 32)


def test_progress_is_told_layer_by_layer(place):
    told = []
    encode(place, ["a", "b"], report=told.append)
    assert {each.stage for each in told} == {"reading the prompt"}
    assert [(each.done, each.total) for each in told] == [(0, 1), (0, 4), (1, 4), (2, 4), (3, 4), (1, 1)]
    told.clear()
    encode(place, ["a", "b"], report=told.append)
    assert [(each.done, each.total) for each in told] == [(0, 1), (1, 1)]


def test_a_huge_prompt_is_cut_and_told_each_time(place):
    huge = "word " * 20_000 + "END"
    began = time.monotonic()
    for _ in range(2):
        encoded = encode(place, [huge, "short"])
        (note,) = encoded.notes
        assert "has 100005 tokens, of which the model reads 512" in note
        assert len(note) < 200
    assert time.monotonic() - began < 10
    assert encoded.of(huge).abs().sum(-1).gt(0).all()
    assert encode(place, ["word " * 100]).notes == ()  # 501 tokens


def test_broken_characters_are_no_reason_to_fail(place):
    for prompt in ("\ud800 alone", "nul \x00 and \x1b[31m", "🎬 名前 \u202e", "</s><pad></s>", "\n\t "):
        assert encode(place, [prompt]).of(prompt).isfinite().all()


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "flipped", "another tensor", "a folder"])
def test_a_damaged_cache_file_is_made_again(place, damage):
    expected = encode(place, [PROMPT]).of(PROMPT)
    (path,) = cached(place)
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-7])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "garbage":
        path.write_bytes(b"\x80\x04c__main__\n" * 50)
    elif damage == "flipped":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "another tensor":
        save_file({"tokens": torch.zeros(600, 32)}, path)
    else:
        path.unlink()
        path.mkdir()
    with encoders_at_work() as seen:
        assert torch.equal(encode(place, [PROMPT]).of(PROMPT), expected)
        assert len(seen) == 1
        assert torch.equal(encode(place, [PROMPT]).of(PROMPT), expected)
        assert len(seen) == (2 if damage == "a folder" else 1)
    assert cached(place) == [path]


def test_another_text_encoder_or_precision_does_not_get_the_embeddings_of_this_one(place):
    first = encode(place, [PROMPT]).of(PROMPT)
    other = place.with_name("other")
    shutil.move(place, other)
    write_random(NAME, place, seed=1)
    second = encode(place, [PROMPT]).of(PROMPT)
    assert not torch.equal(first, second)
    half = encode(place, [PROMPT], replace(CPU, text_dtype=torch.bfloat16)).of(PROMPT)
    assert half.dtype == torch.bfloat16
    assert torch.equal(encode(place, [PROMPT]).of(PROMPT), second)


def test_models_with_the_same_text_encoder_share_prompts(place):
    fast = place.with_name("fastwan2.1-t2v-1.3b")
    write_random(fast.name, fast)
    for part in ("text_encoder", "tokenizer"):
        files = [sorted(p.name for p in (each / part).iterdir()) for each in (place, fast)]
        assert files[0] == files[1]
    same = all(
        torch.equal(value, load_file(fast / "text_encoder" / "model.safetensors")[key])
        for key, value in load_file(place / "text_encoder" / "model.safetensors").items()
    )
    with encoders_at_work() as seen:
        encode(place, [PROMPT])
        encode(fast, [PROMPT])
        assert len(seen) == (1 if same else 2)
    assert same, "this test is of two models that share their text encoder"


@pytest.mark.parametrize("name", [NAME, "a folder of my own"])
def test_a_model_without_a_manifest_is_encoded_each_time(place, name):
    expected = encode(place, [PROMPT]).of(PROMPT)
    (place / "retake_model.json").unlink()
    place = place.rename(place.with_name(name))
    with encoders_at_work() as seen:
        assert torch.equal(encode(place, [PROMPT]).of(PROMPT), expected)
        assert len(seen) == 1


def test_a_cache_that_cannot_be_written_costs_time_only(place):
    (place.parent / ".cache").write_text("a file where the folder should be")
    assert encode(place, [PROMPT]).of(PROMPT).shape == (1, 512, 32)


def test_the_cache_does_not_grow_for_ever(place, monkeypatch):
    monkeypatch.setattr(text, "_KEPT", 3)
    encode(place, ["a"])
    (oldest,) = cached(place)
    os.utime(oldest, (1, 1))
    encode(place, ["b", "c"])
    encode(place, ["a"])  # used again: now the newest
    for path in cached(place):
        if path != oldest:
            os.utime(path, (2, 2))
    encode(place, ["d"])
    assert len(cached(place)) == 3
    assert oldest in cached(place)
    assert not [path for path in cached(place) if path.suffix != ".safetensors"]


@pytest.mark.parametrize(
    "part", ["tokenizer/tokenizer.json", "text_encoder/config.json", "text_encoder/model.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_damaged_weights_are_named(place, part, damage):
    path = place / part
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "truncated" else b"\x80\x04." * 99)
    with pytest.raises(BadFile, match="Pull the model again") as caught:
        encode(place, [PROMPT])
    assert caught.value.where == str(place / part.split("/")[0])


def test_weights_that_do_not_fit_are_named_and_not_made_up(place):
    path = place / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    key = next(key for key in weights if "wo" in key)
    save_file({k: v for k, v in weights.items() if k != key}, path, {"format": "pt"})
    with pytest.raises(BadFile, match=f"missing weight.*{key}"):
        encode(place, [PROMPT])
    save_file(weights | {key: weights[key][:, :8].contiguous()}, path, {"format": "pt"})
    with pytest.raises(BadFile, match="mismatched weight"):
        encode(place, [PROMPT])


def test_pickled_weights_are_never_opened(place, tmp_path):
    weights = place / "text_encoder" / "model.safetensors"
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    torch.save({"shared.weight": Trap()}, place / "text_encoder" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(BadFile):
        encode(place, [PROMPT])
    assert not trap.exists()
