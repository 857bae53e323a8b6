"""What of this machine a worker or a solve may use, and what there is, in words."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Literal

import psutil

Device = Literal["auto", "cpu"]
"""auto: whatever the engine does best on. cpu: no GPU is touched, it stays free for Blender."""

ONLY_CPU = "RETAKE_ONLY_CPU"
"""Set in the environment of a process that must touch no GPU, for those that CUDA_VISIBLE_DEVICES says nothing to."""


def restrict(device: Device, cores: int) -> str:
    """Keep this process to a device and a number of CPU cores (0: all); return what it has, in words.

    To be called before torch loads, which looks for GPUs once. Where the system cannot bind a process to cores
    (macOS), all are used and the words say so.
    """
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ[ONLY_CPU] = "1"
    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return f"{_gpu_words()}CPU, all {os.cpu_count()} cores"
    usable = process.cpu_affinity()
    if 0 < cores < len(usable):
        usable = usable[:cores]
        process.cpu_affinity(usable)
        if hasattr(os, "sched_setaffinity"):  # Linux binds threads one by one, and numpy has started some already
            for thread in process.threads():
                os.sched_setaffinity(thread.id, usable)
    return f"{_gpu_words()}CPU, {len(usable)} core{'s' if len(usable) > 1 else ''}"


def only_cpu() -> bool:
    """Whether the preferences keep the GPU for Blender."""
    return bool(os.environ.get(ONLY_CPU))


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver tells. total, free: bytes."""

    name: str
    total: int
    free: int

    @property
    def words(self) -> str:
        return f"{self.name}, {self.total / 2**30:.0f} GB"


def nvidia_gpus() -> list[Gpu]:
    """The NVIDIA GPUs that the driver knows, whatever torch can do with them; none without a driver.

    Asks the driver's own library (NVML), so that it costs no torch and holds no GPU.
    """
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return []
    try:
        return _ask(nvml)
    except (AttributeError, OSError):  # a library that lacks a function we know
        return []


class _MemoryInfo(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _ask(nvml: ctypes.CDLL) -> list[Gpu]:
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        found = []
        for index in range(count.value):
            handle, name, memory = ctypes.c_void_p(), ctypes.create_string_buffer(96), _MemoryInfo()
            if (
                nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0
                and nvml.nvmlDeviceGetName(handle, name, 96) == 0
                and nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
            ):
                found.append(Gpu(name.value.decode(errors="replace"), memory.total, memory.free))
        return found
    finally:
        nvml.nvmlShutdown()


def _gpu_words() -> str:
    """The GPU that a worker would use, with the comma that follows; "" for none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or only_cpu():
        return ""
    gpus = nvidia_gpus()
    return f"{gpus[0].words}; " if gpus else ""
