"""What the libraries of a process read from its environment, to be set before they load."""

from __future__ import annotations

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
