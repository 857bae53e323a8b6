"""One job as a stream: the frames of a take in order, then the take itself. The worker and `retake render` share it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from dataclasses import dataclass

from retake_shared.errors import BadShot
from retake_shared.shot import Take

from . import engines
from .engines.base import RenderedFrame, RenderRequest, Report


@dataclass(frozen=True)
class InputHashes:
    """sha256 in hex of the exact bytes a take is made from; they name the inputs in `take.json`."""

    footage: str
    solve: str
    edit: str
    first_frame: str = ""


def render_take(request: RenderRequest, hashes: InputHashes, report: Report) -> Iterator[RenderedFrame | Take]:
    """Yield every frame of the request's range in order, then the Take that describes them.

    Raises BadShot before the first frame when footage, solve, edit and settings do not fit together; lets the
    engine's own errors and Cancelled (from `report`) pass.
    """
    footage, settings = request.footage.footage, request.settings
    request.edit.check_against(request.solve)
    if footage.frames < len(request.solve):  # a solve may cover only the footage's first frames
        raise BadShot(
            f"the footage has {footage.frames} frames, the solve {len(request.solve)}.",
            "solve",
            "Import the solve again together with this footage: the import fits one to the other.",
        )
    start, stop = settings.frame_range(request.solve)
    engine = engines.create(settings.engine)

    began = time.monotonic()
    width, height = settings.size or (footage.width, footage.height)
    for expected, frame in zip(range(start, stop), engine.render(request, report), strict=True):
        if frame.index != expected:
            raise RuntimeError(f"engine {engine.name} gave frame {frame.index} where {expected} was due")
        height, width = frame.rgb.shape[:2]
        yield frame
    yield Take(
        settings=settings,
        footage_sha256=hashes.footage,
        solve_sha256=hashes.solve,
        edit_sha256=hashes.edit,
        first_frame_sha256=hashes.first_frame,
        width=width,
        height=height,
        fps=footage.fps,
        start=start,
        stop=stop,
        seconds=time.monotonic() - began,
        engine_version=engine.version,
        device=getattr(engine, "device", "cpu"),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=(*request.footage.notes, *engine.notes()),
    )
