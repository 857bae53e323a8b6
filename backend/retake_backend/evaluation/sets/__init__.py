"""What engines are measured on: sets of items, each an example (`training.pairs.Pair`) with what is known of its truth.

`open_set` takes a name or a folder and tells by its content what it is. One module per kind: `own` (the sample shot,
generated scenes, Retake's data sets and folders), `shifted` (footage that is its own truth), `realestate`, `dycheck`,
`davis`. Items are loaded one by one, so that one that is damaged costs only itself.
"""

from __future__ import annotations

from pathlib import Path

from retake_shared.errors import BadFile, RetakeError

from . import davis, dycheck, own, realestate, shifted
from .items import Item, ItemSet

__all__ = ["Item", "ItemSet", "open_set"]

_KNOWN = (
    "Use sample, held-out, shifted:FOOTAGE:SOLVE:K, or the folder of a Retake data set, of examples (solve.npz, edit.npz, "
    "source, target in a folder each), of DyCheck, of RealEstate10K (camera .txt files and clips) or of DAVIS "
    "(JPEGImages)."
)


def open_set(text: str) -> ItemSet:
    """The set of that name, or in that folder. Raises RetakeError saying what is wrong or what there is."""
    if text == "sample":
        return own.sample()
    if text == "held-out":
        return own.held_out()
    if text.startswith("shifted:"):
        return shifted.open_named(text)
    folder = Path(text)
    if not folder.exists():
        raise RetakeError("is neither a set nor a folder.", text, _KNOWN)
    for kind in (own.open_data_set, dycheck.open_folder, davis.open_folder, realestate.open_folder, own.open_folders):
        found = kind(folder)
        if found is not None:
            return found
    raise BadFile("holds no set that is known.", text, _KNOWN)
