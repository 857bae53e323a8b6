"""Take folders as files: what another run of Blender, or a hand with a file browser, may find or leave there."""

from __future__ import annotations

import numpy as np
import pytest
from retake_shared.errors import BadFile, RetakeError
from retake_shared.shot import RenderSettings

from blender_addon import takes
from blender_addon.thumbnail import read_thumbnail


@pytest.fixture
def record():
    return takes.JobRecord("shot", "/clip.mp4", RenderSettings(seed=3, prompt="ünïcode"), 2, 5)


def test_a_record_is_read_as_it_was_written(tmp_path, record):
    folder = takes.create(tmp_path, record)
    assert takes.read_record(folder) == record


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"state": "flying"}', b'{"state": "done", "job": "../../etc"}', b"[" * 100_000]
)
def test_a_broken_record_is_named_not_believed(tmp_path, record, content):
    folder = takes.create(tmp_path, record)
    (folder / "job.json").write_bytes(content)
    with pytest.raises(BadFile, match=r"job\.json"):
        takes.look(folder)


def test_numbers_go_on_after_the_highest_and_holes_are_not_filled(tmp_path, record):
    for _ in range(3):
        last = takes.create(tmp_path, record)
    takes.delete(tmp_path / "take_001")
    assert takes.create(tmp_path, record).name == "take_004"
    takes.delete(last)
    assert [folder.name for folder in takes.scan(tmp_path)] == ["take_002", "take_004"]


def test_only_take_folders_are_takes(tmp_path, record):
    (tmp_path / "take_009").mkdir()
    (tmp_path / "take_010").write_text("a file")
    (tmp_path / "holiday").mkdir()
    made = takes.create(tmp_path, record)
    assert takes.scan(tmp_path) == [made]


def test_a_named_folder_with_a_take_is_not_overwritten(tmp_path, record):
    takes.claim(tmp_path / "mine", record)
    with pytest.raises(RetakeError, match="holds a take already"):
        takes.claim(tmp_path / "mine", record)


def test_a_place_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path, record):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RetakeError) as error:
        takes.create(tmp_path / "file" / "takes", record)
    assert error.value.remedy


def test_deleting_twice_is_no_error(tmp_path, record):
    folder = takes.create(tmp_path, record)
    takes.delete(folder)
    takes.delete(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, b"no picture"])
def test_what_is_no_picture_gives_no_thumbnail(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    assert read_thumbnail(path) is None
    assert read_thumbnail(tmp_path / "absent.png") is None


def test_a_thumbnail_is_upright_and_small(tmp_path, backend_python):
    import subprocess

    path = tmp_path / "x.png"
    code = (
        "import sys, numpy as np; from retake_backend.footage import write_png\n"
        "a = np.zeros((301, 500, 3), np.uint8); a[:100, :, 0] = 255; a[:, :200, 2] = np.arange(301)[:, None] // 2\n"
        "write_png(sys.argv[1], a)"
    )
    subprocess.run([backend_python, "-c", code, str(path)], check=True)
    picture = read_thumbnail(path, side=256)
    assert picture.shape == (150, 250, 4)
    assert np.all(picture[-1, -1] == [1, 0, 0, 1])  # the last row is the top
    assert np.all(picture[0, -1] == [0, 0, 0, 1])
    np.testing.assert_allclose(picture[::-1, 0, 2], np.arange(1, 301, 2) // 2 / 255, atol=1e-6)
