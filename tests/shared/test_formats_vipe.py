"""ViPE folders, and the PNG and EXR decoders that they need without cv2."""

from __future__ import annotations

import contextlib
import importlib.util
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retake_shared import fitting, formats, geometry
from retake_shared.errors import BadFile, RetakeError
from retake_shared.formats import exr, png, vipe
from retake_shared.shot import Footage


def encode_png(image: np.ndarray, filters: list[int], bits: int = 8, colour: int = 0) -> bytes:
    """A one-channel PNG whose lines use the given filters in turn, written as the specification says it."""
    height, width = image.shape
    if bits == 8:
        packed = image.astype(int)
    else:
        planes = (image[..., None] >> np.arange(bits)[::-1]) & 1
        packed = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1).astype(int)
    lines, above = b"", np.zeros(packed.shape[1], int)
    for y, line in enumerate(packed):
        kind = filters[y % len(filters)]
        left, corner = np.concatenate([[0], line[:-1]]), np.concatenate([[0], above[:-1]])
        estimate = left + above - corner
        a, b, c = abs(estimate - left), abs(estimate - above), abs(estimate - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        guess = (0 * left, left, above, (left + above) // 2, paeth)[kind]
        lines += bytes([kind]) + ((line - guess) & 255).astype(np.uint8).tobytes()
        above = line

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [1, 2, 0], [4, 0, 3, 2, 1]])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (13, 30), (31, 14)])
def test_every_png_filter_is_undone(filters, size):
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    np.testing.assert_array_equal(png.decode_labels(encode_png(image, filters)), image)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_indices_of_any_depth(bits):
    image = np.random.default_rng(0).integers(0, 2**bits, (11, 19), dtype=np.uint8)
    np.testing.assert_array_equal(png.decode_labels(encode_png(image, [1, 4], bits, colour=3)), image)


def test_png_agrees_with_opencv_and_other_kinds_are_refused():
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV to write PNGs")
    image = np.random.default_rng(0).integers(0, 5, (120, 90), dtype=np.uint8)
    for strategy in range(5):
        data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_STRATEGY, strategy])[1].tobytes()
        np.testing.assert_array_equal(png.decode_labels(data), image)
    with pytest.raises(ValueError, match="not a plain label image"):
        png.decode_labels(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())


def test_masks_of_any_filter_decode_in_seconds():
    """81 frames of 1280x704 must not take minutes, whichever filters the writer chose (worst case: Paeth)."""
    image = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 3, (22, 40), dtype=np.uint8), 32, 0), 32, 1)
    data = encode_png(image, [4, 3])
    start = time.perf_counter()
    np.testing.assert_array_equal(png.decode_labels(data), image)
    assert time.perf_counter() - start < 1.0


def encode_exr(image: np.ndarray, lines: int, channels: tuple[str, ...] = ("Z",)) -> bytes:
    """A half-float scanline EXR as the specification says it; lines per block: 1 = uncompressed, 16 = ZIP."""
    height, width = image.shape

    def attribute(name: str, kind: str, value: bytes) -> bytes:
        return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value

    listed = b"".join(name.encode() + b"\0" + struct.pack("<iiii", 1, 0, 1, 1) for name in channels)
    window = struct.pack("<4i", 3, -2, width + 2, height - 3)  # need not begin at 0
    head = struct.pack("<II", 20000630, 2)
    head += attribute("channels", "chlist", listed + b"\0")
    head += attribute("compression", "compression", bytes([3 if lines == 16 else 0]))
    head += attribute("dataWindow", "box2i", window) + attribute("displayWindow", "box2i", window)
    head += attribute("lineOrder", "lineOrder", b"\0") + b"\0"
    blocks = []
    for top in range(0, height, lines):
        rows = image[top : top + lines].astype("<f2")
        raw = b"".join((row if name == "Z" else 0 * row).tobytes() for row in rows for name in channels)
        if lines == 16:
            halves = np.frombuffer(raw[0::2] + raw[1::2], np.uint8).astype(int)
            differences = np.concatenate([halves[:1], np.diff(halves) + 128]) & 255
            packed = zlib.compress(differences.astype(np.uint8).tobytes())
            raw = packed if len(packed) < len(raw) else raw
        blocks.append(struct.pack("<ii", top - 2, len(raw)) + raw)
    offsets = np.cumsum([len(head) + 8 * len(blocks), *map(len, blocks[:-1])])
    return head + offsets.astype("<u8").tobytes() + b"".join(blocks)


def smooth_depth() -> np.ndarray:
    y, x = np.mgrid[:53, :70].astype(np.float32)
    return 2 + np.sin(x / 9) * 0.5 + y / 20


@pytest.mark.parametrize("lines", [1, 16])
@pytest.mark.parametrize("channels", [("Z",), ("A", "Z"), ("B", "G", "R", "Z", "a")])
def test_exr_depth_is_exact(lines, channels):
    expected = smooth_depth().astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(exr.decode_channel(encode_exr(smooth_depth(), lines, channels)), expected)


WRITE_EXR = """
import sys, bpy, numpy as np
depth = np.load(sys.argv[1])
image = bpy.data.images.new("depth", depth.shape[1], depth.shape[0], float_buffer=True)
image.colorspace_settings.name = "Non-Color"
pixels = np.ones((*depth.shape, 4), np.float32)
pixels[..., :3] = depth[::-1, :, None]
image.pixels.foreach_set(pixels.reshape(-1))
settings = bpy.context.scene.render.image_settings
if hasattr(settings, "media_type"):
    settings.media_type = "IMAGE"
settings.file_format, settings.color_mode = "OPEN_EXR", "RGB"
bpy.context.scene.view_settings.view_transform = "Raw"
for codec in ("NONE", "ZIPS", "ZIP", "PIZ", "RLE"):
    for bits in ("16", "32"):
        settings.exr_codec, settings.color_depth = codec, bits
        image.save_render(f"{sys.argv[2]}/{codec}_{bits}.exr", scene=bpy.context.scene)
"""


def test_exr_agrees_with_blender(tmp_path):
    if importlib.util.find_spec("bpy") is None:
        pytest.skip("needs Blender's module to write EXRs")
    np.save(tmp_path / "depth.npy", smooth_depth())
    arguments = [sys.executable, "-c", WRITE_EXR, str(tmp_path / "depth.npy"), str(tmp_path)]
    run = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    for codec in ("NONE", "ZIPS", "ZIP"):
        half = exr.decode_channel((tmp_path / f"{codec}_16.exr").read_bytes(), "R")
        np.testing.assert_allclose(half, smooth_depth(), rtol=1e-3)
        full = exr.decode_channel((tmp_path / f"{codec}_32.exr").read_bytes(), "R")
        np.testing.assert_allclose(full, smooth_depth(), rtol=1e-6)
    for codec in ("PIZ", "RLE"):
        with pytest.raises(exr.Unsupported, match=codec):
            exr.decode_channel((tmp_path / f"{codec}_16.exr").read_bytes(), "R")


# ---- folders ----

T, W, H = 6, 64, 48


def poses() -> np.ndarray:
    c2w = np.tile(np.eye(4), (T, 1, 1))
    c2w[:, :3, :3] = geometry.axis_rotation((0, 1, 0), 0.1 * np.arange(T))
    c2w[:, 0, 3] = np.arange(T) ** 2 / 10
    return c2w


@pytest.fixture
def result(tmp_path: Path):
    def write(clip: str = "my clip", inds: list[int] | None = None, columns: int = 4, kind: str = "PINHOLE",
              masks: bool = True) -> Path:  # fmt: skip
        root = tmp_path / "vipe_résults"
        for name in ("pose", "intrinsics", "mask", "depth"):
            (root / name).mkdir(parents=True, exist_ok=True)
        inds = list(range(T)) if inds is None else inds
        K = np.tile([80.0, 81.0, W / 2, H / 2, 0.25][:columns], (len(inds), 1))
        np.savez(root / "pose" / f"{clip}.npz", data=poses()[inds].astype(np.float32), inds=np.array(inds))
        np.savez(root / "intrinsics" / f"{clip}.npz", data=K.astype(np.float32), inds=np.array(inds))
        (root / "intrinsics" / f"{clip}_camera.txt").write_text("".join(f"{i}: {kind}\n" for i in inds))
        if masks:
            labels = np.zeros((H, W), np.uint8)
            labels[10:20, 10:30], labels[:5] = 1, 2
            with zipfile.ZipFile(root / "mask" / f"{clip}.zip", "w") as file:
                for i in inds:
                    file.writestr(f"{i:05d}.png", encode_png(np.roll(labels, i, 1), [1]))
            (root / "mask" / f"{clip}.txt").write_text("0: background\n1: person\n2: person\n")
        return root

    return write


def footage(name: str, frames: int = T) -> Footage:
    return Footage(f"/films/{name}.mp4", W, H, Fraction(24), frames)


def test_a_folder_or_any_file_in_it_gives_cameras_masks_and_a_word_about_tracks(result):
    root = result()
    for path in (root, root / "pose", root / "pose/my clip.npz", root / "mask/my clip.zip",
                 root / "intrinsics/my clip_camera.txt"):  # fmt: skip
        assert formats.detect(path) == "ViPE"
        solve, notes = formats.read(path)
        assert notes == [vipe.NO_TRACKS]
        np.testing.assert_allclose(solve.cameras.c2w, poses(), atol=1e-6)
        assert (solve.cameras.width, solve.cameras.height) == (W, H)
        assert len(solve.tracks) == 0
        assert solve.object_names == {0: "background", 1: "person", 2: "person 2"}
        assert solve.masks.shape == (T, H, W)
        assert solve.masks[2, 12, 12] == 1
        assert solve.masks[2, 12, 11] == 0
    assert "no tracks" in fitting.check_convention(solve)


def test_the_clip_is_chosen_by_the_footage_or_asked_for(result):
    result("one")
    root = result("two")
    assert formats.read(root, footage("two"))[0].cameras.width == W
    with pytest.raises(BadFile, match="one, two"):
        formats.read(root)
    with pytest.raises(BadFile, match='no clip "three"'):
        formats.read(root, footage("three"))
    assert formats.read(root / "pose" / "one.npz", footage("three"))


def test_missing_frames_are_interpolated_and_named(result):
    solve, notes = formats.read(result(inds=[0, 1, 4, 5]))
    assert len(solve) == T
    assert any("No pose for frames 2-3" in note for note in notes)
    assert any("No masks for frames 2-3" in note for note in notes)
    np.testing.assert_allclose(
        solve.cameras.c2w[2, 0, 3], poses()[1, 0, 3] + (poses()[4, 0, 3] - poses()[1, 0, 3]) / 3, rtol=1e-5
    )
    np.testing.assert_allclose(solve.cameras.c2w[2, :3, :3], poses()[2, :3, :3], atol=1e-5)  # slerp is exact here


def test_wide_angle_is_told_and_a_panorama_refused(result):
    solve, notes = formats.read(result(columns=5, kind="MEI"))
    assert solve.cameras.K[0, 0, 0] == pytest.approx(80 / 1.25)
    assert any("MEI" in note for note in notes)
    with pytest.raises(BadFile, match="panorama"):
        formats.read(result(kind="PANORAMA"))


def test_without_masks_the_principal_point_tells_the_size(result):
    solve, notes = formats.read(result(masks=False))
    assert solve.masks is None
    assert (solve.cameras.width, solve.cameras.height) == (W, H)
    assert any("principal point" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": np.zeros((T, 3, 3), np.float32)}, "data.*shape"),
        ({"data": np.zeros((T, 4, 4), np.float32)}, "0 0 0 1"),
        ({"inds": np.arange(T)[::-1]}, "inds.*increasing"),
        ({"inds": np.array([0, 1, 2, 3, 4, 2**40])}, "inds.*increasing"),
        ({"data": np.zeros((0, 4, 4), np.float32), "inds": np.zeros(0, int)}, "no frame"),
    ],
)
def test_wrong_poses_are_refused(result, changes, words):
    root = result()
    np.savez(root / "pose" / "my clip.npz", **({"data": poses(), "inds": np.arange(T)} | changes))
    with pytest.raises(BadFile, match=words):
        formats.read(root)


def test_depth_is_read_or_its_absence_explained(result):
    root = result(masks=False)
    for compression in (3, 4):
        data = encode_exr(smooth_depth(), 16)
        kind = b"compression\0compression\0\x01\0\0\0"
        data = data.replace(kind + b"\x03", kind + bytes([compression]), 1)
        with zipfile.ZipFile(root / "depth" / "my clip.zip", "w") as file:
            for i in range(T):
                file.writestr(f"{i:05d}.exr", data)
        solve, notes = formats.read(root)
        if compression == 3:
            assert solve.depth.shape == (T, 53, 70)
            np.testing.assert_allclose(solve.depth[3], smooth_depth(), rtol=1e-3)
            assert (solve.cameras.width, solve.cameras.height) == (70, 53)
        else:
            assert solve.depth is None
            assert any("depth maps are left out" in note and "PIZ" in note for note in notes)


@settings(max_examples=150, deadline=None)
@given(
    data=st.sampled_from([encode_exr(smooth_depth(), 16), encode_png(np.eye(9, dtype=np.uint8), [1, 4])]),
    cut=st.floats(0, 1),
    patches=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=6)), max_size=4),
)
def test_damaged_images_raise_what_the_reader_expects_without_taking_memory(data, cut, patches):
    damaged = bytearray(data if cut > 0.5 else data[: int(2 * cut * len(data))])
    for at, patch in patches:
        start = int(at * len(damaged))
        damaged[start : start + len(patch)] = patch[: len(damaged) - start]
    decode = exr.decode_channel if data[0] == 0x76 else png.decode_labels
    with contextlib.suppress(ValueError, LookupError, struct.error, zlib.error, exr.Unsupported):
        assert decode(bytes(damaged)).nbytes < 1000 * len(data)


def failure_of(path: Path) -> RetakeError | None:
    try:
        formats.read(path)
    except RetakeError as error:
        return error
    return None


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.sampled_from(["pose/my clip.npz", "intrinsics/my clip.npz", "mask/my clip.zip", "mask/my clip.txt",
                           "intrinsics/my clip_camera.txt"]),
    cut=st.floats(0, 1),
    patches=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=6)), max_size=3),
    truncate=st.booleans(),
)  # fmt: skip
def test_damaged_files_give_a_solve_or_a_clear_error(result, which, cut, patches, truncate):
    root = result()
    path = root / which
    data = bytearray(path.read_bytes())
    if truncate:
        data = data[: int(cut * len(data))]
    for at, patch in patches:
        start = int(at * len(data))
        data[start : start + len(patch)] = patch[: len(data) - start]
    path.write_bytes(data)
    error = failure_of(root)
    assert error is None or str(root) in str(error)


def test_real_vipe_result(sample_data):
    root = sample_data / "solves" / "vipe_cosmos"
    start = time.perf_counter()
    solve, notes = formats.read(root)
    assert time.perf_counter() - start < 5
    assert notes[0] == vipe.NO_TRACKS
    assert len(solve) == 81
    assert (solve.cameras.width, solve.cameras.height) == (1280, 704)
    assert solve.object_names == {0: "background", 1: "person", 2: "sky"}
    with np.load(root / "pose" / "cosmos-example.npz") as file:
        np.testing.assert_allclose(solve.cameras.c2w, file["data"], atol=1e-5)
    # The person walks where the picture has them: the mask is neither empty nor everything.
    assert 0.002 < (solve.masks == 1).mean() < 0.5
    bound, _ = fitting.bind(Footage(str(root / "rgb/cosmos-example.mp4"), 1280, 704, Fraction(16), 81), solve)
    assert bound is solve


def test_real_masks_agree_with_opencv(sample_data):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV as the reference decoder")
    with zipfile.ZipFile(sample_data / "solves/vipe_cosmos/mask/cosmos-example.zip") as file:
        for name in sorted(file.namelist())[::20]:
            data = file.read(name)
            expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(png.decode_labels(data), expected)
