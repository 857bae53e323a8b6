"""Public data sets are read as they are laid out where they are published, and a damaged one says what is wrong."""

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from retake_backend.evaluation.sets import Item, open_set, own
from retake_backend.evaluation.sets.shifted import shift_camera
from retake_backend.footage import write_png, write_video
from retake_backend.training.dataset import DamagedData, PairWriter
from retake_shared import archive
from retake_shared.errors import BadFile, BadShot, RetakeError
from retake_shared.geometry import invert_rigid
from retake_shared.shot import Cameras, Solve

from tests.backend.evaluation.tiny import FRAMES, SIZE, tiny_pair, wall_cameras, wall_video

WIDTH, HEIGHT = SIZE


def load_only(text: Path | str) -> Item:
    found = open_set(str(text))
    assert len(found.items) == 1
    return found.load(0)


def write_frames(folder: Path, video: np.ndarray, name: Callable[[int], str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, picture in enumerate(video):
        write_png(folder / f"{name(t)}.png", picture)


# --- DyCheck ---


def write_dycheck(folder: Path, frames: int = 6) -> tuple[Cameras, Cameras]:
    """A sequence as the release has it: camera 0 moves, camera 1 stands still and lacks time 2."""
    moving, still = wall_cameras(frames), wall_cameras(frames, step=0.0, aside=0.3)
    ids = [f"0_{t:05d}" for t in range(frames)], [f"1_{t:05d}" for t in range(frames) if t != 2]
    videos = wall_video(moving), wall_video(still)
    write_frames(folder / "rgb" / "2x", videos[0], lambda t: f"0_{t:05d}")
    write_frames(folder / "rgb" / "2x", videos[1], lambda t: f"1_{t:05d}")
    (folder / "rgb" / "2x" / "1_00002.png").unlink()
    (folder / "camera").mkdir()
    for number, cameras in enumerate((moving, still)):
        for name in ids[number]:
            t = int(name[2:])
            content = {
                "focal_length": 2 * cameras.K[t, 0, 0],
                "image_size": [2 * WIDTH, 2 * HEIGHT],
                "orientation": invert_rigid(cameras.c2w[t])[:3, :3].tolist(),
                "pixel_aspect_ratio": 1.0,
                "position": cameras.c2w[t, :3, 3].tolist(),
                "principal_point": [float(WIDTH), float(HEIGHT)],
                "radial_distortion": [0.0, 0.0, 0.0],
                "skew": 0.0,
                "tangential_distortion": [0.0, 0.0],
            }
            (folder / "camera" / f"{name}.json").write_text(json.dumps(content))
    (folder / "depth" / "2x").mkdir(parents=True)
    for name in ids[0]:
        np.save(folder / "depth" / "2x" / f"{name}.npy", np.full((HEIGHT, WIDTH, 1), 4.0, np.float32))
    masks = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    masks[:, :, 30:] = 255
    write_frames(folder / "covisible" / "2x" / "val", masks, lambda t: f"1_{t:05d}")
    everything = [*ids[0], *ids[1]]
    times = {n: {"warp_id": int(n[2:]), "appearance_id": int(n[2:]), "camera_id": int(n[0])} for n in everything}
    (folder / "metadata.json").write_text(json.dumps(times))
    about = {"count": len(everything), "ids": everything, "train_ids": ids[0], "val_ids": ids[1]}
    (folder / "dataset.json").write_text(json.dumps(about))
    (folder / "extra.json").write_text(json.dumps({"factor": 2, "fps": 15}))
    return moving, still


def test_dycheck_gives_both_cameras_at_the_times_that_both_have(tmp_path: Path) -> None:
    moving, still = write_dycheck(tmp_path / "spin")
    item = load_only(tmp_path)
    times = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(item.pair.source, wall_video(moving)[times])
    np.testing.assert_array_equal(item.pair.target, wall_video(still)[times])
    np.testing.assert_allclose(item.pair.solve.cameras.c2w, moving.c2w[times], atol=1e-9)
    np.testing.assert_allclose(item.pair.solve.cameras.K, moving.K[times], atol=1e-9)
    np.testing.assert_allclose(item.pair.edit.cameras.c2w, still.c2w[times], atol=1e-9)
    assert item.covisible is not None
    assert item.covisible[:, :, 30:].all()
    assert not item.covisible[:, :, :30].any()
    assert len(item.pair.solve.tracks) > 10
    np.testing.assert_allclose(item.pair.solve.tracks.positions[..., 2], 4.0, atol=1e-6)  # on the wall
    assert item.pair.fps == 15


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("extra.json", "is missing"),
        ("covisible", "co-visible masks"),
        ("depth/2x/0_00001.npy", "is missing"),
        ("rgb/2x/1_00003.png", "1_00003.png"),
        ("camera/0_00000.json", "is missing"),
    ],
)
def test_a_dycheck_sequence_that_is_not_whole_names_what_it_lacks(tmp_path: Path, gone: str, words: str) -> None:
    write_dycheck(tmp_path)
    place = tmp_path / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(RetakeError, match=words):
        load_only(tmp_path)


def test_a_dycheck_camera_with_distortion_is_refused(tmp_path: Path) -> None:
    write_dycheck(tmp_path)
    path = tmp_path / "camera" / "0_00003.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"radial_distortion": [0.1, 0, 0]}))
    with pytest.raises(BadFile, match="distortion"):
        load_only(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"radial_distortion": ["much"]}))
    with pytest.raises(BadFile, match="is not a camera"):
        load_only(tmp_path)


# --- RealEstate10K ---


def write_realestate(folder: Path, frames: int = 12) -> Cameras:
    """A clip under a camera file: a URL, then a line a frame."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = wall_cameras(frames, step=0.12)
    w2c = invert_rigid(cameras.c2w)[:, :3]
    lens = cameras.K[0, 0, 0] / WIDTH, cameras.K[0, 1, 1] / HEIGHT, 0.5, 0.5
    rows = [
        " ".join(map(repr, [t * 100_000, *map(float, lens), 0, 0, *map(float, w2c[t].ravel())])) for t in range(frames)
    ]
    (folder / "a1b2.txt").write_text("https://www.youtube.com/watch?v=none\n" + "\n".join(rows) + "\n")
    write_video(folder / "a1b2.mp4", wall_video(cameras), Fraction(10), quality=4)
    return cameras


def test_realestate10k_is_its_own_truth_a_quarter_of_the_clip_later(tmp_path: Path) -> None:
    cameras = write_realestate(tmp_path)
    (tmp_path / "a1b2.caption").write_text("a wall\n")
    item = load_only(tmp_path)
    assert len(item.pair) == 9
    np.testing.assert_array_equal(item.pair.source[3:], item.pair.target[:-3])
    np.testing.assert_allclose(item.pair.solve.cameras.c2w, cameras.c2w[:9], atol=1e-6)
    np.testing.assert_allclose(item.pair.edit.cameras.c2w, cameras.c2w[3:], atol=1e-6)
    assert item.pair.caption == "a wall"
    depths = item.pair.solve.tracks.positions[0, :, 2]
    assert len(depths) > 10
    assert abs(float(np.median(depths)) - 4.0) < 0.1


def test_a_caption_that_is_no_text_costs_its_item_only(tmp_path: Path) -> None:
    """Any other error than this one would end the whole evaluation."""
    write_realestate(tmp_path)
    (tmp_path / "a1b2.caption").write_bytes(b"a wall\xff")
    with pytest.raises(BadFile, match=r"a1b2\.caption.*UTF-8"):
        load_only(tmp_path)


def test_a_camera_file_without_its_clip_says_where_to_put_it(tmp_path: Path) -> None:
    write_realestate(tmp_path)
    (tmp_path / "a1b2.mp4").unlink()
    with pytest.raises(BadFile, match=r"Put a1b2\.mp4"):
        load_only(tmp_path)


def test_the_pickled_index_of_realcam_vid_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "RealCam-Vid_test.npz").write_bytes(b"PK")
    with pytest.raises(BadFile, match="pickle"):
        open_set(str(tmp_path))


# --- DAVIS ---


def write_davis(folder: Path) -> np.ndarray:
    pair = tiny_pair()
    write_frames(folder / "JPEGImages" / "480p" / "bear", pair.source, lambda t: f"{t:05d}")
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    masks[:, 10:20, 10:30] = 1
    masks[:, 19] = 255
    write_frames(folder / "Annotations" / "480p" / "bear", masks, lambda t: f"{t:05d}")
    (folder / "Solves").mkdir()
    archive.save(folder / "Solves" / "bear.npz", pair.solve)
    return pair.source


def test_davis_without_an_edit_asks_for_the_clip_itself(tmp_path: Path) -> None:
    video = write_davis(tmp_path)
    item = load_only(tmp_path)
    np.testing.assert_array_equal(item.pair.target, video)
    assert item.truth
    assert item.pair.solve.masks is not None
    assert np.unique(item.pair.solve.masks).tolist() == [0, 1]
    assert not item.pair.solve.masks[:, 19].any()  # DAVIS' border is no object


def test_davis_with_an_edit_has_no_truth(tmp_path: Path) -> None:
    write_davis(tmp_path)
    (tmp_path / "Edits").mkdir()
    archive.save(tmp_path / "Edits" / "bear.npz", tiny_pair().edit)
    item = load_only(tmp_path)
    assert not item.truth
    np.testing.assert_allclose(item.pair.edit.cameras.c2w, tiny_pair().edit.cameras.c2w)


def test_davis_without_a_solve_says_how_to_make_it(tmp_path: Path) -> None:
    write_davis(tmp_path)
    (tmp_path / "Solves" / "bear.npz").unlink()
    with pytest.raises(BadFile, match="retake solve"):
        load_only(tmp_path)


# --- Retake's own ---


def test_the_sample_shot_is_a_set(sample_shot: Path) -> None:
    item = load_only("sample")
    assert item.pair.source.shape == (81, 384, 672, 3)
    edit = archive.load_edit(sample_shot / "edited.edit.npz")
    np.testing.assert_array_equal(item.pair.edit.cameras.c2w, edit.cameras.c2w)


def test_held_out_scenes_are_the_same_every_time_and_different_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_FRAMES", 2)
    monkeypatch.setattr(own, "_SIZE", (48, 32))
    found = open_set("held-out")
    assert len(set(found.items)) == len(found.items) == own.HELD_OUT
    first, again, second = found.load(0), found.load(0), found.load(1)
    np.testing.assert_array_equal(first.pair.target, again.pair.target)
    assert (first.pair.target != second.pair.target).any()
    assert (first.pair.target != first.pair.source).any()


def test_a_data_set_on_disk_is_a_set_and_a_damaged_example_costs_itself_only(tmp_path: Path) -> None:
    with PairWriter(tmp_path / "pairs", per_shard=1) as writer:
        for name in ("a", "b"):
            writer.add(tiny_pair(), name)
    shard = sorted((tmp_path / "pairs").glob("*.tar"))[1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    found = open_set(str(tmp_path / "pairs"))
    assert len(found.items) == 2
    np.testing.assert_allclose(found.load(0).pair.edit.cameras.c2w, tiny_pair().edit.cameras.c2w)
    with pytest.warns(DamagedData), pytest.raises(RetakeError):
        found.load(1)


# --- footage that is its own truth ---


@pytest.mark.parametrize("shift", [3, -4])
def test_a_shifted_camera_shows_what_the_footage_shows_then(shift: int) -> None:
    cameras = wall_cameras(12)
    video = wall_video(cameras)
    solve = Solve(cameras, tiny_pair(12).solve.tracks)
    item = shift_camera(video, solve, shift, Fraction(16), "wall")
    first = max(0, -shift)
    for t in range(len(item.pair)):
        np.testing.assert_array_equal(item.pair.source[t], video[first + t])
        np.testing.assert_array_equal(item.pair.target[t], video[first + t + shift])
        np.testing.assert_array_equal(item.pair.edit.cameras.c2w[t], cameras.c2w[first + t + shift])


def test_a_shift_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(BadShot, match=r"leaves 2 of 5 frames"):
        shift_camera(tiny_pair().source, tiny_pair().solve, 3, Fraction(16), "wall")


def test_a_real_clip_under_its_solve_becomes_an_item(sample_data: Path) -> None:
    clip, solve = sample_data / "clips" / "apple.mp4", sample_data / "solves" / "colmap_apple" / "sparse_bin"
    item = load_only(f"shifted:{clip}:{solve}:8").resized(324, 180)
    assert item.pair.size == (324, 180)
    np.testing.assert_array_equal(item.pair.source[8:], item.pair.target[:-8])


@pytest.mark.parametrize(
    "text", ["shifted:clip.mp4", "shifted:a.mp4:b.npz:soon", "shifted:a.mp4:b.npz:--5", "no-such-folder"]
)
def test_a_set_that_there_is_not_names_those_that_there_are(text: str) -> None:
    with pytest.raises(RetakeError, match=r"shifted:|sample"):
        open_set(text)


def test_an_empty_folder_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="DyCheck"):
        open_set(str(tmp_path))


def test_pictures_are_not_squeezed_to_a_size() -> None:
    item = Item(tiny_pair())
    with pytest.raises(BadShot, match="proportions"):
        item.resized(64, 64)
    small = item.resized(48, 32)
    assert small.pair.source.shape == (FRAMES, 32, 48, 3)
    np.testing.assert_allclose(small.pair.edit.cameras.K[0, 0, 0], tiny_pair().edit.cameras.K[0, 0, 0] / 2)


def test_covisible_masks_must_be_the_targets(tmp_path: Path) -> None:
    with pytest.raises(BadShot, match="covisible"):
        Item(tiny_pair(), covisible=np.ones((FRAMES, 3, 3), bool))
