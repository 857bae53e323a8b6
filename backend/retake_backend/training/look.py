"""What a training shows while it runs: metrics as JSON lines and for TensorBoard, and strips of held-out samples."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tensorboardX import SummaryWriter
from torch import Tensor

from ..evaluation.picture import psnr
from ..footage import write_png, write_video
from .batches import Batch

METRICS = "metrics.jsonl"
SAMPLES = "samples"
TENSORBOARD = "tensorboard"
_LABEL_PX = 12
_EQUAL = 100.0
"""dB, of equal pictures: an infinite PSNR would make every mean over it infinite, and JSON has no such number."""

Picture = NDArray[np.uint8]


class Log:
    """The figures of a training, by step: <out>/metrics.jsonl and <out>/tensorboard.

    step: where the training begins or goes on; what an earlier run wrote of later steps is taken out. A disk that is
    full costs figures, never the training; `trouble` says so in words.
    """

    def __init__(self, out: Path, step: int) -> None:
        self.trouble = ""
        self._out, self._step, self._path = out, step, out / METRICS
        self._board: SummaryWriter | None = None
        try:
            self._open()
        except OSError as error:
            self._tell(error)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            if self._board is not None:
                self._board.close()
        except OSError as error:
            self._tell(error)

    def add(self, step: int, figures: Mapping[str, float], picture: Picture | None = None) -> None:
        """Figures after so many steps; picture: (H, W, 3) uint8, shown beside them."""
        try:
            board = self._board or self._open()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
            for name, value in figures.items():
                board.add_scalar(name, value, step)
            if picture is not None:
                board.add_image("samples", picture, step, dataformats="HWC")
        except OSError as error:
            self._tell(error)

    def _open(self) -> SummaryWriter:
        """Begin, or go on behind what an earlier run wrote; once more at the next figures where there is no room."""
        self._out.mkdir(parents=True, exist_ok=True)
        self._forget_after(self._step)
        self._board = SummaryWriter(str(self._out / TENSORBOARD), purge_step=self._step + 1)
        return self._board

    def _tell(self, error: OSError) -> None:
        self.trouble = f"Figures could not be written ({error.strerror or error}); the training goes on without."

    def _forget_after(self, step: int) -> None:
        """Drop lines of later steps, and one that was cut off in the middle."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text("utf-8", errors="replace").splitlines():
            try:
                if int(json.loads(line)["step"]) <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        part = self._path.with_name(self._path.name + ".part")
        part.write_text("".join(kept), "utf-8")
        os.replace(part, self._path)


def sample_figures(batch: Batch, sample: Tensor) -> dict[str, float]:
    """Mean PSNR in dB over examples and frames of samples (B, 3, F, H, W) in [-1, 1], and of what needs no model:
    the source as it is, and the reprojection where there is one; of these two also the PSNR of all holes together."""
    truth = frames(batch.target)
    figures = {"psnr": _mean_psnr(frames(sample), truth), "psnr_source": _mean_psnr(frames(batch.source), truth)}
    if batch.moved is None:
        return figures
    figures["psnr_moved"] = _mean_psnr(frames(batch.moved), truth)
    if batch.holes is not None and batch.holes.any():
        holes = batch.holes[:, 0].bool().cpu().numpy()
        figures["psnr_holes"] = min(psnr(frames(sample)[holes], truth[holes]), _EQUAL)
        figures["psnr_holes_moved"] = min(psnr(frames(batch.moved)[holes], truth[holes]), _EQUAL)
    return figures


def write_samples(folder: Path, step: int, batch: Batch, sample: Tensor, fps: Fraction) -> Picture:
    """<folder>/step-N.png, the middle frames, and .mp4, all of them; returns the picture.

    A row for each example: source | moved (where there is one) | target | sample. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"source": frames(batch.source)}
    if batch.moved is not None:
        columns["moved"] = frames(batch.moved)
    columns |= {"target": frames(batch.target), "sample": frames(sample)}
    count = batch.source.shape[2]
    pictures = [_strip({name: video[:, at] for name, video in columns.items()}) for at in range(count)]
    name = f"step-{step:08d}"
    write_png(folder / f"{name}.png", pictures[count // 2])
    write_video(folder / f"{name}.mp4", pictures, fps)
    return pictures[count // 2]


def frames(video: Tensor) -> NDArray[np.uint8]:
    """(B, 3, F, H, W) in [-1, 1], beyond is clamped -> (B, F, H, W, 3) uint8."""
    levels = (video.detach().float().clamp(-1, 1) * 0.5 + 0.5) * 255.0 + 0.5
    pixels: NDArray[np.uint8] = levels.to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()
    return pixels


def _mean_psnr(videos: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    each = [
        psnr(picture, true)
        for video, real in zip(videos, truth, strict=True)
        for picture, true in zip(video, real, strict=True)
    ]
    return float(np.mean(np.minimum(each, _EQUAL)))


def _strip(columns: Mapping[str, NDArray[np.uint8]]) -> Picture:
    """{name: (B, H, W, 3)} -> one picture, columns side by side under their names, a row for each example."""
    body = np.concatenate([np.concatenate(list(column), 0) for column in columns.values()], 1)
    head = np.full((_LABEL_PX, body.shape[1], 3), 32, np.uint8)
    width = body.shape[1] // len(columns)
    for place, name in enumerate(columns):
        cv2.putText(head, name, (place * width + 2, _LABEL_PX - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.3, (255, 255, 255), 1)
    return np.concatenate([head, body], 0)
