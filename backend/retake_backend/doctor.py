"""What `retake doctor` tells: the versions, the device, the home folder and the running backend."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from pathlib import Path

from retake_shared import connection
from retake_shared.errors import RetakeError

from . import __version__, engines
from .weights.store import WeightStore

PACKAGES = ("numpy", "pyzmq", "opencv-python", "av", "torch", "diffusers", "transformers", "peft", "safetensors")
_MODULES = {"pyzmq": "zmq", "opencv-python": "cv2"}


def examine(home: Path) -> int:
    """Print the report; 0 when a backend could work here, 1 when something it needs is broken."""
    broken = []
    print(f"retake       {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        try:
            module = importlib.import_module(_MODULES.get(package, package))
            print(f"{package:12} {module.__version__}")
        except (ImportError, OSError) as error:
            broken.append(package)
            print(f"{package:12} BROKEN: {error}")
    if "torch" not in broken:
        print(f"device       {_device()}")
    try:
        print(f"engines      {_engines(home)}")
    except (ImportError, AttributeError) as error:
        broken.append("RETAKE_ENGINES")
        print(f"engines      BROKEN: {error}")
    print(f"home         {home} ({_room(home)})")
    print(f"models       {_models(home)}")
    print(f"backend      {_running(home)}")
    if broken:
        print(f"\nInstall again what is broken: {', '.join(broken)} (see backend/requirements.txt).")
    return 1 if broken else 0


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GB"
    return f"CPU, {os.cpu_count()} cores"


def _room(home: Path) -> str:
    existing = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    return f"{free:.0f} GB free" + ("" if os.access(existing, os.W_OK) else ", READ-ONLY")


def _engines(home: Path) -> str:
    told = engines.available(_store(home))
    return ", ".join(engine["name"] + ("" if engine["ready"] else " (lacks weights)") for engine in told)


def _store(home: Path) -> WeightStore:
    return WeightStore(None if os.environ.get("RETAKE_MODELS") else home / "models")


def _models(home: Path) -> str:
    from .weights import commands

    return commands.summary(_store(home))


def _running(home: Path) -> str:
    try:
        found = connection.read(home / connection.FILE_NAME)
    except FileNotFoundError:
        return "none is running"
    except RetakeError as error:
        return str(error)
    if not found.alive():
        return "none is running (the last one ended without saying so)"
    return f"version {found.software} is running as process {found.pid} at {found.control}"
