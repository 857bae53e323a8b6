"""`retake generate`: a training set must not lose, repeat or change examples because the run that makes it was stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from retake_backend import cli
from retake_backend.training.dataset import read

WORDS = ["generate", "--size", "48x32", "--frames", "2", "--tracks", "60"]


def examples(folder):
    return dict(read(folder))


def test_a_run_that_is_killed_goes_on_and_equals_one_that_was_not(tmp_path):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    run = [sys.executable, "-m", "retake_backend.cli", *WORDS, "--clips", "400", "--out", str(broken)]
    process = subprocess.Popen(run)
    while not list(broken.glob("shard_*")) or max(p.stat().st_size for p in broken.glob("shard_*")) < 20_000:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cli.main([*WORDS, "--clips", "6", "--out", str(broken)]) == 0
    assert cli.main([*WORDS, "--clips", "6", "--out", str(whole)]) == 0
    made, expected = examples(broken), examples(whole)
    assert made.keys() >= expected.keys()
    for name, pair in expected.items():
        assert np.array_equal(made[name].target, pair.target)
        assert np.array_equal(made[name].moved.holes, pair.moved.holes)


def test_examples_of_another_size_or_length_are_not_passed_off_as_those_asked_for(tmp_path, capsys):
    assert cli.main([*WORDS, "--clips", "1", "--out", str(tmp_path)]) == 0
    for other in (["--size", "64x32"], ["--frames", "3"]):
        assert cli.main([*WORDS, *other, "--clips", "2", "--out", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        assert "holds examples of 2 frames of 48x32 px" in told
        assert "another folder" in told
    assert cli.main([*WORDS, "--clips", "2", "--out", str(tmp_path)]) == 0
    assert {pair.source.shape for pair in examples(tmp_path).values()} == {(2, 32, 48, 3)}


@pytest.mark.parametrize(("name", "value"), [("--clips", "0"), ("--tracks", "-1"), ("--seed", "-1")])
def test_what_cannot_be_made_is_refused(tmp_path, capsys, name, value):
    assert cli.main([*WORDS, "--clips", "1", "--out", str(tmp_path / "out"), name, value]) == 2
    assert f"{name}: is {value}." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_none_are_named(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    out = tmp_path / "out"
    assert cli.main([*WORDS, "--clips", "1", "--out", str(out), "--pictures", str(tmp_path / "pictures")]) == 2
    assert str(tmp_path / "pictures") in capsys.readouterr().err
    assert not out.exists()
