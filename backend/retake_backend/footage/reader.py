"""Footage of any kind by the number of its pictures, with the last ones kept."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadFile
from retake_shared.shot import Footage

from .images import IMAGE_SUFFIXES, Held, Images, Picture, images_in
from .videos import Video

_CACHE_BYTES = 384 << 20


def probe(path: str | Path, *, with_sha256: bool = False) -> Footage:
    """What is known of the footage at `path`, its frames counted exactly. Raises BadFile."""
    with FootageReader(path) as reader:
        footage = reader.footage
    return replace(footage, sha256=sha256(path)) if with_sha256 else footage


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes, or of a folder's image names and bytes in frame order."""
    digest = hashlib.sha256()
    path = Path(path)
    for file in images_in(path) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(file.name.encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


class FootageReader:
    """Random and sequential access to the pictures of footage; closes its file on exit. Not for use by two threads.

    footage: what is known of it. notes: in words, what had to be worked around (a damaged end, an uneven rate).
    Raises BadFile when the file is missing, holds no picture, or is not footage at all.
    """

    footage: Footage
    notes: tuple[str, ...]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BadFile("does not exist.", str(self.path), "Choose the footage again.")
        still = self.path.suffix.lower() in IMAGE_SUFFIXES
        self._begin(Images(self.path) if self.path.is_dir() or still else Video(self.path))

    @classmethod
    def of_pictures(cls, pictures: NDArray[np.uint8], fps: Fraction) -> FootageReader:
        """Footage that is in memory already: (F, H, W, 3) uint8 sRGB."""
        reader = cls.__new__(cls)
        reader.path = Path("pictures in memory")
        reader._begin(Held(pictures, fps))
        return reader

    def _begin(self, source: Images | Video | Held) -> None:
        self._source = source
        self.footage = self._source.footage
        self.notes = tuple(self._source.notes)
        picture_bytes = self.footage.width * self.footage.height * 3
        self._room = max(4, _CACHE_BYTES // picture_bytes)
        self._cache: OrderedDict[int, Picture] = OrderedDict()

    def frame(self, index: int) -> Picture:
        """Picture `index`, (H, W, 3) uint8 sRGB; read-only, as it may be handed out again.

        Raises BadFile when there is no such picture or it cannot be decoded.
        """
        if not 0 <= index < self.footage.frames:
            raise BadFile(f"frame {index} is not one of its {self.footage.frames}.", str(self.path))
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        for at, picture in self._source.pictures_up_to(index):
            picture.flags.writeable = False
            self._cache[at] = picture
            self._cache.move_to_end(at)
            if len(self._cache) > self._room:
                self._cache.popitem(last=False)
        return self._cache[index]

    def small_frames(self, chosen: range, size: tuple[int, int]) -> Iterator[Picture]:
        """Pictures of a rising range, (h, w, 3) uint8 sRGB, scaled down to `size` (width, height), each read once.

        Of a 4K video they come about three times as fast as by `frame`, as only so many pixels become RGB. Colours are
        within a level or two of those of the scaled picture. Raises BadFile.
        """
        for index in chosen:
            if not 0 <= index < self.footage.frames:
                raise BadFile(f"frame {index} is not one of its {self.footage.frames}.", str(self.path))
            for at, picture in self._source.pictures_up_to(index, size):
                if at == index:
                    yield picture

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Picture]:
        """Pictures start .. stop - 1 in order."""
        for index in range(start, self.footage.frames if stop is None else stop):
            yield self.frame(index)

    def close(self) -> None:
        """Release the file; the reader cannot be used afterwards."""
        self._source.close()
        self._cache.clear()

    def __enter__(self) -> FootageReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
