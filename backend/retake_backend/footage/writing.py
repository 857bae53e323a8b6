"""Pictures and videos into files and into memory, and videos back out of memory."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadFile, RetakeError

from .images import Picture
from .videos import EXACT, to_picture


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
    try:
        part.write_bytes(encode_png(picture))
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
                pictures.append(to_picture(frame))
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
    # "file:", as a name may hold a colon.
    with av.open(f"file:{target}" if in_file else target, "w", format="mp4", options=options) as container:
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
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709", interpolation=EXACT)
            frame.pts, frame.time_base = count, 1 / fps
            container.mux(stream.encode(frame))
            count += 1
        if stream is None:
            raise RetakeError("there is no picture to write.", str(target) if in_file else "")
        container.mux(stream.encode(None))
    return count
