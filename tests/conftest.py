"""Fixtures that every test folder shares."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """Real clips and real solver outputs, kept beside the project and never inside it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real clips and solves at {folder}")
    return folder


@pytest.fixture(scope="session")
def sample_shot() -> Path:
    """The folder of the sample shot that ships with the project."""
    return REPOSITORY / "shared" / "sample_shot"
