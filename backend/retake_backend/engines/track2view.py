"""The `track2view` engine: the same action from another camera (Track2View on Wan 1.3B)."""

from __future__ import annotations

from ..conditioning.track2view import Track2ViewConditioner
from .diffusion.tracks import TrackEngine


class Track2ViewEngine(TrackEngine):
    """Tracks sampled in the source view are scattered to both views' cells (`conditioning.track2view`)."""

    name = "track2view"
    conditioner = Track2ViewConditioner
