"""What is trained, saved apart from the base it was trained on: one folder per part, safetensors and JSON only.

    <folder>/conditioner/  config.json, diffusion_pytorch_model.safetensors, part.json
    <folder>/lora/         pytorch_lora_weights.safetensors, part.json

`part.json` says which base the part belongs to (its name, configuration and a digest of a few of its weights) and
under which licence it is. The LoRA's keys are those that `WanPipeline.load_lora_weights` reads too.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from retake_shared.errors import BadFile
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..conditioning.trajectory_attention import TrajectoryAttention
from ..folders import put_in_place
from .loading import pretrained
from .wan import LoraSettings, RetakeWanTransformer, RopePositions, add_lora

CONDITIONER_WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
_LORA_PREFIX = "transformer."
BaseModel = WanTransformer3DModel | UNetSpatioTemporalConditionModel
"""What parts can stand on: Wan's transformer or Stable Video Diffusion's UNet."""
_TRAIN_AGAIN = "Use the base it was trained on, or train it on this one."


@dataclass(frozen=True)
class Base:
    """Which model a part was trained on.

    name: as people know it, e.g. "Wan-AI/Wan2.1-T2V-1.3B-Diffusers". configuration: the model's own, rope_positions
    included. weights: sha256 over its first layer and time embedding rounded to bfloat16, so that the same weights are
    known again at any precision they are loaded with.
    """

    name: str
    configuration: dict[str, Any]
    weights: str

    @classmethod
    def of(cls, model: BaseModel, name: str) -> Base:
        digest = hashlib.sha256()
        wan = isinstance(model, WanTransformer3DModel)
        first, time = ("patch_embedding", "condition_embedder.time_embedder") if wan else ("conv_in", "time_embedding")
        for module in (model.get_submodule(first), model.get_submodule(time)):
            for key, value in sorted(module.state_dict().items()):
                rounded = value.detach().to("cpu", torch.bfloat16).contiguous()
                digest.update(f"{key} {tuple(rounded.shape)}".encode() + rounded.view(torch.uint8).numpy().tobytes())
        return cls(name, _configuration(model), digest.hexdigest())


@dataclass(frozen=True)
class Parts:
    """What `load_parts` found: the conditioner or None, and the LoRA's adapter name or None, each part's licence."""

    conditioner: ModelMixin | None
    lora: str | None
    licences: dict[str, str]


def load_base(
    source: str | Path,
    *,
    rope_positions: RopePositions = "sequential",
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = True,
) -> RetakeWanTransformer:
    """The base from a folder or hub name in diffusers' layout (the transformer itself or a pipeline around it).

    Safetensors only. Raises BadFile naming the first key that is missing or does not fit.
    """
    inside = Path(source) / "transformer"
    subfolder = "transformer" if inside.is_dir() or not Path(source).exists() else None
    return pretrained(  # type: ignore[no-any-return]
        RetakeWanTransformer,
        source,
        "Wan transformer",
        source,
        subfolder=subfolder,
        rope_positions=rope_positions,
        dtype=dtype,
        local_files_only=local_files_only,
    )


def rope_positions(folder: Path) -> RopePositions:
    """How the base of the parts under `folder` counts frames, for `load_base`; whether they fit it, `load_parts` says."""
    for kind in ("conditioner", "lora"):
        try:
            part = json.loads((folder / kind / "part.json").read_text("utf-8"))
            if part["base"]["configuration"]["rope_positions"] == "shared":
                return "shared"
        except (OSError, KeyError, TypeError, ValueError, RecursionError):
            continue
    return "sequential"


def save_parts(
    folder: Path,
    transformer: BaseModel,
    *,
    base: str,
    licence: str,
    conditioner: ModelMixin | None = None,
    lora: str | None = None,
) -> None:
    """Save a conditioner, and the adapter named `lora`, each into its own folder under `folder`.

    base: the base's name. licence: an SPDX identifier or a sentence. Each folder is written beside and put in place
    whole, so that a part is always the old one or the new one.
    """
    if not licence.strip():
        raise ValueError("a part needs a licence")
    described = asdict(Base.of(transformer, base))
    if conditioner is not None:
        with replaced(folder / "conditioner") as beside:
            conditioner.save_pretrained(beside, safe_serialization=True)
            _describe(beside, "conditioner", licence, described, {"class": type(conditioner).__name__})
    if lora is not None:
        settings = _lora_settings(transformer, lora)
        weights = get_peft_model_state_dict(transformer, adapter_name=lora)
        weights = {_LORA_PREFIX + key: value.detach().cpu().contiguous() for key, value in weights.items()}
        adapter = {"r": settings.rank, "lora_alpha": settings.alpha, "target_modules": settings.pattern}
        metadata = json.dumps({_LORA_PREFIX + key: value for key, value in adapter.items()})
        with replaced(folder / "lora") as beside:
            save_file(weights, beside / LORA_WEIGHTS, {"format": "pt", "lora_adapter_metadata": metadata})
            _describe(beside, "lora", licence, described, asdict(settings))


def load_parts(
    folder: Path,
    transformer: BaseModel,
    conditioners: Iterable[type[ModelMixin]] = (),
    *,
    other_weights: bool = False,
    lora_name: str = "retake",
) -> Parts:
    """Load what lies under `folder` for this base: the conditioner, and the LoRA as an adapter of the transformer.

    conditioners: the classes a conditioner may be of; nothing else is ever constructed. other_weights: accept a base
    of the same configuration with other weights, such as a distilled variant. Everything is checked before anything
    of the transformer changes. Raises BadFile: a part of another base, a key that is missing, unknown or of another
    shape, a file that is no safetensors.
    """
    known: dict[str, type[ModelMixin]] = {cls.__name__: cls for cls in conditioners}
    conditioner: ModelMixin | None = None
    licences: dict[str, str] = {}
    here = Base.of(transformer, "this base")
    lora_part = _open_part(folder / "lora", "lora", here, other_weights)
    lora: tuple[LoraSettings, dict[str, Tensor]] | None = None
    if lora_part is not None:
        licences["lora"] = lora_part["licence"]
        lora = _read_lora(folder / "lora", lora_part, transformer)
    conditioner_part = _open_part(folder / "conditioner", "conditioner", here, other_weights)
    if conditioner_part is not None:
        licences["conditioner"] = conditioner_part["licence"]
        conditioner = _read_conditioner(folder / "conditioner", conditioner_part, known)
        conditioner.to(device=transformer.device)  # type: ignore[call-arg]
    if lora is None and conditioner is None:
        raise BadFile(
            "holds neither a conditioner nor a lora folder.", str(folder), "Choose a folder of trained parts."
        )
    if lora is not None:
        settings, weights = lora
        assert isinstance(transformer, WanTransformer3DModel)  # its keys were found there
        trainable = [p for p in transformer.parameters() if p.requires_grad]
        active = transformer.active_adapters() if getattr(transformer, "peft_config", None) else []
        add_lora(transformer, settings, lora_name)
        transformer.set_adapter([*active, lora_name])  # beside those that are there, such as a few-step LoRA
        for parameter in trainable:
            parameter.requires_grad_(True)
        set_peft_model_state_dict(transformer, weights, adapter_name=lora_name)
    return Parts(conditioner, None if lora is None else lora_name, licences)


def save_branches(folder: Path, model: BaseModel, branches: TrajectoryAttention, *, base: str, licence: str) -> None:
    """Save the trajectory branches of Wan or of Stable Video Diffusion, as the conditioner of `save_parts`."""
    save_parts(folder, model, base=base, licence=licence, conditioner=branches)


def load_branches(folder: Path, model: BaseModel, *, other_weights: bool = False) -> TrajectoryAttention:
    """The trajectory branches under `folder`, joined to this base; a LoRA beside them is put on it too (Wan).

    They change nothing until `TrajectoryAttention.follow` names trajectories. Raises BadFile as `load_parts` does,
    also where the folder holds no branches or they stand beside layers that this base has not.
    """
    branches = load_parts(folder, model, [TrajectoryAttention], other_weights=other_weights).conditioner
    if branches is None:
        raise BadFile("holds no trajectory branches.", str(folder), "Choose a folder that has them.")
    assert isinstance(branches, TrajectoryAttention)
    joined: TrajectoryAttention = branches
    try:
        joined.attach(model)
    except ValueError as error:
        raise BadFile(f"does not fit this base: {error}.", str(folder), _TRAIN_AGAIN) from error
    return joined


def _configuration(model: BaseModel) -> dict[str, Any]:
    """The model's configuration as JSON keeps it, without diffusers' private notes."""
    kept = {key: value for key, value in model.config.items() if not key.startswith("_")}
    return json.loads(json.dumps(kept))  # type: ignore[no-any-return]


def _describe(folder: Path, kind: str, licence: str, base: dict[str, Any], configuration: Mapping[str, Any]) -> None:
    part = {"retake_part": 1, "kind": kind, "licence": licence, "base": base, "configuration": dict(configuration)}
    (folder / "part.json").write_text(json.dumps(part, indent=1, sort_keys=True) + "\n", "utf-8")


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of `folder` once all of it is written."""
    beside, before = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside
    put_in_place(beside, folder, before)


def _open_part(folder: Path, kind: str, here: Base, other_weights: bool) -> dict[str, Any] | None:
    """The description of a part that belongs to this base; None when there is no such folder."""
    if not folder.is_dir():
        return None
    description = folder / "part.json"
    try:
        part = json.loads(description.read_text("utf-8"))
        there = Base(str(part["base"]["name"]), dict(part["base"]["configuration"]), str(part["base"]["weights"]))
        if part["retake_part"] != 1 or part["kind"] != kind:
            raise ValueError(f"it describes a {part['kind']!r} of version {part['retake_part']!r}")
        part = {"licence": str(part["licence"]), "configuration": dict(part["configuration"])}
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadFile(f"is no description of a {kind} ({error!r}).", str(description), "Get the part again.") from error
    differing = [
        f"{key} is {there.configuration.get(key)!r} there and {here.configuration.get(key)!r} here"
        for key in sorted(there.configuration.keys() | here.configuration.keys())
        if there.configuration.get(key) != here.configuration.get(key)
    ]
    if differing:
        raise BadFile(
            f'this {kind} belongs to another base, "{there.name}": {"; ".join(differing)}.', str(folder), _TRAIN_AGAIN
        )
    if there.weights != here.weights and not other_weights:
        raise BadFile(
            f'this {kind} was trained on "{there.name}"; this base has the same shape but other weights.',
            str(folder),
            f"{_TRAIN_AGAIN} A distilled variant of the same base may be allowed by name (other_weights).",
        )
    return part


def _read_conditioner(folder: Path, part: dict[str, Any], known: Mapping[str, type[ModelMixin]]) -> ModelMixin:
    name = str(part["configuration"].get("class"))
    if name not in known:
        raise BadFile(f'is of the kind "{name}".', str(folder), f"This engine takes {', '.join(sorted(known))}.")
    try:
        conditioner = known[name].from_config(  # type: ignore[attr-defined]
            json.loads((folder / "config.json").read_text("utf-8"))
        )
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise BadFile(f"does not configure a {name} ({error}).", str(folder / "config.json")) from error
    weights = _read_weights(folder / CONDITIONER_WEIGHTS)
    expected = {key: tuple(value.shape) for key, value in conditioner.state_dict().items()}
    _check_keys(weights, expected, folder / CONDITIONER_WEIGHTS)
    conditioner.load_state_dict(weights, assign=True)  # at the precision they were saved with
    return conditioner.eval()  # type: ignore[no-any-return]


def _read_lora(folder: Path, part: dict[str, Any], transformer: BaseModel) -> tuple[LoraSettings, dict[str, Tensor]]:
    """Settings and weights of a LoRA, its keys without the prefix, all of which fit this transformer."""
    written = part["configuration"]
    try:
        settings = LoraSettings(int(written["rank"]), int(written["alpha"]), tuple(map(str, written["layers"])))
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"does not configure a LoRA ({error}).", str(folder / "part.json")) from error
    weights = _read_weights(folder / LORA_WEIGHTS)
    expected: dict[str, tuple[int, ...]] = {}
    for name, module in transformer.named_modules():
        if re.fullmatch(settings.pattern, name):
            expected[f"{_LORA_PREFIX}{name}.lora_A.weight"] = (settings.rank, module.in_features)
            expected[f"{_LORA_PREFIX}{name}.lora_B.weight"] = (module.out_features, settings.rank)
    _check_keys(weights, expected, folder / LORA_WEIGHTS)
    return settings, {key.removeprefix(_LORA_PREFIX): value for key, value in weights.items()}


def _lora_settings(transformer: BaseModel, name: str) -> LoraSettings:
    """The settings `add_lora` was called with for this adapter."""
    adapter = getattr(transformer, "peft_config", {}).get(name)
    if adapter is None:
        raise ValueError(f'the transformer has no adapter "{name}"')
    return LoraSettings.of(adapter)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadFile(
            f"is not a whole safetensors file ({error}).", str(path), "Get the part again; no other format is read."
        ) from error


def _check_keys(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise BadFile naming the first key that is missing, of another shape or unknown."""
    missing = [key for key in expected if key not in weights]
    unknown = [key for key in weights if key not in expected]
    misfits = [
        f"{key}: {tuple(weights[key].shape)} where {shape} fits"
        for key, shape in expected.items()
        if key in weights and tuple(weights[key].shape) != shape
    ]
    for what, keys in (("lacks", missing), ("does not fit:", misfits), ("has unknown", unknown)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise BadFile(f"{what} {keys[0]}{more}.", str(path), "Get the part again, or train it on this base.")
