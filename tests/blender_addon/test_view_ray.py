"""An object slid along the view rays: other depth, same picture in the footage's camera, and a real change from elsewhere."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from retake_shared import geometry

from blender_addon.scene import objects, restore, view_ray


def in_source_camera(solve, edit, number):
    """(how far in px the object's targets are from their tracks, their depth over the tracks') as the footage sees them."""
    columns = edit.objects == number
    before, near = solve.cameras.project(solve.tracks.positions[:, edit.source_track[columns]])
    after, far = solve.cameras.project(edit.positions[:, columns])
    inside = geometry.inside_image(before, near, solve.cameras.width, solve.cameras.height)
    return np.abs(after - before)[inside].max(), far / near


@pytest.mark.parametrize("moved", [False, True])
def test_the_footage_sees_the_same_at_another_depth(shot, read, moved):
    root, solve = shot
    if moved:
        root.location, root.rotation_quaternion, root.scale = (3, -2, 1), (0.9, 0.1, 0.4, 0.1), (2, 2, 2)
    man = objects.own_handle(root, 1)
    view_ray.slide(root, man, 1.5)
    edit = read(root)
    off, depth = in_source_camera(solve, edit, 1)
    assert off < 0.01
    np.testing.assert_allclose(depth, 1.5, rtol=1e-4)
    others = edit.objects != 1
    np.testing.assert_array_equal(edit.positions[:, others], solve.tracks.positions[:, edit.source_track[others]])


def test_the_depth_can_be_keyed_in_the_panel(shot, read):
    root, solve = shot
    man = objects.own_handle(root, 1)
    for frame, depth in ((1, 1.0), (len(solve), 2.0)):
        man.retake_handle.depth = depth
        man.keyframe_insert("retake_handle.depth", frame=frame)
    edit = read(root)
    off, depth = in_source_camera(solve, edit, 1)
    assert off < 0.01
    np.testing.assert_allclose(depth[0], 1, rtol=1e-4)
    np.testing.assert_allclose(depth[-1], 2, rtol=1e-4)
    assert (np.diff(depth.mean(1)) > 0).all()


def test_what_was_keyed_on_the_handle_goes_along(shot, read):
    root, solve = shot
    man = objects.own_handle(root, 1)
    man.location.x += 0.5
    man.rotation_euler.z = 0.3
    man.scale = (1.2, 1.2, 1.2)
    before = read(root)
    view_ray.slide(root, man, 0.7)
    after = read(root)
    columns = after.objects == 1
    a, _ = solve.cameras.project(before.positions[:, columns])
    b, _ = solve.cameras.project(after.positions[:, columns])
    assert np.abs(a - b).max() < 0.02


def test_back_to_its_own_depth_is_the_identity(shot, read, assert_identity):
    root, solve = shot
    man = objects.own_handle(root, 1)
    view_ray.slide(root, man, 2.0)
    view_ray.slide(root, man, 1.0)
    assert_identity(read(root), solve)
    view_ray.slide(root, man, 2.0)
    count = len(bpy.data.objects)
    objects.reset(bpy.context, root, man)
    assert man.retake_handle.depth == 1.0
    assert len(bpy.data.objects) == count - 1
    assert_identity(read(root), solve)


def test_a_copy_slides_by_itself(shot, read):
    root, solve = shot
    man = objects.own_handle(root, 1)
    view_ray.slide(root, man, 1.5)
    copy = objects.duplicate(root, man)
    view_ray.slide(root, copy, 3.0)
    edit = read(root)
    np.testing.assert_allclose(in_source_camera(solve, edit, 1)[1], 1.5, rtol=1e-4)
    np.testing.assert_allclose(in_source_camera(solve, edit, copy.retake_handle.number)[1], 3.0, rtol=1e-4)


def test_the_operator_by_value_and_its_refusals(shot, read):
    root, solve = shot
    assert bpy.ops.retake.slide_depth(object="man", depth=1.25) == {"FINISHED"}
    np.testing.assert_allclose(in_source_camera(solve, read(root), 1)[1], 1.25, rtol=1e-4)
    with pytest.raises(RuntimeError, match="no depth of its own"):
        bpy.ops.retake.slide_depth(object="background", depth=2)
    other = bpy.data.objects.new("other", None)
    bpy.context.scene.collection.objects.link(other)
    ball = objects.own_handle(root, 2)
    ball.parent = other
    with pytest.raises(RuntimeError, match="Clear its parent"):
        bpy.ops.retake.slide_depth(object="ball", depth=2)


def test_a_take_of_it_can_be_restored(shot, read):
    root, _ = shot
    view_ray.slide(root, objects.own_handle(root, 1), 1.5)
    edit = read(root)
    objects.reset(bpy.context, root, objects.own_handle(root, 1))
    restore.restore(bpy.context, root, objects.current_solve(root), edit)
    np.testing.assert_allclose(read(root).positions, edit.positions, atol=2e-4)


def test_no_driver_asks_for_trust(shot):
    root, _ = shot
    rail = view_ray.ensure_rail(root, objects.own_handle(root, 1))
    assert len(rail.animation_data.drivers) == 6
    assert all(curve.driver.is_simple_expression for curve in rail.animation_data.drivers)
