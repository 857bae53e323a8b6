"""What a user sees of long work: one line that changes in a terminal, few lines in a file."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from retake_backend.progress_line import ProgressLine
from retake_shared.errors import Cancelled

WORK = """
from retake_backend.progress_line import ProgressLine
with ProgressLine(lambda: None) as line:
    for done in range(101):
        line.step("reading footage", done, 100)
    line.note("half of it is dark")
    line.step("cameras", 1, 1)
print("solved")
"""


def seen(told: str) -> list[str]:
    """What a terminal shows in the end of what it was told."""
    return [line.rpartition("\x1b[K")[2] for line in told.replace("\r\n", "\n").split("\n")]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_in_a_terminal_one_line_changes_and_sentences_stay() -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=theirs, stderr=theirs):
        os.close(theirs)
        told = b""
        while b"solved" not in told:
            told += os.read(ours, 4096)
    os.close(ours)
    text = told.decode()
    assert text.startswith("\r\x1b[Kreading footage: 0 of 100\r\x1b[K")
    assert "\r\x1b[Kreading footage: 100 of 100\r\x1b[K" in text
    assert seen(text)[:2] == ["retake: half of it is dark", "solved"]


def test_elsewhere_each_stage_is_told_once_when_it_is_short() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["reading footage: 0 of 100", "retake: half of it is dark", "cameras"]


def test_long_work_is_told_by_tenths_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with ProgressLine(lambda: None) as line:
        for done in range(31):
            line.step("training", done, 100)
            now += 1
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "training: 0 of 100",
        "training: 10 of 100, 90 s left",
        "training: 20 of 100, 80 s left",
        "training: 30 of 100, 70 s left",
    ]


def test_every_step_asks_whether_to_stop_even_where_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise Cancelled

    with ProgressLine(stop, told=False) as line, pytest.raises(Cancelled):
        line.step("training", 0, 100)
    assert capsys.readouterr().err == ""
