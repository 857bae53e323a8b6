"""Rendered frames -> the two videos and the poster. Needs PyAV and OpenCV (the backend's environment).

.envs/backend/bin/python shared/sample_shot/encode.py --work /tmp/sample_shot
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

FPS = 16
VIDEOS = (("source", "walk.mp4", 18), ("edited", "edited.mp4", 20))
"""Folder of frames, video, and x264's constant rate factor: the finest for which all stays under 6 MB."""
POSTER_FRAME = 46
HERE = Path(__file__).resolve().parent


def read_picture(path: Path) -> NDArray[np.uint8]:
    """RGB (h, w, 3) of an image file. Raises FileNotFoundError when there is none that can be read."""
    picture = cv2.imread(str(path))
    if picture is None:
        raise FileNotFoundError(f"{path} is missing or damaged: render it again.")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8)


def encode(pictures: Sequence[Path], video: Path, crf: int) -> None:
    """H.264, 4:2:0, BT.709 in limited range and tagged so, one picture per file, sRGB values as they are."""
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": "veryslow"})
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited
        stream.height, stream.width = read_picture(pictures[0]).shape[:2]
        for path in pictures:
            frame = av.VideoFrame.from_ndarray(read_picture(path), "rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that make_sample_shot.py rendered into")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    for folder, video, crf in VIDEOS:
        pictures = sorted((options.work / folder).glob("frame_?????.png"))
        encode(pictures, options.out / video, crf)
        print(f"{video}: {len(pictures)} frames, {(options.out / video).stat().st_size / 1e6:.2f} MB")
    poster = read_picture(options.work / "source" / f"frame_{POSTER_FRAME:05d}.png")
    cv2.imwrite(str(options.out / "poster.jpg"), poster[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
