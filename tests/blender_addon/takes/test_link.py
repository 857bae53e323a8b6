"""The link against a real backend: what an artist would lose if a take were lost, mixed up, or never told of."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from retake_shared import archive, connection, protocol
from retake_shared.errors import RetakeError
from retake_shared.shot import frame_name

from blender_addon import takes
from blender_addon.launch import Place, backend_command
from blender_addon.link import Link
from blender_addon.messages import Backend, ErrandEnded, FrameArrived, Progress, TakeEnded


@pytest.fixture
def place(home):
    return Place(home)


@pytest.fixture
def link(place):
    made = Link(place)
    yield made
    made.close()


@pytest.fixture
def make_take(tmp_path, inputs):
    """make_take(settings) -> (folder, record) of a take that nobody renders yet."""
    footage, solve, _ = inputs

    def make(settings, **changes):
        record = takes.JobRecord("shot", str(footage), settings, *settings.frame_range(solve), **changes)
        return takes.create(tmp_path / "shot_takes", record), record

    return make


def listen(link, until, limit=60.0):
    """Messages up to the first for which until(message) is true."""
    heard, deadline = [], time.monotonic() + limit
    while time.monotonic() < deadline:
        for message in link.messages():
            heard.append(message)
            if until(message):
                return heard
        time.sleep(0.01)
    raise AssertionError(f"not heard in {limit} s; the last: {heard[-3:]}")


def wait(link, folder):
    return link.wait(folder, lambda message: None)


def whole(folder, stop):
    """Whether a take has all its frames and its description, and nothing half-written."""
    names = {path.name for path in folder.iterdir()}
    return (
        {frame_name(i) for i in range(stop)} <= names
        and {"take.json", "job.json", "edit.npz", "solve.npz"} <= names
        and not any(name.endswith(".part") for name in names)
    )


def test_a_take_arrives_whole_and_says_what_it_is(link, make_take, inputs, trial):
    _, solve, edit = inputs
    settings = replace(trial(), seed=7)
    folder, record = make_take(settings)
    link.render(folder, record, solve, edit)
    heard = listen(link, lambda m: isinstance(m, TakeEnded))

    ended = heard[-1]
    assert ended.record.state == "done"
    assert whole(folder, len(solve))
    assert [m.index for m in heard if isinstance(m, FrameArrived)] == list(range(len(solve)))
    assert any(isinstance(m, Progress) and m.total for m in heard)
    take = takes.read_take(folder)
    assert take.settings == settings
    assert (take.solve_sha256, take.edit_sha256) == (ended.record.solve_sha256, ended.record.edit_sha256)
    assert archive.to_bytes(archive.load_edit(folder / "edit.npz")) == archive.to_bytes(edit)
    assert takes.look(folder).record.state == "done"


def test_pictures_come_with_the_frames(link, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial())
    link.render(folder, record, solve, edit)
    heard = listen(link, lambda m: isinstance(m, TakeEnded))
    pictures = [m.picture for m in heard if isinstance(m, FrameArrived) and m.picture is not None]
    assert pictures
    assert pictures[0].shape == (90, 160, 4)
    top_left, bottom_right = pictures[0][-1, 0], pictures[0][0, -1]
    assert top_left[0] < 0.1 < 0.9 < bottom_right[0]  # the ramp's red grows to the right and down


def test_takes_of_one_shot_share_the_solve_on_disk(link, make_take, inputs, trial):
    _, solve, edit = inputs
    folders = []
    for _ in range(2):
        folder, record = make_take(trial())
        link.render(folder, record, solve, edit)
        assert wait(link, folder).state == "done"
        folders.append(folder)
    first, second = ((folder / "solve.npz").stat() for folder in folders)
    assert first.st_ino == second.st_ino


def test_a_take_goes_on_after_blender_was_closed(place, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial(seconds=0.15))
    first = Link(place)
    first.render(folder, record, solve, edit)
    listen(first, lambda m: isinstance(m, FrameArrived))
    first.close()
    assert takes.look(folder).record.state == "rendering"

    second = Link(place)
    second.follow(folder, takes.read_record(folder))
    assert wait(second, folder).state == "done"
    second.close()
    assert whole(folder, len(solve))


def test_a_killed_backend_is_started_again_and_the_take_completed(link, make_take, inputs, trial, home):
    _, solve, edit = inputs
    folder, record = make_take(trial(seconds=0.15))
    link.render(folder, record, solve, edit)
    listen(link, lambda m: isinstance(m, FrameArrived) and m.index == 2)
    os.kill(connection.read(home / connection.FILE_NAME).pid, signal.SIGKILL)
    heard = listen(link, lambda m: isinstance(m, TakeEnded))
    assert heard[-1].record.state == "done"
    assert "lost" in [m.state for m in heard if isinstance(m, Backend)]
    assert whole(folder, len(solve))


def test_cancel_keeps_the_frames_and_the_take_can_be_continued(link, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial(seconds=0.3))
    link.render(folder, record, solve, edit)
    listen(link, lambda m: isinstance(m, FrameArrived))
    began = time.monotonic()
    link.cancel(folder)
    heard = listen(link, lambda m: isinstance(m, TakeEnded))
    assert heard[-1].record.state == "cancelled"
    assert time.monotonic() - began < 2
    kept = takes.frame_files(folder)
    assert 0 < len(kept) < len(solve)
    assert takes.read_take(folder) is None

    link.render(folder, takes.read_record(folder))
    assert wait(link, folder).state == "done"
    assert whole(folder, len(solve))


def test_an_engine_that_fails_says_why_and_what_to_do(link, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial(fail=3, seconds=0.3))
    link.render(folder, record, solve, edit)
    ended = wait(link, folder)
    assert ended.state == "failed"
    assert ended.error == "frame 3: the trial engine does not like it."
    assert ended.remedy == "Use another engine."
    assert takes.read_record(folder) == ended
    assert set(takes.frame_files(folder)) >= {0, 1}  # the last one may still have been in the encoder


def test_a_take_that_failed_while_blender_was_closed_is_told_not_repeated(link, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial(fail=3))
    link.render(folder, record, solve, edit)
    job = wait(link, folder).job
    takes.write_record(folder, replace(takes.read_record(folder), state="rendering", error="", remedy=""))
    link.follow(folder, takes.read_record(folder))
    ended = wait(link, folder)
    assert (ended.state, ended.job) == ("failed", job)
    assert "does not like it" in ended.error


def test_frames_that_cannot_be_written_fail_the_take_and_it_continues_later(link, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial(seconds=0.1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    link.render(folder, record, solve, edit)
    listen(link, lambda m: isinstance(m, FrameArrived))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))  # as a full disk: no picture fits any more
        ended = wait(link, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ended.state == "failed"
    assert str(folder) in ended.error
    assert ended.remedy
    assert not list(folder.glob("*.part"))

    link.render(folder, ended)
    assert wait(link, folder).state == "done"
    assert whole(folder, len(solve))


def test_a_folder_deleted_while_rendering_ends_the_take_with_a_word(link, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial(seconds=0.1))
    link.render(folder, record, solve, edit)
    listen(link, lambda m: isinstance(m, FrameArrived))
    # Away in one step, as a file manager moves it to the trash: the link writes into it while it is deleted.
    trash = folder.with_name("trash")
    folder.rename(trash)
    ended = wait(link, folder)
    shutil.rmtree(trash)
    assert ended.state == "failed"
    assert str(folder) in ended.error
    assert not folder.exists()


def test_soon_after_a_take_the_worker_is_known_to_be_free(link, make_take, inputs, trial):
    """What waits for it, such as freeing the GPU's memory, is not refused for seconds."""
    _, solve, edit = inputs
    folder, record = make_take(trial(seconds=0.1))
    link.render(folder, record, solve, edit)
    listen(link, lambda m: isinstance(m, FrameArrived))
    # As when the backend has just been asked, while it was busy.
    link.backend = replace(link.backend, info=replace(link.backend.info, worker="busy"))
    link._next_hello = time.monotonic() + 60
    assert wait(link, folder).state == "done"
    listen(link, lambda m: isinstance(m, Backend) and m.info is not None and m.info.worker == "idle", limit=3)


def test_a_missing_video_is_named(link, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial())
    link.render(folder, replace(record, footage="/nowhere/gone.mp4"), solve, edit)
    ended = wait(link, folder)
    assert ended.state == "failed"
    assert "/nowhere/gone.mp4" in ended.error


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": "/nowhere/retake"},
        {"command": "false"},  # a program that ends at once
        {"connection_file": Path("/nowhere/connection.json"), "may_start": False},
    ],
)
def test_without_a_backend_the_take_fails_at_once_and_says_what_to_do(tmp_path, make_take, inputs, trial, wrong):
    _, solve, edit = inputs
    link = Link(Place(tmp_path / "another home", **wrong))
    folder, record = make_take(trial())
    link.render(folder, record, solve, edit)
    heard = listen(link, lambda m: isinstance(m, TakeEnded), limit=20)
    link.close()
    assert heard[-1].record.state == "failed"
    assert heard[-1].record.remedy
    assert link.backend.state == "off"
    assert link.backend.what


def test_another_version_is_a_state_that_names_both(link, make_take, inputs, trial, monkeypatch):
    _, solve, edit = inputs
    link.start()
    listen(link, lambda m: isinstance(m, Backend) and m.state == "ready")
    link.close()
    monkeypatch.setattr(protocol, "VERSIONS", (99,))
    newer = Link(link.place)
    folder, record = make_take(trial())
    newer.render(folder, record, solve, edit)
    assert wait(newer, folder).state == "failed"
    newer.close()
    assert newer.backend.state == "other_version"
    assert "99" in newer.backend.what
    assert "1" in newer.backend.what
    assert newer.backend.remedy


def test_two_blenders_use_one_backend_and_cancel_only_their_own(place, make_take, inputs, trial):
    _, solve, edit = inputs
    links = [Link(place), Link(place)]
    made = [make_take(trial(seconds=0.2)) for _ in links]
    for link, (folder, record) in zip(links, made, strict=True):
        link.render(folder, record, solve, edit)
    listen(links[0], lambda m: isinstance(m, Progress) and m.total == len(solve) and m.done)
    links[0].cancel(made[0][0])
    assert wait(links[0], made[0][0]).state == "cancelled"
    assert wait(links[1], made[1][0]).state == "done"
    assert links[0].backend.info.pid == links[1].backend.info.pid
    for link in links:
        link.close()


def test_the_backend_can_be_stopped_and_started(link):
    link.start()
    listen(link, lambda m: isinstance(m, Backend) and m.state == "ready")
    link.stop()
    listen(link, lambda m: isinstance(m, Backend) and m.state == "off")
    link.start()
    listen(link, lambda m: isinstance(m, Backend) and m.state == "ready")


def test_a_link_ends_quickly(link):
    link.start()
    listen(link, lambda m: isinstance(m, Backend) and m.state == "ready")
    began = time.monotonic()
    link.close()
    assert time.monotonic() - began < 1.5
    assert not link._thread.is_alive()


def test_the_backend_is_found_by_program_python_environment_or_command_line(backend_python, monkeypatch):
    environment = Path(backend_python).parent.parent
    assert backend_command(backend_python) == [backend_python, "-m", "retake_backend.cli"]
    assert backend_command(str(environment)) == [str(environment / "bin/retake")]
    assert backend_command(f'"{backend_python}" -m retake_backend.cli') == [backend_python, "-m", "retake_backend.cli"]
    monkeypatch.setenv("RETAKE_BACKEND", backend_python)
    assert backend_command("") == [backend_python, "-m", "retake_backend.cli"]


def test_a_take_that_no_backend_took_keeps_its_edit_and_is_continued(tmp_path, place, make_take, inputs, trial):
    """Or the artist who installs the backend after the first try has lost the edit."""
    _, solve, edit = inputs
    link = Link(Place(tmp_path / "another home", command="/nowhere/retake"))
    folder, record = make_take(trial())
    link.render(folder, record, solve, edit)
    listen(link, lambda m: isinstance(m, TakeEnded), limit=20)
    link.close()
    link = Link(place)
    link.render(folder, takes.read_record(folder))
    assert wait(link, folder).state == "done"
    link.close()
    assert whole(folder, len(solve))


def test_what_the_next_start_needs_cuts_no_take_off(link, place, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial(seconds=0.1))
    link.render(folder, record, solve, edit)
    listen(link, lambda m: isinstance(m, FrameArrived))
    link.move(replace(place, cores=1))
    assert wait(link, folder).state == "done"


def test_words_that_are_no_command_line_are_told():
    with pytest.raises(RetakeError, match="no command line"):
        backend_command('"retake serve')


def test_an_errand_that_breaks_ends_all_the_same(tmp_path, monkeypatch):
    def broken(*_):
        raise UnicodeError("odd")

    monkeypatch.setattr(Place, "save_frame", broken)
    link = Link(Place(tmp_path))
    link.save_frame(tmp_path / "a.mp4", 0, tmp_path / "a.png")
    ended = listen(link, lambda m: isinstance(m, ErrandEnded), limit=10)[-1]
    link.close()
    assert not ended.good
    assert "Report this" in ended.words


def test_a_cancel_that_came_too_late_does_not_stop_the_next_try(link, make_take, inputs, trial):
    _, solve, edit = inputs
    folder, record = make_take(trial())
    link.cancel(folder)
    link.render(folder, record, solve, edit)
    assert wait(link, folder).state == "done"
