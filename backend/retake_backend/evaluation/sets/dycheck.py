"""DyCheck's iPhone sequences (Gao et al. 2022): a moving phone is the source, a still one beside it the truth.

    SEQUENCE/ dataset.json (train_ids, val_ids), metadata.json (warp_id: the time, camera_id), extra.json (factor, fps)
              rgb/2x/0_00000.png  camera/0_00000.json  depth/2x/0_00000.npy  covisible/2x/val/1_00000.png

Camera 0 films the source; each other one gives an item, over the times that both have. Cameras are world-to-camera
with OpenCV axes, in metres as the depth is; points are followed by the project's tracker and put at that depth.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadFile, BadShot
from retake_shared.formats import npy
from retake_shared.geometry import intrinsics
from retake_shared.shot import Cameras, Edit, Solve, Tracks

from ...footage import read_image
from ...training.pairs import Pair
from .items import MOST_FRAMES, Item, ItemSet, read_json, stacked
from .realestate import with_tracks

_WHAT = "a DyCheck sequence"


def open_folder(folder: Path) -> ItemSet | None:
    """A sequence, or a folder of sequences; None when it is neither. Raises BadFile for a damaged one."""
    sequences = [folder] if _is_sequence(folder) else sorted(inner for inner in folder.glob("*") if _is_sequence(inner))
    items = [(sequence, camera) for sequence in sequences for camera in _Sequence(sequence).others]
    if not sequences:
        return None
    if not items:
        raise BadFile("has no second camera, so that there is no truth.", str(folder), "Use a multi-camera sequence.")

    def load(number: int) -> Item:
        sequence, camera = items[number]
        return _Sequence(sequence).item(camera)

    return ItemSet(
        f"DyCheck {folder.name}", tuple(f"{sequence.name} camera {camera}" for sequence, camera in items), load
    )


def _is_sequence(folder: Path) -> bool:
    return (folder / "metadata.json").is_file() and (folder / "camera").is_dir() and (folder / "rgb").is_dir()


class _Sequence:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = read_json(folder / "extra.json", _WHAT)
        try:
            self.factor, self.fps = int(about["factor"]), Fraction(about["fps"]).limit_denominator(1000)
            metadata = read_json(folder / "metadata.json", _WHAT)
            self.frames = {(int(m["camera_id"]), int(m["warp_id"])): name for name, m in metadata.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise BadFile(f"lacks what {_WHAT} has ({error!r}).", str(folder), "Copy it again.") from error
        self.others = sorted({camera for camera, _ in self.frames if camera != 0})

    def item(self, camera: int) -> Item:
        times = sorted(time for number, time in self.frames if number == camera and (0, time) in self.frames)
        times = times[:MOST_FRAMES]
        if len(times) < 2:
            raise BadShot(f"cameras 0 and {camera} have {len(times)} times in common.", str(self.folder))
        source, target = ([self.frames[number, time] for time in times] for number in (0, camera))
        videos = [self._pictures(names) for names in (source, target)]
        size = (videos[0].shape[2], videos[0].shape[1])
        own, other = (self._cameras(names, size) for names in (source, target))
        depth = np.stack([self._depth(name) for name in source])
        solve = with_tracks(
            videos[0], Solve(own, Tracks.empty(len(times)), depth, source="DyCheck's cameras and depth")
        )
        same = Edit.identity(solve)
        edit = Edit(other, same.positions, same.present, same.source_track, same.source_frame, same.objects)
        origin = {"kind": "real", "name": f"{self.folder.name} camera {camera}"}
        return Item(
            Pair(videos[0], videos[1], solve, edit, fps=self.fps, origin=origin), covisible=self._covisible(target)
        )

    def _at_scale(self, kind: str, *inner: str) -> Path:
        return self.folder.joinpath(kind, f"{self.factor}x", *inner)

    def _pictures(self, names: list[str]) -> NDArray[np.uint8]:
        folder = self._at_scale("rgb")
        return stacked([read_image(folder / f"{name}.png", "Copy the sequence again.") for name in names], str(folder))

    def _covisible(self, names: list[str]) -> NDArray[np.bool_]:
        folder = self._at_scale("covisible", "val")
        if not folder.is_dir():
            raise BadFile("is missing: DyCheck's co-visible masks.", str(folder), "Copy them beside the sequence.")
        masks = [read_image(folder / f"{name}.png", "Copy the sequence again.") for name in names]
        return stacked(masks, str(folder))[..., 0] > 0

    def _depth(self, name: str) -> NDArray[np.float32]:
        path = self._at_scale("depth", f"{name}.npy")
        if not path.is_file():
            raise BadFile("is missing.", str(path), "Copy the sequence again.")
        values = npy.read(path, (None, None), (None, None, 1), kinds="f")
        return np.asarray(values.reshape(values.shape[:2]), np.float32)

    def _cameras(self, names: list[str], size: tuple[int, int]) -> Cameras:
        read = [_camera(self.folder / "camera" / f"{name}.json") for name in names]
        c2w, K = np.stack([camera[0] for camera in read]), np.stack([camera[1] for camera in read])
        whole = read[0][2]
        return Cameras(c2w, K, int(whole[0]), int(whole[1])).resized(*size)


def _camera(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """c2w (4, 4), K (3, 3) and size (width, height) of one camera file. Raises BadFile."""
    content: dict[str, Any] = read_json(path, _WHAT)
    try:
        orientation = np.array(content["orientation"], np.float64).reshape(3, 3)
        c2w = np.eye(4)
        c2w[:3, :3], c2w[:3, 3] = orientation.T, np.array(content["position"], np.float64).reshape(3)
        focal, (cx, cy) = float(content["focal_length"]), content["principal_point"]
        K = intrinsics(focal, focal * float(content.get("pixel_aspect_ratio", 1)), cx, cy)
        K[0, 1] = float(content.get("skew", 0))
        bends = [*content.get("radial_distortion", ()), *content.get("tangential_distortion", ())]
        bent = np.abs(np.array(bends, np.float64)).max(initial=0) > 1e-9
        size = np.array(content["image_size"], np.int64).reshape(2)
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"is not a camera ({error!r}).", str(path), "Copy the sequence again.") from error
    if bent:
        raise BadFile("has a lens with distortion.", str(path), "Undistort the sequence first.")
    return c2w, K, size
