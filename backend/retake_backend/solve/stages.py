"""What the stages of a solve hand on: plain numpy data, px of the working picture, pixel centres at .5.

The stages, in order, each a function of a module of this package that has a whole number `VERSION`, to be raised with
every change of its results (results kept from runs before are then made again):

    points.follow(frames, report) -> PointTracks
    cameras.solve_cameras(points, size, focal, static_hint, report) -> CameraSolve
    objects.find_objects(points, solve, masks, report) -> ObjectGroups
    depth.estimate_depth(points, solve, groups, pictures, report) -> DepthMaps
    lift.lift(points, solve, groups, depth, report) -> Lifted

`report` is called often with a `Progress` and raises `Cancelled`. A stage that cannot go on raises a RetakeError that
says what to do. T frames, N points, h x w px the working picture; `size` is always (width, height).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from retake_shared.shot import BACKGROUND, Cameras, Tracks

LONGER_SIDE = 672
"""px. Footage that is larger is solved on a smaller working picture."""

Gray = NDArray[np.uint8]
"""(h, w) uint8, one frame of the working picture."""

Pictures = Sequence[NDArray[np.uint8]] | Callable[[int], NDArray[np.uint8]]
"""(h, w, 3) uint8 sRGB frames of the working picture, by index or call; see `picture`."""

Kind = Literal["moving", "rotation", "static", "little parallax"]
"""What the camera does. rotation: it turns about its own centre (tripod pan; no depth follows from it). static: it
does not move at all. little parallax: it moves too little for depths to be known well."""


def picture(pictures: Pictures, index: int) -> NDArray[np.uint8]:
    """Frame `index` of either kind of Pictures."""
    return pictures(index) if callable(pictures) else pictures[index]


@dataclass(frozen=True)
class PointTracks:
    """N points followed through T frames of the working picture.

    uv: (T, N, 2) float32 px, nan where not followed. visible: (T, N) bool, True only where uv is finite. confidence:
    (T, N) float32 in [0, 1], 0 where not visible.
    """

    uv: NDArray[np.float32]
    visible: NDArray[np.bool_]
    confidence: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name, dtype in (("uv", np.float32), ("visible", bool), ("confidence", np.float32)):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        shape = self.uv.shape[:2]
        for name, expected in (("uv", (*shape, 2)), ("visible", shape), ("confidence", shape)):
            actual = getattr(self, name).shape
            if actual != expected:
                raise BadShot(f"shape is {actual}.", f"points.{name}", f"Expected {expected}.")

    def __len__(self) -> int:
        return int(self.uv.shape[1])

    @property
    def frame_count(self) -> int:
        """T."""
        return int(self.uv.shape[0])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) in how many frames each point is visible."""
        lengths: NDArray[np.int64] = self.visible.sum(0, dtype=np.int64)
        return lengths

    def select(self, which: NDArray[Any]) -> PointTracks:
        """The points that a mask (N,) or an index array names, in that order."""
        return PointTracks(self.uv[:, which], self.visible[:, which], self.confidence[:, which])

    def frames(self, start: int, stop: int, step: int = 1) -> PointTracks:
        """All points over frames start, start + step .. < stop."""
        cut = slice(start, stop, step)
        return PointTracks(self.uv[cut], self.visible[cut], self.confidence[cut])


@dataclass(frozen=True)
class Focal:
    """A focal length that the user gave. px: of the working picture's width. source: in words, for the report."""

    px: float
    source: str

    @classmethod
    def from_mm(cls, mm: float, size: tuple[int, int], sensor: float = 36.0) -> Focal:
        """Of a lens of `mm` before a sensor `sensor` mm long on its longer side (36: "35 mm equivalent")."""
        _positive(mm, "--focal", "Give the focal length in millimetres, as in 35.")
        _positive(sensor, "--sensor", "Give the length of the sensor's longer side in millimetres, as in 36.")
        return cls(mm / sensor * max(size), f"given: {mm:g} mm on a {sensor:g} mm sensor")

    @classmethod
    def from_fov(cls, degrees: float, size: tuple[int, int]) -> Focal:
        """Of a horizontal field of view."""
        check_fov(degrees)
        return cls(float(size[0] / 2 / np.tan(np.radians(degrees) / 2)), f"given: {degrees:g} degrees across")


def check_fov(degrees: float) -> None:
    """Raise BadShot for what is no horizontal field of view."""
    if not 0 < degrees < 175:
        raise BadShot(f"is {degrees:g} degrees.", "--fov", "Give the horizontal field of view, as in 60.")


def _positive(value: float, where: str, remedy: str) -> None:
    if not (np.isfinite(value) and value > 0):
        raise BadShot(f"is {value:g}.", where, remedy)


@dataclass(frozen=True)
class CameraSolve:
    """One camera for every frame, and which points it explains.

    cameras: T cameras of the working picture, without distortion. solved: (T,) bool, True where the camera was solved
    from the points, False where it was interpolated. world: (N, 3) float64, nan where a point was not triangulated.
    static: (N,) bool, points that stand still in the world (known of points without `world` too: on a pure rotation
    or a static camera nothing is triangulated). residual: (T, N) float32 px between a point and its static place's
    projection, nan where not visible or without one; for static points without `world`, the distance to where the
    camera's motion takes them. focal_source: in words ("estimated from the points", "given: 35 mm ...", "assumed").
    distortion: coefficients k1, k2 of the solved lens model (points are given undistorted by `undistorted`, None where
    there is nothing to undo). notes: in words, what was decided or had to be worked around.
    """

    cameras: Cameras
    kind: Kind
    world: NDArray[np.float64]
    static: NDArray[np.bool_]
    residual: NDArray[np.float32]
    focal_source: str
    solved: NDArray[np.bool_]
    notes: tuple[str, ...] = ()
    distortion: tuple[float, ...] = ()
    undistorted: NDArray[np.float32] | None = None

    @property
    def placed(self) -> NDArray[np.bool_]:
        """(N,) the points that stand still at a known place."""
        placed: NDArray[np.bool_] = self.static & np.isfinite(self.world).all(1)
        return placed

    def uv(self, points: PointTracks) -> NDArray[np.float32]:
        """(T, N, 2) where the points lie for a lens without distortion: what `cameras` project to."""
        return points.uv if self.undistorted is None else self.undistorted


@dataclass(frozen=True)
class ObjectGroups:
    """Which points move on their own, as named objects.

    labels: (N,) int32, 0 background. names: of every label, 0 "background". masks: (T, h, w) uint8 of labels at any
    size, or None. source: in words ("motion of the points", "masks given", ...). notes: for the report.
    """

    labels: NDArray[np.int32]
    names: dict[int, str] = field(default_factory=lambda: {BACKGROUND: "background"})
    masks: NDArray[np.uint8] | None = None
    source: str = "motion of the points"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DepthMaps:
    """Depth of every frame: camera-space z in the units of `CameraSolve.cameras`.

    depth: (T, h, w) float32 at any size, 0 where unknown. source: in words ("interpolated between points", the
    network's name). fallback: True when the depth is only interpolated. notes: for the report.
    """

    depth: NDArray[np.float32]
    source: str
    fallback: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lifted:
    """The solve in the world: what becomes `shot.Solve`.

    cameras: of the working picture, turned and scaled into the final world. tracks: world tracks; rows are `rows` of
    the points. depth: (T, h, w) float32 in the final units, or None. rows: (N',) int64. up: (3,) the guessed up
    direction in the final world. notes: for the report.
    """

    cameras: Cameras
    tracks: Tracks
    depth: NDArray[np.float32] | None
    rows: NDArray[np.int64]
    up: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    def resized(self, width: int, height: int) -> Lifted:
        """The same for the footage's own size in px."""
        return replace(self, cameras=self.cameras.resized(width, height))
