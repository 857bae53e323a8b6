"""What a solve's file does not know and the command line says: the lens."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from retake_backend import cli, render_files
from retake_backend.footage import write_video
from retake_shared.errors import BadFile
from retake_shared.formats import Hints


@pytest.fixture
def files(tmp_path):
    """(footage, a camera path in KITTI's format, an edit that changes nothing)."""
    ramp = np.add.outer(np.arange(48), np.arange(80)).astype(np.uint8)
    write_video(tmp_path / "clip.mp4", (np.stack([ramp + t] * 3, -1) for t in range(4)), Fraction(24))
    row = "1 0 0 {:.3f} 0 1 0 0 0 0 1 0"
    (tmp_path / "path.txt").write_text("\n".join(row.format(0.1 * t) for t in range(4)))
    (tmp_path / "edit.json").write_text('{"retake_edit": 1}')
    return tmp_path / "clip.mp4", tmp_path / "path.txt", tmp_path / "edit.json"


@pytest.mark.parametrize(("fov", "used"), [(None, 50), (72, 72)])
def test_the_field_of_view_reaches_the_cameras(files, fov, used, capsys):
    job = render_files.open_job(*files, {}, hints=Hints(fov=fov))
    with job.request.footage:
        K = job.request.solve.cameras.K
    assert np.degrees(2 * np.arctan(40 / K[0, 0, 0])) == pytest.approx(used)
    assert f"{used} degrees" in capsys.readouterr().err


def test_it_is_an_option_of_retake_render(files, tmp_path, capsys):
    footage, solve, edit = map(str, files)
    words = ["render", "--footage", footage, "--solve", solve, "--edit", edit, "--out", str(tmp_path / "take")]
    assert cli.main([*words, "--fov", "400"]) == 2
    assert "field of view" in capsys.readouterr().err
    with pytest.raises(BadFile):
        Hints(fov=400)
    taken = ["render", "--footage", footage, "--take", str(tmp_path), "--out", str(tmp_path / "take"), "--fov", "50"]
    assert cli.main(taken) == 2
    assert "--fov" in capsys.readouterr().err
