"""A Nuke script (.nk): the camera, and tracks as Axis nodes.

Camera2, which every Nuke reads: it looks along its -z with y up, in the content's world as it is; rotations in degrees
in the order ZXY (R = Ry Rx Rz). Lens in mm: haperture is 36, focal = fx * 36 / width, vaperture = 36 * height / width *
fx / fy. The window is shifted by the principal point, in halves of haperture for both axes: win_translate u =
1 - 2 cx / width, v = (2 cy - height) / width * fx / fy. Pixels that are not square make the format's pixel aspect
fy / fx, so the script's format must be used. v counts from the bottom, as always in Nuke.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..geometry import Array
from .chan import zxy_degrees
from .content import Content
from .files import number, write_text

APERTURE = 36.0
"""mm across the picture's width."""

_COLUMNS = 20
"""Axis nodes in a row of the script's picture."""


def write(path: Path, content: Content, *, start: int = 1, fps: Fraction = Fraction(24), axes: int = 0) -> list[str]:
    """Write the script. start: the number that footage frame 0 has in it. axes: at most so many tracks as Axis2 nodes,
    the longest visible of each object first."""
    cameras = content.cameras
    width, height = cameras.width, cameras.height
    fx, fy, cx, cy = (cameras.K[:, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    squeeze = float(np.median(fx / fy))
    first = start + content.first
    name = _identifier(content.name)
    rows = _chosen(content, axes)
    aspect = number(round(1 / squeeze, 12))
    nodes = [
        _node("Root", {
            "inputs": "0",
            "format": f'"{width} {height} 0 0 {width} {height} {aspect} {name}_{width}x{height}"',
            "first_frame": str(first), "last_frame": str(first + len(content) - 1), "lock_range": "true",
            "fps": number(float(fps)),
        }),
        _node("Camera2", {
            "inputs": "0",
            "rot_order": "ZXY",
            "translate": _curves(cameras.c2w[:, :3, 3], first),
            "rotate": _curves(zxy_degrees(cameras), first),
            "focal": _curves((fx * APERTURE / width)[:, None], first),
            "haperture": number(APERTURE),
            "vaperture": number(APERTURE * height / width * squeeze),
            "win_translate": _curves(
                np.stack([1 - 2 * cx / width, (2 * cy - height) / width * squeeze], 1), first),
            "name": f"{name}_camera", "xpos": "0", "ypos": "0",
        }),
    ]  # fmt: skip
    for place, row in enumerate(rows.tolist()):
        label = content.object_names.get(int(content.tracks.objects[row]), "background")
        nodes.append(
            _node("Axis2", {
                "inputs": "0",
                "translate": _curves(content.tracks.positions[:, row], first),
                "name": f"{_identifier(label)}_{content.tracks.ids[row]}",
                "xpos": str(110 * (place % _COLUMNS)), "ypos": str(120 + 60 * (place // _COLUMNS)),
            })
        )  # fmt: skip
    write_text(path, "version 11.0 v1\n" + "".join(nodes))
    notes = []
    if np.abs(fx / fy / squeeze - 1).max() * height / 2 > 0.05:
        notes.append("fx : fy changes from frame to frame; the script has one pixel aspect, the median.")
    if abs(squeeze - 1) > 1e-6:
        notes.append(f"The pixel aspect is {1 / squeeze:.4f}: render with the script's own format.")
    if np.abs(cameras.K[:, 0, 1]).max() > 0:
        notes.append("The skew of the intrinsics is left out: a Nuke camera has none.")
    if axes and len(rows) < len(content.tracks):
        notes.append(f"{len(rows)} of {len(content.tracks)} tracks became Axis nodes.")
    return notes


def _chosen(content: Content, limit: int) -> NDArray[np.intp]:
    """Rows of at most `limit` tracks, ascending: the objects take turns, longest visible tracks first."""
    seen = content.tracks.visibility.sum(0)
    order = np.lexsort((-seen, content.tracks.objects))
    objects = content.tracks.objects[order]
    turn = np.arange(len(order)) - np.searchsorted(objects, objects)
    return np.sort(order[np.argsort(turn, kind="stable")][: max(limit, 0)])


def _node(kind: str, knobs: dict[str, str]) -> str:
    return "".join([f"{kind} {{\n", *(f" {key} {value}\n" for key, value in knobs.items()), "}\n"])


def _curves(values: Array, first: int) -> str:
    """A knob of C fields from values (T, C): a curve for each that changes, which is linear between frames."""
    fields = []
    for column in values.T:
        if np.ptp(column) == 0:
            fields.append(number(column[0]))
        else:
            keys = " ".join(f"x{first + row} {number(value)}" for row, value in enumerate(column))
            fields.append(f"{{curve L {keys}}}")
    return "{" + " ".join(fields) + "}"


def _identifier(name: str) -> str:
    """A name that Nuke accepts for a node or a format."""
    cleaned = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    return cleaned if cleaned and not cleaned[0].isdigit() else f"_{cleaned}"
