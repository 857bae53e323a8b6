"""Which points move on their own, and which of them move together: named objects."""

from __future__ import annotations

from ..engines.base import Report
from .masks import GivenMasks
from .stages import CameraSolve, ObjectGroups, Pictures, PointTracks

VERSION = 1


def find_objects(
    points: PointTracks,
    solve: CameraSolve,
    masks: GivenMasks | None,
    report: Report,
    pictures: Pictures | None = None,
) -> ObjectGroups:
    """The points that the camera does not explain, grouped by motion and neighbourhood, the largest first.

    masks: what the user drew, which goes before the motion (`masks.read`), or None. pictures: the frames, for masks
    that follow the picture's edges; without them the result has only masks that were given.
    """
    raise NotImplementedError
