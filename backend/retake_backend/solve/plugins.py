"""Point trackers of others, where the user has installed them: adapters, neither their code nor their weights.

Each looks for its package by name and for its weights as safetensors under `<models>/trackers/`, and imports the package
only when it is used. Nothing is downloaded, and no pickle is opened: weights that are published only as such are to be
converted by the user, `missing` says how. CoTracker3's adapter was tried with its published code and random weights;
TAPIR's and SpatialTrackerV2's never ran: their calls follow their published code, named in each class.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadFile, RetakeError

from ..engines.base import Report
from ..weights.store import WeightStore
from .stages import PointTracks
from .trackers import Answer, Frames, Picture, Tracker, in_windows

VERSION = 1


def weights_folder() -> Path:
    """Where weights of other trackers are looked for."""
    return WeightStore().folder / "trackers"


def installed(module: str, file: str) -> bool:
    """Whether a top-level module is there that has `file` in its folder. Imports nothing."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and any((Path(p) / file).is_file() for p in spec.submodule_search_locations or ())


class _Network(Tracker):
    """A network. module: its top-level package. file: what tells it from others of that name. install: in words.
    weights: files under `weights_folder`. weights_words: where they come from and what to do with them."""

    module: ClassVar[str]
    file: ClassVar[str]
    install: ClassVar[str]
    weights: ClassVar[tuple[str, ...]]

    @classmethod
    def missing(cls) -> str:
        wanted = [] if installed(cls.module, cls.file) else [cls.install]
        if lacking := [name for name in cls.weights if not (weights_folder() / name).is_file()]:
            wanted.append(cls._weights_words(lacking))
        return " ".join(wanted)

    @classmethod
    def version(cls) -> str:
        states = [(weights_folder() / name).stat() for name in cls.weights]
        return " ".join([str(VERSION), *(f"{s.st_size}/{s.st_mtime_ns}" for s in states)])

    @classmethod
    def _weights_words(cls, lacking: list[str]) -> str:
        raise NotImplementedError


def _to_be_converted(published: str, hub: str, place: str) -> str:
    command = f'python -m retake_backend.solve.plugins {published} "{weights_folder() / place}"'
    return f"Download {published} from {hub}, which is a pickle, and convert it without running it: {command}"


def convert(source: Path, target: Path) -> None:
    """Weights that `torch.save` wrote -> safetensors; nothing of the source is executed. Raises BadFile, OSError."""
    from safetensors.numpy import save_file

    from ..foreign_tensors import load

    held = load(source)
    held = held.get("model", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(value, np.ndarray) for value in held.values()):
        raise BadFile("holds no weights of a network.", str(source), "Choose the file that its authors published.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        save_file({name: np.ascontiguousarray(value) for name, value in held.items()}, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


class CoTracker3(_Network):
    """CoTracker3, offline: `cotracker.predictor.CoTrackerPredictor` of facebookresearch/co-tracker.

    Video (1, T, 3, H, W) of 0 .. 255; queries (1, N, 3) of t, x, y; tracks (1, T, N, 2), visible (1, T, N) by its own
    threshold (0.9). It scales with aligned corners: pixel centres lie at whole numbers.
    """

    name = "cotracker3"
    licence = "CC BY-NC 4.0, code and weights: not for commercial work"
    module, file = "cotracker", "predictor.py"
    install = (
        "Install it into the backend's environment: pip install git+https://github.com/facebookresearch/co-tracker."
    )
    weights = ("cotracker3/scaled_offline.safetensors",)

    @classmethod
    def _weights_words(cls, lacking: list[str]) -> str:
        return _to_be_converted("scaled_offline.pth", "huggingface.co/facebook/cotracker3", cls.weights[0])

    def follow(self, frames: Frames, report: Report) -> PointTracks:
        import torch

        build: Any = _imported("cotracker.predictor").CoTrackerPredictor
        predictor = build(checkpoint=None, offline=True, v2=False, window_len=60)
        _fill(predictor.model, weights_folder() / self.weights[0])
        device = _device()
        predictor = predictor.to(device).eval()
        followed = _Once(lambda w: torch.from_numpy(np.stack(w)).permute(0, 3, 1, 2)[None].float().to(device))

        def ask(window: list[Picture], queries: NDArray[np.float32]) -> Answer:
            given = torch.from_numpy(queries - np.array([0, 0.5, 0.5], np.float32))[None].to(device)
            with torch.inference_mode():
                uv, visible = predictor(followed(window), queries=given, backward_tracking=True)
            seen = visible[0].cpu().numpy().reshape(len(window), -1).astype(bool)
            return Answer(uv[0].float().cpu().numpy() + np.float32(0.5), seen, seen.astype(np.float32))

        return in_windows(frames, ask, report, window=120, at_once=40_000)


class Tapir(_Network):
    """BootsTAPIR: `tapnet.torch.tapir_model.TAPIR` of google-deepmind/tapnet.

    Video (1, T, H, W, 3) of -1 .. 1, sides multiples of 8; queries (1, N, 3) of t, y, x; tracks (1, N, T, 2) of x, y of
    the video; pixel centres at .5. Seen: (1 - p(occluded)) (1 - p(far off)) > 0.5, both given as logits.
    """

    name = "tapir"
    licence = "Apache-2.0, code and weights"
    module, file = "tapnet", "torch/tapir_model.py"
    install = (
        "Install it into the backend's environment, with JAX, which its package imports: "
        "pip install git+https://github.com/google-deepmind/tapnet."
    )
    weights = ("tapir/bootstapir_checkpoint_v2.safetensors",)

    @classmethod
    def _weights_words(cls, lacking: list[str]) -> str:
        return _to_be_converted("bootstapir_checkpoint_v2.pt", "huggingface.co/google/tapnet", cls.weights[0])

    def follow(self, frames: Frames, report: Report) -> PointTracks:
        import torch

        model: Any = _imported("tapnet.torch.tapir_model").TAPIR(pyramid_level=1)
        _fill(model, weights_folder() / self.weights[0])
        device = _device()
        model = model.to(device).eval()
        height, width = frames[0].shape[:2]
        size = (max(8, round(width / 8) * 8), max(8, round(height / 8) * 8))
        scale = np.array(size, np.float32) / (width, height)

        def prepared(window: list[Picture]) -> Any:
            resized = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR) for picture in window])
            return torch.from_numpy(resized)[None].float().to(device) / 255 * 2 - 1

        followed = _Once(prepared)

        def ask(window: list[Picture], queries: NDArray[np.float32]) -> Answer:
            given = np.column_stack([queries[:, 0], queries[:, 2] * scale[1], queries[:, 1] * scale[0]])
            with torch.inference_mode():
                told = model(followed(window), torch.from_numpy(given.astype(np.float32))[None].to(device))
                sure = (1 - torch.sigmoid(told["occlusion"])) * (1 - torch.sigmoid(told["expected_dist"]))
            confidence = sure[0].T.float().cpu().numpy()
            uv = told["tracks"][0].permute(1, 0, 2).float().cpu().numpy() / scale
            return Answer(uv, confidence > 0.5, confidence)

        return in_windows(frames, ask, report, window=96, at_once=40_000)


class SpatialTracker2(_Network):
    """SpatialTrackerV2, offline: `models.SpaTrackV2.models.predictor.Predictor` of henry123-boy/SpaTrackerV2, after its
    own front, VGGT4Track, for cameras and depth. Its tracks in the picture are taken. It needs an NVIDIA GPU.

    Video (T, 3, H, W) of 0 .. 255, the longer side 518 and both multiples of 14; queries (N, 3) of t, x, y in numpy;
    of its nine results the sixth is (T, N, 3) of x, y, depth, the seventh and eighth (T, N, 1) visibility and
    confidence. It is built on CoTracker: pixel centres at whole numbers.
    """

    name = "spatialtracker2"
    licence = "CC BY-NC 4.0: not for commercial work"
    module, file = "models", "SpaTrackV2/models/predictor.py"
    install = (
        "Clone https://github.com/henry123-boy/SpaTrackerV2, install its requirements into the backend's environment, "
        "and put the clone on PYTHONPATH."
    )
    weights = tuple(
        f"spatialtracker2/{part}/{file}"
        for part in ("SpatialTrackerV2_Front", "SpatialTrackerV2-Offline")
        for file in ("config.json", "model.safetensors")
    )

    @classmethod
    def missing(cls) -> str:
        words = super().missing()
        if words or _device() == "cuda":
            return words
        return "It needs an NVIDIA GPU that torch can use."

    @classmethod
    def _weights_words(cls, lacking: list[str]) -> str:
        places = sorted({str(Path(name).parent.name) for name in lacking})
        which = " and ".join(f"huggingface.co/Yuxihenry/{place}" for place in places)
        return f"Download config.json and model.safetensors of {which} to {weights_folder() / 'spatialtracker2'}."

    def follow(self, frames: Frames, report: Report) -> PointTracks:
        import torch

        folder = weights_folder() / "spatialtracker2"
        front = _from_hub("models.SpaTrackV2.models.vggt4track.models.vggt_moe", "VGGT4Track", folder, "V2_Front")
        predictor = _from_hub("models.SpaTrackV2.models.predictor", "Predictor", folder, "V2-Offline")
        front, device = front.to("cuda").eval(), "cuda"
        predictor.eval()
        predictor.to(device)  # returns nothing
        height, width = frames[0].shape[:2]
        size = tuple(max(14, round(side * 518 / max(width, height) / 14) * 14) for side in (width, height))
        # Whole-number centres on both sides, but scaled as areas: as cv2.resize does.
        scale = np.array(size, np.float32) / (width, height)

        def prepared(window: list[Picture]) -> Any:
            resized = np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in window])
            video = torch.from_numpy(resized).permute(0, 3, 1, 2).float()
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
                told = front(video[None].to(device) / 255)
            kept = (told["points_map"][..., 2], told["intrs"], told["poses_pred"], told["unc_metric"])
            depth, intrinsics, poses, sure = (value.squeeze().float().cpu().numpy() for value in kept)
            return video, {"depth": depth, "intrs": intrinsics, "extrs": poses, "unc_metric": sure > 0.5}

        followed = _Once(prepared)

        def ask(window: list[Picture], queries: NDArray[np.float32]) -> Answer:
            video, known = followed(window)
            given = np.column_stack([queries[:, 0], queries[:, 1:] * scale - 0.5]).astype(np.float32)
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
                told = predictor.forward(
                    video, **known, queries=given, fps=1, full_point=False, iters_track=4, query_no_BA=True,
                    fixed_cam=False, stage=1, support_frame=len(video) - 1, replace_ratio=0.2,
                )  # fmt: skip
            uv, seen, sure = (told[i].float().cpu().numpy() for i in (5, 6, 7))
            visible = seen.reshape(len(window), -1)
            confidence = np.clip(visible * sure.reshape(visible.shape), 0, 1)
            return Answer((uv[..., :2] + 0.5) / scale, visible > 0.5, confidence)

        return in_windows(frames, ask, report, window=96, at_once=150_000)


class _Once:
    """What is made of a window's frames, kept while the same window is asked for again."""

    def __init__(self, make: Any) -> None:
        self._make, self._of, self._made = make, None, None

    def __call__(self, window: Any) -> Any:
        if self._of is not window:
            self._of = self._made = None
            self._made, self._of = self._make(window), window
        return self._made


def _imported(module: str) -> Any:
    """Raises RetakeError where a package that it needs in turn is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = "Install what it asks for into the backend's environment, or use another tracker."
        raise RetakeError(f"{module} cannot be imported ({error}).", "--tracker", remedy) from error


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _fill(model: Any, path: Path) -> None:
    """Put the weights of a safetensors file into a model, all of them and no others. Raises BadFile."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        why = str(error).strip().splitlines()[0]
        raise BadFile(
            f"does not hold the weights of this tracker ({why}).", str(path), "Convert them again."
        ) from error


def _from_hub(module: str, name: str, folder: Path, part: str) -> Any:
    """A model of the hub's mixin from its own folder; by the mixin's reader, which takes safetensors."""
    from huggingface_hub import PyTorchModelHubMixin

    place = next(folder.glob(f"*{part}"))
    with _without_network():
        kind: Any = getattr(_imported(module), name)
        read: Any = PyTorchModelHubMixin.from_pretrained
        return read.__func__(kind, str(place), local_files_only=True)


@contextmanager
def _without_network() -> Iterator[None]:
    """The hub's client fetches nothing."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def main(arguments: list[str]) -> int:
    """Convert published weights. Arguments: the .pth or .pt, and the .safetensors to write."""
    if len(arguments) != 2:
        print("usage: python -m retake_backend.solve.plugins WEIGHTS.pth WEIGHTS.safetensors", file=sys.stderr)
        return 2
    try:
        convert(Path(arguments[0]), Path(arguments[1]))
    except (RetakeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
