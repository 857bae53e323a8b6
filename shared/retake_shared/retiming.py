"""Which moment of the footage an object shows at each frame."""

from __future__ import annotations

import math

import numpy as np

from .errors import BadShot
from .geometry import Array


def retimed_frames(
    frames: int, offset: float = 0.0, speed: float = 1.0, freeze: float | None = None, reverse: bool = False
) -> Array:
    """Source frames (frames,) that an object shows at frames 0 .. frames - 1 after retiming; fractions lie between.

    offset: frames by which the motion starts later (negative: earlier). speed: how many times as fast it then runs.
    reverse: it runs from the last frame to the first. freeze: it stands still as at this frame; the others must then
    keep their defaults. Where the motion has not begun or is over, its first or last moment is held.
    Raises BadShot for a speed that is not positive, a freeze outside the footage, or freeze mixed with the others.
    """
    if not math.isfinite(offset):
        raise BadShot(f"is {offset}.", "offset", "Use a number of frames.")
    if not (math.isfinite(speed) and speed > 0):
        raise BadShot(f"is {speed}.", "speed", "Use a speed above 0, or freeze or reverse.")
    last = frames - 1
    if freeze is not None:
        if not 0 <= freeze <= last:
            raise BadShot(f"frame {freeze} is not in the footage.", "freeze", f"Use 0 .. {last}.")
        if offset != 0 or speed != 1 or reverse:
            raise BadShot("is mixed with other retiming.", "freeze", "A frozen object has no other timing.")
        return np.full(frames, float(freeze))
    shown: Array = np.clip((np.arange(frames) - offset) * speed, 0, last)
    return last - shown if reverse else shown
