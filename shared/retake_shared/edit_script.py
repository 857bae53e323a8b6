"""An edit in a few lines of JSON, in terms of the shot's objects: for the command line and for batches.

    {
      "retake_edit": 1,
      "engine": "preview", "prompt": "", "negative_prompt": "", "seed": 0,
      "frames": [0, 81], "size": [672, 384], "options": {},
      "unit": "scene",
      "camera": [
        {"move": "orbit", "degrees": 20, "pivot": "walker", "frames": [0, 81], "ease": "smooth"},
        {"move": "push_in", "factor": 0.25},
        {"move": "keys", "ease": "linear", "keys": [
          {"frame": 0, "translate": [0, 0, 0], "rotate": [0, 0, 0], "focal": 1.0},
          {"frame": 80, "translate": [0.1, 0, 0], "rotate": [0, -5, 0], "focal": 1.2}
        ]}
      ],
      "objects": [
        {"object": "walker", "keys": [{"frame": 0, "translate": [0.2, 0, 0], "rotate": [0, 30, 0], "scale": 1.1}]},
        {"object": "ball", "retime": {"offset": 8, "speed": 1.0}},
        {"object": "ball", "duplicate": "ball 2", "keys": [{"frame": 0, "translate": [-0.3, 0, 0]}]},
        {"object": "sign", "remove": true}
      ]
    }

Only "retake_edit" (the format's version) is required. A key that is not described here is refused.

**What to render.** "engine", "prompt", "negative_prompt", "seed", "frames" (of the footage, stop excluded), "size"
(width, height in px) and "options" (the engine's own) are those of `shot.RenderSettings`.

**Axes and lengths.** Translations and points are in the axes of the source camera at frame 0: x right, y down, z
forward. With "unit": "scene" (the default) a length of 1 is the median depth of the tracks visible at frame 0, with
"world" it is one unit of the solve. Rotations are vectors: right-handed about their direction, by their length in
degrees; [0, 30, 0] turns clockwise as seen from above, a camera to its right. A pivot is the name of an object (the median of its
tracks), a point [x, y, z] counted from the source camera at frame 0, or left out: the point on the view axis at the
median depth. Frames count from 0; a range [start, stop] excludes its stop, and all frames are meant without one.

**"camera"** is a list of moves, each applied to the result of those before it. A move grows over its "frames" (before
them nothing changes, after them it is held) with "ease" "smooth" (the default) or "linear".

    orbit     "degrees" (positive: to the camera's right), "pivot"; "axis" [x, y, z] (default: up)
    dolly     "distance" forward along the view; "look_at": a pivot that stays where it is in the picture
    truck     "right", "down"; "look_at" likewise
    push_in   "factor": this share of the way to "pivot" (negative: away); "keep_size": true is a dolly zoom
    crane     "rise", keeping "pivot" where it is in the picture
    look_at   turn until "pivot" is in the middle of the picture
    freeze    "at": hold this frame's camera in all frames
    keys      "keys": [{"frame", "translate", "rotate", "focal"}]: added to the source camera's own motion; it turns
              about its own place, focal is a factor

**"objects"** is a list of steps, each working on the result of those before it. "object" names whom it concerns, as
does the name of an earlier duplicate; then either "remove": true, or, in this order:

    "duplicate": NAME   the following concerns a copy of the object, called so
    "retime": {"offset", "speed", "reverse"} or {"freeze"}
                        offset: frames by which it lags behind (negative: runs ahead); speed: a factor; reverse: true;
                        freeze: it stands still as at this frame. Where the footage has nothing, its first or last
                        moment is held
    "keys": [{"frame", "translate", "rotate", "scale", "depth"}], "ease", "about"
                        added to the object's own motion. It turns and grows about its centre at each frame ("about":
                        "centre", the default), or about where that was when it was first seen ("start"), which turns
                        and scales its path as well. "depth" (1: as it is) brings it nearer or farther along the
                        view rays afterwards: the footage's camera sees it as before

Keys need not be sorted. Between them values are eased ("ease", as above), outside they are held. What a key leaves
out it does not key; what no key names stays as it was.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import archive, camera_moves, geometry, object_moves
from .easing import EASES, check_frames, interpolate_keys
from .errors import BadFile, BadShot
from .geometry import Array
from .json_fields import Fields, parse_object, within
from .retiming import retimed_frames
from .shot import Cameras, Edit, RenderSettings, Solve

VERSION = 1
MAX_BYTES = 16 << 20

_SETTINGS = ("engine", "prompt", "negative_prompt", "seed", "frames", "size", "options")
_CAMERA_CHANNELS = {"translate": (0.0, 0.0, 0.0), "rotate": (0.0, 0.0, 0.0), "focal": 1.0}
_OBJECT_CHANNELS = {"translate": (0.0, 0.0, 0.0), "rotate": (0.0, 0.0, 0.0), "scale": 1.0, "depth": 1.0}


def load(path: str | os.PathLike[str], solve: Solve) -> tuple[Edit, RenderSettings]:
    """The edit in a file: a script as described above, or an archive that holds an edit (then default settings).

    Raises BadFile or BadShot naming the file and the place in it.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadFile(
            f"cannot be opened: {error.strerror or error}.", str(path), "Check the path and that you may read it."
        ) from error
    if not data.startswith(b"PK") and Path(path).suffix.lower() != ".npz":
        if len(data) > MAX_BYTES:
            raise BadFile(f"is larger than {MAX_BYTES >> 20} MiB.", str(path), "Is this an edit script?")
        return parse(data, solve, str(path))
    edit = archive.load_edit(path)
    with within(str(path), ": "):
        edit.check_against(solve)
    return edit, RenderSettings()


def parse(
    script: str | bytes | dict[str, Any], solve: Solve, where: str = "edit script"
) -> tuple[Edit, RenderSettings]:
    """The edit of `solve` that a script (JSON text or the value it stands for) describes, and what to render.

    Raises BadFile for what is no valid script, BadShot for what this solve cannot do; both name `where` and the place.
    """
    with within(where, ": "):
        data = script if isinstance(script, dict) else parse_object(script, "an edit script")
        fields = Fields(data, ("retake_edit", *_SETTINGS, "unit", "camera", "objects"))
        version = fields.whole("retake_edit")
        if version != VERSION:
            raise BadFile(f"version is {version}; this Retake reads {VERSION}.", "retake_edit", "Update Retake.")
        settings = RenderSettings.from_json({key: data[key] for key in _SETTINGS if key in data})
        settings.frame_range(solve)
        place = _Place(solve, fields.choice("unit", ("scene", "world"), "scene"))
        cameras = solve.cameras
        for index, item in enumerate(fields.items("camera", [])):
            with within(f"camera[{index}]"):
                cameras = _move_camera(place, cameras, item)
        edit = replace(Edit.identity(solve), cameras=cameras)
        for index, item in enumerate(fields.items("objects", [])):
            with within(f"objects[{index}]"):
                edit = _edit_object(place, edit, item)
        return edit, settings


class _Place:
    """Where a script's lengths, directions and points lie in the solve's world."""

    def __init__(self, solve: Solve, unit: str) -> None:
        self.solve = solve
        self._unit = unit
        self.axes = solve.cameras.c2w[0, :3, :3]

    @cached_property
    def unit(self) -> float:
        """World units in a length of 1."""
        return 1.0 if self._unit == "world" else camera_moves.median_depth(self.solve, 0)

    @cached_property
    def up(self) -> Array:
        return camera_moves.mean_up(self.solve.cameras)

    def displacements(self, translate: Array) -> Array:
        """World displacements (T, 3). A script without lengths also works for a solve without scale."""
        return self.unit * translate @ self.axes.T if translate.any() else translate

    def rotations(self, degrees: Array) -> Array:
        """World rotations (T, 3, 3) of rotation vectors (T, 3)."""
        return self.axes @ geometry.rotation_from_vector(np.radians(degrees)) @ self.axes.T

    def pivot(self, fields: Fields, name: str, frames: tuple[int, int] | None) -> Array:
        value = fields.values.get(name)
        if value is None:
            return camera_moves.default_pivot(self.solve, None, frames)
        if isinstance(value, str):
            number = _number_of(value, self.solve.object_names, name)
            return camera_moves.default_pivot(self.solve, number, frames)
        point = self.displacements(fields.vector(name))
        return np.asarray(self.solve.cameras.c2w[0, :3, 3] + point)


def _number_of(name: str, names: dict[int, str], where: str) -> int:
    for number, existing in names.items():
        if existing == name:
            return number
    raise BadShot(f"there is no object {name!r:.80}.", where, f"The shot has: {', '.join(names.values())}.")


# ------------------------------------------------------------------------------------------------------- camera

_CAMERA_MOVES = {
    "orbit": ("degrees", "pivot", "axis", "frames", "ease"),
    "dolly": ("distance", "look_at", "frames", "ease"),
    "truck": ("right", "down", "look_at", "frames", "ease"),
    "push_in": ("factor", "pivot", "keep_size", "frames", "ease"),
    "crane": ("rise", "pivot", "frames", "ease"),
    "look_at": ("pivot", "frames", "ease"),
    "freeze": ("at",),
    "keys": ("keys", "ease"),
}


def _move_camera(place: _Place, cameras: Cameras, item: Any) -> Cameras:
    move = Fields(item, tuple(item) if isinstance(item, dict) else ("move",)).choice("move", tuple(_CAMERA_MOVES))
    fields = Fields(item, ("move", *_CAMERA_MOVES[move]))
    if move == "freeze":
        return camera_moves.freeze(cameras, fields.whole("at"))
    ease = fields.choice("ease", EASES, EASES[0])
    if move == "keys":
        keyed = _keys(fields, _CAMERA_CHANNELS, len(cameras), ease)
        translate, rotation = place.displacements(keyed["translate"]), place.rotations(keyed["rotate"])
        return camera_moves.offset(cameras, translate, rotation, keyed["focal"])
    frames = check_frames(len(cameras), fields.frame_range("frames"))
    kept, up = None, None
    if fields.values.get("look_at") is not None:
        kept, up = place.pivot(fields, "look_at", frames), place.up
    if move == "dolly":
        distance = place.unit * fields.number("distance")
        return camera_moves.dolly(cameras, distance, frames, ease, kept, up)
    if move == "truck":
        right, down = (place.unit * fields.number(name, 0.0) for name in ("right", "down"))
        return camera_moves.truck(cameras, right, down, frames, ease, kept, up)
    pivot = place.pivot(fields, "pivot", frames)
    if move == "orbit":
        axis = place.axes @ fields.vector("axis") if "axis" in fields else place.up
        return camera_moves.orbit(cameras, fields.number("degrees"), pivot, frames, ease, axis)
    if move == "push_in":
        return camera_moves.push_in(cameras, fields.number("factor"), pivot, frames, ease, fields.flag("keep_size"))
    if move == "crane":
        return camera_moves.crane(cameras, place.unit * fields.number("rise"), pivot, frames, ease, place.up)
    return camera_moves.look_at(cameras, pivot, frames, ease, place.up)


# ------------------------------------------------------------------------------------------------------ objects


def _edit_object(place: _Place, edit: Edit, item: Any) -> Edit:
    fields = Fields(item, ("object", "remove", "duplicate", "retime", "keys", "ease", "about"))
    name = fields.text("object")
    number = _number_of(name, edit.object_names, "object")
    if not len(object_moves.tracks_of(edit, number)):
        raise BadShot(f"{name!r:.80} has no tracks to edit.", "object", "Solve the shot with tracks on it.")
    steps = [step for step in ("duplicate", "retime", "keys") if step in fields]
    if fields.flag("remove"):
        if steps:
            raise BadFile(f'is mixed with "{steps[0]}".', "remove", "Remove the object, or edit it.")
        return object_moves.remove(edit, number)
    if not steps and "remove" not in fields:
        raise BadFile("asks for nothing.", "", 'Give "keys", "retime", "duplicate" or "remove".')
    if "duplicate" in fields:
        copy = fields.text("duplicate")
        if copy in edit.object_names.values():
            raise BadShot(f"there is an object {copy!r:.80} already.", "duplicate", "Choose another name.")
        edit, number = object_moves.duplicate(edit, number, copy)
    if "retime" in fields:
        with within("retime"):
            edit = object_moves.retime(edit, number, _shown(fields.values["retime"], len(edit)))
    ease, about = fields.choice("ease", EASES, EASES[0]), fields.choice("about", ("centre", "start"), "centre")
    if "keys" in fields:
        keyed = _keys(fields, _OBJECT_CHANNELS, len(edit), ease)
        centre = object_moves.centre_path(place.solve, edit, number)
        if about == "start":
            first = object_moves.first_seen(place.solve, edit, number)
            centre = np.broadcast_to(centre[first], centre.shape)
        translate, rotation = place.displacements(keyed["translate"]), place.rotations(keyed["rotate"])
        edit = object_moves.move(edit, number, translate, rotation, keyed["scale"], centre)
        edit = object_moves.slide(place.solve, edit, number, keyed["depth"])
    return edit


def _shown(item: Any, count: int) -> Array:
    fields = Fields(item, ("offset", "speed", "reverse", "freeze"))
    freeze = fields.number("freeze") if "freeze" in fields else None
    return retimed_frames(
        count, fields.number("offset", 0.0), fields.number("speed", 1.0), freeze, fields.flag("reverse")
    )


# --------------------------------------------------------------------------------------------------------- keys


def _keys(fields: Fields, channels: dict[str, Any], count: int, ease: str) -> dict[str, Array]:
    """Every channel's values (count, ...): interpolated between the keys that name it, its rest value without one."""
    keys: dict[int, dict[str, Any]] = {}
    for index, item in enumerate(fields.items("keys")):
        with within(f"keys[{index}]"):
            key = Fields(item, ("frame", *channels))
            frame = key.whole("frame")
            if not 0 <= frame < count:
                raise BadShot(f"{frame} is not in the footage.", "frame", f"Use 0 .. {count - 1}.")
            if frame in keys:
                raise BadFile(f"{frame} is keyed twice.", "frame", "Give each frame one key.")
            keys[frame] = {
                name: key.positive(name) if np.ndim(rest) == 0 else key.vector(name)
                for name, rest in channels.items()
                if name in key
            }
    values = {}
    for name, rest in channels.items():
        frames = [frame for frame in sorted(keys) if name in keys[frame]] or [0]
        values[name] = interpolate_keys(frames, [keys.get(f, {}).get(name, rest) for f in frames], count, ease)
    return values
