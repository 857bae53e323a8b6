"""Reads what other people's solvers write, and our own archive, into a `Solve`.

One module per solver, each with a `read(source, footage) -> (Solve, notes)`; `detect` finds out whose result a path
is, by content, and calls the right one. Conventions are converted here and nowhere else: whatever the file says, a
`Solve` has camera-to-world poses with OpenCV axes and intrinsics in pixels of the picture that the solver saw
(`fitting.bind` brings them to the footage's). Files of cameras alone give a solve without tracks, by `Hints` where
they lack a lens (`camera_path`); of those with depth maps tracks are lifted (`posed_depth`); tracks in 2D are given as
`lifting.Tracks2D` by `read_any`. The rest are the tools of the readers: `npz`, `npy`, `png`, `exr` and `textfile` open
untrusted files with numpy and the standard library alone, `mending` repairs or refuses damaged values, `convention`
tells world-to-camera from camera-to-world by reprojection, `trackfile` is what SpatialTrackerV2 and TAPIP3D share.
"""

from .detect import detect, read, read_any
from .hints import Hints

__all__ = ["Hints", "detect", "read", "read_any"]
