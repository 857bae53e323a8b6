"""Keyframes in bulk, the same in Blender 4.2 (an action of its own for each ID) and since 4.4 (one action, many slots)."""

from __future__ import annotations

from collections.abc import Sequence

import bpy
import numpy as np
from numpy.typing import NDArray

SLOTTED = bpy.app.version >= (4, 4, 0)


class ActionWriter:
    """Gives many IDs their curves: all in one action where Blender can, so that the list of actions stays short."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._action = self._strip = None

    def curves_for(self, id_: bpy.types.ID) -> bpy.types.bpy_prop_collection:
        """The empty F-curve collection of `id_`, which from now on follows it."""
        animation = id_.animation_data_create()
        if not SLOTTED:
            animation.action = bpy.data.actions.new(f"{self.name} {id_.name}")
            return animation.action.fcurves
        if self._action is None:
            self._action = bpy.data.actions.new(self.name)
            self._strip = self._action.layers.new("Layer").strips.new(type="KEYFRAME")
        slot = self._action.slots.new(id_type=id_.id_type, name=id_.name)
        animation.action, animation.action_slot = self._action, slot
        return self._strip.channelbag(slot, ensure=True).fcurves


def curves_of(id_: bpy.types.ID) -> bpy.types.bpy_prop_collection | None:
    """The F-curves that `id_` follows now (its active action's), or None."""
    animation = id_.animation_data
    if animation is None or animation.action is None:
        return None
    if not SLOTTED:
        return animation.action.fcurves
    slot = animation.action_slot
    if slot is None:
        return None
    for layer in animation.action.layers:
        for strip in layer.strips:
            bag = strip.channelbag(slot)
            if bag is not None:
                return bag.fcurves
    return None


def write(fcurves: bpy.types.bpy_prop_collection, path: str, values: NDArray, start: int) -> None:
    """Linear keys at frames start, start + 1, ... for values (T, channels); replaces the curves of that data path."""
    frames, channels = values.shape
    keys = np.empty((channels, frames, 2), np.float32)
    keys[:, :, 0] = np.arange(start, start + frames)
    keys[:, :, 1] = values.T
    linear = np.ones(frames, np.int32)  # the enum's number for 'LINEAR'
    fresh = len(fcurves) == 0
    for index in range(channels):
        fcurve = None if fresh else fcurves.find(path, index=index)
        if fcurve is None:
            fcurve = fcurves.new(path, index=index)
        points = fcurve.keyframe_points
        if len(points) != frames:
            points.clear()
            points.add(frames)
        points.foreach_set("co", keys[index].reshape(-1))
        points.foreach_set("interpolation", linear)
    if not SLOTTED:
        fcurves.id_data.update_tag()  # 4.2 does not see by itself that keys have changed


def read(
    fcurves: bpy.types.bpy_prop_collection | None, path: str, channels: int, start: int, frames: int
) -> NDArray | None:
    """Values (T, channels) float32 of curves that have exactly one key on each of the frames, else None.

    A curve with other keys was edited by hand in a way that cannot be carried over key by key.
    """
    if fcurves is None:
        return None
    values = np.empty((frames, channels), np.float32)
    keys = np.empty((frames, 2), np.float32)
    for index in range(channels):
        fcurve = fcurves.find(path, index=index)
        if fcurve is None or len(fcurve.keyframe_points) != frames:
            return None
        fcurve.keyframe_points.foreach_get("co", keys.ravel())
        if not np.array_equal(keys[:, 0], np.arange(start, start + frames)):
            return None
        values[:, index] = keys[:, 1]
    return values


def remove_actions_without_users(actions: Sequence[bpy.types.Action]) -> None:
    """Delete those of `actions` that nothing follows any more."""
    unused = [action for action in actions if action.users == 0]
    if unused:
        bpy.data.batch_remove(unused)


def make_single_user(id_: bpy.types.ID) -> None:
    """Give a fresh copy of an ID its own action, so that keying it leaves the original alone."""
    animation = id_.animation_data
    if animation is None or animation.action is None:
        return
    slot = animation.action_slot.identifier if SLOTTED and animation.action_slot else None
    animation.action = animation.action.copy()
    if slot is not None:
        animation.action_slot = animation.action.slots[slot]
