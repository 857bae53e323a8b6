"""Work in a thread: what it makes, what it says, and how it ends."""

import threading
import time

import pytest
from retake_backend.engines.base import Progress
from retake_backend.engines.diffusion import watched as module
from retake_backend.engines.diffusion.watched import watched
from retake_shared.errors import BadFile, Cancelled


def test_everything_comes_in_order():
    told = []

    def work(report):
        for number in range(20):
            report(Progress("counting", number, 20))
            yield number

    assert list(watched(work, told.append)) == list(range(20))
    assert [progress.done for progress in told] == list(range(20))


def test_a_long_step_is_not_silence(monkeypatch):
    """A broker takes a silent worker for hung; but work that never goes on is to be taken for it."""
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    told = []

    def work(report):
        report(Progress("one long step", 1, 2))
        time.sleep(1.2)
        yield "done"

    assert list(watched(work, lambda progress: told.append((time.monotonic(), progress)))) == ["done"]
    assert len(told) > 4
    assert {progress.stage for _, progress in told} == {"one long step"}
    assert told[-1][0] - told[0][0] < 0.8


def test_what_the_work_raises_is_raised():
    def work(report):
        yield 1
        raise BadFile("is broken.", "it")

    with pytest.raises(BadFile, match="it: is broken"):
        list(watched(work, lambda progress: None))


def test_cancel_ends_the_work_before_its_next_step_and_lets_it_clean_up():
    steps, cleaned = [], []

    def work(report):
        try:
            for step in range(100):
                report(Progress("working", step, 100))
                steps.append(step)
                yield step
        finally:
            cleaned.append(threading.current_thread().name)

    def cancel(progress):
        if progress.done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(watched(work, cancel))
    assert steps == [0, 1, 2]
    assert cleaned
    assert not [thread for thread in threading.enumerate() if thread.name == "render"]


def test_frames_that_nobody_takes_do_not_pile_up():
    made = []

    def work(report):
        for number in range(100):
            made.append(number)
            yield number

    frames = watched(work, lambda progress: None)
    assert next(frames) == 0
    time.sleep(0.3)
    assert len(made) < 10
    frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "render"]
