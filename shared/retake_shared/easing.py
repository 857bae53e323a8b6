"""How a change is spread over frames: a ramp over a frame range, and values between keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .errors import BadShot
from .geometry import Array, sample_rows

EASES = ("smooth", "linear")
"""smooth starts and stops at rest, linear does not."""


def ease_weights(position: ArrayLike, ease: str) -> Array:
    """Eased weights of positions in [0, 1]: 0 stays 0 and 1 stays 1. Raises BadShot for an unknown ease."""
    w = np.asarray(position, np.float64)
    if ease not in EASES:
        raise BadShot(f"ease is {ease!r:.80}.", "ease", f"Use one of: {', '.join(EASES)}.")
    return w * w * (3 - 2 * w) if ease == "smooth" else w


def check_frames(count: int, frames: tuple[int, int] | None) -> tuple[int, int]:
    """The frame range (start, stop), all `count` frames when None. Raises BadShot when it leaves them."""
    start, stop = frames or (0, count)
    if not 0 <= start < stop <= count:
        raise BadShot(f"is {start}:{stop}.", "frames", f"Use a start and a later stop within 0:{count}.")
    return start, stop


def ramp(count: int, frames: tuple[int, int] | None = None, ease: str = "smooth") -> Array:
    """Weights (count,) that rise from 0 at the first to 1 at the last frame of (start, stop), held outside.

    A range of one frame jumps there. Raises BadShot for a range outside 0:count or an unknown ease.
    """
    start, stop = check_frames(count, frames)
    t = np.arange(count, dtype=np.float64)
    if stop - start == 1:
        return ease_weights(t >= start, ease)
    return ease_weights(np.clip((t - start) / (stop - 1 - start), 0, 1), ease)


def interpolate_keys(frames: Sequence[int], values: ArrayLike, count: int, ease: str = "smooth") -> Array:
    """Values (count, ...) of frames 0 .. count - 1 from values (keys, ...) at increasing `frames`, held outside."""
    position = np.interp(np.arange(count), frames, np.arange(len(frames)))
    left = np.floor(position)
    return sample_rows(values, left + ease_weights(position - left, ease))
