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
def everything_evaluated(
    context: bpy.types.Context, root: bpy.types.Object, parts: list[bpy.types.Object]
) -> Iterator[None]:
    """Restore the frame at the end, and see to it that Blender evaluates all parts: it skips what is disabled.

    An eye that is closed does no harm; a disabled object, or a collection that is disabled or excluded, does.
    """
    scene = context.scene
    frame, subframe = scene.frame_current, scene.frame_subframe
    disabled = [(ob, "hide_viewport", True) for ob in {root, *parts} if ob.hide_viewport]
    layers = [layer for layer in _layers(context.view_layer.layer_collection) if _holds_parts(layer, root, parts)]
    disabled += [(layer.collection, "hide_viewport", True) for layer in layers if layer.collection.hide_viewport]
    # Including a collection again includes those below it, so the states of all are remembered, outermost first.
    if any(layer.exclude for layer in layers):
        disabled += [(layer, "exclude", layer.exclude) for layer in _layers(context.view_layer.layer_collection)][1:]
    try:
        for thing, name, _ in disabled:
            if name != "exclude" or thing in layers:
                setattr(thing, name, False)
        yield
    finally:
        for thing, name, value in disabled:
            setattr(thing, name, value)
        scene.frame_set(frame, subframe=subframe)


def _layers(layer: bpy.types.LayerCollection) -> list[bpy.types.LayerCollection]:
    return [layer, *(below for child in layer.children for below in _layers(child))]


def _holds_parts(
    layer: bpy.types.LayerCollection, root: bpy.types.Object, parts: list[bpy.types.Object]
) -> bool:
    held = layer.collection.all_objects
    return held.get(root.name) is not None or any(held.get(part.name) is not None for part in parts[:1])
