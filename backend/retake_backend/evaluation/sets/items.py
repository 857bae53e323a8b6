"""An item of a set, and a set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadFile, BadShot

from ...training.pairs import Moved, Pair

MOST_FRAMES = 81
"""Frames that an item of a public set has at most: what the papers render."""


@dataclass(frozen=True)
class Item:
    """What an engine is asked for, and what came of it in truth.

    truth: whether `pair.target` is what the edit asks for; where nobody has filmed that it is the source again.
    covisible: (F, H, W) bool, the places of the target that the source shows, where the set says so.
    """

    pair: Pair
    truth: bool = True
    covisible: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.covisible is not None and self.covisible.shape != self.pair.target.shape[:3]:
            raise BadShot(f"shape is {self.covisible.shape}.", "covisible", f"Expected {self.pair.target.shape[:3]}.")

    def resized(self, width: int, height: int) -> Item:
        """The same with pictures of width x height px. Raises BadShot when that would squeeze them."""
        if self.pair.size == (width, height):
            return self
        pair, size = self.pair, (width, height)
        edit = replace(pair.edit, cameras=pair.edit.cameras.resized(*size))
        solve = replace(pair.solve, cameras=pair.solve.cameras.resized(*size))
        if abs(pair.size[0] * height - pair.size[1] * width) > max(*pair.size, *size):
            raise BadShot(
                f"{width}x{height} has not the proportions of {pair.size[0]}x{pair.size[1]}.", "--size",
                f"Use for example {width}x{round(width * pair.size[1] / pair.size[0])}.",
            )  # fmt: skip
        moved = pair.moved and Moved(_scaled(pair.moved.rgb, size), _scaled_mask(pair.moved.holes, size))
        source, target = _scaled(pair.source, size), _scaled(pair.target, size)
        covisible = None if self.covisible is None else _scaled_mask(self.covisible, size)
        return replace(
            self,
            pair=replace(pair, source=source, target=target, solve=solve, edit=edit, moved=moved),
            covisible=covisible,
        )


@dataclass(frozen=True)
class ItemSet:
    """name: for the report. items: their names, each once. load: the item of a number; raises RetakeError."""

    name: str
    items: tuple[str, ...]
    load: Callable[[int], Item]


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object. what: the kind of set that wants it, for errors. Raises BadFile."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadFile(f"is missing; {what} has it.", str(path), "Copy the set again.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"is not JSON ({error!s:.80}).", str(path), "Copy the set again.") from error
    if not isinstance(value, dict):
        raise BadFile("is not a JSON object.", str(path), "Copy the set again.")
    return value


def stacked(pictures: list[NDArray[np.uint8]], where: str) -> NDArray[np.uint8]:
    """(F, ...) of pictures of one size. Raises BadFile."""
    shapes = {picture.shape for picture in pictures}
    if len(shapes) != 1:
        raise BadFile(f"has pictures of {len(shapes)} sizes.", where, "All frames must have one size.")
    return np.stack(pictures)


def _scaled(video: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    way = cv2.INTER_AREA if size[0] <= video.shape[2] else cv2.INTER_CUBIC
    return np.stack([np.asarray(cv2.resize(picture, size, interpolation=way), np.uint8) for picture in video])


def _scaled_mask(masks: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.stack([cv2.resize(m.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0 for m in masks])
