"""Every measure of one clip: what METHODS.md lists, each under one name and by one definition.

Measures of pictures are means over the frames; a frame in which nothing counts (no hole in it) is left out, and one
that equals the truth counts EQUAL dB: one infinite PSNR would make every mean over it infinite. Measures that need a
network are there when its weights are (`networks`); those that need a truth, when the item has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import cameras, clip, control, poses
from . import solve as paths
from .networks import Networks
from .picture import covisible_ssim, psnr, ssim
from .sets import Item

VERSION = 3
"""Of the definitions: measures that were kept under another are taken again."""

EQUAL = 100.0
"""dB."""

Check = Callable[[], None]


@dataclass(frozen=True)
class Measure:
    """key: in report.json. label: in tables. digits: after the point. better: 1 higher, -1 lower, 0 neither."""

    key: str
    label: str
    digits: int
    better: int


MEASURES = (
    Measure("psnr", "PSNR (dB)", 2, 1),
    Measure("ssim", "SSIM", 3, 1),
    Measure("lpips", "LPIPS", 3, -1),
    Measure("psnr_holes", "PSNR in holes", 2, 1),
    Measure("ssim_holes", "SSIM in holes", 3, 1),
    Measure("psnr_outside", "PSNR outside", 2, 1),
    Measure("ssim_outside", "SSIM outside", 3, 1),
    Measure("mpsnr", "mPSNR", 2, 1),
    Measure("mssim", "mSSIM", 3, 1),
    Measure("mlpips", "mLPIPS", 3, -1),
    Measure("epe", "EPE (px)", 2, -1),
    Measure("epe_proven", "EPE where proven (px)", 2, -1),
    Measure("lost", "tracks lost (%)", 1, -1),
    Measure("rot_cameractrl", "RotErr CameraCtrl (rad, sum)", 3, -1),
    Measure("trans_cameractrl", "TransErr CameraCtrl (sum)", 3, -1),
    Measure("rot_track2view", "RotErr Track2View (deg)", 3, -1),
    Measure("trans_track2view", "TransErr Track2View", 3, -1),
    Measure("ate", "ATE", 4, -1),
    Measure("rpe_t", "RPE-T", 4, -1),
    Measure("rpe_r", "RPE-R (deg)", 4, -1),
    Measure("camera_failed", "camera not solved (%)", 0, -1),
    Measure("clip_t", "CLIP-T", 2, 1),
    Measure("clip_f", "CLIP-F", 2, 1),
    Measure("clip_v", "CLIP-V", 2, 1),
    Measure("fvd", "FVD", 1, -1),
    Measure("seconds", "s per clip", 1, 0),
)


@dataclass(frozen=True)
class Known:
    """What is known of an item before an engine is looked at.

    holes: (F, H, W), True where the source shows nothing of the place, None when the preview could not tell. wanted:
    the target tracks. of_truth: what re-tracking them in the true video gives, None without a truth. proven: (F, N),
    where the tracker is right there.
    """

    item: Item
    holes: NDArray[np.bool_] | None
    wanted: control.Targets
    of_truth: control.Answer | None
    proven: NDArray[np.bool_] | None


@dataclass
class Measured:
    """values: by `Measure.key`, nan where it is not defined. curve: PSNR of each frame. features: I3D's."""

    values: dict[str, float] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    features: list[float] = field(default_factory=list)


def look_at(item: Item, holes: NDArray[np.bool_] | None, check: Check) -> Known:
    """What must be known of an item; re-tracks its true video."""
    wanted = control.targets(item.pair.edit, item.pair.size)
    of_truth = None
    if item.truth and len(wanted) and len(item.pair) > 2:
        of_truth = control.retrack(item.pair.target, wanted, check)
    return Known(item, holes, wanted, of_truth, None if of_truth is None else control.proven(of_truth[0], wanted))


def measure(video: NDArray[np.uint8], known: Known, networks: Networks, check: Check) -> Measured:
    """All measures of a video (F, H, W, 3) that an engine, or nature, made of an item."""
    found = Measured()
    item = known.item
    if item.truth:
        _pictures(found, video, known, networks, check)
    _control(found, video, known, check)
    _camera(found, video, item, check)
    if networks.clip is not None:
        frames, source = networks.clip.pictures(video), networks.clip.pictures(item.pair.source)
        found.values["clip_f"], found.values["clip_v"] = clip.clip_f(frames), clip.clip_v(frames, source)
        if item.pair.caption:
            found.values["clip_t"] = clip.clip_t(frames, networks.clip.caption(item.pair.caption))
    if networks.i3d is not None and item.truth:
        from .fvd import LEAST_FRAMES

        if len(video) >= LEAST_FRAMES:
            found.features = networks.i3d.features(video).tolist()
    return found


def _pictures(found: Measured, video: NDArray[np.uint8], known: Known, networks: Networks, check: Check) -> None:
    truth, covisible, holes = known.item.pair.target, known.item.covisible, known.holes
    rows: dict[str, list[float]] = {}
    for t, (picture, true) in enumerate(zip(video, truth, strict=True)):
        check()
        now = {"psnr": psnr(picture, true), "ssim": ssim(picture, true)}
        if holes is not None:
            for name, mask in (("holes", holes[t]), ("outside", ~holes[t])):
                now |= {f"psnr_{name}": psnr(picture, true, mask), f"ssim_{name}": ssim(picture, true, mask)}
        if covisible is not None:
            now |= {"mpsnr": psnr(picture, true, covisible[t]), "mssim": covisible_ssim(picture, true, covisible[t])}
        if networks.lpips is not None:
            now["lpips"] = networks.lpips.distance(picture, true)
            if covisible is not None:
                now["mlpips"] = networks.lpips.distance(picture, true, covisible[t])
        for name, value in now.items():
            rows.setdefault(name, []).append(value)
    found.values |= {name: mean_of([min(value, EQUAL) for value in values]) for name, values in rows.items()}
    found.curve = rows["psnr"]


def _control(found: Measured, video: NDArray[np.uint8], known: Known, check: Check) -> None:
    if not len(known.wanted) or len(video) < 3:
        return
    kept = known.of_truth if video is known.item.pair.target else None
    distance, seen = kept or control.retrack(video, known.wanted, check)
    found.values["epe"] = control.epe(distance, known.wanted.compared)
    if known.proven is not None:
        found.values["epe_proven"] = control.epe(distance, known.proven)
        found.values["lost"] = 100 * float((~seen[known.proven]).mean()) if known.proven.any() else math.nan


def _camera(found: Measured, video: NDArray[np.uint8], item: Item, check: Check) -> None:
    asked = item.pair.edit.cameras
    # A camera that stands still, or only turns, shows no parallax: no mapper can tell its path.
    if len(video) < 3 or paths.path_length(asked.c2w) < 1e-6:
        return
    path = poses.camera_path(video, asked, check)
    found.values["camera_failed"] = 100.0 * (path is None)
    if path is None:
        return
    truth = asked.c2w[path.frames]
    rotation, translation = cameras.cameractrl_errors(path.c2w, truth, len(video))
    found.values |= {"rot_cameractrl": rotation, "trans_cameractrl": translation}
    rotation, translation = cameras.track2view_errors(path.c2w, truth)
    found.values |= {"rot_track2view": rotation, "trans_track2view": translation}
    found.values["ate"] = paths.ate(path.c2w, truth)
    found.values["rpe_t"], found.values["rpe_r"] = cameras.rpe(path.c2w, truth)


def mean_of(values: list[float]) -> float:
    """The mean of those that are defined; nan when none is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
