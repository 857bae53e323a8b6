"""From the timeline to a take and back, through the operators, with a real backend."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import bpy
import numpy as np
import pytest
from retake_shared import archive
from retake_shared.shot import RenderSettings

from blender_addon import linked, rendering, take_list, take_requests, takes
from blender_addon.messages import TakeEnded
from blender_addon.scene import objects, readback, restore, sequencer, shots


def the_take(root) -> bpy.types.PropertyGroup:
    return root.retake.takes[root.retake.active_take]


def the_strip(take):
    return sequencer.find(bpy.context.scene, take.strip)


def hashes(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).glob("*.png"))}


def slow(monkeypatch, **options):
    """Let the shot's next takes come from the engine that takes its time."""
    monkeypatch.setattr(take_requests, "settings_of", lambda root: RenderSettings(engine="trial", options=options))


def pump_until(test, limit=60.0):
    """What the window's timer does, until test() is true."""
    deadline = time.monotonic() + limit
    while not test():
        assert time.monotonic() < deadline, "waited too long"
        rendering.pump(0.05)
        time.sleep(0.01)


def begin(root):
    """A take that goes on in the background, as from the window."""
    return take_requests.begin(
        bpy.context, root, *readback.read_edit(bpy.context, root), take_requests.settings_of(root)
    )


def test_generate_lists_a_complete_take_and_lays_its_strip_over_the_footage(video_shot):
    root, solve = video_shot
    root.retake.seed = 11
    bpy.context.scene.frame_set(5)
    assert bpy.ops.retake.generate() == {"FINISHED"}

    take, strip = the_take(root), the_strip(the_take(root))
    assert (take.state, take.engine, take.seed) == ("DONE", "preview", 11)
    assert take.seconds > 0
    assert tuple(take.size) == (320, 180)
    folder = Path(take.folder)
    assert folder == Path(bpy.data.filepath).parent / "shot_takes" / "take_001"
    assert sequencer.span(strip) == (root.retake.start, root.retake.start + len(solve))
    assert [element.filename for element in strip.elements] == [f"frame_{i:05d}.png" for i in range(len(solve))]
    assert bpy.context.scene.frame_current == 5
    assert not rendering.busy(bpy.context)
    assert takes.read_take(folder).settings.seed == 11


def test_a_part_lies_at_its_own_frames(video_shot):
    root, _ = video_shot
    start = root.retake.start
    root.retake.use_range, root.retake.range = True, (start + 2, start + 4)
    bpy.ops.retake.generate()
    assert sequencer.span(the_strip(the_take(root))) == (start + 2, start + 5)
    assert list(takes.frame_files(Path(the_take(root).folder))) == [2, 3, 4]


@pytest.mark.parametrize("frames", [(0, 4), (5, 3), (2, 900)])
def test_frames_outside_the_shot_are_refused_before_anything_is_made(video_shot, frames):
    root, _ = video_shot
    root.retake.use_range, root.retake.range = True, frames
    with pytest.raises(RuntimeError, match="Choose frames from"):
        bpy.ops.retake.generate()
    assert len(root.retake.takes) == 0
    assert not take_list.takes_parent().exists()


def test_a_missing_video_is_refused_before_anything_is_made(video_shot):
    root, _ = video_shot
    root.retake.footage = "/nowhere/gone.mp4"
    with pytest.raises(RuntimeError, match=r"gone\.mp4"):
        bpy.ops.retake.generate()
    assert len(root.retake.takes) == 0


def test_an_unsaved_blend_gets_its_takes_in_a_folder_that_lasts(video, home, make_solve, tmp_path):
    from blender_addon.scene import footage_clip

    footage = footage_clip.probe(str(video), bpy.context.scene)
    root = shots.import_shot(bpy.context, footage, make_solve(footage), set_scene=True)
    assert bpy.ops.retake.generate() == {"FINISHED"}
    folder = Path(the_take(root).folder)
    assert folder.is_relative_to(home)
    assert takes.read_take(folder) is not None


def test_no_folder_beside_the_blend_no_take(video_shot):
    root, _ = video_shot
    take_list.takes_parent().write_text("in the way")
    with pytest.raises(RuntimeError, match="cannot be written"):
        bpy.ops.retake.generate()
    assert len(root.retake.takes) == 0
    assert not rendering.busy(bpy.context)


def test_an_engine_that_fails_is_told_and_the_take_kept(video_shot, monkeypatch):
    root, _ = video_shot
    slow(monkeypatch, fail=2)
    with pytest.raises(RuntimeError, match=r"does not like it.* Use another engine"):
        bpy.ops.retake.generate()
    assert the_take(root).state == "FAILED"
    assert "does not like it" in the_take(root).message
    assert "does not like it" in bpy.context.window_manager.retake.message


def test_render_again_gives_the_same_frames(video_shot):
    root, _ = video_shot
    bpy.ops.retake.generate()
    bpy.ops.retake.render_again()
    first, second = root.retake.takes
    assert hashes(first.folder) == hashes(second.folder)
    assert second.state == "DONE"
    assert the_strip(first).channel != the_strip(second).channel


def test_render_again_with_the_panels_settings_takes_the_old_edit(video_shot):
    root, _ = video_shot
    bpy.ops.retake.generate()
    root.retake.seed = 5
    bpy.ops.retake.orbit(degrees=30)
    bpy.ops.retake.render_again(use_panel=True)
    first, second = (takes.read_take(Path(take.folder)) for take in root.retake.takes)
    assert (first.settings.seed, second.settings.seed) == (0, 5)
    assert first.edit_sha256 == second.edit_sha256


def test_a_cancelled_take_keeps_its_frames_and_continues(video_shot, monkeypatch):
    root, solve = video_shot
    slow(monkeypatch, seconds=0.3)
    folder = begin(root)
    pump_until(lambda: the_take(root).strip)
    assert rendering.busy(bpy.context)
    assert bpy.ops.retake.cancel() == {"FINISHED"}
    pump_until(lambda: not rendering.busy(bpy.context))
    assert the_take(root).state == "CANCELLED"
    assert 0 < len(the_strip(the_take(root)).elements) < len(solve)

    assert bpy.ops.retake.continue_take() == {"FINISHED"}
    assert the_take(root).state == "DONE"
    assert len(the_strip(the_take(root)).elements) == len(solve)
    assert len(root.retake.takes) == 1
    assert takes.read_take(folder) is not None


def test_the_strip_grows_while_frames_come(video_shot, monkeypatch):
    root, solve = video_shot
    slow(monkeypatch, seconds=0.2)
    begin(root)
    lengths = set()

    def grown():
        if the_take(root).strip:
            lengths.add(len(the_strip(the_take(root)).elements))
        return not rendering.busy(bpy.context)

    pump_until(grown)
    assert len(lengths) > 2
    assert max(lengths) == len(solve)


def test_generate_is_off_while_a_take_is_rendered(video_shot, monkeypatch):
    root, _ = video_shot
    slow(monkeypatch, seconds=0.2)
    begin(root)
    assert not bpy.ops.retake.generate.poll()
    assert not bpy.ops.retake.delete_take.poll()
    pump_until(lambda: not rendering.busy(bpy.context))
    assert bpy.ops.retake.generate.poll()


def test_a_shot_deleted_while_rendering_leaves_the_take_in_its_folder(video_shot, monkeypatch):
    root, solve = video_shot
    slow(monkeypatch, seconds=0.1)
    folder = begin(root)
    bpy.data.objects.remove(root)
    pump_until(lambda: not rendering.busy(bpy.context))
    assert len(takes.look(folder).frames) == len(solve)


def test_another_file_opened_while_rendering_and_the_first_one_again(video_shot, monkeypatch):
    root, solve = video_shot
    slow(monkeypatch, seconds=0.15)
    folder = begin(root)
    path = bpy.data.filepath
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert not rendering.busy(bpy.context)
    linked.link(bpy.context).wait(folder, rendering.apply)
    bpy.ops.wm.open_mainfile(filepath=path)
    root = next(take_list.shots())
    assert the_take(root).state == "DONE"
    assert the_take(root).seconds > 0
    assert len(takes.look(folder).frames) == len(solve)


def test_a_take_that_the_blend_forgot_is_found_again(video_shot):
    root, solve = video_shot
    bpy.ops.wm.save_mainfile()
    bpy.ops.retake.generate()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)  # as after a crash: the take was never saved
    root = next(take_list.shots())
    assert [take.state for take in root.retake.takes] == ["DONE"]
    assert len(the_strip(root.retake.takes[0]).elements) == len(solve)


def test_takes_move_with_their_blend(video_shot, tmp_path):
    root, _ = video_shot
    bpy.ops.retake.generate()
    bpy.ops.wm.save_mainfile()
    (tmp_path / "elsewhere").mkdir()
    for name in ("shot.blend", "shot_takes"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "elsewhere/shot.blend"))
    root = next(take_list.shots())
    assert [take.state for take in root.retake.takes] == ["DONE"]
    assert Path(root.retake.takes[0].folder) == tmp_path / "elsewhere/shot_takes/take_001"


def test_a_lost_folder_is_told(video_shot):
    root, _ = video_shot
    bpy.ops.retake.generate()
    takes.delete(Path(the_take(root).folder))
    bpy.ops.retake.refresh_takes()
    assert the_take(root).state == "FAILED"
    assert "folder is gone" in the_take(root).message


def test_delete_removes_frames_strip_and_entry_and_nothing_else(video_shot):
    root, _ = video_shot
    bpy.ops.retake.generate()
    bpy.ops.retake.render_again()
    kept, gone = (Path(take.folder) for take in root.retake.takes)
    kept_strip = root.retake.takes[0].strip
    assert bpy.ops.retake.delete_take() == {"FINISHED"}
    assert [Path(take.folder) for take in root.retake.takes] == [kept]
    assert not gone.exists()
    assert takes.read_take(kept) is not None
    assert (kept / "solve.npz").exists()
    assert [strip.name for strip in sequencer.strips(bpy.context.scene)] == [kept_strip]


def test_compare_shows_the_take_right_of_the_line_over_the_footage(video_shot):
    root, _ = video_shot
    bpy.ops.retake.generate()
    bpy.ops.retake.render_again()
    assert bpy.ops.retake.compare(against="FOOTAGE", split=0.25) == {"FINISHED"}
    first, second = (the_strip(take) for take in root.retake.takes)
    footage = sequencer.find(bpy.context.scene, f"{root.name} footage")
    assert footage.channel < first.channel < second.channel
    assert (footage.mute, first.mute, second.mute) == (False, True, False)
    assert second.crop.min_x == 80

    assert bpy.ops.retake.compare(against="TAKE0", split=0.5) == {"FINISHED"}
    assert (footage.mute, first.mute, second.mute) == (True, False, False)
    bpy.ops.retake.compare(against="FOOTAGE", split=0)
    assert second.crop.min_x == 0
    assert not any(strip.mute for strip in (footage, first, second))


def edited(root):
    """A shot with something of everything: camera move, keyed object, retimed object, copy, removed object."""
    man, ball = (objects.own_handle(root, number) for number in (1, 2))
    bpy.ops.retake.orbit(degrees=20)
    start = root.retake.start
    for frame, x, angle in ((start, 0.0, 0.0), (start + 7, 0.5, 0.7)):
        man.location.x += x
        man.rotation_euler.z = angle
        man.keyframe_insert("location", frame=frame)
        man.keyframe_insert("rotation_euler", frame=frame)
    objects.retime(root, ball, offset=2.0, speed=1.5)
    copy = objects.duplicate(root, ball, "second ball")
    copy.location.z += 0.25
    lonely = objects.empties_under(man)[0]
    lonely.constraints.new("LIMIT_LOCATION")
    lonely.constraints[0].use_min_z = lonely.constraints[0].use_max_z = True
    objects.set_removed(bpy.context, objects.own_handle(root, 0), True)


def wipe(root):
    for handle in objects.handles_of(root):
        if objects.is_copy(handle):
            for empty in objects.empties_under(handle):
                bpy.data.objects.remove(empty)
            bpy.data.objects.remove(handle)
        else:
            objects.reset(bpy.context, root, handle)
    for empty in (ob for ob in bpy.data.objects if ob.retake_track >= 0):
        empty.constraints.clear()
    bpy.ops.retake.reset_camera()


def test_restore_brings_the_whole_edit_back(video_shot):
    root, _ = video_shot
    edited(root)
    _, before = readback.read_edit(bpy.context, root)
    root.retake.seed = 9
    bpy.ops.retake.generate()
    wipe(root)
    root.retake.seed = 0
    _, wiped = readback.read_edit(bpy.context, root)
    assert wiped.positions.shape != before.positions.shape

    assert bpy.ops.retake.restore_edit() == {"FINISHED"}
    _, after = readback.read_edit(bpy.context, root)
    assert root.retake.seed == 9
    np.testing.assert_array_equal(after.source_track, before.source_track)
    np.testing.assert_array_equal(after.objects, before.objects)
    np.testing.assert_array_equal(after.present, before.present)
    np.testing.assert_allclose(after.source_frame, before.source_frame, atol=1e-3)
    pixels = [edit.cameras.project(edit.positions)[0] for edit in (before, after)]
    assert np.nanmax(np.abs(pixels[0] - pixels[1])) < 5e-3


def test_restoring_twice_changes_nothing_more(video_shot):
    root, _ = video_shot
    edited(root)
    solve, edit = readback.read_edit(bpy.context, root)
    restore.restore(bpy.context, root, solve, edit)
    _, once = readback.read_edit(bpy.context, root)
    restore.restore(bpy.context, root, solve, edit)
    _, twice = readback.read_edit(bpy.context, root)
    np.testing.assert_allclose(twice.positions, once.positions, atol=1e-5)
    assert len(objects.handles_of(root)) == 4


def test_an_edit_of_another_shot_is_refused_and_nothing_changes(video_shot, make_solve, make_footage, read):
    root, _ = video_shot
    other = make_solve(make_footage(frames=8, folder_name="other"), count=10)
    from retake_shared.errors import BadShot
    from retake_shared.shot import Edit

    edited(root)
    before = archive.to_bytes(read(root))
    with pytest.raises(BadShot, match="another solve"):
        restore.restore(bpy.context, root, other, Edit.identity(other))
    assert archive.to_bytes(read(root)) == before


@pytest.mark.parametrize(
    "timing",
    [{}, {"freeze": 3}, {"offset": 2.0, "speed": 1.0, "reverse": False}, {"offset": 0.0, "speed": 0.5, "reverse": False},
     {"offset": -1.0, "speed": 1.0, "reverse": True}],
)  # fmt: skip
def test_timing_is_found_again_from_the_frames_it_shows(timing):
    from retake_shared.retiming import retimed_frames

    assert restore.timing_of(retimed_frames(12, **timing)) == pytest.approx(timing)


def test_a_timing_that_no_setting_gives_is_not_made_up():
    assert restore.timing_of(np.array([0, 5, 1, 4, 2, 3.0])) is None


def test_a_script_whose_take_is_cancelled_goes_on(video_shot, monkeypatch):
    root, _ = video_shot
    slow(monkeypatch, seconds=0.3)
    folder = take_list.takes_parent() / "take_001"
    timer = threading.Timer(2.0, lambda: linked.link(bpy.context).cancel(folder))
    timer.start()
    assert bpy.ops.retake.generate() == {"CANCELLED"}
    timer.join()
    assert the_take(root).state == "CANCELLED"


def test_messages_are_applied_within_the_budget(video_shot, monkeypatch):
    root, _ = video_shot
    slow(monkeypatch, seconds=0.05)
    folder = begin(root)
    longest = 0.0
    while rendering.busy(bpy.context):
        began = time.perf_counter()
        rendering.pump(rendering.BUDGET)
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.02)
    assert takes.read_take(folder) is not None
    assert longest < 0.05


def test_the_backend_is_started_tested_and_stopped_by_operators(video_shot):
    assert bpy.ops.retake.start_backend() == {"FINISHED"}
    state = bpy.context.window_manager.retake
    assert state.backend_state == "READY"
    assert not bpy.ops.retake.start_backend.poll()
    assert bpy.ops.retake.test_backend() == {"FINISHED"}
    assert "ms" in state.backend_message
    assert bpy.ops.retake.stop_backend() == {"FINISHED"}
    assert state.backend_state == "OFF"
    assert bpy.ops.retake.test_backend() == {"CANCELLED"}
    assert state.backend_message
    assert not bpy.ops.retake.stop_backend.poll()


def test_the_end_of_an_unknown_take_changes_nothing(video_shot):
    root, _ = video_shot
    record = takes.JobRecord("nobody", "", RenderSettings(), 0, 1, state="failed", error="x", remedy="y")
    rendering.apply(TakeEnded(Path("/nowhere/take_001"), record))
    assert len(root.retake.takes) == 0


def test_undo_while_rendering_loses_no_take(video_shot, monkeypatch):
    root, solve = video_shot
    name = root.name
    slow(monkeypatch, seconds=0.2)
    bpy.ops.ed.undo_push(message="before")
    begin(root)
    bpy.ops.ed.undo_push(message="Generate Take")
    pump_until(lambda: bpy.data.objects[name].retake.takes[0].strip)
    bpy.ops.ed.undo()
    assert len(bpy.data.objects[name].retake.takes) == 0
    pump_until(lambda: not rendering.busy(bpy.context))
    take = the_take(bpy.data.objects[name])
    assert take.state == "DONE"
    assert len(the_strip(take).elements) == len(solve)


def test_render_again_keeps_to_the_frames_of_the_take(video_shot):
    root, _ = video_shot
    bpy.ops.retake.generate()
    shot = root.retake
    shot.use_range, shot.range = True, (shot.start + 2, shot.start + 3)
    bpy.ops.retake.render_again(use_panel=True)
    first, second = shot.takes
    assert second.state == "DONE"
    assert tuple(first.frames) == tuple(second.frames)
