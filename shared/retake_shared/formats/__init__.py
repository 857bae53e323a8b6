"""Reads what other people's solvers write, and our own archive, into a `Solve`.

One module per solver, each with a `read(source, footage) -> (Solve, notes)`; `detect` finds out whose result a path
is, by content, and calls the right one. Conventions are converted here and nowhere else: whatever the file says, a
`Solve` has camera-to-world poses with OpenCV axes and intrinsics in pixels of the picture that the solver saw
(`fitting.bind` brings them to the footage's). The rest are the tools of the readers: `npz`, `png` and `exr` open
untrusted files with numpy and the standard library alone, `mending` repairs or refuses damaged values, `convention`
tells world-to-camera from camera-to-world by reprojection, `trackfile` is what SpatialTrackerV2 and TAPIP3D share.
"""

from .detect import detect, read

__all__ = ["detect", "read"]
