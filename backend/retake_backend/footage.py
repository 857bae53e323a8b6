"""Frame-exact reading of footage (a video file or a folder of images), and writing of pictures and videos.

Frame i is the i-th picture in presentation order, whatever the container says about rates, counts or reordering.
Pictures are (H, W, 3) uint8 sRGB as displayed: the rotation flag is applied, the pixel aspect ratio is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray
from retake_shared.errors import BadFile, RetakeError
from retake_shared.shot import Footage

Picture = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
IMAGE_SEQUENCE_FPS = Fraction(24)
"""The rate of an image folder, which says none of its own."""

_COMMON_RATES = [Fraction(n) for n in (10, 12, 15, 16, 24, 25, 30, 48, 50, 60, 100, 120, 240)]
_COMMON_RATES += [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)]
_CACHE_BYTES = 384 << 20
_JUMP = 48
"""How many pictures are decoded on the way to a later one before a seek is tried instead."""
_KEPT_ON_THE_WAY = 8
_BEGINNING = -(1 << 62)
"""In place of a time to seek: open the file anew."""
_TELL_LENGTH = ("matroska,webm", "avi", "mov,mp4,m4a,3gp,3g2,mj2")
"""Containers that say how long they are; of others it is guessed from their size."""
_SMALL = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""How YUV becomes RGB and back. The library's own choice is quicker by 3 ms a frame and 1 to 1.5 levels too dark."""


def probe(path: str | Path, *, with_sha256: bool = False) -> Footage:
    """What is known of the footage at `path`, its frames counted exactly. Raises BadFile."""
    with FootageReader(path) as reader:
        footage = reader.footage
    return replace(footage, sha256=sha256(path)) if with_sha256 else footage


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes, or of a folder's image names and bytes in frame order."""
    digest = hashlib.sha256()
    path = Path(path)
    for file in _images(path) if path.is_dir() else [path]:
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
        self._begin(_Images(self.path) if self.path.is_dir() or still else _Video(self.path))

    @classmethod
    def of_pictures(cls, pictures: NDArray[np.uint8], fps: Fraction) -> FootageReader:
        """Footage that is in memory already: (F, H, W, 3) uint8 sRGB."""
        reader = cls.__new__(cls)
        reader.path = Path("pictures in memory")
        reader._begin(_Held(pictures, fps))
        return reader

    def _begin(self, source: _Images | _Video | _Held) -> None:
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


# --- images ---------------------------------------------------------------------------------------------------------


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which frame_9 comes before frame_10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name.casefold())]


def _images(folder: Path) -> list[Path]:
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


class _Images:
    """A folder of images in natural order, or one image."""

    def __init__(self, path: Path) -> None:
        self.files = _images(path) if path.is_dir() else [path]
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


class _Held:
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


# --- videos ---------------------------------------------------------------------------------------------------------


class _Video:
    """The first video stream of a container.

    `times` holds the presentation time stamp of every picture, in order; it comes from the packets (no decoding) when
    they are sound and from decoding everything when they are not. A stream without time stamps is read in sequence.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._open()
        try:
            self.times = self._index()
            self.order = {time: at for at, time in enumerate(self.times)}
            self.interlaced = False
            first = next(iter(self.pictures_up_to(0)))[1]
        except BaseException:
            self.close()
            raise
        if not self.notes and (promised := self._promised()) > len(self.times):
            self.notes.append(_damaged(len(self.times), f"about {promised}"))
        fps, constant = self._rate()
        if not constant:
            self.notes.append("The frame rate is uneven; frames are numbered one by one, as Blender shows them.")
        if self.interlaced:
            self.notes.append("The footage is interlaced: two moments lie in each frame. Deinterlace it first.")
        aspect = self.stream.sample_aspect_ratio
        if aspect and aspect != 1:
            self.notes.append(f"Its pixels are not square ({aspect}); they are taken as if they were.")
        self.footage = Footage(str(path), first.shape[1], first.shape[0], fps, len(self.times), "", constant)

    def _open(self) -> None:
        try:
            # "file:", as a name may hold a colon; and a playlist in the file must not lead to the network.
            self.container = av.open(f"file:{self.path}", options={"protocol_whitelist": "file"})
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BadFile(
                f"cannot be opened as a video ({error}).", str(self.path), "Export it again, for example as MP4."
            ) from error
        if not self.container.streams.video:
            self.container.close()
            raise BadFile("holds no video stream.", str(self.path), "Choose a video file.")
        self.stream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.position = 0
        self._decoder = self._decode()

    def close(self) -> None:
        self.container.close()

    def _decode(self) -> Iterator[Any]:
        """Frames from where the container stands, past what is damaged."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:  # the file ends in the middle: still hand out what the decoder holds
                packet = None
            with contextlib.suppress(av.FFmpegError):
                yield from self.stream.codec_context.decode(packet)
            if packet is None:
                return

    def _index(self) -> list[Any]:
        """Presentation times of all pictures."""
        times: list[Any] = []
        keys: list[Any] = []
        sound = True
        try:
            for packet in self.container.demux(self.stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                sound &= packet.pts is not None and not packet.is_corrupt
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except av.FFmpegError:
            sound = False
        sound = sound and len(set(times)) == len(times) > 0 and bool(keys)
        if sound:
            times.sort()
            self.times, self.keys = times, sorted(keys)
            if self._end_decodes():
                return times
        return self._index_by_decoding(len(times))

    def _end_decodes(self) -> bool:
        """Whether the pictures from the last key picture on come out as the packets promise."""
        first = self.keys[-1]
        if len(self.keys) > 1:
            self._seek(first)
        else:
            self._restart()
        found = [frame.pts for frame in self._decoder if frame.pts is not None and frame.pts >= first]
        self._restart()
        return found == [t for t in self.times if t >= first]

    def _index_by_decoding(self, promised: int) -> list[Any]:
        self._restart()
        times = [frame.pts for frame in self._decoder]
        self._restart()
        if not times:
            raise BadFile("holds no picture that can be decoded.", str(self.path), "Export it again.")
        if len(times) < promised:
            self.notes.append(_damaged(len(times), max(promised, self._promised(times))))
        if None in times or sorted(set(times)) != times:
            self.keys = []
            return [None] * len(times)
        self.keys = [times[0]]
        return times

    def _promised(self, times: list[Any] | None = None) -> int:
        """How many pictures there are by the container's own length, where that says more than what can be found.

        A file whose end is missing, or is rubbish, has a sound beginning and no index that would tell.
        """
        times = self.times if times is None else times
        told, base = self.container.duration, self.stream.time_base
        if self.container.format.name not in _TELL_LENGTH or not told or not base or None in times:
            return len(times)
        rate = self.stream.average_rate or self.stream.guessed_rate
        steps = np.diff(np.asarray(times, np.int64)) * float(base)
        step = float(np.median(steps)) if len(steps) else float(1 / rate) if rate else 0.0
        if step <= 0 or (len(steps) and np.quantile(steps, 0.95) > 1.5 * step):
            return len(times)  # uneven: the last picture may be meant to stay for long
        length = told / av.time_base
        if self.container.format.name == "avi":  # its length is guessed from what is there
            length = max(length, self.stream.frames * step)
        missing = length - self._last_moment(times) - step
        lost = round(missing / step)
        return len(times) + (lost if lost > max(2, 0.02 * len(times)) else 0)

    def _last_moment(self, times: list[Any]) -> float:
        """Seconds from the start at which the last picture begins, or all else has ended: sound may be longer."""
        start = (self.container.start_time or 0) / av.time_base
        last = float(times[-1] * self.stream.time_base)
        if len(self.container.streams) > 1:
            self._restart()
            with contextlib.suppress(av.FFmpegError):
                for packet in self.container.demux():
                    if packet.pts is not None and packet.time_base and packet.stream is not self.stream:
                        last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            self._restart()
        return last - start

    def _restart(self) -> None:
        self.container.close()
        self._open()

    def _seek(self, time: int) -> None:
        self.container.seek(time, stream=self.stream, backward=True)
        self._decoder = self._decode()

    def _rate(self) -> tuple[Fraction, bool]:
        """Frames per second, and whether the pictures are evenly spaced."""
        base = self.stream.time_base
        declared = self.stream.average_rate or self.stream.guessed_rate
        fallback = Fraction(declared) if declared else IMAGE_SEQUENCE_FPS
        times = self.times
        if len(times) < 2 or times[0] is None or base is None:
            return fallback, True
        ticks = np.asarray(times, np.int64)
        step = Fraction(int(ticks[-1] - ticks[0]), len(ticks) - 1)
        even = ticks[0] + np.arange(len(ticks)) * float(step)
        constant = bool(np.abs(ticks - even).max() <= max(1.0, 0.02 * float(step)))
        measured = 1 / (step * base)
        # Time stamps are rounded to ticks, so the measured rate may miss the true one by a tick over the whole clip.
        slack = max(2.0 / float(ticks[-1] - ticks[0]), 1e-5) if constant else 1e-3
        for candidate in [fallback, *_COMMON_RATES]:
            if abs(candidate / measured - 1) <= slack:
                return candidate, constant
        return measured.limit_denominator(100_000), constant

    def pictures_up_to(self, index: int, size: tuple[int, int] | None = None) -> Iterator[tuple[int, Picture]]:
        """Picture `index`, and the few decoded just before it; with a size (width, height), that one alone, so large.

        Raises BadFile when it does not come out.
        """
        if self.times[index] is None:
            yield from self._in_sequence(index, size)
            return
        for start in self._starts(index):
            if start == _BEGINNING:
                self._restart()
            elif start is not None:
                self._seek(start)
            for frame in self._decoder:
                at = self.order.get(frame.pts)
                if at is None:
                    continue
                self.position = at + 1
                self.interlaced |= bool(frame.interlaced_frame)
                if at == index or (size is None and index - _KEPT_ON_THE_WAY < at < index):
                    yield at, _picture(frame, size)
                if at == index:
                    return
                if at > index:  # the container's own index led past the picture
                    break
            self.position = len(self.times)
        raise self._undecodable(index)

    def _undecodable(self, index: int) -> BadFile:
        remedy = f"The video is damaged there. Export it again, or use frames before it ({index} of them)."
        return BadFile(f"frame {index} cannot be decoded.", str(self.path), remedy)

    def _starts(self, index: int) -> Iterator[int | None]:
        """Times of the key pictures to decode `index` from, best first; None = from where the decoder stands."""
        keys = [k for k in self.keys if k <= self.times[index]][:-4:-1]
        near = index - self.position <= _JUMP or (keys and self.order[keys[0]] <= self.position)
        if self.position <= index and near:
            yield None
        yield from keys
        yield self.times[0]
        yield _BEGINNING  # some containers, as a camera's .ts, do not lead back to their first pictures

    def _in_sequence(self, index: int, size: tuple[int, int] | None) -> Iterator[tuple[int, Picture]]:
        if index < self.position:
            self._restart()
        for frame in self._decoder:
            self.position += 1
            if self.position > index:
                yield index, _picture(frame, size)
                return
        raise self._undecodable(index)


def _damaged(found: int, promised: int | str) -> str:
    return f"The file is damaged: {found} of {promised} frames can be read. Export it again to get the rest."


def _picture(frame: Any, size: tuple[int, int] | None = None) -> Picture:
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as np.rot90 counts
    if size is None:
        picture = frame.reformat(format="rgb24", interpolation=_EXACT).to_ndarray()
    else:
        wide, high = size if turns % 2 == 0 else size[::-1]
        picture = frame.reformat(width=wide, height=high, format="rgb24", interpolation=_SMALL).to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else np.ascontiguousarray(picture)


# --- writing --------------------------------------------------------------------------------------------------------


def encode_png(picture: NDArray[np.uint8], compression: int = 3) -> bytes:
    """PNG bytes of an (H, W, 3) sRGB or (H, W) grey uint8 picture; compression 0 .. 9."""
    bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    # Without the filters Average and Paeth: written faster, and the add-on reads it in numpy for its small pictures.
    filters = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FAST_FILTERS]
    done, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, compression, *filters])
    if not done:
        raise RetakeError(f"a picture of shape {picture.shape} could not be encoded as PNG.")
    return data.tobytes()


def write_png(path: str | Path, picture: NDArray[np.uint8]) -> None:
    """Write a PNG whole or not at all: to `path`.part, then renamed. Raises OSError (disk full, read-only folder)."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_bytes(encode_png(picture))
    part.replace(path)


def write_video(path: str | Path, pictures: Iterable[Picture], fps: Fraction | float, quality: int = 16) -> int:
    """Write an H.264 MP4 (BT.709, 4:2:0, or 4:4:4 where the size is odd) and return how many pictures it holds.

    quality: x264's CRF, smaller is better. All pictures must have the first one's size. Raises OSError, RetakeError.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        count = _encode_video(part, pictures, Fraction(fps).limit_denominator(100_000), quality)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def encode_video(pictures: Iterable[Picture], fps: Fraction, quality: int) -> bytes:
    """The bytes of an H.264 MP4 with colour in every pixel (4:4:4), as small pictures need it: the same ones for the same
    pictures, however many cores there are. Raises RetakeError."""
    stream = io.BytesIO()
    _encode_video(stream, pictures, fps, quality, "yuv444p")
    return stream.getvalue()


def decode_video(data: bytes, shape: tuple[int, int, int], where: str) -> NDArray[np.uint8]:
    """The pictures of a whole video in memory, (F, H, W, 3) uint8 sRGB. Raises BadFile unless they are of shape
    (F, H, W), before there is room taken for more."""
    frames, height, width = shape
    remedy = "It is damaged; make it again."
    pictures: list[Picture] = []
    try:
        with av.open(io.BytesIO(data), mode="r", format="mp4") as container:
            if not container.streams.video:
                raise BadFile("holds no video stream.", where, remedy)
            stream = container.streams.video[0]
            if (stream.width, stream.height) != (width, height):
                raise BadFile(f"is {stream.width}x{stream.height} px, not {width}x{height}.", where, remedy)
            stream.thread_count = 1
            for frame in container.decode(stream):
                if (frame.width, frame.height) != (width, height) or len(pictures) == frames:
                    raise BadFile(f"holds more than {frames} pictures of {width}x{height} px.", where, remedy)
                pictures.append(_picture(frame))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadFile(f"cannot be decoded ({error}).", where, remedy) from error
    if len(pictures) != frames:
        raise BadFile(f"holds {len(pictures)} pictures, not {frames}.", where, remedy)
    return np.stack(pictures)


def _encode_video(
    target: Path | io.BytesIO, pictures: Iterable[Picture], fps: Fraction, quality: int, pixels: str = ""
) -> int:
    """Into a file, or memory. pixels: the format that is encoded, and the same for the same pictures; "" for what
    players like best, and fast."""
    count = 0
    stream: Any = None
    in_file = isinstance(target, Path)
    options = {"movflags": "faststart"} if in_file else {}  # which opens the file a second time
    with av.open(str(target) if in_file else target, "w", format="mp4", options=options) as container:
        for picture in pictures:
            height, width = picture.shape[:2]
            if stream is None:
                stream = container.add_stream("libx264", rate=fps)
                stream.width, stream.height = width, height
                stream.pix_fmt = pixels or ("yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p")
                context = stream.codec_context
                # Errors of colour count double in RGB; where every pixel has its own, they are kept as small as the rest.
                # The macroblock tree reads past the ends of rows that are no multiple of 128 px: what it finds there
                # differs from run to run, and so would the pictures.
                fine = {"x264-params": "chroma-qp-offset=-6:mbtree=0"} if pixels else {}
                if pixels:
                    context.thread_count = 1  # frames in the making on several are searched less far for motion
                stream.options = {"crf": str(quality), "preset": "veryfast", **fine}
                context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
                context.color_range = 1  # limited
            if (width, height) != (stream.width, stream.height):
                raise RetakeError(f"picture {count} is {width}x{height}, the first {stream.width}x{stream.height}.")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709", interpolation=_EXACT)
            frame.pts, frame.time_base = count, 1 / fps
            container.mux(stream.encode(frame))
            count += 1
        if stream is None:
            raise RetakeError("there is no picture to write.", str(target) if in_file else "")
        container.mux(stream.encode(None))
    return count
