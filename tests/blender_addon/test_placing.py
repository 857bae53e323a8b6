"""The shot's ground and scale: tracks that the artist selects lie on Z = 0, two of them are as far apart as told, and
nothing of the edit changes."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from blender_addon.scene import objects, placing


def empties(root, count, number=0):
    return objects.empties_under(objects.own_handle(root, number))[:count]


def select(obs):
    bpy.ops.object.select_all(action="DESELECT")
    for ob in obs:
        ob.select_set(True)
    bpy.context.view_layer.update()


def world(obs):
    return np.array([ob.matrix_world.translation for ob in obs])


@pytest.fixture
def grounded(make_footage, make_solve):
    """(root, solve, tracks of the floor): a shot some of whose tracks lie on a slanted floor."""
    from dataclasses import replace

    from blender_addon.scene import shots

    footage = make_footage()
    solve = make_solve(footage)
    positions = solve.tracks.positions.copy()
    positions[:, 0:30:3, 1] = 2 + 0.3 * positions[:, 0:30:3, 0] + 0.1 * positions[:, 0:30:3, 2]  # y is down: below
    solve = replace(solve, tracks=replace(solve.tracks, positions=positions))
    root = shots.import_shot(bpy.context, footage, solve, set_scene=True)
    bpy.context.view_layer.update()
    return root, solve, [e for e in empties(root, 30) if e.retake_track in range(0, 30, 3)]


def test_selected_tracks_become_the_ground(grounded, read, assert_identity):
    root, solve, floor = grounded
    root.location, root.rotation_quaternion = (1, 2, 3), (0.7, 0.7, 0, 0.1)
    select(floor)
    assert bpy.ops.retake.ground_from_selection() == {"FINISHED"}
    assert np.abs(world(floor)[:, 2]).max() < 1e-4
    assert root.retake.source_camera.matrix_world.translation.z > 0
    assert_identity(read(root), solve)


def test_two_tracks_are_as_far_apart_as_told(grounded, read, assert_identity):
    root, solve, floor = grounded
    select(floor)
    bpy.ops.retake.ground_from_selection()
    clip_end = root.retake.target_camera.data.clip_end
    before = np.linalg.norm(np.diff(world(floor[:2]), axis=0))
    select(floor[:2])
    assert bpy.ops.retake.scale_from_distance(distance=3.5) == {"FINISHED"}
    assert np.linalg.norm(np.diff(world(floor[:2]), axis=0)) == pytest.approx(3.5, rel=1e-5)
    assert np.abs(world(floor)[:, 2]).max() < 1e-4  # the ground stays the ground
    assert root.retake.target_camera.data.clip_end == pytest.approx(clip_end * 3.5 / before, rel=1e-4)
    assert_identity(read(root), solve)


@pytest.mark.parametrize(
    ("count", "operator", "words"),
    [
        (2, "ground_from_selection", "Select three or more"),
        (3, "scale_from_distance", "Select the two"),
        (0, "scale_from_distance", "Select the two"),
    ],
)
def test_what_is_missing_is_said(grounded, count, operator, words):
    root, _, floor = grounded
    select(floor[:count])
    before = root.matrix_world.copy()
    with pytest.raises(RuntimeError, match=words):
        getattr(bpy.ops.retake, operator)()
    assert root.matrix_world == before


def test_tracks_on_a_line_are_no_ground(grounded):
    root, _, _ = grounded
    line = np.outer(np.arange(5), [1.0, 2.0, 0.5])
    with pytest.raises(Exception, match="on a line"):
        placing.lay_on_ground(bpy.context, root, line)


def test_a_keyed_root_is_not_moved_behind_the_artists_back(grounded):
    root, _, floor = grounded
    root.keyframe_insert("location", frame=1)
    select(floor)
    with pytest.raises(RuntimeError, match="Delete its keys"):
        bpy.ops.retake.ground_from_selection()
