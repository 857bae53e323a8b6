"""Dense depth of every frame, from triangulated points and what a network or the picture's edges say between them."""

from __future__ import annotations

from ..engines.base import Report
from ..weights.store import WeightStore
from .stages import CameraSolve, DepthMaps, ObjectGroups, Pictures, PointTracks

VERSION = 1

ROWS = 96
"""Rows of the depth maps of a landscape picture; its other side by its proportions."""


def estimate_depth(
    points: PointTracks,
    solve: CameraSolve,
    groups: ObjectGroups,
    pictures: Pictures,
    report: Report,
    store: WeightStore | None = None,
) -> DepthMaps:
    """Depth of every frame in the units of the cameras.

    With the weights of Depth Anything V2 (or Depth Pro) in `store`, its depth brought to the points' per frame and
    smoothed in time; else interpolated between the points along the picture's edges, moving objects standing on the
    ground. Of a camera that gives no parallax the scene is guessed; the notes say so.
    """
    raise NotImplementedError
