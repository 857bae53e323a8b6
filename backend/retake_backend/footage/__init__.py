"""Frame-exact reading of footage (a video file or a folder of images), and writing of pictures and videos.

Frame i is the i-th picture in presentation order, whatever the container says about rates, counts or reordering.
Pictures are (H, W, 3) uint8 sRGB as displayed: the rotation flag is applied, the pixel aspect ratio is not. `reader` is
what everything else reads footage by; it stands on `images` (folders, single images, pictures in memory) and `videos`.
`writing` makes PNGs and MP4s, and reads MP4s that lie in memory.
"""

from .images import IMAGE_SEQUENCE_FPS, IMAGE_SUFFIXES, Picture, images_in, read_image
from .reader import FootageReader, probe, sha256
from .writing import decode_video, encode_png, encode_video, write_png, write_video

__all__ = [
    "IMAGE_SEQUENCE_FPS",
    "IMAGE_SUFFIXES",
    "FootageReader",
    "Picture",
    "decode_video",
    "encode_png",
    "encode_video",
    "images_in",
    "probe",
    "read_image",
    "sha256",
    "write_png",
    "write_video",
]
