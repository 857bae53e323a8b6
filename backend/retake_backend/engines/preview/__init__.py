"""The `preview` engine: footage reprojected along edited tracks and cameras, on any CPU, without weights.

`plan` says what each object shows in each frame; `mattes` and `surfaces` say which pixels are its and how far they
are; `motion` says where they go and `warp` turns that into a picture. `background` renders what stands behind, with
`plates` from other frames and `inpaint` where none shows it; `hidden` completes what one object hides of another;
`engine` puts the layers together.
"""

from .engine import PreviewEngine

__all__ = ["PreviewEngine"]
