"""What an engine is: the one interface between the job runners (worker, command line) and the renderers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from retake_shared.shot import Edit, RenderSettings, Solve

from ..footage import FootageReader


@dataclass(frozen=True)
class RenderRequest:
    """A whole job in plain data. `solve` and `edit` belong together (`Edit.check_against` has passed).

    first_frame: (H, W, 3) uint8 sRGB, an edited picture of the range's first frame at any size, or None.
    """

    footage: FootageReader
    solve: Solve
    edit: Edit
    settings: RenderSettings
    first_frame: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class RenderedFrame:
    """One finished frame of the take.

    index: footage frame number. rgb: (H, W, 3) uint8 sRGB. holes: (H, W) uint8, 255 where the footage shows nothing
    of this place and the engine had to invent it, 0 elsewhere.
    """

    index: int
    rgb: NDArray[np.uint8]
    holes: NDArray[np.uint8]


@dataclass(frozen=True)
class Progress:
    """done of total steps of `stage`, a word or two for the artist ("reading footage", "rendering").

    picture: (h, w, 3) uint8 sRGB at any size, a rough look at what is being made, or None.
    """

    stage: str
    done: int
    total: int
    picture: NDArray[np.uint8] | None = None


Report = Callable[[Progress], None]
"""Called often. Raises `retake_shared.errors.Cancelled` when the user wants the work to stop; engines let it pass."""


class Engine(Protocol):
    """A renderer. Constructing one is cheap; weights load inside `render`."""

    name: str
    version: str

    def render(self, request: RenderRequest, report: Report) -> Iterator[RenderedFrame]:
        """Yield the frames of the request's range in order. Same request, same device: same bytes."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What the last `render` had to decide, in words for the artist."""
        ...
