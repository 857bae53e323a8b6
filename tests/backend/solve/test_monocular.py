"""Depth Pro, where the user has it: for depth only when it is asked for, for the focal length where nothing else tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from retake_backend import cli_arguments
from retake_backend.models.random_weights import write_random
from retake_backend.solve import monocular, pipeline
from retake_backend.solve.depth import estimate_depth
from retake_backend.solve.monocular import DEPTH_PRO, PREFERRED
from retake_backend.solve.stages import CameraSolve, Focal, ObjectGroups
from retake_backend.weights.store import MissingWeights, WeightStore

from tests.backend.solve.sample import pictures, points, quiet, random_store, solved, truth

SIZE = (672, 384)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WeightStore:
    return random_store(tmp_path_factory.mktemp("models"), DEPTH_PRO)


def test_it_is_used_for_depth_only_where_it_is_asked_for(store: WeightStore, tmp_path: Path) -> None:
    assert monocular.network("", store) == ""
    assert monocular.network(DEPTH_PRO, store) == DEPTH_PRO
    with pytest.raises(MissingWeights, match="research only"):
        monocular.network(DEPTH_PRO, WeightStore(tmp_path))
    write_random(PREFERRED, tmp_path / PREFERRED)
    write_random(DEPTH_PRO, tmp_path / DEPTH_PRO)
    assert monocular.network("", WeightStore(tmp_path)) == PREFERRED
    assert set(cli_arguments.DEPTHS) == set(monocular.NAMES)


def test_its_depth_is_brought_to_the_points_and_its_licence_is_told(store: WeightStore) -> None:
    four = slice(0, 4)
    few = solved()
    cameras = type(few.cameras)(few.cameras.c2w[four], few.cameras.K[four], *SIZE)
    solve = replace(few, cameras=cameras, residual=few.residual[four], solved=few.solved[four])
    groups = ObjectGroups(truth().tracks.objects, truth().object_names, truth().masks[four])
    depth = estimate_depth(points().frames(0, 4), solve, groups, pictures()[four], quiet, store, DEPTH_PRO)
    assert depth.source == "Depth Pro"
    assert not depth.fallback
    assert depth.depth.shape == (4, 96, 168)
    assert (depth.depth > 0).all()
    told = " ".join(depth.notes)
    assert "for research only (Apple Machine Learning Research Model License" in told
    assert "random" in told


def test_it_sees_and_tells_what_its_own_processor_would(store: WeightStore) -> None:
    """By the steps of transformers' DepthProImageProcessor, which itself needs torchvision."""
    from transformers import DepthProForDepthEstimation

    loader: Any = DepthProForDepthEstimation
    model = loader.from_pretrained(store.place(DEPTH_PRO), local_files_only=True).eval()
    values = torch.from_numpy(pictures()[20].copy()).permute(2, 0, 1)[None] / 255.0
    side = 4 * model.config.patch_size
    seen = torch.nn.functional.interpolate((values - 0.5) / 0.5, (side, side), mode="bilinear", antialias=False)
    with torch.inference_mode():
        view = model(pixel_values=seen).field_of_view[0]
    assert 30 < view < 70
    focal = monocular.focal(pictures(), len(pictures()), SIZE, quiet, store)
    assert focal is not None
    assert focal.px == pytest.approx(float(0.5 * SIZE[0] / torch.tan(0.5 * torch.deg2rad(view))), rel=1e-3)
    assert "roughly" in focal.source  # the report's light is yellow for it


def _still_camera(focal_px: float) -> CameraSolve:
    few = solved()
    K = few.cameras.K.copy()
    K[:, [0, 1], [0, 1]] = focal_px
    cameras = type(few.cameras)(few.cameras.c2w, K, *SIZE)
    return replace(few, cameras=cameras, focal_source="assumed")


@pytest.mark.parametrize(
    ("source", "asks", "times"), [("assumed", True, 2), ("assumed", False, 1), ("estimated from the points", True, 1)]
)
def test_the_focal_length_is_asked_for_where_the_motion_does_not_tell_it(
    store: WeightStore, monkeypatch: pytest.MonkeyPatch, source: str, asks: bool, times: int
) -> None:
    given: list[Focal | None] = []

    def solve_cameras(_p: object, _s: object, focal: Focal | None, *_: object) -> CameraSolve:
        given.append(focal)
        return replace(_still_camera(500), focal_source=source if focal is None else focal.source)

    monkeypatch.setattr(pipeline.cameras, "solve_cameras", solve_cameras)
    run = pipeline._Run.__new__(pipeline._Run)
    run.report, run.pictures = quiet, _Pictures()  # type: ignore[assignment]
    found = run.cameras(points(), None, None, asks, store)
    assert len(given) == times
    assert given[0] is None
    assert ("Depth Pro" in found.focal_source) == (times == 2)


class _Pictures:
    size = SIZE

    def __len__(self) -> int:
        return len(pictures())

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return pictures()[index]
