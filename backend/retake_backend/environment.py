"""What the libraries of a process, and the processes that they start, find in it; to be set before they load."""

from __future__ import annotations

import os

NO_TELEMETRY = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
"""For every process that loads the hub's libraries: nothing is told to anybody."""

RENDERING = {
    **NO_TELEMETRY,
    # Nothing is asked of the internet while a take is made: models come only when the user pulls them.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    # A small file can unpack to a picture that fills the memory: no picture of more than 2^28 pixels is opened.
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(2**28),
    # Threads that wait must not spin: with Blender, or anything, at work on the same cores a forward of the video model
    # took 4 to 10 times as long.
    "OMP_WAIT_POLICY": "passive",
}
"""For every process that renders: the broker's worker and `retake render`."""


def own_stdin() -> int:
    """A descriptor of what stdin was; stdin itself is empty from now on.

    For a process that is told things over a pipe: a program that it starts would read them too. And on Windows a
    library that looks at stdin as it loads (numpy's and scipy's OpenBLAS) hangs while a thread waits to read there.
    """
    commands, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return commands
