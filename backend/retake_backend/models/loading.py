"""Models of diffusers and transformers from folders: safetensors only, nothing from a hub, every weight where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retake_shared.errors import BadFile
from safetensors import SafetensorError

from . import memory

PULL_AGAIN = "Pull the model again."


def pretrained(
    kind: Any,
    source: Path | str,
    name: str,
    where: Path | str,
    remedy: str = PULL_AGAIN,
    *,
    others: bool = False,
    **options: Any,
) -> Any:
    """`kind.from_pretrained` of a folder. name, where, remedy: of the model, in errors. others: weights that the model
    does not know are passed over. options: of `from_pretrained`.

    Raises BadFile naming what is damaged or the first weight that does not fit; too little memory is no damage, and
    passes as it is.
    """
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True, **options}
    try:
        model, found = kind.from_pretrained(str(source), **options)
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if memory.in_words(error) is not None:
            raise
        raise BadFile(f"is no {name} in safetensors ({error}).", str(where), remedy) from error
    for what in ("missing", "unexpected")[: 1 if others else 2]:
        keys = sorted(found[f"{what}_keys"])
        if keys:
            raise BadFile(f'{what} weight "{keys[0]}" ({len(keys)} in all).', str(where), remedy)
    return model
