"""Runs other people's implementations on the tests' inputs and keeps their answers in second_opinions.json.

    PYTHONPATH=. python tests/backend/evaluation/second_opinions.py

in an environment that has scikit-image, torchmetrics, evo, lpips (and torchvision, which it builds on) beside the
backend's own packages. They bring too much along to be installed for every test run.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import numpy as np

from tests.backend.evaluation import inputs

ANSWERS = Path(__file__).with_name("second_opinions.json")


def of_scikit_image(seed: int) -> dict[str, float]:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    picture, truth = inputs.pictures(seed)
    textbook = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    similarity = structural_similarity(truth, picture, data_range=255, channel_axis=2, **textbook)
    return {"psnr": peak_signal_noise_ratio(truth, picture, data_range=255), "ssim": similarity}


def of_torchmetrics(seed: int) -> dict[str, float]:
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    a, b = (torch.from_numpy(p.astype(np.float64)).permute(2, 0, 1)[None] for p in inputs.pictures(seed))
    # Its mean takes in windows that reach beyond the picture, where it is mirrored; here those inside count.
    _, windows = structural_similarity_index_measure(a, b, data_range=255.0, return_full_image=True)
    return {
        "psnr": float(peak_signal_noise_ratio(a, b, data_range=255.0)),
        "ssim": float(windows[..., 5:-5, 5:-5].mean()),
    }


def of_evo(seed: int) -> dict[str, float]:
    from evo.core.metrics import APE, RPE, PoseRelation, StatisticsType, Unit
    from evo.core.trajectory import PosePath3D

    own, truth = (PosePath3D(poses_se3=list(poses)) for poses in inputs.camera_paths(seed))
    own.align(truth, correct_scale=True)
    found = {}
    for name, metric in (
        ("ate", APE(PoseRelation.translation_part)),
        ("rpe_t", RPE(PoseRelation.translation_part, 1, Unit.frames)),
        ("rpe_r", RPE(PoseRelation.rotation_angle_deg, 1, Unit.frames)),
    ):
        metric.process_data((truth, own))
        found[name] = float(metric.get_statistic(StatisticsType.rmse))
    return found


def of_lpips(seed: int) -> dict[str, float]:
    import lpips
    import torch

    weights = {name: torch.from_numpy(value) for name, value in inputs.lpips_weights(seed).items()}
    found = {}
    for key, spatial in (("lpips", False), ("mlpips", True)):
        model = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, spatial=spatial, verbose=False).eval()
        layers = {int(n): layer for part in model.net.children() for n, layer in part.named_children()}
        for number in (0, 3, 6, 8, 10):
            layers[number].weight.data = weights[f"features.{number}.weight"]
            layers[number].bias.data = weights[f"features.{number}.bias"]
        for number, head in enumerate(model.lins):
            head.model[1].weight.data = weights[f"lin{number}.model.1.weight"]
        mask = inputs.mask(seed)
        pictures = [p if not spatial else p * mask[..., None] for p in inputs.pictures(seed)]
        a, b = (lpips.im2tensor(picture) for picture in pictures)
        with torch.inference_mode():
            answer = model(a, b)[0, 0].numpy()
        found[key] = float(answer[mask].mean()) if spatial else float(answer.mean())
    return found


def main() -> None:
    import torch

    # torchvision's own operators are not needed, and their library may be built for another torch.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    packages = {"scikit-image": of_scikit_image, "torchmetrics": of_torchmetrics, "evo": of_evo, "lpips": of_lpips}
    answers = {
        package: {
            "version": importlib.metadata.version(package),
            "answers": {str(seed): {key: float(v) for key, v in ask(seed).items()} for seed in inputs.SEEDS},
        }
        for package, ask in packages.items()
    }
    ANSWERS.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
