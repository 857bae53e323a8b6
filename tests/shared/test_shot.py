"""The plain data refuses what no shot can be, by the field's name: nothing behind it has to ask again."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from retake_shared import geometry
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras, Edit, Footage, RenderSettings, Solve, Take, Tracks, frame_name


def changed(array: np.ndarray, at: object, value: object) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("part", "field", "change", "where"),
    [
        ("cameras", "c2w", lambda a: a[:, :3], "cameras.c2w"),
        ("cameras", "c2w", lambda a: a[:0], "cameras.c2w"),
        ("cameras", "c2w", lambda a: changed(a, (2, 0, 3), np.nan), "cameras.c2w"),
        ("cameras", "c2w", lambda a: changed(a, (2, slice(3), 0), -a[2, :3, 0]), "frame 2 is not a rotation"),
        ("cameras", "c2w", lambda a: changed(a, (1, slice(3), slice(3)), 1.1 * a[1, :3, :3]), "frame 1 is not"),
        ("cameras", "K", lambda a: a[:-1], "cameras.K"),
        ("cameras", "K", lambda a: changed(a, (3, 1, 1), 0), "frame 3"),
        ("cameras", "K", lambda a: changed(a, (0, 0, 2), np.inf), "cameras.K"),
        ("tracks", "positions", lambda a: a[..., :2], "tracks.positions"),
        ("tracks", "positions", lambda a: changed(a, (1, 2, 0), np.nan), r"first at index \(1, 2, 0\)"),
        ("tracks", "visibility", lambda a: a[:, 1:], "tracks.visibility"),
        ("tracks", "confidence", lambda a: changed(a, (0, 0), np.nan), "tracks.confidence"),
        ("tracks", "objects", lambda a: changed(a, 0, -1), "tracks.objects"),
        ("tracks", "ids", lambda a: changed(a, 0, a[1]), "share an id"),
    ],
)
def test_bad_arrays_are_refused_by_name(make_solve, part, field, change, where):
    content = getattr(make_solve(), part)
    with pytest.raises(BadShot, match=where):
        replace(content, **{field: change(getattr(content, field))})


def test_footage_without_size_frames_or_rate_is_refused():
    good = Footage("shot.mp4", 640, 360, Fraction(24000, 1001), 10)
    for field, value in (("width", 0), ("frames", 0), ("fps", Fraction(0))):
        with pytest.raises(BadShot, match="footage"):
            replace(good, **{field: value})


def test_solve_parts_must_cover_the_same_frames(make_solve):
    solve = make_solve(depth=True, masks=True)
    with pytest.raises(BadShot, match="tracks cover 5 frames, the cameras 6"):
        replace(solve, tracks=solve.tracks.frames(0, 5))
    with pytest.raises(BadShot, match=r"solve\.depth"):
        replace(solve, depth=solve.depth[:-1])
    with pytest.raises(BadShot, match=r"solve\.masks"):
        replace(solve, masks=solve.masks.astype(np.int64))
    with pytest.raises(BadShot, match="two objects"):
        replace(solve, object_names={1: "walker", 2: "walker"})


def test_every_object_has_a_name_also_when_only_a_mask_shows_it(make_solve):
    solve = make_solve(masks=True)
    masks = solve.masks.copy()
    masks[2, 1, 1] = 7
    named = replace(solve, masks=masks, object_names={1: "walker"})
    assert named.object_names == {0: "background", 1: "walker", 2: "object 2", 7: "object 7"}
    assert named.object_number("object 7") == 7
    with pytest.raises(BadShot, match="background, walker, object 2, object 7"):
        named.object_number("dog")


def test_unknown_depth_becomes_zero(make_solve):
    depth = np.full((6, 2, 2), 3.0)
    depth[1] = np.nan
    depth[2] = np.inf
    solve = replace(make_solve(), depth=depth)
    assert solve.depth.dtype == np.float32
    assert solve.depth[:, 0, 0].tolist() == [3, 0, 0, 3, 3, 3]


def test_frames_cut_all_parts_alike(make_solve):
    solve = make_solve(depth=True, masks=True)
    part = solve.frames(2, 5)
    assert len(part) == len(part.cameras) == len(part.tracks.positions) == len(part.depth) == len(part.masks) == 3
    np.testing.assert_array_equal(part.cameras.c2w, solve.cameras.c2w[2:5])
    np.testing.assert_array_equal(part.tracks.ids, solve.tracks.ids)
    edit = Edit.identity(solve).frames(2, 5)
    assert edit.source_frame[:, 0].tolist() == [2, 3, 4]


def test_resized_cameras_show_the_same_picture(make_solve):
    solve = make_solve()
    uv, _ = solve.cameras.project(solve.tracks.positions)
    smaller, _ = solve.cameras.resized(160, 60).project(solve.tracks.positions)
    np.testing.assert_allclose(smaller, uv * [0.5, 1 / 3], atol=1e-9)


def test_identity_edit_is_the_source(make_solve):
    solve = make_solve()
    edit = Edit.identity(solve)
    edit.check_against(solve)
    assert edit.cameras is solve.cameras
    np.testing.assert_array_equal(edit.positions, solve.tracks.positions)
    np.testing.assert_array_equal(edit.source_frame, np.arange(6)[:, None] + np.zeros((1, 12)))
    assert edit.present.all()
    assert edit.source_track.tolist() == list(range(12))


def test_edit_of_another_solve_is_refused(make_solve):
    solve = make_solve()
    edit = Edit.identity(solve)
    with pytest.raises(BadShot, match="6 frames, the solve 5"):
        edit.check_against(solve.frames(0, 5))
    with pytest.raises(BadShot, match="px"):
        edit.check_against(replace(solve, cameras=solve.cameras.resized(100, 50)))
    fewer = replace(solve, tracks=solve.tracks.select(np.arange(5)))
    with pytest.raises(BadShot, match="track 11 of 5"):
        edit.check_against(fewer)


def test_a_shot_without_tracks_and_a_shot_of_one_frame(make_solve):
    solve = make_solve(frames=6)
    empty = replace(solve, tracks=Tracks.empty(6))
    Edit.identity(empty).check_against(empty)
    assert Edit.identity(empty).positions.shape == (6, 0, 3)
    assert len(Edit.identity(solve.frames(3, 4))) == 1


def test_settings_survive_json_and_wrong_types_are_refused(make_solve):
    settings = RenderSettings("preview", "a walk", "blur", 7, (1, 5), (320, 176), {"fill": True})
    assert RenderSettings.from_json(settings.to_json()) == settings
    assert RenderSettings.from_json({}) == RenderSettings()
    for bad in ({"seed": True}, {"seed": "1"}, {"frames": [1]}, {"frames": [5, 1]}, {"size": [1, 1]}, {"prompt": 3}):
        with pytest.raises(BadShot, match=f"settings.{next(iter(bad))}"):
            RenderSettings.from_json(bad)
    assert settings.frame_range(make_solve()) == (1, 5)
    with pytest.raises(BadShot, match="1:5"):
        settings.frame_range(make_solve().frames(0, 4))


def test_take_survives_json():
    take = Take(
        RenderSettings(seed=3), "a" * 64, "b" * 64, "c" * 64, 672, 384, Fraction(24000, 1001), 4, 81, 1.25,
        "1", "cpu", "2026-11-20T12:00:00Z", ("one note",),
    )  # fmt: skip
    assert Take.from_json(take.to_json()) == take
    for key in ("fps", "frames", "settings", "width"):
        data = take.to_json()
        del data[key]
        with pytest.raises(BadShot, match=r"take\.json"):
            Take.from_json(data)
    for nonsense in ({"settings": []}, {"width": float("inf")}):
        with pytest.raises(BadShot, match=r"take\.json"):
            Take.from_json({**take.to_json(), **nonsense})


def test_frame_names_sort_as_frames():
    assert [frame_name(i) for i in (0, 99, 12345)] == ["frame_00000.png", "frame_00099.png", "frame_12345.png"]


def test_made_tracks_fill_what_is_missing():
    visible = np.array([[True, False], [True, True]])
    tracks = Tracks.make(np.zeros((2, 2, 3)), visible)
    assert tracks.confidence.tolist() == [[1, 0], [1, 1]]
    assert (tracks.objects.tolist(), tracks.ids.tolist()) == ([0, 0], [0, 1])
    assert tracks.select(np.array([False, True])).ids.tolist() == [1]


def test_cameras_keep_squeezed_and_changing_lenses():
    """fx != fy is real (anamorphic clips), and so is a zoom."""
    K = geometry.intrinsics([100, 150], [90, 135], 50, 40)
    cameras = Cameras(np.tile(np.eye(4), (2, 1, 1)), K, 100, 80)
    np.testing.assert_array_equal(cameras.K, K)
    assert Solve(cameras, Tracks.empty(2)).object_names == {0: "background"}
