"""What an artist writes in an edit script happens, exactly; what cannot happen is told by its place in the script."""

import json
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retake_shared import archive, camera_moves, edit_script, geometry
from retake_shared.errors import BadFile, BadShot, RetakeError
from retake_shared.retiming import retimed_frames
from retake_shared.shot import Edit, RenderSettings, Solve, Tracks


@pytest.fixture
def solve(make_solve) -> Solve:
    return make_solve(frames=9)


def edited(solve: Solve, **script: object) -> Edit:
    return edit_script.parse({"retake_edit": 1, **script}, solve)[0]


def rows(edit: Edit, name: str) -> np.ndarray:
    return np.flatnonzero(edit.objects == {v: k for k, v in edit.object_names.items()}[name])


def assert_only_changed(edit: Edit, solve: Solve, *names: str) -> None:
    for name in set(solve.object_names.values()) - set(names):
        np.testing.assert_array_equal(edit.positions[:, rows(edit, name)], solve.tracks.positions[:, rows(edit, name)])


def test_the_documented_example_works(make_solve):
    """The README and the module point at this example."""
    text = edit_script.__doc__.split("\n\n")[1]
    solve = make_solve(frames=81)
    solve = replace(solve, object_names={1: "walker", 2: "ball", 3: "sign"})
    objects = solve.tracks.objects.copy()
    objects[:2] = 3
    solve = replace(solve, tracks=replace(solve.tracks, objects=objects))
    edit, settings = edit_script.parse(textwrap.dedent(text), solve)
    edit.check_against(solve)
    assert (settings.frames, settings.size, settings.engine) == ((0, 81), (672, 384), "preview")
    assert edit.object_names[4] == "ball 2"
    assert not edit.present[:, rows(edit, "sign")].any()
    assert edit.source_frame[20, rows(edit, "ball")].tolist() == [12] * 3
    np.testing.assert_allclose(edit.cameras.K[80, 0, 0], 1.2 * 300)


def test_the_shortest_script_changes_nothing(solve):
    edit, settings = edit_script.parse('{"retake_edit": 1}', solve)
    assert archive.to_bytes(edit) == archive.to_bytes(Edit.identity(solve))
    assert settings == RenderSettings()


def test_camera_moves_are_those_of_the_operators(solve):
    """The script, the buttons in Blender and the library give one and the same camera."""
    unit, up = camera_moves.median_depth(solve, 0), camera_moves.mean_up(solve.cameras)
    walker = camera_moves.default_pivot(solve, 1, (2, 7))
    shot = camera_moves.default_pivot(solve)
    axes, eye = solve.cameras.c2w[0, :3, :3], solve.cameras.c2w[0, :3, 3]
    point = eye + axes @ [0.1 * unit, 0, unit]
    at_walker = {"frames": [2, 7], "pivot": "walker", "ease": "linear"}
    source = solve.cameras
    for move, expected in (
        ({"move": "orbit", "degrees": 20, **at_walker}, camera_moves.orbit(source, 20, walker, (2, 7), "linear")),
        ({"move": "orbit", "degrees": 9, "axis": [1, 0, 0]}, camera_moves.orbit(source, 9, shot, axis=axes[:, 0])),
        ({"move": "dolly", "distance": 0.2}, camera_moves.dolly(source, 0.2 * unit)),
        ({"move": "truck", "down": 0.1, "look_at": [0.1, 0, 1]},
         camera_moves.truck(source, 0, 0.1 * unit, look_at=point, up=up)),
        ({"move": "push_in", "factor": 0.3, "keep_size": True},
         camera_moves.push_in(source, 0.3, shot, keep_size=True)),
        ({"move": "crane", "rise": 0.3, **at_walker}, camera_moves.crane(source, 0.3 * unit, walker, (2, 7), "linear")),
        ({"move": "look_at", **at_walker}, camera_moves.look_at(source, walker, (2, 7), "linear")),
        ({"move": "freeze", "at": 4}, camera_moves.freeze(source, 4)),
    ):  # fmt: skip
        edit = edited(solve, camera=[move])
        np.testing.assert_allclose(edit.cameras.c2w, expected.c2w, atol=1e-12, err_msg=str(move))
        np.testing.assert_allclose(edit.cameras.K, expected.K, err_msg=str(move))
        assert_only_changed(edit, solve)


def test_moves_are_chained(solve):
    edit = edited(solve, camera=[{"move": "freeze", "at": 0}, {"move": "push_in", "factor": 0.5, "pivot": "ball"}])
    expected = camera_moves.push_in(camera_moves.freeze(solve.cameras, 0), 0.5, camera_moves.default_pivot(solve, 2))
    np.testing.assert_allclose(edit.cameras.c2w, expected.c2w)


def test_camera_keys_add_to_the_source_motion(solve):
    keys = [
        {"frame": 8, "translate": [0.5, 0, 0], "focal": 2},
        {"frame": 4, "translate": [0, 0, 0]},
        {"frame": 2, "rotate": [0, 30, 0]},
    ]
    edit = edited(solve, unit="world", camera=[{"move": "keys", "ease": "linear", "keys": keys}])
    axes = solve.cameras.c2w[0, :3, :3]
    by = (edit.cameras.c2w[:, :3, 3] - solve.cameras.c2w[:, :3, 3]) @ axes
    np.testing.assert_allclose(by[:5], 0, atol=1e-12)
    np.testing.assert_allclose(by[6], [0.25, 0, 0], atol=1e-12)
    np.testing.assert_allclose(by[8], [0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(edit.cameras.K[:, 0, 0], 600)  # one key: held everywhere
    forward = axes.T @ edit.cameras.c2w[0, :3, 2]
    np.testing.assert_allclose(forward, [0.5, 0, np.sqrt(0.75)], atol=1e-12)  # to the right


def test_a_full_turn_is_a_full_turn(solve):
    """Rotations are interpolated as written, not the short way round."""
    keys = [{"frame": 0, "rotate": [0, 0, 0]}, {"frame": 8, "rotate": [0, 360, 0]}]
    edit = edited(solve, camera=[{"move": "keys", "ease": "linear", "keys": keys}])
    axes = solve.cameras.c2w[0, :3, :3]
    half = axes @ geometry.axis_rotation([0, 1, 0], np.pi) @ axes.T @ solve.cameras.c2w[4, :3, :3]
    np.testing.assert_allclose(edit.cameras.c2w[4, :3, :3], half, atol=1e-9)
    np.testing.assert_allclose(edit.cameras.c2w[8], solve.cameras.c2w[8], atol=1e-9)


def test_objects_move_in_the_source_cameras_axes_by_scene_units(solve):
    edit = edited(solve, objects=[{"object": "ball", "keys": [{"frame": 0, "translate": [0.2, 0, 0]}]}])
    unit = camera_moves.median_depth(solve, 0)
    by = edit.positions - solve.tracks.positions
    expected = 0.2 * unit * solve.cameras.c2w[0, :3, 0]
    np.testing.assert_allclose(by[:, rows(edit, "ball")], np.tile(expected, (9, 3, 1)), atol=1e-12)
    assert_only_changed(edit, solve, "ball")


def test_objects_turn_and_grow_in_place(solve):
    keys = [{"frame": 0, "rotate": [0, 90, 0], "scale": 2}]
    edit = edited(solve, objects=[{"object": "walker", "keys": keys}])
    own = rows(edit, "walker")
    before, after = solve.tracks.positions[:, own], edit.positions[:, own]
    # The walker keeps its path: the point it turns about moves as it did.
    travelled = before - before[0]
    np.testing.assert_allclose((after - after[0]), travelled, atol=1e-9)
    sizes = [np.linalg.norm(p[:, 1:] - p[:, :1], axis=2) for p in (before, after)]
    np.testing.assert_allclose(sizes[1], 2 * sizes[0])
    first = int(np.argmax(solve.tracks.visibility[:, own].any(1)))
    pivot = camera_moves.default_pivot(solve, 1, (first, first + 1))
    axes = solve.cameras.c2w[0, :3, :3]
    turn = axes @ geometry.axis_rotation([0, 1, 0], np.pi / 2) @ axes.T
    np.testing.assert_allclose(after[first], pivot + 2 * (before[first] - pivot) @ turn.T, atol=1e-9)


def test_about_start_turns_the_path_too(solve):
    keys = [{"frame": 0, "rotate": [0, 90, 0]}]
    edit = edited(solve, objects=[{"object": "walker", "about": "start", "keys": keys}])
    own = rows(edit, "walker")
    axes = solve.cameras.c2w[0, :3, :3]
    turn = axes @ geometry.axis_rotation([0, 1, 0], np.pi / 2) @ axes.T
    path = solve.tracks.positions[:, own] - solve.tracks.positions[:1, own]
    np.testing.assert_allclose(edit.positions[:, own] - edit.positions[:1, own], path @ turn.T, atol=1e-9)


def test_an_object_slides_along_the_view_rays(solve):
    keys = [{"frame": 0, "depth": 1}, {"frame": 8, "depth": 2}]
    edit = edited(solve, objects=[{"object": "ball", "keys": keys, "ease": "linear"}])
    own = rows(edit, "ball")
    before, near = solve.cameras.project(solve.tracks.positions[:, own])
    after, far = solve.cameras.project(edit.positions[:, own])
    np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_allclose(far / near, np.tile(np.linspace(1, 2, 9)[:, None], (1, len(own))), rtol=1e-9)
    np.testing.assert_array_equal(edit.positions[0], solve.tracks.positions[0])
    assert_only_changed(edit, solve, "ball")


def test_scaling_an_object_that_stands_still_leaves_it_standing(solve):
    """As the camera travels other tracks of it come into view; its centre must not wander with them."""
    edit = edited(solve, objects=[{"object": "background", "keys": [{"frame": 0, "scale": 1.5}]}])
    own = rows(edit, "background")
    np.testing.assert_allclose(edit.positions[:, own], np.tile(edit.positions[:1, own], (9, 1, 1)), atol=1e-9)


def test_tracks_that_come_back_do_not_drag_the_centre_along(solve):
    """Many solvers leave a hidden track where it was last seen, so that it jumps when it is seen again."""
    own = np.flatnonzero(solve.tracks.objects == 2)
    visibility, positions = np.ones((9, 12), bool), solve.tracks.positions.copy()
    positions[:, own] = positions[0, own] + np.arange(9)[:, None, None] * [0.1, 0, 0]
    visibility[3:6, own[1:]] = False
    positions[3:6, own[1:]] = positions[2, own[1:]]
    solve = replace(solve, tracks=Tracks.make(positions, visibility, objects=solve.tracks.objects))
    edit = edited(solve, objects=[{"object": "ball", "keys": [{"frame": 0, "scale": 2}]}])
    np.testing.assert_allclose(np.diff(edit.positions[:, own[0]], axis=0), [[0.1, 0, 0]] * 8, atol=1e-9)


def test_lagging_object_shows_what_it_did_before(solve):
    edit = edited(solve, objects=[{"object": "ball", "retime": {"offset": 3}}])
    own = rows(edit, "ball")
    np.testing.assert_array_equal(edit.positions[3:, own], solve.tracks.positions[:-3, own])
    np.testing.assert_array_equal(edit.positions[:3, own], solve.tracks.positions[[0, 0, 0]][:, own])
    assert edit.source_frame[:, own[0]].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5]
    assert edit.source_frame[:, 0].tolist() == list(range(9))
    assert_only_changed(edit, solve, "ball")


def test_retimed_object_is_moved_where_it_is_then(solve):
    step = {"object": "ball", "retime": {"speed": 0.5}, "keys": [{"frame": 0, "translate": [1, 0, 0]}]}
    edit = edited(solve, unit="world", objects=[step])
    own = rows(edit, "ball")
    slow = geometry.sample_rows(solve.tracks.positions[:, own], np.arange(9) / 2)
    np.testing.assert_allclose(edit.positions[:, own], slow + solve.cameras.c2w[0, :3, 0], atol=1e-12)


def test_steps_work_on_the_result_of_those_before(solve):
    steps = [
        {"object": "ball", "retime": {"reverse": True}},
        {"object": "ball", "duplicate": "ball 2", "retime": {"reverse": True}},
        {"object": "ball 2", "keys": [{"frame": 0, "translate": [0, 1, 0]}]},
        {"object": "ball", "remove": True},
    ]
    edit = edited(solve, unit="world", objects=steps)
    edit.check_against(solve)
    old, new = rows(edit, "ball"), rows(edit, "ball 2")
    assert edit.source_track[new].tolist() == old.tolist()
    expected = solve.tracks.positions[:, old] + solve.cameras.c2w[0, :3, 1]
    np.testing.assert_allclose(edit.positions[:, new], expected, atol=1e-12)
    assert not edit.present[:, old].any()
    assert edit.present[:, new].all()
    np.testing.assert_allclose(edit.source_frame[:, new[0]], np.arange(9))


@given(st.integers(1, 40), st.floats(-50, 50), st.floats(0.01, 8), st.booleans())
def test_retimed_frames_stay_in_the_footage_and_in_order(frames, offset, speed, reverse):
    shown = retimed_frames(frames, offset, speed, reverse=reverse)
    assert shown.shape == (frames,)
    assert ((shown >= 0) & (shown <= frames - 1)).all()
    assert ((np.diff(shown) <= 0) if reverse else (np.diff(shown) >= 0)).all()


def test_retimed_frames_by_hand():
    assert retimed_frames(4).tolist() == [0, 1, 2, 3]
    assert retimed_frames(4, offset=-1).tolist() == [1, 2, 3, 3]
    assert retimed_frames(4, offset=1, speed=2).tolist() == [0, 0, 2, 3]
    assert retimed_frames(4, reverse=True).tolist() == [3, 2, 1, 0]
    assert retimed_frames(4, freeze=2).tolist() == [2, 2, 2, 2]
    assert retimed_frames(4, offset=1, reverse=True).tolist() == [3, 3, 2, 1]


def camera(**move: object) -> dict:
    return {"camera": [{"move": "dolly", "distance": 0}, move]}


def ball(**step: object) -> dict:
    return {"objects": [{"object": "ball", **step}]}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({"camra": []}, "unknown key 'camra'. Allowed are: .*camera"),
        ({"retake_edit": 2}, "retake_edit: version is 2"),
        ({"retake_edit": True}, "retake_edit: is True"),
        ({"unit": "metre"}, "unit: is 'metre'. Expected one of: scene, world"),
        ({"camera": {}}, "camera: is {}. Expected a list"),
        ({"camera": [7]}, r"camera\[0\]: is 7"),
        ({"seed": "x"}, "settings.seed"),
        ({"frames": [0, 99]}, "settings.frames"),
        ({"options": []}, "settings.options"),
        (camera(), r"camera\[1\].move: is missing. Expected one of: orbit"),
        (camera(move="zoom"), r"camera\[1\].move: is 'zoom'"),
        (camera(move="orbit"), r"camera\[1\].degrees: is missing"),
        (camera(move="orbit", degree=5), r"camera\[1\]: unknown key 'degree'. Allowed are: move, degrees"),
        (camera(move="orbit", degrees="5"), r"camera\[1\].degrees: is '5'. Expected a number"),
        (camera(move="orbit", degrees=True), r"camera\[1\].degrees: is True"),
        (camera(move="orbit", degrees=float("nan")), r"camera\[1\].degrees: is nan"),
        (camera(move="orbit", degrees=10**400), r"camera\[1\].degrees: is 1000"),
        (camera(move="orbit", degrees=5, pivot="dog"), r"camera\[1\].pivot: .*'dog'. The shot has: background, walker"),
        (camera(move="orbit", degrees=5, pivot=[1, 2]), r"camera\[1\].pivot: .*three numbers"),
        (camera(move="orbit", degrees=5, axis=[0, 0, 0]), r"camera\[1\].axis"),
        (camera(move="orbit", degrees=5, frames=[3]), r"camera\[1\].frames: .*two whole numbers"),
        (camera(move="orbit", degrees=5, frames=[0, 10]), r"camera\[1\].frames: is 0:10. .*within 0:9"),
        (camera(move="orbit", degrees=5, ease="hard"), r"camera\[1\].ease: is 'hard'. Expected one of: smooth, linear"),
        (camera(move="push_in", factor=1), r"camera\[1\].factor: is 1"),
        (camera(move="push_in", factor=0.1, keep_size=1), r"camera\[1\].keep_size: is 1. Expected true or false"),
        (camera(move="freeze", at=9), r"camera\[1\].at: is frame 9. Use 0 .. 8"),
        (camera(move="keys", keys=[{"frame": 9}]), r"camera\[1\].keys\[0\].frame: 9 is not in the footage"),
        (camera(move="keys", keys=[{"frame": 1.5}]), r"keys\[0\].frame: is 1.5. Expected a whole number"),
        (camera(move="keys", keys=[{"frame": 0, "scale": 2}]), r"keys\[0\]: unknown key 'scale'"),
        (camera(move="keys", keys=[{"frame": 0, "focal": 0}]), r"keys\[0\].focal: is 0. Expected a number above 0"),
        (camera(move="keys", keys=[{"frame": 1}, {"frame": 1}]), r"keys\[1\].frame: 1 is keyed twice"),
        (ball(), r"objects\[0\]: asks for nothing"),
        (ball(remove="yes"), r"objects\[0\].remove: is 'yes'"),
        (ball(remove=True, keys=[]), r"objects\[0\].remove: is mixed with \"keys\""),
        (ball(duplicate="walker"), r"objects\[0\].duplicate: there is an object 'walker' already"),
        (ball(duplicate=" "), r"objects\[0\].duplicate: is empty"),
        (ball(retime={"lag": 3}), r"objects\[0\].retime: unknown key 'lag'"),
        (ball(retime={"speed": -1}), r"objects\[0\].retime.speed: is -1.0. .*reverse"),
        (ball(retime={"freeze": 9}), r"objects\[0\].retime.freeze: frame 9.0 is not in the footage"),
        (ball(retime={"freeze": 2, "offset": 1}), r"objects\[0\].retime.freeze: is mixed"),
        (ball(keys=[{"frame": 0, "scale": -1}]), r"objects\[0\].keys\[0\].scale"),
        (ball(keys=[{"frame": 0, "translate": [0, None, 0]}]), r"objects\[0\].keys\[0\].translate: is None"),
        (ball(about="middle", keys=[]), r"objects\[0\].about: is 'middle'"),
        ({"objects": [{"object": "Ball", "remove": True}]}, r"'Ball'. The shot has: background, walker, ball"),
        ({"objects": [{"remove": True}]}, r"objects\[0\].object: is missing"),
    ],
)
def test_what_cannot_be_is_told_by_its_place(solve, script, message):
    with pytest.raises((BadFile, BadShot), match=message) as caught:
        edit_script.parse({"retake_edit": 1, **script}, solve, "my edit.json")
    assert caught.value.where.startswith("my edit.json")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"retake_edit": 1,\n "seed": }', "line 2, column 10"),
        ('{"retake_edit": 1, "seed": 1, "seed": 2}', '"seed" twice'),
        ("[1]", "holds a list"),
        ("", "not valid JSON"),
        ("{}", "retake_edit: is missing"),
        (b"\xff\xfe{}", "UTF-8"),
        ("[" * 100_000, "edit script"),
        ('{"retake_edit": 1, "seed": ' + "9" * 5000 + "}", "edit script"),
    ],
)
def test_text_that_is_no_script(solve, text, message):
    with pytest.raises(BadFile, match=message):
        edit_script.parse(text, solve)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["ball", "orbit"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["move", "object", "keys", "frame", "frames", "pivot", "degrees", "retime", "duplicate", "ease"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(camera=JSON, objects=JSON, settings=st.dictionaries(st.sampled_from(["seed", "frames", "size", "unit"]), JSON))
def test_any_json_gives_an_edit_or_a_clear_error(make_solve, camera, objects, settings):
    for script in ({"camera": [camera]}, {"objects": [objects]}, {"camera": camera, "objects": objects}, settings):
        told = None
        try:
            edit_script.parse({"retake_edit": 1, **script}, make_solve())
        except RetakeError as error:
            told = error
        assert told is None or (told.where and told.what)


def test_objects_that_only_masks_show_are_listed_and_cannot_be_moved(make_solve):
    solve = make_solve(masks=True)
    masks = solve.masks.copy()
    masks[0, 0, 0] = 5
    solve = replace(solve, masks=masks, object_names={**solve.object_names, 5: "sky"})
    with pytest.raises(BadShot, match="background, walker, ball, sky"):
        edited(solve, objects=[{"object": "dog", "remove": True}])
    with pytest.raises(BadShot, match="'sky' has no tracks"):
        edited(solve, objects=[{"object": "sky", "remove": True}])


def test_solve_without_tracks_takes_camera_edits_in_world_units(make_solve):
    """ViPE brings cameras only."""
    solve = replace(make_solve(), tracks=Tracks.empty(6))
    edit = edited(solve, unit="world", camera=[{"move": "orbit", "degrees": 10, "pivot": [0, 0, 5]}])
    assert np.abs(edit.cameras.c2w - solve.cameras.c2w).max() > 0.1
    assert edited(solve, camera=[{"move": "keys", "keys": [{"frame": 0, "focal": 2}]}]).cameras.K[0, 0, 0] == 600
    with pytest.raises(BadShot, match=r'camera\[0\].*"world" units'):
        edited(solve, camera=[{"move": "dolly", "distance": 1}])


def test_files_of_both_kinds(solve, tmp_path):
    script = {"retake_edit": 1, "prompt": "雨の日", "objects": [{"object": "ball", "remove": True}]}
    path = tmp_path / "mein Schnitt ü.json"
    path.write_text(json.dumps(script, ensure_ascii=False), encoding="utf-8-sig")
    edit, settings = edit_script.load(path, solve)
    assert settings.prompt == "雨の日"
    archive.save(tmp_path / "edit.npz", edit)
    again, settings = edit_script.load(str(tmp_path / "edit.npz"), solve)
    assert archive.to_bytes(again) == archive.to_bytes(edit)
    assert settings == RenderSettings()
    with pytest.raises(BadShot, match=r"edit\.npz: edit: the edit has 9 frames, the solve 4"):
        edit_script.load(tmp_path / "edit.npz", solve.frames(0, 4))
    archive.save(tmp_path / "solve.npz", solve)
    with pytest.raises(BadFile, match="holds a solve"):
        edit_script.load(tmp_path / "solve.npz", solve)
    with pytest.raises(BadFile, match="cannot be opened"):
        edit_script.load(tmp_path / "none.json", solve)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BadFile, match=r"bad\.json: is not valid JSON"):
        edit_script.load(tmp_path / "bad.json", solve)


def test_script_on_a_real_solve(sample_data):
    """The man steps aside, the ball lags, the camera orbits."""
    with np.load(sample_data / "solves" / "juggle_planar.npz") as data:
        cameras = edit_script.Cameras(geometry.invert_rigid(data["extrinsics"]), data["intrinsics"], 672, 378)
        visible = data["visibs"].reshape(len(data["coords"]), -1).astype(bool)
        tracks = Tracks.make(data["coords"], visible, objects=data["segments"].astype(int))
    solve = Solve(cameras, tracks, object_names={1: "man", 2: "ball"})
    edit = edited(
        solve,
        camera=[{"move": "orbit", "degrees": 15, "pivot": "man"}],
        objects=[
            {"object": "man", "keys": [{"frame": 0, "translate": [0.1, 0, 0]}]},
            {"object": "ball", "retime": {"offset": 6}},
        ],
    )
    edit.check_against(solve)
    before, after = (c.project(p)[0][0, rows(edit, "man"), 0]
                     for c, p in ((solve.cameras, tracks.positions), (edit.cameras, edit.positions)))  # fmt: skip
    assert 30 < np.median(after - before) < 120  # px to the right, at frame 0, where the orbit has not begun
    assert_only_changed(edit, solve, "man", "ball")
