"""The metrics that need a network's weights, and what is said where there are none.

The weights lie in `metrics/` of the folder of models, put there by the user. Nothing is fetched, and no metric takes
another's place: without its weights it is left out, by name and with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from retake_shared.errors import BadFile

from ..weights.contents import check_safetensors
from ..weights.store import WeightStore

if TYPE_CHECKING:
    from torch import nn

    from .clip import Clip
    from .fvd import I3d
    from .lpips import Lpips

FOLDER = "metrics"
LPIPS_FILE, I3D_FILE, CLIP_FOLDER = "lpips_alexnet.safetensors", "i3d_kinetics400.safetensors", "clip-vit-base-patch32"
_NEEDS = {
    "LPIPS": (LPIPS_FILE, "the public weights of AlexNet and of LPIPS 0.1 in one safetensors file"),
    "mLPIPS": (LPIPS_FILE, "the public weights of AlexNet and of LPIPS 0.1 in one safetensors file"),
    "FVD": (I3D_FILE, "the public rgb_imagenet.pt of pytorch-i3d as safetensors"),
    **dict.fromkeys(
        ("CLIP-T", "CLIP-F", "CLIP-V"), (CLIP_FOLDER, "the files of openai/clip-vit-base-patch32, as safetensors")
    ),
}
_NEVER = {"Mat.Pix": "it needs GIM-LightGlue, which this program cannot run"}


@dataclass
class Networks:
    """What is there: None for a network without weights. left_out: why, by the metric's name."""

    lpips: Lpips | None = None
    i3d: I3d | None = None
    clip: Clip | None = None
    left_out: dict[str, str] = field(default_factory=dict)


def load(store: WeightStore | None = None) -> Networks:
    """The networks whose weights are installed, on the GPU where there is one. Raises BadFile for damaged ones."""
    folder = (store or WeightStore()).folder / FOLDER
    found = Networks(left_out=dict(_NEVER))
    for metric, (name, what) in _NEEDS.items():
        if not (folder / name).exists():
            found.left_out[metric] = f"no weights at {folder / name} ({what})"
    if (folder / LPIPS_FILE).exists():
        from .lpips import Lpips

        found.lpips = Lpips.load(folder / LPIPS_FILE).to(_device())
    if (folder / I3D_FILE).exists():
        from .fvd import I3d

        found.i3d = I3d.load(folder / I3D_FILE).to(_device())
    if (folder / CLIP_FOLDER).exists():
        from .clip import Clip

        found.clip = Clip(folder / CLIP_FOLDER)
        found.clip.model.to(_device())
    return found


def load_weights(model: nn.Module, path: Path, names: Mapping[str, str]) -> None:
    """Give `model` the weights of a safetensors file. names: the file's name of each of the model's.

    Raises BadFile naming the first weight that is missing or of another shape; what else the file holds is left.
    """
    from safetensors import safe_open

    check_safetensors(path)
    wanted = model.state_dict()
    loaded = {}
    with safe_open(path, framework="pt") as file:
        there = set(file.keys())
        for own, name in names.items():
            if name not in there:
                raise BadFile(f'lacks the weight "{name}".', str(path), "Convert the published weights again.")
            loaded[own] = file.get_tensor(name)
            if loaded[own].shape != wanted[own].shape:
                shapes = f"{tuple(loaded[own].shape)} in place of {tuple(wanted[own].shape)}"
                raise BadFile(f'has "{name}" of shape {shapes}.', str(path), "Convert the published weights again.")
    model.load_state_dict(loaded, strict=False)


def _device() -> str:
    import torch

    from ..device import only_cpu

    return "cuda" if torch.cuda.is_available() and not only_cpu() else "cpu"
