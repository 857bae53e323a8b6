"""The words of the project as plain data: footage, cameras, tracks, solve, shot, edit, take.

All arrays are numpy; a solve's frame t is the footage's frame t. Constructors check every invariant and raise
`BadShot` naming the field, so that code behind them never has to ask. World coordinates are the solver's own: any
origin, any scale, any up axis.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import geometry
from .errors import BadShot

BACKGROUND = 0
"""Object number of every track that belongs to no named object."""


def _require(condition: bool, what: str, where: str, remedy: str = "") -> None:
    if not condition:
        raise BadShot(what, where, remedy)


def _finite(values: NDArray[Any], where: str) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise BadShot(
            f"{int(bad.sum())} values are NaN or infinite, the first at index {first}.",
            where,
            "Solve the shot again, or drop those frames or tracks.",
        )


@dataclass(frozen=True)
class Footage:
    """A video: what is known of it without decoding it.

    path: where it lies on this machine, never sent to another process. width, height in px as displayed (rotation
    flag applied). fps exact. frames: number of frames. sha256: of the file's bytes ("" until asked for).
    constant_rate: False when frame times are not evenly spaced; frame i is the i-th picture in any case.
    """

    path: str
    width: int
    height: int
    fps: Fraction
    frames: int
    sha256: str = ""
    constant_rate: bool = True

    def __post_init__(self) -> None:
        _require(self.width > 0 and self.height > 0, f"size is {self.width} x {self.height}.", "footage.size")
        _require(self.frames > 0, "the video holds no frame.", "footage.frames", "Use another file.")
        _require(self.fps > 0, f"frame rate is {self.fps}.", "footage.fps")


@dataclass(frozen=True)
class Cameras:
    """One camera per frame of a picture of width x height px.

    c2w: (T, 4, 4) float64, camera to world, OpenCV axes. K: (T, 3, 3) float64, px, pixel centres at .5.
    """

    c2w: NDArray[np.float64]
    K: NDArray[np.float64]
    width: int
    height: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "c2w", np.ascontiguousarray(self.c2w, np.float64))
        object.__setattr__(self, "K", np.ascontiguousarray(self.K, np.float64))
        frames = len(self.c2w)
        _require(
            self.c2w.shape == (frames, 4, 4) and frames > 0,
            f"shape is {self.c2w.shape}.",
            "cameras.c2w",
            "Expected (T, 4, 4).",
        )
        _require(
            self.K.shape == (frames, 3, 3), f"shape is {self.K.shape}.", "cameras.K", f"Expected ({frames}, 3, 3)."
        )
        _require(self.width > 0 and self.height > 0, f"size is {self.width} x {self.height}.", "cameras.size")
        _finite(self.c2w, "cameras.c2w")
        _finite(self.K, "cameras.K")
        rotation = self.c2w[:, :3, :3]
        orthonormal = np.abs(rotation @ np.swapaxes(rotation, 1, 2) - np.eye(3)).max(axis=(1, 2)) < 1e-3
        proper = np.linalg.det(rotation) > 0
        bad = np.flatnonzero(~(orthonormal & proper))
        _require(not len(bad), f"frame {bad[0] if len(bad) else 0} is not a rotation.", "cameras.c2w")
        focal = self.K[:, [0, 1], [0, 1]]
        bad = np.flatnonzero((focal <= 0).any(1))
        _require(not len(bad), f"focal length of frame {bad[0] if len(bad) else 0} is not positive.", "cameras.K")

    def __len__(self) -> int:
        return len(self.c2w)

    def frames(self, start: int, stop: int) -> Cameras:
        """Cameras of frames start .. stop - 1."""
        return replace(self, c2w=self.c2w[start:stop], K=self.K[start:stop])

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras for the picture resized to width x height px."""
        K = geometry.rescale_intrinsics(self.K, (self.width, self.height), (width, height))
        return Cameras(self.c2w, K, width, height)

    def project(self, positions: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """uv (T, N, 2) px and depth (T, N) of world positions (T, N, 3); see `geometry.project`."""
        return geometry.project(positions, self.c2w, self.K)


@dataclass(frozen=True)
class Tracks:
    """N points followed through T frames.

    positions: (T, N, 3) float64, world; finite also where not visible. visibility: (T, N) bool. confidence: (T, N)
    float32 in [0, 1]. objects: (N,) int32, an object's number, 0 = background. ids: (N,) int64, unique, stable
    through export, editing and readback.
    """

    positions: NDArray[np.float64]
    visibility: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    objects: NDArray[np.int32]
    ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, dtype in (
            ("positions", np.float64),
            ("visibility", bool),
            ("confidence", np.float32),
            ("objects", np.int32),
            ("ids", np.int64),
        ):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        _require(
            self.positions.ndim == 3 and self.positions.shape[2] == 3,
            f"shape is {self.positions.shape}.",
            "tracks.positions",
            "Expected (T, N, 3).",
        )
        frames, count = self.positions.shape[:2]
        for name, shape in (
            ("visibility", (frames, count)),
            ("confidence", (frames, count)),
            ("objects", (count,)),
            ("ids", (count,)),
        ):
            actual = getattr(self, name).shape
            _require(actual == shape, f"shape is {actual}.", f"tracks.{name}", f"Expected {shape}.")
        _finite(self.positions, "tracks.positions")
        _finite(self.confidence, "tracks.confidence")
        _require(bool((self.objects >= 0).all()), "an object number is negative.", "tracks.objects")
        _require(len(np.unique(self.ids)) == count, "two tracks share an id.", "tracks.ids")

    def __len__(self) -> int:
        return int(self.positions.shape[1])

    @classmethod
    def make(
        cls,
        positions: NDArray[Any],
        visibility: NDArray[Any] | None = None,
        confidence: NDArray[Any] | None = None,
        objects: NDArray[Any] | None = None,
        ids: NDArray[Any] | None = None,
    ) -> Tracks:
        """Tracks with the missing fields filled: all visible, confidence 1 where visible, background, ids 0..N-1."""
        positions = np.asarray(positions)
        _require(positions.ndim == 3, f"shape is {positions.shape}.", "tracks.positions", "Expected (T, N, 3).")
        shape, count = positions.shape[:2], positions.shape[1]
        visibility = np.ones(shape, bool) if visibility is None else visibility
        return cls(
            positions=positions,
            visibility=visibility,
            confidence=np.asarray(visibility, np.float32) if confidence is None else confidence,
            objects=np.full(count, BACKGROUND, np.int32) if objects is None else objects,
            ids=np.arange(count) if ids is None else ids,
        )

    @classmethod
    def empty(cls, frames: int) -> Tracks:
        """No track at all, over `frames` frames."""
        return cls.make(np.zeros((frames, 0, 3)))

    def select(self, which: NDArray[Any]) -> Tracks:
        """The tracks that a mask (N,) or an index array names, in that order."""
        return Tracks(
            self.positions[:, which],
            self.visibility[:, which],
            self.confidence[:, which],
            self.objects[which],
            self.ids[which],
        )

    def frames(self, start: int, stop: int) -> Tracks:
        """All tracks over frames start .. stop - 1."""
        return replace(
            self,
            positions=self.positions[start:stop],
            visibility=self.visibility[start:stop],
            confidence=self.confidence[start:stop],
        )


@dataclass(frozen=True)
class Solve:
    """What a solver estimated from footage.

    depth: (T, h, w) float32 camera-space z in world units at any size, 0 where unknown, or None. object_names: the
    name of every object number that `tracks` or `masks` use, 0 always "background". masks: (T, h, w) uint8 of object
    numbers, or None. source: which solver wrote it and what was changed on the way in, in words.
    """

    cameras: Cameras
    tracks: Tracks
    depth: NDArray[np.float32] | None = None
    masks: NDArray[np.uint8] | None = None
    object_names: dict[int, str] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        frames = len(self.cameras)
        solved = len(self.tracks.positions)
        _require(solved == frames, f"tracks cover {solved} frames, the cameras {frames}.", "solve.tracks")
        for name in ("depth", "masks"):
            maps = getattr(self, name)
            if maps is not None:
                _require(
                    maps.ndim == 3 and len(maps) == frames,
                    f"shape is {maps.shape}.",
                    f"solve.{name}",
                    f"Expected ({frames}, h, w).",
                )
        if self.depth is not None:
            depth = np.asarray(self.depth, np.float32)
            known = depth if np.isfinite(depth).all() else np.nan_to_num(depth, nan=0.0, posinf=0.0, neginf=0.0)
            object.__setattr__(self, "depth", known)
        names = {BACKGROUND: "background", **{int(k): str(v) for k, v in self.object_names.items()}}
        used = {int(n) for n in np.unique(self.tracks.objects)}
        if self.masks is not None:
            _require(
                self.masks.dtype == np.uint8, f"type is {self.masks.dtype}.", "solve.masks", "Expected uint8 numbers."
            )
            if not names.keys() >= set(range(int(self.masks.max(initial=0)) + 1)):  # counting pixels takes a while
                used |= set(np.flatnonzero(sum(np.bincount(m.ravel(), minlength=256) for m in self.masks)).tolist())
        names.update({n: f"object {n}" for n in sorted(used - names.keys())})
        duplicate = {v for v in names.values() if list(names.values()).count(v) > 1}
        _require(
            not duplicate,
            f"two objects are named {sorted(duplicate)}.",
            "solve.object_names",
            "Give each its own name.",
        )
        object.__setattr__(self, "object_names", names)

    def __len__(self) -> int:
        return len(self.cameras)

    def frames(self, start: int, stop: int) -> Solve:
        """The solve over frames start .. stop - 1."""
        return replace(
            self,
            cameras=self.cameras.frames(start, stop),
            tracks=self.tracks.frames(start, stop),
            depth=None if self.depth is None else self.depth[start:stop],
            masks=None if self.masks is None else self.masks[start:stop],
        )

    def object_number(self, name: str) -> int:
        """The number of the object called `name`. Raises BadShot listing the names that exist."""
        for number, existing in self.object_names.items():
            if existing == name:
                return number
        raise BadShot(
            f'there is no object "{name}".', "edit", f"The shot has: {', '.join(self.object_names.values())}."
        )


@dataclass(frozen=True)
class Edit:
    """The shot as the artist wants it, over the same T frames as the solve.

    cameras: target cameras, their size that of the solve's cameras. positions: (T, M, 3) float64 target world
    positions. present: (T, M) bool, False where a track was removed. source_track: (M,) int32, the row of the solve's
    tracks that each target track shows (several targets may share one: a duplicate). source_frame: (T, M) float32,
    the source frame whose appearance each target track shows at each frame (retiming; t when not retimed). objects:
    (M,) int32; duplicates carry numbers of their own, named in object_names.
    """

    cameras: Cameras
    positions: NDArray[np.float64]
    present: NDArray[np.bool_]
    source_track: NDArray[np.int32]
    source_frame: NDArray[np.float32]
    objects: NDArray[np.int32]
    object_names: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in (
            ("positions", np.float64),
            ("present", bool),
            ("source_track", np.int32),
            ("source_frame", np.float32),
            ("objects", np.int32),
        ):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        frames = len(self.cameras)
        _require(self.positions.ndim == 3 and self.positions.shape[0] == frames and self.positions.shape[2] == 3,
                 f"shape is {self.positions.shape}.", "edit.positions", f"Expected ({frames}, M, 3).")  # fmt: skip
        count = self.positions.shape[1]
        for name, shape in (
            ("present", (frames, count)),
            ("source_track", (count,)),
            ("source_frame", (frames, count)),
            ("objects", (count,)),
        ):
            actual = getattr(self, name).shape
            _require(actual == shape, f"shape is {actual}.", f"edit.{name}", f"Expected {shape}.")
        _finite(self.positions, "edit.positions")
        _finite(self.source_frame, "edit.source_frame")
        names = {BACKGROUND: "background", **{int(k): str(v) for k, v in self.object_names.items()}}
        object.__setattr__(self, "object_names", names)

    def __len__(self) -> int:
        return len(self.cameras)

    @classmethod
    def identity(cls, solve: Solve) -> Edit:
        """The edit that changes nothing: target = source."""
        frames, count = solve.tracks.positions.shape[:2]
        return cls(
            cameras=solve.cameras,
            positions=solve.tracks.positions,
            present=np.ones((frames, count), bool),
            source_track=np.arange(count, dtype=np.int32),
            source_frame=np.repeat(np.arange(frames, dtype=np.float32)[:, None], count, 1),
            objects=solve.tracks.objects,
            object_names=solve.object_names,
        )

    def frames(self, start: int, stop: int) -> Edit:
        """The edit over frames start .. stop - 1; source_frame keeps counting from the solve's frame 0."""
        return replace(
            self,
            cameras=self.cameras.frames(start, stop),
            positions=self.positions[start:stop],
            present=self.present[start:stop],
            source_frame=self.source_frame[start:stop],
        )

    def check_against(self, solve: Solve) -> None:
        """Raise BadShot when this edit cannot be an edit of that solve."""
        _require(len(self) == len(solve), f"the edit has {len(self)} frames, the solve {len(solve)}.", "edit")
        size, expected = (self.cameras.width, self.cameras.height), (solve.cameras.width, solve.cameras.height)
        _require(size == expected, f"the edit's cameras are {size} px, the solve's {expected}.", "edit.cameras")
        if len(self.source_track):
            low, high = int(self.source_track.min()), int(self.source_track.max())
            _require(
                0 <= low and high < len(solve.tracks),
                f"points at track {high} of {len(solve.tracks)}.",
                "edit.source_track",
            )


@dataclass(frozen=True)
class RenderSettings:
    """What is asked of an engine beside the edit.

    engine: its name. frames: (start, stop) of the footage, stop excluded; None = all of the solve. size: (width,
    height) px of the take; None = the footage's. options: the engine's own settings, plain JSON values.
    """

    engine: str = "preview"
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    frames: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, f"seed is {self.seed}.", "settings.seed", "Use 0 .. 4294967295.")
        if self.frames is not None:
            start, stop = self.frames
            _require(
                0 <= start < stop,
                f"frame range is {start}:{stop}.",
                "settings.frames",
                "The end must lie after the start.",
            )
        if self.size is not None:
            _require(
                all(16 <= n <= 8192 for n in self.size),
                f"size is {self.size[0]}x{self.size[1]}.",
                "settings.size",
                "Use 16 .. 8192 px a side.",
            )

    def changed(self, changes: dict[str, Any]) -> RenderSettings:
        """These settings with the named fields replaced. Options are replaced one by one; those of another engine go."""
        engine = changes.get("engine", self.engine)
        kept = self.options if engine == self.engine else {}
        return replace(self, **{**changes, "options": {**kept, **changes.get("options", {})}})

    def frame_range(self, solve: Solve) -> tuple[int, int]:
        """(start, stop) inside the solve. Raises BadShot when the range leaves it."""
        start, stop = self.frames or (0, len(solve))
        _require(
            stop <= len(solve),
            f"frame range {start}:{stop} leaves the solve's {len(solve)} frames.",
            "settings.frames",
            f"Use a range within 0:{len(solve)}.",
        )
        return start, stop

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return {
            "engine": self.engine,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "frames": list(self.frames) if self.frames else None,
            "size": list(self.size) if self.size else None,
            "options": self.options,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RenderSettings:
        """Settings from untrusted JSON: unknown fields are ignored, wrong types raise BadShot."""

        def pair(key: str) -> tuple[int, int] | None:
            value = data.get(key)
            if value is None:
                return None
            good = (
                isinstance(value, list)
                and len(value) == 2
                and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
            )
            _require(good, f"is {value!r:.80}.", f"settings.{key}", "Expected two whole numbers.")
            return value[0], value[1]

        for key, kind in (("engine", str), ("prompt", str), ("negative_prompt", str), ("seed", int), ("options", dict)):
            value = data.get(key, kind())
            _require(
                isinstance(value, kind) and not (kind is int and isinstance(value, bool)),
                f"is {value!r:.80}.",
                f"settings.{key}",
                f"Expected {kind.__name__}.",
            )
        return cls(
            engine=data.get("engine", "preview"),
            prompt=data.get("prompt", ""),
            negative_prompt=data.get("negative_prompt", ""),
            seed=data.get("seed", 0),
            frames=pair("frames"),
            size=pair("size"),
            options=data.get("options", {}),
        )


@dataclass(frozen=True)
class Take:
    """One rendered result: everything needed to render it again.

    The frames lie beside as `frame_00000.png` (numbered as in the footage). footage_sha256, solve_sha256 and
    edit_sha256 name the exact inputs, and first_frame_sha256 the picture file of an edited first frame ("" without);
    notes say in words what the engine had to decide.
    """

    settings: RenderSettings
    footage_sha256: str
    solve_sha256: str
    edit_sha256: str
    width: int
    height: int
    fps: Fraction
    start: int
    stop: int
    seconds: float
    engine_version: str = ""
    device: str = ""
    created: str = ""
    notes: tuple[str, ...] = ()
    first_frame_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """The content of `take.json`."""
        return {
            "retake": 1,
            "settings": self.settings.to_json(),
            "footage_sha256": self.footage_sha256,
            "solve_sha256": self.solve_sha256,
            "edit_sha256": self.edit_sha256,
            "width": self.width,
            "height": self.height,
            "fps": [self.fps.numerator, self.fps.denominator],
            "frames": [self.start, self.stop],
            "seconds": round(self.seconds, 3),
            "engine_version": self.engine_version,
            "device": self.device,
            "created": self.created,
            "notes": list(self.notes),
            **({"first_frame_sha256": self.first_frame_sha256} if self.first_frame_sha256 else {}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str = "take.json") -> Take:
        """Read what `to_json` wrote. Raises BadShot naming `where` when a field is missing or wrong."""
        try:
            return cls(
                settings=RenderSettings.from_json(data["settings"]),
                footage_sha256=str(data["footage_sha256"]),
                solve_sha256=str(data["solve_sha256"]),
                edit_sha256=str(data["edit_sha256"]),
                width=int(data["width"]),
                height=int(data["height"]),
                fps=Fraction(*data["fps"]),
                start=int(data["frames"][0]),
                stop=int(data["frames"][1]),
                seconds=float(data["seconds"]),
                engine_version=str(data.get("engine_version", "")),
                device=str(data.get("device", "")),
                created=str(data.get("created", "")),
                notes=tuple(str(n) for n in data.get("notes", ())),
                first_frame_sha256=str(data.get("first_frame_sha256", "")),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
            raise BadShot(f"is not a take description ({error!r}).", where, "Render the take again.") from error


TAKE_FILE, SOLVE_FILE, EDIT_FILE, FIRST_FRAME_FILE = "take.json", "solve.npz", "edit.npz", "first_frame.png"
"""What lies beside a take's frames, whoever rendered it: the Take, the archives of its exact inputs, and the edited
first frame where it was made from one."""


def frame_name(index: int) -> str:
    """File name of footage frame `index` of a take."""
    return f"frame_{index:05d}.png"


def holes_name(index: int) -> str:
    """File name of the mask of what was invented in footage frame `index` of a take."""
    return f"holes_{index:05d}.png"
