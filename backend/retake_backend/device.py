"""What of this machine a worker may use."""

from __future__ import annotations

import os
from typing import Literal

import psutil

Device = Literal["auto", "cpu"]
"""auto: whatever the engine does best on. cpu: no GPU is touched, it stays free for Blender."""


def restrict(device: Device, cores: int) -> str:
    """Keep this process to a device and a number of CPU cores (0: all); return what it has, in words.

    To be called before torch loads, which looks for GPUs once. Where the system cannot bind a process to cores
    (macOS), all are used and the words say so.
    """
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return f"CPU, all {os.cpu_count()} cores"
    usable = process.cpu_affinity()
    if 0 < cores < len(usable):
        usable = usable[:cores]
        process.cpu_affinity(usable)
        if hasattr(os, "sched_setaffinity"):  # Linux binds threads one by one, and numpy has started some already
            for thread in process.threads():
                os.sched_setaffinity(thread.id, usable)
    return f"CPU, {len(usable)} core{'s' if len(usable) > 1 else ''}"
