"""The archives that users install: their fields, their wheels, nothing that does not belong."""

import tomllib
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def archives(blender, in_blender, tmp_path: Path) -> list[Path]:
    if len(blender) > 1:
        pytest.skip("a real Blender is itself run from such an archive")
    done = in_blender("blender_addon/package.py", "--out", tmp_path, "--platform", "linux-x64")
    if "Max retries" in done.stdout or "name resolution" in done.stdout:
        pytest.skip("the package index, which has the pyzmq wheels, cannot be reached")
    assert done.returncode == 0, done.stdout
    return sorted(tmp_path.glob("*.zip"))


def test_there_is_one_build_for_each_kind_of_python(archives: list[Path]) -> None:
    manifests = {}
    for archive in archives:
        with zipfile.ZipFile(archive) as content:
            names = set(content.namelist())
            manifest = tomllib.loads(content.read("blender_manifest.toml").decode())
            assert {wheel.removeprefix("./") for wheel in manifest["wheels"]} <= names
            shared = next(wheel for wheel in manifest["wheels"] if "retake_shared" in wheel)
            with zipfile.ZipFile(content.open(shared.removeprefix("./"))) as wheel:
                assert {"retake_shared/formats/detect.py", "retake_shared/exports/nuke.py"} <= set(wheel.namelist())
        assert {"__init__.py", "LICENSE", "scene/shots.py"} <= names
        unwanted = [name for name in names if "requirements" in name or "__pycache__" in name or name == "package.py"]
        assert unwanted == []
        manifests[archive.stem.rpartition("-")[2]] = manifest
    assert set(manifests) == {"cp311", "abi3"}
    assert manifests["cp311"]["blender_version_max"] == manifests["abi3"]["blender_version_min"] == "5.1.0"
    for kind, manifest in manifests.items():
        pyzmq = next(wheel for wheel in manifest["wheels"] if "pyzmq" in wheel)
        assert kind in pyzmq
        assert "linux" in pyzmq
