"""What a take of Trajectory Attention follows, whichever model makes it: the picture it starts from, if it is one
picture, and the trajectories of each window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared import engine_options
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

from ..conditioning.trajectory_uses import (
    Halves,
    first_frame_trajectories,
    image_trajectories,
    offset,
    video_trajectories,
)
from .base import Progress, RenderRequest
from .diffusion.engine import WindowJob
from .diffusion.framing import Fitted
from .preview.depth import dense_depth, depth_maps

Picture = NDArray[np.uint8]
ENGINE = "trajectory-attention"
PROPORTIONS = 0.02
"""By how much an edited first frame's proportions may differ from the footage's."""
SAME_VIEW = 0.002
"""Trajectories that begin within this share of the picture of where the image shows them begin with the image."""


def checked(request: RenderRequest) -> dict[str, Any]:
    """All options of this engine. Raises BadShot."""
    description = engine_options.describe(ENGINE)
    assert description is not None
    return description.checked(request.settings.options)


class Followed:
    """One take's use of trajectories. options: of `trajectory-attention`, checked.

    Raises BadShot for a use that the request does not hold together with: no such image, no or another first frame.
    """

    def __init__(self, request: RenderRequest, options: Mapping[str, Any]) -> None:
        self.request, self.options = request, options
        self.use: str = options["use"]
        self.start, self.stop = request.settings.frame_range(request.solve)
        self._depth: NDArray[np.float32] | None = None
        if self.use == "image":
            self._check_image()
        elif self.use == "first-frame":
            self._check_first_frame()

    def picture(self, fitted: Fitted) -> Picture | None:
        """The one picture (h, w, 3) that the take starts from, at the model's size; None where it is the footage."""
        if self.use == "image":
            # A copy: the reader's pictures are read-only, which torch warns of.
            return fitted.bring(self.request.footage.frame(self.options["image_frame"])).copy()
        if self.use == "first-frame":
            assert self.request.first_frame is not None
            return fitted.bring(self.request.first_frame)
        return None

    def halves(self, job: WindowJob, finest: tuple[int, int], stride: int) -> Halves:
        """The window's trajectories in the model's picture, at every `stride`-th of its frames, and what is to be
        told of them.

        finest: (rows, columns) of the model's finest grid on which it attends, which one image is followed by, a
        trajectory a cell; tracks are as many as the option says.
        """
        halves = self._of_window(job, job.indices[::stride], finest)
        framed = halves.framed(self.request.solve.cameras, job.framing)
        given = len(framed.target)
        if self.use == "image":
            framed = framed.select(np.flatnonzero(framed.target.valid.any(0)))
        else:
            objects = self._objects()
            framed = framed.spread(objects, self.options["tracks"], self.request.settings.seed, job.grid)
        self._tell(job, len(framed.target), given)
        return framed

    def begins_with_the_picture(self, halves: Halves) -> bool:
        """Whether the take's first frame is the picture it starts from."""
        return self.use == "first-frame" or offset(halves) <= SAME_VIEW

    # --- the uses ---

    def _of_window(self, job: WindowJob, frames: NDArray[np.int64], finest: tuple[int, int]) -> Halves:
        request, solve = self.request, self.request.solve
        if self.use == "image":
            image = solve.cameras.frames(self.options["image_frame"], self.options["image_frame"] + 1)
            cameras = request.edit.cameras
            path = Cameras(cameras.c2w[frames], cameras.K[frames], cameras.width, cameras.height)
            # As many pixels as the model has cells in the part of its picture that is the image.
            rows, columns = finest
            across, down = image.width / job.framing.width, image.height / job.framing.height
            grid = max(1, round(rows * down)), max(1, round(columns * across))
            return image_trajectories(self._image_depth(job), image, path, grid)
        if self.use == "first-frame":
            return first_frame_trajectories(solve, frames, self.start)
        return video_trajectories(solve, request.edit, frames, depth_maps(solve, frames))

    def _image_depth(self, job: WindowJob) -> NDArray[np.float32]:
        """Depth of the one image (h, w), made once a take."""
        if self._depth is None:
            size = job.fitted.content
            count = 0

            def picture(frame: int) -> Picture:
                resized = cv2.resize(self.request.footage.frame(frame), size, interpolation=cv2.INTER_AREA)
                return np.asarray(resized, np.uint8)

            def tick() -> None:
                nonlocal count
                count += 1
                job.report(Progress("measuring the image's depth", min(count, _TICKS), _TICKS))

            job.report(Progress("measuring the image's depth", 0, _TICKS))
            cameras = self.request.solve.cameras.resized(*size)
            depth = dense_depth(self.request.solve, cameras, self.options["image_frame"], picture, tick)
            if not (depth > 0).any():
                raise BadShot(
                    "nothing tells how far away the image is: the solve has no depth map and no track there.",
                    "solve",
                    "Solve the shot with tracks or depth, or choose another image (image_frame).",
                )
            self._depth = depth
        return self._depth

    def _objects(self) -> NDArray[np.int32]:
        first = self.use == "first-frame"
        return self.request.solve.tracks.objects if first else self.request.edit.objects

    # --- what is refused, and told ---

    def _check_image(self) -> None:
        frame, count = self.options["image_frame"], len(self.request.solve)
        if frame >= count:
            raise BadShot(
                f"is {frame}, the solve has frames 0 to {count - 1}.",
                "settings.options.image_frame",
                "Choose one of them.",
            )

    def _check_first_frame(self) -> None:
        picture, footage = self.request.first_frame, self.request.footage.footage
        if picture is None:
            raise BadShot(
                "this use starts from an edited picture of the first frame, and none is given.",
                "first frame",
                "Name one with --first-frame, or in Blender's panel as Edited; Save First Frame there gives the one to paint on.",
            )
        height, width = picture.shape[:2]
        if abs(width * footage.height / (height * footage.width) - 1) > PROPORTIONS:
            raise BadShot(
                f"is {width} x {height} px, the footage {footage.width} x {footage.height}.",
                "first frame",
                "Bring it to the footage's proportions.",
            )

    def _tell(self, job: WindowJob, count: int, given: int) -> None:
        where = f"frames {job.window.start} to {int(job.indices[-1])}"
        what = "pixels of the image" if self.use == "image" else "tracks"
        if count:
            job.note(f"{count} of {given} {what} guide {where}." if count < given else f"{count} {what} guide {where}.")
            return
        why = (
            "the shot has none"
            if not given
            else "none is asked for"
            if self.use != "image" and not self.options["tracks"]
            else "the camera sees none of them"
        )
        job.note(f"No trajectory guides {where}: {why}. The picture follows what it starts from alone.")


_TICKS = 33
"""Ticks of learning the objects (`Mattes.learn` on 16 frames; on fewer they are fewer)."""


def unedited(request: RenderRequest) -> bool:
    """Whether the edit leaves cameras and tracks as they are, to what a picture can show."""
    solve, edit = request.solve, request.edit
    return bool(
        np.allclose(edit.cameras.c2w, solve.cameras.c2w, atol=1e-6)
        and np.allclose(edit.cameras.K, solve.cameras.K)
        and edit.present.all()
        and len(edit.source_track) == len(solve.tracks)
        and np.allclose(edit.positions, solve.tracks.positions[:, edit.source_track], atol=1e-6)
    )
