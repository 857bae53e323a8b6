"""The reprojection of an example: what the `preview` engine makes of it, as the small model's further input."""

from __future__ import annotations

from dataclasses import replace

from retake_shared.shot import RenderSettings

from ..engines.base import Progress, RenderRequest
from ..engines.diffusion.reprojection import Reprojection
from ..footage import FootageReader
from .pairs import Moved, Pair


def with_moved(pair: Pair) -> Pair:
    """The example with `moved`: its source along its edit, by the real preview. Raises BadShot."""
    with FootageReader.of_pictures(pair.source, pair.fps) as reader:
        request = RenderRequest(reader, pair.solve, pair.edit, RenderSettings())
        made = Reprojection(request, fill="smooth").frames(range(len(pair)), _silent)
    return replace(pair, moved=Moved(made.rgb, made.holes))


def _silent(progress: Progress) -> None:
    pass
