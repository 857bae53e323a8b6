"""Having Blender evaluate a shot's frames, and telling its float32 rounding from an edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import bpy
import numpy as np
from numpy.typing import NDArray

NOISE = 8 * float(np.finfo(np.float32).eps)
"""Relative rounding of a float32 position after its chain of parents; about 1e-3 px in the picture."""


def snap(values: NDArray[np.float64], rest: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """values (..., 3), or rest where the two are within noise (...) of each other."""
    near = np.linalg.norm(values - rest, axis=-1) <= noise
    return np.where(near[..., None], rest, values)


@contextmanager
def everything_evaluated(context: bpy.types.Context, parts: Sequence[bpy.types.Object]) -> Iterator[None]:
    """Within it Blender evaluates all parts, which it skips where they are disabled; afterwards all is as before.

    A closed eye does no harm; a disabled object, or a collection that is disabled or excluded, does. The current frame
    is restored as well.
    """
    scene = context.scene
    frame, subframe = scene.frame_current, scene.frame_subframe
    undo = []
    for thing in (*parts, *_collections_of(scene, parts)):
        if thing.hide_viewport:
            undo.append((thing, "hide_viewport", True))
            thing.hide_viewport = False
    held = set(parts)
    layers = _layers(context.view_layer.layer_collection)[1:]
    if any(layer.exclude and not held.isdisjoint(layer.collection.objects) for layer in layers):
        # To include a collection includes those below it, and to exclude one excludes them: remember all, from the top.
        undo += [(layer, "exclude", layer.exclude) for layer in layers]
        for layer in layers:
            if layer.exclude and not held.isdisjoint(layer.collection.objects):
                layer.exclude = False
    try:
        yield
    finally:
        for thing, name, value in undo:
            setattr(thing, name, value)
        scene.frame_set(frame, subframe=subframe)


def _collections_of(scene: bpy.types.Scene, parts: Sequence[bpy.types.Object]) -> list[bpy.types.Collection]:
    """The scene's collections that hold any of the parts, directly or below them."""
    held = set(parts)
    return [c for c in scene.collection.children_recursive if not held.isdisjoint(c.all_objects)]


def _layers(layer: bpy.types.LayerCollection) -> list[bpy.types.LayerCollection]:
    return [layer, *(below for child in layer.children for below in _layers(child))]
