"""The preview engine puts every pixel of the footage where the edit says, against ray-cast truth."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from retake_backend.engines.base import Progress, RenderRequest
from retake_backend.engines.preview import PreviewEngine
from retake_backend.engines.preview.grids import Grid
from retake_backend.evaluation.picture import psnr, ssim
from retake_backend.evaluation.sets import own
from retake_backend.footage import FootageReader
from retake_shared import archive
from retake_shared.errors import BadShot, Cancelled
from retake_shared.geometry import axis_rotation
from retake_shared.shot import Cameras, Edit, RenderSettings, Solve, Tracks

_spec = importlib.util.spec_from_file_location("preview_scenes", Path(__file__).with_name("preview_scenes.py"))
assert _spec is not None
assert _spec.loader is not None
scenes = importlib.util.module_from_spec(_spec)
sys.modules["preview_scenes"] = scenes
_spec.loader.exec_module(scenes)

FRAMES = scenes.FRAMES
ACROSS = np.stack([np.linspace(-0.9, 0.9, FRAMES), np.zeros(FRAMES), np.full(FRAMES, 4.0)], 1)


@pytest.fixture(scope="module")
def walk() -> tuple:
    """A board walks across before a wall, the camera stands still: boards, cameras, footage, solve."""
    boards = [scenes.background(), scenes.board(ACROSS)]
    cameras = scenes.still_cameras()
    return boards, cameras, *scenes.shoot(boards, cameras)


def inner(number: np.ndarray, which: int, margin: int = 2) -> np.ndarray:
    """Pixels of a board away from its edge."""
    return cv2.erode((number == which).astype(np.uint8), np.ones((2 * margin + 1,) * 2)) > 0


# --- identity ---


def test_identity_returns_the_footage_bit_exactly(walk: tuple) -> None:
    _, _, footage, solve = walk
    for frame in scenes.render(footage, solve, Edit.identity(solve)):
        np.testing.assert_array_equal(frame.rgb, footage.frame(frame.index))
        assert not frame.holes.any()


def test_rounding_of_keys_is_no_edit(walk: tuple) -> None:
    _, _, footage, solve = walk
    edit = Edit.identity(solve)
    cameras = replace(edit.cameras, c2w=edit.cameras.c2w.astype(np.float32).astype(float))
    edit = replace(edit, positions=edit.positions.astype(np.float32).astype(float), cameras=cameras)
    for frame in scenes.render(footage, solve, edit):
        np.testing.assert_array_equal(frame.rgb, footage.frame(frame.index))


def test_frames_before_the_edit_begins_are_untouched(walk: tuple) -> None:
    _, cameras, footage, solve = walk
    offset = np.zeros((FRAMES, 3))
    offset[6:, 0] = 0.3
    frames = scenes.render(footage, solve, replace(Edit.identity(solve), cameras=scenes.moved(cameras, offset)))
    for frame in frames[:6]:
        np.testing.assert_array_equal(frame.rgb, footage.frame(frame.index))
    assert (frames[6].rgb != footage.frame(6)).any()


def test_pixels_far_from_a_moved_object_are_untouched(walk: tuple) -> None:
    _, _, footage, solve = walk
    frame = scenes.render(footage, solve, scenes.translate(Edit.identity(solve), 1, (0, 0.2, 0)), frames=(5, 6))[0]
    np.testing.assert_array_equal(frame.rgb[:, :20], footage.frame(5)[:, :20])
    np.testing.assert_array_equal(frame.rgb[:15], footage.frame(5)[:15])


# --- against the truth ---


def test_object_moves_and_its_old_place_shows_the_wall(walk: tuple) -> None:
    boards, cameras, footage, solve = walk
    offset = np.array([0.35, -0.25, 0.3])
    truth_boards = [boards[0], replace(boards[1], centre=boards[1].centre + offset)]
    for frame in scenes.render(footage, solve, scenes.translate(Edit.identity(solve), 1, offset)):
        truth, number = scenes.ray_cast(truth_boards, cameras, frame.index)
        assert psnr(frame.rgb, truth, inner(number, 1)) > 36
        assert psnr(frame.rgb, truth, inner(number, 0)) > 36
        assert psnr(frame.rgb, truth) > 30


@pytest.mark.parametrize("masks", [True, False])
def test_camera_moves_with_parallax(walk: tuple, masks: bool) -> None:
    boards, cameras, footage, solve = walk
    solve = solve if masks else replace(solve, masks=None)
    target = scenes.moved(cameras, np.linspace(0, 1, FRAMES)[:, None] * [0.5, 0.2, 0.4])
    for frame in scenes.render(footage, solve, replace(Edit.identity(solve), cameras=target)):
        truth, number = scenes.ray_cast(boards, target, frame.index)
        shown = frame.holes == 0
        assert psnr(frame.rgb, truth, inner(number, 1) & shown) > (36 if masks else 30)
        assert psnr(frame.rgb, truth, inner(number, 0, 4) & shown) > (36 if masks else 28)


def test_moving_camera_fills_from_other_frames() -> None:
    boards = [scenes.background(), scenes.board(ACROSS * [0.4, 1, 1])]
    cameras = scenes.moved(scenes.still_cameras(), np.linspace(-0.4, 0.4, FRAMES)[:, None] * [1.0, 0, 0])
    footage, solve = scenes.shoot(boards, cameras)
    edit = Edit.identity(solve)
    edit = replace(edit, present=np.where(edit.objects == 1, False, edit.present))
    for frame in scenes.render(footage, solve, edit, frames=(3, 9)):
        truth, _ = scenes.ray_cast(boards[:1], cameras, frame.index)
        assert psnr(frame.rgb, truth, frame.holes == 0) > 33


def test_removed_object_leaves_no_ghost(walk: tuple) -> None:
    boards, cameras, footage, solve = walk
    edit = Edit.identity(solve)
    edit = replace(edit, present=np.where(edit.objects == 1, False, edit.present))
    for frame in scenes.render(footage, solve, edit):
        truth, _ = scenes.ray_cast(boards[:1], cameras, frame.index)
        assert psnr(frame.rgb, truth) > 36
        assert np.abs(frame.rgb.astype(int) - truth).max() < 40
        assert not frame.holes.any()


def test_duplicate_appears_twice(walk: tuple) -> None:
    boards, cameras, footage, solve = walk
    edit = Edit.identity(solve)
    copy = np.flatnonzero(edit.objects == 1)
    offset = np.array([0.9, 0.1, -0.8])
    edit = replace(
        edit,
        positions=np.concatenate([edit.positions, edit.positions[:, copy] + offset], 1),
        present=np.concatenate([edit.present, edit.present[:, copy]], 1),
        source_track=np.concatenate([edit.source_track, copy]),
        source_frame=np.concatenate([edit.source_frame, edit.source_frame[:, copy]], 1),
        objects=np.concatenate([edit.objects, np.full(len(copy), 2)]),
        object_names={**edit.object_names, 2: "copy"},
    )
    both = [*boards, replace(boards[1], centre=boards[1].centre + offset)]
    for frame in scenes.render(footage, solve, edit, frames=(0, 6)):
        truth, number = scenes.ray_cast(both, cameras, frame.index)
        for which in (1, 2):
            assert psnr(frame.rgb, truth, inner(number, which)) > 33


def test_retimed_object_shows_its_own_earlier_moment() -> None:
    path = ACROSS.copy()
    spin = np.arange(FRAMES) // 4  # the texture changes with time, so that a wrong source frame shows
    boards_at = [scenes.board(path, seed=2 + int(s)) for s in spin]
    cameras = scenes.still_cameras()
    wall = scenes.background()
    footage, solve = scenes.shoot([wall, boards_at[0]], cameras)
    pictures = [scenes.ray_cast([wall, boards_at[t]], cameras, t)[0] for t in range(FRAMES)]
    footage = scenes.Pictures(pictures)
    lag = 5
    at = np.clip(np.arange(FRAMES) - lag, 0, None)
    edit = Edit.identity(solve)
    own = edit.objects == 1
    positions, source_frame = edit.positions.copy(), edit.source_frame.copy()
    positions[:, own], source_frame[:, own] = edit.positions[at][:, own], at[:, None]
    for frame in scenes.render(footage, solve, replace(edit, positions=positions, source_frame=source_frame)):
        then = at[frame.index]
        shown = replace(boards_at[then], centre=np.tile(path[then], (FRAMES, 1)))
        truth, number = scenes.ray_cast([wall, shown], cameras, frame.index)
        assert psnr(frame.rgb, truth, inner(number, 1)) > 36
        assert psnr(frame.rgb, truth, inner(number, 0)) > 30


def test_nearer_object_covers_the_farther_when_they_cross() -> None:
    left = np.tile([-0.9, 0.0, 4.0], (FRAMES, 1))
    right = np.tile([0.9, 0.0, 4.4], (FRAMES, 1))
    boards = [scenes.background(), scenes.board(left, 2), scenes.board(right, 3)]
    cameras = scenes.still_cameras()
    footage, solve = scenes.shoot(boards, cameras)
    edit = Edit.identity(solve)
    edit = scenes.translate(scenes.translate(edit, 1, (0.7, 0, 0)), 2, (-0.7, 0, 0))
    for nearer, farther_by in ((1, 0.0), (2, -1.2)):
        moved = scenes.translate(edit, 2, (0, 0, farther_by))
        shift = np.array([-0.7, 0, farther_by])
        truth_boards = [
            boards[0],
            replace(boards[1], centre=left + np.array([0.7, 0, 0])),
            replace(boards[2], centre=right + shift),
        ]
        frame = scenes.render(footage, solve, moved, frames=(4, 5))[0]
        truth, number = scenes.ray_cast(truth_boards, cameras, 4)
        middle = number[scenes.HEIGHT // 2, scenes.WIDTH // 2]
        assert middle == nearer
        assert psnr(frame.rgb, truth, inner(number, nearer)) > 33


def test_rotated_and_scaled_object_is_exact(walk: tuple) -> None:
    _, cameras, footage, solve = walk
    edit = Edit.identity(solve)
    own = edit.objects == 1
    positions = edit.positions.copy()
    centre = ACROSS[:, None]
    turn = axis_rotation((0, 0, 1), np.radians(25)).reshape(3, 3)
    positions[:, own] = (positions[:, own] - centre) @ turn.T * 1.3 + centre
    frame = scenes.render(footage, solve, replace(edit, positions=positions), frames=(6, 7))[0]
    f, z = cameras.K[0, 0, 0], 4.0
    u, v = np.meshgrid(np.arange(scenes.WIDTH) + 0.5, np.arange(scenes.HEIGHT) + 0.5)
    world = np.stack([(u - scenes.WIDTH / 2) * z / f, (v - scenes.HEIGHT / 2) * z / f], -1) - ACROSS[6, :2]
    local = world @ turn[:2, :2] / 1.3
    inside = (np.abs(local[..., 0]) < 0.5) & (np.abs(local[..., 1]) < 0.65)
    truth = scenes.texture(local[..., 0], local[..., 1], 2, scenes.board(ACROSS).tint)
    assert psnr(frame.rgb, np.rint(truth).astype(np.uint8), inside) > 33


def test_hidden_legs_come_from_the_same_pose_a_cycle_away() -> None:
    """A figure whose two legs swing past each other walks behind a box of the background, and is lifted above it."""
    frames, middle, cycle = 21, 10, 8
    time = np.arange(frames) - middle
    swing = 0.3 * np.cos(2 * np.pi * time / cycle)

    def part(x: np.ndarray, y: float, z: float, seed: int, half: tuple[float, float]) -> scenes.Board:
        return scenes.board(np.stack([0.17 * time + x, np.full(frames, y), np.full(frames, z)], 1), seed, half)

    figure = [
        part(0 * swing, -0.2, 4.0, 2, (0.45, 0.25)),
        part(swing, 0.45, 3.95, 3, (0.12, 0.4)),
        part(-swing, 0.45, 4.05, 4, (0.12, 0.4)),
    ]
    box = scenes.board(np.tile([0.0, 0.36, 3.0], (frames, 1)), 5, (0.6, 0.36))
    boards, cameras = [scenes.background(frames), *figure, box], scenes.still_cameras(frames)
    footage, solve = scenes.shoot(boards, cameras, spacing=0.06)
    depth = np.array([6.0, 4.0, 3.95, 4.05, 3.0], np.float32)[solve.masks]
    one = np.array([0, 1, 1, 1, 0])
    tracks = replace(solve.tracks, objects=one[solve.tracks.objects])
    solve = Solve(cameras, tracks, masks=one[solve.masks].astype(np.uint8), depth=depth)
    lift = np.array([0.0, -0.9, 0.0])
    lifted = [boards[0], *(replace(b, centre=b.centre + lift) for b in figure), box]
    edit = scenes.translate(Edit.identity(solve), 1, lift)
    for frame in scenes.render(footage, solve, edit, frames=(middle - 1, middle + 2)):
        truth, number = scenes.ray_cast(lifted, cameras, frame.index)
        for leg in (2, 3):
            assert psnr(frame.rgb, truth, inner(number, leg)) > 28


def test_object_passes_behind_what_stands_in_a_still_background() -> None:
    box = scenes.board(np.tile([0.5, 0.0, 3.0], (FRAMES, 1)), 5)
    figure = scenes.board(np.tile([-0.9, 0.0, 4.0], (FRAMES, 1)))
    boards, cameras = [scenes.background(), figure, box], scenes.still_cameras()
    footage, solve = scenes.shoot(boards, cameras)
    one = np.array([0, 1, 0])
    depth = np.array([6.0, 4.0, 3.0], np.float32)[solve.masks]
    tracks = replace(solve.tracks, objects=one[solve.tracks.objects])
    solve = Solve(cameras, tracks, masks=one[solve.masks].astype(np.uint8), depth=depth)
    shift = np.array([0.7, 0.0, 0.0])
    truth, number = scenes.ray_cast([boards[0], replace(figure, centre=figure.centre + shift), box], cameras, 5)
    frame = scenes.render(footage, solve, scenes.translate(Edit.identity(solve), 1, shift), frames=(5, 6))[0]
    np.testing.assert_array_equal(frame.rgb[inner(number, 2)], footage.frame(5)[inner(number, 2)])
    assert psnr(frame.rgb, truth, inner(number, 1, 4)) > 33


# --- holes ---


def test_holes_are_where_no_frame_shows_anything(walk: tuple) -> None:
    boards, cameras, footage, solve = walk
    target = scenes.moved(cameras, np.tile([1.2, 0, 0], (FRAMES, 1)))
    frame = scenes.render(footage, solve, replace(Edit.identity(solve), cameras=target), frames=(5, 6))[0]
    # The wall at depth 6 beyond the right border of all frames, by plain similar triangles.
    border = scenes.WIDTH - 1.2 * cameras.K[0, 0, 0] / 6.0
    columns = np.arange(scenes.WIDTH) + 0.5
    _, number = scenes.ray_cast(boards, target, 5)
    assert (frame.holes[:, columns > border + 2] == 255)[number[:, columns > border + 2] == 0].all()
    inside = frame.holes[:, columns < border - 2]
    assert (inside == 0).mean() > 0.99


def test_fill_none_is_grey_and_marked_where_the_source_frame_shows_nothing(walk: tuple) -> None:
    _, _, footage, solve = walk
    edit = Edit.identity(solve)
    edit = replace(edit, present=np.where(edit.objects == 1, False, edit.present))
    frame = scenes.render(footage, solve, edit, frames=(5, 6), options={"fill": "none"})[0]
    own = solve.masks[5] == 1
    assert (frame.holes[own] == 255).all()
    assert (frame.rgb[frame.holes == 255] == 127).all()
    grown = cv2.dilate(own.astype(np.uint8), np.ones((13, 13))) > 0
    assert not frame.holes[~grown].any()
    filled = scenes.render(footage, solve, edit, frames=(5, 6), options={"fill": "frames"})[0]
    assert not filled.holes.any()


def test_holes_filled_smoothly_are_nearer_to_the_truth_than_invented_ones() -> None:
    """What the draft engine starts from. On the sample shot, whose edited scene was rendered too."""
    pair = own.sample().load(0).pair
    with FootageReader.of_pictures(pair.source, pair.fps) as footage:
        invented, smooth = (
            scenes.render(footage, pair.solve, pair.edit, frames=(70, 71), options={"fill": fill})[0]
            for fill in ("all", "smooth")
        )
    holes = invented.holes > 0
    assert holes.any()
    assert np.array_equal(invented.holes, smooth.holes)
    away = cv2.dilate(holes.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0  # at their rims both are blended in
    assert np.array_equal(invented.rgb[away], smooth.rgb[away])
    truth = pair.target[70]
    assert psnr(smooth.rgb, truth, holes) > psnr(invented.rgb, truth, holes) + 1  # measured: 4


def test_unknown_fill_is_refused(walk: tuple) -> None:
    _, _, footage, solve = walk
    with pytest.raises(BadShot, match=r"options\.fill"):
        scenes.render(footage, solve, Edit.identity(solve), options={"fill": "magic"})


# --- behaviour ---


def test_same_request_gives_the_same_bytes(walk: tuple) -> None:
    _, cameras, footage, solve = walk
    target = scenes.moved(cameras, np.linspace(0, 1, FRAMES)[:, None] * [0.8, 0.2, -0.4])
    edit = scenes.translate(replace(Edit.identity(solve), cameras=target), 1, (0.3, 0, 0))
    first, second = (scenes.render(footage, replace(solve, masks=None), edit) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.holes, b.holes)


def test_a_part_of_the_frames_equals_that_part_of_all(walk: tuple) -> None:
    _, _, footage, solve = walk
    edit = scenes.translate(Edit.identity(solve), 1, (0.3, 0, 0))
    everything = scenes.render(footage, solve, edit)
    for frame in scenes.render(footage, solve, edit, frames=(4, 7)):
        np.testing.assert_array_equal(frame.rgb, everything[frame.index].rgb)


def test_rendered_at_another_size(walk: tuple) -> None:
    boards, cameras, footage, solve = walk
    size = (96, 64)
    target = scenes.moved(cameras, np.tile([0.2, 0.1, 0.0], (FRAMES, 1)))
    frame = scenes.render(footage, solve, replace(Edit.identity(solve), cameras=target), frames=(5, 6), size=size)[0]
    assert frame.rgb.shape == (64, 96, 3)
    truth, _ = scenes.ray_cast(boards, target.resized(*size), 5)
    assert psnr(frame.rgb, truth, frame.holes == 0) > 27


def test_cancel_passes_through_within_a_stage(walk: tuple) -> None:
    _, _, footage, solve = walk
    calls = 0

    def stop(progress: Progress) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Cancelled

    edit = scenes.translate(Edit.identity(solve), 1, (0.3, 0, 0))
    with pytest.raises(Cancelled):
        list(PreviewEngine().render(RenderRequest(footage, solve, edit, RenderSettings()), stop))


def away(cameras: Cameras) -> Cameras:
    c2w = cameras.c2w.copy()
    c2w[:, :3, :3] = axis_rotation((0, 1, 0), np.pi).reshape(3, 3)
    return replace(cameras, c2w=c2w)


def test_camera_that_looks_away_gives_flat_grey_and_a_word(walk: tuple) -> None:
    _, cameras, footage, solve = walk
    edit = replace(Edit.identity(solve), cameras=away(cameras))
    engine = PreviewEngine()
    request = RenderRequest(footage, solve, edit, RenderSettings(frames=(0, 3)))
    for frame in engine.render(request, scenes.no_report):
        assert (frame.holes == 255).all()
        assert (frame.rgb == 127).all()
    assert "sees nothing" in engine.notes()[0]


def test_everything_removed_leaves_the_bare_wall(walk: tuple) -> None:
    boards, cameras, footage, solve = walk
    edit = Edit.identity(solve)
    frame = scenes.render(footage, solve, replace(edit, present=np.zeros_like(edit.present)), frames=(2, 3))[0]
    truth, _ = scenes.ray_cast(boards[:1], cameras, 2)
    assert psnr(frame.rgb, truth, frame.holes == 0) > 33
    assert (frame.holes == 0).mean() > 0.95


def test_object_grouped_by_the_artist_needs_no_mask(walk: tuple) -> None:
    """The solve's masks know nothing of an object that was grouped later; its tracks say where it is."""
    boards, cameras, footage, solve = walk
    objects = np.where(solve.tracks.objects == 1, 5, 0)
    solve = Solve(
        cameras,
        replace(solve.tracks, objects=objects),
        masks=np.zeros_like(solve.masks),
        object_names={0: "background", 5: "mine"},
    )
    offset = np.array([0.3, 0.2, 0.0])
    truth_boards = [boards[0], replace(boards[1], centre=boards[1].centre + offset)]
    for frame in scenes.render(footage, solve, scenes.translate(Edit.identity(solve), 5, offset), frames=(4, 7)):
        truth, number = scenes.ray_cast(truth_boards, cameras, frame.index)
        assert psnr(frame.rgb, truth, inner(number, 1, 3)) > 30
        assert psnr(frame.rgb, truth) > 26


def test_object_whose_tracks_lie_on_one_line_is_found(walk: tuple) -> None:
    """A rope's tracks span no area, and no mask says how thick it is."""
    _, cameras, footage, _ = walk
    wall = np.random.default_rng(0).uniform((-3, -2, 6), (3, 2, 6), (200, 3))
    rope = np.stack([np.linspace(-0.15, 0.15, 12), np.zeros(12), np.full(12, 4.0)], 1)
    positions = np.tile(np.concatenate([wall, rope]), (FRAMES, 1, 1))
    tracks = Tracks.make(positions, objects=np.repeat([0, 1], [len(wall), len(rope)]))
    solve = Solve(cameras, tracks, object_names={0: "background", 1: "rope"})
    edit = scenes.translate(Edit.identity(solve), 1, (0.2, 0, 0))
    assert len(scenes.render(footage, solve, edit, frames=(2, 3))) == 1


def test_cameras_alone_turn_exactly_and_say_that_depth_is_missing() -> None:
    boards, cameras = [scenes.background()], scenes.still_cameras()
    footage, solve = scenes.shoot(boards, cameras)
    solve = Solve(cameras, Tracks.empty(FRAMES))
    c2w = cameras.c2w.copy()
    c2w[:, :3, :3] = axis_rotation((0, 1, 0), np.radians(6)).reshape(3, 3)
    target = replace(cameras, c2w=c2w)
    engine = PreviewEngine()
    request = RenderRequest(
        footage, solve, replace(Edit.identity(solve), cameras=target), RenderSettings(frames=(0, 2))
    )
    for frame in engine.render(request, scenes.no_report):
        truth, _ = scenes.ray_cast(boards, target, frame.index)
        assert psnr(frame.rgb, truth, frame.holes == 0) > 36
        assert 0.05 < (frame.holes > 0).mean() < 0.2
    assert "no parallax" in engine.notes()[0]


@pytest.mark.parametrize("size", [(65, 97), (33, 21), (97, 48), (33, 1)])
@pytest.mark.parametrize("frames", [1, 2])
def test_odd_portrait_tiny_and_single_frames(size: tuple[int, int], frames: int) -> None:
    path = np.tile([0.1, 0, 4.0], (frames, 1))
    cameras = scenes.still_cameras(frames, *size)
    boards = [scenes.background(frames), scenes.board(path)]
    for masks in (True, False):
        footage, solve = scenes.shoot(boards, cameras, masks=masks)
        target = scenes.moved(cameras, np.tile([0.2, 0.1, 0.1], (frames, 1)))
        edit = scenes.translate(replace(Edit.identity(solve), cameras=target), 1, (0.2, 0, 0))
        for frame in scenes.render(footage, solve, edit):
            assert frame.rgb.shape == (size[1], size[0], 3)
            assert frame.holes.shape == (size[1], size[0])


@pytest.mark.parametrize("size", [(2048, 858), (1998, 1080), (3840, 1606), (4096, 2160), (672, 384)])
def test_a_picture_brought_to_a_grid_and_back_stays_where_it_was(size: tuple[int, int]) -> None:
    """Or objects without masks are cut out beside where they are: by ten pixels at the bottom of a 4K picture."""
    width, height = size
    grid = Grid.over(width, height, max(size) / 336)
    ramp = np.arange(height, dtype=np.float32)[:, None] + np.zeros(width, np.float32)
    across = np.zeros((height, 1), np.float32) + np.arange(width, dtype=np.float32)
    for picture in (ramp, across):
        again = grid.to_picture(grid.from_picture(picture), width, height)
        inner = slice(int(grid.step) + 1, -2 * int(grid.step) - 1)
        assert np.abs(again - picture)[inner, inner].max() < 0.6


def test_tracks_behind_the_camera_do_no_harm(walk: tuple) -> None:
    _, cameras, footage, solve = walk
    tracks = solve.tracks
    positions = tracks.positions.copy()
    positions[:, ::7, 2] = -3.0
    visibility = tracks.visibility.copy()
    visibility[:, ::7] = False
    solve = replace(solve, tracks=replace(tracks, positions=positions, visibility=visibility))
    target = scenes.moved(cameras, np.tile([0.3, 0.1, 0.1], (FRAMES, 1)))
    frame = scenes.render(footage, solve, replace(Edit.identity(solve), cameras=target), frames=(3, 4))[0]
    assert (frame.holes == 0).mean() > 0.85


def test_depth_maps_keep_edges_inside_the_background() -> None:
    """A still box that belongs to no object stands before the wall: with depth it moves as a box, not as rubber."""
    box = scenes.board(np.tile([0.0, 0.0, 3.0], (FRAMES, 1)))
    boards, cameras = [scenes.background(), box], scenes.still_cameras()
    footage, solve = scenes.shoot(boards, cameras)
    depth = np.where(solve.masks == 1, 3.0, 6.0).astype(np.float32)
    tracks = replace(solve.tracks, objects=np.zeros_like(solve.tracks.objects))
    solve = Solve(cameras, tracks, depth=depth)
    target = scenes.moved(cameras, np.tile([0.4, 0, 0], (FRAMES, 1)))
    frame = scenes.render(footage, solve, replace(Edit.identity(solve), cameras=target), frames=(5, 6))[0]
    truth, number = scenes.ray_cast(boards, target, 5)
    shown = frame.holes == 0
    assert psnr(frame.rgb, truth, inner(number, 1)) > 33
    assert psnr(frame.rgb, truth, inner(number, 0, 3) & shown) > 30
    revealed = 0.4 * cameras.K[0, 0, 0] * (1 / 3 - 1 / 6)  # px of wall that come out behind the box's edge
    row = frame.holes[scenes.HEIGHT // 2] > 0
    edge_of_picture = scenes.WIDTH - 0.4 * cameras.K[0, 0, 0] / 6
    assert row[: int(edge_of_picture) - 4].sum() == pytest.approx(revealed, abs=4)


# --- the sample shot, whose edited truth is rendered ---


def test_sample_shot_against_its_rendered_truth(sample_shot: Path) -> None:
    if not (sample_shot / "edited.mp4").exists():
        pytest.skip("the sample shot has no rendered truth")
    solve = archive.load_solve(sample_shot / "walk.solve.npz")
    edit = archive.load_edit(sample_shot / "edited.edit.npz")
    scores = []
    with FootageReader(sample_shot / "walk.mp4") as footage, FootageReader(sample_shot / "edited.mp4") as truth:
        request = RenderRequest(footage, solve, edit, RenderSettings(frames=(30, 36)))
        for frame in PreviewEngine().render(request, scenes.no_report):
            true, source = truth.frame(frame.index), footage.frame(frame.index)
            shown = frame.holes == 0
            scores.append(
                [psnr(frame.rgb, true), psnr(source, true), psnr(frame.rgb, true, shown), ssim(frame.rgb, true)]
            )
    everywhere, copied, visible, similarity = np.mean(scores, 0)
    assert everywhere > copied + 6
    assert visible > 21
    assert similarity > 0.75
