"""Prompts -> text embeddings, as diffusers' Wan pipelines make them, kept on disk.

The text encoder is by far the largest part of the model (5.7 billion weights beside 1.4). It is loaded only for a
prompt that is new to it, and let go of before anything else loads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from retake_shared.errors import BadFile, RetakeError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils import logging

from ..engines.base import Progress, Report
from ..weights.store import read_manifest
from . import memory
from .memory import Profile

TEXT_TOKENS = 512
"""Length of an embedding; the model was trained on this many."""
CACHE = Path(".cache") / "prompts"
"""Under the folder of models."""
_KEPT = 256
"""Cached prompts, the most recently used; at most 4 MB each in bfloat16."""
_STAGE = "reading the prompt"


@dataclass(frozen=True)
class EncodedPrompts:
    """Embeddings by prompt, on the CPU. notes: what was cut, in words for the artist."""

    embeddings: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    def of(self, prompt: str) -> Tensor:
        """(1, 512, text_dim) of one of the prompts that were encoded, zero after its tokens. Raises KeyError."""
        return self.embeddings[prompt]


def encode_prompts(place: Path, prompts: Sequence[str], profile: Profile, report: Report) -> EncodedPrompts:
    """Embeddings of all prompts; the empty prompt is one, too.

    place: the base model's folder in diffusers' layout. The cache lies beside it, in `.cache/prompts`. A prompt of
    more than 512 tokens is cut and told. Raises BadFile when tokenizer or text encoder are damaged, Cancelled.
    """
    report(Progress(_STAGE, 0, 1))
    cleaned: dict[str, str] = {prompt: prompt_clean(prompt) for prompt in prompts}  # type: ignore[no-untyped-call]
    cache = _Cache.of(place, profile)
    texts = dict.fromkeys(cleaned.values())
    known = {text: found for text in texts if cache and (found := cache.read(text))}
    new = [text for text in texts if text not in known]
    if new:
        made = _encode(place, new, profile, report)
        memory.release()
        for text, embedding in made.items():
            if cache:
                cache.write(text, embedding)
        known |= made
    report(Progress(_STAGE, 1, 1))
    return EncodedPrompts(
        {prompt: known[text].padded() for prompt, text in cleaned.items()},
        tuple(known[text].note for text in texts if known[text].note),
    )


@dataclass(frozen=True)
class _Embedding:
    """tokens: (tokens, text_dim) on the CPU, without what fills them up to 512. note: what was cut, or ""."""

    tokens: Tensor
    note: str

    def padded(self) -> Tensor:
        missing = self.tokens.new_zeros(TEXT_TOKENS - len(self.tokens), self.tokens.shape[1])
        return torch.cat([self.tokens, missing])[None]


@dataclass(frozen=True)
class _Cache:
    """Embeddings on disk, one file each. identity: of text encoder, tokenizer, precision and kind of device."""

    folder: Path
    identity: str

    @classmethod
    def of(cls, place: Path, profile: Profile) -> _Cache | None:
        """The cache beside a model; None when nothing says exactly which text encoder the model has.

        The hashes of its manifest do, without a look at the 11 GB; models with the same text encoder share prompts.
        """
        try:
            files = read_manifest(place, place.name).files
        except RetakeError:
            return None
        parts = {name: entry for name, entry in files.items() if name.startswith(("text_encoder/", "tokenizer/"))}
        what = [sorted(parts.items()), str(profile.text_dtype), profile.text_device.type, TEXT_TOKENS]
        return cls(place.parent / CACHE, hashlib.sha256(json.dumps(what).encode()).hexdigest())

    def read(self, text: str) -> _Embedding | None:
        """None for a new prompt; a file that is not what was written is removed."""
        path = self._path(text)
        try:
            with safe_open(path, "pt") as file:
                tokens, said = file.get_tensor("tokens"), file.metadata() or {}
            if said.get("sha256") != _digest(tokens):
                raise ValueError("the embedding is not what was written")
            os.utime(path)
            return _Embedding(tokens, said["note"])
        except FileNotFoundError:
            return None
        except (OSError, KeyError, ValueError, SafetensorError):
            _remove(path)
            return None

    def write(self, text: str, embedding: _Embedding) -> None:
        """Keep an embedding. A disk that takes none costs time at the next take, nothing else."""
        path = self._path(text)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        metadata = {"sha256": _digest(embedding.tokens), "note": embedding.note}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(save({"tokens": embedding.tokens.contiguous()}, metadata))
            os.replace(part, path)
            by_age = sorted(self.folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
        except OSError:
            _remove(part)
            return
        for old in by_age[_KEPT:]:
            _remove(old)

    def _path(self, text: str) -> Path:
        name = hashlib.sha256(f"{self.identity} {text}".encode()).hexdigest()
        return self.folder / f"{name}.safetensors"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _digest(tokens: Tensor) -> str:
    raw = tokens.contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(f"{tokens.dtype} {tuple(tokens.shape)}".encode() + raw.tobytes()).hexdigest()


def _encode(place: Path, texts: Sequence[str], profile: Profile, report: Report) -> dict[str, _Embedding]:
    """Load the text encoder, encode each text by itself (so that it never depends on the others), let go of it."""
    tokenizer, encoder = _load(place, profile)
    memory.place(encoder, profile, "text")
    layers = len(encoder.encoder.block)
    done = 0

    def before_layer(module: Any, args: Any) -> None:
        nonlocal done
        report(Progress(_STAGE, done, layers * len(texts)))
        done += 1

    for block in encoder.encoder.block:
        block.register_forward_pre_hook(before_layer)
    embeddings = {}
    for text in texts:
        whole = tokenizer(text, add_special_tokens=True, verbose=False).input_ids
        inputs = tokenizer(
            [text],
            padding="max_length",
            max_length=TEXT_TOKENS,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(profile.text_device)
        with torch.no_grad():
            states = encoder(inputs.input_ids, inputs.attention_mask).last_hidden_state
        tokens = states[0, : int(inputs.attention_mask.sum())].to("cpu", copy=True)
        note = ""
        if len(whole) > TEXT_TOKENS:
            last = tokenizer.decode(whole[TEXT_TOKENS - 9 : TEXT_TOKENS - 1]).strip()
            note = (
                f'The prompt "{text[:30]}..." has {len(whole)} tokens, of which the model reads {TEXT_TOKENS}: '
                f'it was cut behind "...{last}".'
            )
        embeddings[text] = _Embedding(tokens, note)
    return embeddings


def _load(place: Path, profile: Profile) -> tuple[Any, Any]:
    """Tokenizer and text encoder. Raises BadFile naming what is damaged or missing."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the user is told by `report`
    again = "Pull the model again."
    folder = place / "tokenizer"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        raise BadFile("has no vocabulary.", str(folder), again)  # transformers would make one up
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(place), subfolder="tokenizer", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises bare exceptions for damaged files
        raise BadFile(f"is no tokenizer ({error}).", str(folder), again) from error
    where = str(place / "text_encoder")
    if not (place / "text_encoder" / "config.json").is_file():
        raise BadFile("has no config.json.", where, again)  # transformers would take its defaults
    umt5: Any = UMT5EncoderModel
    try:
        encoder, found = umt5.from_pretrained(
            str(place),
            subfolder="text_encoder",
            dtype=profile.text_dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # so that they are named below
            output_loading_info=True,
        )
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BadFile(f"is no UMT5 in safetensors ({error}).", where, again) from error
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if found[kind]:
            first = sorted(map(str, found[kind]))[0]
            raise BadFile(f"{kind.split('_')[0]} weight {first} ({len(found[kind])} in all).", where, again)
    return tokenizer, encoder.eval().requires_grad_(False)
