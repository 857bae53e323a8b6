"""How far a solve can be trusted: measured, in words, with a traffic light that is never greener than the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from retake_shared import geometry
from retake_shared.errors import BadShot, RetakeError

from . import motion
from .stages import CameraSolve, DepthMaps, Kind, ObjectGroups, PointTracks

Light = Literal["green", "yellow", "red"]
_BENT = 4.0
"""px of the working picture: lenses that bend lines more exist, but are rarer than movers that make it seem so."""

_BESIDE = 1.0
"""px of the working picture by which tracks may lie beside what the footage shows before that is told."""

_INEXACT = 2.5
"""Times the exactness of the points by which true cameras never miss them: a distance of two directions for one of one
makes 1.8 of it, tracks that slide a little the rest."""

_CELLS = (8, 6)
_AGREES = 2.0
"""px of the working picture within which a point lies on the line that two cameras leave it."""

_WORDS: dict[Kind, str] = {
    "moving": "The camera moves through the scene.",
    "rotation": "The camera turns on the spot; depth does not follow from it.",
    "static": "The camera stands still; depth does not follow from it.",
    "little parallax": "The camera moves only a little; depths are uncertain.",
}


@dataclass(frozen=True)
class SolveReport:
    """light: green (trust it), yellow (look at it), red (do not use it). reasons: why not green, the worst first.

    frames: (first, stop) of the footage. solved: share of them with a camera of their own. reprojection,
    reprojection_95: px of the footage, median and 95th percentile, of the points that stand still. agreement: share of
    the background's points that any two cameras put where they were followed. rest: share of all points, weighed by
    their length, that stand still. explained: share that stands still or belongs to an object. points: number of tracks; still: of them at rest; track_length: frames, median.
    coverage: share of the picture with points at rest, in the mean frame. parallax: degrees, median. beside: px of the
    footage by which tracks lie beside what they follow, the 99th percentile: the lens bends, and the cameras of a solve
    do not. focal: px of the footage, first and last frame. focal_source, depth_source, kind: in words. objects: by name,
    number of points. fallbacks: what was made do with. notes: of all stages. seconds: of each stage made in this run. error: why there is
    no solve, "" when there is one. split: ranges of frames, each of which may be solved by itself, after a scene cut.
    """

    light: Light
    reasons: tuple[str, ...]
    frames: tuple[int, int] = (0, 0)
    kind: str = ""
    solved: float = 0.0
    reprojection: float = 0.0
    reprojection_95: float = 0.0
    agreement: float = 0.0
    rest: float = 0.0
    explained: float = 0.0
    points: int = 0
    still: int = 0
    track_length: float = 0.0
    coverage: float = 0.0
    parallax: float = 0.0
    beside: float = 0.0
    focal: tuple[float, float] = (0.0, 0.0)
    field_of_view: float = 0.0
    focal_source: str = ""
    depth_source: str = ""
    objects: tuple[tuple[str, int], ...] = ()
    fallbacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    error: str = ""
    split: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of `solve.report.json`."""
        data = {"retake": "solve report", "version": 1, **asdict(self), "words": list(self.words())}
        data["objects"], data["seconds"] = dict(self.objects), dict(self.seconds)
        return {name: _rounded(part) for name, part in data.items()}

    def words(self) -> tuple[str, ...]:
        """The report as the artist reads it, one line each."""
        if self.error:
            return (f"red: {self.error}",)
        start, stop = self.frames
        width = (
            f"{self.focal[0]:.0f}"
            if abs(self.focal[1] / self.focal[0] - 1) < 0.01
            else "{:.0f} to {:.0f}".format(*self.focal)
        )
        lines = [
            f"{self.light}: {self.reasons[0] if self.reasons else 'nothing speaks against this solve.'}",
            *self.reasons[1:],
            _WORDS.get(self.kind, ""),  # type: ignore[call-overload]
            f"{self.solved:.0%} of frames {start} to {stop - 1} have a camera of their own.",
            f"{self.points} tracks, {self.still} at rest, half of them {self.track_length:.0f} frames or longer, "
            f"over {self.coverage:.0%} of the picture.",
            f"Reprojection error {self.reprojection:.2f} px (95 % below {self.reprojection_95:.2f}), "
            f"parallax {self.parallax:.1f} degrees.",
            f"Focal length {width} px ({self.field_of_view:.0f} degrees across), {self.focal_source}.",
            f"Depth: {self.depth_source}." if self.depth_source else "",
            "Objects: " + ", ".join(f"{name} ({count} tracks)" for name, count in self.objects) + "."
            if self.objects
            else "No moving object was found.",
            *self.fallbacks,
            *self.notes,
        ]
        return tuple(line for line in dict.fromkeys(lines) if line)


class SceneCuts(BadShot):
    """The range shows more than one scene. ranges: (first, stop) of each."""

    def __init__(self, where: str, ranges: Sequence[tuple[int, int]]) -> None:
        at = ", ".join(str(first) for first, _ in ranges[1:])
        what = f"has a scene cut at frame {at}." if len(ranges) == 2 else f"has scene cuts at frames {at}."
        each = " or ".join(f"--frames {first}:{stop}" for first, stop in ranges[:8])
        super().__init__(what, where, f"Solve each scene by itself: {each}.")
        self.ranges = tuple(ranges)


def failed(error: RetakeError, frames: tuple[int, int] = (0, 0)) -> SolveReport:
    """The report of a shot that cannot be solved."""
    split = error.ranges if isinstance(error, SceneCuts) else ()
    return SolveReport("red", (str(error),), frames=frames, error=str(error), split=split)


def judge(
    points: PointTracks,
    solve: CameraSolve,
    groups: ObjectGroups,
    depth: DepthMaps | None,
    *,
    frames: tuple[int, int],
    scale: float,
    notes: tuple[str, ...] = (),
    seconds: tuple[tuple[str, float], ...] = (),
) -> SolveReport:
    """Measure a solve. scale: px of the footage to one px of the working picture."""
    still = solve.static & (groups.labels == 0)
    size = (solve.cameras.width, solve.cameras.height)
    misses = _misses(points, solve, still)
    typical, tail = np.percentile(misses, [50, 95]) if misses.size else (np.inf, np.inf)
    weight = points.visible.sum(0)
    explained = float(weight[still | (groups.labels > 0)].sum() / max(weight.sum(), 1))
    measured: dict[str, Any] = {
        "kind": solve.kind,
        "solved": float(solve.solved.mean()),
        "agreement": _agreement(points, solve, groups),
        "rest": float(weight[still].sum() / max(weight.sum(), 1)),
        "explained": explained,
        "points": len(points),
        "still": int(still.sum()),
        "track_length": float(np.median(points.lengths)) if len(points) else 0.0,
        "coverage": _coverage(points, still, size),
        "parallax": parallax(points, solve, still),
    }
    focal = solve.cameras.K[:, 0, 0]
    view = float(np.degrees(2 * np.arctan(size[0] / 2 / np.median(focal))))
    behind = _behind(points, solve, still)
    # A mover that keeps pace with the camera passes for a part of the scene, and the lens is bent to explain it.
    doubt = solve.distortion and groups.names.keys() - {0} and _bend(solve) > _BENT
    bend = _bend(solve) if doubt else 0.0
    beside = _beside(points, solve)
    exact = motion.exactness(points, lambda: None) if solve.kind == "moving" else np.inf
    light, reasons = _light(
        measured,
        float(typical),
        float(tail),
        view,
        behind,
        solve.focal_source,
        len(solve.cameras),
        bend,
        beside,
        exact,
        scale,
    )
    fallbacks = [f"The focal length is not known: {solve.focal_source}."] if "assumed" in solve.focal_source else []
    if depth is not None and depth.fallback:
        fallbacks.append(f"Depth is only {depth.source}.")
    if not solve.solved.all():
        fallbacks.append(f"{int((~solve.solved).sum())} frames without a camera of their own were interpolated.")
    labels = groups.labels
    found = tuple((name, int((labels == n).sum())) for n, name in sorted(groups.names.items()) if n)
    told = (*solve.notes, *groups.notes, *(depth.notes if depth else ()), *notes)
    return SolveReport(
        light,
        reasons,
        frames,
        reprojection=float(typical) * scale,
        reprojection_95=float(tail) * scale,
        beside=beside * scale,
        focal=(float(focal[0]) * scale, float(focal[-1]) * scale),
        field_of_view=view,
        focal_source=solve.focal_source,
        depth_source=depth.source if depth else "",
        objects=found,
        fallbacks=tuple(fallbacks),
        notes=tuple(dict.fromkeys(told)),
        seconds=seconds,
        **measured,
    )


def _misses(points: PointTracks, solve: CameraSolve, still: NDArray[np.bool_]) -> NDArray[np.float64]:
    """px between where points at rest were seen and where the cameras see them; the solver's word is not taken."""
    known = still & np.isfinite(solve.world).all(1)
    where, depth = solve.cameras.project(np.broadcast_to(solve.world[known], (len(solve.cameras), known.sum(), 3)))
    own = np.linalg.norm(solve.uv(points)[:, known] - where, axis=2)[points.visible[:, known] & (depth > 0)]
    rest = solve.residual[:, still & ~known][points.visible[:, still & ~known]]
    misses = np.concatenate([own, rest])
    return np.asarray(misses[np.isfinite(misses)], np.float64)


def _light(
    m: dict[str, Any],
    typical: float,
    tail: float,
    view: float,
    behind: float,
    focal_source: str,
    frames: int,
    bend: float,
    beside: float,
    exact: float,
    scale: float,
) -> tuple[Light, tuple[str, ...]]:
    """The light, and every reason against green, the gravest first. px are the working picture's. bend: px by which the
    lens seems to bend lines, where that is to be doubted, else 0. beside: px by which tracks lie beside what they
    follow. exact: px, see `motion.exactness`. scale: px of the footage to one of them."""
    mask = "Mask what moves, or choose a range in which more stands still."
    red: list[str] = []
    yellow: list[str] = []

    def weigh(bad: bool, doubtful: bool, what: str, remedy: str) -> None:
        if bad or doubtful:
            (red if bad else yellow).append(f"{what} {remedy}".strip())

    share = m["solved"]
    weigh(
        share < 0.7, share < 0.98, f"only {share:.0%} of the frames have a camera of their own.", "Shorten the range."
    )
    weigh(
        not typical < 2.0,
        not (typical < 0.8 and tail < 4.0),
        f"the points at rest miss their places by {typical:.2f} px, 5 % of them by more than {tail:.1f} px.",
        "Give the focal length if you know it, and mask what moves.",
    )
    words = f"points were followed to {exact:.2f} px, but the cameras miss those at rest by {typical:.2f} px; "
    words += "something that moves along with the camera can bend them so."
    weigh(False, typical > _INEXACT * exact, words, mask)
    share = m["agreement"]
    words = f"the cameras agree with only {share:.0%} of the background's points."
    weigh(share < 0.6, share < 0.85, words, mask)
    share = m["rest"]
    weigh(share < 0.3, share < 0.5, f"only {share:.0%} of what was followed stands still.", mask)
    share = m["explained"]
    words = f"{1 - share:.0%} of what was followed neither stands still nor belongs to an object."
    weigh(share < 0.4, share < 0.7, words, mask)
    weigh(behind > 0.2, behind > 0.02, f"{behind:.0%} of the points lie behind the camera.", "Do not use this solve.")
    weigh(m["still"] < 60, m["still"] < 300, f"only {m['still']} points at rest were found.", mask)
    share = m["coverage"]
    words = f"the points at rest cover only {share:.0%} of the picture."
    weigh(share < 0.12, share < 0.35, words, "Sharper footage, or a mask of what moves, gives more.")
    length = m["track_length"]
    words = f"half of the points could be followed for {length:.0f} frames or fewer, as on water, smoke or a blur."
    weigh(False, length < min(8, frames / 3), words, mask)
    weigh(not 3 < view < 150, not 12 < view < 110, f"a field of view of {view:.0f} degrees is rare.", "Give yours.")
    if m["kind"] == "moving":
        words = f"with {m['parallax']:.1f} degrees of parallax depths and focal length are uncertain."
        weigh(
            False, m["parallax"] < 2.0, words, "Use a range in which the camera moves more, or give the focal length."
        )
    else:
        weigh(
            False, True, _WORDS[m["kind"]].lower()[:-1] + ".", "Depths are guesses; look at the pictures of the stages."
        )
    words = f"the lens seems to bend lines by {bend:.0f} px; something that moves along with the camera can look so."
    weigh(False, bend > 0, words, "Look at the picture of the objects; a mask of what moves makes it sure.")
    words = f"the lens bends the picture: near the border tracks lie {beside * scale:.1f} px beside what they follow."
    weigh(
        False, beside > _BESIDE, words, "Straighten the footage in another program and solve that, or mind the border."
    )
    weigh(False, "assumed" in focal_source, "the focal length had to be assumed.", "Give it if you know it.")
    weigh(False, "roughly" in focal_source, "the focal length is known only roughly.", "Give it if you know it.")
    weigh(False, frames < 8, f"it has only {frames} frames.", "Use a longer clip.")
    return ("red" if red else "yellow" if yellow else "green"), (*red, *yellow)


def _bend(solve: CameraSolve) -> float:
    """px of the working picture by which the lens moves the corners."""
    corner = float(np.hypot(solve.cameras.width, solve.cameras.height)) / 2
    radius = corner / float(np.median(solve.cameras.K[:, 0, 0]))
    k1, k2 = (*solve.distortion, 0.0, 0.0)[:2]
    return abs(k1 * radius**2 + k2 * radius**4) * corner


def _beside(points: PointTracks, solve: CameraSolve) -> float:
    """px of the working picture between where points were followed and where a lens that bends nothing shows them."""
    if solve.undistorted is None:
        return 0.0
    off = np.linalg.norm(solve.undistorted - points.uv, axis=2)[points.visible]
    off = off[np.isfinite(off)]
    return float(np.quantile(off, 0.99)) if off.size else 0.0


def parallax(points: PointTracks, solve: CameraSolve, still: NDArray[np.bool_]) -> float:
    """Degrees under which the camera's way is seen from a point at rest, the median over points; 0 without depth."""
    known = np.flatnonzero(still & np.isfinite(solve.world).all(1))
    known = known[:: 1 + len(known) // 1000]
    if not len(known):
        return 0.0
    rays = solve.cameras.c2w[:, None, :3, 3] - solve.world[known]
    rays /= np.maximum(np.linalg.norm(rays, axis=2, keepdims=True), 1e-12)
    seen = points.visible[:, known]
    first = np.take_along_axis(rays, seen.argmax(0)[None, :, None], 0)
    middle = np.where(seen[..., None], rays, 0).sum(0, keepdims=True)
    middle /= np.maximum(np.linalg.norm(middle, axis=2, keepdims=True), 1e-12)
    one = np.where(seen, (rays * first).sum(2), 1).min(0)
    two = np.where(seen, (rays * middle).sum(2), 1).min(0)
    return float(np.median(np.degrees(np.arccos(np.clip(np.minimum(one, two), -1, 1)))))


def _agreement(points: PointTracks, solve: CameraSolve, groups: ObjectGroups) -> float:
    """Share of the background's points that lie, in pairs of frames, on the line that the two cameras leave them.

    Asked of all points that no object owns, those too that the cameras were not made from.
    """
    uv, T = np.asarray(solve.uv(points), np.float64), points.frame_count
    K, c2w = solve.cameras.K, solve.cameras.c2w
    background = groups.labels == 0
    hits, asked = 0.0, 0
    for gap in sorted({max(1, T // 12), max(1, T // 4), max(1, T // 2)}):
        for a in np.unique(np.linspace(0, T - 1 - gap, 8).round().astype(int)):
            b = a + gap
            both = background & points.visible[a] & points.visible[b]
            if both.sum() < 8:
                continue
            relative = geometry.invert_rigid(c2w[b]) @ c2w[a]
            p, q = _homogeneous(uv[a, both]), _homogeneous(uv[b, both])
            rays = p @ np.linalg.inv(K[a]).T
            # The line runs from where the point would be at infinity to the other camera's place.
            far = (rays @ relative[:3, :3].T) @ K[b].T
            epipole = K[b] @ relative[:3, 3]
            line = np.cross(far, epipole)
            norm = np.hypot(line[:, 0], line[:, 1])
            base = np.linalg.norm(relative[:3, 3])
            at_infinity = np.linalg.norm(far[:, :2] / far[:, 2:] - q[:, :2], axis=1)
            off = np.abs((line * q).sum(1)) / np.maximum(norm, 1e-12)
            crossed = np.cross(q, far)
            ahead = -(np.cross(q, epipole) * crossed).sum(1) > 0  # else the point would lie behind the camera
            still = base < 1e-9 or solve.kind in ("static", "rotation")
            miss = at_infinity if still else np.minimum(np.where(ahead, off, np.inf), at_infinity)
            hits += float((miss < _AGREES).sum())
            asked += int(both.sum())
    return hits / asked if asked else 0.0


def _homogeneous(uv: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([uv, np.ones((len(uv), 1))], 1)


def _behind(points: PointTracks, solve: CameraSolve, still: NDArray[np.bool_]) -> float:
    """Share of the points at rest that lie behind a camera that sees them."""
    known = np.flatnonzero(still & np.isfinite(solve.world).all(1))
    if not len(known):
        return 0.0
    camera = geometry.transform(geometry.invert_rigid(solve.cameras.c2w), solve.world[known])
    seen = points.visible[:, known]
    return float((seen & (camera[..., 2] <= 0)).sum() / max(seen.sum(), 1))


def _coverage(points: PointTracks, still: NDArray[np.bool_], size: tuple[int, int]) -> float:
    """Share of cells of the picture that hold a point at rest, in the mean frame."""
    across, down = _CELLS if size[0] >= size[1] else _CELLS[::-1]
    shares = []
    for t in range(points.frame_count):
        uv = points.uv[t, still & points.visible[t]]
        cell = np.clip(np.floor(uv / size * (across, down)), 0, (across - 1, down - 1)).astype(int)
        shares.append(len(np.unique(cell[:, 1] * across + cell[:, 0])) / (across * down))
    return float(np.mean(shares))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value
