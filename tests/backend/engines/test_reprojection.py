"""What a diffusion engine starts from is the preview of the same edit; what is painted anew is what no frame shows."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from retake_backend.engines.base import Progress, RenderRequest
from retake_backend.engines.diffusion import reprojection
from retake_backend.engines.diffusion.repainting import painted_over, whole_cells, widened
from retake_backend.engines.diffusion.reprojection import Moved, Reprojection
from retake_shared.errors import Cancelled
from retake_shared.shot import Edit, RenderSettings

if "preview_scenes" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "preview_scenes", Path(__file__).resolve().parents[1] / "preview_scenes.py"
    )
    sys.modules["preview_scenes"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["preview_scenes"])
scenes = sys.modules["preview_scenes"]

FRAMES = scenes.FRAMES


@pytest.fixture(scope="module")
def pushed_aside() -> RenderRequest:
    """A board before a wall, seen from a camera that steps a metre to the left: a strip of the wall was never seen."""
    path = np.stack([np.linspace(-0.9, 0.9, FRAMES), np.zeros(FRAMES), np.full(FRAMES, 4.0)], 1)
    cameras = scenes.still_cameras()
    footage, solve = scenes.shoot([scenes.background(), scenes.board(path)], cameras)
    offset = np.tile([-1.0, 0.0, 0.0], (FRAMES, 1))
    edit = replace(Edit.identity(solve), cameras=scenes.moved(cameras, offset))
    options = {"steps": 2, "strength": 0.5}  # of another engine, with options the preview does not know
    return RenderRequest(footage, solve, edit, RenderSettings(engine="vace", frames=(2, 7), options=options))


@pytest.fixture(scope="module")
def preview(pushed_aside: RenderRequest) -> list:
    """Frames 2 .. 6 as the preview engine itself renders them with other frames as fill."""
    return scenes.render(
        pushed_aside.footage, pushed_aside.solve, pushed_aside.edit, frames=(2, 7), options={"fill": "frames"}
    )


def everything(request: RenderRequest, **how: object) -> Moved:
    whole = Reprojection(request, **how)
    return whole.frames(range(whole.start, whole.stop), scenes.no_report)


def test_pictures_and_holes_are_the_previews_own(pushed_aside: RenderRequest, preview: list) -> None:
    moved = everything(pushed_aside, fill="frames")
    assert moved.rgb.shape == (5, scenes.HEIGHT, scenes.WIDTH, 3)
    for picture, holes, frame in zip(moved.rgb, moved.holes, preview, strict=True):
        np.testing.assert_array_equal(picture, frame.rgb)
        np.testing.assert_array_equal(holes, frame.holes == 255)
    assert 0.1 < moved.holes.mean() < 0.4


def test_invention_in_the_holes_leaves_the_holes_where_they_are(pushed_aside: RenderRequest, preview: list) -> None:
    moved = everything(pushed_aside, fill="all")
    np.testing.assert_array_equal(moved.holes, np.stack([frame.holes for frame in preview]) == 255)
    grey = np.stack([frame.rgb for frame in preview])
    assert (moved.rgb != grey)[moved.holes].mean() > 0.9


def test_footage_may_have_a_size_that_no_take_is_asked_for_in() -> None:
    """Takes are asked for from 16 to 8192 px a side; one of the footage's own size is not asked for."""
    cameras = scenes.still_cameras(2, 40, 8)
    footage, solve = scenes.shoot([scenes.background(2)], cameras)
    edit = replace(Edit.identity(solve), cameras=scenes.moved(cameras, np.tile([0.2, 0.0, 0.0], (2, 1))))
    moved = everything(RenderRequest(footage, solve, edit, RenderSettings(engine="draft")))
    assert moved.rgb.shape == (2, 8, 40, 3)


def test_frames_come_in_any_order_from_one_rendering(pushed_aside: RenderRequest, preview: list) -> None:
    whole, told = Reprojection(pushed_aside, fill="frames"), []
    for asked in ([6, 2, 6], [3]):
        moved = whole.frames(asked, told.append)
        np.testing.assert_array_equal(moved.rgb, np.stack([preview[at - 2].rgb for at in asked]))
        np.testing.assert_array_equal(moved.holes, np.stack([preview[at - 2].holes for at in asked]) == 255)
    assert sum(progress.stage == "rendering" and progress.done == 5 for progress in told) == 1
    for outside in (1, 7):
        with pytest.raises(IndexError, match=str(outside)):
            whole.frames([3, outside], scenes.no_report)


def test_it_has_a_size_of_its_own(pushed_aside: RenderRequest) -> None:
    assert everything(pushed_aside, size=(96, 64)).rgb.shape == (5, 64, 96, 3)


def test_what_is_large_lies_in_a_file_and_is_the_same(
    pushed_aside: RenderRequest, preview: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reprojection, "IN_MEMORY", 1000)
    moved = everything(pushed_aside, fill="frames")
    np.testing.assert_array_equal(moved.rgb, np.stack([frame.rgb for frame in preview]))
    np.testing.assert_array_equal(moved.holes, np.stack([frame.holes for frame in preview]) == 255)


def test_progress_is_told_and_a_cancel_stops_it(pushed_aside: RenderRequest) -> None:
    def cancel(progress: Progress) -> None:
        if progress.stage == "rendering" and progress.done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        Reprojection(pushed_aside).frames([2], cancel)


# --- what is painted, and how it joins ---


def test_holes_widen_by_a_circle() -> None:
    holes = np.zeros((2, 32, 48), bool)
    holes[0, 11, 20] = holes[0, 0, 47] = True
    mask = widened(holes, grow=4, specks=0)
    rows, columns = np.nonzero(mask[0, 7:16, 16:25])
    assert mask[0, 7, 20]
    assert mask[0, 11, 24]
    assert np.hypot(rows - 4, columns - 4).max() < 4.5
    assert mask[0, :5, 43:].sum() > 12
    assert not mask[1].any()
    np.testing.assert_array_equal(widened(holes, grow=0, specks=0), holes)


def test_cells_are_made_anew_as_a_whole_and_no_others() -> None:
    mask = np.zeros((3, 32, 48), bool)
    mask[0, 11, 20] = mask[2, 7, 40] = mask[2, 8, 47] = True
    expected = np.zeros_like(mask)
    expected[0, 8:16, 16:24] = expected[2, 0:16, 40:48] = True
    np.testing.assert_array_equal(whole_cells(mask), expected)


def test_single_pixels_are_not_painted_but_a_torn_edge_of_them_is() -> None:
    holes = np.zeros((3, 64, 64), bool)
    holes[0, 20:24, 20:24] = True  # 16 px
    holes[1, 4:60:3, 30] = True  # 19 px of one torn edge
    holes[2, 10:60:20, 10:60:20] = True  # 9 px far from each other
    np.testing.assert_array_equal(widened(holes, grow=0), holes & np.array([False, True, False])[:, None, None])
    holes[0, 24, 20] = True
    np.testing.assert_array_equal(widened(holes, grow=0)[0], holes[0])


def test_footage_is_untouched_away_from_the_painting() -> None:
    rng = np.random.default_rng(0)
    footage, painting = rng.integers(0, 256, (2, 40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 16:32] = True
    joined = painted_over(footage, painting, mask, seam=4)
    np.testing.assert_array_equal(joined[mask], painting[mask])
    near = np.zeros_like(mask)
    near[5:25, 11:37] = True
    np.testing.assert_array_equal(joined[~near], footage[~near])


def test_the_seam_has_no_step() -> None:
    footage, painting = np.full((40, 60, 3), 100, np.uint8), np.full((40, 60, 3), 180, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[:, 30:] = True
    row = painted_over(footage, painting, mask, seam=8)[20, :, 0].astype(int)
    assert row[0] == 100
    assert row[-1] == 180
    steps = np.diff(row)
    assert steps.min() == 0
    assert steps.max() <= 10  # 80 levels over 8 px and the first beside them


@pytest.mark.parametrize("all_painted", [False, True])
def test_nothing_and_everything_painted(all_painted: bool) -> None:
    footage, painting = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
    joined = painted_over(footage, painting, np.full((8, 8), all_painted), seam=4)
    np.testing.assert_array_equal(joined, painting if all_painted else footage)
