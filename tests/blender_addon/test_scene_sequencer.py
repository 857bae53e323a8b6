"""Takes on the timeline: the right picture at the right frame, byte for byte."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from blender_addon.scene import footage_clip, sequencer, shots


def write_png(path, pixels):
    """pixels (h, w, 3) uint8, exactly."""
    height, width = pixels.shape[:2]
    image = bpy.data.images.new("w", width, height)
    image.colorspace_settings.name = "sRGB"
    values = np.ones((height, width, 4), np.float32)
    values[..., :3] = pixels[::-1] / 255.0
    image.pixels.foreach_set(values.ravel())
    image.filepath_raw, image.file_format = str(path), "PNG"
    image.save()
    bpy.data.images.remove(image)
    return path


def read_png(path):
    image = bpy.data.images.load(str(path))
    values = np.empty((image.size[1], image.size[0], image.channels), np.float32)
    image.pixels.foreach_get(values.ravel())
    bpy.data.images.remove(image)
    return np.rint(values[::-1, :, :3] * 255).astype(np.uint8)


def rendered(scene, frame, folder):
    scene.render.use_sequencer = True
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode = "PNG", "RGB"
    scene.render.filepath = str(folder / f"out_{frame}.png")
    scene.frame_set(frame)
    bpy.ops.render.render(write_still=True)
    return read_png(scene.render.filepath)


@pytest.fixture
def take(tmp_path):
    """Six pictures of noise, (files, pixels)."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (6, 36, 64, 3), dtype=np.uint8)
    folder = tmp_path / "take é 1"
    folder.mkdir()
    return [write_png(folder / f"frame_{i:05d}.png", p) for i, p in enumerate(pixels)], pixels


@pytest.fixture
def scene(make_footage):
    scene = bpy.context.scene
    footage_clip.apply_settings(scene, make_footage(64, 36), 6, 1, (1, 1))
    return scene


def test_a_strip_grows_and_is_exact_in_colour_and_position(scene, take, tmp_path):
    files, pixels = take
    strip = sequencer.add_take_strip(scene, files[:1], "take 1", 3, frames=6)
    assert sequencer.span(strip) == (3, 4)
    for file in files[1:]:
        sequencer.grow_strip(strip, [file])
    assert sequencer.span(strip) == (3, 9)
    for frame in (3, 5, 8):
        np.testing.assert_array_equal(rendered(scene, frame, tmp_path), pixels[frame - 3])


def test_takes_stack_above_the_footage(scene, take):
    files, _ = take
    one = sequencer.add_take_strip(scene, files[:2], "take 1", 1, frames=6)
    two = sequencer.add_take_strip(scene, files[:2], "take 2", 2, frames=6)
    three = sequencer.add_take_strip(scene, files[:2], "take 3", 50, frames=6)
    assert [one.channel, two.channel, three.channel] == [2, 3, 2]
    sequencer.grow_strip(one, files[2:])  # must not push the one above, or be pushed
    assert [sequencer.span(s)[0] for s in (one, two)] == [1, 2]
    assert sequencer.remove(scene, "take 2")
    assert not sequencer.remove(scene, "take 2")
    assert [strip.name for strip in sequencer.strips(scene)] == ["take 1", "take 3"]


def test_compare_shows_both_halves(scene, take, tmp_path):
    files, pixels = take
    sequencer.add_take_strip(scene, files, "below", 1, channel=1)
    sequencer.add_take_strip(scene, files[::-1], "above", 1)
    sequencer.compare(scene, "above", 0.5)
    shown = rendered(scene, 1, tmp_path)
    np.testing.assert_array_equal(shown[:, :32], pixels[0][:, :32])
    np.testing.assert_array_equal(shown[:, 32:], pixels[5][:, 32:])
    sequencer.compare(scene, "above", 0.0)
    np.testing.assert_array_equal(rendered(scene, 1, tmp_path), pixels[5])


def test_real_footage_lies_at_the_bottom_frame_for_frame(sample_data):
    scene = bpy.context.scene
    path = sample_data / "clips/juggle.mp4"
    footage = footage_clip.probe(str(path), scene)
    footage_clip.apply_settings(scene, footage, 81, 1, (1, 1))
    clip = footage_clip.load_clip(str(path))
    strip = sequencer.add_footage_strip(scene, clip, "juggle", 1)
    assert strip.channel == 1
    assert sequencer.span(strip) == (1, 248)
    assert sequencer.add_footage_strip(scene, clip, "juggle", 1) == strip


def test_a_picture_sequence_as_footage(shot):
    root, _ = shot
    scene = bpy.context.scene
    strip = sequencer.add_footage_strip(scene, root.retake.clip, "footage", root.retake.start)
    assert sequencer.span(strip) == (1, 9)
    assert sequencer.scene_of(bpy.context) == scene
    assert shots.active_shot(bpy.context) == root


@pytest.mark.parametrize("name", ["short", "a very long name " * 8, "é長い名前" * 20])
def test_a_strip_is_found_by_its_name_however_long_the_shots_is(scene, take, name):
    files, _ = take
    label = sequencer.label(name, "footage")
    assert sequencer.add_take_strip(scene, files, label, 1).name == label
    assert label.endswith(" footage")
