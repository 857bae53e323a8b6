"""Bringing a solve to its footage: the same picture, the same frames; and telling whether its tracks lie in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import geometry
from .errors import BadShot
from .formats import convention
from .shot import Cameras, Footage, Solve, Tracks

_SQUARE = 0.01
"""How far fx / fy may be from 1 for a solver's pixels to count as square."""


def bind(footage: Footage, solve: Solve, step: int | None = None) -> tuple[Solve, list[str]]:
    """The solve with the footage's picture size and frame numbers, and notes about every change.

    step: the solve's frame i is the footage's frame i * step (trackers that skip frames); what lies between is
    interpolated. None: the solve's frames are the footage's first ones, and a note says when a step looks likely.
    The result may still have fewer frames than the footage. Raises BadShot naming both sizes or frame counts when
    they cannot belong together.
    """
    solve, frame_notes = _fit_frames(footage, solve, step)
    solve, size_notes = _fit_size(footage, solve)
    notes = frame_notes + size_notes
    if notes:
        solve = replace(solve, source="; ".join(filter(None, [solve.source, *notes])))
    return solve, notes


# ---- frames ----


def _fit_frames(footage: Footage, solve: Solve, step: int | None) -> tuple[Solve, list[str]]:
    solved, frames = len(solve), footage.frames
    if step is not None and step < 1:
        raise BadShot(f"step is {step}.", "step", "Use 1 or more.")
    if solved > frames:
        raise BadShot(
            f"the solve has {solved} frames, the footage only {frames}.",
            "solve",
            "Choose the video that was solved, or solve this one.",
        )
    if step is None or step == 1:
        if solved == frames:
            return solve, []
        note = (
            f"The solve has {solved} frames, the footage {frames}: it is taken for the footage's first {solved} frames."
        )
        likely = round(frames / solved)
        if step is None and likely > 1 and solved > 1 and abs(-(-frames // likely) - solved) <= 1:
            note += f" If the solver looked at every {ordinal(likely)} frame only, import again with step {likely}."
        return solve, [note]
    last = (solved - 1) * step
    if last >= frames:
        raise BadShot(
            f"{solved} solved frames at step {step} reach frame {last}, but the footage ends at {frames - 1}.",
            "step",
            f"The greatest step that fits is {(frames - 1) // max(solved - 1, 1)}.",
        )
    # The frames after the last solved one are held only while they are fewer than a step.
    total = frames if frames - last <= step else last + 1
    note = f"The solve has every {ordinal(step)} frame: frames between are interpolated, {total} of {frames} covered."
    return _stretched(solve, step, total), [note]


def _stretched(solve: Solve, step: int, frames: int) -> Solve:
    at = np.minimum(np.arange(frames) / step, len(solve) - 1)
    before, after = np.floor(at).astype(int), np.ceil(at).astype(int)
    cameras = replace(
        solve.cameras,
        c2w=geometry.interpolate_poses(np.arange(len(solve)), solve.cameras.c2w, at),
        K=geometry.sample_rows(solve.cameras.K, at),
    )
    tracks = Tracks(
        positions=geometry.sample_rows(solve.tracks.positions, at),
        visibility=solve.tracks.visibility[before] & solve.tracks.visibility[after],
        confidence=geometry.sample_rows(solve.tracks.confidence, at).astype(np.float32),
        objects=solve.tracks.objects,
        ids=solve.tracks.ids,
    )
    depth = None
    if solve.depth is not None:  # a depth map fits no camera but its own: unknown in between
        depth = np.zeros((frames, *solve.depth.shape[1:]), np.float32)
        depth[before == after] = solve.depth[before[before == after]]
    masks = None if solve.masks is None else solve.masks[np.rint(at).astype(int)]
    return replace(solve, cameras=cameras, tracks=tracks, depth=depth, masks=masks)


def ordinal(number: int) -> str:
    """ "2nd", "3rd", "11th"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


# ---- picture size ----


def _fit_size(footage: Footage, solve: Solve) -> tuple[Solve, list[str]]:
    """Resize, or undo a squeeze or a centre crop, whichever the aspect and fx : fy speak for."""
    cameras = solve.cameras
    size, target = (cameras.width, cameras.height), (footage.width, footage.height)
    if size == target:
        return solve, []
    names = f"{size[0]}x{size[1]} px (the solve) to {target[0]}x{target[1]} px (the footage)"
    if _same_aspect(size, target):
        return replace(solve, cameras=cameras.resized(*target)), [f"Cameras resized from {names}."]
    ratio = float(np.median(cameras.K[:, 0, 0] / cameras.K[:, 1, 1]))
    unsqueezed = ratio * (target[0] / size[0]) / (target[1] / size[1])
    if abs(np.log(unsqueezed)) < min(abs(np.log(ratio)), 2 * _SQUARE):
        note = f"The solver squeezed the picture (fx : fy is {ratio:.3f}): cameras stretched from {names}."
        return replace(solve, cameras=cameras.resized(*target)), [note]
    scale = max(size[0] / target[0], size[1] / target[1])
    whole = (round(target[0] * scale), round(target[1] * scale))  # the footage at the solve's scale
    if min(size[0] / whole[0], size[1] / whole[1]) < 0.5 or abs(np.log(ratio)) > 3 * _SQUARE:
        turned = " The footage's other way up would fit." if _same_aspect(size, target[::-1]) else ""
        raise BadShot(
            f"the solve's picture is {size[0]}x{size[1]} px, the footage's {target[0]}x{target[1]}: "
            f"no resize or centre crop leads from one to the other (fx : fy is {ratio:.3f}).{turned}",
            "solve",
            "Choose the video that was solved, or solve this one.",
        )
    note = (
        f"The solver saw {size[0]}x{size[1]} px of a picture that is {whole[0]}x{whole[1]} at its scale: a centre crop is "
        f"assumed, cameras extended to {target[0]}x{target[1]} px."
    )
    left, top = (whole[0] - size[0]) / 2, (whole[1] - size[1]) / 2
    K = geometry.crop_intrinsics(cameras.K, -left, -top)
    extended = Cameras(cameras.c2w, K, *whole).resized(*target)
    depth, masks = (
        None if maps is None else _padded(maps, left / size[0], top / size[1]) for maps in (solve.depth, solve.masks)
    )
    return replace(solve, cameras=extended, depth=depth, masks=masks), [note]


def _same_aspect(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one picture can be the other resized, each side rounded to a whole pixel."""
    small, large = sorted((a, b))
    width, height = small[1] * large[0] / large[1], small[0] * large[1] / large[0]
    return abs(width - small[0]) <= 1 or abs(height - small[1]) <= 1


def _padded(maps: NDArray[Any], left: float, top: float) -> NDArray[Any]:
    """Maps (T, h, w) with 0 (unknown, background) around, left and top as shares of w and h."""
    columns, rows = round(left * maps.shape[2]), round(top * maps.shape[1])
    return np.pad(maps, ((0, 0), (rows, rows), (columns, columns)))


# ---- do the tracks lie in the picture? ----


@dataclass(frozen=True)
class Reprojection:
    """How a solve's visible track points fall into its own pictures, and whether another convention would fit better.

    fit: under the poses as they are. other: the name of a clearly better reading of the poses, "" when there is none.
    other_fit: under that reading, None when there is none.
    """

    fit: convention.Fit
    other: str = ""
    other_fit: convention.Fit | None = None


def reproject(solve: Solve) -> Reprojection:
    """Reproject the visible track points with the poses as they are, inverted, and with OpenGL axes."""
    cameras, tracks = solve.cameras, solve.tracks
    fits = {
        name: convention.fit(
            replace(cameras, c2w=to_c2w(cameras.c2w)), tracks.positions, tracks.visibility, solve.depth
        )
        for name, to_c2w in convention.READINGS.items()
    }
    as_read = fits["camera-to-world"]  # what a Solve's poses are
    best = max(fits, key=lambda name: fits[name].score)
    if fits[best].score < as_read.score + convention.CLEARLY:
        return Reprojection(as_read)
    inverted, flipped = best.startswith("world"), "OpenGL" in best
    words = [word for word, said in (("inverted", inverted), ("with OpenGL axes", flipped)) if said]
    return Reprojection(as_read, " and ".join(words), fits[best])


def check_convention(solve: Solve) -> str:
    """One line for the user: the share of visible track points inside the frame, and what to doubt when it is small."""
    if not len(solve.tracks):
        return "Reprojection: there are no tracks to check the poses against."
    result = reproject(solve)
    fit = result.fit
    if not fit.points:
        return "Reprojection: no track point is marked visible, so the poses cannot be checked."
    reading = solve.source.partition("; ")[0]
    line = f"Reprojection: {fit.inside:.1%} of visible track points lie inside the frame"
    line += f", {fit.agreeing:.1%} of those on the depth maps" if fit.agreeing is not None else ""
    line += f" ({reading})." if reading else "."
    if result.other_fit is not None:
        line += f" With the poses {result.other} it would be {result.other_fit.inside:.1%}: the file's convention is doubtful."
    elif fit.inside < 0.5:
        line += " No other reading of the poses fits better: this solve may belong to another video."
    return line
