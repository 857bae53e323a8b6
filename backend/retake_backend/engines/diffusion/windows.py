"""Long shots in windows that the model can make: what each covers, and how they become one picture again.

Windows are made one after the other. A window takes over the last frames of the one before, as finished pictures
that are encoded again (Wan's first latent frame is one video frame, the others four, so latents of different windows
do not align) and that denoising keeps; then the two are crossfaded over these frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot

from ...conditioning.coordinates import TEMPORAL_STRIDE, latent_count


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) of the footage, made together; 4k + 1 of them.

    stop may lie beyond the frames asked for: the model's lengths are 4k + 1. overlap: how many of its first frames
    also belong to the window before, 4k + 1 of them too, 0 for the first window.
    """

    start: int
    stop: int
    overlap: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def frames(self, length: int) -> NDArray[np.int64]:
        """The footage frame (self.length,) to show at each place; beyond a shot of `length` its last frame is held."""
        held: NDArray[np.int64] = np.minimum(np.arange(self.start, self.stop, dtype=np.int64), length - 1)
        return held

    def weights(self) -> NDArray[np.float32]:
        """This window's share (overlap,) of each overlap frame, rising; the window before has the rest."""
        return np.arange(1, self.overlap + 1, dtype=np.float32) / np.float32(self.overlap + 1)


def plan_windows(start: int, stop: int, window: int, overlap: int) -> list[Window]:
    """The windows that cover frames [start, stop), each `window` frames, `overlap` of them shared with the one before.

    Both are brought down to 4k + 1, the overlap below the window. The last of several is as long as the others and
    shares more instead of reaching beyond the range, save for 3 frames at most: its overlap is 4k + 1, too. A range
    of up to `window` frames is one window. Raises BadShot for an empty range, a window below 5, an overlap below 1.
    """
    if not 0 <= start < stop:
        raise BadShot(f"frames {start} to {stop} were asked for.", "range", "Ask for at least one frame.")
    if window < TEMPORAL_STRIDE + 1 or overlap < 1:
        raise BadShot(
            f"window is {window}, overlap {overlap}.", "settings.options", "Use a window from 5, overlap from 1."
        )
    window = _down(window)
    if stop - start <= window:
        return [Window(start, start + _up(stop - start), 0)]
    overlap = min(_down(overlap), window - TEMPORAL_STRIDE)
    windows = [Window(start, start + window, 0)]
    while (covered := windows[-1].stop) < stop:
        shared = max(overlap, _down(window - (stop - covered)))
        windows.append(Window(covered - shared, covered - shared + window, shared))
    return windows


def in_order(
    windows: Sequence[Window],
    stop: int,
    make: Callable[[Window, NDArray[np.uint8] | None], NDArray[np.uint8]],
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Make the windows one after the other and yield every frame before `stop` once, as soon as it is final.

    make(window, before) gives (window.length, H, W, 3) uint8; before: (overlap, H, W, 3) uint8, the frames that the
    window takes over, None for the first. Yields (frame number, (H, W, 3) uint8).
    """
    held: NDArray[np.uint8] | None = None
    for number, window in enumerate(windows):
        made = make(window, held if window.overlap else None)
        if window.overlap:
            assert held is not None
            made = np.concatenate([crossfade(held, made[: window.overlap], window.weights()), made[window.overlap :]])
        final = windows[number + 1].start if number + 1 < len(windows) else stop
        for index in range(window.start, final):
            yield index, made[index - window.start]
        held = made[final - window.start :]


def crossfade(before: NDArray[np.uint8], after: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """before and after (n, H, W, 3) uint8 blended with after's share `weights` (n,)."""
    blended = np.empty_like(before)
    for out, a, b, weight in zip(
        blended, before, after, weights, strict=True
    ):  # a frame at a time: 4K would fill memory
        out[:] = np.floor(a + weight * (b.astype(np.float32) - a) + np.float32(0.5)).astype(np.uint8)
    return blended


def window_notes(windows: Sequence[Window], stop: int, length: int) -> tuple[str, ...]:
    """What the plan decided, in words. stop: of the frames asked for; length: of the shot."""
    notes = []
    if len(windows) > 1:
        shared = [window.overlap for window in windows[1:]]
        frames = f"{shared[0]}" if len(set(shared)) == 1 else f"{min(shared)} to {max(shared)}"
        notes.append(
            f"{stop - windows[0].start} frames are made in {len(windows)} windows of {windows[0].length}, "
            f"{frames} shared."
        )
    beyond = windows[-1].stop - max(stop, min(length, windows[-1].stop))
    if beyond:
        frames = "frame" if beyond == 1 else "frames"
        notes.append(
            f"The model makes 4k + 1 frames: the last frame is held for {beyond} more {frames}, which are left out."
        )
    return tuple(notes)


def _down(frames: int) -> int:
    """The largest 4k + 1 up to this many frames, at least 1."""
    return max(frames - 1, 0) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1


def _up(frames: int) -> int:
    """The smallest 4k + 1 from this many frames on."""
    return (latent_count(frames) - 1) * TEMPORAL_STRIDE + 1
