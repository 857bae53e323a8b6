"""All points to world tracks: static ones as one point each, moving ones along their view rays."""

from __future__ import annotations

from ..engines.base import Report
from .stages import CameraSolve, DepthMaps, Lifted, ObjectGroups, PointTracks

VERSION = 1


def lift(
    points: PointTracks, solve: CameraSolve, groups: ObjectGroups, depth: DepthMaps | None, report: Report
) -> Lifted:
    """World tracks, cameras and depth in a world with z up, the ground (where one is found) at z = 0, about metres."""
    raise NotImplementedError
