"""Videos as footage: every picture by its number, whatever the container's index is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from retake_shared.errors import BadFile
from retake_shared.shot import Footage

from .images import IMAGE_SEQUENCE_FPS, Picture

_COMMON_RATES = [Fraction(n) for n in (10, 12, 15, 16, 24, 25, 30, 48, 50, 60, 100, 120, 240)]
_COMMON_RATES += [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)]
_JUMP = 48
"""How many pictures are decoded on the way to a later one before a seek is tried instead."""
_KEPT_ON_THE_WAY = 8
_BEGINNING = -(1 << 62)
"""In place of a time to seek: open the file anew."""
_TELL_LENGTH = ("matroska,webm", "avi", "mov,mp4,m4a,3gp,3g2,mj2")
"""Containers that say how long they are; of others it is guessed from their size."""
_SMALL = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""How YUV becomes RGB and back. The library's own choice is quicker by 3 ms a frame and 1 to 1.5 levels too dark."""


class Video:
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
                    yield at, to_picture(frame, size)
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
                yield index, to_picture(frame, size)
                return
        raise self._undecodable(index)


def _damaged(found: int, promised: int | str) -> str:
    return f"The file is damaged: {found} of {promised} frames can be read. Export it again to get the rest."


def to_picture(frame: Any, size: tuple[int, int] | None = None) -> Picture:
    """A decoded frame, (H, W, 3) uint8 sRGB, turned as its file says; size: (width, height) px to scale it down to."""
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as np.rot90 counts
    if size is None:
        picture = frame.reformat(format="rgb24", interpolation=EXACT).to_ndarray()
    else:
        wide, high = size if turns % 2 == 0 else size[::-1]
        picture = frame.reformat(width=wide, height=high, format="rgb24", interpolation=_SMALL).to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else np.ascontiguousarray(picture)
