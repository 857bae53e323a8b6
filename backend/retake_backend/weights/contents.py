"""Looking into a model's files without running anything in them: hashes, safetensors headers, configurations.

A folder is described as {name in the store: path of the file}, so that what is checked may still lie elsewhere, under
other names or behind the links of a cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from retake_shared.errors import BadFile

from .catalogue import Model
from .shipped import FILES, WEIGHTS

CODE_INSIDE = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5", ".py")
"""Endings of weights that are pickles, or may hold code otherwise: never pulled, copied or opened."""
_DATA = (".json", ".txt", ".model")
# Weights under their plain name, shards included; a variant has one more word: model.fp16.safetensors.
_PLAIN = re.compile(r"[\w-]+\.safetensors")
_BLOCK = 1 << 22
_HEADER_LIMIT = 100_000_000  # safetensors' own
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}


def wanted(model: Model, file: str) -> str:
    """The name in the store of a file of a model's repository or folder, "" when the model does not need it."""
    folder, _, base = file.rpartition("/")
    if "\\" in base or ":" in base:  # Windows reads them as folders and drives
        return ""
    if model.kind == "own":
        return file if file in FILES else ""
    if not folder and "" in model.components:
        whole = base in ("config.json", "model.safetensors") or base.startswith("LICENSE")
        return file if whole else ""
    if not folder:
        index = "model_index.json" if model.kind == "base" else ""
        return file if base == index or base.startswith("LICENSE") else ""
    if folder not in model.components or base.startswith("."):
        return ""
    if not base.endswith(".safetensors"):
        return file if base.endswith(_DATA) else ""
    plain = base
    if model.variant:
        plain = base.replace(f".{model.variant}.", ".")
        if plain == base:
            return ""
    return f"{folder}/{plain}" if _PLAIN.fullmatch(plain) else ""


def files_of(model: Model, folder: Path) -> dict[str, Path]:
    """What there is of a model in a folder: {name in the store: its file}. Plain names go before a variant's."""
    plain: dict[str, Path] = {}
    variants: dict[str, Path] = {}
    paths = [path for inner in dict.fromkeys(("", *model.components)) for path in sorted((folder / inner).glob("*"))]
    for path in paths:
        file = path.relative_to(folder).as_posix()
        if not path.is_file():
            continue
        if name := wanted(model, file):
            variants[name] = path
        elif file.endswith(".safetensors") and file.count("/") == 1 and _PLAIN.fullmatch(path.name):
            plain[file] = path
    return variants | plain


def check(model: Model, files: Mapping[str, Path], where: Path, *, sizes: bool = True) -> None:
    """Make sure that the files are the model: its classes, and whole safetensors.

    sizes: that the configuration is of the catalogue's size too (not so for random models). Raises BadFile naming the
    file that is missing, pickled, cut off or of another model.
    """
    if model.kind == "parts":
        _check_parts(model, files, where)
    elif model.kind == "own":
        _check_own(model, files, where)
    else:
        _check_pipeline(model, files, where, sizes)
    for name, path in files.items():
        if name.endswith(".safetensors"):
            check_safetensors(path)
        elif name.endswith(".json"):
            read_json(path)


def check_safetensors(path: Path) -> None:
    """Make sure that a file is a whole safetensors file, by its header alone. Raises BadFile saying what it is."""
    size = path.stat().st_size
    again = "Get the file again; weights are read as safetensors only."
    with path.open("rb") as file:
        start = file.read(8)
        if start[:2] == b"PK" or start[:1] == b"\x80":
            raise BadFile("is a pickle (a PyTorch checkpoint), which could run code.", str(path), again)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _HEADER_LIMIT:
            raise BadFile("is no safetensors file.", str(path), again)
        if size < 8 + length:
            raise BadFile(f"is cut off: {size:,} bytes, its header alone has {8 + length:,}.", str(path), again)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = [(key, *_extent(entry)) for key, entry in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BadFile(f"has no safetensors header ({error!r:.200}).", str(path), again) from error
    end = 0
    for key, first, last in sorted(tensors, key=lambda tensor: tensor[1:]):
        if first != end:
            raise BadFile(f'has a gap or an overlap before the weight "{key:.80}".', str(path), again)
        end = last
    if size != 8 + length + end:
        what = "is cut off" if size < 8 + length + end else "is too long"
        raise BadFile(f"{what}: {size:,} bytes in place of {8 + length + end:,}.", str(path), again)


def read_json(path: Path) -> Any:
    """A JSON file's object. Raises BadFile."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"is no JSON ({error}).", str(path), "Get the model again.") from error
    if not isinstance(value, dict):
        raise BadFile("is no JSON object.", str(path), "Get the model again.")
    return value


def sha256_of(path: Path, progress: Callable[[int], None] = lambda nbytes: None) -> str:
    """The sha256 of a file in hex. progress: called with the bytes read so far; may raise to stop."""
    return _hash(path, hashlib.sha256(), progress)


def git_sha1_of(path: Path, progress: Callable[[int], None] = lambda nbytes: None) -> str:
    """The id that git gives the file's content, in hex: how the hub names small files."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    return _hash(path, digest, progress)


def _hash(path: Path, digest: hashlib._Hash, progress: Callable[[int], None]) -> str:
    done = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            progress(done)
    return digest.hexdigest()


def _extent(entry: Mapping[str, Any]) -> tuple[int, int]:
    """(first, last) byte of a tensor, by the header's entry. Raises ValueError when type and shape say otherwise."""
    first, last = (int(n) for n in entry["data_offsets"])
    count = 1
    for side in entry["shape"]:
        count *= int(side)
    bits = _BITS.get(entry["dtype"])
    if not 0 <= first <= last or (bits is not None and last - first != count * bits // 8):
        raise ValueError(f"{entry}")
    return first, last


def _check_pipeline(model: Model, files: Mapping[str, Path], where: Path, sizes: bool) -> None:
    another = f"Choose the folder of {model.label} ({model.repository}) in diffusers' layout."
    if "" in model.components:
        _check_single(model, files, where, sizes)
        return
    if "model_index.json" not in files:
        raise BadFile("has no model_index.json.", str(where), another)
    pipeline = read_json(files["model_index.json"]).get("_class_name")
    if pipeline not in model.classes:
        raise BadFile(f"is a {pipeline!r:.60} and no {model.classes[0]}.", str(files["model_index.json"]), another)
    for folder, kind in model.components.items():
        here = [name for name in files if name.startswith(f"{folder}/")]
        if not here:
            raise BadFile(f"lacks the folder {folder}.", str(where), another)
        if not kind:
            continue
        if f"{folder}/config.json" not in here:
            raise BadFile("is missing.", str(where / folder / "config.json"), another)
        config = read_json(files[f"{folder}/config.json"])
        found = config.get("_class_name") or _architecture(config)
        if found != kind:
            raise BadFile(f"is of the kind {found!r:.60} and no {kind}.", str(files[f"{folder}/config.json"]), another)
        for key, value in model.expects.get(folder, {}).items() if sizes else ():
            if config.get(key) != value:
                what = f"has {key} {config.get(key)!r:.20} where {model.label} has {value!r}."
                raise BadFile(what, str(files[f"{folder}/config.json"]), another)
        _check_weights_are_there(folder, here, files, where)


def _check_single(model: Model, files: Mapping[str, Path], where: Path, sizes: bool) -> None:
    """One model of transformers: config.json and model.safetensors beside each other."""
    another = f"Choose the folder of {model.label} ({model.repository}), with config.json and model.safetensors."
    for name in ("config.json", "model.safetensors"):
        if name not in files:
            raise BadFile("is missing.", str(where / name), another)
    config = read_json(files["config.json"])
    found = _architecture(config)
    if found != model.components[""]:
        raise BadFile(
            f"is of the kind {found!r:.60} and no {model.components['']}.", str(files["config.json"]), another
        )
    for key, value in model.expects.get("", {}).items() if sizes else ():
        if key in config and config[key] != value:
            what = f"has {key} {config[key]!r:.20} where {model.label} has {value!r}."
            raise BadFile(what, str(files["config.json"]), another)


def _architecture(config: Mapping[str, Any]) -> Any:
    """The class that a configuration of transformers names first, None for none."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named else None


def _check_own(model: Model, files: Mapping[str, Path], where: Path) -> None:
    another = f"Choose a folder that `retake train` or `retake fit` made of the trainee {model.name}: its `result`."
    for name in ("config.json", WEIGHTS):
        if name not in files:
            raise BadFile("is missing.", str(where / name), another)
    found = read_json(files["config.json"]).get("_class_name")
    if found not in model.classes:
        what = f"is of the kind {found!r:.60} and no {' or '.join(model.classes)}."
        raise BadFile(what, str(files["config.json"]), another)


def _check_weights_are_there(folder: str, here: Iterable[str], files: Mapping[str, Path], where: Path) -> None:
    weights = {name for name in here if name.endswith(".safetensors")}
    index = next((name for name in here if name.endswith(".safetensors.index.json")), "")
    if index:
        shards = read_json(files[index]).get("weight_map")
        needed = {f"{folder}/{shard}" for shard in shards.values()} if isinstance(shards, dict) else {index}
        for name in sorted(needed - weights):
            raise BadFile("is missing.", str(where / name), "Get the model again; it is not whole.")
    if not weights:
        pickled = [path.name for path in sorted((where / folder).glob("*")) if path.suffix in CODE_INSIDE]
        if pickled:
            what = f"holds its weights as {pickled[0]}, a format that can run code, and not as safetensors."
            raise BadFile(what, str(where / folder), "Get the model in safetensors; no other format is read.")
        raise BadFile("holds no weights (*.safetensors).", str(where / folder), "Get the model again; it is not whole.")


def _check_parts(model: Model, files: Mapping[str, Path], where: Path) -> None:
    another = f"Choose a folder of parts trained for {model.label}."
    if "conditioner/part.json" not in files:
        raise BadFile("has no conditioner/part.json.", str(where), another)
    for folder in ("conditioner", "lora"):
        here = [name for name in files if name.startswith(f"{folder}/")]
        if not here:
            continue
        path = files.get(f"{folder}/part.json", where / folder / "part.json")
        part = read_json(path)
        try:
            if part["retake_part"] != 1 or part["kind"] != folder or not str(part["licence"]).strip():
                raise ValueError("retake_part, kind or licence")
            kind = part["configuration"].get("class", "")
            # What every Stable Video Diffusion has in its configuration and no Wan.
            svd = "cross_attention_dim" in part["base"]["configuration"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadFile(f"describes no {folder} ({error}).", str(path), another) from error
        if folder == "conditioner" and kind != model.components["conditioner"]:
            raise BadFile(f"is of the kind {kind!r:.60} and no {model.components['conditioner']}.", str(path), another)
        if svd != (model.base == "svd-xt"):
            base = str(part["base"].get("name", ""))
            raise BadFile(f"was trained on another base, {base!r:.80}, not on {model.base}.", str(path), another)
        _check_weights_are_there(folder, here, files, where)
