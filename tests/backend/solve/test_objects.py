"""What moves on its own becomes an object of its own, and what the user drew goes before that."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from retake_backend.footage import write_png, write_video
from retake_backend.solve import masks
from retake_backend.solve.masks import GivenMasks
from retake_backend.solve.objects import find_objects
from retake_backend.solve.stages import ObjectGroups
from retake_shared.errors import BadFile, BadShot, Cancelled

from tests.backend.solve.sample import pictures, points, quiet, solved, truth

SIZE = (672, 384)


@pytest.fixture(scope="module")
def found() -> ObjectGroups:
    return find_objects(points(), solved(), None, quiet, pictures())


def test_walker_and_ball_are_two_objects_and_the_room_is_none(found: ObjectGroups) -> None:
    true = truth().tracks.objects
    assert found.names == {0: "background", 1: "object 1", 2: "object 2"}  # the walker has the most points
    for label, least in ((0, 0.995), (1, 0.97), (2, 0.95)):
        mine, theirs = found.labels == label, true == label
        assert (mine & theirs).sum() / (mine | theirs).sum() > least


def test_masks_drawn_from_points_follow_the_objects_outline(found: ObjectGroups) -> None:
    assert found.masks is not None
    shape = found.masks.shape[:0:-1]
    true = np.stack([cv2.resize(m, shape, interpolation=cv2.INTER_NEAREST) for m in truth().masks])
    for label in (1, 2):
        mine, theirs = found.masks == label, true == label
        assert (mine & theirs).sum() / (mine | theirs).sum() > 0.65


def test_a_still_scene_has_no_object() -> None:
    still = np.flatnonzero(truth().tracks.objects == 0)
    solve = solved()
    few = type(solve)(
        solve.cameras,
        "moving",
        solve.world[still],
        solve.static[still],
        solve.residual[:, still],
        "given",
        solve.solved,
    )
    groups = find_objects(points().select(still), few, None, quiet)
    assert not groups.labels.any()
    assert groups.notes == ("Nothing moves on its own in this shot: all points are background.",)


def test_the_same_points_give_the_same_objects() -> None:
    once, again = (find_objects(points(), solved(), None, quiet) for _ in range(2))
    np.testing.assert_array_equal(again.labels, once.labels)


def test_it_can_be_stopped() -> None:
    def stop(progress: object) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        find_objects(points(), solved(), None, stop)


def test_the_users_masks_go_before_the_motion() -> None:
    """A part of the still room that the user masks is an object, and the ball, not masked, is none."""
    labels = np.where(truth().masks == 1, 7, 0).astype(np.uint8)
    labels[:, 300:, :120] = 3
    given = GivenMasks(labels, {7: "hiker"})
    groups = find_objects(points(), solved(), given, quiet)
    true = truth().tracks.objects
    assert groups.names == {0: "background", 3: "object 3", 7: "hiker"}
    assert (groups.labels[true == 1] == 7).mean() > 0.97
    assert not (groups.labels[true == 2] == 7).any()
    assert (groups.labels == 3).any()


# ---- masks from files ----


def numbered(count: int = 5, shape: tuple[int, int] = (48, 84)) -> np.ndarray:
    layers = np.zeros((count, *shape), np.uint8)
    for t in range(count):
        layers[t, 10:20, 5 + t : 15 + t] = 1
        layers[t, 30:40, 50:60] = 2
    return layers


def test_images_of_numbers_keep_their_numbers_and_names(tmp_path: Path) -> None:
    true = numbered()
    for t, layer in enumerate(true):
        image = Image.fromarray(layer)
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])  # as DAVIS and SAM 2's demos write them
        image.save(tmp_path / f"{t:05}.png")
    (tmp_path / "names.txt").write_text("1 walker\n2: ball\n", "utf-8-sig")  # as Windows' editor saves it
    given = masks.read(tmp_path, range(1, 4), SIZE)
    np.testing.assert_array_equal(given.labels, true[1:4])
    assert dict(given.names) == {1: "walker", 2: "ball"}


def test_images_of_colours_are_numbered_and_made_smaller(tmp_path: Path) -> None:
    for t, layer in enumerate(numbered(2, (480, 840))):
        colours = np.zeros((*layer.shape, 3), np.uint8)
        colours[layer == 1], colours[layer == 2] = (0, 0, 200), (250, 10, 0)
        write_png(tmp_path / f"mask{t}.png", colours)
    given = masks.read(tmp_path, range(2), SIZE)
    assert given.labels.shape == (2, 384, 672)
    assert set(np.unique(given.labels)) == {0, 1, 2}


def test_images_of_colours_may_have_nothing_in_them(tmp_path: Path) -> None:
    """Else a clip whose object leaves the picture could not be masked in colours."""
    true = numbered(3, (96, 160))
    true[1] = 0
    for t, layer in enumerate(true):
        colours = np.zeros((*layer.shape, 3), np.uint8)
        colours[layer == 1], colours[layer == 2] = (0, 0, 200), (250, 10, 0)
        write_png(tmp_path / f"{t}.png", colours)
    given = masks.read(tmp_path, range(3), SIZE)
    np.testing.assert_array_equal(given.labels > 0, true > 0)


def test_images_are_counted_as_people_count(tmp_path: Path) -> None:
    """Without zeros before its number, image 10 comes after image 9, not after image 1."""
    for t in range(12):
        Image.fromarray(np.full((4, 6), t + 1, np.uint8)).save(tmp_path / f"{t}.png")
    given = masks.read(tmp_path, range(12), SIZE)
    assert given.labels[:, 0, 0].tolist() == list(range(1, 13))


def test_masks_of_one_name_are_objects_of_their_own() -> None:
    """A solve cannot hold two objects of one name, and would be refused after all its work."""
    layers = numbered(points().frame_count)
    given = GivenMasks(layers, {1: "person", 2: "person"})
    assert find_objects(points(), solved(), given, quiet).names == {0: "background", 1: "person", 2: "person 2"}
    given = GivenMasks(layers, {1: "background", 2: "ball"})
    assert find_objects(points(), solved(), given, quiet).names == {0: "background", 1: "background 2", 2: "ball"}


def test_a_video_per_object_is_named_by_its_file(tmp_path: Path) -> None:
    true = numbered(4, (96, 160))
    for number, name in ((1, "dog"), (2, "cat")):
        white = [np.repeat((layer == number)[..., None] * np.uint8(255), 3, -1) for layer in true]
        write_video(tmp_path / f"{name}.mp4", white, 24)
    given = masks.read(tmp_path, range(4), SIZE)
    names = {name: number for number, name in given.names.items()}
    assert set(names) == {"cat", "dog"}
    for number, name in ((1, "dog"), (2, "cat")):
        mine, theirs = given.labels == names[name], true == number
        assert (mine & theirs).sum() / (mine | theirs).sum() > 0.9  # H.264 blurs the edge


def test_masks_that_do_not_fit_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="not there"):
        masks.read(tmp_path / "none", range(5), SIZE)
    with pytest.raises(BadFile, match="holds no masks"):
        masks.read(tmp_path, range(5), SIZE)
    for t in range(3):
        write_png(tmp_path / f"{t}.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(BadShot, match="3 masks for frames 0 to 4"):
        masks.read(tmp_path, range(5), SIZE)
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(BadFile, match=r"1\.png"):
        masks.read(tmp_path, range(3), SIZE)
    (tmp_path / "names.txt").write_text("walker 1\n")
    with pytest.raises(BadFile, match="number and a name"):
        masks.read(tmp_path, range(3), SIZE)
