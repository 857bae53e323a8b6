"""Prompts -> text embeddings, as diffusers' Wan pipelines make them, kept on disk.

The text encoder is by far the largest part of the model (5.7 billion weights beside 1.4). It is loaded only for a
prompt that is new to it, and let go of before anything else loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..engines.base import Report
from .memory import Profile

TEXT_TOKENS = 512
"""Length of an embedding; the model was trained on this many."""


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
    raise NotImplementedError
