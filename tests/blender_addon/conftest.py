"""Fixtures for tests inside Blender's Python: the add-on enabled once, an empty scene for every test."""

import addon_utils
import bpy
import pytest


@pytest.fixture(scope="session", autouse=True)
def add_on():
    """The add-on as Blender enables it. It is disabled at the end: the wheel hangs at exit while a class is registered."""
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
