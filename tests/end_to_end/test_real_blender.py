"""What only a real Blender can show; the checks themselves run inside it."""

from pathlib import Path

import pytest


@pytest.fixture
def real(blender: list[str]) -> None:
    if len(blender) == 1:
        pytest.skip("needs a real Blender: `build.py test --blender PATH`")


def test_the_installed_extension_works_in_it(real, in_blender, sample_shot: Path, tmp_path: Path) -> None:
    shot = (sample_shot / "walk.mp4", sample_shot / "walk.solve.npz")
    done = in_blender("tests/end_to_end/real_blender.py", *shot, tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.rstrip().splitlines().count("OK") == 1, done.stdout
