"""World tracks: still points are one place, objects project to where they were followed and do not jitter."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from retake_backend.solve import series
from retake_backend.solve.depth import estimate_depth
from retake_backend.solve.lift import lift
from retake_backend.solve.stages import DepthMaps, Lifted, ObjectGroups
from retake_backend.weights.store import WeightStore
from retake_shared.errors import BadShot
from retake_shared.shot import Solve

from tests.backend.solve.sample import pictures, points, quiet, solved, truth
from tests.backend.solve.test_depth import NOWHERE, true_groups


@cache
def lifted() -> Lifted:
    depth = estimate_depth(points(), solved(), true_groups(), pictures(), quiet, WeightStore(NOWHERE))
    return lift(points(), solved(), true_groups(), depth, quiet)


def in_true_world(found: Lifted) -> tuple[np.ndarray, float]:
    """Positions brought back by the first camera and the length of the path, and the scale."""
    mine, true = found.cameras.c2w, truth().cameras.c2w
    length = [np.linalg.norm(np.diff(c[:, :3, 3], axis=0), axis=1).sum() for c in (mine, true)]
    scale = float(length[0] / length[1])
    local = (found.tracks.positions - mine[0, :3, 3]) @ mine[0, :3, :3] / scale
    return local @ true[0, :3, :3].T + true[0, :3, 3], scale


def test_every_point_of_the_room_and_of_the_objects_is_lifted() -> None:
    assert len(lifted().rows) > 0.99 * len(points())
    np.testing.assert_array_equal(lifted().tracks.objects, truth().tracks.objects[lifted().rows])
    tracks = lifted().tracks
    Solve(lifted().cameras, tracks, lifted().depth)  # it is a valid solve


def test_still_points_stand_still_where_they_are() -> None:
    tracks = lifted().tracks
    still = tracks.objects == 0
    assert np.ptp(tracks.positions[:, still], 0).max() < 1e-9
    found, _ = in_true_world(lifted())
    error = np.linalg.norm(found - truth().tracks.positions[:, lifted().rows], axis=-1)[:, still]
    assert np.median(error) < 0.01  # m, in a room 7 m wide
    assert np.quantile(error, 0.95) < 0.05


def test_objects_project_to_where_they_were_followed() -> None:
    tracks = lifted().tracks
    uv, _ = lifted().cameras.project(tracks.positions)
    moving = tracks.visibility & (tracks.objects > 0)
    error = np.linalg.norm(uv - points().uv[:, lifted().rows], axis=-1)[moving]
    assert error.max() < 1e-3  # px


@pytest.mark.parametrize(("label", "seen", "hidden"), [(1, 0.15, 0.3), (2, 0.18, 0.5)])
def test_objects_are_about_where_they_are_also_while_hidden(label: int, seen: float, hidden: float) -> None:
    found, _ = in_true_world(lifted())
    tracks = lifted().tracks
    error = np.linalg.norm(found - truth().tracks.positions[:, lifted().rows], axis=-1)
    here = tracks.objects == label
    assert np.median(error[:, here][tracks.visibility[:, here]]) < seen  # m, 6 m away from the camera
    assert np.median(error[:, here][~tracks.visibility[:, here]]) < hidden


def test_what_stands_still_of_a_walker_goes_with_him() -> None:
    """A foot's points, which the cameras took for the room's, are followed as he is, and are with him when hidden."""
    walker = np.flatnonzero(truth().tracks.objects == 1)
    foot = walker[::8]
    solve = solved()
    static, world = solve.static.copy(), solve.world.copy()
    static[foot], world[foot] = True, np.nan
    depth = estimate_depth(points(), solve, true_groups(), pictures(), quiet, WeightStore(NOWHERE))
    found = lift(points(), replace(solve, static=static, world=world), true_groups(), depth, quiet)
    tracks = found.tracks
    here = np.isin(found.rows, foot)
    assert here.sum() == len(foot)
    uv, _ = found.cameras.project(tracks.positions[:, here])
    error = np.linalg.norm(uv - points().uv[:, foot], axis=-1)[tracks.visibility[:, here]]
    assert error.max() < 1e-3  # px
    assert np.median(np.ptp(tracks.positions[:, here], 0).max(-1)) > 1  # m


def test_where_its_mask_is_lost_an_object_stays_as_far_away_as_it_was() -> None:
    """Its points then lie before the wall in the depth maps."""
    groups, true = true_groups(), truth().depth
    assert groups.masks is not None
    assert true is not None
    lost = slice(12, 18)
    masks, maps = groups.masks.copy(), true.copy()
    masks[lost][masks[lost] == 1] = 0
    maps[lost] = 9.0
    lifted = lift(points(), solved(), replace(groups, masks=masks), DepthMaps(maps, "", True), quiet)
    found, _ = in_true_world(lifted)
    error = np.linalg.norm(found - truth().tracks.positions[:, lifted.rows], axis=-1)[lost]
    walker = (lifted.tracks.objects == 1) & lifted.tracks.visibility[lost]
    assert np.median(error[walker]) < 0.3  # m


def test_objects_do_not_jitter() -> None:
    """Their accelerations stay near those of the true motion; half a pixel of noise alone would be 4 mm."""
    found, _ = in_true_world(lifted())
    tracks = lifted().tracks

    def acceleration(positions: np.ndarray, label: int) -> float:
        here = tracks.objects == label
        seen = tracks.visibility[:, here]
        bend = np.linalg.norm(np.diff(positions[:, here], 2, axis=0), axis=-1)
        return float(np.median(bend[seen[2:] & seen[1:-1] & seen[:-2]]))

    true = truth().tracks.positions[:, lifted().rows]
    for label in (1, 2):
        assert acceleration(found, label) < 1.5 * acceleration(true, label) + 0.005


def test_the_world_is_upright_on_its_ground_and_about_in_metres() -> None:
    _, scale = in_true_world(lifted())
    cameras = lifted().cameras
    turned = cameras.c2w[0, :3, :3] @ truth().cameras.c2w[0, :3, :3].T
    assert turned[2, 2] > np.cos(np.radians(1.5))  # their z is ours
    np.testing.assert_allclose(cameras.c2w[0, :2, 3], 0, atol=1e-9)
    assert cameras.c2w[0, 1, 2] > 0.9  # it looks along +y
    floor = np.abs(truth().tracks.positions[0, lifted().rows, 2]) < 1e-3
    assert abs(np.median(lifted().tracks.positions[0, floor, 2])) < 0.03
    assert 0.75 < scale < 1.1
    assert any("Scale is guessed" in note for note in lifted().notes)


def test_depth_is_in_the_units_of_the_world() -> None:
    _, scale = in_true_world(lifted())
    assert lifted().depth is not None
    assert truth().depth is not None
    assert np.median(lifted().depth / truth().depth) == pytest.approx(scale, rel=0.02)


def test_points_that_belong_to_nothing_are_left_out_and_told() -> None:
    none = ObjectGroups(np.zeros(len(points()), np.int32))
    found = lift(points(), solved(), none, None, quiet)
    assert len(found.rows) == solved().static.sum()
    assert "left out" in found.notes[0]
    nothing = replace(solved(), static=np.zeros(len(points()), bool))
    with pytest.raises(BadShot, match="no point could be brought to 3D"):
        lift(points(), nothing, none, None, quiet)


def test_series_are_smooth_and_fill_gaps() -> None:
    t = np.arange(40.0)
    values = 0.1 * t
    weight = np.ones(40)
    values[10:15], weight[10:15] = np.nan, 0
    np.testing.assert_allclose(series.smooth(values, weight, 100.0), 0.1 * t, atol=1e-6)
    lifted_feet = 0.1 * t + np.where(np.arange(40) % 3 == 0, 0.5, 0.0)
    below = series.from_below(lifted_feet, np.ones(40), 30.0, 0.0, 0.06)
    assert np.abs(below - 0.1 * t).max() < 0.05
