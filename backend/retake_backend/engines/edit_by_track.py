"""The `edit-by-track` engine: camera and objects follow the edited tracks (Edit-by-Track on Wan 1.3B)."""

from __future__ import annotations

from ..conditioning.edit_by_track import EditByTrackConditioner
from .diffusion.tracks import TrackEngine


class EditByTrackEngine(TrackEngine):
    """Source and target tracks sample the source video and splat it into both views (`conditioning.edit_by_track`)."""

    name = "edit-by-track"
    conditioner = EditByTrackConditioner
