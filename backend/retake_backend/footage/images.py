"""Images as footage: a folder of them in natural order, a single one, or pictures in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadFile
from retake_shared.shot import Footage

Picture = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
IMAGE_SEQUENCE_FPS = Fraction(24)
"""The rate of an image folder, which says none of its own."""


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which frame_9 comes before frame_10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name.casefold())]


def images_in(folder: Path) -> list[Path]:
    """The images of a folder in natural order, hidden ones left out."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
    return sorted(files, key=lambda f: (_natural(f.name), f.name))


def read_image(path: Path, remedy: str = "Export it again, for example as PNG.") -> Picture:
    """One image file, (H, W, 3) uint8 sRGB, turned as its metadata say. Raises BadFile when it is none."""
    try:
        # imdecode, because imread cannot open every name on Windows.
        data = np.fromfile(path, np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error) as error:  # OpenCV raises where the sizes in the file are absurd
        why = (error.strerror if isinstance(error, OSError) else "") or "not a picture of a size that can be held"
        raise BadFile(f"cannot be read ({why}).", str(path), remedy) from None
    if picture is None:
        raise BadFile("is not a readable image.", str(path), remedy)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _read_listed(path: Path) -> Picture:
    return read_image(path, "Remove it from the folder or export it again.")


class Images:
    """A folder of images in natural order, or one image."""

    def __init__(self, path: Path) -> None:
        self.files = images_in(path) if path.is_dir() else [path]
        if not self.files:
            raise BadFile("holds no image.", str(path), f"Expected {', '.join(sorted(IMAGE_SUFFIXES))} files.")
        self.height, self.width = _read_listed(self.files[0]).shape[:2]
        self.footage = Footage(str(path), self.width, self.height, IMAGE_SEQUENCE_FPS, len(self.files))
        self.notes = [f"Images carry no frame rate; {IMAGE_SEQUENCE_FPS} is assumed."] if path.is_dir() else []

    def pictures_up_to(self, index: int, size: tuple[int, int] | None = None) -> Iterator[tuple[int, Picture]]:
        picture = _read_listed(self.files[index])
        if picture.shape[:2] != (self.height, self.width):
            found = f"{picture.shape[1]}x{picture.shape[0]}"
            raise BadFile(
                f"is {found} px, the first image {self.width}x{self.height}.",
                str(self.files[index]),
                "All images of a folder must have one size.",
            )
        yield index, _scaled_down(picture, size)

    def close(self) -> None:
        pass


class Held:
    """Pictures in memory."""

    def __init__(self, pictures: NDArray[np.uint8], fps: Fraction) -> None:
        self.pictures, self.notes = pictures, list[str]()
        self.footage = Footage("pictures in memory", pictures.shape[2], pictures.shape[1], fps, len(pictures))

    def pictures_up_to(self, index: int, size: tuple[int, int] | None = None) -> Iterator[tuple[int, Picture]]:
        yield index, _scaled_down(self.pictures[index], size)

    def close(self) -> None:
        pass


def _scaled_down(picture: Picture, size: tuple[int, int] | None) -> Picture:
    if size is None or size == picture.shape[1::-1]:
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
