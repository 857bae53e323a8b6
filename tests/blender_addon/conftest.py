"""Fixtures for tests inside Blender's Python: the add-on enabled once, an empty file for every test, shots to work on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction

import bpy
import numpy as np
import pytest
from retake_shared import geometry
from retake_shared.shot import Cameras, Footage, Solve, Tracks


@pytest.fixture(scope="session", autouse=True)
def add_on():
    """The add-on as Blender enables it. It is disabled at the end: the wheel hangs at exit while a class is registered."""
    import addon_utils  # on Python's path only once bpy is

    bpy.ops.wm.read_factory_settings(use_empty=True)
    module = addon_utils.enable("blender_addon", default_set=True)
    assert module is not None, "Blender refused to enable the add-on"
    yield module
    addon_utils.disable("blender_addon", default_set=True)


@pytest.fixture(autouse=True)
def fresh_scene(add_on):
    """A new, empty file with the add-on still enabled."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    return bpy.context.scene


@pytest.fixture(scope="session")
def make_footage(tmp_path_factory):
    """make(width, height, frames, fps, folder_name) -> Footage: a sequence of pictures that Blender really opens."""

    def make(width=320, height=180, frames=8, fps=Fraction(24), folder_name="footage") -> Footage:
        folder = tmp_path_factory.mktemp("clips") / folder_name
        folder.mkdir()
        first = folder / "picture_0000.png"
        image = bpy.data.images.new("made", width, height)
        image.filepath_raw, image.file_format = str(first), "PNG"
        image.save()
        bpy.data.images.remove(image)
        for frame in range(1, frames):
            shutil.copy(first, folder / f"picture_{frame:04d}.png")
        return Footage(str(first), width, height, fps, frames)

    return make


@pytest.fixture(scope="session")
def make_solve():
    """make(footage, count, seed, ...) -> Solve: a camera on an uneven path, tracks of three objects, two of them moving.

    varying: K changes from frame to frame. aspect: fx / fy. at: where in the world all that lies, scale: how large.
    """

    def make(
        footage: Footage, count=60, seed=0, varying=False, aspect=1.0, at=(0.0, 0.0, 0.0), scale=1.0, frames=None
    ) -> Solve:
        frames = frames or footage.frames
        random = np.random.default_rng(seed)
        path = np.cumsum(random.normal(0, 0.05, (frames, 3)), 0) + np.array([0, -0.5, -5])
        aim = random.normal(0, 0.1, (frames, 3)) * 0.1
        c2w = geometry.look_at(path, aim, np.array([0.05, 1.0, 0.02]))
        focal = footage.width * (0.9 + (0.1 * np.sin(np.arange(frames)) if varying else np.zeros(frames)))
        K = geometry.intrinsics(
            focal,
            focal / aspect,
            footage.width * (0.47 + 0.02 * varying * np.sin(np.arange(frames))),
            footage.height * 0.55,
        )
        objects = (np.arange(count) % 3).astype(np.int32)
        positions = random.normal(0, 1, (1, count, 3)) + np.zeros((frames, 1, 1))
        walk = np.arange(frames)[:, None] * np.array([[0.02, 0.0, 0.01]])
        positions[:, objects == 1] += walk[:, None]
        positions[:, objects == 2] -= 2 * walk[:, None]
        c2w[:, :3, 3] = c2w[:, :3, 3] * scale + at
        tracks = Tracks.make(
            positions * scale + np.array(at), random.random((frames, count)) > 0.2, objects=objects,
            ids=np.arange(count) * 7 + 3,
        )  # fmt: skip
        names = {1: "man", 2: "ball"} if count else {}
        return Solve(Cameras(c2w, K, footage.width, footage.height), tracks, object_names=names)

    return make


@pytest.fixture
def shot(make_footage, make_solve):
    """(root, solve) of a small shot in the scene."""
    from blender_addon.scene import shots

    footage = make_footage()
    solve = make_solve(footage)
    return shots.import_shot(bpy.context, footage, solve, set_scene=True), solve


@pytest.fixture
def read(fresh_scene):
    """read(root) -> Edit, as the scene shows it now."""
    from blender_addon.scene import readback

    return lambda root: readback.read_edit(bpy.context, root)[1]


@pytest.fixture(scope="session")
def assert_identity():
    """assert_identity(edit, solve): every target is where its source is, to 1e-4 px, in both views."""
    from retake_shared.shot import Edit

    def check(edit: Edit, solve: Solve) -> None:
        identity = Edit.identity(solve)
        assert edit.present.all()
        for name in ("source_track", "objects", "source_frame"):
            np.testing.assert_array_equal(getattr(edit, name), getattr(identity, name), name)
        for cameras in (edit.cameras, replace(edit.cameras, c2w=solve.cameras.c2w)):
            before, depth = solve.cameras.project(solve.tracks.positions)
            after, _ = cameras.project(edit.positions)
            inside = geometry.inside_image(before, depth, solve.cameras.width, solve.cameras.height)
            assert np.abs(after - before)[inside].max(initial=0) < 1e-4
        np.testing.assert_allclose(edit.positions, solve.tracks.positions, rtol=1e-9, atol=1e-9)

    return check
