"""A proxy of large footage: its chosen frames at the working size, decoded once and kept beside the stages' results.

A solve looks at pictures of at most 672 px. Of 4K footage nearly all the time of reading them goes into decoding and
colours that are thrown away; a second solve, with another focal length or masks, would spend it again.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Progress, Report
from ..footage import FootageReader
from .kept import key

VERSION = 1

WORTH = 2.0
"""Times as many pixels as the working picture has, from which on a proxy is made."""

_MOST_BYTES = 2 << 30
_KEPT = 2


def worth(width: int, height: int, size: tuple[int, int], count: int) -> bool:
    """Whether `count` frames of footage of width x height px, worked on at `size`, are to be read through a proxy."""
    return width * height >= WORTH * size[0] * size[1] and count * size[0] * size[1] * 3 <= _MOST_BYTES


def pictures(
    reader: FootageReader, sha256: str, chosen: range, size: tuple[int, int], folder: Path, report: Report
) -> NDArray[np.uint8]:
    """(T, h, w, 3) uint8 sRGB: picture t is frame chosen[t] of the footage at `size` (width, height); read-only.

    They lie in a file that is mapped, not in memory. sha256: of the footage. Raises Cancelled, BadFile, OSError.
    """
    name = key(sha256, [chosen.start, chosen.stop, chosen.step], list(size), VERSION)
    path = folder / f"proxy-{name}.npy"
    shape = (len(chosen), size[1], size[0], 3)
    found = _opened(path, shape)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{secrets.token_hex(8)}.part"
    try:
        # Written, not mapped: a full disk is an error then, and ends the program where a mapped file cannot grow.
        with open(part, "xb") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for t, picture in enumerate(reader.small_frames(chosen, size)):
                report(Progress("reading footage", t, len(chosen)))
                stream.write(np.ascontiguousarray(picture).data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    report(Progress("reading footage", len(chosen), len(chosen)))
    for old in sorted(folder.glob("proxy-*.npy"), key=lambda f: f.stat().st_mtime)[:-_KEPT]:
        with contextlib.suppress(OSError):  # Windows removes no file that another solve has mapped
            old.unlink(missing_ok=True)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False), np.uint8)


def _opened(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The proxy, None when there is none or it is damaged."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(found, np.uint8) if found.dtype == np.uint8 and found.shape == shape else None
