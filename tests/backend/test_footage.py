"""Every picture of a user's footage comes out, in its place, whatever the container does."""

import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from retake_backend import footage
from retake_backend.footage import FootageReader, probe, write_png, write_video
from retake_shared.errors import BadFile, RetakeError

FRAMES = 40


def picture(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A picture that says its own number in eight black or white blocks, and which of its corners is the top left."""
    out = np.full((height, width, 3), 128, np.uint8)
    for bit in range(8):
        left = 8 + bit * (width - 16) // 8
        out[height // 2 :, left : left + (width - 16) // 8] = 255 * (index >> bit & 1)
    out[: height // 4, : width // 4] = (200, 30, 30)
    return out


def number(rgb: np.ndarray) -> int:
    height, width = rgb.shape[:2]
    step = (width - 16) // 8
    bits = [rgb[height * 3 // 4, 8 + bit * (width - 16) // 8 + step // 2].mean() > 128 for bit in range(8)]
    return sum(int(bit) << i for i, bit in enumerate(bits))


def make_video(
    path: Path, count: int = FRAMES, rate: Fraction = Fraction(24), times: list[int] | None = None, **choice: object
) -> Path:
    """H.264 with B-pictures; times: presentation times in 1/1000 s; choice: size, rotation, x264 options."""
    width, height = choice.get("size", (96, 64))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        stream.options = {"bf": "3", "g": "12", "crf": "10", **choice.get("options", {})}
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if "rotation" in choice:
            stream.set_display_rotation(choice["rotation"])
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")
            frame.pts = times[index] if times else index
            frame.time_base = Fraction(1, 1000) if times else 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".h264"])
@pytest.mark.parametrize("options", [{}, {"x264-params": "open-gop=1:bframes=4:b-adapt=0"}])
def test_every_frame_in_presentation_order(tmp_path: Path, suffix: str, options: dict) -> None:
    path = make_video(tmp_path / f"clip{suffix}", options=options)
    with FootageReader(path) as reader:
        assert reader.footage.frames == FRAMES
        assert [number(p) for p in reader.frames()] == list(range(FRAMES))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".h264"])
def test_random_access_equals_reading_in_sequence(tmp_path: Path, suffix: str) -> None:
    path = make_video(tmp_path / f"clip{suffix}", count=100)
    with FootageReader(path) as reader:
        reader._room = 4
        sequence = [p.copy() for p in reader.frames()]
        for index in np.random.default_rng(1).permutation(100)[:40]:
            np.testing.assert_array_equal(reader.frame(int(index)), sequence[index])
        for index in range(99, 60, -1):
            np.testing.assert_array_equal(reader.frame(index), sequence[index])


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(16), Fraction(25)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rate_is_exact(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    found = probe(make_video(tmp_path / f"clip{suffix}", rate=rate, count=90))
    assert (found.fps, found.constant_rate, found.frames) == (rate, True, 90)


def test_uneven_rate_keeps_every_picture_and_is_told(tmp_path: Path) -> None:
    times = list(np.cumsum(np.random.default_rng(0).integers(17, 90, FRAMES)))
    with FootageReader(make_video(tmp_path / "vfr.mp4", times=[int(t) for t in times])) as reader:
        assert not reader.footage.constant_rate
        assert [number(p) for p in reader.frames()] == list(range(FRAMES))
        assert "uneven" in reader.notes[0]


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation_flag_is_applied(tmp_path: Path, rotation: int, turns: int) -> None:
    path = make_video(tmp_path / "phone.mp4", rotation=rotation, count=3)
    with FootageReader(path) as reader:
        upright = np.rot90(picture(0), turns)
        assert (reader.footage.height, reader.footage.width) == upright.shape[:2]
        assert np.abs(reader.frame(0).astype(int) - upright).mean() < 12


@pytest.mark.parametrize("size", [(97, 63), (96, 65), (33, 33)])
def test_odd_sizes_keep_every_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    with FootageReader(make_video(tmp_path / "odd.mkv", size=size, count=5)) as reader:
        assert reader.frame(4).shape == (size[1], size[0], 3)


def test_damaged_tail_gives_the_readable_frames_and_says_so(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "clip.mkv", count=100)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with FootageReader(cut) as reader:
        count = reader.footage.frames
        assert 40 < count < 80
        assert [number(p) for p in reader.frames()] == list(range(count))
        with pytest.raises(BadFile, match=f"frame {count} is not one"):
            reader.frame(count)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi"])
@pytest.mark.parametrize("tail", ["random", "cut"])
@pytest.mark.parametrize("sound", [0.0, 4.2])
def test_a_tail_of_rubbish_is_told_and_what_is_before_it_comes_out(
    tmp_path: Path, suffix: str, tail: str, sound: float
) -> None:
    """As after a disk error or a broken download."""
    whole = with_sound(tmp_path / f"clip{suffix}", sound)
    data = bytearray(whole.read_bytes())
    begin = len(data) * 6 // 10
    data[begin:] = np.random.default_rng(2).bytes(len(data) - begin) if tail == "random" else b""
    whole.write_bytes(data)
    with FootageReader(whole) as reader:
        count = reader.footage.frames
        assert 0 < count < 95
        read = [number(p) for p in reader.frames()]
        assert read[: count - 1] == list(range(count - 1))  # the last may be half a picture
        (note,) = (note for note in reader.notes if "damaged" in note)
        assert f"{count} of" in note
        assert "Export it again" in note


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi"])
def test_sound_that_is_longer_than_the_pictures_is_no_damage(tmp_path: Path, suffix: str) -> None:
    with FootageReader(with_sound(tmp_path / f"clip{suffix}", 12.0)) as reader:
        assert reader.footage.frames == 100
        assert reader.notes == ()


def with_sound(path: Path, seconds: float) -> Path:
    """100 frames at 24 a second, the index of an .mp4 first, and so many seconds of sound (none: no sound at all)."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"g": "12", "qscale": "2", "flags": "+qscale"}
        voice = container.add_stream("mp2", rate=44100, layout="mono") if seconds else None
        blocks = iter(range(round(seconds * 44100 / 1152)))

        def sound_until(second: float) -> None:
            while second > 0 and (block := next(blocks, None)) is not None:
                told = av.AudioFrame.from_ndarray(noise.integers(-9, 9, (1, 1152), np.int16), "s16", "mono")
                told.sample_rate, told.pts, told.time_base = 44100, block * 1152, Fraction(1, 44100)
                container.mux(voice.encode(told))
                if block * 1152 / 44100 > second:
                    return

        for index in range(100):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(stream.encode(frame))
            sound_until(index / 24)
        container.mux(stream.encode(None))
        sound_until(seconds)
    return path


def test_a_frame_that_is_damaged_is_named_with_those_before_it(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mkv", count=40)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    place = sorted(packets, key=lambda packet: packet.pts)[20]
    data = bytearray(path.read_bytes())
    data[place.pos + 8 : place.pos + place.size] = bytes(place.size - 8)
    path.write_bytes(data)
    with FootageReader(path) as reader, pytest.raises(BadFile, match=r"use frames before it \(\d+ of them\)"):
        list(reader.frames())


def test_mp4_with_zeroed_end_tells_how_much_is_left(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, (picture(i) for i in range(100)), 24)
    data = bytearray(path.read_bytes())
    data[-len(data) // 3 :] = b"\0" * (len(data) // 3)
    path.write_bytes(data)
    with FootageReader(path) as reader:
        assert 0 < reader.footage.frames <= 100
        assert len(list(reader.frames())) == reader.footage.frames
        assert reader.footage.frames == 100 or "damaged" in reader.notes[0]


@pytest.mark.parametrize("content", [b"", b"not a video at all", b"\0" * 5000])
def test_rubbish_is_refused_with_the_file_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"clip\.mp4"):
        FootageReader(path)


def test_sound_alone_is_no_footage(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 48000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(BadFile, match="no video stream"):
        FootageReader(path)


def test_missing_file_and_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="does not exist"):
        FootageReader(tmp_path / "nothing.mp4")
    with pytest.raises(BadFile, match="holds no image"):
        FootageReader(tmp_path)


def test_images_in_natural_order_under_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "Aufnähme ここ 1"
    folder.mkdir()
    for index in range(12):
        write_png(folder / f"bild {index}.png", picture(index))
    (folder / "notes.txt").write_text("not an image")
    with FootageReader(folder) as reader:
        assert reader.footage.frames == 12
        for index in range(12):
            np.testing.assert_array_equal(reader.frame(index), picture(index))


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "1.png", picture(1))
    write_png(tmp_path / "2.png", picture(2, 98, 64))
    with FootageReader(tmp_path) as reader, pytest.raises(BadFile, match=r"2\.png.*98x64"):
        reader.frame(1)


def test_unicode_path(tmp_path: Path) -> None:
    path = make_video(tmp_path / "Straße 通り.mp4", count=4)
    assert probe(path).frames == 4


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    import hashlib

    path = make_video(tmp_path / "clip.mp4", count=4)
    assert probe(path, with_sha256=True).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_written_video_keeps_frames_rate_and_colour(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    colours = np.zeros((64, 96, 3), np.uint8)
    colours[:, :32], colours[:, 32:64], colours[:, 64:] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
    assert write_video(path, [colours] * 5, Fraction(24000, 1001)) == 5
    with FootageReader(path) as reader:
        assert (reader.footage.frames, reader.footage.fps) == (5, Fraction(24000, 1001))
        for column, colour in ((16, (200, 40, 40)), (48, (40, 200, 40)), (80, (40, 40, 200))):
            assert np.abs(reader.frame(2)[32, column].astype(int) - colour).max() <= 6


def test_written_png_reads_back_bit_exact(tmp_path: Path) -> None:
    grey = picture(3)[..., 0]
    write_png(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "grey.png"), cv2.IMREAD_UNCHANGED), grey)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises((IsADirectoryError, PermissionError)):
        write_png(tmp_path / "folder.png", grey)
    assert not list(tmp_path.glob("*.part"))


def test_video_of_changing_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RetakeError, match="98x64"):
        write_video(tmp_path / "out.mp4", [picture(0), picture(0, 98, 64)], 24)
    assert not list(tmp_path.iterdir())


def test_real_clips(sample_data: Path) -> None:
    expected = {
        "apple.mp4": (1296, 720, 50, 10),
        "juggle.mp4": (1280, 720, 247, 24),
        "bigbuckbunny.mp4": (1280, 720, 132, 25),
    }
    for name, (width, height, frames, fps) in expected.items():
        found = footage.probe(sample_data / "clips" / name)
        assert (found.width, found.height, found.frames, found.fps) == (width, height, frames, fps)


def test_colours_are_those_of_the_standard(tmp_path: Path) -> None:
    """Flat BT.709 colours, coded without loss, come out within rounding of the standard's own formula."""
    codes = [(81, 90, 240), (145, 54, 34), (41, 240, 110), (126, 128, 128), (210, 100, 150)]
    path = tmp_path / "colours.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1  # BT.709, limited
        for index, (y, u, v) in enumerate(codes):
            planes = np.concatenate([np.full(64 * 48, y), np.full(32 * 24, u), np.full(32 * 24, v)])
            frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8).reshape(72, 64), format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with FootageReader(path) as reader:
        for index, (y, u, v) in enumerate(codes):
            luma, blue, red = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
            green = luma - (0.2126 * 1.5748 * red + 0.0722 * 1.8556 * blue) / 0.7152
            true = np.clip(np.array([luma + 1.5748 * red, green, luma + 1.8556 * blue]) * 255, 0, 255)
            assert np.abs(reader.frame(index).astype(float) - true).max() <= 1.0


def test_a_colon_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name such as `take:12.mp4` is a file, not a protocol."""
    make_video(tmp_path / "clip.mp4").rename(tmp_path / "take:12.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe("take:12.mp4").frames == FRAMES
    assert write_video("take:13.mp4", [picture(0)] * 3, 24) == probe("take:13.mp4").frames == 3


def make_lossless(path: Path, pix_fmt: str, pictures: list[np.ndarray], source: str = "rgb24") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for index, rgb in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(rgb, format=source).reformat(format=pix_fmt)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le", "yuv444p12le", "gbrp10le"])
def test_more_than_eight_bits_come_out_as_eight(tmp_path: Path, pix_fmt: str) -> None:
    path = make_lossless(tmp_path / "deep.mkv", pix_fmt, [picture(i) for i in range(5)])
    with FootageReader(path) as reader:
        assert [number(p) for p in reader.frames()] == list(range(5))
        assert reader.frame(3).dtype == np.uint8
        assert np.abs(reader.frame(3).astype(int) - picture(3)).mean() < 3


def test_alpha_is_left_out_and_the_colours_under_it_stay(tmp_path: Path) -> None:
    clear = [np.dstack([picture(i), np.full((64, 96), 40, np.uint8)]) for i in range(4)]
    with FootageReader(make_lossless(tmp_path / "alpha.mkv", "bgra", clear, "rgba")) as reader:
        for index in range(4):
            np.testing.assert_array_equal(reader.frame(index), picture(index))
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        bgra = cv2.cvtColor(clear[index], cv2.COLOR_RGBA2BGRA)
        assert cv2.imwrite(str(folder / f"{index}.png"), bgra)
        np.testing.assert_array_equal(footage.read_image(folder / f"{index}.png"), picture(index))


def test_sixteen_bit_images_come_out_as_eight(tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        file = tmp_path / f"deep{suffix}"
        assert cv2.imwrite(str(file), cv2.cvtColor(picture(9), cv2.COLOR_RGB2BGR).astype(np.uint16) * 257)
        np.testing.assert_array_equal(footage.read_image(file), picture(9))


def test_interlaced_footage_keeps_its_frames_and_is_told(tmp_path: Path) -> None:
    path = make_video(tmp_path / "tv.mkv", options={"x264-params": "tff=1"})
    with FootageReader(path) as reader:
        assert [number(p) for p in reader.frames()] == list(range(FRAMES))
        assert any("interlaced" in note for note in reader.notes)
    with FootageReader(make_video(tmp_path / "film.mkv")) as reader:
        assert not reader.notes


def test_pixels_that_are_not_square_are_told(tmp_path: Path) -> None:
    with FootageReader(make_video(tmp_path / "dv.mp4", options={"x264-params": "sar=16/11"}, count=4)) as reader:
        assert (reader.footage.width, reader.footage.height) == (96, 64)
        assert any("16/11" in note for note in reader.notes)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_small_frames_are_the_same_frames_in_the_same_place(tmp_path: Path, rotation: int) -> None:
    path = make_video(tmp_path / "clip.mp4", rotation=rotation, size=(480, 320))
    with FootageReader(path) as reader:
        chosen = range(3, 31, 4)
        size = (reader.footage.width // 4, reader.footage.height // 4)
        small = list(reader.small_frames(chosen, size))
        assert len(small) == len(chosen)
        for index, rgb in zip(chosen, small, strict=True):
            scaled = cv2.resize(reader.frame(index), size, interpolation=cv2.INTER_AREA)
            assert rgb.shape == scaled.shape
            assert np.abs(rgb.astype(int) - scaled).mean() < 2
            # Least squares of the difference over the gradients: how far one lies beside the other, px.
            sides = np.stack(np.gradient(scaled.mean(-1)), -1)
            shift = np.linalg.lstsq(sides.reshape(-1, 2), (rgb.mean(-1) - scaled.mean(-1)).ravel(), rcond=None)[0]
            assert np.abs(shift).max() < 0.02
        with pytest.raises(BadFile, match="frame 40"):
            list(reader.small_frames(range(38, 44), size))


def test_small_frames_of_a_damaged_and_an_uneven_clip(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "clip.mkv", count=100)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    times = [int(t) for t in np.cumsum(np.random.default_rng(0).integers(17, 90, FRAMES))]
    for path in (cut, make_video(tmp_path / "vfr.mp4", times=times), make_video(tmp_path / "raw.h264")):
        with FootageReader(path) as reader:
            chosen = range(2, reader.footage.frames, 3)
            assert [number(p) for p in reader.small_frames(chosen, (96, 64))] == list(chosen)


def test_small_frames_of_images(tmp_path: Path) -> None:
    for index in range(4):
        write_png(tmp_path / f"{index}.png", picture(index, 192, 128))
    with FootageReader(tmp_path) as reader:
        small = list(reader.small_frames(range(1, 4), (96, 64)))
        assert [number(p) for p in small] == [1, 2, 3]


def test_an_image_of_an_absurd_size_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    """A PNG of a few hundred bytes that says it is 200,000 px wide and high."""
    write_png(tmp_path / "1.png", picture(1))
    data = bytearray((tmp_path / "1.png").read_bytes())
    data[16:24] = (200_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "1.png").write_bytes(data)
    with pytest.raises(BadFile, match=r"1\.png"):
        FootageReader(tmp_path)


def test_a_large_picture_is_read_whole(tmp_path: Path) -> None:
    """6K, odd in both directions, as film scans are."""
    write_png(tmp_path / "scan.png", picture(5, 6145, 3457))
    with FootageReader(tmp_path / "scan.png") as reader:
        assert (reader.footage.width, reader.footage.height) == (6145, 3457)
        assert number(reader.frame(0)) == 5
        assert number(next(reader.small_frames(range(1), (672, 378)))) == 5
